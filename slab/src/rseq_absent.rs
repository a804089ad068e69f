//! The absence of restartable sequences: every operation reports that it cannot be used, and
//! [`percpu`](crate::percpu) takes the try-lock form. Same names as the real module.

pub(crate) fn detect() -> Result<isize, &'static str> {
    Err("not implemented for this target (x86-64 Linux with glibc only)")
}
pub(crate) fn enable(_: isize, _: *mut u8, _: *mut u8, _: u32) {}
pub(crate) fn restart(_: Option<u32>) -> bool {
    false
}
pub(crate) fn cpu() -> Option<u32> {
    None
}
#[inline(always)]
pub(crate) fn pop(_: u32) -> *mut u8 {
    std::ptr::null_mut()
}
#[inline(always)]
pub(crate) fn push(_: u32, _: *mut u8) -> bool {
    false
}
/// # Safety
/// 1. None.
pub(crate) unsafe fn pop_run(_: u32, _: *mut *mut u8, _: u64) -> u32 {
    0
}
/// # Safety
/// 1. None.
pub(crate) unsafe fn push_run(_: u32, _: *const *mut u8, _: u64) -> u32 {
    0
}
#[inline(always)]
pub(crate) fn retire(_: u32, _: *mut u8, _: u32) -> bool {
    false
}
#[inline(always)]
pub(crate) fn retire_pair(_: u32, _: *mut u8, _: *mut u8, _: u32) -> bool {
    false
}
pub(crate) fn exchange(_: u32, _: u64, _: u64) -> bool {
    false
}
pub(crate) fn close(_: u32, _: u64, _: u32) -> bool {
    false
}

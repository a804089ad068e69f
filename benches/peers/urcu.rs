//! liburcu's memb and qsbr flavours, loaded at run time where they are installed: linked to by name, never built in.
//!
//! Their read sides are meant to be inlined into C; here a section is two calls, which the read-side figure includes.

use super::{BoxSlot, Node, Readers, Waits};

/// The library's functions that take and return nothing.
#[derive(Clone, Copy)]
pub(crate) struct Urcu {
    register: unsafe extern "C" fn(),
    unregister: unsafe extern "C" fn(),
    lock: unsafe extern "C" fn(),
    unlock: unsafe extern "C" fn(),
    synchronize: unsafe extern "C" fn(),
}

/// The flavour whose readers are inside between two quiescent states.
#[derive(Clone, Copy)]
pub(crate) struct UrcuQsbr {
    register: unsafe extern "C" fn(),
    unregister: unsafe extern "C" fn(),
    quiescent: unsafe extern "C" fn(),
    synchronize: unsafe extern "C" fn(),
}

type Function = unsafe extern "C" fn();

/// The functions of a library, by name.
#[cfg(target_os = "linux")]
fn load<const N: usize>(library: &std::ffi::CStr, names: [&std::ffi::CStr; N]) -> Result<[Function; N], String> {
    use std::mem::transmute;
    let missing = || format!("liburcu-dev not installed (no {})", library.to_string_lossy());
    // SAFETY: a library that installs no handlers when it is loaded; it stays for ever.
    let handle = unsafe { libc::dlopen(library.as_ptr(), libc::RTLD_NOW) };
    if handle.is_null() {
        return Err(missing());
    }
    // SAFETY: an open library.
    let found = names.map(|name| unsafe { libc::dlsym(handle, name.as_ptr()) });
    if found.iter().any(|function| function.is_null()) {
        return Err(missing());
    }
    // SAFETY: each function that is asked for is `void (*)(void)`.
    Ok(found.map(|function| unsafe { transmute::<*mut libc::c_void, Function>(function) }))
}

#[cfg(not(target_os = "linux"))]
fn load<const N: usize>(_: &std::ffi::CStr, _: [&std::ffi::CStr; N]) -> Result<[Function; N], String> {
    Err("liburcu is looked for on Linux only".into())
}

/// A thread that the library knows.
pub(crate) struct Registered(Function);

impl Registered {
    /// # Safety
    /// 1. Both are of one library, which does not know the thread yet.
    unsafe fn new(register: Function, unregister: Function) -> Registered {
        // SAFETY: by (1).
        unsafe { register() };
        Registered(unregister)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: registered in `new`, on this thread, outside a section.
        unsafe { (self.0)() }
    }
}

impl Readers for Urcu {
    const NAME: &'static str = "liburcu memb";
    type Slot = BoxSlot;
    type Local = Registered;
    fn new() -> Result<Self, String> {
        let [register, unregister, lock, unlock, synchronize] = load(
            c"liburcu-memb.so.8",
            [
                c"urcu_memb_register_thread",
                c"urcu_memb_unregister_thread",
                c"urcu_memb_read_lock",
                c"urcu_memb_read_unlock",
                c"urcu_memb_synchronize_rcu",
            ],
        )?;
        Ok(Urcu { register, unregister, lock, unlock, synchronize })
    }
    fn local(&self) -> Registered {
        // SAFETY: (1) benchmarks introduce a thread to one contender at a time, once.
        unsafe { Registered::new(self.register, self.unregister) }
    }
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    #[inline(always)]
    fn read(&self, _local: &mut Registered, slot: &BoxSlot) -> u64 {
        // SAFETY: a registered thread; (1) of `look`: nobody retires here.
        unsafe {
            (self.lock)();
            let word = slot.look();
            (self.unlock)();
            word
        }
    }
}

impl Waits for Urcu {
    fn synchronize(&self, _local: &mut Registered) {
        // SAFETY: outside a section.
        unsafe { (self.synchronize)() }
    }
}

impl Readers for UrcuQsbr {
    const NAME: &'static str = "liburcu qsbr";
    type Slot = BoxSlot;
    type Local = Registered;
    fn new() -> Result<Self, String> {
        let [register, unregister, quiescent, synchronize] = load(
            c"liburcu-qsbr.so.8",
            [
                c"urcu_qsbr_register_thread",
                c"urcu_qsbr_unregister_thread",
                c"urcu_qsbr_quiescent_state",
                c"urcu_qsbr_synchronize_rcu",
            ],
        )?;
        Ok(UrcuQsbr { register, unregister, quiescent, synchronize })
    }
    fn local(&self) -> Registered {
        // SAFETY: (1) as above.
        unsafe { Registered::new(self.register, self.unregister) }
    }
    fn slot(&self, value: Node) -> BoxSlot {
        BoxSlot::new(value)
    }
    /// A look, and a quiescent state.
    #[inline(always)]
    fn read(&self, _local: &mut Registered, slot: &BoxSlot) -> u64 {
        // SAFETY: a registered thread, online; (1) of `look`: nobody retires here.
        unsafe {
            let word = slot.look();
            (self.quiescent)();
            word
        }
    }
}

impl Waits for UrcuQsbr {
    fn synchronize(&self, _local: &mut Registered) {
        // SAFETY: holds nothing; the library takes the thread offline meanwhile.
        unsafe { (self.synchronize)() }
    }
}

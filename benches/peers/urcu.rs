//! liburcu's memb flavour, loaded at run time where it is installed: linked to by name, never built in.
//!
//! Its read side is meant to be inlined into C; here it is two calls, which the read-side figure includes.

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

#[cfg(target_os = "linux")]
fn load() -> Option<Urcu> {
    use std::ffi::CStr;
    use std::mem::transmute;
    // SAFETY: a library that installs no handlers when it is loaded; it stays for ever.
    let library = unsafe { libc::dlopen(c"liburcu-memb.so.8".as_ptr(), libc::RTLD_NOW) };
    if library.is_null() {
        return None;
    }
    let find = |name: &CStr| -> Option<unsafe extern "C" fn()> {
        // SAFETY: an open library.
        let function = unsafe { libc::dlsym(library, name.as_ptr()) };
        // SAFETY: each function named below is `void (*)(void)`.
        (!function.is_null()).then(|| unsafe { transmute::<*mut libc::c_void, unsafe extern "C" fn()>(function) })
    };
    Some(Urcu {
        register: find(c"urcu_memb_register_thread")?,
        unregister: find(c"urcu_memb_unregister_thread")?,
        lock: find(c"urcu_memb_read_lock")?,
        unlock: find(c"urcu_memb_read_unlock")?,
        synchronize: find(c"urcu_memb_synchronize_rcu")?,
    })
}

#[cfg(not(target_os = "linux"))]
fn load() -> Option<Urcu> {
    None
}

/// A thread that the library knows.
pub(crate) struct Registered(Urcu);

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: registered below, on this thread, outside a section.
        unsafe { (self.0.unregister)() }
    }
}

impl Readers for Urcu {
    const NAME: &'static str = "liburcu memb";
    type Slot = BoxSlot;
    type Local = Registered;
    fn new() -> Result<Self, String> {
        load().ok_or_else(|| "liburcu-dev not installed (no liburcu-memb.so.8)".into())
    }
    fn local(&self) -> Registered {
        // SAFETY: benchmarks introduce a thread to one contender at a time, once.
        unsafe { (self.register)() };
        Registered(*self)
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

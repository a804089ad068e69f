//! [`Collector`] and [`LocalHandle`]: garbage of one's own, and a thread's registration with it.

use crate::global::Global;
use crate::guard::Guard;
use crate::local::Local;
use std::fmt;
use std::sync::Arc;

/// Readers and garbage of one's own: sections of one collector hold up nothing of another. Cloning makes another handle on the same one.
///
/// It lives until its clones, handles and guards are gone, and then calls what is still deferred.
///
/// ```
/// use crossbeam_epoch::Collector;
/// use std::sync::{Arc, atomic::{AtomicBool, Ordering::SeqCst}};
/// let (collector, called) = (Collector::new(), Arc::new(AtomicBool::new(false)));
/// let handle = collector.register();
/// let flag = called.clone();
/// handle.pin().defer(move || flag.store(true, SeqCst));
/// drop((handle, collector));
/// assert!(called.load(SeqCst));
/// ```
#[derive(Clone)]
pub struct Collector {
    global: Arc<Global>,
}

impl Collector {
    /// A new collector.
    ///
    /// # Panics
    /// About 4,000 are alive already: each takes two of quietus's 8,183 words for each CPU.
    pub fn new() -> Self {
        Collector { global: Arc::new(Global::new()) }
    }

    /// Registers the calling thread. A thread may do so more than once; sections of one registration do not nest in another's.
    pub fn register(&self) -> LocalHandle {
        self.register_as(std::thread::current().name())
    }

    /// [`register`](Self::register), on a thread that may not have its name any more.
    pub(crate) fn register_as(&self, name: Option<&str>) -> LocalHandle {
        LocalHandle { local: Local::new(self.clone(), name) }
    }

    #[inline]
    pub(crate) fn global(&self) -> &Global {
        &self.global
    }
}

impl Default for Collector {
    fn default() -> Self {
        Collector::new()
    }
}

impl PartialEq for Collector {
    /// Are they handles on the same one?
    #[inline]
    fn eq(&self, rhs: &Collector) -> bool {
        Arc::ptr_eq(&self.global, &rhs.global)
    }
}

impl Eq for Collector {}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

/// A thread's registration with a collector. Its guards may outlive it.
///
/// ```compile_fail,E0277
/// let handle = crossbeam_epoch::Collector::new().register();
/// std::thread::spawn(move || drop(handle));
/// ```
///
/// ```
/// let collector = crossbeam_epoch::Collector::new();
/// std::thread::spawn(move || drop(collector.register())).join().unwrap();
/// ```
pub struct LocalHandle {
    local: *const Local,
}

impl LocalHandle {
    #[inline]
    fn local(&self) -> &Local {
        // SAFETY: the handle holds it.
        unsafe { &*self.local }
    }

    /// Opens a section. The outermost is a full fence, and one in a hundred or so first calls some of what has been deferred, here.
    #[inline]
    pub fn pin(&self) -> Guard {
        // SAFETY: the handle holds it, and is not Send.
        unsafe { Guard::enter(self.local) }
    }

    /// Whether a guard of this registration is alive.
    #[inline]
    pub fn is_pinned(&self) -> bool {
        self.local().is_pinned()
    }

    /// The collector it is registered with.
    #[inline]
    pub fn collector(&self) -> &Collector {
        self.local().collector()
    }

    /// For the thread-local that finds it again. Good as long as the handle.
    pub(crate) fn as_local(&self) -> *const Local {
        self.local
    }
}

impl Drop for LocalHandle {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the handle's own hold.
        unsafe { Local::let_go(self.local) };
    }
}

impl fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalHandle").finish_non_exhaustive()
    }
}

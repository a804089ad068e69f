//! R4 and R6: threads that come and go, leak, panic; a process that ends with work pending; first use in a handler.

use crate::support::{in_child, until};
use quietus::slab::{Cache, SlabBox};
use quietus::{Domain, pin};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// What a thread does with the library, wherever it is in its life.
fn use_everything(domain: &Domain, cache: &Cache<[u64; 2]>, runs: &Arc<AtomicU64>) {
    let guard = domain.pin();
    let inner = pin();
    // SAFETY: fresh, known to nobody else.
    unsafe {
        domain.retire(SlabBox::into_raw(cache.alloc([1; 2])));
        domain.retire_box(NonNull::from(Box::leak(Box::new(Counted(Arc::clone(runs))))));
    }
    drop((inner, guard));
    let runs = Arc::clone(runs);
    domain.defer(move || _ = runs.fetch_add(1, SeqCst));
}

struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[test]
fn r_4_ten_thousand_threads_leave_nothing_behind() {
    let (domain, cache, runs) = (Domain::new(), Cache::new("short threads"), Arc::new(AtomicU64::new(0)));
    for _ in 0..2500 {
        std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(|| use_everything(&domain, &cache, &runs)));
            // Joined: a scope may end before its threads' destructors have run.
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
    }
    domain.barrier();
    assert_eq!((runs.load(SeqCst), cache.stats().live), (20_000, 0));
    let stats = domain.stats();
    assert_eq!((stats.kvfree.pending_objects, stats.kvfree.leaked), (0, 0));
    assert!(stats.reader_slots <= 64, "{stats:?}");
}

#[test]
fn r_4_four_thousand_threads_at_a_time() {
    // Or as many as the system allows.
    const THREADS: usize = 4096;
    let domain = Domain::new();
    let (registered, all) = std::sync::mpsc::channel();
    let gate = std::sync::RwLock::new(());
    std::thread::scope(|scope| {
        let closed = gate.write().unwrap();
        let mut threads = 0;
        while threads < THREADS {
            let (registered, domain, gate) = (registered.clone(), &domain, &gate);
            let body = move || {
                drop(domain.pin());
                registered.send(()).unwrap();
                drop(gate.read());
                let _guard = domain.pin();
            };
            if let Err(error) = std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, body) {
                eprintln!("{threads} threads, and no more: {error}");
                break;
            }
            threads += 1;
        }
        all.iter().take(threads).for_each(drop);
        assert!(threads > 0 && domain.stats().reader_slots >= threads as u64);
        domain.synchronize();
        drop(closed);
        domain.synchronize();
    });
    domain.synchronize();
}

/// Pins, retires and defers while its thread's thread-locals are destroyed, ours perhaps before it.
#[derive(Default)]
struct Late(Option<Tools>);

type Tools = (Arc<Domain>, Arc<Cache<[u64; 2]>>, Arc<AtomicU64>);

impl Drop for Late {
    fn drop(&mut self) {
        if let Some((domain, cache, runs)) = &self.0 {
            use_everything(domain, cache, runs);
            domain.synchronize();
            runs.fetch_add(1, SeqCst);
        }
    }
}

thread_local!(static LATE: RefCell<Late> = const { RefCell::new(Late(None)) });

#[test]
fn r_4_destructors_of_thread_locals_may_use_everything() {
    let (domain, runs) = (Arc::new(Domain::new()), Arc::new(AtomicU64::new(0)));
    let cache = Arc::new(Cache::new("late"));
    for round in 0..200 {
        let late = (Arc::clone(&domain), Arc::clone(&cache), Arc::clone(&runs));
        std::thread::spawn(move || {
            // Destructors run in the order of first use, or in the reverse; either way one round has ours before it.
            if round % 2 == 0 {
                use_everything(&late.0, &late.1, &late.2);
            }
            LATE.with(|cell| cell.borrow_mut().0 = Some(late.clone()));
            if round % 2 == 1 {
                use_everything(&late.0, &late.1, &late.2);
            }
        })
        .join()
        .unwrap();
    }
    until("all have ended", || Arc::strong_count(&domain) == 1);
    domain.barrier();
    assert_eq!((runs.load(SeqCst), cache.stats().live), (200 * (2 + 2 + 1), 0));
    assert_eq!(domain.stats().kvfree.leaked, 0);
}

/// A leaked guard stalls its domain, for good, and nothing else; and it is no loss of memory once the domain goes.
#[test]
fn r_6_a_forgotten_guard_stalls_and_does_not_break() {
    let (domain, cache, runs) = (Domain::new(), Cache::new("forgotten"), Arc::new(AtomicU64::new(0)));
    let before = use_everything;
    before(&domain, &cache, &runs);
    domain.barrier();
    let leaker = std::thread::Builder::new().name("leaker".into());
    std::thread::scope(|scope| {
        leaker.spawn_scoped(scope, || std::mem::forget(domain.pin())).unwrap().join().unwrap();
    });
    let cookie = domain.cookie();
    until("its thread has ended", || cookie.holdouts().first().is_some_and(|holdout| holdout.exited));
    use_everything(&domain, &cache, &runs);
    domain.flush();
    assert!(!cookie.is_elapsed());
    assert_eq!((runs.load(SeqCst), cache.stats().live), (2, 1));
    Domain::new().synchronize();
    drop(domain);
    assert_eq!((runs.load(SeqCst), cache.stats().live), (4, 0));
}

#[test]
fn r_6_panics_in_readers_and_destructors_stop_nothing() {
    struct Panics(Arc<AtomicU64>);
    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.fetch_add(1, SeqCst);
            std::panic::resume_unwind(Box::new("a destructor's own"));
        }
    }
    let (domain, runs) = (Domain::new(), Arc::new(AtomicU64::new(0)));
    let reader = catch_unwind(AssertUnwindSafe(|| {
        let _guard = domain.pin();
        std::panic::resume_unwind(Box::new("a reader's own"));
    }));
    assert!(reader.is_err());
    for _ in 0..10 {
        let (mine, other) = (Arc::clone(&runs), Arc::clone(&runs));
        // SAFETY: fresh, known to nobody else.
        unsafe { domain.retire_box(NonNull::from(Box::leak(Box::new(Panics(mine))))) };
        domain.defer(move || _ = other.fetch_add(1, SeqCst));
    }
    domain.barrier();
    assert_eq!((runs.load(SeqCst), domain.stats().kvfree.panics), (20, 10));
    domain.synchronize();
}

/// The process ends with work pending, in the global domain and in one that nobody drops: at once, and with its own exit code.
#[test]
fn r_6_a_process_ends_with_work_pending() {
    in_child("threads::r_6_a_process_ends_with_work_pending", || {
        let domain: &'static Domain = Box::leak(Box::new(Domain::new()));
        for domain in [domain, Domain::global()] {
            std::mem::forget(domain.pin());
            for _ in 0..10_000 {
                domain.defer(|| panic!("its section is open"));
            }
        }
        // The destructors of this thread's thread-locals, and then the process's end.
        std::process::exit(0);
    });
}

/// A thread's first use of the library is in a signal handler, which interrupted nothing of the allocator's.
#[test]
#[cfg(all(unix, target_os = "linux", not(miri)))]
fn r_6_first_use_in_a_handler() {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    extern "C" fn handler(_: libc::c_int) {
        let guard = pin();
        let nested = pin();
        drop(guard);
        drop(nested);
        SEEN.fetch_add(1, SeqCst);
    }
    in_child("threads::r_6_first_use_in_a_handler", || {
        // SAFETY: the structure is zeroed, filled in, and lives through the call; `handler` is a signal handler.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        }
        let threads: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| {
                    // SAFETY: no preconditions; returns after the handler has run.
                    unsafe { libc::raise(libc::SIGUSR1) };
                    drop(pin());
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(SEEN.load(SeqCst), 8);
        quietus::synchronize();
    });
}

//! R5: a reader that does not end is reported, again and again, until it does; and everything else goes on.

use crate::support::{Sleeper, in_child, until};
use quietus::{Builder, Domain, Stall};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

const AFTER: Duration = Duration::from_millis(20);

type Reports = Arc<Mutex<Vec<Stall>>>;

fn reporting() -> (Builder, Reports) {
    let reports = Reports::default();
    let mine = Arc::clone(&reports);
    (Domain::builder().stall_after(AFTER).on_stall(move |stall| mine.lock().unwrap().push(stall.clone())), reports)
}

/// Two reports and an end, of a reader that is named.
#[track_caller]
fn check(reports: &Reports) {
    let reports = reports.lock().unwrap();
    let (end, stalls) = reports.split_last().unwrap();
    assert!(stalls.len() >= 2, "{reports:?}");
    for pair in stalls.windows(2) {
        assert!(pair[1].elapsed >= pair[0].elapsed * 2, "at growing intervals: {reports:?}");
    }
    for stall in stalls {
        assert!(!stall.over && stall.elapsed >= AFTER && stall.grace_period == end.grace_period);
        let [reader] = &stall.readers[..] else { panic!("{stall:?}") };
        assert_eq!(reader.name.as_deref(), Some("sleeper"));
        assert!(reader.tid != 0 || cfg!(not(target_os = "linux")));
        assert!(stall.to_string().contains("sleeper"));
    }
    assert!(end.over && end.readers.is_empty());
}

#[test]
fn r_5_the_worker_reports_a_stalled_reader() {
    let (settings, reports) = reporting();
    let domain = settings.build();
    let other = Domain::new();
    assert_eq!(domain.stats().longest_reader, None);
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        domain.defer(|| ());
        until("two reports", || reports.lock().unwrap().len() >= 2);
        assert!(domain.stats().longest_reader >= Some(AFTER), "{:?}", domain.stats());
        // Nothing else has stopped: sections, cookies, deferring here; everything elsewhere.
        drop(domain.pin());
        domain.defer(|| ());
        assert!(!domain.cookie().is_elapsed());
        other.synchronize();
        other.defer(|| ());
        other.barrier();
        drop(sleeper);
    });
    domain.barrier();
    until("the end is reported", || reports.lock().unwrap().last().is_some_and(|stall| stall.over));
    check(&reports);
    assert_eq!(domain.stats().stalls, 1);
    assert_eq!(domain.stats().longest_reader, None);
    assert_eq!(domain.stats().kvfree.calls_run, 2);
}

#[test]
fn r_5_a_waiting_thread_reports_a_stalled_reader() {
    let (settings, reports) = reporting();
    let domain = settings.workers(false).build();
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        scope.spawn(|| domain.synchronize());
        until("two reports", || reports.lock().unwrap().len() >= 2);
        drop(sleeper);
    });
    check(&reports);
    assert_eq!(domain.stats().stalls, 1);
}

#[test]
fn r_5_ticks_report_a_stalled_reader() {
    let (settings, reports) = reporting();
    let domain = settings.workers(false).build();
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, &domain);
        domain.defer(|| ());
        until("two reports", || {
            domain.tick();
            reports.lock().unwrap().len() >= 2
        });
        drop(sleeper);
    });
    until("nothing is left", || !domain.tick());
    check(&reports);
}

#[test]
fn r_5_a_stalled_qsbr_reader_is_reported() {
    let (settings, reports) = reporting();
    let domain = settings.build_qsbr();
    std::thread::scope(|scope| {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        let (online, ready) = std::sync::mpsc::channel();
        let (domain, reports) = (&domain, &reports);
        let body = move || {
            let _reader = domain.reader();
            online.send(()).unwrap();
            let _ = wait.recv();
        };
        std::thread::Builder::new().name("sleeper".into()).spawn_scoped(scope, body).unwrap();
        ready.recv().unwrap();
        domain.defer(|| ());
        until("two reports", || reports.lock().unwrap().len() >= 2);
        drop(end);
    });
    domain.barrier();
    until("the end is reported", || reports.lock().unwrap().last().is_some_and(|stall| stall.over));
    check(&reports);
}

#[test]
fn r_5_a_hook_may_panic_and_use_the_domain() {
    let domain = Arc::new(std::sync::OnceLock::<Domain>::new());
    let (mine, told) = (Arc::clone(&domain), Arc::new(Mutex::new(0)));
    let count = Arc::clone(&told);
    let settings = Domain::builder().stall_after(AFTER).on_stall(move |_| {
        if let Some(domain) = mine.get() {
            drop(domain.pin());
            domain.defer(|| ());
            assert!(!domain.cookie().is_elapsed() || domain.stats().stalls == 1);
        }
        *count.lock().unwrap() += 1;
        std::panic::resume_unwind(Box::new("a hook's own"));
    });
    let domain = domain.get_or_init(|| settings.build());
    std::thread::scope(|scope| {
        let sleeper = Sleeper::new(scope, domain);
        domain.defer(|| ());
        until("two reports", || *told.lock().unwrap() >= 2);
        drop(sleeper);
    });
    domain.barrier();
    until("the end is reported", || *told.lock().unwrap() >= 3);
    domain.barrier();
}

#[test]
fn r_5_short_sections_are_no_stall() {
    let (settings, reports) = reporting();
    let domain = settings.stall_after(Duration::from_secs(3600)).build();
    std::thread::scope(|scope| {
        // Long enough to be looked at.
        let sleeper = Sleeper::new(scope, &domain);
        scope.spawn(|| domain.synchronize());
        std::thread::sleep(Duration::from_millis(30));
        drop(sleeper);
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    drop(domain.pin());
                    domain.synchronize();
                }
            });
        }
    });
    assert_eq!((reports.lock().unwrap().len(), domain.stats().stalls), (0, 0));
}

/// Without a hook the standard error is told.
#[test]
fn r_5_the_standard_error_is_told() {
    let output = in_child("stalls::r_5_the_standard_error_is_told", || {
        let domain = Domain::builder().stall_after(AFTER).build();
        std::thread::scope(|scope| {
            let sleeper = Sleeper::new(scope, &domain);
            domain.defer(|| ());
            until("a report", || domain.stats().stalls == 1);
            drop(sleeper);
        });
        domain.barrier();
        domain.synchronize();
    });
    if let Some(output) = output {
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("has been waiting for") && text.contains("sleeper"), "{text}");
    }
}

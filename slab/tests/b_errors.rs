//! docs/ERRORS.md shows what each error says: the texts there are made here, and compared. Addresses, thread ids and backtraces are
//! left out of both.

mod support;

use quietus_slab::{
    Cache, Corruption, DebugFlags, FailingSource, POISON_FREE, SlabBox, alloc, environment, free, on_corruption,
};
use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::Mutex;

const CHILD: &str = "QUIETUS_TEST_B_ERRORS";
const TEST: &str = "b_errors_read_as_documented";

static FOUND: Mutex<Vec<Corruption>> = Mutex::new(Vec::new());

fn build<T>(builder: quietus_slab::CacheBuilder<T>) -> Cache<T> {
    builder.build().unwrap()
}

fn raw<T>(b: SlabBox<T>) -> *mut T {
    SlabBox::into_raw(b).as_ptr()
}

/// What differs from run to run made equal: addresses, ids of threads, and backtraces, each of which becomes a line.
fn steady(text: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for line in text.lines() {
        if line.starts_with("      ") {
            if out.last().is_none_or(|last| last != "      …") {
                out.push("      …".into());
            }
            continue;
        }
        let words = line.split_inclusive(' ').map(|word| match word.split_once("0x") {
            // Bytes have two digits.
            Some((before, rest)) => match rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len()) {
                digits @ 3.. => format!("{before}0x…{}", &rest[digits..]),
                _ => word.to_owned(),
            },
            None if word.starts_with("(ThreadId(") => "(ThreadId(…))".to_owned(),
            None => word.to_owned(),
        });
        out.push(words.collect());
    }
    out.join("\n")
}

/// The texts, by the headings that they have in the document.
fn texts() -> Vec<(&'static str, String)> {
    let mut all: Vec<(&'static str, String)> = Vec::new();
    let mut add = |heading, error: &dyn ToString| all.push((heading, error.to_string()));

    // Line 1.
    add("A type too large for a cache", &Cache::<[u8; 40000]>::builder("x").build().unwrap_err());
    add("A capacity of nothing", &Cache::<u64>::builder("x").block_capacity(0).build().unwrap_err());
    add("A layout that cannot be served", &alloc(Layout::from_size_align(1 << 62, 1).unwrap()).unwrap_err());
    let panic = std::panic::catch_unwind(|| Cache::<[u8; 40000]>::new("elephants")).unwrap_err();
    add("The same from `Cache::new`, a panic", panic.downcast_ref::<String>().unwrap());

    // Line 2.
    let dry: &FailingSource = Box::leak(Box::new(FailingSource::new(0)));
    let short = build(Cache::<[u64; 8]>::builder("short").pages(dry));
    add("Memory is out (the value comes back beside this)", &short.try_alloc([1; 8]).unwrap_err().1);
    add("A sheaf that cannot be filled", &short.prefill(10).unwrap_err());
    add("An array that there is not", &short.prefill_array(10).unwrap_err());
    let array = build(Cache::<[u64; 8]>::builder("array").pages(dry).array(4));
    add("An array that is smaller", &array.prefill_array(5).unwrap_err());
    add("An array that cannot be filled", &array.prefill_array(4).unwrap_err());

    // Lines 3 and 4.
    let points = build(Cache::<[u8; 13]>::builder("points").debug(DebugFlags::ALL));
    let others = Cache::<[u8; 13]>::new("others");
    let keep = points.alloc([0; 13]);
    let object = || raw(points.alloc([0; 13]));
    let mut found = |heading, f: &dyn Fn()| {
        FOUND.lock().unwrap().clear();
        f();
        let found = std::mem::take(&mut *FOUND.lock().unwrap());
        assert_eq!(found.len(), 1, "{heading}: {found:?}");
        add(heading, &found[0]);
    };
    // SAFETY: of all blocks until the end: what is freed wrongly is freed to a checked cache, which survives it; what is written to
    // lies in slabs that are mapped.
    unsafe {
        found("A foreign address", &|| {
            let mut local = [0; 13];
            points.free(&raw mut local);
        });
        let p = object();
        found("An address inside an object", &|| points.free(p.cast::<u8>().add(8).cast()));
        points.free(p);
        found("A double free", &|| points.free(p));
        let strange = raw(others.alloc([0; 13]));
        found("An object of another cache", &|| points.free(strange));
        let p = object();
        p.cast::<u8>().add(13).write(0x41);
        found("A write behind the object", &|| points.free(p));
        let p = object();
        p.cast::<u8>().sub(1).write(0x41);
        found("A write before the object", &|| points.free(p));
        let first = object();
        let p = object();
        points.free(p);
        p.cast::<u8>().write(POISON_FREE ^ 1);
        found("A write after the free, found by the next allocation", &|| drop(points.alloc([0; 13])));
        free(NonNull::new_unchecked(first.cast()));
        let hard = build(Cache::<[u8; 13]>::builder("hard").hardened(true));
        let p = raw(hard.alloc([0; 13]));
        hard.free(p);
        found("A double free in a hardened cache", &|| hard.free(p));
        others.free(strange);
    }
    drop(keep);

    // S3, lines 6 and 7.
    let child = Cache::<[u8; 13]>::new("child");
    let one = child.alloc([0; 13]);
    let e = child.destroy().unwrap_err();
    add("Destroying a cache with objects", &e);
    let e = e.cache.destroy_into(&Cache::<u64>::new("parent")).unwrap_err();
    add("Chaining to a cache of other objects", &e);
    let e = e.cache.destroy_into(&points).unwrap_err();
    add("Chaining to, or of, a checked cache", &e);
    let e = e.cache.destroy_into(&build(Cache::<[u8; 13]>::builder("p").poison(true))).unwrap_err();
    add("Chaining to, or of, a poisoned cache", &e);
    drop(one);

    // Line 7: of this process, whose variable is wrong.
    add("A variable that is not understood", &environment().unwrap_err());
    all
}

#[test]
fn b_errors_read_as_documented() {
    if std::env::var_os(CHILD).is_none() {
        // Alone, on a thread whose name is known, with a variable that is wrong.
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let command = command.args(["--exact", TEST, "--nocapture"]).env(CHILD, "1");
        let run = command.env("QUIETUS_SLAB_DEBUG", "FQ,points").env_remove("QUIETUS_RSEQ").output().unwrap();
        let [out, err] = [&run.stdout, &run.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(run.status.success() && out.contains("1 passed"), "{out} {err}");
        return;
    }
    on_corruption(Some(|corruption| FOUND.lock().unwrap().push(corruption.clone())));
    let thread = std::thread::Builder::new().name("main".into()).spawn(texts).unwrap();
    let texts: Vec<(&str, String)> = thread.join().unwrap().into_iter().map(|(h, text)| (h, steady(&text))).collect();
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ERRORS.md")).unwrap();
    let mut rest = document.as_str();
    for (heading, text) in &texts {
        let block = format!("{heading}:\n\n```text\n{text}\n```\n");
        let at = rest.find(&block);
        rest = &rest[at.unwrap_or_else(|| panic!("docs/ERRORS.md has not, in this place:\n\n{block}")) + block.len()..];
    }
    assert_eq!(document.matches("```text").count(), texts.len(), "docs/ERRORS.md has more than there is");
}

//! The map against a model, by one thread and by several.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::query::{Query, Seen, Stirred};
use super::{Fault, Map, Work};
use crate::reclaimer::crossbeam::Crossbeam;
use crate::reclaimer::leak::Leak;
use crate::reclaimer::quietus::Quietus;
use crate::reclaimer::sdd::Sdd;
use crate::reclaimer::seize::Seize;
use crate::reclaimer::{Reclaimer, Setup};
use crate::text::Vocabulary;

/// Held by tests that use quietus: its account is the global domain's, so only one may be retiring.
static DOMAIN: Mutex<()> = Mutex::new(());

/// Files with common words, rare words, and a word of their own each.
fn text(files: usize) -> Vocabulary {
    Vocabulary::of((0..files).map(|n| {
        let mut words = format!("common shared file{n}");
        for prime in [2, 3, 5, 7, 11] {
            if n % prime == 0 {
                words += &format!(" by{prime}");
            }
        }
        words
    }))
}

fn lists<R: Reclaimer>(map: &Map<'_, R>, word: u32) -> BTreeSet<u32> {
    let section = &map.reclaimer().pin();
    let list = map.find(section, map.vocabulary.key(word)).expect("no fault");
    list.map_or_else(BTreeSet::new, |list| list.entries().iter().copied().collect())
}

fn follows_the_model<R: Reclaimer>() {
    let vocabulary = &text(12);
    let mut map = Map::build(vocabulary, R::new(Setup::default()));
    let mut work = Work::new();
    let mut model: Vec<BTreeSet<u32>> =
        (0..vocabulary.words()).map(|word| vocabulary.postings(word).iter().copied().collect()).collect();
    // A fixed walk through takes and puts, so that words lose their last file and get it back.
    let mut state = 1_u32;
    for _ in 0..5_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let file = (state >> 8) % vocabulary.files();
        let words = vocabulary.words_of(file);
        let word = words[(state >> 20) as usize % words.len()];
        let there = &mut model[word as usize];
        if there.remove(&file) {
            map.take(word, file, &mut work).expect("it is there");
        } else {
            there.insert(file);
            map.put(word, file, &mut work).expect("it is not there");
        }
        assert_eq!(lists(&map, word), model[word as usize]);
    }
    assert_eq!(work.updates, 5_000);
    let whole = model.iter().all(|files| !files.is_empty());
    assert!(!whole && map.audit().is_err(), "something is out, and the audit says so");
    for word in 0..vocabulary.words() {
        for &file in vocabulary.postings(word) {
            if !model[word as usize].contains(&file) {
                map.put(word, file, &mut work).expect("it is not there");
            }
        }
    }
    assert_eq!(map.audit(), Ok(()));
}

#[test]
fn one_thread_follows_the_model() {
    follows_the_model::<Crossbeam>();
    follows_the_model::<Seize>();
    follows_the_model::<Sdd>();
    follows_the_model::<Leak>();
    let _alone = DOMAIN.lock().unwrap_or_else(PoisonError::into_inner);
    follows_the_model::<Quietus>();
}

#[test]
fn what_is_not_there_cannot_be_taken() {
    let vocabulary = &text(3);
    let map = Map::build(vocabulary, Leak::new(Setup::default()));
    let (word, mut work) = (vocabulary.words_of(1)[0], Work::new());
    assert_eq!(map.put(word, 1, &mut work), Err(Fault::Lost { word, file: 1 }));
    assert_eq!(map.take(word, 1, &mut work), Ok(()));
    assert_eq!(map.take(word, 1, &mut work), Err(Fault::Lost { word, file: 1 }));
}

#[test]
fn generations_go_on_across_a_time_without_a_list() {
    let vocabulary = &Vocabulary::of(["only".into()]);
    let map = Map::build(vocabulary, Leak::new(Setup::default()));
    let mut work = Work::new();
    let mut last = 1;
    for _ in 0..10 {
        map.take(0, 0, &mut work).expect("it is there");
        map.put(0, 0, &mut work).expect("it is not there");
        let list = map.find(&(), vocabulary.key(0)).expect("no fault").expect("a list");
        assert!(list.generation() > last, "{} after {last}", list.generation());
        last = list.generation();
    }
}

/// Few files and few words, so that threads meet on every list and words come and go all the time.
fn stands_many_threads<R: Reclaimer>() {
    let vocabulary = &text(9);
    let mut map = Map::build(vocabulary, R::new(Setup { verify: true }));
    let (stirred, over) = (Stirred::new(vocabulary.files()), AtomicBool::new(false));
    let retired = thread::scope(|scope| {
        let (map, stirred, over) = (&map, &stirred, &over);
        let writers: Vec<_> = (0..3_u32)
            .map(|number| {
                scope.spawn(move || {
                    let mut work = Work::new();
                    for _ in 0..3_000 {
                        for file in (number..vocabulary.files()).step_by(3) {
                            stirred.begin(file);
                            for &word in vocabulary.words_of(file) {
                                map.take(word, file, &mut work).expect("own file");
                            }
                            for &word in vocabulary.words_of(file) {
                                map.put(word, file, &mut work).expect("own file");
                            }
                            stirred.end(file);
                        }
                    }
                    work.retired
                })
            })
            .collect();
        let readers: Vec<_> = (0..2_u32)
            .map(|number| {
                scope.spawn(move || {
                    let (mut seen, mut turn) = (Seen::new(vocabulary.words()), number);
                    // Relaxed: it only says to stop.
                    while !over.load(Ordering::Relaxed) {
                        turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                        let file = (turn >> 8) % vocabulary.files();
                        let words = vocabulary.words_of(file);
                        let words = [turn >> 12, turn >> 20].map(|at| words[at as usize % words.len()]);
                        let pause = || {
                            if turn >> 28 == 0 {
                                thread::yield_now()
                            }
                        };
                        map.ask(Query { file, words }, stirred, &mut seen, pause).expect("no fault");
                    }
                })
            })
            .collect();
        let mut retired = crate::reclaimer::Retired::default();
        for writer in writers {
            let own = writer.join().expect("no panic");
            retired.objects += own.objects;
            retired.bytes += own.bytes;
        }
        // Relaxed: as above.
        over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().expect("no panic"));
        retired
    });
    assert_eq!(map.audit(), Ok(()));
    map.reclaimer().barrier();
    let account = map.reclaimer().account(retired);
    if R::CEILING_BYTES.is_none() {
        assert_eq!(account.left, 0, "of {retired:?}");
    }
}

#[test]
fn many_threads_with_crossbeam() {
    stands_many_threads::<Crossbeam>();
}

#[test]
fn many_threads_with_seize() {
    stands_many_threads::<Seize>();
}

#[test]
fn many_threads_with_sdd() {
    stands_many_threads::<Sdd>();
}

#[test]
fn many_threads_with_quietus() {
    let _alone = DOMAIN.lock().unwrap_or_else(PoisonError::into_inner);
    stands_many_threads::<Quietus>();
}

#[test]
fn many_threads_without_reclamation() {
    stands_many_threads::<Leak>();
}

//! The supply of pages, which is the process's: tests that use it up take turns.
#![allow(dead_code)] // each test binary uses its part

use quietus_kvfree::Config;
use quietus_slab::raw::{self, BlockNo};
use std::sync::{Mutex, MutexGuard};

/// One test of a binary at a time. (Where there are no restartable sequences, threads share a few slots, too, and one that finds them busy
/// retires another way, which counts differently.)
pub(crate) fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|e| e.into_inner())
}

/// Driven by `tick`, as far as by anything.
pub(crate) fn no_worker() -> Config {
    Config { workers: false, ..Config::default() }
}

/// Every page there is; no more can be made while this lives.
pub(crate) struct Exhausted(Vec<BlockNo>);

impl Exhausted {
    pub(crate) fn now() -> Exhausted {
        raw::set_page_limit(Some(0));
        Exhausted(std::iter::from_fn(raw::try_page).collect())
    }

    /// All but so many pages, and some more to [`give`](Self::give) later.
    pub(crate) fn but(n: usize) -> Exhausted {
        let mut all = Self::now();
        raw::set_page_limit(None);
        while all.0.len() < n + 8 {
            all.0.push(raw::page().unwrap());
        }
        raw::set_page_limit(Some(0));
        all.give(n);
        all
    }

    /// Puts so many pages back into the supply.
    pub(crate) fn give(&mut self, n: usize) {
        let at = self.0.len() - n;
        self.0.drain(at..).for_each(raw::put_page);
    }

    /// Takes what has come into the supply meanwhile.
    pub(crate) fn again(&mut self) {
        self.0.extend(std::iter::from_fn(raw::try_page));
    }

    /// Lets the supply grow: what is taken next comes fresh.
    pub(crate) fn may_grow(&self, yes: bool) {
        raw::set_page_limit((!yes).then_some(0));
    }
}

impl Drop for Exhausted {
    fn drop(&mut self) {
        raw::set_page_limit(None);
        self.0.drain(..).for_each(raw::put_page);
    }
}

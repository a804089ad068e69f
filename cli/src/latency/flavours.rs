//! The flavours: for each, what a reader is, what a section is, and how to wait for a grace period.
//!
//! `run` does the same with all of them. A flavour more is a type here, its name in `args`, and a line in `mod`.

use quietus::{epoch, pin, qsbr};

use crate::reclaimer::crossbeam;

/// Readers, and waiting for them.
pub(super) trait Flavour: Sync {
    /// What a thread has that reads; made by that thread, and dropped by it when it reads no more.
    type Reader<'f>
    where
        Self: 'f;

    /// This thread is going to read.
    fn reader(&self) -> Self::Reader<'_>;

    /// Reads in a section of its own: what it reads was not taken back before the section has ended.
    fn section<T>(reader: &mut Self::Reader<'_>, read: impl FnOnce() -> T) -> T;

    /// Waits until every section that is open now has ended.
    fn synchronize(&self);
}

/// The library's default, by its global domain.
pub(super) struct Memb;

impl Flavour for Memb {
    type Reader<'f> = ();

    fn reader(&self) {}

    #[inline]
    fn section<T>((): &mut (), read: impl FnOnce() -> T) -> T {
        let _guard = pin();
        read()
    }

    fn synchronize(&self) {
        quietus::synchronize();
    }
}

/// Quiescent states: one after each section.
pub(super) struct Qsbr;

impl Flavour for Qsbr {
    type Reader<'f> = qsbr::Reader;

    fn reader(&self) -> qsbr::Reader {
        qsbr::reader()
    }

    #[inline]
    fn section<T>(reader: &mut qsbr::Reader, read: impl FnOnce() -> T) -> T {
        let value = read();
        reader.quiescent();
        value
    }

    fn synchronize(&self) {
        qsbr::domain().synchronize();
    }
}

/// Ours over crossbeam-epoch's default collector.
pub(super) struct Epoch;

impl Flavour for Epoch {
    type Reader<'f> = ();

    fn reader(&self) {}

    #[inline]
    fn section<T>((): &mut (), read: impl FnOnce() -> T) -> T {
        let _guard = epoch::pin();
        read()
    }

    fn synchronize(&self) {
        epoch::domain().synchronize();
    }
}

/// crossbeam-epoch's default collector, without us.
pub(super) struct Crossbeam;

impl Flavour for Crossbeam {
    type Reader<'f> = ();

    fn reader(&self) {}

    #[inline]
    fn section<T>((): &mut (), read: impl FnOnce() -> T) -> T {
        let _guard = crossbeam_epoch::pin();
        read()
    }

    fn synchronize(&self) {
        crossbeam::wait();
    }
}

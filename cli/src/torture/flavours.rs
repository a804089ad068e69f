//! The flavours: for each, what a reader is, which shapes a section can have, and what a signal handler may do.
//!
//! A flavour more is a type here, its name in `args`, and a line in `leg`.

use std::ptr;

use quietus::{Builder, Domain, Epoch, Memb, Qsbr, epoch, pin, qsbr};

/// What a section looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Opened, closed.
    Simple,
    /// Inside another.
    Nested,
    /// Inside another, which ends first.
    Crossed,
    /// Begun a second time before anything is read.
    Repinned,
}

/// What a handler may do on a thread that reads and retires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Handler {
    ReadsAndRetires,
    Retires,
    Nothing,
}

/// Readers of a flavour.
pub(super) trait Flavour: quietus::Flavour {
    /// What a thread has that reads; made by that thread, and dropped by it when it reads no more.
    type Reader<'d>;
    /// What the documentation allows in handlers.
    const HANDLER: Handler;
    /// Whether a cookie names who holds it up.
    const NAMES: bool;

    /// A private domain.
    fn private(builder: Builder) -> Domain<Self>;

    /// This thread is going to read.
    fn reader(domain: &Domain<Self>) -> Self::Reader<'_>;

    /// Reads in a section of its own.
    fn section<T>(reader: &mut Self::Reader<'_>, shape: Shape, read: impl FnOnce() -> T) -> T;

    /// Does something during which it reads nothing, and which may wait.
    fn outside<T>(reader: &mut Self::Reader<'_>, work: impl FnOnce() -> T) -> T;

    /// A section in a signal handler, on a thread that has read before.
    fn in_handler(domain: &Domain<Self>, read: impl FnOnce());
}

impl Flavour for Memb {
    type Reader<'d> = &'d Domain;
    const HANDLER: Handler = Handler::ReadsAndRetires;
    const NAMES: bool = true;

    fn private(builder: Builder) -> Domain {
        builder.build()
    }

    fn reader(domain: &Domain) -> &Domain {
        drop(domain.pin());
        domain
    }

    fn section<T>(reader: &mut &Domain, shape: Shape, read: impl FnOnce() -> T) -> T {
        match shape {
            // The global domain's own guard is another type, with a path of its own.
            Shape::Simple if ptr::eq(*reader, Domain::global()) => {
                let _guard = pin();
                read()
            }
            Shape::Simple => {
                let _guard = reader.pin();
                read()
            }
            Shape::Nested => {
                let _outer = reader.pin();
                let _inner = reader.pin();
                read()
            }
            Shape::Crossed => {
                let outer = reader.pin();
                let _inner = reader.pin();
                drop(outer);
                read()
            }
            Shape::Repinned => {
                let mut guard = reader.pin();
                guard.repin();
                read()
            }
        }
    }

    fn outside<T>(_: &mut &Domain, work: impl FnOnce() -> T) -> T {
        work()
    }

    fn in_handler(domain: &Domain, read: impl FnOnce()) {
        Memb::section(&mut &*domain, Shape::Simple, read);
    }
}

impl Flavour for Qsbr {
    type Reader<'d> = (&'d Domain<Qsbr>, qsbr::DomainReader<'d>);
    const HANDLER: Handler = Handler::Retires;
    const NAMES: bool = true;

    fn private(builder: Builder) -> Domain<Qsbr> {
        builder.build_qsbr()
    }

    fn reader(domain: &Domain<Qsbr>) -> Self::Reader<'_> {
        (domain, domain.reader())
    }

    fn section<T>(reader: &mut Self::Reader<'_>, shape: Shape, read: impl FnOnce() -> T) -> T {
        let second = match shape {
            Shape::Simple => None,
            // A second registration of the thread.
            Shape::Nested | Shape::Crossed => Some(reader.0.reader()),
            Shape::Repinned => {
                reader.1.offline(|| ());
                None
            }
        };
        if shape == Shape::Crossed {
            // The second one protects what is read from here on.
            let value = reader.1.offline(read);
            drop(second);
            return value;
        }
        let value = read();
        drop(second);
        reader.1.quiescent();
        value
    }

    fn outside<T>(reader: &mut Self::Reader<'_>, work: impl FnOnce() -> T) -> T {
        reader.1.offline(work)
    }

    fn in_handler(_: &Domain<Qsbr>, _: impl FnOnce()) {}
}

impl Flavour for Epoch {
    type Reader<'d> = &'d Domain<Epoch>;
    const HANDLER: Handler = Handler::Nothing;
    const NAMES: bool = false;

    fn private(builder: Builder) -> Domain<Epoch> {
        builder.build_epoch(&epoch::crossbeam_epoch::Collector::new())
    }

    fn reader(domain: &Domain<Epoch>) -> &Domain<Epoch> {
        drop(domain.guard());
        domain
    }

    fn section<T>(reader: &mut &Domain<Epoch>, shape: Shape, read: impl FnOnce() -> T) -> T {
        match shape {
            Shape::Simple => {
                let _guard = reader.guard();
                read()
            }
            Shape::Nested => {
                let _outer = reader.guard();
                let _inner = reader.guard();
                read()
            }
            Shape::Crossed => {
                let outer = reader.guard();
                let _inner = reader.guard();
                drop(outer);
                read()
            }
            Shape::Repinned => {
                let mut guard = reader.guard();
                guard.repin();
                read()
            }
        }
    }

    fn outside<T>(_: &mut &Domain<Epoch>, work: impl FnOnce() -> T) -> T {
        work()
    }

    fn in_handler(_: &Domain<Epoch>, _: impl FnOnce()) {}
}

//! One contract, every flavour; and what only private domains, domains without workers, or cells promise.
#![cfg(not(quietus_loom))]

mod cells;
#[cfg(feature = "epoch")]
mod epoch;
mod flavour;
mod objects;
mod private;
mod qsbr;
mod qsbr_local;
mod suite;

macro_rules! tests {
    ($($promise:ident,)*) => { $(
        mod $promise {
            use crate::flavour::{Global, Private, Ticked};
            use crate::qsbr::{QsbrGlobal, QsbrPrivate};
            #[test]
            fn global() {
                crate::suite::$promise::<Global>();
            }
            #[test]
            fn private() {
                crate::suite::$promise::<Private>();
            }
            #[test]
            fn ticked() {
                crate::suite::$promise::<Ticked>();
            }
            #[test]
            fn qsbr_global() {
                crate::suite::$promise::<QsbrGlobal>();
            }
            #[test]
            fn qsbr_private() {
                crate::suite::$promise::<QsbrPrivate>();
            }
        }
    )* };
}
suite::promises!(tests);
suite::exact_promises!(tests);

/// An epoch is coarser than a number: crossbeam's grace period may wait for sections that began while it was on its way, so of the
/// exact promises it makes none.
#[cfg(feature = "epoch")]
mod over_crossbeam {
    macro_rules! tests {
        ($($promise:ident,)*) => { $(
            mod $promise {
                use crate::epoch::{EpochGlobal, EpochPrivate, EpochTicked};
                #[test]
                fn global() {
                    crate::suite::$promise::<EpochGlobal>();
                }
                #[test]
                fn private() {
                    crate::suite::$promise::<EpochPrivate>();
                }
                #[test]
                fn ticked() {
                    crate::suite::$promise::<EpochTicked>();
                }
            }
        )* };
    }
    crate::suite::promises!(tests);
}

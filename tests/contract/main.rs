//! One contract, every flavour; and what only private domains, domains without workers, or cells promise.
#![cfg(not(quietus_loom))]

mod cells;
mod flavour;
mod objects;
mod private;
mod suite;

macro_rules! tests {
    ($($promise:ident,)*) => { $(
        mod $promise {
            use crate::flavour::{Global, Private, Ticked};
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
        }
    )* };
}
suite::promises!(tests);

//! Events for the feature `tracing`: nothing without it. They come from workers, ticks and barriers, never from a retiring thread, whose
//! subscriber might retire.

/// `event!(warn, objects = n, "what has happened")`: target `quietus`.
macro_rules! event {
    ($level:ident, $($arg:tt)*) => {
        #[cfg(feature = "tracing")]
        tracing::$level!(target: "quietus", $($arg)*)
    };
}
pub(crate) use event;

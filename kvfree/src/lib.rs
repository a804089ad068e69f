//! Deferred bulk free.

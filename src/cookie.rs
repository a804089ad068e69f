//! [`Cookie`]: a point in a domain's sequence of grace periods, to be polled or waited for.
//!
//! Handed out by [`Domain::cookie`](crate::Domain::cookie) and `Retired`; hands to the flavour's [`Source`].

use crate::domain::{Domain, Flavour};
use crate::flavour::Memb;
use crate::registry::Holdout;
use crate::source::Source;
use quietus_kvfree::GracePeriods;
use std::fmt;
use std::time::{Duration, Instant};

/// A point in a domain's sequence of grace periods: elapsed when every section that was open then has ended.
///
/// It can be polled ([`is_elapsed`](Self::is_elapsed)), waited for on a thread ([`wait`](Self::wait)), and awaited, on any executor:
/// [`Elapse`](crate::Elapse). However many wait together, at most two grace periods serve them all: the one that was under way, and the next.
///
/// ```
/// async fn after_all_readers(domain: &quietus::Domain) {
///     domain.cookie().await; // every section that was open has ended
/// }
/// ```
pub struct Cookie<'d, F: Flavour = Memb> {
    domain: &'d Domain<F>,
    number: u64,
}

impl<F: Flavour> Clone for Cookie<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F: Flavour> Copy for Cookie<'_, F> {}

impl<'d, F: Flavour> Cookie<'d, F> {
    /// For what the calling thread has unlinked so far.
    #[inline]
    pub(crate) fn new(domain: &'d Domain<F>) -> Self {
        Cookie { domain, number: domain.source().start().0 }
    }

    pub(crate) fn domain(&self) -> &'d Domain<F> {
        self.domain
    }

    pub(crate) fn number(&self) -> quietus_kvfree::Cookie {
        quietus_kvfree::Cookie(self.number)
    }

    /// Has its grace period ended (`poll_state_synchronize_rcu`)? Never waits, but pushes the grace period on: from a load to a
    /// membarrier (some microseconds). Inside a section opened before the cookie was taken the answer stays false.
    pub fn is_elapsed(&self) -> bool {
        self.domain.source().push(self.number)
    }

    /// The readers that are in the way just now: whose sections were open when the cookie was taken, and still are. A snapshot, for
    /// reports. Empty for the epoch flavour: crossbeam-epoch does not tell.
    pub fn holdouts(&self) -> Vec<Holdout> {
        self.domain.source().holdouts(self.number)
    }

    /// Waits for its grace period (`cond_synchronize_rcu`).
    ///
    /// # Panics
    /// Inside a section of the domain.
    #[track_caller]
    pub fn wait(self) {
        self.domain.source().wait_for(self.number);
    }

    /// Waits for its grace period, at most so long. Returns whether it has ended.
    ///
    /// # Panics
    /// Inside a section of the domain.
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.domain
            .source()
            .try_wait_until(self.number, Instant::now().checked_add(timeout))
            .unwrap_or_else(|inside| panic!("{inside}"))
    }
}

impl<F: Flavour> fmt::Debug for Cookie<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cookie").field(&self.number).finish()
    }
}

//! [`Builder`]: the settings of a domain, whatever its flavour.
//!
//! Users set; `domain`, `qsbr` and `epoch` make domains of it.

use crate::stall::{Hook, Stall};
use quietus_kvfree::{Config, OnOverflow, Pressure};
use std::time::Duration;

/// Settings of a [`Domain`](crate::Domain).
#[derive(Debug, Clone, Default)]
pub struct Builder {
    pub(crate) config: Config,
    pub(crate) stall_after: Option<Duration>,
    pub(crate) on_stall: Option<Hook>,
}

impl Builder {
    /// Bytes that may wait for their grace period before retiring threads help, and yield the processor a bounded number of
    /// times. Default: 4 MiB. A target, not a hard limit, unless retiring may wait: [`on_overflow`](Self::on_overflow).
    pub fn budget(mut self, bytes: usize) -> Self {
        self.config.budget = bytes;
        self
    }
    /// What retiring does when more than the budget is pending. Default: [`OnOverflow::Help`], which never waits.
    pub fn on_overflow(mut self, what: OnOverflow) -> Self {
        self.config.on_overflow = what;
        self
    }
    /// How long one retire waits at most, with [`OnOverflow::Wait`]. Default: 1 s.
    pub fn wait_limit(mut self, limit: Duration) -> Self {
        self.config.wait_limit = limit;
        self
    }
    /// How long a retired object may lie in a half-full block. After this, and a grace period, it is free. Default: 50 ms.
    pub fn age_limit(mut self, age: Duration) -> Self {
        self.config.age = age.max(Duration::from_millis(1));
        self
    }
    /// Empty blocks that a refill brings to a CPU's reserve (0: none; more when the demand is high). A refill is asked for where the reserve *and* the
    /// page supply are empty, so that none in [`Stats`](crate::Stats) is usual. Default: 5.
    pub fn reserve(mut self, blocks: u32) -> Self {
        self.config.reserve = blocks;
        self
    }
    /// Most empty blocks kept for each CPU when the demand is high. Default: 64.
    pub fn reserve_most(mut self, blocks: u32) -> Self {
        self.config.reserve_most = blocks;
        self
    }
    /// Whether retiring threads, too, run destructors and deferred functions whose grace period is over, whenever they have filled
    /// a block: faster by far, since memory that was allocated here is freed here. Only for destructors that take no lock which a
    /// retiring thread may hold. Default: no, the worker runs them.
    pub fn help_with_destructors(mut self, yes: bool) -> Self {
        self.config.help_with_destructors = yes;
        self
    }
    /// Whether retired objects are collected in blocks; if not, each is queued by a callback of its own. Default: yes.
    pub fn batching(mut self, yes: bool) -> Self {
        self.config.batching = yes;
        self
    }
    /// Debug mode: an object that is retired twice is reported, counted in
    /// [`retired_twice`](quietus_kvfree::Stats::retired_twice), and freed once. Only while the first retire is pending: later, a second one
    /// is a use after free. Default: where debug assertions are on.
    pub fn debug(mut self, yes: bool) -> Self {
        self.config.debug = yes;
        self
    }
    /// Has the worker (or [`tick`](crate::Domain::tick)) look whether the system's memory is short, now and then while something is pending, and
    /// then do what [`relieve`](crate::Domain::relieve) does. Default: it does not look.
    ///
    /// ```
    /// let domain = quietus::Domain::builder().pressure(quietus::Pressure::system()).build();
    /// assert_eq!(domain.stats().kvfree.pressure_reliefs, 0);
    /// ```
    pub fn pressure(mut self, pressure: Pressure) -> Self {
        self.config.pressure = Some(pressure);
        self
    }
    /// Whether the domain has a worker thread. Without it, call [`Domain::tick`](crate::Domain::tick). Default: yes.
    pub fn workers(mut self, yes: bool) -> Self {
        self.config.workers = yes;
        self
    }
    /// Most workers the domain may have at a time, from 1 to 16. There is one, and more are started only while destructors or
    /// deferred functions pile up, or one of them takes long: then they run on several threads at a time. They end when there is nothing
    /// left for them. Default: as many as there are CPUs, but four at most. Other numbers are taken for the nearest of these.
    pub fn most_workers(mut self, n: usize) -> Self {
        self.config.most_workers = n;
        self
    }
    /// After how long a grace period that has not ended counts as stalled, and is reported. Default: 21 s, as the kernel's.
    /// [`Duration::MAX`]: never.
    pub fn stall_after(mut self, time: Duration) -> Self {
        self.stall_after = Some(time);
        self
    }
    /// Who is told of stalls, instead of the standard error: once when [`stall_after`](Self::stall_after) has passed, again each time that
    /// it has taken twice as long as at the last report, and once when it is over.
    ///
    /// Called by whoever drives grace periods or waits for one: the worker, a thread in [`Domain::synchronize`](crate::Domain::synchronize) and the like, or
    /// [`Domain::tick`](crate::Domain::tick). It may use every domain, but not wait for this one's grace periods. Its panics are caught. A stall that
    /// nobody suffers from, because nothing is pending and nobody waits, is not noticed.
    ///
    /// ```
    /// use quietus::Domain;
    /// use std::{sync::mpsc, time::Duration};
    /// let (send, reports) = mpsc::channel();
    /// let domain = Domain::builder()
    ///     .stall_after(Duration::from_millis(10))
    ///     .on_stall(move |stall| _ = send.send(stall.clone()))
    ///     .build();
    /// let guard = domain.pin();
    /// domain.defer(|| ());
    /// let stall = reports.recv().unwrap();
    /// assert!(!stall.over && stall.readers.len() == 1);
    /// drop(guard);
    /// while !reports.recv().unwrap().over {}
    /// ```
    pub fn on_stall(mut self, hook: impl Fn(&Stall) + Send + Sync + 'static) -> Self {
        self.on_stall = Some(Hook::new(hook));
        self
    }
}

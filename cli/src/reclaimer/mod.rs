//! What the reclaimers have in common: memory for nodes and lists, sections, retiring, and an account of what is left.
//!
//! One file per reclaimer, and `memory` for those that have none of their own. The index is generic over
//! [`Reclaimer`]; each run of it is a process with one of them.

pub(crate) mod quietus;
pub(crate) mod crossbeam;
pub(crate) mod seize;
pub(crate) mod sdd;
pub(crate) mod leak;
pub(crate) mod memory;

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use crate::index::node::Node;

/// Which reclaimer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// This project's.
    Quietus,
    /// crossbeam-epoch's default collector.
    Crossbeam,
    /// seize, a collector with its default batches.
    Seize,
    /// sdd's collector.
    Sdd,
    /// None: nothing is ever freed.
    Leak,
}

impl Kind {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Kind; 5] = [Kind::Quietus, Kind::Crossbeam, Kind::Seize, Kind::Sdd, Kind::Leak];

    /// Its name on the command line, in the table and in the JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Quietus => "quietus",
            Kind::Crossbeam => "crossbeam",
            Kind::Seize => "seize",
            Kind::Sdd => "sdd",
            Kind::Leak => "leak",
        }
    }

    /// Whether it knows how much is retired and not freed.
    pub(crate) fn counts(self) -> bool {
        matches!(self, Kind::Quietus | Kind::Leak)
    }
}

/// How a reclaimer is set up for one run.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Setup {
    /// Overwrite memory when it is freed, and count what is freed: the untimed run.
    pub(crate) verify: bool,
}

/// Memory that other threads may still be reading when it is given back.
///
/// # Safety
/// 1. What is retired is not freed before every section that was open then has ended, if sections load their pointers with
///    `FOLLOW`.
/// 2. `new_node` and `alloc_list` give memory of the layout asked for that nobody else uses until it is freed.
pub(crate) unsafe trait Reclaimer: Send + Sync + Sized {
    /// A read-side section.
    type Guard<'r>
    where
        Self: 'r;

    /// With what a section loads a pointer that it follows: Acquire or more.
    const FOLLOW: Ordering = Ordering::Acquire;

    /// Retired memory at which a run has to stop, if the reclaimer frees nothing.
    const CEILING_BYTES: Option<u64> = None;

    /// Ready to run. Called once, before any other thread.
    fn new(setup: Setup) -> Self;

    /// Opens a section.
    fn pin(&self) -> Self::Guard<'_>;

    /// A node in memory of this reclaimer's.
    fn new_node(&self, node: Node) -> NonNull<Node>;

    /// Frees a node at once.
    ///
    /// # Safety
    /// 1. From `new_node` of this reclaimer, and neither freed nor retired yet.
    /// 2. Nobody else knows or uses it.
    unsafe fn free_node(&self, node: NonNull<Node>);

    /// Frees a node once every section open now has ended.
    ///
    /// # Safety
    /// 1. From `new_node` of this reclaimer, and neither freed nor retired yet.
    /// 2. Sections that open later cannot reach it.
    unsafe fn retire_node(&self, section: &Self::Guard<'_>, node: NonNull<Node>);

    /// Memory for a list, whose layout is that of [`posting::layout`](crate::index::posting::layout).
    fn alloc_list(&self, layout: Layout) -> NonNull<u8>;

    /// Frees a list at once.
    ///
    /// # Safety
    /// 1. From `alloc_list` of this reclaimer with this layout, and neither freed nor retired yet.
    /// 2. Nobody else knows or uses it.
    unsafe fn free_list(&self, list: NonNull<u8>, layout: Layout);

    /// Ends the section, which an update has no more use for, and frees a list once every section open now has ended; each
    /// reclaimer in the order that suits it.
    ///
    /// # Safety
    /// 1. From `alloc_list` of this reclaimer with this layout, and neither freed nor retired yet.
    /// 2. Sections that open later cannot reach it.
    unsafe fn retire_list(&self, section: Self::Guard<'_>, list: NonNull<u8>, layout: Layout);

    /// Waits for one grace period; false if there are none.
    fn grace_period(&self) -> bool;

    /// Waits until all that was retired is freed. No other thread uses the reclaimer now.
    fn barrier(&self);

    /// What is left and how much it has been, given how much was retired altogether.
    fn account(&self, retired: Retired) -> Account;
}

/// What the writers of a run have retired.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Retired {
    /// Nodes and lists.
    pub(crate) objects: u64,
    /// Bytes asked for them.
    pub(crate) bytes: u64,
}

/// A reclaimer's own account, after its barrier.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Account {
    /// Objects retired and not freed.
    pub(crate) left: u64,
    /// The most bytes that were ever retired and not freed, if it knows.
    pub(crate) peak_bytes: Option<u64>,
}

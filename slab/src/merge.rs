//! Caches that are one: handles with names of their own over the same slabs, blocks and counts.
//!
//! Handed to by [`typed`](crate::typed); looks for cores in [`life`](crate::life).
//!
//! # Ordering
//! Who shares a core is under its lock, and whether others may join: none that finds no handle left.

use crate::cache::{Core, Recipe};
use crate::debug::{DebugFlags, flags_of};
use crate::life::alive;
use crate::place::NodePolicy;

/// Who shares a core.
#[derive(Default)]
pub(crate) struct Sharers {
    /// May others join?
    open: bool,
    /// Handles.
    handles: u32,
    /// Names of those that joined.
    names: Vec<&'static str>,
}

impl Sharers {
    pub(crate) fn new(open: bool) -> Self {
        Sharers { open, handles: 1, names: Vec::new() }
    }
}

impl Core {
    /// A cache that this recipe may be one with: it is kept for the handle that is to be. Only plain memory is shared: no destructor, no
    /// debugging, no constructor, no account, source, machine, policy or blocks of its own.
    pub(crate) fn find_mergeable(recipe: &Recipe) -> Option<&'static Core> {
        if !Self::mergeable(recipe) {
            return None;
        }
        let mut found = None;
        for core in alive().into_iter().filter(|core| core.hold()) {
            if found.is_none() && core.join(recipe) {
                found = Some(core);
            }
            core.drop_lives(1);
        }
        found
    }

    fn join(&self, recipe: &Recipe) -> bool {
        let mut sharers = self.sharers.lock();
        let fits = sharers.open && sharers.handles > 0 && self.stride() == recipe.stride;
        if fits {
            sharers.handles += 1;
            sharers.names.push(recipe.name);
        }
        fits
    }

    /// May caches of this recipe be one?
    pub(crate) fn mergeable(recipe: &Recipe) -> bool {
        let plain = recipe.drop.is_none() && recipe.construct.is_none() && recipe.typed;
        let nobodys = recipe.source.is_none() && recipe.account.is_none() && recipe.machine.is_none();
        let unchecked = recipe.debug.flags == DebugFlags::NONE && flags_of(recipe.name) == DebugFlags::NONE;
        let ordinary = recipe.cap.is_none() && !recipe.poison && !recipe.array && recipe.policy == NodePolicy::Local;
        recipe.merge && plain && nobodys && ordinary && unchecked
    }

    /// A handle goes. True: it was not the last, and the cache stays as it is.
    pub(crate) fn leave(&self, name: &'static str) -> bool {
        let mut sharers = self.sharers.lock();
        sharers.handles = sharers.handles.saturating_sub(1);
        if let Some(i) = sharers.names.iter().position(|&n| n == name) {
            sharers.names.remove(i);
        } else if sharers.handles > 0 && !sharers.names.is_empty() {
            // The first one's: another name stands for it.
            *self.name.lock() = sharers.names.remove(0);
        }
        sharers.handles > 0
    }

    /// Do other handles share it?
    pub(crate) fn is_shared(&self) -> bool {
        self.sharers.lock().handles > 1
    }

    /// Lets nobody join from now on. False: others have already.
    pub(crate) fn keep_alone(&self) -> bool {
        let mut sharers = self.sharers.lock();
        sharers.open &= sharers.handles > 1;
        sharers.handles <= 1
    }

    /// The names of handles that have joined.
    pub(crate) fn aliases(&self) -> Vec<&'static str> {
        self.sharers.lock().names.clone()
    }
}

//! Which plugin contexts a slot's VM has, and which it is still to get.
//!
//! A VM that was lost is followed by an empty one: plugin contexts come back when a transaction needs them, and all others
//! in the background, so that ten thousand of them keep nobody waiting. One that traps or refuses then is left out for
//! a while, and the others go on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plugins::Plugins;
use crate::settings::PluginSpec;

/// A plugin context that could not be made again.
struct Refusal {
    /// How often in a row.
    times: u32,
    not_before: Instant,
}

/// The plugin contexts of one VM.
#[derive(Default)]
pub(super) struct Roots {
    /// By plugin index: the context's id; zero is none.
    ids: Vec<u32>,
    /// To be made first: they had ticks, queues or calls in the VM that was lost, and nobody else will ask for them.
    urgent: Vec<usize>,
    /// Before this index everything is there that is not refused.
    cursor: usize,
    /// By plugin index. Outlives VMs: what cost one is not to cost the next.
    refusals: HashMap<usize, Refusal>,
}

impl Roots {
    /// The id of a plugin's context, if it is there.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<u32> {
        self.ids.get(index).copied().filter(|&id| id != 0)
    }

    /// It was made.
    pub(super) fn set(&mut self, index: usize, id: u32) {
        if self.ids.len() <= index {
            self.ids.resize(index + 1, 0);
        }
        self.ids[index] = id;
        self.refusals.remove(&index);
    }

    /// It ends: the id that it had, if it was there.
    pub(super) fn take(&mut self, index: usize) -> Option<u32> {
        self.refusals.remove(&index);
        self.ids.get_mut(index).map(std::mem::take).filter(|&id| id != 0)
    }

    /// The VM is gone. `busy` says of an id whether that context did things that no transaction asked for.
    pub(super) fn lose(&mut self, busy: impl Fn(u32) -> bool) {
        let ids = self.ids.iter().enumerate();
        let urgent = ids.filter(|&(_, &id)| id != 0 && busy(id)).map(|(index, _)| index);
        // What was urgent for the lost VM, and not done yet, still is.
        let mut urgent: Vec<usize> = urgent.chain(self.urgent.drain(..)).collect();
        urgent.sort_unstable_by(|a, b| b.cmp(a));
        urgent.dedup();
        self.urgent = urgent;
        self.ids.clear();
        self.cursor = 0;
    }

    /// It could not be made: it is left alone for half a second, and for twice as long each time.
    pub(super) fn refuse(&mut self, index: usize, now: Instant) {
        let refusal = self.refusals.entry(index).or_insert(Refusal { times: 0, not_before: now });
        refusal.times = (refusal.times + 1).min(8);
        refusal.not_before = now + Duration::from_millis(500) * (1 << (refusal.times - 1));
    }

    /// Whether it could not be made, and was not made since.
    pub(super) fn is_refused(&self, index: usize) -> bool {
        self.refusals.contains_key(&index)
    }

    /// Whether it could not be made, and is not to be tried yet.
    pub(super) fn is_refused_at(&self, index: usize, now: Instant) -> bool {
        self.refusals.get(&index).is_some_and(|refusal| refusal.not_before > now)
    }

    /// It was made, or nobody wants it any more.
    pub(super) fn forgive(&mut self, index: usize) {
        self.refusals.remove(&index);
    }

    /// When a refused one is to be tried again, if there is one.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.refusals.values().map(|refusal| refusal.not_before).min()
    }

    /// A refused one whose time has come.
    pub(super) fn due(&self, now: Instant) -> Option<usize> {
        self.refusals.iter().find(|(_, refusal)| refusal.not_before <= now).map(|(&index, _)| index)
    }

    /// One that the VM lacks, and that nothing speaks against.
    pub(super) fn next_missing(&mut self, plugins: &Plugins) -> Option<(usize, Arc<PluginSpec>)> {
        let missing = |roots: &Self, index| {
            let spec = plugins.get(index).filter(|_| roots.get(index).is_none() && !roots.is_refused(index))?;
            Some((index, Arc::clone(spec)))
        };
        while let Some(index) = self.urgent.pop() {
            if let Some(found) = missing(self, index) {
                return Some(found);
            }
        }
        while self.cursor < plugins.places() {
            // Not beyond what is found: whoever asks may fail to make it, and come back with another VM.
            if let Some(found) = missing(self, self.cursor) {
                return Some(found);
            }
            self.cursor += 1;
        }
        None
    }
}

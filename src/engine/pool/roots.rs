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

    /// The first of those that a VM is to get, at most `max`: for one that is built apart.
    pub(super) fn first_missing(&self, plugins: &Plugins, max: usize) -> Vec<(usize, Arc<PluginSpec>)> {
        let urgent = self.urgent.iter().rev().copied();
        let others = (0..plugins.places()).filter(|index| !self.urgent.contains(index));
        let free = |index: &usize| !self.is_refused(*index);
        urgent
            .chain(others)
            .filter(free)
            .filter_map(|index| Some((index, Arc::clone(plugins.get(index)?))))
            .take(max)
            .collect()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstreams::Upstreams;

    fn plugins(count: usize) -> Plugins {
        let callouts = callout::Callouts::new(callout::Options::default());
        let upstreams = Arc::new(Upstreams::new(callouts, &std::collections::BTreeMap::new(), &[]).unwrap());
        let mut plugins = Plugins::default();
        for index in 0..count {
            let spec = PluginSpec {
                name: index.to_string().into(),
                root_id: Box::default(),
                configuration: Arc::from([]),
                upstreams: Arc::clone(&upstreams),
                log: crate::settings::SiteOf(crate::journal::Site::plain()),
                breaker: crate::breaker::SharedBreaker(Arc::new(crate::breaker::Breaker::new(
                    crate::config::BreakerSettings::default(),
                    Arc::default(),
                ))),
            };
            assert_eq!(plugins.insert(Arc::new(spec)), index);
        }
        plugins
    }

    /// Makes all that is missing; the order.
    fn fill(roots: &mut Roots, plugins: &Plugins) -> Vec<usize> {
        let mut order = Vec::new();
        while let Some((index, spec)) = roots.next_missing(plugins) {
            assert_eq!(*spec.name, index.to_string());
            roots.set(index, 100 + u32::try_from(index).unwrap());
            order.push(index);
        }
        order
    }

    #[test]
    fn what_was_busy_comes_first_also_after_a_second_loss() {
        let plugins = plugins(6);
        let mut roots = Roots::default();
        assert_eq!(fill(&mut roots, &plugins), [0, 1, 2, 3, 4, 5]);
        roots.lose(|id| id == 104 || id == 102);
        assert_eq!(roots.get(4), None);
        assert_eq!(roots.next_missing(&plugins).map(|(index, _)| index), Some(2));
        roots.set(2, 102);
        // Lost again, before the other one was made.
        roots.lose(|id| id == 102);
        assert_eq!(fill(&mut roots, &plugins), [2, 4, 0, 1, 3, 5]);
    }

    #[test]
    fn what_is_refused_is_left_out_until_it_is_made() {
        let plugins = plugins(3);
        let mut roots = Roots::default();
        let now = Instant::now();
        roots.refuse(1, now);
        assert_eq!(fill(&mut roots, &plugins), [0, 2]);
        assert_eq!((roots.due(now), roots.next_try()), (None, Some(now + Duration::from_millis(500))));
        roots.refuse(1, now);
        let second = now + Duration::from_secs(1);
        assert_eq!((roots.next_try(), roots.due(second)), (Some(second), Some(1)), "twice as long");
        assert!(roots.is_refused_at(1, now) && !roots.is_refused_at(1, second));
        roots.lose(|_| true);
        assert_eq!(fill(&mut roots, &plugins), [0, 2], "the next VM does not meet it either");
        roots.set(1, 7);
        assert!(!roots.is_refused(1) && roots.next_try().is_none());
    }

    #[test]
    fn places_that_are_free_again_are_taken() {
        let mut plugins = plugins(3);
        let spec = Arc::clone(plugins.get(1).unwrap());
        plugins.withdraw(1);
        assert!(plugins.get(1).is_none() && !plugins.is_empty());
        assert_eq!(plugins.insert(Arc::clone(&spec)), 3, "a place is not free while VMs may have its context");
        plugins.release(1);
        assert_eq!(plugins.insert(spec), 1);
        (0..4).for_each(|index| plugins.withdraw(index));
        (0..4).for_each(|index| plugins.release(index));
        assert!(plugins.is_empty());
    }
}

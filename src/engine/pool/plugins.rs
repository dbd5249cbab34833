//! The plugin contexts that the VMs of a pool have, or are to have.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use super::Plugin;
use crate::settings::PluginSpec;

/// The plugins of a pool, by index. There may be tens of thousands: nothing here looks at all of them but what says so.
#[derive(Default)]
pub(super) struct Plugins {
    /// `None` is free, or refused and about to be.
    specs: Vec<Option<Arc<PluginSpec>>>,
    free: Vec<usize>,
    by_spec: HashMap<Arc<PluginSpec>, Weak<Plugin>>,
}

impl Plugins {
    /// The plugin of this specification, if somebody has it.
    pub(super) fn find(&self, spec: &PluginSpec) -> Option<Arc<Plugin>> {
        self.by_spec.get(spec).and_then(Weak::upgrade)
    }

    /// Whether no plugin is there.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.specs.len()
    }

    /// A place for a new one. From here on VMs that are built anew get it, too.
    pub(super) fn insert(&mut self, spec: Arc<PluginSpec>) -> usize {
        if let Some(index) = self.free.pop() {
            self.specs[index] = Some(spec);
            return index;
        }
        self.specs.push(Some(spec));
        self.specs.len() - 1
    }

    /// It was taken everywhere: others with equal specifications may share it.
    pub(super) fn publish(&mut self, plugin: &Arc<Plugin>) {
        self.by_spec.insert(Arc::clone(&plugin.spec), Arc::downgrade(plugin));
    }

    /// No VM gets it from now on. Its place is not free before [`Plugins::release`].
    pub(super) fn withdraw(&mut self, index: usize) {
        if let Some(spec) = self.specs[index].take()
            && self.by_spec.get(&spec).is_some_and(|plugin| plugin.strong_count() == 0)
        {
            self.by_spec.remove(&spec);
        }
    }

    /// No VM has it any more.
    pub(super) fn release(&mut self, index: usize) {
        self.free.push(index);
    }

    /// What is at this place.
    pub(super) fn get(&self, index: usize) -> Option<&Arc<PluginSpec>> {
        self.specs.get(index)?.as_ref()
    }

    /// How many places there are, taken or free.
    pub(super) fn places(&self) -> usize {
        self.specs.len()
    }

    /// How many plugins have each name. Looks at all of them.
    pub(super) fn names(&self) -> BTreeMap<String, u64> {
        let mut names: BTreeMap<&str, u64> = BTreeMap::new();
        for spec in self.specs.iter().flatten() {
            *names.entry(&spec.name).or_default() += 1;
        }
        names.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

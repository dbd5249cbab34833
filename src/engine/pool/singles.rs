//! VMs of `isolation: transaction`: each serves one filter of one transaction, and goes with it.
//!
//! A slot keeps a stock of VMs that are started and configured, so that a transaction finds one ready. The rebuilder fills
//! it up. A transaction that finds none builds its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::vm::Vm;

/// How many VMs a slot keeps ready for a plugin that is in use.
const STOCK: usize = 8;

/// With so many left it is time to build more.
const LOW: usize = 4;

/// The VMs of transactions that a process has, in stock and at work.
#[derive(Default)]
pub(crate) struct SingleVms(Arc<AtomicUsize>);

/// The right to have one of them.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl SingleVms {
    /// One more, unless there are `limit` already.
    pub(crate) fn permit(&self, limit: usize) -> Option<Permit> {
        let more = |count: usize| Some(count + 1).filter(|_| count < limit);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Permit(Arc::clone(&self.0)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A VM with one plugin context.
pub(super) struct Single {
    pub(super) vm: Box<Vm>,
    pub(super) root: u32,
    /// Which VM of the process it is: what a stream knows it by.
    pub(super) number: u64,
    // Behind the VM: its mappings are gone before the next one's are counted.
    permit: Permit,
}

impl Single {
    pub(super) fn new(vm: Box<Vm>, root: u32, number: u64, permit: Permit) -> Self {
        Single { vm, root, number, permit }
    }

    /// The VM, and the right to have it.
    pub(super) fn into_parts(self) -> (Box<Vm>, Option<Permit>) {
        (self.vm, Some(self.permit))
    }
}

/// Those of one slot.
#[derive(Default)]
pub(super) struct Singles {
    /// At work, by number.
    live: HashMap<u64, Single>,
    /// Ready, by plugin index.
    stock: HashMap<usize, Vec<Single>>,
    /// Plugins whose stock has become low.
    low: Vec<usize>,
}

impl Singles {
    /// One that is ready for this plugin, and whether that leaves so few that more are to be built.
    pub(super) fn take(&mut self, index: usize) -> (Option<Single>, bool) {
        let stock = self.stock.entry(index).or_default();
        let single = stock.pop();
        let low = stock.len() <= LOW && !self.low.contains(&index);
        if low {
            self.low.push(index);
        }
        (single, low)
    }

    /// A plugin whose stock is low, and how many VMs it lacks.
    pub(super) fn next_low(&mut self) -> Option<(usize, usize)> {
        let index = self.low.pop()?;
        Some((index, STOCK.saturating_sub(self.stock.get(&index).map_or(0, Vec::len))))
    }

    /// One is ready.
    pub(super) fn put(&mut self, index: usize, single: Single) {
        self.stock.entry(index).or_default().push(single);
    }

    /// One goes to work.
    pub(super) fn begin(&mut self, single: Single) -> &mut Single {
        self.live.entry(single.number).or_insert(single)
    }

    /// One that is at work.
    pub(super) fn live(&mut self, number: u64) -> Option<&mut Single> {
        self.live.get_mut(&number)
    }

    /// Those that are at work.
    pub(super) fn all_live(&mut self) -> impl Iterator<Item = &mut Single> {
        self.live.values_mut()
    }

    /// One of this number, at work or ready: what it asked of others while it was configured is answered, too.
    pub(super) fn find(&mut self, number: u64) -> Option<&mut Single> {
        if self.live.contains_key(&number) {
            return self.live.get_mut(&number);
        }
        self.stock.values_mut().flatten().find(|single| single.number == number)
    }

    /// Takes one away, wherever it is.
    pub(super) fn remove(&mut self, number: u64) -> Option<Single> {
        if let Some(single) = self.live.remove(&number) {
            return Some(single);
        }
        let stock = self.stock.values_mut().find(|stock| stock.iter().any(|single| single.number == number))?;
        let at = stock.iter().position(|single| single.number == number)?;
        Some(stock.swap_remove(at))
    }

    /// A plugin ends: its stock.
    pub(super) fn remove_stock(&mut self, index: usize) -> Vec<Single> {
        self.low.retain(|&low| low != index);
        self.stock.remove(&index).unwrap_or_default()
    }

    /// All of them.
    pub(super) fn drain(&mut self) -> Vec<Single> {
        let stock = self.stock.drain().flat_map(|(_, stock)| stock);
        self.live.drain().map(|(_, single)| single).chain(stock).collect()
    }
}

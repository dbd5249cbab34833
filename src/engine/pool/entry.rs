//! A slot, locked: where VMs are entered, made and lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::MutexGuard;

use super::singles::Single;
use super::{Plugin, Pool, Slot, SlotInner};
use crate::cell::StreamCell;
use crate::error::{Error, TrapKind};
use crate::limits::thread_time;
use crate::observe::FilterStats;
use crate::settings::PluginSpec;
use crate::vm::{Aftermath, Vm};

/// A slot, locked. Consumed by [`Entry::leave`] and its like, which deal with what the entry left behind.
pub(crate) struct Entry<'p> {
    pub(super) pool: &'p Arc<Pool>,
    pub(crate) slot: &'p Slot,
    pub(super) index: usize,
    pub(super) guard: MutexGuard<'p, SlotInner>,
    /// The VM that was entered, where each transaction has its own.
    pub(super) number: u64,
}

/// What is to be done when a slot is left. Most entries leave nothing, so it stays with the slot: an entry is small.
#[derive(Default)]
pub(super) struct Leaving {
    /// A VM that was built or configured during this entry set timers.
    timers_changed: bool,
    /// There is something for the rebuilder to do here.
    pub(super) attend: bool,
    /// Whoever waits for the slot is to have it next.
    pub(super) fair: bool,
    /// If the VM is lost, it is to be built anew after a while, longer each time.
    later: bool,
    /// A VM was lost during this entry: it, and the streams that lived in it, to be woken once the lock is released.
    lost: Option<Lost>,
}

struct Lost {
    cells: Vec<Arc<StreamCell>>,
    /// Kept to be dropped without the lock: returning its memory takes a while.
    _vm: Box<Vm>,
}

impl<'p> Entry<'p> {
    pub(super) fn new(pool: &'p Arc<Pool>, index: usize) -> Self {
        let slot = &pool.slots[index];
        Entry { pool, slot, index, guard: slot.inner.lock(), number: 0 }
    }

    /// A VM of this slot for a new stream, its number here, and the plugin's root context in it. VM and context are made if
    /// need be and permitted. Also after an error the entry is to be left.
    ///
    /// # Errors
    /// Why there is none.
    #[inline]
    pub(crate) fn vm_for(&mut self, plugin: &Plugin) -> Result<(&mut Vm, u64, u32), Error> {
        if self.pool.single {
            return self.single_for(plugin);
        }
        if self.guard.vm.is_none() || self.guard.roots.get(plugin.index).is_none() {
            self.ensure(plugin)?;
        }
        let SlotInner { vm, generation, roots, .. } = &mut *self.guard;
        match (vm.as_deref_mut(), roots.get(plugin.index)) {
            (Some(vm), Some(root)) => Ok((vm, *generation, root)),
            _ => Err(Error::Start("its plugin context is not in this VM".to_owned())),
        }
    }

    /// The VM, if it still is the one of that number.
    #[inline]
    pub(crate) fn vm_of(&mut self, number: u64) -> Option<&mut Vm> {
        if self.pool.single {
            self.number = number;
            return self.guard.singles.live(number).map(|single| &mut *single.vm);
        }
        if self.guard.generation == number { self.guard.vm.as_deref_mut() } else { None }
    }

    /// The VM that was entered.
    pub(super) fn current(&mut self) -> Option<&mut Vm> {
        if self.pool.single {
            return match self.number {
                0 => None,
                number => self.guard.singles.find(number).map(|single| &mut *single.vm),
            };
        }
        self.guard.vm.as_deref_mut()
    }

    /// Sees to it that the VM is there, and the plugin's context in it. The others come back in the background.
    #[cold]
    fn ensure(&mut self, plugin: &Plugin) -> Result<(), Error> {
        if self.guard.roots.is_refused(plugin.index) {
            return Err(set_aside());
        }
        if !self.pool.is_quick(self.index) {
            self.guard.leaving.attend = true;
            return Err(Error::NoVm("its VM is being built anew".to_owned()));
        }
        let begun = thread_time();
        self.ensure_vm()?;
        let result = self.restore_root(plugin.index, &plugin.spec);
        self.pool.note_build_time(self.index, thread_time().saturating_sub(begun));
        result
    }

    /// Builds the VM, without contexts, if there is none.
    #[cold]
    pub(super) fn ensure_vm(&mut self) -> Result<(), Error> {
        if self.guard.vm.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        if !self.guard.backoff.open(now) {
            return Err(Error::Start("its VM is set aside for a moment".to_owned()));
        }
        match self.build() {
            Ok(()) => {
                self.guard.backoff.built();
                self.pool.runtime.0.registry.vm_rebuilt();
                Ok(())
            }
            Err(error) => {
                self.guard.backoff.build_failed(now);
                // Whatever may be done without a request is not to wait for one.
                self.guard.leaving.attend = true;
                Err(error)
            }
        }
    }

    /// Builds the VM, without contexts.
    pub(super) fn build(&mut self) -> Result<(), Error> {
        let mut vm = Box::new(self.pool.build_vm(Some(self.index), self.guard.generation > 0)?.0);
        self.slot.counters.vms_built.add(1);
        self.note_configured(&vm.aftermath());
        self.guard.vm = Some(vm);
        self.guard.generation += 1;
        Ok(())
    }

    /// Makes a plugin context in the VM, which has none of it.
    ///
    /// # Errors
    /// [`Error::Start`] if the guest refuses; [`Error::Trap`], and then the VM is lost.
    pub(super) fn add_root(&mut self, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        let Some(vm) = self.guard.vm.as_deref_mut() else { return Ok(()) };
        match vm.add_root(spec) {
            Ok(id) => {
                let aftermath = vm.aftermath();
                self.note_configured(&aftermath);
                self.guard.roots.set(index, id);
                self.slot.counters.roots_created.add(1);
                Ok(())
            }
            Err(error) => {
                // The context is gone already, so the VM does not know whose it was.
                let stats = self.pool.stats_of(spec);
                match &error {
                    Error::Trap(_) => self.discard(&error, Some(&stats)),
                    _ => stats.trap(&error),
                }
                Err(error)
            }
        }
    }

    /// [`Entry::add_root`], in a VM that follows one that was lost. Who fails then is left alone for a while.
    pub(super) fn restore_root(&mut self, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        match self.add_root(index, spec) {
            Ok(()) => {
                self.pool.stats_of(spec).rebuilt();
                Ok(())
            }
            Err(error) => {
                self.guard.roots.refuse(index, Instant::now());
                self.guard.leaving.attend = true;
                Err(error)
            }
        }
    }

    /// What a configuration leaves behind. It knows no streams, but may have set timers and made calls.
    pub(super) fn note_configured(&mut self, aftermath: &Aftermath) {
        self.guard.leaving.timers_changed |= aftermath.timers_changed;
        self.pool.note_asynchronous(aftermath);
    }

    /// Ends a plugin context in this slot.
    pub(super) fn remove_root(mut self, index: usize) {
        let Some(id) = self.guard.roots.take(index) else { return };
        let Some(vm) = self.guard.vm.as_deref_mut() else { return };
        match vm.remove_root(id) {
            Ok(gone) => {
                self.slot.counters.roots_deleted.add(u64::from(gone));
                self.leave();
            }
            Err(error) => {
                self.report_end(&error);
                self.poison(&error, None);
            }
        }
    }

    /// Leaves the slot: releases the lock, then wakes what the entry acted on.
    #[inline]
    pub(crate) fn leave(mut self) {
        let leaving = &self.guard.leaving;
        let noted = leaving.timers_changed || leaving.attend || leaving.fair || leaving.lost.is_some();
        if noted || self.current().is_some_and(|vm| vm.has_aftermath()) {
            self.leave_aftermath();
        }
    }

    #[cold]
    fn leave_aftermath(mut self) {
        let mut aftermath = Aftermath::default();
        if let Some(vm) = self.current() {
            // First, for their last callbacks may act on streams, too.
            let deleted = vm.delete_done_roots();
            aftermath = vm.aftermath();
            self.pool.note_asynchronous(&aftermath);
            match deleted {
                Ok(deleted) => self.slot.counters.roots_deleted.add(deleted),
                Err(error) => {
                    self.report_end(&error);
                    self.discard(&error, None);
                }
            }
        }
        let Leaving { timers_changed, attend, fair, lost, .. } = std::mem::take(&mut self.guard.leaving);
        aftermath.timers_changed |= timers_changed;
        let (pool, index) = (self.pool, self.index);
        // A service's own thread sees to it, in its time.
        let attend = (attend || lost.is_some()) && !pool.service;
        let station = &self.slot.station;
        if fair {
            MutexGuard::unlock_fair(self.guard)
        } else {
            drop(self.guard)
        }
        if aftermath.timers_changed {
            station.timers_changed(pool, index);
        }
        aftermath.wake();
        if attend {
            pool.runtime.schedule_rebuild(Arc::downgrade(pool), index);
        }
        if let Some(lost) = lost {
            lost.cells.iter().for_each(|cell| cell.wake());
        }
    }

    /// The name of the filter whose plugin context ran last; empty if it was a stream's.
    pub(super) fn culprit(&mut self) -> String {
        self.current().map_or_else(String::new, |vm| culprit(vm))
    }

    #[cold]
    fn report_end(&mut self, error: &Error) {
        let (pool, index) = (self.pool, self.index);
        if let Some(vm) = self.current() {
            pool.report_end(index, vm, error);
        }
    }

    /// If the VM is lost, it is to be built anew after a while, longer each time.
    pub(crate) fn rebuild_later(&mut self) {
        self.guard.leaving.later = true;
    }

    /// Leaves the slot after a trap: drops the VM, wakes the streams that lived in it, and has it built anew. The trap is
    /// counted for `stats`, the filter whose stream ran; without, for the plugin context that did.
    #[cold]
    pub(crate) fn poison(mut self, error: &Error, stats: Option<&FilterStats>) {
        self.discard(error, stats);
        self.leave();
    }

    pub(super) fn discard(&mut self, error: &Error, stats: Option<&FilterStats>) {
        let taken = if self.pool.single {
            self.guard.singles.remove(self.number).map(Single::into_parts)
        } else {
            self.guard.vm.take().map(|vm| (vm, None))
        };
        let Some((mut vm, _permit)) = taken else { return };
        if let Some(blamed) = stats.or_else(|| vm.state().blamed()) {
            blamed.trap(error);
        }
        vm.salvage();
        let (cells, roots) = vm.remains();
        let counters = &self.slot.counters;
        counters.traps.add(1);
        if matches!(error, Error::Trap(trap) if matches!(trap.kind, TrapKind::Deadline | TrapKind::TransactionDeadline))
        {
            counters.deadlines.add(1);
        }
        counters.roots_deleted.add(roots);
        counters.streams_deleted.add(cells.len() as u64);
        counters.vms_dropped.add(1);
        if !self.pool.single {
            let busy = vm.busy_roots();
            self.guard.roots.lose(|id| busy.contains(&id));
            // Contexts of this generation are gone, also before the next VM is there.
            self.guard.generation += 1;
            if self.pool.service || self.guard.leaving.later {
                self.guard.backoff.fell(Instant::now());
            } else if stats.is_none() {
                // In a transaction it is the filter's breaker that sees to it.
                self.guard.backoff.trapped(Instant::now());
            }
        }
        self.guard.leaving.lost = Some(Lost { cells, _vm: vm });
    }

    /// A VM for one transaction alone.
    fn single_for(&mut self, plugin: &Plugin) -> Result<(&mut Vm, u64, u32), Error> {
        let (ready, low) = self.guard.singles.take(plugin.index);
        self.guard.leaving.attend |= low;
        let single = match ready {
            Some(single) => single,
            None => self.build_single(plugin)?,
        };
        // In stock nothing ticks.
        self.guard.leaving.timers_changed |= single.vm.next_tick().is_some();
        self.number = single.number;
        let single = self.guard.singles.begin(single);
        Ok((&mut single.vm, single.number, single.root))
    }

    #[cold]
    fn build_single(&mut self, plugin: &Plugin) -> Result<Single, Error> {
        let now = Instant::now();
        if self.guard.roots.is_refused_at(plugin.index, now) {
            return Err(set_aside());
        }
        if !self.pool.is_quick(self.index) {
            self.guard.leaving.attend = true;
            return Err(Error::NoVm("a VM for it is being built".to_owned()));
        }
        match self.pool.build_single(self.index, &plugin.spec, self.pool.runtime.most_single_vms(), true) {
            Ok(Some(single)) => {
                self.count_single();
                self.guard.roots.forgive(plugin.index);
                Ok(single)
            }
            Ok(None) => Err(Error::NoVm(format!(
                "all {} VMs that 'isolation: transaction' may have are in use",
                self.pool.runtime.most_single_vms()
            ))),
            Err(error) => {
                self.note_refused(plugin.index, &plugin.spec, &error);
                Err(error)
            }
        }
    }

    /// A VM of one transaction was made.
    pub(super) fn count_single(&self) {
        self.slot.counters.vms_built.add(1);
        self.slot.counters.roots_created.add(1);
    }

    /// No VM could be made for a transaction.
    pub(super) fn note_refused(&mut self, index: usize, spec: &Arc<PluginSpec>, error: &Error) {
        self.guard.roots.refuse(index, Instant::now());
        self.pool.stats_of(spec).trap(error);
        self.slot.counters.traps.add(u64::from(matches!(error, Error::Trap(_))));
    }

    /// Leaves the slot after the end of a stream. A VM that was the transaction's own goes, and its plugin context is told.
    #[inline]
    pub(crate) fn leave_ended(self) {
        if self.pool.single { self.end_single() } else { self.leave() }
    }

    fn end_single(mut self) {
        let number = self.number;
        let Some(single) = self.guard.singles.live(number) else { return self.leave() };
        let root = single.root;
        if let Err(error) = single.vm.remove_root(root) {
            self.report_end(&error);
            return self.poison(&error, None);
        }
        let mut aftermath = single.vm.aftermath();
        let single = self.guard.singles.remove(number);
        self.slot.counters.roots_deleted.add(1);
        self.slot.counters.vms_dropped.add(1);
        let (pool, index, attend) = (self.pool, self.index, std::mem::take(&mut self.guard.leaving).attend);
        drop(self.guard);
        // Without the lock, for it takes a while.
        drop(single);
        aftermath.wake();
        if attend {
            pool.runtime.schedule_rebuild(Arc::downgrade(pool), index);
        }
    }
}

/// Why there is no plugin context for a while.
fn set_aside() -> Error {
    Error::Start("its plugin context could not be made anew, and is tried again in a while".to_owned())
}

/// The name of the filter whose plugin context ran last in this VM; empty if it was a stream's.
fn culprit(vm: &Vm) -> String {
    vm.state().blamed().map_or_else(String::new, |stats| stats.filter().to_owned())
}

impl Pool {
    #[cold]
    pub(super) fn report_end(&self, slot: usize, vm: &Vm, error: &Error) {
        let name = culprit(vm);
        let text = format_args!("filter '{name}': end of a plugin context: {error}");
        self.report(slot, "failure at the end of a plugin context", &name, error, text);
    }

    /// From now on streams of this pool must look for what callbacks of other contexts do to them, if this one may.
    pub(super) fn note_asynchronous(&self, aftermath: &Aftermath) {
        if aftermath.asynchronous {
            self.asynchronous.store(true, Ordering::Relaxed);
        }
    }
}

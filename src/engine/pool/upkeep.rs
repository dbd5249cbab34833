//! What happens in a pool without a request: VMs and plugin contexts that come back, ticks, deliveries, stock.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Entry, Pool, Single, trial};
use crate::answer::News;
use crate::error::Error;
use crate::limits::thread_time;
use crate::settings::PluginSpec;
use crate::station::Delivery;

/// For so long the rebuilder keeps a slot, whose thread may wait for it.
const BATCH: Duration = Duration::from_micros(500);

impl Pool {
    /// Builds a slot's VM if it has none and may, and gives it some of the plugin contexts that it lacks; or fills up its
    /// stock. Says when that is to be done again: what a VM does without a request, its ticks and its part in queues, must
    /// not wait for one.
    pub(crate) fn revive(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        if slot == trial::PLACE {
            return self.end_trial();
        }
        if self.single {
            return self.restock(slot);
        }
        if let Some(at) = self.rebuild(slot) {
            return Some(at);
        }
        let mut entry = self.lock(slot);
        let again = entry.restore_some();
        entry.guard.leaving.attend = false;
        entry.guard.leaving.fair = true;
        entry.leave();
        // Behind the others, so that all of a VM is there before anybody risks it.
        again.or_else(|| self.retry_refused(slot))
    }

    /// Tries a plugin context again that could not be made: on a VM of its own first, for it has cost one already.
    fn retry_refused(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        let now = Instant::now();
        let due = {
            let mut entry = self.lock(slot);
            let index = entry.guard.roots.due(now);
            let spec = index.and_then(|index| Some((index, self.plugins.lock().get(index).cloned()?)));
            match (index, spec) {
                (None, _) => return entry.guard.roots.next_try(),
                (Some(index), None) => {
                    // Its plugin has ended meanwhile.
                    entry.guard.roots.take(index);
                    return Some(now);
                }
                (_, Some(due)) => due,
            }
        };
        let (index, spec) = due;
        let trial = self.build_vm(None, true).and_then(|(mut vm, _)| vm.add_root(&spec));
        let mut entry = self.lock(slot);
        match trial {
            Ok(_) => entry.restore_one(index, &spec),
            Err(error) => {
                let text = format_args!("filter '{}': its plugin context still cannot be made: {error}", spec.name);
                self.report(slot, "failure to make a plugin context anew", &spec.name, &error, text);
                entry.guard.roots.refuse(index, now);
            }
        }
        entry.guard.leaving.attend = false;
        let again = if entry.guard.vm.is_none() { Some(now) } else { entry.guard.roots.next_try() };
        entry.leave();
        again
    }

    /// Runs the ticks of a slot that are due; says when the next one is.
    pub(crate) fn run_timers(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        let now = Instant::now();
        let mut entry = self.lock(slot);
        let (due, number) = entry.first_tick()?;
        let due = entry.guard.backoff.no_ticks(now).map_or(due, |rest| due.max(rest));
        if due > now {
            return Some(due);
        }
        entry.number = number;
        let result = entry.current()?.run_tick(now);
        match result {
            Ok(_) => {
                entry.slot.counters.ticks.add(1);
                let next = entry.first_tick();
                entry.leave();
                next.map(|(due, _)| due)
            }
            Err(error) => {
                let name = entry.culprit();
                self.report(slot, "failure of a tick", &name, &error, format_args!("filter '{name}': tick: {error}"));
                entry.guard.backoff.tick_fell(Instant::now(), now.elapsed());
                entry.poison(&error, None);
                // A rebuilt VM sets its timers when it is configured. Where there are others, theirs go on.
                self.single.then_some(now)
            }
        }
    }

    /// Runs the callback for what came for a plugin context, if that still is there.
    pub(crate) fn deliver(self: &Arc<Self>, delivery: Delivery) {
        let Delivery { address, root, news } = delivery;
        let mut entry = self.lock(address.slot);
        entry.number = address.vm;
        let Some(vm) = entry.current().filter(|vm| vm.is(address.vm)) else {
            if entry.guard.coming == Some(address.vm) {
                entry.guard.early.push(Delivery { address, root, news });
            }
            return;
        };
        let about = match &news {
            News::Http { .. } => "the answer to an HTTP call",
            News::Grpc { .. } => "a gRPC call",
            News::Queue(_) => "a shared queue",
        };
        match vm.deliver(root, news) {
            Ok(()) => entry.leave(),
            Err(error) => {
                let name = vm.plugin_name(root);
                vm.blame(root, &error);
                let text = format_args!("filter '{name}': {about}: {error}");
                self.report(address.slot, &format!("failure at {about}"), &name, &error, text);
                entry.poison(&error, None);
            }
        }
    }

    /// A VM for one filter of one transaction; `None` if there are `limit` of its kind already.
    ///
    /// # Errors
    /// As for any VM and plugin context.
    pub(super) fn build_single(
        self: &Arc<Self>,
        slot: usize,
        spec: &Arc<PluginSpec>,
        limit: usize,
        rebuilt: bool,
    ) -> Result<Option<Single>, Error> {
        let Some(permit) = self.runtime.0.single_vms.permit(limit) else { return Ok(None) };
        let begun = thread_time();
        let (vm, number) = self.build_vm(Some(slot), rebuilt)?;
        let mut vm = Box::new(vm);
        let root = vm.add_root(spec)?;
        self.note_build_time(slot, thread_time().saturating_sub(begun));
        self.note_asynchronous(&vm.aftermath());
        Ok(Some(Single::new(vm, root, number, permit)))
    }

    /// One VM a slot, so that the first transactions find theirs ready. With too many of them already the configuration is
    /// tried out, and transactions build their own.
    pub(super) fn stock_slots(self: &Arc<Self>, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        for slot in 0..self.slots.len() {
            match self.build_single(slot, spec, self.runtime.most_stocked_vms(), false)? {
                Some(single) => self.put(slot, index, spec, single),
                None if slot == 0 => return self.build_vm(None, false)?.0.add_root(spec).map(|_| ()),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Takes a VM into stock, if its plugin is still there.
    fn put(self: &Arc<Self>, slot: usize, index: usize, spec: &Arc<PluginSpec>, single: Single) {
        let mut entry = self.lock(slot);
        entry.count_single();
        if self.plugins.lock().get(index).is_some_and(|known| Arc::ptr_eq(known, spec)) {
            entry.guard.roots.forgive(index);
            entry.guard.singles.put(index, single);
        } else {
            entry.slot.counters.roots_deleted.add(1);
            entry.slot.counters.vms_dropped.add(1);
        }
    }

    /// Builds VMs for plugins whose stock is low. The slot is locked for a moment each.
    fn restock(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        let (index, lacking, spec) = {
            let mut entry = self.lock(slot);
            let (index, lacking) = entry.guard.singles.next_low()?;
            let spec = self.plugins.lock().get(index).cloned();
            (index, lacking, spec)
        };
        for _ in 0..lacking {
            let Some(spec) = &spec else { break };
            match self.build_single(slot, spec, self.runtime.most_stocked_vms(), true) {
                Ok(Some(single)) => self.put(slot, index, spec, single),
                Ok(None) => break,
                Err(error) => {
                    let text = format_args!("filter '{}': no VM for its next transactions: {error}", spec.name);
                    self.report(slot, "failure to build a VM for transactions", &spec.name, &error, text);
                    self.lock(slot).note_refused(index, spec, &error);
                    break;
                }
            }
        }
        // There may be other plugins.
        Some(Instant::now())
    }
}

impl Entry<'_> {
    /// Gives the VM plugin contexts that it lacks, for about as long as [`BATCH`]. `Some` if that is not all.
    fn restore_some(&mut self) -> Option<Instant> {
        let begin = Instant::now();
        loop {
            let missing = self.guard.roots.next_missing(&self.pool.plugins.lock());
            let (index, spec) = missing?;
            self.restore_one(index, &spec);
            if self.guard.vm.is_none() || begin.elapsed() >= BATCH {
                return Some(Instant::now());
            }
        }
    }

    fn restore_one(&mut self, index: usize, spec: &Arc<PluginSpec>) {
        let there = self.pool.plugins.lock().get(index).is_some_and(|known| Arc::ptr_eq(known, spec));
        if !there || self.guard.vm.is_none() || self.guard.roots.get(index).is_some() {
            return;
        }
        if let Err(error) = self.restore_root(index, spec) {
            let text = format_args!(
                "filter '{}': its plugin context could not be made anew, and is tried again in a while: {error}",
                spec.name
            );
            self.pool.report(self.index, "failure to make a plugin context anew", &spec.name, &error, text);
        }
    }

    /// When the first tick of the slot is due, and in which VM, where there are many.
    fn first_tick(&mut self) -> Option<(Instant, u64)> {
        if !self.pool.single {
            return Some((self.guard.vm.as_ref()?.next_tick()?, 0));
        }
        let ticking = self.guard.singles.all_live().filter_map(|single| Some((single.vm.next_tick()?, single.number)));
        ticking.min()
    }

    /// A plugin ends: the VMs that were ready for it go, and their plugin contexts are told.
    pub(super) fn remove_stock(mut self, index: usize) {
        self.guard.roots.forgive(index);
        let mut singles = self.guard.singles.remove_stock(index);
        for single in &mut singles {
            if let Err(error) = single.vm.remove_root(single.root) {
                self.pool.report_end(self.index, &single.vm, &error);
            }
            self.slot.counters.roots_deleted.add(1);
            self.slot.counters.vms_dropped.add(1);
        }
        self.leave();
    }
}

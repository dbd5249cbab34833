//! VMs by key, one a slot, and the plugin contexts inside them.
//!
//! A slot belongs to one event thread; its lock is uncontended unless threads outnumber slots. A VM that trapped
//! is dropped at once and built anew: by the rebuilder thread, or by the next request if that comes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};

use crate::answer::News;
use crate::backoff::Backoff;
use crate::cell::StreamCell;
use crate::counters::{Counters, SlotCounters};
use crate::error::{Error, TrapKind};
use crate::observe::{FilterStats, Meter, Observer, VmGauge};
use crate::runtime::Runtime;
use crate::settings::PluginSpec;
use crate::spec::VmSpec;
use crate::station::{Address, Delivery, Station};
use crate::vm::{Aftermath, Home, Vm};

/// A plugin context in every VM of its pool. Dropping the last handle ends it everywhere.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) pool: Arc<Pool>,
    pub(crate) spec: Arc<PluginSpec>,
    index: usize,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.pool.remove_plugin(self.index);
    }
}

/// What a slot's lock protects.
#[derive(Default)]
pub(crate) struct SlotInner {
    vm: Option<Box<Vm>>,
    /// Counts VMs: a stream context belongs to the VM of one generation.
    generation: u64,
    /// By plugin index: its root context in this VM.
    roots: Vec<Option<u32>>,
    backoff: Backoff,
}

pub(crate) struct Slot {
    inner: Mutex<SlotInner>,
    /// Where what concerns its VM waits for its thread.
    station: Arc<Station>,
    pub(crate) counters: SlotCounters,
}

/// The plugins of a pool.
#[derive(Default)]
struct Plugins {
    /// By index; `None` is free.
    specs: Vec<Option<Arc<PluginSpec>>>,
    by_spec: HashMap<Arc<PluginSpec>, Weak<Plugin>>,
}

/// The VMs of one key.
pub(crate) struct Pool {
    runtime: Runtime,
    pub(crate) spec: Arc<VmSpec>,
    slots: Box<[Slot]>,
    plugins: Mutex<Plugins>,
    /// Some VM has, or had, callbacks outside of streams. Never goes back: it costs little to be wrong.
    asynchronous: AtomicBool,
    /// Its one VM serves a service, and nobody's transactions.
    service: bool,
    gauge: Arc<VmGauge>,
    /// Serialises additions: they take long, and must see each other's work.
    adding: Mutex<()>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("key", &self.spec.key).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool with a slot for each of `stations`; that of a `service` has one.
    pub(crate) fn new(runtime: Runtime, spec: VmSpec, stations: Box<[Arc<Station>]>, service: bool) -> Arc<Self> {
        let slots = stations
            .into_iter()
            .map(|station| Slot { inner: Mutex::default(), station, counters: SlotCounters::default() })
            .collect();
        Arc::new(Pool {
            runtime,
            spec: Arc::new(spec),
            slots,
            plugins: Mutex::default(),
            asynchronous: AtomicBool::new(false),
            service,
            gauge: Arc::default(),
            adding: Mutex::default(),
        })
    }

    /// Whether callbacks outside of streams may act on this pool's streams.
    #[inline]
    pub(crate) fn is_asynchronous(&self) -> bool {
        // The flag is set under the slot's lock, by the VM that is about to have such callbacks; its own streams run
        // under the same lock. Streams of other slots are out of its reach.
        self.asynchronous.load(Ordering::Relaxed)
    }

    /// A VM for this slot; for none, to try something out.
    fn build_vm(self: &Arc<Self>, slot: Option<usize>) -> Result<Vm, Error> {
        /// Tells VMs apart, also of different pools.
        static VMS: AtomicU64 = AtomicU64::new(1);
        let reaches = slot.filter(|_| !self.runtime.0.offline);
        let home = reaches.map(|index| Home {
            address: Address { pool: Arc::downgrade(self), slot: index, vm: VMS.fetch_add(1, Ordering::Relaxed) },
            station: Arc::clone(&self.slots[index].station),
            calls: Arc::clone(&self.runtime.0.calls),
        });
        let inner = &self.runtime.0;
        let observer = Observer {
            clock: Arc::clone(&inner.clock),
            registry: Arc::clone(&inner.registry),
            gauge: Arc::clone(&self.gauge),
        };
        Vm::build(&inner.shared, &self.spec, home, Meter::new(observer))
    }

    /// How many VMs there are, and how large.
    pub(crate) fn gauge(&self) -> &VmGauge {
        &self.gauge
    }

    /// The names of the plugins, and how many have each.
    pub(crate) fn plugin_names(&self) -> BTreeMap<String, u64> {
        let mut names = BTreeMap::new();
        for spec in self.plugins.lock().specs.iter().flatten() {
            *names.entry(spec.name.clone()).or_default() += 1;
        }
        names
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut total = Counters::default();
        for slot in &self.slots {
            total += slot.counters.read();
        }
        total
    }

    /// The plugin of this specification: the one that is there, or a new one, started and configured in the VM
    /// of every slot.
    ///
    /// A specification is tried on a VM of its own first, so that one that traps harms no VM in use.
    ///
    /// # Errors
    /// [`Error::Start`] or [`Error::Trap`] if the guest does not take it; [`Error::Module`] if no VM can be built.
    pub(crate) fn plugin(self: &Arc<Self>, spec: PluginSpec) -> Result<Arc<Plugin>, Error> {
        let _adding = self.adding.lock();
        let spec = Arc::new(spec);
        if let Some(plugin) = self.plugins.lock().by_spec.get(&spec).and_then(Weak::upgrade) {
            return Ok(plugin);
        }
        let first = self.plugins.lock().specs.iter().all(Option::is_none);
        if !first {
            self.build_vm(None)?.add_root(&spec)?;
        }
        let index = {
            let mut plugins = self.plugins.lock();
            let index = plugins.specs.iter().position(Option::is_none).unwrap_or(plugins.specs.len());
            if index == plugins.specs.len() {
                plugins.specs.push(None);
            }
            plugins.specs[index] = Some(Arc::clone(&spec));
            index
        };
        // From here on the handle's drop undoes everything.
        let plugin = Arc::new(Plugin { pool: Arc::clone(self), spec: Arc::clone(&spec), index });
        self.configure_slots(index, &spec)?;
        self.plugins.lock().by_spec.insert(spec, Arc::downgrade(&plugin));
        Ok(plugin)
    }

    /// The first slot alone, since most mistakes show there; the others on as many threads as there are cores.
    fn configure_slots(self: &Arc<Self>, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        self.configure_slot(0, index, spec)?;
        let rest = 1..self.slots.len();
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(rest.len());
        if threads < 2 {
            return rest.into_iter().try_for_each(|slot| self.configure_slot(slot, index, spec));
        }
        let next = std::sync::atomic::AtomicUsize::new(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| {
                        loop {
                            let slot = next.fetch_add(1, Ordering::Relaxed);
                            if slot >= self.slots.len() {
                                return Ok(());
                            }
                            self.configure_slot(slot, index, spec)?;
                        }
                    })
                })
                .collect();
            workers.into_iter().try_for_each(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::Start("a thread that configures VMs panicked".to_owned())))
            })
        })
    }

    fn configure_slot(self: &Arc<Self>, slot: usize, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        let mut entry = self.lock(slot);
        let result = if entry.guard.vm.is_none() { entry.build() } else { entry.add_root(index, spec) };
        if result.is_err() {
            // Before anybody builds a VM in this slot again: it must not meet what was just refused.
            self.plugins.lock().specs[index] = None;
        }
        entry.leave();
        result
    }

    fn remove_plugin(self: &Arc<Self>, index: usize) {
        {
            let mut plugins = self.plugins.lock();
            if let Some(spec) = plugins.specs[index].take()
                && plugins.by_spec.get(&spec).is_some_and(|plugin| plugin.strong_count() == 0)
            {
                plugins.by_spec.remove(&spec);
            }
        }
        for slot in 0..self.slots.len() {
            self.lock(slot).remove_root(index);
        }
    }

    /// Enters a slot.
    #[inline]
    pub(crate) fn lock(self: &Arc<Self>, slot: usize) -> Entry<'_> {
        // Threads beyond the number of slots share them.
        let index = if slot < self.slots.len() { slot } else { slot % self.slots.len() };
        let slot = &self.slots[index];
        Entry { pool: self, slot, index, guard: slot.inner.lock(), timers_changed: false, lost: None }
    }

    /// Builds a slot's VM if it has none and may. Says when that is to be tried again: what a VM does without a request,
    /// its ticks and its part in queues, must not wait for one.
    pub(crate) fn revive(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        let mut entry = self.lock(slot);
        if entry.guard.vm.is_some() {
            return None;
        }
        if let Some(at) = entry.guard.backoff.not_before().filter(|at| *at > Instant::now()) {
            return Some(at);
        }
        if let Err(error) = entry.ensure_vm() {
            log::error!(target: "wasm_remap", "a VM of module {} could not be rebuilt: {error}", self.spec.module.digest());
        }
        let again = entry.guard.backoff.not_before();
        entry.leave();
        again
    }

    /// Whether the VM of a service, which has one slot, has a plugin context that was told of its end and asked for time.
    pub(crate) fn is_ending(self: &Arc<Self>) -> bool {
        self.lock(0).guard.vm.as_ref().is_some_and(|vm| vm.is_ending())
    }

    /// Runs the ticks of a slot that are due; says when the next one is.
    pub(crate) fn run_timers(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        let now = Instant::now();
        let mut entry = self.lock(slot);
        let due = entry.guard.vm.as_ref()?.next_tick()?;
        if due > now {
            return Some(due);
        }
        let result = entry.guard.vm.as_mut()?.run_tick(now);
        match result {
            Ok(next) => {
                entry.slot.counters.ticks.add(1);
                entry.leave();
                next
            }
            Err(error) => {
                log::error!(target: "wasm_remap", "tick: {error}");
                entry.poison(&error, None);
                // The rebuilt VM sets its timers when it is configured.
                None
            }
        }
    }

    /// Runs the callback for what came for a plugin context, if that still is there.
    pub(crate) fn deliver(self: &Arc<Self>, delivery: Delivery) {
        let Delivery { address, root, news } = delivery;
        let mut entry = self.lock(address.slot);
        let Some(vm) = entry.guard.vm.as_deref_mut().filter(|vm| vm.is(address.vm)) else { return };
        let about = match &news {
            News::Http { .. } => "the answer to an HTTP call",
            News::Grpc { .. } => "a gRPC call",
            News::Queue(_) => "a shared queue",
        };
        match vm.deliver(root, news) {
            Ok(()) => entry.leave(),
            Err(error) => {
                let name = vm.plugin_name(root);
                log::error!(target: "wasm_remap", "filter '{name}': {about}: {error}");
                entry.poison(&error, None);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for slot in &self.slots {
            let mut inner = slot.inner.lock();
            if let Some(vm) = inner.vm.take() {
                let (cells, roots) = vm.remains();
                slot.counters.roots_deleted.add(roots);
                slot.counters.streams_deleted.add(cells.len() as u64);
                slot.counters.vms_dropped.add(1);
            }
        }
        self.runtime.return_slots(self.slots.len());
        self.runtime.retire(self.counters());
    }
}

/// A slot, locked. Consumed by [`Entry::leave`] or [`Entry::poison`], which deal with what the entry left behind.
pub(crate) struct Entry<'p> {
    pool: &'p Arc<Pool>,
    pub(crate) slot: &'p Slot,
    index: usize,
    guard: MutexGuard<'p, SlotInner>,
    /// A VM that was built or configured during this entry set timers.
    timers_changed: bool,
    /// The VM was lost during this entry: the streams that lived in it, to be woken once the lock is released.
    lost: Option<Vec<Arc<StreamCell>>>,
}

impl Entry<'_> {
    /// The VM of this slot, built if need be and permitted; its generation; and the plugin's root context in it.
    ///
    /// # Errors
    /// Why there is none.
    #[inline]
    pub(crate) fn vm_for(&mut self, plugin: &Plugin) -> Result<(&mut Vm, u64, u32), Error> {
        if self.guard.vm.is_none() {
            self.ensure_vm()?;
        }
        let SlotInner { vm, generation, roots, .. } = &mut *self.guard;
        match (vm.as_deref_mut(), roots.get(plugin.index)) {
            (Some(vm), Some(Some(root))) => Ok((vm, *generation, *root)),
            _ => Err(Error::Start("its plugin context is not in this VM".to_owned())),
        }
    }

    /// The VM, if it still is the one of `generation`.
    #[inline]
    pub(crate) fn vm_of(&mut self, generation: u64) -> Option<&mut Vm> {
        if self.guard.generation == generation { self.guard.vm.as_deref_mut() } else { None }
    }

    #[cold]
    fn ensure_vm(&mut self) -> Result<(), Error> {
        if self.guard.vm.is_some() {
            return Ok(());
        }
        let now = Instant::now();
        if !self.guard.backoff.open(now) {
            return Err(Error::Start("the VM failed too often and is set aside for a moment".to_owned()));
        }
        match self.build() {
            Ok(()) => {
                self.guard.backoff.built();
                self.pool.runtime.0.registry.vm_rebuilt();
                if let Some(vm) = &self.guard.vm {
                    vm.state().count_rebuilt();
                }
                Ok(())
            }
            Err(error) => {
                self.guard.backoff.build_failed(now);
                Err(error)
            }
        }
    }

    /// Builds the VM with every plugin of the pool.
    fn build(&mut self) -> Result<(), Error> {
        let specs = self.pool.plugins.lock().specs.clone();
        let mut vm = Box::new(self.pool.build_vm(Some(self.index))?);
        let mut roots = vec![None; specs.len()];
        for (root, spec) in roots.iter_mut().zip(&specs) {
            if let Some(spec) = spec {
                *root = Some(vm.add_root(spec)?);
            }
        }
        self.slot.counters.vms_built.add(1);
        self.slot.counters.roots_created.add(roots.iter().flatten().count() as u64);
        let aftermath = vm.aftermath();
        self.note_configured(&aftermath);
        self.guard.vm = Some(vm);
        self.guard.generation += 1;
        self.guard.roots = roots;
        Ok(())
    }

    fn add_root(&mut self, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        if self.guard.roots.get(index).is_some_and(Option::is_some) {
            // The rebuilder was here meanwhile, and knew of the plugin.
            return Ok(());
        }
        let Some(vm) = self.guard.vm.as_deref_mut() else { return Ok(()) };
        match vm.add_root(spec) {
            Ok(id) => {
                let aftermath = vm.aftermath();
                self.note_configured(&aftermath);
                if self.guard.roots.len() <= index {
                    self.guard.roots.resize(index + 1, None);
                }
                self.guard.roots[index] = Some(id);
                self.slot.counters.roots_created.add(1);
                Ok(())
            }
            Err(error) => {
                // The context is gone already, so the VM does not know whose it was.
                let stats = self.pool.runtime.0.registry.stats("", &spec.name);
                self.discard(&error, Some(&stats));
                Err(error)
            }
        }
    }

    /// What a configuration leaves behind. It knows no streams, but may have set timers and made calls.
    fn note_configured(&mut self, aftermath: &Aftermath) {
        self.timers_changed |= aftermath.timers_changed;
        if aftermath.asynchronous {
            self.pool.asynchronous.store(true, Ordering::Relaxed);
        }
    }

    fn remove_root(mut self, index: usize) {
        let Some(id) = self.guard.roots.get_mut(index).and_then(Option::take) else { return };
        let Some(vm) = self.guard.vm.as_deref_mut() else { return };
        match vm.remove_root(id) {
            Ok(gone) => {
                self.slot.counters.roots_deleted.add(u64::from(gone));
                self.leave();
            }
            Err(error) => {
                log::error!(target: "wasm_remap", "end of a plugin context: {error}");
                self.poison(&error, None);
            }
        }
    }

    /// Leaves the slot: releases the lock, then wakes what the entry acted on.
    #[inline]
    pub(crate) fn leave(self) {
        if self.timers_changed || self.lost.is_some() || self.guard.vm.as_ref().is_some_and(|vm| vm.has_aftermath()) {
            self.leave_aftermath();
        }
    }

    #[cold]
    fn leave_aftermath(mut self) {
        let mut aftermath = Aftermath::default();
        if let Some(vm) = self.guard.vm.as_deref_mut() {
            aftermath = vm.aftermath();
            if aftermath.asynchronous {
                self.pool.asynchronous.store(true, Ordering::Relaxed);
            }
            match vm.delete_done_roots() {
                Ok(0) => {}
                Ok(deleted) => self.slot.counters.roots_deleted.add(deleted),
                Err(error) => {
                    log::error!(target: "wasm_remap", "end of a plugin context: {error}");
                    self.discard(&error, None);
                }
            }
        }
        aftermath.timers_changed |= self.timers_changed;
        let (pool, index, lost) = (self.pool, self.index, self.lost.take());
        let station = &self.slot.station;
        drop(self.guard);
        if aftermath.timers_changed {
            station.timers_changed(pool, index);
        }
        aftermath.wake();
        if let Some(cells) = lost {
            if !pool.service {
                // A service's own thread sees to it, in its time.
                pool.runtime.schedule_rebuild(Arc::downgrade(pool), index);
            }
            cells.iter().for_each(|cell| cell.wake());
        }
    }

    /// Leaves the slot after a trap: drops the VM, wakes the streams that lived in it, and has it built anew. The trap is
    /// counted for `stats`, the filter whose stream ran; without, for the plugin context that did.
    #[cold]
    pub(crate) fn poison(mut self, error: &Error, stats: Option<&FilterStats>) {
        self.discard(error, stats);
        self.leave();
    }

    fn discard(&mut self, error: &Error, stats: Option<&FilterStats>) {
        let Some(mut vm) = self.guard.vm.take() else { return };
        if let Some(stats) = stats.or_else(|| vm.state().blamed()) {
            stats.trap(error);
        }
        vm.salvage();
        let (cells, roots) = vm.remains();
        let counters = &self.slot.counters;
        counters.traps.add(1);
        if matches!(error, Error::Trap(trap) if trap.kind == TrapKind::Deadline) {
            counters.deadlines.add(1);
        }
        counters.roots_deleted.add(roots);
        counters.streams_deleted.add(cells.len() as u64);
        counters.vms_dropped.add(1);
        self.guard.roots.clear();
        // Contexts of this generation are gone, also before the next VM is there.
        self.guard.generation += 1;
        if self.pool.service {
            self.guard.backoff.fell(Instant::now());
        } else {
            self.guard.backoff.trapped(Instant::now());
        }
        self.lost = Some(cells);
    }
}

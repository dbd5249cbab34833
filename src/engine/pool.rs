//! VMs by key, one a slot, and the plugin contexts inside them.
//!
//! A slot belongs to one event thread; its lock is uncontended unless threads outnumber slots. A VM that trapped
//! is dropped at once and built anew: by the rebuilder thread, or by the next request if that comes first. In the pools of
//! `isolation: transaction` a slot has many VMs (`singles.rs`), in all others one.

mod entry;
mod plugins;
mod rebuild;
mod roots;
mod singles;
mod trial;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::backoff::Backoff;
use crate::config::Isolation;
use crate::counters::{Counters, SlotCounters};
use crate::error::Error;
use crate::journal::{self, Place, Thread};
use crate::limits::thread_time;
use crate::observe::{FilterStats, Meter, Observer, VmGauge};
use crate::runtime::Runtime;
use crate::settings::PluginSpec;
use crate::spec::VmSpec;
use crate::station::{Address, Delivery, Station};
use crate::vm::{Home, Vm};

pub(crate) use entry::Entry;
use entry::Leaving;
use plugins::Plugins;
use roots::Roots;
pub(crate) use singles::SingleVms;
use singles::{Single, Singles};
use trial::Trial;

/// Threads that configure slots are started for at least so much work: each takes some 20 microseconds to start.
const WORTH_THREADS: Duration = Duration::from_micros(500);

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
    /// The plugin contexts of the VM.
    roots: Roots,
    backoff: Backoff,
    /// In place of the one VM, where each transaction has its own.
    singles: Singles,
    /// The number of a VM that is being built apart, and what has come for it: a configuration may ask for things.
    coming: Option<u64>,
    early: Vec<Delivery>,
    /// What is to be done when whoever is here leaves.
    leaving: Leaving,
}

pub(crate) struct Slot {
    inner: Mutex<SlotInner>,
    /// Where what concerns its VM waits for its thread.
    station: Arc<Station>,
    /// The processor time that building its VM took the last time.
    build_nanos: AtomicU64,
    pub(crate) counters: SlotCounters,
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
    /// Each transaction has a VM of its own.
    single: bool,
    /// The slots that count against the ceiling on VMs.
    reserved: usize,
    gauge: Arc<VmGauge>,
    /// Serialises additions: they take long, and must see each other's work.
    adding: Mutex<Trial>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("key", &self.spec.key).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool with a slot for each of `stations`, of which `reserved` count against the ceiling on VMs; that of a `service`
    /// has one.
    pub(crate) fn new(
        runtime: Runtime,
        spec: VmSpec,
        stations: Box<[Arc<Station>]>,
        reserved: usize,
        service: bool,
    ) -> Arc<Self> {
        let slots = stations
            .into_iter()
            .map(|station| Slot {
                inner: Mutex::default(),
                station,
                build_nanos: AtomicU64::new(0),
                counters: SlotCounters::default(),
            })
            .collect();
        Arc::new(Pool {
            runtime,
            slots,
            plugins: Mutex::default(),
            asynchronous: AtomicBool::new(false),
            service,
            single: spec.isolation == Isolation::Transaction && !service,
            reserved,
            spec: Arc::new(spec),
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

    /// A VM for this slot, for none to try something out; and its number, which no two VMs of the process have. One that is
    /// `rebuilt` follows others, and what it logs at its start has been logged before.
    fn build_vm(self: &Arc<Self>, slot: Option<usize>, rebuilt: bool) -> Result<(Vm, u64), Error> {
        static VMS: AtomicU64 = AtomicU64::new(1);
        let number = VMS.fetch_add(1, Ordering::Relaxed);
        let reaches = slot.filter(|_| !self.runtime.0.offline);
        let home = reaches.map(|index| Home {
            address: Address { pool: Arc::downgrade(self), slot: index, vm: number },
            station: Arc::clone(&self.slots[index].station),
            service: self.service,
            rebuilt,
            calls: Arc::clone(&self.runtime.0.calls),
        });
        let inner = &self.runtime.0;
        let observer = Observer {
            clock: Arc::clone(&inner.clock),
            // What is tried out is not there.
            gauge: if slot.is_some() { Arc::clone(&self.gauge) } else { Arc::default() },
        };
        let vm = Vm::build(&inner.shared, &self.spec, home, Meter::new(observer))?;
        Ok((vm, number))
    }

    /// Where what a plugin context does is counted that belongs to no rule.
    fn stats_of(&self, spec: &PluginSpec) -> Arc<FilterStats> {
        Arc::clone(spec.log.0.stats())
    }

    /// How many VMs there are, and how large.
    pub(crate) fn gauge(&self) -> &VmGauge {
        &self.gauge
    }

    /// The names of the plugins, and how many have each.
    pub(crate) fn plugin_names(&self) -> BTreeMap<String, u64> {
        self.plugins.lock().names()
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
        let mut trial = self.adding.lock();
        let (known, first) = {
            let plugins = self.plugins.lock();
            (plugins.find(&spec), plugins.is_empty())
        };
        if let Some(plugin) = known {
            return Ok(plugin);
        }
        let spec = Arc::new(spec);
        if !first && !self.single {
            self.try_out(&mut trial, &spec)?;
        }
        let index = self.plugins.lock().insert(Arc::clone(&spec));
        // From here on the handle's drop undoes everything.
        let plugin = Arc::new(Plugin { pool: Arc::clone(self), spec: Arc::clone(&spec), index });
        if self.single {
            self.stock_slots(index, &spec)?
        } else {
            self.configure_slots(index, &spec)?
        }
        self.plugins.lock().publish(&plugin);
        Ok(plugin)
    }

    /// The first slot alone, since most mistakes show there; the others on as many threads as there are cores, unless
    /// starting those takes longer than what they are to do.
    fn configure_slots(self: &Arc<Self>, index: usize, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        let begin = Instant::now();
        self.configure_slot(0, index, spec)?;
        let rest = 1..self.slots.len();
        let work = begin.elapsed() * u32::try_from(rest.len()).unwrap_or(u32::MAX);
        // Asked late: it reads files.
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let threads = if work < WORTH_THREADS { 1 } else { cores().min(rest.len()) };
        if threads < 2 {
            return rest.into_iter().try_for_each(|slot| self.configure_slot(slot, index, spec));
        }
        let next = AtomicUsize::new(1);
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
        let begun = entry.guard.vm.is_none().then(thread_time);
        let built = if entry.guard.vm.is_none() { entry.build() } else { Ok(()) };
        let result = built.and_then(|()| match entry.guard.roots.get(index) {
            // The rebuilder was here meanwhile, and knew of the plugin.
            Some(_) => Ok(()),
            None => entry.add_root(index, spec),
        });
        if let Some(begun) = begun {
            self.note_build_time(slot, thread_time().saturating_sub(begun));
        }
        if result.is_err() {
            // Before anybody builds a VM in this slot again: it must not meet what was just refused.
            self.plugins.lock().withdraw(index);
        }
        entry.leave();
        result
    }

    fn remove_plugin(self: &Arc<Self>, index: usize) {
        self.plugins.lock().withdraw(index);
        for slot in 0..self.slots.len() {
            let entry = self.lock(slot);
            if self.single { entry.remove_stock(index) } else { entry.remove_root(index) }
        }
        // Not before: whoever gets the place next must not find this plugin's contexts there.
        self.plugins.lock().release(index);
    }

    /// Enters a slot.
    #[inline]
    pub(crate) fn lock(self: &Arc<Self>, slot: usize) -> Entry<'_> {
        Entry::new(self, self.index(slot))
    }

    /// Threads beyond the number of slots share them.
    fn index(&self, slot: usize) -> usize {
        if slot < self.slots.len() { slot } else { slot % self.slots.len() }
    }

    /// Whether the VM of a service, which has one slot, has a plugin context that was told of its end and asked for time.
    pub(crate) fn is_ending(self: &Arc<Self>) -> bool {
        self.lock(0).guard.vm.as_ref().is_some_and(|vm| vm.is_ending())
    }

    /// Logs what failed outside of transactions.
    #[cold]
    fn report(&self, slot: usize, what: &str, filter: &str, error: &Error, text: std::fmt::Arguments<'_>) {
        let thread = if self.service { Thread::Service } else { Thread::Slot(slot) };
        let place = Place { filter, thread, ..Place::default() };
        match error {
            Error::Trap(trap) => journal::trapped(self.spec.module.digest(), trap, place, text),
            _ => journal::told(log::Level::Error, what, place, text),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for slot in &self.slots {
            let mut inner = slot.inner.lock();
            let singles = inner.singles.drain().into_iter().map(|single| single.vm);
            for vm in singles.chain(inner.vm.take()) {
                let (cells, roots) = vm.remains();
                slot.counters.roots_deleted.add(roots);
                slot.counters.streams_deleted.add(cells.len() as u64);
                slot.counters.vms_dropped.add(1);
            }
        }
        self.runtime.return_slots(self.reserved);
        self.runtime.retire(self.counters());
    }
}

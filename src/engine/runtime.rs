//! The process: one wasmtime engine, its clock, and what is shared by all rules and threads.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use callout::Callouts;
use crossbeam::channel::{Receiver, RecvTimeoutError};
use parking_lot::{Mutex, RwLock};

use crate::code::Library;
use crate::config::{ClusterSettings, HostPattern, Isolation};
use crate::counters::Counters;
use crate::error::Error;
use crate::limits::EPOCH;
use crate::module::Module;
use crate::observe::{Clock, FilterStats, Registry};
use crate::pool::{Pool, SingleVms};
use crate::service::Services;
use crate::shared::{Published, Shared};
use crate::spec::{VmKey, VmSpec};
use crate::station::{Errand, Station};
use crate::upstreams::{Upstreams, UpstreamsTable};

/// What a host decides when it makes a [`Runtime`].
#[derive(Debug, Clone)]
pub struct Options {
    /// How many VMs a pool holds at most: one an event thread.
    pub slots: usize,
    /// How many VMs the process holds at most. Each takes four mappings of those that the kernel permits a process
    /// (`vm.max_map_count`, 65,530 by default), and the server needs some, too.
    pub max_vms: usize,
    /// Called by every thread that sends filters' calls to others, before it does anything else, so that a proxy can make
    /// the thread known to itself. Dropped when the thread ends.
    pub on_callout_thread: Option<fn()>,
    /// Filters' calls are accepted and never sent, and services are tried out and not run: for a look at a configuration.
    pub offline: bool,
    /// `code_cache` of filter files is heeded. Not by commands, whose user is not the one to whom the directory should belong.
    pub code_cache: bool,
    /// The shared state that another copy of this library has published in this process, to be joined.
    pub shared: Option<Published>,
}

impl Options {
    /// So many slots, room for 8,000 VMs, and a shared state of its own.
    #[must_use]
    pub const fn with_slots(slots: usize) -> Self {
        Options { slots, max_vms: 8_000, on_callout_thread: None, offline: false, code_cache: true, shared: None }
    }
}

/// Calls the thread of a slot, from whichever thread has something for it, with no lock held.
type Caller = Arc<dyn Fn(usize, Errand) + Send + Sync>;

/// Everything that belongs to the process. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(pub(crate) Arc<RuntimeInner>);

pub(crate) struct RuntimeInner {
    /// Code, and the engines that run it.
    pub(crate) library: Library,
    pub(crate) shared: Arc<Shared>,
    /// Statistics by rule and filter.
    pub(crate) registry: Arc<Registry>,
    /// Counts epochs, for whoever must not ask the system.
    pub(crate) clock: Arc<Clock>,
    pub(crate) slots: usize,
    pub(crate) offline: bool,
    /// Calls of filters that are under way.
    pub(crate) calls: Arc<AtomicUsize>,
    max_vms: usize,
    /// Slots of all pools that live: what VMs there may be.
    slots_taken: AtomicUsize,
    /// Besides those, the VMs of transactions.
    pub(crate) single_vms: SingleVms,
    pools: Mutex<HashMap<VmKey, Weak<Pool>>>,
    /// What pools that are gone had counted.
    retired: Mutex<Counters>,
    /// By slot: what waits for its thread.
    stations: Arc<[Arc<Station>]>,
    caller: Arc<RwLock<Option<Caller>>>,
    /// Sends filters' calls to others.
    pub(crate) callouts: Callouts,
    upstreams: UpstreamsTable,
    /// Pools of services, which have no key.
    service_pools: Mutex<Vec<Weak<Pool>>>,
    pub(crate) services: Services,
    rebuilder: crossbeam::channel::Sender<(Weak<Pool>, usize)>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("slots", &self.0.slots).finish_non_exhaustive()
    }
}

impl Runtime {
    /// Starts the engine, its clock thread and its rebuilder thread. Once a process.
    ///
    /// # Errors
    /// [`Error::Module`] if wasmtime or a thread cannot start.
    pub fn new(options: Options) -> Result<Self, Error> {
        let library = Library::new(options.code_cache && !options.offline)?;
        crate::journal::start();
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Arc::new(Clock::default());
        spawn("wasm-epoch", {
            let (engines, stop, clock) = (Arc::clone(&library.engines), Arc::clone(&stop), Arc::clone(&clock));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(EPOCH);
                    engines.tick();
                    clock.tick();
                }
            }
        })?;
        let (rebuilder, jobs) = crossbeam::channel::unbounded::<(Weak<Pool>, usize)>();
        spawn("wasm-rebuild", move || rebuild(&jobs))?;
        let shared = Arc::new(joined(options.shared));
        if let Some(upkeep) = shared.upkeep() {
            spawn("wasm-shared", upkeep)?;
        }
        let slots = options.slots.max(1);
        let caller: Arc<RwLock<Option<Caller>>> = Arc::default();
        let station = |slot| {
            let caller = Arc::clone(&caller);
            Station::new(Box::new(move |errand| {
                // Cloned out: whoever is called may set another one.
                let call = caller.read().clone();
                if let Some(call) = call {
                    call(slot, errand);
                }
            }))
        };
        let callouts = Callouts::new(callout::Options {
            on_thread_start: options.on_callout_thread.map(|start| Arc::new(start) as Arc<dyn Fn() + Send + Sync>),
            ..callout::Options::default()
        });
        Ok(Runtime(Arc::new(RuntimeInner {
            library,
            shared,
            registry: Arc::new(Registry::new(slots)),
            clock,
            slots,
            offline: options.offline,
            calls: Arc::default(),
            max_vms: options.max_vms.max(1),
            slots_taken: AtomicUsize::new(0),
            single_vms: SingleVms::default(),
            pools: Mutex::default(),
            retired: Mutex::default(),
            stations: (0..slots).map(station).collect(),
            caller,
            callouts,
            upstreams: UpstreamsTable::default(),
            service_pools: Mutex::default(),
            services: Services::default(),
            rebuilder,
            stop,
        })))
    }

    /// How many slots a pool has.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.0.slots
    }

    /// Compiles `bytes`, unless a module with their digest is alive already.
    ///
    /// # Errors
    /// [`Error::Module`] if this is no Wasm, no Proxy-Wasm module, or imports what nobody offers.
    pub fn module(&self, bytes: &[u8]) -> Result<Arc<Module>, Error> {
        self.0.library.of_bytes(bytes)
    }

    /// The pool of a VM key, made if nobody has it yet. Its VMs are built with the first plugin.
    pub(crate) fn pool(&self, spec: VmSpec) -> Arc<Pool> {
        let mut pools = self.0.pools.lock();
        if let Some(pool) = pools.get(&spec.key).and_then(Weak::upgrade) {
            return pool;
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let key = spec.key;
        let stations = &self.0.stations;
        // The VMs of transactions are counted one by one.
        let single = spec.isolation == Isolation::Transaction;
        let reserved = if single { 0 } else { self.take_slots() };
        let count = if single { stations.len() } else { reserved.min(stations.len()) };
        let pool = Pool::new(self.clone(), spec, stations[..count].into(), reserved, false);
        pools.insert(key, Arc::downgrade(&pool));
        pool
    }

    /// A pool of its own for a service, whose one VM is served by the thread of `station`.
    pub(crate) fn service_pool(&self, spec: VmSpec, station: &Arc<Station>) -> Arc<Pool> {
        self.0.slots_taken.fetch_add(1, Ordering::Relaxed);
        let pool = Pool::new(self.clone(), spec, [Arc::clone(station)].into(), 1, true);
        let mut pools = self.0.service_pools.lock();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(&pool));
        pool
    }

    /// How many slots a new pool gets: all of them while there is room for their VMs, then fewer, and one at last,
    /// which all threads share under its lock.
    fn take_slots(&self) -> usize {
        let inner = &self.0;
        let taken = inner.slots_taken.load(Ordering::Relaxed);
        let granted = inner.slots.min(inner.max_vms.saturating_sub(taken)).max(1);
        inner.slots_taken.fetch_add(granted, Ordering::Relaxed);
        if granted < inner.slots {
            log::warn!(
                target: "wasm_remap",
                "there are {taken} VMs of {} at most: another VM key gets {granted} instead of {}, and threads share them. \
                 Give filters equal vm_id, module, vm_configuration and limits, so that they share VMs",
                inner.max_vms,
                inner.slots
            );
        }
        granted
    }

    /// How many VMs transactions may have of their own: what others leave, up to a half and down to an eighth of all, so
    /// that neither kind can keep the other from working.
    pub(crate) fn most_single_vms(&self) -> usize {
        let inner = &self.0;
        let left = inner.max_vms.saturating_sub(inner.slots_taken.load(Ordering::Relaxed));
        left.clamp((inner.max_vms / 8).max(1), (inner.max_vms / 2).max(1))
    }

    /// With so many of them none is built ahead.
    pub(crate) fn most_stocked_vms(&self) -> usize {
        self.most_single_vms() / 2
    }

    /// Whom a filter may call, shared with all others that may call the same.
    ///
    /// # Errors
    /// As [`Upstreams::new`].
    pub(crate) fn upstreams(
        &self,
        clusters: &BTreeMap<String, ClusterSettings>,
        hosts: &[HostPattern],
    ) -> Result<Arc<Upstreams>, Error> {
        Ok(self.0.upstreams.share(Upstreams::new(self.0.callouts.clone(), clusters, hosts)?))
    }

    /// The slots of a pool that is gone.
    pub(crate) fn return_slots(&self, count: usize) {
        self.0.slots_taken.fetch_sub(count, Ordering::Relaxed);
    }

    /// Totals of everything that ever ran here.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let pools = self.pools();
        let mut total = *self.0.retired.lock();
        for pool in pools {
            total += pool.counters();
        }
        total
    }

    /// How many calls of filters to others are under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.0.calls.load(Ordering::Relaxed)
    }

    /// The pools that there are, in the order of their keys.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = self.0.pools.lock().values().filter_map(Weak::upgrade).collect();
        pools.extend(self.0.service_pools.lock().iter().filter_map(Weak::upgrade));
        pools.sort_by_key(|pool| pool.spec.key);
        pools
    }

    /// Where this filter of this rule counts; `rule` is as a chain's label has it. Reloads included.
    #[must_use]
    pub fn filter_stats(
        &self,
        rule: impl AsRef<str> + Into<Arc<str>>,
        filter: impl AsRef<str> + Into<Arc<str>>,
    ) -> Arc<FilterStats> {
        self.0.registry.stats(rule, filter)
    }

    /// Shared data, queues and metrics.
    #[must_use]
    pub fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// Keeps what a pool counted, now that it goes.
    pub(crate) fn retire(&self, counters: Counters) {
        *self.0.retired.lock() += counters;
    }

    /// Has a slot built anew, off the request path.
    pub(crate) fn schedule_rebuild(&self, pool: Weak<Pool>, slot: usize) {
        // The receiver lives as long as the process's rebuilder thread; without it requests build for themselves.
        let _ = self.0.rebuilder.send((pool, slot));
    }

    /// Who calls the thread of a slot when it has something to do. Told from any thread, and must not wait.
    pub fn on_errand(&self, call: impl Fn(usize, Errand) + Send + Sync + 'static) {
        *self.0.caller.write() = Some(Arc::new(call));
    }

    /// Runs every tick of this slot that is due. To be called on the slot's own thread.
    ///
    /// Returns when the next one is due; `None` if there is none.
    pub fn run_timers(&self, slot: usize) -> Option<Instant> {
        self.0.stations.get(slot)?.run_timers()
    }

    /// Runs callbacks for what came for this slot's plugin contexts: answers to their calls, items of queues. To be called
    /// on the slot's own thread, which it keeps for about a millisecond. True if there is more: then it is due again.
    pub fn deliver(&self, slot: usize) -> bool {
        self.0.stations.get(slot).is_some_and(|station| station.deliver(Duration::from_millis(1)))
    }

    /// How long a deadline may be overrun: one epoch.
    #[must_use]
    pub const fn resolution() -> Duration {
        EPOCH
    }
}

impl Drop for RuntimeInner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How long a VM that is built quickly is left to the next request. One that comes at once builds it sooner alone than while
/// this thread does the same beside it: both would wait for one lock of the kernel's, and one of the two VMs would be for
/// nothing.
const GRACE: Duration = Duration::from_millis(2);

/// Builds VMs anew, and those that may not be built yet when their time has come.
fn rebuild(jobs: &Receiver<(Weak<Pool>, usize)>) {
    let mut later: Vec<(Instant, Weak<Pool>, usize)> = Vec::new();
    loop {
        let next = later.iter().map(|(at, ..)| *at).min();
        let job = match next {
            None => jobs.recv().map_err(RecvTimeoutError::from),
            Some(at) => jobs.recv_deadline(at),
        };
        let now = Instant::now();
        let mut due: Vec<_> = match job {
            Ok((pool, slot)) if pool.upgrade().is_some_and(|strong| strong.leaves_to_requests(slot)) => {
                put_off(&mut later, now + GRACE, pool, slot);
                Vec::new()
            }
            Ok(job) => vec![job],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        due.extend(later.extract_if(.., |(at, ..)| *at <= now).map(|(_, pool, slot)| (pool, slot)));
        for (pool, slot) in due {
            if let Some(at) = pool.upgrade().and_then(|strong| strong.revive(slot)) {
                put_off(&mut later, at, pool, slot);
            }
        }
    }
}

/// Notes when to look after a slot. One that was lost twice is there once.
fn put_off(later: &mut Vec<(Instant, Weak<Pool>, usize)>, at: Instant, pool: Weak<Pool>, slot: usize) {
    match later.iter_mut().find(|(_, other, place)| other.ptr_eq(&pool) && *place == slot) {
        Some(known) => known.0 = known.0.min(at),
        None => later.push((at, pool, slot)),
    }
}

/// The shared state of the process, or one of this copy's own.
fn joined(published: Option<Published>) -> Shared {
    let Some(published) = published else { return Shared::default() };
    Shared::join(published).unwrap_or_else(|error| {
        log::warn!(
            target: "wasm_remap",
            "another build of this plugin owns shared data, queues and filters' metrics, and this one cannot join it: \
             {error}. They start afresh for the rules of this build; a restart of the server joins all rules again"
        );
        Shared::default()
    })
}

pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(|_| ())
        .map_err(|error| Error::Module(format!("thread {name} does not start: {error}")))
}

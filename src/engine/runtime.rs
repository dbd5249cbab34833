//! The process: one wasmtime engine, its clock, and what is shared by all rules and threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::{Config, Engine, OptLevel, Strategy};

use crate::capabilities::Capabilities;
use crate::counters::Counters;
use crate::error::Error;
use crate::limits::EPOCH;
use crate::module::{Digest, Linkers, Module};
use crate::observe::{Clock, FilterStats, Registry};
use crate::pool::Pool;
use crate::shared::Shared;
use crate::spec::{VmKey, VmSpec};

/// What a host decides when it makes a [`Runtime`].
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many VMs a pool holds at most: one an event thread.
    pub slots: usize,
    /// How many VMs the process holds at most. Each takes four mappings of those that the kernel permits a process
    /// (`vm.max_map_count`, 65,530 by default), and the server needs some, too.
    pub max_vms: usize,
}

impl Options {
    /// So many slots, and room for 8,000 VMs.
    #[must_use]
    pub const fn with_slots(slots: usize) -> Self {
        Options { slots, max_vms: 8_000 }
    }
}

/// Told that the timers of a slot changed, from whichever thread changed them, with no lock held.
type TimerNotifier = Box<dyn Fn(usize) + Send + Sync>;

/// Everything that belongs to the process. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime(pub(crate) Arc<RuntimeInner>);

pub(crate) struct RuntimeInner {
    pub(crate) engine: Engine,
    linkers: Linkers,
    pub(crate) shared: Arc<Shared>,
    /// Statistics by rule and filter.
    pub(crate) registry: Arc<Registry>,
    /// Counts epochs, for whoever must not ask the system.
    pub(crate) clock: Arc<Clock>,
    pub(crate) slots: usize,
    max_vms: usize,
    /// Slots of all pools that live: what VMs there may be.
    slots_taken: AtomicUsize,
    modules: Mutex<HashMap<Digest, Weak<Module>>>,
    pools: Mutex<HashMap<VmKey, Weak<Pool>>>,
    /// What pools that are gone had counted.
    retired: Mutex<Counters>,
    /// By slot: the pools that have timers there.
    timers: Box<[Mutex<Vec<Weak<Pool>>>]>,
    notifier: Mutex<Option<Arc<TimerNotifier>>>,
    rebuilder: crossbeam::channel::Sender<(Weak<Pool>, usize)>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runtime").field("slots", &self.0.slots).finish_non_exhaustive()
    }
}

/// The engine's settings; each is argued for in docs/architecture.md.
fn engine() -> Result<Engine, Error> {
    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .consume_fuel(false)
        .signals_based_traps(true)
        .memory_init_cow(true)
        .max_wasm_stack(256 << 10)
        .wasm_memory64(false)
        .wasm_multi_memory(false)
        .parallel_compilation(true);
    Engine::new(&config).map_err(|error| Error::Module(format!("wasmtime does not start: {error:#}")))
}

impl Runtime {
    /// Starts the engine, its clock thread and its rebuilder thread. Once a process.
    ///
    /// # Errors
    /// [`Error::Module`] if wasmtime or a thread cannot start.
    pub fn new(options: Options) -> Result<Self, Error> {
        let engine = engine()?;
        let linkers = Linkers::new(&engine).map_err(|error| Error::Module(format!("linker: {error:#}")))?;
        let stop = Arc::new(AtomicBool::new(false));
        let clock = Arc::new(Clock::default());
        spawn("wasm-epoch", {
            let (engine, stop, clock) = (engine.clone(), Arc::clone(&stop), Arc::clone(&clock));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(EPOCH);
                    engine.increment_epoch();
                    clock.tick();
                }
            }
        })?;
        let (rebuilder, jobs) = crossbeam::channel::unbounded::<(Weak<Pool>, usize)>();
        spawn("wasm-rebuild", move || {
            for (pool, slot) in jobs {
                if let Some(pool) = pool.upgrade() {
                    pool.rebuild(slot);
                }
            }
        })?;
        let slots = options.slots.max(1);
        Ok(Runtime(Arc::new(RuntimeInner {
            engine,
            linkers,
            shared: Arc::new(Shared::default()),
            registry: Arc::new(Registry::new(slots)),
            clock,
            slots,
            max_vms: options.max_vms.max(1),
            slots_taken: AtomicUsize::new(0),
            modules: Mutex::default(),
            pools: Mutex::default(),
            retired: Mutex::default(),
            timers: (0..slots).map(|_| Mutex::default()).collect(),
            notifier: Mutex::default(),
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
    /// [`Error::Module`], as `Module::compile`.
    pub fn module(&self, bytes: &[u8]) -> Result<Arc<Module>, Error> {
        let digest = Digest::of(bytes);
        if let Some(module) = self.0.modules.lock().get(&digest).and_then(Weak::upgrade) {
            return Ok(module);
        }
        // Compiled outside the lock: other modules may load meanwhile. Two loads of one module at the same
        // moment both compile it; the first one in stays.
        let module = Module::compile(&self.0.engine, &self.0.linkers, digest, bytes)?;
        let mut modules = self.0.modules.lock();
        modules.retain(|_, known| known.strong_count() > 0);
        if let Some(first) = modules.get(&digest).and_then(Weak::upgrade) {
            return Ok(first);
        }
        modules.insert(digest, Arc::downgrade(&module));
        Ok(module)
    }

    /// The module, with no more than these capabilities.
    ///
    /// # Errors
    /// As [`Runtime::module`].
    pub(crate) fn restricted(
        &self,
        module: Arc<Module>,
        capabilities: Option<&Capabilities>,
    ) -> Result<Arc<Module>, Error> {
        match capabilities {
            None => Ok(module),
            Some(capabilities) => module.restrict(&self.0.linkers, capabilities),
        }
    }

    /// The pool of a VM key, made if nobody has it yet. Its VMs are built with the first plugin.
    pub(crate) fn pool(&self, spec: VmSpec) -> Arc<Pool> {
        let mut pools = self.0.pools.lock();
        if let Some(pool) = pools.get(&spec.key).and_then(Weak::upgrade) {
            return pool;
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let key = spec.key;
        let pool = Pool::new(self.clone(), spec);
        pools.insert(key, Arc::downgrade(&pool));
        pool
    }

    /// How many slots a new pool gets: all of them while there is room for their VMs, then fewer, and one at last,
    /// which all threads share under its lock.
    pub(crate) fn take_slots(&self) -> usize {
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

    /// The pools that there are, in the order of their keys.
    pub(crate) fn pools(&self) -> Vec<Arc<Pool>> {
        let mut pools: Vec<_> = self.0.pools.lock().values().filter_map(Weak::upgrade).collect();
        pools.sort_by_key(|pool| pool.spec.key);
        pools
    }

    /// Where this filter of this rule counts; `rule` is as a chain's label has it. Reloads included.
    #[must_use]
    pub fn filter_stats(&self, rule: &str, filter: &str) -> Arc<FilterStats> {
        // In a label called "rule" the word says nothing.
        self.0.registry.stats(rule.strip_prefix("rule ").unwrap_or(rule), filter)
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

    /// Whom to tell that [`Runtime::run_timers`] has something to do for a slot.
    pub fn on_timers_changed(&self, notify: impl Fn(usize) + Send + Sync + 'static) {
        *self.0.notifier.lock() = Some(Arc::new(Box::new(notify)));
    }

    /// Notes that a pool's VM of this slot has timers.
    pub(crate) fn timers_changed(&self, pool: &Arc<Pool>, slot: usize) {
        let mut pools = self.0.timers[slot].lock();
        pools.retain(|known| known.strong_count() > 0);
        if !pools.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(pool))) {
            pools.push(Arc::downgrade(pool));
        }
        drop(pools);
        let notifier = self.0.notifier.lock().clone();
        if let Some(notify) = notifier {
            notify(slot);
        }
    }

    /// Runs every tick of this slot that is due. To be called on the slot's own thread.
    ///
    /// Returns when the next one is due; `None` if there is none.
    pub fn run_timers(&self, slot: usize) -> Option<Instant> {
        let pools: Vec<_> = self.0.timers.get(slot)?.lock().iter().filter_map(Weak::upgrade).collect();
        pools.iter().filter_map(|pool| pool.run_timers(slot)).min()
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

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(|_| ())
        .map_err(|error| Error::Module(format!("thread {name} does not start: {error}")))
}

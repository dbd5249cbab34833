//! The data of one VM's store: what hostcalls find.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::{Memory, TypedFunc};

use crate::abi::{AbiVersion, Callback};
use crate::answer::{Answer, Calls};
use crate::cell::{Effects, StreamCell};
use crate::contexts::Contexts;
use crate::error::Error;
use crate::host::StreamHost;
use crate::journal::{Label, Place, Thread};
use crate::limits::{Limit, Nanos, Stopwatch};
use crate::observe::{FilterStats, MeasuredLimits};
use crate::settings::{PluginSpec, VmSettings};
use crate::shared::Subscription;
use crate::vm::{Home, Relayed};

/// A root context: one filter configuration in this VM. Ten thousand rules have as many of these in each VM.
#[derive(Debug)]
pub(crate) struct RootContext {
    /// Name, root id and configuration.
    pub(crate) plugin: Arc<PluginSpec>,
    /// Made when something of it is set.
    own: Option<Box<RootState>>,
}

/// What most plugin contexts never have.
#[derive(Debug, Default)]
pub(crate) struct RootState {
    /// `proxy_set_tick_period_milliseconds`; zero is off.
    pub(crate) tick_period: Duration,
    /// When the next tick is due; meaningless while the period is zero.
    pub(crate) tick_due: Option<Instant>,
    /// `proxy_on_done` answered false: alive until `proxy_done`.
    pub(crate) pending_done: bool,
    /// Properties that `declare_property` made known, and whether each is read-only.
    pub(crate) declared: BTreeMap<Box<[u8]>, bool>,
    /// The shared queues whose items it takes, by number.
    pub(crate) queues: BTreeMap<u32, Subscription>,
}

impl RootContext {
    pub(crate) fn new(plugin: Arc<PluginSpec>) -> Self {
        RootContext { plugin, own: None }
    }

    /// Where what belongs to no rule is counted.
    pub(crate) fn stats(&self) -> &Arc<FilterStats> {
        self.plugin.log.0.stats()
    }

    /// What it has of its own, if anything.
    pub(crate) fn own(&self) -> Option<&RootState> {
        self.own.as_deref()
    }

    /// [`RootContext::own`], to change it.
    pub(crate) fn own_mut(&mut self) -> &mut RootState {
        self.own.get_or_insert_default()
    }

    /// Whether it was told of its end, and asked for time.
    pub(crate) fn is_ending(&self) -> bool {
        self.own().is_some_and(|own| own.pending_done)
    }
}

/// A context of this VM.
#[derive(Debug)]
pub(crate) enum Context {
    /// A plugin context. No larger than a stream's, so that the table of both has no room to waste.
    Root(RootContext),
    /// A stream context: one filter of one transaction.
    Stream {
        /// Its plugin context.
        root: u32,
        /// Its filter's place in the chain.
        filter: u32,
        /// What it shares with its host and the other filters.
        cell: Arc<StreamCell>,
    },
}

// A place in the table of contexts is what each rule costs in each VM.
const _: () = assert!(size_of::<Option<(u32, Context)>>() <= 32);

/// The data of one VM's store.
pub(crate) struct VmState {
    /// What the configuration gives this VM.
    pub(crate) settings: Arc<VmSettings>,
    /// Shared data, queues and metrics of the process.
    pub(crate) shared: Arc<crate::shared::Shared>,
    /// The guest's exported memory. `None` only during instantiation.
    pub(crate) memory: Option<Memory>,
    /// The guest's allocator. Absent while it runs: that is how hostcalls know that they are inside it.
    pub(crate) alloc: Option<Box<TypedFunc<u32, u32>>>,
    /// The ABI version of the module.
    pub(crate) abi: AbiVersion,
    /// Holds the callback that runs to its time.
    pub(crate) stopwatch: Stopwatch,
    /// What the callbacks of the stream that is visited may still take, as far as anybody looked. Without end outside of
    /// visits.
    pub(crate) left: Nanos,
    /// Bytes that the callback that runs has moved by hostcalls, and how many it may.
    moved: u64,
    may_move: u64,
    /// Memory and table ceilings.
    pub(crate) limits: MeasuredLimits,
    /// The callback that runs now; while callbacks are relayed, the latest of which anything is known.
    pub(crate) callback: Callback,
    /// The callbacks that are relayed now, if any are.
    pub(crate) relayed: Option<Relayed>,
    /// The context that the host entered the VM for.
    pub(crate) true_context: u32,
    /// The context that hostcalls act on: the true one, unless `proxy_set_effective_context` said otherwise.
    pub(crate) effective_context: u32,
    /// The host of the stream that `host_of` names; `None` in root contexts.
    pub(crate) host: Option<Box<dyn StreamHost>>,
    /// Whose host `host` is.
    pub(crate) host_of: u32,
    /// What the callback asked for its own stream.
    pub(crate) effects: Effects,
    /// Every context that is alive.
    pub(crate) contexts: Contexts<Context>,
    /// The plugin contexts that tick, the one that is due first before the others.
    ticking: BTreeSet<(Instant, u32)>,
    /// Streams, other than the one entered for, that have effects waiting.
    pub(crate) woken: Vec<Arc<StreamCell>>,
    /// A root context's tick period changed during this entry.
    pub(crate) timers_changed: bool,
    /// A callback acted on a stream that was not its own: from now on, streams of this pool must look for that.
    pub(crate) reached_out: bool,
    /// Where the VM is; `None` for one that only tries a configuration out, and may reach nobody.
    pub(crate) home: Option<Home>,
    /// The module takes items of queues.
    pub(crate) takes_queues: bool,
    /// Calls to others that are under way.
    pub(crate) calls: Calls,
    /// What came back, while the callback for it runs.
    pub(crate) answer: Answer,
    /// Items that were taken during this entry, by queue: whoever was told of a queue says how many.
    pub(crate) taken: u64,
    /// A root context called `proxy_done` during this entry.
    pub(crate) roots_done: Vec<u32>,
    /// Reused for every value on its way into the guest.
    pub(crate) scratch: Vec<u8>,
    /// Reused for pseudo-headers on their way into a map.
    pub(crate) pseudo: Vec<u8>,
    /// A pending line of the guest's stdout and stderr, which WASI writes piecemeal.
    pub(crate) stdio: [Vec<u8>; 2],
    /// The restricted calls that the log has been told of.
    pub(crate) denied: Vec<&'static str>,
    /// The lines logged while it started.
    pub(crate) start_lines: Cell<u32>,
    /// The upstreams that the log has been told cannot be called.
    pub(crate) complaints: Vec<Box<[u8]>>,
}

impl VmState {
    pub(crate) fn new(
        settings: Arc<VmSettings>,
        abi: AbiVersion,
        shared: Arc<crate::shared::Shared>,
        limits: MeasuredLimits,
    ) -> Self {
        VmState {
            left: Nanos::MAX,
            moved: 0,
            may_move: settings.limits.hostcall_bytes,
            settings,
            shared,
            memory: None,
            alloc: None,
            abi,
            stopwatch: Stopwatch::default(),
            limits,
            callback: Callback::Start,
            relayed: None,
            true_context: 0,
            effective_context: 0,
            host: None,
            host_of: 0,
            effects: Effects::default(),
            contexts: Contexts::default(),
            ticking: BTreeSet::new(),
            woken: Vec::new(),
            timers_changed: false,
            reached_out: false,
            home: None,
            takes_queues: false,
            calls: Calls::default(),
            answer: Answer::default(),
            taken: 0,
            roots_done: Vec::new(),
            scratch: Vec::with_capacity(1024),
            pseudo: Vec::new(),
            stdio: [Vec::new(), Vec::new()],
            denied: Vec::new(),
            start_lines: Cell::new(0),
            complaints: Vec::new(),
        }
    }

    /// A callback begins, which has moved nothing yet.
    #[inline]
    pub(crate) fn begin_moving(&mut self) {
        self.moved = 0;
    }

    /// A hostcall moves so many bytes into the guest or out of it.
    ///
    /// # Errors
    /// [`Error::Exceeded`] if that is more than one callback may move.
    #[inline]
    pub(crate) fn count_moved(&mut self, bytes: u64) -> Result<(), Error> {
        // No overflow: a guest has less than four GiB, and each call ends if this is an error.
        self.moved += bytes;
        if self.moved > self.may_move { Err(Error::Exceeded(Limit::Hostcall)) } else { Ok(()) }
    }

    /// The stream that hostcalls act on.
    ///
    /// # Errors
    /// [`Error::NotFound`] outside a stream: in root contexts there is no map, no buffer, no property of one.
    pub(crate) fn stream_mut(&mut self) -> Result<&mut (dyn StreamHost + 'static), Error> {
        self.host.as_deref_mut().ok_or_else(|| Error::NotFound)
    }

    /// The cell of the stream that hostcalls act on.
    pub(crate) fn cell(&self) -> Result<&Arc<StreamCell>, Error> {
        match self.contexts.get(&self.effective_context) {
            Some(Context::Stream { cell, .. }) => Ok(cell),
            _ => Err(Error::NotFound),
        }
    }

    /// The cell of the stream that hostcalls act on, and the place in its chain of the filter for which they do.
    pub(crate) fn part(&self) -> Result<(&Arc<StreamCell>, usize), Error> {
        match self.contexts.get(&self.effective_context) {
            Some(Context::Stream { cell, filter, .. }) => Ok((cell, *filter as usize)),
            _ => Err(Error::NotFound),
        }
    }

    /// The id of the plugin context that hostcalls act on, or whose stream they act on.
    pub(crate) fn root_id(&self) -> Option<u32> {
        match self.contexts.get(&self.effective_context)? {
            Context::Root(_) => Some(self.effective_context),
            Context::Stream { root, .. } => Some(*root),
        }
    }

    /// The plugin context that hostcalls act on, or whose stream they act on.
    pub(crate) fn root(&self) -> Option<&RootContext> {
        match self.contexts.get(&self.root_id()?)? {
            Context::Root(root) => Some(root),
            Context::Stream { .. } => None,
        }
    }

    /// [`VmState::root`], to change it.
    pub(crate) fn root_mut(&mut self) -> Option<&mut RootContext> {
        let id = self.root_id()?;
        match self.contexts.get_mut(&id)? {
            Context::Root(root) => Some(root),
            Context::Stream { .. } => None,
        }
    }

    /// The statistics of the plugin context that the VM was entered for last, if it was one.
    pub(crate) fn blamed(&self) -> Option<&FilterStats> {
        match self.contexts.get(&self.true_context)? {
            Context::Root(root) => Some(root.stats()),
            Context::Stream { .. } => None,
        }
    }

    /// Sets when a plugin context ticks next.
    pub(crate) fn set_tick(&mut self, id: u32, due: Option<Instant>) {
        let Some(Context::Root(root)) = self.contexts.get_mut(&id) else { return };
        if due.is_none() && root.own().is_none() {
            return;
        }
        if let Some(before) = std::mem::replace(&mut root.own_mut().tick_due, due) {
            self.ticking.remove(&(before, id));
        }
        self.ticking.extend(due.map(|due| (due, id)));
    }

    /// When the next tick is due, and of which plugin context.
    pub(crate) fn next_tick(&self) -> Option<(Instant, u32)> {
        self.ticking.first().copied()
    }

    /// Makes `id` the context that hostcalls act on, and fetches its host.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if no such context is alive.
    pub(crate) fn set_effective_context(&mut self, id: u32) -> Result<(), Error> {
        if id == self.effective_context {
            return Ok(());
        }
        let fetched = match self.contexts.get(&id) {
            None => return Err(Error::BadArgument("no such context")),
            Some(Context::Root(_)) => None,
            Some(Context::Stream { .. }) if id == self.host_of => {
                self.effective_context = id;
                return Ok(());
            }
            Some(Context::Stream { cell, .. }) => {
                // Another filter's context of the very stream that is lent already: the host serves both.
                if self.are_of_one_stream(id, self.host_of) {
                    self.host_of = id;
                    self.effective_context = id;
                    return Ok(());
                }
                Some(Arc::clone(cell))
            }
        };
        self.effective_context = id;
        if let Some(cell) = fetched {
            self.return_host();
            self.host = cell.take_host();
            self.host_of = id;
            let callback = self.callback;
            if let Some(host) = self.host.as_deref_mut() {
                host.begin(callback);
            }
        }
        Ok(())
    }

    /// Whether both are contexts of one stream.
    pub(crate) fn are_of_one_stream(&self, one: u32, other: u32) -> bool {
        matches!((self.contexts.get(&one), self.contexts.get(&other)),
            (Some(Context::Stream { cell: one, .. }), Some(Context::Stream { cell: other, .. })) if Arc::ptr_eq(one, other))
    }

    /// Makes the context that the VM was entered for the one that hostcalls act on, after a callback that turned to another.
    #[cold]
    pub(crate) fn turn_back(&mut self) {
        let id = self.true_context;
        self.effective_context = id;
        if self.are_of_one_stream(id, self.host_of) {
            // It has the host of both.
            self.host_of = id;
            return;
        }
        self.return_host();
        if let Some(Context::Stream { cell, .. }) = self.contexts.get(&id) {
            self.host = cell.take_host();
            self.host_of = id;
        }
    }

    /// Another one of the callbacks that are relayed has begun: as if the VM had been entered for it.
    pub(crate) fn turn_to(&mut self, callback: Callback) {
        self.callback = callback;
        self.effective_context = self.true_context;
        if self.host_of != self.true_context {
            self.turn_back();
        }
        self.begin_moving();
        self.spend();
        self.stopwatch.start(self.left.min(self.settings.limits.callback.into()));
        if let Some(host) = self.host.as_deref_mut() {
            host.begin(callback);
        }
    }

    /// Takes what the callback that is over took from what its stream's callbacks may take, as far as anybody looked.
    #[inline]
    pub(crate) fn spend(&mut self) {
        if self.stopwatch.has_looked() && self.left != Nanos::MAX {
            self.left = self.left.saturating_sub(self.stopwatch.used().into());
        }
    }

    /// Puts a lent host back where it belongs.
    pub(crate) fn return_host(&mut self) {
        if let Some(host) = self.host.take()
            && let Some(Context::Stream { cell, .. }) = self.contexts.get(&self.host_of)
        {
            cell.return_host(host);
        }
        self.host_of = 0;
    }

    /// Records an effect on the effective stream; `change` is told which filter of the chain asks. One's own stay here until the VM is left; another stream's go to
    /// its cell, and whoever waits for them is woken then.
    ///
    /// # Errors
    /// [`Error::NotFound`] outside a stream.
    pub(crate) fn record_effect(&mut self, change: impl FnOnce(&mut Effects, usize)) -> Result<(), Error> {
        let Some(Context::Stream { cell, filter, .. }) = self.contexts.get(&self.effective_context) else {
            return Err(Error::NotFound);
        };
        let filter = *filter as usize;
        let own = self.effective_context == self.true_context
            || matches!(self.contexts.get(&self.true_context),
                Some(Context::Stream { cell: own, .. }) if Arc::ptr_eq(own, cell));
        if own {
            change(&mut self.effects, filter);
            self.effects.any = true;
        } else {
            self.reached_out = true;
            if cell.record(|effects| change(effects, filter)) {
                self.woken.push(Arc::clone(cell));
            }
        }
        Ok(())
    }

    /// Where hostcalls act, for log lines: `rule` is what [`VmState::rule`] answers.
    #[cold]
    pub(crate) fn place<'a>(&'a self, rule: Option<&'a str>) -> Place<'a> {
        let thread = match &self.home {
            None => Thread::Unknown,
            Some(home) if home.service => Thread::Service,
            Some(home) => Thread::Slot(home.address.slot),
        };
        Place {
            filter: self.root().map_or("", |root| &*root.plugin.name),
            rule: rule.unwrap_or_default(),
            thread,
            txn: self.host.as_deref().and_then(StreamHost::transaction_id),
        }
    }

    /// The rule of the stream that hostcalls act on.
    #[cold]
    pub(crate) fn rule(&self) -> Option<Arc<str>> {
        self.cell().ok().and_then(|cell| Label::of(cell.label()))
    }

    /// Whether an entry left anything for the host to do.
    #[inline]
    pub(crate) fn has_aftermath(&self) -> bool {
        !self.woken.is_empty() || self.timers_changed || self.reached_out || !self.roots_done.is_empty()
    }
}

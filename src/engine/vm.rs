//! One VM: a store, an instance, its contexts, and the typed entry points into it.
//!
//! Every entry goes through [`Vm::enter`], which arms the deadline, sets the context that hostcalls act on, and
//! turns a trap, or a panic of ours inside a hostcall, into an [`Error::Trap`]. After such an error the VM is
//! poisoned: whoever owns it must drop it.

mod breach;
mod callbacks;
mod news;
mod relay;
mod ticks;
mod trap;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use smallvec::SmallVec;
use wasmtime::{Instance, Store, StoreLimitsBuilder, UpdateDeadline};

use crate::abi::{Action, BodyAction, Callback, MapType};
use crate::body::Side;
use crate::cell::{Effects, StreamCell};
use crate::config::Isolation;
use crate::error::{Error, TrapKind};
use crate::host::StreamHost;
use crate::limits::{Budget, FIRST_LOOK, Limit, Nanos};
use crate::module::one_line;
use crate::observe::{MeasuredLimits, Meter};
use crate::settings::PluginSpec;
use crate::shared::Shared;
use crate::spec::VmSpec;
use crate::state::{Context, RootContext, RootState, VmState};
use crate::station::{Address, Station};
use breach::Breaches;
use callbacks::{Callbacks, call_headers, optional};
use relay::{Relay, count_fields};
use trap::host_panic;

pub(crate) use relay::{Relayed, Relays, follow, recount};

/// Where a VM that serves is, and where what comes for it waits.
pub(crate) struct Home {
    pub(crate) address: Address,
    pub(crate) station: Arc<Station>,
    /// It serves a service.
    pub(crate) service: bool,
    /// There was another VM before it in its slot.
    pub(crate) rebuilt: bool,
    /// Calls under way, of all VMs.
    pub(crate) calls: Arc<AtomicUsize>,
}

/// A running VM. Its owner is a slot, under whose lock every method runs.
pub(crate) struct Vm {
    store: Store<VmState>,
    callbacks: Callbacks,
    relay: Relay,
    callback_time: Budget,
    start_time: Budget,
    configure_time: Budget,
    /// What all callbacks of one stream context may take together.
    transaction_time: Nanos,
    breaches: Breaches,
    pub(crate) meter: Meter,
}

/// What an entry left behind for the host, to be dealt with once the VM's lock is released.
#[derive(Default)]
pub(crate) struct Aftermath {
    /// Streams other than the entered one that have effects waiting.
    pub(crate) woken: Vec<Arc<StreamCell>>,
    /// A tick period changed.
    pub(crate) timers_changed: bool,
    /// A callback acted, or from now on may act, on streams that are not its own.
    pub(crate) asynchronous: bool,
}

impl Aftermath {
    /// Wakes every stream that somebody else's callback acted on. No lock may be held.
    pub(crate) fn wake(&mut self) {
        for cell in self.woken.drain(..) {
            cell.wake();
        }
    }
}

impl Vm {
    /// Instantiates the module and runs its start function.
    ///
    /// # Errors
    /// [`Error::Module`] if it cannot be instantiated, [`Error::Trap`] if its start function traps.
    pub(crate) fn build(shared: &Arc<Shared>, spec: &VmSpec, home: Option<Home>, meter: Meter) -> Result<Self, Error> {
        let given = spec.settings.limits;
        let limits = StoreLimitsBuilder::new()
            .memory_size(given.memory_bytes)
            .table_elements(given.table_elements)
            // The guest, and its relay.
            .instances(2)
            .build();
        let limits = MeasuredLimits::new(limits, Arc::clone(meter.gauge()));
        let state = VmState::new(Arc::clone(&spec.settings), spec.module.abi(), Arc::clone(shared), limits);
        let mut store = Store::new(spec.module.engine(), state);
        store.data_mut().home = home;
        store.limiter(|state| &mut state.limits);
        store.epoch_deadline_callback(|mut guest| {
            relay::follow(&mut guest);
            Ok(match guest.data_mut().stopwatch.look() {
                None => UpdateDeadline::Interrupt,
                // The next callback may begin at any moment.
                Some(_) if guest.data().relayed.is_some() => UpdateDeadline::Continue(FIRST_LOOK),
                Some(epochs) => UpdateDeadline::Continue(epochs),
            })
        });
        let budget = |time: Duration, limit: Limit| Budget { time: time.into(), limit };
        let start_time = budget(given.start, Limit::Start);
        store.data_mut().stopwatch.start(start_time.time);
        store.set_epoch_deadline(FIRST_LOOK);
        let instance = match spec.module.pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(error) => return Err(breach::at_instantiation(store.data_mut(), start_time, &error)),
        };
        let memory =
            instance.get_memory(&mut store, "memory").ok_or_else(|| Error::Module("exports no memory".to_owned()))?;
        store.data_mut().memory = Some(memory);
        let callbacks = Callbacks::of(&instance, &mut store, spec.module.abi())?;
        // A VM of one transaction is gone before anybody fills a queue.
        store.data_mut().takes_queues = callbacks.queue_ready.is_some() && spec.isolation != Isolation::Transaction;
        // The specification's name first; `malloc` alone is what older C++ modules have.
        let alloc = match optional::<u32, u32>(&instance, &mut store, "proxy_on_memory_allocate")? {
            Some(alloc) => Some(alloc),
            None => optional(&instance, &mut store, "malloc")?,
        };
        let mut vm = Vm {
            store,
            callbacks,
            relay: Relay::default(),
            callback_time: budget(given.callback, Limit::Callback),
            start_time,
            configure_time: budget(given.configure, Limit::Configure),
            transaction_time: given.transaction.into(),
            breaches: Breaches::default(),
            meter,
        };
        vm.start(&instance)?;
        // Only now: its absence is what restricts hostcalls during the start function.
        vm.store.data_mut().alloc = alloc.map(Box::new);
        // For one stream it is not worth its while.
        if spec.isolation != Isolation::Transaction {
            let relay = Relay::of(&vm.callbacks, spec.module.relays(), &mut vm.store);
            vm.relay = relay.map_err(|error| Error::Module(format!("relay: {}", one_line(&error))))?;
        }
        Ok(vm)
    }

    /// `_initialize`, then `main` where there is one; else `_start`.
    fn start(&mut self, instance: &Instance) -> Result<(), Error> {
        let budget = self.start_time;
        if let Some(initialize) = optional::<(), ()>(instance, &mut self.store, "_initialize")? {
            self.call(Callback::Start, 0, budget, |_, store| initialize.call(store, ()))?;
            if let Ok(Some(main)) = optional::<(u32, u32), u32>(instance, &mut self.store, "main") {
                self.call(Callback::Start, 0, budget, |_, store| main.call(store, (0, 0)))?;
            } else if let Ok(Some(main)) = optional::<(), u32>(instance, &mut self.store, "__main_void") {
                self.call(Callback::Start, 0, budget, |_, store| main.call(store, ()))?;
            }
        } else if let Some(start) = optional::<(), ()>(instance, &mut self.store, "_start")? {
            match self.call(Callback::Start, 0, budget, |_, store| start.call(store, ())) {
                // A command module ends its `main` with an exit; that is how it returns.
                Err(Error::Trap(trap)) if trap.kind == TrapKind::Exit(0) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Enters the guest for one callback.
    #[inline]
    fn call<R>(
        &mut self,
        callback: Callback,
        context: u32,
        budget: Budget,
        run: impl FnOnce(&Callbacks, &mut Store<VmState>) -> wasmtime::Result<R>,
    ) -> Result<R, Error> {
        self.enter(callback, context, budget, |vm| run(&vm.callbacks, &mut vm.store))
    }

    /// Enters the guest, for `callback` and for those that are relayed after it.
    #[inline]
    fn enter<R>(
        &mut self,
        callback: Callback,
        context: u32,
        budget: Budget,
        run: impl FnOnce(&mut Self) -> wasmtime::Result<R>,
    ) -> Result<R, Error> {
        let state = self.store.data_mut();
        state.callback = callback;
        state.true_context = context;
        state.effective_context = context;
        if state.host_of != context && state.host_of != 0 {
            state.turn_back();
        }
        state.begin_moving();
        state.stopwatch.start(state.left.min(budget.time));
        self.store.set_epoch_deadline(FIRST_LOOK);
        let begun = self.meter.start();
        // A panic of ours in a hostcall unwinds through the guest's frames. The VM is dropped afterwards, so no
        // state that the panic left half changed is ever looked at: hence AssertUnwindSafe.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if let Some(host) = self.store.data_mut().host.as_deref_mut() {
                host.begin(callback);
            }
            run(self)
        }));
        if let Some(begun) = begun {
            self.meter.stop(self.store.data(), callback, context, begun);
        }
        if !matches!(outcome, Ok(Ok(_))) {
            // Before the state is asked which callback it was. What panicked may panic again.
            let _ = catch_unwind(AssertUnwindSafe(|| relay::follow(&mut self.store)));
        }
        let state = self.store.data_mut();
        state.relayed = None;
        state.spend();
        let refused = if state.limits.has_refused() { Some(self.note_refused(context)) } else { None };
        match outcome {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(error)) => Err(self.ended(budget, refused, &error)),
            Err(panic) => Err(host_panic(self.state().callback, panic.as_ref())),
        }
    }

    /// What hostcalls find; between callbacks.
    pub(crate) fn state(&self) -> &VmState {
        self.store.data()
    }

    /// Creates a plugin context, starts and configures it.
    ///
    /// # Errors
    /// [`Error::Start`] if the guest refuses, [`Error::Trap`] if it traps.
    pub(crate) fn add_root(&mut self, plugin: &Arc<PluginSpec>) -> Result<u32, Error> {
        let id = self.store.data_mut().contexts.next_id();
        let budget = self.configure_time;
        let root = RootContext::new(Arc::clone(plugin));
        self.store.data_mut().contexts.insert(id, Context::Root(root));
        let vm_size = size(&self.store.data().settings.vm_configuration);
        let plugin_size = size(&plugin.configuration);
        let result = (|| {
            if self.callbacks.context_create.is_some() {
                self.call(Callback::ContextCreate, id, budget, |callbacks, store| {
                    callbacks.context_create.as_ref().map_or(Ok(()), |create| create.call(store, (id, 0)))
                })?;
            }
            // Once a plugin context, as in cpp-host: the SDKs keep per-root state in it.
            let started = self.call(Callback::VmStart, id, self.start_time, |callbacks, store| {
                callbacks.vm_start.as_ref().map_or(Ok(1), |start| start.call(store, (id, vm_size)))
            })?;
            if started == 0 {
                return Err(Error::Start("proxy_on_vm_start returned false: the module refuses to run".to_owned()));
            }
            let configured = self.call(Callback::Configure, id, budget, |callbacks, store| {
                callbacks.configure.as_ref().map_or(Ok(1), |configure| configure.call(store, (id, plugin_size)))
            })?;
            if configured == 0 {
                return Err(Error::Start(
                    "proxy_on_configure returned false: the module refuses its configuration".to_owned(),
                ));
            }
            Ok(())
        })();
        self.store.data_mut().return_host();
        match result {
            Ok(()) => Ok(id),
            Err(error) => {
                self.forget_root(id);
                Err(error)
            }
        }
    }

    /// Ends a plugin context. If the guest asks for time (`proxy_on_done` answers false) the context lives on
    /// until `proxy_done` or the VM's end. True once it is gone.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn remove_root(&mut self, id: u32) -> Result<bool, Error> {
        let budget = self.callback_time;
        let done = self.call(Callback::Done, id, budget, |callbacks, store| {
            callbacks.done.as_ref().map_or(Ok(1), |done| done.call(store, id))
        });
        self.store.data_mut().return_host();
        if done? == 0 {
            if let Some(Context::Root(root)) = self.store.data_mut().contexts.get_mut(&id) {
                root.own_mut().pending_done = true;
            }
            return Ok(false);
        }
        self.delete_root(id)?;
        Ok(true)
    }

    /// Whether some plugin context has asked for time, and not called `proxy_done` yet.
    pub(crate) fn is_ending(&self) -> bool {
        let mut contexts = self.store.data().contexts.iter();
        contexts.any(|(_, context)| matches!(context, Context::Root(root) if root.is_ending()))
    }

    fn delete_root(&mut self, id: u32) -> Result<(), Error> {
        let budget = self.callback_time;
        let logged = self.call(Callback::Log, id, budget, |callbacks, store| {
            callbacks.log.as_ref().map_or(Ok(()), |log| log.call(store, id))
        });
        let deleted = logged.and_then(|()| {
            self.call(Callback::Delete, id, budget, |callbacks, store| {
                callbacks.delete.as_ref().map_or(Ok(()), |delete| delete.call(store, id))
            })
        });
        self.store.data_mut().return_host();
        deleted?;
        self.forget_root(id);
        Ok(())
    }

    /// A plugin context is no more: with it go its timers, its calls and its part in queues.
    fn forget_root(&mut self, id: u32) {
        let state = self.store.data_mut();
        state.set_tick(id, None);
        state.contexts.remove(&id);
        state.calls.cancel_all(id);
    }

    /// Whether this is the VM of that number.
    pub(crate) fn is(&self, number: u64) -> bool {
        self.store.data().home.as_ref().is_some_and(|home| home.address.vm == number)
    }

    /// The name of a plugin context, for log lines.
    pub(crate) fn plugin_name(&self, root: u32) -> String {
        match self.store.data().contexts.get(&root) {
            Some(Context::Root(root)) => root.plugin.name.as_ref().to_owned(),
            _ => String::new(),
        }
    }

    /// Deletes plugin contexts that called `proxy_done`. Returns how many.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn delete_done_roots(&mut self) -> Result<u64, Error> {
        let done = std::mem::take(&mut self.store.data_mut().roots_done);
        for &id in &done {
            self.delete_root(id)?;
        }
        Ok(done.len() as u64)
    }

    /// Lends a stream's host to the VM. Every `lend` is followed by [`Vm::take_back`], traps included.
    #[inline]
    pub(crate) fn lend(&mut self, id: u32, host: Option<Box<dyn StreamHost>>) {
        self.meter.begin_visit();
        let state = self.store.data_mut();
        state.host = host;
        state.host_of = id;
    }

    /// Takes the host back. True if the callbacks asked for something, which is to be fetched by [`Vm::take_effects`].
    #[inline]
    pub(crate) fn take_back(&mut self, id: u32, cell: &StreamCell, host: &mut Option<Box<dyn StreamHost>>) -> bool {
        self.meter.end_visit();
        let state = self.store.data_mut();
        let is_of_this_stream =
            |of: &Context| matches!(of, Context::Stream { cell: lent, .. } if std::ptr::eq(&**lent, cell));
        if state.host_of == id || state.contexts.get(&state.host_of).is_some_and(is_of_this_stream) {
            state.host_of = 0;
            *host = state.host.take();
        } else {
            // The guest turned to another context meanwhile, and this stream's host went to its cell.
            state.return_host();
            *host = cell.take_host();
        }
        state.effects.any
    }

    /// What the callbacks of the stream that was visited asked for.
    #[cold]
    pub(crate) fn take_effects(&mut self) -> Effects {
        std::mem::take(&mut self.store.data_mut().effects)
    }

    /// Rescues what a trap left behind in the store: a host that was lent, and a line that was not yet written.
    pub(crate) fn salvage(&mut self) {
        let state = self.store.data_mut();
        // While the host is there: the line says its transaction.
        crate::wasi::flush(state);
        state.return_host();
    }

    /// Creates a stream context, and shows it the request's headers. The host must have been lent under the id that
    /// [`Vm::reserve`] gave.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn begin_stream(
        &mut self,
        id: u32,
        root: u32,
        filter: u32,
        cell: Arc<StreamCell>,
        end_of_stream: bool,
    ) -> Result<Action, Error> {
        self.store.data_mut().contexts.insert(id, Context::Stream { root, filter, cell });
        let budget = self.callback_time;
        if self.relay.begin.is_some() && self.may_relay() {
            let result = self.enter(Callback::ContextCreate, id, budget, |vm| {
                let Vm { store, relay, .. } = vm;
                let fields = count_fields(store.data_mut(), MapType::HttpRequestHeaders);
                let Some(begin) = relay.begin(store.data_mut(), fields) else { return Ok(0) };
                begin.call(store, (id, root, fields, u32::from(end_of_stream)))
            })?;
            return Ok(Action::from_headers_result(result));
        }
        if self.callbacks.context_create.is_some() {
            self.call(Callback::ContextCreate, id, budget, |callbacks, store| {
                callbacks.context_create.as_ref().map_or(Ok(()), |create| create.call(store, (id, root)))
            })?;
        }
        if self.callbacks.request_headers.is_none() {
            return Ok(Action::Continue);
        }
        self.request_headers(id, end_of_stream)
    }

    /// Whether nobody wants to know of each callback when it begins.
    #[inline]
    fn may_relay(&self) -> bool {
        !self.meter.is_measuring() && !self.store.data().host.as_deref().is_some_and(|host| host.is_watching())
    }

    /// An id for a stream context that is about to be created.
    pub(crate) fn reserve(&mut self) -> u32 {
        self.store.data_mut().contexts.next_id()
    }

    /// `proxy_on_request_headers`.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn request_headers(&mut self, id: u32, end_of_stream: bool) -> Result<Action, Error> {
        let budget = self.callback_time;
        let result = self.call(Callback::RequestHeaders, id, budget, |callbacks, store| {
            call_headers(callbacks.request_headers.as_ref(), store, MapType::HttpRequestHeaders, id, end_of_stream)
        })?;
        Ok(Action::from_headers_result(result))
    }

    /// `proxy_on_response_headers`.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn response_headers(&mut self, id: u32, end_of_stream: bool) -> Result<Action, Error> {
        let budget = self.callback_time;
        let result = self.call(Callback::ResponseHeaders, id, budget, |callbacks, store| {
            call_headers(callbacks.response_headers.as_ref(), store, MapType::HttpResponseHeaders, id, end_of_stream)
        })?;
        Ok(Action::from_headers_result(result))
    }

    /// `proxy_on_request_body` or `proxy_on_response_body`, with as many bytes before the filter as `size` says.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn body(&mut self, side: Side, id: u32, size: usize, end_of_stream: bool) -> Result<BodyAction, Error> {
        let budget = self.callback_time;
        let callback = match side {
            Side::Request => Callback::RequestBody,
            Side::Response => Callback::ResponseBody,
        };
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let result = self.call(callback, id, budget, |callbacks, store| match &callbacks.body[side as usize] {
            Some(body) => body.call(store, (id, size, u32::from(end_of_stream))),
            None => Ok(0),
        })?;
        Ok(BodyAction::from_body_result(result))
    }

    /// `proxy_on_done` (whose answer counts for plugin contexts alone), `proxy_on_log`, `proxy_on_delete`.
    ///
    /// # Errors
    /// [`Error::Trap`]; the context is gone in any case, and its cell in `cells`.
    pub(crate) fn end_stream(&mut self, id: u32, cells: &mut SmallVec<[Arc<StreamCell>; 4]>) -> Result<(), Error> {
        let result = self.call_end(id);
        // A host that is not this stream's finds its way home by its context, and this one's by its cell.
        let state = self.store.data_mut();
        if state.are_of_one_stream(state.host_of, id) {
            state.host_of = id;
        } else if state.host_of != id {
            state.return_host();
        }
        if let Some(Context::Stream { cell, .. }) = self.store.data_mut().contexts.remove(&id) {
            cells.push(cell);
        }
        result
    }

    fn call_end(&mut self, id: u32) -> Result<(), Error> {
        let budget = self.callback_time;
        if let Some((first, _)) = self.relay.end
            && self.may_relay()
        {
            return self.enter(first, id, budget, |vm| {
                let Vm { store, relay, .. } = vm;
                relay.end(store.data_mut()).map_or(Ok(()), |end| end.call(store, id))
            });
        }
        if self.callbacks.done.is_some() {
            self.call(Callback::Done, id, budget, |callbacks, store| {
                callbacks.done.as_ref().map_or(Ok(1), |done| done.call(store, id))
            })?;
        }
        if self.callbacks.log.is_some() {
            self.call(Callback::Log, id, budget, |callbacks, store| {
                callbacks.log.as_ref().map_or(Ok(()), |log| log.call(store, id))
            })?;
        }
        if self.callbacks.delete.is_some() {
            self.call(Callback::Delete, id, budget, |callbacks, store| {
                callbacks.delete.as_ref().map_or(Ok(()), |delete| delete.call(store, id))
            })?;
        }
        Ok(())
    }

    /// Whether this entry left anything for the host to do.
    #[inline]
    pub(crate) fn has_aftermath(&self) -> bool {
        self.store.data().has_aftermath()
    }

    /// What this entry left for the host to do.
    pub(crate) fn aftermath(&mut self) -> Aftermath {
        let state = self.store.data_mut();
        let timers_changed = std::mem::take(&mut state.timers_changed);
        let asynchronous = std::mem::take(&mut state.reached_out) || timers_changed;
        Aftermath { woken: std::mem::take(&mut state.woken), timers_changed, asynchronous }
    }

    /// The plugin contexts that do something without a transaction: that tick, take items of queues, or wait for answers.
    pub(crate) fn busy_roots(&self) -> HashSet<u32> {
        let state = self.store.data();
        let acts = |own: &RootState| own.tick_due.is_some() || !own.queues.is_empty();
        let busy = |context: &Context| matches!(context, Context::Root(root) if root.own().is_some_and(acts));
        let busy = state.contexts.iter().filter(|(_, context)| busy(context)).map(|(id, _)| id);
        busy.chain(state.calls.roots()).collect()
    }

    /// The cells of every live stream, and how many plugin contexts there are: for a VM that is going.
    pub(crate) fn remains(&self) -> (Vec<Arc<StreamCell>>, u64) {
        let mut roots = 0;
        let mut cells = Vec::new();
        for (_, context) in self.store.data().contexts.iter() {
            match context {
                Context::Root(_) => roots += 1,
                Context::Stream { cell, .. } => cells.push(Arc::clone(cell)),
            }
        }
        (cells, roots)
    }
}

/// The size of a configuration as the ABI passes it. Configurations are far below 4 GiB: they come from files
/// whose size the loader bounds.
fn size(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

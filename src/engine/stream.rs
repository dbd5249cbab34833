//! One transaction on its way through a chain.
//!
//! A host makes a [`Stream`], calls a phase, and does what the [`Verdict`] says. All Proxy-Wasm semantics of the
//! order of callbacks, of pausing and of failure are here; the host only knows where in its own state machine
//! each phase belongs.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::abi::{Action, MapType};
use crate::cell::StreamCell;
use crate::chain::{Chain, FailurePolicy, Filter};
use crate::error::Error;
use crate::host::{LocalResponse, StreamHost, Waker};
use crate::pool::Entry;
use crate::vm::Vm;

/// What a host is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the transaction.
    Continue,
    /// Hold the transaction until [`Stream::resume`], which is due when the waker given to [`Stream::set_waker`] is
    /// called, or until [`Stream::pause_expired`], due after [`Stream::pause_limit`].
    Pause,
    /// Answer the client with this and nothing else. If [`Stream::response_headers`] is called for it, filters
    /// see the answer as they see any other response.
    Respond(Box<LocalResponse>),
    /// End the transaction without an answer.
    Close,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between callbacks.
    Idle,
    /// A filter holds the request headers.
    RequestHeaders(usize),
    /// A filter holds the response headers.
    ResponseHeaders(usize),
}

/// One filter's part in a stream.
#[derive(Debug, Clone, Copy)]
struct Part {
    /// Its stream context; zero before it is created.
    context: u32,
    /// The VM that the context lives in.
    generation: u64,
    state: PartState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartState {
    /// Not yet reached by a callback.
    New,
    /// Alive in its VM.
    Alive,
    /// Failed, or gone with its VM: no callback any more.
    Gone,
}

/// One transaction in a chain. Lives with the transaction; used by one thread at a time.
#[derive(Debug)]
pub struct Stream {
    chain: Arc<Chain>,
    slot: usize,
    cell: Arc<StreamCell>,
    parts: SmallVec<[Part; 4]>,
    phase: Phase,
    /// A filter failed closed: the answer is the policy's, and no filter sees it.
    failed: bool,
    request_end_of_stream: bool,
    response_end_of_stream: bool,
}

impl Stream {
    /// Begins a stream in a slot, which it keeps to its end.
    #[must_use]
    pub fn new(chain: Arc<Chain>, slot: usize, host: Box<dyn StreamHost>) -> Self {
        let part = Part { context: 0, generation: 0, state: PartState::New };
        let parts = SmallVec::from_elem(part, chain.filters().len());
        Stream {
            chain,
            slot,
            cell: StreamCell::new(host),
            parts,
            phase: Phase::Idle,
            failed: false,
            request_end_of_stream: false,
            response_end_of_stream: false,
        }
    }

    /// The host, between callbacks.
    #[must_use]
    pub fn cell(&self) -> &Arc<StreamCell> {
        &self.cell
    }

    /// Whom to call when a paused stream has reason to be resumed.
    pub fn set_waker(&self, waker: Waker) {
        self.cell.set_waker(waker);
    }

    /// How long the filter that holds the stream may do so.
    #[must_use]
    pub fn pause_limit(&self) -> Duration {
        match self.phase {
            Phase::Idle => Duration::ZERO,
            Phase::RequestHeaders(at) | Phase::ResponseHeaders(at) => self.chain.filters()[at].pause,
        }
    }

    /// Whether a filter failed closed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.failed
    }

    /// Shows the request headers to every filter, first to last.
    pub fn request_headers(&mut self, end_of_stream: bool) -> Verdict {
        self.request_end_of_stream = end_of_stream;
        self.run_request_headers(0)
    }

    /// Shows the response headers to every filter that has a context, last to first. A local response passes
    /// here too, as in Envoy, unless a filter's failure made it.
    pub fn response_headers(&mut self, end_of_stream: bool) -> Verdict {
        if self.failed {
            return Verdict::Continue;
        }
        self.response_end_of_stream = end_of_stream;
        self.run_response_headers(self.parts.len())
    }

    /// Goes on after a pause, if a filter asked for it.
    pub fn resume(&mut self) -> Verdict {
        let held = match self.phase {
            Phase::Idle => return Verdict::Continue,
            Phase::RequestHeaders(at) | Phase::ResponseHeaders(at) => at,
        };
        let request = matches!(self.phase, Phase::RequestHeaders(_));
        let effects = self.cell.take_effects();
        if let Some(response) = effects.local_response {
            self.unpark();
            return Verdict::Respond(response);
        }
        if effects.close {
            self.unpark();
            return Verdict::Close;
        }
        if !self.is_alive(held) {
            self.unpark();
            let gone = Error::Start("its VM trapped in another callback".to_owned());
            if let Some(verdict) = self.fail(held, &gone) {
                return verdict;
            }
        } else if !(if request { effects.continue_request } else { effects.continue_response }) {
            return Verdict::Pause;
        } else {
            self.unpark();
        }
        if request { self.run_request_headers(held + 1) } else { self.run_response_headers(held) }
    }

    /// The filter that holds the stream has held it too long: its failure policy decides.
    pub fn pause_expired(&mut self) -> Verdict {
        let (held, request) = match self.phase {
            Phase::Idle => return Verdict::Continue,
            Phase::RequestHeaders(at) => (at, true),
            Phase::ResponseHeaders(at) => (at, false),
        };
        self.unpark();
        // Effects that came with the last moment are void: the policy speaks now.
        drop(self.cell.take_effects());
        let expired =
            Error::Start(format!("it held the transaction for more than {:?}", self.chain.filters()[held].pause));
        if let Some(verdict) = self.fail_keeping_context(held, &expired) {
            return verdict;
        }
        if request { self.run_request_headers(held + 1) } else { self.run_response_headers(held) }
    }

    /// Ends the stream: `proxy_on_done`, `proxy_on_log` and `proxy_on_delete` of every context, first to last.
    /// Also to be called when the client went away.
    pub fn finish(&mut self) {
        self.cell.set_parked(false);
        self.phase = Phase::Idle;
        for at in 0..self.parts.len() {
            let part = self.parts[at];
            if part.state == PartState::New {
                continue;
            }
            self.parts[at].state = PartState::Gone;
            if part.context == 0 {
                continue;
            }
            let chain = Arc::clone(&self.chain);
            let mut entry = chain.filters()[at].plugin.pool.lock(self.slot);
            let Some(vm) = entry.vm_of(part.generation) else { continue };
            vm.lend(part.context, &self.cell);
            let result = vm.end_stream(part.context);
            vm.give_back(part.context, &self.cell);
            entry.slot.counters.streams_deleted.add(1);
            match result {
                Ok(()) => entry.leave(),
                Err(error) => {
                    self.report(at, &error, "the transaction is over");
                    entry.poison(&error);
                }
            }
        }
        self.cell.close();
    }

    fn run_request_headers(&mut self, from: usize) -> Verdict {
        let chain = Arc::clone(&self.chain);
        for at in from..self.parts.len() {
            if self.parts[at].state == PartState::Gone {
                continue;
            }
            let outcome = self.first_contact(at, &chain.filters()[at]);
            if let Some(verdict) = self.settle(at, outcome, true) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// Creates the filter's context and shows it the request headers, in one visit to its VM.
    fn first_contact(&mut self, at: usize, filter: &Filter) -> Result<(Action, bool), Error> {
        let mut entry = filter.plugin.pool.lock(self.slot);
        let (vm, generation) = entry.vm()?;
        let context = vm.reserve();
        let root = entry.root(&filter.plugin).ok_or_else(|| Error::Start("no plugin context in this VM".to_owned()))?;
        let (headers, end_of_stream) = (filter.exported().request_headers, self.request_end_of_stream);
        let fields = if headers { self.count(MapType::HttpRequestHeaders) } else { 0 };
        let Some(vm) = entry.vm_of(generation) else { return Err(Error::Start("the slot has no VM".to_owned())) };
        vm.lend(context, &self.cell);
        let result = vm.create_stream(context, root, &self.cell).and_then(|()| {
            if headers { vm.request_headers(context, fields, end_of_stream) } else { Ok(Action::Continue) }
        });
        let effects = vm.give_back(context, &self.cell);
        entry.slot.counters.streams_created.add(1);
        self.parts[at] = Part { context, generation, state: PartState::Alive };
        finish_entry(entry, result).map(|action| (action, effects))
    }

    fn run_response_headers(&mut self, below: usize) -> Verdict {
        let chain = Arc::clone(&self.chain);
        for at in (0..below).rev() {
            let filter = &chain.filters()[at];
            if self.parts[at].state != PartState::Alive || !filter.exported().response_headers {
                continue;
            }
            let outcome = self.visit(at, filter, |stream, vm, context| {
                vm.response_headers(context, stream.count, stream.end_of_stream)
            });
            if let Some(verdict) = self.settle(at, outcome, false) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// Enters the VM in which the filter's context lives.
    fn visit(
        &mut self,
        at: usize,
        filter: &Filter,
        run: impl FnOnce(&Response, &mut Vm, u32) -> Result<Action, Error>,
    ) -> Result<(Action, bool), Error> {
        let part = self.parts[at];
        let response =
            Response { count: self.count(MapType::HttpResponseHeaders), end_of_stream: self.response_end_of_stream };
        let mut entry = filter.plugin.pool.lock(self.slot);
        let Some(vm) = entry.vm_of(part.generation) else {
            return Err(Error::Start("its VM trapped in another callback".to_owned()));
        };
        vm.lend(part.context, &self.cell);
        let result = run(&response, vm, part.context);
        let effects = vm.give_back(part.context, &self.cell);
        finish_entry(entry, result).map(|action| (action, effects))
    }

    /// What a callback's result means for the stream; `None` is the next filter's turn.
    fn settle(&mut self, at: usize, outcome: Result<(Action, bool), Error>, request: bool) -> Option<Verdict> {
        let (action, effects) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.fail(at, &error),
        };
        let effects = if effects { self.cell.take_effects() } else { crate::cell::Effects::default() };
        if let Some(response) = effects.local_response {
            self.tally(at, |counters| counters.local_responses.add(1));
            return Some(Verdict::Respond(response));
        }
        if effects.close {
            return Some(Verdict::Close);
        }
        let resumed = if request { effects.continue_request } else { effects.continue_response };
        if action == Action::Continue || resumed {
            return None;
        }
        self.tally(at, |counters| counters.pauses.add(1));
        self.phase = if request { Phase::RequestHeaders(at) } else { Phase::ResponseHeaders(at) };
        self.cell.set_parked(true);
        Some(Verdict::Pause)
    }

    fn unpark(&mut self) {
        self.cell.set_parked(false);
        self.phase = Phase::Idle;
    }

    /// Counts in the filter's slot, under its lock.
    fn tally(&self, at: usize, count: impl FnOnce(&crate::counters::SlotCounters)) {
        let entry = self.chain.filters()[at].plugin.pool.lock(self.slot);
        count(&entry.slot.counters);
    }

    /// Whether the filter's context still lives in its VM.
    fn is_alive(&self, at: usize) -> bool {
        let part = self.parts[at];
        let mut entry = self.chain.filters()[at].plugin.pool.lock(self.slot);
        part.state == PartState::Alive && entry.vm_of(part.generation).is_some()
    }

    /// Applies the failure policy to a filter whose context is lost. `None` goes on without it.
    #[cold]
    fn fail(&mut self, at: usize, error: &Error) -> Option<Verdict> {
        self.parts[at].state = PartState::Gone;
        self.parts[at].context = 0;
        self.fail_keeping_context(at, error)
    }

    #[cold]
    fn fail_keeping_context(&mut self, at: usize, error: &Error) -> Option<Verdict> {
        match self.chain.filters()[at].policy {
            FailurePolicy::Open => {
                self.report(at, error, "failure_policy open: the transaction goes on without it");
                None
            }
            FailurePolicy::Closed => {
                self.report(at, error, "failure_policy closed: the transaction is answered 503");
                self.failed = true;
                Some(Verdict::Respond(Box::new(LocalResponse::text(503, "Service Unavailable\n"))))
            }
        }
    }

    fn report(&self, at: usize, error: &Error, outcome: &str) {
        let filter = &self.chain.filters()[at];
        let backtrace = match error {
            Error::Trap(trap) if !trap.backtrace.is_empty() => format!("; in {}", trap.backtrace.join(" < ")),
            _ => String::new(),
        };
        log::error!(target: "wasm_remap", "{}: filter '{}': {error}; {outcome}{backtrace}", self.chain.label(), filter.name());
    }

    /// The number of fields of a map, pseudo-headers counted, as the header callbacks tell it.
    fn count(&self, map: MapType) -> u32 {
        let pseudo = crate::host::PseudoHeader::of_map(map).len();
        let fields = self.cell.with_host(|host| host.header_count(map)).and_then(Result::ok).unwrap_or(0);
        u32::try_from(fields + pseudo).unwrap_or(u32::MAX)
    }
}

/// What the response callbacks are told.
struct Response {
    count: u32,
    end_of_stream: bool,
}

/// Leaves a slot after a callback: in order, or, after a trap, by dropping its VM.
fn finish_entry(entry: Entry<'_>, result: Result<Action, Error>) -> Result<Action, Error> {
    match result {
        Ok(action) => {
            entry.leave();
            Ok(action)
        }
        Err(error) => {
            entry.poison(&error);
            Err(error)
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.finish();
    }
}

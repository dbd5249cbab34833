//! One transaction on its way through a chain.
//!
//! A host makes a [`Stream`], calls a phase, and does what the [`Verdict`] says. All Proxy-Wasm semantics of the
//! order of callbacks, of pausing and of failure are here; the host only knows where in its own state machine
//! each phase belongs.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use crate::abi::Action;
use crate::cell::{Effects, StreamCell};
use crate::chain::{Chain, Filter};
use crate::config::FailurePolicy;
use crate::counters::SlotCounters;
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
pub struct Stream {
    chain: Arc<Chain>,
    course: Course,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Course { phase, parts, .. } = &self.course;
        f.debug_struct("Stream").field("phase", phase).field("parts", parts).finish_non_exhaustive()
    }
}

/// What changes while a stream runs. Apart from the chain, so that both can be borrowed side by side.
struct Course {
    slot: usize,
    cell: Arc<StreamCell>,
    /// The host between callbacks, unless it waits in the cell, where callbacks of other contexts find it.
    host: Host,
    parts: SmallVec<[Part; 4]>,
    phase: Phase,
    /// A filter failed closed: the answer is the policy's, and no filter sees it.
    failed: bool,
    finished: bool,
    request_end_of_stream: bool,
    response_end_of_stream: bool,
}

/// The host while the driver has it, and lends it to one VM after the other.
type Host = Option<Box<dyn StreamHost>>;

impl Stream {
    /// Begins a stream in a slot, which it keeps to its end.
    #[must_use]
    pub fn new(chain: Arc<Chain>, slot: usize, host: Box<dyn StreamHost>) -> Self {
        let part = Part { context: 0, generation: 0, state: PartState::New };
        let parts = SmallVec::from_elem(part, chain.filters().len());
        let course = Course {
            slot,
            cell: StreamCell::new(),
            host: Some(host),
            parts,
            phase: Phase::Idle,
            failed: false,
            finished: false,
            request_end_of_stream: false,
            response_end_of_stream: false,
        };
        Stream { chain, course }
    }

    /// Runs `f` on the host, between callbacks. `None` while a callback of another context has it.
    pub fn with_host<R>(&mut self, f: impl FnOnce(&mut dyn StreamHost) -> R) -> Option<R> {
        match self.course.host.as_mut() {
            Some(host) => Some(f(host.as_mut())),
            None => self.course.cell.with_host(f),
        }
    }

    /// Whom to call when a paused stream has reason to be resumed.
    pub fn set_waker(&self, waker: Waker) {
        self.course.cell.set_waker(waker);
    }

    /// How long the filter that holds the stream may do so.
    #[must_use]
    pub fn pause_limit(&self) -> Duration {
        match self.course.phase {
            Phase::Idle => Duration::ZERO,
            Phase::RequestHeaders(at) | Phase::ResponseHeaders(at) => self.chain.filters()[at].pause,
        }
    }

    /// Which filter holds the stream, counted from 0. A host gives each holder its own [`Stream::pause_limit`].
    #[must_use]
    pub fn holder(&self) -> Option<usize> {
        match self.course.phase {
            Phase::Idle => None,
            Phase::RequestHeaders(at) | Phase::ResponseHeaders(at) => Some(at),
        }
    }

    /// Whether a filter failed closed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.course.failed
    }

    /// Shows the request headers to every filter, first to last.
    pub fn request_headers(&mut self, end_of_stream: bool) -> Verdict {
        self.course.request_end_of_stream = end_of_stream;
        self.course.run(&self.chain, Phase::RequestHeaders(0))
    }

    /// Shows the response headers to every filter that has a context, last to first. A local response passes
    /// here too, as in Envoy, unless a filter's failure made it.
    pub fn response_headers(&mut self, end_of_stream: bool) -> Verdict {
        if self.course.failed {
            return Verdict::Continue;
        }
        self.course.response_end_of_stream = end_of_stream;
        let below = self.course.parts.len();
        self.course.run(&self.chain, Phase::ResponseHeaders(below))
    }

    /// Goes on after a pause, if a filter asked for it.
    pub fn resume(&mut self) -> Verdict {
        self.course.resume(&self.chain)
    }

    /// The filter that holds the stream has held it too long: its failure policy decides.
    pub fn pause_expired(&mut self) -> Verdict {
        self.course.pause_expired(&self.chain)
    }

    /// Ends the stream: `proxy_on_done`, `proxy_on_log` and `proxy_on_delete` of every context, first to last.
    /// Also to be called when the client went away. A second call does nothing.
    pub fn finish(&mut self) {
        self.course.finish(&self.chain);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Course {
    /// Shows the headers to the filters from where `phase` stands: its filter and those behind it for a request,
    /// those before it for a response.
    fn run(&mut self, chain: &Chain, phase: Phase) -> Verdict {
        // While no filter of the chain has callbacks outside of streams (ticks, say), nobody else can act on this
        // stream, and neither the host nor effects need to go through the cell and its lock.
        if chain.is_asynchronous() {
            let effects = self.cell.take_effects();
            if let Some(response) = effects.local_response {
                return Verdict::Respond(response);
            }
            if effects.close {
                return Verdict::Close;
            }
        }
        let mut host = self.host.take().or_else(|| self.cell.take_host());
        let verdict = match phase {
            Phase::Idle => Verdict::Continue,
            Phase::RequestHeaders(from) => self.run_request_headers(chain, from, &mut host),
            Phase::ResponseHeaders(below) => self.run_response_headers(chain, below, &mut host),
        };
        let paused = verdict == Verdict::Pause;
        if paused || chain.is_asynchronous() {
            self.cell.put_host(host, paused);
        } else {
            self.host = host;
        }
        verdict
    }

    fn run_request_headers(&mut self, chain: &Chain, from: usize, host: &mut Host) -> Verdict {
        for (at, filter) in chain.filters().iter().enumerate().skip(from) {
            if self.parts[at].state == PartState::Gone {
                continue;
            }
            let outcome = self.first_contact(at, filter, host);
            if let Some(verdict) = self.settle(chain, at, outcome, true) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    fn run_response_headers(&mut self, chain: &Chain, below: usize, host: &mut Host) -> Verdict {
        for (at, filter) in chain.filters().iter().enumerate().take(below).rev() {
            if self.parts[at].state != PartState::Alive || !filter.exported().response_headers {
                continue;
            }
            let end_of_stream = self.response_end_of_stream;
            let outcome = self.visit(at, filter, host, |vm, context| vm.response_headers(context, end_of_stream));
            if let Some(verdict) = self.settle(chain, at, outcome, false) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// Creates the filter's context and shows it the request headers, in one visit to its VM.
    fn first_contact(&mut self, at: usize, filter: &Filter, host: &mut Host) -> Result<(Action, Effects), Error> {
        let mut entry = filter.plugin.pool.lock(self.slot);
        let slot = entry.slot;
        let (vm, generation, root) = entry.vm_for(&filter.plugin)?;
        let headers = filter.exported().request_headers;
        let context = vm.reserve();
        vm.lend(context, host.take());
        let result = vm.create_stream(context, root, &self.cell).and_then(|()| {
            if headers { vm.request_headers(context, self.request_end_of_stream) } else { Ok(Action::Continue) }
        });
        let effects = vm.take_back(context, &self.cell, host);
        slot.counters.streams_created.add(1);
        self.parts[at] = Part { context, generation, state: PartState::Alive };
        finish_entry(entry, result).map(|action| (action, effects))
    }

    /// Enters the VM in which the filter's context lives.
    fn visit(
        &mut self,
        at: usize,
        filter: &Filter,
        host: &mut Host,
        run: impl FnOnce(&mut Vm, u32) -> Result<Action, Error>,
    ) -> Result<(Action, Effects), Error> {
        let part = self.parts[at];
        let mut entry = filter.plugin.pool.lock(self.slot);
        let Some(vm) = entry.vm_of(part.generation) else {
            return Err(Error::Start("its VM trapped in another callback".to_owned()));
        };
        vm.lend(part.context, host.take());
        let result = run(vm, part.context);
        let effects = vm.take_back(part.context, &self.cell, host);
        finish_entry(entry, result).map(|action| (action, effects))
    }

    /// What a callback's result means for the stream; `None` is the next filter's turn.
    fn settle(
        &mut self,
        chain: &Chain,
        at: usize,
        outcome: Result<(Action, Effects), Error>,
        request: bool,
    ) -> Option<Verdict> {
        let (action, effects) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.fail(chain, at, &error),
        };
        if action == Action::Continue && !effects.any {
            return None;
        }
        if let Some(response) = effects.local_response {
            self.tally(chain, at, |counters| counters.local_responses.add(1));
            return Some(Verdict::Respond(response));
        }
        if effects.close {
            return Some(Verdict::Close);
        }
        let resumed = if request { effects.continue_request } else { effects.continue_response };
        if action == Action::Continue || resumed {
            return None;
        }
        self.tally(chain, at, |counters| counters.pauses.add(1));
        self.phase = if request { Phase::RequestHeaders(at) } else { Phase::ResponseHeaders(at) };
        Some(Verdict::Pause)
    }

    fn resume(&mut self, chain: &Chain) -> Verdict {
        let (held, request) = match self.phase {
            Phase::Idle => return Verdict::Continue,
            Phase::RequestHeaders(at) => (at, true),
            Phase::ResponseHeaders(at) => (at, false),
        };
        let effects = self.cell.take_effects();
        if let Some(response) = effects.local_response {
            self.unpark();
            self.tally(chain, held, |counters| counters.local_responses.add(1));
            return Verdict::Respond(response);
        }
        if effects.close {
            self.unpark();
            return Verdict::Close;
        }
        if !self.is_alive(chain, held) {
            self.unpark();
            let gone = Error::Start("its VM trapped in another callback".to_owned());
            if let Some(verdict) = self.fail(chain, held, &gone) {
                return verdict;
            }
        } else if !(if request { effects.continue_request } else { effects.continue_response }) {
            return Verdict::Pause;
        } else {
            self.unpark();
        }
        self.run(chain, if request { Phase::RequestHeaders(held + 1) } else { Phase::ResponseHeaders(held) })
    }

    fn pause_expired(&mut self, chain: &Chain) -> Verdict {
        let (held, request) = match self.phase {
            Phase::Idle => return Verdict::Continue,
            Phase::RequestHeaders(at) => (at, true),
            Phase::ResponseHeaders(at) => (at, false),
        };
        self.unpark();
        // Effects that came with the last moment are void: the policy speaks now.
        drop(self.cell.take_effects());
        let limit = chain.filters()[held].pause;
        let expired = Error::Start(format!("it held the transaction for more than {limit:?}"));
        if let Some(verdict) = self.apply_policy(chain, held, &expired) {
            return verdict;
        }
        self.run(chain, if request { Phase::RequestHeaders(held + 1) } else { Phase::ResponseHeaders(held) })
    }

    fn finish(&mut self, chain: &Chain) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.phase = Phase::Idle;
        // Nobody may act on the stream any more; the host goes with the last of its callbacks.
        let mut host = match self.host.take() {
            Some(host) if !chain.is_asynchronous() => Some(host),
            host => host.or(self.cell.close()),
        };
        for (at, filter) in chain.filters().iter().enumerate() {
            let part = self.parts[at];
            self.parts[at] = Part { context: 0, generation: 0, state: PartState::Gone };
            if part.context == 0 {
                continue;
            }
            let mut entry = filter.plugin.pool.lock(self.slot);
            let slot = entry.slot;
            let Some(vm) = entry.vm_of(part.generation) else { continue };
            vm.lend(part.context, host.take());
            let result = vm.end_stream(part.context);
            // Whatever the filter still asked for has nothing left to happen to.
            drop(vm.take_back(part.context, &self.cell, &mut host));
            slot.counters.streams_deleted.add(1);
            match result {
                Ok(()) => entry.leave(),
                Err(error) => {
                    report(chain, at, &error, "the transaction is over");
                    entry.poison(&error);
                }
            }
        }
    }

    fn unpark(&mut self) {
        self.cell.unpark();
        self.phase = Phase::Idle;
    }

    /// Counts in the filter's slot, under its lock.
    fn tally(&self, chain: &Chain, at: usize, count: impl FnOnce(&SlotCounters)) {
        let entry = chain.filters()[at].plugin.pool.lock(self.slot);
        count(&entry.slot.counters);
    }

    /// Whether the filter's context still lives in its VM.
    fn is_alive(&self, chain: &Chain, at: usize) -> bool {
        let part = self.parts[at];
        let mut entry = chain.filters()[at].plugin.pool.lock(self.slot);
        part.state == PartState::Alive && entry.vm_of(part.generation).is_some()
    }

    /// Applies the failure policy to a filter whose context is lost. `None` goes on without it.
    #[cold]
    fn fail(&mut self, chain: &Chain, at: usize, error: &Error) -> Option<Verdict> {
        self.parts[at] = Part { context: 0, generation: 0, state: PartState::Gone };
        self.apply_policy(chain, at, error)
    }

    /// Applies the failure policy. `None` goes on without the filter.
    #[cold]
    fn apply_policy(&mut self, chain: &Chain, at: usize, error: &Error) -> Option<Verdict> {
        match chain.filters()[at].policy {
            FailurePolicy::Open => {
                report(chain, at, error, "failure_policy open: the transaction goes on without it");
                None
            }
            FailurePolicy::Closed => {
                report(chain, at, error, "failure_policy closed: the transaction is answered 503");
                self.failed = true;
                Some(Verdict::Respond(Box::new(LocalResponse::text(503, "Service Unavailable\n"))))
            }
        }
    }
}

/// One line that says which rule and filter failed, how, and what became of the transaction.
#[cold]
fn report(chain: &Chain, at: usize, error: &Error, outcome: &str) {
    let filter = &chain.filters()[at];
    let backtrace = match error {
        Error::Trap(trap) if !trap.backtrace.is_empty() => format!("; in {}", trap.backtrace.join(" < ")),
        _ => String::new(),
    };
    log::error!(target: "wasm_remap", "{}: filter '{}': {error}; {outcome}{backtrace}", chain.label(), filter.name());
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

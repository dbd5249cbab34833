//! What changes while a stream runs, and how headers go from filter to filter.

use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::Verdict;
use super::bodies::Flow;
use super::visits::finish_ended;
use crate::abi::Action;
use crate::body::Side;
use crate::cell::{Effects, StreamCell};
use crate::chain::Chain;
use crate::config::At;
use crate::counters::SlotCounters;
use crate::error::Error;
use crate::host::StreamHost;
use crate::journal::{Place, Thread};
use crate::limits::Nanos;
use crate::matching::Participants;

/// One filter's part in a stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    /// Its stream context; zero before it is created.
    pub(super) context: u32,
    pub(super) state: PartState,
    /// By side: whether it holds anything.
    pub(super) gates: [Gate; 2],
    /// By side: the end of the body is among what it holds.
    pub(super) ended: [bool; 2],
    /// By side: it is shown the body.
    pub(super) takes: [bool; 2],
    /// The VM that the context lives in.
    pub(super) generation: u64,
    /// Its filter is set aside, and on trial here.
    pub(super) probe: bool,
    /// The processor time that its callbacks took, as far as they were looked at.
    pub(super) spent: Nanos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartState {
    /// Takes no part: it has no context, and no callback comes to it.
    Out,
    /// Not yet reached by a callback.
    New,
    /// Alive in its VM.
    Alive,
    /// Failed, or gone with its VM: no callback any more.
    Gone,
}

/// What a filter does with one side of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    /// Lets it pass.
    Open,
    /// Holds the headers, and with them all that comes behind.
    Headers,
    /// Holds the body, and wants more of it.
    Buffer,
    /// Holds the body, and wants more of it up to a point.
    Watermark,
    /// Has taken what came of the body, and does not let its end pass.
    NoBuffer,
}

/// A filter that keeps a stream waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) filter: usize,
    pub(super) until: Instant,
}

/// What changes while a stream runs. Apart from the chain, so that both can be borrowed side by side.
pub(super) struct Course {
    pub(super) slot: usize,
    /// The filters that take part, decided before the stream began.
    participants: Participants,
    pub(super) cell: Arc<StreamCell>,
    /// References to it for contexts that do not have theirs yet, or any more: counting them costs more than keeping them.
    pub(super) cells: Cells,
    /// The host between callbacks, unless it waits in the cell, where callbacks of other contexts find it.
    host: Host,
    pub(super) parts: SmallVec<[Part; 4]>,
    /// By side: the filter that holds the headers.
    pub(super) headers: [Option<usize>; 2],
    /// By side: the filter that keeps it waiting, and until when.
    pub(super) waits: [Option<Wait>; 2],
    /// What callbacks asked for that is not done yet.
    pub(super) pending: Effects,
    /// By side: what has passed the chain. Absent in a stream that has shown no body.
    pub(super) flows: Option<Box<[Flow; 2]>>,
    /// Room for that, from a stream that is over.
    pub(super) flows_room: Option<Box<[Flow; 2]>>,
    /// A filter failed closed: the answer is the policy's, and no filter sees it.
    pub(super) failed: bool,
    /// The filters that hold something, and since when.
    held: Vec<(usize, Instant)>,
    finished: bool,
    /// The transaction's number, for log lines: also when the host is gone.
    pub(super) txn: Option<u64>,
    /// Which filters see the response that passes.
    response_at: At,
    /// By side: the headers came without a body behind them.
    pub(super) end_of_stream: [bool; 2],
}

impl std::fmt::Debug for Course {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Course").field("parts", &self.parts).finish_non_exhaustive()
    }
}

/// References to a stream's cell, one for each filter.
type Cells = SmallVec<[Arc<StreamCell>; 4]>;

/// The host while the driver has it, and lends it to one VM after the other.
pub(super) type Host = Option<Box<dyn StreamHost>>;

impl Course {
    pub(super) fn new(chain: &Chain, slot: usize, host: Box<dyn StreamHost>, participants: Participants) -> Self {
        let cell = StreamCell::new(chain.bodies(participants), chain.label_number());
        let mut course = Course {
            slot,
            participants,
            cell,
            cells: SmallVec::new(),
            txn: None,
            host: None,
            parts: SmallVec::new(),
            headers: [None; 2],
            waits: [None; 2],
            pending: Effects::default(),
            flows: None,
            flows_room: None,
            failed: false,
            held: Vec::new(),
            finished: false,
            response_at: At::Client,
            end_of_stream: [false; 2],
        };
        course.set_out(chain, host);
        course
    }

    /// Makes the course of a stream that is over the course of another one, as [`Course::new`] would make it.
    pub(super) fn begin_again(
        &mut self,
        chain: &Chain,
        slot: usize,
        host: Box<dyn StreamHost>,
        participants: Participants,
    ) {
        let label = chain.label_number();
        let (own, kind) = (1 + self.cells.len(), (chain.number(), participants.0));
        if !self.cell.begin_again(own, kind, label, || chain.bodies(participants)) {
            self.cells.clear();
            self.cell = StreamCell::new(chain.bodies(participants), label);
        }
        (self.slot, self.participants) = (slot, participants);
        self.headers = [None; 2];
        self.waits = [None; 2];
        (self.failed, self.finished) = (false, false);
        self.held.clear();
        self.response_at = At::Client;
        self.end_of_stream = [false; 2];
        self.set_out(chain, host);
    }

    /// Lets go of what a stream that is over must not keep: the host, and bodies.
    pub(super) fn rest(&mut self) {
        self.host = None;
        self.cell.rest();
        self.clear_flows();
        if self.pending.any {
            self.pending = Effects::default();
        }
    }

    fn set_out(&mut self, chain: &Chain, host: Box<dyn StreamHost>) {
        self.txn = host.transaction_id();
        self.host = Some(host);
        self.parts.clear();
        for at in 0..chain.filters().len() {
            let shown = chain.shown(at, self.participants);
            self.parts.push(Part {
                context: 0,
                generation: 0,
                state: if self.participants.contains(at) { PartState::New } else { PartState::Out },
                gates: [Gate::Open; 2],
                ended: [false; 2],
                takes: [shown.shows(Side::Request), shown.shows(Side::Response)],
                probe: false,
                spent: Nanos::ZERO,
            });
        }
    }

    pub(super) fn with_host<R>(&mut self, f: impl FnOnce(&mut dyn StreamHost) -> R) -> Option<R> {
        match self.host.as_mut() {
            Some(host) => Some(f(host.as_mut())),
            None => self.cell.with_host(f),
        }
    }

    pub(super) fn request_headers(&mut self, chain: &Chain, end_of_stream: bool) -> Verdict {
        self.end_of_stream[Side::Request as usize] = end_of_stream;
        self.enter(chain, |course, host| course.run_request_headers(chain, 0, host))
    }

    pub(super) fn response_headers(&mut self, chain: &Chain, at: At, end_of_stream: bool) -> Verdict {
        self.end_of_stream[Side::Response as usize] = end_of_stream;
        self.response_at = at;
        let below = self.parts.len();
        self.enter(chain, |course, host| course.run_response_headers(chain, below, host))
    }

    /// Runs callbacks: takes the host out of wherever it is, and puts it where it belongs afterwards.
    pub(super) fn enter(&mut self, chain: &Chain, run: impl FnOnce(&mut Self, &mut Host) -> Verdict) -> Verdict {
        // While no filter of the chain has callbacks outside of streams (ticks, say), nobody else can act on this
        // stream, and neither the host nor effects need to go through the cell and its lock.
        if (chain.is_asynchronous(self.participants) || self.holds())
            && let Some(verdict) = self.collect(chain)
        {
            return verdict;
        }
        let mut host = self.host.take().or_else(|| self.cell.take_host());
        let verdict = run(self, &mut host);
        let waits = self.waits.iter().any(Option::is_some) || !self.held.is_empty();
        if self.pending.any || waits || self.holds() || chain.is_asynchronous(self.participants) {
            return self.leave(chain, verdict, host);
        }
        self.host = host;
        verdict
    }

    /// Does what callbacks asked for, and puts the host where those of other contexts find it, if any may look for it.
    fn leave(&mut self, chain: &Chain, mut verdict: Verdict, mut host: Host) -> Verdict {
        if matches!(verdict, Verdict::Continue | Verdict::Pause) && (self.pending.any || self.holds()) {
            verdict = self.advance(chain, &mut host);
        }
        let holds = self.holds();
        if holds || self.waits.iter().any(Option::is_some) {
            self.renew_waits(chain);
        }
        if holds || !self.held.is_empty() {
            self.time_pauses(chain);
        }
        if holds || chain.is_asynchronous(self.participants) {
            let paused = holds && matches!(verdict, Verdict::Continue | Verdict::Pause);
            self.cell.put_host(host, paused);
        } else {
            self.host = host;
        }
        verdict
    }

    /// Fetches the effects that callbacks of other contexts left in the cell.
    fn collect(&mut self, chain: &Chain) -> Option<Verdict> {
        let effects = self.cell.take_effects();
        if !effects.any {
            return None;
        }
        let blamed = self.holder().or_else(|| self.participants.iter().next());
        self.pending.merge(effects);
        let verdict = self.absorb(chain, blamed.unwrap_or(0))?;
        self.cell.unpark();
        Some(verdict)
    }

    pub(super) fn run_request_headers(&mut self, chain: &Chain, from: usize, host: &mut Host) -> Verdict {
        for at in from..self.parts.len() {
            let filter = &chain.filters()[at];
            if self.parts[at].state != PartState::New {
                continue;
            }
            let outcome =
                if self.admits(chain, at) { self.first_contact(at, filter, host) } else { Err(Error::SetAside) };
            if let Some(verdict) = self.settle(chain, at, Side::Request, outcome) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    pub(super) fn run_response_headers(&mut self, chain: &Chain, below: usize, host: &mut Host) -> Verdict {
        for at in (0..below).rev() {
            let filter = &chain.filters()[at];
            if self.parts[at].state != PartState::Alive
                || !filter.exported().response_headers
                || filter.at != self.response_at
            {
                continue;
            }
            let end_of_stream = self.end_of_stream[Side::Response as usize];
            let outcome = self.visit(at, filter, host, |vm, context| vm.response_headers(context, end_of_stream));
            if let Some(verdict) = self.settle(chain, at, Side::Response, outcome) {
                return verdict;
            }
        }
        Verdict::Continue
    }

    /// What a callback for headers means for the stream; `None` is the next filter's turn.
    fn settle(&mut self, chain: &Chain, at: usize, side: Side, outcome: Result<Action, Error>) -> Option<Verdict> {
        let action = match outcome {
            Ok(action) => action,
            Err(error) => return self.fail(chain, at, &error),
        };
        if action == Action::Continue && !self.pending.any {
            return None;
        }
        if let Some(verdict) = self.absorb(chain, at) {
            return Some(verdict);
        }
        let resumed = self.take_continued(at, side);
        if action == Action::Continue || resumed {
            return None;
        }
        self.tally(chain, at, |counters| counters.pauses.add(1));
        chain.filters()[at].stats.pause(self.slot);
        self.parts[at].gates[side as usize] = Gate::Headers;
        self.headers[side as usize] = Some(at);
        Some(Verdict::Pause)
    }

    /// Takes what a callback asked for into account. `Some` is the end of the transaction as it was.
    pub(super) fn absorb(&mut self, chain: &Chain, at: usize) -> Option<Verdict> {
        for side in Side::ALL {
            let declined = std::mem::take(&mut self.pending.declined[side as usize]);
            if declined != 0 {
                let parts = self.parts.iter_mut().enumerate().filter(|(filter, _)| declined & 1 << filter != 0);
                parts.for_each(|(_, part)| part.takes[side as usize] = false);
            }
        }
        if let Some(response) = self.pending.local_response.take() {
            self.pending = Effects::default();
            self.tally(chain, at, |counters| counters.local_responses.add(1));
            chain.filters()[at].stats.local_response(self.slot);
            self.let_go();
            return Some(Verdict::Respond(response));
        }
        if std::mem::take(&mut self.pending.close) {
            self.pending = Effects::default();
            self.let_go();
            return Some(Verdict::Close);
        }
        None
    }

    /// Whether the filter asked for this side of its stream to go on. Asks once.
    pub(super) fn take_continued(&mut self, at: usize, side: Side) -> bool {
        let continued = &mut self.pending.continued[side as usize];
        let asked = *continued & 1 << at != 0;
        *continued &= !(1 << at);
        asked
    }

    /// No filter holds anything any more: the transaction goes another way.
    pub(super) fn let_go(&mut self) {
        self.headers = [None; 2];
        self.waits = [None; 2];
        for part in &mut self.parts {
            part.gates = [Gate::Open; 2];
            part.ended = [false; 2];
        }
        if self.clear_flows() {
            self.cell.with_bodies(crate::body::Bodies::clear);
        }
    }

    /// Lets go of what has passed of bodies. True if there was a body.
    fn clear_flows(&mut self) -> bool {
        let Some(mut flows) = self.flows.take() else { return false };
        *flows = Default::default();
        self.flows_room = Some(flows);
        true
    }

    /// What has passed of bodies, from the first piece of one on.
    pub(super) fn flows(&mut self) -> &mut [Flow; 2] {
        let room = &mut self.flows_room;
        self.flows.get_or_insert_with(|| room.take().unwrap_or_default())
    }

    /// Whether any filter holds anything.
    pub(super) fn holds(&self) -> bool {
        self.parts.iter().any(|part| part.gates != [Gate::Open; 2])
    }

    /// Keeps the time for which filters hold something.
    #[cold]
    pub(super) fn time_pauses(&mut self, chain: &Chain) {
        let (parts, slot) = (&self.parts, self.slot);
        self.held.retain(|&(at, since)| {
            let holds = parts[at].gates != [Gate::Open; 2];
            if !holds {
                chain.filters()[at].stats.paused(slot, since.elapsed());
            }
            holds
        });
        for (at, part) in self.parts.iter().enumerate() {
            if part.gates != [Gate::Open; 2] && !self.held.iter().any(|&(known, _)| known == at) {
                self.held.push((at, Instant::now()));
            }
        }
    }

    /// A filter that holds something.
    fn holder(&self) -> Option<usize> {
        self.parts.iter().position(|part| part.gates != [Gate::Open; 2])
    }

    pub(super) fn resume(&mut self, chain: &Chain) -> Verdict {
        if !self.holds() {
            return Verdict::Continue;
        }
        // `enter` does what is to be done.
        self.enter(chain, |_, _| Verdict::Pause)
    }

    pub(super) fn finish(&mut self, chain: &Chain) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        if self.flows.is_some() || self.holds() {
            self.let_go();
        }
        if !self.held.is_empty() {
            self.time_pauses(chain);
        }
        // Nobody may act on the stream any more; the host goes with the last of its callbacks.
        let mut host = match self.host.take() {
            Some(host) if !chain.is_asynchronous(self.participants) => Some(host),
            host => host.or(self.cell.close()),
        };
        for (at, filter) in chain.filters().iter().enumerate() {
            let part = self.parts[at];
            self.parts[at].lose();
            if part.context == 0 {
                continue;
            }
            let mut entry = filter.plugin.pool.lock(self.slot);
            let slot = entry.slot;
            let Some(vm) = entry.vm_of(part.generation) else {
                drop(entry);
                self.conclude(chain, at, Err(&Error::Gone));
                continue;
            };
            vm.lend(part.context, host.take());
            vm.begin_spending(part.spent);
            let result = vm.end_stream(part.context, &mut self.cells);
            if vm.take_back(part.context, &self.cell, &mut host) {
                // Whatever the filter still asked for has nothing left to happen to.
                drop(vm.take_effects());
            }
            vm.end_spending();
            vm.report(&filter.stats);
            slot.counters.streams_deleted.add(1);
            let ended = finish_ended(entry, result, filter);
            if let Err(error) = &ended {
                super::policy::report(chain, self.place(chain, at), at, error, "the transaction is over");
            }
            self.conclude(chain, at, ended.as_ref().map(|&()| ()));
        }
        if let Some(host) = host {
            host.retire();
        }
    }

    /// Counts in the filter's slot, under its lock.
    pub(super) fn tally(&self, chain: &Chain, at: usize, count: impl FnOnce(&SlotCounters)) {
        let entry = chain.filters()[at].plugin.pool.lock(self.slot);
        count(&entry.slot.counters);
    }

    /// Where the filter's part of the stream is, for log lines.
    #[cold]
    pub(super) fn place<'c>(&self, chain: &'c Chain, at: usize) -> Place<'c> {
        let thread = Thread::Slot(self.slot);
        Place { filter: chain.filters()[at].name(), rule: chain.label(), thread, txn: self.txn }
    }

    /// Whether the filter's context still lives in its VM.
    pub(super) fn is_alive(&self, chain: &Chain, at: usize) -> bool {
        let part = self.parts[at];
        let mut entry = chain.filters()[at].plugin.pool.lock(self.slot);
        part.state == PartState::Alive && entry.vm_of(part.generation).is_some()
    }
}

impl Part {
    /// The context is no more.
    pub(super) fn lose(&mut self) {
        self.context = 0;
        self.generation = 0;
        self.state = PartState::Gone;
    }
}

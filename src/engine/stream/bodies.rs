//! How bodies go from filter to filter, and what is held on the way.

use std::time::Instant;

use super::course::{Course, Gate, Host, PartState, Wait};
use super::{Passed, Verdict};
use crate::abi::BodyAction;
use crate::body::{BodyBuffer, Side, join};
use crate::cell::Effects;
use crate::chain::Chain;
use crate::error::Error;
use crate::host::LocalResponse;
use crate::limits::Limit;

/// What waits before a filter that holds the headers, or holds the body by watermark, is no more than this and one
/// chunk.
const WINDOW: usize = 64 << 10;

/// What of one body has passed the chain, and waits for the host to take it.
#[derive(Default)]
pub(super) struct Flow {
    bytes: Option<Box<dyn BodyBuffer>>,
    /// Its end has passed, and was not taken yet.
    end: bool,
}

/// The place in the chain of the filter that a side's message meets as the one numbered `order`.
fn place(side: Side, order: usize, count: usize) -> usize {
    match side {
        Side::Request => order,
        Side::Response => count - 1 - order,
    }
}

impl Course {
    pub(super) fn wants_body(&self, side: Side) -> bool {
        self.parts
            .iter()
            .any(|part| part.takes[side as usize] && !matches!(part.state, PartState::Gone | PartState::Out))
    }

    pub(super) fn body(&mut self, chain: &Chain, side: Side, chunk: Option<Box<dyn BodyBuffer>>, end: bool) -> Verdict {
        if self.failed {
            self.pass(side, chunk, end);
            return Verdict::Continue;
        }
        self.enter(chain, |course, host| course.pump(chain, side, 0, chunk, end, host))
    }

    pub(super) fn take_passed(&mut self, side: Side) -> Passed {
        let Some(flows) = &mut self.flows else { return Passed::default() };
        let flow = std::mem::take(&mut flows[side as usize]);
        Passed { bytes: flow.bytes, end: flow.end }
    }

    /// What has passed every filter.
    fn pass(&mut self, side: Side, bytes: Option<Box<dyn BodyBuffer>>, end: bool) {
        let flow = &mut self.flows()[side as usize];
        flow.bytes = join(flow.bytes.take(), bytes);
        flow.end |= end;
    }

    /// Shows a piece of a body to the filters from the one numbered `order` on.
    fn pump(
        &mut self,
        chain: &Chain,
        side: Side,
        order: usize,
        mut chunk: Option<Box<dyn BodyBuffer>>,
        end: bool,
        host: &mut Host,
    ) -> Verdict {
        // From here on something may be held, which `let_go` looks for.
        self.flows();
        let count = self.parts.len();
        for at in (order..count).map(|order| place(side, order, count)) {
            if chunk.is_none() && !end {
                return Verdict::Continue;
            }
            let part = &mut self.parts[at];
            if part.gates[side as usize] == Gate::Headers {
                part.ended[side as usize] |= end;
                self.cell.with_bodies(|bodies| bodies.add(at, side, chunk));
                return Verdict::Pause;
            }
            if part.state != PartState::Alive || !part.takes[side as usize] {
                continue;
            }
            let filter = &chain.filters()[at];
            // A body's end alone is shown as an empty body.
            let chunk_or_nothing = chunk.take().or_else(|| end.then(|| Box::<crate::body::Bytes>::default() as _));
            let size = self.cell.with_bodies(|bodies| bodies.add(at, side, chunk_or_nothing));
            let outcome = self.visit(at, filter, host, |vm, context| vm.body(side, context, size, end));
            match self.settle_body(chain, at, side, end, outcome) {
                Ok(passed) => chunk = passed.filter(|bytes| !bytes.is_empty()),
                Err(verdict) => return verdict,
            }
        }
        self.pass(side, chunk, end);
        Verdict::Continue
    }

    /// What a callback for a body means: what goes on to the next filter, or that nothing does.
    fn settle_body(
        &mut self,
        chain: &Chain,
        at: usize,
        side: Side,
        end: bool,
        outcome: Result<BodyAction, Error>,
    ) -> Result<Option<Box<dyn BodyBuffer>>, Verdict> {
        let action = match outcome {
            Ok(action) => action,
            Err(error) => return self.fail_body(chain, at, side, &error),
        };
        let mut resumed = false;
        if self.pending.any {
            if let Some(verdict) = self.absorb(chain, at) {
                return Err(verdict);
            }
            resumed = self.take_continued(at, side);
        }
        if action == BodyAction::Continue || resumed {
            self.parts[at].gates[side as usize] = Gate::Open;
            return Ok(self.cell.take_body(at, side));
        }
        let gate = match action {
            BodyAction::Continue => Gate::Open,
            BodyAction::Buffer => Gate::Buffer,
            BodyAction::Watermark => Gate::Watermark,
            BodyAction::NoBuffer => Gate::NoBuffer,
        };
        let part = &mut self.parts[at];
        part.ended[side as usize] |= end;
        if std::mem::replace(&mut part.gates[side as usize], gate) == Gate::Open {
            self.tally(chain, at, |counters| counters.pauses.add(1));
            chain.filters()[at].stats.pause(self.slot);
        }
        if gate == Gate::NoBuffer {
            drop(self.cell.take_body(at, side));
        } else {
            let limit = chain.filters()[at].body_bytes;
            if self.held(at, side) > limit {
                return self.overflow(chain, at, side, limit);
            }
        }
        Err(Verdict::Pause)
    }

    /// How many bytes wait before the filter.
    fn held(&self, at: usize, side: Side) -> usize {
        self.cell.with_bodies(|bodies| bodies.get(at, side).map_or(0, |bytes| bytes.len()))
    }

    /// A filter holds more of a body than it may.
    #[cold]
    fn overflow(
        &mut self,
        chain: &Chain,
        at: usize,
        side: Side,
        limit: usize,
    ) -> Result<Option<Box<dyn BodyBuffer>>, Verdict> {
        let held = format!("it held more than {} KiB (limits.body_kib) of a {} body", limit >> 10, side.as_str());
        let error = Error::Held(Limit::Body, held);
        match side {
            Side::Request => {
                // Whose body is too long is no failure of the filter's.
                chain.filters()[at].stats.breach(Limit::Body, 1);
                super::policy::report(chain, self.place(chain, at), at, &error, "the transaction is answered 413");
                self.let_go();
                Err(Verdict::Respond(Box::new(LocalResponse::text(413, "Content Too Large\n"))))
            }
            Side::Response => {
                // Its context lives, and ends with the others; it sees no more of this body.
                if let Some(verdict) = self.apply_policy(chain, at, &error) {
                    return Err(verdict);
                }
                let part = &mut self.parts[at];
                part.takes[side as usize] = false;
                part.gates[side as usize] = Gate::Open;
                Ok(self.cell.take_body(at, side))
            }
        }
    }

    /// A filter fails over a body: its policy ends the transaction, or what it had goes on without it.
    #[cold]
    fn fail_body(
        &mut self,
        chain: &Chain,
        at: usize,
        side: Side,
        error: &Error,
    ) -> Result<Option<Box<dyn BodyBuffer>>, Verdict> {
        if let Some(verdict) = self.fail(chain, at, error) {
            return Err(verdict);
        }
        self.parts[at].gates[side as usize] = Gate::Open;
        Ok(self.cell.take_body(at, side))
    }

    /// Lets everything go on that filters asked for, and that dead filters hold.
    pub(super) fn advance(&mut self, chain: &Chain, host: &mut Host) -> Verdict {
        while let Some((side, at)) = self.find_ripe(chain) {
            let alive = self.is_alive(chain, at);
            if !alive
                && self.parts[at].state == PartState::Alive
                && let Some(verdict) = self.fail(chain, at, &super::visits::gone())
            {
                return verdict;
            }
            let verdict = self.open(chain, side, at, host);
            if !matches!(verdict, Verdict::Continue | Verdict::Pause) {
                return verdict;
            }
        }
        // What is left was asked of filters that hold nothing.
        self.pending = Effects::default();
        if self.holds() { Verdict::Pause } else { Verdict::Continue }
    }

    /// What a filter held goes on.
    pub(super) fn open(&mut self, chain: &Chain, side: Side, at: usize, host: &mut Host) -> Verdict {
        self.take_continued(at, side);
        let part = &mut self.parts[at];
        let gate = std::mem::replace(&mut part.gates[side as usize], Gate::Open);
        let mut order = match side {
            Side::Request => at,
            Side::Response => self.parts.len() - 1 - at,
        };
        if gate == Gate::Headers {
            self.headers[side as usize] = None;
            let verdict = match side {
                Side::Request => self.run_request_headers(chain, at + 1, host),
                Side::Response => self.run_response_headers(chain, at, host),
            };
            if !matches!(verdict, Verdict::Continue | Verdict::Pause) {
                return verdict;
            }
            // What waited of the body has not been shown to this filter.
        } else {
            order += 1;
        }
        let end = std::mem::take(&mut self.parts[at].ended[side as usize]);
        let bytes = self.cell.take_body(at, side);
        if bytes.is_none() && !end {
            return Verdict::Continue;
        }
        self.pump(chain, side, order, bytes, end, host)
    }

    /// A filter that holds something and has reason not to, the furthest along first: what those before it let go
    /// must not overtake what it has.
    fn find_ripe(&self, chain: &Chain) -> Option<(Side, usize)> {
        let count = self.parts.len();
        Side::ALL.into_iter().find_map(|side| {
            let mut places = (0..count).rev().map(|order| place(side, order, count));
            let at = places.find(|&at| {
                self.parts[at].gates[side as usize] != Gate::Open
                    && (self.pending.continued[side as usize] & 1 << at != 0 || !self.is_alive(chain, at))
            })?;
            Some((side, at))
        })
    }

    pub(super) fn wants_more(&self, chain: &Chain, side: Side) -> bool {
        self.parts.iter().enumerate().all(|(at, part)| match part.gates[side as usize] {
            Gate::Open | Gate::NoBuffer | Gate::Buffer => true,
            Gate::Headers | Gate::Watermark => self.held(at, side) < WINDOW.min(chain.filters()[at].body_bytes),
        })
    }

    /// The filter that keeps this side waiting, if it is a filter and not the peer.
    fn waiting(&self, chain: &Chain, side: Side) -> Option<usize> {
        let stuck = |(at, part): (usize, &super::course::Part)| match part.gates[side as usize] {
            Gate::Open => false,
            Gate::Headers => true,
            Gate::Buffer | Gate::NoBuffer => part.ended[side as usize],
            Gate::Watermark => {
                part.ended[side as usize] || self.held(at, side) >= WINDOW.min(chain.filters()[at].body_bytes)
            }
        };
        self.parts.iter().enumerate().find(|&each| stuck(each)).map(|(at, _)| at)
    }

    /// Sets the clock for filters that newly keep a side waiting.
    pub(super) fn renew_waits(&mut self, chain: &Chain) {
        for side in Side::ALL {
            let waiting = self.waiting(chain, side);
            let known = self.waits[side as usize].map(|wait| wait.filter);
            if waiting != known {
                self.waits[side as usize] =
                    waiting.map(|filter| Wait { filter, until: Instant::now() + chain.filters()[filter].pause });
            }
        }
    }

    /// The wait that ends first.
    pub(super) fn first_wait(&self) -> Option<(Side, Wait)> {
        let waits = Side::ALL.into_iter().filter_map(|side| Some((side, self.waits[side as usize]?)));
        waits.min_by_key(|(_, wait)| wait.until)
    }
}

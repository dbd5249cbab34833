//! One transaction on its way through a chain.
//!
//! A host makes a [`Stream`], calls a phase, and does what the [`Verdict`] says. All Proxy-Wasm semantics of the
//! order of callbacks, of pausing and of failure are here; the host only knows where in its own state machine
//! each phase belongs.
//!
//! A side's headers go before its body. A filter that holds the headers lets nothing of that side pass: what comes of
//! the body waits before it. A filter that holds the body keeps what is before it; the filters before it go on.

mod bodies;
mod course;
mod policy;
mod recycle;
mod visits;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::body::{BodyBuffer, Side};
use crate::chain::Chain;
use crate::config::At;
use crate::host::{LocalResponse, StreamHost, Waker};
use crate::journal::{self, Place, Thread};
use crate::matching::Participants;
use recycle::Recycled;

/// What a host is to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the transaction.
    Continue,
    /// A filter holds headers or a body. [`Stream::resume`] is due when the waker given to [`Stream::set_waker`] is
    /// called, and [`Stream::pause_expired`] when [`Stream::deadline`] has passed. Headers that are held
    /// ([`Stream::holds_headers`]) hold their message; while a body is held the host goes on giving what comes of it,
    /// as long as [`Stream::wants_more`], and takes what has passed.
    Pause,
    /// Answer the client with this and nothing else. If [`Stream::response_headers`] is called for it, filters
    /// see the answer as they see any other response.
    Respond(Box<LocalResponse>),
    /// End the transaction without an answer.
    Close,
}

/// What has passed the whole chain, for [`Stream::take_body`].
#[derive(Default)]
pub struct Passed {
    /// The bytes, if any.
    pub bytes: Option<Box<dyn BodyBuffer>>,
    /// They are the last.
    pub end: bool,
}

impl std::fmt::Debug for Passed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let len = self.bytes.as_ref().map(|bytes| bytes.len());
        f.debug_struct("Passed").field("bytes", &len).field("end", &self.end).finish()
    }
}

/// One transaction in a chain. Lives with the transaction; used by one thread at a time.
pub struct Stream {
    chain: Arc<Chain>,
    course: Recycled,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("course", &*self.course).finish_non_exhaustive()
    }
}

impl Stream {
    /// Begins a stream in a slot, which it keeps to its end. All filters take part.
    #[must_use]
    pub fn new(chain: Arc<Chain>, slot: usize, host: Box<dyn StreamHost>) -> Self {
        let everyone = chain.everyone();
        Stream::of(chain, slot, host, everyone)
    }

    /// Begins a stream in which some filters take part: [`Chain::participants`] says which. The others have no context
    /// in it, no callback, and nothing to do with its bodies.
    #[must_use]
    pub fn of(chain: Arc<Chain>, slot: usize, host: Box<dyn StreamHost>, participants: Participants) -> Self {
        let course = Recycled::begin(&chain, slot, host, participants);
        Stream { chain, course }
    }

    /// Runs `f` on the host, between callbacks. `None` while a callback of another context has it.
    pub fn with_host<R>(&mut self, f: impl FnOnce(&mut dyn StreamHost) -> R) -> Option<R> {
        self.course.with_host(f)
    }

    /// Whom to call when a paused stream has reason to be resumed.
    pub fn set_waker(&self, waker: Waker) {
        self.course.cell.set_waker(waker);
    }

    /// How long the filter that holds the stream may do so; zero if none does.
    #[must_use]
    pub fn pause_limit(&self) -> Duration {
        self.course.first_wait().map_or(Duration::ZERO, |(_, wait)| self.chain.filters()[wait.filter].pause)
    }

    /// When [`Stream::pause_expired`] is due. A filter that holds a body while more of it comes is not counted: it waits
    /// for the peer.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.course.first_wait().map(|(_, wait)| wait.until)
    }

    /// Which filter holds the headers of this side, counted from 0.
    #[must_use]
    pub fn holds_headers(&self, side: Side) -> Option<usize> {
        self.course.headers[side as usize]
    }

    /// Whether a filter holds headers or a body of this side.
    #[must_use]
    pub fn holds(&self, side: Side) -> bool {
        self.course.parts.iter().any(|part| part.gates[side as usize] != course::Gate::Open)
    }

    /// Whether a filter holds headers or a body.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.course.holds()
    }

    /// Whether a filter failed closed.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.course.failed
    }

    /// Logs something about this transaction that clients or filters can bring about as often as they like: it is told
    /// in full when it occurs first in a rule, and counted after that, as `what`.
    #[cold]
    pub fn tell(&self, level: log::Level, what: &str, text: std::fmt::Arguments<'_>) {
        let thread = Thread::Slot(self.course.slot);
        let place = Place { filter: "", rule: self.chain.label(), thread, txn: self.course.txn };
        journal::told(level, what, place, text);
    }

    /// Shows the request headers to every filter, first to last.
    pub fn request_headers(&mut self, end_of_stream: bool) -> Verdict {
        self.course.request_headers(&self.chain, end_of_stream)
    }

    /// Shows the response headers to every filter on this side of the cache that has a context, last to first. A local
    /// response passes here too, as in Envoy, unless a filter's failure made it.
    pub fn response_headers(&mut self, at: At, end_of_stream: bool) -> Verdict {
        if self.course.failed {
            return Verdict::Continue;
        }
        self.course.response_headers(&self.chain, at, end_of_stream)
    }

    /// Whether a filter still wants to see the body of this side.
    #[must_use]
    pub fn wants_body(&self, side: Side) -> bool {
        !self.course.failed && self.course.wants_body(side)
    }

    /// Shows (more of) a body to the filters, after the headers of its side. `end` says that this is the last of it.
    /// What has passed is in [`Stream::take_body`], whatever the verdict.
    pub fn body(&mut self, side: Side, chunk: Option<Box<dyn BodyBuffer>>, end: bool) -> Verdict {
        self.course.body(&self.chain, side, chunk, end)
    }

    /// Takes what of a body has passed every filter since the last call.
    pub fn take_body(&mut self, side: Side) -> Passed {
        self.course.take_passed(side)
    }

    /// Whether there is use in giving more of this body now: not while much of it waits before a filter that holds it.
    #[must_use]
    pub fn wants_more(&self, side: Side) -> bool {
        self.course.wants_more(&self.chain, side)
    }

    /// Whether some filter wrote to the body of this side.
    #[must_use]
    pub fn changed_body(&self, side: Side) -> bool {
        self.course.cell.with_bodies(|bodies| bodies.changed(side))
    }

    /// Goes on after a pause, where filters asked for it.
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

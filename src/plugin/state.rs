//! What belongs to one transaction that matched a rule, shared by its hooks, its transforms and its timer.
//!
//! **Invariant.** Whoever borrows the state lets go of it before telling ATS anything that may run the state machine:
//! re-enabling, or telling a transform's upstream. What is run comes back here.

use std::cell::RefCell;
use std::time::Instant;

use ats::hook::Reenable;
use ats::txn::Txn;
use ats::txn_hooks::Attached;
use engine::{LocalResponse, Needs, Side, Stream, Verdict};

use crate::reply;
use crate::wait::{Wait, Wake};

/// How many turns of the event loop ATS gets for a body that it gave up on. The longest way is three: the transform is called,
/// ends its output, and that tells the tunnel.
const TURNS: u32 = 8;

/// A transaction, as its hooks have it.
pub(crate) struct Transaction {
    /// Of one thread, like everything of a transaction.
    pub(crate) state: RefCell<State>,
}

/// Where a hook holds, or last held, the transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Up to POST_REMAP.
    Request,
    /// With the request's body in hand, before the origin is contacted.
    RequestBody,
    /// READ_RESPONSE_HDR, for filters on the origin's side of the cache.
    Origin,
    /// SEND_RESPONSE_HDR.
    Response,
}

/// How the request's body goes to the origin, where we have a hand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Outgoing {
    /// As ATS would send it.
    #[default]
    Untouched,
    /// With its length, which ATS states.
    Sized,
    /// In chunks.
    Chunked,
}

/// What a transform is asked for by others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// To look at what there is to do. False once it is closed, and then there is nothing to do.
    Wake,
    /// Whether it has begun to write, is not through with it, and would not be told if the client left.
    WritesUnseen,
}

/// How a transform is asked.
pub(crate) type Asked = Box<dyn Fn(Ask) -> bool>;

/// Whether ATS is given the time to be through with a request's body that it gave up on (`HttpTunnel::abort_tunnel`).
///
/// Events are on their way then, from that body's transform to the tunnel. The tunnel is a part of the transaction, and where
/// an HTTP/2 client has left, ATS is through with that on the very stack on which it gave up: the events would meet another's
/// tunnel, or none. So the hook for the response is held for some turns of the event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Settling {
    /// No response has come yet that would ask for it.
    #[default]
    No,
    /// So many turns, and then this is done.
    Turns(u32, Next),
    Done,
}

/// What a hook's handler does last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Re-enable with CONTINUE.
    Resume,
    /// Re-enable with ERROR: ATS sends the error answer.
    Error,
    /// End the transaction without an answer.
    Close,
    /// Keep the transaction; its waker or its timer comes back to it.
    Hold,
}

pub(crate) struct State {
    pub(crate) stream: Stream,
    pub(crate) needs: Needs,
    pub(crate) stage: Stage,
    /// The client asked with HEAD: no response has a body.
    pub(crate) head: bool,
    /// The request has a body, or may have.
    pub(crate) has_body: bool,
    /// A filter's answer, or a failure's, on its way to SEND_RESPONSE_HDR.
    pub(crate) reply: Option<Box<LocalResponse>>,
    /// The transaction ends without any answer.
    pub(crate) closing: bool,
    /// The reply has been written; the response callbacks see it.
    pub(crate) replied: bool,
    /// The reply's body is a transform's: its head alone is to be written.
    pub(crate) answers_as_transform: bool,
    /// The reply's body, before filters have seen it.
    pub(crate) reply_body: Option<Vec<u8>>,
    /// The filters on the client's side have been shown the response's head.
    pub(crate) shown: bool,
    /// The request's head says nothing of a body, and one may come: over HTTP/2.
    pub(crate) unannounced: bool,
    /// How the request's body is sent.
    pub(crate) outgoing: Outgoing,
    /// So much of it has left its transform, framing included; all of it.
    pub(crate) sent: Option<u64>,
    /// There was a body.
    pub(crate) came: bool,
    /// The duty to re-enable, while the transaction waits.
    pub(crate) held: Option<Reenable>,
    pub(crate) wait: Wait,
    /// By side: asks the transform for something.
    pub(crate) transforms: [Option<Asked>; 2],
    pub(crate) settling: Settling,
    pub(crate) over: bool,
}

impl State {
    pub(crate) fn new(stream: Stream, needs: Needs, head: bool, has_body: bool, wake: Wake) -> Self {
        State {
            stream,
            needs,
            stage: Stage::Request,
            head,
            has_body,
            reply: None,
            closing: false,
            replied: false,
            answers_as_transform: false,
            reply_body: None,
            shown: false,
            unannounced: false,
            outgoing: Outgoing::Untouched,
            sent: None,
            came: false,
            held: None,
            wait: Wait::new(wake),
            transforms: [None, None],
            settling: Settling::No,
            over: false,
        }
    }

    /// Takes a verdict into account. False if the transaction goes another way now: [`Self::reply`] or
    /// [`Self::closing`] says which.
    pub(crate) fn accept(&mut self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Continue | Verdict::Pause => return true,
            Verdict::Respond(response) => self.reply = Some(response),
            Verdict::Close => self.closing = true,
        }
        false
    }

    /// Whether a filter, or a failure, has ended the transaction as it was, and ATS does not know yet.
    pub(crate) fn is_ending(&self) -> bool {
        self.reply.is_some() || self.closing
    }

    /// Prepares ATS for an end by an error: the answer that is to come, or none.
    pub(crate) fn announce(&self, txn: Txn<'_>) {
        match &self.reply {
            Some(response) => reply::announce(txn, response),
            None => reply::refuse(txn),
        }
    }

    /// Goes on after a pause, where a filter asked for it or its time is up. False as for [`Self::accept`].
    pub(crate) fn progress(&mut self) -> bool {
        let expired = self.stream.deadline().is_some_and(|deadline| deadline <= Instant::now());
        let verdict = if expired { self.stream.pause_expired() } else { self.stream.resume() };
        self.accept(verdict)
    }

    /// Has the transforms look at what there is to do.
    pub(crate) fn wake_transforms(&self) {
        for ask in self.transforms.iter().flatten() {
            let _: bool = ask(Ask::Wake);
        }
    }

    /// Has the transform of the other side look at what there is to do.
    pub(crate) fn wake_others(&self, side: Side) {
        for other in Side::ALL.into_iter().filter(|other| *other != side) {
            if let Some(ask) = &self.transforms[other as usize] {
                let _: bool = ask(Ask::Wake);
            }
        }
    }

    /// Whether ATS has to be given time before `next`, at a hook for the response: see [`Settling`].
    pub(crate) fn has_to_settle(&mut self, next: Next) -> bool {
        // Once is enough: what ATS gave up on is not taken up again.
        let unseen = next != Next::Hold
            && self.settling == Settling::No
            && self.transforms[Side::Request as usize].as_ref().is_some_and(|ask| ask(Ask::WritesUnseen));
        if unseen {
            self.settling = Settling::Turns(TURNS, next);
        }
        unseen
    }

    /// Whether the response's headers are held.
    pub(crate) fn holds_response(&self) -> bool {
        self.stream.holds_headers(Side::Response).is_some()
    }

    /// TXN_CLOSE: ends the contexts, and cuts the circles by which a transaction and its transforms and timer keep
    /// each other.
    pub(crate) fn close(&mut self) {
        self.over = true;
        self.stream.finish();
        self.wait.close();
        self.transforms = [None, None];
        self.reply = None;
    }
}

/// Sees to it that a transaction that settles is come back to in the next turn. False if it is not: then it must not wait.
pub(crate) fn next_turn(this: &Attached<Transaction>, state: &mut State) -> bool {
    state.wait.next_turn(this)
}

/// Sees to it that a transaction that waits is come back to.
pub(crate) fn watch(this: &Attached<Transaction>, state: &mut State) {
    let State { stream, wait, .. } = state;
    wait.watch(stream, this);
}

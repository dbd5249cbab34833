//! Calls that plugin contexts have made to others, and what comes back.
//!
//! A call belongs to the plugin context that made it, or whose stream did: its callbacks go there, and it is cancelled
//! when that context or its VM goes. A token is answered at most once: SDKs trap on a token that they do not know.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use callout::{Failure, FailureKind, GrpcEvent, GrpcMessage, HttpResponse, Pairs};

use crate::abi::{BufferType, MapType};
use crate::observe::{CalloutOutcome, FilterStats};

/// What came for a plugin context.
pub(crate) enum News {
    /// The answer to an HTTP call.
    Http {
        /// The number that the guest knows the call by.
        token: u32,
        result: Result<HttpResponse, Failure>,
    },
    /// Something of a gRPC call or stream.
    Grpc {
        /// The number that the guest knows it by.
        token: u32,
        event: GrpcEvent,
    },
    /// A shared queue has items, and this plugin context is to take them.
    Queue(u32),
}

/// The kinds of calls, which a token shows in its lowest bits, as in cpp-host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Http,
    GrpcCall,
    GrpcStream,
}

impl CallKind {
    /// Tokens of all kinds count up by this.
    const STEP: u32 = 4;

    /// The kind that this token is of.
    pub(crate) fn of(token: u32) -> Option<Self> {
        [CallKind::Http, CallKind::GrpcCall, CallKind::GrpcStream]
            .into_iter()
            .find(|&kind| kind as u32 == token % Self::STEP)
    }
}

/// What is under way for a call. Dropping it cancels it.
pub(crate) enum Way {
    Http(#[expect(dead_code, reason = "kept to be dropped")] callout::Call),
    /// One message out, one back: collected until the call is closed, for the guest is told once.
    GrpcCall(callout::GrpcStream, Option<GrpcMessage>),
    GrpcStream(callout::GrpcStream),
}

/// A call that is under way.
pub(crate) struct Outgoing {
    /// The plugin context that it belongs to.
    root: u32,
    pub(crate) way: Way,
    count: Arc<AtomicUsize>,
    stats: Arc<FilterStats>,
    begun: Instant,
    outcome: CalloutOutcome,
}

impl Outgoing {
    /// A call of the plugin context `root`, which `count` counts as long as it is under way.
    pub(crate) fn new(root: u32, way: Way, count: &Arc<AtomicUsize>, stats: Arc<FilterStats>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        let outcome = CalloutOutcome::Cancelled;
        Outgoing { root, way, count: Arc::clone(count), stats, begun: Instant::now(), outcome }
    }

    /// It is over, and how.
    pub(crate) fn end(mut self, outcome: CalloutOutcome) {
        self.outcome = outcome;
    }

    /// Its gRPC stream.
    pub(crate) fn grpc(&self) -> Option<&callout::GrpcStream> {
        match &self.way {
            Way::Http(_) => None,
            Way::GrpcCall(stream, _) | Way::GrpcStream(stream) => Some(stream),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        self.stats.callout(self.outcome, self.begun.elapsed());
    }
}

/// The calls of one VM, by token.
#[derive(Default)]
pub(crate) struct Calls {
    under_way: HashMap<u32, Outgoing>,
    /// How many each plugin context has under way.
    by_root: HashMap<u32, usize>,
    last: u32,
}

impl Calls {
    /// A token that no call has.
    pub(crate) fn token(&mut self, kind: CallKind) -> u32 {
        loop {
            self.last = self.last.wrapping_add(CallKind::STEP);
            let token = self.last | kind as u32;
            // Zero is no token of cpp-host's, and one that is under way is taken.
            if self.last != 0 && !self.under_way.contains_key(&token) {
                return token;
            }
        }
    }

    /// How many are under way.
    pub(crate) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// How many of them are this plugin context's.
    pub(crate) fn count_of(&self, root: u32) -> usize {
        self.by_root.get(&root).copied().unwrap_or_default()
    }

    fn ended(&mut self, root: u32) {
        if let Some(count) = self.by_root.get_mut(&root) {
            *count -= 1;
            if *count == 0 {
                self.by_root.remove(&root);
            }
        }
    }

    pub(crate) fn insert(&mut self, token: u32, call: Outgoing) {
        *self.by_root.entry(call.root).or_default() += 1;
        self.under_way.insert(token, call);
    }

    pub(crate) fn get(&self, token: u32) -> Option<&Outgoing> {
        self.under_way.get(&token)
    }

    pub(crate) fn get_mut(&mut self, token: u32) -> Option<&mut Outgoing> {
        self.under_way.get_mut(&token)
    }

    /// Ends a call: nothing more of it is delivered.
    pub(crate) fn remove(&mut self, token: u32) -> Option<Outgoing> {
        let call = self.under_way.remove(&token)?;
        self.ended(call.root);
        Some(call)
    }

    /// The plugin contexts that the calls belong to.
    pub(crate) fn roots(&self) -> impl Iterator<Item = u32> {
        self.under_way.values().map(|call| call.root)
    }

    /// Cancels every call of a plugin context.
    pub(crate) fn cancel_all(&mut self, root: u32) {
        self.under_way.retain(|_, call| call.root != root);
        self.by_root.remove(&root);
    }
}

/// What of a call the callback that runs may read.
#[derive(Default)]
pub(crate) struct Answer {
    /// The map that is there, and what is in it.
    first: Option<(MapType, Pairs)>,
    trailers: Option<(MapType, Pairs)>,
    buffer: Option<(BufferType, Bytes)>,
    /// Why there is nothing, or how a gRPC call ended: a status of gRPC's, and a text.
    status: u32,
    message: String,
}

impl Answer {
    /// The answer to an HTTP call; what there is of a call that failed is its status.
    pub(crate) fn http(result: Result<HttpResponse, Failure>) -> Self {
        match result {
            Ok(response) => Answer {
                first: Some((MapType::HttpCallResponseHeaders, response.headers)),
                trailers: Some((MapType::HttpCallResponseTrailers, response.trailers)),
                buffer: Some((BufferType::HttpCallResponseBody, response.body)),
                ..Answer::default()
            },
            Err(failure) => {
                let message = format!("{}: {}", word_of(failure.kind), failure.message);
                Answer { status: status_of(failure.kind), message, ..Answer::default() }
            }
        }
    }

    /// Metadata of a gRPC stream, first or last.
    pub(crate) fn metadata(map: MapType, pairs: Pairs) -> Self {
        Answer { first: Some((map, pairs)), ..Answer::default() }
    }

    /// A message of a gRPC call or stream.
    pub(crate) fn message(message: Bytes) -> Self {
        Answer { buffer: Some((BufferType::GrpcCallMessage, message)), ..Answer::default() }
    }

    /// The end of a gRPC call or stream.
    pub(crate) fn close(status: u32, message: String) -> Self {
        Answer { status, message, ..Answer::default() }
    }

    /// What is in this map, if it is there.
    pub(crate) fn map(&self, map: MapType) -> Option<&Pairs> {
        [&self.first, &self.trailers].into_iter().flatten().find(|(which, _)| *which == map).map(|(_, pairs)| pairs)
    }

    /// The bytes of this buffer, if it is there.
    pub(crate) fn buffer(&self, buffer: BufferType) -> Option<&Bytes> {
        self.buffer.as_ref().filter(|(which, _)| *which == buffer).map(|(_, bytes)| bytes)
    }

    /// What `proxy_get_status` says.
    pub(crate) fn status(&self) -> (u32, &str) {
        (self.status, &self.message)
    }
}

/// What became of an HTTP call.
pub(crate) fn outcome_of(result: &Result<HttpResponse, Failure>) -> CalloutOutcome {
    match result.as_ref().map_err(|failure| failure.kind) {
        Ok(_) => CalloutOutcome::Ok,
        Err(FailureKind::Timeout) => CalloutOutcome::Timeout,
        Err(FailureKind::Connect) => CalloutOutcome::Connect,
        Err(FailureKind::Dns) => CalloutOutcome::Dns,
        Err(FailureKind::Tls) => CalloutOutcome::Tls,
        Err(FailureKind::Reset) => CalloutOutcome::Reset,
        Err(FailureKind::Protocol) => CalloutOutcome::Protocol,
        Err(FailureKind::TooLarge) => CalloutOutcome::TooLarge,
    }
}

/// What the text of a failure begins with, for filters that want more than a number.
fn word_of(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Timeout => "timeout",
        FailureKind::Connect => "connect",
        FailureKind::Dns => "dns",
        FailureKind::Tls => "tls",
        FailureKind::Reset => "reset",
        FailureKind::Protocol => "protocol",
        FailureKind::TooLarge => "too large",
    }
}

/// What became of a gRPC call that ended with this status: one that the server gave is an answer like any other, but for
/// those that nobody gave.
pub(crate) fn outcome_of_grpc(status: u32) -> CalloutOutcome {
    match status {
        DEADLINE_EXCEEDED => CalloutOutcome::Timeout,
        UNAVAILABLE => CalloutOutcome::Connect,
        _ => CalloutOutcome::Ok,
    }
}

const DEADLINE_EXCEEDED: u32 = 4;
const RESOURCE_EXHAUSTED: u32 = 8;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;

/// gRPC's status for a failure, which is what SDKs take the number of `proxy_get_status` for.
fn status_of(kind: FailureKind) -> u32 {
    match kind {
        FailureKind::Timeout => DEADLINE_EXCEEDED,
        FailureKind::TooLarge => RESOURCE_EXHAUSTED,
        FailureKind::Protocol => INTERNAL,
        FailureKind::Connect | FailureKind::Dns | FailureKind::Tls | FailureKind::Reset => UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_show_their_kind_and_are_not_given_twice() {
        let mut calls = Calls::default();
        let first = calls.token(CallKind::Http);
        assert_eq!((first, CallKind::of(first)), (4, Some(CallKind::Http)));
        let second = calls.token(CallKind::GrpcStream);
        assert_eq!((second, CallKind::of(second)), (10, Some(CallKind::GrpcStream)));
        assert_eq!(CallKind::of(7), None);
        calls.last = u32::MAX - 3;
        assert_eq!(calls.token(CallKind::GrpcCall), 5);
    }

    #[test]
    fn an_answer_has_what_its_callback_is_about_and_nothing_else() {
        let pairs = vec![(Bytes::from_static(b":status"), Bytes::from_static(b"200"))];
        let answer = Answer::http(Ok(HttpResponse {
            status: 200,
            headers: pairs.clone(),
            body: Bytes::from_static(b"b"),
            trailers: Pairs::new(),
        }));
        assert_eq!(answer.map(MapType::HttpCallResponseHeaders), Some(&pairs));
        assert_eq!(answer.map(MapType::HttpCallResponseTrailers), Some(&Pairs::new()));
        assert_eq!(answer.map(MapType::GrpcCallInitialMetadata), None);
        assert_eq!(answer.buffer(BufferType::HttpCallResponseBody).map(AsRef::as_ref), Some(&b"b"[..]));
        assert_eq!(answer.buffer(BufferType::GrpcCallMessage), None);
        let failure = Failure { kind: FailureKind::Timeout, message: "too late".to_owned() };
        let answer = Answer::http(Err(failure));
        assert_eq!((answer.map(MapType::HttpCallResponseHeaders), answer.status()), (None, (4, "timeout: too late")));
    }
}

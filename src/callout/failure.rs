//! What goes wrong, in an operator's words.

use std::error::Error;
use std::fmt;
use std::io;

/// Why a call was not begun at all. Nothing was sent, and no callback follows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The request is none: what is missing or wrong is named.
    #[error("{0}")]
    BadRequest(String),
    /// `max_in_flight` calls are under way.
    #[error("{0}")]
    Overflow(String),
    /// The threads for calls could not be started.
    #[error("{0}")]
    Unavailable(String),
}

/// What sort of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The call's own timeout.
    Timeout,
    /// No TCP connection, or none in `connect_timeout`.
    Connect,
    /// The name has no address.
    Dns,
    /// No TLS: a certificate that does not hold, no protocol in common, an alert.
    Tls,
    /// The connection or the stream ended too early.
    Reset,
    /// What came is not HTTP.
    Protocol,
    /// The response's body is over `response_bytes`.
    TooLarge,
}

impl FailureKind {
    /// All of them, in the order of [`ClusterStats::failures`](crate::ClusterStats::failures).
    pub const ALL: [FailureKind; 7] = [
        FailureKind::Timeout,
        FailureKind::Connect,
        FailureKind::Dns,
        FailureKind::Tls,
        FailureKind::Reset,
        FailureKind::Protocol,
        FailureKind::TooLarge,
    ];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// Why no whole response came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// For programs.
    pub kind: FailureKind,
    /// For people: the cluster, the endpoint and what failed.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {}

impl Failure {
    pub(crate) fn new(kind: FailureKind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }
}

/// Whether the same request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// The server had nothing of it.
    Always,
    /// It may have had it, but answered nothing.
    Idempotent,
    /// It answered.
    Never,
}

/// An attempt that came to nothing.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) failure: Failure,
    pub(crate) again: Again,
    /// Whether the endpoint is to blame.
    pub(crate) blame: bool,
}

impl Broken {
    pub(crate) fn new(kind: FailureKind, again: Again, message: impl Into<String>) -> Broken {
        Broken { failure: Failure::new(kind, message), again, blame: true }
    }

    pub(crate) fn blameless(mut self) -> Broken {
        self.blame = false;
        self
    }
}

/// An error with all its causes, each said once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn of_tls(error: &io::Error) -> bool {
    // tokio-rustls wraps what rustls says so; h2 keeps the kind and the text of it.
    error.kind() == io::ErrorKind::InvalidData
}

/// The sort of what hyper reports.
pub(crate) fn kind_of_hyper(error: &hyper::Error, tls: bool) -> FailureKind {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return if tls && of_tls(io) { FailureKind::Tls } else { FailureKind::Reset };
        }
        cause = error.source();
    }
    if error.is_parse() || error.is_user() { FailureKind::Protocol } else { FailureKind::Reset }
}

/// The sort of what h2 reports.
pub(crate) fn kind_of_h2(error: &h2::Error, tls: bool) -> FailureKind {
    match error.get_io() {
        Some(io) if tls && of_tls(io) => FailureKind::Tls,
        Some(_) => FailureKind::Reset,
        None if error.is_remote() => FailureKind::Reset,
        None => FailureKind::Protocol,
    }
}

/// Whether h2's error says that the server did nothing with the request.
pub(crate) fn unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.is_remote() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    // A server that stops in good order names the last stream that it will answer; this one came after.
    let stopped = error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR);
    refused || stopped
}

//! What the origin answers.

use std::time::Duration;

use super::super::payload::Payload;
use super::Request;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Length,
    Chunked,
    UntilClose,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Break {
    Reset,
    Close,
    Hang,
}

/// A response that the origin is to give.
#[derive(Clone, Debug)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) reason: Option<String>,
    pub(super) headers: Vec<(String, Vec<u8>)>,
    pub(super) content: Payload,
    pub(super) sent: Sent,
    pub(super) piece: usize,
    pub(super) pause: Duration,
    pub(super) delay: Duration,
    pub(super) interim: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
    pub(super) broken: Option<(Break, u64)>,
    pub(super) close: bool,
    pub(super) raw: Option<Vec<u8>>,
}

impl Reply {
    /// An empty response with a Content-Length and no other field.
    pub fn new(status: u16) -> Reply {
        Reply {
            status,
            reason: None,
            headers: Vec::new(),
            content: Payload::default(),
            sent: Sent::Length,
            piece: 64 * 1024,
            pause: Duration::ZERO,
            delay: Duration::ZERO,
            interim: Vec::new(),
            trailers: Vec::new(),
            broken: None,
            close: false,
            raw: None,
        }
    }

    /// Exactly these bytes and then the connection's end.
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Reply {
        Reply { raw: Some(bytes.into()), close: true, ..Reply::new(0) }
    }

    /// The request's head and body as the body: what a route that nobody set answers.
    pub fn echo(request: &Request) -> Reply {
        Reply::new(200).body([request.head.as_slice(), &request.body].concat())
    }

    /// The reason phrase, which is else the usual one.
    pub fn reason(mut self, reason: &str) -> Reply {
        self.reason = Some(reason.to_owned());
        self
    }

    /// One more field, after those already there.
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Reply {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    /// `Cache-Control: max-age`.
    pub fn cacheable(self, seconds: u32) -> Reply {
        self.header("Cache-Control", format!("max-age={seconds}"))
    }

    /// The body.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Reply {
        self.content = Payload::bytes(bytes.into());
        self
    }

    /// A body of `len` bytes of [`payload::Stream`](super::super::payload::Stream), made as it is sent.
    pub fn generated(self, seed: u64, len: u64) -> Reply {
        self.payload(Payload::seed(seed, len))
    }

    /// The body.
    pub fn payload(mut self, payload: Payload) -> Reply {
        self.content = payload;
        self
    }

    /// Sends the body chunked, `size` bytes at a time.
    pub fn chunked(mut self, size: usize) -> Reply {
        self.sent = Sent::Chunked;
        self.piece = size.max(1);
        self
    }

    /// Sends the body without length; the connection's end is its end.
    pub fn until_close(mut self) -> Reply {
        self.sent = Sent::UntilClose;
        self.close = true;
        self
    }

    /// A field after the last chunk.
    pub fn trailer(mut self, name: &str, value: &str) -> Reply {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Waits before the head.
    pub fn delay(mut self, delay: Duration) -> Reply {
        self.delay = delay;
        self
    }

    /// Sends the body `size` bytes at a time and waits between them.
    pub fn trickle(mut self, size: usize, pause: Duration) -> Reply {
        self.piece = size.max(1);
        self.pause = pause;
        self
    }

    /// Bytes to send before the head, such as a 103 response.
    pub fn interim(mut self, bytes: impl Into<Vec<u8>>) -> Reply {
        self.interim = bytes.into();
        self
    }

    /// Says `Connection: close` and does.
    pub fn close(mut self) -> Reply {
        self.close = true;
        self.header("Connection", "close")
    }

    /// Resets the connection after so many bytes of body.
    pub fn reset_after(mut self, bytes: u64) -> Reply {
        self.broken = Some((Break::Reset, bytes));
        self
    }

    /// Closes the connection in good order after so many bytes of body.
    pub fn close_after(mut self, bytes: u64) -> Reply {
        self.broken = Some((Break::Close, bytes));
        self
    }

    /// Sends no more after so many bytes of body, and does not close either.
    pub fn hang_after(mut self, bytes: u64) -> Reply {
        self.broken = Some((Break::Hang, bytes));
        self
    }
}

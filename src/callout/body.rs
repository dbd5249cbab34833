//! Bodies: what is sent over HTTP/1, and what is gathered.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};

/// A body that is there, with its trailers.
#[derive(Debug)]
pub(crate) struct Payload {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Payload {
    pub(crate) fn new(data: Bytes, trailers: &HeaderMap) -> Payload {
        let trailers = (!trailers.is_empty()).then(|| trailers.clone());
        Payload { data: (!data.is_empty()).then_some(data), trailers }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = self.data.take().map(Frame::data);
        Poll::Ready(frame.or_else(|| self.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.trailers {
            // Chunked, then.
            Some(_) => SizeHint::default(),
            None => SizeHint::with_exact(self.data.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}

/// A response's body as it comes, up to a limit. One that comes in one piece is not copied.
#[derive(Debug)]
pub(crate) struct Gathered {
    limit: usize,
    first: Bytes,
    all: BytesMut,
}

/// The body is longer than it may be.
#[derive(Debug)]
pub(crate) struct TooLarge;

impl Gathered {
    /// `announced` is its Content-Length.
    pub(crate) fn new(limit: usize, announced: Option<u64>) -> Result<Gathered, TooLarge> {
        if announced.is_some_and(|length| length > limit as u64) {
            return Err(TooLarge);
        }
        Ok(Gathered { limit, first: Bytes::new(), all: BytesMut::new() })
    }

    pub(crate) fn push(&mut self, data: Bytes) -> Result<(), TooLarge> {
        let length = self.first.len() + self.all.len();
        if data.len() > self.limit - length {
            return Err(TooLarge);
        }
        if length == 0 {
            self.first = data;
        } else {
            if self.all.is_empty() {
                self.all.extend_from_slice(&std::mem::take(&mut self.first));
            }
            self.all.extend_from_slice(&data);
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

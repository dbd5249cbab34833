//! gRPC: a stream of messages each way, over HTTP/2.

mod frames;
mod outbox;
mod run;
mod status;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::cluster::Cluster;
use super::failure::Refused;
use super::request::{Outgoing, Pairs};
use super::settings::Protocol;

use outbox::Outbox;
pub use outbox::SendError;

/// Bytes of messages that the consumer may hold; while it holds more, the server is made to wait.
const HELD: usize = 256 * 1024;

/// What a stream is opened with.
#[derive(Clone, Debug, Default)]
pub struct GrpcRequest {
    /// With its package: `helloworld.Greeter`.
    pub service: Bytes,
    /// `SayHello`
    pub method: Bytes,
    /// Sent as headers. May hold `:authority`, which is else the first endpoint's host and port. Names that end with `-bin`
    /// have values in base64, as on the wire.
    pub metadata: Pairs,
}

/// What happens on a stream, in this order; each of the first three may be missing, and messages come any number of
/// times.
#[derive(Debug)]
pub enum GrpcEvent {
    /// The headers of the response, `:status` first; empty if it has nothing but trailers.
    InitialMetadata(Pairs),
    /// A message.
    Message(GrpcMessage),
    /// The trailers.
    TrailingMetadata(Pairs),
    /// The end: once, and last. Not after the stream was cancelled.
    Close {
        /// A status of gRPC: the server's, or the one that fits what went wrong.
        status: u32,
        /// The server's words, or ours.
        message: String,
    },
}

/// A message without its prefix.
#[derive(Debug)]
pub struct GrpcMessage {
    /// The encoded message.
    pub bytes: Bytes,
    /// To be kept for as long as the message is held back.
    pub credit: Credit,
}

/// A message's part of what the server may send: given back when dropped. While credits of more than 256 KiB are held
/// nothing more is read, and so the server cannot send.
pub struct Credit {
    credits: Arc<Credits>,
    bytes: usize,
}

impl fmt::Debug for Credit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credit").field(&self.bytes).finish()
    }
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.credits.held.fetch_sub(self.bytes, Ordering::AcqRel);
        self.credits.returned.notify_one();
    }
}

#[derive(Default)]
struct Credits {
    held: AtomicUsize,
    returned: Notify,
}

impl Credits {
    fn take(self: &Arc<Self>, bytes: usize) -> Credit {
        self.held.fetch_add(bytes, Ordering::AcqRel);
        Credit { credits: Arc::clone(self), bytes }
    }

    /// Waits until there is room.
    async fn room(&self) {
        while self.held.load(Ordering::Acquire) >= HELD {
            self.returned.notified().await;
        }
    }
}

/// Takes what happens on a stream, on a thread of this crate.
pub type Events = Box<dyn FnMut(GrpcEvent) + Send>;

/// An open stream. Dropped, it is cancelled.
pub struct GrpcStream {
    outbox: Arc<Outbox>,
    task: AbortHandle,
}

impl fmt::Debug for GrpcStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcStream").finish_non_exhaustive()
    }
}

impl GrpcStream {
    /// Sends a message; with `end_stream` it is the last one. Never waits: up to 4 MiB are kept until the server takes
    /// them.
    ///
    /// # Errors
    /// The stream has ended, for sending or altogether; or too much waits to be sent.
    pub fn send(&self, message: Bytes, end_stream: bool) -> Result<(), SendError> {
        self.outbox.push(message, end_stream)
    }

    /// Says that no message follows. The server's messages still come.
    pub fn close(&self) {
        self.outbox.end();
    }

    /// Ends the stream, as dropping it does. No event follows, but for one that comes at that very moment on another
    /// thread.
    pub fn cancel(&self) {
        self.outbox.cancel();
        self.task.abort();
    }
}

impl Drop for GrpcStream {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl Cluster {
    /// Opens a stream and returns at once. `events` is called on a thread of this crate, until
    /// [`Close`](GrpcEvent::Close). For a unary call, send one message with `end_stream`. `timeout` is the deadline of the
    /// stream: the server is told, and status 4 ends the stream if it does not end it.
    ///
    /// # Errors
    /// A request that cannot be sent, a cluster that does not speak HTTP/2, and a circuit that is full. `events` is then
    /// not called.
    pub fn grpc(
        self: &Arc<Self>,
        request: GrpcRequest,
        timeout: Option<Duration>,
        events: Events,
    ) -> Result<GrpcStream, Refused> {
        let settings = self.settings();
        if settings.protocol != Protocol::Http2 {
            let what = format!("cluster `{}` speaks HTTP/1; gRPC needs HTTP/2", settings.name);
            return Err(Refused::BadRequest(what));
        }
        let authority = settings.endpoints.first().map(ToString::to_string).unwrap_or_default();
        let encrypted = self.shared.tls.is_some();
        let head = Outgoing::grpc(&request.service, &request.method, request.metadata, &authority, encrypted)?;
        let admitted = self.admit()?;
        let thread = self.thread()?;
        let outbox = Arc::new(Outbox::default());
        let task = thread.spawn(run::run(admitted, head, timeout, Arc::clone(&outbox), events));
        Ok(GrpcStream { outbox, task: task.abort_handle() })
    }
}

//! A stream's life: it is opened, written and read by one task.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use crate::call::Retrying;
use crate::cluster::{Cluster, InFlight};
use crate::failure::{Again, Broken, Failure, FailureKind};
use crate::http2::{self, Begun};
use crate::request::{Outgoing, pairs};
use crate::target::{Progress, Stage, Target};

use super::frames::{Decoder, PREFIX, Wrong, encode};
use super::outbox::{Next, Outbox};
use super::{Credits, Events, GrpcEvent, GrpcMessage, status};

/// What was sent is kept for another attempt until an answer comes, up to so many bytes.
const REPLAY: usize = 1 << 20;

/// How a stream ended.
struct End {
    status: u32,
    message: String,
    outcome: Result<(), FailureKind>,
    /// Whether the server should be left out if it goes on like this.
    blame: bool,
}

impl End {
    /// The server said so.
    fn said(status: u32, message: String) -> End {
        End { status, message, outcome: Ok(()), blame: status == status::UNAVAILABLE }
    }

    fn failed(status: u32, failure: Failure) -> End {
        End { status, message: failure.message, outcome: Err(failure.kind), blame: true }
    }
}

pub(super) async fn run(
    admitted: InFlight,
    head: Outgoing,
    limit: Option<Duration>,
    outbox: Arc<Outbox>,
    events: Events,
) {
    let mut progress = Progress::default();
    // A deadline beyond what a clock can say is none.
    let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
    let caller = Caller { outbox, events };
    let mut stream = Stream { cluster: Arc::clone(&admitted.cluster), head, deadline, caller, sent: Sent::default() };
    let end = match limit {
        None => stream.attempts(&mut progress).await,
        Some(limit) => match timeout(limit, stream.attempts(&mut progress)).await {
            Ok(end) => end,
            Err(_) => {
                let message = progress.timed_out(&stream.cluster.settings().name, limit);
                End::failed(status::DEADLINE_EXCEEDED, Failure::new(FailureKind::Timeout, message))
            }
        },
    };
    stream.caller.outbox.close();
    admitted.end(end.outcome);
    stream.caller.tell(GrpcEvent::Close { status: end.status, message: end.message });
}

/// What went out and may have to go out again.
#[derive(Default)]
struct Sent {
    messages: Vec<(Bytes, bool)>,
    bytes: usize,
    /// It was too much to keep.
    lost: bool,
}

impl Sent {
    fn keep(&mut self, message: &Bytes, last: bool) {
        self.bytes += message.len();
        self.lost |= self.bytes > REPLAY;
        if self.lost {
            self.messages = Vec::new();
        } else {
            self.messages.push((message.clone(), last));
        }
    }
}

/// The caller's side of a stream.
struct Caller {
    outbox: Arc<Outbox>,
    events: Events,
}

impl Caller {
    fn tell(&mut self, event: GrpcEvent) {
        // Cancelled by an event before, perhaps.
        if !self.outbox.cancelled() {
            (self.events)(event);
        }
    }
}

struct Stream {
    cluster: Arc<Cluster>,
    head: Outgoing,
    deadline: Option<Instant>,
    caller: Caller,
    sent: Sent,
}

impl Stream {
    async fn attempts(&mut self, progress: &mut Progress) -> End {
        let cluster = Arc::clone(&self.cluster);
        let mut retrying = Retrying::new(&cluster);
        loop {
            let target = match cluster.pick(&retrying.tried, progress).await {
                Ok(target) => target,
                Err(broken) => return End::failed(status::UNAVAILABLE, broken.failure),
            };
            progress.target = Some(Arc::clone(&target));
            let (status, broken) = match self.attempt(&target, progress).await {
                Ok(end) => {
                    if end.blame {
                        target.failed(format_args!("gRPC status {}: {}", end.status, end.message));
                    } else {
                        target.succeeded();
                    }
                    return end;
                }
                Err(broken) => broken,
            };
            if broken.blame {
                target.failed(&broken.failure);
            }
            // Methods of gRPC are not known to be idempotent.
            if let Err(failure) = retrying.again(target.address, broken, false, progress).await {
                return End::failed(status, failure);
            }
        }
    }

    /// Errors before an answer, with their status.
    async fn attempt(&mut self, target: &Arc<Target>, progress: &mut Progress) -> Result<End, (u32, Broken)> {
        let Stream { head, deadline, caller, sent, .. } = self;
        let head = || {
            let mut request = head.head(());
            if let Some(deadline) = *deadline {
                let left = status::timeout(deadline.saturating_duration_since(Instant::now()));
                if let Ok(value) = HeaderValue::from_str(&left) {
                    request.headers_mut().insert("grpc-timeout", value);
                }
            }
            request
        };
        let begun = http2::begin(target, head, false, progress).await;
        let Begun { response, mut stream, lease } = begun.map_err(|broken| (status::UNAVAILABLE, broken))?;
        let answered = AtomicBool::new(false);
        let outbox = Arc::clone(&caller.outbox);
        let end = {
            let writing = write(&mut stream, &outbox, sent, &answered);
            let reading = async {
                let response = response.await.map_err(|error| {
                    (status::of_h2(&error), http2::broken(target, &error, Again::Never, "no response"))
                })?;
                answered.store(true, Ordering::Relaxed);
                progress.stage = Stage::Reading;
                Ok(read(target, response, caller).await)
            };
            tokio::pin!(writing, reading);
            let mut open = true;
            loop {
                tokio::select! {
                    biased;
                    end = &mut reading => break end,
                    // What stops it stops the response too, or else does not matter.
                    _ = &mut writing, if open => open = false,
                }
            }
        };
        drop(lease);
        end.map_err(|(status, mut broken)| {
            if sent.lost {
                broken.again = Again::Never;
            }
            (status, broken)
        })
    }
}

/// Sends what was sent in vain before, and then what comes.
async fn write(
    stream: &mut SendStream<Bytes>,
    outbox: &Outbox,
    sent: &mut Sent,
    answered: &AtomicBool,
) -> Result<(), h2::Error> {
    for (message, last) in sent.messages.clone() {
        put(stream, message, last).await?;
        if last {
            return Ok(());
        }
    }
    loop {
        match outbox.pop() {
            Next::Message { message, last } => {
                if !answered.load(Ordering::Relaxed) {
                    sent.keep(&message, last);
                }
                let length = message.len();
                put(stream, message, last).await?;
                outbox.taken(length);
                if last {
                    return Ok(());
                }
            }
            Next::End => return stream.send_data(Bytes::new(), true),
            Next::Nothing => outbox.changed().await,
        }
    }
}

async fn put(stream: &mut SendStream<Bytes>, message: Bytes, last: bool) -> Result<(), h2::Error> {
    let (head, body) = encode(message);
    let whole = body.is_empty();
    http2::send(stream, head, last && whole).await?;
    if whole { Ok(()) } else { http2::send(stream, body, last).await }
}

async fn read(target: &Target, response: Response<RecvStream>, caller: &mut Caller) -> End {
    let (head, mut body) = response.into_parts();
    if body.is_end_stream()
        && let Some((status, message)) = status::of_trailers(&head.headers)
    {
        caller.tell(GrpcEvent::InitialMetadata(Vec::new()));
        caller.tell(GrpcEvent::TrailingMetadata(pairs(Some(head.status), &head.headers)));
        return End::said(status, message);
    }
    if head.status != StatusCode::OK {
        let what = format!("the answer is no gRPC, but HTTP's status {}", head.status);
        return End::said(status::of_http(head.status), target.says(what));
    }
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.starts_with(b"application/grpc") {
        let kind = String::from_utf8_lossy(kind);
        return End::said(status::UNKNOWN, target.says(format_args!("the answer is no gRPC, but `{kind}`")));
    }
    caller.tell(GrpcEvent::InitialMetadata(pairs(Some(head.status), &head.headers)));
    let limit = target.shared.settings.response_bytes;
    let credits = Arc::<Credits>::default();
    let mut decoder = Decoder::default();
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) => return broke_off(target, &error),
        };
        let length = data.len();
        decoder.push(data);
        loop {
            // Nothing is taken from the connection meanwhile, so that the server's window is used up.
            credits.room().await;
            match decoder.next(limit) {
                Ok(Some(bytes)) => {
                    // One without content has its cost too.
                    let credit = credits.take(bytes.len() + PREFIX);
                    caller.tell(GrpcEvent::Message(GrpcMessage { bytes, credit }));
                }
                Ok(None) => break,
                Err(Wrong::Compressed) => {
                    let what = target.says("a message is compressed although nothing was agreed on");
                    return End::failed(status::INTERNAL, Failure::new(FailureKind::Protocol, what));
                }
                Err(Wrong::TooLong(length)) => {
                    let what = format!("a message has {length} bytes; {limit} are allowed (response_kib)");
                    let failure = Failure::new(FailureKind::TooLarge, target.says(what));
                    return End { blame: false, ..End::failed(status::RESOURCE_EXHAUSTED, failure) };
                }
            }
        }
        if let Err(error) = body.flow_control().release_capacity(length) {
            return broke_off(target, &error);
        }
    }
    let trailers = match body.trailers().await {
        Ok(trailers) => trailers,
        Err(error) => return broke_off(target, &error),
    };
    let said = trailers.as_ref().and_then(status::of_trailers).or_else(|| status::of_trailers(&head.headers));
    if let Some(trailers) = &trailers {
        caller.tell(GrpcEvent::TrailingMetadata(pairs(None, trailers)));
    }
    match said {
        Some((status::OK, _)) if decoder.cut() => {
            let what = target.says("the stream ended in the middle of a message");
            End::failed(status::INTERNAL, Failure::new(FailureKind::Protocol, what))
        }
        Some((status, message)) => End::said(status, message),
        None => {
            let what = target.says("the stream ended without a status");
            End::failed(status::UNKNOWN, Failure::new(FailureKind::Protocol, what))
        }
    }
}

fn broke_off(target: &Target, error: &h2::Error) -> End {
    let broken = http2::broken(target, error, Again::Never, "the stream broke off");
    End::failed(status::of_h2(error), broken.failure)
}

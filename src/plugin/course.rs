//! How far one body has come through its transform, and what moves it on.
//!
//! What the chain lets pass waits in a buffer until the output can be opened, which sends the header: then its length
//! has to be said. Nothing is taken from upstream while the chain wants no more, or while much waits to be read from
//! the output. Upstream is told that all is read when the end has passed the chain, not before: until then, things may
//! go wrong.

use ats::chunked::{self, Decoder};
use ats::iobuf::IoBuffer;
use ats::transform_io::Transform;
use ats::txn::{CacheLookup, ConfigKey, Txn};
use ats::vio::UNKNOWN;
use engine::{BodyBuffer, Side};

use crate::body::IoBody;
use crate::framing::Length;
use crate::host::with_host;
use crate::state::{Outgoing, State};

/// What is taken from upstream at a time, and what may wait in the output, unless all goes [at once](AT_ONCE).
const WINDOW: usize = 128 << 10;

/// A response that has come as a whole, as one from the cache's memory does, and is no longer than this, is transformed at
/// once: then its length is known when its head is sent. ATS would make chunks of 4 KiB of it, which costs more than
/// most filters do. It is a bound on how long other transactions of the thread wait, too.
const AT_ONCE: u64 = 1 << 20;

/// What may wait to be written to the client, or to the origin. ATS takes all that a transform has, whether the other
/// side reads or not, and says nothing when it does: then we look again after a moment.
const PEER_WINDOW: usize = 4 << 20;

/// A request's length in a header that will not be sent: its body goes out in chunks.
///
/// ATS takes a request's body from a transform only with a length, and stops there. This is one that no body reaches,
/// and that is not ATS's number for "unknown".
const ENDLESS: u64 = 1 << 60;

/// How a body comes.
#[derive(Default)]
pub(crate) struct Input {
    /// What takes its framing off.
    pub(crate) decoder: Option<Decoder>,
    /// It is shown as a whole, of at most so many bytes.
    pub(crate) whole: Option<usize>,
}

/// How far a body has come.
#[derive(Default)]
pub(crate) struct Course {
    started: bool,
    /// So many bytes were announced when the first came.
    announced: Option<u64>,
    taken: u64,
    /// The chain has been given the end.
    ended: bool,
    /// The end has passed the chain.
    finished: bool,
    /// What has passed the chain and was not written yet.
    pending: Option<Box<IoBody>>,
    /// What the output was given.
    written: u64,
    /// What the output was said to get, if it is a number.
    promised: Option<u64>,
    /// Takes the framing off.
    decoder: Option<Decoder>,
    /// It is shown as a whole, of at most so many bytes; what has come so far.
    whole: Option<usize>,
    gathered: Option<Box<IoBody>>,
    /// The output is framed.
    framed: bool,
    /// An empty buffer, to be used again.
    spare: Option<Box<IoBody>>,
    /// The output was opened.
    pub(crate) opened: bool,
    /// The other side reads too slowly for more.
    pub(crate) blocked: bool,
    /// So much can be given to the other side before it has to be asked again how much waits there: to ask walks all of
    /// that.
    room: usize,
    /// The origin is not read from meanwhile.
    server_held: Option<i64>,
    /// All is said.
    pub(crate) over: bool,
}

/// What is done last, when nothing is borrowed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    /// More of the body can come.
    Ready,
    /// It has been read to its end.
    Complete,
    /// The transaction breaks off.
    Fail,
}

impl Course {
    pub(crate) fn of(input: Input) -> Self {
        Course { decoder: input.decoder, whole: input.whole, ..Course::default() }
    }

    /// That of a transform that is closed.
    pub(crate) fn ended() -> Self {
        Course { over: true, ..Course::default() }
    }

    /// How much has come, framing included.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Moves what can be moved.
    pub(crate) fn step(&mut self, side: Side, state: &mut State, transform: &mut Transform<'_>) -> Next {
        if self.over {
            return Next::Nothing;
        }
        if !self.started {
            self.start(side, state, transform);
        }
        if !state.is_ending() && state.stream.is_holding() {
            state.progress();
        }
        let mut took = false;
        let at_once = side == Side::Response
            && !transform.output_opened()
            && self.announced.is_some_and(|announced| announced > WINDOW as u64 && announced <= AT_ONCE)
            && transform.input_is_here(AT_ONCE)
            // Else it goes out while it is transformed, and its memory is used again.
            && self.length(side, state, 0) == Known::Never;
        // Filters may make more of it than it was.
        let window = if at_once { 2 * AT_ONCE as usize } else { WINDOW };
        while !state.is_ending() {
            self.collect(side, state);
            self.deliver(transform);
            if !self.ended && self.opened && self.room == 0 {
                self.ask_peer(side, transform);
            }
            let full = self.blocked || !state.stream.wants_more(side) || self.waiting(transform) >= window;
            if side == Side::Response
                && self.announced.is_none()
                && let Some(txn) = transform.txn()
            {
                // ATS would read on, from an origin that sends in chunks.
                txn.server_read_hold(full && !self.ended, &mut self.server_held);
            }
            if full || self.ended {
                break;
            }
            match self.take(side, state, transform) {
                Taken::Some => took = true,
                Taken::Nothing => break,
                Taken::Broken => {
                    state.stream.tell(
                        log::Level::Warn,
                        "a body that broke off",
                        format_args!("a {} body broke off", side.as_str()),
                    );
                    if side == Side::Response && !transform.output_opened() {
                        // Nothing of it has gone out: that something is wrong can be said.
                        state.reply = Some(Box::new(engine::LocalResponse::text(502, "Bad Gateway\n")));
                        return self.end(side, state, transform);
                    }
                    self.over = true;
                    return Next::Fail;
                }
            }
        }
        if state.is_ending() {
            return self.end(side, state, transform);
        }
        if !self.open(side, state, transform) {
            self.over = true;
            return Next::Fail;
        }
        self.deliver(transform);
        self.finish(state, transform, side, took)
    }

    /// The first event: the header's filters come before the body's.
    fn start(&mut self, side: Side, state: &mut State, transform: &mut Transform<'_>) {
        self.started = true;
        if side == Side::Request {
            with_host(&mut state.stream, |host| host.late = true);
        }
        let nbytes = transform.input().map_or(UNKNOWN, |input| input.nbytes());
        // ATS may have it all by now, and know how long it is with its framing.
        self.announced = (nbytes != UNKNOWN && self.decoder.is_none()).then_some(nbytes);
        if side == Side::Response && state.needs.response_body == Some(engine::At::Client) && !state.shown {
            state.shown = true;
            let status = with_host(&mut state.stream, |host| host.begin_early(self.announced)).flatten();
            let bodiless = self.announced == Some(0) || matches!(status, Some(204 | 304));
            let verdict = state.stream.response_headers(engine::At::Client, bodiless);
            state.accept(verdict);
            if bodiless {
                // The headers were the end of the stream: no body is shown behind them.
                self.ended = true;
                self.finished = true;
            }
        }
    }

    /// What waits to be read from us, opened or not.
    fn waiting(&self, transform: &mut Transform<'_>) -> usize {
        transform.output_waiting() + self.pending.as_ref().map_or(0, |pending| pending.0.len())
    }

    /// Finds out how much more the other side may be given.
    fn ask_peer(&mut self, side: Side, transform: &mut Transform<'_>) {
        let backlog = transform.txn().and_then(|txn| match side {
            Side::Request => txn.server_backlog(),
            Side::Response => txn.client_backlog(),
        });
        // What ATS did not take from us yet comes to that.
        self.room = PEER_WINDOW.saturating_sub(backlog.unwrap_or(0).saturating_add(transform.output_waiting()));
        self.blocked = backlog.is_some_and(|waiting| waiting > PEER_WINDOW);
    }

    /// Gives the chain what has come.
    fn take(&mut self, side: Side, state: &mut State, transform: &mut Transform<'_>) -> Taken {
        let Some(mut chunk) = self.empty() else { return Taken::Broken };
        let raw = if self.decoder.is_some() {
            match self.take_framed(transform, &mut chunk.0) {
                Ok(raw) => raw,
                Err(error) => {
                    state.stream.tell(
                        log::Level::Warn,
                        "a wrong chunked body",
                        format_args!("a request is refused, for its chunked body is wrong: {error}"),
                    );
                    state.reply = Some(Box::new(engine::LocalResponse::text(400, "Bad Request\n")));
                    return Taken::Some;
                }
            }
        } else {
            transform.input_take(&mut chunk.0, WINDOW)
        };
        self.taken += raw as u64;
        let done = self.decoder.as_ref().is_some_and(Decoder::is_done);
        let end = done || transform.input_ended();
        if raw == 0 && !end {
            self.spare = Some(chunk);
            return Taken::Nothing;
        }
        // Upstream broke off: what there is of the body is not shown as the whole of it, and not passed on as such.
        let short = self.announced.is_some_and(|announced| self.taken < announced);
        if end && !done && (short || self.decoder.is_some() || broken(side, transform)) {
            return Taken::Broken;
        }
        self.ended = end;
        if let Some(limit) = self.whole {
            let gathered = match &mut self.gathered {
                Some(gathered) => {
                    gathered.0.append(&mut chunk.0);
                    self.spare = Some(chunk);
                    gathered
                }
                place => place.insert(chunk),
            };
            if gathered.0.len() > limit {
                state.stream.tell(
                    log::Level::Warn,
                    "a request that is too large",
                    format_args!("a request of more than {} KiB (limits.body_kib) is answered 413", limit >> 10),
                );
                state.reply = Some(crate::request_body::too_large());
                return Taken::Some;
            }
            if !end {
                return Taken::Some;
            }
            let Some(gathered) = self.gathered.take() else { return Taken::Broken };
            chunk = gathered;
        }
        let chunk = if chunk.0.is_empty() {
            self.spare = Some(chunk);
            None
        } else {
            Some(chunk as Box<dyn BodyBuffer>)
        };
        let verdict = state.stream.body(side, chunk, end);
        state.accept(verdict);
        Taken::Some
    }

    /// Moves what waits into `chunk`, without its framing. Answers how many bytes were read.
    fn take_framed(&mut self, transform: &mut Transform<'_>, chunk: &mut IoBuffer) -> Result<usize, chunked::BadChunk> {
        let (Some(decoder), Some(mut input)) = (self.decoder.as_mut(), transform.input()) else { return Ok(0) };
        let max = WINDOW.min(usize::try_from(input.todo()).unwrap_or(usize::MAX));
        let mut read = 0;
        let mut result = Ok(());
        if let Some(reader) = input.reader() {
            let mut parts: Vec<std::ops::Range<usize>> = Vec::new();
            reader.read(0, max, &mut |piece| {
                if result.is_err() || decoder.is_done() {
                    return;
                }
                match decoder.decode(piece, &mut |part| parts.push(read + part.start..read + part.end)) {
                    Ok(used) => read += used,
                    Err(error) => result = Err(error),
                }
            });
            for part in parts {
                chunk.copy_from(&reader, part.start, part.len());
            }
        }
        result?;
        input.consume(read);
        Ok(read)
    }

    /// Takes what has passed the chain.
    fn collect(&mut self, side: Side, state: &mut State) {
        let passed = state.stream.take_body(side);
        self.finished |= passed.end;
        let Some(bytes) = passed.bytes else { return };
        match (bytes as Box<dyn std::any::Any>).downcast::<IoBody>() {
            Ok(bytes) if self.pending.is_none() => self.pending = Some(bytes),
            Ok(mut bytes) => {
                if let Some(pending) = &mut self.pending {
                    pending.0.append(&mut bytes.0);
                }
                self.spare = Some(bytes);
            }
            Err(bytes) => {
                if let Ok(bytes) = bytes.downcast::<engine::Bytes>() {
                    self.pending = self.pending.take().or_else(|| self.empty());
                    if let Some(pending) = &mut self.pending {
                        pending.0.write(&bytes.0);
                    }
                }
            }
        }
    }

    /// An empty buffer, the last one if it is back.
    fn empty(&mut self) -> Option<Box<IoBody>> {
        self.spare.take().or_else(|| IoBuffer::new().ok().map(|buffer| Box::new(IoBody(buffer))))
    }

    /// Writes what has passed to the output, once that is open.
    fn deliver(&mut self, transform: &mut Transform<'_>) {
        if !transform.output_opened() {
            return;
        }
        if let Some(mut bytes) = self.pending.take() {
            let len = bytes.0.len();
            if self.framed {
                let (before, behind) = chunked::frame(len);
                transform.output_write(before.as_bytes());
                transform.output_append(&mut bytes.0);
                transform.output_write(behind);
                self.written += (before.len() + behind.len()) as u64;
                self.room = self.room.saturating_sub(before.len() + behind.len());
            } else {
                transform.output_append(&mut bytes.0);
            }
            self.written += len as u64;
            self.room = self.room.saturating_sub(len);
            // Nothing is moved once the output is shut down.
            self.spare = Some(bytes).filter(|bytes| bytes.0.is_empty());
            if let Some(mut output) = transform.output() {
                output.reenable();
            }
        }
    }

    /// Opens the output, if it is time. False if it cannot be opened.
    fn open(&mut self, side: Side, state: &mut State, transform: &mut Transform<'_>) -> bool {
        if transform.output_opened() || state.stream.holds_headers(side).is_some() {
            return true;
        }
        let waiting = self.pending.as_ref().map_or(0, |pending| pending.0.len());
        if !self.finished && waiting == 0 {
            return true;
        }
        let length = self.length(side, state, waiting as u64);
        if length == Known::Later {
            return true;
        }
        if side == Side::Request {
            state.outgoing = if length == Known::Never { Outgoing::Chunked } else { Outgoing::Sized };
        }
        let nbytes = match length {
            Known::Is(nbytes) => nbytes,
            _ if side == Side::Request => ENDLESS,
            _ => UNKNOWN,
        };
        self.promised = if let Known::Is(nbytes) = length { Some(nbytes) } else { None };
        if side == Side::Response
            && self.promised.is_some()
            && let Some(txn) = transform.txn()
            && txn.cache_lookup_status() != Some(CacheLookup::HitFresh)
        {
            // Else ATS sends in chunks what the origin sent in chunks, also where it knows the length.
            if let Err(error) = txn.config_int_set(ConfigKey::HTTP_CHUNKING_ENABLED, 0) {
                log::debug!("a response goes out in chunks: {error}");
            }
        }
        self.framed = side == Side::Request && length == Known::Never;
        // What waits becomes the output's, in the buffer in which it is.
        let buffer = self.pending.take_if(|_| !self.framed).map_or_else(IoBuffer::new, |body| Ok(body.0));
        self.written = buffer.as_ref().map_or(0, |buffer| buffer.len() as u64);
        let opened = buffer.and_then(|buffer| transform.output_open(buffer, nbytes));
        self.opened = opened.is_ok();
        if let Err(error) = &opened {
            log::error!("the output of a body's transform cannot be opened: {error}");
        }
        opened.is_ok()
    }

    /// What is known of the length of what the output will get.
    fn length(&self, side: Side, state: &mut State, waiting: u64) -> Known {
        if self.finished {
            // ATS may wait for ever for the nothing that is left of an HTTP/2 body: an empty chunk is something.
            let nothing =
                side == Side::Request && state.unannounced && self.whole.is_none() && waiting == 0 && self.taken > 0;
            return if nothing { Known::Never } else { Known::Is(waiting) };
        }
        let said = with_host(&mut state.stream, |host| match side {
            Side::Request => host.request_length.clone(),
            Side::Response => host.response_length(),
        });
        let said = said.unwrap_or_default();
        let fixed = !state.needs.changes_body[side as usize];
        match (side, said, self.announced) {
            (Side::Response, Length::Kept, Some(announced)) if fixed => Known::Is(announced),
            (Side::Response, said @ Length::Set(_), _) => said.number().map_or(Known::Never, Known::Is),
            (Side::Response, ..) => Known::Never,
            (Side::Request, said @ Length::Set(_), _) => said.number().map_or(Known::Never, Known::Is),
            (Side::Request, Length::Kept, Some(announced)) if fixed => Known::Is(announced),
            // A body that will end is over soon, or it is large. Many origins take no chunks, so it is worth a wait.
            (Side::Request, _, Some(_)) if waiting < WINDOW as u64 / 2 => Known::Later,
            // Nothing was said of the length: it stays.
            (Side::Request, Length::Kept, Some(announced)) => Known::Is(announced),
            (Side::Request, ..) => Known::Never,
        }
    }

    /// What is left to say when all that could be moved is moved.
    fn finish(&mut self, state: &mut State, transform: &mut Transform<'_>, side: Side, took: bool) -> Next {
        let opened = transform.output_opened();
        if let Some(promised) = self.promised.filter(|_| opened)
            && (self.written > promised || self.finished && self.written != promised)
        {
            state.stream.tell(log::Level::Error, "a length that a filter did not keep", format_args!(
                "a filter left {} bytes of a {} body whose head says {promised}: remove content-length in the header \
                 callback, or set the right one{}",
                self.written,
                side.as_str(),
                if side == Side::Request { ", or use request_body: buffer" } else { "" }
            ));
            self.over = true;
            if side == Side::Request
                && let Some(txn) = transform.txn()
            {
                state.reply.get_or_insert_with(|| Box::new(engine::LocalResponse::text(502, "Bad Gateway\n")));
                txn.server_drop();
                return Next::Nothing;
            }
            return Next::Fail;
        }
        if self.finished && opened {
            if self.framed {
                transform.output_write(chunked::END);
                self.written += chunked::END.len() as u64;
            }
            if let Some(mut output) = transform.output() {
                output.nbytes_set(self.written);
                output.reenable();
            }
            if side == Side::Request {
                state.sent = Some(self.written);
                state.came = self.taken > 0;
            }
            self.over = true;
            return Next::Complete;
        }
        if took && !self.ended { Next::Ready } else { Next::Nothing }
    }

    /// The transaction goes another way: an answer, or none.
    fn end(&mut self, side: Side, state: &mut State, transform: &mut Transform<'_>) -> Next {
        let opened = transform.output_opened();
        self.over = true;
        self.pending = None;
        match side {
            Side::Response if opened => {
                state.stream.tell(
                    log::Level::Error,
                    "a response that is cut",
                    format_args!("a response is cut, for it is too late for another answer"),
                );
                Next::Fail
            }
            Side::Response if transform.input().is_some_and(|input| input.reader().is_some()) => {
                if let Some(txn) = transform.txn() {
                    state.announce(txn);
                }
                Next::Fail
            }
            // Upstream is gone and hears of no error: the answer's body is sent as the transform's.
            Side::Response => {
                state.answers_as_transform = true;
                let body = state.reply.as_ref().map_or(&[][..], |reply| reply.sent_body());
                let opened = IoBuffer::new().and_then(|mut buffer| {
                    buffer.write(body);
                    transform.output_open(buffer, body.len() as u64)
                });
                if opened.is_ok() { Next::Nothing } else { Next::Fail }
            }
            // SEND_REQUEST_HDR, which follows, answers.
            Side::Request if !opened => {
                let opened = IoBuffer::new().and_then(|buffer| transform.output_open(buffer, 0));
                if opened.is_ok() { Next::Complete } else { Next::Fail }
            }
            // The origin has a part of it: it sees the connection end, and ATS then asks us for the answer.
            Side::Request => {
                if let Some(txn) = transform.txn() {
                    txn.server_drop();
                }
                Next::Nothing
            }
        }
    }
}

/// Whether what ends is an abort, where no length tells.
fn broken(side: Side, transform: &Transform<'_>) -> bool {
    side == Side::Response && transform.txn().is_some_and(Txn::aborted)
}

enum Taken {
    Some,
    Nothing,
    Broken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Is(u64),
    /// Not yet.
    Later,
    Never,
}

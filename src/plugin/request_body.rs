//! Requests' bodies: whether there is one, how it comes to the chain, and how it goes to the origin.
//!
//! Either as it comes, through a transform ([`crate::transforms`]), or whole (`request_body: buffer`). For the latter ATS
//! has a buffer of its own, which it fills before it looks for the origin; if filters changed the body, ATS sends what we
//! give it instead. But after that there is no place left for a response's transform: `HttpTunnel` has two for what
//! produces bytes (`MAX_PRODUCERS`), keeps one for the buffer, and aborts the process when a third is asked for. So where
//! bodies may change and responses' are shown too, and where the client waits for a "100 Continue" (ATS then waits for
//! the origin's before it sends a buffered body), the body is gathered in the transform: the connection to the origin
//! is open then, and nothing has been sent on it.
//!
//! In each case the origin gets one framing, and it is right: what the client said is checked, or taken off.

use ats::alloc::TsBuf;
use ats::chunked::Decoder;
use ats::headers::KnownField;
use ats::hook::Hook;
use ats::http::Request;
use ats::iobuf::IoBuffer;
use ats::messages::Messages;
use ats::txn::{ConfigKey, Txn};
use ats::txn_hooks::Attached;
use engine::{BodyBuffer, LocalResponse, Side, Stream};

use crate::body::IoBody;
use crate::course::Input;
use crate::state::{Outgoing, State, Transaction};
use crate::{process, transforms};

/// Whether the head of a request says that there is a body: then it does not end the stream.
pub(crate) fn is_announced(request: &Request<'_>) -> bool {
    request.get_known(KnownField::ContentLength).is_some_and(|length| length != b"0")
        || request.has_known(KnownField::TransferEncoding)
}

/// Whether a body may come that the head says nothing of, as HTTP/2 allows.
pub(crate) fn may_come_unannounced(txn: Txn<'_>, method: &[u8], request: &Request<'_>) -> bool {
    // The method first: it settles most requests, and what the client speaks takes ATS a search.
    !matches!(method, b"GET" | b"HEAD" | b"OPTIONS" | b"DELETE" | b"TRACE" | b"CONNECT")
        && !request.has_known(KnownField::ContentLength)
        && txn.client_protocol_contains(c"h2")
}

/// Whether a body may come that the head says nothing of, in this request.
fn is_unannounced(request: &Request<'_>) -> bool {
    !request.has_known(KnownField::ContentLength) && !is_chunked(request)
}

/// The framing that a body comes in.
fn is_chunked(request: &Request<'_>) -> bool {
    request.has_known(KnownField::TransferEncoding)
}

fn length(request: &Request<'_>) -> Option<u64> {
    std::str::from_utf8(request.get_known(KnownField::ContentLength)?).ok()?.trim().parse().ok()
}

/// Sees to it that the body comes to the chain. May answer instead, for one that is larger than it may be.
pub(crate) fn prepare(this: &Attached<Transaction>, state: &mut State, messages: &mut Messages<'_>) {
    let txn = messages.txn();
    let Some(mut request) = messages.client_req_get() else { return };
    // ATS waits for the origin's "100 Continue" before it reads the body, and the origin is asked when we have it.
    // A client that was told nothing sends it all the same, if late.
    let expects = request.remove(b"Expect").unwrap_or(false);
    // What a client has a type for, it has.
    let certain = request.get_first(b"Content-Type").is_some();
    if is_unannounced(&request) && certain {
        // ATS opens a transform for what is said to be chunked, and gives it chunks.
        state.unannounced = true;
        if request.append(b"Transfer-Encoding", b"chunked").is_err() {
            return;
        }
    } else if is_unannounced(&request) {
        // Whether there is one ATS knows, and a plugin cannot: a transform without a body to read would leave its place
        // in the tunnel taken. ATS's own buffer comes to us if there is one.
        state.unannounced = true;
        if let Err(error) = txn.config_int_set(ConfigKey::HTTP_REQUEST_BUFFER_ENABLED, 1) {
            state.stream.tell(
                log::Level::Error,
                "a request's body that cannot be buffered",
                format_args!("a request's body cannot be buffered, and is answered 503: {error}"),
            );
            state.reply = Some(Box::new(LocalResponse::text(503, "Service Unavailable\n")));
        }
        return;
    }
    // Without the guard, an origin that answers before it has the body would end the server.
    let mut whole = (!ats::transform_guard::can_stream_requests()).then_some(state.needs.request_limit);
    if state.needs.buffers_request {
        let limit = state.needs.request_limit as u64;
        if length(&request).is_some_and(|length| length > limit) {
            state.stream.tell(
                log::Level::Warn,
                "a request that is too large",
                format_args!("a request of more than {} KiB (limits.body_kib) is answered 413", limit >> 10),
            );
            state.reply = Some(too_large());
            return;
        }
        if fits_ats(state, expects, length(&request)) {
            if let Err(error) = txn.config_int_set(ConfigKey::HTTP_REQUEST_BUFFER_ENABLED, 1) {
                state.stream.tell(
                    log::Level::Error,
                    "a request's body that cannot be buffered",
                    format_args!("a request's body cannot be buffered, and is answered 503: {error}"),
                );
                state.reply = Some(Box::new(LocalResponse::text(503, "Service Unavailable\n")));
            }
            return;
        }
        whole = Some(state.needs.request_limit);
    }
    let decoder = is_chunked(&request).then(Decoder::new);
    transforms::add(txn, this, state, Side::Request, Input { decoder, whole });
}

/// Whether ATS can buffer this body, and go on as it has to.
fn fits_ats(state: &State, expects: bool, length: Option<u64>) -> bool {
    let changes = state.needs.changes_body[Side::Request as usize];
    let response = !state.head && state.stream.wants_body(Side::Response);
    // Of what does not fit there, ATS drops the connection.
    let room = process::get().post_copy_size;
    !(expects || changes && response) && length.is_some_and(|length| length <= room)
}

pub(crate) fn too_large() -> Box<LocalResponse> {
    Box::new(LocalResponse::text(413, "Content Too Large\n"))
}

/// REQUEST_BUFFER_READ_COMPLETE: shows the whole body to the chain.
pub(crate) fn show_buffered(state: &mut State, hook: &mut Hook) {
    let chunked = hook.messages().client_req_get().is_some_and(|request| is_chunked(&request));
    match whole(&state.stream, hook, chunked, state.needs.request_limit) {
        Ok(body) => {
            let body = (!body.is_empty()).then(|| Box::new(IoBody(body)) as Box<dyn BodyBuffer>);
            let verdict = state.stream.body(Side::Request, body, true);
            state.accept(verdict);
        }
        Err(answer) => state.reply = Some(answer),
    }
}

/// The body that ATS has buffered, without its framing.
fn whole(stream: &Stream, hook: &Hook, chunked: bool, limit: usize) -> Result<IoBuffer, Box<LocalResponse>> {
    let failed = |_| Box::new(LocalResponse::text(503, "Service Unavailable\n"));
    let mut body = IoBuffer::new().map_err(failed)?;
    let Some(buffered) = hook.post_buffer() else { return Ok(body) };
    let reader = buffered.reader();
    if chunked {
        let mut decoder = Decoder::new();
        let mut parts = Vec::new();
        let (mut read, mut result) = (0, Ok(()));
        reader.read(0, usize::MAX, &mut |piece| {
            if result.is_ok() {
                match decoder.decode(piece, &mut |part| parts.push((read + part.start, part.len()))) {
                    Ok(used) => read += used,
                    Err(error) => result = Err(error),
                }
            }
        });
        if let Err(error) = result {
            stream.tell(
                log::Level::Warn,
                "a wrong chunked body",
                format_args!("a request is refused, for its chunked body is wrong: {error}"),
            );
            return Err(Box::new(LocalResponse::text(400, "Bad Request\n")));
        }
        if !decoder.is_done() {
            return Err(Box::new(LocalResponse::text(400, "Bad Request\n")));
        }
        for (start, len) in parts {
            body.copy_from(&reader, start, len);
        }
    } else {
        body.copy_from(&reader, 0, usize::MAX);
    }
    if body.len() > limit {
        stream.tell(
            log::Level::Warn,
            "a request that is too large",
            format_args!("a request of more than {} KiB (limits.body_kib) is answered 413", limit >> 10),
        );
        return Err(too_large());
    }
    Ok(body)
}

/// What the chain let pass of a buffered body is what the origin gets. False while the chain holds it.
pub(crate) fn pass_buffered(state: &mut State, messages: &mut Messages<'_>) -> bool {
    if state.stream.holds_headers(Side::Request).is_some() {
        return false;
    }
    let passed = state.stream.take_body(Side::Request);
    if !passed.end {
        return false;
    }
    if !state.stream.changed_body(Side::Request) {
        if state.unannounced {
            // ATS sends what it has buffered as it is, and would say nothing of its length.
            let length = passed.bytes.as_ref().map_or(0, |bytes| bytes.len()).to_string();
            if let Some(mut request) = messages.client_req_get() {
                let _ = request.set(b"Content-Length", length.as_bytes());
            }
        }
        return true;
    }
    if state.unannounced && state.transforms[Side::Response as usize].is_some() {
        state.stream.tell(log::Level::Warn, "a request that is answered 411", format_args!(
            "a request with a body and no content-length is answered 411: a filter changed it, ATS can send that only \
             as a whole, and has then no place for filters of response bodies"
        ));
        state.reply = Some(Box::new(LocalResponse::text(411, "Length Required\n")));
        return false;
    }
    state.outgoing = Outgoing::Sized;
    let len = passed.bytes.as_ref().map_or(0, |bytes| bytes.len());
    let body = TsBuf::gather(len, |write| {
        if let Some(bytes) = &passed.bytes {
            bytes.read(0, len, write);
        }
    });
    messages.txn().server_request_body_set(Some(body));
    true
}

/// SEND_REQUEST_HDR: one framing, and the right one.
pub(crate) fn frame(outgoing: Outgoing, messages: &mut Messages<'_>) {
    let wrong: &[u8] = match outgoing {
        Outgoing::Untouched => return,
        // ATS states the length.
        Outgoing::Sized => b"Transfer-Encoding",
        Outgoing::Chunked => b"Content-Length",
    };
    let Some(mut request) = messages.server_req_get() else { return };
    let mut result = request.remove(wrong).map(drop);
    if outgoing == Outgoing::Chunked {
        result = result.and_then(|()| request.set(b"Transfer-Encoding", b"chunked"));
    }
    if let Err(error) = result {
        crate::logs::tell(
            "a request's framing that cannot be written",
            Some(messages.txn().id()),
            format_args!("a request's framing cannot be written: {error}"),
        );
    }
}

/// READ_RESPONSE_HDR: whether the origin answered before it had all of a body that comes from a transform.
pub(crate) fn was_given_up(state: &State, txn: Txn<'_>) -> bool {
    state.transforms[Side::Request as usize].is_some()
        && state.outgoing != Outgoing::Untouched
        // Of a body that did not come after all, ATS leaves the transform in the tunnel's place.
        && (state.sent != Some(txn.server_req_body_bytes()) || state.unannounced && !state.came)
}

/// READ_RESPONSE_HDR: ATS is to forget a body that was sent to the origin.
pub(crate) fn forget(txn: Txn<'_>) {
    txn.error_body_set(None, None);
}

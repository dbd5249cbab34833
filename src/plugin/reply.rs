//! Local responses, exact in status, reason, fields and body.
//!
//! ATS has a different way for each moment, and none that takes a whole response:
//!
//! - In DoRemap, a status makes ATS build an error page and, in SEND_RESPONSE_HDR, lets us put everything right:
//!   status, reason, fields, and any body, since the body is read only after that hook. The connection stays open.
//! - From POST_REMAP, the same after `TS_EVENT_HTTP_ERROR`; ATS then closes the connection.
//! - At SEND_RESPONSE_HDR of a response from elsewhere, `TS_EVENT_HTTP_ERROR` replaces the body, but no hook follows
//!   in which fields could be set: only status (400 and above), body and media type arrive.

use ats::alloc::TsBuf;
use ats::http::{Response, reason_lookup};
use ats::messages::Messages;
use ats::txn::Txn;
use engine::{BodyBuffer, LocalResponse};

/// Fields that are ATS's to write, or that describe one connection: never taken from a filter.
const HOP_BY_HOP: [&[u8]; 9] = [
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"content-length",
    b"proxy-authenticate-info",
];

/// Fields of a response that are the proxy's and not the origin's.
const OF_THE_PROXY: [&[u8]; 3] = [b"Date", b"Server", b"Via"];

/// Fields that ATS puts into its own error pages, which a filter's answer has only if the filter says so.
const OF_ERROR_PAGES: [&[u8]; 3] = [b"Content-Type", b"Content-Language", b"Cache-Control"];

/// Answers 503, short and plain: where there is no filter's answer to send.
pub(crate) fn refuse(txn: Txn<'_>) {
    let _ = txn.status_set(503);
    txn.error_body_set(Some(TsBuf::copy_from(b"Service Unavailable\n")), Some(b"text/plain"));
}

/// Makes ATS answer instead of the origin, up to SEND_RESPONSE_HDR, where [`write()`] has the last word.
pub(crate) fn announce(txn: Txn<'_>, response: &LocalResponse) {
    // ATS takes no keep-alive with 400 and 408, and makes a 500 of what is below 400; the real code comes later.
    let stand_in = match response.status {
        code @ 401..=599 if code != 408 => code,
        _ => 500,
    };
    let _ = txn.status_set(stand_in);
    // Something short, so that ATS does not build its page from a template only for us to throw it away.
    txn.error_body_set(Some(TsBuf::copy_from(b"-")), Some(b"text/plain"));
}

/// SEND_RESPONSE_HDR of an announced answer: makes it the filter's.
pub(crate) fn write(messages: &mut Messages<'_>, response: &LocalResponse) {
    let txn = messages.txn();
    let no_body = has_no_body(response.status);
    if no_body || response.body.is_empty() {
        txn.error_body_set(None, None);
    } else {
        // An empty media type leaves the field Content-Type to us.
        txn.error_body_set(Some(TsBuf::copy_from(&response.body)), Some(b""));
    }
    let Some(mut head) = messages.client_resp_get() else { return };
    if let Err(error) = write_head(&mut head, response, no_body) {
        crate::logs::tell(
            "a local response that is incomplete",
            Some(txn.id()),
            format_args!("a local response is incomplete: {error}"),
        );
    }
}

fn has_no_body(status: u16) -> bool {
    matches!(status, 204 | 304)
}

fn write_head(head: &mut Response<'_>, response: &LocalResponse, no_body: bool) -> ats::Result<()> {
    head.set_status(response.status)?;
    head.set_reason(reason(response))?;
    for name in OF_ERROR_PAGES {
        head.remove(name)?;
    }
    if no_body {
        head.remove(b"Content-Length")?;
    }
    // What the filter sends replaces what ATS put there (Date, Server), and may have duplicates of its own.
    for (name, _) in &response.headers {
        if !is_hop_by_hop(name) {
            head.remove(name)?;
        }
    }
    let mut typed = false;
    for (name, value) in &response.headers {
        if !is_hop_by_hop(name) {
            head.append(name, value)?;
            typed |= name.eq_ignore_ascii_case(b"content-type");
        }
    }
    if let Some(status) = response.grpc_status {
        head.set(b"grpc-status", status.to_string().as_bytes())?;
    }
    if !typed && !no_body && !response.body.is_empty() {
        head.append(b"content-type", b"text/plain")?;
    }
    if !no_body && response.body.is_empty() {
        // To HEAD, ATS says it of bodies alone.
        head.set(b"Content-Length", b"0")?;
    }
    Ok(())
}

/// SEND_RESPONSE_HDR of an answer whose body comes from a transform, which has told its length.
pub(crate) fn write_over_transform(messages: &mut Messages<'_>, response: &LocalResponse) {
    clear(messages);
    let Some(mut head) = messages.client_resp_get() else { return };
    if let Err(error) = write_head(&mut head, response, has_no_body(response.status)) {
        crate::logs::tell(
            "a local response that is incomplete",
            Some(messages.txn().id()),
            format_args!("a local response is incomplete: {error}"),
        );
    }
}

/// SEND_RESPONSE_HDR of a response whose body ATS takes from us, or has none: makes it the filter's as a whole.
pub(crate) fn overwrite(messages: &mut Messages<'_>, response: &LocalResponse, head: bool) {
    clear(messages);
    write(messages, response);
    if head
        && !has_no_body(response.status)
        && let Some(mut old) = messages.client_resp_get()
    {
        let length = response.body.len().to_string();
        let _ = old.set(b"Content-Length", length.as_bytes());
    }
}

/// Takes the fields of another response away.
fn clear(messages: &mut Messages<'_>) {
    if let Some(mut old) = messages.client_resp_get() {
        let mut names = Vec::new();
        old.for_each(|name, _| {
            if !is_hop_by_hop(name) && !OF_THE_PROXY.iter().any(|kept| name.eq_ignore_ascii_case(kept)) {
                names.push(name.to_vec());
            }
        });
        for name in names {
            let _ = old.remove(&name);
        }
    }
}

/// An origin's answer without its body.
pub(crate) fn without_body(response: &Response<'_>) -> Box<LocalResponse> {
    let mut headers = Vec::new();
    response.for_each(|name, value| {
        if name.first() != Some(&b'@') && !is_hop_by_hop(name) {
            headers.push((name.to_vec(), value.to_vec()));
        }
    });
    let status = response.status();
    let details = response.reason().to_vec();
    Box::new(LocalResponse { status, details, headers, body: Vec::new(), grpc_status: None })
}

/// SEND_RESPONSE_HDR of an answer whose body filters changed.
pub(crate) fn replace_body(messages: &mut Messages<'_>, bytes: &dyn BodyBuffer) {
    if bytes.is_empty() {
        messages.txn().error_body_set(None, None);
        return;
    }
    let body = TsBuf::gather(bytes.len(), |write| bytes.read(0, bytes.len(), write));
    messages.txn().error_body_set(Some(body), Some(b""));
}

/// SEND_RESPONSE_HDR of a response without a body by its status: no length either, also if a transform gave it one.
pub(crate) fn without_length(messages: &mut Messages<'_>) {
    if let Some(mut response) = messages.client_resp_get()
        && response.status() == 204
    {
        let _ = response.remove(b"Content-Length");
    }
}

/// SEND_RESPONSE_HDR of a response from elsewhere: as much of the answer as ATS takes there.
pub(crate) fn replace(txn: Txn<'_>, response: &LocalResponse) {
    let _ = txn.status_set(response.status);
    if response.body.is_empty() {
        txn.error_body_set(None, None);
        return;
    }
    let typed = response.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"content-type"));
    let media_type = typed.map_or(&b"text/plain"[..], |(_, value)| value);
    txn.error_body_set(Some(TsBuf::copy_from(&response.body)), Some(media_type));
}

/// The filter's own phrase, else the usual one.
fn reason(response: &LocalResponse) -> &[u8] {
    let printable = response.details.iter().all(|byte| (b' '..=b'~').contains(byte));
    if !response.details.is_empty() && printable { &response.details } else { reason_lookup(response.status) }
}

fn is_hop_by_hop(name: &[u8]) -> bool {
    HOP_BY_HOP.iter().any(|known| name.eq_ignore_ascii_case(known))
}

//! Properties of a transaction, under Envoy's names and in Envoy's encodings: strings as they are, numbers as eight
//! bytes, little endian.

use ats::messages::Messages;
use engine::{Error, PseudoHeader};

use crate::host::{RequestLine, ResponseView, TxnHost, read_pseudo, response_of};

/// Appends the value of the property `path` (segments joined by NUL).
///
/// # Errors
/// [`Error::NotFound`] for a path without a meaning here, or without a value now.
pub(crate) fn read(host: &mut TxnHost, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (mut messages, line, view) = host.parts()?;
    let messages = &mut messages;
    let (scope, rest) = split(path);
    let (name, key) = split(rest);
    match (scope, name) {
        (b"request", _) => request(messages, line, view, name, key, out),
        (b"response", _) => response(messages, view, name, key, out),
        (b"source", b"address") => text(out, messages.txn().client_addr()),
        (b"source", b"port") => number(out, messages.txn().client_addr().map(|at| u64::from(at.port()))),
        (b"destination", b"address") => text(out, messages.txn().incoming_addr()),
        (b"destination", b"port") => number(out, messages.txn().incoming_addr().map(|at| u64::from(at.port()))),
        (b"upstream", b"address") => text(out, messages.txn().server_addr()),
        (b"upstream", b"port") => number(out, messages.txn().server_addr().map(|at| u64::from(at.port()))),
        _ => Err(Error::NotFound),
    }
}

/// The first segment, and the rest.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == 0) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &[]),
    }
}

fn number(out: &mut Vec<u8>, value: Option<u64>) -> Result<(), Error> {
    out.extend_from_slice(&value.ok_or_else(|| Error::NotFound)?.to_le_bytes());
    Ok(())
}

fn text(out: &mut Vec<u8>, value: Option<impl std::fmt::Display>) -> Result<(), Error> {
    out.extend_from_slice(value.ok_or_else(|| Error::NotFound)?.to_string().as_bytes());
    Ok(())
}

fn request(
    messages: &mut Messages<'_>,
    line: &RequestLine,
    view: &ResponseView,
    name: &[u8],
    key: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    let mut pseudo = |which, out: &mut Vec<u8>| read_pseudo(messages, line, view, which, out);
    let field: &[u8] = match name {
        b"path" => return pseudo(PseudoHeader::Path, out),
        b"method" => return pseudo(PseudoHeader::Method, out),
        b"scheme" => return pseudo(PseudoHeader::Scheme, out),
        b"host" => return pseudo(PseudoHeader::Authority, out),
        b"url_path" | b"query" => {
            let mut target = Vec::new();
            pseudo(PseudoHeader::Path, &mut target)?;
            let cut = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
            let part = if name == b"query" { target.get(cut + 1..).unwrap_or_default() } else { &target[..cut] };
            out.extend_from_slice(part);
            return Ok(());
        }
        b"protocol" => {
            let version = messages.client_req_get().ok_or_else(|| Error::NotFound)?.version();
            return text(out, Some(format_args!("HTTP/{}.{}", version.major, version.minor)));
        }
        b"headers" if !key.is_empty() => key,
        b"referer" => b"Referer",
        b"useragent" => b"User-Agent",
        b"id" => b"X-Request-Id",
        _ => return Err(Error::NotFound),
    };
    let request = messages.client_req_get().ok_or_else(|| Error::NotFound)?;
    out.extend_from_slice(request.get_first(field).ok_or_else(|| Error::NotFound)?);
    Ok(())
}

fn response(
    messages: &mut Messages<'_>,
    view: &ResponseView,
    name: &[u8],
    key: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    if let ResponseView::Early(overlay) = view {
        return match name {
            b"code" => number(out, Some(u64::from(overlay.status))),
            b"code_details" => {
                out.extend_from_slice(ats::http::reason_lookup(overlay.status));
                Ok(())
            }
            b"headers" if !key.is_empty() => {
                out.extend_from_slice(overlay.first(key).ok_or_else(|| Error::NotFound)?);
                Ok(())
            }
            _ => Err(Error::NotFound),
        };
    }
    let response = response_of(messages, view)?;
    match name {
        b"code" => number(out, Some(u64::from(response.status()))),
        b"code_details" => {
            out.extend_from_slice(response.reason());
            Ok(())
        }
        b"headers" if !key.is_empty() => {
            out.extend_from_slice(response.get_first(key).ok_or_else(|| Error::NotFound)?);
            Ok(())
        }
        _ => Err(Error::NotFound),
    }
}

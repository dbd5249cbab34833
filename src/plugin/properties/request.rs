//! `request.*`: what the client asked, as filters made it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ats::txn::Milestone;
use engine::abi::{MapType, pairs};
use engine::{Error, PseudoHeader, StreamHost as _};

use super::{absent, bytes, joined, nanoseconds, now, number, split};
use crate::framing::is_length;
use crate::host::TxnHost;

pub(super) fn is_known(name: &[u8]) -> bool {
    matches!(
        name,
        b"path"
            | b"url_path"
            | b"query"
            | b"host"
            | b"scheme"
            | b"method"
            | b"headers"
            | b"referer"
            | b"useragent"
            | b"id"
            | b"protocol"
            | b"time"
            | b"duration"
            | b"size"
            | b"total_size"
            | b"headers_bytes"
    )
}

pub(super) fn read(host: &mut TxnHost, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (name, key) = split(path);
    match name {
        b"headers" if key.is_empty() => return map(host, MapType::HttpRequestHeaders, out),
        b"headers" => return field(host, key, out),
        _ if !key.is_empty() => return Err(absent()),
        _ => {}
    }
    match name {
        b"path" => host.pseudo_header(PseudoHeader::Path, out),
        b"method" => host.pseudo_header(PseudoHeader::Method, out),
        b"scheme" => host.pseudo_header(PseudoHeader::Scheme, out),
        b"host" => host.pseudo_header(PseudoHeader::Authority, out),
        b"url_path" => {
            let start = out.len();
            host.pseudo_header(PseudoHeader::Path, out)?;
            if let Some(cut) = out[start..].iter().position(|byte| *byte == b'?') {
                out.truncate(start + cut);
            }
            Ok(())
        }
        b"query" => {
            let start = out.len();
            host.pseudo_header(PseudoHeader::Path, out)?;
            let cut = out[start..].iter().position(|byte| *byte == b'?').map_or(out.len(), |cut| start + cut + 1);
            out.drain(start..cut);
            Ok(())
        }
        b"referer" => field(host, b"Referer", out),
        b"useragent" => field(host, b"User-Agent", out),
        b"id" => field(host, b"X-Request-Id", out),
        b"size" => {
            let start = out.len();
            let length = match host.header(MapType::HttpRequestHeaders, b"Content-Length", out) {
                Ok(()) => std::str::from_utf8(&out[start..]).ok().and_then(|text| text.trim().parse().ok()),
                Err(_) => None,
            };
            out.truncate(start);
            let (messages, ..) = host.parts()?;
            number(out, Some(length.unwrap_or_else(|| messages.txn().client_request_body())))
        }
        _ => {
            let (mut messages, ..) = host.parts()?;
            let txn = messages.txn();
            match name {
                b"protocol" if txn.client_protocol_contains(c"h2") => bytes(out, Some(b"HTTP/2")),
                b"protocol" => {
                    let version = messages.client_req_get().ok_or_else(absent)?.version();
                    super::text(out, Some(format_args!("HTTP/{}.{}", version.major, version.minor)))
                }
                b"headers_bytes" => number(out, Some(txn.client_request_head())),
                b"total_size" => number(out, Some(txn.client_request_head() + txn.client_request_body())),
                b"time" => {
                    let time = txn.milestone(Milestone::UA_FIRST_READ).or_else(|| txn.milestone(Milestone::UA_BEGIN));
                    nanoseconds(out, time)
                }
                b"duration" => {
                    let end = txn.milestone(Milestone::UA_CLOSE).unwrap_or_else(now);
                    nanoseconds(out, txn.milestone(Milestone::SM_START).map(|start| (end - start).max(0)))
                }
                _ => Err(absent()),
            }
        }
    }
}

/// All values of a request field, or a pseudo-header.
fn field(host: &mut TxnHost, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    const MAP: MapType = MapType::HttpRequestHeaders;
    if let Some(pseudo) = PseudoHeader::find(MAP, name) {
        return host.pseudo_header(pseudo, out);
    }
    if is_length(name) {
        // Which may be a filter's word, and not in the message.
        return host.header(MAP, name, out);
    }
    let (mut messages, ..) = host.parts()?;
    let request = messages.client_req_get().ok_or_else(absent)?;
    joined(&request, name, out)
}

/// A whole map: names in small letters, each once, its values joined by commas; pseudo-headers first.
pub(super) fn map(host: &mut TxnHost, map: MapType, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut fields: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for pseudo in PseudoHeader::of_map(map) {
        let mut value = Vec::new();
        if host.pseudo_header(*pseudo, &mut value).is_ok() {
            fields.push((pseudo.as_str().into(), value));
        }
    }
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    host.headers(map, &mut |name, value| match places.entry(name.to_ascii_lowercase()) {
        Entry::Occupied(place) => {
            let known = &mut fields[*place.get()].1;
            known.push(b',');
            known.extend_from_slice(value);
        }
        Entry::Vacant(place) => {
            fields.push((place.key().clone(), value.to_vec()));
            place.insert(fields.len() - 1);
        }
    })?;
    pairs::encode(fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice())), out)
}

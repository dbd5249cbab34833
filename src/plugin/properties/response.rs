//! `response.*`: what the client gets, where filters see it now.

use ats::sys::{
    TS_SRVSTATE_ACTIVE_TIMEOUT, TS_SRVSTATE_BAD_INCOMING_RESPONSE, TS_SRVSTATE_CONNECTION_CLOSED,
    TS_SRVSTATE_CONNECTION_ERROR, TS_SRVSTATE_INACTIVE_TIMEOUT, TS_SRVSTATE_OPEN_RAW_ERROR, TS_SRVSTATE_PARSE_ERROR,
};
use ats::txn::{Milestone, Txn};
use engine::abi::MapType;
use engine::{Error, PseudoHeader, StreamHost as _};

use super::{absent, bytes, join, joined, nanoseconds, number, request, split};
use crate::host::{ResponseView, TxnHost, response_of};

pub(super) fn is_known(name: &[u8]) -> bool {
    matches!(
        name,
        b"code"
            | b"code_details"
            | b"flags"
            | b"grpc_status"
            | b"headers"
            | b"trailers"
            | b"size"
            | b"total_size"
            | b"headers_bytes"
            | b"backend_latency"
    )
}

pub(super) fn read(host: &mut TxnHost, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (name, key) = split(path);
    match name {
        b"headers" if key.is_empty() => return request::map(host, MapType::HttpResponseHeaders, out),
        b"headers" => return field(host, key, out),
        _ if !key.is_empty() => return Err(absent()),
        b"grpc_status" => {
            let start = out.len();
            field(host, b"Grpc-Status", out)?;
            let status = std::str::from_utf8(&out[start..]).ok().and_then(|text| text.trim().parse().ok());
            out.truncate(start);
            return number(out, status);
        }
        _ => {}
    }
    let (mut messages, _, view) = host.parts()?;
    let txn = messages.txn();
    match name {
        b"code" => match view {
            ResponseView::Early(overlay) => number(out, Some(overlay.status.into())),
            view => number(out, Some(response_of(&mut messages, view)?.status().into())),
        },
        b"code_details" => match view {
            ResponseView::Early(overlay) => match messages.transform_resp_get() {
                Some(response) if response.status() == overlay.status => bytes(out, Some(response.reason())),
                _ => bytes(out, Some(ats::http::reason_lookup(overlay.status))),
            },
            view => bytes(out, Some(response_of(&mut messages, view)?.reason())),
        },
        b"flags" => number(out, Some(flags(txn))),
        b"size" => number(out, Some(txn.client_response_body())),
        b"headers_bytes" => number(out, Some(txn.client_response_head())),
        b"total_size" => number(out, Some(txn.client_response_head() + txn.client_response_body())),
        b"backend_latency" => {
            let first = txn.milestone(Milestone::SERVER_BEGIN_WRITE);
            let last = txn.milestone(Milestone::SERVER_CLOSE);
            nanoseconds(out, first.zip(last).map(|(first, last)| (last - first).max(0)))
        }
        _ => Err(absent()),
    }
}

/// All values of a response field, or `:status`.
fn field(host: &mut TxnHost, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    if let Some(pseudo) = PseudoHeader::find(MapType::HttpResponseHeaders, name) {
        return host.pseudo_header(pseudo, out);
    }
    let (mut messages, _, view) = host.parts()?;
    match view {
        ResponseView::Early(overlay) => {
            let values = overlay.fields().filter(|(field, _)| field.eq_ignore_ascii_case(name));
            join(values.map(|(_, value)| value), out)
        }
        view => {
            let response = response_of(&mut messages, view)?;
            joined(&response, name, out)
        }
    }
}

/// Envoy's response flags, those that ATS can tell: what went wrong with the origin.
fn flags(txn: Txn<'_>) -> u64 {
    const UPSTREAM_REQUEST_TIMEOUT: u64 = 0x4;
    const UPSTREAM_CONNECTION_FAILURE: u64 = 0x20;
    const UPSTREAM_CONNECTION_TERMINATION: u64 = 0x40;
    match txn.server_state() {
        TS_SRVSTATE_ACTIVE_TIMEOUT | TS_SRVSTATE_INACTIVE_TIMEOUT => UPSTREAM_REQUEST_TIMEOUT,
        TS_SRVSTATE_CONNECTION_ERROR | TS_SRVSTATE_OPEN_RAW_ERROR => UPSTREAM_CONNECTION_FAILURE,
        TS_SRVSTATE_CONNECTION_CLOSED | TS_SRVSTATE_BAD_INCOMING_RESPONSE | TS_SRVSTATE_PARSE_ERROR => {
            UPSTREAM_CONNECTION_TERMINATION
        }
        _ => 0,
    }
}

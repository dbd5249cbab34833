//! `ats.*`: what ATS knows of a transaction and Envoy has no name for; some of it may be set.

use std::net::SocketAddr;

use ats::messages::Messages;
use ats::record::{Record, RecordValue};
use ats::routing::{CacheFlag, NextHop};
use ats::session::NetConnection;
use ats::txn::{CacheLookup, Milestone, Txn};
use engine::Error;

use super::{absent, bytes, nanoseconds, number, read_only, records, refused, split, text, truth};
use crate::host::TxnHost;

const MIN_LIFETIME: &[u8] = b"proxy.config.http.cache.guaranteed_min_lifetime";
const MAX_LIFETIME: &[u8] = b"proxy.config.http.cache.guaranteed_max_lifetime";
const REQUIRED_HEADERS: &[u8] = b"proxy.config.http.cache.required_headers";
const REDIRECTIONS: &[u8] = b"proxy.config.http.number_of_redirections";

/// ATS copies a redirected request's Host field into a buffer of 1025 bytes without asking how long it is.
const LONGEST_REDIRECTED_HOST: usize = 255;

pub(super) fn read(host: &mut TxnHost, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (messages, ..) = host.parts()?;
    let txn = messages.txn();
    let (name, rest) = split(path);
    match name {
        b"cache" => cache(txn, rest, out),
        b"remap" => {
            let url = match rest {
                b"from" => messages.remap_from_url_get(),
                b"to" => messages.remap_to_url_get(),
                _ => None,
            };
            bytes(out, Some(&url.ok_or_else(absent)?.to_vec()))
        }
        b"txn" => match rest {
            b"id" => number(out, Some(txn.id())),
            b"uuid" => bytes(out, txn.uuid().as_deref()),
            // The tag stays when the connection, which ATS asks, is gone.
            b"internal" => truth(out, txn.is_internal() || txn.plugin_tag().is_some()),
            b"aborted" => truth(out, txn.aborted()),
            b"plugin_tag" => bytes(out, txn.plugin_tag()),
            _ => Err(absent()),
        },
        b"milestones" => {
            let time = Milestone::find(rest).and_then(|milestone| txn.milestone(milestone));
            nanoseconds(out, time.zip(txn.milestone(Milestone::SM_START)).map(|(time, start)| time - start))
        }
        b"config" => records::read(txn, rest, out),
        b"next_hop" => match rest {
            b"kind" => bytes(
                out,
                txn.next_hop().map(|hop| match hop {
                    NextHop::Origin => &b"origin"[..],
                    NextHop::Parent => b"parent",
                }),
            ),
            b"host" => bytes(out, txn.next_hop_name()),
            b"port" => number(out, txn.next_hop_port().map(u64::from)),
            b"address" => text(out, txn.next_hop_addr()),
            _ => Err(absent()),
        },
        b"parent" if rest.is_empty() => {
            let (name, port) = txn.parent_proxy().ok_or_else(absent)?;
            bytes(out, Some(name))?;
            text(out, Some(format_args!(":{port}")))
        }
        b"redirect" => match rest {
            b"follow" => number(out, record(txn, REDIRECTIONS)),
            b"count" => number(out, Some(txn.redirections())),
            _ => Err(absent()),
        },
        b"client" | b"server" => side(txn, name == b"client", rest, out),
        _ => Err(absent()),
    }
}

fn cache(txn: Txn<'_>, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    match name {
        b"lookup_status" => bytes(
            out,
            txn.cache_lookup_status().map(|status| match status {
                CacheLookup::Miss => &b"miss"[..],
                CacheLookup::HitStale => b"hit-stale",
                CacheLookup::HitFresh => b"hit-fresh",
                CacheLookup::Skipped => b"skipped",
            }),
        ),
        b"key" => bytes(out, txn.cache_url().as_deref()),
        b"lifetime" => {
            let bounds = record(txn, MIN_LIFETIME).zip(record(txn, MAX_LIFETIME));
            number(out, bounds.filter(|(least, most)| least == most).map(|(least, _)| least))
        }
        name => truth(out, txn.cache_flag(flag(name).ok_or_else(absent)?)),
    }
}

/// The connection of one side.
fn side(txn: Txn<'_>, of_client: bool, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let connection = if of_client { txn.client_connection() } else { txn.server_connection() };
    match name {
        b"protocols" => {
            let start = out.len();
            let list = |layer: &[u8]| {
                if out.len() > start {
                    out.push(b',');
                }
                out.extend_from_slice(layer);
            };
            if of_client {
                txn.client_protocols(list)
            } else {
                txn.server_protocols(list)
            }
            if out.len() == start { Err(absent()) } else { Ok(()) }
        }
        b"transactions" if of_client => number(out, txn.session_transactions()),
        b"transactions" => number(out, connection.map(|_| txn.server_transactions())),
        b"request_bytes" if !of_client => number(out, Some(txn.server_request_head() + txn.server_request_body())),
        b"response_bytes" if !of_client => number(out, Some(txn.server_response_head() + txn.server_response_body())),
        b"tls_cipher" => bytes(out, connection.and_then(NetConnection::tls_cipher)),
        b"tls_group" => bytes(out, connection.and_then(NetConnection::tls_group)),
        b"tls_resumed" => {
            let connection = connection.filter(|connection| connection.tls_version().is_some());
            truth(out, connection.ok_or_else(absent)?.tls_resumed())
        }
        _ => Err(absent()),
    }
}

pub(super) fn write(host: &mut TxnHost, path: &[u8], value: &[u8]) -> Result<(), Error> {
    let (mut messages, ..) = host.parts()?;
    let txn = messages.txn();
    let (name, rest) = split(path);
    let done = match (name, rest) {
        (b"config", name) => return records::write(txn, name, value),
        (b"cache", b"key") => txn.cache_url_set(value),
        (b"cache", b"lifetime") => return lifetime(txn, value),
        (b"cache", name) if flag(name).is_some() => {
            let on = match value {
                b"\x01" | b"1" | b"true" => true,
                b"\x00" | b"0" | b"false" => false,
                _ => return Err(Error::BadArgument("a truth value is one byte")),
            };
            if let Some(flag) = flag(name) {
                txn.cache_flag_set(flag, on);
            }
            return Ok(());
        }
        (b"next_hop", b"address") => return next_hop(txn, value),
        (b"parent", b"") => {
            let (name, port) = host_and_port(value)?;
            too_late(txn)?;
            txn.parent_proxy_set(name, port)
        }
        (b"redirect", b"follow") => {
            let count = int(value)?;
            check_host(&mut messages)?;
            return set(txn, REDIRECTIONS, count);
        }
        (b"redirect", b"url") => {
            check_host(&mut messages)?;
            txn.redirect_url_set(value)
        }
        // The whole scope is ATS's: what is misspelled is not kept as a filter's own.
        _ => return Err(read_only(path)),
    };
    done.map_err(|error| refused(&error))
}

fn flag(name: &[u8]) -> Option<CacheFlag> {
    match name {
        b"no_store" => Some(CacheFlag::NO_STORE),
        b"request_cacheable" => Some(CacheFlag::REQUEST_CACHEABLE),
        b"response_cacheable" => Some(CacheFlag::RESPONSE_CACHEABLE),
        _ => None,
    }
}

/// An integer as it is read: eight bytes.
fn int(value: &[u8]) -> Result<i64, Error> {
    let bytes = value.try_into().map_err(|_| Error::BadArgument("a number is eight bytes, little endian"))?;
    Ok(i64::from_le_bytes(bytes))
}

fn record(txn: Txn<'_>, name: &[u8]) -> Option<u64> {
    match txn.record_get(Record::find(name)?) {
        Ok(RecordValue::Int(value)) => u64::try_from(value).ok(),
        _ => None,
    }
}

fn set(txn: Txn<'_>, name: &[u8], value: i64) -> Result<(), Error> {
    if value < 0 {
        return Err(Error::BadArgument("the number is negative"));
    }
    records::write(txn, name, value.to_string().as_bytes())
}

/// How long a response is fresh, whatever it says of that itself: both bounds between which ATS keeps every lifetime,
/// and no header that a response would need to be stored at all.
fn lifetime(txn: Txn<'_>, value: &[u8]) -> Result<(), Error> {
    let seconds = int(value)?;
    set(txn, MIN_LIFETIME, seconds)?;
    set(txn, MAX_LIFETIME, seconds)?;
    set(txn, REQUIRED_HEADERS, 0)
}

/// An address that the origin is asked at.
fn next_hop(txn: Txn<'_>, value: &[u8]) -> Result<(), Error> {
    let address: Option<SocketAddr> = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    let address = address.ok_or_else(|| Error::BadArgument("an address is ip:port, or [ip]:port"))?;
    too_late(txn)?;
    txn.server_addr_set(address).map_err(|error| refused(&error))
}

/// Once ATS knows whom it asks, another word on that has no effect, or one on half of it.
fn too_late(txn: Txn<'_>) -> Result<(), Error> {
    let decided = [Milestone::DNS_LOOKUP_END, Milestone::SERVER_FIRST_CONNECT, Milestone::UA_BEGIN_WRITE];
    if decided.into_iter().any(|milestone| txn.milestone(milestone).is_some()) {
        return Err(Error::BadArgument("the next hop is decided already"));
    }
    Ok(())
}

fn host_and_port(value: &[u8]) -> Result<(&[u8], u16), Error> {
    const WRONG: Error = Error::BadArgument("a parent is host:port");
    let colon = value.iter().rposition(|byte| *byte == b':').ok_or(WRONG)?;
    let port = std::str::from_utf8(&value[colon + 1..]).ok().and_then(|port| port.parse().ok()).ok_or(WRONG)?;
    Ok((&value[..colon], port))
}

fn check_host(messages: &mut Messages<'_>) -> Result<(), Error> {
    let request = messages.client_req_get().ok_or_else(absent)?;
    if request.get_first(b"Host").is_some_and(|host| host.len() > LONGEST_REDIRECTED_HOST) {
        return Err(Error::BadArgument("a request with such a long Host is not redirected"));
    }
    Ok(())
}

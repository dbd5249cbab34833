//! Properties of a transaction: Envoy's attributes under their names and in their encodings, and ATS's own under `ats`.
//!
//! docs/properties.md has them all. Strings are as they are; numbers eight bytes, little endian; a truth value one
//! byte; times and durations nanoseconds; maps as everywhere in the ABI.

mod connection;
mod own;
mod records;
mod request;
mod response;
mod route;

use std::fmt::Display;
use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use ats::headers::HeaderMap;
use engine::Error;

use crate::host::TxnHost;

/// Appends the value of the property `path` (segments joined by NUL).
///
/// # Errors
/// [`Error::NotFound`] for a path without a meaning here, or without a value now.
pub(crate) fn read(host: &mut TxnHost, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (scope, rest) = split(path);
    match scope {
        b"request" => request::read(host, rest, out),
        b"response" => response::read(host, rest, out),
        b"source" | b"destination" | b"connection" | b"upstream" => connection::read(host, scope, rest, out),
        b"connection_id" if rest.is_empty() => connection::read(host, b"connection", b"id", out),
        b"xds" => route::read(host, rest, out),
        // Envoy's older names.
        b"node" | b"cluster_name" | b"route_name" => route::read(host, path, out),
        b"ats" => own::read(host, rest, out),
        _ => Err(absent()),
    }
}

/// Changes a property.
///
/// # Errors
/// [`Error::NotFound`] for a path that is a filter's own to keep; [`Error::BadArgument`] for one that ATS makes, or a
/// value that it does not take.
pub(crate) fn write(host: &mut TxnHost, path: &[u8], value: &[u8]) -> Result<(), Error> {
    let (scope, rest) = split(path);
    let known = match scope {
        b"ats" => return own::write(host, rest, value),
        b"request" => request::is_known(split(rest).0),
        b"response" => response::is_known(split(rest).0),
        b"source" | b"destination" | b"connection" | b"upstream" => connection::is_known(scope, rest),
        b"xds" => route::is_known(rest),
        b"node" | b"cluster_name" | b"route_name" => route::is_known(path),
        b"connection_id" => rest.is_empty(),
        _ => false,
    };
    if known { Err(read_only(path)) } else { Err(absent()) }
}

/// What a filter hears that sets what ATS makes.
fn read_only(path: &[u8]) -> Error {
    log::debug!("a filter sets the read-only property {:?}", String::from_utf8_lossy(path).replace('\0', "."));
    Error::BadArgument("the property is read-only")
}

/// What ATS refused, as the filter hears it.
fn refused(error: &ats::Error) -> Error {
    log::debug!("a filter's property was refused: {error}");
    Error::BadArgument("ATS refuses this value, or refuses it now")
}

/// A function, so that the error is made (and dropped) only where it is needed.
fn absent() -> Error {
    Error::NotFound
}

/// The first segment, and the rest.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|byte| *byte == 0) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &[]),
    }
}

fn bytes(out: &mut Vec<u8>, value: Option<&[u8]>) -> Result<(), Error> {
    out.extend_from_slice(value.ok_or_else(absent)?);
    Ok(())
}

fn text(out: &mut Vec<u8>, value: Option<impl Display>) -> Result<(), Error> {
    // Writing to a vector never fails.
    let _ = write!(out, "{}", value.ok_or_else(absent)?);
    Ok(())
}

fn number(out: &mut Vec<u8>, value: Option<u64>) -> Result<(), Error> {
    out.extend_from_slice(&value.ok_or_else(absent)?.to_le_bytes());
    Ok(())
}

/// A time or a duration, in nanoseconds.
fn nanoseconds(out: &mut Vec<u8>, value: Option<i64>) -> Result<(), Error> {
    out.extend_from_slice(&value.ok_or_else(absent)?.to_le_bytes());
    Ok(())
}

fn truth(out: &mut Vec<u8>, value: bool) -> Result<(), Error> {
    out.push(u8::from(value));
    Ok(())
}

/// Now, on the clock of ATS's milestones.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The values of all fields of this name, a comma between them.
fn joined(fields: &HeaderMap<'_>, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    join(fields.values(name), out)
}

fn join<'v>(values: impl Iterator<Item = &'v [u8]>, out: &mut Vec<u8>) -> Result<(), Error> {
    let mut some = false;
    for value in values {
        if std::mem::replace(&mut some, true) {
            out.push(b',');
        }
        out.extend_from_slice(value);
    }
    if some { Ok(()) } else { Err(absent()) }
}

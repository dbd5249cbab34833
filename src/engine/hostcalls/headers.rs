//! Header maps.
//!
//! What a map answers where it is not there, chosen for what the SDKs survive: reads of one value say
//! `NotFound`; all pairs are an empty map, of no bytes; trailers swallow writes, since ATS has none to write to; writes to
//! anything else say `BadArgument`.

use crate::abi::{AbiVersion, MapType, pairs};
use crate::error::Error;
use crate::host::PseudoHeader;
use crate::memory::{self, Guest};
use crate::state::VmState;

fn map_type(map: i32) -> Result<MapType, Error> {
    MapType::from_wire(map).ok_or_else(|| Error::BadArgument("map"))
}

/// By byte: whether it may stand in a field name (RFC 9110 `token`).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// What a field's value may not hold: with any of these a filter could write fields, or whole messages, of its
/// own making onto the wire.
fn is_field_value(value: &[u8]) -> bool {
    // Without an early exit, so that the compiler can look at many bytes at a time.
    !value.iter().fold(false, |bad, &byte| bad | (byte == b'\r') | (byte == b'\n') | (byte == 0))
}

/// Refuses what must never reach a wire.
///
/// # Errors
/// [`Error::BadArgument`], saying which part is wrong.
pub(crate) fn check_field(name: &[u8], value: &[u8]) -> Result<(), Error> {
    if !is_token(name) {
        return Err(Error::BadArgument("header name"));
    }
    if !is_field_value(value) {
        return Err(Error::BadArgument("header value"));
    }
    Ok(())
}

/// A write to a map that is not there.
fn absent(map: MapType, error: Error) -> Result<(), Error> {
    match (map, error) {
        (MapType::HttpRequestTrailers | MapType::HttpResponseTrailers, Error::NotFound) => Ok(()),
        (_, Error::NotFound) => Err(Error::BadArgument("this map cannot be written now")),
        (_, error) => Err(error),
    }
}

/// Encodes a whole map into `out`, pseudo-headers first, names in lower case as Envoy's filters expect them.
///
/// # Errors
/// [`Error::NotFound`] if the map is not there.
fn encode(state: &mut VmState, map: MapType, out: &mut Vec<u8>) -> Result<(), Error> {
    if is_of_answer(map) {
        let pairs = state.answer.map(map).ok_or_else(|| Error::NotFound)?;
        return pairs::encode(pairs.iter().map(|(name, value)| (&**name, &**value)), out);
    }
    let host = state.host.as_deref_mut().ok_or_else(|| Error::NotFound)?;
    let pseudo = &mut state.pseudo;
    let mut count = 0u32;
    let mut failed = None;
    // Sizes first, then bytes: two passes over the fields, nothing allocated but `out`.
    out.extend_from_slice(&[0; 4]);
    let present = PseudoHeader::of_map(map);
    // Their values one behind the other, and where each ends.
    pseudo.clear();
    let mut ends = [0; 4];
    for (end, &which) in ends.iter_mut().zip(present) {
        let start = pseudo.len();
        if host.pseudo_header(which, pseudo).is_err() {
            pseudo.truncate(start);
        }
        *end = pseudo.len();
        // An empty one is as good as none, here and below.
        if *end > start {
            push_sizes(out, which.as_str().len(), *end - start, &mut failed);
            count += 1;
        }
    }
    host.headers(map, &mut |name, value| {
        push_sizes(out, name.len(), value.len(), &mut failed);
        count += 1;
    })?;
    let mut start = 0;
    for (end, which) in ends.into_iter().zip(present) {
        let value = &pseudo[start..end];
        start = end;
        if value.is_empty() {
            continue;
        }
        out.extend_from_slice(which.as_str().as_bytes());
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    host.headers(map, &mut |name, value| {
        out.extend(name.iter().map(u8::to_ascii_lowercase));
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    })?;
    out[..4].copy_from_slice(&count.to_le_bytes());
    failed.map_or(Ok(()), Err)
}

fn push_sizes(out: &mut Vec<u8>, name: usize, value: usize, failed: &mut Option<Error>) {
    match (u32::try_from(name), u32::try_from(value)) {
        (Ok(name), Ok(value)) => {
            out.extend_from_slice(&name.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        _ => *failed = Some(Error::TooLarge("header")),
    }
}

pub(super) fn get_header_map_size(guest: &mut Guest<'_>, map: i32, size: i32) -> Result<(), Error> {
    let map = map_type(map)?;
    memory::with_scratch(guest, |guest, scratch| {
        // SDKs bear no refusal here: a map that is not there has no bytes, as its pairs have none.
        match encode(guest.data_mut(), map, scratch) {
            Err(Error::NotFound) => scratch.clear(),
            result => result?,
        }
        let len = u32::try_from(scratch.len()).map_err(|_| Error::TooLarge("map"))?;
        let (memory, _) = memory::split(guest)?;
        memory::write_u32(memory, size, len)
    })
}

pub(super) fn get_header_map_pairs(guest: &mut Guest<'_>, map: i32, data: i32, size: i32) -> Result<(), Error> {
    let map = map_type(map)?;
    memory::with_scratch(guest, |guest, scratch| match encode(guest.data_mut(), map, scratch) {
        Ok(()) => memory::return_bytes(guest, scratch, data, size),
        Err(Error::NotFound) => memory::return_empty(guest, data, size),
        Err(error) => Err(error),
    })
}

pub(super) fn set_header_map_pairs(guest: &mut Guest<'_>, map: i32, data: i32, size: i32) -> Result<(), Error> {
    let map = map_type(map)?;
    let (memory, state) = memory::split(guest)?;
    let limits = state.settings.limits.pairs;
    let fields = pairs::decode(memory::bytes(memory, data, size)?, limits)?;
    // Everything is checked before anything changes: a refused map leaves the old one whole.
    for (name, value) in &fields {
        match PseudoHeader::find(map, name) {
            Some(_) => check_field(b"pseudo", value)?,
            None => check_field(name, value)?,
        }
    }
    let host = match state.stream_mut() {
        Ok(host) => host,
        Err(error) => return absent(map, error),
    };
    if let Err(error) = host.clear_headers(map) {
        return absent(map, error);
    }
    for (name, value) in fields {
        match PseudoHeader::find(map, name) {
            Some(pseudo) => host.set_pseudo_header(pseudo, value),
            None => host.add_header(map, name, value),
        }
        .or_else(|error| absent(map, error))?;
    }
    Ok(())
}

pub(super) fn get_header_map_value(
    guest: &mut Guest<'_>,
    map: i32,
    key: i32,
    key_size: i32,
    data: i32,
    size: i32,
) -> Result<(), Error> {
    let map = map_type(map)?;
    memory::with_scratch(guest, |guest, scratch| {
        let (memory, state) = memory::split(guest)?;
        let name = memory::bytes(memory, key, key_size)?;
        let found = find_value(state, map, name, scratch);
        match found {
            Ok(()) => memory::return_bytes(guest, scratch, data, size),
            // 0.1.0 knows no absence: SDKs of that age read OK and nothing.
            Err(Error::NotFound) if guest.data().abi == AbiVersion::V0_1_0 => memory::return_empty(guest, data, size),
            Err(error) => Err(error),
        }
    })
}

/// Whether this map is of what came back of a call, and not of a stream.
fn is_of_answer(map: MapType) -> bool {
    match map {
        MapType::HttpCallResponseHeaders
        | MapType::HttpCallResponseTrailers
        | MapType::GrpcCallInitialMetadata
        | MapType::GrpcCallTrailingMetadata => true,
        MapType::HttpRequestHeaders
        | MapType::HttpRequestTrailers
        | MapType::HttpResponseHeaders
        | MapType::HttpResponseTrailers => false,
    }
}

fn find_value(state: &mut VmState, map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    if is_of_answer(map) {
        let mut pairs = state.answer.map(map).ok_or_else(|| Error::NotFound)?.iter();
        let (_, value) = pairs.find(|(own, _)| own.eq_ignore_ascii_case(name)).ok_or_else(|| Error::NotFound)?;
        out.extend_from_slice(value);
        return Ok(());
    }
    let host = state.stream_mut()?;
    if name.first() == Some(&b':') {
        let pseudo = PseudoHeader::find(map, name).ok_or_else(|| Error::NotFound)?;
        return host.pseudo_header(pseudo, out);
    }
    host.header(map, name, out)
}

pub(super) fn add_header_map_value(
    guest: &mut Guest<'_>,
    map: i32,
    key: i32,
    key_size: i32,
    value: i32,
    value_size: i32,
) -> Result<(), Error> {
    write_field(guest, map, (key, key_size), (value, value_size), true)
}

pub(super) fn replace_header_map_value(
    guest: &mut Guest<'_>,
    map: i32,
    key: i32,
    key_size: i32,
    value: i32,
    value_size: i32,
) -> Result<(), Error> {
    write_field(guest, map, (key, key_size), (value, value_size), false)
}

fn write_field(guest: &mut Guest<'_>, map: i32, key: (i32, i32), value: (i32, i32), add: bool) -> Result<(), Error> {
    let map = map_type(map)?;
    let (memory, state) = memory::split(guest)?;
    let name = memory::bytes(memory, key.0, key.1)?;
    let value = memory::bytes(memory, value.0, value.1)?;
    let pseudo = PseudoHeader::find(map, name);
    check_field(if pseudo.is_some() { b"pseudo" } else { name }, value)?;
    let host = match state.stream_mut() {
        Ok(host) => host,
        Err(error) => return absent(map, error),
    };
    let result = match pseudo {
        // A request has one path: adding another is replacing it.
        Some(pseudo) => host.set_pseudo_header(pseudo, value),
        None if add => host.add_header(map, name, value),
        None => host.set_header(map, name, value),
    };
    result.or_else(|error| absent(map, error))
}

pub(super) fn remove_header_map_value(guest: &mut Guest<'_>, map: i32, key: i32, key_size: i32) -> Result<(), Error> {
    let map = map_type(map)?;
    let (memory, state) = memory::split(guest)?;
    let name = memory::bytes(memory, key, key_size)?;
    if PseudoHeader::find(map, name).is_some() {
        return Err(Error::BadArgument("a pseudo-header cannot be removed"));
    }
    match state.stream_mut().and_then(|host| host.remove_header(map, name)) {
        Ok(()) => Ok(()),
        Err(error) => absent(map, error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::calls::{REQUEST, Scene};
    use super::*;
    use std::sync::Arc;

    use crate::abi::Status;
    use crate::abi::pairs::PairsLimits;

    #[test]
    fn the_limits_of_a_map_are_the_filters() {
        let mut scene = Scene::usual();
        let settings = Arc::get_mut(&mut scene.guest.store.data_mut().settings).unwrap();
        settings.limits.pairs = PairsLimits { pairs: 2, bytes: 64 };
        let mut set = |call: &str, fields: &[(&[u8], &[u8])]| {
            let mut map = Vec::new();
            pairs::encode(fields.iter().copied(), &mut map).unwrap();
            let [data, size] = scene.put(&map);
            match call {
                "proxy_set_header_map_pairs" => scene.guest.call(call, &[REQUEST, data, size]),
                _ => scene.guest.call(call, &[200, 0, 0, 0, 0, data, size, 0]),
            }
        };
        for call in ["proxy_set_header_map_pairs", "proxy_send_local_response"] {
            assert_eq!(set(call, &[(b"a", b"1"), (b"b", b"2")]), Status::Ok as i32, "{call}");
            let long = [b'v'; 60];
            for fields in [&[(&b"a"[..], &b"1"[..]); 3][..], &[(b"a", &long)]] {
                assert_eq!(set(call, fields), Status::SerializationFailure as i32, "{call}");
            }
        }
    }

    #[test]
    fn nothing_that_splits_a_message_passes() {
        assert!(check_field(b"x-ok", b"a b\tc").is_ok());
        assert!(check_field(b"x-ok", b"").is_ok());
        assert!(check_field(b"x-ok", b"\xff").is_ok());
        for (name, value) in
            [(&b""[..], &b"v"[..]), (b"a b", b"v"), (b"a:", b"v"), (b"a\r", b"v"), (b"a", b"v\r\nx: y"), (b"a", b"\0")]
        {
            assert!(check_field(name, value).is_err(), "{name:?} {value:?}");
        }
    }
}

//! Whose bucket a request takes from; no hostcall is made here.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use percent_encoding::percent_decode;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// What of a request tells clients apart.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// The address that the client connects from, or its network.
    ClientAddress,
    /// The host that is asked for.
    Host,
    /// The first value of this header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The first value of this query parameter.
    Query(String),
    /// So many segments of the path.
    Path(usize),
    /// Nothing: all requests share one bucket.
    Everything,
}

/// What is asked of a request; each question may cost a hostcall.
pub(crate) trait Request {
    /// A header's first value; pseudo-headers by their names.
    fn header(&self, name: &str) -> Option<Vec<u8>>;
    /// `address:port` of the client.
    fn client(&self) -> Option<Vec<u8>>;
}

/// How much of an address tells clients apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Prefix {
    /// Bits of an IPv4 address.
    pub(crate) ipv4: u8,
    /// Bits of an IPv6 address: who has one address has the 2^64 of a network.
    pub(crate) ipv6: u8,
}

impl Default for Prefix {
    fn default() -> Self {
        Prefix { ipv4: 32, ipv6: 64 }
    }
}

/// A network, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `10.0.0.1`, `2001:db8::/32`. `None`: it is no address at all; an error: it looks like one.
    pub(crate) fn parse(text: &str) -> Option<Result<Network, String>> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits.map(str::parse) {
            None => most,
            Some(Ok(bits)) if bits <= most => bits,
            Some(_) => return Some(Err(format!("{text:?}: expected a prefix of 0 to {most} bits"))),
        };
        let network = Network { address: masked(address, bits), bits };
        if network.address == address {
            Some(Ok(network))
        } else {
            Some(Err(format!("{text:?} has bits beyond its prefix: {}/{bits} is the network", network.address)))
        }
    }

    /// Whether an address is in it.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4() && masked(address, self.bits) == self.address
    }

    /// The longer, the closer.
    pub(crate) fn bits(&self) -> u8 {
        self.bits
    }
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::from((u32::from(address) & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits)).unwrap_or(0);
            IpAddr::from((u128::from(address) & mask).to_be_bytes())
        }
    }
}

/// The client's address, without its port.
pub(crate) fn client_address(request: &impl Request) -> Option<IpAddr> {
    let text = String::from_utf8(request.client()?).ok()?;
    let address = match text.parse::<SocketAddr>() {
        Ok(socket) => socket.ip(),
        Err(_) => text.parse().ok()?,
    };
    Some(address.to_canonical())
}

/// The parts of a request, joined by spaces. `None` if one of them is missing.
pub(crate) fn of(request: &impl Request, parts: &[Part], prefix: Prefix) -> Option<Vec<u8>> {
    let mut key = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            key.push(b' ');
        }
        key.extend_from_slice(&value(request, part, prefix)?);
    }
    Some(key)
}

fn value(request: &impl Request, part: &Part, prefix: Prefix) -> Option<Vec<u8>> {
    let value = match part {
        Part::ClientAddress => {
            let address = client_address(request)?;
            let bits = if address.is_ipv4() { prefix.ipv4 } else { prefix.ipv6 };
            masked(address, bits).to_string().into_bytes()
        }
        Part::Host => request.header(":authority")?.to_ascii_lowercase(),
        Part::Header(name) => request.header(name)?,
        Part::Cookie(name) => cookie(&request.header("cookie")?, name)?.to_vec(),
        Part::Query(name) => {
            let path = request.header(":path")?;
            let query = path.splitn(2, |byte| *byte == b'?').nth(1)?;
            let (_, value) = form_urlencoded::parse(query).find(|(key, _)| key == name)?;
            value.into_owned().into_bytes()
        }
        Part::Path(segments) => {
            let path = normal_path(&request.header(":path")?);
            let mut kept = Vec::new();
            for segment in path.split(|byte| *byte == b'/').skip(1).take(*segments) {
                kept.push(b'/');
                kept.extend_from_slice(segment);
            }
            kept
        }
        Part::Everything => return Some(Vec::new()),
    };
    (!value.is_empty()).then_some(value)
}

fn cookie<'a>(header: &'a [u8], name: &str) -> Option<&'a [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let value = pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}

/// The path as an origin may read it, so that no spelling of it has a bucket of its own: without the query, decoded, without
/// empty segments, and with `.` and `..` carried out. Begins with a slash, and has none at its end.
pub(crate) fn normal_path(path: &[u8]) -> Vec<u8> {
    let bare = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let decoded: Vec<u8> = percent_decode(bare).collect();
    let mut segments: Vec<&[u8]> = Vec::new();
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        match segment {
            b"" | b"." => {}
            b".." => _ = segments.pop(),
            segment => segments.push(segment),
        }
    }
    let mut normal = Vec::with_capacity(decoded.len() + 1);
    for segment in segments {
        normal.push(b'/');
        normal.extend_from_slice(segment);
    }
    if normal.is_empty() { b"/".to_vec() } else { normal }
}

/// Whether a path, made [normal](normal_path), is one of these or below one.
pub(crate) fn is_below(path: &[u8], prefixes: &[String]) -> bool {
    prefixes.iter().any(|prefix| {
        let prefix = prefix.trim_end_matches('/').as_bytes();
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// A key as text of a bounded length, which names of shared data are: a long one, and one that is no text, by its hash.
pub(crate) fn bounded(key: Vec<u8>) -> String {
    const MOST: usize = 64;
    match String::from_utf8(key) {
        // A hash is told from a key that looks like one by its first byte, which no header value has.
        Ok(key) if key.len() <= MOST => key,
        Ok(key) => hash(key.as_bytes()),
        Err(error) => hash(error.as_bytes()),
    }
}

fn hash(key: &[u8]) -> String {
    Sha256::digest(key).iter().fold(String::from("\u{1}"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
#[path = "key_tests.rs"]
mod tests;

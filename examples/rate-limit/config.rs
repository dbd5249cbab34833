//! The configuration, checked in full before the first request: what is wrong with it is said with its key.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use serde::Deserialize;

use crate::bucket::Rate;
use crate::key::{Network, Part, Prefix};

const SECOND: u64 = 1_000_000_000;

/// The configuration as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default = "default_name")]
    name: String,
    limit: u64,
    per: Per,
    #[serde(default)]
    burst: Option<u64>,
    #[serde(default = "default_key")]
    key: Parts,
    #[serde(default)]
    address_prefix: Prefix,
    #[serde(default)]
    keys: BTreeMap<String, Other>,
    #[serde(default)]
    exempt: Vec<String>,
    #[serde(default)]
    only: Vec<String>,
    #[serde(default)]
    on_missing_key: OnMissingKey,
    #[serde(default = "default_status")]
    status: u32,
    #[serde(default = "default_message")]
    message: String,
    #[serde(default = "default_content_type")]
    content_type: String,
    #[serde(default)]
    headers: Headers,
    #[serde(default)]
    dry_run: bool,
}

fn default_name() -> String {
    "default".to_owned()
}

fn default_key() -> Parts {
    Parts::One(Part::ClientAddress)
}

fn default_status() -> u32 {
    429
}

fn default_message() -> String {
    "too many requests\n".to_owned()
}

fn default_content_type() -> String {
    "text/plain".to_owned()
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected `second`, `minute`, `hour`, `day` or a number of seconds")]
enum Per {
    Word(Word),
    Seconds(u64),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Second,
    Minute,
    Hour,
    Day,
}

impl Per {
    /// In nanoseconds; zero, which is no window, if there are too many.
    fn window(&self) -> u64 {
        let seconds = match self {
            Per::Word(Word::Second) => 1,
            Per::Word(Word::Minute) => 60,
            Per::Word(Word::Hour) => 3_600,
            Per::Word(Word::Day) => 86_400,
            Per::Seconds(seconds) => *seconds,
        };
        seconds.checked_mul(SECOND).unwrap_or(0)
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected `client_address`, `host`, `everything`, {header: name}, {cookie: name}, {query: name}, {path: segments}, or a list of these"
)]
enum Parts {
    One(Part),
    Several(Vec<Part>),
}

/// Another limit for one key.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number of requests, or {limit: requests, burst: requests}")]
enum Other {
    Limit(u64),
    Both(Both),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Both {
    limit: u64,
    #[serde(default)]
    burst: Option<u64>,
}

/// What becomes of a request that lacks what tells clients apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnMissingKey {
    /// It passes, and is not counted.
    Allow,
    /// All such requests share one bucket.
    #[default]
    Limit,
    /// It is refused.
    Deny,
}

/// Which fields tell the client of its limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Headers {
    /// `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset`.
    #[default]
    Separate,
    /// `RateLimit-Policy` and `RateLimit`.
    Combined,
    /// All of them.
    Both,
    /// None; a refusal still has `Retry-After`.
    None,
}

/// The configuration as the transactions use it.
#[derive(Debug)]
pub(crate) struct Config {
    /// Of the limit: rules whose filters have one vm_id, one name and the same numbers share it.
    pub(crate) name: String,
    rate: Rate,
    /// What tells clients apart; nothing for one bucket.
    pub(crate) key: Vec<Part>,
    pub(crate) address_prefix: Prefix,
    other_keys: HashMap<String, Rate>,
    /// The closest first.
    other_networks: Vec<(Network, Rate)>,
    exempt_keys: Vec<String>,
    exempt_networks: Vec<Network>,
    /// Path prefixes; none for all paths.
    pub(crate) only: Vec<String>,
    pub(crate) on_missing_key: OnMissingKey,
    pub(crate) status: u32,
    pub(crate) message: String,
    pub(crate) content_type: String,
    pub(crate) headers: Headers,
    pub(crate) dry_run: bool,
}

impl Config {
    /// Reads the JSON that the host hands over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        if json.is_empty() {
            return Err("configuration: missing; expected `limit` and `per`".to_owned());
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let written: Written = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = match error.path().to_string() {
                path if path == "." => String::new(),
                path => format!("{path}: "),
            };
            // serde_json counts lines of the JSON, which the user never sees.
            let reason = error.into_inner().to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            format!("configuration: {path}{reason}")
        })?;
        json.end().map_err(|_| "configuration: more than one JSON value".to_owned())?;
        written.check().map_err(|(key, reason)| format!("configuration: {key}: {reason}"))
    }

    /// Whether a decision needs the client's address, whatever the key is.
    pub(crate) fn asks_for_address(&self) -> bool {
        !self.exempt_networks.is_empty() || !self.other_networks.is_empty()
    }

    /// Whether a client is not limited at all.
    pub(crate) fn is_exempt(&self, key: Option<&str>, address: Option<IpAddr>) -> bool {
        address.is_some_and(|address| self.exempt_networks.iter().any(|network| network.contains(address)))
            || key.is_some_and(|key| self.exempt_keys.iter().any(|exempt| exempt == key))
    }

    /// The limit of a key.
    pub(crate) fn rate(&self, key: &str, address: Option<IpAddr>) -> &Rate {
        if let Some(rate) = self.other_keys.get(key) {
            return rate;
        }
        let network =
            address.and_then(|address| self.other_networks.iter().find(|(network, _)| network.contains(address)));
        network.map_or(&self.rate, |(_, rate)| rate)
    }

    /// The name of a key's bucket in shared data. Its limit is part of it: a bucket that another limit filled is another one.
    pub(crate) fn bucket_name(&self, key: &str, rate: &Rate) -> String {
        format!("rate-limit/{}/{}/{}/{}/{key}", self.name, rate.limit, rate.window, rate.burst)
    }
}

type Mistake = (String, String);

impl Written {
    fn check(self) -> Result<Config, Mistake> {
        let fail = |key: &str, reason: String| Err((key.to_owned(), reason));
        let window = self.per.window();
        if window == 0 {
            return fail("per", "expected at least one second, and no more than 500 years".to_owned());
        }
        let rate = |at: &str, limit: u64, burst: Option<u64>| -> Result<Rate, Mistake> {
            let burst_key = if at.is_empty() { "burst".to_owned() } else { format!("{at}.burst") };
            let limit_key = if at.is_empty() { "limit" } else { at };
            if limit == 0 {
                return Err((limit_key.to_owned(), "expected at least one request".to_owned()));
            }
            if burst == Some(0) {
                return Err((burst_key, "expected at least one request".to_owned()));
            }
            let too_much = "is beyond what can be counted with the window in `per`".to_owned();
            Rate::new(limit, window, burst.unwrap_or(limit)).ok_or((burst_key, too_much))
        };
        let name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || !self.name.bytes().all(name_byte) {
            return fail("name", format!("{:?}: expected letters, digits, `-`, `_`, `.`", self.name));
        }
        let default = rate("", self.limit, self.burst)?;
        let key = match self.key {
            Parts::One(part) => vec![part],
            Parts::Several(parts) if parts.is_empty() => {
                return fail("key", "an empty list; `everything` is the key for one bucket".to_owned());
            }
            Parts::Several(parts) => parts,
        };
        for part in &key {
            match part {
                Part::Header(name) | Part::Cookie(name) if !is_token(name) => {
                    return fail("key", format!("{name:?} is not the name of a header or cookie"));
                }
                Part::Query(name) if name.is_empty() => {
                    return fail("key", "expected the name of a parameter".to_owned());
                }
                Part::Path(0) => return fail("key", "expected at least one segment of the path".to_owned()),
                _ => {}
            }
        }
        let prefix = self.address_prefix;
        if prefix.ipv4 > 32 || prefix.ipv6 > 128 {
            return fail("address_prefix", "expected at most 32 bits for ipv4, 128 for ipv6".to_owned());
        }
        let mut other_keys = HashMap::new();
        let mut other_networks = Vec::new();
        for (key, other) in self.keys {
            let at = format!("keys.{key}");
            let rate = match other {
                Other::Limit(limit) => rate(&at, limit, None)?,
                Other::Both(Both { limit, burst }) => rate(&at, limit, burst)?,
            };
            match Network::parse(&key) {
                Some(network) => other_networks.push((network.map_err(|reason| (at, reason))?, rate)),
                None => _ = other_keys.insert(key, rate),
            }
        }
        other_networks.sort_by_key(|(network, _)| std::cmp::Reverse(network.bits()));
        let (mut exempt_keys, mut exempt_networks) = (Vec::new(), Vec::new());
        for text in self.exempt {
            match Network::parse(&text) {
                Some(network) => exempt_networks.push(network.map_err(|reason| ("exempt".to_owned(), reason))?),
                None => exempt_keys.push(text),
            }
        }
        if let Some(path) = self.only.iter().find(|path| !path.starts_with('/')) {
            return fail("only", format!("{path:?} does not begin with `/`"));
        }
        if !(400..=599).contains(&self.status) {
            return fail("status", "expected a status from 400 to 599".to_owned());
        }
        if self.content_type.is_empty() || self.content_type.bytes().any(|byte| byte.is_ascii_control()) {
            return fail("content_type", "expected a media type".to_owned());
        }
        Ok(Config {
            name: self.name,
            rate: default,
            key: key.into_iter().filter(|part| *part != Part::Everything).collect(),
            address_prefix: prefix,
            other_keys,
            other_networks,
            exempt_keys,
            exempt_networks,
            only: self.only,
            on_missing_key: self.on_missing_key,
            status: self.status,
            message: self.message,
            content_type: self.content_type,
            headers: self.headers,
            dry_run: self.dry_run,
        })
    }
}

/// A field name is a token of RFC 9110 §5.6.2, a cookie's name too.
fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

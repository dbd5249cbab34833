//! A filter's `failure_policy`: what becomes of a transaction when the filter fails.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};

use crate::host::LocalResponse;
use crate::hostcalls::check_field;

/// What becomes of a transaction when one of its filters fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// The transaction is answered 503, or what the file says instead.
    #[default]
    Closed,
    /// The transaction goes on without the filter.
    Open,
    /// As `closed`; and the lost VM is built anew after a pause, longer each time.
    Reload,
}

impl FailurePolicy {
    /// Every policy, in the order of its number.
    pub const ALL: [FailurePolicy; 3] = [FailurePolicy::Closed, FailurePolicy::Open, FailurePolicy::Reload];

    /// The name in a configuration, and the value of the label `policy`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            FailurePolicy::Closed => "closed",
            FailurePolicy::Open => "open",
            FailurePolicy::Reload => "reload",
        }
    }

    /// Whether the transaction goes on.
    #[must_use]
    pub const fn goes_on(self) -> bool {
        matches!(self, FailurePolicy::Open)
    }
}

/// A policy and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure {
    /// What becomes of the transaction.
    pub policy: FailurePolicy,
    /// What the client gets, if not what is built in.
    pub answer: Option<Arc<LocalResponse>>,
}

impl Failure {
    /// What the client gets, unless the transaction goes on.
    #[must_use]
    pub fn response(&self) -> LocalResponse {
        match &self.answer {
            Some(answer) => LocalResponse::clone(answer),
            None => LocalResponse::text(STATUS, BODY),
        }
    }
}

const STATUS: u16 = 503;
const BODY: &str = "Service Unavailable\n";

/// A body larger than this is no error page.
const MOST_BODY: usize = 64 << 10;

/// Fields that frame a message or describe a connection are the proxy's to write.
const PROXYS: [&str; 8] =
    ["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The mapping that may stand in place of a policy's name.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Answer")]
pub(super) struct RawAnswer {
    /// What becomes of the transaction. Default: closed.
    #[serde(default)]
    policy: FailurePolicy,
    /// 400 to 599; 503 by default.
    status: Option<u16>,
    /// Up to 64 KiB; `Service Unavailable` by default.
    body: Option<String>,
    /// `text/plain` by default.
    content_type: Option<String>,
    /// Further fields of the answer.
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

/// The value of `failure_policy`, and of a breaker's `while_open`: a name, or a mapping.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged, rename = "Failure")]
pub(super) enum RawFailure {
    Name(FailurePolicy),
    Answer(RawAnswer),
}

impl Default for RawFailure {
    fn default() -> Self {
        RawFailure::Name(FailurePolicy::default())
    }
}

// Not derived as untagged: that would lose the place of a mistake and what was expected there.
impl<'de> Deserialize<'de> for RawFailure {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawFailure;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("closed, open, reload, or a mapping such as {policy: closed, status: 503, body: TEXT}")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<RawFailure, E> {
                let policy = FailurePolicy::ALL.into_iter().find(|policy| policy.as_str() == name);
                policy.map(RawFailure::Name).ok_or_else(|| E::unknown_variant(name, &["closed", "open", "reload"]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawFailure, A::Error> {
                RawAnswer::deserialize(MapAccessDeserializer::new(map))
                    .map(RawFailure::Answer)
                    .map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl RawFailure {
    /// # Errors
    /// The key below `key` that is wrong.
    pub(super) fn resolve(self, key: &str) -> Result<Failure, String> {
        match self {
            RawFailure::Name(policy) => Ok(Failure { policy, answer: None }),
            RawFailure::Answer(raw) => raw.resolve().map_err(|message| format!("{key}.{message}")),
        }
    }
}

impl RawAnswer {
    fn resolve(self) -> Result<Failure, String> {
        let policy = self.policy;
        let said = [
            ("status", self.status.is_some()),
            ("body", self.body.is_some()),
            ("content_type", self.content_type.is_some()),
            ("headers", !self.headers.is_empty()),
        ];
        let said = said.into_iter().find(|(_, said)| *said).map(|(key, _)| key);
        let Some(said) = said else { return Ok(Failure { policy, answer: None }) };
        if policy.goes_on() {
            return Err(format!("{said}: with 'policy: open' nobody is answered"));
        }
        let status = self.status.unwrap_or(STATUS);
        if !(400..=599).contains(&status) {
            return Err(format!("status: {status} is not within 400 to 599"));
        }
        let body = self.body.unwrap_or_else(|| if status == STATUS { BODY.to_owned() } else { String::new() });
        if body.len() > MOST_BODY {
            return Err(format!("body: has {} bytes; it may have {MOST_BODY}", body.len()));
        }
        let media_type = self.content_type.unwrap_or_else(|| "text/plain".to_owned());
        let mut headers = Vec::with_capacity(self.headers.len() + 1);
        if !body.is_empty() {
            check_field(b"content-type", media_type.as_bytes()).map_err(|error| format!("content_type: {error}"))?;
            headers.push((b"content-type".to_vec(), media_type.into_bytes()));
        }
        for (name, value) in self.headers {
            if name.eq_ignore_ascii_case("content-type") {
                return Err("headers: 'content-type' has a key of its own, content_type".to_owned());
            }
            if PROXYS.iter().any(|own| own.eq_ignore_ascii_case(&name)) {
                return Err(format!("headers: '{name}' is the proxy's to write"));
            }
            check_field(name.as_bytes(), value.as_bytes()).map_err(|error| format!("headers: '{name}': {error}"))?;
            headers.push((name.into_bytes(), value.into_bytes()));
        }
        let answer = LocalResponse { status, details: Vec::new(), headers, body: body.into_bytes(), grpc_status: None };
        // What is built in, written out, is the same.
        let own = answer != LocalResponse::text(STATUS, BODY);
        Ok(Failure { policy, answer: own.then(|| Arc::new(answer)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> Result<Failure, String> {
        let raw: RawFailure = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        raw.resolve("failure_policy")
    }

    #[test]
    fn a_name_or_a_mapping() {
        for policy in FailurePolicy::ALL {
            let expected = Failure { policy, answer: None };
            assert_eq!(failure(policy.as_str()), Ok(expected.clone()));
            assert_eq!(failure(&format!("{{policy: {}}}", policy.as_str())), Ok(expected));
        }
        let built_in = Failure::default().response();
        assert_eq!((built_in.status, built_in.body.as_slice()), (503, &b"Service Unavailable\n"[..]));
        let answer =
            failure("{status: 429, body: 'later', content_type: text/html, headers: {retry-after: '1', x-a: b}}");
        let answer = answer.unwrap().response();
        assert_eq!((answer.status, answer.body.as_slice()), (429, &b"later"[..]));
        let field = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        assert_eq!(answer.headers, [field("content-type", "text/html"), field("retry-after", "1"), field("x-a", "b")]);
        let short = failure("{status: 451}").unwrap().response();
        assert_eq!((short.status, short.body.len(), short.headers.len()), (451, 0, 0));
        let same = failure("{headers: {retry-after: '1'}}").unwrap().response();
        assert_eq!((same.status, same.body.as_slice()), (503, &b"Service Unavailable\n"[..]));
    }

    #[test]
    fn mistakes_name_the_key() {
        let long = format!("{{body: '{}'}}", "x".repeat(MOST_BODY + 1));
        for (text, expected) in [
            ("half", "unknown variant `half`, expected one of `closed`, `open`, `reload`"),
            ("3", "expected closed, open, reload, or a mapping"),
            ("{status: 399}", "failure_policy.status: 399 is not within 400 to 599"),
            ("{status: 600}", "failure_policy.status: 600 is not within 400 to 599"),
            ("{state: 503}", "unknown field `state`, expected one of `policy`, `status`"),
            ("{policy: open, body: x}", "failure_policy.body: with 'policy: open' nobody is answered"),
            ("{headers: {'a b': c}}", "failure_policy.headers: 'a b'"),
            ("{headers: {a: \"b\\r\\nc\"}}", "failure_policy.headers: 'a'"),
            ("{headers: {Content-Length: '1'}}", "failure_policy.headers: 'Content-Length' is the proxy's to write"),
            ("{headers: {Content-Type: a/b}}", "failure_policy.headers: 'content-type' has a key of its own"),
            ("{content_type: \"a\\nb\"}", "failure_policy.content_type"),
            (&long, "failure_policy.body: has 65537 bytes; it may have 65536"),
        ] {
            let message = failure(text).unwrap_err();
            assert!(message.contains(expected), "{text:.60}: {message}");
        }
    }
}

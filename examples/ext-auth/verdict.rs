//! What an authoriser says of a request, and how it is kept; no hostcall is made here.

use std::fmt::Write as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::config::Config;

/// A header and its value, which need not be text.
pub(crate) type Header = (String, Vec<u8>);

/// How much of a refusal's body is passed on.
pub(crate) const MOST_BODY: usize = 64 * 1024;

/// What an authoriser said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Verdict {
    /// The request goes on.
    Allowed {
        /// For the origin.
        to_origin: Vec<Header>,
        /// For the client.
        to_client: Vec<Header>,
    },
    /// The client is answered.
    Refused {
        /// With this status.
        status: u32,
        /// These headers.
        headers: Vec<Header>,
        /// And this body.
        body: Vec<u8>,
    },
}

impl Verdict {
    /// What this response says. `None` if it is none: it has no status.
    pub(crate) fn of(config: &Config, headers: &[Header], body: impl FnOnce() -> Vec<u8>) -> Option<Verdict> {
        let status = headers.iter().find(|(name, _)| name == ":status")?;
        let status: u32 = std::str::from_utf8(&status.1).ok()?.parse().ok()?;
        let chosen = |names: &[String]| -> Vec<Header> {
            let chosen =
                headers.iter().filter(|(name, _)| names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)));
            chosen.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect()
        };
        match status {
            200..=299 => {
                Some(Verdict::Allowed { to_origin: chosen(&config.to_origin), to_client: chosen(&config.to_client) })
            }
            300..=599 => Some(Verdict::Refused { status, headers: chosen(&config.refusal_headers), body: body() }),
            _ => None,
        }
    }

    /// How long it is kept. An authoriser that has an error may be well again by the next request.
    pub(crate) fn ttl(&self, config: &Config) -> Option<Duration> {
        let cache = config.cache.as_ref()?;
        let ttl = match self {
            Verdict::Allowed { .. } => cache.ttl(true),
            Verdict::Refused { status: 500.., .. } => return None,
            Verdict::Refused { .. } => cache.ttl(false),
        };
        (!ttl.is_zero()).then_some(ttl)
    }
}

/// A verdict in shared data.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Nanoseconds since 1970.
    until: u64,
    verdict: Verdict,
}

/// As it is stored at `now`, in nanoseconds since 1970.
pub(crate) fn encode(verdict: &Verdict, now: u64, ttl: Duration) -> Option<Vec<u8>> {
    let until = now.saturating_add(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX));
    serde_json::to_vec(&Kept { until, verdict: verdict.clone() }).ok()
}

/// What was stored, if its time is not over.
pub(crate) fn decode(bytes: &[u8], now: u64) -> Option<Verdict> {
    let kept: Kept = serde_json::from_slice(bytes).ok()?;
    (now < kept.until).then_some(kept.verdict)
}

/// The name in shared data of the verdict on a request with these values of the key's headers. A hash: credentials have no
/// place among names that others list.
pub(crate) fn name(config: &Config, values: impl IntoIterator<Item = Option<Vec<u8>>>) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: Option<&[u8]>| {
        // With lengths, so that no two lists of values are one list of bytes; and what is absent is not what is empty.
        hash.update(bytes.map_or(u64::MAX, |bytes| bytes.len() as u64).to_le_bytes());
        hash.update(bytes.unwrap_or_default());
    };
    for text in [&config.cluster, &config.method, &config.path] {
        part(Some(text.as_bytes()));
    }
    part(config.authority.as_deref().map(str::as_bytes));
    // Another choice of headers is another verdict.
    for names in [&config.headers, &config.to_origin, &config.to_client, &config.refusal_headers] {
        part(Some(names.join(" ").as_bytes()));
    }
    if let Some(cache) = &config.cache {
        part(Some(cache.key.join(" ").as_bytes()));
    }
    for value in values {
        part(value.as_deref());
    }
    hash.finalize().iter().fold("ext-auth/".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::parse(
            br#"{"cluster": "auth", "to_origin": ["x-user"], "to_client": ["set-cookie"], "refusal_headers": ["location"],
                "cache": {"key": ["authorization", "x-tenant"], "ttl_ms": 1000, "refusal_ttl_ms": 10}}"#,
        )
        .unwrap()
    }

    fn headers(status: &str) -> Vec<Header> {
        let all = [
            (":status", status),
            ("X-User", "alice"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("location", "/in"),
        ];
        all.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).into()
    }

    #[test]
    fn a_response_is_a_verdict() {
        let header = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
        let allowed = Verdict::of(&config(), &headers("204"), || unreachable!()).unwrap();
        let expected = Verdict::Allowed {
            to_origin: vec![header("x-user", "alice")],
            to_client: vec![header("set-cookie", "a=1"), header("set-cookie", "b=2")],
        };
        assert_eq!(allowed, expected);
        for status in ["302", "401", "503"] {
            let refused = Verdict::of(&config(), &headers(status), || b"no".to_vec()).unwrap();
            let status = status.parse().unwrap();
            assert_eq!(
                refused,
                Verdict::Refused { status, headers: vec![header("location", "/in")], body: b"no".to_vec() }
            );
        }
        for none in [vec![], headers("100"), headers("600"), headers("ok")] {
            assert_eq!(Verdict::of(&config(), &none, || unreachable!()), None);
        }
    }

    #[test]
    fn verdicts_are_kept_for_their_time() {
        let config = config();
        let verdict = |status: &str| Verdict::of(&config, &headers(status), Vec::new).unwrap();
        assert_eq!(verdict("200").ttl(&config), Some(Duration::from_secs(1)));
        assert_eq!(verdict("403").ttl(&config), Some(Duration::from_millis(10)));
        assert_eq!(verdict("500").ttl(&config), None);
        let bytes = encode(&verdict("403"), 5_000_000, Duration::from_millis(10)).unwrap();
        assert_eq!(decode(&bytes, 14_999_999), Some(verdict("403")));
        assert_eq!(decode(&bytes, 15_000_000), None);
        assert_eq!(decode(b"nonsense", 0), None);
    }

    #[test]
    fn other_values_have_other_names() {
        let config = config();
        let of =
            |values: [Option<&str>; 2]| name(&config, values.map(|value| value.map(|text| text.as_bytes().to_vec())));
        let names = [
            of([None, None]),
            of([Some(""), None]),
            of([None, Some("")]),
            of([Some("ab"), Some("c")]),
            of([Some("a"), Some("bc")]),
        ];
        for (number, one) in names.iter().enumerate() {
            assert!(one.len() == 9 + 64 && !names[..number].contains(one), "{names:?}");
        }
        assert_eq!(of([Some("a"), Some("bc")]), names[4]);
    }
}

//! The configurations of both root ids, checked in full before the first transaction.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};

use crate::line::Field;

/// Of `collector`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collector {
    /// The name of the shared queue.
    pub(crate) queue: String,
    /// The shipper's vm_id; the collector's own if none is given.
    #[serde(default)]
    pub(crate) vm_id: String,
    /// What a line holds, in this order.
    #[serde(default = "default_fields", deserialize_with = "fields")]
    pub(crate) fields: Vec<(String, Field)>,
}

/// Of `shipper`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Shipper {
    /// The name of the shared queue.
    pub(crate) queue: String,
    /// The cluster that lines go to.
    pub(crate) cluster: String,
    #[serde(default = "default_path")]
    pub(crate) path: String,
    /// The host that is asked for; the cluster's name if none is given.
    #[serde(default)]
    pub(crate) authority: Option<String>,
    #[serde(default = "default_content_type")]
    pub(crate) content_type: String,
    /// Lines of a batch.
    #[serde(default = "default_lines")]
    pub(crate) batch_lines: usize,
    /// Size of a batch.
    #[serde(default = "default_kib")]
    batch_kib: usize,
    /// How long a batch waits to be full.
    #[serde(default = "default_flush")]
    flush_ms: u64,
    #[serde(default = "default_timeout")]
    timeout_ms: u32,
    /// How often a batch is sent before it is given up.
    #[serde(default = "default_attempts")]
    pub(crate) attempts: u32,
    /// How long after the first failure it is sent again; twice as long after each further one.
    #[serde(default = "default_retry")]
    retry_ms: u64,
}

fn default_fields() -> Vec<(String, Field)> {
    [
        ("time", "request.time"),
        ("client", "source.address"),
        ("method", "request.method"),
        ("host", "request.host"),
        ("path", "request.path"),
        ("status", "response.code"),
        ("bytes", "response.size"),
        ("milliseconds", "request.duration"),
    ]
    .map(|(name, property)| (name.to_owned(), Field::property(property)))
    .into()
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_content_type() -> String {
    "application/x-ndjson".to_owned()
}

fn default_lines() -> usize {
    500
}

fn default_kib() -> usize {
    256
}

fn default_flush() -> u64 {
    1_000
}

fn default_timeout() -> u32 {
    5_000
}

fn default_attempts() -> u32 {
    5
}

fn default_retry() -> u64 {
    500
}

impl Collector {
    /// Reads the JSON that the host hands over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let config: Self = parse(json)?;
        if config.queue.is_empty() {
            return Err("configuration: queue: expected a name".to_owned());
        }
        if config.fields.is_empty() {
            return Err("configuration: fields: expected at least one".to_owned());
        }
        Ok(config)
    }
}

impl Shipper {
    /// Reads the JSON that the host hands over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        let config: Self = parse(json)?;
        let printable = |text: &str| text.bytes().all(|byte| byte > b' ' && byte != 0x7f);
        let wrong = if config.queue.is_empty() {
            "queue: expected a name"
        } else if config.cluster.is_empty() {
            "cluster: expected the name of a cluster"
        } else if !config.path.starts_with('/') || !printable(&config.path) {
            "path: expected a path that begins with `/`"
        } else if config.authority.as_deref().is_some_and(|text| text.is_empty() || !printable(text)) {
            "authority: expected a host, with or without a port"
        } else if config.content_type.is_empty() || config.content_type.bytes().any(|byte| byte.is_ascii_control()) {
            "content_type: expected a media type"
        } else if config.batch_lines == 0 {
            "batch_lines: expected at least one"
        } else if !(1..=16_384).contains(&config.batch_kib) {
            "batch_kib: expected 1 to 16384"
        } else if !(10..=3_600_000).contains(&config.flush_ms) {
            "flush_ms: expected 10 to 3600000"
        } else if config.timeout_ms == 0 {
            "timeout_ms: expected at least one millisecond"
        } else if config.attempts == 0 {
            "attempts: expected at least one"
        } else if !(1..=3_600_000).contains(&config.retry_ms) {
            "retry_ms: expected 1 to 3600000"
        } else {
            return Ok(config);
        };
        Err(format!("configuration: {wrong}"))
    }

    /// Bytes of a batch.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch_kib << 10
    }

    /// How long a batch waits to be full.
    pub(crate) fn flush(&self) -> Duration {
        Duration::from_millis(self.flush_ms)
    }

    /// How long an answer is waited for.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    /// How long after this many failures a batch is sent again; a minute at most, unless even the first wait is longer.
    pub(crate) fn retry(&self, failures: u32) -> Duration {
        let first = Duration::from_millis(self.retry_ms);
        let doubled = first.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled.min(first.max(Duration::from_secs(60)))
    }

    /// How often to look whether something is due.
    pub(crate) fn tick(&self) -> Duration {
        Duration::from_millis((self.flush_ms.min(self.retry_ms) / 2).clamp(10, 1_000))
    }
}

fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    if json.is_empty() {
        return Err("configuration: missing; expected `queue`".to_owned());
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let config = serde_path_to_error::deserialize(&mut json).map_err(|error| {
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
    Ok(config)
}

fn fields<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Field)>, D::Error> {
    deserializer.deserialize_map(Fields)
}

/// A mapping in the order in which it was written.
struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Vec<(String, Field)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of names to properties or headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_the_defaults() {
        let collector = Collector::parse(br#"{"queue": "log"}"#).unwrap();
        assert_eq!((collector.vm_id.as_str(), collector.fields.len()), ("", 8));
        let shipper = Shipper::parse(br#"{"queue": "log", "cluster": "logs"}"#).unwrap();
        assert_eq!((shipper.batch_lines, shipper.batch_bytes(), shipper.attempts), (500, 256 << 10, 5));
        assert_eq!((shipper.flush(), shipper.tick()), (Duration::from_secs(1), Duration::from_millis(250)));
    }

    #[test]
    fn waits_double_up_to_a_minute() {
        let shipper = Shipper::parse(br#"{"queue": "log", "cluster": "logs", "retry_ms": 500}"#).unwrap();
        let waits = [1, 2, 3, 7, 8, 40].map(|failures| shipper.retry(failures).as_millis());
        assert_eq!(waits, [500, 1_000, 2_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn fields_keep_their_order() {
        let json =
            br#"{"queue": "log", "fields": {"z": {"request_header": "x-id"}, "a": {"property": "response.code"}}}"#;
        let names: Vec<_> = Collector::parse(json).unwrap().fields.into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["z", "a"]);
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        for (json, expected) in [
            ("", "configuration: missing"),
            ("{}", "configuration: missing field `queue`"),
            (r#"{"queue": ""}"#, "configuration: queue: expected"),
            (r#"{"queue": "q", "cluster": "c"}"#, "configuration: cluster: unknown field"),
            (r#"{"queue": "q", "fields": {}}"#, "configuration: fields: expected at least one"),
            (r#"{"queue": "q", "fields": []}"#, "configuration: fields: invalid type: sequence"),
            (
                r#"{"queue": "q", "fields": {"a": {"header": "x"}}}"#,
                "configuration: fields.a: unknown variant `header`",
            ),
        ] {
            let error = Collector::parse(json.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected), "{json}\n  gave     {error}\n  expected {expected}");
        }
        for (more, expected) in [
            (r#""path": "x""#, "path: expected"),
            (r#""authority": "a b""#, "authority: expected"),
            (r#""content_type": """#, "content_type: expected"),
            (r#""batch_lines": 0"#, "batch_lines: expected"),
            (r#""batch_kib": 0"#, "batch_kib: expected"),
            (r#""flush_ms": 1"#, "flush_ms: expected"),
            (r#""timeout_ms": 0"#, "timeout_ms: expected"),
            (r#""attempts": 0"#, "attempts: expected"),
            (r#""retry_ms": 0"#, "retry_ms: expected"),
            (r#""fields": {}"#, "fields: unknown field"),
        ] {
            let error = Shipper::parse(format!(r#"{{"queue": "q", "cluster": "c", {more}}}"#).as_bytes()).unwrap_err();
            assert!(error.starts_with(&format!("configuration: {expected}")), "{more}\n  gave {error}");
        }
        let error = Shipper::parse(br#"{"queue": "q", "cluster": ""}"#).unwrap_err();
        assert!(error.starts_with("configuration: cluster: expected"), "{error}");
    }
}

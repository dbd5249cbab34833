//! The configuration, checked in full before the first request: what is wrong with it is said with its key.

use std::time::Duration;

use serde::Deserialize;

/// The configuration, as it is written and as the transactions use it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The cluster that is asked.
    pub(crate) cluster: String,
    /// What it is asked for.
    #[serde(default = "default_path")]
    pub(crate) path: String,
    /// With this method.
    #[serde(default = "default_method")]
    pub(crate) method: String,
    /// And this host; the cluster's name if none is given.
    #[serde(default)]
    pub(crate) authority: Option<String>,
    #[serde(default = "default_timeout")]
    timeout_ms: u32,
    /// Request headers that the authoriser is shown.
    #[serde(default = "default_headers")]
    pub(crate) headers: Vec<String>,
    /// Headers of a verdict that lets the request through, for the origin; nobody else may set them.
    #[serde(default)]
    pub(crate) to_origin: Vec<String>,
    /// Headers of a verdict that lets the request through, for the client.
    #[serde(default)]
    pub(crate) to_client: Vec<String>,
    /// Headers of a verdict that refuses, for the client.
    #[serde(default = "default_refusal_headers")]
    pub(crate) refusal_headers: Vec<String>,
    /// What happens if there is no verdict.
    #[serde(default)]
    pub(crate) on_failure: OnFailure,
    /// How long verdicts are kept; not at all without it.
    #[serde(default)]
    pub(crate) cache: Option<Cache>,
}

/// How verdicts are kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Cache {
    /// The request headers, pseudo-headers among them, on which a verdict depends.
    pub(crate) key: Vec<String>,
    #[serde(default = "default_ttl")]
    ttl_ms: u64,
    #[serde(default = "default_refusal_ttl")]
    refusal_ttl_ms: u64,
}

/// What happens to a request if there is no verdict on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OnFailure {
    /// 503.
    #[default]
    Deny,
    /// It goes to the origin, without what a verdict would have added.
    Allow,
}

fn default_path() -> String {
    "/".to_owned()
}

fn default_method() -> String {
    "GET".to_owned()
}

fn default_timeout() -> u32 {
    1_000
}

fn default_headers() -> Vec<String> {
    ["authorization", "cookie"].map(str::to_owned).into()
}

fn default_refusal_headers() -> Vec<String> {
    ["content-type", "www-authenticate", "location", "set-cookie"].map(str::to_owned).into()
}

fn default_ttl() -> u64 {
    60_000
}

fn default_refusal_ttl() -> u64 {
    5_000
}

impl Cache {
    /// How long a verdict is kept.
    pub(crate) fn ttl(&self, allowed: bool) -> Duration {
        Duration::from_millis(if allowed { self.ttl_ms } else { self.refusal_ttl_ms })
    }
}

impl Config {
    /// Reads the JSON that the host hands over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        if json.is_empty() {
            return Err("configuration: missing; expected `cluster`".to_owned());
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let config: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
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
        config.check().map_err(|(key, reason)| format!("configuration: {key}: {reason}"))
    }

    /// How long a verdict is waited for.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.into())
    }

    fn check(mut self) -> Result<Self, (&'static str, String)> {
        if self.cluster.is_empty() {
            return Err(("cluster", "expected the name of a cluster".to_owned()));
        }
        if !self.path.starts_with('/') || self.path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(("path", format!("{:?}: expected a path that begins with `/`", self.path)));
        }
        if !is_token(&self.method) {
            return Err(("method", format!("{:?} is not a method", self.method)));
        }
        if self.timeout_ms == 0 {
            return Err(("timeout_ms", "expected at least one millisecond".to_owned()));
        }
        if self.authority.as_deref().is_some_and(|text| text.is_empty() || text.bytes().any(|byte| byte <= b' ')) {
            return Err(("authority", "expected a host, with or without a port".to_owned()));
        }
        for (key, names) in [
            ("headers", &mut self.headers),
            ("to_origin", &mut self.to_origin),
            ("to_client", &mut self.to_client),
            ("refusal_headers", &mut self.refusal_headers),
        ] {
            check_names(key, names, false)?;
        }
        if let Some(cache) = &mut self.cache {
            if cache.key.is_empty() {
                return Err(("cache.key", "expected the headers on which a verdict depends".to_owned()));
            }
            check_names("cache.key", &mut cache.key, true)?;
        }
        Ok(self)
    }
}

fn check_names(key: &'static str, names: &mut [String], pseudo: bool) -> Result<(), (&'static str, String)> {
    for name in names {
        let bare = name.strip_prefix(':').filter(|_| pseudo).unwrap_or(name);
        if !is_token(bare) {
            return Err((key, format!("{name:?} is not a header name")));
        }
        name.make_ascii_lowercase();
    }
    Ok(())
}

/// A field name is a token of RFC 9110 §5.6.2, a method too.
fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_in_the_defaults() {
        let config = Config::parse(br#"{"cluster": "auth"}"#).unwrap();
        assert_eq!((config.path.as_str(), config.method.as_str()), ("/", "GET"));
        assert_eq!((config.timeout(), config.on_failure), (Duration::from_secs(1), OnFailure::Deny));
        assert_eq!(config.headers, ["authorization", "cookie"]);
        assert!(config.to_origin.is_empty() && config.cache.is_none());
    }

    #[test]
    fn names_are_in_small_letters_and_kept_verdicts_have_their_times() {
        let json = br#"{"cluster": "auth", "to_origin": ["X-User"], "on_failure": "allow",
            "cache": {"key": ["Authorization", ":path"], "ttl_ms": 10, "refusal_ttl_ms": 0}}"#;
        let config = Config::parse(json).unwrap();
        assert_eq!((config.to_origin, config.on_failure), (vec!["x-user".to_owned()], OnFailure::Allow));
        let cache = config.cache.unwrap();
        assert_eq!(cache.key, ["authorization", ":path"]);
        assert_eq!((cache.ttl(true), cache.ttl(false)), (Duration::from_millis(10), Duration::ZERO));
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        for (json, expected) in [
            ("", "configuration: missing; expected `cluster`"),
            ("{}", "configuration: missing field `cluster`"),
            (r#"{"cluster": ""}"#, "configuration: cluster: expected the name"),
            (r#"{"cluster": "a", "path": "auth"}"#, "configuration: path: \"auth\": expected"),
            (r#"{"cluster": "a", "path": "/a b"}"#, "configuration: path: \"/a b\": expected"),
            (r#"{"cluster": "a", "method": "G T"}"#, "configuration: method: \"G T\" is not"),
            (r#"{"cluster": "a", "timeout_ms": 0}"#, "configuration: timeout_ms: expected"),
            (r#"{"cluster": "a", "timeout_ms": -1}"#, "configuration: timeout_ms: invalid value"),
            (r#"{"cluster": "a", "authority": ""}"#, "configuration: authority: expected"),
            (r#"{"cluster": "a", "headers": [":path"]}"#, "configuration: headers: \":path\" is not"),
            (r#"{"cluster": "a", "cache": {"key": []}}"#, "configuration: cache.key: expected"),
            (r#"{"cluster": "a", "cache": {"key": ["a b"]}}"#, "configuration: cache.key: \"a b\" is not"),
            (r#"{"cluster": "a", "on_failure": "open"}"#, "configuration: on_failure: unknown variant `open`"),
            (r#"{"cluster": "a", "clusters": "b"}"#, "configuration: clusters: unknown field `clusters`"),
        ] {
            let error = Config::parse(json.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected), "{json}\n  gave     {error}\n  expected {expected}");
        }
    }
}

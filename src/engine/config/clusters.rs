//! The key `clusters`: upstreams that filters call.

use std::path::{Path, PathBuf};
use std::time::Duration;

use callout::{ClusterError, ClusterSettings, Ejection, Endpoint, Protocol, Tls};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::Error as _;

/// `host:port`, of which either may be a pattern: an entry of `callout_hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPattern {
    /// In lower case; one that begins with a dot stands for every name below it.
    host: String,
    /// `None` is every port.
    port: Option<u16>,
}

impl HostPattern {
    /// Whether this host and port are meant.
    pub(crate) fn matches(&self, host: &str, port: u16) -> bool {
        let host = host.to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let named = match self.host.strip_prefix('.') {
            Some(_) => host.len() > self.host.len() && host.ends_with(&self.host),
            None => self.host == "*" || self.host == host,
        };
        named && self.port.is_none_or(|own| own == port)
    }
}

/// As a file has it.
impl std::fmt::Display for HostPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.strip_prefix('.') {
            Some(rest) => write!(f, "*.{rest}:")?,
            None if self.host.contains(':') => write!(f, "[{}]:", self.host)?,
            None => write!(f, "{}:", self.host)?,
        }
        match self.port {
            Some(port) => write!(f, "{port}"),
            None => f.write_str("*"),
        }
    }
}

impl std::str::FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no address: host:port is expected, such as auth.example:8080, 10.0.0.1:80, [::1]:80, \
                 *.example:443 or *.example:*"
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = match port {
            "*" => None,
            port => Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = host.strip_prefix("*.").map_or_else(|| host.to_owned(), |rest| format!(".{rest}"));
        let rest = host.trim_start_matches('.');
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        if !rest.chars().all(of_name) && rest.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(wrong());
        }
        if rest.is_empty() || host != "*" && rest.contains('*') {
            return Err(wrong());
        }
        Ok(HostPattern { host: host.to_ascii_lowercase(), port })
    }
}

impl<'de> Deserialize<'de> for HostPattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// As text.
fn address_schema(description: &str) -> Schema {
    json_schema!({"type": "string", "pattern": "^.+:([0-9]+|\\*)$", "description": description})
}

impl JsonSchema for HostPattern {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "HostPattern".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        address_schema("host:port, of which either may be a pattern: auth.example:8080, [::1]:80, *.example:*")
    }
}

/// An entry of `endpoints`.
struct RawEndpoint(Endpoint);

impl JsonSchema for RawEndpoint {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        address_schema("host:port, such as 10.0.0.1:80, [::1]:80 or auth.example:8080")
    }
}

impl<'de> Deserialize<'de> for RawEndpoint {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pattern: HostPattern = text.parse().map_err(D::Error::custom)?;
        match pattern.port {
            Some(port) if pattern.host != "*" && !pattern.host.starts_with('.') => {
                Ok(RawEndpoint(Endpoint { host: pattern.host, port }))
            }
            _ => Err(D::Error::custom(format!("'{text}' is a pattern: an endpoint is one host and one port"))),
        }
    }
}

/// How a cluster is spoken to.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Protocol")]
enum RawProtocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2, which gRPC needs.
    Http2,
}

/// How a cluster's connections are encrypted. Paths are relative to this file.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Tls")]
struct RawTls {
    /// Whether the server's certificate is looked at. Default: true.
    #[serde(default = "yes")]
    verify: bool,
    /// Whose signature counts, in PEM. Default: the system's authorities.
    ca_file: Option<PathBuf>,
    /// The certificate that we show when we are asked, in PEM.
    certificate_file: Option<PathBuf>,
    /// Its key, in PEM.
    key_file: Option<PathBuf>,
    /// The name that the server's certificate must have. Default: the endpoint's host.
    server_name: Option<String>,
}

fn yes() -> bool {
    true
}

/// When an endpoint that fails is left out.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Ejection")]
struct RawEjection {
    /// After so many failures in a row; 0 is never. Default: 5.
    failures: Option<u32>,
    /// For how long, the first time. Default: 30.
    #[schemars(range(min = 1))]
    seconds: Option<u32>,
}

/// Servers that filters and services call by one name.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cluster")]
pub(super) struct RawCluster {
    /// host:port of each, called in turns.
    #[schemars(length(min = 1))]
    endpoints: Vec<RawEndpoint>,
    /// What is spoken there. Default: http1.
    protocol: Option<RawProtocol>,
    /// How connections are encrypted. Default: not at all.
    tls: Option<RawTls>,
    /// How long a connection may take to be made, TLS included. Default: 5000.
    #[schemars(range(min = 1))]
    connect_timeout_ms: Option<u32>,
    /// How long a connection is kept that nobody uses. Default: 60000.
    #[schemars(range(min = 1))]
    idle_timeout_ms: Option<u32>,
    /// Connections to each endpoint; calls beyond them wait. Default: 64.
    #[schemars(range(min = 1))]
    max_connections: Option<u32>,
    /// Calls and streams under way; one more is refused. Default: 1024.
    #[schemars(range(min = 1))]
    max_in_flight: Option<u32>,
    /// How often a call is sent again that got nothing of an answer. Default: 1.
    retries: Option<u32>,
    /// When an endpoint is left out, and for how long.
    ejection: Option<RawEjection>,
    /// The largest body of an answer, in KiB. Default: 1024.
    #[schemars(range(min = 1))]
    response_kib: Option<u32>,
    /// How long a name's addresses are used. Default: 30000.
    #[schemars(range(min = 1))]
    dns_refresh_ms: Option<u32>,
}

impl RawCluster {
    /// # Errors
    /// What is wrong, behind the key that it is about.
    pub(super) fn resolve(self, name: &str, home: &Path) -> Result<ClusterSettings, String> {
        if self.endpoints.is_empty() {
            return Err("endpoints: name at least one, as host:port".to_owned());
        }
        let mut settings = ClusterSettings {
            name: name.to_owned(),
            endpoints: self.endpoints.into_iter().map(|endpoint| endpoint.0).collect(),
            ..ClusterSettings::default()
        };
        match self.protocol {
            Some(RawProtocol::Http1) => settings.protocol = Protocol::Http1,
            Some(RawProtocol::Http2) => settings.protocol = Protocol::Http2,
            None => {}
        }
        if let Some(tls) = self.tls {
            if tls.certificate_file.is_some() != tls.key_file.is_some() {
                let alone = if tls.key_file.is_some() { "key_file" } else { "certificate_file" };
                return Err(format!("tls.{alone}: certificate_file and key_file come together"));
            }
            if !tls.verify && tls.ca_file.is_some() {
                return Err("tls.ca_file: with 'verify: false' it has no meaning: drop one of them".to_owned());
            }
            let file = |path: Option<PathBuf>| path.map(|path| home.join(path));
            settings.tls = Some(Tls {
                verify: tls.verify,
                ca_file: file(tls.ca_file),
                certificate_file: file(tls.certificate_file),
                key_file: file(tls.key_file),
                server_name: tls.server_name,
            });
        }
        for (key, value, setting) in [
            ("connect_timeout_ms", self.connect_timeout_ms, &mut settings.connect_timeout),
            ("idle_timeout_ms", self.idle_timeout_ms, &mut settings.idle_timeout),
            ("dns_refresh_ms", self.dns_refresh_ms, &mut settings.dns_refresh),
        ] {
            if let Some(milliseconds) = value {
                *setting = Duration::from_millis(u64::from(positive(key, milliseconds)?));
            }
        }
        for (key, value, setting, unit) in [
            ("max_connections", self.max_connections, &mut settings.max_connections, 1),
            ("max_in_flight", self.max_in_flight, &mut settings.max_in_flight, 1),
            ("response_kib", self.response_kib, &mut settings.response_bytes, 1 << 10),
        ] {
            if let Some(value) = value {
                *setting = usize::try_from(positive(key, value)?).unwrap_or(usize::MAX).saturating_mul(unit);
            }
        }
        if let Some(retries) = self.retries {
            settings.retries = retries;
        }
        if let Some(raw) = self.ejection {
            let mut ejection = Ejection::default();
            if let Some(seconds) = raw.seconds {
                ejection.duration = Duration::from_secs(u64::from(positive("ejection.seconds", seconds)?));
            }
            if let Some(failures) = raw.failures {
                ejection.failures = failures;
            }
            // No failures, no ejection.
            settings.ejection = (ejection.failures > 0).then_some(ejection);
        }
        settings.check().map_err(|error| match error {
            ClusterError::Settings { what, .. } => what,
            error => error.to_string(),
        })?;
        Ok(settings)
    }
}

fn positive(key: &str, value: u32) -> Result<u32, String> {
    if value == 0 { Err(format!("{key}: must be at least 1")) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_hosts_and_ports() {
        let matches = |pattern: &str, host: &str, port| pattern.parse::<HostPattern>().unwrap().matches(host, port);
        assert!(matches("a.example:80", "A.example", 80));
        assert!(!matches("a.example:80", "a.example", 81));
        assert!(!matches("a.example:80", "b.a.example", 80));
        assert!(matches("*.example:*", "b.a.example", 1));
        assert!(!matches("*.example:*", "example", 1));
        assert!(!matches("*.example:*", "badexample", 1));
        assert!(matches("[::1]:8080", "::1", 8080));
        assert!(matches("*:443", "anything", 443));
        for text in ["a.example:80", "*.example:*", "[::1]:8080", "*:443", "10.0.0.1:1"] {
            assert_eq!(text.parse::<HostPattern>().unwrap().to_string(), text);
        }
        for wrong in ["a", "a:", "a:0", "a:99999", ":80", "*a.example:1", "a.*.b:1", "*.:1", "a b:1", "a/b:1"] {
            let error = wrong.parse::<HostPattern>().unwrap_err();
            assert!(error.contains(wrong) && error.contains("host:port"), "{error}");
        }
    }
}

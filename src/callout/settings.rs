//! What an operator says of a cluster.

use std::path::PathBuf;
use std::time::Duration;

/// A named group of servers, and how they are spoken to. [`Default`] gives sensible values for everything but the
/// name and the endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClusterSettings {
    /// What filters and messages call it.
    pub name: String,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// What is spoken there. gRPC needs [`Protocol::Http2`].
    pub protocol: Protocol,
    /// `None` is cleartext: for HTTP/2, with prior knowledge.
    pub tls: Option<Tls>,
    /// How long a TCP connection with its TLS handshake may take.
    pub connect_timeout: Duration,
    /// How long a connection without a call is kept.
    pub idle_timeout: Duration,
    /// The most connections to one address. Calls that find none free wait within their timeout.
    pub max_connections: usize,
    /// The most calls and streams under way at once; more are refused at once.
    pub max_in_flight: usize,
    /// How often a call is tried again.
    pub retries: u32,
    /// When an address is left out of the rotation; `None` is never.
    pub ejection: Option<Ejection>,
    /// The longest body of a response, and the longest message of gRPC. Bytes.
    pub response_bytes: usize,
    /// How long the addresses of a DNS name are used before the name is looked up again.
    pub dns_refresh: Duration,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            name: String::new(),
            endpoints: Vec::new(),
            protocol: Protocol::Http1,
            tls: None,
            connect_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(60),
            max_connections: 64,
            max_in_flight: 1024,
            retries: 1,
            ejection: Some(Ejection::default()),
            response_bytes: 1 << 20,
            dns_refresh: Duration::from_secs(30),
        }
    }
}

/// A server, or all that share a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// An IP address, IPv6 without brackets, or a DNS name.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
}

/// The version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// How connections are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Tls {
    /// Whether the server must prove who it is. Off, anybody in between can read and change everything.
    pub verify: bool,
    /// Certificates, in PEM, that are trusted to sign the server's; `None` is the system's store.
    pub ca_file: Option<PathBuf>,
    /// Our own certificate with its chain, in PEM, for servers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// The private key of `certificate_file`, in PEM.
    pub key_file: Option<PathBuf>,
    /// The name in the server's certificate, also sent as SNI; `None` is the endpoint's host.
    pub server_name: Option<String>,
}

impl Default for Tls {
    fn default() -> Tls {
        Tls { verify: true, ca_file: None, certificate_file: None, key_file: None, server_name: None }
    }
}

/// When an address that fails is left out of the rotation.
///
/// After its time it is tried again: one more failure leaves it out for longer, up to ten times `duration`; one
/// success brings it back for good. If all are left out, all are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ejection {
    /// After so many failures in a row: no connection, a reset, a timeout, status 502, 503 or 504, gRPC status 14.
    pub failures: u32,
    /// For how long the first time.
    pub duration: Duration,
}

impl Default for Ejection {
    fn default() -> Ejection {
        Ejection { failures: 5, duration: Duration::from_secs(30) }
    }
}

/// Why a cluster cannot be made. Each message names the cluster and says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A value that cannot be.
    #[error("cluster `{cluster}`: {what}")]
    Settings {
        /// The cluster's name.
        cluster: String,
        /// What is wrong.
        what: String,
    },
    /// A file that cannot be read.
    #[error("cluster `{cluster}`: {path} cannot be read: {error}")]
    File {
        /// The cluster's name.
        cluster: String,
        /// The file.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// A file whose content is not what it should be.
    #[error("cluster `{cluster}`: {path}: {what}")]
    Content {
        /// The cluster's name.
        cluster: String,
        /// The file.
        path: String,
        /// What was expected.
        what: String,
    },
}

impl ClusterSettings {
    pub(crate) fn wrong(&self, what: impl Into<String>) -> ClusterError {
        ClusterError::Settings { cluster: self.name.clone(), what: what.into() }
    }

    /// Everything that can be told without files.
    ///
    /// # Errors
    /// [`ClusterError::Settings`].
    pub fn check(&self) -> Result<(), ClusterError> {
        if self.name.is_empty() {
            return Err(self.wrong("it has no name"));
        }
        if self.endpoints.is_empty() {
            return Err(self.wrong("it has no endpoints; name at least one host and port"));
        }
        for endpoint in &self.endpoints {
            if endpoint.host.is_empty() || endpoint.port == 0 {
                return Err(self.wrong(format!("`{endpoint}` is no endpoint; it needs a host and a port from 1")));
            }
            if endpoint.authority().parse::<http::uri::Authority>().is_err() {
                return Err(self.wrong(format!("`{}` is neither an IP address nor a DNS name", endpoint.host)));
            }
        }
        let positive = [
            ("max_connections", self.max_connections),
            ("max_in_flight", self.max_in_flight),
            ("response_kib", self.response_bytes),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(self.wrong(format!("{name} is 0; it must be at least 1")));
        }
        // A semaphore holds no more.
        if self.max_connections > tokio::sync::Semaphore::MAX_PERMITS {
            return Err(self.wrong(format!("max_connections is {}, which is too many", self.max_connections)));
        }
        if self.connect_timeout.is_zero() {
            return Err(self.wrong("connect_timeout is 0; nothing could ever be connected"));
        }
        if let Some(ejection) = &self.ejection
            && (ejection.failures == 0 || ejection.duration.is_zero())
        {
            return Err(self.wrong("an ejection needs at least one failure and a duration; leave it out for none"));
        }
        Ok(())
    }
}

impl Endpoint {
    /// `host:port`, with brackets around IPv6: what HTTP calls an authority.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.authority())
    }
}

//! One address of a cluster: its health and its connections.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use super::failure::Failure;
use super::health::Health;
use super::http1::Http1;
use super::http2::Http2;
use super::settings::{ClusterSettings, Endpoint};
use super::stats::{Counters, count};

/// What all addresses of a cluster have in common.
pub(crate) struct Shared {
    pub(crate) settings: ClusterSettings,
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) counters: Counters,
}

pub(crate) struct Target {
    pub(crate) shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    pub(crate) server_name: Option<ServerName<'static>>,
    /// How messages call it.
    label: String,
    pub(crate) health: Health,
    pub(crate) http1: Http1,
    pub(crate) http2: Http2,
}

impl Target {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        endpoint: &Endpoint,
        server_name: Option<ServerName<'static>>,
        address: SocketAddr,
    ) -> Target {
        let settings = &shared.settings;
        let label = match endpoint.host.parse::<std::net::IpAddr>() {
            Ok(_) => endpoint.to_string(),
            Err(_) => format!("{endpoint} ({})", address.ip()),
        };
        Target {
            shared: Arc::clone(shared),
            address,
            server_name,
            label,
            health: Health::new(settings.ejection),
            http1: Http1::new(settings.max_connections),
            http2: Http2::default(),
        }
    }

    /// A message that says where it happened.
    pub(crate) fn says(&self, what: impl fmt::Display) -> String {
        format!("cluster `{}`: {}: {what}", self.shared.settings.name, self.label)
    }

    pub(crate) fn succeeded(&self) {
        self.health.succeeded(Instant::now());
    }

    pub(crate) fn failed(&self, why: impl fmt::Display) {
        if let Some(duration) = self.health.failed(Instant::now()) {
            count(&self.shared.counters.ejections);
            log::warn!(
                "{}",
                self.says(format_args!("fails and is left out for {duration:?}; the last failure: {why}"))
            );
        }
    }
}

/// How far a call is, for the message of its timeout and for whom to blame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    #[default]
    Resolving,
    /// All connections are taken.
    Waiting,
    Connecting,
    Responding,
    /// The head of the response is there.
    Reading,
    /// Between two attempts.
    Pausing,
}

impl Stage {
    fn describe(self) -> &'static str {
        match self {
            Stage::Resolving => "while its name was looked up",
            Stage::Waiting => "while all connections were taken (max_connections)",
            Stage::Connecting => "while it was being connected",
            Stage::Responding => "before it answered",
            Stage::Reading => "in the middle of its response",
            Stage::Pausing => "before it could be tried again",
        }
    }
}

#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) stage: Stage,
    pub(crate) target: Option<Arc<Target>>,
    /// The HTTP/2 connection in use, to look after if nothing more comes on it.
    pub(crate) connection: Option<Arc<tokio::sync::Notify>>,
    /// The last attempt's failure, which a timeout between attempts should not hide.
    pub(crate) last: Option<Failure>,
}

impl Progress {
    /// The call's time is over: what to say, and whom to blame.
    pub(crate) fn timed_out(&self, cluster: &str, timeout: std::time::Duration) -> String {
        let what = format!("timed out after {timeout:?} {}", self.stage.describe());
        let message = match &self.target {
            Some(target) => target.says(&what),
            None => format!("cluster `{cluster}`: {what}"),
        };
        if let Some(target) = &self.target
            && matches!(self.stage, Stage::Connecting | Stage::Responding | Stage::Reading)
        {
            target.failed(&what);
        }
        if let Some(connection) = &self.connection {
            connection.notify_one();
        }
        match &self.last {
            Some(failure) => format!("{message}; the attempt before: {failure}"),
            None => message,
        }
    }
}

//! `metrics`: where a filter file wants the numbers shown.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;

/// Where Prometheus may fetch metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metrics {
    /// The address that is listened on.
    pub listen: SocketAddr,
    /// It may be one that other machines reach.
    pub any_address: bool,
}

/// Where metrics are served for Prometheus.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Metrics")]
pub(super) struct RawMetrics {
    /// The address and port where `GET /metrics` is answered, such as 127.0.0.1:9151.
    listen: String,
    /// Permits an address that other machines reach.
    #[serde(default)]
    any_address: bool,
}

impl RawMetrics {
    pub(super) fn resolve(&self) -> Result<Metrics, String> {
        let text = &self.listen;
        let listen: SocketAddr = text.parse().map_err(|_| {
            format!("metrics.listen: '{text}' is no address; one looks like 127.0.0.1:9151 or [::1]:9151")
        })?;
        if listen.port() == 0 {
            return Err("metrics.listen: port 0 is another one each time; name the port".to_owned());
        }
        if !listen.ip().is_loopback() && !self.any_address {
            return Err(format!(
                "metrics.listen: {listen} may be reached from other machines, and nobody is asked for a password; use a \
                 loopback address, or say 'any_address: true'"
            ));
        }
        Ok(Metrics { listen, any_address: self.any_address })
    }
}

//! One filter of a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::HostPattern;
use super::code::{Code, RawModule};
use super::limits::RawLimits;
use super::spelling::{BINARY, decode};
use crate::body::Side;
use crate::capabilities::Capabilities;
use crate::limits::Limits;

/// What becomes of a transaction when one of its filters fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailurePolicy {
    /// The transaction is answered 503.
    #[default]
    Closed,
    /// The transaction goes on without the filter.
    Open,
}

/// Which bodies a filter is shown, of those whose callbacks its module exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// Requests' and responses'.
    #[default]
    Both,
    /// Requests' alone.
    Request,
    /// Responses' alone.
    Response,
    /// None: bodies pass at full speed.
    None,
}

impl Body {
    /// Whether the bodies of this side are among them.
    #[must_use]
    pub const fn shows(self, side: Side) -> bool {
        match side {
            Side::Request => matches!(self, Body::Both | Body::Request),
            Side::Response => matches!(self, Body::Both | Body::Response),
        }
    }

    /// The bodies that both allow.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let shown = |side| self.shows(side) && other.shows(side);
        match (shown(Side::Request), shown(Side::Response)) {
            (true, true) => Body::Both,
            (true, false) => Body::Request,
            (false, true) => Body::Response,
            (false, false) => Body::None,
        }
    }

    /// The name in a configuration, and the value of the property `plugin_body`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Body::Both => "both",
            Body::Request => "request",
            Body::Response => "response",
            Body::None => "none",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        [Body::Both, Body::Request, Body::Response, Body::None]
            .into_iter()
            .find(|body| body.as_str().as_bytes() == name)
    }
}

/// On which side of the cache a filter sees responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// Every response on its way to a client, hits included; the cache keeps it as the origin sent it.
    #[default]
    Client,
    /// Once, when the origin sends it; the cache keeps what the filter made of it.
    Origin,
}

/// When request bodies go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestBody {
    /// As they come.
    #[default]
    Stream,
    /// Whole, and shown before the origin is contacted.
    Buffer,
}

/// One filter, as its file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterSpec {
    /// The name in logs and metrics, and the property `plugin_name`.
    pub name: String,
    /// Where its code is, which code it must be, and who compiles it.
    pub code: Code,
    /// `plugin_root_id`: which root context of the module this is.
    pub root_id: String,
    /// What `proxy_on_configure` reads.
    pub configuration: Arc<[u8]>,
    /// The namespace of shared data and queues, and part of the VM key.
    pub vm_id: String,
    /// What `proxy_on_vm_start` reads.
    pub vm_configuration: Arc<[u8]>,
    /// The guest's environment variables.
    pub environment: Vec<(String, String)>,
    /// What becomes of a transaction when the filter fails.
    pub failure_policy: FailurePolicy,
    /// Which bodies the filter is shown.
    pub body: Body,
    /// On which side of the cache it sees responses.
    pub at: At,
    /// When request bodies go on.
    pub request_body: RequestBody,
    /// Ceilings.
    pub limits: Limits,
    /// What the module may call and be called for; `None` is everything.
    pub allowed_capabilities: Option<Capabilities>,
    /// Addresses outside of clusters that it may call.
    pub callout_hosts: Vec<HostPattern>,
    /// The file that the filter comes from, for messages.
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFilter {
    name: String,
    module: RawModule,
    #[serde(default)]
    root_id: String,
    #[serde(default)]
    configuration: serde_yaml::Value,
    #[serde(default)]
    vm_id: String,
    #[serde(default)]
    vm_configuration: serde_yaml::Value,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    host_environment: Vec<String>,
    #[serde(default)]
    failure_policy: FailurePolicy,
    #[serde(default)]
    body: Body,
    #[serde(default)]
    at: At,
    #[serde(default)]
    request_body: RequestBody,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default, deserialize_with = "present")]
    allowed_capabilities: Option<Capabilities>,
    #[serde(default)]
    callout_hosts: Vec<HostPattern>,
}

/// A key that is there has a value: one without would read as "everything is allowed" and mean "nothing is".
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Capabilities>, D::Error> {
    Capabilities::deserialize(deserializer).map(Some)
}

impl RawFilter {
    pub(super) fn resolve(self, file: &Path, home: &Path) -> Result<FilterSpec, String> {
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return Err("'name' must be printable text, since log lines and metrics carry it".to_owned());
        }
        for (variable, value) in &self.environment {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("environment variable '{variable}': a name has no '=', and neither part a NUL"));
            }
        }
        let mut environment = from_host(&self.host_environment)?;
        environment.extend(self.environment);
        let limits = self.limits.resolve()?;
        Ok(FilterSpec {
            configuration: bytes(&self.configuration).map_err(|error| format!("configuration: {error}"))?,
            vm_configuration: bytes(&self.vm_configuration).map_err(|error| format!("vm_configuration: {error}"))?,
            name: self.name,
            code: self.module.resolve(home),
            root_id: self.root_id,
            vm_id: self.vm_id,
            environment: environment.into_iter().collect(),
            failure_policy: self.failure_policy,
            body: self.body,
            at: self.at,
            request_body: self.request_body,
            limits,
            allowed_capabilities: self.allowed_capabilities,
            callout_hosts: self.callout_hosts,
            source: file.display().to_string(),
        })
    }
}

/// The variables of the proxy's own environment that a filter may see, as far as they are set there.
fn from_host(names: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut found = BTreeMap::new();
    for name in names {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(format!(
                "host_environment: '{name}' is no name of a variable: it is not empty, and has no '='"
            ));
        }
        match std::env::var(name) {
            Ok(value) => {
                found.insert(name.clone(), value);
            }
            Err(std::env::VarError::NotPresent) => {}
            Err(std::env::VarError::NotUnicode(_)) => {
                return Err(format!("host_environment: the value of '{name}' is not UTF-8"));
            }
        }
    }
    Ok(found)
}

/// A configuration as the guest reads it: a string as it is, nothing as nothing, `!binary` as the bytes that its base64
/// stands for, anything else as JSON.
fn bytes(value: &serde_yaml::Value) -> Result<Arc<[u8]>, String> {
    match value {
        serde_yaml::Value::Null => Ok(Arc::from([])),
        serde_yaml::Value::String(text) => Ok(Arc::from(text.as_bytes())),
        serde_yaml::Value::Tagged(tagged) if tagged.tag == BINARY => {
            decode(tagged.value.as_str().ok_or("!binary: expected a string of base64")?)
        }
        value => serde_json::to_vec(value)
            .map(Arc::from)
            .map_err(|error| format!("has no JSON form ({error}); write it as a string")),
    }
}

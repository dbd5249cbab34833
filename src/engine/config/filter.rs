//! One filter of a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::breaker::{BreakerSpec, RawBreaker};
use super::code::{Code, RawModule};
use super::failure::{FailurePolicy, RawFailure};
use super::limits::RawLimits;
use super::log::RawLog;
use super::matching::Condition;
use super::{HostPattern, Isolation};
use crate::body::Side;
use crate::capabilities::Capabilities;
use crate::host::LocalResponse;
use crate::journal::LogSettings;
use crate::limits::Limits;

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
    /// What the client gets then, if not what is built in.
    pub failure_answer: Option<Arc<LocalResponse>>,
    /// When the filter is set aside.
    pub breaker: BreakerSpec,
    /// Which bodies the filter is shown.
    pub body: Body,
    /// On which side of the cache it sees responses.
    pub at: At,
    /// When request bodies go on.
    pub request_body: RequestBody,
    /// Which transactions it takes part in; `None` is all.
    pub matching: Option<Condition>,
    /// Ceilings.
    pub limits: Limits,
    /// With whom it shares VMs.
    pub isolation: Isolation,
    /// What the module may call and be called for; `None` is everything.
    pub allowed_capabilities: Option<Capabilities>,
    /// Addresses outside of clusters that it may call.
    pub callout_hosts: Vec<HostPattern>,
    /// From which level on its lines are kept, and where.
    pub log: LogSettings,
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
    failure_policy: RawFailure,
    breaker: Option<RawBreaker>,
    #[serde(default)]
    body: Body,
    #[serde(default)]
    at: At,
    #[serde(default)]
    request_body: RequestBody,
    #[serde(default, deserialize_with = "super::matching::present")]
    r#match: Option<Condition>,
    #[serde(default)]
    limits: RawLimits,
    #[serde(default)]
    isolation: Isolation,
    #[serde(default, deserialize_with = "present")]
    allowed_capabilities: Option<Capabilities>,
    #[serde(default)]
    callout_hosts: Vec<HostPattern>,
    #[serde(default)]
    log: RawLog,
}

/// A key that is there has a value: one without would read as "everything is allowed" and mean "nothing is".
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Capabilities>, D::Error> {
    Capabilities::deserialize(deserializer).map(Some)
}

impl RawFilter {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether the key is there.
    pub(super) fn has_breaker(&self) -> bool {
        self.breaker.is_some()
    }

    pub(super) fn resolve(self, file: &Path, home: &Path, log: &RawLog) -> Result<FilterSpec, String> {
        if self.name.is_empty() || self.name.chars().any(char::is_control) {
            return Err("'name' must be printable text, since log lines and metrics carry it".to_owned());
        }
        for (variable, value) in &self.environment {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                return Err(format!("environment variable '{variable}': a name has no '=', and neither part a NUL"));
            }
        }
        let limits = self.limits.resolve()?;
        let failure = self.failure_policy.resolve("failure_policy")?;
        Ok(FilterSpec {
            configuration: bytes(&self.configuration).map_err(|error| format!("configuration: {error}"))?,
            vm_configuration: bytes(&self.vm_configuration).map_err(|error| format!("vm_configuration: {error}"))?,
            name: self.name,
            code: self.module.resolve(home),
            root_id: self.root_id,
            vm_id: self.vm_id,
            environment: self.environment.into_iter().collect(),
            failure_policy: failure.policy,
            failure_answer: failure.answer,
            breaker: self.breaker.unwrap_or_default().resolve()?,
            body: self.body,
            at: self.at,
            request_body: self.request_body,
            matching: self.r#match,
            limits,
            isolation: self.isolation,
            allowed_capabilities: self.allowed_capabilities,
            callout_hosts: self.callout_hosts,
            log: self.log.resolve(log)?,
            source: file.display().to_string(),
        })
    }
}

/// A configuration as the guest reads it: a string as it is, nothing as nothing, anything else as JSON.
fn bytes(value: &serde_yaml::Value) -> Result<Arc<[u8]>, String> {
    match value {
        serde_yaml::Value::Null => Ok(Arc::from([])),
        serde_yaml::Value::String(text) => Ok(Arc::from(text.as_bytes())),
        value => serde_json::to_vec(value)
            .map(Arc::from)
            .map_err(|error| format!("has no JSON form ({error}); write it as a string")),
    }
}

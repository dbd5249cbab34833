//! One filter of a file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_yaml::Value;

use super::breaker::{BreakerSpec, RawBreaker};
use super::code::{Code, RawModule};
use super::defaults::merge;
use super::error::ConfigError;
use super::failure::{FailurePolicy, RawFailure};
use super::limits::RawLimits;
use super::log::RawLog;
use super::matching::Condition;
use super::modules::{self, Modules};
use super::place::{Part, Source, Trail};
use super::spelling::{BINARY, decode};
use super::{HostPattern, Isolation};
use crate::body::Side;
use crate::capabilities::Capabilities;
use crate::host::LocalResponse;
use crate::journal::LogSettings;
use crate::limits::Limits;

/// Which bodies a filter is shown, of those whose callbacks its module exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum At {
    /// Every response on its way to a client, hits included; the cache keeps it as the origin sent it.
    #[default]
    Client,
    /// Once, when the origin sends it; the cache keeps what the filter made of it.
    Origin,
}

/// When request bodies go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, JsonSchema)]
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

/// A filter: a module, its configuration, and how it is run.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Filter")]
pub(super) struct RawFilter {
    /// The name in log lines and metrics, and the property `plugin_name`. Printable, not empty.
    #[schemars(required, length(min = 1))]
    pub(super) name: Option<String>,
    /// The Wasm file, relative to this file, a name of `modules`, or either with what is expected of it.
    #[schemars(required)]
    pub(super) module: Option<RawModule>,
    /// The property `plugin_root_id`: which root context of the module this is. Modules with one root context ignore it.
    pub(super) root_id: Option<String>,
    /// What `proxy_on_configure` reads. A text is handed over as it is; a mapping, list, number or boolean as JSON.
    #[serde(default, deserialize_with = "anything")]
    #[schemars(with = "serde_json::Value")]
    pub(super) configuration: Option<Value>,
    /// The namespace of shared data and queues. Filters with different ones have different VMs.
    pub(super) vm_id: Option<String>,
    /// What `proxy_on_vm_start` reads; as `configuration`.
    #[serde(default, deserialize_with = "anything")]
    #[schemars(with = "serde_json::Value")]
    pub(super) vm_configuration: Option<Value>,
    /// The guest's environment variables. It never sees those of traffic_server.
    pub(super) environment: Option<BTreeMap<String, String>>,
    /// Variables of traffic_server's own environment that the guest sees too, by name. Default: none.
    pub(super) host_environment: Option<Vec<String>>,
    /// What becomes of a transaction when the filter fails. Default: closed.
    pub(super) failure_policy: Option<RawFailure>,
    /// When the filter is set aside because it fails again and again. Default: on.
    pub(super) breaker: Option<RawBreaker>,
    /// Which bodies the filter is shown, of those whose callbacks its module exports. Default: both.
    pub(super) body: Option<Body>,
    /// On which side of the cache it sees responses. Default: client.
    pub(super) at: Option<At>,
    /// When requests' bodies go on. Default: stream.
    pub(super) request_body: Option<RequestBody>,
    /// Which transactions it takes part in. Default: all.
    #[serde(default, deserialize_with = "super::matching::present")]
    pub(super) r#match: Option<Condition>,
    /// Ceilings of what the filter may use.
    pub(super) limits: Option<RawLimits>,
    /// With whom it shares its VMs. Default: shared.
    pub(super) isolation: Option<Isolation>,
    /// What the module may call and be called for. Default: everything.
    #[serde(default, deserialize_with = "present")]
    pub(super) allowed_capabilities: Option<Capabilities>,
    /// Addresses outside of clusters that it may call, as host:port. Default: none.
    pub(super) callout_hosts: Option<Vec<HostPattern>>,
    /// Which of its lines are kept, and where.
    pub(super) log: Option<RawLog>,
}

/// A key that is there has a value: one without would read as "everything is allowed" and mean "nothing is".
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Capabilities>, D::Error> {
    Capabilities::deserialize(deserializer).map(Some)
}

/// What a guest is given: any value, and nothing is one.
fn anything<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl RawFilter {
    /// The keys that are said of those that not everything with the type of a filter may say.
    pub(super) fn says(&self) -> impl Iterator<Item = &'static str> {
        let said = [
            ("name", self.name.is_some()),
            ("module", self.module.is_some()),
            ("configuration", self.configuration.is_some()),
            ("failure_policy", self.failure_policy.is_some()),
            ("breaker", self.breaker.is_some()),
            ("match", self.r#match.is_some()),
            ("isolation", self.isolation.is_some()),
            ("body", self.body.is_some()),
            ("at", self.at.is_some()),
            ("request_body", self.request_body.is_some()),
        ];
        said.into_iter().filter_map(|(key, said)| said.then_some(key))
    }

    /// What this filter says, and the defaults where it says nothing.
    pub(super) fn over(mut self, defaults: &RawFilter) -> Self {
        self.limits = match (self.limits.take(), &defaults.limits) {
            (Some(own), Some(defaults)) => Some(own.over(defaults)),
            (own, _) => own,
        };
        if let (Some(own), Some(defaults)) = (&mut self.environment, &defaults.environment) {
            for (name, value) in defaults {
                own.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        merge!(
            RawFilter, self, defaults; name, module, root_id, configuration, vm_id, vm_configuration, environment,
            host_environment,            failure_policy, breaker, body, at, request_body, r#match, limits, isolation, allowed_capabilities, callout_hosts,
            log,
        )
    }

    /// Looks at values that their types let pass.
    ///
    /// # Errors
    /// What is wrong with one, with its place.
    pub(super) fn check(&self, source: &Source<'_>, trail: &Trail) -> Result<(), ConfigError> {
        for (variable, value) in self.environment.iter().flatten() {
            if variable.is_empty() || variable.contains(['=', '\0']) || value.contains('\0') {
                let trail = trail.clone().key("environment").key(variable);
                let message = "a name is not empty and has no '=', and neither part a NUL";
                return Err(source.wrong(&trail, Part::Key, message));
            }
        }
        let limits = self.limits.clone().unwrap_or_default().resolve();
        limits.map(drop).map_err(|message| source.wrong_below(trail, &message))
    }

    /// The filter that the file describes.
    ///
    /// # Errors
    /// What is wrong with it, with its place.
    pub(super) fn resolve(
        self,
        source: &Source<'_>,
        trail: &Trail,
        modules: &Modules,
        home: &Path,
        log: &RawLog,
    ) -> Result<FilterSpec, ConfigError> {
        let missing = |key: &str| source.wrong(trail, Part::Lack, format!("the key '{key}' is missing"));
        let wrong = |key: &str, message: String| source.wrong(&trail.clone().key(key), Part::Value, message);
        let name = self.name.clone().ok_or_else(|| missing("name"))?;
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(wrong("name", "must be printable text, since log lines and metrics carry it".to_owned()));
        }
        let module = self.module.clone().ok_or_else(|| missing("module"))?;
        let module = modules::resolve(module, modules, home)
            .map_err(|(message, suggestion)| ConfigError { suggestion, ..wrong("module", message) })?;
        self.check(source, trail)?;
        let limits = self.limits.unwrap_or_default();
        let below = |message: String| source.wrong_below(trail, &message);
        let limits = limits.resolve().map_err(below)?;
        let failure = self.failure_policy.unwrap_or_default().resolve("failure_policy").map_err(below)?;
        let mut environment = from_host(self.host_environment.as_deref().unwrap_or_default()).map_err(below)?;
        environment.extend(self.environment.into_iter().flatten());
        Ok(FilterSpec {
            configuration: bytes(self.configuration.as_ref()).map_err(|error| wrong("configuration", error))?,
            vm_configuration: bytes(self.vm_configuration.as_ref())
                .map_err(|error| wrong("vm_configuration", error))?,
            name,
            code: module.resolve(home),
            root_id: self.root_id.unwrap_or_default(),
            vm_id: self.vm_id.unwrap_or_default(),
            environment: environment.into_iter().collect(),
            failure_policy: failure.policy,
            failure_answer: failure.answer,
            breaker: self.breaker.unwrap_or_default().resolve().map_err(below)?,
            body: self.body.unwrap_or_default(),
            at: self.at.unwrap_or_default(),
            request_body: self.request_body.unwrap_or_default(),
            matching: self.r#match,
            limits,
            isolation: self.isolation.unwrap_or_default(),
            allowed_capabilities: self.allowed_capabilities,
            callout_hosts: self.callout_hosts.unwrap_or_default(),
            log: self.log.unwrap_or_default().resolve(log).map_err(below)?,
            source: source.file.display().to_string(),
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
fn bytes(value: Option<&Value>) -> Result<Arc<[u8]>, String> {
    match value {
        None | Some(Value::Null) => Ok(Arc::from([])),
        Some(Value::String(text)) => Ok(Arc::from(text.as_bytes())),
        Some(Value::Tagged(tagged)) if tagged.tag == BINARY => {
            decode(tagged.value.as_str().ok_or("!binary: expected a string of base64")?)
        }
        Some(value) => serde_json::to_vec(value)
            .map(Arc::from)
            .map_err(|error| format!("has no JSON form ({error}); write it as a string")),
    }
}

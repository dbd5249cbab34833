//! Envoy's `PluginConfig`, and the entries of filter lists that hold one.

use serde_yaml::{Mapping, Value};

use super::Work;
use super::any::{self, type_name, type_of};
use super::fields::{Cursor, Fields, Problem};
use super::node::Node;
use super::ours::{Code, Draft, Policy};

/// What an entry of `http_filters` is.
pub(super) enum Entry<'a> {
    /// A Wasm filter, by its entry's name and its `Wasm` message.
    Wasm(Option<&'a str>, Cursor<'a>),
    /// `envoy.filters.http.router`, which sends the request on: what ATS does anyway.
    Router,
    /// One that Envoy itself implements, or another kind of plugin, by name.
    Other(String),
    /// Switched off.
    Disabled(Option<&'a str>),
}

const WASM: &str = "envoy.filters.http.wasm";
const ROUTER: &str = "envoy.filters.http.router";

/// Whether a type's name is that of the `Wasm` message of HTTP filters, of any version.
fn is_wasm(name: &str) -> bool {
    matches!(name, "envoy.extensions.filters.http.wasm.v3.Wasm" | "envoy.config.filter.http.wasm.v2.Wasm")
}

/// Whether a type's name is that of a service.
pub(super) fn is_service(name: &str) -> bool {
    matches!(name, "envoy.extensions.wasm.v3.WasmService" | "envoy.config.wasm.v2.WasmService")
}

/// The message within a `typed_config`, and the name of its type.
pub(super) fn typed<'a>(config: &Cursor<'a>) -> Result<(Option<&'a str>, Cursor<'a>), Problem> {
    match type_of(config)? {
        Some("udpa.type.v1.TypedStruct" | "xds.type.v3.TypedStruct") => {
            let fields = config.fields()?;
            fields.skip(&["@type"]);
            let name = type_name(fields.need("type_url")?.text()?);
            let value = fields.need("value")?;
            fields.end()?;
            Ok((Some(name), value))
        }
        name => Ok((name, config.clone())),
    }
}

/// What an entry of `http_filters` is.
pub(super) fn entry<'a>(cursor: &Cursor<'a>) -> Result<Entry<'a>, Problem> {
    let fields = cursor.fields()?;
    let name = fields.get("name")?.map(|name| name.text()).transpose()?;
    let typed_config = fields.get("typed_config")?;
    // What it was called before it had a type.
    let config = fields.get("config")?;
    let discovery = fields.get("config_discovery")?;
    fields.skip(&["is_optional"]);
    let disabled = fields.get("disabled")?.map(|flag| flag.flag()).transpose()?.unwrap_or_default();
    let (of_type, message) = match (&typed_config, &config) {
        (Some(typed_config), _) => typed(typed_config)?,
        (None, Some(config)) => (None, config.clone()),
        (None, None) => (None, cursor.clone()),
    };
    let wasm = of_type.map_or(name == Some(WASM), is_wasm);
    let shown = || name.or(of_type).unwrap_or("without a name").to_owned();
    if name == Some(ROUTER) || of_type == Some("envoy.extensions.filters.http.router.v3.Router") {
        return Ok(Entry::Router);
    }
    if disabled {
        return Ok(Entry::Disabled(name));
    }
    if let Some(discovery) = discovery {
        return Err(discovery.problem(format!(
            "the configuration of '{}' comes from a discovery service: put it here, as `typed_config`",
            shown()
        )));
    }
    if !wasm {
        return Ok(Entry::Other(shown()));
    }
    fields.end()?;
    if typed_config.is_none() && config.is_none() {
        return Err(cursor.problem("'typed_config' is missing"));
    }
    Ok(Entry::Wasm(name.filter(|name| *name != WASM), message))
}

/// The filter of a `Wasm` message: `{config: PluginConfig}`.
pub(super) fn wasm(message: &Cursor<'_>, name: Option<&str>, work: &mut Work<'_>) -> Result<Draft, Problem> {
    let fields = message.fields()?;
    fields.skip(&["@type"]);
    let config = fields.need("config")?;
    fields.end()?;
    plugin(&config, name, work)
}

/// A `WasmService`: `{config: PluginConfig, singleton: true}`.
pub(super) fn service(message: &Cursor<'_>, name: Option<&str>, work: &mut Work<'_>) -> Result<Draft, Problem> {
    let fields = message.fields()?;
    fields.skip(&["@type"]);
    let config = fields.need("config")?;
    let singleton = fields.get("singleton")?.map(|flag| flag.flag()).transpose()?.unwrap_or_default();
    fields.end()?;
    if !singleton {
        let message = "without `singleton: true` Envoy runs a service in each of its threads; here it runs once";
        work.warn(fields.place.clone(), message);
    }
    plugin(&config, name, work)
}

/// A `PluginConfig`.
pub(super) fn plugin(config: &Cursor<'_>, outer: Option<&str>, work: &mut Work<'_>) -> Result<Draft, Problem> {
    let fields = config.fields()?;
    // Where the message stands in an `Any` by itself.
    fields.skip(&["@type"]);
    let mut draft = Draft::new(config.place.clone());
    let name = fields.get("name")?;
    let root_id = fields.get("root_id")?;
    if let Some(root_id) = &root_id {
        draft.set("root_id", root_id.text()?, &root_id.place);
    }
    let vm_config = fields.need("vm_config")?;
    if let Some(found) = fields.get("configuration")? {
        draft.set("configuration", any::configuration(&found)?, &found.place);
    }
    policy(&fields, &mut draft, work)?;
    if let Some(restriction) = fields.get("capability_restriction_config")? {
        capabilities(&restriction, &mut draft)?;
    }
    if let Some(stop) = fields.get("allow_on_headers_stop_iteration")?
        && stop.flag()?
    {
        let message =
            "a filter that pauses in a header callback is shown no body until it goes on, as without this key";
        work.warn(stop.place.clone().on_key(), message);
    }
    vm(&vm_config, &mut draft, work)?;
    fields.end()?;
    let text = name.as_ref().map(Cursor::text).transpose()?;
    let root_id = root_id.as_ref().map(Cursor::text).transpose()?;
    let place = name.as_ref().map_or(&config.place, |name| &name.place);
    draft.name(text, &[root_id, outer], work.file, place);
    Ok(draft)
}

/// `failure_policy`, `fail_open` and `reload_config`.
fn policy(fields: &Fields<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let fail_open = fields.get("fail_open")?;
    let policy = fields.get("failure_policy")?;
    if let (Some(_), Some(policy)) = (&fail_open, &policy) {
        return Err(Problem::new(
            policy.place.clone().on_key(),
            "`fail_open` is the old spelling of `failure_policy`, and there too: drop one of them".to_owned(),
        ));
    }
    if let Some(fail_open) = fail_open
        && fail_open.flag()?
    {
        draft.policy(Policy::Open, &fail_open.place);
    }
    if let Some(policy) = policy {
        let meant = match policy.text()? {
            "UNSPECIFIED" | "0" | "FAIL_CLOSED" | "2" => Policy::Closed,
            "FAIL_RELOAD" | "1" => Policy::Reload,
            "FAIL_OPEN" | "3" => Policy::Open,
            other => {
                return Err(policy.problem(format!(
                    "unknown variant `{other}`, expected one of `FAIL_CLOSED`, `FAIL_OPEN`, `FAIL_RELOAD`"
                )));
            }
        };
        draft.policy(meant, &policy.place);
    }
    if let Some(reload) = fields.get("reload_config")? {
        let reload = reload.fields()?;
        if let Some(backoff) = reload.get("backoff")? {
            let times = backoff.fields()?;
            let base = times.need("base_interval")?.milliseconds()?;
            let max = times.get("max_interval")?.map(|max| max.milliseconds()).transpose()?;
            times.end()?;
            if !draft.backoff(base, max, &backoff.place) {
                let message =
                    "a VM that is lost is built anew with a backoff that is not to be configured: `backoff` is ignored";
                work.warn(backoff.place.clone().on_key(), message);
            }
        }
        reload.end()?;
    }
    Ok(())
}

fn capabilities(restriction: &Cursor<'_>, draft: &mut Draft) -> Result<(), Problem> {
    let fields = restriction.fields()?;
    if let Some(allowed) = fields.get("allowed_capabilities")? {
        let names = match allowed.node {
            // As the C++ plugin has it.
            Node::List(_) => allowed.texts()?,
            _ => {
                let entries = allowed.entries()?;
                for (_, sanitization) in &entries {
                    if *sanitization.node != Node::Null {
                        let fields = sanitization.fields()?;
                        fields.end()?;
                    }
                }
                entries.into_iter().map(|(name, _)| name).collect()
            }
        };
        // An empty one allows everything in Envoy.
        if !names.is_empty() {
            let names: Vec<Value> = names.into_iter().map(Value::from).collect();
            draft.set("allowed_capabilities", names, &allowed.place);
        }
    }
    fields.end()
}

/// A `VmConfig`.
fn vm(config: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let fields = config.fields()?;
    if let Some(vm_id) = fields.get("vm_id")? {
        draft.set("vm_id", vm_id.text()?, &vm_id.place);
    }
    if let Some(runtime) = fields.get("runtime")? {
        match runtime.text()?.strip_prefix("envoy.wasm.runtime.") {
            Some("v8" | "wasmtime" | "wamr" | "wasmedge" | "wavm") => {}
            Some("null") => {
                return Err(runtime.problem(
                    "envoy.wasm.runtime.null is for filters that are compiled into Envoy: there is no Wasm to run",
                ));
            }
            _ => {
                return Err(runtime.problem(format!(
                    "'{}' is no runtime of Envoy: expected envoy.wasm.runtime.v8, .wasmtime, .wamr or .wasmedge. Each of \
                     them runs on wasmtime here",
                    runtime.text()?
                )));
            }
        }
    }
    let code = fields.need("code")?;
    if let Some(found) = fields.get("configuration")? {
        draft.set("vm_configuration", any::configuration(&found)?, &found.place);
    }
    // Code is compiled from Wasm in any case, and nothing is fetched.
    for name in ["allow_precompiled", "nack_on_code_cache_miss"] {
        fields.get(name)?.map(|flag| flag.flag()).transpose()?;
    }
    if let Some(variables) = fields.get("environment_variables")? {
        environment(&variables, draft)?;
    }
    fields.end()?;
    source(&code, draft, work)
}

fn environment(variables: &Cursor<'_>, draft: &mut Draft) -> Result<(), Problem> {
    let fields = variables.fields()?;
    let host = fields.get("host_env_keys")?;
    let own = fields.get("key_values")?;
    fields.end()?;
    let own = own.map(|own| Ok((own.entries()?, own.place))).transpose()?;
    if let Some(host) = &host {
        for item in host.list()? {
            let name = item.text()?;
            if own.as_ref().is_some_and(|(own, _)| own.iter().any(|(key, _)| *key == name)) {
                return Err(item.problem(format!("'{name}' stands in `key_values` too: drop one of them")));
            }
        }
        draft.set("host_environment", host.texts()?.into_iter().map(Value::from).collect::<Vec<_>>(), &host.place);
    }
    if let Some((own, place)) = own {
        let pair = |(name, value): (&str, Cursor<'_>)| Ok((Value::from(name), Value::from(value.text()?)));
        draft.set("environment", own.into_iter().map(pair).collect::<Result<Mapping, Problem>>()?, &place);
    }
    Ok(())
}

/// An `AsyncDataSource`: where the code is.
fn source(code: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let fields = code.fields()?;
    let local = fields.get("local")?;
    let remote = fields.get("remote")?;
    fields.end()?;
    match (local, remote) {
        (Some(local), None) => self::local(&local, draft, work),
        (None, Some(remote)) => self::remote(&remote, draft, work),
        (Some(_), Some(remote)) => Err(Problem::new(
            remote.place.on_key(),
            "code is either `local` or `remote`, and here both: drop one of them".to_owned(),
        )),
        (None, None) => Err(code.problem("'local' is missing")),
    }
}

/// A `DataSource`.
fn local(local: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let fields = local.fields()?;
    let sources = ["filename", "inline_bytes", "inline_string", "environment_variable"];
    let mut found = Vec::new();
    for name in sources {
        found.extend(fields.get(name)?.map(|cursor| (name, cursor)));
    }
    if let Some(watched) = fields.get("watched_directory")? {
        let message = "files are read again when the rules are loaded again: `watched_directory` is ignored";
        work.warn(watched.place.on_key(), message);
    }
    fields.end()?;
    match found.as_slice() {
        [] => Err(local.problem("'filename' is missing")),
        [("filename", cursor)] => {
            draft.code(Code::File(cursor.text()?.to_owned()), &cursor.place);
            Ok(())
        }
        [("inline_bytes", cursor)] => {
            let bytes = any::decode(cursor.text()?).map_err(|why| cursor.problem(why))?;
            draft.code(Code::Inline(bytes), &cursor.place);
            Ok(())
        }
        [("inline_string", cursor)] => {
            draft.code(Code::Inline(cursor.text()?.as_bytes().into()), &cursor.place);
            Ok(())
        }
        [(name, cursor)] => Err(cursor.problem(format!(
            "code from `{name}` is not read: expected `filename`, `inline_bytes` or `inline_string`"
        ))),
        [(one, _), (other, cursor), ..] => Err(Problem::new(
            cursor.place.clone().on_key(),
            format!("code comes from one place, and here from `{one}` and `{other}`: drop one of them"),
        )),
    }
}

/// A `RemoteDataSource`. Nothing is fetched: what a server runs should not depend on who answers when it starts.
fn remote(remote: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let fields = remote.fields()?;
    let sha256 = fields.get("sha256")?;
    let http = fields.need("http_uri")?;
    fields.skip(&["retry_policy"]);
    fields.end()?;
    let http = http.fields()?;
    let uri = http.need("uri")?.text()?;
    http.skip(&["cluster", "timeout"]);
    http.end()?;
    work.fetched(uri, sha256.as_ref(), &remote.place, draft)
}

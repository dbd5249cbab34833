//! Istio's `WasmPlugin`.

use std::path::Path;

use serde_yaml::{Mapping, Value};

use super::Work;
use super::fields::{Cursor, Fields, Problem};
use super::node::{Node, Place};
use super::ours::{Code, Draft, Policy};

/// Whether a document is of Kubernetes' making.
pub(super) fn is_resource(root: &Node) -> bool {
    root.get("apiVersion").is_some() || root.get("kind").is_some() && root.get("spec").is_some()
}

/// A filter, and where it belongs among others.
struct Placed {
    phase: usize,
    /// None is behind all that have one.
    priority: Option<i64>,
    draft: Draft,
}

/// Istio puts phases in this order, the unnamed one last: next to the router.
const PHASES: [&str; 4] = ["AUTHN", "AUTHZ", "STATS", "UNSPECIFIED_PHASE"];

/// The filters of a file's resources, in the order in which Istio would have them.
pub(super) fn read(documents: &[Node], work: &mut Work<'_>) -> Result<Vec<Draft>, Problem> {
    let mut found = Vec::new();
    for (index, node) in documents.iter().enumerate() {
        if *node != Node::Null {
            resource(&Cursor { node, place: Place::document(index) }, &mut found, work)?;
        }
    }
    if found.is_empty() {
        return Err(Problem::new(Place::default(), "there is no WasmPlugin in it"));
    }
    // Stable: Istio leaves equal ones as they were created.
    found.sort_by_key(|placed| (placed.phase, std::cmp::Reverse(placed.priority)));
    Ok(found.into_iter().map(|placed| placed.draft).collect())
}

fn resource(root: &Cursor<'_>, found: &mut Vec<Placed>, work: &mut Work<'_>) -> Result<(), Problem> {
    let fields = root.fields()?;
    let version = fields.get("apiVersion")?;
    let kind = fields.need("kind")?;
    match kind.text()? {
        "WasmPlugin" => {}
        // `kubectl get wasmplugin -o yaml`.
        "List" | "WasmPluginList" => {
            for item in fields.need("items")?.list()? {
                resource(&item, found, work)?;
            }
            return Ok(());
        }
        other => {
            return Err(kind.problem(format!(
                "a '{other}' is no filter: expected `WasmPlugin`. What an EnvoyFilter holds can stand in a file of its own"
            )));
        }
    }
    if let Some(version) = version
        && !version.text()?.starts_with("extensions.istio.io/")
    {
        return Err(
            version.problem(format!("'{}' has no WasmPlugin: expected extensions.istio.io/v1alpha1", version.text()?))
        );
    }
    let metadata = fields.get("metadata")?;
    let spec = fields.need("spec")?;
    fields.skip(&["status"]);
    fields.end()?;
    let mut name = None;
    if let Some(metadata) = metadata {
        // The rest is Kubernetes' own.
        let metadata = metadata.fields()?;
        let own = metadata.get("name")?.map(|name| name.text()).transpose()?;
        let namespace = metadata.get("namespace")?.map(|namespace| namespace.text()).transpose()?;
        name = match (namespace, own) {
            (Some(namespace), Some(own)) => Some(format!("{namespace}.{own}")),
            (_, own) => own.map(str::to_owned),
        };
    }
    found.push(plugin(&spec, name.as_deref(), &root.place, work)?);
    Ok(())
}

fn plugin(spec: &Cursor<'_>, name: Option<&str>, place: &Place, work: &mut Work<'_>) -> Result<Placed, Problem> {
    let fields = spec.fields()?;
    let mut draft = Draft::new(spec.place.clone());
    let plugin_name = fields.get("pluginName")?;
    if let Some(plugin_name) = &plugin_name {
        // "The plugin name to be used in the Envoy configuration (used to be called rootID)".
        draft.set("root_id", plugin_name.text()?, &plugin_name.place);
    }
    let url = fields.need("url")?;
    let sha256 = fields.get("sha256")?;
    if let Some(config) = fields.get("pluginConfig")? {
        config.entries()?;
        draft.set("configuration", config.value(), &config.place);
    }
    if let Some(strategy) = fields.get("failStrategy")? {
        let policy = match strategy.text()? {
            "FAIL_CLOSE" | "0" => Policy::Closed,
            "FAIL_OPEN" | "1" => Policy::Open,
            "FAIL_RELOAD" | "2" => Policy::Reload,
            other => {
                return Err(strategy.problem(format!(
                    "unknown variant `{other}`, expected one of `FAIL_CLOSE`, `FAIL_OPEN`, `FAIL_RELOAD`"
                )));
            }
        };
        draft.policy(policy, &strategy.place);
    }
    if let Some(vm) = fields.get("vmConfig")? {
        environment(&vm, &mut draft)?;
    }
    let phase = match fields.get("phase")? {
        None => PHASES.len() - 1,
        Some(phase) => {
            let name = phase.text()?;
            let numbers = ["1", "2", "3", "0"];
            let known = PHASES.iter().zip(numbers).position(|(known, number)| *known == name || number == name);
            known.ok_or_else(|| {
                phase.problem(format!("unknown variant `{name}`, expected one of `AUTHN`, `AUTHZ`, `STATS`"))
            })?
        }
    };
    let priority = fields.get("priority")?.map(|priority| priority.integer()).transpose()?;
    if let Some(kind) = fields.get("type")?
        && !matches!(kind.text()?, "HTTP" | "UNSPECIFIED_PLUGIN_TYPE" | "0" | "1")
    {
        return Err(kind.problem(format!("'{}' is no filter of HTTP: expected `HTTP`", kind.text()?)));
    }
    elsewhere(&fields, work)?;
    fields.end()?;
    code(&url, sha256.as_ref(), &mut draft, work)?;
    let plugin_name = plugin_name.as_ref().map(Cursor::text).transpose()?;
    draft.name(name, &[plugin_name], work.file, &place.key("metadata").key("name"));
    Ok(Placed { phase, priority, draft })
}

/// What says where a plugin goes: here a rule says so.
fn elsewhere(fields: &Fields<'_>, work: &mut Work<'_>) -> Result<(), Problem> {
    for (name, why) in [
        ("selector", "a rule of remap.config says what a filter is for"),
        ("targetRef", "a rule of remap.config says what a filter is for"),
        ("targetRefs", "a rule of remap.config says what a filter is for"),
        ("match", "a rule of remap.config says what a filter is for"),
        ("imagePullPolicy", "nothing is pulled"),
        ("imagePullSecret", "nothing is pulled"),
        ("verificationKey", "no signature is looked at"),
    ] {
        if let Some(found) = fields.get(name)? {
            work.warn(found.place.on_key(), format!("'{name}' is ignored: {why}"));
        }
    }
    Ok(())
}

fn code(url: &Cursor<'_>, sha256: Option<&Cursor<'_>>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let text = url.text()?;
    // Istio takes what has no scheme for an image; a path that looks like one is the more useful reading here.
    let wasm = Path::new(text).extension().is_some_and(|extension| extension == "wasm");
    let path = match text.strip_prefix("file://") {
        Some(path) => path,
        None if text.contains("://") || !(wasm || text.starts_with(['/', '.'])) => {
            return work.fetched(text, sha256, &url.place, draft);
        }
        None => text,
    };
    if path.is_empty() {
        return Err(url.problem("the path of a Wasm file is expected"));
    }
    draft.code(Code::File(path.to_owned()), &url.place);
    match sha256.map(|sha256| Ok((sha256.text()?, &sha256.place))).transpose()? {
        Some((sha256, place)) if !sha256.is_empty() => draft.pin(sha256, place),
        _ => Ok(()),
    }
}

/// `vmConfig.env`.
fn environment(vm: &Cursor<'_>, draft: &mut Draft) -> Result<(), Problem> {
    let fields = vm.fields()?;
    let variables = fields.get("env")?;
    fields.end()?;
    let Some(variables) = variables else { return Ok(()) };
    let (mut own, mut host) = (Mapping::new(), Vec::new());
    for variable in variables.list()? {
        let fields = variable.fields()?;
        let name = fields.need("name")?;
        let from = fields.get("valueFrom")?;
        let value = fields.get("value")?;
        fields.end()?;
        match from.as_ref().map(Cursor::text).transpose()? {
            None | Some("INLINE" | "0") => {
                let value = value.map(|value| value.text()).transpose()?.unwrap_or_default();
                if own.insert(name.text()?.into(), value.into()).is_some() {
                    return Err(name.problem(format!("'{}' is there twice", name.text()?)));
                }
            }
            Some("HOST" | "1") => host.push(Value::from(name.text()?)),
            Some(other) => {
                let place = from.map_or_else(|| variable.place.clone(), |from| from.place);
                let message = format!("unknown variant `{other}`, expected one of `INLINE`, `HOST`");
                return Err(Problem::new(place, message));
            }
        }
    }
    draft.set("environment", own, &variables.place);
    draft.set("host_environment", host, &variables.place);
    Ok(())
}

//! The files of ATS's own plugin `wasm.so`.
//!
//! It reads the first document's first key, which is `config`, takes the scalars that it knows as they are written, and
//! passes over everything else in silence. What it takes is taken here with its meaning; what it passes over is passed
//! over here too, but not in silence.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

use super::Work;
use super::fields::{Cursor, Problem, nearest};
use super::node::{Node, Place};
use super::ours::{Code, Draft, Policy};
use crate::capabilities::Capabilities;

/// What `runtime` may say there. Whichever it is, code runs on wasmtime here.
const RUNTIMES: [&str; 3] = ["ats.wasm.runtime.wamr", "ats.wasm.runtime.wasmtime", "ats.wasm.runtime.wasmedge"];

/// The filter of a file.
pub(super) fn read(root: &Cursor<'_>, documents: usize, work: &mut Work<'_>) -> Result<Draft, Problem> {
    let entries = root.entries()?;
    let [(_, config), others @ ..] = entries.as_slice() else {
        return Err(root.problem("'config' is missing"));
    };
    for (key, other) in others {
        let message = format!("'{key}' stands behind 'config', where the plugin wasm.so reads nothing: it is ignored");
        work.warn(other.place.clone().on_key(), message);
    }
    if documents > 1 {
        let message = "the plugin wasm.so reads the first document of a file: the others are ignored";
        work.warn(Place::document(1), message);
    }
    let mut draft = Draft::new(config.place.clone());
    let mut name = None;
    let mut vm = Vm::default();
    // Its default, which is not ours.
    draft.policy(Policy::Open, &config.place);
    draft.set("at", "origin", &config.place);
    for (key, value) in config.entries()? {
        match (key, scalar(&value)) {
            ("name", Some(text)) => name = Some((text, value.place.clone())),
            ("root_id" | "rootId", Some(text)) => draft.set("root_id", text, &value.place),
            ("configuration", Some(text)) => draft.set("configuration", text, &value.place),
            ("fail_open", Some(text)) => {
                if text == "false" {
                    draft.policy(Policy::Closed, &value.place);
                } else if text != "true" {
                    let message =
                        format!("'{text}' is true for the plugin wasm.so, as is all but `false`, and so it is here");
                    work.warn(value.place.clone(), message);
                }
            }
            ("capability_restriction_config", None) if is_map(&value) => {
                capabilities(&value, &mut draft, work)?;
            }
            ("vm_config" | "vmConfig", None) if is_map(&value) => vm.read(&value, &mut draft, work)?,
            _ => ignored(key, &value, &CONFIG, work),
        }
    }
    let Some((filename, place)) = vm.filename else {
        return Err(
            config.problem("'vm_config.code.local.filename' is missing: the Wasm file, in the configuration directory")
        );
    };
    let path = work.config_dir.join(filename);
    let path = path.to_str().ok_or_else(|| config.problem("the configuration directory's path is not UTF-8"))?;
    draft.code(Code::File(path.to_owned()), &place);
    let root_id = draft.text("root_id").map(str::to_owned);
    let (name, place) = name.map_or((None, config.place.clone()), |(name, place)| (Some(name), place));
    draft.name(name, &[root_id.as_deref()], work.file, &place);
    Ok(draft)
}

const CONFIG: [&str; 6] =
    ["name", "root_id", "configuration", "fail_open", "capability_restriction_config", "vm_config"];
const VM_CONFIG: [&str; 6] =
    ["runtime", "vm_id", "configuration", "allow_precompiled", "environment_variables", "code"];

fn scalar<'a>(cursor: &Cursor<'a>) -> Option<&'a str> {
    match cursor.node {
        Node::Scalar(raw, _) => Some(raw),
        _ => None,
    }
}

fn is_map(cursor: &Cursor<'_>) -> bool {
    matches!(cursor.node, Node::Map(_))
}

/// Tells of a key that does nothing. One without a value was never meant to.
fn ignored(key: &str, value: &Cursor<'_>, known: &[&str], work: &mut Work<'_>) {
    if *value.node == Node::Null {
        return;
    }
    if known.contains(&key) || matches!(key, "rootId" | "vmConfig" | "vmId") {
        let expected = match key {
            "capability_restriction_config" | "vm_config" | "vmConfig" | "environment_variables" | "code" | "local" => {
                "a mapping"
            }
            "host_env_keys" | "allowed_capabilities" => "a list",
            "key_values" => "a mapping",
            _ => "a text",
        };
        let message = format!(
            "'{key}' is {}, and the plugin wasm.so reads it only if it is {expected}: it is ignored here too",
            value.node.what()
        );
        work.warn(value.place.clone(), message);
    } else {
        let meant = nearest(key, known).map_or_else(String::new, |near| format!(" (it reads '{near}')"));
        let message = format!("the plugin wasm.so does not read '{key}'{meant}: it is ignored here too");
        work.warn(value.place.clone().on_key(), message);
    }
}

/// What its `allowed_capabilities` mean: an empty list allows everything, and a name that nobody has allows nothing.
fn capabilities(restriction: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    for (key, list) in restriction.entries()? {
        if key != "allowed_capabilities" || !matches!(list.node, Node::List(_)) {
            ignored(key, &list, &["allowed_capabilities"], work);
            continue;
        }
        let mut names: Vec<Value> = Vec::new();
        let items = list.list()?;
        for item in &items {
            let name = item.text()?;
            match Capabilities::new([name]) {
                Ok(_) => names.push(name.into()),
                Err(why) => work.warn(item.place.clone(), format!("{why}: it allows nothing")),
            }
        }
        if !items.is_empty() {
            draft.set("allowed_capabilities", names, &list.place);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Vm {
    filename: Option<(String, Place)>,
}

impl Vm {
    fn read(&mut self, vm_config: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
        for (key, value) in vm_config.entries()? {
            match (key, scalar(&value)) {
                ("runtime", Some(text)) => {
                    if !RUNTIMES.contains(&text) {
                        let message = format!(
                            "'{text}' is no runtime of the plugin wasm.so: expected one of {}. Each of them runs on \
                             wasmtime here",
                            RUNTIMES.join(", ")
                        );
                        return Err(value.problem(message));
                    }
                }
                ("vm_id" | "vmId", Some(text)) => draft.set("vm_id", text, &value.place),
                ("configuration", Some(text)) => draft.set("vm_configuration", text, &value.place),
                // Code is compiled from Wasm in any case, and a section with machine code in it passed over.
                ("allow_precompiled", Some(_)) => {}
                ("environment_variables", None) if is_map(&value) => environment(&value, draft, work)?,
                ("code", None) if is_map(&value) => self.code(&value, work)?,
                _ => ignored(key, &value, &VM_CONFIG, work),
            }
        }
        Ok(())
    }

    fn code(&mut self, code: &Cursor<'_>, work: &mut Work<'_>) -> Result<(), Problem> {
        for (key, local) in code.entries()? {
            if key != "local" || !is_map(&local) {
                ignored(key, &local, &["local"], work);
                continue;
            }
            for (key, filename) in local.entries()? {
                if key == "filename" && *filename.node != Node::Null {
                    self.filename = Some((filename.text()?.to_owned(), filename.place.clone()));
                } else {
                    ignored(key, &filename, &["filename"], work);
                }
            }
        }
        Ok(())
    }
}

fn environment(variables: &Cursor<'_>, draft: &mut Draft, work: &mut Work<'_>) -> Result<(), Problem> {
    let mut own = BTreeMap::new();
    for (key, value) in variables.entries()? {
        match (key, value.node) {
            ("host_env_keys", Node::List(_)) => {
                let names: Vec<Value> = value.texts()?.into_iter().map(Value::from).collect();
                draft.set("host_environment", names, &value.place);
            }
            ("key_values", Node::Map(_)) => {
                for (name, value) in value.entries()? {
                    // As yaml-cpp reads nothing as a text.
                    own.insert(name, if *value.node == Node::Null { "null" } else { value.text()? });
                }
                let own: Mapping = own.iter().map(|(name, value)| (Value::from(*name), Value::from(*value))).collect();
                draft.set("environment", own, &value.place);
            }
            _ => ignored(key, &value, &["host_env_keys", "key_values"], work),
        }
    }
    Ok(())
}

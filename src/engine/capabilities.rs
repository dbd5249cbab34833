//! What a filter may call and be called for: Envoy's `allowed_capabilities`, names of imports and callbacks.
//!
//! A restricted import is linked to a stub that refuses, so what is allowed costs nothing more; a restricted callback
//! is as good as not exported. What every module needs is never restricted: its memory, its allocator, its start.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use wasmtime::{ExternType, Linker, Module, Val};

use crate::abi::Status;
use crate::config::least_far;
use crate::hostcalls::HOSTCALLS;
use crate::inspect::{CALLBACKS, TOOLCHAIN};
use crate::journal::{self, Place};
use crate::memory::Guest;
use crate::state::VmState;
use crate::wasi::{Errno, WASI};

/// What no list can take away. Naming it does no harm, since lists that were written for Envoy may.
const ALWAYS: &[&str] = &["_initialize", "_start", "main", "__main_void", "malloc", "proxy_on_memory_allocate"];

/// The names that a filter's list allows. Cheap to clone; equal lists are equal, whatever their order.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Capabilities(Arc<BTreeSet<&'static str>>);

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Every name that a list may have: hostcalls, callbacks, WASI's functions.
fn known() -> impl Iterator<Item = &'static str> {
    let hostcalls = HOSTCALLS.iter().map(|call| call.name);
    let callbacks = CALLBACKS.iter().map(|row| row.name);
    hostcalls.chain(callbacks).chain(WASI.iter().map(|function| function.name)).chain(ALWAYS.iter().copied())
}

impl Capabilities {
    /// The list of these names.
    ///
    /// # Errors
    /// The first name that neither the ABI nor WASI has, and the one that was probably meant.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        names.into_iter().map(resolve).collect::<Result<_, _>>().map(|names| Capabilities(Arc::new(names)))
    }

    /// Whether the import or export of this name is allowed.
    #[must_use]
    pub fn allows(&self, name: &str) -> bool {
        self.0.contains(name) || ALWAYS.contains(&name) || TOOLCHAIN.contains(&name)
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().copied()
    }

    /// Puts refusals in the place of what `module` imports and may not call.
    pub(crate) fn restrict(&self, linker: &mut Linker<VmState>, module: &Module) -> wasmtime::Result<()> {
        linker.allow_shadowing(true);
        for import in module.imports().filter(|import| !self.allows(import.name())) {
            let ExternType::Func(ty) = import.ty() else { continue };
            // Anything that is not known here is nobody's to restrict: the linker says what it thinks of it.
            let Ok(name) = resolve(import.name()) else { continue };
            let (answer, number) = match import.module() {
                "env" => ("InternalFailure", Status::InternalFailure as i32),
                _ => ("ENOTCAPABLE", Errno::Notcapable as i32),
            };
            // `proc_exit`, and calls that 0.1.0 imports without a result, have none to write: they return.
            linker.func_new(import.module(), import.name(), ty, move |mut guest: Guest<'_>, _, results| {
                guest.data_mut().deny(name, answer);
                results.fill(Val::I32(number));
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl VmState {
    /// Tells the log, once, of a call that `allowed_capabilities` does not allow.
    #[cold]
    fn deny(&mut self, name: &'static str, answer: &str) {
        if self.denied.contains(&name) {
            return;
        }
        self.denied.push(name);
        let rule = self.rule();
        let place = self.place(rule.as_deref());
        let filter = if place.filter.is_empty() { "-" } else { place.filter };
        // Of the filter, not of the rule that it met the call in.
        let whole = Place { rule: "", ..place };
        journal::told(
            log::Level::Error,
            &format!("refused call of {name}:"),
            whole,
            format_args!(
                "filter '{filter}': {name} is not among its allowed_capabilities: answered {answer}, now and from now on"
            ),
        );
    }
}

/// A name as the tables have it.
fn resolve(name: &str) -> Result<&'static str, String> {
    known().find(|known| *known == name).ok_or_else(|| {
        let near = least_far(name, known());
        let hint = near.map_or_else(String::new, |near| format!("; the nearest name is '{near}'"));
        format!("'{name}' is no hostcall, callback or function of WASI{hint} (wasm-remap hostcalls lists them)")
    })
}

/// The schema of what [`Deserialize`] takes.
impl schemars::JsonSchema for Capabilities {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Capabilities".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let names: BTreeSet<_> = known().collect();
        schemars::json_schema!({
            "description": "Names of hostcalls, callbacks and functions of WASI; or Envoy's mapping of them.",
            "anyOf": [
                {"type": "array", "items": {"type": "string", "enum": names}},
                {"type": "object", "propertyNames": {"enum": names}},
            ],
        })
    }
}

/// A list of names, or Envoy's mapping of names to configurations, of which there are only empty ones.
impl<'de> Deserialize<'de> for Capabilities {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// Envoy's `SanitizationConfig`, which has no fields.
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Sanitization {}

        /// One name, so that a mistake is told of it and not of the list.
        struct Name(&'static str);
        impl<'de> Deserialize<'de> for Name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                resolve(&String::deserialize(deserializer)?).map(Name).map_err(de::Error::custom)
            }
        }

        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Capabilities;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of names ([] allows nothing; without the key everything is allowed)")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Capabilities, A::Error> {
                let mut names = BTreeSet::new();
                while let Some(Name(name)) = list.next_element()? {
                    names.insert(name);
                }
                Ok(Capabilities(Arc::new(names)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Capabilities, A::Error> {
                let mut names = BTreeSet::new();
                while let Some((Name(name), Sanitization {})) = map.next_entry()? {
                    names.insert(name);
                }
                Ok(Capabilities(Arc::new(names)))
            }
        }
        deserializer.deserialize_any(Names)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_tables_is_one() {
        let all = Capabilities::new(known()).unwrap();
        assert!(known().all(|name| all.allows(name)));
        let none = Capabilities::new([]).unwrap();
        assert!(ALWAYS.iter().all(|name| none.allows(name)));
        for name in ["proxy_log", "fd_write", "proxy_on_log", "proxy_on_context_create", "proc_exit"] {
            assert!(!none.allows(name), "{name}");
        }
    }

    #[test]
    fn what_was_probably_meant_is_named() {
        for (written, meant) in [
            ("proxy_logs", "proxy_log"),
            ("env.proxy_log", "proxy_log"),
            ("proxy_on_http_request_headers", "proxy_on_request_headers"),
            ("fd_wirte", "fd_write"),
        ] {
            let message = Capabilities::new([written]).unwrap_err();
            assert!(message.contains(&format!("the nearest name is '{meant}'")), "{message}");
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let left = Capabilities::new(["proxy_log", "proxy_done"]).unwrap();
        let right = Capabilities::new(["proxy_done", "proxy_log", "proxy_done"]).unwrap();
        assert_eq!(left, right);
        assert_eq!(format!("{left:?}"), format!("{right:?}"), "VM keys hash this");
        assert_eq!(left.names().collect::<Vec<_>>(), ["proxy_done", "proxy_log"]);
    }
}

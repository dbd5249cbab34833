//! A filter in our own spelling, as the others are turned into it.
//!
//! Everything that other spellings know of our keys stands here, so that a new key of ours is named in one place.

use std::path::Path;
use std::sync::Arc;

use serde_yaml::{Mapping, Value};

use super::fields::Problem;
use super::node::Place;

/// What a filter's failure means, in any spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Policy {
    Closed,
    Open,
    /// Closed, and the VM is built anew by and by: Envoy's `FAIL_RELOAD`.
    Reload,
}

/// Where code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Code {
    /// A file, relative to the one that names it.
    File(String),
    /// The bytes stand in the file itself.
    Inline(Arc<[u8]>),
}

/// Whether our own spelling has `failure_policy: reload` and `breaker`.
///
/// Without them `FAIL_RELOAD` is `closed`: a VM that is lost is built anew, with a backoff of its own, in any case.
pub(super) const RELOAD: bool = true;

/// The keys of a filter in the order in which they are written.
const ORDER: &[&str] = &[
    "name",
    "module",
    "root_id",
    "configuration",
    "vm_id",
    "vm_configuration",
    "environment",
    "host_environment",
    "failure_policy",
    "breaker",
    "at",
    "allowed_capabilities",
];

/// One key.
#[derive(Debug, Clone)]
struct Entry {
    key: &'static str,
    value: Value,
    place: Place,
}

/// One filter.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    /// Where it stands.
    pub(super) place: Place,
    entries: Vec<Entry>,
    /// The code, where no file has it.
    pub(super) inline: Option<Arc<[u8]>>,
    /// What is to be known of it, by whoever reads its file.
    pub(super) remarks: Vec<String>,
}

impl Draft {
    pub(super) fn new(place: Place) -> Self {
        Draft { place, entries: Vec::new(), inline: None, remarks: Vec::new() }
    }

    /// Sets a key, unless its value says nothing.
    pub(super) fn set(&mut self, key: &'static str, value: impl Into<Value>, place: &Place) {
        let value = value.into();
        let empty = match &value {
            Value::Null => true,
            Value::String(text) => text.is_empty() && key != "name",
            Value::Mapping(mapping) => mapping.is_empty() && key != "configuration" && key != "vm_configuration",
            Value::Sequence(list) => list.is_empty() && key == "host_environment",
            _ => false,
        };
        self.entries.retain(|entry| entry.key != key);
        if !empty {
            self.entries.push(Entry { key, value, place: place.clone() });
            self.entries.sort_by_key(|entry| ORDER.iter().position(|name| *name == entry.key));
        }
    }

    /// The text of a key.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.entries.iter().find(|entry| entry.key == key)?.value.as_str()
    }

    /// The name, or else what there is to call the filter by: names are not required elsewhere.
    pub(super) fn name(&mut self, name: Option<&str>, others: &[Option<&str>], file: &Path, place: &Place) {
        let stem = file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        let usable = |name: &&str| !name.is_empty();
        let found = name.filter(usable).or_else(|| others.iter().copied().flatten().find(usable));
        self.set("name", found.map_or(stem, str::to_owned), place);
    }

    pub(super) fn code(&mut self, code: Code, place: &Place) {
        match code {
            Code::File(path) => self.set("module", path, place),
            Code::Inline(bytes) => {
                // A name for messages: there is no file.
                self.set("module", format!("(inline, {} bytes)", bytes.len()), place);
                self.inline = Some(bytes);
            }
        }
    }

    /// The digest that the code must have.
    pub(super) fn pin(&mut self, sha256: &str, place: &Place) -> Result<(), Problem> {
        if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            let message = format!("'{sha256}' is no SHA-256: 64 hexadecimal digits are expected");
            return Err(Problem::new(place.clone(), message));
        }
        if let Some(path) = self.text("module").map(str::to_owned) {
            let described = [("path", path), ("sha256", sha256.to_ascii_lowercase())];
            let described = described.into_iter().map(|(key, value)| (Value::from(key), Value::from(value)));
            self.set("module", described.collect::<Mapping>(), place);
        }
        Ok(())
    }

    pub(super) fn policy(&mut self, policy: Policy, place: &Place) {
        match policy {
            // The default.
            Policy::Closed => self.set("failure_policy", Value::Null, place),
            Policy::Open => self.set("failure_policy", "open", place),
            Policy::Reload if RELOAD => self.set("failure_policy", "reload", place),
            Policy::Reload => self.set("failure_policy", Value::Null, place),
        }
    }

    /// How long a filter that failed is left alone, at first and at most, in milliseconds. Says whether that can be said.
    pub(super) fn backoff(&mut self, base: u64, max: Option<u64>, place: &Place) -> bool {
        let mut breaker = Mapping::new();
        breaker.insert("pause_ms".into(), base.into());
        if let Some(max) = max {
            breaker.insert("max_pause_ms".into(), max.into());
        }
        if RELOAD {
            self.set("breaker", breaker, place);
        }
        RELOAD
    }

    /// Our mapping.
    pub(super) fn mapping(&self) -> Mapping {
        self.entries.iter().map(|entry| (Value::from(entry.key), entry.value.clone())).collect()
    }

    /// Where a key of ours comes from; where the filter stands, if from nowhere.
    pub(super) fn origin(&self, key: &str) -> &Place {
        self.entries.iter().find(|entry| entry.key == key).map_or(&self.place, |entry| &entry.place)
    }

    /// The key of ours that `accepts` refuses, if one alone is to blame.
    pub(super) fn culprit(&self, accepts: impl Fn(Mapping) -> bool) -> Option<&'static str> {
        let harmless = |key: &str| (Value::from(key), Value::from("x"));
        let refused = |entry: &&Entry| {
            let mut alone: Mapping = [harmless("name"), harmless("module")].into_iter().collect();
            alone.insert(entry.key.into(), entry.value.clone());
            !accepts(alone)
        };
        self.entries.iter().find(refused).map(|entry| entry.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_not_written() {
        let place = Place::default();
        let mut draft = Draft::new(place.clone());
        draft.set("vm_id", "", &place);
        draft.set("environment", Mapping::new(), &place);
        draft.policy(Policy::Open, &place);
        draft.set("root_id", "r", &place);
        draft.name(None, &[Some(""), Some("r")], Path::new("/etc/f/shop.yaml"), &place);
        let keys: Vec<_> = draft.mapping().keys().filter_map(|key| key.as_str().map(str::to_owned)).collect();
        assert_eq!(keys, ["name", "root_id", "failure_policy"]);
        assert_eq!(draft.text("name"), Some("r"));
        draft.name(None, &[], Path::new("/etc/f/shop.yaml"), &place);
        assert_eq!(draft.text("name"), Some("shop"));
        draft.policy(Policy::Closed, &place);
        assert_eq!(draft.mapping().len(), 2);
    }

    #[test]
    fn a_key_is_to_blame() {
        let place = Place::default();
        let mut draft = Draft::new(place.clone());
        draft.set("root_id", "bad", &place.key("x"));
        draft.set("vm_id", "good", &place);
        let accepts = |mapping: Mapping| mapping.get("root_id").is_none();
        assert_eq!(draft.culprit(accepts), Some("root_id"));
        assert_eq!(draft.origin("root_id"), &place.key("x"));
        assert_eq!(draft.culprit(|_| true), None);
    }

    #[test]
    fn pins_are_digests() {
        let place = Place::default();
        let mut draft = Draft::new(place.clone());
        draft.code(Code::File("a.wasm".into()), &place);
        assert!(draft.pin("abc", &place).unwrap_err().message.contains("64 hexadecimal digits"));
        draft.pin(&"AB".repeat(32), &place).unwrap();
        let expected = format!("path: a.wasm\nsha256: {}\n", "ab".repeat(32));
        assert_eq!(serde_yaml::to_string(&draft.mapping()["module"]).unwrap(), expected);
    }
}

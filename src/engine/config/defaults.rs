//! The key `defaults`: what every filter and service of a file says that does not say it itself; and which keys are
//! whose.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::error::ConfigError;
use super::filter::RawFilter;
use super::place::{Part, Source, Step, Trail};

/// What makes a filter the one that it is, and can be nobody's default.
const OWN: [&str; 4] = ["name", "module", "configuration", "match"];

/// What is about transactions, of which services have none.
const OF_TRANSACTIONS: [&str; 6] = ["body", "at", "request_body", "failure_policy", "breaker", "match"];

/// Why an entry at `trail` cannot have this key, though filters may.
pub(super) fn refusal(trail: &Trail, key: &str) -> Option<String> {
    match trail.0.as_slice() {
        [Step::Key(top)] if top == "defaults" && OWN.contains(&key) => {
            Some(format!("'{key}' is each filter's own, and has no default: drop the key"))
        }
        [Step::Key(top), Step::Index(_)] if top == "services" && OF_TRANSACTIONS.contains(&key) => {
            Some(format!("a service has no transactions, so no '{key}': drop the key"))
        }
        [Step::Key(top), Step::Index(_)] if top == "services" && key == "isolation" => {
            Some("a service has a VM of its own in any case, so no 'isolation': drop the key".to_owned())
        }
        _ => None,
    }
}

/// Each of these keys as the filter says it, else as the defaults do. Keys that are left out do not compile.
macro_rules! merge {
    ($ty:ident, $own:expr, $defaults:expr; $($key:ident),* $(,)?) => {
        $ty { $($key: $own.$key.or_else(|| $defaults.$key.clone())),* }
    };
}
pub(super) use merge;

/// `defaults`: any key of a filter but those that are its own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct RawDefaults(pub(super) RawFilter);

/// An entry of `services`: any key of a filter that is not about transactions.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct RawService(pub(super) RawFilter);

impl RawDefaults {
    /// # Errors
    /// A key that is nobody's default, and what is wrong with the others.
    pub(super) fn check(&self, source: &Source<'_>) -> Result<(), ConfigError> {
        let trail = Trail::default().key("defaults");
        refuse(&self.0, source, &trail)?;
        self.0.check(source, &trail)
    }
}

impl RawService {
    /// # Errors
    /// A key that is about transactions.
    pub(super) fn check(&self, source: &Source<'_>, trail: &Trail) -> Result<(), ConfigError> {
        refuse(&self.0, source, trail)
    }
}

fn refuse(filter: &RawFilter, source: &Source<'_>, trail: &Trail) -> Result<(), ConfigError> {
    let refused = filter.says().find_map(|key| Some((key, refusal(trail, key)?)));
    refused.map_or(Ok(()), |(key, why)| Err(source.wrong(&trail.clone().key(key), Part::Key, why)))
}

/// The schema of a filter without these keys, and with a description of its own.
fn filter_without(generator: &mut SchemaGenerator, keys: &[&str], description: &str) -> Schema {
    let mut schema = RawFilter::json_schema(generator);
    if let Some(properties) = schema.get_mut("properties").and_then(|properties| properties.as_object_mut()) {
        properties.retain(|key, _| !keys.contains(&key.as_str()));
    }
    if let Some(required) = schema.get_mut("required").and_then(|required| required.as_array_mut()) {
        required.retain(|key| !keys.iter().any(|gone| key == gone));
    }
    schema.insert("description".to_owned(), description.into());
    schema
}

impl JsonSchema for RawDefaults {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Defaults".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        filter_without(generator, &OWN, "What every filter and service of this file says that does not say it itself.")
    }
}

impl JsonSchema for RawService {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Service".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        filter_without(generator, &OF_TRANSACTIONS, "A filter that runs once in the process, without transactions.")
    }
}

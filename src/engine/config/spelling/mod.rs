//! Filter files in the spellings of others: ATS's own C++ plugin, Envoy, Istio.
//!
//! A file is recognised by its first keys, and turned into our own spelling, whose types then validate it. Each value
//! remembers where it comes from, so that errors have the place in the file that the operator wrote.

mod any;
mod cpp;
mod envoy;
mod fields;
mod istio;
mod listeners;
mod migrate;
mod node;
mod ours;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fields::{Cursor, Problem, same};
use node::{Node, Place};
use ours::{Code, Draft};

use super::code::Source;
use super::error::ConfigError;
use super::filter::{FilterSpec, RawFilter};
use super::log::RawLog;
use super::modules::Modules;
use super::place::{self, Part};
use super::{ConfigFile, RequestBody};

pub use migrate::Migration;

pub(super) use any::{BINARY, decode};

/// Whose words a file is written in, where they are not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// ATS's plugin `wasm.so`.
    Cpp,
    /// Envoy's.
    Envoy,
    /// Istio's.
    Istio,
}

/// Keys of a file in our spelling: where one of them stands, it is ours.
const OURS: &[&str] = &[
    "filters",
    "services",
    "clusters",
    "namespaces",
    "metrics",
    "defaults",
    "modules",
    "substitute",
    "code_cache",
    "watch",
    "log",
];

/// Keys with which files of Envoy's begin.
const ENVOYS: &[&str] = &[
    "static_resources",
    "bootstrap_extensions",
    "listeners",
    "resources",
    "filter_chains",
    "default_filter_chain",
    "http_filters",
    "typed_config",
    "config_discovery",
    "vm_config",
    "@type",
];

/// What a file is read with.
pub(super) struct Work<'a> {
    file: &'a Path,
    /// Where relative paths of the C++ plugin begin.
    config_dir: PathBuf,
    /// What cannot be loaded is left out, with a word, instead of being refused.
    migrating: bool,
    /// Of several listeners, the one that is meant.
    listener: Option<&'a str>,
    warnings: Vec<Problem>,
}

impl<'a> Work<'a> {
    fn new(file: &'a Path, config_dir: Option<&Path>) -> Self {
        let config_dir = config_dir.or_else(|| file.parent()).unwrap_or(Path::new("."));
        Work { file, config_dir: config_dir.to_owned(), migrating: false, listener: None, warnings: Vec::new() }
    }

    /// Something that works, and not as its writer may think.
    fn warn(&mut self, place: Place, message: impl Into<String>) {
        self.warnings.push(Problem::new(place, message));
    }

    /// Code that somebody has to fetch. Nothing is fetched here: what a server runs would depend on who answers when it
    /// starts.
    fn fetched(
        &mut self,
        uri: &str,
        sha256: Option<&Cursor<'_>>,
        place: &Place,
        draft: &mut Draft,
    ) -> Result<(), Problem> {
        let sha256 = sha256.map(|sha256| Ok((sha256.text()?, &sha256.place))).transpose()?;
        let sha256 = sha256.filter(|(text, _)| !text.is_empty());
        let last = uri.split(['?', '#']).next().unwrap_or(uri).trim_end_matches('/').rsplit('/').next().unwrap_or(uri);
        let stem = last.strip_suffix(".wasm").unwrap_or(last);
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
        let name = format!("{}.wasm", stem.chars().map(plain).collect::<String>());
        let http = uri.starts_with("http://") || uri.starts_with("https://");
        let how = if http { format!("curl -fo {name} '{uri}'") } else { format!("oras pull '{uri}'") };
        if self.migrating {
            draft.code(Code::File(name.clone()), place);
            if let Some((text, place)) = sha256 {
                draft.pin(text, place)?;
            }
            let remark = format!("The module is not fetched: put it here as {name} ({how})");
            draft.remarks.push(remark.clone());
            self.warn(place.clone(), remark);
            return Ok(());
        }
        let digest = sha256.map_or_else(String::new, |(text, _)| {
            format!(" Its SHA-256 is to be {text}: say so where the file is named.")
        });
        Err(Problem::new(
            place.clone(),
            format!(
                "code is not fetched from '{uri}': what a server runs would depend on who answers when it starts. Fetch \
                 the file ({how}) and name it instead.{digest} `wasm-remap migrate` writes such a filter file"
            ),
        ))
    }
}

/// What a file means, in our words.
pub(super) struct Translated {
    spelling: Spelling,
    filters: Vec<Draft>,
    services: Vec<Draft>,
}

/// Whose spelling these documents are in; `None` is our own, or none that is known.
fn detect(documents: &[Node]) -> Option<Spelling> {
    let root = documents.iter().find(|node| **node != Node::Null)?;
    let entries = match root {
        Node::Map(entries) => entries,
        Node::List(items) => {
            let filter = |node: &Node| node.get("typed_config").or_else(|| node.get("typedConfig")).is_some();
            return items.first().is_some_and(filter).then_some(Spelling::Envoy);
        }
        Node::Null | Node::Scalar(..) => return None,
    };
    let has = |names: &[&str]| entries.iter().any(|(key, _)| names.iter().any(|name| same(key, name)));
    if has(OURS) {
        None
    } else if istio::is_resource(root) {
        Some(Spelling::Istio)
    } else if has(ENVOYS) {
        Some(Spelling::Envoy)
    } else {
        let config = root.get("config")?;
        let vm = config.get("vm_config").or_else(|| config.get("vmConfig"));
        let runtime = vm.and_then(|vm| vm.get("runtime"));
        // `wasm.so` refuses Envoy's runtimes, so such a file was never one of its own.
        let envoys = matches!(runtime, Some(Node::Scalar(raw, _)) if raw.starts_with("envoy."));
        let first = entries.first().is_some_and(|(key, _)| key == "config");
        Some(if first && !envoys && !has(&["singleton"]) { Spelling::Cpp } else { Spelling::Envoy })
    }
}

/// Turns a file into our spelling, if it is in another one.
fn translate(documents: &[Node], work: &mut Work<'_>) -> Result<Option<Translated>, Problem> {
    let Some(spelling) = detect(documents) else { return Ok(None) };
    let first = documents.iter().position(|node| *node != Node::Null).unwrap_or_default();
    let Some(node) = documents.get(first) else { return Ok(None) };
    let root = Cursor { node, place: Place::document(first) };
    let (filters, services) = match spelling {
        Spelling::Cpp => (vec![cpp::read(&root, documents.len(), work)?], Vec::new()),
        Spelling::Istio => (istio::read(documents, work)?, Vec::new()),
        Spelling::Envoy => {
            if documents.len() > first + 1 {
                let place = Place::document(first + 1);
                return Err(Problem::new(place, "a file of Envoy's has one document"));
            }
            listeners::read(&root, work)?
        }
    };
    Ok(Some(Translated { spelling, filters, services }))
}

/// Reads a file that is in another spelling than ours. `None` if it is in ours, or no YAML, of which our own reader
/// then tells.
pub(super) fn load(file: &Path, text: &str, config_dir: Option<&Path>) -> Result<Option<ConfigFile>, ConfigError> {
    // Nearly every file: no second look at it.
    if text.lines().any(|line| line.starts_with("filters:")) {
        return Ok(None);
    }
    let Ok(documents) = node::documents(text) else { return Ok(None) };
    let mut work = Work::new(file, config_dir);
    let fail = |problem: Problem| placed(file, text, &problem);
    let Some(translated) = translate(&documents, &mut work).map_err(fail)? else { return Ok(None) };
    let specs = |drafts: &[Draft]| drafts.iter().map(|draft| validate(draft, file)).collect::<Result<Vec<_>, _>>();
    let config = ConfigFile {
        filters: specs(&translated.filters).map_err(fail)?,
        services: specs(&translated.services).map_err(fail)?,
        warnings: work.warnings.iter().map(|warning| placed(file, text, warning)).collect(),
        ..ConfigFile::default()
    };
    debug_assert!(config.services.iter().all(|service| service.request_body == RequestBody::default()));
    Ok(Some(config))
}

/// A problem with the place that the operator knows.
fn placed(file: &Path, text: &str, problem: &Problem) -> ConfigError {
    let source = place::Source::new(file, text);
    let path = problem.place.to_string();
    let message = if path.is_empty() { problem.message.clone() } else { format!("{path}: {}", problem.message) };
    let part = if problem.place.is_key() { Part::Key } else { Part::Value };
    let error = source.at(problem.place.locate(source.text), part, message);
    ConfigError { suggestion: problem.suggestion.clone(), hint: problem.hint.clone(), ..error }
}

/// A filter as our own types take it.
fn validate(draft: &Draft, file: &Path) -> Result<FilterSpec, Problem> {
    let home = file.parent().unwrap_or(Path::new("."));
    // Places are those of the draft.
    let none = place::Source::new(file, "");
    let take = |mapping| {
        let raw: RawFilter =
            serde_yaml::from_value(serde_yaml::Value::Mapping(mapping)).map_err(|error| error.to_string())?;
        raw.resolve(&none, &place::Trail::default(), &Modules::new(), home, &RawLog::default())
            .map_err(|error| error.message)
    };
    match take(draft.mapping()) {
        Ok(mut spec) => {
            if let Some(bytes) = &draft.inline {
                spec.code.source = Source::Inline(Arc::clone(bytes));
            }
            Ok(spec)
        }
        Err(message) => {
            let culprit = draft.culprit(|mapping| take(mapping).is_ok());
            let place = culprit.map_or(&draft.place, |key| draft.origin(key)).clone();
            Err(Problem::new(place, message))
        }
    }
}

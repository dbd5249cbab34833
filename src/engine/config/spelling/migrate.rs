//! Files of others, written in our own spelling.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_yaml::{Mapping, Value};

use super::ours::Draft;
use super::{Spelling, Work, node, placed, translate, validate};
use crate::config::ConfigError;

/// A file of another spelling, or several, on the way into ours.
#[derive(Debug, Default)]
pub struct Migration {
    filters: Vec<Draft>,
    services: Vec<Draft>,
    /// What was left out, or means something else here.
    pub notes: Vec<ConfigError>,
    /// Whose files these are.
    pub spellings: Vec<Spelling>,
}

impl Migration {
    /// Reads a file. `config_dir` is where relative paths of the C++ plugin begin, and the file's own directory if it is
    /// not given. Of several listeners of an Envoy, `listener` is meant. Modules are named as a file in `home` names them.
    ///
    /// # Errors
    /// A mistake in the file, with its place; a file in our own spelling.
    pub fn read(
        file: &Path,
        text: &str,
        config_dir: Option<&Path>,
        listener: Option<&str>,
        home: &Path,
    ) -> Result<Self, ConfigError> {
        let whole = |message: String| ConfigError::of_file(file, message);
        let documents = node::documents(text).map_err(|error| {
            let at = error.location().map(|place| (place.line(), place.column()));
            let source = super::place::Source::new(file, text);
            super::super::mistake::explain_yaml(&source, &error.to_string(), &super::place::Trail::default(), at)
        })?;
        let mut work = Work::new(file, config_dir);
        work.migrating = true;
        work.listener = listener;
        let translated = translate(&documents, &mut work)
            .map_err(|problem| placed(file, text, &problem))?
            .ok_or_else(|| {
                whole(
                    "is in no other spelling: expected a file of the C++ plugin (`config:`), a filter, listener or bootstrap \
                     of Envoy, or a WasmPlugin of Istio"
                        .to_owned(),
                )
            })?;
        let mut migration = Migration {
            filters: translated.filters,
            services: translated.services,
            notes: work.warnings.iter().map(|problem| placed(file, text, problem)).collect(),
            spellings: vec![translated.spelling],
        };
        let from = file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for draft in migration.filters.iter_mut().chain(&mut migration.services) {
            // As the loaded file would be, so that a mistake is told here, where its place is known.
            validate(draft, file).map_err(|problem| placed(file, text, &problem))?;
            draft.rehome(from, home).map_err(whole)?;
        }
        Ok(migration)
    }

    /// Adds what another file says, behind what is here.
    pub fn extend(&mut self, other: Migration) {
        self.filters.extend(other.filters);
        self.services.extend(other.services);
        self.notes.extend(other.notes);
        self.spellings.extend(other.spellings);
    }

    /// A text as comment lines of at most a hundred columns or so.
    pub fn comment(out: &mut String, lead: &str, text: &str) {
        let mut line = String::new();
        for word in text.split_ascii_whitespace() {
            if !line.is_empty() && line.len() + 1 + word.len() > 100 {
                let _ = writeln!(out, "{lead}{line}");
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        let _ = writeln!(out, "{lead}{line}");
    }

    /// How many filters and services there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.filters.len(), self.services.len())
    }

    /// Modules that stand in the files themselves, and the names under which the written file looks for them.
    pub fn modules(&self) -> impl Iterator<Item = (&str, &Arc<[u8]>)> {
        let drafts = self.filters.iter().chain(&self.services);
        drafts.filter_map(|draft| Some((draft.text("module")?, draft.inline.as_ref()?)))
    }

    /// Our file, with comments.
    ///
    /// # Errors
    /// A value that YAML cannot say.
    pub fn yaml(&self) -> Result<String, String> {
        let mut out = String::new();
        for (list, drafts) in [("filters", &self.filters), ("services", &self.services)] {
            if !drafts.is_empty() {
                let _ = writeln!(out, "{list}:");
            }
            for draft in drafts {
                for remark in &draft.remarks {
                    Self::comment(&mut out, "  # ", remark);
                }
                let mut bullet = "  - ";
                for (key, value) in draft.mapping() {
                    let entry: Mapping = [(key, value)].into_iter().collect();
                    let text = serde_yaml::to_string(&entry).map_err(|error| error.to_string())?;
                    for line in text.lines() {
                        let indent = if line.is_empty() { "" } else { bullet };
                        let _ = writeln!(out, "{indent}{line}");
                        bullet = "    ";
                    }
                }
            }
        }
        Ok(out)
    }

    /// Our file as JSON, which YAML includes.
    ///
    /// # Errors
    /// A value that JSON cannot say.
    pub fn json(&self) -> Result<serde_json::Value, String> {
        let mut file = serde_json::Map::new();
        for (list, drafts) in [("filters", &self.filters), ("services", &self.services)] {
            let mut entries = Vec::new();
            for draft in drafts {
                let mapping = draft.mapping();
                if mapping.values().any(|value| matches!(value, Value::Tagged(_))) {
                    let name = draft.text("name").unwrap_or_default();
                    return Err(format!("filter '{name}': bytes that are no text have no JSON form: write YAML"));
                }
                entries.push(serde_json::to_value(&mapping).map_err(|error| error.to_string())?);
            }
            if !entries.is_empty() {
                file.insert(list.to_owned(), entries.into());
            }
        }
        Ok(file.into())
    }
}

impl Draft {
    /// Names the module as a file in `to` names what a file in `from` names so.
    fn rehome(&mut self, from: &Path, to: &Path) -> Result<(), String> {
        let place = self.origin("module").clone();
        if self.inline.is_some() {
            let name = self.text("name").unwrap_or_default().to_owned();
            let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '-' };
            let file = format!("{}.wasm", name.chars().map(plain).collect::<String>());
            self.remarks.push(format!("The module stands in the file that this one is made from; here it is {file}"));
            self.set("module", file, &place);
            return Ok(());
        }
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()));
        let (from, to) = (absolute(from)?, absolute(to)?);
        let moved = |path: &str| {
            let path: PathBuf = from.join(path);
            let path = path.strip_prefix(&to).unwrap_or(&path);
            path.to_str().map(str::to_owned).ok_or_else(|| format!("{}: the path is not UTF-8", path.display()))
        };
        let mut pinned = self.mapping().get("module").and_then(Value::as_mapping).cloned();
        if let Some(mapping) = &mut pinned {
            if let Some(path) = mapping.get("path").and_then(Value::as_str).map(moved).transpose()? {
                mapping.insert("path".into(), path.into());
            }
            self.set("module", mapping.clone(), &place);
        } else if let Some(path) = self.text("module").map(moved).transpose()? {
            self.set("module", path, &place);
        }
        Ok(())
    }
}

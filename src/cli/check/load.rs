//! Chains, loaded as the plugin loads them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use engine::config::{self, ConfigFile, Source, Variables};
use engine::inspect::{self, Inspection};
use engine::{Chain, Isolation, Runtime};

use super::report::Mistake;
use crate::capture;

/// What a list of files loads as.
#[derive(Default)]
pub(super) struct Loaded {
    pub(super) config: ConfigFile,
    pub(super) chain: Option<Arc<Chain>>,
    /// The modules of the services, in order.
    pub(super) services: Vec<Inspection>,
    pub(super) errors: Vec<Mistake>,
    pub(super) log: Vec<String>,
}

/// Loads each list of files once, however many rules name it.
pub(super) struct Loader {
    pub(super) runtime: Runtime,
    /// What files may ask for with `substitute`.
    pub(super) variables: Variables,
    /// Where relative paths of files of the C++ plugin begin.
    pub(super) config_dir: Option<PathBuf>,
    /// By files; and by rule, where that makes a difference.
    pub(super) known: HashMap<(Vec<PathBuf>, Option<String>), Rc<Loaded>>,
}

impl Loader {
    /// `rule` is the label of the rule that names them.
    pub(super) fn load(&mut self, rule: &str, files: &[PathBuf]) -> Rc<Loaded> {
        for rule in [None, Some(rule.to_owned())] {
            if let Some(known) = self.known.get(&(files.to_vec(), rule)) {
                return Rc::clone(known);
            }
        }
        let loaded = Rc::new(load(&self.runtime, &self.variables, self.config_dir.as_deref(), rule, files));
        let by_rule = loaded.config.filters.iter().any(|filter| filter.isolation == Isolation::Rule);
        self.known.insert((files.to_vec(), by_rule.then(|| rule.to_owned())), Rc::clone(&loaded));
        loaded
    }
}

/// Loads a chain as the plugin does, but goes on after a mistake to find the others.
fn load(runtime: &Runtime, variables: &Variables, config_dir: Option<&Path>, rule: &str, files: &[PathBuf]) -> Loaded {
    let (mut config, mut errors, mut log) = (ConfigFile::default(), Vec::new(), Vec::new());
    for file in files {
        match config::load_with(file, variables, config_dir) {
            Ok(found) => errors.extend(config.extend(file, found).err().map(Mistake::from)),
            Err(error) => errors.push(Mistake::from(error)),
        }
    }
    if errors.is_empty() && config.filters.is_empty() && config.services.is_empty() {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        let message = format!("no filter: none of its files has 'filters' or 'services' ({})", files.join(", "));
        errors.push(Mistake::new(message, Vec::new()));
    }
    let alone = |filters, services| ConfigFile { filters, services, ..config.clone() };
    let parts = config.filters.iter().map(|spec| alone(vec![spec.clone()], Vec::new()));
    let parts = parts.chain(config.services.iter().map(|spec| alone(Vec::new(), vec![spec.clone()])));
    let parts: Vec<_> = parts.collect();
    // Kept until the whole chain is there, which then finds every VM and plugin context ready.
    let mut singles = Vec::new();
    for part in &parts {
        let result = Chain::load(runtime, rule, part);
        let lines = capture::take().into_iter().map(|line| line.to_string());
        match result {
            Ok(chain) => {
                singles.push(chain);
                log.extend(lines);
            }
            Err(error) => errors.push(Mistake::new(error.to_string(), lines.collect())),
        }
    }
    let chain = if !errors.is_empty() {
        None
    } else if let [_] = parts.as_slice() {
        singles.pop()
    } else {
        Chain::load(runtime, rule, &config)
            .map_err(|error| errors.push(Mistake::new(error.to_string(), Vec::new())))
            .ok()
    };
    let services = if chain.is_some() { modules(runtime, &config, &mut errors) } else { Vec::new() };
    Loaded { config, chain, services, errors, log }
}

/// The modules of services, which have been loaded before.
fn modules(runtime: &Runtime, config: &ConfigFile, errors: &mut Vec<Mistake>) -> Vec<Inspection> {
    let mut modules = Vec::new();
    for spec in &config.services {
        let bytes = match &spec.code.source {
            Source::File(path) => std::fs::read(path).map_err(|error| format!("cannot be read: {error}")),
            Source::Inline(bytes) => Ok(bytes.to_vec()),
        };
        match bytes.and_then(|bytes| inspect::inspect(runtime, &bytes).map_err(|error| error.to_string())) {
            Ok(module) => modules.push(module),
            Err(why) => {
                let message = format!("{}: service '{}': module {}: {why}", spec.source, spec.name, spec.code.source);
                errors.push(Mistake::new(message, Vec::new()));
            }
        }
    }
    modules
}

//! Chains, loaded as the plugin loads them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use engine::config::{self, ConfigFile, Source};
use engine::inspect::{self, Inspection};
use engine::{Chain, Runtime};

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
    /// Where relative paths of files of the C++ plugin begin.
    pub(super) config_dir: Option<PathBuf>,
    pub(super) known: HashMap<Vec<PathBuf>, Rc<Loaded>>,
}

impl Loader {
    pub(super) fn load(&mut self, files: &[PathBuf]) -> Rc<Loaded> {
        if let Some(known) = self.known.get(files) {
            return Rc::clone(known);
        }
        let loaded = Rc::new(load(&self.runtime, files, self.config_dir.as_deref()));
        self.known.insert(files.to_vec(), Rc::clone(&loaded));
        loaded
    }
}

/// Loads a chain as the plugin does, but goes on after a mistake to find the others.
fn load(runtime: &Runtime, files: &[PathBuf], config_dir: Option<&Path>) -> Loaded {
    let (mut config, mut errors, mut log) = (ConfigFile::default(), Vec::new(), Vec::new());
    for file in files {
        let found = config::load(file, config_dir).map_err(|error| error.to_string());
        if let Err(message) = found.and_then(|found| config.extend(found)) {
            errors.push(Mistake { message, log: Vec::new() });
        }
    }
    if errors.is_empty() && config.filters.is_empty() && config.services.is_empty() {
        let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
        let message = format!("no filter: none of its files has 'filters' or 'services' ({})", files.join(", "));
        errors.push(Mistake { message, log: Vec::new() });
    }
    let alone = |filters, services| ConfigFile { filters, services, ..config.clone() };
    let parts = config.filters.iter().map(|spec| alone(vec![spec.clone()], Vec::new()));
    let parts = parts.chain(config.services.iter().map(|spec| alone(Vec::new(), vec![spec.clone()])));
    let parts: Vec<_> = parts.collect();
    // Kept until the whole chain is there, which then finds every VM and plugin context ready.
    let mut singles = Vec::new();
    for part in &parts {
        let result = Chain::load(runtime, "check", part);
        let lines = capture::take().into_iter().map(|line| line.to_string());
        match result {
            Ok(chain) => {
                singles.push(chain);
                log.extend(lines);
            }
            Err(error) => errors.push(Mistake { message: error.to_string(), log: lines.collect() }),
        }
    }
    let chain = if !errors.is_empty() {
        None
    } else if let [_] = parts.as_slice() {
        singles.pop()
    } else {
        Chain::load(runtime, "check", &config)
            .map_err(|error| errors.push(Mistake { message: error.to_string(), log: Vec::new() }))
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
                errors.push(Mistake { message, log: Vec::new() });
            }
        }
    }
    modules
}

//! Chains, loaded as the plugin loads them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

use engine::config::{self, FilterSpec};
use engine::{Chain, Runtime};

use super::report::Mistake;
use crate::capture;

/// What a list of files loads as.
pub(super) struct Loaded {
    pub(super) specs: Vec<FilterSpec>,
    pub(super) chain: Option<Arc<Chain>>,
    pub(super) errors: Vec<Mistake>,
    pub(super) log: Vec<String>,
}

/// Loads each list of files once, however many rules name it.
pub(super) struct Loader {
    pub(super) runtime: Runtime,
    pub(super) known: HashMap<Vec<PathBuf>, Rc<Loaded>>,
}

impl Loader {
    pub(super) fn load(&mut self, files: &[PathBuf]) -> Rc<Loaded> {
        if let Some(known) = self.known.get(files) {
            return Rc::clone(known);
        }
        let loaded = Rc::new(load(&self.runtime, files));
        self.known.insert(files.to_vec(), Rc::clone(&loaded));
        loaded
    }
}

/// Loads a chain as the plugin does, but goes on after a mistake to find the others.
fn load(runtime: &Runtime, files: &[PathBuf]) -> Loaded {
    let (mut specs, mut errors, mut log) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        match config::load(file) {
            Ok(found) => specs.extend(found.filters),
            Err(error) => errors.push(Mistake { message: error.to_string(), log: Vec::new() }),
        }
    }
    // Kept until the whole chain is there, which then finds every VM and plugin context ready.
    let mut singles = Vec::new();
    for spec in &specs {
        let result = Chain::load(runtime, "check", slice::from_ref(spec));
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
    } else if let [_] = specs.as_slice() {
        singles.pop()
    } else {
        Chain::load(runtime, "check", &specs)
            .map_err(|error| errors.push(Mistake { message: error.to_string(), log: Vec::new() }))
            .ok()
    };
    Loaded { specs, chain, errors, log }
}

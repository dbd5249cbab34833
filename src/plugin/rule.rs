//! One rule of remap.config: one `TSRemapNewInstance`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ats::remap::InstanceArgs;
use engine::config::{self, ConfigFile};
use engine::{Body, Chain};

use crate::metrics_endpoint::{self, Listener};
use crate::process;

/// What a rule holds: its chain, and what goes with it.
#[derive(Debug)]
pub(crate) struct Rule {
    chain: Arc<Chain>,
    /// Where metrics are served, as long as a rule that wants it is there.
    _metrics: Vec<Arc<Listener>>,
}

impl Rule {
    /// Reads the rule's files and loads its chain. Blocks for as long as compiling takes.
    ///
    /// # Errors
    /// One line that names the rule, the file and what is wrong.
    pub(crate) fn load(args: &InstanceArgs<'_>) -> Result<Box<Self>, String> {
        crate::fault::inject("TSRemapNewInstance");
        let label = format!("rule {} -> {}", String::from_utf8_lossy(args.from), String::from_utf8_lossy(args.to));
        let fail = |message: String| format!("{label}: {message}");
        if args.params.is_empty() {
            return Err(fail("no filter file: add @pparam=FILE.yaml".to_owned()));
        }
        let files = args.params.iter().map(|param| resolve(param)).collect::<Result<Vec<_>, _>>().map_err(&fail)?;
        let config = ConfigFile::load_all(&files, Some(Path::new(&ats::mgmt::config_dir())))
            .map_err(|error| fail(error.to_string()))?;
        if config.filters.is_empty() && config.services.is_empty() {
            return Err(fail(format!(
                "no filter: none of its files has 'filters' or 'services' ({})",
                files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
            )));
        }
        for warning in &config.warnings {
            log::warn!("{label}: {warning}");
        }
        let process = process::get();
        let chain = Chain::load(&process.runtime, &label, &config).map_err(|error| fail(error.to_string()))?;
        let listen = |metrics: &config::Metrics| metrics_endpoint::listen(metrics.listen, metrics.any_address);
        let metrics = config.metrics.iter().map(listen).collect::<Result<_, _>>().map_err(fail)?;
        process.rules_created.fetch_add(1, Ordering::Relaxed);
        let names: Vec<_> = chain.filters().iter().map(describe).collect();
        log::info!("{label}: {} filters: {}", names.len(), names.join(", "));
        let services: Vec<_> = chain.services().collect();
        if !services.is_empty() {
            log::info!("{label}: {} services: {}", services.len(), services.join(", "));
        }
        Ok(Box::new(Rule { chain, _metrics: metrics }))
    }

    /// The chain that new transactions take.
    pub(crate) fn chain(&self) -> &Arc<Chain> {
        &self.chain
    }
}

/// A filter for the log, with the bodies that are shown to it: they cost, and a filter for headers does without.
fn describe(filter: &engine::Filter) -> String {
    match filter.body() {
        Body::None => filter.name().to_owned(),
        Body::Both => format!("{} (with bodies)", filter.name()),
        body => format!("{} (with {} bodies)", filter.name(), body.as_str()),
    }
}

impl Drop for Rule {
    fn drop(&mut self) {
        process::get().rules_deleted.fetch_add(1, Ordering::Relaxed);
    }
}

/// A `@pparam`: a path, relative to ATS's configuration directory.
fn resolve(param: &[u8]) -> Result<PathBuf, String> {
    let text = std::str::from_utf8(param)
        .map_err(|_| format!("@pparam={} is not UTF-8: a path is expected", String::from_utf8_lossy(param)))?;
    if text.starts_with('-') {
        return Err(format!("@pparam={text}: there are no options; a path to a filter file is expected"));
    }
    Ok(Path::new(&ats::mgmt::config_dir()).join(text))
}

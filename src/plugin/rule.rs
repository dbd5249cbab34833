//! One rule of remap.config: one `TSRemapNewInstance`. Its chain may be swapped for another while it serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use ats::remap::InstanceArgs;
use engine::config::{self, ConfigFile, Variables};
use engine::files::{Fingerprint, Look};
use engine::{Body, Chain};
use parking_lot::Mutex;

use crate::metrics_endpoint::{self, Listener};
use crate::process;

/// What a rule is known by: it is the same rule, through reloads, as long as its line says the same.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    /// For log lines: `rule FROM -> TO`.
    pub(crate) label: Arc<str>,
    /// Its filter files, in order.
    pub(crate) files: Box<[Arc<Path>]>,
}

impl Name {
    /// # Errors
    /// Parameters that name no files.
    pub(crate) fn of(args: &InstanceArgs<'_>) -> Result<Self, String> {
        let label: Arc<str> =
            format!("rule {} -> {}", String::from_utf8_lossy(args.from), String::from_utf8_lossy(args.to)).into();
        if args.params.is_empty() {
            return Err(format!("{label}: no filter file: add @pparam=FILE.yaml"));
        }
        let files = args.params.iter().map(|param| resolve(param).map(Arc::from)).collect::<Result<_, _>>();
        let files = files.map_err(|message| format!("{label}: {message}"))?;
        Ok(Name { label, files })
    }

    /// The URL that clients ask for, as remap.config has it.
    fn from(&self) -> &str {
        let urls = self.label.strip_prefix("rule ").unwrap_or(&self.label);
        urls.split_once(" -> ").map_or(urls, |(from, _)| from)
    }
}

/// A chain that was loaded, what it was loaded from, and what goes with it.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) chain: Arc<Chain>,
    pub(crate) made_from: Fingerprint,
    /// Counts the chains that this process has loaded.
    pub(crate) generation: u64,
    /// Its files are watched.
    pub(crate) watch: bool,
    /// Where metrics are served, as long as a rule that wants it is there.
    _metrics: Box<[Arc<Listener>]>,
}

/// Why no chain could be loaded.
#[derive(Debug)]
pub(crate) struct Failure {
    /// One line that names the rule, the file and what is wrong.
    pub(crate) message: String,
    /// The files that were looked at: as long as they are the same, it would fail again.
    pub(crate) looked_at: Fingerprint,
}

/// Reads the rule's files and loads its chain. Blocks for as long as compiling takes.
///
/// New code proves itself here, before anything of it serves: it is compiled, started and configured, in VMs that no
/// transaction uses or on a trial VM beside those. What traps, refuses or takes too long harms nobody.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn load(name: &Name, look: &mut Look) -> Result<Arc<Loaded>, Failure> {
    static GENERATION: AtomicU64 = AtomicU64::new(1);
    let mut made_from = Fingerprint::default();
    match read(name, look, &mut made_from) {
        Ok((chain, metrics, watch)) => {
            let generation = GENERATION.fetch_add(1, Ordering::Relaxed);
            Ok(Arc::new(Loaded { chain, made_from, generation, watch, _metrics: metrics }))
        }
        Err(message) => Err(Failure { message: format!("{}: {message}", name.label), looked_at: made_from }),
    }
}

type Parts = (Arc<Chain>, Box<[Arc<Listener>]>, bool);

fn read(name: &Name, look: &mut Look, made_from: &mut Fingerprint) -> Result<Parts, String> {
    // Each file is looked at before it is read, see `engine::files`.
    made_from.add(look, name.files.iter().cloned());
    let config =
        ConfigFile::load_all_with(&name.files, &Variables::default(), Some(Path::new(&ats::mgmt::config_dir())))
            .map_err(|error| error.to_string())?;
    if config.filters.is_empty() && config.services.is_empty() {
        return Err(format!(
            "no filter: none of its files has 'filters' or 'services' ({})",
            name.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
        ));
    }
    made_from.add(look, config.reads());
    for warning in &config.warnings {
        log::warn!("{}: {warning}", name.label);
    }
    let chain = Chain::load(&process::get().runtime, Arc::clone(&name.label), &config);
    let chain = chain.map_err(|error| error.to_string())?;
    let listen = |metrics: &config::Metrics| metrics_endpoint::listen(metrics.listen, metrics.any_address);
    let metrics = config.metrics.iter().map(listen).collect::<Result<_, _>>()?;
    let label = &name.label;
    let names: Vec<_> = chain.filters().iter().map(describe).collect();
    log::info!("{label}: {} filters: {}", names.len(), names.join(", "));
    let services: Vec<_> = chain.services().collect();
    if !services.is_empty() {
        log::info!("{label}: {} services: {}", services.len(), services.join(", "));
    }
    Ok((chain, metrics, config.watch))
}

/// A rule, as ATS has it.
///
/// ATS may delete it at any time, also while another thread loads its next chain: whoever works on rules holds them.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: Arc<Name>,
    /// Tells rules apart, and says which is older.
    pub(crate) number: u64,
    /// ATS's reload that made it.
    pub(crate) pass: u64,
    /// What new transactions take. The same as in `current`, without a lock.
    chain: ArcSwap<Chain>,
    current: Mutex<Current>,
}

#[derive(Debug, Clone)]
pub(crate) struct Current {
    pub(crate) loaded: Arc<Loaded>,
    /// The last attempt to load another chain failed.
    pub(crate) failure: Option<Arc<Failure>>,
}

impl Rule {
    pub(crate) fn new(name: Arc<Name>, number: u64, pass: u64, loaded: Arc<Loaded>) -> Self {
        let chain = ArcSwap::new(Arc::clone(&loaded.chain));
        Rule { name, number, pass, chain, current: Mutex::new(Current { loaded, failure: None }) }
    }

    /// The chain that new transactions take. To be let go of soon: a thread can hold a few of these at once.
    #[inline]
    pub(crate) fn chain(&self) -> Guard<Arc<Chain>> {
        self.chain.load()
    }

    /// What it has now.
    pub(crate) fn current(&self) -> Current {
        self.current.lock().clone()
    }

    /// Gives new transactions this chain. Those under way keep the one that they have, which is answered if it is another.
    pub(crate) fn install(&self, loaded: &Arc<Loaded>) -> Option<Arc<Chain>> {
        let mut current = self.current.lock();
        current.failure = None;
        if Arc::ptr_eq(&current.loaded, loaded) {
            return None;
        }
        current.loaded = Arc::clone(loaded);
        Some(self.chain.swap(Arc::clone(&loaded.chain)))
    }

    /// Keeps in mind why there is no other chain; `None`: there is no reason any more.
    pub(crate) fn set_failure(&self, failure: Option<Arc<Failure>>) {
        self.current.lock().failure = failure;
    }

    /// Whether an operator may mean this rule: by its "from" URL, by both of its URLs as log lines have them, by one of
    /// the files that its chain was made from, or by the last parts of that one's path.
    pub(crate) fn is_called(&self, text: &str) -> bool {
        let label = &*self.name.label;
        let urls = label.strip_prefix("rule ").unwrap_or(label);
        let current = self.current();
        let failed = current.failure.iter().flat_map(|failure| failure.looked_at.paths());
        let mut files = current.loaded.made_from.paths().chain(failed);
        text == self.name.from() || text == urls || text == label || files.any(|file| file.ends_with(text))
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

/// A `@pparam`: a path, relative to ATS's configuration directory.
fn resolve(param: &[u8]) -> Result<PathBuf, String> {
    let text = std::str::from_utf8(param)
        .map_err(|_| format!("@pparam={} is not UTF-8: a path is expected", String::from_utf8_lossy(param)))?;
    if text.starts_with('-') {
        return Err(format!("@pparam={text}: there are no options; a path to a filter file is expected"));
    }
    Ok(Path::new(&ats::mgmt::config_dir()).join(text))
}

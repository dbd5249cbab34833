//! Chains are swapped while they serve: when the operator asks (`traffic_ctl plugin msg wasm_remap reload`), and when files
//! change that are watched. All of it on one thread, `wasm-reload`, which is started when it is first needed.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ats::lifecycle::Message;
use ats::thread::AttachedThread;
use crossbeam::channel::{Receiver, Sender, at, never, select};
use engine::Chain;
use engine::files::Look;

use crate::registry::{self, COUNTS};
use crate::rule::{self, Failure, Loaded, Rule};
use crate::watch::Watch;

/// Whom messages are for.
const TAG: &[u8] = b"wasm_remap";

/// What messages may say.
const COMMANDS: &str = "reload (all rules whose files have changed), reload NAME (rules by their \"from\" URL, or by a file), \
                        status, status NAME";

/// How often the end of transactions under an old chain is looked for: at first, and at last.
const SOON: Duration = Duration::from_millis(50);
const LATER: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
pub(crate) enum Errand {
    /// A message's text.
    Asked(String),
    /// There are other rules than before.
    RulesChanged,
}

static ERRANDS: OnceLock<Option<Sender<Errand>>> = OnceLock::new();

/// Whether the thread was ever needed.
pub(crate) fn is_running() -> bool {
    ERRANDS.get().is_some()
}

/// Asks the thread, from any thread.
pub(crate) fn send(errand: Errand) {
    if let Some(errands) = ERRANDS.get_or_init(start) {
        // The receiver lives as long as the process.
        let _ = errands.send(errand);
    }
}

fn start() -> Option<Sender<Errand>> {
    let (sender, errands) = crossbeam::channel::unbounded();
    let body = move || {
        let _attached = AttachedThread::attach();
        Worker { errands, retired: Vec::new(), wait: SOON, watch: Watch::new() }.run();
    };
    match std::thread::Builder::new().name("wasm-reload".to_owned()).spawn(body) {
        Ok(_) => Some(sender),
        Err(error) => {
            log::error!("the thread wasm-reload does not start: {error}; there is 'traffic_ctl config reload' alone");
            None
        }
    }
}

/// Hears the operator, as long as the process runs. Once a copy of the plugin; each looks after its own rules.
///
/// # Errors
/// ATS refuses.
pub(crate) fn listen() -> Result<(), ats::Error> {
    ats::lifecycle::on_message(|message: Message<'_>| {
        if message.tag == TAG {
            send(Errand::Asked(String::from_utf8_lossy(message.data).trim().to_owned()));
        }
    })
}

/// Why chains are loaded anew.
enum Why<'a> {
    Asked(Option<&'a str>),
    Watched,
}

/// What the thread has.
struct Worker {
    errands: Receiver<Errand>,
    /// Chains that were replaced. Whoever lets go of one last ends its plugin contexts, in the VMs of all threads, and frees
    /// its VMs: that is to be this thread, and not an event thread at the end of a transaction.
    retired: Vec<Arc<Chain>>,
    /// Until the next look at those.
    wait: Duration,
    watch: Watch,
}

impl Worker {
    fn run(mut self) {
        loop {
            let retired = (!self.retired.is_empty()).then(|| Instant::now() + self.wait);
            let due = [retired, self.watch.due()].into_iter().flatten().min();
            let errand = select! {
                recv(self.errands) -> errand => match errand {
                    Ok(errand) => Some(errand),
                    Err(_) => return,
                },
                recv(self.watch.bell()) -> _ => {
                    self.watch.rung();
                    None
                }
                recv(due.map_or_else(never, at)) -> _ => None,
            };
            let fine = ats::guard::run("wasm-reload", false, || {
                self.turn(errand);
                true
            });
            if !fine {
                // What is due may be due again at once.
                std::thread::sleep(LATER);
            }
        }
    }

    fn turn(&mut self, errand: Option<Errand>) {
        match errand {
            Some(Errand::Asked(text)) => self.asked(&text),
            Some(Errand::RulesChanged) => {
                self.watch_files();
                // They may have changed before they were watched.
                self.reload(&Why::Watched);
            }
            None => {}
        }
        if self.watch.is_due() {
            // Watched first, looked at then: what changes after the look is told.
            self.watch_files();
            self.reload(&Why::Watched);
        }
        self.let_go();
    }

    fn asked(&mut self, text: &str) {
        if registry::is_unused() {
            // Another copy of the plugin answers.
            return;
        }
        crate::fault::inject("wasm-reload");
        let (command, name) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = Some(name.trim()).filter(|name| !name.is_empty());
        match command {
            "reload" => self.reload(&Why::Asked(name)),
            "status" => status(name),
            _ => log::warn!("message '{}' is none that is known: {COMMANDS}", text.escape_debug()),
        }
    }

    /// Watches the files of the rules that want it, and those that the last attempt to load these looked at.
    fn watch_files(&mut self) {
        let rules = registry::in_service();
        let currents: Vec<_> = rules.iter().map(|rule| rule.current()).filter(|current| current.loaded.watch).collect();
        let files = currents.iter().flat_map(|current| {
            let failed = current.failure.iter().flat_map(|failure| failure.looked_at.paths());
            current.loaded.made_from.paths().chain(failed)
        });
        self.watch.files(files);
    }

    /// Loads what has changed, and swaps it in.
    fn reload(&mut self, why: &Why<'_>) {
        // Nobody else loads meanwhile; ATS's own reload comes before or after.
        let loading = registry::loading();
        let begun = Instant::now();
        let mut look = Look::default();
        let rules = registry::in_service();
        let asked = |rule: &Arc<Rule>| match why {
            Why::Asked(Some(name)) => rule.is_called(name),
            Why::Asked(None) => true,
            Why::Watched => rule.current().loaded.watch,
        };
        let mut by_name: BTreeMap<u64, Candidate> = BTreeMap::new();
        let mut first: HashMap<_, u64> = HashMap::new();
        for rule in rules.into_iter().filter(asked) {
            let number = *first.entry(Arc::clone(&rule.name)).or_insert(rule.number);
            by_name.entry(number).or_default().rules.push(rule);
        }
        let all = by_name.len();
        let mut candidates: Vec<_> = by_name.into_values().collect();
        candidates.retain_mut(|candidate| candidate.has_changed(&mut look));
        let changed = candidates.len();
        let groups = match why {
            Why::Asked(Some(_)) => vec![candidates],
            _ => sharing(candidates),
        };
        let (mut loaded, mut failed) = (0, 0);
        for group in groups.iter().filter(|group| !group.is_empty()) {
            if matches!(why, Why::Watched) && group.iter().all(|candidate| candidate.has_failed(&mut look)) {
                // Nothing has changed since.
                continue;
            }
            match load_all(group, &mut look) {
                Ok(chains) => {
                    for (candidate, chain) in group.iter().zip(&chains) {
                        self.swap(candidate, chain);
                    }
                    loaded += group.len();
                }
                Err(()) => failed += group.len(),
            }
        }
        drop(loading);
        let spent = begun.elapsed();
        COUNTS.count_failing();
        if loaded + failed > 0 {
            self.watch_files();
        }
        let unchanged = all - changed;
        match why {
            Why::Asked(Some(name)) if all == 0 => {
                log::warn!(
                    "reload: no rule of this server is called '{0}', nor is any of its files",
                    name.escape_debug()
                );
            }
            Why::Watched if loaded + failed == 0 => {}
            _ => {
                COUNTS.ended(loaded as u64, unchanged as u64, spent);
                log::info!(
                    "reload: {all} rules, {unchanged} unchanged, {loaded} loaded, {failed} not, {:.2} s",
                    spent.as_secs_f64()
                );
            }
        }
    }

    fn swap(&mut self, candidate: &Candidate, loaded: &Arc<Loaded>) {
        registry::set_latest(&candidate.rules[0].name, loaded);
        for rule in &candidate.rules {
            let Some(old) = rule.install(loaded) else { continue };
            log::debug!("{}: generation {}", rule.name.label, loaded.generation);
            if !self.retired.iter().any(|known| Arc::ptr_eq(known, &old)) {
                self.retired.push(old);
            }
        }
        self.wait = SOON;
    }

    /// Lets go of the chains that nobody has any more.
    fn let_go(&mut self) {
        if self.retired.is_empty() {
            return;
        }
        let before = self.retired.len();
        // Nobody can come to a chain any more of which this is the only handle.
        self.retired.retain(|chain| Arc::strong_count(chain) > 1);
        self.wait = if self.retired.len() < before { SOON } else { (self.wait * 2).min(LATER) };
        COUNTS.retired.store(self.retired.len() as u64, Ordering::Relaxed);
    }
}

/// Rules of one name, whose chain may be loaded anew: more than one, while ATS reloads.
#[derive(Default)]
struct Candidate {
    rules: Vec<Arc<Rule>>,
    /// Files that are not what they were.
    changed: Vec<PathBuf>,
}

impl Candidate {
    /// Whether some file of it has changed.
    fn has_changed(&mut self, look: &mut Look) -> bool {
        for rule in &self.rules {
            let current = rule.current();
            self.changed.extend(current.loaded.made_from.changed(look).map(Path::to_owned));
            if self.changed.is_empty() && current.failure.is_some() {
                log::info!("{}: its files are again what its chain was loaded from", rule.name.label);
                rule.set_failure(None);
            }
        }
        !self.changed.is_empty()
    }

    /// Whether loading what is there now was tried, and failed.
    fn has_failed(&self, look: &mut Look) -> bool {
        self.rules.iter().all(|rule| rule.current().failure.is_some_and(|failure| failure.looked_at.is_current(look)))
    }
}

/// Rules with a changed file in common, together.
fn sharing(candidates: Vec<Candidate>) -> Vec<Vec<Candidate>> {
    fn root(parents: &mut [usize], mut at: usize) -> usize {
        while parents[at] != at {
            parents[at] = parents[parents[at]];
            at = parents[at];
        }
        at
    }
    let mut parents: Vec<usize> = (0..candidates.len()).collect();
    let mut owner: HashMap<&Path, usize> = HashMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        for file in &candidate.changed {
            let other = *owner.entry(file).or_insert(index);
            let (a, b) = (root(&mut parents, other), root(&mut parents, index));
            parents[a.max(b)] = a.min(b);
        }
    }
    let mut groups: BTreeMap<usize, Vec<Candidate>> = BTreeMap::new();
    for (index, candidate) in candidates.into_iter().enumerate() {
        groups.entry(root(&mut parents, index)).or_default().push(candidate);
    }
    groups.into_values().collect()
}

/// The chains of all of these, or none: rules that share a file change together.
fn load_all(group: &[Candidate], look: &mut Look) -> Result<Vec<Arc<Loaded>>, ()> {
    let mut chains = Vec::with_capacity(group.len());
    for candidate in group {
        let name = &candidate.rules[0].name;
        let chain = match registry::latest(name, look) {
            // ATS was here meanwhile.
            Some(chain) => Ok(chain),
            None => rule::load(name, look),
        };
        match chain {
            Ok(chain) => chains.push(chain),
            Err(failure) => {
                refuse(group, candidate, Arc::new(failure));
                return Err(());
            }
        }
    }
    Ok(chains)
}

/// Says why the chains of a group stay what they are.
fn refuse(group: &[Candidate], failing: &Candidate, failure: Arc<Failure>) {
    COUNTS.failures.fetch_add(1, Ordering::Relaxed);
    let others = group.len() - 1;
    let others = match others {
        0 => String::new(),
        others => format!(", as do {others} others that were to change with it"),
    };
    log::error!(
        "{}; it goes on with the chain that it has (generation {}){others}",
        failure.message,
        failing.rules[0].current().loaded.generation
    );
    group.iter().flat_map(|candidate| &candidate.rules).for_each(|rule| rule.set_failure(Some(Arc::clone(&failure))));
}

/// A line for each rule.
fn status(name: Option<&str>) {
    let rules = registry::in_service();
    let mut count = 0;
    let mut last: HashMap<_, u64> = HashMap::new();
    for rule in rules.iter().filter(|rule| name.is_none_or(|name| rule.is_called(name))) {
        let current = rule.current();
        let generation = current.loaded.generation;
        // While ATS reloads, a rule may be there twice, with one chain.
        if last.insert(Arc::clone(&rule.name), generation) == Some(generation) {
            continue;
        }
        count += 1;
        let files: Vec<_> = current.loaded.made_from.paths().map(|path| path.display().to_string()).collect();
        log::info!(
            "status: {}: generation {generation}, {} filters, {} {}; last error: {}",
            rule.name.label,
            current.loaded.chain.filters().len(),
            if current.loaded.watch { "watches" } else { "of" },
            files.join(", "),
            current.failure.as_ref().map_or("none", |failure| failure.message.as_str())
        );
    }
    log::info!(
        "status: {count} rules, {} replaced chains that transactions use",
        COUNTS.retired.load(Ordering::Relaxed)
    );
}

//! The log: what is said of an event, where it took place, and how often it is said.
//!
//! Every line ends in its place, `| filter=auth rule="http://a.test/ -> http://b.test/" thread=3 txn=812`, as far as that
//! is known. Two things bound how many lines there are, whatever clients and filters do:
//!
//! - what filters log goes through the [`Site`] of their plugin context, which lets so many lines a second through;
//! - what is logged *about* filters and transactions goes through [`told`]: an event is told in full when it occurs
//!   first, and counted after that.
//!
//! What was not told is summed up later, by a thread of its own, so that a flood that stops is accounted for, too.

mod line;
mod repeats;
mod site;
mod trace;

use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use log::Level;
use parking_lot::{Condvar, Mutex, RwLock};
use xxhash_rust::xxh3::Xxh3;

use crate::module::Digest;

pub(crate) use site::Site;
pub(crate) use site::write_stray;
pub use site::{GUEST_TARGET, LogFile, LogSettings, Rolling, Threshold};
pub use trace::Frame;
pub(crate) use trace::{Fingerprint, note_source};

use line::Line;
use repeats::{Repeats, Told};

/// The target of lines about filters.
const TARGET: &str = "wasm_remap";

/// Keeps the log files of filters, for a server.
pub trait LogFiles: Send + Sync {
    /// The file of this name, opened if nobody has it yet. It stays open: rules come and go, and so do reloads.
    ///
    /// # Errors
    /// Why there is none, in one line.
    fn open(&self, file: &LogFile) -> Result<Arc<dyn LogWriter>, String>;
}

/// A log file that is open.
pub trait LogWriter: Send + Sync + fmt::Debug {
    /// Appends a line: text without control characters, and without an end.
    fn write(&self, line: &str);
}

static FILES: OnceLock<Arc<dyn LogFiles>> = OnceLock::new();

/// Makes this process one that serves: lines say their thread and transaction, filters have the log files that they
/// name, and what takes long (looking up source lines) is left to the log's own thread. Once; without, lines end where
/// their text ends and all go to the `log` crate, as suits a command.
pub fn serve(files: Arc<dyn LogFiles>) {
    // A second call is from the same plugin, and means the same.
    let _ = FILES.set(files);
}

/// Whoever keeps log files, in a process that serves.
fn server() -> Option<&'static Arc<dyn LogFiles>> {
    FILES.get()
}

/// The thread in whose slot something took place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Thread {
    /// None, or not known.
    #[default]
    Unknown,
    /// The event thread that has this slot.
    Slot(usize),
    /// That of a service.
    Service,
}

/// Where something took place, as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// The filter's name; empty where none is meant.
    pub filter: &'a str,
    /// The rule, with or without the word; empty outside of rules.
    pub rule: &'a str,
    /// The thread.
    pub thread: Thread,
    /// The transaction's number.
    pub txn: Option<u64>,
}

/// A chain's label, by which whoever knows its number alone finds it: VMs serve many chains.
#[derive(Debug)]
pub(crate) struct Label {
    text: Arc<str>,
    number: u64,
}

static LABELS: RwLock<Option<HashMap<u64, Arc<str>>>> = RwLock::new(None);

impl Label {
    pub(crate) fn new(text: Arc<str>) -> Self {
        /// Zero is no label's.
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        LABELS.write().get_or_insert_default().insert(number, Arc::clone(&text));
        Label { text, number }
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The label of this number, as long as its chain is there.
    pub(crate) fn of(number: u64) -> Option<Arc<str>> {
        LABELS.read().as_ref()?.get(&number).map(Arc::clone)
    }
}

impl Drop for Label {
    fn drop(&mut self) {
        if let Some(labels) = LABELS.write().as_mut() {
            labels.remove(&self.number);
        }
    }
}

/// Logs an event that clients or filters can bring about as often as they like: in full when it occurs first, and
/// counted after that, with a line now and then that says how often. Events with equal `what`, rule and filter are one.
pub fn told(level: Level, what: &str, place: Place<'_>, text: fmt::Arguments<'_>) {
    if !log::log_enabled!(target: TARGET, level) {
        return;
    }
    let key = key(what, place);
    if journal().first(key, what, place) {
        write(level, &Line::of(text, place, None));
    }
}

/// [`told`] for a guest's end: the text is followed by the guest's call stack, and by the fingerprint under which
/// repetitions are counted.
pub(crate) fn trapped(digest: Digest, trap: &crate::error::Trap, place: Place<'_>, text: fmt::Arguments<'_>) {
    let fingerprint = Fingerprint::of(digest, trap);
    let what = format!("trap {fingerprint}");
    if !journal().first(key(&what, place), &what, place) {
        return;
    }
    let finish = {
        let text = line::text(text);
        let (filter, rule) = (place.filter.to_owned(), place.rule.to_owned());
        let (thread, txn) = (place.thread, place.txn);
        let frames = trap.backtrace.clone();
        move || {
            let place = Place { filter: &filter, rule: &rule, thread, txn };
            let stack = trace::describe(digest, &frames);
            let stack = if stack.is_empty() { stack } else { format!("; in {stack}") };
            write(Level::Error, &Line::of(format_args!("{text}{stack}"), place, Some(fingerprint)));
        }
    };
    // Source lines are read from the module's file, for which no event thread has the time.
    if server().is_some() && trace::has_source(digest) && journal().later(Box::new(finish.clone())) {
        return;
    }
    finish();
}

fn key(what: &str, place: Place<'_>) -> u64 {
    let mut hash = Xxh3::new();
    (what, place.rule, place.filter).hash(&mut hash);
    hash.finish()
}

fn write(level: Level, line: &Line) {
    log::log!(target: TARGET, level, "{line}");
}

type Work = Box<dyn FnOnce() + Send>;

/// What the log's own thread has to do.
#[derive(Default)]
struct State {
    repeats: Repeats,
    /// Sites that have dropped lines since they were last asked.
    silent: Vec<Arc<Site>>,
    work: Vec<Work>,
}

struct Journal {
    state: Mutex<State>,
    changed: Condvar,
    /// The thread runs.
    running: OnceLock<bool>,
}

/// Jobs that wait for the log's own thread. Beyond that, they are done where they come up.
const MAX_WORK: usize = 256;

static JOURNAL: Journal =
    Journal { state: Mutex::new(State::new()), changed: Condvar::new(), running: OnceLock::new() };

fn journal() -> &'static Journal {
    &JOURNAL
}

impl State {
    const fn new() -> Self {
        State { repeats: Repeats::new(), silent: Vec::new(), work: Vec::new() }
    }
}

/// Starts the log's own thread. A process has one, whatever runtimes it makes.
pub(crate) fn start() {
    let running = *JOURNAL
        .running
        .get_or_init(|| std::thread::Builder::new().name("wasm-log".to_owned()).spawn(|| JOURNAL.run()).is_ok());
    if !running {
        log::warn!(target: TARGET, "the thread wasm-log does not start: what is not told line by line is not summed up");
    }
}

impl Journal {
    /// Whether an event is to be told, and not merely counted.
    fn first(&self, key: u64, what: &str, place: Place<'_>) -> bool {
        let mut state = self.state.lock();
        let told = state.repeats.note(Instant::now(), key, what, place);
        drop(state);
        if told == Told::Counted {
            // The thread may be waiting for nothing.
            self.changed.notify_one();
        }
        told == Told::First
    }

    /// Has the log's own thread do this. False if it has too much to do.
    fn later(&self, work: Work) -> bool {
        let mut state = self.state.lock();
        if state.work.len() >= MAX_WORK || self.running.get() != Some(&true) {
            return false;
        }
        state.work.push(work);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// A site drops lines.
    fn falls_silent(&self, site: Arc<Site>) {
        self.state.lock().silent.push(site);
        self.changed.notify_one();
    }

    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let now = Instant::now();
            let (work, silent) = (std::mem::take(&mut state.work), std::mem::take(&mut state.silent));
            let summaries = state.repeats.due(now);
            let idle = work.is_empty() && silent.is_empty() && summaries.is_empty();
            if idle {
                match state.repeats.next() {
                    None => self.changed.wait(&mut state),
                    Some(at) => _ = self.changed.wait_until(&mut state, at),
                }
                continue;
            }
            // Lines are written with nothing held.
            drop(state);
            work.into_iter().for_each(|work| work());
            for summary in &summaries {
                write(Level::Error, &summary.line());
            }
            let again: Vec<_> = silent.into_iter().filter(|site| !site.speak()).collect();
            let wait = !again.is_empty();
            state = self.state.lock();
            state.silent.extend(again);
            if wait && state.work.is_empty() {
                // Their second is not over.
                _ = self.changed.wait_for(&mut state, std::time::Duration::from_millis(100));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_found_as_long_as_it_lives() {
        let label = Label::new("rule a -> b".into());
        assert_eq!(Label::of(label.number()).as_deref(), Some("rule a -> b"));
        let number = label.number();
        drop(label);
        assert_eq!(Label::of(number), None);
        assert_eq!(Label::of(0), None);
    }

    #[test]
    fn what_has_another_rule_or_filter_is_another_event() {
        let of = |what, rule, filter| key(what, Place { rule, filter, ..Place::default() });
        let keys = [of("a", "r", "f"), of("b", "r", "f"), of("a", "s", "f"), of("a", "r", "g"), of("ar", "", "f")];
        for (at, left) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(left), "{keys:?}");
        }
        assert_eq!(of("a", "r", "f"), keys[0]);
    }
}

//! Being told of changes to files, by the directories that they stand in (inotify).
//!
//! What a notice says is not looked at: files are compared with what they were. So it does not matter how a file is
//! changed: written over, replaced by a rename, reached by a link that was turned, deleted and made again, in a directory
//! that comes later than its parent.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender};
use engine::files::Directories;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;

/// Changes are looked at when there have been none for this long: files that belong together are written one after the
/// other.
const QUIET: Duration = Duration::from_millis(200);

/// … and this long after the first one at the latest.
const LONGEST: Duration = Duration::from_secs(2);

/// How often files are looked at without a notice. Network file systems give none, and neither does a directory further up
/// that is renamed.
const UNTOLD: Duration = Duration::from_secs(10);

/// The same, where there are no notices at all.
const POLLING: Duration = Duration::from_secs(2);

/// What was told since it was last asked for. A directory in which much happens costs nobody but the thread of the
/// notices more than this.
#[derive(Default)]
struct Told {
    last: Option<Instant>,
    /// Directories that were, perhaps, moved or deleted.
    gone: Vec<PathBuf>,
}

/// The directories that are watched, and when it is time to look at files.
pub(crate) struct Watch {
    told: Arc<Mutex<Told>>,
    ring: Sender<()>,
    bell: Receiver<()>,
    /// There as long as there is something to watch.
    watcher: Option<RecommendedWatcher>,
    /// By path: which directory that was.
    directories: HashMap<PathBuf, (u64, u64)>,
    /// Some directory cannot be watched.
    polling: bool,
    /// The first notice that was not acted on.
    first: Option<Instant>,
    /// When to look without one.
    next: Option<Instant>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        let (ring, bell) = crossbeam::channel::bounded(1);
        Watch {
            told: Arc::default(),
            ring,
            bell,
            watcher: None,
            directories: HashMap::new(),
            polling: false,
            first: None,
            next: None,
        }
    }

    /// Rings when there is a notice. Never while one waits to be acted on.
    pub(crate) fn bell(&self) -> Receiver<()> {
        if self.first.is_some() { crossbeam::channel::never() } else { self.bell.clone() }
    }

    /// The bell has rung.
    pub(crate) fn rung(&mut self) {
        self.first.get_or_insert_with(Instant::now);
    }

    /// When [`Self::is_due`] is to be asked.
    pub(crate) fn due(&self) -> Option<Instant> {
        let told = self.first.map(|first| {
            let quiet = self.told.lock().last.unwrap_or(first) + QUIET;
            quiet.min(first + LONGEST)
        });
        [told, self.next].into_iter().flatten().min()
    }

    /// Whether it is time to look at the files; asks once.
    pub(crate) fn is_due(&mut self) -> bool {
        let due = self.due().is_some_and(|due| due <= Instant::now());
        if due {
            self.first = None;
            self.next = None;
            // What rings from here on was not taken into account.
            let _ = self.bell.try_recv();
            let told = std::mem::take(&mut *self.told.lock());
            // The kernel has let go of those, and another one may have the name, and even the number.
            told.gone.iter().for_each(|path| _ = self.forget(path));
        }
        due
    }

    fn forget(&mut self, path: &Path) -> bool {
        let known = self.directories.remove(path).is_some();
        if known && let Some(watcher) = &mut self.watcher {
            // An error says that it is gone already.
            let _ = watcher.unwatch(path);
        }
        known
    }

    /// Watches over these files, and no others.
    pub(crate) fn files<'p>(&mut self, files: impl IntoIterator<Item = &'p Path>) {
        let mut wanted = Directories::default();
        files.into_iter().for_each(|file| wanted.add(file));
        let wanted = wanted.found();
        if wanted.is_empty() {
            // Its thread ends, and its descriptor is closed.
            self.watcher = None;
            self.directories.clear();
            self.polling = false;
            self.next = None;
            return;
        }
        let unwanted: Vec<_> = self.directories.keys().filter(|path| !wanted.contains(*path)).cloned().collect();
        unwanted.iter().for_each(|path| _ = self.forget(path));
        let problem = self.watch(&wanted).err();
        if let (Some(problem), false) = (&problem, self.polling) {
            log::warn!(
                "files cannot be watched: {problem}; they are looked at every {} seconds. fs.inotify.max_user_instances and \
                 fs.inotify.max_user_watches say how much may be watched",
                POLLING.as_secs()
            );
        }
        self.polling = problem.is_some();
        self.next = Some(Instant::now() + if self.polling { POLLING } else { UNTOLD });
    }

    fn watch(&mut self, wanted: &BTreeSet<PathBuf>) -> notify::Result<()> {
        for path in wanted {
            let identity = std::fs::metadata(path).map(|data| (data.dev(), data.ino()));
            // One that has gone since is found by its next notice, or the next look.
            let Ok(identity) = identity else { continue };
            if self.directories.get(path) == Some(&identity) {
                continue;
            }
            self.forget(path);
            let watcher = match &mut self.watcher {
                Some(watcher) => watcher,
                None => self.watcher.insert(start(&self.told, &self.ring)?),
            };
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.directories.insert(path.clone(), identity),
                Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn start(told: &Arc<Mutex<Told>>, ring: &Sender<()>) -> notify::Result<RecommendedWatcher> {
    let (told, ring) = (Arc::clone(told), ring.clone());
    notify::recommended_watcher(move |event: notify::Result<Event>| {
        if !event.as_ref().is_ok_and(|event| changes_something(event.kind)) {
            return;
        }
        {
            let mut told = told.lock();
            told.last = Some(Instant::now());
            if let Ok(event) = event
                && matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(notify::event::ModifyKind::Name(_)))
            {
                // Nobody moves thousands of directories that are watched; files come here, too.
                let room = 1024_usize.saturating_sub(told.gone.len());
                told.gone.extend(event.paths.into_iter().take(room));
            }
        }
        // It is full if nobody has looked since it was rung.
        let _ = ring.try_send(());
    })
}

/// Files that are opened and read are as they were; we read them ourselves.
fn changes_something(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

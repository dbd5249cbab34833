//! Files as they were when something was made from them: what decides whether it is to be made anew.
//!
//! A file is compared by what the system knows of it, never by its contents: a reload of ten thousand rules then costs a
//! call of the system for each file, and reads none. A file is looked at *before* it is read, so that a change in
//! between makes it another file the next time, not an unchanged one.

mod directories;

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use directories::Directories;
use smallvec::SmallVec;

/// What the system knows of a file. Whoever writes to a file, or puts another one in its place, changes this, the time of
/// the last change at least, which nobody can set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

/// File systems count time in ticks of some milliseconds: a file that was changed this shortly before it was looked at may
/// be changed once more and look the same.
const RACY: Duration = Duration::from_millis(50);

/// A file, as it was at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    path: Arc<Path>,
    /// `None`: there was none.
    id: Option<FileId>,
    /// It had been left alone long enough for the next change to show.
    settled: bool,
}

impl Seen {
    /// The file that a path leads to, symbolic links followed.
    #[must_use]
    pub fn now(path: impl Into<Arc<Path>>) -> Self {
        let path = path.into();
        // The clock first: a change after this moment is a change after the look.
        let now = SystemTime::now();
        let id = std::fs::metadata(&path).ok().map(|data| FileId {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        });
        // On both sides: another machine's clock may be ahead of ours, for ever.
        let near = |changed: SystemTime| now.duration_since(changed).unwrap_or_else(|ahead| ahead.duration()) < RACY;
        let settled = id.is_none_or(|id| !time(id.changed).is_some_and(near));
        Seen { path, id, settled }
    }

    /// The path by which it was looked for.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what was read after this is what would be read after `later`.
    fn is_still(&self, later: &Seen) -> bool {
        self.settled && self.id == later.id
    }
}

fn time((seconds, nanoseconds): (i64, i64)) -> Option<SystemTime> {
    let (seconds, nanoseconds) = (u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
}

/// One look at files: each is asked for once, however many rules name it.
#[derive(Debug, Default)]
pub struct Look {
    seen: HashMap<Arc<Path>, Arc<Seen>>,
}

impl Look {
    /// The file that a path leads to, as it was when it was first asked for.
    pub fn at(&mut self, path: impl AsRef<Path> + Into<Arc<Path>>) -> Arc<Seen> {
        if let Some(seen) = self.seen.get(path.as_ref()) {
            return Arc::clone(seen);
        }
        let seen = Arc::new(Seen::now(path));
        self.seen.insert(Arc::clone(&seen.path), Arc::clone(&seen));
        seen
    }
}

/// All files that something was made from.
///
/// What else it was made from and may change belongs here, too.
#[derive(Debug, Clone, Default)]
pub struct Fingerprint {
    /// A rule has a filter file and a module, mostly.
    files: SmallVec<[Arc<Seen>; 2]>,
}

impl Fingerprint {
    /// Adds files, before they are read.
    pub fn add<P: AsRef<Path> + Into<Arc<Path>>>(&mut self, look: &mut Look, paths: impl IntoIterator<Item = P>) {
        for path in paths {
            if self.files.iter().all(|seen| seen.path() != path.as_ref()) {
                self.files.push(look.at(path));
            }
        }
        self.files.shrink_to_fit();
    }

    /// The paths, in the order in which they were added.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|seen| seen.path())
    }

    /// Those that are not what they were, or may not be.
    pub fn changed(&self, look: &mut Look) -> impl Iterator<Item = &Path> {
        self.files.iter().filter(|seen| !seen.is_still(&look.at(Arc::clone(&seen.path)))).map(|seen| seen.path())
    }

    /// Whether all are what they were.
    pub fn is_current(&self, look: &mut Look) -> bool {
        self.changed(look).next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    /// Long enough for a file to be settled.
    fn settle() {
        std::thread::sleep(RACY + Duration::from_millis(30));
    }

    fn fingerprint(paths: &[&Path]) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(&mut Look::default(), paths.iter().copied());
        fingerprint
    }

    fn changed(fingerprint: &Fingerprint) -> Vec<PathBuf> {
        fingerprint.changed(&mut Look::default()).map(Path::to_owned).collect()
    }

    #[test]
    fn whatever_is_done_to_a_file_makes_it_another() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b, link) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("link"));
        fs::write(&a, "one").unwrap();
        fs::write(&b, "one").unwrap();
        std::os::unix::fs::symlink(&a, &link).unwrap();
        settle();
        let before = fingerprint(&[&a, &link]);
        assert_eq!(changed(&before), Vec::<PathBuf>::new());
        assert!(before.is_current(&mut Look::default()));

        // Another link, whose file has the same contents.
        std::os::unix::fs::symlink(&b, dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &link).unwrap();
        assert_eq!(changed(&before), std::slice::from_ref(&link));
        // Written over, with as many bytes, and its time put back.
        let then = fs::metadata(&a).unwrap().modified().unwrap();
        fs::write(&a, "two").unwrap();
        fs::File::options().write(true).open(&a).unwrap().set_modified(then).unwrap();
        assert_eq!(changed(&before), [a.clone(), link.clone()]);
        settle();
        let after = fingerprint(&[&a]);
        assert!(after.is_current(&mut Look::default()));
        // Gone, and there again as it was.
        fs::rename(&a, dir.path().join("aside")).unwrap();
        assert_eq!(changed(&after), std::slice::from_ref(&a));
        let gone = fingerprint(&[&a]);
        assert!(gone.is_current(&mut Look::default()), "what is not there has not changed");
        fs::rename(dir.path().join("aside"), &a).unwrap();
        assert!(!gone.is_current(&mut Look::default()));
    }

    #[test]
    fn a_file_that_was_just_written_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "one").unwrap();
        let young = fingerprint(&[&file]);
        settle();
        assert_eq!(changed(&young), std::slice::from_ref(&file), "it may have been written again within the same tick");
        assert!(fingerprint(&[&file]).is_current(&mut Look::default()));
    }

    #[test]
    fn one_look_asks_once_for_each_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        let mut look = Look::default();
        assert!(Arc::ptr_eq(&look.at(file.as_path()), &look.at(file.as_path())));
        let mut fingerprint = Fingerprint::default();
        fingerprint.add(&mut look, [file.as_path(), file.as_path()]);
        fs::write(&file, "").unwrap();
        assert_eq!(fingerprint.paths().count(), 1);
        assert!(fingerprint.is_current(&mut look), "of this look, the file is what it was at first");
        assert!(!fingerprint.is_current(&mut Look::default()));
    }
}

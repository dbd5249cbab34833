//! Which file has which digest: ten thousand rules on one module read it once.
//!
//! A file is known by what the system says of it. Whoever changes a file changes that, with one exception: the clock by
//! which files are dated moves in steps of some milliseconds, so a change shortly after a reading may leave no trace.
//! A file that was touched just before it was read is therefore read again the next time.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::module::Digest;

/// How old the last change must be before a reading is taken for the file's contents. Many times the step of the
/// kernel's clock for files.
pub(super) const SETTLED: Duration = Duration::from_millis(50);

/// The same on file systems that date files to the second.
const SETTLED_COARSE: Duration = Duration::from_secs(2);

/// More files than anybody's rules name; beyond it all are forgotten, and read once more.
const MOST: usize = 16_384;

/// What the system says of a file. Equal identities have equal contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds. The first may be set to anything, the second by nobody.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileId {
    pub(super) fn of(data: &Metadata) -> Self {
        FileId {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }

    /// Whether a reading that began at `time` saw the file as it is: a later change would show.
    pub(super) fn is_settled(&self, time: SystemTime) -> bool {
        let Ok(now) = time.duration_since(SystemTime::UNIX_EPOCH) else { return false };
        let (Ok(seconds), Ok(nanoseconds)) = (u64::try_from(self.changed.0), u32::try_from(self.changed.1)) else {
            return false;
        };
        let margin = if nanoseconds == 0 { SETTLED_COARSE } else { SETTLED };
        Duration::new(seconds, nanoseconds).checked_add(margin).is_some_and(|settled| settled <= now)
    }
}

impl std::fmt::Display for FileId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let FileId { device, inode, size, modified, changed } = self;
        write!(f, "{device}-{inode}-{size}-{}.{}-{}.{}", modified.0, modified.1, changed.0, changed.1)
    }
}

/// Digests of files.
#[derive(Default)]
pub(super) struct Files(Mutex<HashMap<FileId, Digest>>);

impl Files {
    /// The digest of a file, if it was read before and is the same.
    pub(super) fn digest(&self, path: &Path) -> Option<Digest> {
        let id = FileId::of(&std::fs::metadata(path).ok()?);
        self.0.lock().get(&id).copied()
    }

    /// What a reading of this file gave.
    pub(super) fn insert(&self, id: FileId, digest: Digest) {
        let mut files = self.0.lock();
        if files.len() >= MOST {
            files.clear();
        }
        files.insert(id, digest);
    }
}

/// Reads a file whole. It has its identity only if that stands for what was read.
pub(super) fn read(path: &Path) -> io::Result<(Vec<u8>, Option<FileId>)> {
    let mut file = File::open(path)?;
    let begun = SystemTime::now();
    let before = file.metadata()?;
    if before.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(before.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    let (before, after) = (FileId::of(&before), FileId::of(&file.metadata()?));
    Ok((bytes, (before == after && after.is_settled(begun)).then_some(after)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle() {
        std::thread::sleep(SETTLED + Duration::from_millis(20));
    }

    #[test]
    fn a_file_that_was_just_written_is_not_taken_for_granted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, b"one").unwrap();
        let id = FileId::of(&std::fs::metadata(&path).unwrap());
        let changed = SystemTime::UNIX_EPOCH
            + Duration::new(id.changed.0.try_into().unwrap(), id.changed.1.try_into().unwrap());
        assert!(!id.is_settled(changed + SETTLED - Duration::from_millis(1)));
        assert!(!id.is_settled(changed - Duration::from_secs(9)), "a clock that went back");
        assert!(id.is_settled(changed + SETTLED_COARSE));
        settle();
        assert_eq!(read(&path).unwrap(), (b"one".to_vec(), Some(id)));
    }

    #[test]
    fn whatever_changes_a_file_changes_its_identity() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m");
        std::fs::write(&path, b"one").unwrap();
        let files = Files::default();
        let mut known = Vec::new();
        let changes: [&dyn Fn(); 4] = [
            &|| {},
            &|| std::fs::write(&path, b"two").unwrap(),
            // Another file in its place, and back the clock for good measure.
            &|| {
                let other = dir.path().join("n");
                std::fs::write(&other, b"six").unwrap();
                std::fs::rename(&other, &path).unwrap();
            },
            &|| {
                let time = std::fs::metadata(&path).unwrap().modified().unwrap();
                std::fs::write(&path, b"ten").unwrap();
                File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
            },
        ];
        for change in changes {
            change();
            settle();
            assert_eq!(files.digest(&path), None, "a change went unnoticed");
            let (bytes, id) = read(&path).unwrap();
            files.insert(id.unwrap(), Digest::of(&bytes));
            assert_eq!(files.digest(&path), Some(Digest::of(&bytes)));
            known.push(id.unwrap());
        }
        known.dedup();
        assert_eq!(known.len(), 4);
    }

    #[test]
    fn directories_and_absent_files_say_so() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read(&dir.path().join("x")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

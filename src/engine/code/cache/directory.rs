//! The directory that compiled code is kept in, which has to be private.
//!
//! It is opened once for each use and everything goes by that handle: what has been looked at is what is used, whatever
//! becomes of its name meanwhile. Files are made complete under a name of their own and then renamed, never changed: what
//! a process has mapped stays as it was.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fsync, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

/// An open directory that nobody but its owner, who is this process's user or root, can write to.
pub(super) struct Directory(OwnedFd);

/// A file of it.
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

impl Directory {
    /// Opens a directory, made if it is not there.
    ///
    /// # Errors
    /// Why it cannot be had or trusted.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let mut opened = openat(CWD, path, flags, Mode::empty());
        if matches!(opened, Err(Errno::NOENT)) {
            match mkdirat(CWD, path, Mode::RWXU) {
                // Another process was faster.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(format!("it cannot be made: {}", io::Error::from(error))),
            }
            opened = openat(CWD, path, flags, Mode::empty());
        }
        let handle = opened.map_err(|error| match std::fs::symlink_metadata(path) {
            Ok(data) if data.is_symlink() => "it is a symbolic link, and a directory is wanted".to_owned(),
            _ => io::Error::from(error).to_string(),
        })?;
        let file = File::from(handle);
        private(&file)?;
        Ok(Directory(file.into()))
    }

    /// A file to be read. `None` if there is none.
    ///
    /// # Errors
    /// Why it cannot be trusted or opened.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>, String> {
        // Not to wait for whoever would open the other end of a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err("it is a symbolic link".to_owned()),
            Err(error) => return Err(io::Error::from(error).to_string()),
        };
        if !private(&file)?.is_file() {
            return Err("it is no file".to_owned());
        }
        Ok(Some(file))
    }

    /// Puts a file there, whole or not at all, in place of what has this name. With `lasting` it is on the disk when this
    /// returns.
    ///
    /// # Errors
    /// What the system says. Nothing is left of it then.
    pub(super) fn write(
        &self,
        name: &str,
        lasting: bool,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let temporary = format!(".{name}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let handle = match openat(&self.0, &temporary, flags, mode) {
            // Of a process that had this number before, and ended.
            Err(Errno::EXIST) => {
                self.remove(&temporary);
                openat(&self.0, &temporary, flags, mode)?
            }
            opened => opened?,
        };
        let mut file = File::from(handle);
        let written = fill(&mut file)
            .and_then(|()| if lasting { file.sync_all() } else { Ok(()) })
            .and_then(|()| Ok(renameat(&self.0, &temporary, &self.0, name)?));
        if written.is_err() {
            self.remove(&temporary);
        } else if lasting {
            // The name, too. Where a directory cannot be synced the name may get lost, and the code is compiled again.
            let _ = fsync(&self.0);
        }
        written
    }

    /// Takes a file's name away.
    pub(super) fn remove(&self, name: &str) {
        // Another process may have been faster; what stays is met again.
        let _ = unlinkat(&self.0, name, AtFlags::empty());
    }

    /// Its files.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn list(&self) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for file in Dir::read_from(&self.0)? {
            let file = file?;
            let Ok(name) = file.file_name().to_str() else { continue };
            let Ok(stat) = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                continue;
            }
            let seconds = Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            let nanoseconds = Duration::from_nanos(stat.st_mtime_nsec);
            files.push(Listed {
                name: name.to_owned(),
                size: u64::try_from(stat.st_size).unwrap_or(0),
                modified: SystemTime::UNIX_EPOCH + seconds + nanoseconds,
            });
        }
        Ok(files)
    }
}

/// Sees to it that only this process's user or root can have written what is open here.
fn private(file: &File) -> Result<std::fs::Metadata, String> {
    let data = file.metadata().map_err(|error| error.to_string())?;
    let user = rustix::process::geteuid().as_raw();
    if data.uid() != user && data.uid() != 0 {
        return Err(format!("it belongs to the user {}, and this process is of the user {user}", data.uid()));
    }
    if data.mode() & 0o022 != 0 {
        return Err(format!(
            "others may write to it: its mode is {:o}, and 700 is what it should be",
            data.mode() & 0o7777
        ));
    }
    Ok(data)
}

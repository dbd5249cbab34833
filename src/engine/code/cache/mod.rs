//! Compiled code on disk, from one start of the server to the next.
//!
//! Compiled code is run as it is found: whoever can write it can do whatever the server can. What keeps others away is the
//! directory (`directory.rs`); checksums are against damage, not against malice (`entry.rs`). Nothing that goes wrong here
//! keeps a filter from loading: it is compiled then, and the log says why.
//!
//! | file | what it is |
//! | --- | --- |
//! | `DIGEST-KEY.code` | an entry: what wasmtime made of the module of that digest, and a trailer of ours |
//! | `DIGEST-KEY.seen` | a note: that entry was verified. Its date is that of the entry's last use |
//! | `ID.digest` | a note: the Wasm file with that identity has that digest |
//! | `.NAME.PID.N` | something of this that is being written |
//!
//! A *note* saves work that a restart would repeat: reading 14 MB of Wasm to hash it, 30 MB of compiled code to verify it. It
//! holds for one boot of the machine and for one identity of a file (`FileId`): whoever changes a file through the system
//! that is running changes that. What a disk does on its own behalf between two readings, nobody is told, whether there is
//! a note or not: code is read from its file when it runs, long after it was verified.

mod directory;
mod entry;
#[expect(unsafe_code, reason = "wasmtime cannot tell code that it compiled from code that somebody made up")]
mod mapped;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_64;

use super::files::{FileId, SETTLED};
use crate::config::CodeCache;
use crate::engines::EngineVariant;
use crate::module::{Digest, one_line};
use directory::Directory;
use entry::{Key, Verified};

/// How many notes on Wasm files are kept.
const MOST_NOTES: usize = 4096;

/// Notes are a line.
const MOST_OF_A_NOTE: u64 = 1024;

/// How exactly the time of an entry's last use is kept.
const USE: Duration = Duration::from_secs(60);

/// From this size on an entry is given a note as soon as it is written, for which its date has to settle. Smaller ones are
/// verified faster than that.
const LARGE: usize = 4 << 20;

/// A directory of compiled code.
pub(super) struct Cache {
    settings: CodeCache,
    /// The latest complaint about the directory: the next rule does not repeat it.
    complaint: Mutex<String>,
}

impl Cache {
    pub(super) fn new(settings: CodeCache) -> Self {
        Cache { settings, complaint: Mutex::default() }
    }

    /// Whether it has these settings.
    pub(super) fn is_of(&self, settings: &CodeCache) -> bool {
        self.settings == *settings
    }

    fn complain(&self, what: String) {
        let mut last = self.complaint.lock();
        if *last != what {
            log::warn!(target: "wasm_remap", "{what}");
            *last = what;
        }
    }

    /// The directory, looked at anew each time: whom it belongs to may change.
    fn directory(&self) -> Option<Directory> {
        let path = &self.settings.directory;
        let opened = Directory::open(path);
        opened
            .map_err(|why| {
                self.complain(format!("code_cache {} is not used: {why}; modules are compiled", path.display()));
            })
            .ok()
    }

    /// Code that was compiled before. `None` if there is none that may be used.
    pub(super) fn load(&self, home: &EngineVariant, digest: Digest) -> Option<wasmtime::Module> {
        let directory = self.directory()?;
        let (name, key) = name(home, digest);
        let loaded = find(&directory, &name, &key).and_then(|found| match found {
            None => Ok(None),
            Some(verified) => mapped::load(&home.engine, verified).map(Some).map_err(|error| one_line(&error)),
        });
        loaded.unwrap_or_else(|why| {
            let path = self.settings.directory.join(&name);
            log::warn!(target: "wasm_remap", "{} is not used: {why}; the module is compiled", path.display());
            None
        })
    }

    /// Keeps the code of a module. True if it is kept.
    pub(super) fn store(&self, home: &EngineVariant, digest: Digest, module: &wasmtime::Module) -> bool {
        let Some(directory) = self.directory() else { return false };
        let (name, key) = name(home, digest);
        let path = self.settings.directory.join(&name);
        let code = match module.serialize() {
            Ok(code) => code,
            Err(error) => {
                self.complain(format!("{} cannot be made: {}", path.display(), one_line(&error)));
                return false;
            }
        };
        if code.len() as u64 > self.settings.max_bytes {
            log::warn!(
                target: "wasm_remap",
                "{} is not kept: it has {} MiB, and code_cache.max_mib is {}",
                path.display(),
                code.len() >> 20,
                self.settings.max_bytes >> 20
            );
            return false;
        }
        let trailer = entry::trailer(&key, &code);
        let written = directory.write(&name, true, |file| {
            file.write_all(&code)?;
            file.write_all(&trailer)
        });
        if let Err(error) = written {
            self.complain(format!("code_cache {}: code cannot be kept: {error}", self.settings.directory.display()));
            return false;
        }
        if code.len() >= LARGE {
            // Seconds were spent on it. Its next load is to be one of those that verify nothing.
            std::thread::sleep(SETTLED + Duration::from_millis(10));
            let _ = find(&directory, &name, &key);
        }
        sweep(&directory, self.settings.max_bytes);
        true
    }

    /// The digest of a Wasm file that was read before, and the identity that it was found by.
    pub(super) fn digest(&self, path: &Path) -> Option<(FileId, Digest)> {
        let id = FileId::of(&std::fs::metadata(path).ok()?);
        let note = read_note(&self.directory()?, &digest_note(&id), &id)?;
        Some((id, note.1.parse().ok()?))
    }

    /// Notes a Wasm file's digest.
    pub(super) fn note_digest(&self, id: FileId, digest: Digest) {
        if let Some(directory) = self.directory() {
            write_note(&directory, &digest_note(&id), &id, &digest.to_string());
        }
    }
}

/// The name of an entry, and what must stand in it.
fn name(home: &EngineVariant, digest: Digest) -> (String, Key) {
    let key: Key = Sha256::new().chain_update(digest.0).chain_update(home.code_identity).finalize().into();
    let short: String = key.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    (format!("{digest}-{short}.code"), key)
}

fn seen_note(entry: &str) -> String {
    entry.replace(".code", ".seen")
}

fn digest_note(id: &FileId) -> String {
    format!("{:016x}.digest", xxh3_64(id.to_string().as_bytes()))
}

/// An entry, verified now or according to its note.
fn find(directory: &Directory, name: &str, key: &Key) -> Result<Option<Verified>, String> {
    let Some(file) = directory.open_file(name)? else { return Ok(None) };
    let begun = SystemTime::now();
    let data = file.metadata().map_err(|error| error.to_string())?;
    let id = FileId::of(&data);
    let unverified = entry::Unverified::open(file, data.len(), key)?;
    let note = seen_note(name);
    let sum = unverified.sum();
    if let Some((file, _)) = read_note(directory, &note, &id).filter(|(_, noted)| *noted == sum) {
        let used = file.metadata().and_then(|data| data.modified()).ok();
        if used.and_then(|used| begun.duration_since(used).ok()).is_none_or(|ago| ago > USE) {
            // Its date is all that this is about: who cannot set it has an entry that seems older than it is.
            let _ = file.set_modified(begun);
        }
        return Ok(Some(unverified.noted()));
    }
    let verified = unverified.verify()?;
    if id.is_settled(begun) {
        write_note(directory, &note, &id, &sum);
    }
    Ok(Some(verified))
}

/// The machine's boot, as far as it says: without, notes are neither written nor heeded.
fn boot() -> Option<&'static str> {
    static BOOT: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty() && !text.contains(char::is_whitespace))
    };
    BOOT.get_or_init(read).as_deref()
}

fn note_line(id: &FileId, what: &str) -> Option<String> {
    let line = format!("1 {} {id} {what}", boot()?);
    Some(format!("{line} {:016x}\n", xxh3_64(line.as_bytes())))
}

fn write_note(directory: &Directory, name: &str, id: &FileId, what: &str) {
    if let Some(line) = note_line(id, what) {
        // Without a note, the work is done again.
        let _ = directory.write(name, false, |file| file.write_all(line.as_bytes()));
    }
}

/// What a note says of the file with this identity; nothing if it is damaged, or of another boot.
fn read_note(directory: &Directory, name: &str, id: &FileId) -> Option<(File, String)> {
    let mut file = directory.open_file(name).ok()??;
    let mut text = String::new();
    Read::by_ref(&mut file).take(MOST_OF_A_NOTE).read_to_string(&mut text).ok()?;
    let what = text.trim_end().rsplit(' ').nth(1)?.to_owned();
    (note_line(id, &what)? == text).then_some((file, what))
}

/// Removes what was not used for longest until the directory is as small as it is to be, and what nobody will use.
fn sweep(directory: &Directory, max_bytes: u64) {
    let Ok(files) = directory.list() else { return };
    let mut total: u64 = files.iter().map(|file| file.size).sum();
    let last_use = |entry: &directory::Listed| {
        let note = seen_note(&entry.name);
        files.iter().filter(|file| file.name == note).map(|file| file.modified).fold(entry.modified, Ord::max)
    };
    let mut entries: Vec<_> =
        files.iter().filter(|file| file.name.ends_with(".code")).map(|file| (last_use(file), file)).collect();
    entries.sort_by_key(|(used, _)| *used);
    for (_, file) in entries {
        if total <= max_bytes {
            break;
        }
        // Whoever has it mapped keeps it.
        directory.remove(&file.name);
        directory.remove(&seen_note(&file.name));
        total = total.saturating_sub(file.size);
    }
    let mut notes: Vec<_> = files.iter().filter(|file| file.name.ends_with(".digest")).collect();
    notes.sort_by_key(|file| std::cmp::Reverse(file.modified));
    notes.iter().skip(MOST_NOTES).for_each(|file| directory.remove(&file.name));
    // What a process that ended in the middle of it has left.
    let old = SystemTime::now().checked_sub(Duration::from_secs(3600));
    for file in files.iter().filter(|file| file.name.starts_with('.') && old.is_some_and(|old| file.modified < old)) {
        directory.remove(&file.name);
    }
}

#[cfg(test)]
mod tests;

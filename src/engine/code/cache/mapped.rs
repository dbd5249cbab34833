//! The one place where bytes from a disk become code.
#![allow(unsafe_code, reason = "wasmtime cannot tell code that it compiled from code that somebody made up")]

use wasmtime::{Engine, Module};

use super::entry::Verified;

/// Maps an entry. Takes microseconds, whatever its size: pages are read when they are used.
///
/// # Errors
/// What wasmtime says: it compares version, target, processor and settings with the engine's own.
pub(super) fn load(engine: &Engine, entry: Verified) -> wasmtime::Result<Module> {
    // SAFETY: what is demanded is that the file is exactly what `Module::serialize` gave, and stays so as long as the module
    // lives.
    // - It is what was written: a `Verified` is made only by comparing all of its bytes with the checksum that was written
    //   with them, or of a file whose identity is the one that it had when that was done.
    // - Nobody else wrote it: `Directory` opened it in a directory, and found it a file, that only the user of this process
    //   or root can write to; whoever is one of those needs no such file to have this process do what he wants.
    //   That it was us and not another program of theirs is what magic, key and checksum say.
    // - It stays so: it is given as the open file that was verified, not by a name; `Directory::write` makes new files and
    //   renames them over old ones, and `Directory::remove` takes names away. Neither changes a file that is there.
    // - The bytes of the trailer behind the code are in no section, and are not looked at.
    unsafe { Module::deserialize_open_file(engine, entry.into_file()) }
}

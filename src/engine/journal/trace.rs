//! A guest's call stack: what tells one trap from another, and how people read it.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hasher;
use std::path::{Path, PathBuf};

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, LittleEndian};
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use crate::error::Trap;
use crate::module::Digest;
use crate::sections::{self, custom};

/// A function of a guest that was running, or waiting for one that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The function's number in its module.
    pub function: u32,
    /// Where in the function, in bytes of the module; 0 where that is not known.
    pub offset: u32,
    /// Where in the module.
    pub module_offset: Option<u32>,
    /// The function's name as the module has it.
    pub name: Option<String>,
}

impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(&demangled(name)),
            None => write!(f, "function {}", self.function),
        }
    }
}

/// A name as its author wrote it: of Rust, of C++, or as it is.
pub(crate) fn demangled(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        // Without the hash, which means nothing to anybody.
        return format!("{rust:#}");
    }
    if name.starts_with("_Z") {
        let options = cpp_demangle::DemangleOptions::new().no_params().no_return_type();
        if let Ok(name) = cpp_demangle::Symbol::new(name).and_then(|symbol| {
            symbol.demangle_with_options(&options).map_err(|_| cpp_demangle::error::Error::UnexpectedText)
        }) {
            return name;
        }
    }
    name.to_owned()
}

/// What tells one trap from another: the module, the callback, how it ended, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint(u32);

impl Fingerprint {
    pub(crate) fn of(digest: Digest, trap: &Trap) -> Self {
        let mut hash = Xxh3::new();
        hash.write(&digest.0);
        hash.write(trap.callback.as_str().as_bytes());
        hash.write(trap.kind.as_str().as_bytes());
        // A loop is interrupted anywhere, and a recursion is at an end at any depth: those are told apart by the
        // functions that they began with.
        let by_chance = !matches!(trap.kind, crate::error::TrapKind::Guest | crate::error::TrapKind::Exit(_));
        let outermost = if by_chance { trap.backtrace.len().saturating_sub(2) } else { 0 };
        for frame in &trap.backtrace[outermost..] {
            hash.write_u32(frame.function);
            hash.write_u32(if by_chance { 0 } else { frame.offset });
        }
        if trap.backtrace.is_empty() {
            hash.write(trap.reason.as_bytes());
        }
        #[expect(clippy::cast_possible_truncation, reason = "eight digits are enough to tell the traps of a day apart")]
        Fingerprint(hash.finish() as u32)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Files of modules with source lines. They are read when somebody wants to know a line, and not kept: debug information
/// is ten times as large as a module, and wasmtime would read it for every frame of every trap.
static SOURCES: Mutex<Option<HashMap<Digest, PathBuf>>> = Mutex::new(None);

/// Notes where a module came from, if it has source lines; or may have some, where its bytes were not needed.
pub(crate) fn note_source(digest: Digest, path: &Path, bytes: Option<&[u8]>) {
    if bytes.is_none_or(|bytes| custom(bytes).any(|(name, _)| name == b".debug_line")) {
        SOURCES.lock().get_or_insert_default().insert(digest, path.to_owned());
    }
}

pub(super) fn has_source(digest: Digest) -> bool {
    SOURCES.lock().as_ref().is_some_and(|sources| sources.contains_key(&digest))
}

/// The call stack, innermost first, with source lines where the module has them.
pub(super) fn describe(digest: Digest, frames: &[Frame]) -> String {
    let path = SOURCES.lock().as_ref().and_then(|sources| sources.get(&digest).cloned());
    let bytes = path.filter(|_| !frames.is_empty()).and_then(|path| std::fs::read(path).ok());
    // Another file may stand there by now.
    let bytes = bytes.filter(|bytes| Digest::of(bytes) == digest);
    let lines = bytes.as_deref().and_then(Lines::of);
    let one = |frame: &Frame| lines.as_ref().and_then(|lines| lines.find(frame)).unwrap_or_else(|| frame.to_string());
    frames.iter().map(one).collect::<Vec<_>>().join(" < ")
}

/// The source lines of a module.
struct Lines<'m> {
    context: Context<EndianSlice<'m, LittleEndian>>,
    /// Where in the module the code begins: DWARF counts from there.
    code: u32,
}

impl<'m> Lines<'m> {
    fn of(bytes: &'m [u8]) -> Option<Self> {
        let code = sections::code_offset(bytes)?;
        let section = |id: addr2line::gimli::SectionId| {
            let found = custom(bytes).find(|(name, _)| *name == id.name().as_bytes());
            Ok::<_, addr2line::gimli::Error>(EndianSlice::new(found.map_or(&[][..], |(_, body)| body), LittleEndian))
        };
        let context = Context::from_dwarf(Dwarf::load(section).ok()?).ok()?;
        Some(Lines { context, code: u32::try_from(code).ok()? })
    }

    /// The frame with its line, and before it those of the functions that were inlined there.
    fn find(&self, frame: &Frame) -> Option<String> {
        let address = frame.module_offset?.checked_sub(self.code)?;
        let mut found = self.context.find_frames(u64::from(address)).skip_all_loads().ok()?;
        let mut texts = Vec::new();
        while let Ok(Some(inlined)) = found.next() {
            let name = inlined.function.as_ref().and_then(|function| function.raw_name().ok());
            let name = name.map_or_else(|| frame.to_string(), |name| demangled(&name));
            let place = inlined.location.and_then(|location| {
                let file = location.file?.rsplit(['/', '\\']).next()?;
                Some(location.line.map_or_else(|| format!(" ({file})"), |line| format!(" ({file}:{line})")))
            });
            texts.push(name + &place.unwrap_or_default());
        }
        (!texts.is_empty()).then(|| texts.join(" < "))
    }
}

#[cfg(test)]
#[path = "trace_tests.rs"]
mod tests;

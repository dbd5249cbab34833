//! ATS's diagnostics. The only file that calls its variadic functions.
//!
//! Every message is written as `"%.*s"` with its length, so that a `%` in it is text, and as one line: what a guest
//! or a client chose must not be able to forge a second one. Control characters come out escaped.
//!
//! Any thread: these format and write under ATS's own lock.

use std::ffi::{CStr, c_char, c_int};
use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use ats_sys::{TSError, TSNote, TSStatus, TSWarning};

/// Longer messages are cut here; ATS formats into a buffer of its own.
const MAX_LINE: usize = 16 * 1024;

const FORMAT: *const c_char = c"%.*s".as_ptr();

/// `TSError`: diags.log and error.log. An operational failure.
pub fn error(message: fmt::Arguments<'_>) {
    let (line, len) = one_line(message);
    // SAFETY: the format takes a length and that many bytes, which is what follows.
    unsafe { TSError(FORMAT, len, line.as_ptr().cast::<c_char>()) };
}

/// `TSWarning`: diags.log.
pub fn warning(message: fmt::Arguments<'_>) {
    let (line, len) = one_line(message);
    // SAFETY: the format takes a length and that many bytes, which is what follows.
    unsafe { TSWarning(FORMAT, len, line.as_ptr().cast::<c_char>()) };
}

/// `TSNote`: diags.log. Something an operator wants to see.
pub fn note(message: fmt::Arguments<'_>) {
    let (line, len) = one_line(message);
    // SAFETY: the format takes a length and that many bytes, which is what follows.
    unsafe { TSNote(FORMAT, len, line.as_ptr().cast::<c_char>()) };
}

/// `TSStatus`: diags.log. Information.
pub fn status(message: fmt::Arguments<'_>) {
    let (line, len) = one_line(message);
    // SAFETY: the format takes a length and that many bytes, which is what follows.
    unsafe { TSStatus(FORMAT, len, line.as_ptr().cast::<c_char>()) };
}

/// A tag of `proxy.config.diags.debug.tags`.
#[derive(Debug, Clone, Copy)]
pub struct DebugTag(&'static CStr);

impl DebugTag {
    /// A tag of this name.
    #[must_use]
    pub const fn new(tag: &'static CStr) -> Self {
        Self(tag)
    }

    /// `TSIsDebugTagSet`. Cheap while debugging is off as a whole, a regular expression match otherwise.
    #[cfg(ats9)]
    #[must_use]
    pub fn is_set(self) -> bool {
        // SAFETY: a C string that lives for ever.
        unsafe { ats_sys::TSIsDebugTagSet(self.0.as_ptr()) != 0 }
    }

    /// Never: ATS 10 has debug tags in C++ macros alone.
    #[cfg(ats10)]
    #[must_use]
    pub fn is_set(self) -> bool {
        false
    }

    /// `TSDebug`: formats and writes the message if the tag is set, and otherwise does neither.
    pub fn debug(self, message: fmt::Arguments<'_>) {
        if self.is_set() {
            self.write(message);
        }
    }

    #[cfg(ats9)]
    fn write(self, message: fmt::Arguments<'_>) {
        let (line, len) = one_line(message);
        // SAFETY: the format takes a length and that many bytes, which is what follows the tag.
        unsafe { ats_sys::TSDebug(self.0.as_ptr(), FORMAT, len, line.as_ptr().cast::<c_char>()) };
    }

    #[cfg(ats10)]
    fn write(self, message: fmt::Arguments<'_>) {
        let tag = self.0.to_string_lossy();
        status(format_args!("({tag}) {message}"));
    }
}

fn one_line(message: fmt::Arguments<'_>) -> (String, c_int) {
    let mut line = OneLine(String::new());
    // `OneLine` reports an error once it is full, to stop the formatting; that is no failure.
    let _ = line.write_fmt(message);
    let len = c_int::try_from(line.0.len()).unwrap_or(c_int::MAX);
    (line.0, len)
}

/// Collects text with its control characters escaped, up to [`MAX_LINE`].
struct OneLine(String);

impl fmt::Write for OneLine {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for ch in text.chars() {
            if self.0.len() >= MAX_LINE {
                if !self.0.ends_with("...") {
                    self.0.push_str("...");
                }
                return Err(fmt::Error);
            }
            match ch {
                '\t' => self.0.push('\t'),
                // NUL would end the line early, newlines would start another, escapes drive a terminal.
                ch if ch.is_control() => self.0.extend(ch.escape_default()),
                ch => self.0.push(ch),
            }
        }
        Ok(())
    }
}

/// Routes the `log` crate to ATS: error to `TSError`, warn to `TSWarning`, info to `TSNote`, and debug to
/// `TSDebug` under the logger's tag.
#[derive(Debug)]
pub struct Logger {
    tag: DebugTag,
}

impl Logger {
    /// Makes this the process's logger (that is, of this shared object). Later calls change nothing.
    pub fn install(tag: DebugTag) {
        static LOGGER: OnceLock<Logger> = OnceLock::new();
        // An error means that a logger is installed, which is what the caller wants.
        if ::log::set_logger(LOGGER.get_or_init(|| Self { tag })).is_ok() {
            // Debug is decided by the tag, at run time. Trace is off: the compiler behind wasmtime traces every
            // instruction, and each of those calls would ask ATS about the tag.
            ::log::set_max_level(::log::LevelFilter::Debug);
        }
    }
}

impl ::log::Log for Logger {
    fn enabled(&self, metadata: &::log::Metadata<'_>) -> bool {
        metadata.level() <= ::log::Level::Info || self.tag.is_set()
    }

    fn log(&self, record: &::log::Record<'_>) {
        let tag = self.tag.0.to_string_lossy();
        let message = record.args();
        match record.level() {
            ::log::Level::Error => error(format_args!("[{tag}] {message}")),
            ::log::Level::Warn => warning(format_args!("[{tag}] {message}")),
            ::log::Level::Info => note(format_args!("[{tag}] {message}")),
            ::log::Level::Debug | ::log::Level::Trace => {
                self.tag.debug(format_args!("{}: {message}", record.target()));
            }
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_forge_a_line() {
        error(format_args!("a\nb\0c\x1b[31m\td%s \u{e9}"));
        assert_eq!(fake_ats::take_log(), [("error", "a\\nb\\u{0}c\\u{1b}[31m\td%s \u{e9}".to_owned())]);
    }

    #[test]
    fn levels_go_to_their_functions() {
        warning(format_args!("w"));
        note(format_args!("n"));
        status(format_args!("s"));
        let levels: Vec<_> = fake_ats::take_log().into_iter().map(|(level, _)| level).collect();
        assert_eq!(levels, ["warning", "note", "status"]);
    }

    #[test]
    fn long_messages_are_cut() {
        status(format_args!("{}{}", "x".repeat(MAX_LINE), "y"));
        let (_, line) = fake_ats::take_log().remove(0);
        assert_eq!(line.len(), MAX_LINE + 3);
        assert!(line.ends_with("x..."));
    }

    #[test]
    fn debug_formats_only_if_the_tag_is_set() {
        struct Watch<'a>(&'a std::cell::Cell<bool>);
        impl fmt::Display for Watch<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.set(true);
                f.write_str("watched")
            }
        }
        let formatted = std::cell::Cell::new(false);
        let tag = DebugTag::new(c"wasm_remap");
        tag.debug(format_args!("{}", Watch(&formatted)));
        assert!(!formatted.get());
        fake_ats::set_debug_tag("wasm_remap");
        tag.debug(format_args!("{}", Watch(&formatted)));
        assert!(formatted.get());
        assert_eq!(fake_ats::take_log(), [("debug:wasm_remap", "watched".to_owned())]);
    }

    #[test]
    fn the_log_crate_is_routed() {
        Logger::install(DebugTag::new(c"wasm_remap"));
        ::log::info!("hello {}", 1);
        ::log::debug!("not set");
        assert_eq!(fake_ats::take_log(), [("note", "[wasm_remap] hello 1".to_owned())]);
    }
}

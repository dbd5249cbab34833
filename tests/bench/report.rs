//! Reports: what stands above the tables, and where in a file they go.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use crate::machine::Machine;
use crate::variants::Variant;

/// The sections of the file that [`write()`] fills.
pub(crate) const SMALL: &str = "ats-bench";
pub(crate) const INSTRUCTIONS: &str = "ats-bench instructions";
pub(crate) const LATENCY: &str = "ats-bench latency";
pub(crate) const HTTP2: &str = "ats-bench http2";
pub(crate) const LARGE: &str = "ats-bench bodies";
pub(crate) const CALLOUTS: &str = "ats-bench callouts";
pub(crate) const SHARED: &str = "ats-bench shared";
pub(crate) const REWRITE: &str = "ats-bench rewrite";
pub(crate) const SCALE: &str = "ats-bench scale";

/// What a reader must know of the machine, and what is missing on it.
pub(crate) fn head(machine: &Machine, skipped: &[Variant]) -> String {
    let mut out = String::new();
    let Machine { cpu, cores, kernel, system, ats, rustc, wrk, load } = machine;
    let _ = writeln!(
        out,
        "Machine: {cpu}, {cores} cores; {system}, kernel {kernel}; {ats}; {rustc}; {wrk}. \
         Load average when the run began: {load}.\n"
    );
    for variant in skipped {
        let module = variant.site.module().unwrap_or_default();
        let _ = writeln!(out, "**Not measured: {}: {module} is not installed.**\n", variant.title);
    }
    out
}

/// Puts the text into a file, between the markers of `section`; a file that has none, or is none yet, gets them at its
/// end.
///
/// # Errors
/// The file cannot be read or written.
pub(crate) fn write(path: &Path, section: &str, text: &str) -> io::Result<()> {
    let old = match fs::read_to_string(path) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => "# Performance\n".to_owned(),
        Err(error) => return Err(error),
    };
    fs::write(path, insert(&old, section, text))
}

fn insert(old: &str, section: &str, text: &str) -> String {
    let text = text.trim_end();
    let begin = format!("<!-- {section}: begin; `ats-bench --write` replaces what follows -->");
    let end = format!("<!-- {section}: end -->");
    match old.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1))) {
        Some((head, tail)) => format!("{head}{begin}\n\n{text}\n\n{end}{tail}"),
        None => format!("{}\n\n{begin}\n\n{text}\n\n{end}\n", old.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_markers_is_replaced() {
        let begin = "<!-- ats-bench: begin; `ats-bench --write` replaces what follows -->";
        let end = "<!-- ats-bench: end -->";
        let first = insert("# Performance\n\nBy hand.\n", SMALL, "one\n");
        assert_eq!(first, format!("# Performance\n\nBy hand.\n\n{begin}\n\none\n\n{end}\n"));
        let second = insert(&format!("{first}\nAfter.\n"), SMALL, "two");
        assert_eq!(second, format!("# Performance\n\nBy hand.\n\n{begin}\n\ntwo\n\n{end}\n\nAfter.\n"));
        let third = insert(&second, LARGE, "three");
        assert!(third.starts_with(second.trim_end()) && third.contains("\n\nthree\n\n<!-- ats-bench bodies: end"));
    }
}

//! How results are written: text for people, JSON for scripts.

use std::fmt::Write as _;

use clap::ValueEnum;
use serde::Serialize;

/// The form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For scripts: one JSON document on standard output.
    Json,
}

/// What a command has to say.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// For standard output.
    pub(crate) out: String,
    /// For standard error.
    pub(crate) err: String,
    /// Exit status 0, else 1.
    pub(crate) ok: bool,
}

impl Outcome {
    /// A result as JSON.
    pub(crate) fn json(result: &impl Serialize, ok: bool) -> Self {
        match serde_json::to_string_pretty(result) {
            Ok(text) => Outcome { out: text + "\n", err: String::new(), ok },
            Err(error) => Outcome::failure(&format!("the result has no JSON form: {error}")),
        }
    }

    /// Nothing but a mistake.
    pub(crate) fn failure(message: &str) -> Self {
        Outcome { out: String::new(), err: format!("error: {message}\n"), ok: false }
    }
}

/// Lists are wrapped at this column.
const WIDTH: usize = 110;
/// The room for a label.
const LABEL: usize = 11;

/// Appends `label` and a list of words, wrapped under its first one. Nothing for an empty list.
pub(crate) fn list<T: AsRef<str>>(out: &mut String, indent: usize, label: &str, words: &[T]) {
    let Some((first, rest)) = words.split_first() else { return };
    let start = indent + LABEL;
    let _ = write!(out, "{:indent$}{label:LABEL$}{}", "", first.as_ref());
    let mut column = start + first.as_ref().len();
    for word in rest {
        let word = word.as_ref();
        if column + 2 + word.len() > WIDTH {
            let _ = write!(out, ",\n{:start$}{word}", "");
            column = start + word.len();
        } else {
            let _ = write!(out, ", {word}");
            column += 2 + word.len();
        }
    }
    out.push('\n');
}

/// Appends `label` and one text, whose further lines stand under the first.
pub(crate) fn line(out: &mut String, indent: usize, label: &str, text: impl AsRef<str>) {
    let under = format!("\n{:1$}", "", indent + LABEL);
    let _ = writeln!(out, "{:indent$}{label:LABEL$}{}", "", text.as_ref().trim_end().replace('\n', &under));
}

/// Appends `label` and a text, wrapped under its first word.
pub(crate) fn paragraph(out: &mut String, indent: usize, label: &str, text: &str) {
    let start = indent + LABEL;
    let _ = write!(out, "{:indent$}{label:LABEL$}", "");
    let mut column = start;
    for word in text.split_ascii_whitespace() {
        let width = word.chars().count();
        if column > start && column + 1 + width > WIDTH {
            let _ = write!(out, "\n{:start$}{word}", "");
            column = start + width;
        } else {
            let blank = if column > start { " " } else { "" };
            let _ = write!(out, "{blank}{word}");
            column += blank.len() + width;
        }
    }
    out.push('\n');
}

/// A number of bytes, in the unit that suits it.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..=1023 => format!("{bytes} bytes"),
        1024..=1_048_575 => format!("{} KiB", bytes.div_ceil(1024)),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20),
    }
}

/// A count with its noun.
pub(crate) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_wrap_under_their_first_word() {
        let mut out = String::new();
        list(&mut out, 2, "names", &["a".repeat(60), "b".repeat(60)]);
        assert_eq!(out, format!("  names      {},\n             {}\n", "a".repeat(60), "b".repeat(60)));
        out.clear();
        list::<&str>(&mut out, 2, "none", &[]);
        assert_eq!(out, "");
    }

    #[test]
    fn paragraphs_wrap_between_words() {
        let mut out = String::new();
        paragraph(&mut out, 2, "text", &format!("{} {} c", "a".repeat(60), "b".repeat(60)));
        assert_eq!(out, format!("  text       {}\n             {} c\n", "a".repeat(60), "b".repeat(60)));
    }

    #[test]
    fn sizes() {
        let texts = [1, 1025, 64 << 20, (1 << 20) + (1 << 19)].map(size);
        assert_eq!(texts, ["1 bytes", "2 KiB", "64 MiB", "1.5 MiB"]);
    }
}

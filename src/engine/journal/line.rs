//! A line of the log: one, whatever is in it, and bounded.

use std::fmt::{self, Write as _};

use super::{Fingerprint, Place, Thread};

/// A text longer than this is cut: a guest must not fill the disk with one call.
pub(crate) const MAX_LINE: usize = 15 << 10;

/// What the proxy's own log files have room for.
pub(super) const MAX_FILE_LINE: usize = 6 << 10;

/// Text with its control characters escaped, up to a length.
struct Bounded {
    text: String,
    max: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for ch in text.chars() {
            if self.text.len() >= self.max {
                self.text.push_str("...");
                return Err(fmt::Error);
            }
            match ch {
                '\t' => self.text.push('\t'),
                // A line break would begin another line, which a guest could make look like ours.
                ch if ch.is_control() || matches!(ch, '\u{2028}' | '\u{2029}') => self.text.extend(ch.escape_default()),
                ch => self.text.push(ch),
            }
        }
        Ok(())
    }
}

/// A text on one line, cut where it is too long.
pub(super) fn text(text: fmt::Arguments<'_>) -> String {
    bounded(text, MAX_LINE)
}

fn bounded(text: fmt::Arguments<'_>, max: usize) -> String {
    let mut bounded = Bounded { text: String::new(), max };
    // `Bounded` reports an error once it is full, to stop the formatting; that is no failure.
    let _ = bounded.write_fmt(text);
    bounded.text
}

/// A text, and its place behind it, which is never cut.
pub(super) struct Line(String);

impl Line {
    pub(super) fn of(text: fmt::Arguments<'_>, place: Place<'_>, trap: Option<Fingerprint>) -> Self {
        Self::within(MAX_LINE, text, place, trap)
    }

    pub(super) fn within(max: usize, text: fmt::Arguments<'_>, place: Place<'_>, trap: Option<Fingerprint>) -> Self {
        let mut line = bounded(text, max);
        if super::server().is_some() {
            let _ = write!(line, "{}", Tail { place, trap });
        }
        Line(line)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The end of a line: `| key=value ...`, of what is known. The last `|` of a line is ours, whatever stands before it.
struct Tail<'a> {
    place: Place<'a>,
    trap: Option<Fingerprint>,
}

impl fmt::Display for Tail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { filter, rule, thread, txn } = self.place;
        let mut bar = " |";
        let mut next = || std::mem::take(&mut bar);
        // In a field that is called "rule" the word says nothing.
        let rule = rule.strip_prefix("rule ").unwrap_or(rule);
        for (name, value) in [("filter", filter), ("rule", rule)] {
            if !value.is_empty() {
                write!(f, "{} {name}={}", next(), Value(value))?;
            }
        }
        match thread {
            Thread::Unknown => {}
            Thread::Slot(slot) => write!(f, "{} thread={slot}", next())?,
            Thread::Service => write!(f, "{} thread=service", next())?,
        }
        if let Some(txn) = txn {
            write!(f, "{} txn={txn}", next())?;
        }
        if let Some(trap) = self.trap {
            write!(f, "{} trap={trap}", next())?;
        }
        Ok(())
    }
}

/// A value, in quotes where it is not one word. Never longer than a name may reasonably be.
struct Value<'a>(&'a str);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |ch: char| ch.is_ascii_alphanumeric() || "-_./:".contains(ch);
        if !self.0.is_empty() && self.0.chars().all(plain) {
            return f.write_str(self.0);
        }
        f.write_char('"')?;
        for ch in self.0.chars().take(512) {
            match ch {
                '"' | '\\' => write!(f, "\\{ch}")?,
                '|' => f.write_str("\\x7c")?,
                ch if ch.is_control() => write!(f, "{}", ch.escape_default())?,
                ch => f.write_char(ch)?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(place: Place<'_>) -> String {
        Tail { place, trap: None }.to_string()
    }

    #[test]
    fn a_place_is_told_as_far_as_it_is_known() {
        assert_eq!(tail(Place::default()), "");
        let place =
            Place { filter: "auth", rule: "rule http://a/ -> http://b/", thread: Thread::Slot(3), txn: Some(7) };
        assert_eq!(tail(place), " | filter=auth rule=\"http://a/ -> http://b/\" thread=3 txn=7");
        assert_eq!(tail(Place { txn: Some(0), ..Place::default() }), " | txn=0");
        assert_eq!(tail(Place { thread: Thread::Service, ..Place::default() }), " | thread=service");
    }

    /// Whoever reads logs by machine takes what follows the last bar.
    #[test]
    fn names_cannot_forge_a_place() {
        let place = Place { filter: "a\" txn=1 | txn=2\n", ..Place::default() };
        assert_eq!(tail(place), " | filter=\"a\\\" txn=1 \\x7c txn=2\\n\"");
    }

    #[test]
    fn texts_are_one_line_and_bounded() {
        assert_eq!(text(format_args!("a\nb\r\u{1b}[31m\t\u{2028}")), "a\\nb\\r\\u{1b}[31m\t\\u{2028}");
        let long = text(format_args!("{}", "\n".repeat(MAX_LINE)));
        assert!(long.len() <= MAX_LINE + 5 && long.ends_with("..."), "{}", long.len());
        assert_eq!(text(format_args!("{}", "x".repeat(MAX_LINE))).len(), MAX_LINE);
    }
}

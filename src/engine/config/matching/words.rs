//! Conditions in words, for `wasm-remap check` and for the log.

use std::fmt::{self, Display};

use super::{Condition, Field, FieldKind, FieldTest, Pattern, Sample, SampleBy};

/// More alternatives than this are counted.
const MOST: usize = 6;

impl Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::All(list) => nested(f, list, " and "),
            Condition::Any(list) => match common(list) {
                Some(subject) => {
                    write!(f, "{subject} ")?;
                    joined(f, list, " or ", |f, condition| f.write_str(&condition.object()))
                }
                None => nested(f, list, " or "),
            },
            Condition::Not(inner) => match **inner {
                Condition::All(_) | Condition::Any(_) => write!(f, "not ({inner})"),
                _ => write!(f, "not {inner}"),
            },
            Condition::Internal(true) => f.write_str("a plugin's own request"),
            Condition::Internal(false) => f.write_str("a client's request"),
            Condition::Sample(sample) => write!(f, "{sample}"),
            leaf => write!(f, "{} {}", leaf.subject(), leaf.object()),
        }
    }
}

/// A list in which lists stand in brackets.
fn nested(f: &mut fmt::Formatter<'_>, list: &[Condition], word: &str) -> fmt::Result {
    joined(f, list, word, |f, condition| match condition {
        Condition::All(_) => write!(f, "({condition})"),
        Condition::Any(list) if common(list).is_none() => write!(f, "({condition})"),
        condition => write!(f, "{condition}"),
    })
}

fn joined(
    f: &mut fmt::Formatter<'_>,
    list: &[Condition],
    word: &str,
    one: impl Fn(&mut fmt::Formatter<'_>, &Condition) -> fmt::Result,
) -> fmt::Result {
    let shown = if list.len() > MOST { MOST - 1 } else { list.len() };
    for (at, condition) in list[..shown].iter().enumerate() {
        if at > 0 {
            f.write_str(word)?;
        }
        one(f, condition)?;
    }
    if shown < list.len() {
        write!(f, "{word}{} more", list.len() - shown)?;
    }
    Ok(())
}

/// What all of these are about, if it is one thing.
fn common(list: &[Condition]) -> Option<String> {
    let (first, rest) = list.split_first()?;
    let subject = first.subject();
    (!subject.is_empty() && rest.iter().all(|condition| condition.subject() == subject)).then_some(subject)
}

impl Condition {
    /// What it is about; empty if that is not one thing.
    pub(crate) fn subject(&self) -> String {
        match self {
            Condition::Method(_) => "method".to_owned(),
            Condition::Host { .. } => "host".to_owned(),
            Condition::Path(_) => "path".to_owned(),
            Condition::Scheme(_) => "scheme".to_owned(),
            Condition::Client(_) => "client".to_owned(),
            Condition::Field(Field { kind, name, .. }) => {
                let kind = match kind {
                    FieldKind::Query => "query parameter",
                    FieldKind::Header => "header",
                    FieldKind::Cookie => "cookie",
                };
                format!("{kind} {name}")
            }
            Condition::All(_)
            | Condition::Any(_)
            | Condition::Not(_)
            | Condition::Internal(_)
            | Condition::Sample(_) => String::new(),
        }
    }

    /// What that must be like.
    fn object(&self) -> String {
        match self {
            Condition::Method(text) | Condition::Scheme(text) => text.clone(),
            Condition::Host { pattern, port: None } | Condition::Path(pattern) => pattern.to_string(),
            Condition::Host { pattern, port: Some(port) } => format!("{pattern} on port {port}"),
            Condition::Client(network) if network.prefix_len() == network.max_prefix_len() => {
                network.addr().to_string()
            }
            Condition::Client(network) => network.to_string(),
            Condition::Field(Field { test: FieldTest::Present(true), .. }) => "present".to_owned(),
            Condition::Field(Field { test: FieldTest::Present(false), .. }) => "absent".to_owned(),
            Condition::Field(Field { test: FieldTest::Is(pattern), .. }) => pattern.to_string(),
            other => other.to_string(),
        }
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pattern::Exact(text) if text.is_empty() => f.write_str("\"\""),
            Pattern::Exact(text) => f.write_str(&shown(text)),
            Pattern::Prefix(text) => write!(f, "beginning with {}", shown(text)),
            Pattern::Suffix(text) => write!(f, "ending with {}", shown(text)),
            Pattern::Contains(text) => write!(f, "containing {}", shown(text)),
            Pattern::Glob(text) => write!(f, "like {}", shown(text)),
            Pattern::Regex(text) => write!(f, "matching ~{}", shown(text)),
        }
    }
}

/// One line's worth of text.
fn shown(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = f64::from(self.millionths) / 10_000.0;
        match &self.by {
            SampleBy::Client => write!(f, "{percent} % of clients")?,
            SampleBy::Path => write!(f, "{percent} % of paths")?,
            SampleBy::Header(name) => write!(f, "{percent} % of the values of header {name}")?,
            SampleBy::Cookie(name) => write!(f, "{percent} % of the values of cookie {name}")?,
        }
        if self.seed.is_empty() { Ok(()) } else { write!(f, " (seed {})", shown(&self.seed)) }
    }
}

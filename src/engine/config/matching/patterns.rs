//! What a text must be like.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::forms::{present, text, text_or_map};
use super::{Condition, FieldTest};
use crate::matching::{pattern, plain_path};

/// What a text must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// This.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// It ends with this.
    Suffix(String),
    /// This is in it.
    Contains(String),
    /// All of it is described by a glob.
    Glob(String),
    /// A part of it is described by a regular expression.
    Regex(String),
}

/// What a pattern is about: what its signs mean depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Domain {
    /// A host: `*` stands for any text, and capitals are as good as small letters.
    Host,
    /// A path: `*` does not stand for `/`, `**` does.
    Path,
    /// A value: `*` stands for any text.
    Value,
}

/// The signs of globs.
const SIGNS: [char; 5] = ['*', '?', '[', '{', '\\'];

/// A text that is not empty: every text begins with the empty one.
#[derive(Default)]
pub(super) struct Part(String);

impl<'de> Deserialize<'de> for Part {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a text", |text| match text {
            "" => Err("must not be empty: every text has the empty one in it".to_owned()),
            text => Ok(Part(text.to_owned())),
        })
    }
}

/// A text.
pub(super) struct Whole(String);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a text", |text| Ok(Whole(text.to_owned())))
    }
}

/// A glob that can be read.
pub(super) struct GlobText(String);

impl<'de> Deserialize<'de> for GlobText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a glob", |text| checked(Pattern::Glob, text).map(|()| GlobText(text.to_owned())))
    }
}

/// A regular expression that can be read.
pub(super) struct RegexText(String);

impl<'de> Deserialize<'de> for RegexText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a regular expression", |text| {
            checked(Pattern::Regex, text).map(|()| RegexText(text.to_owned()))
        })
    }
}

/// Whether it compiles. What it is about changes no expression's syntax and hardly its size.
fn checked(kind: fn(String) -> Pattern, text: &str) -> Result<(), String> {
    pattern::compile(&kind(text.to_owned()), Domain::Path).map(drop)
}

/// A pattern as a mapping: one key of these.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MatchPattern")]
pub(super) struct RawPattern {
    /// The text is this.
    #[serde(default, deserialize_with = "present")]
    exact: Option<Whole>,
    /// It begins with this.
    #[serde(default, deserialize_with = "present")]
    prefix: Option<Part>,
    /// It ends with this.
    #[serde(default, deserialize_with = "present")]
    suffix: Option<Part>,
    /// This is in it.
    #[serde(default, deserialize_with = "present")]
    contains: Option<Part>,
    /// A glob describes all of it.
    #[serde(default, deserialize_with = "present")]
    glob: Option<GlobText>,
    /// A regular expression describes a part of it.
    #[serde(default, deserialize_with = "present")]
    regex: Option<RegexText>,
    /// Whether there is one; of query parameters, header fields and cookies.
    #[serde(default, deserialize_with = "present")]
    present: Option<bool>,
}

impl RawPattern {
    pub(super) fn of_value(self) -> Result<FieldTest, String> {
        let RawPattern { exact, prefix, suffix, contains, glob, regex, present } = self;
        let tests = [
            exact.map(|text| FieldTest::Is(Pattern::Exact(text.0))),
            prefix.map(|text| FieldTest::Is(Pattern::Prefix(text.0))),
            suffix.map(|text| FieldTest::Is(Pattern::Suffix(text.0))),
            contains.map(|text| FieldTest::Is(Pattern::Contains(text.0))),
            glob.map(|text| FieldTest::Is(Pattern::Glob(text.0))),
            regex.map(|text| FieldTest::Is(Pattern::Regex(text.0))),
            present.map(FieldTest::Present),
        ];
        let mut tests = tests.into_iter().flatten();
        match (tests.next(), tests.next()) {
            (Some(test), None) => Ok(test),
            _ => {
                Err("a pattern has one key: exact, prefix, suffix, contains, glob or regex (or, of a query parameter, \
                      a header field or a cookie, present); several are written as a list or with 'all'"
                    .to_owned())
            }
        }
    }

    /// A pattern for what is always there.
    fn of_text(self) -> Result<Pattern, String> {
        match self.of_value()? {
            FieldTest::Is(pattern) => Ok(pattern),
            FieldTest::Present(_) => Err("every request has one: 'present' says nothing here".to_owned()),
        }
    }
}

/// The text in a pattern, by whatever reference there is to that.
macro_rules! text_of {
    ($pattern:expr) => {
        match $pattern {
            Pattern::Exact(text)
            | Pattern::Prefix(text)
            | Pattern::Suffix(text)
            | Pattern::Contains(text)
            | Pattern::Glob(text)
            | Pattern::Regex(text) => text,
        }
    };
}

impl Pattern {
    /// The text of it.
    #[must_use]
    pub fn text(&self) -> &str {
        text_of!(self)
    }

    fn text_mut(&mut self) -> &mut String {
        text_of!(self)
    }
}

/// What a path must be like.
pub(super) struct PathText(pub(super) Pattern);

impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map(
            deserializer,
            "a path, or a mapping with one of exact, prefix, suffix, contains, glob, regex",
            |text| path(glob_or_exact(text)?),
            |raw: RawPattern| path(raw.of_text()?),
        )
        .map(PathText)
    }
}

/// A text with signs of a glob is one.
fn glob_or_exact(text: &str) -> Result<Pattern, String> {
    if text.contains('?') && !text.contains(['*', '[', '{']) {
        return Err(format!(
            "'{text}': '?' stands for one character in a glob, and the query is no part of the path: write \
             {{glob: ...}}, or use the key 'query'"
        ));
    }
    if text.contains(SIGNS) {
        checked(Pattern::Glob, text)?;
        return Ok(Pattern::Glob(text.to_owned()));
    }
    Ok(Pattern::Exact(text.to_owned()))
}

fn path(pattern: Pattern) -> Result<Pattern, String> {
    let text = pattern.text();
    let begins = match &pattern {
        Pattern::Exact(_) | Pattern::Prefix(_) => text.starts_with('/'),
        Pattern::Glob(_) => text.starts_with(['/', '*', '{', '[']),
        Pattern::Suffix(_) | Pattern::Contains(_) | Pattern::Regex(_) => true,
    };
    if !begins {
        return Err(format!("'{text}' matches no path: a path begins with '/'"));
    }
    // A text that cannot be in a path's plain form would never match, which is no use to anybody.
    let plain = match &pattern {
        Pattern::Exact(_) => plain_path(text),
        Pattern::Prefix(_) if !text.ends_with('.') => plain_path(text),
        Pattern::Glob(_) | Pattern::Suffix(_) | Pattern::Contains(_) if text.contains('%') => {
            percent_encoding::percent_decode_str(text).collect()
        }
        _ => return Ok(pattern),
    };
    if plain != text.as_bytes() {
        return Err(format!(
            "'{text}' matches no path: paths are compared with their %-escapes decoded, and without '//', '/./' and \
             '/../'; write '{}'",
            String::from_utf8_lossy(&plain)
        ));
    }
    Ok(pattern)
}

/// What a host must be like.
pub(super) struct HostText {
    pattern: Pattern,
    port: Option<u16>,
}

impl HostText {
    pub(super) fn into_condition(self) -> Condition {
        Condition::Host { pattern: self.pattern, port: self.port }
    }
}

impl<'de> Deserialize<'de> for HostText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map(
            deserializer,
            "a host, or a mapping with one of exact, prefix, suffix, contains, glob, regex",
            |text| {
                let is_glob = text.contains(['*', '?', '{']) || text.starts_with('[') && !is_bracketed(text);
                host(if is_glob { Pattern::Glob(text.to_owned()) } else { Pattern::Exact(text.to_owned()) })
            },
            |raw: RawPattern| host(raw.of_text()?),
        )
    }
}

/// Whether it is an address of IPv6 in brackets, perhaps with a port.
fn is_bracketed(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    inner.is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok())
}

fn host(mut pattern: Pattern) -> Result<HostText, String> {
    if let Pattern::Regex(_) = pattern {
        return Ok(HostText { pattern, port: None });
    }
    let mut port = None;
    let whole = matches!(pattern, Pattern::Exact(_) | Pattern::Glob(_));
    let text = pattern.text_mut();
    let given = std::mem::take(text);
    let wrong =
        |why: &str| format!("'{given}' is no host: {why}; a host looks like example.com, *.example.com or [::1]:8080");
    if given.contains("//") || given.contains('/') {
        return Err(wrong("it has a '/'"));
    }
    if given.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@') {
        return Err(wrong("it has a character that hosts have not"));
    }
    let mut rest = given.as_str();
    if whole {
        if let Some((address, behind)) =
            rest.strip_prefix('[').filter(|_| is_bracketed(rest)).and_then(|rest| rest.split_once(']'))
        {
            rest = address;
            if let Some(number) = behind.strip_prefix(':') {
                port = Some(number);
            } else if !behind.is_empty() {
                return Err(wrong("something stands behind the bracket"));
            }
        } else if rest.parse::<std::net::Ipv6Addr>().is_err()
            && let Some((name, number)) = rest.rsplit_once(':')
        {
            (rest, port) = (name, Some(number));
        }
    }
    let port = match port.map(str::parse::<u16>) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return Err(wrong("its port is no number from 1 to 65535")),
    };
    if whole {
        rest = rest.strip_suffix('.').unwrap_or(rest);
    }
    if rest.is_empty() {
        return Err(wrong("there is nothing"));
    }
    *text = rest.to_ascii_lowercase();
    pattern::compile(&pattern, Domain::Host)?;
    Ok(HostText { pattern, port })
}

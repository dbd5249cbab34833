//! Mistakes of files, in words for whoever wrote them.

use std::fmt::Write as _;

use serde::de::Unexpected;

use super::defaults::refusal;
use super::error::ConfigError;
use super::place::{Part, Source, Trail};
use super::suggest::{self, Known};

/// A mistake, before it is a sentence.
#[derive(Debug)]
pub(super) enum Mistake {
    /// A key that the mapping does not have, and those that it has.
    UnknownKey(String, &'static [&'static str]),
    /// A word where one of these is expected.
    UnknownVariant(String, &'static [&'static str]),
    Missing(&'static str),
    /// A key that the mapping has had already.
    Repeated(String),
    /// A key without a value.
    Nothing,
    /// One kind of value where another is expected.
    Type {
        found: String,
        expected: String,
    },
    /// Something else, of a key.
    Key(String, String),
    Other(String),
}

/// The error for a mistake that was made at the end of `trail`; `at` is where serde_yaml was.
pub(super) fn explain(
    source: &Source<'_>,
    mistake: &Mistake,
    trail: &Trail,
    at: Option<(usize, usize)>,
) -> ConfigError {
    let here = |part, message: String| {
        let message = if trail.0.is_empty() { message } else { format!("{trail}: {message}") };
        // Where serde_yaml was is where a list or mapping begins, if its type looked at a value after that was read.
        let at = source.find(trail, part).or(at).or(Some((1, 1)));
        source.at(at, part, message)
    };
    match mistake {
        Mistake::UnknownKey(key, known) => unknown_key(source, key, known, trail),
        Mistake::UnknownVariant(word, known) => {
            let message = format!("{} is expected, not '{word}'", one_of(known));
            let suggestion = suggest::nearest(word, known.iter().copied()).map(str::to_owned);
            ConfigError { suggestion, ..here(Part::Value, message) }
        }
        Mistake::Missing(key) => here(Part::Lack, format!("the key '{key}' is missing")),
        Mistake::Repeated(key) => {
            let first = source.find(&trail.clone().key(key), Part::Key);
            let hint = first.map(|(line, _)| format!("the first one is in line {line}; keep one of them"));
            let message = format!("the key '{key}' stands here twice");
            let message = if trail.0.is_empty() { message } else { format!("{trail}: {message}") };
            ConfigError { hint, ..source.at(at, Part::Key, message) }
        }
        Mistake::Nothing => {
            let hint = Known::at(trail).is_mapping().then(|| "'{}' is a mapping that says nothing".to_owned());
            ConfigError { hint, ..source.wrong(trail, Part::Key, "has no value: give it one, or drop the key") }
        }
        Mistake::Type { found, expected } => {
            let number = expected.starts_with("a whole number");
            let range = number.then(|| Known::at(trail).range()).flatten();
            let expected = range.as_ref().unwrap_or(expected);
            // A text that begins with a digit was meant to be a number.
            let text = found.strip_prefix("the text '").and_then(|text| text.strip_suffix('\''));
            let hint = match text.filter(|text| number && text.starts_with(|c: char| c.is_ascii_digit())) {
                Some(text) if text.chars().all(|c| c.is_ascii_digit()) => Some("drop the quotes"),
                Some(_) => Some("write the number alone: the key's name has the unit"),
                None => None,
            };
            let error = here(Part::Value, format!("{expected} is expected, not {found}"));
            ConfigError { hint: hint.map(str::to_owned), ..error }
        }
        Mistake::Key(key, message) => {
            let at = source.find(&trail.clone().key(key), Part::Key);
            let message = if trail.0.is_empty() { message.clone() } else { format!("{trail}: {message}") };
            source.at(at.or_else(|| source.find(trail, Part::Lack)), Part::Key, message)
        }
        Mistake::Other(message) => here(Part::Value, message.clone()),
    }
}

fn unknown_key(source: &Source<'_>, key: &str, known: &[&str], trail: &Trail) -> ConfigError {
    let error = source.wrong(&trail.clone().key(key), Part::Key, "");
    if let Some(why) = refusal(trail, key) {
        return ConfigError { message: format!("{trail}.{key}: {why}"), ..error };
    }
    // What the type knows, unless some of it may not stand here.
    let of_schema = Known::at(trail).keys();
    let of_schema: Vec<_> = of_schema.iter().map(String::as_str).collect();
    let known = if of_schema.is_empty() { known } else { &of_schema };
    let message = format!("unknown key '{key}'");
    let message = if trail.0.is_empty() { message } else { format!("{trail}: {message}") };
    let mut hint = format!("keys here: {}", known.join(", "));
    if known.is_empty() {
        "there are no keys here".clone_into(&mut hint);
    }
    let mut suggestion = None;
    if key == "<<" {
        hint =
            "YAML's merge keys are not read; what filters have in common stands in 'defaults' at the top of the file"
                .to_owned();
    } else if let Some(same) = suggest::spelling_of(key, known.iter().copied()) {
        suggestion = Some(same.to_owned());
    } else if let Some(elsewhere) = Known::at(trail).elsewhere(key) {
        (suggestion, hint) = elsewhere;
    } else if let Some(near) = suggest::nearest(key, known.iter().copied()) {
        suggestion = Some(near.to_owned());
    }
    ConfigError { message, suggestion, hint: Some(hint), ..error }
}

/// The error for what serde_yaml itself says; `trail` is where the value stands that it is about.
pub(super) fn explain_yaml(source: &Source<'_>, said: &str, trail: &Trail, at: Option<(usize, usize)>) -> ConfigError {
    if let Some(start) = said.find("invalid type: ").or_else(|| said.find("invalid value: ")) {
        let said = &said[start..];
        let expected_is = said.rfind(", expected ").map(|at| &said[at + ", expected ".len()..]).unwrap_or_default();
        let expected_is = expected_is.rfind(" at line ").map_or(expected_is, |end| &expected_is[..end]);
        let mistake = Mistake::Type { found: found_in(said), expected: expected(expected_is) };
        let error = explain(source, &mistake, trail, at);
        let hint = (trail.0.is_empty()).then(|| "a filter file begins with a key such as 'filters:'".to_owned());
        return ConfigError { hint, ..error };
    }
    let whole =
        |at: Option<(usize, usize)>, part, message: &str| source.at(at.or(Some((1, 1))), part, message.to_owned());
    match said {
        _ if said.starts_with("EOF while parsing") => whole(None, Part::Lack, "the file is empty"),
        _ if said.starts_with("deserializing from YAML containing more than one document") => {
            whole(second_document(source.text), Part::Value, "a second document begins: a filter file has one")
        }
        _ if said.contains("recursion limit exceeded") => {
            whole(at, Part::Lack, "mappings and lists are nested too deeply: more than 127 levels")
        }
        _ if said.contains("repetition limit exceeded") => {
            let message = "aliases repeat what they name too often: the file would be many times its size";
            whole(last_alias(source), Part::Value, message)
        }
        _ if said.contains("unknown anchor") => whole(at, Part::Value, "no '&' before this alias gives it a meaning"),
        _ => syntax(source, said, at),
    }
}

/// What libyaml says of a text that is no YAML.
fn syntax(source: &Source<'_>, said: &str, at: Option<(usize, usize)>) -> ConfigError {
    // libyaml knows no line of these.
    let control = |(_, c): &(usize, char)| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}');
    if said.starts_with("control characters are not allowed")
        && let Some((offset, c)) = source.text.char_indices().find(control)
    {
        let message = format!("not YAML: the control character {:#04x} is not allowed", u32::from(c));
        return source.at(Some(source.place_of(offset)), Part::Key, message);
    }
    // `PROBLEM at line L column C, CONTEXT at line L column C`
    let (problem, context) = said.split_once(", while ").unwrap_or((said, ""));
    let problem = problem.rfind(" at ").map_or(problem, |end| &problem[..end]);
    let character = at.and_then(|(line, column)| source.text.lines().nth(line - 1)?.chars().nth(column - 1));
    let words = match (problem, character) {
        ("found character that cannot start any token", Some('\t')) => {
            "a tab stands where YAML wants spaces: indent with spaces alone".to_owned()
        }
        ("found character that cannot start any token", Some(c)) => {
            format!("a text that begins with '{c}' needs quotes around it")
        }
        ("mapping values are not allowed in this context", _) => {
            "a ':' that cannot be here: the line is indented wrongly, or a text with ': ' in it lacks quotes".to_owned()
        }
        ("did not find expected key" | "did not find expected '-' indicator", _) => {
            "the line fits nothing before it: it is indented wrongly, or a quote or bracket above is missing".to_owned()
        }
        ("could not find expected ':'", _) => "neither 'key: value' nor '- item': a ': ' is missing".to_owned(),
        ("found unexpected end of stream", _) if context.contains("quoted") => {
            "a quote is opened and never closed".to_owned()
        }
        ("did not find expected ',' or ']'", _) => "a '[' is never closed, or a comma is missing".to_owned(),
        ("did not find expected ',' or '}'", _) => "a '{' is never closed, or a comma is missing".to_owned(),
        _ => problem.to_owned(),
    };
    let begun = context.rfind(" at line ").map(|start| &context[start + " at ".len()..]);
    let begins = begun.and_then(|place| {
        let (line, column) = place.strip_prefix("line ")?.split_once(" column ")?;
        Some((line.parse().ok()?, column.parse().ok()?))
    });
    // What is missed at the end of the file is better told of where it was begun.
    if let (None, Some(begins)) = (character, begins) {
        return source.at(Some(begins), Part::Value, format!("not YAML: {words}"));
    }
    let hint = begun.map(|place| format!("what is read begins at {place}"));
    // At the end of a file there is nothing to be marked.
    let part = if character.is_some() { Part::Value } else { Part::Lack };
    ConfigError { hint, ..source.at(at.or(Some((1, 1))), part, format!("not YAML: {words}")) }
}

/// Where the second document of a file begins.
fn second_document(text: &str) -> Option<(usize, usize)> {
    let says = |line: &str| !line.trim().is_empty() && !line.starts_with(['#', '%']) && !line.starts_with("---");
    let first = text.lines().position(says)?;
    let later = text.lines().skip(first).position(|line| line.starts_with("---"))?;
    Some((first + later + 1, 1))
}

/// Where the last alias stands.
fn last_alias(source: &Source<'_>) -> Option<(usize, usize)> {
    let offset = source.text.rmatch_indices('*').map(|(at, _)| at);
    let mut offset = offset.filter(|at| source.text[..*at].ends_with([' ', '[', ',', '-', '{', ':']));
    offset.next().map(|offset| source.place_of(offset))
}

/// What was found, in words.
pub(super) fn found(found: &Unexpected<'_>) -> String {
    found_in(&format!("invalid type: {found}, expected "))
}

/// What was found, of a sentence of serde's: `invalid type: string "x", expected …`.
pub(super) fn found_in(said: &str) -> String {
    let start = said.find("invalid ").map_or(said, |start| &said[start..]);
    let found = start.split_once(": ").map_or(start, |(_, found)| found);
    let found = found.rfind(", expected ").map_or(found, |end| &found[..end]);
    let inside = |quote| found.split_once(quote).map_or(found, |(_, rest)| rest.strip_suffix(quote).unwrap_or(rest));
    match found.split([' ', '`']).next().unwrap_or_default() {
        "boolean" => format!("'{}'", inside('`')),
        "integer" | "floating" => format!("the number {}", inside('`')),
        "string" => {
            let text = inside('"');
            let mut shown: String = text.chars().take(40).collect();
            if shown.len() < text.len() {
                shown.push('…');
            }
            format!("the text '{shown}'")
        }
        "unit" | "Option" => "nothing".to_owned(),
        "sequence" => "a list".to_owned(),
        "map" => "a mapping".to_owned(),
        _ => found.to_owned(),
    }
}

/// What serde expects, in words.
pub(super) fn expected(expected: &str) -> String {
    let whole = |most: u64| format!("a whole number from 0 to {most}");
    match expected {
        "u8" => whole(u8::MAX.into()),
        "u16" => whole(u16::MAX.into()),
        "u32" => whole(u32::MAX.into()),
        "u64" | "usize" => "a whole number, 0 or more,".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "'true' or 'false'".to_owned(),
        "a string" | "path string" | "a path string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a mapping".to_owned(),
        _ if expected.starts_with("struct ") => "a mapping".to_owned(),
        _ => expected.to_owned(),
    }
}

/// `'a', 'b' or 'c'`.
pub(super) fn one_of(words: &[&str]) -> String {
    let mut out = String::new();
    for (at, word) in words.iter().enumerate() {
        let _ = match at {
            0 => write!(out, "'{word}'"),
            at if at + 1 == words.len() => write!(out, " or '{word}'"),
            _ => write!(out, ", '{word}'"),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let words = [
            Unexpected::Str("a, expected \"b\""),
            Unexpected::Unsigned(3),
            Unexpected::Float(1.5),
            Unexpected::Bool(true),
            Unexpected::Seq,
            Unexpected::Unit,
        ];
        assert_eq!(
            words.each_ref().map(found),
            ["the text 'a, expected \\\"b\\\"'", "the number 3", "the number 1.5", "'true'", "a list", "nothing"]
        );
        assert_eq!(one_of(&["a", "b", "c"]), "'a', 'b' or 'c'");
        assert_eq!(expected("u16"), "a whole number from 0 to 65535");
    }

    #[test]
    fn where_the_second_document_begins() {
        assert_eq!(second_document("---\n# x\na: 1\n--- # y\nb: 1\n"), Some((4, 1)));
        assert_eq!(second_document("a: 1\n---\nb: 1\n"), Some((2, 1)));
    }
}

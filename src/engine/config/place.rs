//! Where something stands in a file: serde_yaml keeps no places of what it has read, so they are looked for again
//! when there is something to say.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::error::{ConfigError, Excerpt};

/// A step from a node of a file to one below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The way from the top of a file to a node, as messages write it: `filters[0].limits.memory_mib`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trail(pub(super) Vec<Step>);

impl Trail {
    pub(super) fn key(mut self, key: impl Into<String>) -> Self {
        self.0.push(Step::Key(key.into()));
        self
    }

    pub(super) fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// Reads what [`Display`](fmt::Display) writes, as far as it can be one: keys of letters, digits, `_` and `-`.
    fn parse(text: &str) -> Option<Self> {
        let mut trail = Trail::default();
        for part in text.split('.') {
            let (key, indices) = part.split_at(part.find('[').unwrap_or(part.len()));
            let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
            if !key.is_empty() && key.chars().all(plain) {
                trail = trail.key(key);
            } else if !(key.is_empty() && trail.0.is_empty() && !indices.is_empty()) {
                return None;
            }
            for index in indices.split_terminator(']') {
                trail = trail.index(index.strip_prefix('[')?.parse().ok()?);
            }
        }
        Some(trail)
    }

    pub(super) fn join(mut self, below: &Trail) -> Self {
        self.0.extend(below.0.iter().cloned());
        self
    }
}

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What of a node is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The key that names it: it should not be there.
    Key,
    /// What it says.
    Value,
    /// Something that it should say and does not.
    Lack,
}

/// A file's text, to make errors of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a Path,
    /// Without a byte order mark, which has no column.
    pub(super) text: &'a str,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Source { file, text: text.strip_prefix('\u{feff}').unwrap_or(text) }
    }

    /// A mistake at the end of `trail`, which the message then begins with. If nothing stands there (what is wrong is
    /// what is missing, or comes from elsewhere), the nearest node above it is the place.
    pub(super) fn wrong(&self, trail: &Trail, part: Part, message: impl fmt::Display) -> ConfigError {
        let mut found = self.find(trail, part);
        let mut above = trail.clone();
        let mut part = part;
        while found.is_none() && above.0.pop().is_some() {
            part = Part::Lack;
            found = self.find(&above, part);
        }
        let message = if trail.0.is_empty() { message.to_string() } else { format!("{trail}: {message}") };
        self.at(found, part, message)
    }

    /// [`Source::wrong`], where the message itself begins with what leads on from `trail`: `limits.memory_mib: 0 is …`.
    pub(super) fn wrong_below(&self, trail: &Trail, message: &str) -> ConfigError {
        let below = message.split_once(": ").and_then(|(below, rest)| Some((Trail::parse(below)?, rest)));
        match below {
            Some((below, rest)) => {
                let trail = trail.clone().join(&below);
                self.wrong(&trail, Part::Value, rest)
            }
            None => self.wrong(trail, Part::Lack, message),
        }
    }

    /// A mistake at a place that is known.
    pub(super) fn at(&self, at: Option<(usize, usize)>, part: Part, message: String) -> ConfigError {
        let excerpt = at.and_then(|(line, column)| {
            let text = lines(self.text).nth(line - 1)?;
            let length = if part == Part::Lack { 0 } else { extent(text, column - 1, part == Part::Key) };
            Some(Excerpt { line: text.to_owned(), length })
        });
        ConfigError { at, excerpt, ..ConfigError::of_file(self.file, message) }
    }

    /// Line and column, counted from one.
    pub(super) fn find(&self, trail: &Trail, part: Part) -> Option<(usize, usize)> {
        // Read again; the seed fails at the end of the trail, and serde_yaml says where that was.
        let seed = Walk { steps: &trail.0, key: part == Part::Key };
        let error = seed.deserialize(serde_yaml::Deserializer::from_str(self.text)).err()?;
        let place = error.location().filter(|_| error.to_string().contains(FOUND))?;
        Some((place.line(), place.column()))
    }

    /// Line and column of the byte at `offset`.
    pub(super) fn place_of(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = lines(before).count().max(1);
        (line, lines(before).last().unwrap_or_default().chars().count() + 1)
    }
}

/// Lines as YAML counts them. The last one is there even if it is empty.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']) else {
            rest = None;
            return Some(text);
        };
        let (line, tail) = text.split_at(end);
        let width = if tail.starts_with("\r\n") { 2 } else { tail.chars().next().map_or(0, char::len_utf8) };
        rest = Some(&tail[width..]);
        Some(line)
    })
}

/// How many characters the key or the scalar has that begins at this column (from zero), quotes included. A list or
/// a mapping is marked to the end of its line.
fn extent(line: &str, column: usize, key: bool) -> usize {
    let chars: Vec<char> = line.chars().collect();
    let Some(first) = chars.get(column) else { return 0 };
    let rest = &chars[column..];
    if let quote @ ('"' | '\'') = *first {
        let mut escaped = false;
        for (at, c) in rest.iter().enumerate().skip(1) {
            match c {
                '\\' if quote == '"' => escaped = !escaped,
                c if *c == quote && !escaped => return at + 1,
                _ => escaped = false,
            }
        }
        return rest.len();
    }
    // Within brackets, commas and brackets end a scalar; outside of them they are part of it.
    let depth = |c: &char| match c {
        '[' | '{' => 1,
        ']' | '}' => -1,
        _ => 0,
    };
    let flow = chars[..column].iter().map(depth).sum::<i32>() > 0;
    let nested = matches!(first, '[' | '{');
    let mut inside = 0;
    let mut end = rest.len();
    for (at, c) in rest.iter().enumerate() {
        let next_is_blank = rest.get(at + 1).is_none_or(|next| next.is_whitespace());
        let after_blank = at > 0 && rest[at - 1].is_whitespace();
        inside += if nested || flow { depth(c) } else { 0 };
        if nested && inside == 0 {
            end = at + 1;
            break;
        }
        let ends = *c == '#' && after_blank
            || !nested && key && *c == ':' && next_is_blank
            || !nested && flow && (inside < 0 || *c == ',' && inside == 0);
        if ends {
            end = at;
            break;
        }
    }
    rest[..end].iter().rposition(|c| !c.is_whitespace()).map_or(0, |last| last + 1)
}

/// What the error says that means "here".
const FOUND: &str = "\u{1}here";

struct Walk<'a> {
    steps: &'a [Step],
    /// The last key itself is what is looked for.
    key: bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

/// Fails at any scalar at the end of the trail, and passes over those before it.
macro_rules! scalars {
    ($($visit:ident: $ty:ty),*) => {$(
        fn $visit<E: serde::de::Error>(self, _: $ty) -> Result<(), E> {
            self.end()
        }
    )*};
}

impl Walk<'_> {
    fn end<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.steps.is_empty() { Err(E::custom(FOUND)) } else { Ok(()) }
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    scalars!(
        visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64,
        visit_str: &str
    );

    fn visit_unit<E: serde::de::Error>(self) -> Result<(), E> {
        self.end()
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<(), E> {
        self.end()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        self.end()?;
        let wanted = match &self.steps[0] {
            Step::Index(index) => *index,
            Step::Key(_) => usize::MAX,
        };
        for _ in 0..wanted {
            if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        list.next_element_seed(Walk { steps: &self.steps[1..], key: self.key })?;
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.end()?;
        let Step::Key(wanted) = &self.steps[0] else {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        let last = self.key && self.steps.len() == 1;
        while let Some(same) = map.next_key_seed(Same { wanted, fail: last })? {
            if same {
                map.next_value_seed(Walk { steps: &self.steps[1..], key: self.key })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_enum<A: serde::de::EnumAccess<'de>>(self, data: A) -> Result<(), A::Error> {
        // A tagged value: the tag is not part of the trail.
        let (_, value) = data.variant::<String>()?;
        serde::de::VariantAccess::newtype_variant_seed(value, self)
    }
}

/// Whether a key is the one that is looked for.
struct Same<'a> {
    wanted: &'a str,
    fail: bool,
}

impl<'de> DeserializeSeed<'de> for Same<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! printed {
    ($($visit:ident: $ty:ty),*) => {$(
        fn $visit<E: serde::de::Error>(self, key: $ty) -> Result<bool, E> {
            self.visit_str(&key.to_string())
        }
    )*};
}

impl<'de> Visitor<'de> for Same<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    printed!(
        visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64
    );

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        let same = key == self.wanted;
        if same && self.fail { Err(E::custom(FOUND)) } else { Ok(same) }
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<bool, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
filters:
  - name: a # a comment
    \"module\": 'a b.wasm'
    limits: {memory_mib: 9999, callback_ms: 5}
    configuration: [x, {y: !t z}]
  - {name: b, module: c.wasm}
üü: {ü: ä}
";

    fn marked(trail: &str, part: Part) -> String {
        let source = Source::new(Path::new("f"), TEXT);
        let error = source.wrong(&Trail::parse(trail).unwrap(), part, "x");
        let (line, column) = error.at.unwrap();
        let excerpt = error.excerpt.unwrap();
        let text: String = excerpt.line.chars().skip(column - 1).take(excerpt.length).collect();
        format!("{line}:{column} {text}")
    }

    #[test]
    fn keys_and_values_are_found() {
        for (trail, part, expected) in [
            ("filters", Part::Key, "1:1 filters"),
            ("filters[0].name", Part::Value, "2:11 a"),
            ("filters[0].name", Part::Key, "2:5 name"),
            ("filters[0].module", Part::Key, "3:5 \"module\""),
            ("filters[0].module", Part::Value, "3:15 'a b.wasm'"),
            ("filters[0].limits", Part::Value, "4:13 {memory_mib: 9999, callback_ms: 5}"),
            ("filters[0].limits.memory_mib", Part::Value, "4:26 9999"),
            ("filters[0].limits.callback_ms", Part::Value, "4:45 5"),
            ("filters[0].limits.callback_ms", Part::Key, "4:32 callback_ms"),
            ("filters[0].configuration[0]", Part::Value, "5:21 x"),
            ("filters[0].configuration[1].y", Part::Key, "5:25 y"),
            ("filters[1].module", Part::Value, "6:23 c.wasm"),
            ("filters[1]", Part::Lack, "6:5 "),
            ("üü.ü", Part::Value, "7:9 ä"),
            // What is not there: the nearest above it.
            ("filters[1].limits.memory_mib", Part::Value, "6:5 "),
            ("services[3].name", Part::Value, "1:1 "),
        ] {
            assert_eq!(marked(trail, part), expected, "{trail} {part:?}");
        }
    }

    #[test]
    fn trails_are_read_as_they_are_written() {
        for text in ["filters[0].limits.memory_mib", "clusters.my-auth.endpoints[12]", "a"] {
            assert_eq!(Trail::parse(text).unwrap().to_string(), text);
        }
        for text in ["no trail at all", "a[", "a[x]", "", "'a'", "a..b"] {
            assert_eq!(Trail::parse(text), None, "{text}");
        }
    }

    #[test]
    fn messages_lead_on_from_a_trail() {
        let source = Source::new(Path::new("f"), TEXT);
        let error = source.wrong_below(&Trail::parse("filters[0]").unwrap(), "limits.memory_mib: too much: 9999");
        assert_eq!(
            error.to_string(),
            "f:4:26: filters[0].limits.memory_mib: too much: 9999 in \"limits: {memory_mib: »9999«, callback_ms: 5}\""
        );
        let error = source.wrong_below(&Trail::parse("filters[1]").unwrap(), "a message: of another kind");
        assert_eq!(error.to_string(), "f:6:5: filters[1]: a message: of another kind");
    }

    #[test]
    fn lines_end_as_in_yaml() {
        assert_eq!(lines("a\r\nb\rc\n\u{2028}d").collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
        assert_eq!(lines("a\n").collect::<Vec<_>>(), ["a", ""]);
        let source = Source::new(Path::new("f"), "ab\ncdü\ne");
        assert_eq!([0, 2, 3, 7, 8].map(|at| source.place_of(at)), [(1, 1), (1, 3), (2, 1), (2, 4), (3, 1)]);
    }
}

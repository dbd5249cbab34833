//! Reading nodes: what is there, of which type, and what nobody knows.

use std::cell::RefCell;

use serde_yaml::Value;

use super::node::{Node, Place};

/// What is wrong, or worth a word, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) place: Place,
    pub(super) message: String,
    /// The key that was probably meant.
    pub(super) suggestion: Option<String>,
    /// What else helps.
    pub(super) hint: Option<String>,
}

impl Problem {
    pub(super) fn new(place: Place, message: impl Into<String>) -> Self {
        Problem { place, message: message.into(), suggestion: None, hint: None }
    }
}

/// A node and its place.
#[derive(Debug, Clone)]
pub(super) struct Cursor<'a> {
    pub(super) node: &'a Node,
    pub(super) place: Place,
}

impl<'a> Cursor<'a> {
    /// Something about this node.
    pub(super) fn problem(&self, message: impl Into<String>) -> Problem {
        Problem::new(self.place.clone(), message)
    }

    fn mistyped(&self, expected: &str) -> Problem {
        self.problem(format!("invalid type: {}, expected {expected}", self.node.what()))
    }

    /// A text, or another scalar as it was written.
    pub(super) fn text(&self) -> Result<&'a str, Problem> {
        match self.node {
            Node::Scalar(raw, _) => Ok(raw),
            _ => Err(self.mistyped("a string")),
        }
    }

    /// As YAML 1.1 has booleans, since the readers of these files do.
    pub(super) fn flag(&self) -> Result<bool, Problem> {
        match self.node {
            Node::Scalar(raw, _) => match raw.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "y" => Ok(true),
                "false" | "no" | "off" | "n" => Ok(false),
                _ => Err(self.mistyped("`true` or `false`")),
            },
            // `google.protobuf.BoolValue` where it is written as a message.
            Node::Map(entries) => match entries.as_slice() {
                [(key, value)] if key == "value" => Cursor { node: value, place: self.place.key(key) }.flag(),
                _ => Err(self.mistyped("`true` or `false`")),
            },
            _ => Err(self.mistyped("`true` or `false`")),
        }
    }

    /// A whole number.
    pub(super) fn integer(&self) -> Result<i64, Problem> {
        match self.node {
            Node::Scalar(raw, _) => raw.parse().map_err(|_| self.mistyped("a whole number")),
            _ => Err(self.mistyped("a whole number")),
        }
    }

    /// `google.protobuf.Duration` in its JSON form, in milliseconds: `1.5s`.
    pub(super) fn milliseconds(&self) -> Result<u64, Problem> {
        let wrong = || self.mistyped("a duration such as `1s` or `0.250s`");
        let seconds = self.text()?.strip_suffix('s').ok_or_else(wrong)?;
        let seconds: f64 = seconds.parse().map_err(|_| wrong())?;
        if !(0.0..=315_576_000_000.0).contains(&seconds) {
            return Err(wrong());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the range just asked for")]
        Ok((seconds * 1000.0).round() as u64)
    }

    /// The entries of a list.
    pub(super) fn list(&self) -> Result<Vec<Cursor<'a>>, Problem> {
        match self.node {
            Node::List(items) => {
                let one = |(index, node)| Cursor { node, place: self.place.index(index) };
                Ok(items.iter().enumerate().map(one).collect())
            }
            _ => Err(self.mistyped("a sequence")),
        }
    }

    /// A list of texts.
    pub(super) fn texts(&self) -> Result<Vec<&'a str>, Problem> {
        self.list()?.iter().map(Cursor::text).collect()
    }

    /// The keys of a mapping, whatever they are called.
    pub(super) fn entries(&self) -> Result<Vec<(&'a str, Cursor<'a>)>, Problem> {
        match self.node {
            Node::Map(entries) => {
                let one = |(key, node): &'a (String, Node)| (key.as_str(), Cursor { node, place: self.place.key(key) });
                Ok(entries.iter().map(one).collect())
            }
            _ => Err(self.mistyped("a mapping")),
        }
    }

    /// The keys of a mapping that has certain ones.
    pub(super) fn fields(&self) -> Result<Fields<'a>, Problem> {
        Ok(Fields { entries: self.entries()?, place: self.place.clone(), known: RefCell::default() })
    }

    /// What YAML makes of the node.
    pub(super) fn value(&self) -> Value {
        self.node.value()
    }
}

/// A mapping whose keys are known by name.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    entries: Vec<(&'a str, Cursor<'a>)>,
    pub(super) place: Place,
    /// What was asked for.
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    /// The value of a key, in snake_case as here or in camelCase. `null` is none.
    ///
    /// # Errors
    /// It is there twice.
    pub(super) fn get(&self, name: &'static str) -> Result<Option<Cursor<'a>>, Problem> {
        self.known.borrow_mut().push(name);
        let mut found = self.entries.iter().filter(|(key, _)| same(key, name));
        let first = found.next();
        if let (Some((one, _)), Some((other, second))) = (first, found.next()) {
            let message = format!("'{other}' is another spelling of '{one}', which is there too: drop one of them");
            return Err(Problem::new(second.place.clone().on_key(), message));
        }
        Ok(first.map(|(_, cursor)| cursor.clone()).filter(|cursor| *cursor.node != Node::Null))
    }

    /// The value of a key that must be there.
    pub(super) fn need(&self, name: &'static str) -> Result<Cursor<'a>, Problem> {
        self.get(name)?.ok_or_else(|| Problem::new(self.place.clone(), format!("'{name}' is missing")))
    }

    /// Whether the key is there, be it `null`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| same(key, name))
    }

    /// Keys that mean nothing here and do no harm.
    pub(super) fn skip(&self, names: &[&'static str]) {
        self.known.borrow_mut().extend(names);
    }

    /// Says that what was asked for is all that there may be.
    ///
    /// # Errors
    /// A key that nobody asked for, and the one that was probably meant.
    pub(super) fn end(&self) -> Result<(), Problem> {
        let known = self.known.borrow();
        let unknown = |key: &str| !known.iter().any(|name| same(key, name));
        match self.entries.iter().find(|(key, _)| unknown(key)) {
            None => Ok(()),
            Some((key, cursor)) => Err(unknown_key(cursor.place.clone(), key, &known)),
        }
    }
}

/// A key that is not known, in a mapping that may have these.
pub(super) fn unknown_key(place: Place, key: &str, known: &[&str]) -> Problem {
    let hint =
        if known.is_empty() { "there are no keys here".to_owned() } else { format!("keys here: {}", known.join(", ")) };
    Problem {
        suggestion: nearest(key, known).map(str::to_owned),
        hint: Some(hint),
        ..Problem::new(place.on_key(), format!("unknown key '{key}'"))
    }
}

/// The name that was probably meant, if one is near.
pub(super) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let key = plain(key);
    let score = |name: &&str| strsim::normalized_damerau_levenshtein(&key, &plain(name));
    let best = known.iter().copied().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(&best) >= 0.6).then_some(best)
}

/// Whether two keys are one, in snake_case and camelCase.
pub(super) fn same(one: &str, other: &str) -> bool {
    one == other || camel(one) == camel(other)
}

/// `vm_config` as `vmConfig`.
fn camel(name: &str) -> String {
    let mut upper = false;
    let mut camel = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            camel.push(letter.to_ascii_uppercase());
        } else {
            camel.push(letter);
        }
    }
    camel
}

#[cfg(test)]
mod tests {
    use super::super::node;
    use super::*;

    fn with<T>(text: &str, check: impl FnOnce(Cursor<'_>) -> T) -> T {
        let nodes = node::documents(text).unwrap();
        check(Cursor { node: &nodes[0], place: Place::document(0) })
    }

    #[test]
    fn keys_in_either_case() {
        with("{vmConfig: 1, root_id: 2, x: ~}", |root| {
            let fields = root.fields().unwrap();
            assert_eq!(fields.get("vm_config").unwrap().unwrap().integer(), Ok(1));
            assert_eq!(fields.need("root_id").unwrap().text(), Ok("2"));
            assert!(fields.get("x").unwrap().is_none());
            assert!(fields.has("x") && fields.has("vm_config") && !fields.has("y"));
            fields.end().unwrap();
        });
        with("{vm_config: 1, vmConfig: 1}", |root| {
            let problem = root.fields().unwrap().get("vm_config").unwrap_err();
            assert!(problem.message.contains("'vmConfig' is another spelling of 'vm_config'"), "{problem:?}");
        });
    }

    #[test]
    fn what_nobody_knows_has_a_neighbour() {
        with("{rotId: 1}", |root| {
            let fields = root.fields().unwrap();
            fields.get("root_id").unwrap();
            fields.get("name").unwrap();
            let problem = fields.end().unwrap_err();
            assert_eq!(problem.message, "unknown key 'rotId'");
            assert_eq!(problem.suggestion.as_deref(), Some("root_id"));
            assert_eq!(problem.hint.as_deref(), Some("keys here: root_id, name"));
            assert_eq!(problem.place, Place::document(0).key("rotId").on_key());
        });
        let far = |known: &[&str]| unknown_key(Place::default(), "zzz", known);
        assert_eq!(far(&["a"]).suggestion, None);
        assert_eq!(far(&[]).hint.as_deref(), Some("there are no keys here"));
    }

    #[test]
    fn types() {
        with("{a: yes, b: 'False', c: 1.5s, d: [x, 1], e: {value: true}, f: 10, g: -1s}", |root| {
            let fields = root.fields().unwrap();
            let get = |name| fields.get(name).unwrap().unwrap();
            assert_eq!((get("a").flag(), get("b").flag(), get("e").flag()), (Ok(true), Ok(false), Ok(true)));
            assert_eq!(get("c").milliseconds(), Ok(1500));
            assert_eq!(get("d").texts(), Ok(vec!["x", "1"]));
            for (problem, expected) in [
                (get("f").flag().unwrap_err(), "invalid type: number `10`, expected `true` or `false`"),
                (get("a").milliseconds().unwrap_err(), "expected a duration"),
                (get("g").milliseconds().unwrap_err(), "expected a duration"),
                (get("d").text().unwrap_err(), "invalid type: a sequence, expected a string"),
                (get("a").list().unwrap_err(), "invalid type: string \"yes\", expected a sequence"),
                (get("a").entries().unwrap_err(), "expected a mapping"),
                (get("a").integer().unwrap_err(), "expected a whole number"),
            ] {
                assert!(problem.message.contains(expected), "{problem:?}");
            }
        });
    }
}

//! A YAML file as a tree in which scalars keep the text that they were written as, and places inside of it.
//!
//! The C++ plugin hands scalars over as they stand (`1.0`, `0x10`, `yes`), so what a YAML parser makes of them is not
//! enough. serde_yaml gives the text of a scalar to whoever asks for a text; hence two passes, of which the first says
//! what is a scalar.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_yaml::Value;

/// One node.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// `null`, `~` or nothing.
    Null,
    /// A scalar as it was written, and what YAML makes of it.
    Scalar(String, Value),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the file's order.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// What this is, for messages.
    pub(super) fn what(&self) -> String {
        match self {
            Node::Null => "nothing".to_owned(),
            Node::Scalar(_, Value::Bool(flag)) => format!("boolean `{flag}`"),
            Node::Scalar(raw, Value::Number(_)) => format!("number `{raw}`"),
            Node::Scalar(raw, _) => {
                let short: String = raw.chars().take(40).collect();
                let cut = if short.len() < raw.len() { "…" } else { "" };
                format!("string {short:?}{cut}")
            }
            Node::List(_) => "a sequence".to_owned(),
            Node::Map(_) => "a mapping".to_owned(),
        }
    }

    /// What a YAML parser makes of it.
    pub(super) fn value(&self) -> Value {
        match self {
            Node::Null => Value::Null,
            Node::Scalar(_, value) => value.clone(),
            Node::List(items) => Value::Sequence(items.iter().map(Node::value).collect()),
            Node::Map(entries) => {
                Value::Mapping(entries.iter().map(|(key, node)| (key.as_str().into(), node.value())).collect())
            }
        }
    }

    /// The value of a key of this mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        match self {
            Node::Map(entries) => entries.iter().find(|(name, _)| name == key).map(|(_, node)| node),
            _ => None,
        }
    }
}

/// The documents of a file.
///
/// # Errors
/// serde_yaml's, with its place.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, serde_yaml::Error> {
    let mut nodes = Vec::new();
    let values = serde_yaml::Deserializer::from_str(text);
    let texts = serde_yaml::Deserializer::from_str(text);
    for (value, texts) in values.zip(texts) {
        let value = Value::deserialize(value)?;
        nodes.push(Shaped(&value).deserialize(texts)?);
    }
    Ok(nodes)
}

/// Reads what has this shape, scalars as texts.
struct Shaped<'a>(&'a Value);

impl<'de> DeserializeSeed<'de> for Shaped<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        match self.0 {
            Value::Null => IgnoredAny::deserialize(deserializer).map(|_| Node::Null),
            Value::Sequence(_) => deserializer.deserialize_seq(self),
            Value::Mapping(_) => deserializer.deserialize_map(self),
            // The spellings know no tags: what one is put on counts.
            Value::Tagged(tagged) => Shaped(&tagged.value).deserialize(deserializer),
            value => String::deserialize(deserializer).map(|raw| Node::Scalar(raw, value.clone())),
        }
    }
}

impl<'de> Visitor<'de> for Shaped<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was there a moment ago")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        for value in self.0.as_sequence().into_iter().flatten() {
            let node = list.next_element_seed(Shaped(value))?;
            nodes.push(node.ok_or_else(|| A::Error::custom("a sequence has become shorter"))?);
        }
        Ok(Node::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut nodes = Vec::new();
        for (_, value) in self.0.as_mapping().into_iter().flatten() {
            let key = map.next_key::<String>()?.ok_or_else(|| A::Error::custom("a mapping has become smaller"))?;
            nodes.push((key, map.next_value_seed(Shaped(value))?));
        }
        Ok(Node::Map(nodes))
    }
}

/// One step of a way into a document.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// A node of a file, by the way that leads to it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Place {
    document: usize,
    steps: Vec<Step>,
    /// The last key is meant, not what stands behind it.
    on_key: bool,
}

impl Place {
    /// The root of a document.
    pub(super) fn document(document: usize) -> Self {
        Place { document, ..Place::default() }
    }

    fn with(&self, step: Step) -> Self {
        let mut place = Place { on_key: false, ..self.clone() };
        place.steps.push(step);
        place
    }

    /// The value of a key.
    pub(super) fn key(&self, key: &str) -> Self {
        self.with(Step::Key(key.to_owned()))
    }

    /// An entry of a list.
    pub(super) fn index(&self, index: usize) -> Self {
        self.with(Step::Index(index))
    }

    /// The key itself.
    pub(super) fn on_key(mut self) -> Self {
        self.on_key = true;
        self
    }

    /// Whether a key is meant, and not what stands behind it.
    pub(super) fn is_key(&self) -> bool {
        self.on_key
    }

    /// Line and column, counted from one.
    pub(super) fn locate(&self, text: &str) -> Option<(usize, usize)> {
        let document = serde_yaml::Deserializer::from_str(text).nth(self.document)?;
        // The way's end refuses whatever is there, and serde_yaml says where that was.
        let error = Seek { steps: &self.steps, on_key: self.on_key }.deserialize(document).err()?;
        error.location().map(|place| (place.line(), place.column()))
    }
}

/// As messages have it: `config.vm_config.code`. A document's number is told where it is not the first.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut between = "";
        if self.document > 0 {
            write!(f, "document {}", self.document + 1)?;
            between = ": ";
        }
        let shown = self.steps.len() - usize::from(self.on_key);
        for step in &self.steps[..shown] {
            match step {
                Step::Key(key) => write!(f, "{between}{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
            between = ".";
        }
        Ok(())
    }
}

/// Walks to a node, and refuses it.
#[derive(Clone, Copy)]
struct Seek<'a> {
    steps: &'a [Step],
    on_key: bool,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.steps.first() {
            None => deserializer.deserialize_any(Refuse),
            Some(Step::Key(_)) => deserializer.deserialize_map(self),
            Some(Step::Index(_)) => deserializer.deserialize_seq(self),
        }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the way to go on")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let [Step::Index(wanted), steps @ ..] = self.steps else { return Err(A::Error::custom("no list")) };
        for _ in 0..*wanted {
            list.next_element::<IgnoredAny>()?;
        }
        list.next_element_seed(Seek { steps, ..self })?;
        Err(A::Error::custom("not there"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let [Step::Key(wanted), steps @ ..] = self.steps else { return Err(A::Error::custom("no mapping")) };
        let refuse = self.on_key && steps.is_empty();
        while let Some(found) = map.next_key_seed(Key { wanted, refuse })? {
            if found {
                map.next_value_seed(Seek { steps, ..self })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Err(A::Error::custom("not there"))
    }
}

/// Says whether a key is the wanted one, or refuses it.
struct Key<'a> {
    wanted: &'a str,
    refuse: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<bool, E> {
        let found = key == self.wanted;
        if found && self.refuse { Err(E::custom("here")) } else { Ok(found) }
    }
}

/// Takes nothing: every kind of node is of the wrong type.
struct Refuse;

impl Visitor<'_> for Refuse {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_keep_their_text() {
        let nodes =
            documents("a: 1.00\nb: 0x10\nc: yes\nd: ~\ne: \"1\"\nf: [true, 'x', !t 7]\n1: {g: null}\n").unwrap();
        let root = &nodes[0];
        let raw = |node: &Node| match node {
            Node::Scalar(raw, _) => raw.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(raw(root.get("a").unwrap()), "1.00");
        assert_eq!(raw(root.get("b").unwrap()), "0x10");
        assert_eq!(raw(root.get("c").unwrap()), "yes");
        assert_eq!(root.get("d"), Some(&Node::Null));
        assert_eq!(root.get("e"), Some(&Node::Scalar("1".into(), Value::String("1".into()))));
        let Some(Node::List(items)) = root.get("f") else { panic!("{root:?}") };
        assert_eq!(items.iter().map(raw).collect::<Vec<_>>(), ["true", "x", "7"]);
        assert_eq!(root.get("1").and_then(|node| node.get("g")), Some(&Node::Null));
        assert_eq!(items[0].value(), Value::Bool(true));
    }

    #[test]
    fn documents_and_aliases() {
        let nodes = documents("a: &x {b: 1}\nc: *x\n---\n- 2\n").unwrap();
        assert_eq!(nodes.len(), 2);
        assert_eq!(nodes[0].get("a"), nodes[0].get("c"));
        assert!(documents("a: [").is_err());
        assert!(documents("? {a: b}\n: c\n").is_err(), "a mapping as a key");
    }

    #[test]
    fn places_have_lines() {
        let text = "a:\n  - b: 1\n    c: {d: [x, yy]}\n---\ne:\n  f: ~\n";
        let root = Place::document(0);
        let c = root.key("a").index(0).key("c");
        assert_eq!(c.locate(text), Some((3, 8)));
        assert_eq!(c.clone().on_key().locate(text), Some((3, 5)));
        assert_eq!(c.key("d").index(1).locate(text), Some((3, 16)));
        assert_eq!(Place::document(1).key("e").key("f").locate(text), Some((6, 6)));
        assert_eq!(c.key("d").index(1).to_string(), "a[0].c.d[1]");
        assert_eq!(c.on_key().to_string(), "a[0]");
        assert_eq!(Place::document(1).key("e").to_string(), "document 2: e");
        assert_eq!(root.to_string(), "");
    }
}

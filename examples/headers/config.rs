//! The configuration, checked in full before the first request: what is wrong with it is said with its key.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

/// What to change on each side.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Changes of the request, before the origin or the cache sees it.
    #[serde(default)]
    pub(crate) request: Changes,
    /// Changes of the response, before the client sees it.
    #[serde(default)]
    pub(crate) response: Changes,
}

/// The changes of one side, applied in the order `remove`, `set`, `add`.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Changes {
    /// Headers to remove, every value of each.
    #[serde(deserialize_with = "names")]
    pub(crate) remove: Vec<String>,
    /// Headers to have with this one value, whatever they held.
    #[serde(deserialize_with = "set")]
    pub(crate) set: Vec<(String, String)>,
    /// Header values to add beside those that are there.
    #[serde(deserialize_with = "add")]
    pub(crate) add: Vec<(String, String)>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }
}

impl Config {
    /// Reads the JSON that the host hands over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        if json.is_empty() {
            return Err("configuration: missing; expected `request` or `response`".to_owned());
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let config: Self = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            // serde_json counts lines of the JSON, which the user never sees.
            let reason = error.into_inner().to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            match path.as_str() {
                "." => format!("configuration: {reason}"),
                path => format!("configuration: {path}: {reason}"),
            }
        })?;
        json.end().map_err(|_| "configuration: more than one JSON value".to_owned())?;
        if config.request.is_empty() && config.response.is_empty() {
            return Err(
                "configuration: nothing to change; expected `request` or `response` with `set`, `add` or `remove`"
                    .to_owned(),
            );
        }
        Ok(config)
    }
}

/// One value, or a list of them.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
enum Values {
    One(String),
    Many(Vec<String>),
}

fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    names.iter().try_for_each(|name| check_name(name)).map_err(D::Error::custom)?;
    Ok(names)
}

fn set<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    deserializer.deserialize_map(Pairs::<String>::default())
}

fn add<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    deserializer.deserialize_map(Pairs::<Values>::default())
}

/// A mapping as pairs, in the order in which it was written.
struct Pairs<V>(std::marker::PhantomData<V>);

impl<V> Default for Pairs<V> {
    fn default() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl From<String> for Values {
    fn from(value: String) -> Self {
        Self::One(value)
    }
}

impl<'de, V: Deserialize<'de> + Into<Values>> Visitor<'de> for Pairs<V> {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping of header names to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            check_name(&name).map_err(A::Error::custom)?;
            let values = match map.next_value::<V>()?.into() {
                Values::One(value) => vec![value],
                Values::Many(values) => values,
            };
            for value in values {
                check_value(&name, &value).map_err(A::Error::custom)?;
                pairs.push((name.clone(), value));
            }
        }
        Ok(pairs)
    }
}

/// A field name is a token of RFC 9110 §5.6.2; pseudo-headers such as `:path` are not for this filter.
fn check_name(name: &str) -> Result<(), String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !name.is_empty() && name.bytes().all(token) { Ok(()) } else { Err(format!("{name:?} is not a header name")) }
}

fn check_value(name: &str, value: &str) -> Result<(), String> {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        Err(format!("the value of {name:?} holds a control character"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn reads_every_key_in_the_order_written() {
        let json = br#"{
            "request": {"set": {"x-b": "2", "x-a": "1"}, "remove": ["x-debug"]},
            "response": {"add": {"set-cookie": ["a=1", "b=2"], "x-one": "v"}}
        }"#;
        assert_eq!(
            Config::parse(json).unwrap(),
            Config {
                request: Changes {
                    remove: vec!["x-debug".to_owned()],
                    set: pairs(&[("x-b", "2"), ("x-a", "1")]),
                    add: vec![],
                },
                response: Changes {
                    remove: vec![],
                    set: vec![],
                    add: pairs(&[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-one", "v")]),
                },
            }
        );
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        for (json, expected) in [
            (&br#""#[..], "configuration: missing"),
            (br#"{}"#, "configuration: nothing to change"),
            (br#"[]"#, "configuration: nothing to change"),
            (br#""text""#, "configuration: invalid type: string"),
            (
                br#"{"request": {"sett": {}}}"#,
                "configuration: request.sett: unknown field `sett`, expected one of `remove`, `set`, `add`",
            ),
            (
                br#"{"requests": {}}"#,
                "configuration: requests: unknown field `requests`, expected `request` or `response`",
            ),
            (
                br#"{"request": {"set": {"x-a": 1}}}"#,
                "configuration: request.set.x-a: invalid type: integer `1`, expected a string",
            ),
            (
                br#"{"response": {"add": {"x-a": {"y": 1}}}}"#,
                "configuration: response.add.x-a: expected a string or a list of strings",
            ),
            (
                br#"{"response": {"remove": "x-a"}}"#,
                "configuration: response.remove: invalid type: string \"x-a\", expected a sequence",
            ),
            (br#"{"request": {"set": {":path": "/"}}}"#, "configuration: request.set: \":path\" is not a header name"),
            (br#"{"request": {"remove": ["x a"]}}"#, "configuration: request.remove: \"x a\" is not a header name"),
            (
                br#"{"request": {"set": {"x-a": "1\r\nx-b: 2"}}}"#,
                "configuration: request.set: the value of \"x-a\" holds a control character",
            ),
            (br#"{"request": {"set": {"x-a": "1"}}} {}"#, "configuration: more than one"),
        ] {
            let error = Config::parse(json).unwrap_err();
            assert!(
                error.starts_with(expected),
                "{}\n  gave     {error}\n  expected {expected}",
                String::from_utf8_lossy(json)
            );
        }
    }
}

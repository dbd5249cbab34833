//! `google.protobuf.Any` as JSON and YAML have it, and bytes in base64.

use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_yaml::Value;
use serde_yaml::value::{Tag, TaggedValue};

use super::fields::{Cursor, Problem, unknown_key};
use super::node::Node;

/// The tag under which our own spelling has bytes that are no text.
pub(crate) const BINARY: &str = "binary";

/// Bytes from base64: either alphabet, padded or not, as Protobuf's JSON reads them.
pub(crate) fn decode(text: &str) -> Result<Arc<[u8]>, String> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let packed: String = text.split_ascii_whitespace().collect();
    let alphabet = if packed.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let bytes = GeneralPurpose::new(alphabet, lenient).decode(packed);
    bytes.map(Arc::from).map_err(|error| format!("is no base64: {error}"))
}

/// Bytes in our own spelling: a text where they are one.
fn bytes(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            Value::Tagged(Box::new(TaggedValue { tag: Tag::new(BINARY), value: text.into() }))
        }
    }
}

/// The name of a type, without what stands before it in a URL.
pub(super) fn type_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// What a node says that it is: its `@type`.
pub(super) fn type_of<'a>(cursor: &Cursor<'a>) -> Result<Option<&'a str>, Problem> {
    match cursor.node {
        Node::Map(entries) => {
            let found = entries.iter().find(|(key, _)| key == "@type");
            let text = |(key, node): &'a (String, Node)| Cursor { node, place: cursor.place.key(key) }.text();
            Ok(found.map(text).transpose()?.map(type_name))
        }
        _ => Ok(None),
    }
}

/// A configuration in an `Any`, as our own spelling has it: a text, or what becomes JSON.
///
/// A text without `@type` is taken as it is, as Envoy's first files had it.
pub(super) fn configuration(cursor: &Cursor<'_>) -> Result<Value, Problem> {
    if let Node::Scalar(raw, _) = cursor.node {
        return Ok(raw.as_str().into());
    }
    let entries = cursor.entries()?;
    let Some(name) = type_of(cursor)? else {
        return Err(cursor.problem(
            "'@type' is missing: a configuration says what it is, type.googleapis.com/google.protobuf.StringValue \
             (with a text in `value`) or type.googleapis.com/google.protobuf.Struct (with a mapping in `value`)",
        ));
    };
    let value = entries.iter().find(|(key, _)| *key == "value").map(|(_, cursor)| cursor);
    let alone = || match entries.iter().find(|(key, _)| !matches!(*key, "@type" | "value")) {
        Some((key, cursor)) => Err(unknown_key(cursor.place.clone(), key, &["@type", "value"])),
        None => Ok(value),
    };
    match name {
        "google.protobuf.StringValue" => match alone()? {
            Some(Cursor { node: Node::Null, .. }) | None => Ok(Value::Null),
            Some(value) => Ok(value.text()?.into()),
        },
        "google.protobuf.BytesValue" => match alone()? {
            Some(Cursor { node: Node::Null, .. }) | None => Ok(Value::Null),
            Some(value) => decode(value.text()?).map(|found| bytes(&found)).map_err(|why| value.problem(why)),
        },
        // The form that Protobuf gives it has the fields in `value`; many files have them beside `@type`.
        "google.protobuf.Struct" => match value {
            Some(Cursor { node: node @ Node::Map(_), .. }) if entries.len() == 2 => Ok(node.value()),
            _ => {
                let beside = entries.iter().filter(|(key, _)| *key != "@type");
                Ok(Value::Mapping(beside.map(|(key, cursor)| ((*key).into(), cursor.value())).collect()))
            }
        },
        other => Err(Problem::new(
            cursor.place.key("@type"),
            format!(
                "a configuration of type '{other}' is a message in Protobuf's encoding, which no text file can say: \
                 expected google.protobuf.StringValue, google.protobuf.Struct or google.protobuf.BytesValue"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::{self, Place};
    use super::*;

    fn any(text: &str) -> Result<Value, String> {
        let nodes = node::documents(text).unwrap();
        configuration(&Cursor { node: &nodes[0], place: Place::document(0) })
            .map_err(|problem| format!("{}: {}", problem.place, problem.message))
    }

    const STRING: &str = "'@type': type.googleapis.com/google.protobuf.StringValue";
    const STRUCT: &str = "'@type': type.googleapis.com/google.protobuf.Struct";
    const BYTES: &str = "'@type': type.googleapis.com/google.protobuf.BytesValue";

    #[test]
    fn texts() {
        assert_eq!(any(&format!("{STRING}\nvalue: |\n  a\n  b\n")), Ok("a\nb\n".into()));
        assert_eq!(any(&format!("{STRING}\nvalue: 1.50\n")), Ok("1.50".into()));
        assert_eq!(any(STRING), Ok(Value::Null));
        assert_eq!(any("a text"), Ok("a text".into()));
        let error = any(&format!("{STRING}\nvalue: [1]\n")).unwrap_err();
        assert!(error.starts_with("value: invalid type: a sequence, expected a string"), "{error}");
        let error = any(&format!("{STRING}\nvalu: x\n")).unwrap_err();
        assert!(error.contains("unknown key 'valu'"), "{error}");
    }

    #[test]
    fn structs_in_both_forms() {
        let json = |text: &str| serde_json::to_string(&any(text).unwrap()).unwrap();
        assert_eq!(json(&format!("{STRUCT}\nvalue: {{a: 1, b: [true, null, x]}}")), r#"{"a":1,"b":[true,null,"x"]}"#);
        assert_eq!(json(&format!("{STRUCT}\na: 1\nb: {{c: 0.5}}")), r#"{"a":1,"b":{"c":0.5}}"#);
        assert_eq!(json(&format!("{STRUCT}\nvalue: {{a: 1}}\nb: 2")), r#"{"value":{"a":1},"b":2}"#);
        assert_eq!(json(&format!("{STRUCT}\nvalue: 3")), r#"{"value":3}"#);
        assert_eq!(json(STRUCT), "{}");
    }

    #[test]
    fn bytes_in_base64() {
        assert_eq!(any(&format!("{BYTES}\nvalue: aGVsbG8=")), Ok("hello".into()));
        assert_eq!(any(&format!("{BYTES}\nvalue: aGVsbG8")), Ok("hello".into()));
        let Value::Tagged(tagged) = any(&format!("{BYTES}\nvalue: _w")).unwrap() else { panic!("no bytes") };
        assert_eq!((tagged.tag.to_string().as_str(), tagged.value), ("!binary", "/w==".into()));
        assert!(any(&format!("{BYTES}\nvalue: '?'")).unwrap_err().contains("is no base64"));
        assert_eq!(decode("AGFz\n bQ==").unwrap().as_ref(), b"\0asm");
    }

    #[test]
    fn other_types_are_named() {
        let error = any("'@type': type.googleapis.com/my.Config\na: 1").unwrap_err();
        assert!(error.starts_with("@type: a configuration of type 'my.Config'"), "{error}");
        assert!(any("{a: 1}").unwrap_err().contains("'@type' is missing"));
        assert!(any("[1]").unwrap_err().contains("expected a mapping"));
    }
}

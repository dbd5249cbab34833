//! A transaction as a line of JSON; no hostcall is made here.

use serde::Deserialize;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Field {
    /// A property, by its path with dots: `request.path`, `ats.cache.lookup_status`.
    Property(String),
    /// A request header.
    RequestHeader(String),
    /// A response header.
    ResponseHeader(String),
}

/// How a property is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    /// Nanoseconds, as milliseconds.
    Time,
    Boolean,
}

/// The properties that are no text, by how their names end. Every other property is taken as text.
const KINDS: &[(&str, Kind)] = &[
    (".time", Kind::Time),
    (".duration", Kind::Time),
    ("_latency", Kind::Time),
    ("_duration", Kind::Time),
    (".code", Kind::Integer),
    ("size", Kind::Integer),
    ("_bytes", Kind::Integer),
    (".port", Kind::Integer),
    (".flags", Kind::Integer),
    (".grpc_status", Kind::Integer),
    (".transactions", Kind::Integer),
    ("connection.id", Kind::Integer),
    ("ats.txn.id", Kind::Integer),
    (".mtls", Kind::Boolean),
    (".aborted", Kind::Boolean),
    (".internal", Kind::Boolean),
];

impl Field {
    /// A property.
    pub(crate) fn property(path: &str) -> Field {
        Field::Property(path.to_owned())
    }

    /// The path of the property that it is read from.
    pub(crate) fn path(&self) -> Vec<&str> {
        match self {
            Field::Property(path) => path.split('.').collect(),
            Field::RequestHeader(name) => vec!["request", "headers", name],
            Field::ResponseHeader(name) => vec!["response", "headers", name],
        }
    }

    fn kind(&self) -> Kind {
        match self {
            Field::Property(path) if path.contains(".headers.") => Kind::Text,
            Field::Property(path) if path.starts_with("ats.milestones.") => Kind::Time,
            Field::Property(path) => {
                KINDS.iter().find(|(end, _)| path.ends_with(end)).map_or(Kind::Text, |(_, kind)| *kind)
            }
            Field::RequestHeader(_) | Field::ResponseHeader(_) => Kind::Text,
        }
    }
}

/// The line, without its end. What a transaction does not have is left out.
pub(crate) fn write(fields: &[(String, Field)], read: impl Fn(&Field) -> Option<Vec<u8>>) -> Vec<u8> {
    let mut line = String::from("{");
    for (name, field) in fields {
        let Some(value) = read(field) else { continue };
        if line.len() > 1 {
            line.push(',');
        }
        line.push_str(&quoted(name));
        line.push(':');
        line.push_str(&json(field.kind(), &value));
    }
    line.push('}');
    line.into_bytes()
}

fn json(kind: Kind, value: &[u8]) -> String {
    let number = value.try_into().ok().map(i64::from_le_bytes);
    match (kind, number, value) {
        (Kind::Integer, Some(number), _) => number.to_string(),
        // Three digits of a millisecond are enough.
        (Kind::Time, Some(number), _) => {
            let microseconds = number / 1_000;
            let sign = if microseconds < 0 { "-" } else { "" };
            let (whole, part) = (microseconds.unsigned_abs() / 1_000, microseconds.unsigned_abs() % 1_000);
            format!("{sign}{whole}.{part:03}")
        }
        (Kind::Boolean, _, [value]) => (*value != 0).to_string(),
        // A property of another length than its kind has is shown all the same.
        _ => quoted(&String::from_utf8_lossy(value)),
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(fields: &[(&str, Field, Option<&[u8]>)]) -> String {
        let names: Vec<_> = fields.iter().map(|(name, field, _)| ((*name).to_owned(), field.clone())).collect();
        let read = |wanted: &Field| {
            let found = fields.iter().find(|(_, field, _)| field == wanted);
            found.and_then(|(_, _, value)| value.map(<[u8]>::to_vec))
        };
        String::from_utf8(write(&names, read)).unwrap()
    }

    #[test]
    fn values_are_json_by_their_kind() {
        let number = 1_234_567_891_i64.to_le_bytes();
        let negative = (-1_500_000_i64).to_le_bytes();
        let text = line(&[
            ("path", Field::property("request.path"), Some(b"/a\"b\n\xff")),
            ("none", Field::property("request.query"), None),
            ("code", Field::property("response.code"), Some(&200_i64.to_le_bytes())),
            ("took", Field::property("request.duration"), Some(&number)),
            ("tls", Field::property("ats.milestones.tls_handshake_start"), Some(&negative)),
            ("mtls", Field::property("connection.mtls"), Some(&[1])),
            ("header", Field::property("request.headers.x-size"), Some(b"eight by")),
            ("odd", Field::property("request.size"), Some(b"odd")),
            ("a\"", Field::RequestHeader("x.y".to_owned()), Some(b"12345678")),
        ]);
        let expected = "{\"path\":\"/a\\\"b\\n\u{fffd}\",\"code\":200,\"took\":1234.567,\"tls\":-1.500,\"mtls\":true,\"header\":\"eight by\",\"odd\":\"odd\",\"a\\\"\":\"12345678\"}";
        assert_eq!(text, expected);
        assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
        assert_eq!(line(&[]), "{}");
    }

    #[test]
    fn headers_are_properties_and_keep_their_dots() {
        assert_eq!(Field::RequestHeader("x.y".to_owned()).path(), ["request", "headers", "x.y"]);
        assert_eq!(Field::ResponseHeader("age".to_owned()).path(), ["response", "headers", "age"]);
        assert_eq!(Field::property("ats.cache.lookup_status").path(), ["ats", "cache", "lookup_status"]);
    }
}

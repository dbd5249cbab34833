//! Programs for the guest `probe`, and what they must report.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::{Value, json};
use wasm_remap_tests::{Client, Mark, Response, TrafficServer};

/// What a property must be.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    Absent,
    Text(String),
    Int(RangeInclusive<i64>),
    Flag(bool),
    Length(RangeInclusive<usize>),
}

/// No such property, or no value now.
pub(crate) fn absent() -> Expected {
    Expected::Absent
}

/// This very string.
pub(crate) fn is(text: &str) -> Expected {
    Expected::Text(text.to_owned())
}

/// Eight bytes, little endian, within these bounds.
pub(crate) fn int(range: RangeInclusive<i64>) -> Expected {
    Expected::Int(range)
}

/// Eight bytes, little endian, of this value.
pub(crate) fn exactly(value: i64) -> Expected {
    Expected::Int(value..=value)
}

/// One byte.
pub(crate) fn flag(value: bool) -> Expected {
    Expected::Flag(value)
}

/// A value of so many bytes.
pub(crate) fn length(range: RangeInclusive<usize>) -> Expected {
    Expected::Length(range)
}

/// Eight bytes, whatever they are; for 0, whether there is a value or not.
pub(crate) fn any(bytes: usize) -> Expected {
    Expected::Length(if bytes == 0 { 0..=usize::MAX } else { bytes..=bytes })
}

/// What a table's paths were, by callback.
#[derive(Debug)]
pub(crate) struct Probed(BTreeMap<String, Value>);

type Table<'a> = (&'a str, &'a [(&'a str, Expected)]);

/// Reads each table's paths in its callback.
pub(crate) fn probe(
    client: &mut Client,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
    tables: &[Table<'_>],
) -> Probed {
    let programs: BTreeMap<_, _> = tables.iter().map(|(callback, table)| (*callback, program(table))).collect();
    Probed(run(client, host, path, fields, &json!(programs)).0)
}

fn program(table: &[(&str, Expected)]) -> Vec<Value> {
    table.iter().map(|(path, _)| json!(["get_property", segments(path)])).collect()
}

/// A path with a segment that has dots is written as a list.
fn segments(path: &str) -> Value {
    if path.starts_with('[') { serde_json::from_str(path).expect("a list") } else { json!(path) }
}

impl Probed {
    /// What was reported otherwise.
    pub(crate) fn of(results: BTreeMap<String, Value>) -> Probed {
        Probed(results)
    }

    /// What a callback after the response told the log.
    pub(crate) fn from_log(server: &TrafficServer, mark: Mark, callback: &str, _table: &[(&str, Expected)]) -> Probed {
        let prefix = format!("probe {callback} ");
        let line = server.wait_for_log_since(mark, &prefix, Duration::from_secs(10));
        let at = line.find(&prefix).expect("found") + prefix.len();
        let value = serde_json::Deserializer::from_str(&line[at..]).into_iter::<Value>().next();
        Probed(BTreeMap::from([(callback.to_owned(), value.expect("a value").expect("JSON"))]))
    }

    /// Holds the table against it; every difference is told.
    #[track_caller]
    pub(crate) fn check(&self, callback: &str, table: &[(&str, Expected)]) {
        let results = self.0.get(callback).unwrap_or_else(|| panic!("{callback} did not run: {self:?}"));
        let mut wrong = Vec::new();
        for (index, (path, expected)) in table.iter().enumerate() {
            let value = value(&results[index]);
            if !matches(value.as_deref(), expected) {
                let value = value.map(|value| String::from_utf8_lossy(&value).into_owned());
                wrong.push(format!("{path}: {value:?} and not {expected:?}: {}", results[index]));
            }
        }
        assert!(wrong.is_empty(), "{callback}:\n{}", wrong.join("\n"));
    }
}

fn matches(value: Option<&[u8]>, expected: &Expected) -> bool {
    match (value, expected) {
        (None, Expected::Absent) => true,
        (None, Expected::Length(range)) => *range.start() == 0,
        (Some(value), Expected::Text(text)) => value == text.as_bytes(),
        (Some(value), Expected::Int(range)) => {
            value.try_into().is_ok_and(|bytes| range.contains(&i64::from_le_bytes(bytes)))
        }
        (Some(value), Expected::Flag(flag)) => value == [u8::from(*flag)],
        (Some(value), Expected::Length(range)) => range.contains(&value.len()),
        _ => false,
    }
}

/// The bytes that a call answered, if it found any.
pub(crate) fn value(result: &Value) -> Option<Vec<u8>> {
    match status_of(result) {
        0 => {}
        1 => return None,
        status => panic!("status {status}: {result}"),
    }
    Some(match &result["out"][0] {
        Value::String(text) => text.clone().into_bytes(),
        // A null pointer: nothing, and found.
        Value::Null => Vec::new(),
        other => {
            let bytes = other["bytes"].as_array().unwrap_or_else(|| panic!("{result}"));
            bytes.iter().map(|byte| byte.as_u64().expect("a byte") as u8).collect()
        }
    })
}

/// The number that a call answered.
pub(crate) fn number(result: &Value) -> Option<i64> {
    value(result)?.as_slice().try_into().ok().map(i64::from_le_bytes)
}

/// The status of a call.
#[track_caller]
pub(crate) fn status_of(result: &Value) -> u64 {
    result["status"].as_u64().unwrap_or_else(|| panic!("no status: {result}"))
}

/// Runs programs in a request's callbacks: their results, and the response.
#[track_caller]
pub(crate) fn run(
    client: &mut Client,
    host: &str,
    path: &str,
    fields: &[(&str, &str)],
    programs: &Value,
) -> (BTreeMap<String, Value>, Response) {
    let programs = programs.to_string();
    let mut headers = fields.to_vec();
    headers.push(("x-probe", &programs));
    let response = client.request("GET", host, path, &headers, b"");
    (results(&response), response)
}

/// What the guest reports in a response's fields.
pub(crate) fn results(response: &Response) -> BTreeMap<String, Value> {
    let fields = response.headers.all("x-probe-result");
    let results = fields.iter().map(|field| {
        let (callback, results) = field.split_once(' ').expect("a callback and its results");
        (callback.to_owned(), serde_json::from_str(results).unwrap_or_else(|error| panic!("{error}: {results}")))
    });
    results.collect()
}

/// A map from its encoding.
pub(crate) fn pairs(map: &[u8]) -> Vec<(String, String)> {
    let pairs = engine::abi::pairs::decode(map, engine::abi::pairs::PairsLimits::default()).expect("a map");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    pairs.iter().map(|(name, value)| (text(name), text(value))).collect()
}

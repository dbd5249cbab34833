//! What to call, in which callback, and where the results go.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::call::{self, Scope};

/// The programs that a request or a configuration asks for.
#[derive(Default)]
pub(crate) struct Plan {
    programs: BTreeMap<String, Vec<Vec<Value>>>,
    to: Option<Sink>,
    pub(crate) tick_ms: u64,
}

/// Where results go.
#[derive(Clone, Copy)]
pub(crate) enum Sink {
    Answer,
    Header,
    Log,
}

impl Sink {
    fn parse(name: &str) -> Result<Self, String> {
        match name {
            "answer" => Ok(Self::Answer),
            "header" => Ok(Self::Header),
            "log" => Ok(Self::Log),
            _ => Err(format!("{name:?} is not answer, header or log")),
        }
    }
}

impl Plan {
    /// `{"programs": {...}, "tick_ms": 10, "to": "log"}`; what is wrong with it is logged.
    pub(crate) fn from_configuration(bytes: &[u8]) -> Option<Self> {
        let value: Value = support::parse(bytes)?;
        Self::from_value(&value).inspect_err(|error| log::error!("probe: {error}")).ok()
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let mut plan = Self::default();
        for (key, value) in value.as_object().ok_or("expected a mapping")? {
            match key.as_str() {
                "programs" => plan.programs = programs(value)?,
                "tick_ms" => plan.tick_ms = value.as_u64().ok_or("tick_ms: expected a number")?,
                "to" => plan.to = Some(Sink::parse(value.as_str().unwrap_or_default())?),
                key => return Err(format!("unknown key {key:?}")),
            }
        }
        Ok(plan)
    }

    /// What the three request headers say.
    pub(crate) fn from_request(program: &str, at: Option<&str>, to: Option<&str>) -> Result<Self, String> {
        let mut plan = Self { to: to.map(Sink::parse).transpose()?, ..Self::default() };
        let value = match program.trim_start().as_bytes().first() {
            Some(b'[' | b'{') => serde_json::from_str(program).map_err(|error| error.to_string())?,
            _ => words(program),
        };
        if value.is_object() {
            plan.programs = programs(&value)?;
        } else {
            if at.is_none() && to.is_none() {
                plan.to = Some(Sink::Answer);
            }
            let callback = at.unwrap_or("on_request_headers").to_owned();
            plan.programs.insert(callback, calls(&value)?);
        }
        Ok(plan)
    }

    /// Runs what this callback has to run, if anything: the results, and whether it is to pause.
    pub(crate) fn run(&self, callback: &str, scope: &Scope) -> Option<(Value, bool)> {
        let program = self.programs.get(callback)?;
        let mut results = Vec::with_capacity(program.len());
        let mut pause = false;
        for words in program {
            let (name, arguments) = words.split_first()?;
            let name = name.as_str().unwrap_or_default();
            pause |= name == "pause";
            let result = call::call(name, arguments, scope, &results);
            results.push(result);
        }
        Some((Value::Array(results), pause))
    }

    /// Where the results of this callback go.
    pub(crate) fn sink(&self, callback: &str) -> Sink {
        let before_response = matches!(
            callback,
            "on_request_headers" | "on_request_body" | "on_request_trailers" | "on_response_headers"
        );
        match self.to {
            Some(sink) => sink,
            None if before_response => Sink::Header,
            None => Sink::Log,
        }
    }
}

fn programs(value: &Value) -> Result<BTreeMap<String, Vec<Vec<Value>>>, String> {
    let programs = value.as_object().ok_or("expected a mapping of callbacks")?;
    programs.iter().map(|(callback, program)| Ok((callback.clone(), calls(program)?))).collect()
}

/// `[["name", argument, ...], ...]`, or text in words.
fn calls(value: &Value) -> Result<Vec<Vec<Value>>, String> {
    let parsed;
    let value = match value {
        Value::String(text) => {
            parsed = words(text);
            &parsed
        }
        value => value,
    };
    let calls = value.as_array().ok_or("expected a list of calls")?;
    calls
        .iter()
        .map(|call| match call.as_array() {
            Some(call) if call.first().is_some_and(Value::is_string) => Ok(call.clone()),
            _ => Err(format!("expected [\"name\", argument, ...] and not {call}")),
        })
        .collect()
}

/// `name argument argument; name`: a word that is JSON is what it says (`-1`, `null`, `[["k","v"]]`), any other a
/// string.
fn words(text: &str) -> Value {
    text.split(';')
        .map(|call| {
            call.split_whitespace()
                .map(|word| serde_json::from_str(word).unwrap_or_else(|_| Value::from(word)))
                .collect::<Value>()
        })
        .filter(|call| *call != Value::Array(Vec::new()))
        .collect()
}

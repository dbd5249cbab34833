//! One call: from words to parameters, and from results to JSON.

use serde_json::{Map, Value, json};

use crate::abi;

/// What the callback that runs a program was given.
#[derive(Clone, Default)]
pub(crate) struct Scope {
    pub(crate) id: u32,
    pub(crate) root: u32,
    pub(crate) queue: u32,
    pub(crate) vm_count: u32,
    pub(crate) vm_configuration: Option<Vec<u8>>,
    pub(crate) plugin_configuration: Option<Vec<u8>>,
    pub(crate) token: u32,
    pub(crate) count: usize,
    pub(crate) size: usize,
    pub(crate) trailers: usize,
    pub(crate) end_of_stream: bool,
}

impl Scope {
    pub(crate) fn enter(&mut self, count: usize, size: usize, end_of_stream: bool) {
        self.count = count;
        self.size = size;
        self.end_of_stream = end_of_stream;
    }

    pub(crate) fn enter_call(&mut self, token: u32, count: usize, size: usize, trailers: usize) {
        self.enter(count, size, true);
        self.token = token;
        self.trailers = trailers;
    }

    fn describe(&self) -> Value {
        json!({
            "id": self.id,
            "root": self.root,
            "token": self.token,
            "count": self.count,
            "size": self.size,
            "trailers": self.trailers,
            "end_of_stream": self.end_of_stream,
            "vm_configuration": self.vm_configuration.clone().map(text),
            "plugin_configuration": self.plugin_configuration.clone().map(text),
            "vm_name": support::vm_name(),
            "vm_count": self.vm_count,
        })
    }
}

/// Makes a call. `done` holds the results of those before it.
pub(crate) fn call(name: &str, arguments: &[Value], scope: &Scope, done: &[Value]) -> Value {
    let at = |index: usize| arguments.get(index).unwrap_or(&Value::Null);
    let number = |index: usize| number(at(index), scope, done);
    match name {
        "raw" => {
            let function = at(0).as_str().unwrap_or_default();
            let parameters: Vec<u64> = (1..arguments.len()).map(number).collect();
            match abi::call(function, &parameters) {
                Some(status) => json!({"call": function, "status": status}),
                None => {
                    json!({"call": function, "error": "no such function with so many parameters"})
                }
            }
        }
        "environ" => json!({"call": name, "out": std::env::vars().collect::<Vec<_>>()}),
        "args" => json!({"call": name, "out": std::env::args().collect::<Vec<_>>()}),
        "context" => json!({"call": name, "out": scope.describe()}),
        "pause" => json!({"call": name}),
        "panic" => panic!("asked to panic"),
        "exit" => std::process::exit(number(0) as i32),
        "sdk_log" => {
            let level = at(0).as_str().and_then(|level| level.parse().ok());
            let message = bytes(at(1)).unwrap_or_default();
            log::log!(level.unwrap_or(log::Level::Info), "{}", String::from_utf8_lossy(&message));
            json!({"call": name})
        }
        "random_get" => {
            let mut data = vec![0_u8; number(0) as usize];
            let parameters = [data.as_mut_ptr() as u64, data.len() as u64];
            let status = abi::call(name, &parameters);
            json!({"call": name, "status": status, "out": [{"bytes": data}]})
        }
        "fd_write" => {
            let data = bytes(at(1)).unwrap_or_default();
            let vector = [data.as_ptr() as u32, data.len() as u32];
            let mut written = 0_u32;
            let parameters = [number(0), vector.as_ptr() as u64, 1, (&raw mut written) as u64];
            let status = abi::call(name, &parameters);
            json!({"call": name, "status": status, "out": [written]})
        }
        _ => described(name, arguments, scope, done),
    }
}

/// A function that the table describes.
fn described(name: &str, arguments: &[Value], scope: &Scope, done: &[Value]) -> Value {
    let Some((name, shape)) = abi::shape(name) else {
        return json!({"call": name, "error": "unknown"});
    };
    let mut arguments = arguments.iter();
    let mut parameters: Vec<u64> = Vec::new();
    // What parameters point at; a vector's bytes stay where they are when it is moved.
    let mut inputs: Vec<Vec<u8>> = Vec::new();
    let mut outputs: Box<[u64; 8]> = Box::new([0; 8]);
    let slots = outputs.as_mut_ptr();
    let mut used = 0;
    let mut slot = || {
        used += 1;
        slots.wrapping_add(used - 1) as u64
    };
    for kind in shape.bytes() {
        let input = match kind {
            b'i' | b'I' => {
                parameters.push(number(arguments.next().unwrap_or(&Value::Null), scope, done));
                continue;
            }
            b's' => bytes(arguments.next().unwrap_or(&Value::Null)),
            b'm' => map(arguments.next().unwrap_or(&Value::Null)),
            b'p' => path(arguments.next().unwrap_or(&Value::Null)),
            b'O' | b'M' => {
                parameters.extend([slot(), slot()]);
                continue;
            }
            _ => {
                parameters.push(slot());
                continue;
            }
        };
        match input {
            Some(input) => {
                parameters.extend([input.as_ptr() as u64, input.len() as u64]);
                inputs.push(input);
            }
            None => parameters.extend([0, 0]),
        }
    }
    let status = abi::call(name, &parameters);
    drop(inputs);
    if status != Some(0) {
        return json!({"call": name, "status": status});
    }
    let mut results = outputs.iter();
    let mut word = || results.next().copied().unwrap_or_default();
    let out: Vec<Value> = shape
        .bytes()
        .filter_map(|kind| match kind {
            b'O' => Some(abi::take(word(), word()).map_or(Value::Null, text)),
            b'M' => Some(abi::take(word(), word()).map_or(Value::Null, pairs)),
            b'U' => Some(Value::from(word() as u32)),
            b'L' => Some(Value::from(word())),
            _ => None,
        })
        .collect();
    json!({"call": name, "status": 0, "out": out})
}

/// A number, a reference (`$0.1`, `$id`), or 0.
fn number(value: &Value, scope: &Scope, done: &[Value]) -> u64 {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(number) => number as u64,
            None => number.as_u64().unwrap_or_default(),
        },
        Value::Bool(flag) => u64::from(*flag),
        Value::String(text) => match text.as_str() {
            "$id" => scope.id.into(),
            "$root" => scope.root.into(),
            "$token" => scope.token.into(),
            "$queue" => scope.queue.into(),
            text => reference(text, done).unwrap_or_default(),
        },
        _ => 0,
    }
}

fn reference(text: &str, done: &[Value]) -> Option<u64> {
    let (call, out) = text.strip_prefix('$')?.split_once('.')?;
    let call = done.get(call.parse::<usize>().ok()?)?;
    call["out"].get(out.parse::<usize>().ok()?)?.as_u64()
}

/// Bytes, or none for a null pointer.
fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Object(object) => Some(spelled(object)),
        other => Some(other.to_string().into_bytes()),
    }
}

/// `{"bytes": [...]}` or `{"repeat": "x", "count": 3}`.
fn spelled(object: &Map<String, Value>) -> Vec<u8> {
    if let Some(list) = object.get("bytes").and_then(Value::as_array) {
        return list.iter().map(|byte| byte.as_u64().unwrap_or_default() as u8).collect();
    }
    let repeat = object.get("repeat").and_then(Value::as_str);
    let count = object.get("count").and_then(Value::as_u64);
    repeat.unwrap_or_default().repeat(count.unwrap_or_default() as usize).into_bytes()
}

fn path(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(dotted) => Some(dotted.replace('.', "\0").into_bytes()),
        Value::Array(parts) => {
            let parts: Vec<Vec<u8>> = parts.iter().filter_map(bytes).collect();
            Some(parts.join(&0))
        }
        other => bytes(other),
    }
}

fn map(value: &Value) -> Option<Vec<u8>> {
    let Some(list) = value.as_array() else {
        return bytes(value);
    };
    let pairs: Vec<[Vec<u8>; 2]> =
        list.iter().map(|pair| [0, 1].map(|side| bytes(&pair[side]).unwrap_or_default())).collect();
    let mut map = (pairs.len() as u32).to_le_bytes().to_vec();
    for part in pairs.iter().flatten() {
        map.extend((part.len() as u32).to_le_bytes());
    }
    for part in pairs.iter().flatten() {
        map.extend(part);
        map.push(0);
    }
    Some(map)
}

fn text(bytes: Vec<u8>) -> Value {
    match String::from_utf8(bytes) {
        Ok(text) => Value::from(text),
        Err(error) => json!({"bytes": error.into_bytes()}),
    }
}

/// A map as a list of pairs, in its order.
fn pairs(map: Vec<u8>) -> Value {
    read_pairs(&map).unwrap_or_else(|| json!({"malformed": map}))
}

fn read_pairs(map: &[u8]) -> Option<Value> {
    if map.is_empty() {
        return Some(Value::Array(Vec::new()));
    }
    let word = |index: usize| {
        let bytes = map.get(index * 4..index * 4 + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let count = word(0)?;
    let mut rest = map.get(4 + count.checked_mul(8)?..)?;
    let mut pairs = Vec::new();
    for index in 0..count {
        let mut pair = Vec::new();
        for side in [1, 2] {
            let size = word(index * 2 + side)?;
            if *rest.get(size)? != 0 {
                return None;
            }
            pair.push(text(rest[..size].to_vec()));
            rest = &rest[size + 1..];
        }
        pairs.push(Value::Array(pair));
    }
    rest.is_empty().then_some(Value::Array(pairs))
}

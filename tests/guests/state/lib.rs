//! Calls the foreign functions of shared data, and the ABI's own, as a request asks.
//!
//! Request header `x-state`: steps with `;` between them, words with spaces. The answer is 200 with a line for each:
//! - `get <key>`: `value=<text> version=<n>`, or `none`;
//! - `set <key> <value> [<version>]`: `ok` or `mismatch`;
//! - `ttl <key> <value> <milliseconds> [<version>]`: `shared_data_set_with_ttl`: `ok` or `mismatch`;
//! - `increment <key> <delta> [<milliseconds>]`: `shared_data_increment`: `sum=<n>`;
//! - `number <key>`: the value as such a number: `number=<n>`, or `none`;
//! - `delete <key>`: `shared_data_delete`: `ok`;
//! - `keys <prefix>`: `shared_data_keys`: `keys=<key>,<key>,...`, sorted as they came; `keys` alone for all;
//! - `raw <function> <hex>`: any foreign function with these arguments: `result=<hex>`;
//! - `times <count> <step>`: the step so many times over; the line of the last.
//!
//! What the host answers otherwise is `error=<status>`. The version `version` in `set` and `ttl` is the one of the last `get`.

use proxy_wasm::hostcalls::{call_foreign_function, get_shared_data, set_shared_data};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, Status};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { version: 0 }))
    }
}

struct Transaction {
    /// Of the last `get`.
    version: u32,
}

/// A step that is none.
struct Unknown;

impl Transaction {
    fn run(&mut self, step: &str) -> Result<String, Unknown> {
        let words: Vec<&str> = step.split_whitespace().collect();
        let version = |text: Option<&&str>| match text {
            None => Ok(0),
            Some(&"version") => Ok(self.version),
            Some(text) => text.parse().map_err(|_| Unknown),
        };
        let outcome = match words.as_slice() {
            ["get", key] => get_shared_data(key).map(|(value, version)| {
                self.version = version.unwrap_or(0);
                match value {
                    Some(value) => format!("value={} version={}", String::from_utf8_lossy(&value), self.version),
                    // An empty value has a version, too.
                    None if self.version > 0 => format!("value= version={}", self.version),
                    None => "none".to_owned(),
                }
            }),
            ["set", key, value, rest @ ..] if rest.len() <= 1 => {
                stored(set_shared_data(key, Some(value.as_bytes()), Some(version(rest.first())?)).map(|()| true))
            }
            ["ttl", key, value, milliseconds, rest @ ..] if rest.len() <= 1 => {
                let milliseconds: u64 = number(milliseconds)?;
                let length = u32::try_from(key.len()).map_err(|_| Unknown)?;
                let arguments = [
                    &milliseconds.to_le_bytes()[..],
                    &version(rest.first())?.to_le_bytes(),
                    &length.to_le_bytes(),
                    key.as_bytes(),
                    value.as_bytes(),
                ];
                let result = call_foreign_function("shared_data_set_with_ttl", Some(&arguments.concat()));
                stored(result.map(|result| result.as_deref() == Some(&[1])))
            }
            ["increment", key, delta, rest @ ..] if rest.len() <= 1 => {
                let delta: i64 = number(delta)?;
                let milliseconds: u64 = rest.first().map_or(Ok(0), |text| number(text))?;
                let arguments = [&delta.to_le_bytes()[..], &milliseconds.to_le_bytes(), key.as_bytes()].concat();
                let result = call_foreign_function("shared_data_increment", Some(&arguments));
                result.map(|sum| match sum.unwrap_or_default().try_into() {
                    Ok(sum) => format!("sum={}", i64::from_le_bytes(sum)),
                    Err(other) => format!("malformed={other:?}"),
                })
            }
            ["number", key] => get_shared_data(key).map(|(value, _)| {
                let number = value.and_then(|value| value.try_into().ok()).map(i64::from_le_bytes);
                number.map_or_else(|| "none".to_owned(), |number| format!("number={number}"))
            }),
            ["delete", key] => {
                call_foreign_function("shared_data_delete", Some(key.as_bytes())).map(|_| "ok".to_owned())
            }
            ["keys", prefix @ ..] if prefix.len() <= 1 => {
                let prefix = prefix.first().map_or(&b""[..], |prefix| prefix.as_bytes());
                let list = call_foreign_function("shared_data_keys", Some(prefix));
                list.map(|list| format!("keys={}", keys(&list.unwrap_or_default()).join(",")))
            }
            ["raw", function, rest @ ..] if rest.len() <= 1 => {
                let arguments = unhex(rest.first().copied().unwrap_or_default()).ok_or(Unknown)?;
                let result = call_foreign_function(function, Some(&arguments));
                result.map(|result| format!("result={}", support::hex(&result.unwrap_or_default())))
            }
            ["times", count, ..] => {
                let count: u32 = number(count)?;
                let step = step.trim_start().splitn(3, ' ').nth(2).ok_or(Unknown)?;
                let mut last = String::new();
                for _ in 0..count {
                    last = self.run(step)?;
                }
                return Ok(last);
            }
            _ => return Err(Unknown),
        };
        Ok(outcome.unwrap_or_else(|status| format!("error={status:?}")))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, Unknown> {
    text.parse().map_err(|_| Unknown)
}

fn stored(result: Result<bool, Status>) -> Result<String, Status> {
    match result {
        Ok(true) => Ok("ok".to_owned()),
        Ok(false) | Err(Status::CasMismatch) => Ok("mismatch".to_owned()),
        Err(status) => Err(status),
    }
}

/// Each with its length before it.
fn keys(mut list: &[u8]) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some((length, rest)) = list.split_first_chunk() {
        let length = u32::from_le_bytes(*length) as usize;
        let Some((key, rest)) = rest.split_at_checked(length) else { break };
        keys.push(String::from_utf8_lossy(key).into_owned());
        list = rest;
    }
    if !list.is_empty() {
        keys.push("(malformed)".to_owned());
    }
    keys
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(program) = self.get_http_request_header("x-state") else {
            return Action::Continue;
        };
        let mut text = String::new();
        for step in program.split(';').map(str::trim).filter(|step| !step.is_empty()) {
            match self.run(step) {
                Ok(line) => {
                    text.push_str(&line);
                    text.push('\n');
                }
                Err(Unknown) => {
                    self.send_http_response(400, vec![], Some(format!("x-state: {step}: no such step\n").as_bytes()));
                    return Action::Pause;
                }
            }
        }
        self.send_http_response(200, vec![("content-type", "text/plain")], Some(text.as_bytes()));
        Action::Pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_keys_are_read() {
        let list = [&1_u32.to_le_bytes()[..], b"a", &0_u32.to_le_bytes(), &3_u32.to_le_bytes(), b"b/c"].concat();
        assert_eq!(keys(&list), ["a", "", "b/c"]);
        assert_eq!(keys(&list[..list.len() - 1]), ["a", "", "(malformed)"]);
        assert!(keys(b"").is_empty());
        assert_eq!((unhex("00ff"), unhex("0"), unhex("0g")), (Some(vec![0, 255]), None, None));
    }
}

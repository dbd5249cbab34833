//! Answers in place of the origin.
//!
//! Configuration, all optional (an unknown key is refused):
//! ```json
//! {
//!   "status": 200,
//!   "reason": "the status code details",
//!   "headers": [["name", "value"], ["name", "another"]],
//!   "body": "text", "body_base64": "AAEC", "body_len": 100000,
//!   "phase": "request_headers",
//!   "grpc_status": -1,
//!   "returns": "pause"
//! }
//! ```
//! One of the three bodies at most; none is no body (a null pointer), and `""` an empty one. Byte i of a body that is
//! given by length is (i * 31 + i / 256) mod 256: it begins with NUL. `phase` is one of `request_headers` (the
//! default), `request_body`, `response_headers`, `response_body`, `done`, `log`. `returns` is what the callback
//! returns after the call: `pause` (the default) or `continue`.
//!
//! Request headers, before the configuration: `x-status`, `x-reason`, `x-body`, `x-body-len`, `x-phase`, `x-returns`,
//! and `x-header: name=value`, any number of times. With neither `status` nor `x-status`, the transaction goes on
//! untouched.
//!
//! The call is made raw, and a status other than OK is logged: `local-response: status N`. Otherwise:
//! `local-response: sent <status> in <phase>`. What comes after it is logged too: `local-response: <phase> after the
//! answer`.

use std::rc::Rc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    status: Option<u32>,
    reason: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<String>,
    body_base64: Option<String>,
    body_len: Option<usize>,
    phase: Option<String>,
    grpc_status: Option<i32>,
    returns: Option<String>,
}

/// What to answer, where.
#[derive(Clone, Default)]
struct Answer {
    status: Option<u32>,
    reason: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    body: Option<Vec<u8>>,
    phase: Option<String>,
    grpc_status: Option<i32>,
    returns: Option<String>,
}

impl TryFrom<Config> for Answer {
    type Error = String;

    fn try_from(config: Config) -> Result<Self, String> {
        let body = match (config.body, config.body_base64, config.body_len) {
            (None, None, None) => None,
            (Some(text), None, None) => Some(text.into_bytes()),
            (None, Some(base64), None) => {
                let body = BASE64_STANDARD.decode(base64);
                Some(body.map_err(|error| format!("body_base64: {error}"))?)
            }
            (None, None, Some(len)) => Some(pattern(len)),
            _ => return Err("more than one body".to_owned()),
        };
        let bytes = |(name, value): (String, String)| (name.into_bytes(), value.into_bytes());
        Ok(Self {
            status: config.status,
            reason: config.reason.map(String::into_bytes),
            headers: config.headers.into_iter().map(bytes).collect(),
            body,
            phase: config.phase,
            grpc_status: config.grpc_status,
            returns: config.returns,
        })
    }
}

/// A body that begins with NUL and holds every byte value.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 256) as u8).collect()
}

#[derive(Default)]
struct Root {
    answer: Rc<Answer>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        if size == 0 {
            return true;
        }
        let Some(config) = support::plugin_configuration::<Config>() else {
            return false;
        };
        match Answer::try_from(config) {
            Ok(answer) => {
                self.answer = Rc::new(answer);
                true
            }
            Err(error) => {
                log::error!("local-response: {error}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { answer: Rc::clone(&self.answer), sent: false }))
    }
}

struct Transaction {
    answer: Rc<Answer>,
    sent: bool,
}

impl Transaction {
    /// Takes what the request's headers say instead of the configuration.
    fn read_request(&mut self) {
        let text = |name: &str| self.get_http_request_header(name);
        let number = |name: &str| text(name).and_then(|value| value.parse::<u32>().ok());
        let mut answer = Answer::clone(&self.answer);
        answer.status = number("x-status").or(answer.status);
        answer.phase = text("x-phase").or(answer.phase);
        answer.returns = text("x-returns").or(answer.returns);
        if let Some(reason) = self.get_http_request_header_bytes("x-reason") {
            answer.reason = Some(reason);
        }
        if let Some(body) = self.get_http_request_header_bytes("x-body") {
            answer.body = Some(body);
        }
        if let Some(len) = number("x-body-len") {
            answer.body = Some(pattern(len as usize));
        }
        for (name, value) in self.get_http_request_headers_bytes() {
            if !name.eq_ignore_ascii_case("x-header") {
                continue;
            }
            if let Some(at) = value.iter().position(|byte| *byte == b'=') {
                let header = (value[..at].to_vec(), value[at + 1..].to_vec());
                answer.headers.push(header);
            }
        }
        self.answer = Rc::new(answer);
    }

    fn at(&mut self, phase: &str) -> Action {
        if self.sent {
            log::info!("local-response: {phase} after the answer");
            return Action::Continue;
        }
        let answer = Rc::clone(&self.answer);
        let Some(status) = answer.status else {
            return Action::Continue;
        };
        if answer.phase.as_deref().unwrap_or("request_headers") != phase {
            return Action::Continue;
        }
        self.sent = true;
        match send(status, &answer) {
            0 => log::info!("local-response: sent {status} in {phase}"),
            error => log::error!("local-response: status {error}"),
        }
        match answer.returns.as_deref() {
            Some("continue") => Action::Continue,
            _ => Action::Pause,
        }
    }
}

fn send(status: u32, answer: &Answer) -> u32 {
    let mut headers = u32::try_from(answer.headers.len()).unwrap_or_default().to_le_bytes().to_vec();
    for (name, value) in &answer.headers {
        headers.extend((name.len() as u32).to_le_bytes());
        headers.extend((value.len() as u32).to_le_bytes());
    }
    for (name, value) in &answer.headers {
        for part in [name, value] {
            headers.extend(part);
            headers.push(0);
        }
    }
    let parts =
        |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or((std::ptr::null(), 0), |bytes| (bytes.as_ptr(), bytes.len()));
    let (details, details_size) = parts(&answer.reason);
    let (body, body_size) = parts(&answer.body);
    // SAFETY: each pointer is null with no size, or that of a vector with its length; the host reads them during the
    // call alone.
    unsafe {
        proxy_send_local_response(
            status,
            details,
            details_size,
            body,
            body_size,
            headers.as_ptr(),
            headers.len(),
            answer.grpc_status.unwrap_or(-1),
        )
    }
}

impl Context for Transaction {
    fn on_done(&mut self) -> bool {
        self.at("done");
        true
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.read_request();
        self.at("request_headers")
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.at("request_body")
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.at("response_headers")
    }

    fn on_http_response_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.at("response_body")
    }

    fn on_log(&mut self) {
        self.at("log");
    }
}

//! A header, a body and a local response: the scenarios that the guests of every toolchain run. This one is by the Rust
//! SDK; `../c/scenarios.cc` (C++) and `../assemblyscript/scenarios.ts` do the same, each with its own word in place of
//! `rust`.
//!
//! - Every request goes on with `x-guest-request: rust`; every response has `x-guest: rust`, and the configuration, a
//!   text, in `x-guest-configuration`.
//! - `/deny` is answered 403 with `x-guest: rust` and `denied by rust\n`.
//! - On `/body`, `|rust` is put behind the body of the request and of the response. Their `content-length` goes, as it
//!   does in Envoy's filters, since it would be wrong.
//!
//! Logged: `rust: configured with 'text'`, and of bodies `rust: request body, 5 bytes` a callback, with `, end` at
//! the last.

use log::info;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

const GUEST: &str = "rust";
const SUFFIX: &[u8] = b"|rust";

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default)]
struct Root {
    configuration: String,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        self.configuration = String::from_utf8_lossy(&bytes).into_owned();
        info!("{GUEST}: configured with '{}'", self.configuration);
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { configuration: self.configuration.clone(), ..Transaction::default() }))
    }
}

#[derive(Default)]
struct Transaction {
    configuration: String,
    appends: bool,
    denied: bool,
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let path = self.get_http_request_header(":path").unwrap_or_default();
        if path == "/deny" {
            self.denied = true;
            self.send_http_response(403, vec![("x-guest", GUEST)], Some(b"denied by rust\n"));
            return Action::Pause;
        }
        self.appends = path == "/body";
        self.add_http_request_header("x-guest-request", GUEST);
        if self.appends {
            self.set_http_request_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if self.appends {
            seen("request", self.get_http_request_body(0, size), end_of_stream);
            if end_of_stream {
                self.set_http_request_body(size, 0, SUFFIX);
            }
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        // Its own answer passes by here, too, and is complete.
        if !self.denied {
            self.add_http_response_header("x-guest", GUEST);
            self.add_http_response_header("x-guest-configuration", &self.configuration);
        }
        if self.appends {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if self.appends {
            seen("response", self.get_http_response_body(0, size), end_of_stream);
            if end_of_stream {
                self.set_http_response_body(size, 0, SUFFIX);
            }
        }
        Action::Continue
    }
}

fn seen(what: &str, bytes: Option<Vec<u8>>, end_of_stream: bool) {
    let end = if end_of_stream { ", end" } else { "" };
    info!("{GUEST}: {what} body, {} bytes{end}", bytes.unwrap_or_default().len());
}

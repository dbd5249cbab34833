//! Changes pseudo-headers to what the request asks for: `x-set-path`, `x-set-method`, `x-set-authority`,
//! `x-set-scheme`, and `x-set-status` for the response. The request goes on without these headers. No configuration.
//!
//! The response has `x-was-path`, `x-was-method`, `x-was-authority`, `x-was-scheme`, `x-was-status` (before the
//! change) and `x-now-…` of each (as read back right after it); a pseudo-header that the host does not have is left
//! out.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::{Action, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_http_context(|_, _| Box::new(Transaction::default()));
}}

#[derive(Default)]
struct Transaction {
    seen: Vec<(String, Vec<u8>)>,
    status: Option<Vec<u8>>,
}

impl Transaction {
    fn see(&mut self, when: &str, name: &str, value: Option<Vec<u8>>) {
        let header = format!("x-{when}-{name}");
        self.seen.extend(value.map(|value| (header, value)));
    }
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        for name in ["method", "scheme", "authority", "path"] {
            let pseudo = format!(":{name}");
            let command = format!("x-set-{name}");
            self.see("was", name, self.get_http_request_header_bytes(&pseudo));
            if let Some(value) = self.get_http_request_header_bytes(&command) {
                self.set_http_request_header_bytes(&pseudo, Some(&value));
                self.set_http_request_header(&command, None);
            }
            self.see("now", name, self.get_http_request_header_bytes(&pseudo));
        }
        self.status = self.get_http_request_header_bytes("x-set-status");
        if self.status.is_some() {
            self.set_http_request_header("x-set-status", None);
        }
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.see("was", "status", self.get_http_response_header_bytes(":status"));
        if let Some(status) = &self.status {
            self.set_http_response_header_bytes(":status", Some(status));
        }
        self.see("now", "status", self.get_http_response_header_bytes(":status"));
        for (name, value) in &self.seen {
            self.set_http_response_header_bytes(name, Some(value));
        }
        Action::Continue
    }
}

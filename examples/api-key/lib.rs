//! Lets a request through that presents a known API key, and answers any other with 401 and a JSON body.
//!
//! The configuration is read once, in `proxy_on_configure`; the answer and its headers are made there too.

mod config;

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

use config::{Config, Verdict};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { config: None }));
}}

/// One filter configuration, shared by all of its transactions. Without one, everything is refused.
struct Root {
    config: Option<Rc<Config>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match Config::parse(&bytes) {
            Ok(config) => {
                self.config = Some(Rc::new(config));
                true
            }
            Err(error) => {
                log::error!("api-key: {error}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { config: self.config.clone() }))
    }
}

struct Transaction {
    config: Option<Rc<Config>>,
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(config) = self.config.as_deref() else {
            self.send_http_response(500, vec![], None);
            return Action::Pause;
        };
        // As bytes, here and below: what a client sends need not be UTF-8, and the SDK stops the filter on text that
        // is not.
        let key = self.get_http_request_header_bytes(&config.header);
        // The path costs a hostcall and a copy, and most configurations never look at it.
        let path = if config.reads_path() { self.get_http_request_header_bytes(":path") } else { None };
        let path = path.as_deref().unwrap_or_default();

        match config.decide(key.as_deref(), path) {
            Verdict::Exempt => {
                // Nobody but this filter may say who the client is.
                self.set_http_request_header(&config.client_header, None);
                Action::Continue
            }
            Verdict::Known(client) => {
                self.set_http_request_header(&config.client_header, Some(client));
                if !config.forward_key {
                    if key.is_some() {
                        self.set_http_request_header(&config.header, None);
                    }
                    if let Some(path) = config.path_without_key(path) {
                        self.set_http_request_header_bytes(":path", Some(&path));
                    }
                }
                Action::Continue
            }
            Verdict::Refused => {
                self.send_http_response(
                    401,
                    vec![
                        ("content-type", "application/json"),
                        ("www-authenticate", &config.challenge),
                        ("cache-control", "no-store"),
                    ],
                    Some(config::REFUSAL),
                );
                Action::Pause
            }
        }
    }
}

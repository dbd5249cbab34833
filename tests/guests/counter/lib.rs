//! Logs the life of each context, at info: `lifecycle <event> <context id>`.
//!
//! Events: `create-root`, `vm-start`, `configure`, `tick`, `queue-ready`, `create`, `request-headers`,
//! `request-body`, `request-trailers`, `response-headers`, `response-body`, `response-trailers`, `done`, `log`,
//! `delete`; those of the root context are `done-root`, `log-root`, `delete-root`.
//!
//! Configuration, all optional: `{"done": true, "root_done": true, "tick_ms": 0}`. `done` and `root_done` are what
//! `on_done` returns of a stream and of the root context; where the root's is false, the next tick logs `proxy-done`
//! and calls `proxy_done`.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|id| {
        event("create-root", id);
        Box::new(Root { id, config: Config::default(), pending: false })
    });
}}

fn event(event: &str, id: u32) {
    log::info!("lifecycle {event} {id}");
}

#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    done: bool,
    root_done: bool,
    tick_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { done: true, root_done: true, tick_ms: 0 }
    }
}

struct Root {
    id: u32,
    config: Config,
    pending: bool,
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        event("done-root", self.id);
        self.pending = !self.config.root_done;
        self.config.root_done
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, _size: usize) -> bool {
        event("vm-start", self.id);
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        event("configure", self.id);
        if size > 0 {
            match support::plugin_configuration() {
                Some(config) => self.config = config,
                None => return false,
            }
        }
        if self.config.tick_ms > 0 {
            self.set_tick_period(Duration::from_millis(self.config.tick_ms));
        }
        true
    }

    fn on_tick(&mut self) {
        event("tick", self.id);
        if std::mem::take(&mut self.pending) {
            event("proxy-done", self.id);
            self.done();
        }
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        event("queue-ready", self.id);
    }

    fn on_log(&mut self) {
        event("log-root", self.id);
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        event("create", id);
        Some(Box::new(Transaction { id, done: self.config.done }))
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        event("delete-root", self.id);
    }
}

struct Transaction {
    id: u32,
    done: bool,
}

impl Context for Transaction {
    fn on_done(&mut self) -> bool {
        event("done", self.id);
        self.done
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        event("request-headers", self.id);
        Action::Continue
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        event("request-body", self.id);
        Action::Continue
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        event("request-trailers", self.id);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        event("response-headers", self.id);
        Action::Continue
    }

    fn on_http_response_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        event("response-body", self.id);
        Action::Continue
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        event("response-trailers", self.id);
        Action::Continue
    }

    fn on_log(&mut self) {
        event("log", self.id);
    }
}

/// The SDK drops a context in `proxy_on_delete`.
impl Drop for Transaction {
    fn drop(&mut self) {
        event("delete", self.id);
    }
}

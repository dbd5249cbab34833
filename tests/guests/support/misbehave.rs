//! A filter that behaves until a chosen callback.
//!
//! The callback is named by the request header (`x-trap: on_response_headers`), or by the configuration (`{"at":
//! "on_configure"}`, for each VM and each request). `on_vm_start` cannot see the plugin configuration, so for it
//! `{"at": "on_vm_start"}` goes into the VM configuration. How is said by the `kind` of the configuration or by the
//! header with `-kind` (`x-trap-kind`).
//!
//! Callbacks: `on_vm_start`, `on_configure`, `on_tick` (every 10 ms), `on_context_create`, `on_request_headers`,
//! `on_request_body`, `on_request_trailers`, `on_response_headers`, `on_response_body`, `on_response_trailers`,
//! `on_done`, `on_log`, `on_delete`.
//!
//! A response that it lets through has the headers `<header>-guest: ok`, `x-vm-count: <requests that this VM has
//! seen>` and `x-vm-name: <random name of this VM>`, and those that the guest itself adds.

use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

/// What a misbehaving guest does.
pub struct Behaviour {
    /// The request header that chooses the callback.
    pub header: &'static str,
    /// What happens there, given the kind; it may return, with a response header to add.
    pub act: fn(kind: &str) -> Option<(String, String)>,
}

static BEHAVIOUR: OnceLock<Behaviour> = OnceLock::new();

/// Registers the contexts; called from `proxy_wasm::main!`.
pub fn misbehave(behaviour: Behaviour) {
    proxy_wasm::set_log_level(LogLevel::Info);
    let _ = BEHAVIOUR.set(behaviour);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}

#[derive(Default, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Choice {
    at: String,
    kind: String,
}

impl Choice {
    fn act(&self, callback: &str) -> Option<(String, String)> {
        if self.at != callback {
            return None;
        }
        (BEHAVIOUR.get()?.act)(&self.kind)
    }
}

#[derive(Default)]
struct Root {
    choice: Rc<Choice>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_vm_start(&mut self, _size: usize) -> bool {
        match crate::vm_configuration::<Choice>() {
            Some(choice) => choice.act("on_vm_start"),
            None => None,
        };
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        if size > 0 {
            match crate::plugin_configuration::<Choice>() {
                Some(choice) => self.choice = Rc::new(choice),
                None => return false,
            }
        }
        if self.choice.at == "on_tick" {
            self.set_tick_period(Duration::from_millis(10));
        }
        self.choice.act("on_configure");
        true
    }

    fn on_tick(&mut self) {
        self.choice.act("on_tick");
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        self.choice.act("on_context_create");
        Some(Box::new(Transaction { choice: Rc::clone(&self.choice), count: 0, headers: Vec::new() }))
    }
}

struct Transaction {
    choice: Rc<Choice>,
    count: u32,
    headers: Vec<(String, String)>,
}

impl Transaction {
    fn at(&mut self, callback: &str) -> Action {
        self.headers.extend(self.choice.act(callback));
        Action::Continue
    }
}

impl Context for Transaction {
    fn on_done(&mut self) -> bool {
        self.at("on_done");
        true
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.count = crate::count_request();
        if let Some(behaviour) = BEHAVIOUR.get()
            && let Some(at) = self.get_http_request_header(behaviour.header)
        {
            let kind = self.get_http_request_header(&format!("{}-kind", behaviour.header));
            self.choice = Rc::new(Choice { at, kind: kind.unwrap_or_default() });
        }
        self.at("on_request_headers")
    }

    fn on_http_request_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.at("on_request_body")
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.at("on_request_trailers")
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.at("on_response_headers");
        if let Some(behaviour) = BEHAVIOUR.get() {
            self.set_http_response_header(&format!("{}-guest", behaviour.header), Some("ok"));
        }
        self.set_http_response_header("x-vm-count", Some(&self.count.to_string()));
        self.set_http_response_header("x-vm-name", Some(&crate::vm_name()));
        for (name, value) in std::mem::take(&mut self.headers) {
            self.set_http_response_header(&name, Some(&value));
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, _size: usize, _end_of_stream: bool) -> Action {
        self.at("on_response_body")
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.at("on_response_trailers")
    }

    fn on_log(&mut self) {
        self.at("on_log");
    }
}

/// The SDK drops a context in `proxy_on_delete`.
impl Drop for Transaction {
    fn drop(&mut self) {
        self.at("on_delete");
    }
}

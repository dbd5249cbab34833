//! Makes the hostcalls that a request (or the configuration) asks for, and reports what came of them.
//!
//! # Programs
//!
//! A program is a list of calls, written in one of three ways:
//! - words: `get_header_map_value 0 :path; get_property request.path` (`;` between calls, spaces between arguments,
//!   none within one; an argument that is JSON is what it says, any other is a string);
//! - JSON: `[["get_header_map_value", 0, ":path"], ["get_property", ["request", "headers", "x.y"]]]`;
//! - JSON, a program for each of several callbacks: `{"on_request_headers": [...], "on_response_headers": [...]}`.
//!
//! Request headers:
//! - `x-probe`: the program;
//! - `x-probe-at`: the callback that runs a program of the first two kinds; `on_request_headers` is the default;
//! - `x-probe-to`: where the results go: `answer` (a local response: 200, `application/json`, `[result, ...]`),
//!   `header` (a response header `x-probe-result` for each callback that ran: `<callback> [result, ...]`) or `log`
//!   (an info line: `probe <callback> [result, ...]`). The default is `answer` for a program of the first two kinds
//!   without `x-probe-at`, otherwise `header` up to the response headers and `log` later.
//!
//! Configuration, optional: `{"programs": {"on_configure": [...], ...}, "tick_ms": 10, "to": "header"}`; a request
//! with `x-probe` does without these programs. The VM configuration has the same form, and only its `on_vm_start` is
//! used. A configuration without the word `"programs"` is any text, for a program to read back.
//!
//! Callbacks: `on_vm_start`, `on_configure`, `on_tick`, `on_queue_ready`, `on_context_create`, `on_request_headers`,
//! `on_request_body`, `on_request_trailers`, `on_response_headers`, `on_response_body`, `on_response_trailers`,
//! `on_http_call_response`, `on_foreign_function`, `on_done`, `on_log`, `on_delete`; `on_root_done`.
//!
//! # Calls
//!
//! Every `proxy_*` function of ABI 0.2.1, with or without `proxy_`, with its input arguments in the order of the
//! specification: a pointer and its size are one argument, and the pointers for results are left out. An argument is
//! a number; bytes (a string, `{"bytes": [0, 255]}` or `{"repeat": "x", "count": 100}`); a map (`[["k", "v"], ...]`,
//! or bytes for one that is malformed); or a property path (`"request.path"` or `["request", "path"]`). A missing
//! argument is 0 or empty; `null` is a null pointer with size 0.
//!
//! A result is `{"call": "proxy_...", "status": 0, "out": [...]}`: the raw status, and if that is 0, a value for each
//! result: a number, a string, `{"bytes": [...]}` if it is not UTF-8, `null` for a null pointer; for a map a list of
//! pairs, `{"malformed": [...]}` if it is not one.
//!
//! Others:
//! - `raw <function> <number>...`: a function of `env` or `wasi_snapshot_preview1` with these very parameters,
//!   pointers included;
//! - `clock_time_get <clock>`, `clock_res_get <clock>`, `random_get <size>`, `fd_write <fd> <bytes>`, `sched_yield`:
//!   WASI, results as above;
//! - `environ`, `args`: what the standard library sees (`out` is a list of pairs, or of strings);
//! - `exit <code>`: WASI's `proc_exit`; `panic`: a panic;
//! - `context`: `out` is `{"id", "root", "count", "end_of_stream", "size", "vm_configuration",
//!   "plugin_configuration", "vm_name", "vm_count"}`: what the callbacks were given, and the configurations as they
//!   were read in `on_vm_start` and `on_configure`;
//! - `sdk_log <level> <text>`: a line through crate `log`, from `trace` to `error`;
//! - `pause`: the callback returns Pause; a program that itself calls `send_local_response` ends with it and has
//!   `x-probe-to: log`.
//!
//! In place of a number: `"$n.m"` is result m of the nth call of this program (both from 0), `"$id"` and `"$root"`
//! are the contexts, `"$token"` and `"$queue"` what `on_http_call_response` and `on_queue_ready` were given.

mod abi;
mod call;
mod program;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel};
use serde_json::Value;

use call::Scope;
use program::{Plan, Sink};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|id| Box::new(Root {
        scope: Scope { id, root: id, ..Scope::default() },
        plan: Rc::default(),
    }));
}}

struct Root {
    scope: Scope,
    plan: Rc<Plan>,
}

impl Root {
    /// Whether a configuration is good: any text is that does not speak of programs.
    fn take_plan(&mut self, configuration: Option<&[u8]>) -> bool {
        let word = b"\"programs\"";
        let spoken = |bytes: &&[u8]| bytes.windows(word.len()).any(|part| part == word);
        let plan = match configuration.filter(spoken) {
            Some(bytes) => Plan::from_configuration(bytes),
            None => Some(Plan::default()),
        };
        let accepted = plan.is_some();
        self.plan = Rc::new(plan.unwrap_or_default());
        accepted
    }

    fn at(&self, callback: &str) {
        if let Some((results, _)) = self.plan.run(callback, &self.scope) {
            report(callback, &results);
        }
    }
}

fn report(callback: &str, results: &Value) {
    log::info!("probe {callback} {results}");
}

fn read(buffer: BufferType) -> Option<Vec<u8>> {
    hostcalls::get_buffer(buffer, 0, usize::MAX).ok()?
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, count: usize, size: usize, trailers: usize) {
        self.scope.enter_call(token, count, size, trailers);
        self.at("on_http_call_response");
    }

    fn on_foreign_function(&mut self, function: u32, size: usize) {
        self.scope.enter(function as usize, size, false);
        self.at("on_foreign_function");
    }

    fn on_done(&mut self) -> bool {
        self.at("on_root_done");
        true
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        self.scope.enter(0, size, false);
        self.scope.vm_configuration = read(BufferType::VmConfiguration);
        let accepted = self.take_plan(self.scope.vm_configuration.clone().as_deref());
        self.at("on_vm_start");
        accepted
    }

    fn on_configure(&mut self, size: usize) -> bool {
        self.scope.enter(0, size, false);
        self.scope.plugin_configuration = read(BufferType::PluginConfiguration);
        if !self.take_plan(self.scope.plugin_configuration.clone().as_deref()) {
            return false;
        }
        if self.plan.tick_ms > 0 {
            self.set_tick_period(Duration::from_millis(self.plan.tick_ms));
        }
        self.at("on_configure");
        true
    }

    fn on_tick(&mut self) {
        self.at("on_tick");
    }

    fn on_queue_ready(&mut self, queue: u32) {
        self.scope.queue = queue;
        self.at("on_queue_ready");
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        let scope = Scope { id, ..self.scope.clone() };
        if let Some((results, _)) = self.plan.run("on_context_create", &scope) {
            report("on_context_create", &results);
        }
        Some(Box::new(Transaction { scope, plan: Rc::clone(&self.plan), results: RefCell::default(), answered: false }))
    }
}

struct Transaction {
    scope: Scope,
    plan: Rc<Plan>,
    /// For the response headers.
    results: RefCell<Vec<String>>,
    answered: bool,
}

impl Transaction {
    fn at(&mut self, callback: &str) -> Action {
        let Some((results, pause)) = self.plan.run(callback, &self.scope) else {
            return Action::Continue;
        };
        match self.plan.sink(callback) {
            Sink::Answer if !self.answered => {
                self.answered = true;
                self.send_http_response(
                    200,
                    vec![("content-type", "application/json")],
                    Some(results.to_string().as_bytes()),
                );
                return Action::Pause;
            }
            Sink::Header => self.results.borrow_mut().push(format!("{callback} {results}")),
            Sink::Answer | Sink::Log => report(callback, &results),
        }
        if pause { Action::Pause } else { Action::Continue }
    }
}

impl Context for Transaction {
    fn on_http_call_response(&mut self, token: u32, count: usize, size: usize, trailers: usize) {
        self.scope.enter_call(token, count, size, trailers);
        self.at("on_http_call_response");
    }

    fn on_foreign_function(&mut self, function: u32, size: usize) {
        self.scope.enter(function as usize, size, false);
        self.at("on_foreign_function");
    }

    fn on_done(&mut self) -> bool {
        self.at("on_done");
        true
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        self.scope.enter(count, 0, end_of_stream);
        self.scope.vm_count = support::count_request();
        if let Some(program) = self.get_http_request_header("x-probe") {
            let at = self.get_http_request_header("x-probe-at");
            let to = self.get_http_request_header("x-probe-to");
            match Plan::from_request(&program, at.as_deref(), to.as_deref()) {
                Ok(plan) => self.plan = Rc::new(plan),
                Err(error) => {
                    self.answered = true;
                    self.send_http_response(400, vec![], Some(format!("x-probe: {error}\n").as_bytes()));
                    return Action::Pause;
                }
            }
        }
        self.at("on_request_headers")
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.scope.enter(0, size, end_of_stream);
        self.at("on_request_body")
    }

    fn on_http_request_trailers(&mut self, count: usize) -> Action {
        self.scope.enter(count, 0, true);
        self.at("on_request_trailers")
    }

    fn on_http_response_headers(&mut self, count: usize, end_of_stream: bool) -> Action {
        self.scope.enter(count, 0, end_of_stream);
        let action = self.at("on_response_headers");
        for result in self.results.take() {
            self.add_http_response_header("x-probe-result", &result);
        }
        action
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.scope.enter(0, size, end_of_stream);
        self.at("on_response_body")
    }

    fn on_http_response_trailers(&mut self, count: usize) -> Action {
        self.scope.enter(count, 0, true);
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

//! Makes the HTTP calls that a request (or the configuration) asks for, and reports what came of them.
//!
//! # Programs
//!
//! Request header `x-callout`: steps with `;` between them. `read <key>` answers 200 with what is in shared data under this key.
//! `call <word>...` makes a call, with these words in any order:
//! - `at=<callback>`: `request_headers` (the default), `request_body`, `response_headers`, `response_body`, `log`; a body
//!   callback calls once, with the first that there is of a body, or at its end with the word `end`;
//! - `n=<count>`: so many at once, alike; `cluster=<name>`, `upstream` without it;
//! - `method=GET`, `path=/`, `authority=callout.test`: these are the defaults; without a value (`path=`) the header is left out;
//!   `header=<name>:<value>`: one more header, as often as wanted. In values, `{i}` is the number of the call (all of a context
//!   are counted, from 0) and `{c}` its place in the chain;
//! - `body=<bytes>`: a body of the alphabet over and over; `trailers=<count>`: `x-trailer-0: 0` and so on;
//!   `timeout=<milliseconds>`, 5000 without it;
//! - `chain=<count>`: the callback makes the call again, so many times one after the other;
//! - `nowait`: the transaction goes on; without it, it pauses until all calls that it waits for are back;
//! - `answer=<status>`: the callback answers the request, with all reports so far as the body;
//! - `to=client`: the report goes into a response header `x-callout-result`; `to=origin`: into one of the request;
//!   `to=<key>`: a line in shared data. The default is `client`, of `response_body` and `log` `callout.<callback>`.
//!
//! # Reports
//!
//! `#<arrival> call=<number> link=<c> headers=<n> status=<:status> [upstream=<x-upstream>] body=<bytes>:<FNV-1a, 64 bits>
//! trailers=<n>[<name>:<value>,...] code=<n> message=<text>`: arrivals are counted from 0, `headers` and `trailers` are what the
//! callback was given, code and message are `proxy_get_status`'s, with `_` for spaces. A call that the host did not take is
//! `call=<number> link=<c> refused=<status>`. What arrives too late for a header is a line in the log: `callout: late ...`.
//!
//! # Configuration
//!
//! Optional: `{"vm_start": "call ...", "configure": "call ...", "tick": "call ...", "tick_ms": 10}`. These programs run in the
//! root context; `vm_start` counts in the VM configuration alone. Reports are lines in shared data under `callout.vm_start`,
//! `callout.configure`, `callout.tick`, unless `to` says another key. `tick` runs once, at the first tick, and with
//! `"every_tick": true` at each.

mod calls;
mod program;

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

use calls::Calls;
use program::{At, Call, Program, To};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

const RESULT: &str = "x-callout-result";

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    vm_start: String,
    configure: String,
    tick: String,
    tick_ms: u64,
    every_tick: bool,
}

#[derive(Default)]
struct Root {
    calls: Calls,
    config: Config,
}

impl Root {
    /// Whether the text is a program.
    fn run(&mut self, callback: &str, text: &str) -> bool {
        let calls = match Program::parse(text) {
            Ok(Program::Calls(calls)) => calls,
            Ok(Program::Read(_)) => Vec::new(),
            Err(error) => {
                log::error!("callout: {callback}: {error}");
                return false;
            }
        };
        for mut call in calls {
            if !matches!(call.to, To::Shared(_)) {
                call.to = To::Shared(format!("callout.{callback}"));
            }
            for report in self.calls.make(&call) {
                keep(&call, &report);
            }
        }
        true
    }
}

fn keep(call: &Call, report: &str) {
    if let To::Shared(key) = &call.to {
        support::shared::append(key, report);
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, trailers: usize) {
        match self.calls.arrive(token, headers, body, trailers) {
            Some(arrival) => {
                keep(&arrival.call, &arrival.report);
                arrival.refused.iter().for_each(|report| keep(&arrival.call, report));
            }
            None => log::error!("callout: nobody made call {token}"),
        }
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        if size == 0 {
            return true;
        }
        support::vm_configuration::<Config>().is_some_and(|config| self.run("vm_start", &config.vm_start))
    }

    fn on_configure(&mut self, size: usize) -> bool {
        if size > 0 {
            let Some(config) = support::plugin_configuration::<Config>() else {
                return false;
            };
            self.config = config;
        }
        if !self.config.tick.is_empty() {
            self.set_tick_period(Duration::from_millis(self.config.tick_ms.max(1)));
        }
        let text = self.config.configure.clone();
        self.run("configure", &text)
    }

    fn on_tick(&mut self) {
        let text = self.config.tick.clone();
        self.run("tick", &text);
        if !self.config.every_tick {
            self.set_tick_period(Duration::ZERO);
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction {
            program: Program::Calls(Vec::new()),
            calls: Calls::default(),
            paused: None,
            reports: Vec::new(),
            for_client: Vec::new(),
            past_headers: false,
            called_request_body: false,
            called_response_body: false,
            answered: false,
        }))
    }
}

#[derive(Clone, Copy)]
enum Side {
    Request,
    Response,
}

struct Transaction {
    program: Program,
    calls: Calls,
    /// The side that waits for calls.
    paused: Option<Side>,
    /// All that there are.
    reports: Vec<String>,
    /// Those that wait for the response's headers.
    for_client: Vec<String>,
    /// Whether these have gone on.
    past_headers: bool,
    called_request_body: bool,
    called_response_body: bool,
    answered: bool,
}

impl Transaction {
    fn run(&mut self, at: At, side: Side) -> Action {
        for call in self.program.at(at) {
            for report in self.calls.make(&call) {
                self.report(&call, report);
            }
        }
        self.wait(side)
    }

    fn wait(&mut self, side: Side) -> Action {
        if self.calls.wait() {
            self.paused = Some(side);
            Action::Pause
        } else {
            Action::Continue
        }
    }

    fn report(&mut self, call: &Call, report: String) {
        self.reports.push(report.clone());
        match &call.to {
            To::Shared(key) => support::shared::append(key, &report),
            To::Client if self.past_headers => log::info!("callout: late {report}"),
            // Those of response headers are in their callback, or paused in it.
            To::Client if call.at == At::ResponseHeaders => self.add_http_response_header(RESULT, &report),
            To::Client => self.for_client.push(report),
            To::Origin => self.add_http_request_header(RESULT, &report),
        }
    }
}

impl Context for Transaction {
    fn on_http_call_response(&mut self, token: u32, headers: usize, body: usize, trailers: usize) {
        let Some(arrival) = self.calls.arrive(token, headers, body, trailers) else {
            log::error!("callout: nobody made call {token}");
            return;
        };
        self.report(&arrival.call, arrival.report);
        if let Some(report) = arrival.refused {
            self.report(&arrival.call, report);
        }
        if let (Some(status), false) = (arrival.call.answer, self.answered) {
            self.answered = true;
            self.paused = None;
            let body = self.reports.join("\n");
            self.send_http_response(status, vec![("x-callout-answered", "1")], Some(body.as_bytes()));
            return;
        }
        if self.calls.wait() {
            return;
        }
        // The SDK itself stops the guest on a status that is not Ok.
        let _ = match self.paused.take() {
            Some(Side::Request) => hostcalls::resume_http_request(),
            Some(Side::Response) => {
                self.past_headers = true;
                hostcalls::resume_http_response()
            }
            None => Ok(()),
        };
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        match Program::parse(&self.get_http_request_header("x-callout").unwrap_or_default()) {
            Ok(Program::Read(key)) => {
                self.answered = true;
                self.send_http_response(200, vec![], Some(&support::shared::text(&key)));
                Action::Pause
            }
            Ok(program) => {
                self.program = program;
                self.run(At::RequestHeaders, Side::Request)
            }
            Err(error) => {
                self.answered = true;
                self.send_http_response(400, vec![], Some(format!("x-callout: {error}\n").as_bytes()));
                Action::Pause
            }
        }
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let end = self.program.at(At::RequestBody).iter().any(|call| call.end);
        if !self.called_request_body && (end_of_stream || (size > 0 && !end)) {
            self.called_request_body = true;
            return self.run(At::RequestBody, Side::Request);
        }
        self.wait(Side::Request)
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        for report in std::mem::take(&mut self.for_client) {
            self.add_http_response_header(RESULT, &report);
        }
        if self.answered {
            return Action::Continue;
        }
        let action = self.run(At::ResponseHeaders, Side::Response);
        self.past_headers = action == Action::Continue;
        action
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        let end = self.program.at(At::ResponseBody).iter().any(|call| call.end);
        if !self.answered && !self.called_response_body && (end_of_stream || (size > 0 && !end)) {
            self.called_response_body = true;
            return self.run(At::ResponseBody, Side::Response);
        }
        self.wait(Side::Response)
    }

    fn on_log(&mut self) {
        // Nothing waits any more, and no answer finds this context.
        for call in self.program.at(At::Log) {
            let refused = self.calls.make(&call);
            keep(&call, &format!("made={} refused={}", call.count, refused.len()));
        }
    }
}

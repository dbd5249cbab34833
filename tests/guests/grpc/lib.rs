//! Makes the gRPC call, or opens the stream, that a request (or the configuration) asks for, and reports what came of it.
//!
//! Request header `x-grpc`: `read <key>` answers 200 with what is in shared data under this key; `call <word>...` makes a call,
//! `stream <word>...` opens a stream, with these words in any order:
//! - `cluster=upstream`, `service=test.Echo`: these are the defaults; `method=<name>`: `Unary` of a call, `Bidi` of a stream
//!   without it; `metadata=<name>:<value>`: as often as wanted; `timeout=<milliseconds>`: of calls alone, 5000 without it;
//! - `send=<text>,<text>,...`: the messages, `{ string text = 1; uint32 number = 2; }`, numbered from `number=<n>` (1 without
//!   it); a call sends the first, a stream all at once, the last of them with the end of the stream with `end`;
//! - `echo=<count>`: a stream answers so many of the messages that come with one of the same text;
//! - `close=<count>`: a stream is closed once so many messages have come, with 0 at once;
//! - `cancel=<count>`: a call or stream is cancelled then; nothing else is reported of it, and the request goes on.
//!
//! The request waits until the call is answered, or the stream closed or cancelled. Reports are response headers
//! `x-grpc-result`, one for each event in their order:
//! - `initial n=<elements> [<name>:<value>,...]`, `trailing n=<elements> [...]`: metadata, by name;
//! - `message size=<bytes> text=<text> number=<n>`; `message size=<bytes> malformed`;
//! - `close code=<n> status=<n> message=<text>`: the callback's code, and `proxy_get_status`'s with `_` for spaces;
//! - `cancelled`; `refused=<status>`: the host did not take the call; `send=<status>`, if it did not take a message.
//!
//! Configuration, optional: `{"configure": "call ..."}`: in the root context, with its reports as lines in shared data under
//! `grpc.configure`.

mod echo;
mod program;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, Bytes, ContextType, LogLevel, MapType};
use serde::Deserialize;

use echo::Note;
use program::{Call, Program};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    configure: String,
}

/// A call or stream under way.
struct Running {
    call: Call,
    token: u32,
    received: u32,
    sent: u32,
    over: bool,
}

impl Running {
    /// Begins, or tells why not.
    fn begin(call: Call) -> Result<(Running, Vec<String>), String> {
        let metadata = call.metadata.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let (cluster, service, method) = (&call.cluster, &call.service, &call.method);
        let refused = |status| format!("refused={status:?}");
        if !call.stream {
            let text = call.send.first().cloned().unwrap_or_default();
            let message = Note { text, number: call.number }.encode();
            let token = hostcalls::dispatch_grpc_call(cluster, service, method, metadata, Some(&message), call.timeout)
                .map_err(refused)?;
            let mut running = Running { call, token, received: 0, sent: 1, over: false };
            let reports = running.act().into_iter().collect();
            return Ok((running, reports));
        }
        let token = hostcalls::open_grpc_stream(cluster, service, method, metadata).map_err(refused)?;
        let mut running = Running { call, token, received: 0, sent: 0, over: false };
        let mut reports = Vec::new();
        let texts = running.call.send.clone();
        for (place, text) in texts.iter().enumerate() {
            let last = running.call.end && place + 1 == texts.len() && running.call.echo == 0;
            reports.extend(running.send(text, last));
        }
        reports.extend(running.act());
        Ok((running, reports))
    }

    fn send(&mut self, text: &str, last: bool) -> Option<String> {
        let note = Note { text: text.to_owned(), number: self.call.number + self.sent };
        self.sent += 1;
        let sent = hostcalls::send_grpc_stream_message(self.token, Some(&note.encode()), last);
        sent.err().map(|status| format!("send={status:?}"))
    }

    /// Closes or cancels, if it is time.
    fn act(&mut self) -> Option<String> {
        if self.call.cancel == Some(self.received) {
            self.over = true;
            let cancelled = if self.call.stream {
                hostcalls::cancel_grpc_stream(self.token)
            } else {
                hostcalls::cancel_grpc_call(self.token)
            };
            return Some(cancelled.map_or_else(|status| format!("cancel={status:?}"), |()| "cancelled".to_owned()));
        }
        if self.call.stream && self.call.close == Some(self.received) {
            return hostcalls::close_grpc_stream(self.token).err().map(|status| format!("close={status:?}"));
        }
        None
    }

    /// A message has come.
    fn receive(&mut self, size: usize) -> Vec<String> {
        self.received += 1;
        let bytes = hostcalls::get_buffer(BufferType::GrpcReceiveBuffer, 0, size).ok().flatten().unwrap_or_default();
        let note = Note::decode(&bytes);
        let mut reports = vec![match &note {
            Some(Note { text, number }) => format!("message size={size} text={text} number={number}"),
            None => format!("message size={size} malformed"),
        }];
        if !self.call.stream {
            self.over = true;
            return reports;
        }
        if self.received <= self.call.echo {
            let last = self.call.end && self.received == self.call.echo;
            reports.extend(self.send(&note.unwrap_or_default().text, last));
        }
        reports.extend(self.act());
        reports
    }

    fn closed(&mut self, code: u32) -> String {
        self.over = true;
        let (status, message) = hostcalls::get_grpc_status().unwrap_or_default();
        format!("close code={code} status={status} message={}", message.unwrap_or_default().replace(' ', "_"))
    }
}

fn metadata(event: &str, map: MapType, elements: u32) -> String {
    let all: Vec<(String, Bytes)> = hostcalls::get_map_bytes(map).unwrap_or_default();
    let mut all: Vec<_> =
        all.iter().map(|(name, value)| format!("{name}:{}", String::from_utf8_lossy(value))).collect();
    all.sort_unstable();
    format!("{event} n={elements} [{}]", all.join(","))
}

/// What both kinds of contexts do with their call.
trait Owner {
    fn running(&mut self, token: u32) -> Option<&mut Running>;
    fn report(&mut self, reports: Vec<String>);

    fn received(&mut self, token: u32, size: usize) {
        if let Some(reports) = self.running(token).map(|running| running.receive(size)) {
            self.report(reports);
        }
    }

    fn closed(&mut self, token: u32, code: u32) {
        if let Some(report) = self.running(token).map(|running| running.closed(code)) {
            self.report(vec![report]);
        }
    }

    fn told(&mut self, token: u32, event: &str, map: MapType, elements: u32) {
        if self.running(token).is_some() {
            self.report(vec![metadata(event, map, elements)]);
        }
    }
}

/// The SDK's callbacks, the same for both.
macro_rules! callbacks {
    () => {
        fn on_grpc_call_response(&mut self, token: u32, code: u32, size: usize) {
            // The SDK has one callback for both outcomes. A call that succeeds may well have an empty message.
            if code == 0 { self.received(token, size) } else { self.closed(token, code) }
        }

        fn on_grpc_stream_initial_metadata(&mut self, token: u32, elements: u32) {
            self.told(token, "initial", MapType::GrpcReceiveInitialMetadata, elements);
        }

        fn on_grpc_stream_message(&mut self, token: u32, size: usize) {
            self.received(token, size);
        }

        fn on_grpc_stream_trailing_metadata(&mut self, token: u32, elements: u32) {
            self.told(token, "trailing", MapType::GrpcReceiveTrailingMetadata, elements);
        }

        fn on_grpc_stream_close(&mut self, token: u32, code: u32) {
            self.closed(token, code);
        }
    };
}

#[derive(Default)]
struct Root {
    running: Option<Running>,
}

impl Owner for Root {
    fn running(&mut self, token: u32) -> Option<&mut Running> {
        self.running.as_mut().filter(|running| running.token == token && !running.over)
    }

    fn report(&mut self, reports: Vec<String>) {
        reports.iter().for_each(|report| support::shared::append("grpc.configure", report));
    }
}

impl Context for Root {
    callbacks!();
}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let config = if size == 0 { Some(Config::default()) } else { support::plugin_configuration::<Config>() };
        let Some(config) = config else {
            return false;
        };
        match Program::parse(&config.configure) {
            Ok(Program::Call(call)) => match Running::begin(*call) {
                Ok((running, reports)) => {
                    self.running = Some(running);
                    self.report(reports);
                }
                Err(report) => self.report(vec![report]),
            },
            Ok(Program::Pass | Program::Read(_)) => {}
            Err(error) => {
                log::error!("grpc: {error}");
                return false;
            }
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { running: None, paused: false, reports: Vec::new() }))
    }
}

struct Transaction {
    running: Option<Running>,
    paused: bool,
    /// For the response's headers.
    reports: Vec<String>,
}

impl Owner for Transaction {
    fn running(&mut self, token: u32) -> Option<&mut Running> {
        self.running.as_mut().filter(|running| running.token == token && !running.over)
    }

    fn report(&mut self, reports: Vec<String>) {
        self.reports.extend(reports);
        if self.paused && self.running.as_ref().is_none_or(|running| running.over) {
            self.paused = false;
            self.resume_http_request();
        }
    }
}

impl Context for Transaction {
    callbacks!();
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        match Program::parse(&self.get_http_request_header("x-grpc").unwrap_or_default()) {
            Ok(Program::Pass) => Action::Continue,
            Ok(Program::Read(key)) => {
                self.send_http_response(200, vec![], Some(&support::shared::text(&key)));
                Action::Pause
            }
            Ok(Program::Call(call)) => match Running::begin(*call) {
                Ok((running, reports)) => {
                    self.reports = reports;
                    self.paused = !running.over;
                    self.running = Some(running);
                    if self.paused { Action::Pause } else { Action::Continue }
                }
                Err(report) => {
                    self.reports.push(report);
                    Action::Continue
                }
            },
            Err(error) => {
                self.send_http_response(400, vec![], Some(format!("x-grpc: {error}\n").as_bytes()));
                Action::Pause
            }
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        for report in std::mem::take(&mut self.reports) {
            self.add_http_response_header("x-grpc-result", &report);
        }
        Action::Continue
    }
}

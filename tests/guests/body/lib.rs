//! Does to bodies what the request asks for, and tells what it saw of them.
//!
//! Request header `x-op`: one or more of `<side>:<operation>[:<position>]`, with commas; the side is `request` or
//! `response`. Configuration, optional: `{"request": "append", "response": "inject:100"}`, for requests that do not
//! ask. Without either a body passes.
//!
//! - `pass`: nothing; `read`: nothing, but all of it is read;
//! - `append`, `prepend`: `<appended>` at the end, `<prepended>` at the front;
//! - `inject`: `<injected>` before the byte at the position, or at the end of a body that is shorter;
//! - `partial`: `<part>` in place of eight bytes from the position on;
//! - `replace`: `<replaced>` in place of all of it; `drop`: nothing in its place;
//! - `hold`: pauses until the end, then `x-hold: <size> <hash>` goes into the headers of that side, if the host still
//!   lets it; FNV-1a in 64 bits, hexadecimal, of every `position`th byte (of all without);
//! - `late`: passes what comes before the position, then pauses until the end;
//! - `answer`: 403 with `x-answer: <side>` as soon as there is a body.
//!
//! What changes the length removes content-length first, unless the request has `x-keep-cl`.
//!
//! The response has `x-request-seen: chunks=<n> bytes=<n> eos=<n>`. With the request header `x-story: 1` there is a
//! line in the log for each callback: `body: <callback> [<size>] [eos]`, and for `read` a line with the hash.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, BufferType, ContextType, LogLevel, MapType};
use serde::Deserialize;
use support::Fnv;

use std::rc::Rc;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// Read at a time, so that a large body needs little memory here.
const WINDOW: usize = 64 * 1024;
/// What `partial` replaces.
const PART: u64 = 8;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    request: String,
    response: String,
}

#[derive(Default)]
struct Root {
    config: Rc<Config>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        if size > 0 {
            match support::plugin_configuration::<Config>() {
                Some(config) => self.config = Rc::new(config),
                None => return false,
            }
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction {
            config: Rc::clone(&self.config),
            request: Side::new("request"),
            response: Side::new("response"),
            keep_length: false,
            story: false,
        }))
    }
}

/// One direction of a transaction.
struct Side {
    name: &'static str,
    operation: String,
    position: u64,
    /// How much of the body has passed before this callback.
    offset: u64,
    chunks: u64,
    bytes: u64,
    ends: u64,
    hash: Fnv,
    /// Whether what happens once has happened.
    done: bool,
    /// What `partial` has still to take away.
    skip: u64,
}

impl Side {
    fn new(name: &'static str) -> Side {
        Side {
            name,
            operation: "pass".to_owned(),
            position: 0,
            offset: 0,
            chunks: 0,
            bytes: 0,
            ends: 0,
            hash: Fnv::default(),
            done: false,
            skip: 0,
        }
    }

    fn set(&mut self, words: &str) {
        let mut words = words.trim().splitn(2, ':');
        match words.next() {
            None | Some("") => {}
            Some(operation) => operation.clone_into(&mut self.operation),
        }
        self.position = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    }

    fn changes_length(&self) -> bool {
        matches!(self.operation.as_str(), "append" | "prepend" | "inject" | "partial" | "replace" | "drop")
    }

    fn buffer(&self) -> BufferType {
        if self.name == "request" { BufferType::HttpRequestBody } else { BufferType::HttpResponseBody }
    }

    fn headers(&self) -> MapType {
        if self.name == "request" { MapType::HttpRequestHeaders } else { MapType::HttpResponseHeaders }
    }

    fn write(&self, start: usize, size: usize, bytes: &str) {
        if let Err(status) = hostcalls::set_buffer(self.buffer(), start, size, bytes.as_bytes()) {
            log::error!("body: {} {start} {size}: {status:?}", self.name);
        }
    }

    /// Takes a hash of what is in the buffer.
    fn read(&mut self, size: usize, step: usize) {
        let mut start = 0;
        while start < size {
            let wanted = WINDOW.min(size - start);
            match hostcalls::get_buffer(self.buffer(), start, wanted) {
                Ok(Some(bytes)) if bytes.len() == wanted => {
                    // Of every step'th byte, counted over windows.
                    let first = start.next_multiple_of(step) - start;
                    bytes.iter().skip(first).step_by(step).for_each(|&byte| self.hash.update(byte));
                }
                other => {
                    let came = other.map(|bytes| bytes.map(|bytes| bytes.len()));
                    log::error!("body: {} {start} of {size}: {wanted} wanted, {came:?} came", self.name);
                    return;
                }
            }
            start += wanted;
        }
    }

    fn body(&mut self, size: usize, end: bool) -> Action {
        self.chunks += 1;
        self.ends += u64::from(end);
        let from = self.offset;
        let to = from + size as u64;
        let holds = self.operation == "hold";
        self.bytes = if holds { size as u64 } else { to };
        match self.operation.as_str() {
            "read" => self.read(size, 1),
            "append" if end => self.write(size, 0, "<appended>"),
            "prepend" if !self.done => {
                self.done = true;
                self.write(0, 0, "<prepended>");
            }
            "inject" if !self.done && (self.position < to || end) => {
                self.done = true;
                let at = self.position.clamp(from, to) - from;
                self.write(at as usize, 0, "<injected>");
            }
            "partial" if !self.done && self.position < to => {
                self.done = true;
                let at = self.position - from;
                let size = PART.min(size as u64 - at);
                self.skip = PART - size;
                self.write(at as usize, size as usize, "<part>");
            }
            "partial" if self.skip > 0 && size > 0 => {
                let size = self.skip.min(size as u64);
                self.skip -= size;
                self.write(0, size as usize, "");
            }
            "replace" => {
                let bytes = if self.done { "" } else { "<replaced>" };
                if size > 0 || !self.done {
                    self.write(0, size, bytes);
                }
                self.done = true;
            }
            "drop" if size > 0 => self.write(0, size, ""),
            "hold" if !end => return Action::Pause,
            "hold" => {
                self.read(size, (self.position as usize).max(1));
                set_header(self.headers(), "x-hold", &format!("{size} {:016x}", self.hash.0));
            }
            "late" if !end && to > self.position => return Action::Pause,
            "answer" if !self.done => {
                self.done = true;
                let body = format!("answered at the {} body\n", self.name);
                let sent = hostcalls::send_http_response(403, vec![("x-answer", self.name)], Some(body.as_bytes()));
                if let Err(status) = sent {
                    log::error!("body: the answer: {status:?}");
                }
                return Action::Pause;
            }
            "answer" => return Action::Pause,
            _ => {}
        }
        self.offset = to;
        Action::Continue
    }
}

struct Transaction {
    config: Rc<Config>,
    request: Side,
    response: Side,
    keep_length: bool,
    story: bool,
}

impl Transaction {
    fn tell(&self, callback: &str, size: Option<usize>, end: bool) {
        if self.story {
            let size = size.map(|size| format!(" {size}")).unwrap_or_default();
            log::info!("body: {callback}{size}{}", if end { " eos" } else { "" });
        }
    }
}

impl Context for Transaction {
    fn on_done(&mut self) -> bool {
        self.tell("done", None, false);
        true
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.request.set(&self.config.request);
        self.response.set(&self.config.response);
        for words in self.get_http_request_header("x-op").unwrap_or_default().split(',') {
            match words.trim().split_once(':') {
                Some(("request", operation)) => self.request.set(operation),
                Some(("response", operation)) => self.response.set(operation),
                _ => {}
            }
        }
        self.keep_length = self.get_http_request_header("x-keep-cl").is_some();
        self.story = self.get_http_request_header("x-story").is_some();
        self.tell("request_headers", None, end_of_stream);
        if self.request.changes_length() && !self.keep_length {
            self.set_http_request_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.tell("request_body", Some(size), end_of_stream);
        self.request.body(size, end_of_stream)
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.tell("response_headers", None, end_of_stream);
        let Side { chunks, bytes, ends, .. } = self.request;
        set_header(
            MapType::HttpResponseHeaders,
            "x-request-seen",
            &format!("chunks={chunks} bytes={bytes} eos={ends}"),
        );
        if self.response.changes_length() && !self.keep_length {
            self.set_http_response_header("content-length", None);
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.tell("response_body", Some(size), end_of_stream);
        self.response.body(size, end_of_stream)
    }

    fn on_log(&mut self) {
        self.tell("log", None, false);
        if self.story {
            for side in [&self.request, &self.response] {
                let Side { name, chunks, bytes, ends, .. } = side;
                log::info!("body: seen of {name} chunks={chunks} bytes={bytes} eos={ends} hash={:016x}", side.hash.0);
            }
        }
    }
}

/// The SDK drops a context in `proxy_on_delete`.
impl Drop for Transaction {
    fn drop(&mut self) {
        self.tell("delete", None, false);
    }
}

/// Sets a header if the host still lets it; the SDK would stop the guest if not.
fn set_header(map: MapType, name: &str, value: &str) {
    #[link(wasm_import_module = "env")]
    unsafe extern "C" {
        fn proxy_replace_header_map_value(
            map: u32,
            name: *const u8,
            name_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
    }
    // SAFETY: both are given with their own lengths, and the host only reads them.
    let status =
        unsafe { proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len()) };
    if status != 0 {
        log::info!("body: {name} comes too late: {status}");
    }
}

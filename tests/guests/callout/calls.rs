//! Calls under way, and what is reported of them.

use std::collections::HashMap;
use std::fmt::Write as _;

use proxy_wasm::hostcalls;
use proxy_wasm::types::{BufferType, MapType};
use support::Fnv;

use crate::program::Call;

/// Read at a time, so that a large body needs little memory here.
const WINDOW: usize = 64 * 1024;

/// A call under way.
struct Waiting {
    call: Call,
    number: u32,
    link: u32,
}

/// The calls of one context.
#[derive(Default)]
pub struct Calls {
    waiting: HashMap<u32, Waiting>,
    made: u32,
    arrived: u32,
}

/// What came of a call.
pub struct Arrival {
    pub call: Call,
    pub report: String,
    /// Of a call that the callback made in its place and that was refused.
    pub refused: Option<String>,
}

impl Calls {
    /// Makes a call as often as it says; gives the reports of those that were refused.
    pub fn make(&mut self, call: &Call) -> Vec<String> {
        (0..call.count)
            .filter_map(|_| {
                let number = self.made;
                self.made += 1;
                self.dispatch(Waiting { call: call.clone(), number, link: 0 })
            })
            .collect()
    }

    /// Whether there is still one for which the transaction waits.
    pub fn wait(&self) -> bool {
        self.waiting.values().any(|waiting| waiting.call.wait)
    }

    fn dispatch(&mut self, waiting: Waiting) -> Option<String> {
        let Waiting { call, number, link } = &waiting;
        let fill = |text: &str| text.replace("{i}", &number.to_string()).replace("{c}", &link.to_string());
        let headers: Vec<(String, String)> =
            call.headers.iter().map(|(name, value)| (name.clone(), fill(value))).collect();
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let trailers: Vec<(String, String)> =
            (0..call.trailers).map(|n| (format!("x-trailer-{n}"), n.to_string())).collect();
        let trailers = trailers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body: Option<Vec<u8>> = call.body.map(|size| (b'a'..=b'z').cycle().take(size).collect());
        match hostcalls::dispatch_http_call(&call.cluster, headers, body.as_deref(), trailers, call.timeout) {
            Ok(token) => {
                self.waiting.insert(token, waiting);
                None
            }
            Err(status) => Some(format!("call={number} link={link} refused={status:?}")),
        }
    }

    /// The answer to one of these calls. Makes the next of its chain.
    pub fn arrive(&mut self, token: u32, headers: usize, body: usize, trailers: usize) -> Option<Arrival> {
        let Waiting { call, number, link } = self.waiting.remove(&token)?;
        let report = format!("#{} call={number} link={link} {}", self.arrived, tell(headers, body, trailers));
        self.arrived += 1;
        let again = link < call.chain;
        let refused = if again { self.dispatch(Waiting { call: call.clone(), number, link: link + 1 }) } else { None };
        Some(Arrival { call, report, refused })
    }
}

fn tell(headers: usize, body: usize, trailers: usize) -> String {
    let mut text = format!("headers={headers}");
    let status = hostcalls::get_map_value(MapType::HttpCallResponseHeaders, ":status").ok().flatten();
    let _ = write!(text, " status={}", status.as_deref().unwrap_or("-"));
    // What a test lets an upstream say.
    if let Ok(Some(value)) = hostcalls::get_map_value(MapType::HttpCallResponseHeaders, "x-upstream") {
        let _ = write!(text, " upstream={value}");
    }
    let (size, hash) = hash(body);
    let _ = write!(text, " body={size}:{hash:016x} trailers={trailers}");
    if trailers > 0 {
        let all = hostcalls::get_map(MapType::HttpCallResponseTrailers).unwrap_or_default();
        let all: Vec<_> = all.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let _ = write!(text, "[{}]", all.join(","));
    }
    let (code, message) = hostcalls::get_grpc_status().unwrap_or_default();
    let _ = write!(text, " code={code} message={}", message.unwrap_or_default().replace(' ', "_"));
    text
}

/// How much of the body there is, and its hash.
fn hash(size: usize) -> (usize, u64) {
    let mut hash = Fnv::default();
    let mut start = 0;
    while start < size {
        let wanted = WINDOW.min(size - start);
        let bytes = hostcalls::get_buffer(BufferType::HttpCallResponseBody, start, wanted).ok().flatten();
        let bytes = bytes.unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        bytes.iter().for_each(|&byte| hash.update(byte));
        start += bytes.len();
    }
    (start, hash.0)
}

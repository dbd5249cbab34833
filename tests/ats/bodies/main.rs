//! Bodies through filters: every operation on every kind of body arrives byte for byte, in frames that are right.
//!
//! What is special about requests that try to be two is in smuggling.rs, what ends early in aborts.rs.

mod cases;
mod early;
mod lengths;
mod limits;
mod table;

use std::time::Duration;

use wasm_remap_tests::{Builder, Origin, Payload, Reply, Request, Rule, TrafficServer};

const PATIENCE: Duration = Duration::from_secs(10);
const MB: u64 = 1_000_000;
const KIB: u64 = 1024;

/// A filter file with guest `body`, and these keys of the filter beside.
fn filter(keys: &str) -> String {
    format!(
        "filters:\n  - name: body\n    module: {{guest:body}}\n    limits: {{callback_ms: 5000, log_lines_per_second: 100000}}\n{}",
        indent(keys)
    )
}

/// The same, allowed to hold 200 MiB of a body.
fn wide(keys: &str) -> String {
    filter(keys).replace("callback_ms: 5000", "callback_ms: 5000, body_kib: 204800")
}

fn indent(keys: &str) -> String {
    keys.lines().map(|line| format!("    {line}\n")).collect()
}

fn builder(origin: &Origin) -> Builder {
    let files = [
        ("stream", filter("")),
        ("buffer", filter("request_body: buffer")),
        ("wide", wide("")),
        ("widebuffer", wide("request_body: buffer")),
        ("origin", filter("at: origin")),
        ("none", filter("body: none")),
        ("request", filter("body: request")),
        ("response", filter("body: response")),
    ];
    let mut builder = TrafficServer::builder()
        .origin(origin)
        .tls()
        .rule(Rule::new("plain.test", "http://{origin}/"))
        .record("proxy.config.http.post_copy_size", 200 << 20)
        .record("proxy.config.http.send_100_continue_response", 1)
        // While ATS buffers a request it gives back no window, 64 KiB else: larger ones would wait for their timeout.
        .record("proxy.config.http2.initial_window_size_in", 200 << 20)
        .file("storage.config", "{root}/cache 512M\n");
    for (name, text) in files {
        let (host, file) = (format!("{name}.test"), format!("{name}.yaml"));
        builder = builder
            .rule(Rule::new(&host, "http://{origin}/").wasm([&file]))
            .rule(Rule::new(&host, "http://{origin}/").tls().wasm([&file]))
            .file(&file, &text);
    }
    builder
}

/// An origin that answers `/up…` shortly and `/down/<cl|chunked|close>/<length>…` with so many bytes, cacheable up to
/// 20 MB.
fn origin() -> Origin {
    let origin = Origin::start();
    origin.measure();
    origin.route("/up*", Reply::new(200).body("got it"));
    origin.route("/down/*", |request: &Request| {
        let mut parts = request.path().split('/').skip(2);
        let (framing, len) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let len: u64 = len.parse().expect("a length in the path");
        let reply = Reply::new(200).payload(body(len)).header("ETag", "\"e1\"");
        let reply = if len <= 20 * MB { reply.cacheable(600) } else { reply };
        match framing {
            "chunked" => reply.chunked(10_000),
            "close" => reply.until_close(),
            _ => reply,
        }
    });
    origin
}

/// The body of this length in all of these tests.
fn body(len: u64) -> Payload {
    Payload::seed(len, len)
}

/// What an operation makes of a body; the guest's `position` is its middle.
fn expected(operation: &str, len: u64) -> Payload {
    let body = body(len);
    match operation {
        "append" => body.splice(len, 0, "<appended>"),
        "prepend" => body.splice(0, 0, "<prepended>"),
        "inject" => body.splice(len / 2, 0, "<injected>"),
        "partial" if len > 0 => body.splice(len / 2, 8, "<part>"),
        "replace" => Payload::bytes("<replaced>"),
        "drop" => Payload::default(),
        _ => body,
    }
}

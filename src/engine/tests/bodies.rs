//! Bodies on their way through a chain: order, holding, limits, answers, and what passes when.

mod support;

use std::sync::Arc;

use engine::testing::SharedTransaction;
use engine::{At, BodyBuffer, Bytes, Chain, Passed, Side, Stream, Verdict};
use support::{Bench, request};

const IMPORTS: &str = r#"
  (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_status" (func $status (param i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_set_property" (func $property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))"#;

/// A guest whose body callbacks, `$id` `$size` `$end` in, `$side` 0 or 1, do as `body` says.
fn guest(bench: &Bench, file: &str, body: &str) {
    guest_with(bench, file, body, "");
}

fn guest_with(bench: &Bench, file: &str, body: &str, more: &str) {
    let text = format!(
        r#"(data (i32.const 16) "[]") (data (i32.const 32) "plugin_body") (data (i32.const 64) "request")
        (global $last (mut i32) (i32.const 0))
        (func $body (param $side i32) (param $id i32) (param $size i32) (param $end i32) (result i32)
          (global.set $last (local.get $id)) {body})
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
          (call $body (i32.const 0) (local.get 0) (local.get 1) (local.get 2)))
        (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32)
          (call $body (i32.const 1) (local.get 0) (local.get 1) (local.get 2)))
        {more}"#
    );
    bench.module(file, IMPORTS, &text);
}

const SET: &str =
    "(drop (call $set (local.get $side) (i32.const {start}) (i32.const {size}) (i32.const {data}) (i32.const 1)))";

fn set(start: i32, size: i32, data: i32) -> String {
    let text = SET.replace("{start}", &start.to_string()).replace("{size}", &size.to_string());
    text.replace("{data}", &data.to_string())
}

/// Puts what a filter saw in brackets, callback by callback, and lets it pass.
fn bracketing(bench: &Bench, file: &str) {
    let body = format!("{}{}(i32.const 0)", set(0, 0, 16), set(i32::MAX, 0, 17));
    guest(bench, file, &body);
}

/// Holds until the end, then puts brackets around the whole.
fn holding(bench: &Bench, file: &str) {
    let body = format!(
        "(if (i32.eqz (local.get $end)) (then (return (i32.const 1)))) {}{}(i32.const 0)",
        set(0, 0, 16),
        set(i32::MAX, 0, 17)
    );
    guest(bench, file, &body);
}

fn text(passed: Passed) -> (String, bool) {
    let mut out = Vec::new();
    if let Some(bytes) = passed.bytes {
        bytes.read(0, bytes.len(), &mut |piece| out.extend_from_slice(piece));
    }
    (String::from_utf8(out).unwrap(), passed.end)
}

struct Flow {
    stream: Stream,
    _transaction: SharedTransaction,
}

impl Flow {
    fn new(bench: &Bench, chain: &Arc<Chain>) -> Self {
        let transaction = request();
        let mut stream = bench.stream(chain, &transaction);
        assert_eq!(stream.request_headers(false), Verdict::Continue);
        transaction.0.lock().response = Some(vec![]);
        Flow { stream, _transaction: transaction }
    }

    fn give(&mut self, side: Side, bytes: &str, end: bool) -> Verdict {
        let chunk = (!bytes.is_empty()).then(|| Box::new(Bytes(bytes.into())) as Box<dyn BodyBuffer>);
        self.stream.body(side, chunk, end)
    }

    fn taken(&mut self, side: Side) -> (String, bool) {
        text(self.stream.take_body(side))
    }
}

fn got(text: &str, end: bool) -> (String, bool) {
    (text.to_owned(), end)
}

#[test]
fn chunks_pass_filters_in_order_and_responses_in_reverse() {
    let bench = Bench::new(1);
    bracketing(&bench, "a.wasm");
    guest(&bench, "b.wasm", &format!("{}(i32.const 0)", set(0, 1, 17)));
    let chain = bench.chain("filters:\n- {name: a, module: a.wasm}\n- {name: b, module: b.wasm}\n").unwrap();
    assert!(chain.needs().request_body && chain.needs().response_body == Some(At::Client));
    let mut flow = Flow::new(&bench, &chain);
    assert_eq!(flow.give(Side::Request, "one", false), Verdict::Continue);
    assert_eq!(flow.taken(Side::Request), got("]one]", false), "a wrapped it, b replaced the first byte");
    assert_eq!(flow.give(Side::Request, "two", true), Verdict::Continue);
    assert_eq!(flow.taken(Side::Request), got("]two]", true));
    assert!(flow.stream.changed_body(Side::Request) && !flow.stream.changed_body(Side::Response));
    assert_eq!(flow.stream.response_headers(At::Client, false), Verdict::Continue);
    assert_eq!(flow.give(Side::Response, "one", true), Verdict::Continue);
    assert_eq!(flow.taken(Side::Response), got("[]ne]", true), "b replaced the first byte, a wrapped that");
}

#[test]
fn a_filter_that_holds_sees_the_whole_and_the_others_as_much_as_passes() {
    let bench = Bench::new(1);
    bracketing(&bench, "a.wasm");
    holding(&bench, "h.wasm");
    let yaml = "filters:\n- {name: a, module: a.wasm}\n- {name: h, module: h.wasm}\n- {name: z, module: a.wasm}\n";
    let chain = bench.chain(yaml).unwrap();
    let mut flow = Flow::new(&bench, &chain);
    for piece in ["1", "2"] {
        assert_eq!(flow.give(Side::Request, piece, false), Verdict::Pause);
        assert_eq!(flow.taken(Side::Request), got("", false));
        assert!(flow.stream.wants_more(Side::Request));
        assert!(flow.stream.deadline().is_none(), "it waits for the client, which is not its fault");
    }
    assert_eq!(flow.give(Side::Request, "", true), Verdict::Continue);
    assert_eq!(flow.taken(Side::Request), got("[[[1][2][]]]", true), "the end alone is a chunk too");
    assert_eq!(bench.runtime.counters().pauses, 1, "one pause, however long");
}

#[test]
fn what_is_held_goes_on_when_somebody_says_so() {
    let bench = Bench::new(1);
    guest_with(
        &bench,
        "t.wasm",
        "(i32.const 1)",
        r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) (drop (call $tick (i32.const 1))) (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $effective (global.get $last)))
          (drop (call $set (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 1)))
          (drop (call $continue (i32.const 0))))"#,
    );
    let chain = bench.chain("filters: [{name: t, module: t.wasm}]").unwrap();
    let mut flow = Flow::new(&bench, &chain);
    assert_eq!(flow.give(Side::Request, "abc", true), Verdict::Pause);
    assert!(flow.stream.deadline().is_some(), "now it is the filter's doing");
    assert_eq!(flow.stream.resume(), Verdict::Pause, "nobody asked for it yet");
    std::thread::sleep(std::time::Duration::from_millis(5));
    bench.runtime.run_timers(0);
    assert_eq!(flow.stream.resume(), Verdict::Continue);
    assert_eq!(flow.taken(Side::Request), got("[abc", true), "the tick saw and changed what was held");
}

#[test]
fn headers_that_are_held_hold_the_body_and_bound_it() {
    let bench = Bench::new(1);
    guest_with(
        &bench,
        "h.wasm",
        &format!("{}(i32.const 0)", set(0, 0, 16)),
        r#"(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 1))"#,
    );
    let chain = bench.chain("filters: [{name: h, module: h.wasm, failure_policy: open}]").unwrap();
    let mut flow = Flow::new(&bench, &chain);
    assert_eq!(flow.stream.response_headers(At::Client, false), Verdict::Pause);
    assert_eq!(flow.stream.holds_headers(Side::Response), Some(0));
    let chunk = "x".repeat(40 << 10);
    assert_eq!(flow.give(Side::Response, &chunk, false), Verdict::Pause);
    assert!(flow.stream.wants_more(Side::Response));
    assert_eq!(flow.give(Side::Response, &chunk, false), Verdict::Pause);
    assert!(!flow.stream.wants_more(Side::Response), "enough waits");
    assert!(flow.stream.deadline().is_some());
    assert_eq!(flow.stream.pause_expired(), Verdict::Continue);
    let (passed, end) = flow.taken(Side::Response);
    assert_eq!((passed.len(), end), (1 + (80 << 10), false), "shown to its body callback once the headers went on");
}

#[test]
fn too_much_held_is_413_or_the_policy() {
    let bench = Bench::new(1);
    holding(&bench, "h.wasm");
    let chunk = "x".repeat(1500);
    for (policy, passes) in [("closed", false), ("open", true)] {
        let yaml = format!("filters: [{{name: h, module: h.wasm, failure_policy: {policy}, limits: {{body_kib: 2}}}}]");
        let chain = bench.chain(&yaml).unwrap();
        let mut flow = Flow::new(&bench, &chain);
        assert_eq!(flow.give(Side::Request, &chunk, false), Verdict::Pause);
        assert!(matches!(flow.give(Side::Request, &chunk, false), Verdict::Respond(answer) if answer.status == 413));

        let mut flow = Flow::new(&bench, &chain);
        assert_eq!(flow.stream.response_headers(At::Client, false), Verdict::Continue);
        assert_eq!(flow.give(Side::Response, &chunk, false), Verdict::Pause);
        let verdict = flow.give(Side::Response, &chunk, false);
        if passes {
            assert_eq!(verdict, Verdict::Continue);
            assert_eq!(flow.taken(Side::Response).0.len(), 3000);
        } else {
            assert!(matches!(verdict, Verdict::Respond(answer) if answer.status == 503));
        }
    }
    let counters = bench.runtime.counters();
    assert_eq!((counters.streams_created, counters.streams_deleted), (4, 4), "no context is lost over it");
}

#[test]
fn a_trap_over_a_body_ends_or_spares_the_transaction() {
    let bench = Bench::new(1);
    guest(&bench, "t.wasm", "(if (local.get $end) (then unreachable)) (i32.const 1)");
    bracketing(&bench, "a.wasm");
    for policy in ["closed", "open"] {
        let yaml = format!(
            "filters:\n- {{name: t, module: t.wasm, failure_policy: {policy}}}\n- {{name: a, module: a.wasm}}\n"
        );
        let chain = bench.chain(&yaml).unwrap();
        let mut flow = Flow::new(&bench, &chain);
        assert_eq!(flow.give(Side::Request, "ab", false), Verdict::Pause);
        let verdict = flow.give(Side::Request, "cd", true);
        if policy == "open" {
            assert_eq!(verdict, Verdict::Continue);
            assert_eq!(flow.taken(Side::Request), got("[abcd]", true), "nothing of it is lost");
        } else {
            assert!(matches!(verdict, Verdict::Respond(answer) if answer.status == 503));
            assert!(flow.stream.failed() && !flow.stream.wants_body(Side::Response));
        }
    }
}

#[test]
fn answers_declining_and_no_buffer() {
    let bench = Bench::new(1);
    guest(
        &bench,
        "answer.wasm",
        "(drop (call $reply (i32.const 403) (i32.const 0) (i32.const 0) (i32.const 16) (i32.const 2) (i32.const 0) \
         (i32.const 0) (i32.const -1))) (i32.const 0)",
    );
    let chain = bench.chain("filters: [{name: a, module: answer.wasm}]").unwrap();
    let mut flow = Flow::new(&bench, &chain);
    let verdict = flow.give(Side::Request, "x", false);
    assert!(matches!(verdict, Verdict::Respond(answer) if answer.status == 403 && answer.body == b"[]"));

    guest_with(
        &bench,
        "decline.wasm",
        &set(0, 0, 16).replace("drop", "return"),
        r#"(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
          (call $property (i32.const 32) (i32.const 11) (i32.const 64) (i32.const 7)))"#,
    );
    let chain = bench.chain("filters: [{name: d, module: decline.wasm}]").unwrap();
    let mut flow = Flow::new(&bench, &chain);
    assert!(flow.stream.wants_body(Side::Request) && !flow.stream.wants_body(Side::Response));
    assert_eq!(flow.stream.response_headers(At::Client, false), Verdict::Continue);
    assert_eq!(flow.give(Side::Response, "abc", true), Verdict::Continue);
    assert_eq!(flow.taken(Side::Response), got("abc", true), "not shown");
    assert_eq!(flow.give(Side::Request, "abc", true), Verdict::Continue);
    assert_eq!(flow.taken(Side::Request), got("[abc", true));

    guest(&bench, "drop.wasm", "(if (local.get $end) (then (return (i32.const 0)))) (i32.const 3)");
    let chain = bench.chain("filters: [{name: d, module: drop.wasm}]").unwrap();
    let mut flow = Flow::new(&bench, &chain);
    assert_eq!(flow.give(Side::Request, "abc", false), Verdict::Pause);
    assert_eq!(flow.give(Side::Request, "de", true), Verdict::Continue);
    assert_eq!(flow.taken(Side::Request), got("de", true), "what was taken does not come back");
}

#[test]
fn what_a_file_allows_is_shown_and_no_more() {
    let bench = Bench::new(1);
    bracketing(&bench, "a.wasm");
    for (body, request, response) in
        [("both", true, true), ("request", true, false), ("response", false, true), ("none", false, false)]
    {
        let chain = bench.chain(&format!("filters: [{{name: a, module: a.wasm, body: {body}}}]")).unwrap();
        assert_eq!((chain.needs().request_body, chain.needs().response_body.is_some()), (request, response), "{body}");
        assert_eq!(chain.needs().changes_body, [request, response]);
    }
    let mixed = "filters:\n- {name: a, module: a.wasm, at: origin}\n- {name: b, module: a.wasm}\n";
    let error = bench.chain(mixed).unwrap_err().to_string();
    assert!(error.contains("'a' and 'b' both see response bodies"), "{error}");
    let buffered = bench.chain("filters: [{name: a, module: a.wasm, request_body: buffer}]").unwrap();
    assert!(buffered.needs().buffers_request);
}

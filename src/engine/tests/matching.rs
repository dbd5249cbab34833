//! Filters that take part, and filters that do not.

mod support;

use engine::abi::Callback;
use engine::testing::{SharedTransaction, Transaction, TransactionView};
use engine::{Bytes, Chain, Participants, Side, Stream, Verdict};
use std::sync::Arc;
use support::Bench;

/// Every callback of a transaction; those for headers and bodies let everything go on.
const ALL: &str = r#"
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_body") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32))
"#;

/// The request's headers are held for good.
const HOLDS: &str = r#"
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 1))
"#;

fn participants(chain: &Chain, path: &str) -> Participants {
    let transaction = Transaction::get("a.test", path);
    chain.participants(&TransactionView { transaction: &transaction, client: None, internal: false })
}

fn places(participants: Participants) -> Vec<usize> {
    participants.iter().collect()
}

/// Runs a whole transaction with these participants. Every callback that came.
fn run(chain: &Arc<Chain>, participants: Participants) -> Vec<Callback> {
    let shared = SharedTransaction::new(Transaction::get("a.test", "/x"));
    let mut stream = Stream::of(Arc::clone(chain), 0, shared.host(), participants);
    assert_eq!(stream.request_headers(false), Verdict::Continue);
    for side in Side::ALL {
        if side == Side::Response {
            shared.0.lock().response = Some(Vec::new());
            assert_eq!(stream.response_headers(engine::At::Client, false), Verdict::Continue);
        }
        if stream.wants_body(side) {
            assert_eq!(stream.body(side, Some(Box::new(Bytes(b"abc".to_vec()))), true), Verdict::Continue);
            let passed = stream.take_body(side);
            assert_eq!((passed.bytes.map(|bytes| bytes.len()), passed.end), (Some(3), true));
        }
    }
    stream.finish();
    shared.0.lock().callbacks.clone()
}

fn count(callbacks: &[Callback], wanted: Callback) -> usize {
    callbacks.iter().filter(|callback| **callback == wanted).count()
}

#[test]
fn filters_whose_match_fails_take_no_part() {
    let bench = Bench::new(1);
    bench.module("all.wasm", "", ALL);
    let chain = bench
        .chain(
            "filters:\n  - {name: one, module: all.wasm, configuration: '1', match: {path: {prefix: /a}}, body: none}\n  \
             - {name: two, module: all.wasm, configuration: '2', match: {path: [/a/b, /c]}}\n  \
             - {name: three, module: all.wasm, configuration: '3', body: request}\n",
        )
        .unwrap();
    assert_eq!(places(participants(&chain, "/a/b")), [0, 1, 2]);
    assert_eq!(participants(&chain, "/a/b"), chain.everyone());
    assert_eq!(places(participants(&chain, "/a")), [0, 2]);
    assert_eq!(places(participants(&chain, "/c")), [1, 2]);
    assert_eq!(places(participants(&chain, "/z")), [2]);

    // What is needed is what those need that take part.
    let needs = |path: &str| chain.needs_of(participants(&chain, path));
    assert_eq!(needs("/a/b"), chain.needs());
    assert!(needs("/a/b").response_body.is_some() && needs("/a").response_body.is_none());
    assert!(needs("/a").request_body && needs("/c").response_body.is_some());
    assert_eq!(chain.needs_of(Participants::NONE), engine::Needs::default());

    // The middle one drops out.
    for (path, streams, request_bodies, response_bodies) in [("/a/b", 3, 2, 1), ("/a", 2, 1, 0), ("/z", 1, 1, 0)] {
        let before = bench.runtime.counters();
        let callbacks = run(&chain, participants(&chain, path));
        let after = bench.runtime.counters();
        for once in [Callback::ContextCreate, Callback::RequestHeaders, Callback::ResponseHeaders, Callback::Delete] {
            assert_eq!(count(&callbacks, once), streams, "{path}: {once:?} in {callbacks:?}");
        }
        assert_eq!(count(&callbacks, Callback::RequestBody), request_bodies, "{path}");
        assert_eq!(count(&callbacks, Callback::ResponseBody), response_bodies, "{path}");
        assert_eq!(after.streams_created - before.streams_created, streams as u64, "{path}");
        assert_eq!(after.streams_deleted - before.streams_deleted, streams as u64, "{path}");
    }
    let statistics: Vec<_> = chain.filters().iter().map(|filter| filter.name().to_owned()).collect();
    assert_eq!(statistics, ["one", "two", "three"]);
    // Nobody: a stream with nothing in it is no stream, but harms nobody either.
    assert!(run(&chain, Participants::NONE).is_empty());
}

#[test]
fn bodies_pass_where_only_those_want_them_that_take_no_part() {
    let bench = Bench::new(1);
    bench.module("all.wasm", "", ALL);
    let chain = bench
        .chain(
            "filters:\n  - {name: bodies, module: all.wasm, configuration: '1', match: {path: /a}}\n  \
             - {name: heads, module: all.wasm, configuration: '2', body: none}\n",
        )
        .unwrap();
    let shared = SharedTransaction::new(Transaction::get("a.test", "/x"));
    let mut stream = Stream::of(Arc::clone(&chain), 0, shared.host(), participants(&chain, "/x"));
    assert!(!Side::ALL.iter().any(|side| stream.wants_body(*side)));
    assert_eq!(stream.request_headers(false), Verdict::Continue);
    assert!(!Side::ALL.iter().any(|side| stream.wants_body(*side)));
    let shared = SharedTransaction::new(Transaction::get("a.test", "/a"));
    let stream = Stream::of(Arc::clone(&chain), 0, shared.host(), participants(&chain, "/a"));
    assert!(Side::ALL.iter().all(|side| stream.wants_body(*side)));
}

#[test]
fn a_pause_goes_on_with_those_that_take_part() {
    let bench = Bench::new(1);
    bench.module("holds.wasm", "", HOLDS);
    bench.module("all.wasm", "", ALL);
    let chain = bench
        .chain(
            "filters:\n  - {name: never, module: holds.wasm, configuration: '1', match: {path: /never}}\n  \
             - {name: holds, module: holds.wasm, configuration: '2', failure_policy: open}\n  \
             - {name: never-either, module: all.wasm, configuration: '3', match: {path: /never}}\n  \
             - {name: last, module: all.wasm, configuration: '4', body: none}\n",
        )
        .unwrap();
    let shared = SharedTransaction::new(Transaction::get("a.test", "/x"));
    let mut stream = Stream::of(Arc::clone(&chain), 0, shared.host(), participants(&chain, "/x"));
    assert_eq!(stream.request_headers(true), Verdict::Pause);
    assert_eq!(stream.holds_headers(Side::Request), Some(1));
    assert_eq!(stream.pause_expired(), Verdict::Continue);
    assert!(!stream.is_holding());
    stream.finish();
    let callbacks = shared.0.lock().callbacks.clone();
    assert_eq!(count(&callbacks, Callback::RequestHeaders), 2, "{callbacks:?}");
}

#[test]
fn a_chain_without_a_match_asks_nothing_of_the_request() {
    struct Nobody;

    impl engine::RequestView for Nobody {
        fn method(&self) -> &[u8] {
            unreachable!("nobody asks")
        }
        fn scheme(&self) -> &[u8] {
            unreachable!("nobody asks")
        }
        fn host(&self) -> (&[u8], u16) {
            unreachable!("nobody asks")
        }
        fn path(&self) -> [&[u8]; 4] {
            unreachable!("nobody asks")
        }
        fn query(&self) -> &[u8] {
            unreachable!("nobody asks")
        }
        fn header(&self, _: &str, _: &mut dyn FnMut(&[u8]) -> bool) -> bool {
            unreachable!("nobody asks")
        }
        fn client(&self) -> Option<std::net::IpAddr> {
            unreachable!("nobody asks")
        }
        fn is_internal(&self) -> bool {
            false
        }
    }

    let bench = Bench::new(1);
    bench.module("all.wasm", "", ALL);
    let plain = bench.chain("filters: [{name: one, module: all.wasm}]\n").unwrap();
    assert_eq!(plain.participants(&Nobody), plain.everyone());
    // And one that is decided by its cheapest condition asks for nothing else.
    let cheap =
        "filters: [{name: one, module: all.wasm, match: {path: {regex: a}, headers: {b: c}, internal: true}}]\n";
    assert!(bench.chain(cheap).unwrap().participants(&Nobody).is_empty());
}

//! Callbacks that are entered together are, for the guest and for whoever looks on, callbacks like any others.
//!
//! What hears of every callback has them entered one by one, and so has what is measured: of many streams in a moment, the
//! first ones. So each check is tried on many streams, until some have had theirs relayed.

mod support;

use std::sync::{Arc, Mutex};

use engine::abi::Callback;
use engine::testing::Fields;
use engine::{At, Chain, Stream, Verdict};
use support::{Bench, request};

/// What was logged, on any thread: each test looks for what is its alone.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

fn listen() {
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(log::LevelFilter::Error);
    }
}

/// A stream's whole life; what became of the request, and which callbacks its host heard of.
fn live(chain: &Arc<Chain>, watching: bool) -> (Verdict, Fields, Vec<Callback>) {
    let transaction = request();
    let host = if watching { transaction.host() } else { transaction.unwatching_host() };
    let mut stream = Stream::new(Arc::clone(chain), 0, host);
    let verdict = stream.request_headers(true);
    transaction.0.lock().response = Some(vec![]);
    if verdict == Verdict::Continue {
        assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
    }
    stream.finish();
    let seen = transaction.0.lock();
    (verdict, seen.request.clone(), seen.callbacks.clone())
}

/// Streams in one moment, of which most are not measured.
const MANY: usize = 300;

/// A stream of which some callbacks were relayed: its host has not heard of all.
fn relayed(chain: &Arc<Chain>) -> (Verdict, Fields, Vec<Callback>) {
    let watched = live(chain, true);
    for _ in 0..100 {
        let found = (0..MANY).map(|_| live(chain, false)).find(|(.., heard)| heard.len() < watched.2.len());
        if let Some(found) = found {
            return found;
        }
    }
    panic!("no callback was ever relayed");
}

const CALLS: &str = r#"
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $now (param i32) (result i32)))"#;

/// A guest with these bodies of its callbacks. `$note` adds a field whose name is a letter. `$streams` counts streams, and
/// `$last` is the stream before this one.
fn guest(bench: &Bench, name: &str, bodies: [&str; 5]) -> Arc<Chain> {
    guest_with(bench, name, "{callback_ms: 60, hostcall_kib: 1}", bodies)
}

fn guest_with(bench: &Bench, name: &str, limits: &str, [create, headers, done, log, delete]: [&str; 5]) -> Arc<Chain> {
    let body = format!(
        r#"(data (i32.const 16) "abcdefghijklmnop") (global $streams (mut i32) (i32.const 0)) (global $last (mut i32) (i32.const 0))
        (func $note (param $letter i32)
          (drop (call $add (i32.const 0) (i32.add (i32.const 16) (local.get $letter)) (i32.const 1) (i32.const 16) (i32.const 1))))
        (func (export "proxy_on_context_create") (param $id i32) (param $root i32)
          (if (local.get $root) (then (global.set $streams (i32.add (global.get $streams) (i32.const 1))) {create})))
        (func (export "proxy_on_request_headers") (param $id i32) (param $fields i32) (param i32) (result i32) {headers} (i32.const 0))
        (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
        (func (export "proxy_on_done") (param $id i32) (result i32) (local $rounds i32) {done} (i32.const 1))
        (func (export "proxy_on_log") (param $id i32) {log})
        (func (export "proxy_on_delete") (param $id i32) {delete})"#
    );
    bench.module(&format!("{name}.wasm"), CALLS, &body);
    bench
        .chain(&format!("filters: [{{name: {name}, module: {name}.wasm, breaker: off, limits: {limits}}}]"))
        .expect("a chain")
}

fn letters(fields: &Fields) -> String {
    let names = fields.iter().filter(|(name, _)| name.len() == 1);
    names.map(|(name, _)| char::from(name[0])).collect()
}

#[test]
fn the_guest_meets_what_it_would_meet_one_by_one() {
    let bench = Bench::new(1);
    // The number of fields that it is told becomes a letter: one field, `x-in`, and four pseudo-headers, and then it adds two.
    let chain = guest(
        &bench,
        "same",
        [
            "(call $note (i32.const 14)) (call $note (i32.const 15))",
            "(call $note (local.get $fields))",
            "(call $note (i32.const 1))",
            "",
            "(call $note (i32.const 2))",
        ],
    );
    let (_, watched, heard) = live(&chain, true);
    use Callback::{ContextCreate, Delete, Done, Log, RequestHeaders, ResponseHeaders};
    assert_eq!(heard, [ContextCreate, RequestHeaders, ResponseHeaders, Done, Log, Delete]);
    let (verdict, fields, heard) = relayed(&chain);
    assert_eq!(verdict, Verdict::Continue);
    assert_eq!(
        heard,
        [ContextCreate, RequestHeaders, ResponseHeaders, Done, Delete],
        "all that made hostcalls, in time"
    );
    assert_eq!((letters(&fields), fields), (letters(&watched), watched.clone()));
    let told = watched.len() - 3;
    assert_eq!(letters(&watched), format!("op{}bc", char::from(b"abcdefghijklmnop"[told + 4])));
}

#[test]
fn a_guest_of_the_first_abi_is_relayed_as_well() {
    let bench = Bench::new(1);
    let text = r#"(module
        (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 16) "abcdefghijklmnop")
        (func (export "proxy_abi_version_0_1_0"))
        (func (export "malloc") (param i32) (result i32) (i32.const 1024))
        (func (export "proxy_on_context_create") (param i32 i32))
        (global $told (mut i32) (i32.const 0))
        (func (export "proxy_on_request_headers") (param $id i32) (param $fields i32) (result i32)
          (global.set $told (local.get $fields)) (i32.const 0))
        (func (export "proxy_on_log") (param i32)
          (drop (call $add (i32.const 0) (i32.add (i32.const 16) (global.get $told)) (i32.const 1) (i32.const 16) (i32.const 1)))))"#;
    bench.write("old.wasm", &wat::parse_str(text).unwrap());
    let chain = bench.chain("filters: [{name: old, module: old.wasm}]").unwrap();
    let (_, watched, _) = live(&chain, true);
    let (verdict, fields, heard) = relayed(&chain);
    assert_eq!((verdict, &fields), (Verdict::Continue, &watched));
    // One callback at the end is not relayed.
    assert_eq!(heard, [Callback::ContextCreate, Callback::Log]);
    assert_eq!(letters(&fields), "f", "one field and four pseudo-headers");
}

#[test]
fn another_context_and_bytes_that_were_moved_are_one_callbacks_alone() {
    let bench = Bench::new(1);
    let moves = "(drop (call $log (i32.const 0) (i32.const 0) (i32.const 900)))";
    // To another stream, which is alive.
    let turns = format!("(drop (call $effective (global.get $last))) (call $note (i32.const 9)) {moves}");
    let chain = guest(
        &bench,
        "turns",
        [
            &format!(
                "(if (i32.gt_u (global.get $streams) (i32.const 1)) (then {turns}) (else (global.set $last (local.get $id))))"
            ),
            &format!("(call $note (i32.const 3)) {moves}"),
            &format!("(if (i32.ne (global.get $last) (local.get $id)) (then {turns}))"),
            moves,
            "",
        ],
    );
    // The first stream stays, so that the others have whom to turn to.
    let other = request();
    let mut stays = Stream::new(Arc::clone(&chain), 0, other.unwatching_host());
    assert_eq!(stays.request_headers(true), Verdict::Continue);
    for _ in 0..MANY {
        let (verdict, fields, _) = live(&chain, false);
        assert_eq!(
            (verdict, letters(&fields).as_str()),
            (Verdict::Continue, "d"),
            "what is the stream's own, and no more"
        );
    }
    let (_, fields, heard) = relayed(&chain);
    assert_eq!(letters(&fields), "d");
    assert!(!heard.contains(&Callback::Delete), "{heard:?}");
    assert_eq!(letters(&other.0.lock().request).trim_matches('j'), "d", "its own, and what others did to it");
    stays.finish();
    assert_eq!(bench.runtime.counters().traps, 0);
}

#[test]
fn a_transactions_callbacks_have_their_limit_together() {
    listen();
    let bench = Bench::new(1);
    // Some tens of ms, so that an epoch ends meanwhile; then without end.
    let works = "(if (i32.eq (global.get $streams) (i32.const 120)) (then
        (local.set $rounds (i32.const 60000000))
        (loop $l (br_if $l (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))))";
    let endless = "(if (i32.eq (global.get $streams) (i32.const 120)) (then (loop $l (br $l))))";
    let chain = guest_with(&bench, "long", "{callback_ms: 300, transaction_ms: 300}", ["", "", works, "", endless]);
    for _ in 0..120 {
        live(&chain, false);
    }
    assert_eq!(bench.runtime.counters().traps, 1);
    let lines = LINES.lock().unwrap().clone();
    let said = lines.iter().any(|line| line.contains("'long'") && line.contains("limits.transaction_ms: 300"));
    assert!(said, "{lines:#?}");
}

/// In the stream of that number: that many milliseconds of work.
fn spin(ms: u32) -> String {
    format!(
        "(if (i32.eq (global.get $streams) (i32.const 120)) (then
           (drop (call $now (i32.const 64)))
           (loop $l (drop (call $now (i32.const 72)))
             (br_if $l (i64.lt_u (i64.sub (i64.load (i32.const 72)) (i64.load (i32.const 64))) (i64.const {ms}000000))))))"
    )
}

#[test]
fn a_trap_has_its_callbacks_name_and_the_guests_frames() {
    listen();
    let bench = Bench::new(1);
    let names = ["context_create", "request_headers", "done", "log", "delete"];
    for (at, name) in names.into_iter().enumerate() {
        // Not in the first streams, which are measured.
        let mut bodies = [""; 5];
        bodies[at] = "(if (i32.gt_u (global.get $streams) (i32.const 100)) (then unreachable))";
        let chain = guest(&bench, &format!("trap-{name}"), bodies);
        let before = bench.runtime.counters().traps;
        let mut lived = 0;
        while bench.runtime.counters().traps == before {
            live(&chain, false);
            lived += 1;
        }
        assert_eq!(lived, 101);
        let lines = LINES.lock().unwrap().clone();
        let mine: Vec<_> = lines.iter().filter(|line| line.contains(&format!("trap-{name}"))).collect();
        assert!(mine.iter().any(|line| line.contains(&format!("in proxy_on_{name}"))), "{name}: {mine:#?}");
        assert!(mine.iter().all(|line| !line.contains("relay")), "{mine:#?}");
        // The next one has a VM.
        assert_eq!(live(&chain, false).0, Verdict::Continue);
    }
}

#[test]
fn each_callback_has_its_own_time() {
    listen();
    let bench = Bench::new(1);
    let busy = spin;
    let chain = guest(&bench, "slow", ["", "", &busy(40), &busy(40), &busy(40)]);
    for _ in 0..130 {
        assert_eq!(live(&chain, false).0, Verdict::Continue);
    }
    assert_eq!(bench.runtime.counters().traps, 0, "120 ms, but no callback more than 40");
    let endless = "(if (i32.eq (global.get $streams) (i32.const 120)) (then (loop $l (br $l))))";
    let chain = guest(&bench, "endless", ["", "", &busy(40), endless, ""]);
    for _ in 0..120 {
        live(&chain, false);
    }
    assert_eq!(bench.runtime.counters().traps, 1);
    let lines = LINES.lock().unwrap().clone();
    let said = lines
        .iter()
        .any(|line| line.contains("'endless'") && line.contains("(limits.callback_ms: 60) in proxy_on_log"));
    assert!(said, "{lines:#?}");
}

//! Whole transactions: of filters that do nothing, of header filters in C and with the Rust SDK, of chains; pauses; answers.

use std::hint::black_box;
use std::sync::Arc;

use engine::{At, Chain, Side, Stream, Verdict};

use super::guests::{Bed, is_built, module};
use super::host::Host;
use super::{Case, Group};

/// The unit of every ratio.
pub(crate) const EMPTY: &str = "an empty typed call";
/// The cases that bars are about.
pub(crate) const RUST: &str = "Rust-SDK header filter";
pub(crate) const C: &str = "C header filter";
/// Its transactions have a VM each.
pub(crate) const ISOLATED: &str = "Rust-SDK header filter, isolation: transaction";

/// Lengths of chains.
pub(crate) const LENGTHS: [usize; 4] = [1, 2, 5, 10];

/// The name of a chain's case.
pub(crate) fn chain_of(filter: &str, length: usize) -> String {
    if length == 1 { filter.to_owned() } else { format!("{filter}, {length} in a chain") }
}

/// Every callback of a header filter, and nothing in it.
const CALLBACKS: &str = r#"
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32) (i32.const 0))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_log") (param i32))
  (func (export "proxy_on_delete") (param i32))"#;

/// Every second transaction lets the one before it go on, which waits.
const PAUSES: &str = r#"
  (global $waits (mut i32) (i32.const 0))
  (func (export "proxy_on_request_headers") (param $id i32) (param i32 i32) (result i32)
    (if (result i32) (global.get $waits)
      (then
        (if (call $proxy_set_effective_context (global.get $waits)) (then unreachable))
        (if (call $proxy_continue_stream (i32.const 0)) (then unreachable))
        (global.set $waits (i32.const 0)) (i32.const 0))
      (else (global.set $waits (local.get $id)) (i32.const 1))))"#;

/// The same, and nobody waits.
const NO_PAUSES: &str = r#"
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (i32.const 0))"#;

const ANSWERS: &str = r#"
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (drop (call $proxy_send_local_response (i32.const 403) {} {Forbidden} {} (i32.const -1)))
    (i32.const 1))"#;

/// One transaction: request headers, response headers, the end.
pub(crate) fn one(chain: &Arc<Chain>) {
    let mut stream = Stream::new(Arc::clone(chain), 0, Box::new(Host));
    assert_eq!(stream.request_headers(true), Verdict::Continue);
    assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
    stream.finish();
}

/// One transaction after the other in the chain that `load` gives.
fn case(name: impl Into<String>, load: impl FnOnce(&Bed) -> Arc<Chain> + 'static) -> Case {
    Case::new(Group::Transactions, name, |bed| {
        let chain = load(bed);
        move |runs| (0..runs).for_each(|_| one(&chain))
    })
}

/// An empty call, with the engine's settings that matter to it.
fn empty_call() -> Case {
    Case::new(Group::Transactions, EMPTY, |_| {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config).expect("engine");
        let module = wasmtime::Module::new(&engine, wat::parse_str("(module (func (export \"f\")))").expect("text"));
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_epoch_deadline(1_000_000);
        let instance = wasmtime::Instance::new(&mut store, &module.expect("module"), &[]).expect("instance");
        let call = instance.get_typed_func::<(), ()>(&mut store, "f").expect("export");
        move |runs| (0..runs).for_each(|_| call.call(&mut store, ()).expect("call"))
    })
}

/// Two transactions: the second lets the first one go on, if that waits.
fn pair(name: &str, file: &'static str, code: &'static str, waits: bool) -> Case {
    Case::new(Group::Transactions, name, move |bed| {
        let chain = bed.text(file, &module(code));
        let new = move || Stream::new(Arc::clone(&chain), 0, Box::new(Host));
        move |runs| {
            for _ in 0..runs {
                let (mut first, mut second) = (new(), new());
                assert_eq!(first.request_headers(true), if waits { Verdict::Pause } else { Verdict::Continue });
                assert_eq!(first.holds(Side::Request), waits);
                assert_eq!(second.request_headers(true), Verdict::Continue);
                if waits {
                    assert_eq!(first.resume(), Verdict::Continue);
                }
                for mut stream in [first, second] {
                    assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
                    stream.finish();
                }
            }
        }
    })
}

fn answer() -> Case {
    Case::new(Group::Transactions, "a filter that answers 403", |bed| {
        let chain = bed.text("answers", &module(ANSWERS));
        move |runs| {
            for _ in 0..runs {
                let mut stream = Stream::new(Arc::clone(&chain), 0, Box::new(Host));
                let Verdict::Respond(answer) = stream.request_headers(true) else { panic!("it did not answer") };
                assert_eq!(black_box(answer).status, 403);
                assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
                stream.finish();
            }
        }
    })
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = vec![
        empty_call(),
        case("a filter without callbacks", |bed| bed.text("nothing", &module(""))),
        case("six empty callbacks", |bed| bed.text("callbacks", &module(CALLBACKS))),
    ];
    for (title, guest) in [(C, "c-header.wasm"), (RUST, "bench-headers.wasm")] {
        if !is_built(guest) {
            continue;
        }
        for length in LENGTHS {
            let filter = move |index| format!("- {{name: f{index}, module: \"{{guests}}/{guest}\"}}\n");
            cases.push(case(chain_of(title, length), move |bed| {
                let filters: String = (0..length).map(filter).collect();
                bed.chain(&format!("filters:\n{filters}"))
            }));
        }
    }
    if is_built("bench-headers.wasm") {
        let text = "filters: [{name: f, module: \"{guests}/bench-headers.wasm\", isolation: transaction}]\n";
        cases.push(case(ISOLATED, move |bed| bed.chain(text)));
    }
    cases.push(pair("two transactions", "no-pauses", NO_PAUSES, false));
    cases.push(pair("two, of which one waits for the other", "pauses", PAUSES, true));
    cases.push(answer());
    cases
}

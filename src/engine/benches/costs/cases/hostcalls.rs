//! Each hostcall that filters make often, a thousand times in one callback.

use std::sync::Arc;

use engine::{At, BodyBuffer, Chain, Side, Stream, Verdict};

use super::guests::module;
use super::host::{Chunk, Host};
use super::{Case, Group};

/// How often a callback makes the call. The rest of the transaction is a part of each call's figure, and small.
pub(crate) const CALLS: u32 = 1000;

/// A hostcall, or a few that go together.
pub(crate) struct Looped {
    pub(crate) name: &'static str,
    /// What happens before, when the plugin is configured. Results of calls go from address 16 on.
    configure: &'static str,
    /// What happens before, in the callback.
    before: &'static str,
    /// The call: an expression, whose value is to be `answer` each time.
    call: &'static str,
    answer: u32,
    /// In the callback of a request's body (1 KiB) instead of its headers.
    body: bool,
}

const fn looped(name: &'static str, call: &'static str) -> Looped {
    Looped { name, configure: "", before: "", call, answer: 0, body: false }
}

/// All of them.
pub(crate) const LOOPED: &[Looped] = &[
    looped("the loop alone", "(i32.const 0)"),
    looped(
        "proxy_get_header_map_value, the eighth of ten",
        "(call $proxy_get_header_map_value (i32.const 0) {user-agent} (i32.const 16) (i32.const 20))",
    ),
    Looped {
        answer: 1,
        ..looped(
            "proxy_get_header_map_value, not there",
            "(call $proxy_get_header_map_value (i32.const 0) {x-absent} (i32.const 16) (i32.const 20))",
        )
    },
    looped(
        "proxy_get_header_map_value, :path",
        "(call $proxy_get_header_map_value (i32.const 0) {:path} (i32.const 16) (i32.const 20))",
    ),
    looped("proxy_add_header_map_value", "(call $proxy_add_header_map_value (i32.const 0) {x-bench} {agent})"),
    looped("proxy_replace_header_map_value", "(call $proxy_replace_header_map_value (i32.const 0) {x-bench} {agent})"),
    looped("proxy_remove_header_map_value", "(call $proxy_remove_header_map_value (i32.const 0) {x-bench})"),
    looped(
        "proxy_get_header_map_pairs, ten fields",
        "(call $proxy_get_header_map_pairs (i32.const 0) (i32.const 16) (i32.const 20))",
    ),
    Looped {
        before: "(drop (call $proxy_get_header_map_pairs (i32.const 0) (i32.const 16) (i32.const 20)))",
        ..looped(
            "proxy_set_header_map_pairs, ten fields",
            "(call $proxy_set_header_map_pairs (i32.const 0) (i32.load (i32.const 16)) (i32.load (i32.const 20)))",
        )
    },
    looped("proxy_get_header_map_size", "(call $proxy_get_header_map_size (i32.const 0) (i32.const 16))"),
    looped("proxy_get_property, plugin_name", "(call $proxy_get_property {plugin_name} (i32.const 16) (i32.const 20))"),
    looped(
        "proxy_get_property, request.path",
        "(call $proxy_get_property {request|path} (i32.const 16) (i32.const 20))",
    ),
    Looped {
        before: "(drop (call $proxy_set_property {tenant} {blue}))",
        ..looped("proxy_get_property, set before", "(call $proxy_get_property {tenant} (i32.const 16) (i32.const 20))")
    },
    looped("proxy_set_property", "(call $proxy_set_property {tenant} {blue})"),
    Looped {
        body: true,
        ..looped(
            "proxy_get_buffer_bytes, 1 KiB of a body",
            "(call $proxy_get_buffer_bytes (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 16) (i32.const 20))",
        )
    },
    Looped {
        body: true,
        ..looped(
            "proxy_set_buffer_bytes, 1 KiB of a body",
            "(call $proxy_set_buffer_bytes (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 65536) (i32.const 1024))",
        )
    },
    Looped {
        body: true,
        ..looped(
            "proxy_get_buffer_status",
            "(call $proxy_get_buffer_status (i32.const 0) (i32.const 16) (i32.const 20))",
        )
    },
    looped("proxy_log, below the level", "(call $proxy_log (i32.const 0) {a line that nobody wants to see})"),
    looped("proxy_get_log_level", "(call $proxy_get_log_level (i32.const 16))"),
    looped("proxy_get_current_time_nanoseconds", "(call $proxy_get_current_time_nanoseconds (i32.const 16))"),
    Looped {
        configure: "(drop (call $proxy_define_metric (i32.const 0) {bench_counter} (i32.const 24)))",
        ..looped("proxy_increment_metric", "(call $proxy_increment_metric (i32.load (i32.const 24)) (i64.const 1))")
    },
    Looped {
        configure: "(drop (call $proxy_define_metric (i32.const 2) {bench_histogram} (i32.const 24)))",
        ..looped(
            "proxy_record_metric, a histogram",
            "(call $proxy_record_metric (i32.load (i32.const 24)) (i64.const 250))",
        )
    },
    Looped {
        configure: "(drop (call $proxy_define_metric (i32.const 1) {bench_gauge} (i32.const 24)))",
        ..looped("proxy_get_metric", "(call $proxy_get_metric (i32.load (i32.const 24)) (i32.const 16))")
    },
    Looped {
        configure: "(drop (call $proxy_define_metric (i32.const 1) {bench_again} (i32.const 24)))",
        ..looped(
            "proxy_define_metric, one that is there",
            "(call $proxy_define_metric (i32.const 1) {bench_again} (i32.const 24))",
        )
    },
    Looped {
        configure: "(drop (call $proxy_set_shared_data {key} {0123456789abcdef} (i32.const 0)))",
        ..looped(
            "proxy_get_shared_data, 16 bytes",
            "(call $proxy_get_shared_data {key} (i32.const 16) (i32.const 20) (i32.const 24))",
        )
    },
    looped("proxy_set_shared_data, 16 bytes", "(call $proxy_set_shared_data {key} {0123456789abcdef} (i32.const 0))"),
    Looped {
        configure: "(drop (call $proxy_set_shared_data {key} {0123456789abcdef} (i32.const 0)))",
        ..looped(
            "proxy_get_shared_data and proxy_set_shared_data with its cas",
            "(i32.or (call $proxy_get_shared_data {key} (i32.const 16) (i32.const 20) (i32.const 24))
                     (call $proxy_set_shared_data {key} {0123456789abcdef} (i32.load (i32.const 24))))",
        )
    },
    Looped {
        configure: "(drop (call $proxy_register_shared_queue {bench} (i32.const 24)))",
        ..looped(
            "proxy_enqueue_shared_queue and proxy_dequeue_shared_queue, 16 bytes",
            "(i32.or (call $proxy_enqueue_shared_queue (i32.load (i32.const 24)) {0123456789abcdef})
                     (call $proxy_dequeue_shared_queue (i32.load (i32.const 24)) (i32.const 16) (i32.const 20)))",
        )
    },
];

impl Looped {
    /// A module that makes the call so many times, and traps if it is ever answered otherwise.
    pub(crate) fn text(&self) -> String {
        let Looped { configure, before, call, answer, body, .. } = self;
        let callback = if *body { "proxy_on_request_body" } else { "proxy_on_request_headers" };
        module(&format!(
            r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) {configure} (i32.const 1))
  (func (export "{callback}") (param i32 i32 i32) (result i32) (local $left i32) (local $wrong i32)
    {before}
    (local.set $left (i32.const {CALLS}))
    (loop $again
      (local.set $wrong (i32.or (local.get $wrong) (i32.ne (i32.const {answer}) {call})))
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (if (local.get $wrong) (then unreachable))
    (i32.const 0))"#
        ))
    }

    /// What makes one transaction with it, in a slot.
    pub(crate) fn transaction(&self, chain: Arc<Chain>, slot: usize) -> impl FnMut() + Send + use<> {
        let body = self.body;
        let mut chunk: Option<Box<dyn BodyBuffer>> = Some(Box::new(Chunk(vec![b'x'; 1024])));
        move || {
            let mut stream = Stream::new(Arc::clone(&chain), slot, Box::new(Host));
            assert_eq!(stream.request_headers(!body), Verdict::Continue, "a call was answered otherwise");
            if body {
                assert_eq!(stream.body(Side::Request, chunk.take(), true), Verdict::Continue);
                chunk = stream.take_body(Side::Request).bytes;
            }
            assert_eq!(stream.response_headers(At::Client, true), Verdict::Continue);
            stream.finish();
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let cases = LOOPED.iter().enumerate().map(|(index, looped)| {
        let case = Case::new(Group::Hostcalls, looped.name, move |bed| {
            let mut transaction = looped.transaction(bed.text(&format!("loop-{index}"), &looped.text()), 0);
            move |runs| (0..runs).for_each(|_| transaction())
        });
        case.of(CALLS)
    });
    cases.collect()
}

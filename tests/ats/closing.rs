//! `proxy_close_stream`: the client gets nothing (more), from whatever callback, and nothing is left behind.

use std::time::Duration;

use wasm_remap_tests::{Ask, Client, Origin, Payload, Reply, Rule, TrafficServer};

const PATIENCE: Duration = Duration::from_secs(10);

/// A module that closes the stream of `side` in one callback.
fn closing(callback: &str, params: usize, side: u32) -> Vec<u8> {
    let params = vec!["i32"; params].join(" ");
    let text = format!(
        r#"(module (import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
          (func (export "proxy_abi_version_0_2_1")) (memory (export "memory") 1)
          (func (export "proxy_on_memory_allocate") (param i32) (result i32) (i32.const 1024))
          (func (export "{callback}") (param {params}) (result i32)
            (if (call $close (i32.const {side})) (then unreachable)) (i32.const 0)))"#
    );
    wat::parse_str(text).expect("the module is well-formed")
}

const CASES: [(&str, &str, u32); 4] = [
    ("rqh.test", "proxy_on_request_headers", 0),
    ("rqb.test", "proxy_on_request_body", 0),
    ("rsh.test", "proxy_on_response_headers", 1),
    ("rsb.test", "proxy_on_response_body", 1),
];

#[test]
fn a_stream_that_is_closed_has_no_answer() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).payload(Payload::seed(1, 300_000)));
    let mut builder = TrafficServer::builder().origin(&origin).stats();
    for (host, callback, side) in CASES {
        let name = host.replace(".test", "");
        builder = builder
            .rule(Rule::new(host, "http://{origin}/").wasm([format!("{name}.yaml").as_str()]))
            .file(&format!("{name}.yaml"), &format!("filters: [{{name: {name}, module: {name}.wasm}}]"))
            .file_bytes(&format!("{name}.wasm"), closing(callback, 3, side));
    }
    let server = builder.rule(Rule::new("plain.test", "http://{origin}/")).start();
    for (host, callback, _) in CASES {
        for method in ["GET", "POST"] {
            if method == "GET" && host == "rqb.test" {
                continue;
            }
            let mut client = Client::connect(server.port());
            let ask =
                if method == "POST" { Ask::post(host, "/x", Payload::bytes("posted")) } else { Ask::get(host, "/x") };
            let outcome = client.exchange(&ask);
            assert!(outcome.is_err(), "{callback}, {method}: {outcome:?}");
            assert!(client.wait_closed(PATIENCE), "{callback}, {method}");
        }
    }
    assert_eq!(Client::connect(server.port()).get("plain.test", "/x").status, 200);
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["streams_created"] == counters["streams_deleted"] && counters["streams_created"] >= 7
    });
    assert_eq!((counters["traps"], counters["panics"]), (0, 0));
}

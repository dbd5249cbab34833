//! `wasm-remap run`.

use serde_json::{Value, json};
use wasm_remap_tests::Upstream;

use crate::{Place, texts};

const CHAIN: &str = "
filters:
  - name: headers
    module: '{guest:headers}'
    configuration:
      request: {set: {x-from: shop}, remove: [x-debug]}
      response: {set: {x-rule: A}, remove: [x-secret]}
  - name: api-key
    module: '{guest:api-key}'
    configuration: {keys: {sesame: alice}}
";

/// `filter callback` of every step.
fn steps(report: &Value) -> Vec<String> {
    let text = |step: &Value, key: &str| step[key].as_str().unwrap().to_owned();
    let steps = report["callbacks"].as_array().unwrap().iter();
    steps.map(|step| format!("{} {}", text(step, "filter"), text(step, "callback").replace("proxy_on_", ""))).collect()
}

#[test]
fn each_filters_changes_are_told_and_the_origin_gets_them() {
    let place = Place::new().file("f.yaml", CHAIN);
    let args =
        ["run", "f.yaml", "--request", "GET http://shop.test/x?q=1", "-H", "x-debug: 1", "-H", "x-api-key: sesame"];
    let origin = ["--response", "404", "-R", "x-secret: s", "-R", "server: o"];
    let report = place.run(&[&args[..], &origin, &["--format", "json"]].concat()).status(0).json();
    assert_eq!(
        steps(&report),
        [
            "headers context_create",
            "headers request_headers",
            "api-key context_create",
            "api-key request_headers",
            "api-key response_headers",
            "headers response_headers",
            "headers done",
            "headers log",
            "headers delete",
            "api-key done",
            "api-key log",
            "api-key delete",
        ]
    );
    assert_eq!(
        report["callbacks"][1]["changes"],
        json!([
            {"message": "request", "change": "removed", "name": "x-debug", "value": "1"},
            {"message": "request", "change": "added", "name": "x-from", "value": "shop"},
        ])
    );
    assert_eq!(report["forwarded"]["url"], "http://shop.test/x?q=1");
    let expected = json!([["Host", "shop.test"], ["x-from", "shop"], ["x-api-client", "alice"]]);
    assert_eq!(report["forwarded"]["headers"], expected);
    assert_eq!(report["answered_by"], "origin");
    assert_eq!(report["response"], json!({"status": 404, "headers": [["server", "o"], ["x-rule", "A"]]}));

    let text = place.run(&[&args[..], &origin].concat()).status(0);
    for part in [
        "client sends: GET http://shop.test/x?q=1\n  Host: shop.test\n  x-debug: 1\n",
        "headers  proxy_on_request_headers\n           request - x-debug: 1\n           request + x-from: shop\n",
        "origin gets: GET http://shop.test/x?q=1\n  Host: shop.test\n  x-from: shop\n  x-api-client: alice\n",
        "client gets, from the origin: 404\n  server: o\n  x-rule: A\n",
    ] {
        assert!(text.out.contains(part), "{part:?} is not in\n{}", text.out);
    }
}

#[test]
fn a_filters_own_answer_passes_the_response_callbacks() {
    let place = Place::new().file("f.yaml", CHAIN);
    let ran = place.run(&["run", "f.yaml", "-r", "http://shop.test/"]).status(0);
    assert!(!ran.out.contains("origin gets"), "{}", ran.out);
    assert!(ran.out.contains("client gets, from a filter: 401\n"), "{}", ran.out);
    assert!(
        ran.out.contains("  x-rule: A\n\n  body: 39 bytes\n    {\"error\":\"missing or unknown API key\"}\n"),
        "{}",
        ran.out
    );
}

#[test]
fn a_trap_takes_its_vm_along_and_its_policy_is_applied() {
    let place = Place::new().file(
        "f.yaml",
        "filters:\n  - {name: open, module: '{guest:trap}', failure_policy: open}\n  \
         - {name: h, module: '{guest:headers}', configuration: {response: {set: {x-h: y}}}}\n  \
         - {name: closed, module: '{guest:trap}'}\n",
    );
    let run = |at: &str| {
        let header = format!("x-trap: {at}");
        place.run(&["run", "f.yaml", "-r", "http://a.test/", "-H", &header, "--format", "json"]).status(0).json()
    };
    let report = run("on_request_headers");
    assert_eq!((&report["answered_by"], &report["response"]["status"]), (&"failure".into(), &503.into()));
    let begun = [
        "open context_create",
        "open request_headers",
        "h context_create",
        "h request_headers",
        "closed context_create",
        "closed request_headers",
    ];
    let ended = ["h done", "h log", "h delete"];
    assert_eq!(steps(&report), [&begun[..], &ended].concat());
    let log = texts(&report["callbacks"][1]["log"]).join("\n");
    assert!(log.contains("[open] #") && log.contains("critical: panicked at"), "{log}");
    assert!(log.contains("failure_policy open: the transaction goes on without it"), "{log}");

    // Both are in one VM: what ends one ends the other.
    let report = run("on_response_headers");
    assert_eq!(steps(&report), [&begun[..], &["closed response_headers"], &ended].concat());
}

#[test]
fn ticks_end_pauses_and_what_nobody_ends_expires() {
    let place = Place::new().file("f.yaml", "filters: [{name: p, module: '{guest:pause}', limits: {pause_ms: 400}}]\n");
    let run = |header: &str| place.run(&["run", "f.yaml", "-r", "http://a.test/", "-H", header]).status(0);
    let resumed = run("x-pause-ms: 30");
    assert!(resumed.out.contains("proxy_on_tick\n") && resumed.out.contains("pause: resume"), "{}", resumed.out);
    assert!(resumed.out.contains("client gets, from the origin: 200\n"), "{}", resumed.out);
    let answered = run("x-pause-answer: 418");
    assert!(answered.out.contains("client gets, from a filter: 418\n"), "{}", answered.out);
    assert!(answered.out.contains("\n    answered from a tick\n"), "{}", answered.out);
    let expired = run("x-pause-forever: 1");
    assert!(expired.out.contains("client gets, because a filter failed: 503\n"), "{}", expired.out);
    assert!(expired.out.contains("note: filter 'p' paused the transaction"), "{}", expired.out);
    assert!(expired.out.contains("p  proxy_on_delete\n"), "the context lives on:\n{}", expired.out);
}

/// Two filters, of which the first appends and injects, and the second holds.
const BODIES: &str = "
filters:
  - {name: one, module: '{guest:body}', configuration: {request: append, response: 'inject:2'}}
  - {name: two, module: '{guest:body}', configuration: {request: hold, response: hold}}
";

#[test]
fn bodies_are_shown_piece_by_piece_and_held() {
    let place = Place::new().file("f.yaml", BODIES);
    let args = ["run", "f.yaml", "-r", "POST http://a.test/", "-d", "hello", "-H", "expect: 100-continue"];
    let more = ["--response-body", "hello, too", "--chunk-size", "4", "-H", "range: bytes=0-1"];
    let report = place.run(&[&args[..], &more, &["--format", "json"]].concat()).status(0).json();
    let seen: Vec<_> = report["callbacks"].as_array().unwrap().iter().filter(|step| !step["body"].is_null()).collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|step| {
            let (name, body) = (step["callback"].as_str().unwrap(), &step["body"]);
            let side = name.trim_start_matches("proxy_on_").trim_end_matches("_body");
            let marks = ["end", "held"].map(|key| if body[key] == true { key } else { "" });
            format!("{} {side} {} {}", step["filter"].as_str().unwrap(), body["bytes"], marks.join(" "))
                .trim()
                .to_owned()
        })
        .collect();
    assert_eq!(
        seen,
        [
            "one request 4",
            "two request 4  held",
            "one request 1 end",
            "two request 15 end",
            "two response 4  held",
            "two response 8  held",
            "two response 10 end",
            "one response 10 end",
        ]
    );
    assert_eq!(
        report["callbacks"].as_array().unwrap().iter().filter_map(|step| step.get("writes")).collect::<Vec<_>>(),
        [
            &json!([{"body": "request", "start": 1, "removed": 0, "added": 10, "text": "<appended>"}]),
            &json!([{"body": "response", "start": 2, "removed": 0, "added": 10, "text": "<injected>"}]),
        ]
    );
    assert_eq!(report["request"]["body"], json!({"bytes": 5, "text": "hello", "complete": true}));
    assert_eq!(report["forwarded"]["body"]["text"], "hello<appended>");
    let headers = json!([["Host", "a.test"], ["x-hold", "15 834419a8acbc5502"], ["content-length", "15"]]);
    assert_eq!(report["forwarded"]["headers"], headers, "neither expect nor range, and the right length");
    assert_eq!(texts(&report["notes"]).len(), 2);
    assert_eq!(report["response"]["body"]["text"], "he<injected>llo, too");
    let headers = report["response"]["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["content-length", "20"])), "{headers:?}");

    let text = place.run(&[&args[..], &more].concat()).status(0).out;
    for part in [
        "client sends: POST http://a.test/\n",
        "two  proxy_on_request_body (4 bytes): held\n",
        "one  proxy_on_request_body (1 byte, the end)\n       request body + 10 bytes at 1: \"<appended>\"\n",
        "\n  body: 15 bytes\n    hello<appended>\n",
        "\n  body: 20 bytes\n    he<injected>llo, too\n",
        "note: 'range' is not passed on",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn what_streams_and_may_change_goes_out_in_chunks() {
    let place = Place::new()
        .file("f.yaml", "filters: [{name: b, module: '{guest:body}'}]\n")
        .file("none.yaml", "filters: [{name: b, module: '{guest:body}', body: none}]\n");
    let run = |file: &str, more: &[&str]| {
        let args = ["run", file, "-r", "http://a.test/", "--response-body", "hello", "--format", "json"];
        place.run(&[&args[..], more].concat()).status(0).json()["response"]["headers"].clone()
    };
    let seen = json!(["x-request-seen", "chunks=0 bytes=0 eos=0"]);
    assert_eq!(run("f.yaml", &[]), json!([["content-length", "5"], seen]));
    assert_eq!(run("f.yaml", &["--chunk-size", "2"]), json!([seen, ["transfer-encoding", "chunked"]]));
    assert_eq!(run("none.yaml", &["--chunk-size", "2"]), json!([["content-length", "5"], seen]));
    let wrong = place.run(&["run", "f.yaml", "-r", "http://a.test/", "-d", "abc", "-H", "content-length: 4"]).status(1);
    assert_eq!(wrong.err, "error: the request's content-length says 4, and its body has 3 bytes\n");
}

#[test]
fn answers_come_from_body_callbacks_too() {
    let place = Place::new().file("f.yaml", "filters: [{name: b, module: '{guest:body}'}]\n");
    let run = |operation: &str, more: &[&str]| {
        let header = format!("x-op: {operation}");
        let args = ["run", "f.yaml", "-r", "POST http://a.test/", "-H", &header, "--format", "json"];
        place.run(&[&args[..], more].concat()).status(0).json()
    };
    let report = run("request:answer,response:append", &["-d", "hello"]);
    assert_eq!((&report["answered_by"], &report["forwarded"]), (&"filter".into(), &Value::Null));
    assert_eq!(
        report["response"]["body"]["text"], "answered at the request body\n<appended>",
        "an answer has a body, too"
    );
    let report = run("response:answer", &["--response-body", "hello", "--chunk-size", "2"]);
    assert_eq!((&report["answered_by"], &report["response"]["status"]), (&"filter".into(), &403.into()));
    assert_eq!(report["response"]["body"]["text"], "answered at the response body\n");
    assert_eq!(texts(&report["notes"]), Vec::<&str>::new(), "where bodies are shown, it is exact");
}

#[test]
fn limits_on_what_filters_hold() {
    let body = "x".repeat(3000);
    let place = Place::new()
        .file("body", &body)
        .file("f.yaml", "filters: [{name: b, module: '{guest:body}', limits: {body_kib: 1}}]\n")
        .file(
            "buffer.yaml",
            "filters: [{name: b, module: '{guest:body}', request_body: buffer, limits: {body_kib: 1}}]\n",
        );
    let run = |file: &str, operation: &str, more: &[&str]| {
        let header = format!("x-op: {operation}");
        let args = ["run", file, "-r", "POST http://a.test/", "-H", &header, "--chunk-size", "1000"];
        place.run(&[&args[..], more, &["--format", "json"]].concat()).status(0).json()
    };
    for (file, steps) in [("f.yaml", 2), ("buffer.yaml", 0)] {
        let report = run(file, "request:hold", &["--data-file", "body"]);
        assert_eq!((&report["answered_by"], &report["response"]["status"]), (&"limit".into(), &413.into()), "{file}");
        let shown = report["callbacks"].as_array().unwrap().iter();
        assert_eq!(shown.filter(|step| step["callback"] == "proxy_on_request_body").count(), steps, "{file}");
    }
    let report = run("f.yaml", "response:hold", &["--response-body-file", "body"]);
    assert_eq!((&report["answered_by"], &report["response"]["status"]), (&"failure".into(), &503.into()));
    let report = run("f.yaml", "request:pass", &["--data-file", "body"]);
    assert_eq!(report["forwarded"]["body"]["bytes"], 3000, "what passes is not held");
}

#[test]
fn filters_at_the_origin_come_before_those_at_the_client() {
    let place = Place::new().file(
        "f.yaml",
        "filters:\n  - {name: o, module: '{guest:body}', at: origin, body: response, configuration: {response: append}}\n  \
         - {name: c, module: '{guest:body}', body: request}\n",
    );
    let args = ["run", "f.yaml", "-r", "http://a.test/", "--response-body", "hello", "--format", "json"];
    let report = place.run(&args).status(0).json();
    let steps = steps(&report);
    assert_eq!(steps[4..7], ["o response_headers", "o response_body", "c response_headers"], "{steps:?}");
    assert_eq!(report["response"]["body"]["text"], "hello<appended>");
    let headers = report["response"]["headers"].as_array().unwrap();
    assert!(headers.contains(&json!(["x-request-seen", "chunks=0 bytes=0 eos=0"])), "{headers:?}");
}

#[test]
fn a_body_that_nobody_lets_go_on_expires() {
    let place = Place::new()
        .module(
            "holds.wasm",
            r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
            (func (export "malloc") (param i32) (result i32) (i32.const 0))
            (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 1)))"#,
        )
        .file("closed.yaml", "filters: [{name: h, module: holds.wasm, limits: {pause_ms: 20}}]\n")
        .file("open.yaml", "filters: [{name: h, module: holds.wasm, failure_policy: open, limits: {pause_ms: 20}}]\n");
    let run = |file: &str| place.run(&["run", file, "-r", "POST http://a.test/", "-d", "hello"]).status(0).out;
    let closed = run("closed.yaml");
    assert!(closed.contains("h  proxy_on_request_body (5 bytes, the end): held\n"), "{closed}");
    assert!(closed.contains("client gets, because a filter failed: 503\n"), "{closed}");
    assert!(
        closed.contains("note: filter 'h' paused the request body, and no tick and no answer of its ends that"),
        "{closed}"
    );
    let open = run("open.yaml");
    assert!(
        open.contains("\n  body: 5 bytes\n    hello\n") && open.contains("client gets, from the origin: 200\n"),
        "{open}"
    );
}

#[test]
fn a_rewritten_request_line_is_a_change() {
    let place = Place::new().file("f.yaml", "filters: [{name: r, module: '{guest:rewrite}'}]\n");
    let args = ["run", "f.yaml", "-r", "POST https://a.test/x", "-H", "x-set-path: /y", "-H", "x-set-status: 299"];
    let ran = place.run(&args).status(0);
    assert!(ran.out.contains("request - :path: /x\n") && ran.out.contains("request + :path: /y\n"), "{}", ran.out);
    assert!(ran.out.contains("origin gets: POST https://a.test/y\n"), "{}", ran.out);
    assert!(ran.out.contains("response + :status: 299\n"), "{}", ran.out);
}

#[test]
fn a_chain_that_does_not_load_is_status_1() {
    let place = Place::new().file(
        "f.yaml",
        "filters: [{name: f, module: '{guest:configure-false}', configuration: {message: 'I will not'}}]\n",
    );
    let ran = place.run(&["run", "f.yaml", "-r", "http://a.test/"]).status(1);
    assert!(ran.err.starts_with("error: f.yaml: filter 'f': module "), "{}", ran.err);
    assert!(ran.err.contains("[f] #1 error: I will not\n"), "{}", ran.err);
    assert_eq!(ran.out, "");
}

/// Of three filters the second one asks somebody: a real server is called, and the callback is the second one's.
#[test]
fn calls_are_sent_and_their_answers_are_callbacks() {
    let upstream = Upstream::start();
    let place = Place::new()
        .file("clusters.yaml", &format!("clusters:\n  upstream: {{endpoints: ['{}']}}\n", upstream.address()))
        .file(
            "f.yaml",
            "filters:\n  - {name: one, module: '{guest:headers}', body: none, configuration: {request: {set: {x-one: y}}}}\n  \
             - {name: asks, module: '{guest:callout}', body: none}\n  \
             - {name: three, module: '{guest:headers}', body: none, configuration: {request: {set: {x-three: y}}}}\n",
        );
    let run = |program: &str| {
        let header = format!("x-callout: {program}");
        let args = ["run", "clusters.yaml", "f.yaml", "-r", "http://a.test/", "-H", &header, "--format", "json"];
        place.run(&args).status(0).json()
    };
    let report = run("call path=/status/203 to=origin");
    let steps = steps(&report);
    let expected = [
        "asks request_headers",
        "asks http_call_response",
        "three context_create",
        "three request_headers",
        "three response_headers",
    ];
    assert_eq!(steps[3..8], expected, "{steps:?}");
    let change = &report["callbacks"][4]["changes"][0];
    assert_eq!((&change["message"], &change["name"]), (&"request".into(), &"x-callout-result".into()), "{change}");
    assert!(change["value"].as_str().unwrap().contains("status=203"), "{change}");
    assert_eq!(report["answered_by"], "origin");
    assert_eq!(upstream.requests_to("/status/203"), 1);

    // What comes of the call is the filter's answer.
    let report = run("call path=/body/5 answer=403");
    assert_eq!((&report["answered_by"], &report["response"]["status"]), (&"filter".into(), &403.into()));
    assert_eq!(report["forwarded"], Value::Null);

    // A cluster that is not there is refused at once, and told.
    let report = run("call cluster=nobody");
    assert_eq!(report["answered_by"], "origin");
    let log = report["callbacks"].as_array().unwrap().iter().flat_map(|step| texts(&step["log"])).collect::<Vec<_>>();
    assert!(log.iter().any(|line| line.contains("'nobody'")), "{log:#?}");
}

#[test]
fn a_call_that_nobody_answers_ends_with_the_pause() {
    let upstream = Upstream::start();
    let place = Place::new().file(
        "f.yaml",
        &format!(
            "clusters: {{upstream: {{endpoints: ['{}']}}}}\nfilters:\n  - {{name: asks, module: '{{guest:callout}}', \
             body: none, limits: {{pause_ms: 300}}}}\n",
            upstream.address()
        ),
    );
    let run = |program: &str| {
        let header = format!("x-callout: {program}");
        place.run(&["run", "f.yaml", "-r", "http://a.test/", "-H", &header]).status(0)
    };
    let begin = std::time::Instant::now();
    let expired = run("call path=/hang timeout=60000");
    assert!(begin.elapsed().as_secs() < 30, "it was not waited for after the pause");
    assert_eq!(upstream.requests_to("/hang"), 1);
    assert!(expired.out.contains("client gets, because a filter failed: 503\n"), "{}", expired.out);
    let note =
        "note: filter 'asks' paused the transaction, and no tick and no answer of its ends that within its 300ms";
    assert!(expired.out.contains(note), "{}", expired.out);
    assert!(!expired.out.contains("http_call_response"), "{}", expired.out);
    // The call's own limit comes first where it is the shorter one, and is an answer.
    let timed_out = run("call path=/hang timeout=50");
    assert!(timed_out.out.contains("asks  proxy_on_http_call_response\n"), "{}", timed_out.out);
    assert!(timed_out.out.contains("client gets, from the origin: 200\n"), "{}", timed_out.out);
    assert!(timed_out.out.contains("code=4 message=timeout"), "{}", timed_out.out);
}

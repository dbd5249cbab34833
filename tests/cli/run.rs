//! `wasm-remap run`.

use serde_json::{Value, json};

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
    assert!(ran.out.contains("  x-rule: A\n\n  {\"error\":\"missing or unknown API key\"}\n"), "{}", ran.out);
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
    assert!(answered.out.contains("\n  answered from a tick\n"), "{}", answered.out);
    let expired = run("x-pause-forever: 1");
    assert!(expired.out.contains("client gets, because a filter failed: 503\n"), "{}", expired.out);
    assert!(expired.out.contains("note: filter 'p' paused the transaction"), "{}", expired.out);
    assert!(expired.out.contains("p  proxy_on_delete\n"), "the context lives on:\n{}", expired.out);
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

//! `match`, as `check` and `run` tell of it.

use serde_json::{Value, json};

use crate::Place;

const CHAIN: &str = "
filters:
  - {name: first, module: '{guest:headers}', body: none, configuration: {response: {add: {x-by: first}}}}
  - name: middle
    module: '{guest:headers}'
    body: none
    configuration: {response: {add: {x-by: middle}}}
    match:
      method: [GET, HEAD]
      path: /api/**
      client: 10.0.0.0/8
      not: {headers: {x-skip: {present: true}}}
  - name: last
    module: '{guest:headers}'
    body: none
    configuration: {response: {add: {x-by: last}}}
    match: {any: [{query: {debug: '1'}}, {cookies: {debug: '1'}}, {internal: true}]}
";

#[test]
fn check_prints_conditions_in_words_and_counts_them() {
    let place = Place::new().file("f.yaml", CHAIN);
    let text = place.run(&["check", "f.yaml"]).status(0).out;
    let words: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let middle = "match method GET or HEAD and path like /api/** and client 10.0.0.0/8 and not header x-skip present (5 conditions)";
    assert!(words.contains(middle), "{text}");
    let report = place.run(&["check", "f.yaml", "--format", "json"]).status(0).json();
    let filters = &report["rules"][0]["filters"];
    assert_eq!(filters[0]["match"], Value::Null);
    let last = "query parameter debug 1 or cookie debug 1 or a plugin's own request";
    assert_eq!(filters[2]["match"], json!({"when": last, "conditions": 3}));

    let wrong = Place::new().file("f.yaml", &CHAIN.replace("10.0.0.0/8", "10.0.0.1/8"));
    let ran = wrong.run(&["check", "f.yaml"]).status(1);
    assert!(ran.err.contains("f.yaml:11:15: filters[1].match.client: '10.0.0.1/8' has bits beyond"), "{}", ran.err);
}

#[test]
fn run_says_which_filters_a_request_leaves_out_and_why() {
    let place = Place::new().file("f.yaml", CHAIN);
    let run = |args: &[&str]| {
        let report = place.run(&[&["run", "f.yaml", "--format", "json"], args].concat()).status(0).json();
        let left_out = report["left_out"].as_array().unwrap().iter();
        let left_out: Vec<_> = left_out
            .map(|out| format!("{}: {}", out["filter"].as_str().unwrap(), out["why"].as_str().unwrap()))
            .collect();
        let by = report["response"]["headers"].as_array().unwrap().iter().filter(|field| field[0] == "x-by");
        (by.map(|field| field[1].as_str().unwrap().to_owned()).collect::<Vec<_>>(), left_out)
    };
    let last = "last: query parameter debug 1 or cookie debug 1 or a plugin's own request";
    let at_home = ["--client", "10.1.2.3"];
    let (by, out) = run(&[&["-r", "http://a.test/%61pi//x?debug=%31"][..], &at_home].concat());
    assert_eq!((by, out.len()), (vec!["last".to_owned(), "middle".to_owned(), "first".to_owned()], 0));
    for (args, why) in [
        (&["-r", "PUT http://a.test/api/x"][..], "method GET or HEAD (the request's is PUT)"),
        (&["-r", "http://a.test/%61p/x"], "path like /api/** (the request's is /ap/x)"),
        (&["-r", "http://a.test/api/x"], "client 10.0.0.0/8 (the request's is 127.0.0.1)"),
        (
            &["-r", "http://a.test/api/x", "--client", "10.0.0.1", "-H", "X-Skip: y"],
            "not header x-skip present (the request's is \"y\")",
        ),
    ] {
        let (by, out) = run(args);
        assert_eq!(out, [format!("middle: {why}"), last.to_owned()], "{args:?}");
        assert_eq!(by, ["first"]);
    }
    assert_eq!(run(&["-r", "http://a.test/", "--internal"]).0, ["last", "first"]);
    let text = place.run(&["run", "f.yaml", "-r", "PUT http://a.test/"]).status(0).out;
    assert!(
        text.contains("middle takes no part: its match wants method GET or HEAD (the request's is PUT)\n"),
        "{text}"
    );
}

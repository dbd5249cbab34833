//! `wasm-remap hostcalls`, and the page that it writes.

use std::fs;

use wasm_remap_tests::artifacts;

use crate::Place;

#[test]
fn the_page_of_the_documentation_is_what_the_command_writes() {
    let page = fs::read_to_string(artifacts::repository("docs/hostcalls.md")).expect("docs/hostcalls.md is readable");
    let written = Place::new().run(&["hostcalls", "--format", "markdown"]).status(0).out;
    if page != written {
        let at = page.lines().zip(written.lines()).position(|(is, should)| is != should);
        let line = at.unwrap_or_else(|| page.lines().count().min(written.lines().count()));
        panic!(
            "docs/hostcalls.md is out of date from line {} on:\n  is        {:?}\n  should be {:?}\n\
             Write it anew with: target/release/wasm-remap hostcalls --format markdown > docs/hostcalls.md",
            line + 1,
            page.lines().nth(line).unwrap_or_default(),
            written.lines().nth(line).unwrap_or_default(),
        );
    }
}

#[test]
fn the_tables_as_json() {
    let tables = Place::new().run(&["hostcalls", "--format", "json"]).status(0).json();
    let calls = tables["hostcalls"].as_array().unwrap();
    assert!(calls.len() >= 43, "{}", calls.len());
    let log = calls.iter().find(|call| call["name"] == "proxy_log").unwrap();
    assert_eq!(log["signature"], "proxy_log(level: i32, message_data: i32, message_size: i32) -> i32");
    assert_eq!((&log["support"], &log["during_start"]), (&"full".into(), &true.into()));
    assert_eq!((&log["answers"], &log["misused"]), (&["Ok"][..].into(), &["BadArgument"][..].into()));
    let functions = tables["foreign_functions"].as_array().unwrap();
    let ours = functions.iter().find(|function| function["name"] == "header_values").unwrap();
    assert_eq!((&ours["origin"], functions.len()), (&"wasm_remap".into(), 11));
    assert!(tables["wasi"].as_array().unwrap().iter().any(|row| row["name"] == "proc_exit"));
    assert!(tables["callbacks"].as_array().unwrap().iter().any(|row| row["called"] == false));
}

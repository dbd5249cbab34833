//! `wasm-remap schema`, and the file that it writes.

use std::fs;

use serde_json::Value;
use wasm_remap_tests::artifacts;

use crate::Place;

#[test]
fn the_schema_of_the_repository_is_what_the_command_writes() {
    let file = fs::read_to_string(artifacts::repository("configs/filters.schema.json")).expect("a readable file");
    let written = Place::new().run(&["schema"]).status(0).out;
    let write = "target/release/wasm-remap schema > configs/filters.schema.json";
    assert!(file == written, "configs/filters.schema.json is out of date. Write it anew with: {write}");
    let schema: Value = serde_json::from_str(&file).expect("JSON");
    let properties = &schema["definitions"]["Filter"]["properties"];
    assert_eq!(properties["failure_policy"]["description"].as_str().map(|text| text.contains("fails")), Some(true));
}

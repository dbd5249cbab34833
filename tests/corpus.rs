//! Replays the corpus of the fuzz targets, found crashes included. `make fuzz` finds new ones.
#![forbid(unsafe_code)]

#[path = "fuzz/oracles.rs"]
mod oracles;

use std::fs;

use wasm_remap_tests::artifacts;

fn replay(target: &str, check: impl Fn(&[u8])) {
    let folder = artifacts::repository(&format!("tests/fuzz/corpus/{target}"));
    let mut count = 0;
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        check(&fs::read(path).expect("a readable file"));
        count += 1;
    }
    assert!(count >= 5, "{target}: only {count} inputs");
}

#[test]
fn header_maps_from_guests() {
    replay("pairs", oracles::pairs);
}

#[test]
fn filter_files() {
    replay("config", oracles::config);
}

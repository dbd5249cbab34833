//! What is in C (tests/native), compiled when it is needed.

use std::fs;
use std::process::Command;

use wasm_remap_tests::artifacts;
use wasm_remap_tests::harness::install::Install;

/// The program or library that `cc` makes of `tests/native/<name>.c`.
pub(crate) fn compile(name: &str, kind: &[&str]) -> Vec<u8> {
    let source = artifacts::repository(&format!("tests/native/{name}.c"));
    let dir = tempfile::Builder::new().prefix("wasm-remap-native-").tempdir().expect("a temporary directory");
    let output = dir.path().join(name);
    let compiled = Command::new("cc")
        .args(kind)
        .args(["-O2", "-std=c11", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&output)
        .arg(format!("-I{}", Install::get().include.display()))
        .arg(&source)
        .output()
        .unwrap_or_else(|error| panic!("cannot run cc: {error}: `make deps`"));
    let errors = String::from_utf8_lossy(&compiled.stderr);
    assert!(compiled.status.success(), "{} does not compile:\n{errors}", source.display());
    fs::read(&output).expect("it was just made")
}

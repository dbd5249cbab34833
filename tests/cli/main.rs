//! `wasm-remap` as its users have it: a program, its output and its exit status.
#![forbid(unsafe_code)]

mod check;
mod hostcalls;
mod inspect;
mod matching;
mod migrate;
mod run;
mod schema;
mod told;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use wasm_remap_tests::artifacts;

/// The built program: `WASM_REMAP_CLI`, else beside the tests.
#[track_caller]
fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("WASM_REMAP_CLI").map(PathBuf::from) {
        assert!(path.is_file(), "WASM_REMAP_CLI names {}, which is no file", path.display());
        return path;
    }
    let exe = std::env::current_exe().expect("a running test knows its own path");
    let profile = exe.parent().and_then(Path::parent).expect("tests run from <profile>/deps");
    let path = profile.join("wasm-remap");
    assert!(
        path.is_file(),
        "the command is not built: {} does not exist. Run `make build`, or name the file in WASM_REMAP_CLI",
        path.display()
    );
    path
}

/// What a run of the program left behind.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    /// Standard output as JSON.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("no JSON: {error}\n{}\n{}", self.out, self.err))
    }

    /// Ends the test unless the exit status is this.
    #[track_caller]
    fn status(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "exit status; output was:\n{}\n{}", self.out, self.err);
        self
    }
}

/// A directory with files in which the program runs.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Place(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file; `{guest:NAME}` is a built guest's path.
    #[track_caller]
    fn file(self, name: &str, text: &str) -> Self {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a file stands in a directory")).expect("a directory of ours");
        let mut parts = text.split("{guest:");
        let mut expanded = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (guest, rest) = part.split_once('}').expect("a closing brace");
            expanded += &artifacts::guest(guest).display().to_string();
            expanded += rest;
        }
        fs::write(path, expanded).expect("a file of ours");
        self
    }

    /// Writes a module from its text.
    #[track_caller]
    fn module(self, name: &str, text: &str) -> Self {
        let bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        fs::write(self.path().join(name), bytes).expect("a file of ours");
        self
    }

    fn run(&self, args: &[&str]) -> Ran {
        let output = Command::new(program()).current_dir(self.path()).args(args).output().expect("the program runs");
        let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
        Ran {
            status: output.status.code().expect("the program ends by itself"),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// The texts of a JSON array.
#[track_caller]
fn texts(value: &Value) -> Vec<&str> {
    value.as_array().expect("an array").iter().map(|item| item.as_str().expect("a text")).collect()
}

#[test]
fn help_has_examples_and_the_version_is_the_workspaces() {
    let place = Place::new();
    for command in [&[][..], &["check"], &["inspect"], &["run"], &["migrate"], &["hostcalls"]] {
        let help = place.run(&[command, &["--help"]].concat()).status(0);
        assert!(help.out.contains("Examples:\n"), "{command:?}:\n{}", help.out);
        assert!(help.out.lines().all(|line| line.len() <= 120), "{command:?}:\n{}", help.out);
    }
    let version = place.run(&["--version"]).status(0);
    assert_eq!(version.out, format!("wasm-remap {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let place = Place::new();
    for args in [
        &[][..],
        &["chekc"],
        &["check"],
        &["check", "a.yaml", "--remap-config", "remap.config"],
        &["migrate"],
        &["migrate", "a.yaml", "--format", "toml"],
        &["check", "a.yaml", "--format", "xml"],
        &["inspect"],
        &["run", "a.yaml"],
        &["run", "a.yaml", "-r", "GET /x"],
        &["run", "a.yaml", "-r", "http://a/", "-H", "no colon"],
        &["run", "a.yaml", "-r", "http://a/", "--response", "99"],
        &["hostcalls", "--format", "text"],
    ] {
        let ran = place.run(args).status(2);
        assert!(ran.err.contains("--help") || ran.err.contains("Usage:"), "{args:?}:\n{}", ran.err);
    }
}

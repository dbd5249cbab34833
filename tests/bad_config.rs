//! Every file of tests/bad-config is refused, with exactly the message that stands beside it: NAME.yaml and NAME.txt.
//!
//! A message is one line, as the plugin logs it, and below it what `wasm-remap check` shows on a terminal. After a change,
//! `WASM_REMAP_WRITE_GOLDEN=1 cargo test --test bad_config` writes them anew: read what changed.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

use engine::config::{self, ConfigError, ConfigFile, Variables};
use wasm_remap_tests::artifacts;

/// ATS's buffer for the message of a rule that does not load has this many bytes; the rule stands before ours.
const ERROR_BUFFER: usize = 2048;

fn folder() -> PathBuf {
    artifacts::repository("tests/bad-config")
}

/// What a golden file holds.
fn golden(error: &ConfigError, folder: &Path) -> String {
    let folder = format!("{}/", folder.display());
    let text = format!("{error}\n\nerror: {}\n{}", error.headline(), error.snippet(2));
    text.replace(&folder, "")
}

/// Compares, or writes.
fn check(name: &str, text: &str, wrong: &mut Vec<String>) {
    let path = folder().join(format!("{name}.txt"));
    if std::env::var_os("WASM_REMAP_WRITE_GOLDEN").is_some() {
        fs::write(&path, text).expect("a writable repository");
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    if text != expected {
        wrong.push(format!("{name}\n  says:\n{text}\n  should say:\n{expected}"));
    }
}

#[test]
fn every_bad_file_gives_its_golden_message() {
    let variables = Variables::only([("WORD", "many")]);
    let (mut count, mut wrong) = (0, Vec::new());
    let mut files: Vec<_> =
        fs::read_dir(folder()).expect("a folder").map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let name = file.file_stem().and_then(|stem| stem.to_str()).expect("a name in UTF-8");
        match config::load_with(file, &variables, None) {
            Ok(_) => wrong.push(format!("{name}: loads")),
            Err(error) => {
                let line = error.to_string();
                assert!(!line.contains('\n') && line.len() < ERROR_BUFFER / 2, "{name}: {} bytes: {line}", line.len());
                assert!(!line.contains('\u{1}'), "{name}: {line}");
                check(name, &golden(&error, &folder()), &mut wrong);
                // All but files that are no text have a place, inside of the file.
                if !["encoding-utf16", "encoding-binary", "encoding-wasm"].contains(&name) {
                    let (at, column) = error.at.unwrap_or_else(|| panic!("{name}: no place: {line}"));
                    let text = String::from_utf8_lossy(&fs::read(file).expect("a readable file")).into_owned();
                    assert!(at <= text.lines().count() + 1 && column > 0, "{name}: {line}");
                }
            }
        }
        count += 1;
    }
    for golden in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "txt")) {
        let stem = golden.file_stem().expect("a name").to_string_lossy().into_owned();
        let of_test = ["file-missing", "file-directory", "file-too-large", "file-no-permission", "files-two-clusters"];
        if !golden.with_extension("yaml").is_file() && !of_test.contains(&&*stem) {
            wrong.push(format!("{stem}.txt belongs to no file"));
        }
    }
    println!("{count} bad files");
    assert!(count >= 60, "only {count} bad files");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What cannot be kept in a repository.
#[test]
fn files_that_cannot_be_read_give_their_golden_messages() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let at = |name: &str| place.path().join(name);
    let mut wrong = Vec::new();
    let mut refused = |name: &str, file: &Path| {
        let error = config::load(file).expect_err(name);
        check(name, &golden(&error, place.path()), &mut wrong);
    };
    refused("file-missing", &at("missing.yaml"));
    fs::create_dir(at("directory.yaml")).expect("a directory of ours");
    refused("file-directory", &at("directory.yaml"));
    fs::write(at("large.yaml"), vec![b'#'; (16 << 20) + 1]).expect("a file of ours");
    refused("file-too-large", &at("large.yaml"));
    fs::write(at("closed.yaml"), "filters: []\n").expect("a file of ours");
    let nobody = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    fs::set_permissions(at("closed.yaml"), nobody).expect("a file of ours");
    // Permissions mean nothing to root.
    if fs::read(at("closed.yaml")).is_err() {
        refused("file-no-permission", &at("closed.yaml"));
    }
    fs::write(at("one.yaml"), "clusters: {auth: {endpoints: ['a.test:80']}}\n").expect("a file of ours");
    fs::write(at("two.yaml"), "# Another one\nclusters:\n  auth: {endpoints: ['b.test:80']}\n")
        .expect("a file of ours");
    let error = ConfigFile::load_all([at("one.yaml"), at("two.yaml")]).expect_err("two clusters of one name");
    check("files-two-clusters", &golden(&error, place.path()), &mut wrong);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

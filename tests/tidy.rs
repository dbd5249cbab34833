//! Invariants of the source tree, as tests: what docs/architecture.md promises and no compiler checks.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests' package stands in the workspace").to_path_buf()
}

/// A text file of the project.
struct Source {
    /// From the root, with slashes.
    path: String,
    text: String,
}

/// Every text file of the project, what is built left out.
fn sources() -> Vec<Source> {
    let root = root();
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder").filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if !matches!(name.as_str(), ".git" | "target" | "artifacts" | "coverage") {
                    folders.push(path);
                }
            } else if let Ok(text) = fs::read_to_string(&path) {
                let path = path.strip_prefix(&root).expect("found under the root").to_string_lossy().into_owned();
                sources.push(Source { path, text });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(sources.len() > 100, "only {} files found", sources.len());
    sources
}

fn under<'a>(sources: &'a [Source], folder: &'a str, extension: &'a str) -> impl Iterator<Item = &'a Source> {
    sources.iter().filter(move |source| source.path.starts_with(folder) && source.path.ends_with(extension))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// The words of a line: runs of letters, digits and underscores.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// A line without its `//` comment. A `//` in a string cuts it too early, which no check here minds.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

/// Every line of these files that `wrong` objects to, with its place.
fn lines<'a>(sources: impl Iterator<Item = &'a Source>, wrong: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in source.text.lines().enumerate() {
            if wrong(line) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn the_engine_names_nothing_of_ats() {
    let is_call = |word: &str| word.strip_prefix("TS").is_some_and(|rest| rest.starts_with(|c: char| c.is_uppercase()));
    let sources = sources();
    none(
        "names of ATS's API in the engine",
        &lines(under(&sources, "src/engine/", ".rs"), |line| words(line).any(is_call)),
    );
    for manifest in ["src/engine/Cargo.toml", "src/cli/Cargo.toml"] {
        let text = read(manifest);
        let dependency =
            |line: &&str| words(line).next().is_some_and(|word| matches!(word, "ats" | "ats-sys" | "fake-ats"));
        none(manifest, &text.lines().filter(dependency).map(str::to_owned).collect::<Vec<_>>());
    }
}

#[test]
fn the_plugin_knows_no_wasm() {
    let sources = sources();
    let of_wasm = |line: &str| words(code(line)).any(|word| word == "wasmtime" || word.starts_with("proxy_on_"));
    none("the plugin reaches past the engine", &lines(under(&sources, "src/plugin/", ".rs"), of_wasm));
    assert!(!read("src/plugin/Cargo.toml").contains("wasmtime"), "the plugin depends on wasmtime");
    none("the safe wrappers know Proxy-Wasm", &lines(under(&sources, "src/ats/", ".rs"), of_wasm));
}

#[test]
fn unsafe_code_stands_only_where_it_may() {
    for file in ["src/callout/lib.rs", "src/cli/main.rs", "tests/lib.rs"] {
        assert!(read(file).contains("#![forbid(unsafe_code)]"), "{file} does not forbid unsafe code");
    }
    // All but one module and one file of it.
    assert!(read("src/engine/lib.rs").contains("#![deny(unsafe_code)]"));
    // Raw bindings, their safe wrappers, the entry points that ATS calls; the calls between copies of the plugin; the
    // mapping of compiled code; and what stands in for ATS or is a guest.
    const ALLOWED: &[&str] = &[
        "ats-sys/",
        "src/ats/",
        "src/plugin/lib.rs",
        "src/engine/shared/table/",
        // The one function that makes code of bytes from a disk.
        "src/engine/code/cache/mapped.rs",
        // An allocator that counts, for one test.
        "src/engine/tests/allocations/counting.rs",
        "tests/fake-ats/",
        "tests/guests/",
    ];
    let sources = sources();
    let others =
        under(&sources, "", ".rs").filter(|source| !ALLOWED.iter().any(|allowed| source.path.starts_with(allowed)));
    let others = others.filter(|source| source.path != "tests/tidy.rs");
    none("unsafe code out of place", &lines(others, |line| words(code(line)).any(|word| word == "unsafe")));
}

#[test]
fn every_crate_takes_the_lints_of_the_workspace() {
    let sources = sources();
    for source in under(&sources, "", "Cargo.toml").filter(|source| source.text.contains("[package]")) {
        assert!(source.text.contains("[lints]\nworkspace = true"), "{} takes no lints", source.path);
    }
}

#[test]
fn no_source_file_is_long() {
    const MOST: usize = 600;
    let sources = sources();
    let long = |source: &&Source| source.text.lines().count() > MOST;
    let found: Vec<_> = under(&sources, "src/", ".rs").filter(long).map(|source| source.path.clone()).collect();
    none(&format!("more than {MOST} lines"), &found);
}

#[test]
fn the_root_holds_what_it_should() {
    const ALLOWED: &[&str] = &[
        "ats-sys",
        "Cargo.lock",
        "Cargo.toml",
        "CHANGELOG.md",
        "configs",
        "docs",
        "examples",
        "LICENSE",
        "Makefile",
        "README.md",
        "rust-toolchain.toml",
        "SECURITY.md",
        "src",
        "target",
        "tests",
    ];
    let entries = fs::read_dir(root()).expect("a readable folder").filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let found: Vec<_> = names.filter(|name| !name.starts_with('.') && !ALLOWED.contains(&name.as_str())).collect();
    none("what is this in the root?", &found);
    assert!(read(".gitignore").lines().any(|line| line == "/target"), "git does not ignore target");
}

#[test]
fn no_text_names_this_machine() {
    // Written apart, so that this file does not name them either.
    let patterns = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];
    let sources = sources();
    none(
        "paths of somebody's machine",
        &lines(sources.iter(), |line| patterns.iter().any(|pattern| line.contains(pattern))),
    );
    let foreign = |line: &str| {
        line.strip_prefix("source = ")
            .is_some_and(|source| source != "\"registry+https://github.com/rust-lang/crates.io-index\"")
    };
    none("crates that are not from crates.io", &lines(under(&sources, "", "Cargo.lock"), foreign));
}

/// The names of all tests, of every crate.
fn tests(sources: &[Source]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for source in under(sources, "", ".rs") {
        let mut test = false;
        for line in source.text.lines().map(str::trim) {
            if line.starts_with("#[test]") {
                test = true;
            } else if test && let Some(rest) = line.strip_prefix("fn ") {
                names.extend(words(rest).next().map(str::to_owned));
                test = false;
            }
        }
    }
    names
}

#[test]
fn every_feature_names_tests_that_exist() {
    let sources = sources();
    let tests = tests(&sources);
    let text = read("docs/support.md");
    let mut named = 0;
    let mut missing = Vec::new();
    // In the tables whose last column is headed "test", each row names tests there or says "not yet".
    let mut in_table = false;
    for (number, line) in text.lines().enumerate() {
        let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        if !line.starts_with('|') {
            in_table = false;
        } else if cells.last() == Some(&"test") {
            in_table = true;
        } else if in_table && !line.contains("---") {
            let last = cells.last().copied().unwrap_or_default();
            let names: Vec<_> = last.split('`').skip(1).step_by(2).collect();
            named += names.len();
            missing.extend(
                names.iter().filter(|name| !tests.contains(**name)).map(|name| format!("{}: {name}", number + 1)),
            );
            if names.is_empty() && last != "not yet" && last != "-" {
                missing.push(format!("{}: {line}", number + 1));
            }
        }
    }
    assert!(named > 20, "docs/support.md names only {named} tests");
    none("docs/support.md names tests that do not exist", &missing);
}

/// A heading's anchor, as GitHub makes it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[test]
fn every_link_resolves() {
    let sources = sources();
    let root = root();
    let mut broken = Vec::new();
    let mut count = 0;
    for source in under(&sources, "", ".md") {
        let here = root.join(&source.path);
        for (at, _) in source.text.match_indices("](") {
            let Some(link) = source.text[at + 2..].split(')').next() else { continue };
            if link.starts_with("http:") || link.starts_with("https:") || link.starts_with("mailto:") {
                continue;
            }
            count += 1;
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { here.clone() } else { here.parent().expect("a file").join(file) };
            let inside = target.components().all(|part| part != Component::RootDir) || target.starts_with(&root);
            let anchored = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                text.lines().any(|line| line.starts_with('#') && anchor(line) == fragment)
            };
            if !inside || !target.exists() || !(fragment.is_empty() || anchored()) {
                broken.push(format!("{}: {link}", source.path));
            }
        }
    }
    assert!(count > 10, "only {count} links found");
    none("links that lead nowhere", &broken);
}

#[test]
fn every_dependency_is_argued_for() {
    let manifest = read("Cargo.toml");
    let page = read("docs/architecture.md");
    let section = manifest.split("[workspace.dependencies]").nth(1).and_then(|rest| rest.split("\n[").next());
    let dependencies = section.expect("the workspace's dependencies").lines();
    let names = dependencies
        .filter(|line| !line.starts_with('#') && !line.contains("path ="))
        .filter_map(|line| line.split(" =").next());
    let names: Vec<_> = names.filter(|name| !name.trim().is_empty()).collect();
    assert!(names.len() > 10, "{names:?}");
    let missing: Vec<_> =
        names.iter().filter(|name| !page.contains(&format!("`{name}`"))).map(|name| (*name).to_owned()).collect();
    none("docs/architecture.md gives no reason for", &missing);
}

#[test]
fn every_key_and_every_counter_is_documented() {
    const PAGES: [&str; 4] = ["docs/configuration.md", "docs/callouts.md", "docs/shared.md", "docs/metrics.md"];
    let page = PAGES.map(read).concat();
    let sources = sources();
    let mut names: Vec<String> = Vec::new();
    // The fields of the structures that serde reads.
    for source in under(&sources, "src/engine/config/", ".rs") {
        let mut inside = false;
        for line in source.text.lines() {
            if line.starts_with("struct Raw")
                || line.starts_with("pub(crate) struct Raw")
                || line.starts_with("pub(super) struct Raw")
            {
                inside = line.ends_with('{');
            } else if line.starts_with('}') {
                inside = false;
            } else if inside
                && !line.trim().starts_with(['#', '/'])
                && let Some((name, _)) = line.split_once(':')
            {
                names.extend(words(name).last().map(str::to_owned));
            }
        }
    }
    assert!(names.iter().any(|name| name == "failure_policy"), "no keys found in src/engine/config: {names:?}");
    let counters = read("src/engine/counters.rs");
    let list =
        counters.split("\ncounters! {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the list of counters");
    let counters = list.lines().map(str::trim).filter(|line| !line.starts_with("///"));
    let mut totals: Vec<String> = counters.flat_map(words).map(str::to_owned).collect();
    // `("name", help, value)`, and the first text behind `Total::counter(` or `Total::gauge(`.
    let stats = read("src/plugin/stats.rs");
    let named = stats.lines().filter_map(|line| line.trim().strip_prefix("(\"")?.split('"').next());
    totals.extend(named.map(str::to_owned));
    let of_engine = read("src/engine/observe/totals.rs");
    let behind = |text: &str, call: &str| -> Vec<String> {
        text.split(call)
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned))
            .collect()
    };
    for text in [&stats, &of_engine] {
        totals.extend(behind(text, "Total::counter("));
        totals.extend(behind(text, "Total::gauge("));
    }
    assert!(totals.len() > 25, "{totals:?}");
    let families = read("src/engine/observe/collect.rs");
    let families: Vec<_> =
        families.split('"').filter(|text| text.starts_with("wasm_remap_")).map(str::to_owned).collect();
    assert!(families.len() > 15, "{families:?}");
    names.extend(totals);
    names.extend(families);
    let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).cloned().collect();
    none(&format!("{} do not say what these are", PAGES.join(", ")), &missing);
}

#[test]
fn the_changelog_has_a_place_for_what_is_new() {
    let text = read("CHANGELOG.md");
    let unreleased = text.split("\n## ").nth(1).expect("a section");
    assert!(unreleased.starts_with("[Unreleased]"), "the first section is for what is not released yet");
}

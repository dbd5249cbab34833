//! What the tests of reloads have in common.

use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Mark, Origin, Rule, TrafficServer, wait_until};

/// A reload compiles, on a machine that has other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A filter that tells its version to the origin and to the client.
pub(crate) fn stamp(name: &str, module: &str, version: &str) -> String {
    format!(
        "  - name: {name}\n    module: {module}\n    body: none\n    configuration:\n      request: {{set: {{x-at-{name}: \"{version}\"}}}}\n      \
         response: {{set: {{x-to-{name}: \"{version}\"}}}}\n"
    )
}

/// A file with one such filter, called `a`.
pub(crate) fn file(version: &str) -> String {
    format!("filters:\n{}", stamp("a", "{guest:headers}", version))
}

/// The same, watched.
pub(crate) fn watched(version: &str) -> String {
    format!("watch: true\n{}", file(version))
}

/// Rules `NAME.test`, each with the file `NAME.yaml`.
pub(crate) fn rules(origin: &Origin, names: &[&str]) -> Builder {
    let rule = |builder: Builder, name: &&str| {
        builder.rule(Rule::new(&format!("{name}.test"), "http://{origin}/").wasm([format!("{name}.yaml")]))
    };
    names.iter().fold(TrafficServer::builder().origin(origin), rule)
}

/// Which version of filter `a` serves a rule.
#[track_caller]
pub(crate) fn version(server: &TrafficServer, name: &str) -> String {
    let response = Client::connect(server.port()).get(&format!("{name}.test"), "/");
    assert_eq!(response.status, 200, "{}", response.text());
    response.header("x-to-a").expect("every response passes the filter")
}

/// Waits until that is this one.
#[track_caller]
pub(crate) fn wait_for_version(server: &TrafficServer, name: &str, expected: &str) {
    wait_until(PATIENCE, "the new version", || (version(server, name) == expected).then_some(()));
}

/// Sends a message and waits for the line that ends what it asks for.
#[track_caller]
pub(crate) fn message(server: &TrafficServer, text: &str, end: &str) -> Vec<String> {
    // What was written a moment ago is loaded once more the next time, since it could not be told from what follows.
    thread::sleep(Duration::from_millis(100));
    let mark = server.mark();
    server.traffic_ctl(&["plugin", "msg", "wasm_remap", text]);
    server.wait_for_log_since(mark, end, PATIENCE);
    server.lines_since(mark)
}

/// `plugin msg wasm_remap reload`, and what its last line says.
#[track_caller]
pub(crate) fn reload(server: &TrafficServer, name: &str) -> String {
    let lines = message(server, &format!("reload {name}"), "reload: ");
    summary(&lines).expect("it has come")
}

/// The line at the end of a reload.
pub(crate) fn summary(lines: &[String]) -> Option<String> {
    let line = lines.iter().rev().find(|line| line.contains("[wasm_remap] reload: "))?;
    Some(line.split_once("reload: ")?.1.to_owned())
}

/// The one line since `mark` that says why a chain was not loaded.
#[track_caller]
pub(crate) fn complaint(server: &TrafficServer, mark: Mark) -> String {
    server.wait_for_log_since(mark, "it goes on with the chain that it has", PATIENCE)
}

//! The plugin's file is replaced while the server runs: ATS loads the new build beside the old one, which stays. What
//! filters share is one all the same.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use wasm_remap_tests::{Client, Origin, Rule, TrafficServer, artifacts};

const RELOADS: u32 = 50;

/// What every transaction does: counts in shared data, by two ways, and in a queue.
const PROGRAM: &str = r#"call_foreign_function shared_data_increment {"bytes":[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,110]}"#;

const FILTER: &str = "filters:\n  - name: probe\n    vm_id: counting\n    module: {guest:probe}\n";

fn start(origin: &Origin) -> TrafficServer {
    TrafficServer::builder()
        .origin(origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["probe.yaml"]))
        .file("probe.yaml", FILTER)
        .manager()
        .stats()
        .start()
}

/// The results of a program of the probe guest, as the answer's JSON.
fn run(client: &mut Client, program: &str) -> String {
    let response = client.request("GET", "a.test", "/", &[("x-probe", program)], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    response.text()
}

/// The files of the plugin that the server's process has loaded: ATS copies each build to a path of its own.
fn copies(server: &TrafficServer) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).expect("the server runs");
    let file = |line: &str| line.split_once('/').map(|(_, path)| format!("/{path}"));
    maps.lines().filter_map(file).filter(|path| path.contains("wasm_remap.so")).collect()
}

#[test]
fn replaced_builds_share_data_and_queues() {
    let origin = Origin::start();
    let mut server = start(&origin);
    let mut client = Client::connect(server.port());
    println!("{}", run(&mut client, PROGRAM));
    println!("{:#?}", copies(&server));
    server.replace_plugin(artifacts::fault_plugin());
    server.reload().expect("the other build loads");
    println!("{}", run(&mut client, PROGRAM));
    println!("{:#?}", copies(&server));
    let _ = (RELOADS, AtomicBool::new(false), AtomicU64::new(0), Ordering::Relaxed, thread::current());
}

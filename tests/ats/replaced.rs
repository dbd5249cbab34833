//! The plugin's file is replaced while the server runs: ATS loads the new build beside the old one, which stays. What
//! filters share is one all the same.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use wasm_remap_tests::{Client, Origin, Rule, TrafficServer, artifacts};

const RELOADS: u32 = 50;

/// At these reloads the plugin's file has been replaced by the other build.
const REPLACED: [u32; 3] = [10, 25, 40];

/// Clients that count meanwhile.
const CLIENTS: usize = 4;

/// What every transaction does: counts in shared data, and in a metric.
const COUNT: &str = r#"call_foreign_function shared_data_increment {"bytes":[1,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,110]}; define_metric 0 hits; increment_metric $1.0 1"#;

const FILTER: &str = "filters:\n  - name: probe\n    vm_id: counting\n    module: {guest:probe}\n";

/// What a copy says that has found another one's state.
const JOINED: &str = "shared data, queues and metrics are those of the copy that was there before";

/// Runs a program of the probe guest and gives what each call returned. All must be ok.
fn run(client: &mut Client, program: &str) -> Vec<Value> {
    let response = client.request("GET", "a.test", "/", &[("x-probe", program)], b"");
    assert_eq!(response.status, 200, "{}", response.text());
    let results: Vec<Value> = serde_json::from_str(&response.text()).expect("the guest answers with JSON");
    for result in &results {
        assert_eq!(result["status"], 0, "{result}");
    }
    results.into_iter().map(|result| result.pointer("/out/0").cloned().unwrap_or_default()).collect()
}

/// The bytes of a result, which is a string where they are text.
fn bytes(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.clone().into_bytes(),
        other => serde_json::from_value(other["bytes"].clone()).expect("bytes"),
    }
}

fn number(value: &Value) -> u64 {
    u64::from_le_bytes(bytes(value).try_into().expect("eight bytes"))
}

/// Ends the clients, also when a reload fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The files of the plugin that the server's process has loaded: ATS copies each build to a path of its own.
fn copies(server: &TrafficServer) -> BTreeSet<String> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", server.pid())).expect("the server runs");
    let code = maps.lines().filter(|line| line.contains(" r-xp "));
    let file = |line: &str| line.split_once('/').map(|(_, path)| path.to_owned());
    code.filter_map(file).filter(|path| path.contains(artifacts::PLUGIN)).collect()
}

#[test]
fn what_filters_share_outlives_reloads_and_replaced_builds() {
    let origin = Origin::start();
    let mut server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["probe.yaml"]))
        .file("probe.yaml", FILTER)
        .manager()
        .start();
    let start = server.mark();
    let port = server.port();
    let done = AtomicBool::new(false);
    let mut sums: Vec<u64> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = Client::connect(port);
                    let mut sums = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        sums.push(number(&run(&mut client, COUNT)[0]));
                        thread::sleep(Duration::from_millis(2));
                    }
                    sums
                })
            })
            .collect();
        let ending = Ending(&done);
        let mut builds = [artifacts::fault_plugin(), artifacts::plugin()].into_iter().cycle();
        let mut client = Client::connect(port);
        for reload in 0..RELOADS {
            // Something of each copy's time, to be found at the end.
            let program = format!(
                "set_shared_data at/{reload:02} value-{reload} 0; register_shared_queue q; enqueue_shared_queue $1.0 item-{reload}"
            );
            run(&mut client, &program);
            if REPLACED.contains(&reload) {
                server.replace_plugin(builds.next().expect("a cycle has no end"));
            }
            server.reload().unwrap_or_else(|lines| panic!("reload {reload}: {lines:#?}"));
        }
        drop(ending);
        clients.into_iter().flat_map(|client| client.join().expect("every answer came")).collect()
    });

    // Every copy is there still, and each but the first joined it.
    let copies = copies(&server);
    assert_eq!(copies.len(), 1 + REPLACED.len(), "{copies:#?}");
    let joined = server.lines_since(start).iter().filter(|line| line.contains(JOINED)).count();
    assert_eq!(joined, REPLACED.len());

    // No count is lost or given twice, whichever copy served.
    let total = sums.len() as u64;
    sums.sort_unstable();
    assert!(sums.iter().copied().eq(1..=total), "{total} transactions did not count to {total}");
    let mut client = Client::connect(port);
    let metric = run(&mut client, "define_metric 0 hits; get_metric $0.0");
    assert_eq!(metric[1].as_u64(), Some(total));

    for reload in 0..RELOADS {
        let found = run(
            &mut client,
            &format!("get_shared_data at/{reload:02}; register_shared_queue q; dequeue_shared_queue $1.0"),
        );
        assert_eq!(bytes(&found[0]), format!("value-{reload}").into_bytes());
        assert_eq!(bytes(&found[2]), format!("item-{reload}").into_bytes());
    }
    let keys = bytes(&run(&mut client, "call_foreign_function shared_data_keys at/")[0]);
    assert_eq!(keys.len(), RELOADS as usize * (4 + 5));
    println!("{RELOADS} reloads, {} copies of the plugin, {total} transactions counted", copies.len());
}

//! Properties of transactions: tables of paths, the callback that reads them, and what they must be.

mod read;
mod set;
mod support;
mod tls;

use std::time::Duration;

use wasm_remap_tests::{Builder, Origin, Rule, TrafficServer};

const PATIENCE: Duration = Duration::from_secs(10);

const PROBE: &str = "filters:\n  - name: probe\n    module: {guest:probe}\n";

fn builder(origin: &Origin) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .rule(Rule::new("a.test", "http://{origin}/to/").path("/from/").wasm(["probe.yaml"]))
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["probe.yaml"]))
        .file("probe.yaml", PROBE)
}

//! Rules whose filter makes the calls that a request asks for, and its reports.

use std::collections::BTreeMap;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Origin, Response, Rule, TrafficServer, Upstream, wait_until};

/// Longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A line of `clusters`: a name, an endpoint, and other keys.
pub(crate) fn cluster(name: &str, endpoint: &str, more: &str) -> String {
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!("  {name}: {{endpoints: [\"{endpoint}\"]{more}}}\n")
}

/// The cluster that calls go to which name none.
pub(crate) fn upstream(upstream: &Upstream) -> String {
    cluster("upstream", &upstream.address(), "")
}

/// A file with these clusters and the guest `callout`, with other keys of the filter.
pub(crate) fn file(clusters: &str, filter: &str) -> String {
    let more = if filter.is_empty() { String::new() } else { format!("    {}\n", filter.replace('\n', "\n    ")) };
    format!(
        "clusters:\n{clusters}filters:\n  - name: callout\n    module: {{guest:callout}}\n    vm_id: callout\n{more}"
    )
}

/// Adds a rule with this file.
pub(crate) fn rule(builder: Builder, host: &str, text: &str) -> Builder {
    let name = format!("{host}.yaml");
    builder.rule(Rule::new(host, "http://{origin}/").wasm([name.as_str()])).file(&name, text)
}

pub(crate) fn builder(origin: &Origin) -> Builder {
    TrafficServer::builder().origin(origin).stats().cache(false)
}

/// A server with the rule `call.test`.
pub(crate) fn start(origin: &Origin, clusters: &str, filter: &str) -> TrafficServer {
    rule(builder(origin), "call.test", &file(clusters, filter)).start()
}

/// Sends a request for `call.test` with this program.
pub(crate) fn send(client: &mut Client, program: &str) {
    client.send_request("GET", "call.test", "/", &[("x-callout", program)], b"");
}

/// Sends it and waits for the response.
#[track_caller]
pub(crate) fn ask(server: &TrafficServer, program: &str) -> Response {
    let mut client = Client::connect(server.port()).timeout(PATIENCE);
    send(&mut client, program);
    client.read_response()
}

/// A report of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    fields: BTreeMap<String, String>,
}

impl Report {
    pub(crate) fn parse(text: &str) -> Report {
        let mut fields = BTreeMap::new();
        for word in text.split_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or(("arrival", word));
            fields.insert(name.to_owned(), value.to_owned());
        }
        Report { fields }
    }

    /// A field, or nothing.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    /// What `proxy_get_status` said.
    pub(crate) fn status(&self) -> (&str, &str) {
        (self.get("code"), self.get("message"))
    }
}

/// The reports in a response's headers.
pub(crate) fn reports(response: &Response) -> Vec<Report> {
    response.headers.all("x-callout-result").iter().map(|text| Report::parse(text)).collect()
}

/// The one report of a program's one call, whose transaction went on to the origin.
#[track_caller]
pub(crate) fn report(server: &TrafficServer, program: &str) -> Report {
    let response = ask(server, program);
    let mut reports = reports(&response);
    assert_eq!((response.status, reports.len()), (200, 1), "{program}: {}", response.text());
    reports.remove(0)
}

/// The lines under a key of shared data, once there are so many.
#[track_caller]
pub(crate) fn kept(server: &TrafficServer, key: &str, least: usize) -> Vec<Report> {
    wait_until(PATIENCE, key, || {
        let text = ask(server, &format!("read {key}")).text();
        let lines: Vec<_> = text.lines().map(Report::parse).collect();
        (lines.len() >= least).then_some(lines)
    })
}

/// Waits until the upstream has been asked so often for a path.
#[track_caller]
pub(crate) fn asked(upstream: &Upstream, path: &str, count: usize) {
    wait_until(PATIENCE, &format!("{count} requests for {path}"), || {
        (upstream.requests_to(path) >= count).then_some(())
    });
}

/// Waits until every stream that began has ended, and nothing was lost on the way.
#[track_caller]
pub(crate) fn nothing_is_left(server: &TrafficServer, streams: i64) -> BTreeMap<String, i64> {
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["streams_created"] >= streams && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["traps"], counters["panics"]), (0, 0));
    counters
}

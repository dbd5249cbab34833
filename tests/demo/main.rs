//! `make demo`: the example filters on a private traffic_server.
//!
//! Five rules, five hosts. What each filter did is not told but seen: the request that the origin received is
//! compared with the one that the client sent, and the response that the client received with the one that the
//! origin sent. Whatever differs is printed beside the filter whose configuration has it; a difference that nobody
//! owns, or one that is missing, makes the demo fail. What filters share, and whom they call, is in others.rs.
#![forbid(unsafe_code)]

mod others;

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use others::Others;
use wasm_remap_tests::harness::{artifacts, process};
use wasm_remap_tests::{Client, Fields, Origin, Reply, Response, TrafficServer};

/// Fields that ATS, or HTTP itself, puts into or takes from every message on its way.
const OF_THE_PROXY: &[&str] = &["age", "client-ip", "connection", "date", "host", "server", "via", "x-forwarded-for"];

const REFUSAL: &str = "{\"error\":\"missing or unknown API key\"}\n";

/// A change that is expected, and the filter that owns it.
#[derive(Debug)]
struct Change {
    filter: &'static str,
    what: String,
}

fn change(filter: &'static str, what: &str) -> Change {
    Change { filter, what: what.to_owned() }
}

/// One request and what must become of it.
struct Step {
    title: &'static str,
    host: &'static str,
    path: &'static str,
    fields: &'static [(&'static str, &'static str)],
    status: u16,
    /// Who answers.
    answered_by: By,
    /// The filters of the rule, in order.
    chain: &'static [&'static str],
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Origin,
    Cache,
    Filter(&'static str),
}

fn steps() -> Vec<Step> {
    vec![
        Step {
            title: "Host A has a chain: headers, then api-key. Without a key, api-key answers itself.",
            host: "shop.test",
            path: "/orders",
            fields: &[],
            status: 401,
            answered_by: By::Filter("api-key"),
            chain: &["headers", "api-key"],
            changes: vec![
                change("headers", "response: + x-served-by: shop"),
                change("api-key", "response: + cache-control: no-store"),
                change("api-key", "response: + content-type: application/json"),
                change("api-key", "response: + www-authenticate: ApiKey realm=\"shop\""),
            ],
        },
        Step {
            title: "With a key, the request passes both filters; the origin learns the client and never sees the key.",
            host: "shop.test",
            path: "/orders",
            fields: &[("x-api-key", "sesame"), ("x-debug", "1")],
            status: 200,
            answered_by: By::Origin,
            chain: &["headers", "api-key"],
            changes: vec![
                change("headers", "request:  + x-from: shop"),
                change("headers", "request:  - x-debug: 1"),
                change("headers", "response: + x-served-by: shop"),
                change("headers", "response: - x-powered-by: php"),
                change("api-key", "request:  + x-api-client: alice"),
                change("api-key", "request:  - x-api-key: sesame"),
            ],
        },
        Step {
            title: "Host B has the first filter alone, with another configuration.",
            host: "blog.test",
            path: "/post",
            fields: &[("x-api-key", "sesame"), ("x-debug", "1")],
            status: 200,
            answered_by: By::Origin,
            chain: &["headers"],
            changes: vec![
                change("headers", "request:  + x-from: blog"),
                change("headers", "response: + vary: accept-language"),
                change("headers", "response: + x-served-by: blog"),
            ],
        },
        Step {
            title: "The same page again: ATS answers from its cache, and the filter still sees the response.",
            host: "blog.test",
            path: "/post",
            fields: &[],
            status: 200,
            answered_by: By::Cache,
            chain: &["headers"],
            changes: vec![
                change("headers", "response: + vary: accept-language"),
                change("headers", "response: + x-served-by: blog"),
            ],
        },
        Step {
            title: "Host C has no filter: nothing is changed, and the plugin is not entered.",
            host: "plain.test",
            path: "/page",
            fields: &[("x-api-key", "sesame"), ("x-debug", "1")],
            status: 200,
            answered_by: By::Origin,
            chain: &[],
            changes: vec![],
        },
    ]
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            println!("\ndemo: FAILED: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let origin = Origin::start();
    let page =
        |text: &str| Reply::new(200).header("Content-Type", "text/plain").header("X-Powered-By", "php").body(text);
    origin.route("/orders", page("two orders\n").header("Cache-Control", "private"));
    origin.route("/post", page("a post\n").cacheable(60));
    origin.route("/page", page("a page\n").header("Cache-Control", "private"));

    let rules = read("configs/demo/remap.config")?;
    let others = Others::start();
    let mut builder = others.variables(TrafficServer::builder().origin(&origin).stats().remap(&rules));
    for file in ["shop.yaml", "blog.yaml", "limited.yaml", "private.yaml"] {
        builder = builder.file(&format!("filters/{file}"), &read(&format!("configs/demo/filters/{file}"))?);
    }
    for guest in ["headers", "api-key", "rate-limit", "ext-auth", "log-shipper"] {
        let module = fs::read(artifacts::guest(guest)).map_err(|error| format!("guest {guest}: {error}"))?;
        builder = builder.file_bytes(&format!("filters/{guest}.wasm"), module);
    }
    let server = builder.start();
    let (port, pid, root) = (server.port(), server.pid(), server.root().to_path_buf());
    println!("traffic_server runs as process {pid} on 127.0.0.1:{port}, an origin on {}.", origin.address());
    println!("Its rules (configs/demo/remap.config):\n");
    for line in rules.lines().filter(|line| line.starts_with("map ")) {
        println!("    {}", line.replace("{origin}", &origin.address()));
    }

    let mut filtered = 0;
    for (index, step) in steps().iter().enumerate() {
        println!("\n{}. {}", index + 1, step.title);
        play(step, &origin, port)?;
        filtered += i64::from(!step.chain.is_empty());
    }
    let mut all = steps().len() as i64;
    let more = others.play(steps().len(), &origin, port)?;
    filtered += more;
    all += more;

    // Our statistics are brought up to date every second.
    let mut entered = None;
    for _ in 0..30 {
        entered = server.metric("wasm_remap.transactions");
        if entered == Some(filtered) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    if entered != Some(filtered) {
        return Err(format!("wasm_remap.transactions is {entered:?}, and {filtered} requests had filters"));
    }
    println!("\nOf {all} requests the plugin saw {filtered} (wasm_remap.transactions), and none of host C's.");
    stop(server, pid, port, &root)
}

/// Sends a step's request, and prints and checks what became of it.
fn play(step: &Step, origin: &Origin, port: u16) -> Result<(), String> {
    let mut curl = format!("curl -si -H 'Host: {}'", step.host);
    for (name, value) in step.fields {
        curl.push_str(&format!(" -H '{name}: {value}'"));
    }
    println!("   $ {curl} http://127.0.0.1:{port}{}", step.path);
    let before = origin.request_count();
    let response = Client::connect(port).request("GET", step.host, step.path, step.fields, b"");
    let reached = origin.request_count() > before;

    let reason = if response.reason.is_empty() { String::new() } else { format!(" {}", response.reason) };
    println!("     {}{reason}, {}", response.status, answer(step.answered_by));
    if response.status != step.status {
        return Err(format!("the status is {}, not {}:\n{}", response.status, step.status, head(&response)));
    }
    if reached != (step.answered_by == By::Origin) {
        return Err(format!("the origin saw {} requests", origin.request_count() - before));
    }
    if matches!(step.answered_by, By::Filter(_)) && response.body != REFUSAL.as_bytes() {
        return Err(format!("the body is {:?}", response.text()));
    }

    let mut seen = Vec::new();
    if reached {
        let sent =
            Fields(step.fields.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect());
        differences("request:  ", &sent, &origin.last().headers, &mut seen);
    }
    differences("response: ", &of_origin(step), &response.headers, &mut seen);
    for filter in step.chain {
        let mut own = step.changes.iter().filter(|change| change.filter == *filter).peekable();
        if own.peek().is_none() {
            println!("     {filter:<8} changed nothing");
        }
        for change in own {
            println!("     {filter:<8} {}", change.what);
            match seen.iter().position(|what| *what == change.what) {
                Some(at) => drop(seen.remove(at)),
                None => return Err(format!("that change by {filter} is not on the wire:\n{}", head(&response))),
            }
        }
    }
    if !seen.is_empty() {
        return Err(format!("nobody owns these changes: {seen:?}"));
    }
    if step.chain.is_empty() {
        println!("     nothing was added or removed, on either side");
    }
    Ok(())
}

fn answer(by: By) -> String {
    match by {
        By::Origin => "answered by the origin".to_owned(),
        By::Cache => "answered by the cache; the origin was not asked".to_owned(),
        By::Filter(name) => format!("answered by the filter {name}; the origin was not asked"),
    }
}

fn head(response: &Response) -> String {
    String::from_utf8_lossy(&response.raw_head).into_owned()
}

/// What the origin answers to a step; nothing where a filter answers.
fn of_origin(step: &Step) -> Fields {
    let mut fields = Vec::new();
    if !matches!(step.answered_by, By::Filter(_)) {
        let cache_control = if step.path == "/post" { "max-age=60" } else { "private" };
        for (name, value) in [("content-type", "text/plain"), ("x-powered-by", "php"), ("cache-control", cache_control)]
        {
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    }
    Fields(fields)
}

/// What is in one message and not in the other, as lines.
fn differences(side: &str, before: &Fields, after: &Fields, out: &mut Vec<String>) {
    let lines = |fields: &Fields| -> BTreeMap<String, usize> {
        let mut lines = BTreeMap::new();
        for (name, value) in &fields.0 {
            let name = name.to_ascii_lowercase();
            if !OF_THE_PROXY.contains(&name.as_str()) && name != "content-length" {
                *lines.entry(format!("{name}: {}", String::from_utf8_lossy(value))).or_default() += 1;
            }
        }
        lines
    };
    let (before, after) = (lines(before), lines(after));
    for (sign, have, lack) in [("+", &after, &before), ("-", &before, &after)] {
        for (line, &count) in have {
            let extra = count.saturating_sub(lack.get(line).copied().unwrap_or(0));
            out.extend(std::iter::repeat_n(format!("{side}{sign} {line}"), extra));
        }
    }
}

/// Stops the server as an operator does, and makes sure that nothing of it is left.
fn stop(server: TrafficServer, pid: u32, port: u16, root: &std::path::Path) -> Result<(), String> {
    let exit = server.shutdown();
    if !exit.status.success() {
        return Err(format!("the server ended with {}", exit.status));
    }
    let group = process::group_members(pid);
    let children = process::children(std::process::id());
    if !group.is_empty() || !children.is_empty() {
        return Err(format!("processes are left: {group:?} {children:?}"));
    }
    if TcpStream::connect(("127.0.0.1", port)).is_ok() {
        return Err(format!("something still listens on port {port}"));
    }
    if root.exists() {
        return Err(format!("{} is left", root.display()));
    }
    println!("\ndemo: ok. The server is stopped; no process, port or file of it is left.");
    Ok(())
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(artifacts::repository(path)).map_err(|error| format!("{path}: {error}"))
}

//! Memory errors: the server under valgrind's memcheck, with transactions whose bodies go both ways and end anywhere.
//!
//! ATS's own pools are turned off, so that memcheck sees what is freed. The same transactions go through a server
//! without the plugin before: what valgrind finds there is ATS's own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::Duration;

use wasm_remap_tests::harness::install;
use wasm_remap_tests::{Ask, Client, Http2, Origin, Payload, Reply, Request, Rule, Sending, TrafficServer};

use crate::native;

/// Clients at a time.
const CLIENTS: usize = 3;
/// What a server under valgrind may take for a step.
const PATIENCE: Duration = Duration::from_secs(120);
const HOSTS: [&str; 2] = ["stream.test", "buffer.test"];

/// An error that memcheck reported: as often as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    kind: String,
    /// Its stacks, a line a frame.
    text: String,
    /// One of the frames is the plugin's.
    ours: bool,
    count: u64,
}

/// What memcheck takes for an error and is none, by its kind and what its innermost frame holds.
const KNOWN: [(&str, &str); 1] = [
    // The compiler tests two flags at once, one of which means nothing yet; it does not matter then.
    ("UninitCondition", "set_features binary_reader.rs"),
];

/// Runs `count` transactions with the plugin and without, and tells what valgrind found with it alone: errors with one of
/// our frames, and invalid accesses by whomever. What is lost is listed and no failure: at its end, ATS frees nothing.
///
/// # Errors
/// What it found.
pub(crate) fn run(count: usize) -> Result<String, String> {
    let control = serve(count, false);
    let found = serve(count, true);
    let known = |finding: &Finding| {
        control.iter().any(|other| other.top() == finding.top())
            || KNOWN.iter().any(|(kind, frame)| {
                finding.kind.starts_with(kind) && finding.text.lines().next().is_some_and(|top| top.contains(frame))
            })
    };
    let new: Vec<_> = found.iter().filter(|finding| !known(finding)).collect();
    let (lost, errors): (Vec<_>, Vec<_>) = new.into_iter().partition(|finding| finding.kind.starts_with("Leak_"));
    let bad: Vec<_> = errors.iter().filter(|finding| finding.ours || finding.kind.starts_with("Invalid")).collect();
    let list = |findings: &[&Finding]| findings.iter().map(ToString::to_string).collect::<String>();
    println!("without the plugin:\n{}", list(&control.iter().collect::<Vec<_>>()));
    println!("lost with the plugin alone:\n{}", list(&lost));
    println!("other errors with the plugin alone:\n{}", list(&errors));
    let line = format!(
        "memcheck, {count} transactions: {} kinds of errors or losses without the plugin; with it alone {} kinds of \
         losses, {} of errors, {} of them ours or invalid accesses",
        control.len(),
        lost.len(),
        errors.len(),
        bad.len()
    );
    if bad.is_empty() { Ok(line) } else { Err(line) }
}

impl Finding {
    /// Whether two errors are one is told by the innermost frames.
    fn top(&self) -> (&str, Vec<&str>) {
        let kind = self.kind.split(':').next().unwrap_or_default();
        (kind, self.text.lines().take(6).collect())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ours = if self.ours { ", with frames of ours" } else { "" };
        writeln!(f, "{} ({} times{ours})\n{}", self.kind, self.count, self.text)
    }
}

fn origin() -> Origin {
    let origin = Origin::start();
    origin.discard();
    // /<how>/<bytes>
    origin.route("/*", |request: &Request| {
        let mut parts = request.path().split('/').skip(1);
        let how = parts.next().unwrap_or_default().to_owned();
        let len: u64 = parts.next().and_then(|text| text.parse().ok()).unwrap_or(0);
        let reply = Reply::new(200).generated(len, len);
        match how.as_str() {
            "chunked" => reply.chunked(7000),
            "close" => reply.until_close(),
            "late" => reply.delay(Duration::from_millis(50)),
            "cached" => reply.cacheable(600),
            "cut" => reply.close_after(len / 2),
            "reset" => reply.reset_after(len / 2),
            "chunked-reset" => reply.chunked(7000).reset_after(len / 2),
            "nothing" => Reply::raw(""),
            "no-body" => Reply::new(204),
            _ => reply,
        }
    });
    origin.route_early("/early/*", Reply::new(200).body("early").close());
    origin
}

fn serve(count: usize, plugin: bool) -> Vec<Finding> {
    let valgrind = install::tool("valgrind", "valgrind");
    let dir = tempfile::Builder::new().prefix("ats-memcheck-").tempdir().expect("a temporary directory");
    let report = dir.path().join("report.xml");
    let shim = dir.path().join("no_auxv");
    fs::write(&shim, native::compile("no_auxv", &[])).expect("the directory is ours");
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("the file is ours");
    let shim = shim.display();
    let command = format!(
        "exec {shim} {} --tool=memcheck --leak-check=full --error-limit=no --num-callers=40 --read-var-info=no --xml=yes \
         --xml-file={} \"$0\" --disable_freelist --disable_pfreelist",
        valgrind.display(),
        report.display()
    );
    let origin = origin();
    let mut builder = TrafficServer::builder()
        .origin(&origin)
        .tls()
        .under(["/bin/sh", "-c", &command])
        .patience(Duration::from_secs(600))
        .record("proxy.config.http.transaction_no_activity_timeout_in", 100)
        .record("proxy.config.http.transaction_no_activity_timeout_out", 100)
        .record("proxy.config.http2.no_activity_timeout_in", 100)
        .record("proxy.config.http.post_copy_size", 200 << 20)
        .record("proxy.config.http2.initial_window_size_in", 200 << 20)
        .record("proxy.config.http.send_100_continue_response", 1);
    for (host, keys) in HOSTS.into_iter().zip(["", "    request_body: buffer\n"]) {
        let file = format!("{host}.yaml");
        let filters =
            format!("filters:\n  - name: body\n    module: {{guest:body}}\n    limits: {{callback_ms: 60000}}\n{keys}");
        let with = |rule: Rule| if plugin { rule.wasm([file.as_str()]) } else { rule };
        builder = builder
            .rule(with(Rule::new(host, "http://{origin}/")))
            .rule(with(Rule::new(host, "http://{origin}/").tls()))
            .file(&file, &filters);
    }
    eprintln!("memcheck: starting {}", if plugin { "with the plugin" } else { "without" });
    let server = builder.start();
    let whole: usize = thread::scope(|scope| {
        let server = &server;
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                scope.spawn(move || (client..count).step_by(CLIENTS).filter(|&at| transaction(server, at)).count())
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("the client ran")).sum()
    });
    eprintln!("memcheck: {count} transactions, {whole} whole");
    assert!(whole * 4 > count, "only {whole} of {count} responses came whole");
    assert!(server.is_alive(), "the server is gone");
    server.expect_exit();
    let exit = server.shutdown();
    assert_eq!(exit.crash, None, "the server crashed");
    read(&fs::read_to_string(&report).expect("valgrind wrote its report"))
}

/// One transaction, a different one for each number. Whether a response came whole.
fn transaction(server: &TrafficServer, at: usize) -> bool {
    // Each list has a length of its own that shares no factor with the others' but where that does no harm.
    let pick = |list: &[&'static str], salt: usize| list[(at / salt + at * 7) % list.len()];
    let host = HOSTS[at / 3 % 2];
    let down = [0, 1, 3000, 65_536, 300_000][at / 2 % 5];
    let up: u64 = [1, 3000, 65_536, 300_000][at / 5 % 4];
    let ends = pick(&["whole", "whole", "client-early", "whole", "client-late", "origin", "filter"], 1);
    let how = match ends {
        "origin" => pick(&["cut", "reset", "chunked-reset", "nothing", "early"], 7),
        "client-early" => "late",
        _ => pick(&["length", "chunked", "cached", "close", "no-body", "late"], 7),
    };
    let request =
        pick(&["pass", "append", "inject:1000", "replace", "hold", "read", "partial:500", "drop", "prepend"], 3);
    let response = pick(&["pass", "append", "hold", "read", "replace", "inject:70000", "drop"], 5);
    let (request, response) = match ends {
        "filter" => [("answer", "pass"), ("pass", "answer"), ("hold", "pass")][at / 7 % 3],
        _ => (request, response),
    };
    let down = if matches!(ends, "origin" | "client-late") { down.max(300_000) } else { down };
    let posts = (at / 4).is_multiple_of(2) || ends == "filter";
    let up = if ends == "filter" && request == "hold" { 1_500_000 } else { up };
    let mut ask = Ask::new(if posts { "POST" } else { "GET" }, host, &format!("/{how}/{down}"))
        .header("x-op", &format!("request:{request}, response:{response}"));
    if posts {
        let sending = if (at / 8).is_multiple_of(2) { Sending::Length } else { Sending::Chunked(5000) };
        ask = ask.body(Payload::seed(up, up)).sending(sending);
    }
    let leaves = ends.starts_with("client");
    let part = if ends == "client-early" && at.is_multiple_of(2) { up / 2 } else { u64::MAX };
    if at % 4 == 3 {
        let Ok(client) = Http2::try_connect(server.tls_port(), 65_535) else { return false };
        let mut client = client.discard_bodies();
        if !leaves {
            return client.exchange(&ask).is_ok();
        }
        if let Ok(mut exchange) = client.open(&ask)
            && client.send(&mut exchange, part).is_ok()
            && ends == "client-late"
        {
            let _ = client.head(&mut exchange).and_then(|_| client.read(&mut exchange, 1000));
        }
        client.abort();
        return false;
    }
    let Ok(client) = Client::try_connect(server.port()) else { return false };
    let mut client = client.discard_bodies().timeout(PATIENCE).deadline(PATIENCE);
    if !leaves {
        return client.exchange(&ask).is_ok();
    }
    if ends == "client-late" {
        client = client.small_window(16 << 10);
    }
    let _ = client.try_send(ask.head());
    let _ = ask.write_body(&mut client.writer(), part);
    thread::sleep(Duration::from_millis(if ends == "client-late" { 300 } else { at as u64 % 40 }));
    if at.is_multiple_of(3) {
        client.abort();
    }
    false
}

/// Reads valgrind's report; errors that differ in their outer frames alone are one.
fn read(report: &str) -> Vec<Finding> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for pair in report.split("<pair>").skip(1) {
        if let (Some(unique), Some(count)) = (inner(pair, "unique"), inner(pair, "count")) {
            counts.insert(unique, count.parse().unwrap_or(1));
        }
    }
    let mut findings: Vec<Finding> = Vec::new();
    for error in report.split("<error>").skip(1) {
        let error = &unescape(error.split("</error>").next().unwrap_or_default());
        let unique = inner(error, "unique").unwrap_or_default();
        let what = inner(error, "what").or_else(|| inner(error, "text")).unwrap_or_default();
        let (mut text, mut ours) = (String::new(), false);
        for (number, stack) in error.split("<stack>").skip(1).enumerate() {
            if number > 0 {
                text.push_str("  which was:\n");
            }
            for frame in stack.split("<frame>").skip(1) {
                let object = inner(frame, "obj").unwrap_or_default().rsplit('/').next().unwrap_or_default();
                let function = inner(frame, "fn").or_else(|| inner(frame, "ip")).unwrap_or_default();
                let place =
                    inner(frame, "file").map(|file| format!(" {file}:{}", inner(frame, "line").unwrap_or_default()));
                ours |= object.contains("wasm_remap");
                text.push_str(&format!("    {object} {function}{}\n", place.unwrap_or_default()));
            }
        }
        let kind = format!("{}: {what}", inner(error, "kind").unwrap_or_default());
        if kind.starts_with("Leak_") && !kind.starts_with("Leak_DefinitelyLost") {
            // What somebody points to, if into the middle.
            continue;
        }
        let count = counts.get(unique).copied().unwrap_or(1);
        let new = Finding { kind, text, ours, count };
        match findings.iter_mut().find(|old| old.top() == new.top()) {
            Some(old) => old.count += count,
            None => findings.push(new),
        }
    }
    findings
}

/// What is escaped are names, which hold no such tag.
fn unescape(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

fn inner<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let rest = text.split_once(&format!("<{tag}>"))?.1;
    Some(rest.split_once(&format!("</{tag}>"))?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let report = "<error><unique>0x1</unique><tid>2</tid><kind>InvalidRead</kind><what>Invalid read of size 8</what>\
            <stack><frame><ip>0x5</ip><obj>/a/wasm_remap.so</obj><fn>f</fn><file>a.rs</file><line>3</line></frame></stack>\
            <auxwhat>freed</auxwhat><stack><frame><ip>0x6</ip><obj>/b/libc.so</obj><fn>free</fn></frame></stack></error>\
            <errorcounts><pair><count>7</count><unique>0x1</unique></pair></errorcounts>";
        let found = read(report);
        let finding = &found[0];
        assert_eq!((found.len(), finding.count, finding.ours), (1, 7, true));
        assert_eq!(finding.kind, "InvalidRead: Invalid read of size 8");
        assert_eq!(finding.text, "    wasm_remap.so f a.rs:3\n  which was:\n    libc.so free\n");
    }
}

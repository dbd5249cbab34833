//! Guests of three toolchains run the same scenarios with both compilers: a header, a local response, a body. What they do
//! is written at the head of tests/guests/scenarios/lib.rs.

use std::time::Duration;

use wasm_remap_tests::{Client, Connection, Framing, Mark, Origin, Reply, Request, Rule, TrafficServer, payload};

const PATIENCE: Duration = Duration::from_secs(10);

/// A rule and the words that its guests mark things with, in the order of the chain.
struct Case {
    host: &'static str,
    words: &'static [&'static str],
}

const ALONE: &[Case] = &[
    Case { host: "rust.test", words: &["rust"] },
    Case { host: "zig.test", words: &["zig"] },
    Case { host: "as.test", words: &["as"] },
    Case { host: "rust.winch.test", words: &["rust"] },
    Case { host: "zig.winch.test", words: &["zig"] },
    Case { host: "as.winch.test", words: &["as"] },
];

/// The first part of a host says who is in its chain, `winch` that this compiler is to be used.
const ALL: &[Case] = &[
    Case { host: "rust.test", words: &["rust"] },
    Case { host: "zig.test", words: &["zig"] },
    Case { host: "as.test", words: &["as"] },
    Case { host: "chain.test", words: &["zig", "as", "rust"] },
    Case { host: "chain.winch.test", words: &["zig", "as", "rust"] },
];

impl Case {
    fn compiler(&self) -> &'static str {
        if self.host.contains("winch") { "winch" } else { "cranelift" }
    }

    /// A response meets the filters last to first.
    fn back(&self) -> impl Iterator<Item = &'static str> {
        self.words.iter().rev().copied()
    }
}

fn configuration(word: &str) -> String {
    format!("set for {word}: caf\u{e9}")
}

fn start(origin: &Origin) -> TrafficServer {
    let mut builder = TrafficServer::builder()
        .origin(origin)
        // With its version, which is not ours to test.
        .record("proxy.config.http.response_server_enabled", 0)
        .rule(Rule::new("bare.test", "http://{origin}/"));
    for case in ALL.iter().chain(&ALONE[3..]) {
        let compiler = case.compiler();
        let files = case.words.iter().map(|word| format!("{word}-{compiler}.yaml"));
        builder = builder.rule(Rule::new(case.host, "http://{origin}/").wasm(files));
    }
    for case in ALONE {
        let (word, compiler) = (case.words[0], case.compiler());
        let text = format!(
            "filters:\n  - name: {word}\n    module:\n      path: {{guest:scenarios-{word}}}\n      compiler: {compiler}\n    \
             root_id: scenarios\n    limits: {{log_lines_per_second: 100000}}\n    configuration: '{}'\n",
            configuration(word)
        );
        builder = builder.file(&format!("{word}-{compiler}.yaml"), &text);
    }
    let server = builder.start();
    for case in ALONE {
        let word = case.words[0];
        server.wait_for_log(&format!("{word}: configured with '{}'", configuration(word)), PATIENCE);
    }
    server
}

/// The head's lines, in their order, but for those that tell the time.
fn lines(head: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(head).expect("a head is text");
    let head = text.strip_suffix("\r\n\r\n").expect("a head ends with an empty line");
    let timeless = |line: &&str| !line.starts_with("Date: ") && !line.starts_with("Age: ");
    head.split("\r\n").filter(timeless).map(str::to_owned).collect()
}

/// The guests change what they say they change, and nothing else: the rest is as through a rule without a filter.
#[test]
fn every_toolchain_sets_headers() {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200).header("X-Own", "1").header("ETag", "\"e\"").body("of the origin"));
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    let mut ask = |host: &str| {
        let response = client.request("GET", host, "/x?q=1", &[("X-Client", "2")], b"");
        assert_eq!(response.text(), "of the origin", "{host}");
        assert_eq!(client.connection(), Connection::Open, "{host}");
        (lines(&origin.last().head), lines(&response.raw_head))
    };
    let bare = ask("bare.test");
    for case in ALL {
        let (mut request, mut response) = bare.clone();
        // Behind the client's own fields; ATS adds its own later.
        let own = request.iter().position(|line| line == "X-Client: 2").expect("the client's field") + 1;
        request.splice(own..own, case.words.iter().map(|word| format!("x-guest-request: {word}")));
        for word in case.back() {
            response.push(format!("x-guest: {word}"));
            response.push(format!("x-guest-configuration: {}", configuration(word)));
        }
        // Twice: the second transaction finds a VM that is not new.
        for _ in 0..2 {
            assert_eq!(ask(case.host), (request.clone(), response.clone()), "{}", case.host);
        }
    }
}

#[test]
fn every_toolchain_answers_itself() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).body("of the origin"));
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for Case { host, words } in ALONE {
        let word = words[0];
        for (method, body) in [("GET", format!("denied by {word}\n")), ("HEAD", String::new())] {
            let response = client.request(method, host, "/deny", &[], b"");
            assert_eq!(
                lines(&response.raw_head),
                [
                    "HTTP/1.1 403 Forbidden".to_owned(),
                    "Connection: keep-alive".to_owned(),
                    format!("x-guest: {word}"),
                    "content-type: text/plain".to_owned(),
                    format!("Content-Length: {}", format!("denied by {word}\n").len()),
                ],
                "{method} {host}"
            );
            assert_eq!(response.text(), body, "{method} {host}");
            assert_eq!(client.connection(), Connection::Open, "{method} {host}");
        }
    }
    assert_eq!(origin.connection_count(), 0);
    assert_eq!(client.get("rust.test", "/x").text(), "of the origin");
}

fn bodies() -> Vec<Vec<u8>> {
    vec![b"h".to_vec(), b"hello\r\n\0 there".to_vec(), payload::bytes(1, 4096), payload::bytes(2, 300_000)]
}

/// A body and what these words put behind it.
fn marked(body: &[u8], words: impl Iterator<Item = &'static str>) -> Vec<u8> {
    let mut bytes = body.to_vec();
    for word in words {
        bytes.extend(format!("|{word}").into_bytes());
    }
    bytes
}

/// Waits for the guest's last line about a body; together its lines must tell of this many bytes.
fn saw(server: &TrafficServer, mark: Mark, word: &str, what: &str, bytes: usize) {
    let start = format!("{word}: {what} body, ");
    let told = |line: &str| {
        let (count, rest) = line.split_once(&start)?.1.split_once(" bytes")?;
        Some((count.parse::<usize>().expect("a number"), rest.starts_with(", end")))
    };
    wasm_remap_tests::wait_until(PATIENCE, &format!("{start}... end"), || {
        server.lines_since(mark).iter().filter_map(|line| told(line)).any(|(_, end)| end).then_some(())
    });
    let lines: Vec<_> = server.lines_since(mark).iter().filter_map(|line| told(line)).collect();
    assert_eq!(lines.iter().map(|(count, _)| count).sum::<usize>(), bytes, "{start}{lines:?}");
    let ends: Vec<_> = lines.iter().map(|(_, end)| *end).collect();
    assert_eq!(ends.iter().position(|end| *end), Some(ends.len() - 1), "{start}{lines:?}");
}

#[test]
fn every_toolchain_changes_request_bodies() {
    let origin = Origin::start();
    origin.route("/*", |request: &Request| Reply::new(200).body(request.body_len.to_string()));
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for Case { host, words } in ALL {
        for body in bodies() {
            for chunked in [false, true] {
                let what = format!("{} bytes to {host}, chunked: {chunked}", body.len());
                let mark = server.mark();
                let response = if chunked {
                    client.send(format!("POST /body HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"));
                    for chunk in body.chunks(1000) {
                        client.send([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
                    }
                    client.send("0\r\n\r\n");
                    client.read_response_to("POST")
                } else {
                    client.request("POST", host, "/body", &[], &body)
                };
                let expected = marked(&body, words.iter().copied());
                let request = origin.last();
                assert_eq!(request.broken, None, "{what}");
                assert!(request.body == expected, "{what}: {} bytes came", request.body.len());
                // One framing: the length, unless it was not known when the first of a chunked body went on.
                let length = expected.len().to_string();
                let framed = request.headers.contains("transfer-encoding");
                let lengths = if framed { vec![] } else { vec![length.as_str()] };
                assert!(request.headers.all("content-length") == lengths, "{what}");
                assert!(!framed || chunked || expected.len() > 60_000, "{what}");
                assert_eq!(request.headers.all("x-guest-request"), *words, "{what}");
                // What comes back says so, too, with this response's own marks behind it.
                assert!(response.body.starts_with(length.as_bytes()), "{what}: {}", response.text());
                assert_eq!(client.connection(), Connection::Open, "{what}");
                for (at, word) in words.iter().enumerate() {
                    let before = marked(&body, words[..at].iter().copied());
                    saw(&server, mark, word, "request", before.len());
                }
            }
        }
        // Nor is anything done to a body that the guest leaves alone.
        client.request("POST", host, "/other", &[], b"as it was");
        assert_eq!(origin.last().body, b"as it was", "{host}");
    }
}

#[test]
fn every_toolchain_changes_response_bodies() {
    let origin = Origin::start();
    let server = start(&origin);
    let mut client = Client::connect(server.port());
    for body in bodies() {
        origin.route("/other", Reply::new(200).body(body.clone()));
        for chunked in [false, true] {
            let reply = Reply::new(200).body(body.clone());
            origin.route("/body", if chunked { reply.chunked(1000) } else { reply });
            for case in ALL {
                let Case { host, words } = case;
                let what = format!("{} bytes to {host}, chunked: {chunked}", body.len());
                let mark = server.mark();
                let response = client.get(host, "/body");
                let expected = marked(&body, case.back());
                assert_eq!(response.status, 200, "{what}");
                assert!(response.body == expected, "{what}: {} bytes came", response.body_len);
                // The length, where ATS knows it in time, or chunks.
                match &response.framing {
                    Framing::Length(length) => assert_eq!(*length, expected.len() as u64, "{what}"),
                    Framing::Chunked { .. } => assert!(!response.headers.contains("content-length"), "{what}"),
                    other => panic!("{what}: {other:?}"),
                }
                assert_eq!(response.headers.all("x-guest"), case.back().collect::<Vec<_>>(), "{what}");
                assert_eq!(client.connection(), Connection::Open, "{what}");
                for (at, word) in words.iter().rev().enumerate() {
                    let before = marked(&body, case.back().take(at));
                    saw(&server, mark, word, "response", before.len());
                }
            }
        }
        for Case { host, .. } in ALL {
            assert!(client.get(host, "/other").body == body, "{host}");
        }
    }
}

//! Filters for clients that speak HTTP/2: request and response headers, bodies without filters, streams that end early.

use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::{
    Ask, Builder, Client, Framing, Http2, Origin, Payload, Reply, Rule, Sending, TrafficServer, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(10);

const FILTERS: &str = r#"
filters:
  - name: headers
    module: {guest:headers}
    configuration:
      request: {set: {x-from: filter}, remove: [user-agent]}
      response: {add: {x-many: [one, two]}, set: {x-rule: A}, remove: [x-secret]}
  - name: rewrite
    module: {guest:rewrite}
"#;

fn builder(origin: &Origin) -> Builder {
    TrafficServer::builder()
        .origin(origin)
        .tls()
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]))
        .rule(Rule::new("a.test", "http://{origin}/").tls().wasm(["a.yaml"]))
        .rule(Rule::new("plain.test", "http://{origin}/").tls())
        .rule(Rule::new("guarded.test", "http://{origin}/").tls().wasm(["guarded.yaml"]))
        .file("a.yaml", FILTERS)
        .file(
            "guarded.yaml",
            "filters:\n  - name: api-key\n    module: {guest:api-key}\n    configuration: {keys: {sesame: alice}}\n",
        )
}

#[test]
fn headers_and_pseudo_headers_are_as_with_http1() {
    let origin = Origin::start();
    origin.route("/page", Reply::new(200).cacheable(600).header("X-Secret", "s").body("0123456789"));
    let server = builder(&origin).start();
    let mut client = Http2::connect(server.tls_port());
    for turn in 0..3 {
        let response = client.exchange(&Ask::get("a.test", "/page").header("user-agent", "me")).expect("a response");
        assert_eq!((response.status, response.text().as_str()), (200, "0123456789"), "turn {turn}");
        assert_eq!(response.headers.all("x-many"), ["one", "two"]);
        assert_eq!((response.header("x-secret"), response.header("x-rule").as_deref()), (None, Some("A")));
        assert_eq!(response.header("x-was-scheme").as_deref(), Some("https"));
        assert_eq!(response.header("x-was-authority").as_deref(), Some("a.test"));
        assert_eq!(response.framing, Framing::Length(10));
    }
    assert_eq!(origin.request_count(), 1);
    assert_eq!((origin.last().header("x-from").as_deref(), origin.last().header("user-agent")), (Some("filter"), None));

    let response = client.exchange(&Ask::get("a.test", "/one").header("x-set-path", "/two?q")).expect("a response");
    assert_eq!(response.header("x-now-path").as_deref(), Some("/two?q"));
    assert_eq!(origin.last().target, "/two?q");
    let head = client.exchange(&Ask::new("HEAD", "a.test", "/page")).expect("a response");
    assert_eq!((head.status, head.header("content-length").as_deref(), head.body_len), (200, Some("10"), 0));

    // The object is one for both.
    let response = Client::connect(server.port()).get("a.test", "/page");
    assert_eq!((response.status, response.header("x-was-scheme").as_deref()), (200, Some("http")));
}

#[test]
fn answers_leave_the_connection_to_other_streams() {
    let origin = Origin::start();
    let server = builder(&origin).start();
    let mut client = Http2::connect(server.tls_port());
    for _ in 0..3 {
        let response = client.exchange(&Ask::get("guarded.test", "/x")).expect("a response");
        assert_eq!(response.status, 401);
        // ATS never gives back the connection's window, 64 KiB, for what comes behind an answer, whoever gave it.
        let ask = Ask::post("guarded.test", "/x", Payload::seed(1, 10_000));
        assert_eq!(client.exchange(&ask).expect("a response").status, 401);
        let ask = Ask::post("guarded.test", "/x", Payload::bytes("posted")).header("x-api-key", "sesame");
        let response = client.exchange(&ask).expect("a response");
        assert!(response.status == 200 && response.text().ends_with("\r\n\r\nposted"), "{}", response.text());
    }
    assert_eq!(origin.request_count(), 3);
}

/// Bodies beside filters that do not see them; the origin's own measure of what came.
#[test]
fn bodies_pass_in_both_directions() {
    let origin = Origin::start();
    origin.measure();
    origin.route("/up", Reply::new(200).body("got it"));
    let server = builder(&origin).start();
    for host in ["plain.test", "a.test"] {
        let mut client = Http2::connect(server.tls_port()).discard_bodies();
        for len in [0, 1, 16_383, 16_384, 16_385, 100_000, 3_000_000] {
            for sending in [Sending::Length, Sending::Chunked(0)] {
                let what = format!("{host}, {len} bytes, {sending:?}");
                let body = Payload::seed(len, len);
                let ask = Ask::post(host, "/up", body.clone()).sending(sending);
                let response = client.exchange(&ask).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!((response.status, response.body_len), (200, 6), "{what}");
                let request = origin.last();
                assert_eq!((request.body_len, request.body_hash), (len, body.hash()), "{what}: {request:?}");
            }
            let chunked = Reply::new(200).generated(len, len).chunked(10_000);
            for reply in [Reply::new(200).generated(len, len), chunked] {
                origin.route("/down", reply);
                let response = client.exchange(&Ask::get(host, "/down")).expect("a response");
                let expected = Payload::seed(len, len).hash();
                assert_eq!((response.body_len, response.body_hash), (len, expected), "{host}, {len} bytes");
            }
        }
    }
}

#[test]
fn streams_that_end_early_leave_the_others_alone() {
    let origin = Origin::start();
    origin.measure();
    origin.route("/large", Reply::new(200).generated(5, 20_000_000));
    origin.route("/small", Reply::new(200).body("small"));
    let server = builder(&origin).start();
    let mut client = Http2::try_connect(server.tls_port(), 65_535).expect("a connection");
    for turn in 0..20 {
        // In the response.
        let mut exchange = client.open(&Ask::get("a.test", "/large")).expect("a stream");
        assert_eq!(client.head(&mut exchange).expect("a head"), 200);
        assert!(client.read(&mut exchange, 100_000).expect("bytes") >= 100_000);
        client.reset(exchange, 8);
        // In the request, which no filter sees.
        let ask = Ask::post("plain.test", "/large", Payload::seed(1, 1_000_000));
        let mut exchange = client.open(&ask).expect("a stream");
        client.send(&mut exchange, 40_000).expect("room");
        client.reset(exchange, 8);
        let response = client.exchange(&Ask::get("a.test", "/small")).expect("a response");
        assert_eq!((response.status, response.text().as_str()), (200, "small"), "turn {turn}");
    }
    // With the connection.
    for _ in 0..20 {
        let mut client = Http2::try_connect(server.tls_port(), 65_535).expect("a connection");
        let mut exchange = client.open(&Ask::get("a.test", "/large")).expect("a stream");
        assert_eq!(client.head(&mut exchange).expect("a head"), 200);
        client.abort();
    }
    wait_until(PATIENCE, "the origin's connections end or idle", || {
        let mut client = Http2::connect(server.tls_port());
        let response = client.exchange(&Ask::get("a.test", "/small")).expect("a response");
        assert_eq!(response.status, 200);
        (origin.open_connections() <= 4).then_some(())
    });
}

/// ATS tells nobody of them while a transform reads, and its own timeouts may take minutes, or never come.
#[test]
fn uploads_that_end_early_end_here_and_at_the_origin_soon() {
    let origin = Origin::start();
    origin.discard();
    origin.route("/*", Reply::new(200).body("all"));
    let mut builder = TrafficServer::builder().origin(&origin).tls().stats();
    for (host, more) in [("stream.test", ""), ("buffer.test", "    request_body: buffer\n")] {
        builder = builder
            .rule(Rule::new(host, "http://{origin}/").tls().wasm([host]))
            .file(host, &format!("filters:\n  - name: body\n    module: {{guest:body}}\n{more}"));
    }
    let server = builder.start();
    let mut count = 0;
    for host in ["stream.test", "buffer.test"] {
        for operation in ["pass", "hold"] {
            for sending in [Sending::Length, Sending::Chunked(5000)] {
                for (size, part) in [(65_536, 0), (65_536, 100), (65_536, 65_000), (1_000_000, 500_000)] {
                    for gentle in [true, false] {
                        let client = Http2::try_connect(server.tls_port(), 65_535).expect("a connection");
                        let mut client = client.patience(Duration::from_millis(20));
                        let ask = Ask::post(host, "/", Payload::seed(1, size))
                            .sending(sending.clone())
                            .header("x-op", &format!("request:{operation}"));
                        let mut exchange = client.open(&ask).expect("a stream");
                        if part > 0 {
                            // As far as ATS takes it, while it has time for us.
                            let _ = client.send(&mut exchange, part);
                        }
                        // Else ATS may learn of the end before anything else.
                        client.head(&mut exchange).expect_err("no head");
                        if gentle {
                            client.reset(exchange, 8)
                        } else {
                            client.abort()
                        }
                        count += 1;
                    }
                }
            }
        }
    }
    wait_until(2 * PATIENCE, "the ends of all uploads", || {
        let metrics = server.metrics();
        let number = |name: &str| metrics.get(name).copied().unwrap_or(0);
        let created = number("wasm_remap.streams_created");
        assert!(created <= count, "{created} contexts for {count} uploads");
        let ended = created > 0 && created == number("wasm_remap.streams_deleted");
        (ended && number("proxy.process.http2.current_client_streams") == 0).then_some(())
    });
    // On a busy machine ATS may learn of an end before it has read what came first.
    let created = server.metrics()["wasm_remap.streams_created"];
    assert!(created > count / 2, "{created} of {count} met their filter");
    // ATS has stopped reading from such a connection, of which the client knows nothing: it is closed.
    let mut client = Http2::connect(server.tls_port()).patience(3 * PATIENCE);
    let mut exchange = client.open(&Ask::post("stream.test", "/", Payload::seed(1, 65_536))).expect("a stream");
    client.send(&mut exchange, 1000).expect("room");
    thread::sleep(Duration::from_millis(20));
    client.reset(exchange, 8);
    let begin = Instant::now();
    client.exchange(&Ask::post("stream.test", "/", Payload::seed(1, 1))).expect_err("a closed connection");
    assert!(begin.elapsed() < 2 * PATIENCE, "closed after {:?}", begin.elapsed());
    // One that takes its time is none of them.
    let mut client = Http2::connect(server.tls_port());
    let ask = Ask::post("stream.test", "/", Payload::seed(1, 100_000));
    let mut exchange = client.open(&ask).expect("a stream");
    for part in [10, 50_000, 70_000] {
        client.send(&mut exchange, part).expect("room");
        thread::sleep(Duration::from_millis(2500));
    }
    client.send(&mut exchange, u64::MAX).expect("room");
    assert_eq!(client.head(&mut exchange).expect("a head"), 200);
}

/// ATS gives up on the upload then, and is through with a transaction whose client is gone at once, while its tunnel is still
/// to hear from the transform.
#[test]
fn an_origin_that_answers_early_behind_a_client_that_left_ends_nothing_else() {
    let origin = Origin::start();
    origin.discard();
    origin.route("/*", Reply::new(200).body("fine"));
    origin.route_early("/early", Reply::new(401).delay(Duration::from_millis(30)).body("early").close());
    let server = TrafficServer::builder()
        .origin(&origin)
        .tls()
        .rule(Rule::new("a.test", "http://{origin}/").tls().wasm(["a.yaml"]))
        .file("a.yaml", "filters:\n  - name: body\n    module: {guest:body}\n")
        .start();
    let process = server.pid();
    thread::scope(|scope| {
        for worker in 0..4_u64 {
            let server = &server;
            scope.spawn(move || {
                let mut other = Http2::connect(server.tls_port());
                for turn in 0..60_u64 {
                    let ask = Ask::post("a.test", "/early", Payload::seed(turn, 1_000_000));
                    // Without a length it goes to the origin as it comes.
                    let ask = ask.sending(Sending::Chunked(5000)).header("x-op", "request:pass");
                    let mut client = Http2::connect(server.tls_port());
                    let mut exchange = client.open(&ask).expect("a stream");
                    // As much as the window has room for: the origin gets a part of it.
                    let _ = client.send(&mut exchange, 60_000);
                    thread::sleep(Duration::from_millis((worker + turn) % 20));
                    client.reset(exchange, 8);
                    // Their memory is what transactions are made of that are over.
                    let response = other.exchange(&Ask::post("a.test", "/", Payload::seed(turn, 100)));
                    assert_eq!(response.expect("a response").status, 200, "turn {turn}");
                }
            });
        }
    });
    assert_eq!(server.pid(), process);
}

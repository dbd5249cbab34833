//! gRPC calls and streams of filters, against a server of another make.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::{Builder, Client, GrpcUpstream, Origin, Rule, TrafficServer, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster that answers, one that nobody listens at, and a filter of the guest `grpc`, which a request's header tells what
/// to do.
fn builder(origin: &Origin, upstream: &GrpcUpstream, down: &Lease) -> Builder {
    let clusters = "clusters:\n  upstream: {endpoints: ['127.0.0.1:{upstream}'], protocol: http2}\n  \
                    down: {endpoints: ['127.0.0.1:{down}'], protocol: http2, retries: 0}\n";
    let filter = |name: &str, rest: &str| {
        format!("{clusters}filters:\n  - name: {name}\n    module: {{guest:{name}}}\n    body: none\n{rest}")
    };
    TrafficServer::builder()
        .origin(origin)
        .stats()
        .variable("upstream", &upstream.port().to_string())
        .variable("down", &down.port().to_string())
        .rule(Rule::new("grpc.test", "http://{origin}/").wasm(["grpc.yaml"]))
        .rule(Rule::new("probe.test", "http://{origin}/").wasm(["probe.yaml"]))
        .file("grpc.yaml", &filter("grpc", ""))
        .file("probe.yaml", &filter("probe", ""))
}

/// What the filter reports of a program, event by event.
#[track_caller]
fn reports(client: &mut Client, program: &str) -> Vec<String> {
    let response = client.request("GET", "grpc.test", "/", &[("x-grpc", program)], b"");
    assert_eq!(response.status, 200, "{program}: {}", response.text());
    response.headers.all("x-grpc-result")
}

/// The event that begins like this, which must be there.
#[track_caller]
fn event<'a>(reports: &'a [String], begin: &str) -> &'a str {
    reports.iter().find(|report| report.starts_with(begin)).unwrap_or_else(|| panic!("no {begin:?} in {reports:#?}"))
}

/// The first word of each report.
fn kinds(reports: &[String]) -> Vec<&str> {
    reports.iter().filter_map(|report| report.split(' ').next()).collect()
}

/// Waits until so many stream contexts have come and gone.
#[track_caller]
fn settled(server: &TrafficServer, streams: i64) -> BTreeMap<String, i64> {
    server.counters("every stream context is deleted", |counters| {
        (counters["streams_created"], counters["streams_deleted"]) == (streams, streams)
    })
}

#[test]
fn a_unary_call_is_answered_by_one_callback() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down).start();
    let mut client = Client::connect(server.port());
    assert_eq!(reports(&mut client, "call send=hello number=41"), ["message size=9 text=hello number=42"]);
    // An empty message is a message.
    assert_eq!(reports(&mut client, "call number=4294967295"), ["message size=0 text= number=0"]);

    // A status of the server's, with its text: nothing but trailers came.
    let failed = reports(&mut client, "call method=Fail send=not,here number=5");
    assert_eq!(failed, ["close code=5 status=5 message=not"]);
    let failed = reports(&mut client, "call method=None");
    assert_eq!(failed, ["close code=12 status=12 message=test.Echo_has_no_such_method"]);
    assert_eq!(upstream.requests(), 4);
    assert_eq!(origin.request_count(), 4, "each request went on");
}

#[test]
fn streams_of_each_kind_report_everything_in_order() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down).start();
    let mut client = Client::connect(server.port());

    let told = reports(&mut client, "stream method=ServerStream send=many number=3 end");
    assert_eq!(kinds(&told), ["initial", "message", "message", "message", "trailing", "close"], "{told:#?}");
    assert_eq!(
        told[1..4],
        [0, 1, 2].map(|n| {
            let size = if n == 0 { 6 } else { 8 };
            format!("message size={size} text=many number={n}")
        })
    );
    assert!(told[0].contains(":status:200") && told[0].contains("content-type:application/grpc"), "{told:#?}");
    assert!(told[4].contains("grpc-status:0"), "{told:#?}");
    assert_eq!(told[5], "close code=0 status=0 message=");

    let told = reports(&mut client, "stream method=ClientStream send=a,b,c number=10 close=0");
    assert_eq!(kinds(&told), ["initial", "message", "trailing", "close"], "{told:#?}");
    assert_eq!(told[1], "message size=9 text=a,b,c number=33");

    // Each message that comes is answered with another; the last one says that it is.
    let told = reports(&mut client, "stream send=ping echo=99 end");
    assert_eq!(told.iter().filter(|report| report.starts_with("message ")).count(), 100, "{told:#?}");
    assert_eq!(event(&told, "message size=8 text=ping number=100"), told[100]);
    assert_eq!(told.last().map(String::as_str), Some("close code=0 status=0 message="));

    // Metadata both ways.
    let told = reports(&mut client, "stream method=Unary send=x end metadata=x-asked:this");
    assert!(event(&told, "initial ").contains("x-asked:this"), "{told:#?}");

    // The server refuses before it says anything else: there are trailers, and no metadata but them.
    let told = reports(&mut client, "stream method=Fail send=refused number=7 end");
    assert_eq!(told.last().map(String::as_str), Some("close code=7 status=7 message=refused"), "{told:#?}");
    assert!(event(&told, "trailing ").contains("x-why:asked for"), "{told:#?}");
    assert!(!told.iter().any(|report| report.starts_with("message ")), "{told:#?}");
}

#[test]
fn deadlines_cancels_and_closes() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down).start();
    let mut client = Client::connect(server.port());

    // The server is told of the time that there is.
    let told = reports(&mut client, "call method=Slow number=1 timeout=9000");
    let timeout = told[0].split("text=").nth(1).and_then(|text| text.split(' ').next()).expect("a text");
    let micros: u64 = timeout.trim_end_matches('u').parse().expect("microseconds");
    assert!((8_000_000..=9_000_000).contains(&micros), "{told:?}");
    let begun = Instant::now();
    let told = reports(&mut client, "call method=Slow number=60000 timeout=200");
    assert!(told[0].starts_with("close code=4 status=4 message="), "{told:?}");
    assert!((Duration::from_millis(200)..Duration::from_secs(10)).contains(&begun.elapsed()), "{:?}", begun.elapsed());

    wait_until(PATIENCE, "the server sees that nobody waits", || (upstream.given_up() == 1).then_some(()));

    // What is cancelled is not reported any more, and the server is told, if it has heard of the call at all.
    assert_eq!(reports(&mut client, "call method=Slow number=60000 cancel=0"), ["cancelled"]);
    let told = reports(&mut client, "stream method=ServerStream send=endless number=1000000 end cancel=5");
    assert_eq!(told.iter().filter(|report| report.starts_with("message ")).count(), 5, "{told:#?}");
    assert_eq!(told.last().map(String::as_str), Some("cancelled"));
    wait_until(PATIENCE, "the server sees the stream end", || (upstream.open_streams() == 0).then_some(()));
    assert!(upstream.messages() < 1_000_000);

    // Our side is closed after three; the server still answers what it had.
    let told = reports(&mut client, "stream send=a,b,c close=3");
    assert_eq!(told.iter().filter(|report| report.starts_with("message ")).count(), 3, "{told:#?}");
    assert_eq!(told.last().map(String::as_str), Some("close code=0 status=0 message="));
    // A stream that was closed takes no more messages.
    let told = reports(&mut client, "stream send=a close=0 echo=1");
    assert_eq!(event(&told, "send="), "send=BadArgument");
    settled(&server, 6);
}

#[test]
fn upstreams_that_are_not_there() {
    let (origin, mut upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down).start();
    let mut client = Client::connect(server.port());
    assert_eq!(reports(&mut client, "call cluster=nobody"), ["refused=ParseFailure"]);
    assert_eq!(reports(&mut client, "stream cluster=nobody"), ["refused=ParseFailure"]);
    server.wait_for_log("filter 'grpc' calls the cluster 'nobody', which is not defined", PATIENCE);

    let told = reports(&mut client, "call cluster=down");
    assert!(told[0].starts_with("close code=14 status=14 message="), "{told:?}");
    let told = reports(&mut client, "stream cluster=down send=x");
    assert!(told.last().is_some_and(|last| last.starts_with("close code=14 status=14 message=")), "{told:?}");

    // One that goes down in the middle of a stream, and comes again.
    let port = server.port();
    let waiting = thread::spawn(move || reports(&mut Client::connect(port), "stream send=one"));
    wait_until(PATIENCE, "the stream is open", || (upstream.messages() == 1).then_some(()));
    upstream.stop();
    let told = waiting.join().expect("a response");
    assert!(told.last().is_some_and(|last| last.starts_with("close code=14 status=14 message=")), "{told:?}");
    upstream.start_again();
    wait_until(PATIENCE, "the cluster is used again", || {
        (reports(&mut client, "call send=again") == ["message size=9 text=again number=2"]).then_some(())
    });
}

/// `envoy.config.core.v3.GrpcService`, whose bytes SDKs of Envoy's filters give in place of a name.
#[test]
fn a_cluster_is_named_by_envoys_grpc_service() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down).start();
    let mut client = Client::connect(server.port());
    for field in ["\\n", "\\u0012"] {
        // Field 1 (envoy_grpc) or 2 (google_grpc), and in it field 1, the name.
        let program = format!(
            r#"[["grpc_call", "{field}\n\n\bupstream", "test.Echo", "Unary", [], {{"bytes": [16, 1]}}, 5000]]"#
        );
        let response = client.request("GET", "probe.test", "/", &[("x-probe", program.as_str())], b"");
        assert!(response.text().contains("\"status\":0"), "{}", response.text());
    }
    wait_until(PATIENCE, "both calls", || (upstream.requests_to("/test.Echo/Unary") == 2).then_some(()));
}

#[test]
fn a_thousand_calls_at_once_are_answered_once_each() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down).threads(4).start();
    let port = server.port();
    // A hundred requests with ten calls each, which nobody waits for, ...
    let calls: Vec<String> = (0..10)
        .map(|_| r#"["grpc_call", "upstream", "test.Echo", "Unary", [], {"bytes": [16, 1]}, 20000]"#.to_owned())
        .collect();
    let program = format!("[{}]", calls.join(","));
    // ... and a thousand, fifty at a time, whose answer each request shows.
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(port);
            for _ in 0..100 {
                let text = client.request("GET", "probe.test", "/", &[("x-probe", program.as_str())], b"").text();
                assert_eq!(text.matches("\"status\":0").count(), 10, "{text}");
            }
        });
        for thread in 0..50 {
            scope.spawn(move || {
                let mut client = Client::connect(port);
                for call in 0..20 {
                    let number = 1000 * (thread + 1) + call;
                    let told = reports(&mut client, &format!("call send=n number={number} timeout=20000"));
                    assert_eq!(
                        told,
                        [format!("message size={} text=n number={}", if number < 16383 { 6 } else { 7 }, number + 1)]
                    );
                }
            });
        }
    });
    wait_until(PATIENCE, "all calls", || (upstream.requests_to("/test.Echo/Unary") == 2000).then_some(()));
    let counters = settled(&server, 1100);
    assert_eq!((counters["callouts"], counters["callouts_failed"], counters["traps"]), (2000, 0, 0));
    assert_eq!(upstream.given_up(), 0);
}

/// Opens so many streams for clients that wait for them.
fn open(server: &TrafficServer, upstream: &GrpcUpstream, host: &str, count: usize) -> Vec<Client> {
    let before = upstream.open_streams();
    let open = |_| {
        let mut client = Client::connect(server.port());
        client.send_request("GET", host, "/", &[("x-grpc", "stream send=one")], b"");
        client
    };
    let clients = (0..count).map(open).collect();
    wait_until(PATIENCE, "the streams are open", || (upstream.open_streams() == before + count).then_some(()));
    clients
}

/// A stream is the plugin context's, not the transaction's: it goes on when the client leaves, and ends with the VM.
#[test]
fn a_trap_ends_the_streams_of_its_vm_and_no_others() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down)
        .threads(1)
        .rule(Rule::new("small.test", "http://{origin}/").wasm(["small.yaml"]))
        .file(
            "small.yaml",
            "clusters:\n  upstream: {endpoints: ['127.0.0.1:{upstream}'], protocol: http2, response_kib: 8192}\n\
             filters:\n  - name: small\n    module: {guest:grpc}\n    body: none\n    limits: {memory_mib: 4}\n",
        )
        .start();
    let others = open(&server, &upstream, "grpc.test", 3);
    let waiting = open(&server, &upstream, "small.test", 5);

    // A message that the VM has no memory for.
    let program = "stream method=ServerStream send=bytes:7000000 number=1 end";
    let response = Client::connect(server.port()).request("GET", "small.test", "/", &[("x-grpc", program)], b"");
    assert_eq!(response.status, 503);
    for mut client in waiting {
        assert_eq!(client.read_response().status, 503, "the policy answers those who wait");
    }
    wait_until(PATIENCE, "the server sees the streams of the VM end", || (upstream.open_streams() == 3).then_some(()));
    server.wait_for_log("filter 'small': a gRPC call: ", PATIENCE);

    // The next VM is as good as the first, and a word for the one that is gone does nothing to it.
    let mut client = Client::connect(server.port());
    let response = client.request("GET", "small.test", "/", &[("x-grpc", "stream send=one close=1")], b"");
    assert_eq!(kinds(&response.headers.all("x-grpc-result")), ["initial", "message", "trailing", "close"]);
    let counters = server.counters("all but those who wait are gone", |counters| {
        counters["streams_created"] == 10 && counters["streams_deleted"] == 7
    });
    assert_eq!(counters["traps"], 1);
    drop(others);
    server.shutdown();
    wait_until(PATIENCE, "nothing is open when the server is gone", || (upstream.open_streams() == 0).then_some(()));
}

/// ATS holds a transaction that waits until its time is up, also when its client has left. Its stream goes on: it is the
/// plugin context's, and ends with that.
#[test]
fn a_stream_outlives_its_transaction_and_ends_with_the_plugin_context() {
    let (origin, upstream, down) = (Origin::start(), GrpcUpstream::start(), Lease::take());
    let server = builder(&origin, &upstream, &down)
        .manager()
        .rule(Rule::new("short.test", "http://{origin}/").wasm(["short.yaml"]))
        .file(
            "short.yaml",
            "clusters:\n  upstream: {endpoints: ['127.0.0.1:{upstream}'], protocol: http2}\n\
             filters:\n  - name: short\n    module: {guest:grpc}\n    body: none\n    limits: {pause_ms: 300}\n",
        )
        .start();
    drop(open(&server, &upstream, "short.test", 5));
    settled(&server, 5);
    assert_eq!(upstream.open_streams(), 5);
    server.rewrite_remap("map http://probe.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=probe.yaml");
    server.reload().expect("the rules load");
    wait_until(PATIENCE, "the server sees the streams end", || (upstream.open_streams() == 0).then_some(()));
    let counters = server.counters("the plugin contexts are gone", |counters| counters["roots_deleted"] >= 4);
    assert_eq!(counters["traps"], 0);
}

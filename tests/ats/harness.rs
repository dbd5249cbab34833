//! The harness itself, on a real traffic_server without the plugin: what a test may rely on.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use wasm_remap_tests::harness::process;
use wasm_remap_tests::{Client, Connection, Origin, Reply, Rule, TrafficServer, load, payload, wait_until};

const PATIENCE: Duration = Duration::from_secs(10);

fn rule(host: &str) -> Rule {
    Rule::new(host, "http://{origin}/")
}

#[test]
fn a_mapped_request_reaches_the_origin_and_its_bytes_come_back() {
    let origin = Origin::start();
    let body = payload::bytes(1, 100_000);
    origin.route("/bytes", Reply::new(299).reason("As Asked").header("X-A", "1").header("x-a", "2").body(body.clone()));
    let server = TrafficServer::builder().origin(&origin).rule(rule("a.test")).start();
    let mut client = Client::connect(server.port());

    let response = client.request("GET", "a.test", "/bytes?q=1", &[("X-Sent", "yes")], b"");
    assert_eq!((response.status, response.reason.as_str()), (299, "As Asked"));
    assert_eq!(response.headers.all("x-a"), ["1", "2"]);
    assert!(response.body == body, "{} bytes of another body", response.body_len);
    let request = origin.last();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/bytes?q=1"));
    assert_eq!(request.header("x-sent").as_deref(), Some("yes"));
    assert_eq!(origin.connection_bytes(0), request.head);

    // The same connection again, with a body.
    let response = client.request("POST", "a.test", "/", &[], b"\0posted");
    assert!(response.body.ends_with(b"\r\n\r\n\0posted"), "{}", response.text());
    assert_eq!(origin.last().body, b"\0posted");
    assert_eq!(client.connection(), Connection::Open);

    // A host that no rule knows.
    assert_eq!(client.get("b.test", "/").status, 404);
    assert_eq!(origin.request_count(), 2);
    let exit = server.shutdown();
    assert!(exit.status.success(), "{}", exit.status);
}

#[test]
fn head_and_close_and_abort_are_told_apart() {
    let origin = Origin::start();
    origin.route("/slow", Reply::new(200).body("late").delay(Duration::from_millis(300)));
    origin.route("/cut", Reply::new(200).body("abcdef").close_after(3));
    let server = TrafficServer::builder().origin(&origin).rule(rule("a.test")).start();

    let mut client = Client::connect(server.port());
    let response = client.request("HEAD", "a.test", "/", &[], b"");
    assert_eq!((response.status, response.body_len), (200, 0));
    let response = client.request("GET", "a.test", "/", &[("Connection", "close")], b"");
    assert!(response.says_close());
    assert!(client.wait_closed(PATIENCE));

    let mut client = Client::connect(server.port());
    client.send_request("GET", "a.test", "/cut", &[], b"");
    let error = client.try_response_to("GET").expect_err("half a body is no response");
    assert_eq!(error.partial.expect("its head came").body, b"abc");

    let mut client = Client::connect(server.port());
    client.send_request("GET", "a.test", "/slow", &[], b"");
    origin.wait_for_requests(4, PATIENCE);
    client.abort();
    assert_eq!(Client::connect(server.port()).get("a.test", "/slow").text(), "late");
}

#[test]
fn the_cache_keeps_what_it_is_told_to_and_can_be_off() {
    let origin = Origin::start();
    origin.route("/kept", Reply::new(200).cacheable(60).body("kept"));
    let asked = |server: &TrafficServer| {
        let before = origin.request_count();
        for _ in 0..3 {
            assert_eq!(Client::connect(server.port()).get("a.test", "/kept").text(), "kept");
        }
        origin.request_count() - before
    };
    let builder = TrafficServer::builder().origin(&origin).rule(rule("a.test"));
    assert_eq!(asked(&builder.clone().start()), 1);
    assert_eq!(asked(&builder.cache(false).start()), 3);
}

#[test]
fn a_reload_takes_good_rules_and_leaves_the_old_ones_for_bad() {
    let origin = Origin::start();
    let server = TrafficServer::builder().origin(&origin).rule(rule("a.test")).manager().start();
    let status = |host: &str| Client::connect(server.port()).get(host, "/").status;
    assert_eq!((status("a.test"), status("b.test")), (200, 404));
    let pid = server.pid();
    assert!(process::children(pid).is_empty() && server.is_alive());

    server.rewrite_remap(&format!("{}\n", rule("b.test")));
    server.reload().expect("good rules load");
    assert_eq!((status("a.test"), status("b.test")), (404, 200));

    server.rewrite_remap("map http://c.test/ http://{origin}/ @plugin=no_such_plugin.so\n");
    let lines = server.reload().expect_err("a missing plugin is refused");
    assert!(lines.iter().any(|line| line.contains("no_such_plugin.so")), "{lines:?}");
    assert_eq!((status("b.test"), status("c.test")), (200, 404));

    server.rewrite_remap(&format!("{}\n", rule("c.test")));
    server.reload().expect("good rules load again");
    assert_eq!((status("b.test"), status("c.test")), (404, 200));

    assert!(server.metric("proxy.process.http.incoming_requests").is_some());
    assert_eq!(server.metric("proxy.process.no.such"), None);
    assert_eq!(server.pid(), pid);
    let exit = server.shutdown();
    assert_eq!(exit.crash, None);
    assert!(!process::alive(pid));
}

#[test]
fn a_configuration_that_cannot_start_says_why() {
    let exit = TrafficServer::builder()
        .remap("map http://a.test/ http://127.0.0.1:9/ @plugin=no_such_plugin.so")
        .start_expecting_failure();
    assert!(!exit.status.success());
    assert!(exit.line("no_such_plugin.so").contains("ERROR"));
    assert_eq!(exit.crash, None);
}

#[test]
fn records_files_metrics_and_figures_are_at_hand() {
    let origin = Origin::start();
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(rule("a.test").plugin("header_rewrite.so", ["rules.conf"]))
        .file("rules.conf", "cond %{SEND_RESPONSE_HDR_HOOK}\nset-header X-Origin {origin}\n")
        .record("proxy.config.http.response_server_enabled", 0)
        .threads(3)
        .stats()
        .start();
    let response = Client::connect(server.port()).get("a.test", "/");
    assert_eq!(response.header("x-origin"), Some(origin.address()));
    assert_eq!(response.header("server"), None);
    let nets = server.thread_names().iter().filter(|name| name.starts_with("[ET_NET")).count();
    assert_eq!(nets, 3);
    assert!(server.threads() > 3 && server.mappings() > 50 && server.open_files() > 5);
    assert!(server.rss_kib() > 5_000 && server.cpu_time() > Duration::ZERO);
    assert_eq!(server.metric("proxy.process.http.incoming_requests"), Some(1));
    let line = server.wait_for_log("fully initialized", PATIENCE);
    assert!(server.lines_since(server.mark()).is_empty(), "{line}");
}

#[test]
fn a_load_is_counted_by_the_server_too() {
    let origin = Origin::start();
    origin.route("/", Reply::new(200).body("x"));
    origin.discard();
    let server = TrafficServer::builder().origin(&origin).rule(rule("a.test")).stats().start();
    let report = load::requests(server.port(), b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n", 2000, 8, &[200]);
    assert_eq!((report.requests, report.errors.total()), (2000, 0));
    assert_eq!(origin.request_count(), 2000);
    assert_eq!(server.metric("proxy.process.http.incoming_requests"), Some(2000));
}

#[test]
fn a_large_body_passes_without_being_held() {
    const SIZE: u64 = 30_000_000;
    let origin = Origin::start();
    origin.discard();
    origin.route("/down", Reply::new(200).generated(5, SIZE));
    let server = TrafficServer::builder().origin(&origin).rule(rule("a.test")).start();
    let response = Client::connect(server.port()).discard_bodies().get("a.test", "/down");
    assert_eq!((response.body_len, response.body_hash), (SIZE, payload::hash(5, SIZE)));
}

#[test]
fn a_stopped_server_leaves_no_process_and_no_file() {
    let server = TrafficServer::builder().start();
    let (group, root) = (server.pid(), server.root().to_path_buf());
    assert_eq!(process::group_members(group), [group]);
    drop(server);
    assert!(process::group_members(group).is_empty());
    assert!(!root.exists());

    let server = TrafficServer::builder().manager().start();
    let (pid, root) = (server.pid(), server.root().to_path_buf());
    drop(server);
    assert!(!process::alive(pid) && !root.exists());
}

#[test]
fn a_failed_test_keeps_its_logs_and_no_process() {
    let mut kept: Option<(PathBuf, u32)> = None;
    let failure = catch_unwind(AssertUnwindSafe(|| {
        let server = TrafficServer::builder().start();
        kept = Some((server.root().to_path_buf(), server.pid()));
        panic!("as a test fails");
    }));
    assert!(failure.is_err());
    let (root, pid) = kept.expect("the server started");
    assert!(!process::alive(pid));
    assert!(fs::read_to_string(root.join("log/diags.log")).expect("the logs are kept").contains("fully initialized"));
    fs::remove_dir_all(root).expect("the directory is ours");
}

#[test]
fn a_crash_fails_the_test_that_owns_the_server() {
    let mut root = PathBuf::new();
    let failure = catch_unwind(AssertUnwindSafe(|| {
        let server = TrafficServer::builder().start();
        root = server.root().to_path_buf();
        process::signal(server.pid(), rustix::process::Signal::SEGV);
        wait_until(PATIENCE, "the server dies", || (!server.is_alive()).then_some(()));
    }));
    let message = failure.expect_err("a crash is a failure");
    let message = message.downcast_ref::<String>().expect("a message");
    assert!(message.contains("received signal 11"), "{message}");
    fs::remove_dir_all(root).expect("the directory is ours");

    // Unless the test meant it.
    let server = TrafficServer::builder().start();
    process::signal(server.pid(), rustix::process::Signal::SEGV);
    let exit = server.wait_exit(PATIENCE);
    assert!(exit.crash.is_some_and(|line| line.contains("received signal 11")));
}

/// A signal that no destructor survives: the guard has to end the server.
#[test]
fn a_test_that_is_killed_leaves_no_server() {
    let program = env::current_exe().expect("a running test knows its own path");
    let mut victim = Command::new(program)
        .args(["--ignored", "--exact", "--nocapture", "victim"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the test's own program runs");
    let output = BufReader::new(victim.stdout.take().expect("the output is piped"));
    let words =
        output.lines().map_while(Result::ok).find_map(|line| Some(line.split_once("victim serves: ")?.1.to_owned()));
    let words = words.expect("the victim starts a server");
    let (pid, root) = words.split_once(' ').expect("a process id and a directory");
    let pid: u32 = pid.parse().expect("a process id");
    assert!(process::alive(pid));
    victim.kill().expect("the victim is ours");
    victim.wait().expect("the victim is ours");
    wait_until(PATIENCE, "the guard ends the server", || (!process::alive(pid)).then_some(()));
    fs::remove_dir_all(root).expect("the directory is ours");
}

#[test]
#[ignore = "not a test: a_test_that_is_killed_leaves_no_server runs and kills it"]
fn victim() {
    let server = TrafficServer::builder().start();
    println!("victim serves: {} {}", server.pid(), server.root().display());
    thread::sleep(Duration::from_secs(60));
}

//! The plugin's own file is replaced while it watches and listens: the old copy keeps its transactions, and is silent.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Client, Origin, wait_until};

use crate::support::{PATIENCE, message, reload, rules, version, wait_for_version, watched};

/// As `apt` does it: another file under the name, and a reload, three times, under load. Before, between and behind them
/// files change.
#[test]
fn copies_that_are_replaced_stop_watching_and_answering() {
    let origin = Origin::start();
    origin.discard();
    let hold = origin.hold("/held");
    let server = rules(&origin, &["one"]).file("one.yaml", &watched("0")).manager().stats().start();
    let names = |name: &str| server.thread_names().iter().filter(|thread| thread.starts_with(name)).count();
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    // Each begins under another copy, and ends when all are there.
    let mut held = Vec::new();
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = Client::connect(server.port());
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get("one.test", "/");
                    assert_eq!(response.status, 200);
                    assert!(response.header("x-to-a").is_some(), "every response passes the filter");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        /// Ends the load, also when something fails.
        struct Ending<'a>(&'a AtomicBool);
        impl Drop for Ending<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let ending = (Ending(&stop), hold);
        for copy in 1..=3_usize {
            server.write_text("one.yaml", &watched(&format!("{copy}-before")));
            wait_for_version(&server, "one", &format!("{copy}-before"));
            let mut client = Client::connect(server.port()).timeout(PATIENCE * 4);
            client.send_request("GET", "one.test", "/held", &[], b"");
            held.push((client, format!("{copy}-before")));
            // It must have matched its rule.
            thread::sleep(Duration::from_millis(500));
            server.renew_plugin();
            server.reload().expect("the same configuration, another copy");
            wait_until(PATIENCE, "the end of the old copy's watch", || (names("notify-rs") == 1).then_some(()));
            // One copy acts, and one answers.
            let mark = server.mark();
            server.write_text("one.yaml", &watched(&format!("{copy}-behind")));
            wait_for_version(&server, "one", &format!("{copy}-behind"));
            let lines = message(&server, "status", "status: 1 rules, ");
            thread::sleep(Duration::from_secs(1));
            let all = server.lines_since(mark);
            let count = |text: &str| all.iter().filter(|line| line.contains(text)).count();
            assert_eq!((count("status: rule"), count("status: 1 rules")), (1, 1), "{all:#?}");
            assert_eq!(count("1 loaded, 0 not, "), 1, "{all:#?}");
            assert!(lines.iter().any(|line| line.contains("status: rule http://one.test/")), "{lines:#?}");
        }
        drop(ending);
    });
    assert!(answered.load(Ordering::Relaxed) > 100);
    // What is under way under the old copies ends there, with the chain that it began with.
    for (client, expected) in &mut held {
        let response = client.read_response();
        assert_eq!((response.status, response.header("x-to-a").as_deref()), (200, Some(expected.as_str())));
    }
    // Nobody watches for the old ones, and nobody spins: each copy's clock ticks a hundred times a second.
    assert_eq!((names("notify-rs"), names("wasm-reload")), (1, 4));
    let before = server.cpu_time();
    thread::sleep(Duration::from_secs(4));
    let used = server.cpu_time() - before;
    assert!(used < Duration::from_secs(1), "four idle copies took {used:?} of four seconds");
    server.write_text("one.yaml", &watched("last"));
    reload(&server, "one.yaml");
    assert_eq!(version(&server, "one"), "last");
    let counters = server.counters("the newest copy's rule", |counters| {
        counters["rules_created"] - counters["rules_deleted"] == 1
            && counters["chains_retired"] == 0
            && counters["streams_created"] == counters["streams_deleted"]
    });
    assert_eq!((counters["panics"], counters["traps"]), (0, 0));
}

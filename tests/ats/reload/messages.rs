//! `traffic_ctl plugin msg wasm_remap ...`, and what `traffic_ctl config reload` leaves alone.

use std::env;
use std::fs;

use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::{Client, Origin, Rule, TrafficServer, wait_until};

use crate::support::{PATIENCE, complaint, file, message, reload, rules, stamp, version, wait_for_version};

#[test]
fn a_message_reloads_what_changed() {
    let origin = Origin::start();
    let builder = rules(&origin, &["one", "two", "three"]).manager().stats();
    let builder =
        ["one", "two", "three"].iter().fold(builder, |builder, name| builder.file(&format!("{name}.yaml"), &file("1")));
    let server = builder.start();
    let before = server.counters("the rules", |counters| counters["rules_created"] == 3);
    assert!(reload(&server, "").starts_with("3 rules, 3 unchanged, 0 loaded, 0 not, "));

    // One that changed.
    server.write_text("one.yaml", &file("2"));
    assert!(reload(&server, "").starts_with("3 rules, 2 unchanged, 1 loaded, 0 not, "));
    assert_eq!([version(&server, "one"), version(&server, "two")], ["2", "1"]);
    // Two that changed, of which one is asked for: by its file, its "from" URL, its module.
    server.write_text("one.yaml", &file("3"));
    server.write_text("two.yaml", &file("3"));
    assert!(reload(&server, "two.yaml").starts_with("1 rules, 0 unchanged, 1 loaded, 0 not, "));
    assert_eq!([version(&server, "one"), version(&server, "two")], ["2", "3"]);
    assert!(reload(&server, "http://two.test/").starts_with("1 rules, 1 unchanged, 0 loaded, 0 not, "));
    assert!(reload(&server, "http://one.test/").starts_with("1 rules, 0 unchanged, 1 loaded, 0 not, "));
    assert_eq!(version(&server, "one"), "3");
    assert!(reload(&server, "headers.wasm").starts_with("3 rules, 3 unchanged, 0 loaded, 0 not, "));
    assert!(reload(&server, "four.yaml").starts_with("no rule of this server is called 'four.yaml'"));

    // What is wrong changes nothing, and says why: now, and when it is asked for.
    server.write_text("one.yaml", "filters:\n  - name: a\n    modul: x\n");
    server.write_text("two.yaml", &file("4"));
    let mark = server.mark();
    assert!(reload(&server, "").starts_with("3 rules, 1 unchanged, 1 loaded, 1 not, "));
    let why = complaint(&server, mark);
    let says = server.expand("{etc}/one.yaml:3:5: filters[0]: unknown key 'modul'");
    assert!(why.contains("ERROR: ") && why.contains("rule http://one.test/ -> ") && why.contains(&says), "{why}");
    assert_eq!([version(&server, "one"), version(&server, "two")], ["3", "4"]);
    let lines = message(&server, "status", "status: 3 rules, ");
    let status = |name: &str| {
        let line = lines.iter().find(|line| line.contains(&format!("status: rule http://{name}.test/ -> ")));
        line.unwrap_or_else(|| panic!("no line for {name}: {lines:#?}"))
    };
    assert!(status("one").contains(&says), "{}", status("one"));
    let files = server.expand("1 filters, of {etc}/two.yaml, {guest:headers}; last error: none");
    assert!(status("two").contains("generation ") && status("two").ends_with(&files), "{}", status("two"));
    let counters = server.counters("the failure", |counters| counters["rules_failing"] == 1);
    assert_eq!((counters["reload_failures"], counters["reloads_refused"]), (1, 0));
    assert_eq!(counters["rules_created"], before["rules_created"], "ATS made none");

    // It is tried again when it is asked for; put right, it counts.
    assert!(reload(&server, "").starts_with("3 rules, 2 unchanged, 0 loaded, 1 not, "));
    server.write_text("one.yaml", &file("5"));
    assert!(reload(&server, "").starts_with("3 rules, 2 unchanged, 1 loaded, 0 not, "));
    assert_eq!(version(&server, "one"), "5");
    let counters = server.counters("the end of what was replaced", |counters| {
        counters["rules_failing"] == 0
            && counters["chains_retired"] == 0
            && counters["roots_created"] - counters["roots_deleted"] == 6
    });
    assert_eq!((counters["vms_built"], counters["vms_dropped"]), (2, 0), "one module, and two threads");

    // What is said by mistake gets an answer.
    for wrong in ["relaod", "", "help"] {
        let lines =
            message(&server, wrong, "is none that is known: reload (all rules whose files have changed), reload NAME");
        assert!(lines.iter().any(|line| line.contains("WARNING: ")), "{lines:#?}");
    }
    // What is for others gets none.
    let mark = server.mark();
    server.traffic_ctl(&["plugin", "msg", "another", "reload"]);
    message(&server, "status one.yaml", "status: 1 rules, ");
    assert!(!server.lines_since(mark).iter().any(|line| line.contains("] reload: ")));
}

/// Rules that share a file change together or not at all.
#[test]
fn rules_that_share_a_file_change_together() {
    let origin = Origin::start();
    let server = TrafficServer::builder()
        .origin(&origin)
        .rule(Rule::new("one.test", "http://{origin}/").wasm(["shared.yaml", "own.yaml"]))
        .rule(Rule::new("two.test", "http://{origin}/").wasm(["shared.yaml"]))
        .rule(Rule::new("three.test", "http://{origin}/").wasm(["three.yaml"]))
        .file("shared.yaml", &file("1"))
        .file("own.yaml", &format!("filters:\n{}", stamp("b", "{guest:headers}", "1")))
        .file("three.yaml", &file("1"))
        .manager()
        .start();
    let versions = || ["one", "two", "three"].map(|name| version(&server, name));
    server.write_text("shared.yaml", &file("2"));
    server.write_text("three.yaml", &file("2"));
    server.write_text("own.yaml", "filters: []\n");
    let mark = server.mark();
    assert!(reload(&server, "").starts_with("3 rules, 0 unchanged, 1 loaded, 2 not, "));
    let why = complaint(&server, mark);
    assert!(why.contains("own.yaml:1:10: filters: the list is empty"), "{why}");
    assert!(why.ends_with("as do 1 others that were to change with it"), "{why}");
    assert_eq!(versions(), ["1", "1", "2"]);
    // The operator may ask for one of them.
    assert!(reload(&server, "http://two.test/").starts_with("1 rules, 0 unchanged, 1 loaded, 0 not, "));
    assert_eq!(versions(), ["1", "2", "2"]);
    server.write_text("own.yaml", &format!("filters:\n{}", stamp("b", "{guest:headers}", "2")));
    assert!(reload(&server, "").starts_with("3 rules, 2 unchanged, 1 loaded, 0 not, "));
    assert_eq!(versions(), ["2", "2", "2"]);
    let response = Client::connect(server.port()).get("one.test", "/");
    assert_eq!(response.header("x-to-b").as_deref(), Some("2"));
}

/// What a file says beside its filters comes and goes with its chain.
#[test]
fn metrics_and_services_follow_the_chain() {
    let origin = Origin::start();
    let server = rules(&origin, &["one"]).file("one.yaml", &file("1")).manager().stats().start();
    let lease = Lease::take();
    let served = || Client::try_connect(lease.port()).is_ok();
    let metrics = format!("metrics: {{listen: \"127.0.0.1:{}\"}}\n", lease.port());
    let service = "services:\n  - name: background\n    module: {guest:service}\n    root_id: service\n";
    assert!(!served());
    server.write_text("one.yaml", &(metrics.clone() + service + &file("2")));
    reload(&server, "");
    wait_until(PATIENCE, "the endpoint", || served().then_some(()));
    let services = || server.thread_names().iter().filter(|name| *name == "wasm-service").count();
    assert_eq!((version(&server, "one").as_str(), services()), ("2", 1));
    // The same ones, and not others for a moment.
    let mut kept = Client::connect(lease.port());
    server.write_text("one.yaml", &(metrics + service + &file("3")));
    reload(&server, "");
    assert_eq!((version(&server, "one").as_str(), services()), ("3", 1));
    assert_eq!(kept.get("metrics", "/metrics").status, 200, "on a connection from before");
    server.write_text("one.yaml", &file("4"));
    reload(&server, "");
    wait_until(PATIENCE, "the end of both", || (!served() && services() == 0).then_some(()));
    assert_eq!(version(&server, "one"), "4");
}

/// ATS's own reload, which is refused as a whole, is kept in mind rule by rule.
#[test]
fn what_ats_refused_is_told_by_status() {
    let origin = Origin::start();
    let server =
        rules(&origin, &["one", "two"]).file("one.yaml", &file("1")).file("two.yaml", &file("1")).manager().start();
    let status = || {
        let lines = message(&server, "status two.yaml", "status: 1 rules, ");
        lines.into_iter().find(|line| line.contains("status: rule http://two.test/")).expect("a line")
    };
    assert!(status().ends_with("last error: none"));
    server.write_text("two.yaml", "filters: 3\n");
    server.reload().expect_err("it is wrong");
    assert!(status().contains("last error: rule http://two.test/ -> "), "{}", status());
    assert_eq!(version(&server, "two"), "1");
    server.write_text("two.yaml", &file("2"));
    reload(&server, "");
    assert!(status().ends_with("last error: none"), "{}", status());
    assert_eq!(version(&server, "two"), "2");
}

/// `WASM_REMAP_RULES` says how many rules there are, 300 if nothing does.
#[test]
fn a_reload_of_ats_loads_what_changed_and_nothing_else() {
    let count: usize = env::var("WASM_REMAP_RULES").map_or(300, |text| text.parse().expect("a number"));
    let origin = Origin::start();
    let mut builder = TrafficServer::builder().origin(&origin).patience(crate::support::PATIENCE * 4);
    for n in 0..count {
        let name = format!("f/{n}.yaml");
        builder = builder
            .rule(Rule::new(&format!("r{n}.test"), "http://{origin}/").wasm([name.clone()]))
            .file(&name, &file(&format!("{n}-1")));
    }
    let server = builder.manager().stats().start();
    let start = server.wait_for_log(" loaded, ", crate::support::PATIENCE);
    assert!(start.contains(&format!("reload: {count} rules, 0 unchanged, {count} loaded, ")), "{start}");
    let before = server.counters("the rules", |counters| counters["reload_loaded"] == count as i64);

    server.write_text("f/7.yaml", &file("7-2"));
    let lines = server.reload().expect("a good configuration loads");
    let summary = crate::support::summary(&lines).expect("a line at the end");
    assert!(summary.starts_with(&format!("{count} rules, {} unchanged, 1 loaded, ", count - 1)), "{summary}");
    println!("{}\nthen: {summary}", start.split_once("reload: ").expect("it has").1);
    assert_eq!(version(&server, "r7"), "7-2");
    assert_eq!(version(&server, "r8"), "8-1");
    let counters = server.counters("the end of the old rules", |counters| counters["rules_deleted"] == count as i64);
    // One plugin context a thread, and its trial.
    assert_eq!(counters["roots_created"] - before["roots_created"], 2);
    assert_eq!(counters["roots_deleted"], 2);
    assert_eq!((counters["vms_built"], counters["vms_dropped"]), (before["vms_built"], 0));
    assert_eq!(counters["reload_unchanged"], count as i64 - 1);

    // A chain that a message swapped in is kept, too; and a module is a file like any other.
    server.write_text("f/7.yaml", &file("7-3"));
    message(&server, "reload 7.yaml", "1 loaded, 0 not, ");
    let lines = server.reload().expect("a good configuration loads");
    assert!(
        crate::support::summary(&lines).expect("a line").contains(&format!("{count} unchanged, 0 loaded")),
        "{lines:#?}"
    );
    assert_eq!(version(&server, "r7"), "7-3");
    let module = server.expand("{guest:headers}");
    fs::copy(&module, format!("{module}.new")).expect("the file is ours");
    fs::rename(format!("{module}.new"), &module).expect("the file is ours");
    let lines = server.reload().expect("a good configuration loads");
    assert!(
        crate::support::summary(&lines).expect("a line").contains(&format!("0 unchanged, {count} loaded")),
        "{lines:#?}"
    );
    wait_for_version(&server, "r8", "8-1");
}

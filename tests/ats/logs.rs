//! The log: which line says what of where, which lines are kept, how many there are, and what a trap's line tells.

use std::collections::BTreeSet;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Mark, Origin, Reply, Rule, TrafficServer, wait_until};

const PATIENCE: Duration = Duration::from_secs(20);

const SOURCE: &str = include_str!("../guests/c/lines.c");

/// The number of the guest's source line with this text.
fn source_line(text: &str) -> usize {
    1 + SOURCE.lines().position(|line| line.contains(text)).expect("the guest has such a line")
}

/// A server of one thread with a rule `NAME.test` for each of `filters`: a name, and what its file says besides.
fn builder(origin: &Origin, filters: &[(&str, &str)]) -> Builder {
    origin.route("/*", Reply::new(200).body("from the origin"));
    let mut builder = TrafficServer::builder()
        .origin(origin)
        .stats()
        .threads(1)
        .record("proxy.config.log.max_secs_per_buffer", 1)
        .record("proxy.config.log.periodic_tasks_interval", 1);
    for (name, more) in filters {
        let file = format!("{name}.yaml");
        let text = format!("filters:\n  - name: {name}\n    module: {{guest:c-lines}}\n    vm_id: {name}\n{more}");
        builder = builder.rule(Rule::new(&format!("{name}.test"), "http://{origin}/").wasm([file.as_str()]));
        builder = builder.file(&file, &text);
    }
    builder
}

fn start(origin: &Origin, filters: &[(&str, &str)]) -> TrafficServer {
    builder(origin, filters).start()
}

fn ask(client: &mut Client, name: &str, what: &str) -> u16 {
    client.request("GET", &format!("{name}.test"), "/x", &[("x-lines", what)], b"").status
}

/// The end of a line, by its keys.
fn place(line: &str) -> Vec<(&str, &str)> {
    let (_, tail) = line.rsplit_once(" | ").unwrap_or_else(|| panic!("no place in {line:?}"));
    let mut rest = tail;
    let mut found = Vec::new();
    while let Some((key, value)) = rest.split_once('=') {
        let (value, next) = match value.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').expect("a closing quote"),
            None => value.split_at(value.find(' ').unwrap_or(value.len())),
        };
        found.push((key, value));
        rest = next.trim_start();
    }
    found
}

fn keys(line: &str) -> Vec<&str> {
    place(line).into_iter().map(|(key, _)| key).collect()
}

#[track_caller]
fn value<'l>(line: &'l str, key: &str) -> &'l str {
    place(line).into_iter().find(|(found, _)| *found == key).unwrap_or_else(|| panic!("no {key} in {line:?}")).1
}

fn with<'l>(lines: &'l [String], pattern: &str) -> Vec<&'l String> {
    lines.iter().filter(|line| line.contains(pattern)).collect()
}

#[test]
fn a_line_says_rule_filter_thread_and_transaction() {
    let origin = Origin::start();
    let server = start(&origin, &[("one", ""), ("two", "")]);
    let told = server.wait_for_log("[one] #1 info: log level 2", PATIENCE);
    assert_eq!(keys(&told), ["filter", "thread"], "a plugin context belongs to no rule and no transaction: {told}");
    assert_eq!(value(&told, "filter"), "one");

    let mut client = Client::connect(server.port());
    let mut transactions = BTreeSet::new();
    for name in ["one", "one", "two"] {
        let mark = server.mark();
        assert_eq!(ask(&mut client, name, "levels"), 200);
        server.wait_for_log_since(mark, "critical: level 5", PATIENCE);
        let lines = server.lines_since(mark);
        let lines = with(&lines, &format!("[{name}] #"));
        assert_eq!(lines.len(), 4, "info and above: {lines:?}");
        for line in &lines {
            assert_eq!(keys(line), ["filter", "rule", "thread", "txn"], "{line}");
            assert_eq!((value(line, "filter"), value(line, "thread")), (name, "0"));
            assert!(value(line, "rule").starts_with(&format!("http://{name}.test/ -> http://127.0.0.1:")), "{line}");
        }
        let ids: BTreeSet<_> = lines.iter().map(|line| value(line, "txn").parse::<u64>().expect("a number")).collect();
        assert_eq!(ids.len(), 1, "one transaction, one number: {lines:?}");
        transactions.extend(ids);
    }
    assert_eq!(transactions.len(), 3, "and another one each");
}

#[test]
fn what_a_guest_writes_is_one_line_and_cannot_forge_a_place() {
    let origin = Origin::start();
    let server = start(&origin, &[("one", "")]);
    let mut client = Client::connect(server.port());
    assert_eq!(ask(&mut client, "one", "forge"), 200);
    let line = server.wait_for_log("forged", PATIENCE);
    assert!(line.contains("info: forged\\n[date] ERROR: all is lost \\u{1b}[31m| txn=1 | filter=one"), "{line}");
    let txn = value(&line, "txn");
    assert!(txn.parse::<u64>().is_ok() && keys(&line) == ["filter", "rule", "thread", "txn"], "{line}");
}

#[test]
fn a_filter_has_the_level_that_its_file_says() {
    let origin = Origin::start();
    let filters = [
        ("usual", ""),
        ("trace", "    log: {level: trace}\n"),
        ("warn", "    log: {level: warn}\n"),
        ("off", "    log: {level: off}\n"),
    ];
    let server = start(&origin, &filters);
    // What proxy_get_log_level answers; of the one that is off, nothing is seen.
    server.wait_for_log("[usual] #1 info: log level 2", PATIENCE);
    server.wait_for_log("[trace] #1 trace: log level 0", PATIENCE);
    server.wait_for_log("[warn] #1 warn: log level 3", PATIENCE);
    let mut client = Client::connect(server.port());
    for (name, least) in [("usual", 2), ("trace", 0), ("warn", 3), ("off", 6)] {
        let mark = server.mark();
        assert_eq!(ask(&mut client, name, "levels"), 200);
        // One that is told after it.
        assert_eq!(ask(&mut client, "usual", "forge"), 200);
        server.wait_for_log_since(mark, "forged", PATIENCE);
        let lines = server.lines_since(mark);
        let expected: Vec<_> = (least..6).map(|level| format!(": level {level} |")).collect();
        let found = with(&lines, &format!("[{name}] #"));
        let found: Vec<_> = found.into_iter().filter(|line| line.contains(": level ")).collect();
        assert_eq!(found.len(), expected.len(), "{name}: {found:?}");
        assert!(found.iter().zip(&expected).all(|(line, part)| line.contains(part)), "{name}: {found:?}");
    }
    assert!(!server.diags().contains("[off] #"), "nothing, not even while it starts");
}

#[test]
fn a_flood_is_held_to_its_limit_and_told_of() {
    const LINES: usize = 3_000;
    const LIMIT: usize = 50;
    let origin = Origin::start();
    let limited = format!("    limits: {{log_lines_per_second: {LIMIT}}}\n");
    let server = start(&origin, &[("flood", &limited), ("other", "")]);
    let mut client = Client::connect(server.port());
    let mark = server.mark();
    assert_eq!(ask(&mut client, "flood", &format!("flood {LINES}")), 200);
    // Another filter's lines are its own.
    assert_eq!(ask(&mut client, "other", "levels"), 200);
    let dropped = || -> usize {
        let lines = server.lines_since(mark);
        let summaries = with(&lines, "of filter 'flood' dropped in the last second (limits.log_lines_per_second: 50)");
        let count = |line: &&String| {
            let (head, _) = line.split_once(" lines of filter").or_else(|| line.split_once(" line of filter")).unwrap();
            head.rsplit(' ').next().unwrap().parse::<usize>().unwrap()
        };
        summaries.iter().map(count).sum()
    };
    let told = || with(&server.lines_since(mark), "[flood] #").len();
    wait_until(PATIENCE, "the whole account", || (told() + dropped() == LINES).then_some(()));
    let told = told();
    println!("{LINES} lines at once, {LIMIT} a second allowed: {told} told, {} dropped", dropped());
    // One request; a busy machine may have spread it over a few seconds.
    assert!((LIMIT..=LINES / 4).contains(&told), "{told} lines");
    let counters = server.counters("the metric", |counters| counters["log_lines_dropped"] as usize == LINES - told);
    assert_eq!(counters["log_lines_dropped"] as usize, LINES - told);
    let lines = server.lines_since(mark);
    assert_eq!(with(&lines, "[other] #").len(), 4, "{lines:?}");
}

#[test]
fn a_filter_has_a_log_file_of_its_own_that_is_rolled() {
    let origin = Origin::start();
    let own = "    log: {file: guests, rolling: {size_mib: 10}}\n    limits: {log_lines_per_second: 100000}\n";
    let server = builder(&origin, &[("one", own), ("two", own), ("diags", "")]).manager().start();
    let mut client = Client::connect(server.port());
    for name in ["one", "two", "diags"] {
        assert_eq!(ask(&mut client, name, "levels"), 200);
    }
    server.wait_for_log("[diags] #", PATIENCE);
    let file = || server.logs().read("guests.log");
    wait_until(PATIENCE, "both filters' lines", || {
        let text = file();
        (text.matches("[one] #").count() >= 5 && text.matches("[two] #").count() >= 5).then_some(())
    });
    let text = file();
    let line = text.lines().find(|line| line.contains("[two]") && line.contains("level 3")).expect("a warning");
    assert_eq!(keys(line), ["filter", "rule", "thread", "txn"], "{line}");
    assert!(!line.starts_with('['), "a time stands before it: {line}");
    assert!(!server.diags().contains("[one] #"), "and not in the diagnostics");

    // Through a reload, it stays the same file.
    server.reload().expect("nothing is wrong");
    assert_eq!(ask(&mut client, "one", "forge"), 200);
    wait_until(PATIENCE, "a line after the reload", || file().contains("forged").then_some(()));

    // More than it may have.
    let rolled = || {
        let files = std::fs::read_dir(server.logs().dir()).expect("the logs").filter_map(Result::ok);
        files.filter(|file| file.file_name().to_string_lossy().starts_with("guests.log_")).count()
    };
    assert_eq!(rolled(), 0);
    for _ in 0..40 {
        assert_eq!(ask(&mut client, "one", "large 50"), 200);
        std::thread::sleep(Duration::from_millis(20));
    }
    wait_until(PATIENCE, "an old file beside the new one", || (rolled() > 0).then_some(()));
    assert!(
        file().lines().all(|line| line.len() < 8 << 10 && line.contains(" | filter=")),
        "cut, and with their places"
    );
}

#[test]
fn a_trap_is_told_once_with_source_lines_and_then_counted() {
    const AGAIN: usize = 60;
    let origin = Origin::start();
    let server = start(&origin, &[("trap", "    breaker: off\n")]);
    let mut client = Client::connect(server.port());
    let mark = server.mark();
    let mut last = String::new();
    for _ in 0..=AGAIN {
        assert_eq!(ask(&mut client, "trap", "trap 2"), 503);
        // A VM that traps all the time is set aside.
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(ask(&mut client, "trap", "trap 3"), 503);
    let stack = |name: &str| {
        let line = |text: &str| source_line(text);
        let (inner, outer) =
            (line(&format!("__builtin_trap(); // {name}")), line(&format!("check_{name}(); // to {name}")));
        format!("in check_{name} (lines.c:{inner}) < authorize (lines.c:{outer}) < ")
    };
    let even = server.wait_for_log_since(mark, &stack("even"), PATIENCE);
    let odd = server.wait_for_log_since(mark, &stack("odd"), PATIENCE);
    for line in [&even, &odd] {
        assert!(line.contains(": filter 'trap': wasm trap: ") || line.contains(": filter 'trap': trap: "), "{line}");
        assert!(line.contains("failure_policy closed: the transaction is answered 503; in "), "{line}");
        assert_eq!(keys(line), ["filter", "rule", "thread", "txn", "trap"], "{line}");
    }
    assert_ne!(value(&even, "trap"), value(&odd, "trap"), "another place, another fingerprint");
    let id = value(&even, "trap").to_owned();
    let summary = server.wait_for_log_since(mark, &format!("trap {id} again: "), PATIENCE);
    assert!(summary.contains(&format!("trap {id} again: {AGAIN} times in the last 1")), "{summary}");
    assert!(summary.contains(" s (filter 'trap') | filter=trap rule="), "{summary}");
    last.push_str(value(&summary, "txn"));
    assert!(last.parse::<u64>().unwrap() > value(&even, "txn").parse::<u64>().unwrap(), "the last one's: {summary}");
    let lines = server.lines_since(mark);
    assert_eq!(with(&lines, "the transaction is answered 503").len(), 2, "each place once: {lines:?}");
}

/// What a client can bring about with each request is told once, too.
#[test]
fn a_storm_of_refusals_is_a_few_lines() {
    let origin = Origin::start();
    let server = start(&origin, &[("storm", "    failure_policy: open\n")]);
    let mut client = Client::connect(server.port());
    let mark = Mark::default();
    for _ in 0..600 {
        assert_eq!(ask(&mut client, "storm", "trap 2"), 200);
    }
    let counters = server.counters("the failures", |counters| counters["failures"] >= 600);
    let lines = server.lines_since(mark);
    let ours = with(&lines, "filter 'storm'").len();
    println!("{} failures, {} VMs lost: {ours} lines about them", counters["failures"], counters["traps"]);
    assert!((1..=20).contains(&ours), "{ours} lines");
}

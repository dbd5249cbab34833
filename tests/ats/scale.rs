//! Ten thousand rules on one module, each with a configuration of its own: what their start costs over that of bare ATS
//! with the same rules, what memory each takes, and that each does what its own file says.

use std::collections::BTreeMap;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Origin, Rule, TrafficServer};

const RULES: usize = 10_000;

/// Fewer of them, so that what the process needs in any case is left out of the difference.
const FEW: usize = 1_000;

/// How many rules, and what stands behind them.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bare,
    /// A file each.
    Distinct,
    /// One file for all of them.
    Equal,
}

fn file(name: &str) -> String {
    format!(
        "filters:\n  - name: headers\n    module: {{guest:headers}}\n    configuration:\n      response: {{set: {{x-rule: \"{name}\"}}}}\n"
    )
}

fn builder(origin: &Origin, rules: usize, kind: Kind) -> Builder {
    let mut builder =
        TrafficServer::builder().origin(origin).patience(Duration::from_secs(240)).file("all.yaml", &file("all"));
    if kind != Kind::Bare {
        builder = builder.stats();
    }
    let mut remap = String::new();
    for index in 0..rules {
        let rule = Rule::new(&format!("r{index}.test"), "http://{origin}/");
        let rule = match kind {
            Kind::Bare => rule,
            Kind::Equal => rule.wasm(["all.yaml"]),
            Kind::Distinct => {
                let name = format!("rules/{index}.yaml");
                builder = builder.file(&name, &file(&format!("r{index}")));
                rule.wasm([name])
            }
        };
        remap += &format!("{rule}\n");
    }
    builder.remap(&remap)
}

/// What one start cost.
#[derive(Debug)]
struct Cost {
    load: Duration,
    /// Of the processors, up to the moment that it serves.
    cpu: Duration,
    rss_kib: u64,
    guest_kib: u64,
    server: TrafficServer,
}

/// `contexts` plugin contexts are made in each VM.
fn start(builder: Builder, kind: Kind, contexts: usize) -> Cost {
    let server = builder.start();
    let cpu = server.cpu_time();
    let load = server.took("remap.config loading ...", "remap.config finished loading");
    // Statistics are exported once a second: those of a server that was still loading say too little of the guests.
    let made = |all: &BTreeMap<String, i64>| all["roots_created"] >= 2 * contexts as i64;
    let counters = if kind == Kind::Bare { BTreeMap::new() } else { server.counters("every plugin context", made) };
    let guest_kib = counters.get("vm_memory_bytes").map_or(0, |bytes| bytes / 1024) as u64;
    Cost { load, cpu, rss_kib: server.rss_kib(), guest_kib, server }
}

#[test]
fn ten_thousand_rules_start_within_two_seconds_and_two_kib_each() {
    let origin = Origin::start();
    let bare = start(builder(&origin, RULES, Kind::Bare), Kind::Bare, 0);
    let (bare_load, bare_cpu, bare_rss) = (bare.load, bare.cpu, bare.rss_kib);
    drop(bare);
    let few = start(builder(&origin, FEW, Kind::Bare), Kind::Bare, 0);
    let few_bare_rss = few.rss_kib;
    drop(few);
    let few = start(builder(&origin, FEW, Kind::Distinct), Kind::Distinct, FEW);
    let (few_rss, few_guest) = (few.rss_kib, few.guest_kib);
    drop(few);
    let equal = start(builder(&origin, RULES, Kind::Equal), Kind::Equal, 1);
    let (equal_load, equal_rss, equal_guest) = (equal.load, equal.rss_kib, equal.guest_kib);
    drop(equal);
    let all = start(builder(&origin, RULES, Kind::Distinct), Kind::Distinct, RULES);

    let rules = (RULES - FEW) as f64;
    let whole = all.rss_kib.saturating_sub(few_rss) as f64;
    let ats = bare_rss.saturating_sub(few_bare_rss) as f64;
    let guests = all.guest_kib.saturating_sub(few_guest) as f64;
    let ours = (whole - ats - guests) / rules;
    let over = all.load.saturating_sub(bare_load);
    println!(
        "{RULES} rules: bare {bare_load:.2?}, one configuration {equal_load:.2?}, distinct {:.2?}: {over:.2?} over bare\n\
         processor time until it serves: bare {bare_cpu:.2?}, distinct {:.2?}\n\
         memory a rule from {FEW} to {RULES}: {:.2} KiB in all, {:.2} bare ATS's, {:.2} the guests', {ours:.2} ours (with what \
         ATS keeps of a plugin's instance)\n\
         resident: bare {bare_rss} KiB, one configuration {equal_rss} KiB ({equal_guest} guests'), distinct {} KiB ({} guests')",
        all.load,
        all.cpu,
        whole / rules,
        ats / rules,
        guests / rules,
        all.rss_kib,
        all.guest_kib,
    );

    let counters = all.server.counters("every plugin context", |all| all["roots_created"] >= 2 * RULES as i64);
    assert_eq!(
        (counters["roots_created"], counters["vms_built"]),
        (2 * RULES as i64, 2),
        "one VM a thread, one context a rule in each"
    );
    assert!(counters.len() < 100, "statistics of ATS do not grow with rules: {}", counters.len());
    let mut client = Client::connect(all.server.port());
    for index in [0, 1, 4_999, RULES - 1] {
        let response = client.get(&format!("r{index}.test"), "/");
        assert_eq!(response.header("x-rule"), Some(format!("r{index}")));
    }
    assert!(ours <= 2.0, "{ours:.2} KiB a rule");
    // The clock on the wall says little on a machine that has other things to do; where it has none, the start takes less
    // time than processors', since modules are compiled on several.
    let over = all.cpu.saturating_sub(bare_cpu);
    assert!(over <= Duration::from_secs(2), "{over:.2?} of processor time over bare ATS");
}

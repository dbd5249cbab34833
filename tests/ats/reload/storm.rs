//! Reloads without end, while wrk asks as fast as it can: no response fails, none is of two configurations, and nothing is
//! left behind.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::load::{Report, Wrk};
use wasm_remap_tests::{Builder, Mark, Origin, TrafficServer};

use crate::support::{PATIENCE, rules, stamp, version};
use crate::watching::another_module;

/// How many reloads there are; `WASM_REMAP_STORM` says another number.
const RELOADS: u32 = 60;

/// So many of them are ATS's own, which take seconds each.
const OF_ATS: u32 = 5;

/// What memory may grow by in the second half. Each reload that left behind a plugin context, a chain or a VM would cost
/// more.
const GROWTH_KIB: u64 = 2_048;

/// Counts responses that failed, and those of which the two filters, or the two sides, are not of one version. The
/// origin echoes the request's head, so the body says what it was asked under.
const SCRIPT: &str = r#"
local threads = {}
setup = function(thread) table.insert(threads, thread) end
init = function() total, failed, mixed = 0, 0, 0 end
response = function(status, headers, body)
    total = total + 1
    if status ~= 200 then failed = failed + 1 return end
    local to_a, to_b
    for name, value in pairs(headers) do
        local name = string.lower(name)
        if name == "x-to-a" then to_a = value end
        if name == "x-to-b" then to_b = value end
    end
    local at_a = string.match(body, "[Xx]%-at%-a: ([%w%-]+)")
    local at_b = string.match(body, "[Xx]%-at%-b: ([%w%-]+)")
    if not to_a or to_a ~= to_b or to_a ~= at_a or to_a ~= at_b then mixed = mixed + 1 end
end
done = function()
    local sums = {total = 0, failed = 0, mixed = 0}
    for _, thread in ipairs(threads) do
        for name, sum in pairs(sums) do sums[name] = sum + thread:get(name) end
    end
    print(string.format("counted %d failed %d mixed %d", sums.total, sums.failed, sums.mixed))
end
"#;

/// What a reload meets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Weather {
    /// Another configuration.
    Changed,
    /// The same module under another digest, and so other VMs.
    Module,
    /// A file that is no YAML.
    BadYaml,
    /// A module that is none.
    BadModule,
    /// A filter that traps in its configuration, beside one in use.
    Trap,
}

const TURNS: [Weather; 8] = [
    Weather::Changed,
    Weather::BadYaml,
    Weather::Module,
    Weather::BadModule,
    Weather::Changed,
    Weather::Trap,
    Weather::Changed,
    Weather::Module,
];

fn chain(version: u32, module: &str, more: &str) -> String {
    let stamps = ["a", "b"].map(|name| stamp(name, module, &format!("v-{version}")));
    format!("watch: true\nfilters:\n{}{more}", stamps.concat())
}

fn start(origin: &Origin) -> TrafficServer {
    let file = |builder: Builder, n: u8| builder.file_bytes(&format!("module-{n}.wasm"), another_module(n));
    let builder = (0..4).fold(rules(origin, &["storm"]), file);
    builder.file("not.wasm", "no module").file("storm.yaml", &chain(0, "module-0.wasm", "")).manager().stats().start()
}

/// The way by which a reload is asked for.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Watched,
    Message,
    Ats,
}

struct Storm<'a> {
    server: &'a TrafficServer,
    /// What serves.
    version: u32,
    module: u8,
    refused: i64,
    loaded: i64,
}

impl Storm<'_> {
    fn reload(&mut self, turn: u32, way: Way) {
        let weather = TURNS[turn as usize % TURNS.len()];
        let (version, module) = (turn + 1, format!("module-{}.wasm", self.module));
        let text = match weather {
            Weather::Changed => chain(version, &module, ""),
            Weather::Module => {
                self.module = (self.module + 1) % 4;
                chain(version, &format!("module-{}.wasm", self.module), "")
            }
            Weather::BadYaml => chain(version, &module, "  - name: [unfinished\n"),
            Weather::BadModule => chain(version, &module, "  - name: bad\n    module: not.wasm\n"),
            Weather::Trap => {
                let trap = "  - name: trap\n    module: {guest:trap}\n    configuration: {at: on_configure}\n";
                chain(version, &module, trap)
            }
        };
        let mark = self.server.mark();
        self.server.write_text("storm.yaml", &text);
        let good = matches!(weather, Weather::Changed | Weather::Module);
        match way {
            Way::Watched => {}
            Way::Message => _ = self.server.traffic_ctl(&["plugin", "msg", "wasm_remap", "reload"]),
            // Files that are watched are loaded by themselves; ATS then finds what there is to find.
            Way::Ats => assert_eq!(self.server.reload().is_ok(), good, "{weather:?}"),
        }
        if good {
            self.version = version;
            self.loaded += 1;
            let expected = format!("v-{version}");
            wasm_remap_tests::wait_until(PATIENCE, "the new version", || {
                (crate::support::version(self.server, "storm") == expected).then_some(())
            });
        } else {
            self.refused += 1;
            let why = self.reason(mark, weather);
            assert_eq!(crate::support::version(self.server, "storm"), format!("v-{}", self.version), "after {why}");
        }
    }

    fn reason(&self, mark: Mark, weather: Weather) -> String {
        let says = match weather {
            Weather::BadYaml => "storm.yaml:",
            Weather::BadModule => "not.wasm: not a WebAssembly module",
            _ => "in proxy_on_configure",
        };
        let line = self.server.wait_for_log_since(mark, "it goes on with the chain that it has", PATIENCE);
        assert!(
            line.contains("ERROR: ") && line.contains("rule http://storm.test/ -> ") && line.contains(says),
            "{line}"
        );
        line
    }
}

fn wrk(server: &TrafficServer, stop: &AtomicBool, counted: &AtomicU64) -> Vec<Report> {
    let mut reports = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let report =
            Wrk::new(server.port(), "storm.test", "/").connections(16).duration(Duration::from_secs(3)).script(SCRIPT);
        let report = report.run();
        counted.fetch_add(report.requests, Ordering::Relaxed);
        reports.push(report);
    }
    reports
}

/// Ends the load, also when a reload fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_reload_under_load_fails_or_mixes_a_request() {
    let reloads = env::var("WASM_REMAP_STORM").map_or(RELOADS, |text| text.parse().expect("a number"));
    let origin = Origin::start();
    origin.discard();
    let server = start(&origin);
    assert_eq!(version(&server, "storm"), "v-0");
    let (stop, counted) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = Instant::now();
    let mut memory = Vec::new();
    let (reports, refused, loaded) = thread::scope(|scope| {
        let load = scope.spawn(|| wrk(&server, &stop, &counted));
        let ending = Ending(&stop);
        let mut storm = Storm { server: &server, version: 0, module: 0, refused: 0, loaded: 0 };
        let every = reloads / OF_ATS;
        for turn in 0..reloads {
            // Every other way in its turn; those of ATS begin with what is bad, which a first half of nothing but good ones
            // would not meet.
            let way = match turn {
                turn if turn % every == every / 2 => Way::Ats,
                turn if turn % 5 == 3 => Way::Message,
                _ => Way::Watched,
            };
            storm.reload(turn, way);
            memory.push(server.rss_kib());
        }
        drop(ending);
        (load.join().expect("wrk ran"), storm.refused, storm.loaded)
    });
    let took = begin.elapsed();

    // Every response is wholly of one configuration.
    let (mut requests, mut checked) = (0, 0);
    for report in &reports {
        assert_eq!(report.errors.total(), 0, "{}", report.text);
        let line = report.text.lines().find_map(|line| line.strip_prefix("counted ")).expect("the script counts");
        let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        assert_eq!((numbers[1], numbers[2]), (0, 0), "{line}");
        requests += report.requests;
        checked += numbers[0];
    }
    assert!(
        requests > 10 * u64::from(reloads) && checked.abs_diff(requests) <= 64 * reports.len() as u64,
        "{checked} of {requests}"
    );

    // Nothing is left: two plugin contexts of the one chain, on two threads each.
    let counters = server.counters("the end of everything that was replaced", |counters| {
        counters["chains_retired"] == 0
            && counters["streams_created"] == counters["streams_deleted"]
            && counters["roots_created"] - counters["roots_deleted"] == 4
            && counters["vms_built"] - counters["vms_dropped"] == 2
    });
    // What traps while it is configured does so in VMs that nobody uses yet: as often as such a file was there.
    assert!(counters["traps"] <= refused && counters["panics"] == 0, "{counters:#?}");
    assert!(counters["reload_loaded"] >= loaded && counters["reload_failures"] >= refused, "{counters:#?}");
    let half = memory.len() / 2;
    // Of each part, the least: ATS's own buffers come and go.
    let quarter = (memory.len() / 4).max(1);
    let least = |part: &[u64]| *part.iter().min().expect("there are some");
    let (middle, end) = (least(&memory[half..half + quarter]), least(&memory[memory.len() - quarter..]));
    println!(
        "{reloads} reloads in {took:.0?} ({loaded} swapped, {refused} refused, {OF_ATS} of them ATS's), {requests} requests, \
         none failed, none mixed; {} VMs and {} plugin contexts built; memory in KiB after 1, half, all: {}, {}, {}; \
         at least in the third and in the last quarter: {middle}, {end}",
        counters["vms_built"],
        counters["roots_created"],
        memory[0],
        memory[half],
        memory[memory.len() - 1],
    );
    assert!(end <= middle + GROWTH_KIB, "memory grows: {memory:?}");
}

//! A long mixed load: no error that was not asked for, memory that stays where it is, and nothing left over.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use wasm_remap_tests::load::Wrk;
use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer};

/// How many requests there are at least, those that are reset not counted. `WASM_REMAP_SOAK` says another number.
const REQUESTS: u64 = 200_000;

/// Memory is flat if it grows by less than [`GROWTH`] KiB in so many requests at the end: a leak of six bytes a request
/// is seen. ATS takes memory for its buffers by the megabyte whenever more of them are in use than ever before, so
/// the load goes on until there is such a stretch, to five times its length at most. A leak lets there be none.
const STRETCH: u64 = 100_000;
const GROWTH: u64 = 512;

const HEADERS: &str = r#"
filters:
  - name: headers
    module: {guest:headers}
    configuration:
      request: {set: {x-from: soak}, remove: [user-agent]}
      response: {set: {x-rule: soak}, add: {x-many: [one, two]}, remove: [x-secret]}
"#;

const GUARDED: &str = r#"
filters:
  - name: api-key
    module: {guest:api-key}
    configuration: {keys: {sesame: alice}}
"#;

/// Each its own path: of several misses of one path at a time, ATS lets one go to the origin and the others wait.
const MISSES: &str = r#"
local n = 0
request = function()
    n = n + 1
    return wrk.format("GET", "/miss/" .. n)
end
"#;

/// What a round of load came to.
#[derive(Default)]
struct Round {
    hits: u64,
    misses: u64,
    refused: u64,
    reset: u64,
}

fn round(server: &TrafficServer, seconds: u64) -> Round {
    let stop = AtomicBool::new(false);
    let reset = AtomicU64::new(0);
    let wrk = |path: &str, connections: u32| {
        Wrk::new(server.port(), "soak.test", path).connections(connections).duration(Duration::from_secs(seconds))
    };
    thread::scope(|scope| {
        let hits = scope.spawn(|| wrk("/hit", 8).header("X-Api-Key", "sesame").run());
        let misses = scope.spawn(|| wrk("/", 8).header("X-Api-Key", "sesame").script(MISSES).run());
        let refused = scope.spawn(|| wrk("/hit", 4).run());
        scope.spawn(|| {
            for turn in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut client = Client::connect(server.port());
                let (path, key) =
                    (["/hit", "/miss/0", "/slow", "/large"][turn as usize % 4], [("X-Api-Key", "sesame")]);
                client.send_request("GET", "soak.test", path, &key, b"");
                if turn % 3 == 0 {
                    // In the middle of the response, where there is one.
                    let _ = client.connection();
                    thread::sleep(Duration::from_millis(1));
                }
                client.abort();
                reset.fetch_add(1, Ordering::Relaxed);
            }
        });
        let join =
            |handle: thread::ScopedJoinHandle<'_, wasm_remap_tests::load::Report>| handle.join().expect("wrk ran");
        let (hits, misses, refused) = (join(hits), join(misses), join(refused));
        stop.store(true, Ordering::Relaxed);
        for (what, report) in [("hits", &hits), ("misses", &misses)] {
            assert_eq!(report.errors.total(), 0, "{what}:\n{}", report.text);
        }
        let errors = refused.errors;
        assert_eq!(errors.total(), errors.status, "no error but those of status:\n{}", refused.text);
        // wrk counts a response that has begun when its time is up, and not its status, or the other way round.
        assert!(errors.status.abs_diff(refused.requests) <= 4, "every one is a refusal:\n{}", refused.text);
        Round { hits: hits.requests, misses: misses.requests, refused: refused.requests, reset: 0 }
    })
    .with_reset(reset.into_inner())
}

impl Round {
    fn with_reset(self, reset: u64) -> Round {
        Round { reset, ..self }
    }

    fn answered(&self) -> u64 {
        self.hits + self.misses + self.refused
    }
}

#[test]
fn two_hundred_thousand_requests_leave_nothing_behind() {
    let origin = Origin::start();
    origin.discard();
    origin.route("/hit", Reply::new(200).cacheable(3600).header("X-Secret", "s").body("cached"));
    origin.route("/miss/*", Reply::new(200).header("X-Secret", "s").body("not cached"));
    origin.route("/slow", Reply::new(200).body("late").delay(Duration::from_millis(20)));
    origin.route("/large", Reply::new(200).generated(4, 300_000));
    let server = TrafficServer::builder()
        .origin(&origin)
        .manager()
        .stats()
        .rule(Rule::new("soak.test", "http://{origin}/").wasm(["headers.yaml", "guarded.yaml"]))
        .file("headers.yaml", HEADERS)
        .file("guarded.yaml", GUARDED)
        .start();
    let wanted =
        env::var("WASM_REMAP_SOAK").map_or(REQUESTS, |text| text.parse().expect("WASM_REMAP_SOAK is a number"));
    let begin = Instant::now();
    let mut total = Round::default();
    let mut memory: Vec<(u64, u64)> = Vec::new();
    let mut flat = None;
    while total.answered() < wanted || flat.is_none() {
        assert!(total.answered() < 5 * wanted, "memory grows, in KiB by requests: {memory:?}");
        let part = round(&server, 3);
        assert!(part.answered() > 1000, "{} requests in three seconds", part.answered());
        total = Round {
            hits: total.hits + part.hits,
            misses: total.misses + part.misses,
            refused: total.refused + part.refused,
            reset: total.reset + part.reset,
        };
        let now = server.rss_kib();
        let before = memory.iter().rfind(|(requests, _)| requests + STRETCH <= total.answered());
        flat = before.map(|(_, before)| now.saturating_sub(*before)).filter(|growth| *growth < GROWTH);
        memory.push((total.answered(), now));
    }
    let time = begin.elapsed();

    // A wrong answer would be worse than none.
    let mut client = Client::connect(server.port());
    let response = client.request("GET", "soak.test", "/hit", &[("X-Api-Key", "sesame")], b"");
    assert_eq!((response.status, response.text().as_str()), (200, "cached"));
    assert_eq!(response.headers.all("x-many"), ["one", "two"]);
    assert_eq!(client.get("soak.test", "/hit").status, 401);

    let sent = i64::try_from(total.answered()).expect("a number of requests");
    let counters = server.counters("the ends of all contexts", |counters| {
        counters["transactions"] >= sent && counters["streams_created"] == counters["streams_deleted"]
    });
    println!(
        "{} requests in {time:.0?} ({} hits, {} misses, {} refused) and {} reset: memory {} KiB after the first {} requests, {} at the end, {} more than {STRETCH} requests before",
        total.answered(),
        total.hits,
        total.misses,
        total.refused,
        total.reset,
        memory[0].1,
        memory[0].0,
        memory[memory.len() - 1].1,
        flat.unwrap_or_default()
    );
    println!(
        "{} transactions, {} contexts created and deleted, {} VMs built, {} traps, {} panics",
        counters["transactions"],
        counters["streams_created"],
        counters["vms_built"],
        counters["traps"],
        counters["panics"]
    );
    assert_eq!((counters["traps"], counters["panics"], counters["vms_dropped"]), (0, 0, 0));
    assert_eq!((counters["vms_built"], counters["roots_created"]), (4, 4), "two modules on two threads");

    // Without the rule, nothing of it is left.
    server.rewrite_remap("map http://plain.test/ http://{origin}/");
    server.reload().expect("the new configuration loads");
    let counters = server.counters("the end of everything that the rule had", |counters| {
        counters["rules_deleted"] == counters["rules_created"]
            && counters["roots_deleted"] == counters["roots_created"]
            && counters["vms_dropped"] == counters["vms_built"]
    });
    assert_eq!((counters["rules_deleted"], counters["roots_deleted"], counters["vms_dropped"]), (1, 4, 4));
}

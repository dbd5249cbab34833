//! Scale: what rules, modules and event threads cost at the start, in memory, at a reload, and for a request.
//!
//! Each figure of a start is the difference of two servers that were started one after the other: one with so many rules
//! that all have the plugin, and one with as many rules and no plugin. Compiled code comes from a cache that all servers
//! share, filled before. Memory is what the kernel says a server has at the moment that it serves: resident, and page tables.

mod report;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;
use wasm_remap_tests::harness::process;
use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer, artifacts};

use crate::machine::{self, Machine};

pub(crate) use report::{check, draw, markdown};

/// How many rules, with one module and two threads.
const RULES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// How many modules, with [`SOME`] rules.
const MODULES: [usize; 3] = [1, 5, 20];
/// How many event threads, with [`SOME`] rules and one module.
const THREADS: [u32; 4] = [1, 2, 4, 8];
/// Rules where others are counted than rules.
const SOME: usize = 1_000;
/// Rules, and VM keys, where one more VM is to be weighed.
const KEYS: usize = 100;
/// Rules of a server that is reloaded.
const RELOADED: [usize; 2] = [1_000, 10_000];
/// Requests of one kind in a round.
const REQUESTS: usize = 10_000;
/// Rounds of requests beyond those of starts, which take longer.
const TURNS: usize = 2;

/// What one start cost.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Start {
    /// Processor time until it serves.
    cpu_ms: f64,
    /// By the clock, until remap.config is loaded.
    wall_ms: f64,
    /// Resident, and page tables.
    kib: f64,
}

/// A start with the plugin, and one without.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Pair {
    bare: Start,
    ours: Start,
}

impl Pair {
    /// What there is beyond no plugin.
    fn beyond(&self, figure: impl Fn(&Start) -> f64) -> f64 {
        figure(&self.ours) - figure(&self.bare)
    }
}

/// One round of starts.
#[derive(Debug, Clone, PartialEq, Default)]
struct Round {
    /// By [`RULES`].
    rules: Vec<Pair>,
    /// By [`MODULES`].
    modules: Vec<Pair>,
    /// By [`THREADS`].
    threads: Vec<Pair>,
    /// By [`THREADS`]: [`KEYS`] rules with one VM key, and with a key each, which is a VM a thread and rule.
    keys: Vec<[Start; 2]>,
}

/// One server that is reloaded, with all rules as they were and then with another file for each.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Reload {
    rules: usize,
    unchanged_ms: f64,
    changed_ms: f64,
    /// Before, behind the first, behind the second.
    kib: [f64; 3],
}

/// Microseconds of processor time a request.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Requests {
    /// Of the server with one rule.
    one: f64,
    /// Of the last of the greatest number of rules.
    last: f64,
    /// Of all of them in turn.
    all: f64,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    rounds: Vec<Round>,
    /// Processor time of a first start with the most modules, which compiles them, beyond one that finds their code.
    compile_ms: f64,
    reloads: Vec<Reload>,
    /// Without the plugin, and with it.
    requests: Vec<[Requests; 2]>,
}

/// What a server is to have.
#[derive(Clone, Copy)]
struct Wanted {
    rules: usize,
    /// Zero is no plugin.
    modules: usize,
    threads: u32,
    keys: usize,
    /// The least filter of the Rust SDK, instead of one that reads a configuration.
    least: bool,
}

impl Wanted {
    fn rules(rules: usize) -> Self {
        Wanted { rules, modules: 1, threads: 2, keys: 1, least: false }
    }

    fn bare(self) -> Self {
        Wanted { modules: 0, ..self }
    }
}

/// A server whose VMs are weighed.
fn least(threads: u32) -> Wanted {
    Wanted { threads, least: true, ..Wanted::rules(KEYS) }
}

/// What outlives servers: the modules, and their code.
struct Bench {
    dir: TempDir,
    origin: Origin,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::Builder::new().prefix("wasm-remap-scale-").tempdir_in("/tmp").expect("a directory");
        // ATS's user makes the cache in it.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).expect("the directory is ours");
        let put = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write(&path, bytes).expect("the directory is ours");
            fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("the file is ours");
        };
        let guest = |name| fs::read(artifacts::guest(name)).expect("the guest is built");
        put("least.wasm", &guest("bench-headers"));
        let module = guest("headers");
        for number in 0..*MODULES.last().expect("some") {
            // A section without meaning makes it another module with the same code.
            let name = format!("copy-{number:03}");
            let mut copy = module.clone();
            copy.extend([0, name.len() as u8 + 1, name.len() as u8]);
            copy.extend(name.as_bytes());
            put(&format!("{number}.wasm"), &copy);
        }
        let origin = Origin::start();
        origin.discard();
        origin.route("/*", Reply::new(200).cacheable(3600).body([b'x'; 100]));
        Bench { dir, origin }
    }

    /// The filter file of a rule; `text` is what it sets.
    fn file(&self, wanted: Wanted, rule: usize, text: &str) -> String {
        let (dir, key) = (self.dir.path().display(), rule % wanted.keys);
        let module = if wanted.least { "least".to_owned() } else { (rule % wanted.modules).to_string() };
        let configuration = if wanted.least {
            String::new()
        } else {
            format!("    configuration: {{response: {{set: {{x-rule: {text}}}}}}}\n")
        };
        format!(
            "code_cache: {{directory: '{dir}/code'}}\nfilters:\n  - name: headers\n    module: '{dir}/{module}.wasm'\n    \
             body: none\n    vm_id: 'k{key}'\n{configuration}"
        )
    }

    fn start(&self, wanted: Wanted, manager: bool) -> (TrafficServer, Start) {
        let mut builder = TrafficServer::builder()
            .origin(&self.origin)
            .threads(wanted.threads)
            .patience(Duration::from_secs(240))
            .record("proxy.config.log.logging_enabled", 0);
        if manager {
            builder = builder.manager();
        }
        let mut remap = String::new();
        for number in 0..wanted.rules {
            let mut rule = Rule::new(&format!("r{number}.test"), "http://{origin}/");
            if wanted.modules > 0 {
                let name = format!("rules/{number}.yaml");
                builder = builder.file(&name, &self.file(wanted, number, &format!("r{number}")));
                rule = rule.wasm([name]);
            }
            remap += &format!("{rule}\n");
        }
        let server = builder.remap(&remap).start();
        let start = Start {
            cpu_ms: milliseconds(machine::cpu_time(&server)),
            wall_ms: milliseconds(server.took("remap.config loading ...", "remap.config finished loading")),
            kib: kib(&server),
        };
        (server, start)
    }

    fn cost(&self, wanted: Wanted) -> Start {
        self.start(wanted, false).1
    }

    fn pair(&self, wanted: Wanted) -> Pair {
        Pair { bare: self.cost(wanted.bare()), ours: self.cost(wanted) }
    }

    fn round(&self) -> Round {
        let mut round = Round {
            rules: RULES.iter().map(|&rules| self.pair(Wanted::rules(rules))).collect(),
            modules: MODULES.iter().map(|&modules| self.pair(Wanted { modules, ..Wanted::rules(SOME) })).collect(),
            ..Round::default()
        };
        for threads in THREADS {
            let wanted = Wanted { threads, ..Wanted::rules(SOME) };
            round.threads.push(self.pair(wanted));
            round.keys.push([1, KEYS].map(|keys| self.cost(Wanted { keys, ..least(threads) })));
        }
        round
    }

    fn reload(&self, rules: usize) -> Reload {
        let wanted = Wanted::rules(rules);
        let (server, _) = self.start(wanted, true);
        let mut memory = vec![kib(&server)];
        let mut reload = |unchanged: usize| {
            let lines = server.reload().unwrap_or_else(|lines| panic!("the reload failed:\n{}", lines.join("\n")));
            let told = format!("reload: {rules} rules, {unchanged} unchanged, {} loaded, ", rules - unchanged);
            // What is told is told before ATS says that it is done.
            let took = lines.iter().find_map(|line| line.split_once(&told)?.1.split(' ').next()?.parse::<f64>().ok());
            memory.push(kib(&server));
            took.unwrap_or_else(|| panic!("no line says {told:?}:\n{}", lines.join("\n"))) * 1000.0
        };
        let unchanged_ms = reload(rules);
        for rule in 0..rules {
            server.write_text(&format!("rules/{rule}.yaml"), &self.file(wanted, rule, &format!("s{rule}")));
        }
        let changed_ms = reload(0);
        let answer = Client::connect(server.port()).get(&format!("r{}.test", rules - 1), "/");
        assert_eq!(answer.header("x-rule"), Some(format!("s{}", rules - 1)), "the changed file is in force");
        Reload { rules, unchanged_ms, changed_ms, kib: [memory[0], memory[1], memory[2]] }
    }

    fn requests(&self, turns: usize, machine: &Machine) -> Vec<[Requests; 2]> {
        let most = *RULES.last().expect("some");
        let wanted = |rules| Wanted { threads: 1, ..Wanted::rules(rules) };
        let start = |wanted: Wanted| {
            let server = self.start(wanted, false).0;
            if machine.pins() {
                machine::pin_server(&server);
            }
            server
        };
        let servers = [wanted(1).bare(), wanted(most).bare(), wanted(1), wanted(most)].map(start);
        let turn = || {
            let [bare, ours] = [0, 2].map(|at| {
                let (few, many, ours) = (&servers[at], &servers[at + 1], at > 0);
                Requests {
                    one: ask(few, ours, |_| 0),
                    last: ask(many, ours, |_| most - 1),
                    // Far apart, so that neighbours in memory are no neighbours in time.
                    all: ask(many, ours, |count| count * 7 % most),
                }
            });
            [bare, ours]
        };
        // Fills the caches.
        turn();
        (0..turns).map(|_| turn()).collect()
    }
}

/// Microseconds of processor time for each of [`REQUESTS`] requests; `rule` says to which rule the next one goes.
fn ask(server: &TrafficServer, ours: bool, rule: impl Fn(usize) -> usize) -> f64 {
    let mut client = Client::connect(server.port());
    let hosts: Vec<_> = (0..REQUESTS).map(|count| (rule(count), format!("r{}.test", rule(count)))).collect();
    let before = machine::cpu_time(server);
    for (count, (rule, host)) in hosts.iter().enumerate() {
        let response = client.get(host, "/");
        if count % 100 == 0 {
            assert_eq!(response.status, 200);
            assert_eq!(response.header("x-rule"), ours.then(|| format!("r{rule}")), "{host}");
        }
    }
    (machine::cpu_time(server) - before).as_secs_f64() * 1e6 / REQUESTS as f64
}

fn kib(server: &TrafficServer) -> f64 {
    let of = |key| process::status(server.pid(), key).unwrap_or_else(|| panic!("the server is gone: no {key}"));
    (of("VmRSS") + of("VmPTE")) as f64
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Measures so many rounds of starts.
pub(crate) fn run(rounds: usize, machine: &Machine) -> Measured {
    let bench = Bench::new();
    let most = Wanted { modules: *MODULES.last().expect("some"), ..Wanted::rules(SOME) };
    let first = bench.cost(most);
    let compile_ms = first.cpu_ms - bench.cost(most).cpu_ms;
    // Puts its code into the cache.
    bench.cost(least(1));
    let rounds_done = (0..rounds)
        .map(|number| {
            let round = bench.round();
            let figures =
                round.rules.iter().map(|pair| (pair.beyond(|start| start.cpu_ms), pair.beyond(|start| start.kib)));
            eprintln!("scale, round {}/{rounds}, ms and KiB by rules: {:.0?}", number + 1, figures.collect::<Vec<_>>());
            round
        })
        .collect();
    let reloads = RELOADED.iter().map(|&rules| bench.reload(rules)).collect();
    eprintln!("scale, reloads: {reloads:.0?}");
    let requests = bench.requests(rounds + TURNS, machine);
    Measured { rounds: rounds_done, compile_ms, reloads, requests }
}

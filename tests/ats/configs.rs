//! Every file under configs/ is loaded, as it stands, by the real server, and does what its comments say.
//!
//! The only thing that is put in place of another is the origin's address.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use wasm_remap_tests::harness::ports::Lease;
use wasm_remap_tests::harness::server::Builder;
use wasm_remap_tests::{Client, Origin, RecordValue, Reply, Request, Response, TrafficServer, artifacts};

const KEY: (&str, &str) = ("x-api-key", "k-4f9d2c71a0");
/// The origin of the example rules.
const ORIGIN: &str = "127.0.0.1:8000";
/// Whom filters call in the example files; in its place, the origin is called.
const CALLED: [&str; 2] = ["127.0.0.1:9000", "127.0.0.1:9200"];

fn read(path: &str) -> String {
    fs::read_to_string(artifacts::repository(path)).expect("a readable file")
}

/// The files directly in a folder of the repository.
fn files(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(artifacts::repository(folder)).expect("a readable folder");
    let files = entries.map(|entry| entry.expect("a readable folder")).filter(|entry| entry.path().is_file());
    files.map(|entry| entry.file_name().into_string().expect("a readable name")).collect()
}

/// The modules that the filter files name stand beside them.
fn with_modules(mut builder: Builder) -> Builder {
    for guest in ["headers", "api-key", "rate-limit", "ext-auth", "log-shipper"] {
        let module = fs::read(artifacts::guest(guest)).expect("the guest is readable");
        builder = builder.file_bytes(&format!("filters/{guest}.wasm"), module);
    }
    builder
}

/// A file of configs/filters.
fn filter_file(file: &str, origin: &Origin) -> String {
    let text = read(&format!("configs/filters/{file}"));
    CALLED.iter().fold(text, |text, called| text.replace(called, &origin.address()))
}

/// The example rules and every filter file in configs/filters.
fn example(origin: &Origin) -> Builder {
    let rules = read("configs/remap.config").replace(ORIGIN, &origin.address());
    let mut builder = TrafficServer::builder().origin(origin).remap(&rules);
    for file in files("configs/filters") {
        assert!(rules.contains(&format!("@pparam=filters/{file}")), "no rule of configs/remap.config uses {file}");
        let text = filter_file(&file, origin);
        builder = builder.file_bytes(&format!("filters/{file}"), text);
    }
    with_modules(builder)
}

/// The lines of a snippet of records.config: name, type and value.
fn records(path: &str) -> Vec<(String, RecordValue, String)> {
    let text = read(path);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let records: Vec<_> = lines
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [_, name, kind, value] = words[..] else { panic!("{path}: {line}") };
            let record = match kind {
                "INT" => RecordValue::Int(value.parse().expect("a whole number")),
                "FLOAT" => RecordValue::Float(value.parse().expect("a number")),
                "STRING" => RecordValue::Text(value.to_owned()),
                _ => panic!("{path}: {line}"),
            };
            (name.to_owned(), record, value.to_owned())
        })
        .collect();
    assert!(!records.is_empty(), "{path} sets nothing");
    records
}

fn with_records(mut builder: Builder, path: &str) -> Builder {
    for (name, value, _) in records(path) {
        builder = builder.record(&name, value);
    }
    builder
}

fn get(server: &TrafficServer, host: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    Client::connect(server.port()).request("GET", host, path, fields, b"")
}

fn origin() -> Origin {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200).header("X-Powered-By", "php").body("x\n"));
    origin.route("/verify", |request: &Request| match request.header("authorization").as_deref() {
        Some("Bearer t") => Reply::new(200).header("x-user", "alice"),
        _ => Reply::new(401),
    });
    origin.route("/ingest", Reply::new(204));
    origin
}

#[test]
fn the_example_rules_do_what_their_comments_say() {
    let origin = origin();
    let server = example(&origin).start();

    let one = get(&server, "www.example.com", "/x", &[("x-debug", "1")]);
    assert_eq!((one.status, one.header("x-served-by").as_deref()), (200, Some("www")));
    assert_eq!(one.header("x-powered-by"), None);
    assert_eq!(origin.last().header("x-from").as_deref(), Some("www"));
    assert_eq!(origin.last().header("x-debug"), None);

    let refused = get(&server, "shop.example.com", "/x", &[]);
    assert_eq!((refused.status, refused.header("x-served-by").as_deref()), (401, Some("shop")));
    let passed = get(&server, "shop.example.com", "/x?api_key=k-b83e55f61d", &[]);
    assert_eq!((passed.status, passed.header("x-served-by").as_deref()), (200, Some("shop")));
    assert_eq!(origin.last().header("x-api-client").as_deref(), Some("bob"));
    assert_eq!(origin.last().target, "/x");

    // Two files: the first one's filter comes first.
    let refused = get(&server, "api.example.com", "/x", &[]);
    assert_eq!((refused.status, refused.header("x-served-by").as_deref()), (401, Some("www")));
    assert_eq!(get(&server, "api.example.com", "/health", &[]).status, 200);
    assert_eq!(get(&server, "api.example.com", "/x", &[KEY]).status, 200);
    assert_eq!(origin.last().header("x-api-client").as_deref(), Some("alice"));

    for left in ["19", "18"] {
        let limited = get(&server, "limited.example.com", "/x", &[]);
        assert_eq!((limited.status, limited.header("ratelimit-remaining").as_deref()), (200, Some(left)));
    }

    // The verdicts are this origin's, too.
    let refused = get(&server, "private.example.com", "/x", &[]);
    assert_eq!((refused.status, origin.last().target.as_str()), (401, "/verify"));
    let bearer = ("authorization", "Bearer t");
    assert_eq!(get(&server, "private.example.com", "/x", &[bearer]).status, 200);
    assert_eq!((origin.last().target.as_str(), origin.last().header("x-user").as_deref()), ("/x", Some("alice")));

    assert_eq!(get(&server, "logged.example.com", "/x", &[]).status, 200);
    let line = wasm_remap_tests::wait_until(Duration::from_secs(20), "a line of the log", || {
        let batches = origin.requests().into_iter().filter(|request| request.target == "/ingest");
        batches.map(|request| String::from_utf8_lossy(&request.body).into_owned()).next()
    });
    assert!(line.contains(r#""method":"GET","path":"/x","status":200"#), "{line}");

    let page = ("accept", "text/html,*/*;q=0.8");
    let some = get(&server, "some.example.com", "/x", &[page, ("cookie", "session=s-4")]);
    assert_eq!(some.header("content-security-policy").as_deref(), Some("default-src 'self'"));
    assert_eq!(origin.last().header("x-trial").as_deref(), Some("1"), "in the tenth");
    let other = get(&server, "some.example.com", "/x", &[("cookie", "session=s-1")]);
    assert_eq!((other.status, other.header("content-security-policy")), (200, None));
    assert_eq!(origin.last().header("x-trial"), None, "not in the tenth");
    assert_eq!(get(&server, "some.example.com", "/%61dmin/x", &[]).status, 401);
    assert_eq!(get(&server, "some.example.com", "/admin/x", &[KEY]).status, 200);

    let every = get(&server, "all.example.com", "/x", &[]);
    assert_eq!((every.status, every.header("x-served-by").as_deref()), (200, Some("all")));

    let plain = get(&server, "static.example.com", "/x", &[("x-debug", "1")]);
    assert_eq!((plain.status, plain.header("x-served-by")), (200, None));
    assert_eq!(plain.header("x-powered-by").as_deref(), Some("php"));
    assert_eq!(origin.last().header("x-debug").as_deref(), Some("1"));
}

/// The defaults that are written out in every-key.yaml are the defaults: with them or without them, one VM serves.
#[test]
fn every_key_has_the_default_that_is_written_out() {
    let origin = origin();
    let short = "clusters: {every-key: {endpoints: ['127.0.0.1:8080']}}\n\
                 filters:\n  - {name: headers, module: headers.wasm, configuration: {response: {set: {x-served-by: all}}}}\n";
    let rule = |host: &str, file: &str| {
        format!("map http://{host}/ http://{}/ @plugin=wasm_remap.so @pparam=filters/{file}", origin.address())
    };
    let server = with_modules(TrafficServer::builder())
        .stats()
        .remap(&rule("short.test", "short.yaml"))
        .remap(&rule("every.test", "every-key.yaml"))
        .file("filters/short.yaml", short)
        .file_bytes("filters/every-key.yaml", read("configs/filters/every-key.yaml"))
        .threads(2)
        .start();
    for host in ["short.test", "every.test"] {
        assert_eq!(get(&server, host, "/x", &[]).header("x-served-by").as_deref(), Some("all"));
    }
    // Equal limits, environment, configurations and clusters are one VM key and one plugin context: two threads, two of each.
    wasm_remap_tests::wait_until(Duration::from_secs(10), "two VMs for two rules on two threads", || {
        let metrics = server.metrics();
        let counts = (metrics.get("wasm_remap.vms_built")?, metrics.get("wasm_remap.roots_created")?);
        (counts == (&2, &2)).then_some(())
    });
}

#[test]
fn the_demo_rules_load() {
    let origin = origin();
    let metrics = Lease::take();
    let mut builder = with_modules(TrafficServer::builder())
        .origin(&origin)
        .variable("authoriser", &origin.address())
        .variable("collector", &origin.address())
        .variable("metrics", &metrics.port().to_string())
        .remap(&read("configs/demo/remap.config"));
    for file in files("configs/demo/filters") {
        builder = builder.file(&format!("filters/{file}"), &read(&format!("configs/demo/filters/{file}")));
    }
    let server = builder.start();
    assert_eq!(get(&server, "shop.test", "/x", &[]).status, 401);
    assert_eq!(get(&server, "blog.test", "/x", &[]).header("x-served-by").as_deref(), Some("blog"));
    assert_eq!(get(&server, "plain.test", "/x", &[]).header("x-served-by"), None);
    assert_eq!(get(&server, "limited.test", "/x", &[]).header("ratelimit-remaining").as_deref(), Some("2"));
    assert_eq!(get(&server, "private.test", "/x", &[]).status, 401);
    assert_eq!(get(&server, "private.test", "/x", &[("authorization", "Bearer t")]).status, 200);
}

#[test]
fn the_recommended_records_are_known_to_ats_and_taken() {
    const SNIPPET: &str = "configs/records/recommended.config";
    let origin = origin();
    let server = with_records(example(&origin), SNIPPET).manager().start();
    assert_eq!(get(&server, "shop.example.com", "/x", &[KEY]).status, 200);
    for (name, _, value) in records(SNIPPET) {
        let told = server.traffic_ctl(&["config", "get", &name]);
        let told = told.split_once(": ").map(|(_, told)| told.trim().to_owned());
        let same = |told: &str| told == value || told.parse::<f64>().ok() == value.parse::<f64>().ok();
        assert!(told.as_deref().is_some_and(same), "{name} is {told:?}, not {value}");
    }
    // A reload takes changed rules with the plugin's file read once.
    let rules = read("configs/remap.config").replace(ORIGIN, &origin.address());
    server.rewrite_remap(&rules.replace("www.example.com", "www2.example.com"));
    server.reload().expect("good rules load");
    assert_eq!(get(&server, "www2.example.com", "/x", &[]).header("x-served-by").as_deref(), Some("www"));
    assert_eq!(get(&server, "www.example.com", "/x", &[]).status, 404);
}

#[test]
fn the_debug_records_show_debug_lines() {
    let origin = origin();
    let server = with_records(example(&origin), "configs/records/debug.config").manager().start();
    let mark = server.mark();
    let rules = read("configs/remap.config").replace(ORIGIN, &origin.address());
    server.rewrite_remap(&rules);
    server.reload().expect("good rules load");
    server.wait_for_log_since(mark, "configuration reload begins", Duration::from_secs(10));
}

/// README's way into a server that runs already: its first rules with the plugin come by a reload, and a filter file that
/// changed takes effect when remap.config is touched and reloaded.
#[test]
fn the_first_rules_and_a_changed_filter_file_come_by_a_reload() {
    let origin = origin();
    let rules = read("configs/remap.config").replace(ORIGIN, &origin.address());
    let plain = format!("map http://static.example.com/ http://{}/", origin.address());
    let mut builder = with_modules(TrafficServer::builder()).plugin().manager().remap(&plain);
    for file in files("configs/filters") {
        builder = builder.file_bytes(&format!("filters/{file}"), filter_file(&file, &origin));
    }
    let server = builder.start();
    assert_eq!(get(&server, "www.example.com", "/x", &[]).status, 404);
    server.rewrite_remap(&rules);
    server.reload().expect("the plugin loads in a server that runs");
    assert_eq!(get(&server, "www.example.com", "/x", &[]).header("x-served-by").as_deref(), Some("www"));

    let file = server.root().join("etc/filters/headers.yaml");
    let text = read("configs/filters/headers.yaml").replace("x-served-by: www", "x-served-by: changed");
    fs::write(&file, text).expect("the file is ours");
    let mark = server.mark();
    let remap =
        fs::File::options().append(true).open(server.root().join("etc/remap.config")).expect("the file is ours");
    remap.set_modified(std::time::SystemTime::now()).expect("the file is ours");
    server.traffic_ctl(&["config", "reload"]);
    server.wait_for_log_since(mark, "remap.config finished loading", Duration::from_secs(30));
    assert_eq!(get(&server, "www.example.com", "/x", &[]).header("x-served-by").as_deref(), Some("changed"));
}

/// A new file under configs/ comes with a test: this one fails until it is named here.
#[test]
fn every_file_is_loaded_by_a_test() {
    let mut found = BTreeSet::new();
    let mut folders = vec![artifacts::repository("configs")];
    let root = artifacts::repository("configs");
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).expect("inside").to_string_lossy().into_owned();
                found.insert(name);
            }
        }
    }
    let by_folder = |name: &&String| !matches!(Path::new(name).parent(), Some(dir) if dir.ends_with("filters"));
    let others: Vec<_> = found.iter().filter(by_folder).map(String::as_str).collect();
    // The schema has tests of its own, tests/cli/schema.rs and src/engine/config/schema_test.rs.
    let expected = [
        "demo/remap.config",
        "filters.schema.json",
        "records/debug.config",
        "records/recommended.config",
        "remap.config",
    ];
    assert_eq!(others, expected);
    // Filter files are found by the tests above, whatever their names.
    assert!(found.len() > others.len());
}

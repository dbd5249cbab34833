//! How modules come to a server: compiled, or found in the cache of a server that ran before; pinned to a digest; with the
//! stack that they were given.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use engine::Digest;
use tempfile::TempDir;
use wasm_remap_tests::{Client, Connection, Origin, Reply, Rule, TrafficServer, artifacts};

const PATIENCE: Duration = Duration::from_secs(10);

/// What outlives a server: a directory that every user can write to, as /tmp is, with a copy of the guest `headers`.
fn shared() -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix("wasm-remap-code-").tempdir_in("/tmp").expect("a temporary directory");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).expect("the directory is ours");
    let module = dir.path().join("headers.wasm");
    fs::copy(artifacts::guest("headers"), &module).expect("the guest is built");
    fs::set_permissions(&module, Permissions::from_mode(0o644)).expect("the file is ours");
    (dir, module)
}

/// A server whose rule's filter has its code from here.
fn start(origin: &Origin, shared: &Path) -> TrafficServer {
    TrafficServer::builder()
        .origin(origin)
        .variable("shared", &shared.display().to_string())
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]))
        .file(
            "a.yaml",
            "code_cache: {directory: '{shared}/code'}\nfilters:\n  - name: headers\n    module: '{shared}/headers.wasm'\n    \
             configuration: {response: {set: {x-rule: A}}}\n",
        )
        .start()
}

fn serves(server: &TrafficServer) {
    let response = Client::connect(server.port()).get("a.test", "/x");
    assert_eq!((response.status, response.header("x-rule").as_deref()), (200, Some("A")));
}

const COMPILED: &str = "was compiled with cranelift";
const KEPT: &str = "and is kept in the cache";
const CACHED: &str = "is there from the cache";

#[test]
fn a_restarted_server_finds_its_code_in_the_cache_and_does_without_one() {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200));
    let (dir, module) = shared();
    let code = dir.path().join("code");
    let name = module.display().to_string();

    let server = start(&origin, dir.path());
    let line = server.wait_for_log(COMPILED, PATIENCE);
    assert!(line.contains(&name) && line.contains(KEPT), "{line}");
    serves(&server);
    let user = fs::metadata(server.root()).expect("the server's tree").uid();
    server.shutdown();
    let data = fs::metadata(&code).expect("the cache was made");
    assert_eq!((data.mode() & 0o777, data.uid()), (0o700, user));

    for _ in 0..2 {
        let server = start(&origin, dir.path());
        let line = server.wait_for_log(CACHED, PATIENCE);
        assert!(line.contains(&name), "{line}");
        serves(&server);
        assert!(!server.diags().contains(COMPILED), "{}", server.diags());
        server.shutdown();
    }

    for file in fs::read_dir(&code).expect("the cache") {
        let path = file.expect("an entry").path();
        let mut bytes = fs::read(&path).expect("the tests may read it");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).expect("the tests may write it");
    }
    let server = start(&origin, dir.path());
    let line = server.wait_for_log("is not used: it is damaged", PATIENCE);
    assert!(line.contains("; the module is compiled") && line.contains("WARNING"), "{line}");
    server.wait_for_log(KEPT, PATIENCE);
    serves(&server);
    server.shutdown();
    let server = start(&origin, dir.path());
    server.wait_for_log(CACHED, PATIENCE);
    server.shutdown();

    fs::remove_dir_all(&code).expect("the tests may remove it");
    let server = start(&origin, dir.path());
    server.wait_for_log(KEPT, PATIENCE);
    serves(&server);
    // While it is in use.
    fs::remove_dir_all(&code).expect("the tests may remove it");
    serves(&server);
    server.shutdown();

    fs::create_dir(&code).expect("the tests may make it");
    fs::set_permissions(&code, Permissions::from_mode(0o777)).expect("the directory is ours");
    let server = start(&origin, dir.path());
    let line = server.wait_for_log("code_cache", PATIENCE);
    assert!(line.contains("is not used: ") && line.contains("; modules are compiled"), "{line}");
    serves(&server);
    assert_eq!(fs::read_dir(&code).expect("the directory").count(), 0);
}

#[test]
fn a_module_that_is_not_the_pinned_one_is_refused_at_a_reload_and_the_old_one_serves() {
    let origin = Origin::start();
    origin.route("/x", Reply::new(200));
    let bytes = fs::read(artifacts::guest("headers")).expect("the guest is built");
    let other = fs::read(artifacts::guest("api-key")).expect("the guest is built");
    let pinned = Digest::of(&bytes);
    let rule = |name: &str| {
        format!(
            "filters:\n  - name: headers\n    module: {{path: m.wasm, sha256: '{pinned}'}}\n    \
             configuration: {{response: {{set: {{x-rule: {name}}}}}}}\n"
        )
    };
    let server = TrafficServer::builder()
        .origin(&origin)
        .manager()
        .rule(Rule::new("a.test", "http://{origin}/").wasm(["a.yaml"]))
        .file("a.yaml", &rule("A"))
        .file_bytes("m.wasm", bytes.clone())
        .start();
    serves(&server);
    server.write_file("m.wasm", &other);
    server.write_text("a.yaml", &rule("B"));
    let lines = server.reload().expect_err("another module is refused").join("\n");
    let expected = format!("its SHA-256 is {}, and the filter's 'sha256' wants {pinned}", Digest::of(&other));
    assert!(lines.contains(&expected) && lines.contains("a.yaml") && lines.contains("filter 'headers'"), "{lines}");
    serves(&server);
    server.write_file("m.wasm", &bytes);
    server.reload().expect("the pinned module loads");
    let response = Client::connect(server.port()).get("a.test", "/x");
    assert_eq!(response.header("x-rule").as_deref(), Some("B"));
}

/// The largest stack fits an event thread, also where ATS has nested its own calls, and the smallest ends early.
#[test]
fn a_guest_uses_up_its_own_stack_however_large() {
    let origin = Origin::start();
    origin.route("/*", Reply::new(200).body("from the origin"));
    let mut builder = TrafficServer::builder().origin(&origin).threads(1);
    for (compiler, depth) in [("cranelift", 3000), ("winch", 1500)] {
        for stack in [32, 512] {
            let host = format!("{compiler}-{stack}.test");
            let file = format!("{compiler}-{stack}.yaml");
            builder = builder.rule(Rule::new(&host, "http://{origin}/").wasm([file.as_str()])).file(
                &file,
                &format!(
                    "filters:\n  - name: deep\n    module: {{path: {{guest:recursion}}, compiler: {compiler}}}\n    \
                     vm_id: v{depth}\n    limits: {{stack_kib: {stack}}}\n"
                ),
            );
        }
    }
    let server = builder.start();
    let mut client = Client::connect(server.port());
    for (compiler, depth) in [("cranelift", 3000), ("winch", 1500)] {
        for at in ["on_request_headers", "on_response_headers"] {
            let mut ask = |stack: u32, kind: &str| {
                let host = format!("{compiler}-{stack}.test");
                let response =
                    client.request("GET", &host, "/x", &[("x-recursion", at), ("x-recursion-kind", kind)], b"");
                assert_eq!(client.connection(), Connection::Open, "{compiler} {stack} {at} {kind}");
                (response.status, response.header("x-recursion-depth").is_some())
            };
            let depth = depth.to_string();
            assert_eq!(ask(512, &depth), (200, true), "{compiler} {at}");
            assert_eq!(ask(32, &depth), (503, false), "{compiler} {at}");
            for stack in [32, 512] {
                assert_eq!(ask(stack, ""), (503, false), "{compiler} {stack} {at}");
                assert_eq!(ask(stack, "10"), (200, true), "{compiler} {stack} {at}");
            }
        }
    }
    let line = server.wait_for_log("the guest's stack is used up", PATIENCE);
    assert!(line.contains("filter 'deep'"), "{line}");
}

//! Instruction counts, where times are too noisy: a server under callgrind, one connection, one request at a time.
//!
//! Counting begins when the server is warm, and covers the event thread alone. Idle turns of the event loop are
//! counted too, which leaves an uncertainty of some tens of instructions; several parts of a run show it.

mod profile;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use wasm_remap_tests::harness::install;
use wasm_remap_tests::{Builder, Origin, TrafficServer, load, wait_until};

use crate::stats::Spread;
use crate::variants::Variant;
use crate::{native, sites};
pub(crate) use profile::{Function, Profile};

/// Parts of a variant's run; the middle one is shown.
const PARTS: u64 = 3;
/// Requests before counting, some of them counted already: what is done once is then done.
const WARM_UP: u64 = 300;

/// One variant's instructions.
#[derive(Debug)]
pub(crate) struct Counted {
    /// Instructions of the event thread a request, in each part.
    pub(crate) total: Spread,
    /// Where they went, in the part in the middle.
    pub(crate) profile: Profile,
}

/// Counts, a variant after the other.
pub(crate) fn run(variants: &[Variant], requests: u64) -> Vec<Counted> {
    let valgrind = install::tool("valgrind", "valgrind");
    let origin = sites::origin();
    variants
        .iter()
        .map(|variant| {
            eprintln!("callgrind: {}", variant.title);
            let counted = count(variant, &origin, &valgrind, requests);
            eprintln!("callgrind: {}: {} instructions a request", variant.key, counted.total.show(0));
            counted
        })
        .collect()
}

fn count(variant: &Variant, origin: &Origin, valgrind: &Path, requests: u64) -> Counted {
    let (builder, mut session) = Session::prepare_with(valgrind, variant.site.builder(origin));
    let server = builder.start();
    session.attach();
    variant.prove(&server, origin);
    let send = |count| {
        let report = load::requests(server.port(), variant.request().as_bytes(), count, 1, &[variant.status()]);
        assert_eq!(report.errors.total(), 0, "{}: {:?}", variant.title, report.errors);
    };
    send(WARM_UP);
    session.on(&server);
    send(WARM_UP);
    let mut parts: Vec<Profile> = (0..PARTS).map(|_| session.count(&server, requests, || send(requests))).collect();
    session.off(&server);
    server.shutdown();
    let total = Spread::of(parts.iter().map(Profile::total));
    parts.sort_by(|a, b| a.total().total_cmp(&b.total()));
    Counted { total, profile: parts.swap_remove(parts.len() / 2) }
}

/// One server under callgrind.
#[derive(Debug)]
pub(crate) struct Session {
    dir: TempDir,
    /// Dumps so far.
    parts: u64,
}

impl Session {
    /// Has the server that is to be built run under callgrind, which counts nothing yet.
    pub(crate) fn prepare(builder: Builder) -> (Builder, Session) {
        Session::prepare_with(&install::tool("valgrind", "valgrind"), builder)
    }

    fn prepare_with(valgrind: &Path, builder: Builder) -> (Builder, Session) {
        let dir = directory();
        let shim = dir.path().join("no_auxv");
        fs::write(&shim, native::compile("no_auxv", &[])).expect("the directory is ours");
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("the file is ours");
        let path = dir.path().display();
        let builder = builder
            .under([
                shim.display().to_string(),
                valgrind.display().to_string(),
                "--tool=callgrind".to_owned(),
                "--quiet".to_owned(),
                "--instr-atstart=no".to_owned(),
                "--separate-threads=yes".to_owned(),
                "--dump-line=no".to_owned(),
                format!("--callgrind-out-file={path}/out"),
                format!("--vgdb-prefix={path}/vgdb"),
            ])
            .patience(Duration::from_secs(300));
        (builder, Session { dir, parts: 0 })
    }

    /// Once the server has started.
    pub(crate) fn attach(&self) {
        open_to_all(self.dir.path());
    }

    /// Begins to count.
    pub(crate) fn on(&self, server: &TrafficServer) {
        tell(server, self.dir.path(), "instrumentation on");
    }

    /// Ends it.
    pub(crate) fn off(&self, server: &TrafficServer) {
        tell(server, self.dir.path(), "instrumentation off");
    }

    /// What each of these requests takes.
    pub(crate) fn count(&mut self, server: &TrafficServer, requests: u64, send: impl FnOnce()) -> Profile {
        let dir = self.dir.path();
        self.parts += 1;
        tell(server, dir, "zero");
        send();
        tell(server, dir, "dump");
        wait_until(Duration::from_secs(60), "callgrind's dump", || read(dir, self.parts, requests))
    }
}

/// Callgrind writes as the user that the server becomes.
fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("ats-bench-").tempdir().expect("a temporary directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("the directory is ours");
    dir
}

/// The pipes of valgrind's gdb server were made before the server became another user, and are opened after that.
fn open_to_all(dir: &Path) {
    for entry in fs::read_dir(dir).expect("the directory is ours").filter_map(Result::ok) {
        let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o666));
    }
}

/// Gives callgrind a command, as the user that the server has become: valgrind takes a peer whom it may not send a
/// signal for a dead one.
fn tell(server: &TrafficServer, dir: &Path, command: &str) {
    let vgdb = install::tool("vgdb", "valgrind");
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap_or_default();
    let id = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|id| id.parse().ok())
    };
    let (user, group) = id("Uid:").zip(id("Gid:")).unwrap_or_else(|| panic!("the server is gone before {command}"));
    let output = Command::new(vgdb)
        .uid(user)
        .gid(group)
        .arg(format!("--vgdb-prefix={}/vgdb", dir.display()))
        .arg(format!("--pid={}", server.pid()))
        .args(command.split(' '))
        .output();
    let output = output.unwrap_or_else(|error| panic!("cannot run vgdb: {error}"));
    assert!(
        output.status.success(),
        "vgdb {command}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The profile of the busiest thread of a dump; `None` if the dump is not there yet.
fn read(dir: &Path, part: u64, requests: u64) -> Option<Profile> {
    let prefix = format!("out.{part}-");
    let files = fs::read_dir(dir).ok()?.filter_map(Result::ok);
    let texts = files
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    let profiles = texts.map(|text| Profile::parse(&text, requests));
    profiles.max_by(|a, b| a.total().total_cmp(&b.total())).filter(|profile| profile.total() > 0.0)
}

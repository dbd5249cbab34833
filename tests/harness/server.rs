//! A private traffic_server: its own directory, ports and user, gone when the value is.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::client;
use super::config::{RecordValue, Root, Rule};
use super::gate::Permit;
use super::install::Install;
use super::log::{Logs, Mark};
use super::origin::Origin;
use super::ports::Lease;
use super::{poll, process};

const READY: &str = "Traffic Server is fully initialized";
const RELOADED: &str = "remap.config finished loading";
const REFUSED: &str = "remap.config failed to load";

/// What a server is to be.
#[derive(Clone, Debug)]
pub struct Builder {
    threads: u32,
    manager: bool,
    stats: bool,
    remap: String,
    plugins: Vec<String>,
    records: BTreeMap<String, RecordValue>,
    files: Vec<(String, Contents)>,
    variables: BTreeMap<String, String>,
    listeners: Vec<String>,
    environment: Vec<(String, String)>,
    under: Vec<String>,
    patience: Duration,
    plugin: bool,
    build: Option<PathBuf>,
}

#[derive(Clone, Debug)]
enum Contents {
    Text(String),
    Bytes(Vec<u8>),
}

impl Builder {
    fn new() -> Builder {
        Builder {
            threads: 2,
            manager: false,
            stats: false,
            remap: String::new(),
            plugins: Vec::new(),
            records: BTreeMap::new(),
            files: Vec::new(),
            variables: BTreeMap::new(),
            listeners: vec![String::new()],
            environment: Vec::new(),
            under: Vec::new(),
            patience: Duration::from_secs(30),
            plugin: false,
            build: None,
        }
    }

    /// What `{origin}` stands for in rules and files.
    pub fn origin(self, origin: &Origin) -> Builder {
        self.variable("origin", &origin.address())
    }

    /// What `{name}` stands for in rules and files, beside `{origin}`, `{port}`, `{root}`, `{etc}`, `{log}`, `{wasm}`
    /// and `{guest:name}`, the path of a built guest's copy.
    pub fn variable(mut self, name: &str, value: &str) -> Builder {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The number of ET_NET threads, 2 if nothing is said.
    pub fn threads(mut self, threads: u32) -> Builder {
        self.threads = threads;
        self
    }

    /// Runs it under traffic_manager, which [`TrafficServer::reload`] and [`TrafficServer::traffic_ctl`] need. It
    /// takes three seconds to start instead of a twentieth.
    pub fn manager(mut self) -> Builder {
        self.manager = true;
        self
    }

    /// Loads stats_over_http, so that [`TrafficServer::metric`] needs no manager.
    pub fn stats(mut self) -> Builder {
        self.stats = true;
        self
    }

    /// Adds a rule.
    pub fn rule(self, rule: Rule) -> Builder {
        let line = format!("{rule}\n");
        self.remap(&line)
    }

    /// Adds lines to remap.config.
    pub fn remap(mut self, text: &str) -> Builder {
        self.remap.push_str(text);
        if !text.ends_with('\n') {
            self.remap.push('\n');
        }
        self
    }

    /// Adds a line to plugin.config.
    pub fn plugin_line(mut self, line: &str) -> Builder {
        self.plugins.push(line.to_owned());
        self
    }

    /// Copies the plugin in even if no rule names it.
    pub fn plugin(mut self) -> Builder {
        self.plugin = true;
        self
    }

    /// Takes this build of the plugin for the one under test.
    pub fn plugin_build(mut self, path: PathBuf) -> Builder {
        self.build = Some(path);
        self
    }

    /// Sets a record: a number, or a text as records.config has it.
    pub fn record(mut self, name: &str, value: impl Into<RecordValue>) -> Builder {
        self.records.insert(name.to_owned(), value.into());
        self
    }

    /// Whether responses are cached. They are, as in an installation; what the origin's response must say for it is
    /// `required_headers`, which is 2 as in an installation too: an explicit lifetime.
    pub fn cache(self, on: bool) -> Builder {
        self.record("proxy.config.http.cache.http", i64::from(on))
    }

    /// Turns on ATS's debug messages for these tags, a regular expression.
    pub fn debug(self, tags: &str) -> Builder {
        self.record("proxy.config.diags.debug.enabled", 1).record("proxy.config.diags.debug.tags", tags)
    }

    /// Writes a text file, its path taken from the configuration directory, its `{names}` replaced.
    pub fn file(mut self, name: &str, text: &str) -> Builder {
        self.files.push((name.to_owned(), Contents::Text(text.to_owned())));
        self
    }

    /// Writes a file as it is.
    pub fn file_bytes(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Builder {
        self.files.push((name.to_owned(), Contents::Bytes(bytes.into())));
        self
    }

    /// Adds a port with these attributes of `server_ports`, such as `ssl`; [`TrafficServer::ports`] has its number.
    pub fn listen(mut self, attributes: &str) -> Builder {
        self.listeners.push(attributes.to_owned());
        self
    }

    /// Sets a variable of the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the server under another command, such as `valgrind`, whose own arguments come first.
    pub fn under<S: Into<String>>(mut self, command: impl IntoIterator<Item = S>) -> Builder {
        self.under = command.into_iter().map(Into::into).collect();
        self
    }

    /// How long the start may take, 30 seconds if nothing is said.
    pub fn patience(mut self, patience: Duration) -> Builder {
        self.patience = patience;
        self
    }

    /// Starts it and waits until it serves.
    #[track_caller]
    pub fn start(self) -> TrafficServer {
        let server = self.launch();
        match server.wait_ready() {
            Ok(()) => server,
            Err(what) => server.fail(&what),
        }
    }

    /// Starts it and waits for it to give up: what a bad configuration makes it do. Never under a manager, which
    /// would start it over and over.
    #[track_caller]
    pub fn start_expecting_failure(mut self) -> Exit {
        self.manager = false;
        let mut server = self.launch();
        server.expect_exit();
        let ended = poll(server.patience, || {
            if server.logs.diags().contains(READY) {
                return Some(None);
            }
            server.try_wait().map(Some)
        });
        match ended {
            Some(Some(status)) => {
                server.stopped = true;
                server.exit(status)
            }
            Some(None) => server.fail("the server was to fail at its start, and serves"),
            None => server.fail("the server was to fail at its start, and neither fails nor serves"),
        }
    }

    #[track_caller]
    fn launch(mut self) -> TrafficServer {
        let install = Install::get();
        let permit = Permit::acquire();
        let leases: Vec<Lease> = self.listeners.iter().map(|_| Lease::take()).collect();
        self.variables.insert("port".to_owned(), leases[0].port().to_string());
        let root = Root::create(std::mem::take(&mut self.variables), self.build.take());
        root.write_basics(install);
        if self.plugin {
            root.plugin();
        }
        for (name, contents) in &self.files {
            let name = format!("etc/{name}");
            match contents {
                Contents::Text(text) => root.write(&name, root.expand(text).as_bytes()),
                Contents::Bytes(bytes) => root.write(&name, bytes),
            };
        }
        let remap = root.expand(&self.remap);
        root.write("etc/remap.config", remap.as_bytes());
        if self.stats {
            self.plugins.push("stats_over_http.so".to_owned());
        }
        let plugins = root.expand(&self.plugins.iter().map(|line| format!("{line}\n")).collect::<String>());
        root.write("etc/plugin.config", plugins.as_bytes());
        root.write("etc/records.config", self.records_config(&root, &leases).as_bytes());

        let logs = Logs::new(&root.path().join("log"));
        let process = self.spawn(install, &root);
        let group = process.id();
        let guard = process::Guard::over(group).unwrap_or_else(|error| panic!("cannot start /bin/sh: {error}"));
        TrafficServer {
            process: Mutex::new(process),
            group,
            server: OnceLock::new(),
            manager: self.manager,
            stats: self.stats,
            patience: self.patience,
            logs,
            remap: Mutex::new(remap),
            reloads: AtomicU64::new(0),
            managed: OnceLock::new(),
            exit_expected: AtomicBool::new(false),
            stopped: false,
            root,
            permit: Some(permit),
            _leases: leases,
            guard: Some(guard),
        }
        .with_own_pid()
    }

    fn records_config(&self, root: &Root, leases: &[Lease]) -> String {
        let ports: Vec<String> = leases
            .iter()
            .zip(&self.listeners)
            .map(|(lease, attributes)| {
                let separator = if attributes.is_empty() { "" } else { ":" };
                format!("{}:ip-in=127.0.0.1{separator}{attributes}", lease.port())
            })
            .collect();
        let mut records: BTreeMap<String, RecordValue> = BTreeMap::new();
        let mut set = |name: &str, value: RecordValue| {
            records.insert(format!("proxy.config.{name}"), value);
        };
        set("http.server_ports", ports.join(" ").into());
        set("admin.user_id", root.user_record().into());
        set("exec_thread.autoconfig", 0.into());
        set("exec_thread.limit", i64::from(self.threads).into());
        // A crash is told in traffic.out, where the harness looks.
        set("crash_log_helper", "NULL".into());
        // Statistics are to be read a moment after what they count.
        set("config_update_interval_ms", 100.into());
        set("raw_stat_sync_interval_ms", 100.into());
        set("remote_sync_interval_ms", 100.into());
        // No access logs; an origin that a test broke on purpose is asked again at once.
        set("log.logging_enabled", 1.into());
        set("http.down_server.cache_time", 0.into());
        records.extend(self.records.clone());
        records.iter().map(|(name, value)| format!("CONFIG {name} {value}\n")).collect()
    }

    #[track_caller]
    fn spawn(&self, install: &Install, root: &Root) -> Child {
        let mut words: Vec<String> = self.under.clone();
        if self.manager {
            words.extend([install.program("traffic_manager").display().to_string(), "--nosyslog".to_owned()]);
        } else {
            words.push(install.server.display().to_string());
        }
        let output = root.path().join("log/traffic.out");
        let file = File::options().create(true).append(true).open(&output).expect("the log directory is ours");
        root.give(&output);
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env("TS_RUNROOT", root.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(root.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("an open file can be shared"))
            .stderr(file)
            .process_group(0);
        for (name, _) in std::env::vars_os() {
            // These override records.config.
            if name.to_string_lossy().starts_with("PROXY_CONFIG_") {
                command.env_remove(name);
            }
        }
        command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", words[0]))
    }
}

/// A running server.
///
/// Dropped, it is stopped as an operator stops it; a crash at any time fails the test that owns it. When the test
/// itself fails, its logs are shown and kept.
#[derive(Debug)]
pub struct TrafficServer {
    process: Mutex<Child>,
    group: u32,
    server: OnceLock<u32>,
    manager: bool,
    stats: bool,
    patience: Duration,
    logs: Logs,
    remap: Mutex<String>,
    reloads: AtomicU64,
    managed: OnceLock<()>,
    exit_expected: AtomicBool,
    stopped: bool,
    root: Root,
    permit: Option<Permit>,
    _leases: Vec<Lease>,
    guard: Option<process::Guard>,
}

/// How a server ended, and what it left behind.
#[derive(Clone, Debug)]
pub struct Exit {
    /// Of traffic_server, or of the manager above it.
    pub status: ExitStatus,
    /// Its diagnostics.
    pub diags: String,
    /// Its standard output and error.
    pub output: String,
    /// The line that tells of a crash.
    pub crash: Option<String>,
}

impl Exit {
    /// The line of diagnostics or output that holds `pattern`.
    #[track_caller]
    pub fn line(&self, pattern: &str) -> &str {
        let lines = self.diags.lines().chain(self.output.lines());
        match lines.clone().find(|line| line.contains(pattern)) {
            Some(line) => line,
            None => panic!("no line has {pattern:?}:\n{}\n{}", self.diags, self.output),
        }
    }
}

impl TrafficServer {
    /// A server of two threads that knows no rule.
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn with_own_pid(self) -> TrafficServer {
        if !self.manager {
            let _ = self.server.set(self.group);
        }
        self
    }

    /// The port that it serves on.
    pub fn port(&self) -> u16 {
        self._leases[0].port()
    }

    /// That port and those that [`Builder::listen`] added.
    pub fn ports(&self) -> Vec<u16> {
        self._leases.iter().map(Lease::port).collect()
    }

    /// The process id of traffic_server itself, not of a manager.
    pub fn pid(&self) -> u32 {
        *self.server.get().expect("a started server has a process id")
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// Its logs.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }

    /// All of diags.log.
    pub fn diags(&self) -> String {
        self.logs.diags()
    }

    /// All of its standard output and error.
    pub fn output(&self) -> String {
        self.logs.output()
    }

    /// The logs' present end.
    pub fn mark(&self) -> Mark {
        self.logs.mark()
    }

    /// The log lines since a mark.
    pub fn lines_since(&self, mark: Mark) -> Vec<String> {
        self.logs.since(mark)
    }

    /// Waits for a line with `pattern` in diags.log or traffic.out, old lines included.
    #[track_caller]
    pub fn wait_for_log(&self, pattern: &str, timeout: Duration) -> String {
        self.wait_for_log_since(Mark::default(), pattern, timeout)
    }

    /// Waits for a line with `pattern` after a mark.
    #[track_caller]
    pub fn wait_for_log_since(&self, mark: Mark, pattern: &str, timeout: Duration) -> String {
        let line = poll(timeout, || self.lines_since(mark).into_iter().find(|line| line.contains(pattern)));
        line.unwrap_or_else(|| {
            panic!("no line with {pattern:?} came in {timeout:?}:\n{}", self.lines_since(mark).join("\n"))
        })
    }

    /// Whether traffic_server still runs: the one that was started, not one that a manager put in its place.
    pub fn is_alive(&self) -> bool {
        self.server.get().is_some_and(|&pid| process::alive(pid))
    }

    /// Its resident memory.
    #[track_caller]
    pub fn rss_kib(&self) -> u64 {
        self.known("resident memory", process::status(self.pid(), "VmRSS"))
    }

    /// What it has had of the processors.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        self.known("processor time", process::cpu_time(self.pid()))
    }

    /// How many threads it has.
    #[track_caller]
    pub fn threads(&self) -> usize {
        self.known("threads", process::entries(self.pid(), "task"))
    }

    /// Its threads' names.
    pub fn thread_names(&self) -> Vec<String> {
        process::thread_names(self.pid())
    }

    /// How many memory mappings it has.
    #[track_caller]
    pub fn mappings(&self) -> usize {
        self.known("memory mappings", process::mappings(self.pid()))
    }

    /// How many files and sockets it has open.
    #[track_caller]
    pub fn open_files(&self) -> usize {
        self.known("open files", process::entries(self.pid(), "fd"))
    }

    #[track_caller]
    fn known<T>(&self, what: &str, value: Option<T>) -> T {
        value.unwrap_or_else(|| panic!("the {what} of process {} cannot be read: it is gone", self.pid()))
    }

    /// Writes a file of the configuration directory as it is.
    #[track_caller]
    pub fn write_file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        self.root.write(&format!("etc/{name}"), bytes.as_ref())
    }

    /// Writes a text file of the configuration directory, its `{names}` replaced.
    #[track_caller]
    pub fn write_text(&self, name: &str, text: &str) -> PathBuf {
        self.write_file(name, self.expand(text))
    }

    /// Replaces `{names}` as the builder does.
    #[track_caller]
    pub fn expand(&self, text: &str) -> String {
        self.root.expand(text)
    }

    /// Replaces remap.config, which counts from the next [`reload`](TrafficServer::reload).
    #[track_caller]
    pub fn rewrite_remap(&self, text: &str) {
        let mut text = self.expand(text);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.root.write("etc/remap.config", text.as_bytes());
        *self.remap.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Puts a new copy of the plugin in the old one's place, which ATS takes for another version at the next reload.
    #[track_caller]
    pub fn renew_plugin(&self) {
        self.root.renew_plugin();
    }

    /// As [`renew_plugin`](TrafficServer::renew_plugin), with another build.
    #[track_caller]
    pub fn replace_plugin(&mut self, build: PathBuf) {
        self.root.replace_plugin(build);
    }

    /// Has the server load its configuration again and waits for the outcome, with the log lines of it. ATS looks at
    /// remap.config if it changed, so this changes it; the manager takes two to ten seconds.
    #[track_caller]
    pub fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        self.wait_for_manager();
        let serial = self.reloads.fetch_add(1, Ordering::Relaxed) + 1;
        let text = self.remap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mark = self.mark();
        self.root.write("etc/remap.config", format!("{text}# reload {serial}\n").as_bytes());
        self.traffic_ctl(&["config", "reload"]);
        let outcome = poll(Duration::from_secs(60), || {
            let lines = self.lines_since(mark);
            let ended = lines.iter().find(|line| line.contains(RELOADED) || line.contains(REFUSED))?;
            let failed = ended.contains(REFUSED);
            Some(if failed { Err(lines) } else { Ok(lines) })
        });
        outcome.unwrap_or_else(|| {
            panic!(
                "a minute after `traffic_ctl config reload` nothing was loaded:\n{}",
                self.lines_since(mark).join("\n")
            )
        })
    }

    /// Runs traffic_ctl, which must succeed, and gives its output.
    #[track_caller]
    pub fn traffic_ctl(&self, args: &[&str]) -> String {
        self.wait_for_manager();
        match self.try_traffic_ctl(args) {
            Ok(output) => output,
            Err(error) => panic!("traffic_ctl {}: {error}", args.join(" ")),
        }
    }

    /// As [`traffic_ctl`](TrafficServer::traffic_ctl), with its complaint as the error.
    pub fn try_traffic_ctl(&self, args: &[&str]) -> Result<String, String> {
        let program = Install::get().program("traffic_ctl");
        let output = Command::new(program)
            .args(args)
            .env("TS_RUNROOT", self.root())
            .current_dir(self.root())
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// The manager answers some time after the server does.
    #[track_caller]
    fn wait_for_manager(&self) {
        assert!(self.manager, "this needs traffic_manager: start the server with .manager()");
        self.managed.get_or_init(|| {
            let answered = poll(Duration::from_secs(30), || {
                self.try_traffic_ctl(&["metric", "get", "proxy.process.http.incoming_requests"]).ok()
            });
            assert!(answered.is_some(), "traffic_manager does not answer\n{}", self.logs.tails());
        });
    }

    /// A metric by its name, a tenth of a second old at most (a second under a manager without `.stats()`); `None` if
    /// there is none.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<i64> {
        if !self.stats {
            self.wait_for_manager();
            let output = self.try_traffic_ctl(&["metric", "get", name]).ok()?;
            return output.split_whitespace().last()?.parse().ok();
        }
        self.metrics().remove(name)
    }

    /// All metrics that are numbers. Needs `.stats()`; the request for them counts as one.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, i64> {
        assert!(self.stats, "this needs stats_over_http: start the server with .stats()");
        // What was counted on another thread is added up every tenth of a second.
        thread::sleep(Duration::from_millis(150));
        let text = client::get(self.port(), "stats.test", "/_stats", &[]).text();
        let metric = |line: &str| {
            let mut parts = line.split('"');
            let (name, value) = (parts.nth(1)?, parts.nth(1)?);
            Some((name.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(metric).collect()
    }

    /// The plugin's own counters, without their `wasm_remap.`, once they are as `settled` wants them. It exports them
    /// every second. Needs `.stats()`.
    #[track_caller]
    pub fn counters(&self, what: &str, settled: impl Fn(&BTreeMap<String, i64>) -> bool) -> BTreeMap<String, i64> {
        let mut last = BTreeMap::new();
        let counters = poll(Duration::from_secs(20), || {
            let own = |(name, value): (String, i64)| Some((name.strip_prefix("wasm_remap.")?.to_owned(), value));
            last = self.metrics().into_iter().filter_map(own).collect();
            settled(&last).then(|| last.clone())
        });
        counters.unwrap_or_else(|| panic!("waited 20 s in vain: {what}\n{last:#?}"))
    }

    /// Tells the harness that the test means to crash or stop the server: its end is then no failure.
    pub fn expect_exit(&self) {
        self.exit_expected.store(true, Ordering::Relaxed);
    }

    /// Waits for the server to end by itself.
    #[track_caller]
    pub fn wait_exit(mut self, timeout: Duration) -> Exit {
        self.expect_exit();
        match poll(timeout, || self.try_wait()) {
            Some(status) => {
                self.stopped = true;
                self.exit(status)
            }
            None => self.fail(&format!("the server still runs after {timeout:?}")),
        }
    }

    /// Stops the server as an operator does and checks that it went in good order.
    #[track_caller]
    pub fn shutdown(mut self) -> Exit {
        match self.stop(Duration::from_secs(30)) {
            Ok(exit) => exit,
            Err(what) => self.fail(&what),
        }
    }

    fn wait_ready(&self) -> Result<(), String> {
        let end = Instant::now() + self.patience;
        while !self.logs.diags().contains(READY) {
            if let Some(status) = self.try_wait() {
                return Err(format!("the server ended before it served: {status}"));
            }
            if Instant::now() > end {
                return Err(format!("the server does not serve after {:?}", self.patience));
            }
            thread::sleep(Duration::from_millis(5));
        }
        if self.manager {
            let children = process::children(self.group);
            match children.first() {
                Some(&pid) => self.server.set(pid).map_err(|_| "the server has two process ids".to_owned())?,
                None => return Err("traffic_manager has no server".to_owned()),
            }
        }
        // A listening socket, not a request, which would count.
        match poll(Duration::from_secs(5), || client::Client::try_connect(self.port()).ok()) {
            Some(_) => Ok(()),
            None => Err(format!("the server does not listen on port {}", self.port())),
        }
    }

    fn try_wait(&self) -> Option<ExitStatus> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).try_wait().ok().flatten()
    }

    fn exit(&self, status: ExitStatus) -> Exit {
        Exit { status, diags: self.logs.diags(), output: self.logs.output(), crash: self.logs.crash() }
    }

    /// Stops it with TERM, after `grace` with KILL. An error says what was not in order.
    fn stop(&mut self, grace: Duration) -> Result<Exit, String> {
        let expected = self.exit_expected.load(Ordering::Relaxed);
        let was_alive = self.server.get().is_none() || self.is_alive();
        let crash_before = self.logs.crash();
        process::terminate(self.group);
        // A server that sleeps until it notices needs no processor: the next one may start.
        self.permit = None;
        let status = poll(grace, || self.try_wait());
        // The rest of the group: a manager's server that outlived it, for one.
        let left = process::group_members(self.group).len() - usize::from(status.is_none());
        process::kill_group(self.group);
        let ended = match status {
            Some(status) => status,
            None => {
                let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
                process.wait().map_err(|error| format!("cannot wait for the server: {error}"))?
            }
        };
        self.stopped = true;
        self.guard = None;
        let exit = self.exit(ended);
        if expected {
            return Ok(exit);
        }
        if !was_alive {
            return Err(format!(
                "the server had ended before it was told to: {}",
                crash_before.as_deref().unwrap_or("without a word")
            ));
        }
        if let Some(crash) = &exit.crash {
            return Err(format!("the server crashed: {crash}"));
        }
        if status.is_none() {
            return Err(format!("the server did not stop in {grace:?} and was killed"));
        }
        if left > 0 {
            return Err(format!("{left} of its processes outlived the server and were killed"));
        }
        // The manager ends itself by the signal that it was sent.
        let orderly = ended.success() || (self.manager && ended.signal() == Some(15));
        if orderly { Ok(exit) } else { Err(format!("the server stopped with {ended}")) }
    }

    /// Panics with the logs.
    #[track_caller]
    fn fail(&self, what: &str) -> ! {
        self.expect_exit();
        panic!("{what}\n{}", self.logs.tails());
    }
}

impl Drop for TrafficServer {
    fn drop(&mut self) {
        let failing = thread::panicking();
        let outcome = if self.stopped {
            Ok(())
        } else {
            self.stop(Duration::from_secs(if failing { 5 } else { 30 })).map(|_| ())
        };
        if !failing && outcome.is_ok() {
            return;
        }
        // The test's thread captures what is printed and shows it with the failure.
        let tails = self.logs.tails();
        println!("{tails}the server's directory is kept: {}", self.root.keep().display());
        if let (false, Err(what)) = (failing, outcome) {
            panic!("{what}");
        }
    }
}

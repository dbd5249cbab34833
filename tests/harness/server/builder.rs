//! What a server is to be, and its start.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::super::config::{RecordValue, Root, Rule};
use super::super::gate::Permit;
use super::super::http2::identity;
use super::super::install::Install;
use super::super::log::Logs;
use super::super::origin::Origin;
use super::super::ports::Lease;
use super::super::{poll, process};
use super::{Exit, READY, TrafficServer};

/// The attribute of a port with TLS.
const TLS: &str = "ssl";

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
    pub(super) fn new() -> Builder {
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

    /// Adds a port with TLS that speaks HTTP/2, [`TrafficServer::tls_port`], with a certificate for
    /// [`Http2`](super::super::http2::Http2).
    pub fn tls(self) -> Builder {
        let identity = identity();
        self.file("tls.pem", &identity.certificate)
            .file("tls.key", &identity.key)
            .file("ssl_multicert.config", "dest_ip=* ssl_cert_name=tls.pem ssl_key_name=tls.key\n")
            .record("proxy.config.ssl.server.cert.path", "{etc}")
            .record("proxy.config.ssl.server.private_key.path", "{etc}")
            // A client that tries every case on one connection is no attack.
            .record("proxy.config.http2.min_avg_window_update", 0.0)
            .record("proxy.config.http2.max_rst_stream_frames_per_minute", 1_000_000)
            .record("proxy.config.http2.max_ping_frames_per_minute", 1_000_000)
            .record("proxy.config.http2.stream_error_rate_threshold", 1.0)
            .listen(TLS)
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
        let again = self.clone();
        let server = self.launch();
        let ready = server.wait_ready();
        // ATS sums up its threads' statistics while it makes them, and now and then meets half a thread. That is before it
        // has loaded any plugin. A manager starts it again; the crash would be taken for the test's all the same.
        if server.logs.tails().contains("EThread15summarize_stats") {
            println!("traffic_server ended in its own start; started again");
            server.expect_exit();
            drop(server);
            let server = again.launch();
            server.wait_ready().unwrap_or_else(|what| server.fail(&what));
            return server;
        }
        if let Err(what) = ready {
            server.fail(&what);
        }
        server
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
            tls: self.listeners.iter().position(|attributes| attributes == TLS),
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
        // A manager looks for a reload only when the server has sent it nothing for a second, and it sends what has changed
        // this often: with our statistics something always has.
        set("remote_sync_interval_ms", if self.manager { 2000 } else { 100 }.into());
        // No access logs; an origin that a test broke on purpose is asked again at once.
        set("log.logging_enabled", 1.into());
        set("http.down_server.cache_time", 0.into());
        records.extend(self.records.clone());
        records.iter().map(|(name, value)| root.expand(&format!("CONFIG {name} {value}\n"))).collect()
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

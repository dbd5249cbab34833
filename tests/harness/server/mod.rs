//! A private traffic_server: its own directory, ports and user, gone when the value is.

mod builder;
mod control;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::client;
use super::config::Root;
use super::gate::Permit;
use super::log::{Logs, Mark};
use super::ports::Lease;
use super::{poll, process};

pub use builder::Builder;

const READY: &str = "Traffic Server is fully initialized";

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
    /// Which of the ports speaks TLS.
    tls: Option<usize>,
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

    /// The port with TLS that [`Builder::tls`] added.
    #[track_caller]
    pub fn tls_port(&self) -> u16 {
        self._leases[self.tls.expect("this needs TLS: start the server with .tls()")].port()
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

    /// How long it was from one line of diags.log to another, the first ones that hold these texts, by their own times.
    #[track_caller]
    pub fn took(&self, from: &str, to: &str) -> Duration {
        let diags = self.diags();
        let at = |pattern: &str| {
            let line = diags.lines().find(|line| line.contains(pattern));
            line.and_then(time_of).unwrap_or_else(|| panic!("no line with {pattern:?} and a time:\n{diags}"))
        };
        at(to).saturating_sub(at(from))
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

/// The time that a line of diags.log gives itself, within its day.
fn time_of(line: &str) -> Option<Duration> {
    let time = line.strip_prefix('[')?.split(']').next()?.split_whitespace().last()?;
    let mut parts = time.split(':');
    let mut next = || parts.next()?.parse::<f64>().ok();
    let (hours, minutes, seconds) = (next()?, next()?, next()?);
    Some(Duration::from_secs_f64(hours * 3600.0 + minutes * 60.0 + seconds))
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

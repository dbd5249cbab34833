//! The machine: what it is, what a process has had of it, and who runs where.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use wasm_remap_tests::TrafficServer;
use wasm_remap_tests::harness::install::Install;

/// What a reader must know to judge the figures.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) system: String,
    pub(crate) ats: String,
    pub(crate) rustc: String,
    pub(crate) wrk: String,
    /// The load average of the last minute when the run began.
    pub(crate) load: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Machine {
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|pair| pair.1);
        let system = read("/etc/os-release");
        let system = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let load = read("/proc/loadavg");
        Machine {
            cpu: cpu.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            // Without what the builder of the kernel appended.
            kernel: read("/proc/sys/kernel/osrelease").split('-').next().unwrap_or_default().trim().to_owned(),
            system: system.unwrap_or("unknown").trim_matches('"').to_owned(),
            ats: first_line(Command::new(&Install::get().server).arg("--version").current_dir("/")),
            rustc: first_line(Command::new("rustc").arg("--version")),
            wrk: first_line(Command::new("wrk").arg("--version")).split(" [").next().unwrap_or_default().to_owned(),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
        }
    }

    /// Whether the load generator and the servers can have a core each.
    pub(crate) fn pins(&self) -> bool {
        self.cores > 1
    }
}

/// Keeps this process, and with it wrk, which it starts, on the first core.
pub(crate) fn pin_self() {
    pin(std::process::id(), 0);
}

/// Lets this process run on all cores again.
pub(crate) fn unpin_self(machine: &Machine) {
    if machine.pins() {
        taskset(std::process::id(), &format!("0-{}", machine.cores - 1));
    }
}

/// Keeps every thread of the server on the second core. ATS sets the affinity of its event threads itself, so this
/// comes once they run.
pub(crate) fn pin_server(server: &TrafficServer) {
    pin(server.pid(), 1);
}

fn pin(pid: u32, core: usize) {
    taskset(pid, &core.to_string());
}

fn taskset(pid: u32, cores: &str) {
    let status =
        Command::new("taskset").args(["-a", "-c", "-p", cores, &pid.to_string()]).stdout(Stdio::null()).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "taskset: {status:?}: `apt install util-linux`");
}

/// What all threads of a process have had of the processors, to the nanosecond where the kernel tells it.
pub(crate) fn cpu_time(server: &TrafficServer) -> Duration {
    let exact = fs::read_dir(format!("/proc/{}/task", server.pid())).ok().and_then(|tasks| {
        tasks
            .map(|task| {
                let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
            })
            .sum::<Option<Duration>>()
    });
    exact.unwrap_or_else(|| server.cpu_time())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.stdin(Stdio::null()).output() else { return "not found".to_owned() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    text.lines().next().unwrap_or("silent").trim().to_owned()
}

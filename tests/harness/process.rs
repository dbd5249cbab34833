//! Processes: signals, what /proc knows of them, and the guard that outlives a killed test.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// Asks one process to end.
pub fn terminate(pid: u32) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Sends any signal to one process.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = to_pid(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends a whole process group at once.
pub fn kill_group(group: u32) {
    if let Some(group) = to_pid(group) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Whether a process runs; one that died and was not waited for does not.
pub fn alive(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z' && stat.state != 'X')
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&candidate| stat(candidate).is_some_and(|stat| stat.parent == pid))
        .collect()
}

/// The live processes of a group.
pub fn group_members(group: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|&candidate| stat(candidate).is_some_and(|stat| stat.group == group && stat.state != 'Z'))
        .collect()
}

/// A number of `/proc/<pid>/status`, such as `VmRSS` (KiB) or `Threads`.
pub fn status(pid: u32, key: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The time that a process has had of the processors, its own and the kernel's.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let ticks = stat(pid)?.ticks;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// The names of a process's threads.
pub fn thread_names(pid: u32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    entries
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("comm")).ok())
        .map(|name| name.trim_end().to_owned())
        .collect()
}

/// How many entries a directory of `/proc/<pid>` has: `fd`, `task`.
pub fn entries(pid: u32, dir: &str) -> Option<usize> {
    fs::read_dir(format!("/proc/{pid}/{dir}")).ok().map(Iterator::count)
}

/// How many memory mappings a process has.
pub fn mappings(pid: u32) -> Option<usize> {
    fs::read_to_string(format!("/proc/{pid}/maps")).ok().map(|text| text.lines().count())
}

/// The user that this process runs as.
pub fn own_user() -> u32 {
    fs::metadata("/proc/self").map_or(u32::MAX, |data| data.uid())
}

struct Stat {
    state: char,
    parent: u32,
    group: u32,
    ticks: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold anything, parentheses included.
    let rest = &text[text.rfind(')')? + 1..];
    let fields: Vec<&str> = rest.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        ticks: fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?,
    })
}

/// A user and a group of the machine, by name.
pub fn user(name: &str) -> Option<(u32, u32)> {
    let id = |flag: &str| {
        let output = Command::new("id").arg(flag).arg(name).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim().parse().ok()
    };
    Some((id("-u")?, id("-g")?))
}

/// Kills a process group when this process is gone, however it went.
///
/// Destructors do not run in a test that is killed. The guard is a shell that waits for the end of a pipe whose other
/// end only this process has.
#[derive(Debug)]
pub struct Guard {
    shell: Child,
}

impl Guard {
    /// Watches over the group.
    pub fn over(group: u32) -> io::Result<Guard> {
        let shell = Command::new("/bin/sh")
            .args(["-c", "read -r nothing; kill -s KILL -- \"-$1\"", "wasm-remap-guard"])
            .arg(group.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Guard { shell })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

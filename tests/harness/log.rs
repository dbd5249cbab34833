//! A server's logs: read whole, from a mark on, or as a tail for a failure's message.

use std::fs;
use std::path::{Path, PathBuf};

/// A place in the logs, before which everything is old.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mark {
    diags: usize,
    output: usize,
}

/// The log directory of one server.
#[derive(Clone, Debug)]
pub struct Logs {
    dir: PathBuf,
}

/// What a process writes as it dies, in its own words, its C library's or a sanitizer's.
const CRASHES: [&str; 10] = [
    "received signal ",
    "STACK TRACE",
    "terminated due to Sig",
    "failed assertion",
    "terminate called",
    "double free",
    "free(): invalid",
    "corrupted ",
    "ERROR: AddressSanitizer",
    "ERROR: LeakSanitizer",
];

impl Logs {
    pub(crate) fn new(dir: &Path) -> Logs {
        Logs { dir: dir.to_path_buf() }
    }

    /// Where they stand.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One file, empty if it is not there.
    pub fn read(&self, name: &str) -> String {
        fs::read(self.dir.join(name)).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The server's diagnostics.
    pub fn diags(&self) -> String {
        self.read("diags.log")
    }

    /// Its standard output and error, where a crash is told.
    pub fn output(&self) -> String {
        self.read("traffic.out")
    }

    /// The logs' present end.
    pub fn mark(&self) -> Mark {
        let len = |name: &str| fs::metadata(self.dir.join(name)).map_or(0, |data| data.len() as usize);
        Mark { diags: len("diags.log"), output: len("traffic.out") }
    }

    /// The complete lines since `mark`: of the diagnostics, then of the output.
    pub fn since(&self, mark: Mark) -> Vec<String> {
        let mut lines = tail_from(&self.dir.join("diags.log"), mark.diags);
        lines.extend(tail_from(&self.dir.join("traffic.out"), mark.output));
        lines
    }

    /// The first line that tells of a crash.
    pub fn crash(&self) -> Option<String> {
        let mut lines: Vec<String> = Vec::new();
        for name in ["traffic.out", "manager.log"] {
            lines.extend(self.read(name).lines().map(str::to_owned));
        }
        lines.into_iter().find(|line| CRASHES.iter().any(|crash| line.contains(crash)))
    }

    /// The end of every log, for a failure's message.
    pub fn tails(&self) -> String {
        let mut text = format!("logs in {}\n", self.dir.display());
        for name in ["diags.log", "manager.log", "error.log", "traffic.out"] {
            let lines: Vec<String> = self.read(name).lines().map(str::to_owned).collect();
            if lines.is_empty() {
                continue;
            }
            let skipped = lines.len().saturating_sub(30);
            text.push_str(&format!("--- {name}"));
            if skipped > 0 {
                text.push_str(&format!(" ({skipped} earlier lines not shown)"));
            }
            text.push('\n');
            for line in &lines[skipped..] {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

fn tail_from(path: &Path, offset: usize) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let new = bytes.get(offset..).unwrap_or_default();
    let complete = new.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    String::from_utf8_lossy(&new[..complete]).lines().map(str::to_owned).collect()
}

//! Load: wrk for a time, or our own client for a number of requests.

use std::fs;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::client::{Client, Connection};
use super::http::WireError;
use super::install;

/// What a load came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Responses that came whole.
    pub requests: u64,
    /// What went wrong.
    pub errors: Errors,
    /// The time it took.
    pub duration: Duration,
    /// Responses per second.
    pub rate: f64,
    /// The median latency.
    pub p50: Duration,
    /// The latency that one of a hundred exceeds.
    pub p99: Duration,
    /// What the tool printed.
    pub text: String,
}

/// Errors by their kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// No connection came about.
    pub connect: u64,
    /// A connection ended or was reset before the response's end.
    pub read: u64,
    /// The request could not be sent.
    pub write: u64,
    /// No response in time.
    pub timeout: u64,
    /// A response that is not 2xx or 3xx.
    pub status: u64,
}

impl Errors {
    /// Their sum.
    pub fn total(&self) -> u64 {
        self.connect + self.read + self.write + self.timeout + self.status
    }
}

/// A load by wrk.
#[derive(Clone, Debug)]
pub struct Wrk {
    port: u16,
    host: String,
    path: String,
    threads: u32,
    connections: u32,
    duration: Duration,
    headers: Vec<String>,
    script: Option<String>,
}

impl Wrk {
    /// One thread, 16 connections, 5 seconds.
    pub fn new(port: u16, host: &str, path: &str) -> Wrk {
        Wrk {
            port,
            host: host.to_owned(),
            path: path.to_owned(),
            threads: 1,
            connections: 16,
            duration: Duration::from_secs(5),
            headers: Vec::new(),
            script: None,
        }
    }

    /// The number of wrk's threads.
    pub fn threads(mut self, threads: u32) -> Wrk {
        self.threads = threads;
        self
    }

    /// The number of connections.
    pub fn connections(mut self, connections: u32) -> Wrk {
        self.connections = connections;
        self
    }

    /// How long, in whole seconds.
    pub fn duration(mut self, duration: Duration) -> Wrk {
        self.duration = duration;
        self
    }

    /// One more field for every request.
    pub fn header(mut self, name: &str, value: &str) -> Wrk {
        self.headers.push(format!("{name}: {value}"));
        self
    }

    /// A Lua script, as wrk takes it.
    pub fn script(mut self, lua: &str) -> Wrk {
        self.script = Some(lua.to_owned());
        self
    }

    /// Runs it.
    #[track_caller]
    pub fn run(&self) -> Report {
        let mut command = Command::new(install::tool("wrk", "wrk"));
        command.arg("--latency").arg(format!("-t{}", self.threads)).arg(format!("-c{}", self.connections));
        command.arg(format!("-d{}s", self.duration.as_secs().max(1))).arg("-H").arg(format!("Host: {}", self.host));
        for header in &self.headers {
            command.arg("-H").arg(header);
        }
        let script = self.script.as_ref().map(|lua| {
            let file = tempfile::Builder::new().suffix(".lua").tempfile().expect("a temporary file");
            fs::write(file.path(), lua).expect("a temporary file");
            file
        });
        if let Some(file) = &script {
            command.arg("-s").arg(file.path());
        }
        command.arg(format!("http://127.0.0.1:{}{}", self.port, self.path));
        let output = command.output().unwrap_or_else(|error| panic!("cannot run wrk: {error}"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "wrk failed: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        parse(&text).unwrap_or_else(|| panic!("wrk printed something else than its report:\n{text}"))
    }
}

fn parse(text: &str) -> Option<Report> {
    let mut report = Report { text: text.to_owned(), ..Report::default() };
    let mut counted = false;
    for line in text.lines().map(str::trim) {
        if let Some((requests, rest)) = line.split_once(" requests in ") {
            report.requests = requests.parse().ok()?;
            report.duration = time(rest.split(',').next()?)?;
            counted = true;
        } else if let Some(rate) = line.strip_prefix("Requests/sec:") {
            report.rate = rate.trim().parse().ok()?;
        } else if let Some(value) = line.strip_prefix("50%") {
            report.p50 = time(value.trim())?;
        } else if let Some(value) = line.strip_prefix("99%") {
            report.p99 = time(value.trim())?;
        } else if let Some(kinds) = line.strip_prefix("Socket errors:") {
            for kind in kinds.split(',') {
                let (name, count) = kind.trim().split_once(' ')?;
                let count = count.parse().ok()?;
                match name {
                    "connect" => report.errors.connect = count,
                    "read" => report.errors.read = count,
                    "write" => report.errors.write = count,
                    "timeout" => report.errors.timeout = count,
                    _ => return None,
                }
            }
        } else if let Some(count) = line.strip_prefix("Non-2xx or 3xx responses:") {
            report.errors.status = count.trim().parse().ok()?;
        }
    }
    counted.then_some(report)
}

fn time(text: &str) -> Option<Duration> {
    let digits = text.find(|character: char| character.is_ascii_alphabetic())?;
    let value: f64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Some(Duration::from_secs_f64(value * unit))
}

/// Sends exactly `count` requests of these bytes over `connections` connections at a time, and reopens those that the
/// server closes. A status that `expected` does not hold is an error.
#[track_caller]
pub fn requests(port: u16, request: &[u8], count: u64, connections: u32, expected: &[u16]) -> Report {
    let left = AtomicU64::new(count);
    // Whoever started first would send everything before the last had begun, if there is little to send.
    let start = Barrier::new(connections as usize);
    let begin = Instant::now();
    let parts: Vec<(Errors, Vec<Duration>)> = thread::scope(|scope| {
        let workers: Vec<_> =
            (0..connections).map(|_| scope.spawn(|| work(port, request, &left, &start, expected))).collect();
        workers.into_iter().map(|worker| worker.join().expect("a worker does not panic")).collect()
    });
    let duration = begin.elapsed();
    let mut report = Report { duration, ..Report::default() };
    let mut latencies = Vec::new();
    for (errors, part) in parts {
        report.errors.connect += errors.connect;
        report.errors.read += errors.read;
        report.errors.write += errors.write;
        report.errors.timeout += errors.timeout;
        report.errors.status += errors.status;
        latencies.extend(part);
    }
    latencies.sort_unstable();
    let at =
        |percent: usize| latencies.get(latencies.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
    report.requests = latencies.len() as u64;
    report.rate = report.requests as f64 / duration.as_secs_f64();
    (report.p50, report.p99) = (at(50), at(99));
    report
}

fn work(port: u16, request: &[u8], left: &AtomicU64, start: &Barrier, expected: &[u16]) -> (Errors, Vec<Duration>) {
    let method = request.split(|&byte| byte == b' ').next().unwrap_or_default();
    let method = String::from_utf8_lossy(method).into_owned();
    let mut errors = Errors::default();
    let mut latencies = Vec::new();
    // The first connection is there before anybody sends; one that cannot be opened is counted below.
    let mut client = Client::try_connect(port).ok().map(Client::discard_bodies);
    start.wait();
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        let begin = Instant::now();
        let mut connection = match client.take() {
            Some(connection) => connection,
            None => match Client::try_connect(port) {
                Ok(connection) => connection.discard_bodies(),
                Err(_) => {
                    errors.connect += 1;
                    continue;
                }
            },
        };
        if connection.try_send(request).is_err() {
            errors.write += 1;
            continue;
        }
        match connection.try_response_to(&method) {
            Ok(response) => {
                latencies.push(begin.elapsed());
                if !expected.contains(&response.status) {
                    errors.status += 1;
                }
                if !response.says_close() && connection.connection() == Connection::Open {
                    client = Some(connection);
                }
            }
            Err(error) if matches!(error.error, WireError::Timeout) => errors.timeout += 1,
            Err(_) => errors.read += 1,
        }
    }
    (errors, latencies)
}

#[cfg(test)]
mod tests {
    use super::super::origin::{Origin, Reply};
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read() {
        let text = "Running 10s test @ http://127.0.0.1:1/\n  Latency Distribution\n     50%  635.91us\n     99%    1.02ms\n  \
                    22464657 requests in 30.00s, 17.76GB read\n  Socket errors: connect 1, read 2, write 3, timeout 4\n  \
                    Non-2xx or 3xx responses: 5\nRequests/sec: 748868.53\nTransfer/sec:    606.33MB\n";
        let report = parse(text).unwrap();
        assert_eq!((report.requests, report.duration, report.rate), (22_464_657, Duration::from_secs(30), 748_868.53));
        assert_eq!((report.p50, report.p99), (Duration::from_nanos(635_910), Duration::from_micros(1020)));
        assert_eq!(report.errors, Errors { connect: 1, read: 2, write: 3, timeout: 4, status: 5 });
        assert!(parse("wrk: not found").is_none());
    }

    #[test]
    fn a_number_of_requests_is_that_number() {
        let origin = Origin::start();
        origin.discard();
        origin.route("/", Reply::new(200).body("x"));
        origin.route("/no", Reply::new(500).close());
        let report = requests(origin.port(), b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 500, 4, &[200]);
        assert_eq!((report.requests, report.errors.total(), origin.request_count()), (500, 0, 500));
        assert_eq!(origin.connection_count(), 4);
        let report = requests(origin.port(), b"GET /no HTTP/1.1\r\nHost: a\r\n\r\n", 10, 2, &[200]);
        assert_eq!((report.requests, report.errors.status), (10, 10));
    }

    #[test]
    fn wrk_runs() {
        let origin = Origin::start();
        origin.discard();
        let report = Wrk::new(origin.port(), "a.test", "/").duration(Duration::from_secs(1)).connections(2).run();
        assert!(report.requests > 100, "{}", report.text);
        assert_eq!(report.errors, Errors::default(), "{}", report.text);
    }
}

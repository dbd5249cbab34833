//! A client that sends requests when they are due, whatever became of those before.
//!
//! wrk sends the next request when the last was answered: a server that stalls is then asked less, and what would have
//! come meanwhile is in no latency. Here each request has its time beforehand, as requests of many clients have that
//! know nothing of each other, and its latency counts from then, even if it had to wait for a connection.
//!
//! One thread turns without sleeping and looks at the connections whose answer is due: it has a core to itself, and a
//! sleep would take longer to end than an answer takes to come.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// What no answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// So many a second, at times that are as random as those of many clients (a Poisson process), and the same for the
    /// same seed.
    Rate { each_second: f64, seed: u64 },
    /// As soon as a connection is free: the most that the server answers.
    Peak,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    /// Latencies in nanoseconds.
    pub(crate) latencies: Histogram<u64>,
    /// From the first request to the last answer.
    pub(crate) time: Duration,
    /// Requests that were due and not sent any more when the time was up, since no connection was free.
    pub(crate) unsent: u64,
}

impl Answers {
    /// The latency that this share of all requests did not exceed, in microseconds.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1000.0
    }

    /// Answers a second.
    pub(crate) fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.time.as_secs_f64()
    }
}

/// Latencies in nanoseconds, to a thousandth, up to a minute.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("three digits are possible")
}

/// Sends requests for so long and waits for the last answers. Every answer has this status.
///
/// # Errors
/// What went wrong.
pub(crate) fn run(
    port: u16,
    request: &[u8],
    status: u16,
    connections: usize,
    pace: Pace,
    duration: Duration,
) -> Result<Answers, String> {
    let lines = (0..connections).map(|_| Line::open(port)).collect::<Result<Vec<_>, _>>();
    let mut lines = lines.map_err(|error| format!("no connection: {error}"))?;
    // Those on which a request may be sent; the one that waited longest first, so that all are used.
    let mut free: VecDeque<usize> = (0..connections).collect();
    let mut busy: Vec<usize> = Vec::new();
    let mut schedule = Schedule::new(pace);
    let mut latencies = histogram();
    let begin = Instant::now();
    let mut now = begin;
    loop {
        let sending = now - begin < duration;
        while sending && let Some(&at) = free.front() {
            let due = match schedule.due() {
                Some(due) if begin + due > now => break,
                Some(due) => begin + due,
                None => now,
            };
            lines[at].send(request, due)?;
            free.pop_front();
            busy.push(at);
            schedule.advance();
            now = Instant::now();
        }
        if !sending && busy.is_empty() {
            break;
        }
        let mut turn = 0;
        while turn < busy.len() {
            let at = busy[turn];
            if lines[at].answered(status)? {
                now = Instant::now();
                let latency = now.saturating_duration_since(lines[at].due);
                latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
                busy.swap_remove(turn);
                free.push_back(at);
            } else {
                turn += 1;
            }
        }
        now = Instant::now();
        if now - begin > duration + PATIENCE {
            return Err(format!("{} answers did not come", busy.len()));
        }
    }
    let mut unsent = 0;
    while schedule.due().is_some_and(|due| due < duration) {
        unsent += 1;
        schedule.advance();
    }
    Ok(Answers { latencies, time: now - begin, unsent })
}

/// When requests are due, from the beginning.
struct Schedule {
    /// The mean of the time between two; `None`: whenever it is possible.
    mean: Option<f64>,
    state: u64,
    /// In seconds.
    next: f64,
}

impl Schedule {
    fn new(pace: Pace) -> Schedule {
        let (mean, seed) = match pace {
            Pace::Rate { each_second, seed } => (Some(1.0 / each_second), seed),
            Pace::Peak => (None, 0),
        };
        let mut schedule = Schedule { mean, state: seed ^ 0x9e37_79b9_7f4a_7c15, next: 0.0 };
        schedule.advance();
        schedule
    }

    fn due(&self) -> Option<Duration> {
        self.mean.map(|_| Duration::from_secs_f64(self.next))
    }

    fn advance(&mut self) {
        let Some(mean) = self.mean else { return };
        // xorshift64*: good enough for this, and the same everywhere.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let bits = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11;
        let share = (bits as f64 + 1.0) / (1u64 << 53) as f64;
        self.next -= mean * share.ln();
    }
}

/// One connection, with one request on its way at most.
struct Line {
    stream: TcpStream,
    due: Instant,
    buffer: Box<[u8; 4096]>,
    filled: usize,
}

impl Line {
    fn open(port: u16) -> std::io::Result<Line> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Line { stream, due: Instant::now(), buffer: Box::new([0; 4096]), filled: 0 })
    }

    fn send(&mut self, request: &[u8], due: Instant) -> Result<(), String> {
        self.due = due;
        match self.stream.write(request) {
            Ok(sent) if sent == request.len() => Ok(()),
            // A socket that has nothing under way takes all of a small request.
            Ok(sent) => Err(format!("only {sent} bytes of a request were taken")),
            Err(error) => Err(format!("a request was not taken: {error}")),
        }
    }

    /// Whether the whole answer is here.
    fn answered(&mut self, status: u16) -> Result<bool, String> {
        match self.stream.read(&mut self.buffer[self.filled..]) {
            Ok(0) => return Err("the server closed a connection, or answered too much".to_owned()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("the server's answer: {error}")),
        }
        let received = &self.buffer[..self.filled];
        let Some(answer) = Answer::read(received)? else { return Ok(false) };
        if answer.status != status || self.filled > answer.length {
            return Err(format!("not the expected answer: {:?}", String::from_utf8_lossy(received)));
        }
        let whole = self.filled == answer.length;
        if whole {
            self.filled = 0;
        }
        Ok(whole)
    }
}

/// What the head of an answer says.
#[derive(Debug, PartialEq)]
struct Answer {
    status: u16,
    /// Of head and body.
    length: usize,
}

impl Answer {
    /// `None` if the head is not whole.
    fn read(bytes: &[u8]) -> Result<Option<Answer>, String> {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
        let head = String::from_utf8_lossy(&bytes[..end]);
        let wrong = || format!("an answer without status or content-length: {head:?}");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).ok_or_else(wrong)?;
        let body: usize = head
            .lines()
            .find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            })
            .ok_or_else(wrong)?;
        Ok(Some(Answer { status, length: end + 4 + body }))
    }
}

#[cfg(test)]
mod tests {
    use wasm_remap_tests::{Origin, Reply};

    use super::*;

    #[test]
    fn a_schedule_has_its_rate_and_is_the_same_again() {
        let times = |seed| {
            let mut schedule = Schedule::new(Pace::Rate { each_second: 1000.0, seed });
            let times: Vec<Duration> = (0..20_000)
                .map(|_| {
                    schedule.advance();
                    schedule.due().expect("it has a rate")
                })
                .collect();
            times
        };
        let first = times(1);
        assert_eq!(first, times(1));
        assert_ne!(first, times(2));
        let last = first[19_999].as_secs_f64();
        assert!((19.0..21.0).contains(&last), "20000 requests at 1000 a second took {last} s");
        // Of a Poisson process, one gap in e is longer than the mean.
        let long = first.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(1)).count();
        assert!((6800..7900).contains(&long), "{long}");
    }

    #[test]
    fn an_answer_ends_where_its_head_says() {
        let read = |text: &str| Answer::read(text.as_bytes());
        assert_eq!(read("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n"), Ok(None));
        let whole = read("HTTP/1.1 302 Found\r\ncontent-LENGTH: 3\r\nAge: 0\r\n\r\nabc").unwrap().unwrap();
        assert_eq!(whole, Answer { status: 302, length: 52 });
        assert!(read("HTTP/1.1 200 OK\r\n\r\n").unwrap_err().contains("content-length"));
    }

    #[test]
    fn a_stall_is_in_the_latency_of_every_request_that_was_due_meanwhile() {
        const STALL: Duration = Duration::from_millis(200);
        let origin = Origin::start();
        origin.discard();
        let stalled = std::sync::atomic::AtomicBool::new(false);
        origin.route("/", move |request: &wasm_remap_tests::Request| {
            if request.sequence == 10 && !stalled.swap(true, std::sync::atomic::Ordering::Relaxed) {
                std::thread::sleep(STALL);
            }
            Reply::new(200).body("x")
        });
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let pace = Pace::Rate { each_second: 1000.0, seed: 7 };
        // One connection: all that is due waits for it.
        let answers = run(origin.port(), request, 200, 1, pace, Duration::from_millis(600)).unwrap();
        let sent = answers.latencies.len() + answers.unsent;
        assert!((500..700).contains(&sent), "{sent} requests were due in 0.6 s at 1000 a second");
        let slow = answers.latencies.len() - answers.latencies.count_between(1, 20_000_000);
        assert!(slow > 100, "{slow} of about 180 requests met the stall");
        let wrong = run(origin.port(), request, 404, 2, Pace::Peak, Duration::from_millis(20)).unwrap_err();
        assert!(wrong.starts_with("not the expected answer"), "{wrong}");
        let peak = run(origin.port(), request, 200, 2, Pace::Peak, Duration::from_millis(50)).unwrap();
        assert!(peak.rate() > 100.0 && peak.quantile(0.5) > 1.0, "{peak:?}");
    }
}

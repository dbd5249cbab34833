//! Who asks: a few connections, one response at a time on each, of which little more is looked at than where it ends.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Read at once.
const BUFFER: usize = 256 << 10;
/// What ends a body in chunks; no body has it.
const END: &[u8] = b"\r\n0\r\n\r\n";

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(crate) port: u16,
    pub(crate) host: &'static str,
    pub(crate) path: String,
    /// Of the body.
    pub(crate) size: usize,
}

impl Client {
    /// Asks this often.
    pub(crate) fn send(&self, connections: usize, count: u64) {
        let left = AtomicU64::new(count);
        let more = || left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        self.ask(connections, |_| more());
    }

    /// Asks for so long, and answers how many responses came in which time.
    pub(crate) fn run(&self, connections: usize, time: Duration) -> (u64, Duration) {
        self.ask(connections, |begun| begun.elapsed() < time)
    }

    fn ask(&self, connections: usize, more: impl Fn(Instant) -> bool + Sync) -> (u64, Duration) {
        // The first response's beginning to the last one's end.
        let start = Barrier::new(connections);
        let work = || {
            let mut connection = Connection::new(self);
            start.wait();
            let begun = Instant::now();
            let mut count = 0;
            while more(begun) {
                connection.fetch();
                count += 1;
            }
            (count, begun.elapsed())
        };
        let parts: Vec<(u64, Duration)> = thread::scope(|scope| {
            let workers: Vec<_> = (0..connections).map(|_| scope.spawn(work)).collect();
            workers.into_iter().map(|worker| worker.join().expect("every response comes whole")).collect()
        });
        let time = parts.iter().map(|part| part.1).max().unwrap_or_default();
        (parts.iter().map(|part| part.0).sum(), time)
    }
}

struct Connection<'c> {
    client: &'c Client,
    request: Vec<u8>,
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl<'c> Connection<'c> {
    fn new(client: &'c Client) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, client.port)).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout above 0");
        let request = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", client.path, client.host).into_bytes();
        Connection { client, request, stream, buffer: vec![0; BUFFER] }
    }

    fn read(&mut self, from: usize) -> usize {
        let count = self.stream.read(&mut self.buffer[from..]);
        let count = count.unwrap_or_else(|error| panic!("{} {}: {error}", self.client.host, self.client.path));
        assert!(count > 0, "{} {}: the connection ends", self.client.host, self.client.path);
        count
    }

    /// Asks once, and reads the response to its end.
    fn fetch(&mut self) {
        self.stream.write_all(&self.request).expect("the server reads");
        let mut read = 0;
        let head = loop {
            read += self.read(read);
            if let Some(at) = self.buffer[..read].windows(4).position(|end| end == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let text = String::from_utf8_lossy(&self.buffer[..head]).to_ascii_lowercase();
        assert!(text.starts_with("http/1.1 200 "), "{} {}: {text}", self.client.host, self.client.path);
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let mut body = read - head;
        match length {
            Some(length) => {
                while body < length {
                    body += self.read(0);
                }
                assert_eq!((body, length), (self.client.size, self.client.size), "{}", self.client.host);
            }
            None => {
                // The last bytes of what came, also where it came in pieces.
                let mut tail: Vec<u8> = Vec::with_capacity(2 * END.len());
                let mut range = head..read;
                loop {
                    let piece = &self.buffer[range.clone()];
                    tail.extend_from_slice(&piece[piece.len().saturating_sub(END.len())..]);
                    tail.drain(..tail.len().saturating_sub(END.len()));
                    if tail == END {
                        break;
                    }
                    range = 0..self.read(0);
                    body += range.end;
                }
                assert!(body > self.client.size, "{} {}: {body} bytes", self.client.host, self.client.path);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn responses_are_read_to_their_ends() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            for (first, second) in [
                ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", "cde"),
                ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r", "\n\r\n"),
            ] {
                assert!(stream.read(&mut asked).unwrap() > 0);
                stream.write_all(first.as_bytes()).unwrap();
                thread::sleep(Duration::from_millis(20));
                stream.write_all(second.as_bytes()).unwrap();
            }
            stream.read(&mut asked).unwrap()
        });
        let client = Client { port, host: "a.test", path: "/".to_owned(), size: 5 };
        client.send(1, 2);
        assert_eq!(server.join().unwrap(), 0, "the client leaves, and asks no more");
    }
}

//! The origin's connections: requests in, replies out, every byte recorded.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

use super::super::http::{self, Body, Cut, Framing, Head, Wire, WireError};
use super::reply::Reply;
use super::send::send;
use super::{Request, Route, Shared, lock};

pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let connection = shared.connections.fetch_add(1, Ordering::Relaxed);
        lock(&shared.recorded).bytes.push(Vec::new());
        let stream = Arc::new(stream);
        lock(&shared.open).insert(connection, Arc::clone(&stream));
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            // The client going away is no fault of the origin's.
            let _ = stream.set_nodelay(true);
            let ending = serve(&stream, connection, &shared);
            if ending == Ending::Reset {
                let _ = set_socket_linger(&*stream, Some(Duration::ZERO));
            }
            // The last reference closes the socket.
            lock(&shared.open).remove(&connection);
        });
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    KeepAlive,
    Close,
    Reset,
}

fn serve(stream: &Arc<TcpStream>, connection: usize, shared: &Shared) -> Ending {
    let mut wire = Wire::new(Tap { stream: Arc::clone(stream), connection, shared });
    for sequence in 0.. {
        let head = match wire.head() {
            Ok(Some(head)) => head,
            Ok(None) => return Ending::Close,
            Err(WireError::Malformed(what)) => {
                let body = format!("the origin cannot read this: {what}\n");
                let _ = send(stream, &Reply::new(400).body(body).close(), "GET", shared);
                return Ending::Close;
            }
            Err(_) => return Ending::Close,
        };
        let route = find_route(shared, &head);
        let early = route.as_ref().is_some_and(|route| route.early);
        let expects = head.fields.has_token("expect", "100-continue");
        let refused = expects && shared.refuse_expect.load(Ordering::Relaxed);
        let body = if early || refused {
            Ok(Body::none())
        } else {
            if expects && (&**stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n").is_err() {
                return Ending::Close;
            }
            read_body(&mut wire, &head, shared)
        };
        let (body, broken) = match body {
            Ok(body) => (body, None),
            Err(cut) => (cut.body, Some(cut.error.to_string())),
        };
        let keep_alive = head.first[2] != "HTTP/1.0" && !head.fields.has_token("connection", "close");
        let cut = broken.is_some();
        let request = record(shared, connection, sequence, head, body, broken);
        if cut {
            return Ending::Close;
        }
        let reply = match &route {
            _ if refused => Reply::new(417).close(),
            Some(route) => route.handler.reply(&request),
            None => Reply::echo(&request),
        };
        match send(stream, &reply, &request.method, shared) {
            Ok(Ending::KeepAlive) if keep_alive && !early => {}
            Ok(Ending::Reset) => return Ending::Reset,
            _ => return Ending::Close,
        }
    }
    Ending::Close
}

fn read_body(wire: &mut Wire<Tap<'_>>, head: &Head, shared: &Shared) -> Result<Body, Box<Cut>> {
    let framing = http::announced(&head.fields).map_err(|error| Box::new(Cut { error, body: Body::none() }))?;
    wire.body(framing.unwrap_or(Framing::None), shared.keep.load(Ordering::Relaxed))
}

fn find_route(shared: &Shared, head: &Head) -> Option<Route> {
    let target = head.first[1].as_str();
    let path = target.split('?').next().unwrap_or_default();
    let fits = |route: &&Route| match route.pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => route.pattern == path,
    };
    lock(&shared.routes).iter().rev().find(fits).cloned()
}

fn record(
    shared: &Shared,
    connection: usize,
    sequence: usize,
    head: Head,
    body: Body,
    broken: Option<String>,
) -> Request {
    let [method, target, version] = head.first;
    let request = Request {
        connection,
        sequence,
        method,
        target,
        version,
        headers: head.fields,
        head: head.raw,
        body: body.bytes,
        raw_body: body.raw,
        body_len: body.len,
        body_hash: body.hash,
        framing: body.framing,
        broken,
    };
    shared.requests.fetch_add(1, Ordering::Relaxed);
    if shared.list.load(Ordering::Relaxed) {
        lock(&shared.recorded).requests.push(request.clone());
        shared.arrived.notify_all();
    }
    request
}

/// Sleeps in small steps, so that a dropped origin does not keep its threads.
pub(super) fn sleep(shared: &Shared, duration: Duration) {
    let end = Instant::now() + duration;
    while !shared.stop.load(Ordering::Relaxed) {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(20)));
    }
}

/// Keeps a copy of what a connection sends.
struct Tap<'a> {
    stream: Arc<TcpStream>,
    connection: usize,
    shared: &'a Shared,
}

impl Read for Tap<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let limit = self.shared.read_size.load(Ordering::Relaxed).min(out.len());
        let pause = self.shared.read_pause.load(Ordering::Relaxed);
        if pause > 0 {
            sleep(self.shared, Duration::from_micros(pause));
        }
        let count = (&*self.stream).read(&mut out[..limit])?;
        if self.shared.keep.load(Ordering::Relaxed)
            && let Some(bytes) = lock(&self.shared.recorded).bytes.get_mut(self.connection)
        {
            bytes.extend_from_slice(&out[..count]);
        }
        Ok(count)
    }
}

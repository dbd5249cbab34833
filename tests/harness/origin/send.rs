//! A reply, put on the wire.

use std::io::{self, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::Shared;
use super::reply::{Break, Reply, Sent};
use super::serve::{Ending, sleep};

pub(super) fn send(stream: &TcpStream, reply: &Reply, method: &str, shared: &Shared) -> io::Result<Ending> {
    sleep(shared, reply.delay);
    let mut out = stream;
    if let Some(raw) = &reply.raw {
        out.write_all(raw)?;
        return Ok(Ending::Close);
    }
    let bodiless = method == "HEAD" || matches!(reply.status, 100..=199 | 204 | 304);
    let mut first = reply.interim.clone();
    first.extend_from_slice(&head_of(reply));
    let len = if bodiless { 0 } else { reply.content.len() };
    let limit = reply.broken.map_or(len, |(_, bytes)| bytes.min(len));
    let mut content = reply.content.reader();
    // The head goes with the first piece, so that a small response is one packet.
    let mut pending = first;
    let mut position: u64 = 0;
    while position < limit {
        if !reply.pause.is_zero() {
            out.write_all(&std::mem::take(&mut pending))?;
            sleep(shared, reply.pause);
        }
        let size = (limit - position).min(reply.piece as u64) as usize;
        if reply.sent == Sent::Chunked {
            pending.extend_from_slice(format!("{size:x}\r\n").as_bytes());
        }
        let old = pending.len();
        pending.resize(old + size, 0);
        content.fill(&mut pending[old..]);
        if reply.sent == Sent::Chunked {
            pending.extend_from_slice(b"\r\n");
        }
        position += size as u64;
        if !reply.pause.is_zero() || pending.len() >= 64 * 1024 {
            out.write_all(&std::mem::take(&mut pending))?;
        }
    }
    if let Some((how, _)) = reply.broken {
        out.write_all(&pending)?;
        // What was written is to be read and passed on before the connection ends.
        sleep(shared, Duration::from_millis(50));
        match how {
            Break::Reset => return Ok(Ending::Reset),
            Break::Close => return Ok(Ending::Close),
            Break::Hang => {
                sleep(shared, Duration::from_secs(3600));
                return Ok(Ending::Close);
            }
        }
    }
    if reply.sent == Sent::Chunked && !bodiless {
        pending.extend_from_slice(b"0\r\n");
        for (name, value) in &reply.trailers {
            pending.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        pending.extend_from_slice(b"\r\n");
    }
    out.write_all(&pending)?;
    Ok(if reply.close { Ending::Close } else { Ending::KeepAlive })
}

fn head_of(reply: &Reply) -> Vec<u8> {
    let reason = reply.reason.as_deref().unwrap_or_else(|| usual_reason(reply.status));
    let mut head = format!("HTTP/1.1 {} {reason}\r\n", reply.status).into_bytes();
    for (name, value) in &reply.headers {
        head.extend_from_slice(format!("{name}: ").as_bytes());
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    }
    let has_length = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let without_body = matches!(reply.status, 100..=199 | 204 | 304);
    match reply.sent {
        Sent::Length if !has_length && !without_body => {
            head.extend_from_slice(format!("Content-Length: {}\r\n", reply.content.len()).as_bytes());
        }
        Sent::Chunked if !without_body => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    head.extend_from_slice(b"\r\n");
    head
}

fn usual_reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        417 => "Expectation Failed",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

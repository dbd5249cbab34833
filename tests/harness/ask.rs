//! A request as a test describes it: for HTTP/1.1 and HTTP/2 alike, its body made as it is sent.

use std::io::{self, Write};
use std::thread;

use super::client::{Client, ClientError, Response};
use super::payload::Payload;

/// How a body's end is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Content-Length.
    Length,
    /// HTTP/1.1: chunks of this size; HTTP/2: no Content-Length.
    Chunked(usize),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Ask {
    pub(crate) method: String,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Payload>,
    pub(crate) sending: Sending,
    pub(crate) extension: String,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) expect: bool,
    pub(crate) version: &'static str,
}

impl Ask {
    /// A request without a body.
    pub fn new(method: &str, host: &str, path: &str) -> Ask {
        Ask {
            method: method.to_owned(),
            host: host.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
            sending: Sending::Length,
            extension: String::new(),
            trailers: Vec::new(),
            expect: false,
            version: "HTTP/1.1",
        }
    }

    /// GET.
    pub fn get(host: &str, path: &str) -> Ask {
        Ask::new("GET", host, path)
    }

    /// POST.
    pub fn post(host: &str, path: &str, body: Payload) -> Ask {
        Ask::new("POST", host, path).body(body)
    }

    /// One more field.
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The body, with Content-Length if nothing else is said.
    pub fn body(mut self, body: Payload) -> Ask {
        self.body = Some(body);
        self
    }

    /// How the body's end is told.
    pub fn sending(mut self, sending: Sending) -> Ask {
        self.sending = sending;
        self
    }

    /// What stands behind every chunk's size, such as `;a=b`.
    pub fn extension(mut self, extension: &str) -> Ask {
        extension.clone_into(&mut self.extension);
        self
    }

    /// A field after the last chunk.
    pub fn trailer(mut self, name: &str, value: &str) -> Ask {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Says `Expect: 100-continue` and waits for it before the body.
    pub fn expect_continue(mut self) -> Ask {
        self.expect = true;
        self
    }

    /// Says `HTTP/1.0`.
    pub fn http10(mut self) -> Ask {
        self.version = "HTTP/1.0";
        self
    }

    /// Whether it has a body, even an empty one.
    pub fn has_body(&self) -> bool {
        self.body.is_some()
    }

    /// How many bytes its body has; none if there is no body.
    pub fn body_len(&self) -> u64 {
        self.body.as_ref().map_or(0, Payload::len)
    }

    /// The head as HTTP/1.1 has it, the empty line included.
    pub fn head(&self) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\nHost: {}\r\n", self.method, self.path, self.version, self.host);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.expect {
            head.push_str("Expect: 100-continue\r\n");
        }
        if let Some(body) = &self.body {
            match self.sending {
                Sending::Length => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
                Sending::Chunked(_) => head.push_str("Transfer-Encoding: chunked\r\n"),
            }
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Sends the first `limit` bytes of the body as HTTP/1.1 has it; the end only if that is all.
    pub fn write_body(&self, out: &mut impl Write, limit: u64) -> io::Result<()> {
        let Some(body) = &self.body else { return Ok(()) };
        let mut reader = body.reader();
        let mut left = body.len().min(limit);
        let mut piece = vec![0; 64 * 1024];
        let mut pending = Vec::new();
        let most = match self.sending {
            Sending::Length => piece.len(),
            Sending::Chunked(size) => size.clamp(1, piece.len()),
        };
        while left > 0 {
            let size = left.min(most as u64) as usize;
            let size = reader.fill(&mut piece[..size]);
            left -= size as u64;
            if self.sending == Sending::Length {
                out.write_all(&piece[..size])?;
                continue;
            }
            pending.extend_from_slice(format!("{size:x}{}\r\n", self.extension).as_bytes());
            pending.extend_from_slice(&piece[..size]);
            pending.extend_from_slice(b"\r\n");
            // Small chunks go out together.
            if pending.len() >= 64 * 1024 {
                out.write_all(&pending)?;
                pending.clear();
            }
        }
        if self.sending != Sending::Length && limit >= body.len() {
            pending.extend_from_slice(b"0\r\n");
            for (name, value) in &self.trailers {
                pending.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            pending.extend_from_slice(b"\r\n");
        }
        out.write_all(&pending)
    }
}

impl Client {
    /// Sends a request and reads its response meanwhile: a server may answer before it has the whole body, and close.
    pub fn exchange(&mut self, ask: &Ask) -> Result<Response, ClientError> {
        // An answer may be on its way although nothing more can be sent.
        let sent = self.try_send(ask.head());
        if ask.expect && sent.is_ok() {
            match self.continued() {
                Ok(true) => {}
                _ => return self.try_response_to(&ask.method),
            }
        }
        let mut writer = self.writer();
        thread::scope(|scope| {
            if ask.body.as_ref().is_some_and(|body| body.len() > 64 * 1024) {
                scope.spawn(move || ask.write_body(&mut writer, u64::MAX));
            } else if ask.body.is_some() {
                let _ = ask.write_body(&mut writer, u64::MAX);
            }
            let response = self.try_response_to(&ask.method);
            if response.is_err() || response.as_ref().is_ok_and(Response::says_close) {
                // Whoever still writes is to give up.
                self.finish_sending();
            }
            response
        })
    }
}

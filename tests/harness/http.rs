//! HTTP/1.1 as bytes: heads, bodies and their framing, for the client and the origin alike. Nothing is normalised.

use std::fmt;
use std::io::{self, Read};

use super::payload::Hash;

/// A head longer than this is a fault.
const HEAD_LIMIT: usize = 1 << 20;

/// Header fields as they came: order, case and duplicates kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(pub Vec<(String, Vec<u8>)>);

impl Fields {
    /// The first value of a name, whose case does not matter; bytes that are not UTF-8 are replaced.
    pub fn get(&self, name: &str) -> Option<String> {
        self.raw(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// The first value, exactly.
    pub fn raw(&self, name: &str) -> Option<&[u8]> {
        self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    /// All values of a name, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let values = self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        values.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// Whether a name occurs.
    pub fn contains(&self, name: &str) -> bool {
        self.raw(name).is_some()
    }

    /// The names, in order and as they were spelt.
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// Whether a comma-separated field holds a token.
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.all(name).iter().flat_map(|value| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    }
}

/// How the end of a body was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There was none: HEAD, 204, 304, a request without either header.
    None,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked {
        /// The size of each chunk but the last.
        chunks: Vec<u64>,
        /// What followed the last one.
        trailers: Fields,
    },
    /// The end of the connection.
    Close,
}

/// What reading gave up on.
#[derive(Debug)]
pub enum WireError {
    /// The connection ended in the middle.
    Closed,
    /// It was reset.
    Reset,
    /// Nothing came in time.
    Timeout,
    /// What came is not HTTP/1.
    Malformed(String),
    /// Anything else.
    Io(io::Error),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Closed => f.write_str("the connection ended in the middle"),
            WireError::Reset => f.write_str("the connection was reset"),
            WireError::Timeout => f.write_str("nothing came in time"),
            WireError::Malformed(what) => write!(f, "not HTTP/1: {what}"),
            WireError::Io(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> WireError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => WireError::Timeout,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
                WireError::Reset
            }
            io::ErrorKind::UnexpectedEof => WireError::Closed,
            _ => WireError::Io(error),
        }
    }
}

/// A head, parsed as far as its lines.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// The three parts of the first line; the last may be empty.
    pub(crate) first: [String; 3],
    pub(crate) fields: Fields,
    /// Exactly what came, the empty line included.
    pub(crate) raw: Vec<u8>,
}

/// A body that was read, or the part of it that was kept.
#[derive(Clone, Debug)]
pub(crate) struct Body {
    /// Without framing; empty if bodies are not kept.
    pub(crate) bytes: Vec<u8>,
    /// With framing.
    pub(crate) raw: Vec<u8>,
    pub(crate) len: u64,
    pub(crate) hash: u64,
    pub(crate) framing: Framing,
}

/// A body that did not come whole.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) error: WireError,
    pub(crate) body: Body,
}

impl Body {
    pub(crate) fn none() -> Body {
        Body { bytes: Vec::new(), raw: Vec::new(), len: 0, hash: Hash::default().value(), framing: Framing::None }
    }
}

struct Sink {
    keep: bool,
    body: Vec<u8>,
    raw: Vec<u8>,
    len: u64,
    hash: Hash,
}

impl Sink {
    fn payload(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        self.hash.update(bytes);
        if self.keep {
            self.body.extend_from_slice(bytes);
            self.raw.extend_from_slice(bytes);
        }
    }

    fn frame(&mut self, bytes: &[u8]) {
        if self.keep {
            self.raw.extend_from_slice(bytes);
        }
    }
}

/// A connection's incoming bytes.
#[derive(Debug)]
pub(crate) struct Wire<R> {
    pub(crate) inner: R,
    buffer: Vec<u8>,
    start: usize,
    scratch: Vec<u8>,
}

impl<R: Read> Wire<R> {
    pub(crate) fn new(inner: R) -> Wire<R> {
        Wire { inner, buffer: Vec::new(), start: 0, scratch: vec![0; 64 * 1024] }
    }

    /// What came and was not yet consumed.
    pub(crate) fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads once; false at the end.
    fn fill(&mut self) -> Result<bool, WireError> {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
        let count = loop {
            match self.inner.read(&mut self.scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.buffer.extend_from_slice(&self.scratch[..count]);
        Ok(count > 0)
    }

    fn consume(&mut self, count: usize) -> Vec<u8> {
        let bytes = self.buffer[self.start..self.start + count].to_vec();
        self.start += count;
        bytes
    }

    /// The next head; `None` if the connection ended before its first byte.
    pub(crate) fn head(&mut self) -> Result<Option<Head>, WireError> {
        let end = loop {
            if let Some(at) = find(self.pending(), b"\r\n\r\n") {
                break at + 4;
            }
            if self.pending().len() > HEAD_LIMIT {
                return Err(WireError::Malformed("a head without end".to_owned()));
            }
            if !self.fill()? {
                return if self.pending().is_empty() { Ok(None) } else { Err(WireError::Closed) };
            }
        };
        let raw = self.consume(end);
        parse_head(raw).map(Some)
    }

    /// A line and its CRLF.
    fn line(&mut self) -> Result<Vec<u8>, WireError> {
        loop {
            if let Some(at) = find(self.pending(), b"\r\n") {
                return Ok(self.consume(at + 2));
            }
            if self.pending().len() > HEAD_LIMIT {
                return Err(WireError::Malformed("a line without end".to_owned()));
            }
            if !self.fill()? {
                return Err(WireError::Closed);
            }
        }
    }

    fn exact(&mut self, mut count: u64, sink: &mut Sink) -> Result<(), WireError> {
        while count > 0 {
            if self.pending().is_empty() && !self.fill()? {
                return Err(WireError::Closed);
            }
            let size = count.min(self.pending().len() as u64) as usize;
            sink.payload(&self.buffer[self.start..self.start + size]);
            self.start += size;
            count -= size as u64;
        }
        Ok(())
    }

    /// Reads a body whose framing is already known. What was read before an error is given with it.
    pub(crate) fn body(&mut self, framing: Framing, keep: bool) -> Result<Body, Box<Cut>> {
        let mut sink = Sink { keep, body: Vec::new(), raw: Vec::new(), len: 0, hash: Hash::default() };
        let mut framing = framing;
        let result = match &mut framing {
            Framing::None => Ok(()),
            Framing::Length(length) => self.exact(*length, &mut sink),
            Framing::Chunked { chunks, trailers } => self.chunked(&mut sink, chunks, trailers),
            Framing::Close => self.until_end(&mut sink),
        };
        let body = Body { bytes: sink.body, raw: sink.raw, len: sink.len, hash: sink.hash.value(), framing };
        match result {
            Ok(()) => Ok(body),
            Err(error) => Err(Box::new(Cut { error, body })),
        }
    }

    fn until_end(&mut self, sink: &mut Sink) -> Result<(), WireError> {
        loop {
            sink.payload(&self.buffer[self.start..]);
            self.start = self.buffer.len();
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    fn chunked(&mut self, sink: &mut Sink, chunks: &mut Vec<u64>, trailers: &mut Fields) -> Result<(), WireError> {
        loop {
            let line = self.line()?;
            sink.frame(&line);
            let text = String::from_utf8_lossy(&line);
            let digits = text.trim_end().split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(digits, 16)
                .map_err(|_| WireError::Malformed(format!("a chunk of size {text:?}")))?;
            if size == 0 {
                break;
            }
            chunks.push(size);
            self.exact(size, sink)?;
            let end = self.line()?;
            sink.frame(&end);
            if end != b"\r\n" {
                return Err(WireError::Malformed(format!(
                    "a chunk of {size} bytes that goes on with {:?}",
                    String::from_utf8_lossy(&end)
                )));
            }
        }
        loop {
            let line = self.line()?;
            sink.frame(&line);
            if line == b"\r\n" {
                return Ok(());
            }
            trailers.0.push(parse_field(&line)?);
        }
    }
}

fn parse_head(raw: Vec<u8>) -> Result<Head, WireError> {
    let text = &raw[..raw.len() - 4];
    let mut lines = split(text, b"\r\n");
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut parts = first.splitn(3, ' ').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let first = [part(), part(), part()];
    if first[1].is_empty() {
        return Err(WireError::Malformed(format!("it begins with {:?}", first[0])));
    }
    let fields = lines.map(parse_field).collect::<Result<Vec<_>, _>>()?;
    Ok(Head { first, fields: Fields(fields), raw })
}

fn parse_field(line: &[u8]) -> Result<(String, Vec<u8>), WireError> {
    let colon = line.iter().position(|&byte| byte == b':');
    let colon = colon.ok_or_else(|| WireError::Malformed(format!("the field {:?}", String::from_utf8_lossy(line))))?;
    Ok((String::from_utf8_lossy(&line[..colon]).into_owned(), line[colon + 1..].trim_ascii().to_vec()))
}

fn split<'a>(text: &'a [u8], separator: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        match find(text, separator) {
            Some(at) => {
                rest = Some(&text[at + separator.len()..]);
                Some(&text[..at])
            }
            None => {
                rest = None;
                Some(text)
            }
        }
    })
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// The framing that a message's fields announce; `None` if they announce none.
pub(crate) fn announced(fields: &Fields) -> Result<Option<Framing>, WireError> {
    if fields.has_token("transfer-encoding", "chunked") {
        return Ok(Some(Framing::Chunked { chunks: Vec::new(), trailers: Fields::default() }));
    }
    let Some(length) = fields.get("content-length") else { return Ok(None) };
    match length.parse() {
        Ok(length) => Ok(Some(Framing::Length(length))),
        Err(_) => Err(WireError::Malformed(format!("Content-Length: {length}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(bytes: &[u8]) -> Wire<&[u8]> {
        Wire::new(bytes)
    }

    #[test]
    fn a_head_keeps_order_case_and_duplicates() {
        let bytes = b"HTTP/1.1 503 Not  Today\r\nB: 2\r\na:1\r\nB:  \xff \r\n\r\nrest";
        let mut wire = wire(bytes);
        let head = wire.head().unwrap().unwrap();
        assert_eq!(head.first, ["HTTP/1.1", "503", "Not  Today"]);
        assert_eq!(head.fields.names(), ["B", "a", "B"]);
        assert_eq!(head.fields.0[2].1, b"\xff");
        assert_eq!(head.raw, &bytes[..bytes.len() - 4]);
        assert_eq!(wire.pending(), b"rest");
    }

    #[test]
    fn a_chunked_body_is_taken_apart_and_kept_whole() {
        let bytes = b"3;x=y\r\nabc\r\n1\r\n\r\r\n0\r\nT: v\r\n\r\nGET";
        let mut wire = wire(bytes);
        let framing = Framing::Chunked { chunks: Vec::new(), trailers: Fields::default() };
        let body = wire.body(framing, true).unwrap();
        assert_eq!(body.bytes, b"abc\r");
        assert_eq!(body.raw, &bytes[..bytes.len() - 3]);
        let Framing::Chunked { chunks, trailers } = body.framing else { panic!("{:?}", body.framing) };
        assert_eq!((chunks, trailers.get("t").as_deref()), (vec![3, 1], Some("v")));
        assert_eq!(wire.pending(), b"GET");
    }

    #[test]
    fn a_cut_body_gives_what_came() {
        let Cut { error, body } = *wire(b"abc").body(Framing::Length(5), true).unwrap_err();
        assert!(matches!(error, WireError::Closed), "{error}");
        assert_eq!((body.bytes.as_slice(), body.len), (b"abc".as_slice(), 3));
    }

    #[test]
    fn a_broken_chunk_is_malformed() {
        let framing = Framing::Chunked { chunks: Vec::new(), trailers: Fields::default() };
        let Cut { error, .. } = *wire(b"2\r\nabc\r\n0\r\n\r\n").body(framing, true).unwrap_err();
        assert!(matches!(error, WireError::Malformed(_)), "{error}");
    }

    #[test]
    fn nothing_at_all_is_no_head() {
        assert!(wire(b"").head().unwrap().is_none());
        assert!(matches!(wire(b"GET /").head(), Err(WireError::Closed)));
    }
}

//! HTTP/1.1 requests as a distrustful origin reads them: where two readers could differ, this one refuses.

use super::http::Fields;

/// A request that every reader takes for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The request line.
    pub line: String,
    /// The fields.
    pub fields: Fields,
    /// The body without framing.
    pub body: Vec<u8>,
    /// Whether it was chunked.
    pub chunked: bool,
    /// Whether all of it came.
    pub whole: bool,
}

impl Message {
    /// The target of the request line.
    pub fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// All requests that a connection carried. The last may have been cut off; anything else that is amiss is the error.
pub fn requests(bytes: &[u8]) -> Result<Vec<Message>, String> {
    let mut requests = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (message, behind) = request(rest).map_err(|what| {
            format!("request {} of the connection: {what}: {:?}", requests.len(), String::from_utf8_lossy(bytes))
        })?;
        requests.push(message);
        rest = behind;
    }
    Ok(requests)
}

fn request(bytes: &[u8]) -> Result<(Message, &[u8]), String> {
    let Some(end) = super::http::find(bytes, b"\r\n\r\n") else {
        return Err("a head that does not end".to_owned());
    };
    let head = &bytes[..end];
    let rest = &bytes[end + 4..];
    let mut lines = Vec::new();
    let mut left = head;
    while let Some(at) = super::http::find(left, b"\r\n") {
        lines.push(&left[..at]);
        left = &left[at + 2..];
    }
    lines.push(left);
    if lines.iter().any(|line| line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))) {
        return Err("a CR, LF or NUL by itself in the head".to_owned());
    }
    let line = String::from_utf8_lossy(lines[0]).into_owned();
    let parts: Vec<&str> = line.split(' ').collect();
    if parts.len() != 3 || parts[0].is_empty() || !parts[0].bytes().all(token) || parts[2] != "HTTP/1.1" {
        return Err(format!("the request line {line:?}"));
    }
    let mut fields = Fields::default();
    for line in &lines[1..] {
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(0);
        let name = &line[..colon];
        if name.is_empty() || !name.iter().copied().all(token) {
            return Err(format!("the field {:?}", String::from_utf8_lossy(line)));
        }
        fields.0.push((String::from_utf8_lossy(name).into_owned(), line[colon + 1..].trim_ascii().to_vec()));
    }
    if fields.all("host").len() != 1 {
        return Err(format!("{} Host fields", fields.all("host").len()));
    }
    let lengths = fields.all("content-length");
    let codings = fields.all("transfer-encoding");
    let mut message = Message { line, fields, body: Vec::new(), chunked: false, whole: true };
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Ok((message, rest)),
        ([length], []) => {
            if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("Content-Length: {length:?}"));
            }
            let length: usize = length.parse().map_err(|_| format!("Content-Length: {length}"))?;
            let size = length.min(rest.len());
            message.whole = size == length;
            message.body = rest[..size].to_vec();
            Ok((message, &rest[size..]))
        }
        ([], [coding]) if coding == "chunked" => {
            message.chunked = true;
            let behind = chunked(rest, &mut message)?;
            Ok((message, behind))
        }
        _ => Err(format!("Content-Length {lengths:?} and Transfer-Encoding {codings:?}")),
    }
}

fn chunked<'a>(mut rest: &'a [u8], message: &mut Message) -> Result<&'a [u8], String> {
    let mut trailers = false;
    loop {
        let Some(at) = super::http::find(rest, b"\r\n") else {
            if rest.contains(&b'\n') {
                return Err("a LF by itself between chunks".to_owned());
            }
            message.whole = false;
            return Ok(&[]);
        };
        let line = &rest[..at];
        rest = &rest[at + 2..];
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(format!("a CR, LF or NUL by itself in {:?}", String::from_utf8_lossy(line)));
        }
        if trailers {
            if line.is_empty() {
                return Ok(rest);
            }
            continue;
        }
        let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
        if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(format!("the chunk size {:?}", String::from_utf8_lossy(line)));
        }
        let size = usize::from_str_radix(&String::from_utf8_lossy(digits), 16).map_err(|error| error.to_string())?;
        if size == 0 {
            trailers = true;
            continue;
        }
        if rest.len() < size + 2 {
            message.whole = false;
            message.body.extend_from_slice(&rest[..size.min(rest.len())]);
            return Ok(&[]);
        }
        message.body.extend_from_slice(&rest[..size]);
        if &rest[size..size + 2] != b"\r\n" {
            return Err(format!("a chunk of {size} bytes that goes on"));
        }
        rest = &rest[size + 2..];
    }
}

fn token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_clear_is_read() {
        let bytes = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiPOST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nho\r\n0\r\nT: v\r\n\r\nGET /c HTTP/1.1\r\nHost: a\r\n\r\n";
        let all = requests(bytes).unwrap();
        let seen: Vec<_> = all.iter().map(|message| (message.target(), message.body.as_slice())).collect();
        assert_eq!(seen, [("/a", &b"hi"[..]), ("/b", b"ho"), ("/c", b"")]);
        assert!(all.iter().all(|message| message.whole));
        assert!(!requests(&bytes[..bytes.len() - 40]).unwrap()[1].whole);
    }

    #[test]
    fn what_two_readers_could_take_differently_is_refused() {
        for text in [
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
            "GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
            "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\n0\n\n",
            "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nxy",
        ] {
            assert!(requests(text.as_bytes()).is_err(), "{text}");
        }
    }
}

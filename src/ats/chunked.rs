//! The chunked framing of request bodies, which ATS hands to plugins as it came, and takes from them as it is to go.
//!
//! Strict, because what is passed on is framed anew: a body that two parsers could read differently is refused.

use std::fmt;
use std::ops::Range;

/// The longest line with a chunk's size and its extensions, and the longest trailer section.
const MAX_LINE: usize = 4 << 10;
const MAX_TRAILERS: usize = 16 << 10;

/// A body that is not framed as RFC 9112 says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadChunk(&'static str);

impl fmt::Display for BadChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// In a line with a size.
    #[default]
    Size,
    /// So much of a chunk is to come.
    Data(u64),
    /// Behind a chunk.
    DataEnd,
    /// Behind the last chunk, in a trailer field or the empty line that ends all.
    Trailer,
    /// At the end. What follows is another message.
    Done,
}

/// Takes the framing off a body that comes in pieces.
#[derive(Debug, Default)]
pub struct Decoder {
    state: State,
    /// The line so far.
    line: Vec<u8>,
    trailers: usize,
}

impl Decoder {
    /// At the beginning of a body.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the end has been read.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads a piece, and shows which parts of it are the body. Answers how much of it belongs to this message.
    ///
    /// # Errors
    /// The framing is wrong; nothing that comes later can be trusted either.
    pub fn decode(&mut self, piece: &[u8], body: &mut dyn FnMut(Range<usize>)) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < piece.len() {
            match self.state {
                State::Done => break,
                State::Data(left) => {
                    let len = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len() - at);
                    body(at..at + len);
                    at += len;
                    let left = left - len as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                }
                State::Size | State::DataEnd | State::Trailer => {
                    let end = piece[at..].iter().position(|byte| *byte == b'\n');
                    let line = &piece[at..end.map_or(piece.len(), |end| at + end + 1)];
                    self.line.extend_from_slice(line);
                    at += line.len();
                    if self.line.len() > MAX_LINE {
                        return Err(BadChunk("a line of its framing is too long"));
                    }
                    if end.is_some() {
                        self.end_line()?;
                    }
                }
            }
        }
        Ok(at)
    }

    fn end_line(&mut self) -> Result<(), BadChunk> {
        let line = self.line.strip_suffix(b"\r\n").ok_or(BadChunk("a line of its framing does not end with CR LF"))?;
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\0')) {
            return Err(BadChunk("a line of its framing holds a CR or NUL"));
        }
        self.state = match self.state {
            State::DataEnd if line.is_empty() => State::Size,
            State::DataEnd => return Err(BadChunk("a chunk is longer than its size")),
            State::Trailer if line.is_empty() => State::Done,
            State::Trailer => {
                self.trailers += line.len();
                if self.trailers > MAX_TRAILERS {
                    return Err(BadChunk("its trailers are too long"));
                }
                State::Trailer
            }
            _ => match size(line)? {
                0 => State::Trailer,
                size => State::Data(size),
            },
        };
        self.line.clear();
        Ok(())
    }
}

/// The size that a line gives, before its extensions.
fn size(line: &[u8]) -> Result<u64, BadChunk> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    if digits.is_empty() || !matches!(rest.trim_ascii_start().first(), None | Some(b';')) {
        return Err(BadChunk("a chunk's size is no hexadecimal number"));
    }
    // Fifteen digits are more than any body, and fit with room to spare.
    if digits.len() > 15 {
        return Err(BadChunk("a chunk's size is too large"));
    }
    let text = std::str::from_utf8(digits).map_err(|_| BadChunk("a chunk's size is no hexadecimal number"))?;
    u64::from_str_radix(text, 16).map_err(|_| BadChunk("a chunk's size is no hexadecimal number"))
}

/// What stands before and behind a chunk of so many bytes.
#[must_use]
pub fn frame(len: usize) -> (String, &'static [u8]) {
    (format!("{len:x}\r\n"), b"\r\n")
}

/// The last chunk, and no trailers.
pub const END: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `pieces`; the body, whether the end was read, and what was left over.
    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), BadChunk> {
        let mut decoder = Decoder::new();
        let (mut body, mut left) = (Vec::new(), 0);
        for piece in pieces {
            let used = decoder.decode(piece, &mut |part| body.extend_from_slice(&piece[part]))?;
            left += piece.len() - used;
        }
        Ok((body, decoder.is_done(), left))
    }

    const WHOLE: &[u8] =
        b"5;name=\"a b\"\r\nhello\r\n00C ; x\r\n, my \r\nworld\r\n0\r\nTrailer: x\r\n\r\nGET / HTTP/1.1\r\n";

    #[test]
    fn bodies_are_read_wherever_they_are_cut() {
        let expected = (b"hello, my \r\nworld".to_vec(), true);
        for cut in 0..=WHOLE.len() {
            let (body, done, left) = decode(&[&WHOLE[..cut], &WHOLE[cut..]]).expect("well-formed");
            assert_eq!((body, done), expected, "cut at {cut}");
            assert_eq!(left, b"GET / HTTP/1.1\r\n".len(), "what follows is another message");
        }
        let single: Vec<&[u8]> = WHOLE.chunks(1).collect();
        assert_eq!(decode(&single).expect("well-formed").0, expected.0);
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for bad in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\nx\r\n",
            b"0x1\r\nx\r\n",
            b"1 1\r\n",
            b"1\nx\r\n",
            b"1\r\nxy\r\n",
            b"1\r\nx\n",
            b"1;a\rb\r\n",
            b"1;a\0b\r\n",
            b"ffffffffffffffff\r\n",
            b"0\r\na: b\n\r\n",
        ] {
            assert!(decode(&[bad]).is_err(), "{}", bad.escape_ascii());
        }
        assert!(decode(&[&[b'1'; MAX_LINE + 1]]).is_err());
        let trailers = [b"0\r\n".to_vec(), b"a: b\r\n".repeat(MAX_TRAILERS / 4 + 1)].concat();
        assert!(decode(&[&trailers]).is_err());
        let (body, done, _) = decode(&[b"3\r\nab"]).expect("not wrong so far");
        assert_eq!((body, done), (b"ab".to_vec(), false));
    }

    #[test]
    fn chunks_are_framed_as_they_are_read() {
        let (before, behind) = frame(300);
        let framed = [before.as_bytes(), &[b'x'; 300], behind, END].concat();
        assert_eq!(decode(&[&framed]).expect("well-formed"), (vec![b'x'; 300], true, 0));
    }
}

//! Messages in DATA frames: a byte for compression, four for the length, and the message.

use bytes::{Buf, Bytes, BytesMut};

/// The length of the prefix.
pub(super) const PREFIX: usize = 5;
/// Shorter messages are copied behind their prefix.
const SMALL: usize = 16 * 1024;

/// The prefix and the message, in one piece or two.
pub(super) fn encode(message: Bytes) -> (Bytes, Bytes) {
    let mut prefix = [0; PREFIX];
    // The outbox takes no longer ones.
    prefix[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
    if message.len() <= SMALL {
        return (Bytes::from([&prefix[..], &message[..]].concat()), Bytes::new());
    }
    (Bytes::copy_from_slice(&prefix), message)
}

/// What a server must not send.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Compressed,
    TooLong(usize),
}

/// Takes messages out of bytes as they come.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// Not yet begun on; empty unless messages wait.
    rest: Bytes,
    /// The beginning of a message that is not whole.
    part: BytesMut,
}

impl Decoder {
    /// More bytes. All messages of those before have been taken.
    pub(super) fn push(&mut self, data: Bytes) {
        if self.part.is_empty() && self.rest.is_empty() {
            self.rest = data;
        } else {
            self.part.extend_from_slice(&std::mem::take(&mut self.rest));
            self.part.extend_from_slice(&data);
        }
    }

    /// The next whole message, at most `limit` bytes long.
    pub(super) fn next(&mut self, limit: usize) -> Result<Option<Bytes>, Wrong> {
        let bytes: &[u8] = if self.part.is_empty() { &self.rest } else { &self.part };
        let Some((prefix, body)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let [flag, length @ ..] = *prefix;
        if flag != 0 {
            return Err(Wrong::Compressed);
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > limit {
            return Err(Wrong::TooLong(length));
        }
        if body.len() < length {
            let missing = length - body.len();
            self.part.reserve(missing);
            return Ok(None);
        }
        if self.part.is_empty() {
            self.rest.advance(PREFIX);
            return Ok(Some(self.rest.split_to(length)));
        }
        self.part.advance(PREFIX);
        Ok(Some(self.part.split_to(length).freeze()))
    }

    /// Whether the bytes end in the middle of a message.
    pub(super) fn cut(&self) -> bool {
        !self.part.is_empty() || !self.rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_they_are_cut() {
        let messages: Vec<Bytes> = [0, 1, 5, 300, 70_000].iter().map(|&length| Bytes::from(vec![7; length])).collect();
        let mut stream = Vec::new();
        for message in &messages {
            let (head, body) = encode(message.clone());
            stream.extend_from_slice(&head);
            stream.extend_from_slice(&body);
        }
        for size in [1, 2, 4, 5, 6, 7, 100, 4096, stream.len()] {
            let mut decoder = Decoder::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                decoder.push(Bytes::copy_from_slice(piece));
                while let Some(message) = decoder.next(1 << 20).expect("messages") {
                    found.push(message);
                }
            }
            assert_eq!(found, messages, "in pieces of {size}");
            assert!(!decoder.cut());
        }
    }

    #[test]
    fn what_is_too_long_or_compressed_is_refused_by_its_prefix() {
        let mut decoder = Decoder::default();
        decoder.push(Bytes::from_static(&[0, 0, 0, 1, 1]));
        assert_eq!(decoder.next(256), Err(Wrong::TooLong(257)));
        let mut decoder = Decoder::default();
        decoder.push(Bytes::from_static(&[1, 0, 0, 0, 1, 0]));
        assert_eq!(decoder.next(256), Err(Wrong::Compressed));
        let mut decoder = Decoder::default();
        decoder.push(Bytes::from_static(&[0, 0, 0]));
        assert_eq!(decoder.next(256), Ok(None));
        assert!(decoder.cut());
    }
}

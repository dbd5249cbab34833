//! Bodies too large to hold: made from a seed as they are sent, and compared by length and hash.

use std::io::{self, Read};
use std::sync::Arc;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The bytes that `seed` stands for, without end. They do not compress and do not repeat.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Stream {
    /// Starts at the first byte.
    pub fn new(seed: u64) -> Stream {
        Stream { state: seed ^ GOLDEN, word: [0; 8], used: 8 }
    }

    /// Starts at a later one.
    pub fn at(seed: u64, offset: u64) -> Stream {
        let state = (seed ^ GOLDEN).wrapping_add(GOLDEN.wrapping_mul(offset / 8));
        let mut stream = Stream { state, word: [0; 8], used: 8 };
        let mut skipped = [0; 8];
        stream.fill(&mut skipped[..(offset % 8) as usize]);
        stream
    }

    /// The next eight bytes: splitmix64.
    fn next(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(GOLDEN);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// Fills `out` with the next bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let left = (8 - self.used).min(out.len());
        out[..left].copy_from_slice(&self.word[self.used..self.used + left]);
        self.used += left;
        let mut words = out[left..].chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next());
        }
        let rest = words.into_remainder();
        if !rest.is_empty() {
            self.word = self.next();
            self.used = rest.len();
            rest.copy_from_slice(&self.word[..rest.len()]);
        }
    }
}

/// The first `len` bytes of `seed`.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Stream::new(seed).fill(&mut out);
    out
}

/// What [`struct@Hash`] gives for the first `len` bytes of `seed`.
pub fn hash(seed: u64, len: u64) -> u64 {
    Payload::seed(seed, len).hash()
}

#[derive(Clone, Debug)]
enum Part {
    Seed { seed: u64, from: u64, len: u64 },
    Bytes { bytes: Arc<[u8]>, from: usize, to: usize },
}

impl Part {
    fn bytes(bytes: &[u8]) -> Part {
        Part::Bytes { bytes: bytes.into(), from: 0, to: bytes.len() }
    }

    fn len(&self) -> u64 {
        match self {
            Part::Seed { len, .. } => *len,
            Part::Bytes { from, to, .. } => (to - from) as u64,
        }
    }

    fn split(self, at: u64) -> [Part; 2] {
        match self {
            Part::Seed { seed, from, len } => {
                [Part::Seed { seed, from, len: at }, Part::Seed { seed, from: from + at, len: len - at }]
            }
            Part::Bytes { bytes, from, to } => {
                let middle = from + at as usize;
                [Part::Bytes { bytes: Arc::clone(&bytes), from, to: middle }, Part::Bytes { bytes, from: middle, to }]
            }
        }
    }
}

/// A body that costs no memory until it is read: pieces of streams and bytes at hand, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Payload {
    parts: Vec<Part>,
}

impl Payload {
    /// The first `len` bytes of `seed`.
    pub fn seed(seed: u64, len: u64) -> Payload {
        Payload { parts: vec![Part::Seed { seed, from: 0, len }] }
    }

    /// Bytes at hand.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Payload {
        Payload { parts: vec![Part::bytes(bytes.as_ref())] }
    }

    /// Its length.
    pub fn len(&self) -> u64 {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn split(self, at: u64) -> [Payload; 2] {
        let mut sides = [Payload::default(), Payload::default()];
        let mut position = 0;
        for part in self.parts {
            let begin = position;
            position += part.len();
            if position <= at {
                sides[0].parts.push(part);
            } else if begin >= at {
                sides[1].parts.push(part);
            } else {
                let [first, second] = part.split(at - begin);
                sides[0].parts.push(first);
                sides[1].parts.push(second);
            }
        }
        sides
    }

    /// The same with `removed` bytes from `at` on replaced, as far as there are so many.
    pub fn splice(self, at: u64, removed: u64, bytes: impl AsRef<[u8]>) -> Payload {
        let [mut before, rest] = self.split(at);
        let [_, after] = rest.split(removed);
        before.parts.push(Part::bytes(bytes.as_ref()));
        before.parts.extend(after.parts);
        before
    }

    /// The first bytes of it.
    pub fn first(self, len: u64) -> Payload {
        let [first, _] = self.split(len);
        first
    }

    /// Its [`struct@Hash`].
    pub fn hash(&self) -> u64 {
        let mut hash = Hash::default();
        let mut reader = self.reader();
        let mut piece = vec![0; 64 * 1024];
        loop {
            match reader.fill(&mut piece) {
                0 => return hash.value(),
                count => hash.update(&piece[..count]),
            }
        }
    }

    /// All of it, which should be little.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = vec![0; self.len() as usize];
        self.reader().fill(&mut out);
        out
    }

    /// Reads it from the first byte on.
    pub fn reader(&self) -> Reader {
        Reader { parts: self.parts.clone().into(), stream: None }
    }
}

/// Reads a [`Payload`].
#[derive(Clone, Debug)]
pub struct Reader {
    parts: std::collections::VecDeque<Part>,
    /// Where the first part stands, if it is of a seed and begun.
    stream: Option<Stream>,
}

impl Reader {
    /// Whether all of it was read.
    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.len() == 0)
    }

    /// Fills as much of `out` as there is, and says how much.
    pub fn fill(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        while done < out.len() {
            let Some(part) = self.parts.front_mut() else { break };
            let size = part.len().min((out.len() - done) as u64) as usize;
            let piece = &mut out[done..done + size];
            match part {
                Part::Seed { seed, from, len } => {
                    self.stream.get_or_insert_with(|| Stream::at(*seed, *from)).fill(piece);
                    *from += size as u64;
                    *len -= size as u64;
                }
                Part::Bytes { bytes, from, .. } => {
                    piece.copy_from_slice(&bytes[*from..*from + size]);
                    *from += size;
                }
            }
            done += size;
            if part.len() == 0 {
                self.parts.pop_front();
                self.stream = None;
            }
        }
        done
    }
}

impl Read for Reader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        Ok(self.fill(out))
    }
}

/// FNV-1a over 64 bits: tells a changed body from an unchanged one, and is not meant against malice.
#[derive(Clone, Debug)]
pub struct Hash(u64);

impl Default for Hash {
    fn default() -> Hash {
        Hash(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// The hash of all bytes so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

/// [`struct@Hash`] of bytes at hand.
pub fn hash_of(bytes: &[u8]) -> u64 {
    let mut hash = Hash::default();
    hash.update(bytes);
    hash.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut() {
        let whole = bytes(7, 1000);
        let mut stream = Stream::new(7);
        let mut pieces = vec![0; 1000];
        for piece in pieces.chunks_mut(13) {
            stream.fill(piece);
        }
        assert_eq!(whole, pieces);
        for from in [1, 7, 8, 9, 500] {
            let mut rest = vec![0; 1000 - from];
            Stream::at(7, from as u64).fill(&mut rest);
            assert_eq!(whole[from..], rest, "from {from}");
        }
        assert_eq!(hash(7, 1000), hash_of(&whole));
        assert_ne!(bytes(8, 1000), whole);
    }

    #[test]
    fn a_payload_is_cut_and_joined() {
        let whole = bytes(3, 100);
        for (at, removed) in [(0, 0), (0, 100), (50, 0), (50, 3), (100, 0), (99, 5), (7, 20)] {
            let mut expected = whole.clone();
            expected.splice(at..(at + removed).min(100), *b"<new>");
            let payload = Payload::seed(3, 100).splice(at as u64, removed as u64, "<new>");
            assert_eq!(payload.to_vec(), expected, "{at} {removed}");
            assert_eq!((payload.len(), payload.hash()), (expected.len() as u64, hash_of(&expected)));
            let again = payload.splice(3, 6, "");
            expected.drain(3..9.min(expected.len()));
            assert_eq!(again.to_vec(), expected, "{at} {removed}");
            let mut slowly = Vec::new();
            let mut reader = again.reader();
            let mut piece = [0; 7];
            while let count @ 1.. = reader.fill(&mut piece) {
                slowly.extend_from_slice(&piece[..count]);
            }
            assert_eq!(slowly, expected);
            assert_eq!(again.first(10).to_vec(), expected[..10.min(expected.len())]);
        }
    }
}

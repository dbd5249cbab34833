//! Bodies too large to hold: made from a seed as they are sent, and compared by length and hash.

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
        Stream { state: seed ^ 0x9e37_79b9_7f4a_7c15, word: [0; 8], used: 8 }
    }

    /// Fills `out` with the next bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == 8 {
                // splitmix64
                self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = self.state;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                self.word = (z ^ (z >> 31)).to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
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
    let mut stream = Stream::new(seed);
    let mut hash = Hash::default();
    let mut left = len;
    let mut piece = vec![0; 64 * 1024];
    while left > 0 {
        let size = left.min(piece.len() as u64) as usize;
        stream.fill(&mut piece[..size]);
        hash.update(&piece[..size]);
        left -= size as u64;
    }
    hash.value()
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
        assert_eq!(hash(7, 1000), hash_of(&whole));
        assert_ne!(bytes(8, 1000), whole);
    }
}

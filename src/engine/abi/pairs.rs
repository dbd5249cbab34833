//! The encoding of maps: `u32` count, then a `u32` key size and a `u32` value size a pair, then every key
//! and value, each followed by a NUL; little endian throughout.
//!
//! The specification's own example bytes are wrong (decimal digits written as hexadecimal); what is here is
//! what every SDK and host does. An empty map is sent as a bare count of zero and accepted also as zero bytes
//! or a single NUL, as the specification's text allows.

use smallvec::SmallVec;

use crate::error::Error;

/// Bounds on what a guest may hand over as one map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PairsLimits {
    /// The most pairs.
    pub pairs: usize,
    /// The most bytes of the whole encoding.
    pub bytes: usize,
}

impl Default for PairsLimits {
    /// The limits of cpp-host: 1,024 pairs, 1 MiB.
    fn default() -> Self {
        PairsLimits { pairs: 1024, bytes: 1 << 20 }
    }
}

/// Appends the encoding of `pairs` to `out`, which callers keep and reuse.
///
/// The iterator runs twice: once for the sizes, once for the bytes.
///
/// # Errors
/// [`Error::TooLarge`] if a count or size does not fit the encoding's `u32`.
pub fn encode<'a, I>(pairs: I, out: &mut Vec<u8>) -> Result<(), Error>
where
    I: Iterator<Item = (&'a [u8], &'a [u8])> + Clone,
{
    let mut count = 0u32;
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    for (key, value) in pairs.clone() {
        let key = u32::try_from(key.len()).map_err(|_| Error::TooLarge("map key"))?;
        let value = u32::try_from(value.len()).map_err(|_| Error::TooLarge("map value"))?;
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&value.to_le_bytes());
        count += 1;
    }
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
    for (key, value) in pairs {
        out.extend_from_slice(key);
        out.push(0);
        out.extend_from_slice(value);
        out.push(0);
    }
    Ok(())
}

/// A key and its value, borrowed from the encoding.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// Those of a map; as many as most maps have need no allocation.
pub type Pairs<'a> = SmallVec<[Pair<'a>; 32]>;

/// Reads an encoded map without copying: the pairs borrow from `bytes`.
///
/// # Errors
/// [`Error::Pairs`] for anything but one complete map and nothing after it, or for more than `limits`.
pub fn decode(bytes: &[u8], limits: PairsLimits) -> Result<Pairs<'_>, Error> {
    if bytes.is_empty() || bytes == [0] {
        return Ok(Pairs::new());
    }
    if bytes.len() > limits.bytes {
        return Err(Error::Pairs("more bytes than the limit"));
    }
    let count = u32_at(bytes, 0)? as usize;
    if count > limits.pairs {
        return Err(Error::Pairs("more pairs than the limit"));
    }
    // `count` is within the limit, so neither product below can overflow.
    let mut at = 4 + count * 8;
    if at > bytes.len() {
        return Err(Error::Pairs("the sizes are cut short"));
    }
    let mut pairs = Pairs::with_capacity(count);
    for index in 0..count {
        let key = u32_at(bytes, 4 + index * 8)? as usize;
        let value = u32_at(bytes, 8 + index * 8)? as usize;
        let key = take(bytes, &mut at, key)?;
        let value = take(bytes, &mut at, value)?;
        pairs.push((key, value));
    }
    if at != bytes.len() {
        return Err(Error::Pairs("bytes after the last pair"));
    }
    Ok(pairs)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Error> {
    let slice = bytes.get(at..at + 4).ok_or(Error::Pairs("the sizes are cut short"))?;
    Ok(u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

/// One string and the NUL behind it.
fn take<'a>(bytes: &'a [u8], at: &mut usize, len: usize) -> Result<&'a [u8], Error> {
    let end = at.checked_add(len).ok_or(Error::Pairs("a size overflows"))?;
    let slice = bytes.get(*at..end).ok_or(Error::Pairs("a string is cut short"))?;
    if bytes.get(end) != Some(&0) {
        return Err(Error::Pairs("a string has no NUL behind it"));
    }
    *at = end + 1;
    Ok(slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn empty_maps_have_three_spellings() {
        for bytes in [&b""[..], &[0], &[0, 0, 0, 0]] {
            assert_eq!(decode(bytes, PairsLimits::default()).unwrap(), Pairs::new());
        }
    }

    #[test]
    fn layout_is_what_sdks_read() {
        let mut out = Vec::new();
        encode([(&b"a"[..], &b"bc"[..])].into_iter(), &mut out).unwrap();
        assert_eq!(out, b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc\0");
    }

    #[test]
    fn malformed_maps_are_refused_whole() {
        let limits = PairsLimits { pairs: 2, bytes: 64 };
        let cases: [&[u8]; 6] = [
            b"\x01",
            b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc",
            b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc\0!",
            b"\x01\0\0\0\xff\xff\xff\xff\xff\xff\xff\xffa\0",
            b"\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            &[0; 65],
        ];
        for case in cases {
            assert!(decode(case, limits).is_err(), "{case:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(pairs in proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..20), proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let mut out = Vec::new();
            encode(pairs.iter().map(|(k, v)| (k.as_slice(), v.as_slice())), &mut out).unwrap();
            let back = decode(&out, PairsLimits::default()).unwrap();
            let expect: Vec<(&[u8], &[u8])> = pairs.iter().map(|(k, v)| (k.as_slice(), v.as_slice())).collect();
            prop_assert_eq!(back.as_slice(), expect);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes, PairsLimits::default());
        }
    }
}

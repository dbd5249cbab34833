//! A share of requests that is the same everywhere and always.

use std::net::IpAddr;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Evaluation;
use crate::config::matching::{FieldKind, Sample, SampleBy};

/// A compiled [`Sample`].
#[derive(Debug)]
pub(super) struct Share {
    millionths: u32,
    by: SampleBy,
    seed: u64,
}

impl Share {
    pub(super) fn new(sample: &Sample) -> Self {
        Share { millionths: sample.millionths, by: sample.by.clone(), seed: xxh3_64(sample.seed.as_bytes()) }
    }

    /// Whether the request is among them. One without what decides is not.
    pub(super) fn takes(&self, evaluation: &mut Evaluation<'_>) -> bool {
        let first = |evaluation: &Evaluation<'_>, kind, name: &str| {
            let mut taken = false;
            evaluation.values(kind, name, &mut |value| {
                taken = self.takes_key(value);
                true
            });
            taken
        };
        match &self.by {
            SampleBy::Client => match evaluation.client() {
                Some(IpAddr::V4(address)) => self.takes_key(&address.octets()),
                Some(IpAddr::V6(address)) => self.takes_key(&address.octets()),
                None => false,
            },
            SampleBy::Path => self.takes_key(evaluation.path()),
            SampleBy::Header(name) => first(evaluation, FieldKind::Header, name),
            SampleBy::Cookie(name) => first(evaluation, FieldKind::Cookie, name),
        }
    }

    /// The formula, which docs/configuration.md promises: it must never change, or every sample changes.
    fn takes_key(&self, key: &[u8]) -> bool {
        let place = (u128::from(xxh3_64_with_seed(key, self.seed)) * 1_000_000) >> 64;
        place < u128::from(self.millionths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(millionths: u32, seed: &str) -> Share {
        Share::new(&Sample { millionths, by: SampleBy::Path, seed: seed.to_owned() })
    }

    /// Where a key falls, in millionths, from another implementation of xxh3 (Python's xxhash 3).
    #[test]
    fn the_formula_is_the_documented_one() {
        for (seed, key, hash) in PLACES {
            assert_eq!(xxh3_64_with_seed(key, xxh3_64(seed.as_bytes())), *hash, "{seed} {key:?}");
            let place = u32::try_from((u128::from(*hash) * 1_000_000) >> 64).unwrap();
            assert!(!share(place, seed).takes_key(key) && share(place + 1, seed).takes_key(key), "{seed} {key:?}");
        }
    }

    const PLACES: &[(&str, &[u8], u64)] = &[
        ("", b"", 0x412f_1275_e100_17f3),
        ("", b"/", 0x05a7_0361_12e4_605d),
        ("", b"\xc0\x00\x02\x01", 0x1a6f_d8a4_a9aa_61c9),
        ("canary", b"\xc0\x00\x02\x01", 0x14ac_11a5_a0b5_0a8d),
        ("canary", b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01", 0x6ed1_ba21_18ae_65b7),
        ("canary", b"user-1", 0x3343_b690_5f24_64c5),
        ("canary", b"a key that is longer than sixteen bytes", 0x1bb1_b595_2f98_508e),
        ("2026-03", &[b'x'; 300], 0x5d41_6750_f953_d528),
    ];

    #[test]
    fn shares_are_exact_nested_and_independent() {
        let keys: Vec<_> = (0..100_000).map(|number: u32| format!("user-{number}")).collect();
        let count = |share: &Share| keys.iter().filter(|key| share.takes_key(key.as_bytes())).count() as f64;
        for millionths in [0, 1_000, 10_000, 125_000, 500_000, 999_000, 1_000_000] {
            let share_of = f64::from(millionths) / 1e6;
            let deviation = (keys.len() as f64 * share_of * (1.0 - share_of)).sqrt();
            let off = count(&share(millionths, "a")) - keys.len() as f64 * share_of;
            assert!(off.abs() <= 5.0 * deviation, "{millionths}: off by {off}");
        }
        // Who is in a share is in every larger one of the same seed.
        let (small, large) = (share(100_000, "a"), share(300_000, "a"));
        assert!(keys.iter().all(|key| !small.takes_key(key.as_bytes()) || large.takes_key(key.as_bytes())));
        // Seeds are independent: of a tenth, a tenth is in another tenth.
        let other = share(100_000, "b");
        let both = |key: &&String| small.takes_key(key.as_bytes()) && other.takes_key(key.as_bytes());
        let both = keys.iter().filter(both).count();
        assert!((850..1150).contains(&both), "{both}");
    }
}

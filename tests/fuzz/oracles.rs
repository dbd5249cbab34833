//! What must hold for any input, whoever wrote it.

use std::path::Path;

use engine::abi::pairs::{PairsLimits, decode, encode};
use engine::config;

/// A header map from a guest: refused, or read within its limits; and what was read is written and read again alike.
#[allow(dead_code, reason = "each fuzz target uses one of these")]
pub(crate) fn pairs(bytes: &[u8]) {
    let limits = PairsLimits::default();
    let Ok(pairs) = decode(bytes, limits) else { return };
    assert!(pairs.len() <= limits.pairs && bytes.len() <= limits.bytes);
    let mut again = Vec::new();
    encode(pairs.iter().copied(), &mut again).expect("what was read can be written");
    let read = decode(&again, limits).expect("what was written can be read");
    assert_eq!(read[..], pairs[..]);
    // The encoding has one spelling, but for that of the empty map.
    assert!(pairs.is_empty() || again == bytes);
}

/// A filter file: refused with a place inside it, or read into filters that have what filters must have.
#[allow(dead_code, reason = "each fuzz target uses one of these")]
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match config::parse(Path::new("/etc/filters/fuzz.yaml"), text) {
        Ok(file) => {
            let shared = !file.clusters.is_empty() || !file.namespaces.is_empty() || file.code_cache.is_some();
            assert!(!file.filters.is_empty() || !file.services.is_empty() || shared);
            assert!(file.clusters.values().all(|cluster| !cluster.endpoints.is_empty()));
            for filter in file.filters.into_iter().chain(file.services) {
                assert!(!filter.name.is_empty());
                assert!(filter.code.source.path().is_none_or(|path| path.starts_with("/")));
                assert!(filter.limits.memory_bytes > 0 && !filter.limits.callback.is_zero());
            }
        }
        Err(error) => {
            let lines = text.lines().count() + 1;
            assert!(error.at.is_none_or(|(line, column)| line <= lines && column > 0), "{error}");
            assert!(!error.message.is_empty());
        }
    }
}

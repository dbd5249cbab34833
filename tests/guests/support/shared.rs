//! Texts in shared data, for a test to read by a later request.

use proxy_wasm::hostcalls;

/// The version that a key is created with: no key has it, so that of two threads that both found none the second is told.
const NEW: u32 = u32::MAX;

/// Appends a line to the text under this key. No line is lost, whoever else appends.
pub fn append(key: &str, line: &str) {
    loop {
        let Ok((text, version)) = hostcalls::get_shared_data(key) else { return };
        let mut text = text.unwrap_or_default();
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        if hostcalls::set_shared_data(key, Some(&text), Some(version.unwrap_or(NEW))).is_ok() {
            return;
        }
    }
}

/// Adds to the number under this key, eight bytes little endian, and gives the sum. No addition is lost.
pub fn add(key: &str, delta: i64) -> i64 {
    loop {
        let Ok((bytes, version)) = hostcalls::get_shared_data(key) else { return 0 };
        let number = bytes.and_then(|bytes| bytes.try_into().ok()).map_or(0, i64::from_le_bytes);
        let sum = number.wrapping_add(delta);
        if hostcalls::set_shared_data(key, Some(&sum.to_le_bytes()), Some(version.unwrap_or(NEW))).is_ok() {
            return sum;
        }
    }
}

/// The text under this key; empty if there is none.
pub fn text(key: &str) -> Vec<u8> {
    hostcalls::get_shared_data(key).ok().and_then(|(text, _)| text).unwrap_or_default()
}

/// The number under this key; zero if there is none.
pub fn number(key: &str) -> i64 {
    text(key).try_into().map_or(0, i64::from_le_bytes)
}

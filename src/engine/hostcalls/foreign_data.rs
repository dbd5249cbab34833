//! Foreign functions on shared data: what the ABI lacks. All act on the namespace of the caller's vm_id, as
//! `proxy_set_shared_data` does; numbers are little endian.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::state::VmState;

/// The most keys that `shared_data_keys` answers.
const KEYS: usize = 10_000;

pub(super) fn delete(state: &mut VmState, key: &[u8], _: &mut Vec<u8>) -> Result<(), Error> {
    match state.shared.data.delete(&state.settings.vm_id, key, 0) {
        // Without a version there is no other.
        Err(Error::CasMismatch) => Err(Error::NotFound),
        result => result,
    }
}

pub(super) fn keys(state: &mut VmState, prefix: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let begun = Instant::now();
    // More has no place in the guest.
    let limit = state.settings.limits.memory_bytes;
    for key in state.shared.data.keys_with_prefix(&state.settings.vm_id, prefix, KEYS) {
        if out.len() + 4 + key.len() > limit {
            return Err(Error::TooLarge("the list of keys"));
        }
        let len = u32::try_from(key.len()).map_err(|_| Error::TooLarge("key"))?;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&key);
    }
    super::foreign::check_time(state, begun)
}

pub(super) fn set_with_ttl(state: &mut VmState, arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    const WRONG: Error =
        Error::BadArgument("a time in 8 bytes, a version in 4, the key's length in 4, the key, the value");
    let (ttl, rest) = number(arguments).ok_or(WRONG)?;
    let (cas, rest) = rest.split_first_chunk().ok_or(WRONG)?;
    let (key_len, rest) = rest.split_first_chunk().ok_or(WRONG)?;
    let key_len = u32::from_le_bytes(*key_len) as usize;
    let (key, value) = rest.split_at_checked(key_len).ok_or(WRONG)?;
    match super::shared::store(state, key, value, u32::from_le_bytes(*cas), time_to_live(u64::from_le_bytes(ttl))) {
        Ok(()) => out.push(1),
        Err(Error::CasMismatch) => out.push(0),
        Err(error) => return Err(error),
    }
    Ok(())
}

pub(super) fn increment(state: &mut VmState, arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    const WRONG: Error = Error::BadArgument("a number in 8 bytes, a time in 8, the key");
    let (delta, rest) = number(arguments).ok_or(WRONG)?;
    let (ttl, key) = number(rest).ok_or(WRONG)?;
    let ttl = time_to_live(u64::from_le_bytes(ttl));
    let sum = state.shared.data.increment(&state.settings.vm_id, key, i64::from_le_bytes(delta), ttl)?;
    out.extend_from_slice(&sum.to_le_bytes());
    Ok(())
}

/// Eight bytes, and what follows them.
fn number(bytes: &[u8]) -> Option<([u8; 8], &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (*number, rest))
}

/// Of milliseconds; zero is for good.
fn time_to_live(milliseconds: u64) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds))
}

//! Arguments, environment, clocks and randomness.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Errno;
use crate::memory::{self, Guest};

/// The most random bytes a call, as in cpp-host.
const MAX_RANDOM: u32 = 64 << 10;

/// Where the monotonic clock of guests begins.
static STARTED: OnceLock<Instant> = OnceLock::new();

pub(super) fn start_clock() {
    STARTED.get_or_init(Instant::now);
}

pub(super) fn args_get(_guest: &mut Guest<'_>, _argv: i32, _buf: i32) -> Result<(), Errno> {
    Ok(())
}

pub(super) fn args_sizes_get(guest: &mut Guest<'_>, count: i32, size: i32) -> Result<(), Errno> {
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, count, 0)?;
    memory::write_u32(memory, size, 0)?;
    Ok(())
}

pub(super) fn environ_get(guest: &mut Guest<'_>, environ: i32, buf: i32) -> Result<(), Errno> {
    let (memory, state) = memory::split(guest)?;
    let (mut pointer, mut at) = (environ, buf);
    for (name, value) in &state.settings.environment {
        memory::write_u32(memory, pointer, at.cast_unsigned())?;
        pointer = pointer.wrapping_add(4);
        for part in [name.as_bytes(), b"=", value.as_bytes(), b"\0"] {
            let len = i32::try_from(part.len()).map_err(|_| Errno::Fault)?;
            memory::bytes_mut(memory, at, len)?.copy_from_slice(part);
            at = at.wrapping_add(len);
        }
    }
    Ok(())
}

pub(super) fn environ_sizes_get(guest: &mut Guest<'_>, count: i32, size: i32) -> Result<(), Errno> {
    let (memory, state) = memory::split(guest)?;
    let environment = &state.settings.environment;
    // Each with `=` between and NUL behind.
    let bytes: usize = environment.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
    let to_u32 = |number: usize| u32::try_from(number).map_err(|_| Errno::Inval);
    memory::write_u32(memory, count, to_u32(environment.len())?)?;
    memory::write_u32(memory, size, to_u32(bytes)?)?;
    Ok(())
}

pub(super) fn clock_res_get(guest: &mut Guest<'_>, id: i32, out: i32) -> Result<(), Errno> {
    now(id)?;
    let (memory, _) = memory::split(guest)?;
    memory::write_u64(memory, out, 1)?;
    Ok(())
}

pub(super) fn clock_time_get(guest: &mut Guest<'_>, id: i32, _precision: i64, out: i32) -> Result<(), Errno> {
    let now = now(id)?;
    let (memory, _) = memory::split(guest)?;
    memory::write_u64(memory, out, now)?;
    Ok(())
}

/// The time of a clock, in nanoseconds. Those of the processor's time would tell guests about each other.
fn now(clock: i32) -> Result<u64, Errno> {
    let elapsed = match clock {
        0 => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        1 => STARTED.get_or_init(Instant::now).elapsed(),
        _ => return Err(Errno::Notsup),
    };
    // Go gives up if its clock ever reads zero.
    Ok(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX).max(1))
}

pub(super) fn sched_yield(_guest: &mut Guest<'_>) -> Result<(), Errno> {
    Ok(())
}

pub(super) fn random_get(guest: &mut Guest<'_>, buf: i32, len: i32) -> Result<(), Errno> {
    if len.cast_unsigned() > MAX_RANDOM {
        return Err(Errno::Inval);
    }
    let (memory, state) = memory::split(guest)?;
    getrandom::fill(memory::bytes_mut(memory, buf, len)?).map_err(|_| Errno::Io)?;
    // Whoever called looks whether it was too much.
    let _ = state.count_moved(u64::from(len.cast_unsigned()));
    Ok(())
}

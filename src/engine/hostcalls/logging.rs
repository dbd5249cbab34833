//! Log and clock. Both may be called from anywhere, the guest's allocator and start function included.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::abi::LogLevel;
use crate::error::Error;
use crate::memory::{self, Guest};
use crate::state::VmState;

/// The target under which a guest's lines reach the `log` crate's logger.
pub const GUEST_TARGET: &str = "wasm_remap::guest";

/// One line longer than this is cut: a guest must not fill the disk with one call.
const MAX_LINE: usize = 16 << 10;

pub(super) fn log(guest: &mut Guest<'_>, level: i32, data: i32, size: i32) -> Result<(), Error> {
    let level = LogLevel::from_wire(level).ok_or_else(|| Error::BadArgument("log level"))?;
    let (memory, state) = memory::split(guest)?;
    let message = memory::bytes(memory, data, size)?;
    write_line(state, level, message);
    Ok(())
}

pub(super) fn get_log_level(guest: &mut Guest<'_>, out: i32) -> Result<(), Error> {
    let level = match log::max_level() {
        log::LevelFilter::Trace => LogLevel::Trace,
        log::LevelFilter::Debug => LogLevel::Debug,
        log::LevelFilter::Info => LogLevel::Info,
        log::LevelFilter::Warn => LogLevel::Warn,
        log::LevelFilter::Error => LogLevel::Error,
        log::LevelFilter::Off => LogLevel::Critical,
    };
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, out, (level as i32).cast_unsigned())
}

pub(super) fn get_current_time_nanoseconds(guest: &mut Guest<'_>, out: i32) -> Result<(), Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
    let (memory, _) = memory::split(guest)?;
    memory::write_u64(memory, out, nanoseconds)
}

/// Writes a line of the guest's to the log, with the filter and the context that it speaks for.
pub(crate) fn write_line(state: &VmState, level: LogLevel, message: &[u8]) {
    let to = match level {
        LogLevel::Trace => log::Level::Trace,
        LogLevel::Debug => log::Level::Debug,
        LogLevel::Info => log::Level::Info,
        LogLevel::Warn => log::Level::Warn,
        LogLevel::Error | LogLevel::Critical => log::Level::Error,
    };
    if !log::log_enabled!(target: GUEST_TARGET, to) {
        return;
    }
    let message = &message[..message.len().min(MAX_LINE)];
    let filter = state.root().map_or("-", |root| root.plugin.name.as_str());
    let context = state.effective_context;
    log::log!(target: GUEST_TARGET, to, "[{filter}] #{context} {}: {}",
        level.as_str(), String::from_utf8_lossy(message));
}

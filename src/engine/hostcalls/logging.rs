//! Log and clock. Both may be called from anywhere, the guest's allocator and start function included.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::abi::{Callback, LogLevel};
use crate::error::Error;
use crate::journal;
use crate::memory::{self, Guest};
use crate::state::VmState;

pub(super) fn log(guest: &mut Guest<'_>, level: i32, data: i32, size: i32) -> Result<(), Error> {
    let level = LogLevel::from_wire(level).ok_or_else(|| Error::BadArgument("log level"))?;
    let (memory, state) = memory::split(guest)?;
    let message = memory::bytes(memory, data, size)?;
    write_line(state, level, message);
    Ok(())
}

pub(super) fn get_log_level(guest: &mut Guest<'_>, out: i32) -> Result<(), Error> {
    // Of the start function nobody asks, and nobody knows whose it is.
    let level = guest.data().root().map_or(LogLevel::Info, |root| root.plugin.log.0.level());
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
    let starts = matches!(state.callback, Callback::Start | Callback::VmStart | Callback::Configure);
    // As many VMs start at once as there are threads; those that are built anew, later, are as many as there are traps.
    let first = state.home.as_ref().is_none_or(|home| !home.rebuilt);
    let starting = (starts && first).then_some(&state.start_lines);
    match state.root() {
        Some(root) => {
            let log = &root.plugin.log.0;
            // What is not kept costs nothing more.
            if log.keeps(level) {
                let rule = state.rule();
                log.write(level, state.effective_context, starting, state.place(rule.as_deref()), message);
            }
        }
        None => journal::write_stray(level, state.place(None), message),
    }
}

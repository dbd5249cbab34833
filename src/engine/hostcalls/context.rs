//! Contexts and timers.

use std::time::{Duration, Instant};

use crate::error::Error;
use crate::memory::Guest;

pub(super) fn done(guest: &mut Guest<'_>) -> Result<(), Error> {
    let state = guest.data_mut();
    let id = state.effective_context;
    match state.contexts.get_mut(&id) {
        Some(crate::state::Context::Root(root)) if root.is_ending() => {
            root.own_mut().pending_done = false;
            state.roots_done.push(id);
            Ok(())
        }
        _ => Err(Error::NotFound),
    }
}

pub(super) fn set_effective_context(guest: &mut Guest<'_>, id: i32) -> Result<(), Error> {
    guest.data_mut().set_effective_context(id.cast_unsigned())
}

pub(super) fn set_tick_period_milliseconds(guest: &mut Guest<'_>, period: i32) -> Result<(), Error> {
    let state = guest.data_mut();
    let id = state.root_id();
    let (Some(id), Some(root)) = (id, state.root_mut()) else { return Err(Error::BadArgument("no plugin context")) };
    let period = Duration::from_millis(u64::from(period.cast_unsigned()));
    root.own_mut().tick_period = period;
    state.set_tick(id, (!period.is_zero()).then(|| Instant::now() + period));
    state.timers_changed = true;
    Ok(())
}

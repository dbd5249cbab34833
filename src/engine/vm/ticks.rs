//! The ticks of plugin contexts.

use std::time::{Duration, Instant};

use super::Vm;
use crate::abi::Callback;
use crate::error::Error;
use crate::state::Context;

impl Vm {
    /// Runs the tick that is due first. Returns when the next one is due.
    ///
    /// # Errors
    /// [`Error::Trap`].
    pub(crate) fn run_tick(&mut self, now: Instant) -> Result<Option<Instant>, Error> {
        let next = self.store.data().next_tick();
        let Some((due, id)) = next.filter(|(due, _)| *due <= now) else { return Ok(self.next_tick()) };
        let budget = self.callback_time;
        let result = self.call(Callback::Tick, id, budget, |callbacks, store| {
            callbacks.tick.as_ref().map_or(Ok(()), |tick| tick.call(store, id))
        });
        let end = Instant::now();
        // The tick may have acted for a stream, whose host it then holds.
        self.store.data_mut().return_host();
        result?;
        let state = self.store.data_mut();
        if let Some(Context::Root(root)) = state.contexts.get(&id)
            // Unless the tick itself has set another period.
            && let Some(own) = root.own()
            && own.tick_due == Some(due)
        {
            let next = next_tick(due, own.tick_period, end, end.duration_since(now));
            state.set_tick(id, Some(next));
        }
        Ok(self.next_tick())
    }

    /// When the next tick is due.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        self.store.data().next_tick().map(|(due, _)| due)
    }
}

/// A slow tick leaves its thread so many times what it took, at least.
const REST: u32 = 4;

/// When a tick is due again that was due at `due` and ended at `end`, having run for `took`.
fn next_tick(due: Instant, period: Duration, end: Instant, took: Duration) -> Instant {
    // From the due time, not from now, so that a late tick does not shift those behind it; but a tick that was missed
    // altogether is not made up for.
    let next = due + period;
    let next = if next <= end { end + period } else { next };
    // The thread carries traffic: ticks may have a fifth of it.
    next.max(end + took * REST)
}

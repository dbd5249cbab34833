//! Timers: calling a continuation later, or on another thread.
//!
//! ATS hands out a `TSAction` that dies with its event: to cancel one that has fired is a use after free. So the
//! pointers stay in here, a fired one is struck off before the handler sees its event, and what the caller gets is a
//! number, which may be kept and used at any time.

use std::ffi::c_void;
use std::time::Duration;

use ats_sys::{
    TS_THREAD_POOL_NET, TS_THREAD_POOL_TASK, TSAction, TSActionCancel, TSContScheduleOnPool, TSContScheduleOnThread,
    TSHRTime, TSThreadPool,
};
use parking_lot::Mutex;
use std::sync::atomic::Ordering;

use crate::cont::{ContRef, Handler, MutexLock};
use crate::error::{Error, Result};
use crate::thread::EventThread;

/// A pool of event threads (`TSThreadPool`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pool {
    /// The threads that carry transactions.
    Net,
    /// The threads for slow work. Not for what may run while the server starts: for a moment ATS knows the name of this
    /// pool and has no thread in it, and an event that is scheduled then ends the process.
    Task,
}

impl Pool {
    fn as_raw(self) -> TSThreadPool {
        match self {
            Self::Net => TS_THREAD_POOL_NET,
            Self::Task => TS_THREAD_POOL_TASK,
        }
    }
}

/// One scheduled call of one continuation. A number, not a pointer: to keep it after it fired is harmless.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ScheduledAction(u64);

impl<T: Handler> ContRef<'_, T> {
    /// Calls the continuation on `thread` after `delay` (`TSContScheduleOnThread`): with [`crate::event::Event::TIMEOUT`],
    /// or with `IMMEDIATE` if the delay is zero.
    ///
    /// # Errors
    /// No mutex, a foreign thread, a destroyed continuation.
    pub fn schedule_on_thread(self, delay: Duration, thread: EventThread) -> Result<ScheduledAction> {
        self.schedule(|| {
            // SAFETY: a live continuation with a mutex, which is held; an event thread; and we are on an ATS thread.
            unsafe { TSContScheduleOnThread(self.as_raw(), millis(delay), thread.as_raw()) }
        })
    }

    /// Calls the continuation on this thread after `delay`.
    ///
    /// # Errors
    /// As for [`Self::schedule_on_thread`]; here an attached thread counts as foreign, since it has no event loop.
    pub fn schedule_here(self, delay: Duration) -> Result<ScheduledAction> {
        let here = EventThread::current().ok_or(Error::ForeignThread("TSContScheduleOnThread"))?;
        self.schedule_on_thread(delay, here)
    }

    /// Calls the continuation on a thread of `pool` after `delay` (`TSContScheduleOnPool`): on this one if it belongs
    /// to the pool, else on one that ATS picks and from then on keeps for this continuation.
    ///
    /// # Errors
    /// As for [`Self::schedule_on_thread`].
    pub fn schedule_on_pool(self, delay: Duration, pool: Pool) -> Result<ScheduledAction> {
        self.schedule(|| {
            // SAFETY: a live continuation with a mutex, which is held; and we are on an ATS thread.
            unsafe { TSContScheduleOnPool(self.as_raw(), millis(delay), pool.as_raw()) }
        })
    }

    /// Takes a call back (`TSActionCancel`); `false` if it has been made already, or taken back.
    ///
    /// # Errors
    /// No mutex, a foreign thread.
    pub fn cancel(self, action: ScheduledAction) -> Result<bool> {
        // With the mutex held, the event cannot be on its way to the handler on another thread.
        let _lock = MutexLock::take(self.inner.mutex.ok_or(Error::NoMutex)?)?;
        Ok(self.inner.pending.cancel(action))
    }

    fn schedule(self, call: impl FnOnce() -> TSAction) -> Result<ScheduledAction> {
        // Held until the action is noted: otherwise it might fire on its thread before that, and stay noted for ever.
        let _lock = MutexLock::take(self.inner.mutex.ok_or(Error::NoMutex)?)?;
        if self.inner.destroyed.load(Ordering::Acquire) {
            return Err(Error::Destroyed);
        }
        Ok(self.inner.pending.note(call()))
    }
}

/// In ATS's milliseconds, rounded up: a timer must not fire early, and zero means another event.
pub(crate) fn millis(delay: Duration) -> TSHRTime {
    TSHRTime::try_from(delay.as_nanos().div_ceil(1_000_000)).unwrap_or(TSHRTime::MAX)
}

/// The calls that are scheduled and not made.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Actions>);

#[derive(Default)]
struct Actions {
    next: u64,
    live: Vec<(ScheduledAction, Action)>,
}

/// ATS's own, never used once it has fired.
#[derive(Clone, Copy)]
struct Action(TSAction);

// SAFETY: ATS cancels actions from any of its threads, given the continuation's mutex; `Pending`'s users hold it.
unsafe impl Send for Action {}

impl Action {
    /// The address that the handler gets as `edata`: ATS sets the lowest bit of the action to mark a plugin's.
    fn event(self) -> usize {
        self.0.addr() & !1
    }
}

impl Pending {
    /// Keeps what was scheduled; the caller holds the mutex.
    pub(crate) fn note(&self, action: TSAction) -> ScheduledAction {
        let mut actions = self.0.lock();
        let id = ScheduledAction(actions.next);
        actions.next += 1;
        actions.live.push((id, Action(action)));
        id
    }

    /// Strikes off the action whose event arrived with this `edata`.
    pub(crate) fn fired(&self, edata: *mut c_void) -> Option<ScheduledAction> {
        let mut actions = self.0.lock();
        let at = actions.live.iter().position(|(_, action)| action.event() == edata.addr())?;
        Some(actions.live.swap_remove(at).0)
    }

    /// Takes a call back; the caller holds the mutex.
    pub(crate) fn cancel(&self, id: ScheduledAction) -> bool {
        let mut actions = self.0.lock();
        let Some(at) = actions.live.iter().position(|(live, _)| *live == id) else {
            return false;
        };
        let (_, action) = actions.live.swap_remove(at);
        // SAFETY: not fired and not cancelled yet, or it would have been struck off; the caller holds the mutex.
        unsafe { TSActionCancel(action.0) };
        true
    }

    /// For the destruction of the continuation, which must find none; the caller holds the mutex.
    pub(crate) fn cancel_all(&self) {
        for (_, action) in self.0.lock().live.drain(..) {
            // SAFETY: as in `cancel`.
            unsafe { TSActionCancel(action.0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_round_up() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(250)), 250);
        assert_eq!(millis(Duration::from_micros(1_001)), 2);
        assert_eq!(millis(Duration::MAX), TSHRTime::MAX);
    }
}

//! Waking a transform: its timers, and wake-ups from other threads.
//!
//! To schedule a continuation, ATS takes its mutex (`FORCE_PLUGIN_SCOPED_MUTEX`), and a transform's is that of its
//! transaction: another thread would wait for whatever the transaction is doing, and might find the transform gone. So
//! only the transform's own thread schedules it. Other threads schedule a small continuation with a mutex of its own
//! there, which does that in turn if the transform is still open.

use std::ffi::c_void;
use std::fmt;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::time::Duration;

use ats_sys::{TSContMutexGet, TSContScheduleOnThread, tsapi_cont};
use parking_lot::Mutex;

use crate::cont::{ContRef, Continuation, Edata, Handler, MutexLock};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::log;
use crate::schedule::{Pending, ScheduledAction, millis};
use crate::thread::EventThread;

/// The scheduled calls of one transform.
pub(crate) struct Timers {
    /// Null once the transform is closed. Written, and read to be used, on its own thread alone.
    vconn: AtomicPtr<tsapi_cont>,
    home: EventThread,
    pending: Pending,
    /// The wake-up that is on its way: one is as good as many.
    wake: Mutex<Option<ScheduledAction>>,
}

impl Timers {
    /// The timers of a transform of this thread.
    pub(crate) fn new(vconn: NonNull<tsapi_cont>, home: EventThread) -> Self {
        let vconn = AtomicPtr::new(vconn.as_ptr());
        Self { vconn, home, pending: Pending::default(), wake: Mutex::default() }
    }

    /// Calls the transform after `delay`.
    ///
    /// # Errors
    /// Another thread than its own; it is closed.
    pub(crate) fn schedule(&self, delay: Duration) -> Result<ScheduledAction> {
        let vconn = self.open()?;
        let _lock = lock(vconn)?;
        // SAFETY: not closed, so alive; it has a mutex; this is an event thread, and its own.
        let action = unsafe { TSContScheduleOnThread(vconn.as_ptr(), millis(delay), self.home.as_raw()) };
        Ok(self.pending.note(action))
    }

    /// Calls the transform as soon as this thread gets to it, once for any number of times.
    ///
    /// # Errors
    /// As for [`Self::schedule`].
    pub(crate) fn wake(&self) -> Result<()> {
        self.open()?;
        if self.wake.lock().is_none() {
            let action = self.schedule(Duration::ZERO)?;
            *self.wake.lock() = Some(action);
        }
        Ok(())
    }

    /// Takes a call back; `false` if it has been made already, or taken back.
    ///
    /// # Errors
    /// As for [`Self::schedule`].
    pub(crate) fn cancel(&self, action: ScheduledAction) -> Result<bool> {
        let _lock = lock(self.open()?)?;
        Ok(self.pending.cancel(action))
    }

    /// Strikes off the call whose event arrived with this `edata`, and says whether it is the wake-up.
    pub(crate) fn fired(&self, edata: *mut c_void) -> Option<(ScheduledAction, bool)> {
        let action = self.pending.fired(edata)?;
        let wake = self.wake.lock().take_if(|wake| *wake == action).is_some();
        Some((action, wake))
    }

    /// Takes back everything: from here on nothing uses the transform, which is in an event, its mutex held.
    pub(crate) fn close(&self) {
        self.vconn.store(ptr::null_mut(), Ordering::Release);
        self.pending.cancel_all();
        self.wake.lock().take();
    }

    fn open(&self) -> Result<NonNull<tsapi_cont>> {
        if !self.home.is_current() {
            return Err(Error::ForeignThread("TSContScheduleOnThread"));
        }
        NonNull::new(self.vconn.load(Ordering::Acquire)).ok_or(Error::Destroyed)
    }
}

/// Held at home, where nobody else holds it for long: for the calls that come from outside of the transform's events.
fn lock(vconn: NonNull<tsapi_cont>) -> Result<MutexLock> {
    // SAFETY: both callers have a live transform.
    MutexLock::take(NonNull::new(unsafe { TSContMutexGet(vconn.as_ptr()) }).ok_or(Error::NoMutex)?)
}

/// Wakes a transform, from any of ATS's threads.
///
/// It may outlive the transform. The last one is to be dropped on an ATS thread, or leaks a continuation.
#[derive(Clone)]
pub struct Waker {
    bridge: Arc<Continuation<Bridge>>,
    state: Arc<State>,
}

struct State {
    timers: Arc<Timers>,
    /// The bridge has been scheduled, and was not called yet.
    called: AtomicBool,
}

/// The continuation that carries a wake-up to the transform's thread.
struct Bridge(Arc<State>);

impl Handler for Bridge {
    const NAME: &'static str = "transform waker";

    fn handle(&self, _cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        // Before the waking: who calls from now on wants another one.
        self.0.called.store(false, Ordering::Release);
        match self.0.timers.wake() {
            Ok(()) | Err(Error::Destroyed) => {}
            Err(error) => log::error(format_args!("{}: {error}", Self::NAME)),
        }
    }
}

impl Waker {
    /// # Errors
    /// [`Error::ForeignThread`].
    pub(crate) fn new(timers: Arc<Timers>) -> Result<Self> {
        let state = Arc::new(State { timers, called: AtomicBool::new(false) });
        let bridge = Arc::new(Continuation::new(Bridge(Arc::clone(&state)))?);
        Ok(Self { bridge, state })
    }

    /// Has the transform called with [`TransformEvent::Wake`](crate::transform::TransformEvent::Wake), on its own
    /// thread and never before this returns, once for any number of times until then (`TSContScheduleOnThread`).
    /// Does nothing once it is closed.
    ///
    /// # Errors
    /// [`Error::ForeignThread`], on a thread that is not one of ATS's.
    pub fn wake(&self) -> Result<()> {
        let timers = &self.state.timers;
        if timers.home.is_current() {
            return match timers.wake() {
                Err(Error::Destroyed) => Ok(()),
                result => result,
            };
        }
        if self.state.called.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let scheduled = (*self.bridge).as_ref().schedule_on_thread(Duration::ZERO, timers.home);
        scheduled.map(drop).inspect_err(|_| self.state.called.store(false, Ordering::Release))
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waker").field("home", &self.state.timers.home).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "wake_test.rs"]
mod tests;

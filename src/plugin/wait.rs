//! Coming back to a transaction that waits: when a filter asks for it, and when a filter's time is up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ats::cont::{ContRef, Continuation, Edata, Handler};
use ats::event::Event;
use ats::schedule::ScheduledAction;
use ats::thread::EventThread;
use ats::txn_hooks::Attached;
use engine::Stream;
use parking_lot::Mutex;
use send_wrapper::SendWrapper;

use crate::state::Transaction;
use crate::threads;

/// What is done with a transaction whose wait is over, on its thread.
pub(crate) type Wake = fn(&Attached<Transaction>);

/// The timer of a transaction; made when it first waits.
pub(crate) struct Wait {
    wake: Wake,
    resumer: Option<Arc<Continuation<Resumer>>>,
    armed: Option<Instant>,
}

impl Wait {
    pub(crate) fn new(wake: Wake) -> Self {
        Wait { wake, resumer: None, armed: None }
    }

    /// What calls back; made when it is first asked for.
    fn resumer(&mut self, this: &Attached<Transaction>) -> Option<Arc<Continuation<Resumer>>> {
        if self.resumer.is_none() {
            let resumer = Continuation::new(Resumer {
                wake: self.wake,
                transaction: Mutex::new(Some(SendWrapper::new(this.clone()))),
                timer: Mutex::default(),
            });
            match resumer {
                Ok(resumer) => self.resumer = Some(Arc::new(resumer)),
                Err(error) => crate::logs::tell(
                    "a paused transaction has no timer",
                    None,
                    format_args!("a paused transaction has no timer: {error}"),
                ),
            }
        }
        self.resumer.clone()
    }

    /// Comes back in the next turn of the event loop; false if it will not. The deadline's timer is gone then: whoever is woken
    /// asks for it again.
    pub(crate) fn next_turn(&mut self, this: &Attached<Transaction>) -> bool {
        let (Some(thread), Some(resumer)) = (EventThread::current(), self.resumer(this)) else { return false };
        self.armed = None;
        (*resumer).as_ref().share().arm((*resumer).as_ref(), Duration::ZERO, thread)
    }

    /// Sets the timer to the stream's deadline, and has filters' calls to go on come here.
    pub(crate) fn watch(&mut self, stream: &Stream, this: &Attached<Transaction>) {
        let (Some(thread), Some(resumer)) = (EventThread::current(), self.resumer(this)) else { return };
        let deadline = stream.deadline();
        if let Some(deadline) = deadline.filter(|_| self.armed != deadline) {
            // ATS's timers may be early, since its clock stands still while a thread works: then this runs again.
            let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            // Without one, the transaction waits for whoever resumes it.
            let _: bool = (*resumer).as_ref().share().arm((*resumer).as_ref(), left, thread);
        }
        self.armed = deadline;
        stream.set_waker(Box::new(move || {
            let resumer = Arc::clone(&resumer);
            let resume = move || {
                if let Err(error) = (*resumer).as_ref().schedule_on_thread(Duration::ZERO, thread) {
                    crate::logs::tell(
                        "a paused transaction cannot be resumed",
                        None,
                        format_args!("a paused transaction cannot be resumed: {error}"),
                    );
                }
            };
            // From elsewhere, taking the resumer's mutex here would be to wait for its handler, which may wait for
            // the lock under which we are called.
            if thread.is_current() { resume() } else { threads::run(resume) }
        }));
    }

    /// The timer has fired: the next deadline needs a new one.
    pub(crate) fn fired(&mut self) {
        self.armed = None;
    }

    /// Lets go of the transaction.
    pub(crate) fn close(&mut self) {
        if let Some(resumer) = self.resumer.take() {
            let transaction = (*resumer).as_ref().share().transaction.lock().take();
            drop(transaction);
        }
    }
}

/// Apart from the transaction's hooks, because it needs a mutex to be scheduled, and most transactions never wait.
struct Resumer {
    wake: Wake,
    /// Of the thread that this is scheduled on. [`Wait::close`] takes it out there, since a waker may hold the last
    /// reference to this on another.
    transaction: Mutex<Option<SendWrapper<Attached<Transaction>>>>,
    timer: Mutex<Option<ScheduledAction>>,
}

impl Handler for Resumer {
    const NAME: &'static str = "wasm_remap paused transaction";

    fn handle(&self, _cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        let transaction = self.transaction.lock().as_deref().cloned();
        // The lock is released: what is woken may run to its close, which wants it.
        if let Some(transaction) = transaction {
            (self.wake)(&transaction);
        }
    }
}

impl Resumer {
    /// Sets the timer, in place of an earlier one. On the transaction's thread. False if there is none.
    fn arm(&self, cont: ContRef<'_, Self>, delay: Duration, thread: EventThread) -> bool {
        let mut timer = self.timer.lock();
        if let Some(earlier) = timer.take() {
            // False if it is the one that brought us here.
            let _ = cont.cancel(earlier);
        }
        match cont.schedule_on_thread(delay, thread) {
            Ok(action) => *timer = Some(action),
            Err(error) => crate::logs::tell(
                "a paused transaction has no timer",
                None,
                format_args!("a paused transaction has no timer: {error}"),
            ),
        }
        timer.is_some()
    }
}

//! Event threads and their slots, and what runs on them outside of transactions: ticks, and answers to filters' calls.
//!
//! ATS 9 has no number for an event thread. A thread gets its slot when it first needs one, and keeps it.
//!
//! Timers are set by a thread of our own, known to ATS: the engine tells of them from wherever it is, also from its
//! own threads and on event threads that have better things to do than to wait for a lock.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use ats::bell::Bell;
use ats::cont::{ContRef, Continuation, Edata, Handler};
use ats::event::Event;
use ats::schedule::{Pool, ScheduledAction};
use ats::thread::{AttachedThread, EventThread};
use crossbeam::channel::{RecvTimeoutError, Sender};
use parking_lot::Mutex;

use crate::{process, stats};

static NEXT_SLOT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SLOT: Cell<Option<usize>> = const { Cell::new(None) };
}

/// By slot: the clock and the courier of the thread that has it, once that thread is known.
static CLOCKS: Mutex<Vec<Option<Clock>>> = Mutex::new(Vec::new());

#[derive(Clone)]
struct Clock {
    cont: Arc<Continuation<Ticker>>,
    courier: &'static Bell<Courier>,
    thread: EventThread,
}

/// The slot of the current thread.
#[inline]
pub(crate) fn slot() -> usize {
    SLOT.get().unwrap_or_else(register)
}

#[cold]
fn register() -> usize {
    let slot = NEXT_SLOT.fetch_add(1, Ordering::Relaxed);
    SLOT.set(Some(slot));
    let Some(thread) = EventThread::current() else { return slot };
    crate::fault::count_allocations();
    let conts = Continuation::new(Ticker { slot, armed: Mutex::default() })
        .and_then(|cont| Ok((cont, Bell::new(Courier { slot, thread }, thread)?)));
    match conts {
        Ok((cont, courier)) => {
            {
                let mut clocks = CLOCKS.lock();
                if clocks.len() <= slot {
                    clocks.resize_with(slot + 1, || None);
                }
                clocks[slot] = Some(Clock { cont: Arc::new(cont), courier, thread });
            }
            // There may have been something to do in this slot before its thread was known.
            call(slot, engine::Errand::Timers);
            call(slot, engine::Errand::Deliveries);
        }
        Err(error) => log::error!("slot {slot} has no clock, so no filter ticks there: {error}"),
    }
    slot
}

/// What is left to the thread `wasm-timers`.
enum Errand {
    /// The timers of this slot changed.
    Arm(usize),
    /// Anything that has to wait for a lock.
    Run(Box<dyn FnOnce() + Send>),
}

/// Errands on their way to that thread.
static ERRANDS: OnceLock<Sender<Errand>> = OnceLock::new();

/// Starts the thread that sets timers and writes statistics, and has every event thread take its slot now, so that ticks run before the first request. ATS deals these calls out
/// to its threads in turn; a thread that is left out is served when its first transaction comes.
///
/// # Errors
/// The thread cannot be started.
pub(crate) fn start(slots: usize) -> Result<(), String> {
    let (sender, errands) = crossbeam::channel::unbounded();
    let body = move || {
        let _attached = AttachedThread::attach();
        let mut statistics = Instant::now() + stats::PERIOD;
        loop {
            match errands.recv_deadline(statistics) {
                Ok(Errand::Arm(slot)) => ats::guard::run("wasm-timers", (), || arm(slot)),
                Ok(Errand::Run(work)) => ats::guard::run("wasm-timers", (), work),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= statistics {
                ats::guard::run("wasm_remap statistics", (), stats::export);
                statistics = Instant::now() + stats::PERIOD;
            }
        }
    };
    let thread = std::thread::Builder::new().name("wasm-timers".to_owned());
    thread.spawn(body).map_err(|error| format!("the thread wasm-timers does not start: {error}"))?;
    let _ = ERRANDS.set(sender);
    for _ in 0..slots {
        let greeting = Continuation::new(Greeter { own: Mutex::new(None) });
        let Ok(greeting) = greeting else { break };
        if greeting.as_ref().schedule_on_pool(Duration::ZERO, Pool::Net).is_ok() {
            // It is called once and then drops itself, see below.
            let shared = greeting.as_ref().share();
            *shared.own.lock() = Some(greeting);
        }
    }
    Ok(())
}

/// Calls [`slot`] on whichever thread it is scheduled on.
struct Greeter {
    /// Itself, until it has been called.
    own: Mutex<Option<Continuation<Greeter>>>,
}

impl Handler for Greeter {
    const NAME: &'static str = "wasm_remap event thread registration";

    fn handle(&self, _cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        slot();
        let own = self.own.lock().take();
        drop(own);
    }
}

/// Runs the ticks of one slot.
struct Ticker {
    slot: usize,
    armed: Mutex<Option<ScheduledAction>>,
}

impl Handler for Ticker {
    const NAME: &'static str = "wasm_remap tick";

    fn handle(&self, cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        *self.armed.lock() = None;
        if let Some(due) = process::get().runtime.run_timers(self.slot) {
            self.arm(cont, due.saturating_duration_since(Instant::now()), None);
        }
    }
}

impl Ticker {
    /// Sets the one timer of this slot, in place of an earlier one.
    fn arm(&self, cont: ContRef<'_, Self>, delay: Duration, thread: Option<EventThread>) {
        let mut armed = self.armed.lock();
        if let Some(earlier) = armed.take() {
            let _ = cont.cancel(earlier);
        }
        let scheduled = match thread {
            Some(thread) => cont.schedule_on_thread(delay, thread),
            None => cont.schedule_here(delay),
        };
        match scheduled {
            Ok(action) => *armed = Some(action),
            Err(error) => log::error!("slot {}: no tick can be scheduled: {error}", self.slot),
        }
    }
}

/// Runs what came for the VMs of one slot.
struct Courier {
    slot: usize,
    thread: EventThread,
}

impl Handler for Courier {
    const NAME: &'static str = "wasm_remap delivery";

    fn handle(&self, cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
        // A bell rings on threads that carry transactions, and those are what slots belong to. If this is none, it comes
        // to its thread the long way.
        let more = !self.thread.is_current() || process::get().runtime.deliver(self.slot);
        if more && let Err(error) = cont.schedule_on_thread(Duration::ZERO, self.thread) {
            log::error!("slot {}: nothing more can be delivered: {error}", self.slot);
        }
    }
}

/// The engine's word that a slot has something to do, from any thread.
pub(crate) fn call(slot: usize, errand: engine::Errand) {
    match errand {
        engine::Errand::Timers => send(Errand::Arm(slot)),
        engine::Errand::Deliveries => deliver(slot),
    }
}

thread_local! {
    static ATTACHED: Cell<Option<AttachedThread>> = const { Cell::new(None) };
}

/// Makes a thread of the engine's known to ATS, as long as it runs.
pub(crate) fn attach() {
    ATTACHED.set(AttachedThread::attach());
}

fn deliver(slot: usize) {
    let clock = CLOCKS.lock().get(slot).cloned().flatten();
    // Without a clock there is no thread yet: `register` comes back to this.
    if let Some(Clock { courier, .. }) = clock {
        courier.ring();
    }
}

/// Runs `work` soon, on a thread that ATS knows and that carries no traffic.
pub(crate) fn run(work: impl FnOnce() + Send + 'static) {
    send(Errand::Run(Box::new(work)));
}

fn send(errand: Errand) {
    if let Some(errands) = ERRANDS.get() {
        // The receiver lives as long as the process.
        let _ = errands.send(errand);
    }
}

fn arm(slot: usize) {
    let clock = CLOCKS.lock().get(slot).cloned().flatten();
    // Without a clock there is nothing to do yet: `register` comes back to this.
    let Some(Clock { cont, thread, .. }) = clock else { return };
    // The continuation's mutex first, then `armed`, which is the order inside the handler too.
    if let Err(error) = cont.with_lock(|ticker| ticker.arm((*cont).as_ref(), Duration::ZERO, Some(thread))) {
        log::error!("slot {slot}: no tick can be scheduled: {error}");
    }
}

//! Continuations, their mutexes, and timers.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Mutex as StdMutex;

use ats_sys::{
    TS_EVENT_HTTP_TXN_CLOSE, TS_EVENT_IMMEDIATE, TS_EVENT_TIMEOUT, TSAction, TSCont, TSEvent, TSEventFunc,
    TSEventThread, TSHRTime, TSMutex, TSReturnCode, TSThreadPool,
};

use crate::misc::assert_ats_thread;
use crate::object;
use crate::vconn::VConn;

/// Never freed, so that a use after the destruction is found out, and not undefined.
pub(crate) struct Cont {
    function: TSEventFunc,
    mutex: TSMutex,
    data: *mut c_void,
    /// Freed, if it is a connection.
    pub(crate) destroyed: bool,
    pub(crate) vconn: Option<VConn>,
}

struct Mutex {
    held: u32,
}

struct Timer {
    cont: TSCont,
    event: TSEvent,
    /// Its address is the event's.
    edata: *mut c_void,
    /// One of ATS's own, which the plugin cannot cancel.
    internal: bool,
}

/// For another thread than the one that scheduled it.
struct Sent(usize, Timer);

// SAFETY: tests see to it that a continuation is used by one thread at a time.
unsafe impl Send for Sent {}

static SENT: StdMutex<Vec<Sent>> = StdMutex::new(Vec::new());

thread_local! {
    static CONTS: Cell<usize> = const { Cell::new(0) };
    static TIMERS: RefCell<Vec<Timer>> = const { RefCell::new(Vec::new()) };
}

/// Continuations that this thread created and did not destroy.
#[must_use]
pub fn live_conts() -> usize {
    CONTS.get()
}

/// Timers of this thread that are out.
#[must_use]
pub fn scheduled() -> usize {
    TIMERS.with_borrow(|timers| timers.iter().filter(|timer| !timer.internal).count())
}

/// Lets the timers that are out now fire, also those that another thread scheduled on this one.
pub fn run_scheduled() {
    receive();
    let mut due = TIMERS.with_borrow(Vec::len);
    while due > 0 {
        due -= 1;
        // One at a time, since an event may cancel the next.
        let Some(timer) = TIMERS.with_borrow_mut(|timers| (!timers.is_empty()).then(|| timers.remove(0))) else {
            return;
        };
        call(timer.cont, timer.event, timer.edata);
    }
}

/// Takes in what other threads scheduled on this one.
fn receive() {
    let here = crate::misc::thread_address();
    let mut sent = SENT.lock().expect("no panic");
    let (mine, others) = std::mem::take(&mut *sent).into_iter().partition::<Vec<_>, _>(|sent| sent.0 == here);
    *sent = others;
    drop(sent);
    TIMERS.with_borrow_mut(|timers| timers.extend(mine.into_iter().map(|sent| sent.1)));
}

/// Lets all timers fire, and those that they set.
pub fn run_all_scheduled() {
    while TIMERS.with_borrow(|timers| !timers.is_empty()) {
        run_scheduled();
    }
}

#[track_caller]
pub(crate) fn live<'a>(cont: TSCont) -> &'a mut Cont {
    let cont: &mut Cont = object(cont);
    assert!(!cont.destroyed, "fake ATS: the plugin uses a continuation that is deleted");
    cont
}

impl Cont {
    /// Of the connections, which alone are freed when no event is on its way any more.
    pub(crate) fn counting(&mut self) -> Option<&mut VConn> {
        self.vconn.as_mut()
    }

    /// Whether the plugin is to be called.
    fn count_event(&mut self, event: TSEvent) -> bool {
        let counted = [TS_EVENT_IMMEDIATE, TS_EVENT_TIMEOUT, TS_EVENT_HTTP_TXN_CLOSE].contains(&event);
        let Some(vconn) = self.vconn.as_mut() else { return true };
        if counted {
            vconn.count_event();
        }
        self.destroyed = vconn.deleted && vconn.deletable;
        !vconn.deleted
    }
}

pub(crate) fn new_cont(function: TSEventFunc, mutex: TSMutex) -> TSCont {
    Box::into_raw(Box::new(Cont { function, mutex, data: ptr::null_mut(), destroyed: false, vconn: None })).cast()
}

/// Whether ATS would lock something to call it.
pub(crate) fn has_mutex(cont: TSCont) -> bool {
    !live(cont).mutex.is_null()
}

/// One of the plugin's, which it is to destroy.
pub(crate) fn new_plugin_cont(function: TSEventFunc, mutex: TSMutex) -> TSCont {
    CONTS.set(CONTS.get() + 1);
    new_cont(function, mutex)
}

/// Calls a continuation as ATS does, with its mutex held.
pub(crate) fn call(cont: TSCont, event: TSEvent, edata: *mut c_void) -> c_int {
    let (function, mutex) = {
        let cont = live(cont);
        if !cont.count_event(event) {
            return 0;
        }
        (cont.function.expect("a function"), cont.mutex)
    };
    hold(mutex, 1);
    // SAFETY: a function that was registered for this continuation.
    let answer = unsafe { function(cont, event, edata) };
    hold(mutex, -1);
    answer
}

fn hold(mutex: TSMutex, change: i32) {
    if !mutex.is_null() {
        let mutex: &mut Mutex = object(mutex);
        mutex.held = mutex.held.checked_add_signed(change).expect("fake ATS: the mutex is not held");
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSMutexCreate() -> TSMutex {
    Box::into_raw(Box::new(Mutex { held: 0 })).cast()
}

#[unsafe(no_mangle)]
extern "C" fn TSMutexLock(mutex: TSMutex) {
    assert_ats_thread("TSMutexLock");
    hold(mutex, 1);
}

#[unsafe(no_mangle)]
extern "C" fn TSMutexUnlock(mutex: TSMutex) {
    hold(mutex, -1);
}

#[unsafe(no_mangle)]
extern "C" fn TSContCreate(function: TSEventFunc, mutex: TSMutex) -> TSCont {
    assert_ats_thread("TSContCreate");
    new_plugin_cont(function, mutex)
}

#[unsafe(no_mangle)]
extern "C" fn TSContDestroy(cont: TSCont) {
    assert_ats_thread("TSContDestroy");
    assert!(
        TIMERS.with_borrow(|timers| timers.iter().all(|timer| timer.cont != cont || timer.internal)),
        "fake ATS: destroyed with timers out"
    );
    CONTS.set(CONTS.get() - 1);
    let cont = live(cont);
    cont.destroyed = cont.vconn.as_mut().is_none_or(VConn::destroy);
}

#[unsafe(no_mangle)]
extern "C" fn TSContDataSet(cont: TSCont, data: *mut c_void) {
    live(cont).data = data;
}

#[unsafe(no_mangle)]
extern "C" fn TSContDataGet(cont: TSCont) -> *mut c_void {
    live(cont).data
}

#[unsafe(no_mangle)]
extern "C" fn TSContCall(cont: TSCont, event: TSEvent, edata: *mut c_void) -> c_int {
    call(cont, event, edata)
}

#[unsafe(no_mangle)]
extern "C" fn TSContScheduleOnThread(cont: TSCont, delay: TSHRTime, thread: TSEventThread) -> TSAction {
    assert!(!thread.is_null(), "fake ATS: no thread");
    let (timer, action) = timer(cont, delay);
    if thread.addr() == crate::misc::thread_address() {
        TIMERS.with_borrow_mut(|timers| timers.push(timer));
    } else {
        SENT.lock().expect("no panic").push(Sent(thread.addr(), timer));
    }
    action
}

#[unsafe(no_mangle)]
extern "C" fn TSContMutexGet(cont: TSCont) -> TSMutex {
    live(cont).mutex
}

#[unsafe(no_mangle)]
extern "C" fn TSContThreadAffinitySet(cont: TSCont, thread: TSEventThread) -> TSReturnCode {
    assert!(!thread.is_null() && !live(cont).mutex.is_null(), "fake ATS: no thread");
    ats_sys::TS_SUCCESS
}

/// One of ATS's own events, that it counts.
pub(crate) fn schedule_internal(cont: TSCont) {
    let edata: *mut c_void = Box::into_raw(Box::new(0_u64)).cast();
    live(cont).counting().expect("a connection").count += 1;
    let timer = Timer { cont, event: TS_EVENT_IMMEDIATE, edata, internal: true };
    TIMERS.with_borrow_mut(|timers| timers.push(timer));
}

#[unsafe(no_mangle)]
extern "C" fn TSContScheduleOnPool(cont: TSCont, delay: TSHRTime, _pool: TSThreadPool) -> TSAction {
    schedule(cont, delay)
}

fn schedule(cont: TSCont, delay: TSHRTime) -> TSAction {
    let (timer, action) = timer(cont, delay);
    TIMERS.with_borrow_mut(|timers| timers.push(timer));
    action
}

fn timer(cont: TSCont, delay: TSHRTime) -> (Timer, TSAction) {
    assert_ats_thread("TSContSchedule");
    let scheduled = live(cont);
    assert!(!scheduled.mutex.is_null(), "fake ATS: scheduled without a mutex");
    if let Some(vconn) = scheduled.counting() {
        vconn.count += 1;
    }
    let event = if delay == 0 { TS_EVENT_IMMEDIATE } else { TS_EVENT_TIMEOUT };
    let edata: *mut c_void = Box::into_raw(Box::new(0_u64)).cast();
    (Timer { cont, event, edata, internal: false }, edata.map_addr(|address| address | 1).cast())
}

#[unsafe(no_mangle)]
extern "C" fn TSActionCancel(action: TSAction) {
    receive();
    let address = action.addr() & !1;
    TIMERS.with_borrow_mut(|timers| {
        let at = timers.iter().position(|timer| timer.edata.addr() == address);
        let timer = timers.remove(at.expect("fake ATS: the action has fired, or was cancelled"));
        let cont = live(timer.cont);
        assert!(object::<_, Mutex>(cont.mutex).held > 0, "fake ATS: cancelled without the mutex");
        if let Some(vconn) = cont.counting() {
            vconn.count_event();
        }
    });
}

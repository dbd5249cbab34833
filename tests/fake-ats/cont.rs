//! Continuations, their mutexes, and timers.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::ptr;

use ats_sys::{
    TS_EVENT_IMMEDIATE, TS_EVENT_TIMEOUT, TSAction, TSCont, TSEvent, TSEventFunc, TSEventThread, TSHRTime, TSMutex,
    TSThreadPool,
};

use crate::misc::assert_ats_thread;
use crate::object;

/// Never freed, so that a use after the destruction is found out, and not undefined.
pub(crate) struct Cont {
    function: TSEventFunc,
    mutex: TSMutex,
    data: *mut c_void,
    destroyed: bool,
}

struct Mutex {
    held: u32,
}

struct Timer {
    cont: TSCont,
    event: TSEvent,
    /// Its address is the event's.
    edata: *mut c_void,
}

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
    TIMERS.with_borrow(Vec::len)
}

/// Lets the timers that are out now fire.
pub fn run_scheduled() {
    for timer in TIMERS.take() {
        call(timer.cont, timer.event, timer.edata);
    }
}

#[track_caller]
fn live<'a>(cont: TSCont) -> &'a mut Cont {
    let cont: &mut Cont = object(cont);
    assert!(!cont.destroyed, "fake ATS: the plugin uses a continuation that is deleted");
    cont
}

pub(crate) fn new_cont(function: TSEventFunc, mutex: TSMutex) -> TSCont {
    CONTS.set(CONTS.get() + 1);
    Box::into_raw(Box::new(Cont { function, mutex, data: ptr::null_mut(), destroyed: false })).cast()
}

/// Calls a continuation as ATS does, with its mutex held.
pub(crate) fn call(cont: TSCont, event: TSEvent, edata: *mut c_void) -> c_int {
    let (function, mutex) = {
        let cont = live(cont);
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
    new_cont(function, mutex)
}

#[unsafe(no_mangle)]
extern "C" fn TSContDestroy(cont: TSCont) {
    assert_ats_thread("TSContDestroy");
    assert!(
        TIMERS.with_borrow(|timers| timers.iter().all(|timer| timer.cont != cont)),
        "fake ATS: destroyed with timers out"
    );
    live(cont).destroyed = true;
    CONTS.set(CONTS.get() - 1);
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
    schedule(cont, delay)
}

#[unsafe(no_mangle)]
extern "C" fn TSContScheduleOnPool(cont: TSCont, delay: TSHRTime, _pool: TSThreadPool) -> TSAction {
    schedule(cont, delay)
}

fn schedule(cont: TSCont, delay: TSHRTime) -> TSAction {
    assert_ats_thread("TSContSchedule");
    let mutex = live(cont).mutex;
    assert!(!mutex.is_null(), "fake ATS: scheduled without a mutex");
    let event = if delay == 0 { TS_EVENT_IMMEDIATE } else { TS_EVENT_TIMEOUT };
    let edata: *mut c_void = Box::into_raw(Box::new(0_u64)).cast();
    TIMERS.with_borrow_mut(|timers| timers.push(Timer { cont, event, edata }));
    edata.map_addr(|address| address | 1).cast()
}

#[unsafe(no_mangle)]
extern "C" fn TSActionCancel(action: TSAction) {
    let address = action.addr() & !1;
    TIMERS.with_borrow_mut(|timers| {
        let at = timers.iter().position(|timer| timer.edata.addr() == address);
        let timer = timers.remove(at.expect("fake ATS: the action has fired, or was cancelled"));
        assert!(object::<_, Mutex>(live(timer.cont).mutex).held > 0, "fake ATS: cancelled without the mutex");
    });
}

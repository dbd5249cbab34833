//! Statistics, per thread like everything here.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};

use ats_sys::{
    TS_ERROR, TS_RECORDDATATYPE_INT, TS_SUCCESS, TSMgmtInt, TSRecordDataType, TSReturnCode, TSStatPersistence,
    TSStatSync,
};

use crate::misc::assert_ats_thread;
use crate::{c_text, put};

thread_local! {
    static STATS: RefCell<Vec<(String, TSMgmtInt)>> = RefCell::default();
    static SLOTS: Cell<usize> = const { Cell::new(1400) };
}

/// How many statistics there may be.
pub fn set_stat_slots(slots: usize) {
    SLOTS.set(slots);
}

fn with_stat<R>(id: c_int, f: impl FnOnce(&mut TSMgmtInt) -> R) -> R {
    let id = usize::try_from(id).expect("fake ATS: negative statistic");
    STATS.with_borrow_mut(|stats| f(&mut stats[id].1))
}

#[unsafe(no_mangle)]
extern "C" fn TSStatFindName(name: *const c_char, result: *mut c_int) -> TSReturnCode {
    let name = c_text(name);
    match STATS.with_borrow(|stats| stats.iter().position(|(stat, _)| *stat == name)) {
        Some(at) => {
            put(result, c_int::try_from(at).expect("few"));
            TS_SUCCESS
        }
        None => TS_ERROR,
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSStatCreate(
    name: *const c_char,
    kind: TSRecordDataType,
    _persist: TSStatPersistence,
    _sync: TSStatSync,
) -> c_int {
    assert_eq!(kind, TS_RECORDDATATYPE_INT, "fake ATS: statistics are integers");
    STATS.with_borrow_mut(|stats| {
        if stats.len() >= SLOTS.get() {
            return TS_ERROR;
        }
        stats.push((c_text(name), 0));
        c_int::try_from(stats.len() - 1).expect("few")
    })
}

#[unsafe(no_mangle)]
extern "C" fn TSStatIntIncrement(id: c_int, amount: TSMgmtInt) {
    assert_ats_thread("TSStatIntIncrement");
    with_stat(id, |value| *value += amount);
}

#[unsafe(no_mangle)]
extern "C" fn TSStatIntDecrement(id: c_int, amount: TSMgmtInt) {
    assert_ats_thread("TSStatIntDecrement");
    with_stat(id, |value| *value -= amount);
}

#[unsafe(no_mangle)]
extern "C" fn TSStatIntGet(id: c_int) -> TSMgmtInt {
    with_stat(id, |value| *value)
}

#[unsafe(no_mangle)]
extern "C" fn TSStatIntSet(id: c_int, value: TSMgmtInt) {
    with_stat(id, |stat| *stat = value);
}

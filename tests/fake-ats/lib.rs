//! A little Apache Traffic Server for unit tests: `#[no_mangle]` fakes of the `TS*` functions that `src/ats` calls,
//! over a model in memory of messages, transactions, continuations and timers.
//!
//! For tests of the wrappers alone, as a dev-dependency: `use fake_ats as _;`. It models what the wrappers rely on and
//! takes their mistakes as hard as ATS does: a handle of the wrong kind, a freed continuation or a block freed twice
//! ends the test with a panic (in an `extern "C"` function, so the process aborts and the message names the mistake).
//! It is not a proxy: what ATS *means* by a header is tested against the real one.
//!
//! State is per thread, so that tests do not see each other. A thread starts as a foreign one; see
//! [`on_event_thread`].

mod cont;
mod heap;
mod iobuf;
mod lifecycle;
mod misc;
mod routing;
mod stats;
mod txn;
mod url;
mod vconn;

pub use cont::{live_conts, run_all_scheduled, run_scheduled, scheduled};
pub use heap::{Message, found_by_number, live_field_handles};
pub use iobuf::{BLOCK, live_buffers, take_copied};
pub use lifecycle::send_message;
pub use misc::{
    live_blocks, on_event_thread, set_debug_tag, set_record_int, set_record_string, sockaddr, take_log, text_log,
    text_log_rolling,
};
pub use stats::set_stat_slots;
pub use txn::{FakeTxn, Slot};
pub use vconn::FakeTunnel;

/// The object behind a handle of ATS's, which are pointers to boxes here.
///
/// Safe to call although it is not safe: the fakes are called with what other fakes handed out, by wrappers that are
/// under test. `'a` is as long as the caller needs, which is never beyond the one call.
#[track_caller]
pub(crate) fn object<'a, H, T>(handle: *mut H) -> &'a mut T {
    assert!(!handle.is_null(), "fake ATS: null handle");
    // SAFETY: as above: a live box of this crate's, on the thread of the test.
    unsafe { &mut *handle.cast::<T>() }
}

/// Writes to a result parameter.
#[track_caller]
pub(crate) fn put<T>(result: *mut T, value: T) {
    assert!(!result.is_null(), "fake ATS: null result pointer");
    // SAFETY: the wrappers pass pointers to their own variables.
    unsafe { result.write(value) };
}

/// The bytes of a string parameter.
#[track_caller]
pub(crate) fn bytes<'a>(ptr: *const std::ffi::c_char, len: impl TryInto<usize>) -> &'a [u8] {
    let Ok(len) = len.try_into() else {
        panic!("fake ATS: negative length");
    };
    assert!(!ptr.is_null(), "fake ATS: null string");
    // SAFETY: the wrappers pass slices.
    unsafe { std::slice::from_raw_parts(ptr.cast(), len) }
}

/// The text of a C string parameter.
#[track_caller]
pub(crate) fn c_text(ptr: *const std::ffi::c_char) -> String {
    assert!(!ptr.is_null(), "fake ATS: null string");
    // SAFETY: the wrappers pass C strings.
    unsafe { std::ffi::CStr::from_ptr(ptr) }.to_string_lossy().into_owned()
}

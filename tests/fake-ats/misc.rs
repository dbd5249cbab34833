//! Memory, diagnostics, threads, records and directories.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, c_char, c_int, c_void};
use std::net::SocketAddr;
use std::ptr;

use ats_sys::{
    TS_ERROR, TS_SUCCESS, TSEvent, TSEventThread, TSMgmtInt, TSMgmtString, TSReturnCode, TSTextLogObject, TSThread,
};

use crate::{bytes, c_text, object, put};

/// What this thread is to ATS.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Foreign,
    Attached,
    Event,
}

thread_local! {
    static BLOCKS: RefCell<HashSet<usize>> = RefCell::default();
    static LOG: RefCell<Vec<(&'static str, String)>> = RefCell::default();
    static TEXT_LOGS: RefCell<HashMap<String, TSTextLogObject>> = RefCell::default();
    static DEBUG_TAG: RefCell<Option<String>> = const { RefCell::new(None) };
    static THREAD: Cell<Kind> = const { Cell::new(Kind::Foreign) };
    /// Its address stands for the event thread.
    static THREAD_OBJECT: Cell<u8> = const { Cell::new(0) };
    static INTS: RefCell<HashMap<String, TSMgmtInt>> = RefCell::default();
    static STRINGS: RefCell<HashMap<String, String>> = RefCell::default();
}

/// Blocks of `TSmalloc` that this thread allocated and did not free.
#[must_use]
pub fn live_blocks() -> usize {
    BLOCKS.with_borrow(HashSet::len)
}

/// What this thread logged since the last call: level (or "debug:tag") and line.
#[must_use]
pub fn take_log() -> Vec<(&'static str, String)> {
    LOG.take()
}

/// Turns one debug tag on, for this thread.
pub fn set_debug_tag(tag: &str) {
    DEBUG_TAG.set(Some(tag.to_owned()));
}

/// Makes this thread one of ATS's event threads.
pub fn on_event_thread() {
    THREAD.set(Kind::Event);
}

/// Sets an integer record, for this thread.
pub fn set_record_int(name: &str, value: i64) {
    INTS.with_borrow_mut(|records| records.insert(name.to_owned(), value));
}

/// Sets a string record, for this thread.
pub fn set_record_string(name: &str, value: &str) {
    STRINGS.with_borrow_mut(|records| records.insert(name.to_owned(), value.to_owned()));
}

/// The address as C has it.
#[must_use]
pub fn sockaddr(addr: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: plain data, for which all zeroes is a value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let to = &raw mut storage;
    match addr {
        SocketAddr::V4(v4) => {
            let from = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*v4.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: a storage is as large and as aligned as any address.
            unsafe { to.cast::<libc::sockaddr_in>().write(from) };
        }
        SocketAddr::V6(v6) => {
            let from = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: a storage is as large and as aligned as any address.
            unsafe { to.cast::<libc::sockaddr_in6>().write(from) };
        }
    }
    storage
}

/// A block of ATS's memory with this content and a NUL.
pub(crate) fn allocate(content: &[u8]) -> *mut c_char {
    let block = _TSmalloc(content.len() + 1, ptr::null()).cast::<u8>();
    // SAFETY: the block is new and large enough.
    unsafe {
        block.copy_from_nonoverlapping(content.as_ptr(), content.len());
        block.add(content.len()).write(0);
    }
    block.cast()
}

pub(crate) fn assert_ats_thread(function: &str) {
    assert!(THREAD.get() != Kind::Foreign, "fake ATS: {function} on a foreign thread");
}

#[unsafe(no_mangle)]
extern "C" fn _TSmalloc(size: usize, _path: *const c_char) -> *mut c_void {
    // SAFETY: any size is allowed.
    let block = unsafe { libc::malloc(size) };
    BLOCKS.with_borrow_mut(|blocks| blocks.insert(block.addr()));
    block
}

#[unsafe(no_mangle)]
extern "C" fn _TSfree(block: *mut c_void) {
    let ours = BLOCKS.with_borrow_mut(|blocks| blocks.remove(&block.addr()));
    assert!(ours || block.is_null(), "fake ATS: freed twice, or memory of another allocator");
    // SAFETY: from `_TSmalloc`, by the check above.
    unsafe { libc::free(block) };
}

/// In ATS these are variadic. Stable Rust cannot define that, but on the ABIs that we build for, a variadic call with
/// one int and one pointer behind the format arrives like a plain one. "%.*s" is the only format that is used.
macro_rules! log_functions {
    ($($function:ident: $level:literal;)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function(format: *const c_char, len: c_int, text: *const c_char) {
            keep($level, format, len, text);
        }
    )+};
}

log_functions! {
    TSError: "error";
    TSWarning: "warning";
    TSNote: "note";
    TSStatus: "status";
}

#[unsafe(no_mangle)]
extern "C" fn TSDebug(tag: *const c_char, format: *const c_char, len: c_int, text: *const c_char) {
    assert_eq!(c_text(tag), "wasm_remap", "fake ATS: the only tag in use");
    keep("debug:wasm_remap", format, len, text);
}

fn keep(level: &'static str, format: *const c_char, len: c_int, text: *const c_char) {
    assert_eq!(c_text(format), "%.*s", "fake ATS: a message must not be a format");
    let line = String::from_utf8_lossy(bytes(text, len)).into_owned();
    LOG.with_borrow_mut(|log| log.push((level, line)));
}

/// A log file: its lines, and how it is rolled (enabled, seconds, hour, MiB).
#[derive(Default)]
struct FakeTextLog {
    lines: Vec<String>,
    rolling: [c_int; 4],
}

/// The lines of a log file of this thread's.
#[must_use]
pub fn text_log(name: &str) -> Vec<String> {
    TEXT_LOGS.with_borrow(|logs| object::<_, FakeTextLog>(logs[name]).lines.clone())
}

/// How a log file of this thread's is rolled: enabled, seconds, hour, MiB.
#[must_use]
pub fn text_log_rolling(name: &str) -> [c_int; 4] {
    TEXT_LOGS.with_borrow(|logs| object::<_, FakeTextLog>(logs[name]).rolling)
}

#[unsafe(no_mangle)]
extern "C" fn TSTextLogObjectCreate(name: *const c_char, mode: c_int, result: *mut TSTextLogObject) -> TSReturnCode {
    assert_eq!(mode, 3, "fake ATS: with times, and not renamed");
    TEXT_LOGS.with_borrow_mut(|logs| match logs.entry(c_text(name)) {
        std::collections::hash_map::Entry::Occupied(_) => {
            put(result, ptr::null_mut());
            TS_ERROR
        }
        std::collections::hash_map::Entry::Vacant(entry) => {
            // Never destroyed, as in a server.
            let log: TSTextLogObject = Box::into_raw(Box::new(FakeTextLog::default())).cast();
            entry.insert(log);
            put(result, log);
            TS_SUCCESS
        }
    })
}

/// Variadic in ATS, see `log_functions`.
#[unsafe(no_mangle)]
extern "C" fn TSTextLogObjectWrite(
    log: TSTextLogObject,
    format: *const c_char,
    len: c_int,
    text: *const c_char,
) -> TSReturnCode {
    assert_eq!(c_text(format), "%.*s", "fake ATS: a message must not be a format");
    object::<_, FakeTextLog>(log).lines.push(String::from_utf8_lossy(bytes(text, len)).into_owned());
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSTextLogObjectRollingEnabledSet(log: TSTextLogObject, enabled: c_int) -> TSReturnCode {
    object::<_, FakeTextLog>(log).rolling[0] = enabled;
    if (1..=4).contains(&enabled) { TS_SUCCESS } else { TS_ERROR }
}

macro_rules! rolling {
    ($($function:ident: $at:literal;)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function(log: TSTextLogObject, value: c_int) {
            object::<_, FakeTextLog>(log).rolling[$at] = value;
        }
    )+};
}

rolling! {
    TSTextLogObjectRollingIntervalSecSet: 1;
    TSTextLogObjectRollingOffsetHrSet: 2;
    TSTextLogObjectRollingSizeMbSet: 3;
}

#[unsafe(no_mangle)]
extern "C" fn TSIsDebugTagSet(tag: *const c_char) -> c_int {
    c_int::from(DEBUG_TAG.with_borrow(|set| set.as_deref() == Some(&c_text(tag))))
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpEventNameLookup(event: TSEvent) -> *const c_char {
    match event {
        ats_sys::TS_EVENT_HTTP_TXN_CLOSE => c"TS_EVENT_HTTP_TXN_CLOSE".as_ptr(),
        _ => ptr::null(),
    }
}

/// What tells this thread from others.
pub(crate) fn thread_address() -> usize {
    thread_object::<u8>().addr()
}

fn thread_object<T>() -> *mut T {
    THREAD_OBJECT.with(Cell::as_ptr).cast()
}

#[unsafe(no_mangle)]
extern "C" fn TSEventThreadSelf() -> TSEventThread {
    if THREAD.get() == Kind::Event { thread_object() } else { ptr::null_mut() }
}

#[unsafe(no_mangle)]
extern "C" fn TSThreadSelf() -> TSThread {
    if THREAD.get() == Kind::Foreign { ptr::null_mut() } else { thread_object() }
}

#[unsafe(no_mangle)]
extern "C" fn TSThreadInit() -> TSThread {
    assert!(THREAD.get() == Kind::Foreign, "fake ATS: the thread is known already");
    THREAD.set(Kind::Attached);
    thread_object()
}

#[unsafe(no_mangle)]
extern "C" fn TSThreadDestroy(thread: TSThread) {
    assert_eq!(thread, thread_object(), "fake ATS: destroyed on another thread");
    THREAD.set(Kind::Foreign);
}

#[unsafe(no_mangle)]
extern "C" fn TSMgmtIntGet(name: *const c_char, result: *mut TSMgmtInt) -> TSReturnCode {
    match INTS.with_borrow(|records| records.get(&c_text(name)).copied()) {
        Some(value) => {
            put(result, value);
            TS_SUCCESS
        }
        None => TS_ERROR,
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSMgmtStringGet(name: *const c_char, result: *mut TSMgmtString) -> TSReturnCode {
    match STRINGS.with_borrow(|records| records.get(&c_text(name)).cloned()) {
        Some(value) => {
            put(result, allocate(value.as_bytes()));
            TS_SUCCESS
        }
        None => TS_ERROR,
    }
}

macro_rules! directories {
    ($($function:ident: $path:literal;)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function() -> *const c_char {
            const PATH: &std::ffi::CStr = $path;
            PATH.as_ptr()
        }
    )+};
}

directories! {
    TSInstallDirGet: c"/fake";
    TSConfigDirGet: c"/fake/etc";
    TSRuntimeDirGet: c"/fake/run";
    TSPluginDirGet: c"/fake/modules";
}

/// A C string that lives for ever, for answers like the plugin tag.
pub(crate) fn leak(text: &str) -> *const c_char {
    CString::new(text).expect("no NUL").into_raw()
}

//! Panics on demand, for the tests of the guards, and a count of what transactions allocate. Compiled to nothing unless
//! the feature `fault-injection` is on.

/// Panics if the environment variable `WASM_REMAP_PANIC` names this callback.
#[cfg(feature = "fault-injection")]
pub(crate) fn inject(callback: &str) {
    let wanted = std::env::var("WASM_REMAP_PANIC").unwrap_or_default();
    assert!(!wanted.split(',').any(|name| name == callback), "fault injected into {callback}");
}

/// Panics if the request asks for it: the field `x-panic` names the callback.
#[cfg(feature = "fault-injection")]
pub(crate) fn inject_for(callback: &str, messages: &mut ats::messages::Messages<'_>) {
    let asked = messages
        .client_req_get()
        .is_some_and(|request| request.get_first(b"x-panic").is_some_and(|value| value == callback.as_bytes()));
    assert!(!asked, "fault injected into {callback}");
}

/// The same of a hostcall, whatever callback of the guest's makes it: its name is `hostcall`.
#[cfg(feature = "fault-injection")]
pub(crate) fn inject_in_hostcall(txn: Option<&mut ats::handle::TxnHandle>) {
    if let Some(mut messages) = txn.and_then(ats::handle::TxnHandle::messages) {
        inject_for("hostcall", &mut messages);
    }
}

#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub(crate) fn inject(_callback: &str) {}

#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub(crate) fn inject_for(_callback: &str, _messages: &mut ats::messages::Messages<'_>) {}

#[cfg(not(feature = "fault-injection"))]
#[inline(always)]
pub(crate) fn inject_in_hostcall(_txn: Option<&mut ats::handle::TxnHandle>) {}

#[cfg(feature = "fault-injection")]
#[global_allocator]
static ALLOCATOR: ats::counting::Counting = ats::counting::Counting;

/// An event thread: what it allocates in callbacks is counted.
#[inline(always)]
pub(crate) fn count_allocations() {
    #[cfg(feature = "fault-injection")]
    ats::counting::count_this_thread();
}

/// What event threads allocated in callbacks of ours; `None` where nobody counts.
#[inline(always)]
pub(crate) fn allocations() -> Option<u64> {
    #[cfg(feature = "fault-injection")]
    return Some(ats::counting::allocations());
    #[cfg(not(feature = "fault-injection"))]
    None
}

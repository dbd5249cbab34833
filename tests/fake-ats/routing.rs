//! Where a transaction goes, and records that are no integers.

use std::collections::HashMap;
use std::ffi::{CString, c_char, c_int};
use std::ptr;

use ats_sys::{
    TS_ERROR, TS_SUCCESS, TSHttpCntlType, TSHttpTxn, TSMBuffer, TSMLoc, TSMgmtFloat, TSOverridableConfigKey,
    TSReturnCode, sockaddr,
};

use crate::txn::state;
use crate::{bytes, c_text, heap, put, url};

#[derive(Default)]
pub(crate) struct Routing {
    floats: HashMap<TSOverridableConfigKey, TSMgmtFloat>,
    /// Pointers, as ATS keeps them.
    strings: HashMap<TSOverridableConfigKey, (usize, c_int)>,
    flags: HashMap<TSHttpCntlType, bool>,
    cache_url: Option<Vec<u8>>,
    parent: Option<(CString, c_int)>,
    redirect: Option<(*mut c_char, c_int)>,
}

impl Routing {
    pub(crate) fn redirect_url(&self) -> Option<Vec<u8>> {
        self.redirect.map(|(url, len)| bytes(url, len).to_vec())
    }
}

impl Drop for Routing {
    fn drop(&mut self) {
        if let Some((url, _)) = self.redirect.take() {
            // SAFETY: the plugin gave the block away, from ATS's allocator.
            unsafe { ats_sys::_TSfree(url.cast()) };
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigFloatSet(txn: TSHttpTxn, key: TSOverridableConfigKey, value: TSMgmtFloat) -> TSReturnCode {
    state(txn).routing.floats.insert(key, value);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigFloatGet(
    txn: TSHttpTxn,
    key: TSOverridableConfigKey,
    result: *mut TSMgmtFloat,
) -> TSReturnCode {
    put(result, state(txn).routing.floats.get(&key).copied().unwrap_or_default());
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigStringSet(
    txn: TSHttpTxn,
    key: TSOverridableConfigKey,
    value: *const c_char,
    len: c_int,
) -> TSReturnCode {
    state(txn).routing.strings.insert(key, (value.expose_provenance(), len));
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigStringGet(
    txn: TSHttpTxn,
    key: TSOverridableConfigKey,
    value: *mut *const c_char,
    len: *mut c_int,
) -> TSReturnCode {
    assert!(key != ats_sys::TS_CONFIG_HTTP_HOST_RESOLUTION_PREFERENCE, "fake ATS: null pointer");
    let (address, length) = state(txn).routing.strings.get(&key).copied().unwrap_or((0, 0));
    put(value, ptr::with_exposed_provenance(address));
    put(len, length);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnCntlSet(txn: TSHttpTxn, flag: TSHttpCntlType, value: bool) -> TSReturnCode {
    state(txn).routing.flags.insert(flag, value);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnCntlGet(txn: TSHttpTxn, flag: TSHttpCntlType) -> bool {
    state(txn).routing.flags.get(&flag).copied().unwrap_or(false)
}

#[unsafe(no_mangle)]
extern "C" fn TSCacheUrlSet(txn: TSHttpTxn, url: *const c_char, len: c_int) -> TSReturnCode {
    let mut state = state(txn);
    if state.routing.cache_url.is_some() {
        return TS_ERROR;
    }
    // As ATS does for its debug message.
    c_text(url);
    state.routing.cache_url = Some(bytes(url, len).to_vec());
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnCacheLookupUrlGet(txn: TSHttpTxn, bufp: TSMBuffer, loc: TSMLoc) -> TSReturnCode {
    assert!(heap::writeable(bufp), "fake ATS: a buffer that cannot be written to");
    let Some(text) = state(txn).routing.cache_url.clone() else { return TS_ERROR };
    url::assign(loc, &text);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnParentProxySet(txn: TSHttpTxn, name: *const c_char, port: c_int) {
    assert!(port > 0, "fake ATS: port 0");
    let name = CString::new(c_text(name)).expect("no NUL");
    state(txn).routing.parent = Some((name, port));
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnParentProxyGet(txn: TSHttpTxn, name: *mut *const c_char, port: *mut c_int) -> TSReturnCode {
    let state = state(txn);
    let parent = state.routing.parent.as_ref();
    put(name, parent.map_or(ptr::null(), |(name, _)| name.as_ptr()));
    put(port, parent.map_or(-1, |(_, port)| *port));
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnServerAddrSet(txn: TSHttpTxn, addr: *const sockaddr) -> TSReturnCode {
    assert!(!addr.is_null(), "fake ATS: null address");
    // SAFETY: the wrapper passes a whole storage.
    state(txn).address = Some(Box::new(unsafe { addr.cast::<libc::sockaddr_storage>().read() }));
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnRedirectUrlSet(txn: TSHttpTxn, url: *const c_char, len: c_int) {
    if let Some((old, _)) = state(txn).routing.redirect.replace((url.cast_mut(), len)) {
        // SAFETY: the plugin gave the block away, from ATS's allocator.
        unsafe { ats_sys::_TSfree(old.cast()) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSMBufferCreate() -> TSMBuffer {
    heap::create()
}

#[unsafe(no_mangle)]
extern "C" fn TSMBufferDestroy(bufp: TSMBuffer) -> TSReturnCode {
    heap::destroy(bufp);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSUrlCreate(_bufp: TSMBuffer, loc: *mut TSMLoc) -> TSReturnCode {
    put(loc, heap::create_url());
    TS_SUCCESS
}

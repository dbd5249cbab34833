//! Transactions: messages, hooks, re-enabling, and the small things that wrappers ask for.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{c_char, c_int, c_void};
use std::net::SocketAddr;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ats_sys::{
    TS_ERROR, TS_EVENT_HTTP_READ_REQUEST_HDR, TS_EVENT_HTTP_TXN_CLOSE, TS_RECORDDATATYPE_INT, TS_SUCCESS, TSCont,
    TSEvent, TSHRTime, TSHttpHookID, TSHttpStatus, TSHttpTxn, TSIOBuffer, TSIOBufferReader, TSMBuffer, TSMLoc,
    TSMgmtInt, TSMilestonesType, TSOverridableConfigKey, TSRecordDataType, TSReturnCode, TSUserArgType,
};

use crate::heap::Message;
use crate::{bytes, c_text, cont, iobuf, misc, object, put, url};

/// A transaction, owned by the test.
pub struct FakeTxn(Box<Shared>);

/// Behind a mutex, for tokens that are used on another thread. Never locked while the plugin is called.
struct Shared(Mutex<State>);

#[derive(Default)]
pub(crate) struct State {
    messages: HashMap<Slot, Message>,
    hooks: Vec<(TSHttpHookID, TSCont)>,
    /// Hooks that are still to be called, by [`FakeTxn::run`].
    queue: VecDeque<(TSHttpHookID, Option<TSCont>)>,
    reenables: Vec<TSEvent>,
    on_reenable: Option<Box<dyn FnMut(TSEvent)>>,
    status: TSHttpStatus,
    body: Option<(*mut c_char, usize, *mut c_char)>,
    pub(crate) address: Option<Box<libc::sockaddr_storage>>,
    internal: bool,
    aborted: bool,
    cache_lookup: Option<c_int>,
    cache_transformed: (c_int, c_int),
    config: HashMap<TSOverridableConfigKey, TSMgmtInt>,
    pub(crate) routing: crate::routing::Routing,
    args: HashMap<c_int, usize>,
    milestones: HashMap<TSMilestonesType, TSHRTime>,
    tag: Option<String>,
    protocol: Option<String>,
    shut_down: bool,
    server_fd: Option<c_int>,
    client_fd: Option<c_int>,
    client_reset: bool,
    post_buffer: Option<(TSIOBuffer, TSIOBufferReader)>,
    request_body: Option<(*mut c_char, usize)>,
}

/// Which message of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The client's request.
    ClientReq,
    /// The response to the client.
    ClientResp,
    /// The request to the origin.
    ServerReq,
    /// The origin's response.
    ServerResp,
    /// The cached response.
    CachedResp,
    /// The transformed response.
    TransformResp,
}

impl Default for FakeTxn {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeTxn {
    /// A transaction with nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self(Box::new(Shared(Mutex::default())))
    }

    /// The handle.
    #[must_use]
    pub fn raw(&self) -> TSHttpTxn {
        (&raw const *self.0).cast_mut().cast()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it a message.
    pub fn put(&self, slot: Slot, message: Message) {
        self.state().messages.insert(slot, message);
    }

    /// The events that it was re-enabled with since the last call.
    #[must_use]
    pub fn take_reenables(&self) -> Vec<TSEvent> {
        std::mem::take(&mut self.state().reenables)
    }

    /// Called at each re-enable, on the same stack.
    pub fn on_reenable(&self, f: impl FnMut(TSEvent) + 'static) {
        self.state().on_reenable = Some(Box::new(f));
    }

    /// Calls these hooks in turn, each after the re-enable of the one before, and nested in it as ATS does.
    pub fn run(&self, hooks: &[TSHttpHookID]) {
        self.state().queue.extend(hooks.iter().map(|hook| (*hook, None)));
        advance(self.raw());
    }

    /// The hooks that a continuation was added to.
    #[must_use]
    pub fn hooks(&self) -> Vec<TSHttpHookID> {
        self.state().hooks.iter().map(|(hook, _)| *hook).collect()
    }

    /// What `TSHttpTxnErrorBodySet` left: body and media type.
    #[must_use]
    pub fn error_body(&self) -> Option<(Vec<u8>, Option<String>)> {
        let (body, len, mimetype) = self.state().body?;
        let mimetype = (!mimetype.is_null()).then(|| c_text(mimetype));
        Some((if body.is_null() { Vec::new() } else { bytes(body, len).to_vec() }, mimetype))
    }

    /// Sets all its addresses.
    pub fn set_address(&self, addr: SocketAddr) {
        self.state().address = Some(Box::new(misc::sockaddr(addr)));
    }

    /// Sets whether it is a plugin's own, and whether it was broken off.
    pub fn set_flags(&self, internal: bool, aborted: bool) {
        let mut state = self.state();
        (state.internal, state.aborted) = (internal, aborted);
    }

    /// What `TSHttpTxnRedirectUrlSet` left.
    #[must_use]
    pub fn redirect_url(&self) -> Option<Vec<u8>> {
        self.state().routing.redirect_url()
    }

    /// The continuations of a hook.
    pub(crate) fn conts(&self, hook: TSHttpHookID) -> Vec<TSCont> {
        self.state().hooks.iter().filter(|(added, _)| *added == hook).map(|(_, cont)| *cont).collect()
    }

    /// Whether `TSHttpTxnShutDown` was called.
    #[must_use]
    pub fn shut_down(&self) -> bool {
        self.state().shut_down
    }

    /// Sets the socket to the client.
    pub fn set_client_fd(&self, fd: c_int) {
        self.state().client_fd = Some(fd);
    }

    /// Has the client reset its stream, as HTTP/2 allows it to.
    pub fn reset_client(&self) {
        self.state().client_reset = true;
    }

    /// Sets the socket to the origin.
    pub fn set_server_fd(&self, fd: c_int) {
        self.state().server_fd = Some(fd);
    }

    /// Sets the buffered request body, once.
    pub fn set_post_buffer(&self, body: &[u8]) {
        let (buffer, reader) = iobuf::create();
        iobuf::write(buffer, body);
        self.state().post_buffer = Some((buffer, reader));
    }

    /// What `TSHttpTxnServerRequestBodySet` left.
    #[must_use]
    pub fn request_body(&self) -> Option<Vec<u8>> {
        self.state().request_body.map(|(body, len)| bytes(body, len).to_vec())
    }

    /// Sets the result of the cache lookup.
    pub fn set_cache_lookup(&self, status: c_int) {
        self.state().cache_lookup = Some(status);
    }

    /// Sets a milestone.
    pub fn set_milestone(&self, milestone: TSMilestonesType, time: TSHRTime) {
        self.state().milestones.insert(milestone, time);
    }

    /// Sets the plugin tag and the one protocol of the client's stack.
    pub fn set_names(&self, tag: &str, protocol: &str) {
        let mut state = self.state();
        (state.tag, state.protocol) = (Some(tag.to_owned()), Some(protocol.to_owned()));
    }

    /// What was set by the two calls on what is cached: untransformed, transformed.
    #[must_use]
    pub fn cache_transformed(&self) -> (c_int, c_int) {
        self.state().cache_transformed
    }
}

impl Drop for FakeTxn {
    fn drop(&mut self) {
        let mut state = self.state();
        free_body(&mut state);
        free_request_body(&mut state);
        if let Some((buffer, reader)) = state.post_buffer.take() {
            iobuf::destroy(buffer, reader);
        }
    }
}

impl std::fmt::Debug for FakeTxn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FakeTxn").field(&self.raw()).finish()
    }
}

fn free_body(state: &mut State) {
    if let Some((body, _, mimetype)) = state.body.take() {
        for block in [body, mimetype] {
            // SAFETY: the plugin gave both blocks away, from ATS's allocator.
            unsafe { ats_sys::_TSfree(block.cast()) };
        }
    }
}

fn free_request_body(state: &mut State) {
    if let Some((body, _)) = state.request_body.take() {
        // SAFETY: the plugin gave the block away, from ATS's allocator.
        unsafe { ats_sys::_TSfree(body.cast()) };
    }
}

#[track_caller]
pub(crate) fn state<'a>(txn: TSHttpTxn) -> MutexGuard<'a, State> {
    let shared: &mut Shared = object(txn);
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls the next continuation that waits for a hook.
fn advance(txn: TSHttpTxn) {
    loop {
        let (hook, waiting) = {
            let mut state = state(txn);
            let Some((hook, waiting)) = state.queue.pop_front() else { return };
            let Some(waiting) = waiting else {
                let all: Vec<_> = state.hooks.iter().filter(|(added, _)| *added == hook).map(|(_, at)| *at).collect();
                for cont in all.into_iter().rev() {
                    state.queue.push_front((hook, Some(cont)));
                }
                continue;
            };
            (hook, waiting)
        };
        let event = TS_EVENT_HTTP_READ_REQUEST_HDR + hook;
        if event == TS_EVENT_HTTP_TXN_CLOSE
            && let Some(vconn) = cont::live(waiting).counting()
        {
            vconn.count += 1;
        }
        // As ATS 9 numbers it, which for the request buffer is not what its header says.
        cont::call(waiting, event, txn.cast());
        return;
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnReenable(txn: TSHttpTxn, event: TSEvent) {
    let callback = {
        let mut state = state(txn);
        state.reenables.push(event);
        state.on_reenable.take()
    };
    if let Some(mut callback) = callback {
        callback(event);
        state(txn).on_reenable.get_or_insert(callback);
    }
    advance(txn);
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnHookAdd(txn: TSHttpTxn, hook: TSHttpHookID, cont: TSCont) {
    let mut state = state(txn);
    if !state.hooks.contains(&(hook, cont)) {
        state.hooks.push((hook, cont));
    }
}

macro_rules! messages {
    ($($function:ident: $slot:ident;)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function(txn: TSHttpTxn, bufp: *mut TSMBuffer, hdr: *mut TSMLoc) -> TSReturnCode {
            let state = state(txn);
            let Some(message) = state.messages.get(&Slot::$slot) else { return TS_ERROR };
            put(bufp, message.bufp());
            put(hdr, message.hdr());
            TS_SUCCESS
        }
    )+};
}

messages! {
    TSHttpTxnClientReqGet: ClientReq;
    TSHttpTxnClientRespGet: ClientResp;
    TSHttpTxnServerReqGet: ServerReq;
    TSHttpTxnServerRespGet: ServerResp;
    TSHttpTxnCachedRespGet: CachedResp;
    TSHttpTxnTransformRespGet: TransformResp;
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnPristineUrlGet(txn: TSHttpTxn, bufp: *mut TSMBuffer, loc: *mut TSMLoc) -> TSReturnCode {
    let state = state(txn);
    let Some(message) = state.messages.get(&Slot::ClientReq) else { return TS_ERROR };
    put(bufp, message.bufp());
    put(loc, message.url());
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnEffectiveUrlStringGet(txn: TSHttpTxn, len: *mut c_int) -> *mut c_char {
    let loc = state(txn).messages.get(&Slot::ClientReq).map_or(ptr::null_mut(), Message::url);
    url::string_of(loc, len)
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnStatusSet(txn: TSHttpTxn, status: TSHttpStatus) {
    state(txn).status = status;
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnStatusGet(txn: TSHttpTxn) -> TSHttpStatus {
    state(txn).status
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnErrorBodySet(txn: TSHttpTxn, body: *mut c_char, len: usize, mimetype: *mut c_char) {
    let mut state = state(txn);
    free_body(&mut state);
    state.body = Some((body, len, mimetype));
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnIsInternal(txn: TSHttpTxn) -> c_int {
    c_int::from(state(txn).internal)
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnAborted(txn: TSHttpTxn) -> TSReturnCode {
    if state(txn).aborted { TS_SUCCESS } else { TS_ERROR }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnIdGet(_txn: TSHttpTxn) -> u64 {
    42
}

macro_rules! addresses {
    ($($function:ident)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $function(txn: TSHttpTxn) -> *const ats_sys::sockaddr {
            state(txn).address.as_ref().map_or(ptr::null(), |address| (&raw const **address).cast())
        }
    )+};
}

addresses!(TSHttpTxnClientAddrGet TSHttpTxnIncomingAddrGet TSHttpTxnServerAddrGet);

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnCacheLookupStatusGet(txn: TSHttpTxn, result: *mut c_int) -> TSReturnCode {
    let Some(status) = state(txn).cache_lookup else { return TS_ERROR };
    put(result, status);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnUntransformedRespCache(txn: TSHttpTxn, on: c_int) {
    state(txn).cache_transformed.0 = on;
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnTransformedRespCache(txn: TSHttpTxn, on: c_int) {
    state(txn).cache_transformed.1 = on;
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigFind(
    name: *const c_char,
    len: c_int,
    key: *mut TSOverridableConfigKey,
    kind: *mut TSRecordDataType,
) -> TSReturnCode {
    let (found, found_kind) = match bytes(name, len) {
        b"proxy.config.http.request_buffer_enabled" => {
            (ats_sys::TS_CONFIG_HTTP_REQUEST_BUFFER_ENABLED, TS_RECORDDATATYPE_INT)
        }
        b"proxy.config.http.connect_attempts_timeout" => {
            (ats_sys::TS_CONFIG_HTTP_CONNECT_ATTEMPTS_TIMEOUT, TS_RECORDDATATYPE_INT)
        }
        b"proxy.config.http.cache.http" => (ats_sys::TS_CONFIG_HTTP_CACHE_HTTP, TS_RECORDDATATYPE_INT),
        b"proxy.config.http.chunking.size" => (ats_sys::TS_CONFIG_HTTP_CHUNKING_SIZE, TS_RECORDDATATYPE_INT),
        b"proxy.config.http.parent_proxy.per_parent_connect_attempts" => {
            (ats_sys::TS_CONFIG_HTTP_PER_PARENT_CONNECT_ATTEMPTS, TS_RECORDDATATYPE_INT)
        }
        b"proxy.config.http.cache.heuristic_lm_factor" => {
            (ats_sys::TS_CONFIG_HTTP_CACHE_HEURISTIC_LM_FACTOR, ats_sys::TS_RECORDDATATYPE_FLOAT)
        }
        b"proxy.config.http.response_server_str" => {
            (ats_sys::TS_CONFIG_HTTP_RESPONSE_SERVER_STR, ats_sys::TS_RECORDDATATYPE_STRING)
        }
        b"proxy.config.hostdb.ip_resolve" => {
            (ats_sys::TS_CONFIG_HTTP_HOST_RESOLUTION_PREFERENCE, ats_sys::TS_RECORDDATATYPE_STRING)
        }
        _ => return TS_ERROR,
    };
    put(key, found);
    put(kind, found_kind);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigIntSet(txn: TSHttpTxn, key: TSOverridableConfigKey, value: TSMgmtInt) -> TSReturnCode {
    // Most are a byte there.
    let value = if key == ats_sys::TS_CONFIG_HTTP_CACHE_HTTP { TSMgmtInt::from(value as i8) } else { value };
    state(txn).config.insert(key, value);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnConfigIntGet(
    txn: TSHttpTxn,
    key: TSOverridableConfigKey,
    result: *mut TSMgmtInt,
) -> TSReturnCode {
    let Some(value) = state(txn).config.get(&key).copied() else {
        if key == ats_sys::TS_CONFIG_HTTP_REQUEST_BUFFER_ENABLED {
            return TS_ERROR;
        }
        put(result, 0);
        return TS_SUCCESS;
    };
    put(result, value);
    TS_SUCCESS
}

thread_local! {
    /// Those of the process; here, of the test's thread.
    static GLOBAL_ARGS: RefCell<HashMap<c_int, usize>> = RefCell::default();
}

#[unsafe(no_mangle)]
extern "C" fn TSUserArgIndexReserve(
    _kind: TSUserArgType,
    name: *const c_char,
    _description: *const c_char,
    result: *mut c_int,
) -> TSReturnCode {
    // One slot a name, as ATS has it; the length is as good as a table here.
    put(result, c_int::try_from(c_text(name).len()).expect("short"));
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSUserArgSet(data: *mut c_void, index: c_int, value: *mut c_void) {
    let address = value.expose_provenance();
    if data.is_null() {
        GLOBAL_ARGS.with_borrow_mut(|args| args.insert(index, address));
    } else {
        state(data.cast()).args.insert(index, address);
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSUserArgGet(data: *mut c_void, index: c_int) -> *mut c_void {
    let address = if data.is_null() {
        GLOBAL_ARGS.with_borrow(|args| args.get(&index).copied())
    } else {
        state(data.cast()).args.get(&index).copied()
    };
    address.map_or(ptr::null_mut(), ptr::with_exposed_provenance_mut)
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnMilestoneGet(
    txn: TSHttpTxn,
    milestone: TSMilestonesType,
    result: *mut TSHRTime,
) -> TSReturnCode {
    put(result, state(txn).milestones.get(&milestone).copied().unwrap_or(0));
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnPluginTagGet(txn: TSHttpTxn) -> *const c_char {
    state(txn).tag.as_deref().map_or(ptr::null(), misc::leak)
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnClientProtocolStackContains(txn: TSHttpTxn, tag: *const c_char) -> *const c_char {
    if state(txn).protocol.as_deref() == Some(&c_text(tag)) { tag } else { ptr::null() }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnShutDown(txn: TSHttpTxn, event: TSEvent) -> TSReturnCode {
    if event == TS_EVENT_HTTP_TXN_CLOSE {
        return TS_ERROR;
    }
    state(txn).shut_down = true;
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnServerFdGet(txn: TSHttpTxn, result: *mut c_int) -> TSReturnCode {
    let fd = state(txn).server_fd;
    put(result, fd.unwrap_or(-1));
    if fd.is_some() { TS_SUCCESS } else { TS_ERROR }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnClientFdGet(txn: TSHttpTxn, result: *mut c_int) -> TSReturnCode {
    let fd = state(txn).client_fd;
    put(result, fd.unwrap_or(-1));
    if fd.is_some() { TS_SUCCESS } else { TS_ERROR }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnClientReceivedErrorGet(txn: TSHttpTxn, class: *mut u32, code: *mut u64) {
    let reset = state(txn).client_reset;
    // HTTP/2's CANCEL, of a stream.
    put(class, if reset { 2 } else { 0 });
    put(code, if reset { 8 } else { 0 });
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnServerRequestBodySet(txn: TSHttpTxn, body: *mut c_char, len: i64) {
    let mut state = state(txn);
    free_request_body(&mut state);
    if !body.is_null() {
        state.request_body = Some((body, usize::try_from(len).expect("not negative")));
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpTxnPostBufferReaderGet(txn: TSHttpTxn) -> TSIOBufferReader {
    let (_, reader) = state(txn).post_buffer.expect("fake ATS: null pointer: nothing is buffered");
    // SAFETY: a live reader of ours.
    unsafe { ats_sys::TSIOBufferReaderClone(reader) }
}

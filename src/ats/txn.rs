//! A transaction: everything but its messages ([`crate::messages`]) and its re-enabling ([`crate::hook`]).

use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ptr::{self, NonNull};

use ats_sys::{
    TS_CACHE_LOOKUP_HIT_FRESH, TS_CACHE_LOOKUP_HIT_STALE, TS_CACHE_LOOKUP_MISS, TS_CACHE_LOOKUP_SKIPPED, TS_SUCCESS,
    TS_USER_ARGS_TXN, TSHRTime, TSHttpTxn, TSHttpTxnCacheLookupStatusGet, TSHttpTxnClientAddrGet,
    TSHttpTxnClientProtocolStackContains, TSHttpTxnConfigFind, TSHttpTxnConfigIntGet, TSHttpTxnConfigIntSet,
    TSHttpTxnEffectiveUrlStringGet, TSHttpTxnErrorBodySet, TSHttpTxnHookAdd, TSHttpTxnIdGet, TSHttpTxnIncomingAddrGet,
    TSHttpTxnIsInternal, TSHttpTxnMilestoneGet, TSHttpTxnPluginTagGet, TSHttpTxnServerAddrGet, TSHttpTxnStatusGet,
    TSHttpTxnStatusSet, TSHttpTxnTransformedRespCache, TSHttpTxnUntransformedRespCache, TSMgmtInt, TSMilestonesType,
    TSOverridableConfigKey, TSUserArgGet, TSUserArgIndexReserve, TSUserArgSet, tsapi_httptxn,
};

use crate::addr::socket_addr;
use crate::alloc::TsBuf;
use crate::cont::{ContRef, Handler};
use crate::error::{Result, c_len, check};
use crate::event::HookId;
use crate::http::check_status;
use crate::raw_slice::c_str;

/// A live transaction (`TSHttpTxn`).
///
/// Transaction's event thread only. `'t` ends with the hook that it was taken in: a [`crate::hook::Hook`] lends it,
/// and re-enabling consumes the hook. Nothing here moves a message's strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Txn<'t> {
    raw: NonNull<tsapi_httptxn>,
    _live: PhantomData<&'t tsapi_httptxn>,
}

/// What became of the cache lookup (`TSCacheLookupResult`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CacheLookup {
    /// `TS_CACHE_LOOKUP_MISS`
    Miss,
    /// `TS_CACHE_LOOKUP_HIT_STALE`
    HitStale,
    /// `TS_CACHE_LOOKUP_HIT_FRESH`
    HitFresh,
    /// `TS_CACHE_LOOKUP_SKIPPED`
    Skipped,
}

/// A point of time in a transaction (`TSMilestonesType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Milestone(TSMilestonesType);

macro_rules! milestones {
    ($($name:ident $text:literal = $value:ident;)+) => {
        impl Milestone {
            $(#[doc = concat!("`", stringify!($value), "`")]
            pub const $name: Self = Self(ats_sys::$value);)+

            /// The milestone of this name, in small letters: what stands behind `TS_MILESTONE_`.
            #[must_use]
            pub fn find(name: &[u8]) -> Option<Self> {
                match name {
                    $($text => Some(Self::$name),)+
                    _ => None,
                }
            }
        }
    };
}

milestones! {
    UA_BEGIN b"ua_begin" = TS_MILESTONE_UA_BEGIN;
    UA_FIRST_READ b"ua_first_read" = TS_MILESTONE_UA_FIRST_READ;
    UA_READ_HEADER_DONE b"ua_read_header_done" = TS_MILESTONE_UA_READ_HEADER_DONE;
    UA_BEGIN_WRITE b"ua_begin_write" = TS_MILESTONE_UA_BEGIN_WRITE;
    UA_CLOSE b"ua_close" = TS_MILESTONE_UA_CLOSE;
    SERVER_FIRST_CONNECT b"server_first_connect" = TS_MILESTONE_SERVER_FIRST_CONNECT;
    SERVER_CONNECT b"server_connect" = TS_MILESTONE_SERVER_CONNECT;
    SERVER_CONNECT_END b"server_connect_end" = TS_MILESTONE_SERVER_CONNECT_END;
    SERVER_BEGIN_WRITE b"server_begin_write" = TS_MILESTONE_SERVER_BEGIN_WRITE;
    SERVER_FIRST_READ b"server_first_read" = TS_MILESTONE_SERVER_FIRST_READ;
    SERVER_READ_HEADER_DONE b"server_read_header_done" = TS_MILESTONE_SERVER_READ_HEADER_DONE;
    SERVER_CLOSE b"server_close" = TS_MILESTONE_SERVER_CLOSE;
    CACHE_OPEN_READ_BEGIN b"cache_open_read_begin" = TS_MILESTONE_CACHE_OPEN_READ_BEGIN;
    CACHE_OPEN_READ_END b"cache_open_read_end" = TS_MILESTONE_CACHE_OPEN_READ_END;
    CACHE_OPEN_WRITE_BEGIN b"cache_open_write_begin" = TS_MILESTONE_CACHE_OPEN_WRITE_BEGIN;
    CACHE_OPEN_WRITE_END b"cache_open_write_end" = TS_MILESTONE_CACHE_OPEN_WRITE_END;
    DNS_LOOKUP_BEGIN b"dns_lookup_begin" = TS_MILESTONE_DNS_LOOKUP_BEGIN;
    DNS_LOOKUP_END b"dns_lookup_end" = TS_MILESTONE_DNS_LOOKUP_END;
    SM_START b"sm_start" = TS_MILESTONE_SM_START;
    SM_FINISH b"sm_finish" = TS_MILESTONE_SM_FINISH;
    PLUGIN_ACTIVE b"plugin_active" = TS_MILESTONE_PLUGIN_ACTIVE;
    PLUGIN_TOTAL b"plugin_total" = TS_MILESTONE_PLUGIN_TOTAL;
    TLS_HANDSHAKE_START b"tls_handshake_start" = TS_MILESTONE_TLS_HANDSHAKE_START;
    TLS_HANDSHAKE_END b"tls_handshake_end" = TS_MILESTONE_TLS_HANDSHAKE_END;
}

/// A record that a transaction may override (`TSOverridableConfigKey`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConfigKey(TSOverridableConfigKey);

impl ConfigKey {
    /// `proxy.config.http.request_buffer_enabled`
    pub const HTTP_REQUEST_BUFFER_ENABLED: Self = Self(ats_sys::TS_CONFIG_HTTP_REQUEST_BUFFER_ENABLED);

    /// `proxy.config.http.number_of_redirections`
    pub const HTTP_NUMBER_OF_REDIRECTIONS: Self = Self(ats_sys::TS_CONFIG_HTTP_NUMBER_OF_REDIRECTIONS);

    /// `proxy.config.http.chunking_enabled`
    pub const HTTP_CHUNKING_ENABLED: Self = Self(ats_sys::TS_CONFIG_HTTP_CHUNKING_ENABLED);

    /// The key of the name of a record that is an integer (`TSHttpTxnConfigFind`); see [`crate::record`] for those that
    /// are not. Any thread.
    #[must_use]
    pub fn find(name: &[u8]) -> Option<Self> {
        let len = c_len(name, 1024, "record name").ok()?;
        let mut key = ats_sys::TS_CONFIG_NULL;
        let mut kind = ats_sys::TS_RECORDDATATYPE_NULL;
        // SAFETY: the name is read within the given length; both results are ours to write to.
        let code = unsafe { TSHttpTxnConfigFind(name.as_ptr().cast(), len, &raw mut key, &raw mut kind) };
        // With any other type, ATS's calls for integers dereference a null pointer.
        (code == TS_SUCCESS && kind == ats_sys::TS_RECORDDATATYPE_INT).then_some(Self(key))
    }
}

/// A slot for a pointer in every transaction (`TSUserArgIndexReserve`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TxnArg(c_int);

impl TxnArg {
    /// The slot of this name, reserved if it is not yet: two copies of this plugin get the same one.
    ///
    /// # Errors
    /// All slots are taken.
    pub fn reserve(name: &CStr, description: &CStr) -> Result<Self> {
        let mut index: c_int = 0;
        // SAFETY: C strings, which ATS copies; the result is ours to write to.
        let code =
            unsafe { TSUserArgIndexReserve(TS_USER_ARGS_TXN, name.as_ptr(), description.as_ptr(), &raw mut index) };
        check(code, "TSUserArgIndexReserve").map(|()| Self(index))
    }
}

impl<'t> Txn<'t> {
    /// The transaction at `raw`; `None` for null.
    ///
    /// # Safety
    /// It must live for `'t`, and this must be its event thread.
    #[must_use]
    pub unsafe fn from_raw(raw: TSHttpTxn) -> Option<Self> {
        // SAFETY: the caller's promise.
        NonNull::new(raw).map(|raw| unsafe { Self::from_non_null(raw) })
    }

    /// # Safety
    /// As for [`Self::from_raw`].
    pub(crate) unsafe fn from_non_null(raw: NonNull<tsapi_httptxn>) -> Self {
        Self { raw, _live: PhantomData }
    }

    /// The pointer, as ATS has it.
    #[must_use]
    pub fn as_raw(self) -> TSHttpTxn {
        self.raw.as_ptr()
    }

    /// Calls the continuation at this hook, and at TXN_CLOSE in any case (`TSHttpTxnHookAdd`).
    ///
    /// From then on the continuation lives at least until it has had its TXN_CLOSE event: to drop or destroy it
    /// before that only takes effect then. Adding it to one hook twice is the same as once. Hooks that are past never
    /// fire.
    ///
    /// # Errors
    /// [`OtherTransaction`](crate::Error::OtherTransaction): a continuation serves one transaction; a destroyed one.
    pub fn hook_add<T: Handler>(self, hook: HookId, cont: ContRef<'_, T>) -> Result<()> {
        cont.bind(self.raw)?;
        let add = |hook: HookId| {
            // SAFETY: a live transaction on its thread, and a live continuation that stays so until TXN_CLOSE.
            unsafe { TSHttpTxnHookAdd(self.as_raw(), hook.as_raw(), cont.as_raw()) };
        };
        add(HookId::TXN_CLOSE);
        if hook != HookId::TXN_CLOSE {
            add(hook);
        }
        Ok(())
    }

    /// `TSHttpTxnStatusSet`: the status of the answer, should it be an error answer. Below 400 becomes a 500 there.
    ///
    /// # Errors
    /// A number that is no status code.
    pub fn status_set(self, status: u16) -> Result<()> {
        let status = check_status(status)?;
        // SAFETY: a live transaction on its thread.
        unsafe { TSHttpTxnStatusSet(self.as_raw(), status) };
        Ok(())
    }

    /// `TSHttpTxnStatusGet`; 0 if none was set.
    #[must_use]
    pub fn status_get(self) -> u16 {
        // SAFETY: a live transaction on its thread.
        u16::try_from(unsafe { TSHttpTxnStatusGet(self.as_raw()) }).unwrap_or(0)
    }

    /// `TSHttpTxnErrorBodySet`: the body of an error answer; `None` takes back one that was set. ATS frees it.
    ///
    /// A media type of `None` means "text/html", an empty one leaves `Content-Type` alone. Set in DoRemap, the body
    /// passes through a text template and must be short text; from a hook it is sent as it is.
    pub fn error_body_set(self, body: Option<TsBuf>, mimetype: Option<&[u8]>) {
        let (body, len) = body.map_or((ptr::null_mut(), 0), TsBuf::into_raw);
        // `TsBuf` ends with a NUL, so this is a C string; ATS reads it up to the first.
        let mimetype = mimetype.map_or(ptr::null_mut(), |text| TsBuf::copy_from(text).into_raw().0);
        // SAFETY: a live transaction on its thread, which takes over both blocks, and they are from its allocator.
        unsafe { TSHttpTxnErrorBodySet(self.as_raw(), body, len, mimetype) };
    }

    /// Whether a plugin made this transaction, rather than a client (`TSHttpTxnIsInternal`).
    #[must_use]
    pub fn is_internal(self) -> bool {
        // SAFETY: a live transaction on its thread.
        unsafe { TSHttpTxnIsInternal(self.as_raw()) != 0 }
    }

    /// A number that no other transaction of this process has (`TSHttpTxnIdGet`).
    #[must_use]
    pub fn id(self) -> u64 {
        // SAFETY: a live transaction on its thread.
        unsafe { TSHttpTxnIdGet(self.as_raw()) }
    }

    /// The client's address (`TSHttpTxnClientAddrGet`).
    #[must_use]
    pub fn client_addr(self) -> Option<SocketAddr> {
        // SAFETY: a live transaction on its thread; the answer is null or a whole address.
        unsafe { socket_addr(TSHttpTxnClientAddrGet(self.as_raw())) }
    }

    /// The address that the client connected to (`TSHttpTxnIncomingAddrGet`).
    #[must_use]
    pub fn incoming_addr(self) -> Option<SocketAddr> {
        // SAFETY: a live transaction on its thread; the answer is null or a whole address.
        unsafe { socket_addr(TSHttpTxnIncomingAddrGet(self.as_raw())) }
    }

    /// The origin's address, once it is known (`TSHttpTxnServerAddrGet`).
    #[must_use]
    pub fn server_addr(self) -> Option<SocketAddr> {
        // SAFETY: a live transaction on its thread; the answer is null or a whole address.
        unsafe { socket_addr(TSHttpTxnServerAddrGet(self.as_raw())) }
    }

    /// The client's URL as it is now, completed with scheme and host (`TSHttpTxnEffectiveUrlStringGet`).
    #[must_use]
    pub fn effective_url(self) -> Option<TsBuf> {
        let mut len: c_int = 0;
        // SAFETY: a live transaction on its thread; the answer is a copy for us, `len` bytes long, or null.
        unsafe {
            let url = TSHttpTxnEffectiveUrlStringGet(self.as_raw(), &raw mut len);
            TsBuf::from_raw(url, usize::try_from(len).unwrap_or(0))
        }
    }

    /// Overrides a record for this transaction (`TSHttpTxnConfigIntSet`).
    ///
    /// # Errors
    /// The record is not an integer, or does not exist.
    pub fn config_int_set(self, key: ConfigKey, value: i64) -> Result<()> {
        // SAFETY: a live transaction on its thread.
        check(unsafe { TSHttpTxnConfigIntSet(self.as_raw(), key.0, value) }, "TSHttpTxnConfigIntSet")
    }

    /// A record as this transaction sees it (`TSHttpTxnConfigIntGet`).
    ///
    /// # Errors
    /// The record is not an integer, or does not exist.
    pub fn config_int_get(self, key: ConfigKey) -> Result<i64> {
        let mut value: TSMgmtInt = 0;
        // SAFETY: a live transaction on its thread; the result is ours to write to.
        let code = unsafe { TSHttpTxnConfigIntGet(self.as_raw(), key.0, &raw mut value) };
        check(code, "TSHttpTxnConfigIntGet").map(|()| value)
    }

    /// Whether the client or the origin broke off (`TSHttpTxnAborted`).
    #[cfg(ats9)]
    #[must_use]
    pub fn aborted(self) -> bool {
        // SAFETY: a live transaction on its thread. TS_SUCCESS says that it was aborted.
        unsafe { ats_sys::TSHttpTxnAborted(self.as_raw()) == TS_SUCCESS }
    }

    /// Whether the client or the origin broke off (`TSHttpTxnAborted`).
    #[cfg(ats10)]
    #[must_use]
    pub fn aborted(self) -> bool {
        // Tells the two sides apart; we do not.
        let mut by_client = false;
        // SAFETY: a live transaction on its thread; the flag is ours to write to. TS_SUCCESS says that it was aborted.
        unsafe { ats_sys::TSHttpTxnAborted(self.as_raw(), &raw mut by_client) == TS_SUCCESS }
    }

    /// `TSHttpTxnCacheLookupStatusGet`; `None` before the lookup.
    #[must_use]
    pub fn cache_lookup_status(self) -> Option<CacheLookup> {
        let mut status: c_int = 0;
        // SAFETY: a live transaction on its thread; the result is ours to write to.
        let code = unsafe { TSHttpTxnCacheLookupStatusGet(self.as_raw(), &raw mut status) };
        check(code, "TSHttpTxnCacheLookupStatusGet").ok()?;
        match status.cast_unsigned() {
            TS_CACHE_LOOKUP_MISS => Some(CacheLookup::Miss),
            TS_CACHE_LOOKUP_HIT_STALE => Some(CacheLookup::HitStale),
            TS_CACHE_LOOKUP_HIT_FRESH => Some(CacheLookup::HitFresh),
            TS_CACHE_LOOKUP_SKIPPED => Some(CacheLookup::Skipped),
            _ => None,
        }
    }

    /// The pointer in this slot, `None` at first (`TSUserArgGet`). Whose it is, is between its setter and its getter.
    #[must_use]
    pub fn arg_get(self, arg: TxnArg) -> Option<NonNull<c_void>> {
        // SAFETY: a live transaction on its thread, and an index from TSUserArgIndexReserve.
        NonNull::new(unsafe { TSUserArgGet(self.as_raw().cast(), arg.0) })
    }

    /// `TSUserArgSet`. ATS only keeps the pointer.
    pub fn arg_set(self, arg: TxnArg, value: Option<NonNull<c_void>>) {
        let value = value.map_or(ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: a live transaction on its thread, and an index from TSUserArgIndexReserve.
        unsafe { TSUserArgSet(self.as_raw().cast(), arg.0, value) };
    }

    /// When the transaction came by this point, in nanoseconds of ATS's clock (`TSHttpTxnMilestoneGet`); `None` if it
    /// did not yet.
    #[must_use]
    pub fn milestone(self, milestone: Milestone) -> Option<i64> {
        let mut time: TSHRTime = 0;
        // SAFETY: a live transaction on its thread; the result is ours to write to.
        let code = unsafe { TSHttpTxnMilestoneGet(self.as_raw(), milestone.0, &raw mut time) };
        (code == TS_SUCCESS && time > 0).then_some(time)
    }

    /// The tag of the plugin that made this transaction (`TSHttpTxnPluginTagGet`); `None` for a client's.
    #[must_use]
    pub fn plugin_tag(self) -> Option<&'t [u8]> {
        // SAFETY: a live transaction on its thread, which does not change its tag.
        unsafe { c_str(TSHttpTxnPluginTagGet(self.as_raw())) }
    }

    /// Whether the client's connection speaks this protocol, such as "h2" or "tls/1.3"
    /// (`TSHttpTxnClientProtocolStackContains`).
    #[must_use]
    pub fn client_protocol_contains(self, tag: &CStr) -> bool {
        // SAFETY: a live transaction on its thread, and a C string.
        !unsafe { TSHttpTxnClientProtocolStackContains(self.as_raw(), tag.as_ptr()) }.is_null()
    }

    /// Which form of a transformed response the cache keeps. By default that is the transformed one, and a hit is
    /// transformed again (`TSHttpTxnUntransformedRespCache`, `TSHttpTxnTransformedRespCache`).
    pub fn cache_transformed(self, transformed: bool) {
        // SAFETY: a live transaction on its thread.
        unsafe {
            TSHttpTxnUntransformedRespCache(self.as_raw(), c_int::from(!transformed));
            TSHttpTxnTransformedRespCache(self.as_raw(), c_int::from(transformed));
        }
    }
}

#[cfg(test)]
#[path = "txn_test.rs"]
mod tests;

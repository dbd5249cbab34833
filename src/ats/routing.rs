//! Where a transaction goes, and what the cache makes of it: what is known, and what may be changed.

use std::ffi::{CString, c_int};
use std::net::SocketAddr;
use std::ptr;

use ats_sys::{
    TS_CRUUID_STRING_LEN, TS_HTTP_CNTL_REQUEST_CACHEABLE, TS_HTTP_CNTL_RESPONSE_CACHEABLE,
    TS_HTTP_CNTL_SERVER_NO_STORE, TS_PARSE_DONE, TSCacheUrlSet, TSClientRequestUuidGet, TSHandleMLocRelease,
    TSHttpCntlType, TSHttpTxnCacheLookupUrlGet, TSHttpTxnCntlGet, TSHttpTxnCntlSet, TSHttpTxnLookingUpTypeGet,
    TSHttpTxnNextHopAddrGet, TSHttpTxnNextHopNameGet, TSHttpTxnNextHopPortGet, TSHttpTxnParentProxyGet,
    TSHttpTxnParentProxySet, TSHttpTxnRedirectRetries, TSHttpTxnRedirectUrlSet, TSHttpTxnServerAddrSet,
    TSHttpTxnServerStateGet, TSMBuffer, TSMBufferCreate, TSMBufferDestroy, TSMLoc, TSServerState, TSUrlCreate,
    TSUrlParse,
};

use crate::addr::{sockaddr, socket_addr};
use crate::alloc::TsBuf;
use crate::error::{Error, Result, c_len, check};
use crate::http::check_token;
use crate::raw_slice::c_str;
use crate::txn::Txn;
use crate::url::{MAX_PART, UrlRef};

/// A decision about the cache that a plugin may make for a transaction (`TSHttpCntlType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheFlag(TSHttpCntlType);

impl CacheFlag {
    /// The response is not stored (`TS_HTTP_CNTL_SERVER_NO_STORE`).
    pub const NO_STORE: Self = Self(TS_HTTP_CNTL_SERVER_NO_STORE);
    /// A response is taken from the cache whatever the request's method is (`TS_HTTP_CNTL_RESPONSE_CACHEABLE`).
    pub const RESPONSE_CACHEABLE: Self = Self(TS_HTTP_CNTL_RESPONSE_CACHEABLE);
    /// The response is stored whatever the request's method is (`TS_HTTP_CNTL_REQUEST_CACHEABLE`).
    pub const REQUEST_CACHEABLE: Self = Self(TS_HTTP_CNTL_REQUEST_CACHEABLE);
}

/// Whom a transaction turns to (`TSHttpTxnLookingUpTypeGet`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NextHop {
    /// The origin.
    Origin,
    /// A parent proxy.
    Parent,
}

/// A URL of our own, in a buffer of its own.
struct OwnUrl {
    bufp: TSMBuffer,
    loc: TSMLoc,
}

impl OwnUrl {
    fn new() -> Option<Self> {
        // SAFETY: no arguments; the buffer is ours.
        let mut own = Self { bufp: unsafe { TSMBufferCreate() }, loc: ptr::null_mut() };
        if own.bufp.is_null() {
            std::mem::forget(own);
            return None;
        }
        // SAFETY: the buffer that was just made; the result is ours to write to.
        let code = unsafe { TSUrlCreate(own.bufp, &raw mut own.loc) };
        (check(code, "TSUrlCreate").is_ok() && !own.loc.is_null()).then_some(own)
    }

    fn parse(&mut self, text: &[u8]) -> Result<()> {
        check_token(text, "URL")?;
        c_len(text, MAX_PART, "URL")?;
        let range = text.as_ptr_range();
        let mut start = range.start.cast();
        // SAFETY: a URL of ours; ATS reads from `start` to the end of the same slice, copies, and moves `start`.
        let result = unsafe { TSUrlParse(self.bufp, self.loc, &raw mut start, range.end.cast()) };
        if result == TS_PARSE_DONE { Ok(()) } else { Err(Error::Refused("TSUrlParse")) }
    }

    fn view(&self) -> Option<UrlRef<'_>> {
        // SAFETY: a URL of ours, which is written to by nobody but `parse`.
        unsafe { UrlRef::from_raw(self.bufp, self.loc) }
    }
}

impl Drop for OwnUrl {
    fn drop(&mut self) {
        // SAFETY: ours, once; a URL's handle is the URL, which goes with its buffer.
        unsafe {
            if !self.loc.is_null() {
                TSHandleMLocRelease(self.bufp, ptr::null_mut(), self.loc);
            }
            TSMBufferDestroy(self.bufp);
        }
    }
}

/// Whether this is a whole URL that ATS understands, with a scheme and a host.
fn is_absolute(text: &[u8]) -> bool {
    OwnUrl::new().is_some_and(|mut url| {
        url.parse(text).is_ok()
            && url.view().is_some_and(|url| matches!(url.scheme(), b"http" | b"https") && !url.host().is_empty())
    })
}

impl<'t> Txn<'t> {
    /// The URL that the cache is or was asked for, in a buffer of the caller's (`TSHttpTxnCacheLookupUrlGet`); `None`
    /// before anyone has decided on it.
    #[must_use]
    pub fn cache_url(self) -> Option<Vec<u8>> {
        let url = OwnUrl::new()?;
        // SAFETY: a live transaction on its thread, and a URL of ours to copy into.
        let code = unsafe { TSHttpTxnCacheLookupUrlGet(self.as_raw(), url.bufp, url.loc) };
        check(code, "TSHttpTxnCacheLookupUrlGet").ok()?;
        url.view().map(|url| url.to_vec())
    }

    /// Chooses the URL that the cache is asked for (`TSCacheUrlSet`): once, and before ATS has chosen.
    ///
    /// # Errors
    /// A URL without scheme and host; one was chosen already.
    pub fn cache_url_set(self, url: &[u8]) -> Result<()> {
        // ATS looks at nothing of this, and takes a URL that it cannot read for an empty one: the same for all.
        if !is_absolute(url) {
            return Err(Error::Refused("TSCacheUrlSet: not a whole URL"));
        }
        let len = c_len(url, MAX_PART, "URL")?;
        // Its debug message prints up to a NUL.
        let url = CString::new(url).map_err(|_| Error::BadByte { what: "URL", byte: 0 })?;
        // SAFETY: a live transaction on its thread; the URL is copied.
        check(unsafe { TSCacheUrlSet(self.as_raw(), url.as_ptr(), len) }, "TSCacheUrlSet")
    }

    /// `TSHttpTxnCntlGet`
    #[must_use]
    pub fn cache_flag(self, flag: CacheFlag) -> bool {
        // SAFETY: a live transaction on its thread.
        unsafe { TSHttpTxnCntlGet(self.as_raw(), flag.0) }
    }

    /// `TSHttpTxnCntlSet`
    pub fn cache_flag_set(self, flag: CacheFlag, value: bool) {
        // SAFETY: a live transaction on its thread; it refuses unknown flags alone.
        unsafe { TSHttpTxnCntlSet(self.as_raw(), flag.0, value) };
    }

    /// Whom the transaction turns to, once that is decided (`TSHttpTxnLookingUpTypeGet`).
    #[must_use]
    pub fn next_hop(self) -> Option<NextHop> {
        // No header has these: HttpTransact::LookingUp_t.
        // SAFETY: a live transaction on its thread.
        match unsafe { TSHttpTxnLookingUpTypeGet(self.as_raw()) } {
            0 => Some(NextHop::Origin),
            2 => Some(NextHop::Parent),
            _ => None,
        }
    }

    /// The name of who is asked next (`TSHttpTxnNextHopNameGet`).
    #[must_use]
    pub fn next_hop_name(self) -> Option<&'t [u8]> {
        // SAFETY: a live transaction on its thread; the name is in its arena.
        unsafe { c_str(TSHttpTxnNextHopNameGet(self.as_raw())) }
    }

    /// The port of who is asked next (`TSHttpTxnNextHopPortGet`).
    #[must_use]
    pub fn next_hop_port(self) -> Option<u16> {
        // SAFETY: a live transaction on its thread.
        u16::try_from(unsafe { TSHttpTxnNextHopPortGet(self.as_raw()) }).ok().filter(|port| *port != 0)
    }

    /// The address of who is asked next, once it is known (`TSHttpTxnNextHopAddrGet`).
    #[must_use]
    pub fn next_hop_addr(self) -> Option<SocketAddr> {
        // SAFETY: a live transaction on its thread; the answer is null or a whole address.
        unsafe { socket_addr(TSHttpTxnNextHopAddrGet(self.as_raw())) }
    }

    /// Asks this address in place of what the name of the origin resolves to (`TSHttpTxnServerAddrSet`). Too late once
    /// it was resolved.
    ///
    /// # Errors
    /// Port 0.
    pub fn server_addr_set(self, addr: SocketAddr) -> Result<()> {
        if addr.port() == 0 {
            return Err(Error::Refused("TSHttpTxnServerAddrSet: port 0"));
        }
        let storage = sockaddr(addr);
        // SAFETY: a live transaction on its thread; a whole address, which is copied.
        let code = unsafe { TSHttpTxnServerAddrSet(self.as_raw(), (&raw const storage).cast()) };
        check(code, "TSHttpTxnServerAddrSet")
    }

    /// The parent proxy that a plugin chose (`TSHttpTxnParentProxyGet`).
    #[must_use]
    pub fn parent_proxy(self) -> Option<(&'t [u8], u16)> {
        let (mut name, mut port) = (ptr::null(), -1);
        // SAFETY: a live transaction on its thread; both results are ours to write to.
        unsafe { TSHttpTxnParentProxyGet(self.as_raw(), &raw mut name, &raw mut port) };
        // SAFETY: null, or a name in the transaction's arena.
        Some((unsafe { c_str(name) }?, u16::try_from(port).ok()?))
    }

    /// Sends the request to this proxy, in place of the origin (`TSHttpTxnParentProxySet`).
    ///
    /// # Errors
    /// A name with blanks or control characters, or none; port 0.
    pub fn parent_proxy_set(self, name: &[u8], port: u16) -> Result<()> {
        check_token(name, "parent")?;
        c_len(name, 255, "parent")?;
        let name = CString::new(name).map_err(|_| Error::BadByte { what: "parent", byte: 0 })?;
        if name.is_empty() || port == 0 {
            return Err(Error::Empty("parent"));
        }
        // SAFETY: a live transaction on its thread; a C string, which is copied, and a port that is not 0.
        unsafe { TSHttpTxnParentProxySet(self.as_raw(), name.as_ptr(), port.into()) };
        Ok(())
    }

    /// How many redirections were followed (`TSHttpTxnRedirectRetries`).
    #[must_use]
    pub fn redirections(self) -> u64 {
        // SAFETY: a live transaction on its thread.
        u64::try_from(unsafe { TSHttpTxnRedirectRetries(self.as_raw()) }).unwrap_or(0)
    }

    /// Asks this URL once the origin's response is there, whatever it says (`TSHttpTxnRedirectUrlSet`).
    ///
    /// # Errors
    /// A URL without scheme and host.
    pub fn redirect_url_set(self, url: &[u8]) -> Result<()> {
        if !is_absolute(url) {
            return Err(Error::Refused("TSHttpTxnRedirectUrlSet: not a whole URL"));
        }
        let (url, len) = TsBuf::copy_from(url).into_raw();
        let len = c_int::try_from(len).map_err(|_| Error::Refused("TSHttpTxnRedirectUrlSet"))?;
        // SAFETY: a live transaction on its thread, which takes over the block; it is from its allocator.
        unsafe { TSHttpTxnRedirectUrlSet(self.as_raw(), url, len) };
        Ok(())
    }

    /// How the exchange with the origin stands (`TSHttpTxnServerStateGet`).
    #[must_use]
    pub fn server_state(self) -> TSServerState {
        // SAFETY: a live transaction on its thread.
        unsafe { TSHttpTxnServerStateGet(self.as_raw()) }
    }

    /// A name for this transaction that no other has, on this machine or another (`TSClientRequestUuidGet`).
    #[must_use]
    pub fn uuid(self) -> Option<Vec<u8>> {
        let mut text = [0_u8; TS_CRUUID_STRING_LEN as usize + 1];
        // SAFETY: a live transaction on its thread; the buffer is as long as the header demands.
        let code = unsafe { TSClientRequestUuidGet(self.as_raw(), text.as_mut_ptr().cast()) };
        check(code, "TSClientRequestUuidGet").ok()?;
        let end = text.iter().position(|byte| *byte == 0)?;
        Some(text[..end].to_vec())
    }
}

/// How many bytes went which way.
macro_rules! sizes {
    ($($(#[$doc:meta])* $name:ident = $get:ident;)+) => {
        impl Txn<'_> {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(self) -> u64 {
                // SAFETY: a live transaction on its thread.
                let count = i64::from(unsafe { ats_sys::$get(self.as_raw()) });
                u64::try_from(count).unwrap_or(0)
            })+
        }
    };
}

sizes! {
    /// Of the client's head, as it came (`TSHttpTxnClientReqHdrBytesGet`).
    client_request_head = TSHttpTxnClientReqHdrBytesGet;
    /// Of the client's body, once it has passed (`TSHttpTxnClientReqBodyBytesGet`).
    client_request_body = TSHttpTxnClientReqBodyBytesGet;
    /// Of the head that went to the client (`TSHttpTxnClientRespHdrBytesGet`).
    client_response_head = TSHttpTxnClientRespHdrBytesGet;
    /// Of the body that went to the client, once it has (`TSHttpTxnClientRespBodyBytesGet`).
    client_response_body = TSHttpTxnClientRespBodyBytesGet;
    /// Of the head that went to the origin (`TSHttpTxnServerReqHdrBytesGet`).
    server_request_head = TSHttpTxnServerReqHdrBytesGet;
    /// Of the body that went to the origin (`TSHttpTxnServerReqBodyBytesGet`).
    server_request_body = TSHttpTxnServerReqBodyBytesGet;
    /// Of the origin's head (`TSHttpTxnServerRespHdrBytesGet`).
    server_response_head = TSHttpTxnServerRespHdrBytesGet;
    /// Of the origin's body, once it has come (`TSHttpTxnServerRespBodyBytesGet`).
    server_response_body = TSHttpTxnServerRespBodyBytesGet;
}

#[cfg(test)]
#[path = "routing_test.rs"]
mod tests;

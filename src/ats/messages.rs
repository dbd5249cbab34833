//! A transaction's messages, one at a time.
//!
//! A [`Txn`] may be copied, so it cannot lend a message exclusively; this can, and there is one of it at a time.
//! Views of two messages at once are not offered: each `*_get` is one cheap call, made where it is needed.

use std::ptr;

use ats_sys::{
    TSHttpTxn, TSHttpTxnCachedRespGet, TSHttpTxnClientReqGet, TSHttpTxnClientRespGet, TSHttpTxnPristineUrlGet,
    TSHttpTxnServerReqGet, TSHttpTxnServerRespGet, TSHttpTxnTransformRespGet, TSMBuffer, TSMLoc, TSReturnCode,
};

use crate::error::check;
use crate::http::{Request, Response};
use crate::txn::Txn;
use crate::url::UrlRef;

/// Exclusive access to the messages of a transaction.
///
/// Transaction's event thread only. `'t` ends with the hook that it was taken in.
#[derive(Debug)]
pub struct Messages<'t> {
    txn: Txn<'t>,
}

type Getter = unsafe extern "C" fn(TSHttpTxn, *mut TSMBuffer, *mut TSMLoc) -> TSReturnCode;

impl<'t> Messages<'t> {
    /// The messages of `txn`.
    ///
    /// # Safety
    /// During `'t` there must be no other `Messages` of this transaction, and no view of its messages from elsewhere.
    /// That is so in a callback from ATS for this transaction that makes this once.
    #[must_use]
    pub unsafe fn of(txn: Txn<'t>) -> Self {
        Self { txn }
    }

    /// The transaction.
    #[must_use]
    pub fn txn(&self) -> Txn<'t> {
        self.txn
    }

    /// What the client asked (`TSHttpTxnClientReqGet`).
    #[must_use]
    pub fn client_req_get(&mut self) -> Option<Request<'_>> {
        let (bufp, hdr) = self.get(TSHttpTxnClientReqGet)?;
        // SAFETY: a message of this transaction, to which `&mut self` keeps all others out.
        unsafe { Request::from_raw(bufp, hdr) }
    }

    /// What the client gets; from SEND_RESPONSE_HDR on (`TSHttpTxnClientRespGet`).
    #[must_use]
    pub fn client_resp_get(&mut self) -> Option<Response<'_>> {
        self.response(TSHttpTxnClientRespGet)
    }

    /// What the origin is asked; from SEND_REQUEST_HDR on (`TSHttpTxnServerReqGet`).
    #[must_use]
    pub fn server_req_get(&mut self) -> Option<Request<'_>> {
        let (bufp, hdr) = self.get(TSHttpTxnServerReqGet)?;
        // SAFETY: a message of this transaction, to which `&mut self` keeps all others out.
        unsafe { Request::from_raw(bufp, hdr) }
    }

    /// What the origin answered; from READ_RESPONSE_HDR on (`TSHttpTxnServerRespGet`).
    #[must_use]
    pub fn server_resp_get(&mut self) -> Option<Response<'_>> {
        self.response(TSHttpTxnServerRespGet)
    }

    /// What the cache has, from READ_CACHE_HDR on; read-only (`TSHttpTxnCachedRespGet`).
    #[must_use]
    pub fn cached_resp_get(&mut self) -> Option<Response<'_>> {
        self.response(TSHttpTxnCachedRespGet)
    }

    /// The header of the transformed response, in a response transform (`TSHttpTxnTransformRespGet`).
    #[must_use]
    pub fn transform_resp_get(&mut self) -> Option<Response<'_>> {
        self.response(TSHttpTxnTransformRespGet)
    }

    /// The client's URL as it was before any remap (`TSHttpTxnPristineUrlGet`).
    #[must_use]
    pub fn pristine_url_get(&self) -> Option<UrlRef<'_>> {
        let (bufp, loc) = self.get(TSHttpTxnPristineUrlGet)?;
        // SAFETY: a URL in the client request's heap, from which `&self` keeps writers out.
        unsafe { UrlRef::from_raw(bufp, loc) }
    }

    fn response(&mut self, get: Getter) -> Option<Response<'_>> {
        let (bufp, hdr) = self.get(get)?;
        // SAFETY: a message of this transaction, to which `&mut self` keeps all others out.
        unsafe { Response::from_raw(bufp, hdr) }
    }

    fn get(&self, get: Getter) -> Option<(TSMBuffer, TSMLoc)> {
        let (mut bufp, mut loc): (TSMBuffer, TSMLoc) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live transaction on its thread; both results are ours to write to. These handles need no release.
        let code = unsafe { get(self.txn.as_raw(), &raw mut bufp, &raw mut loc) };
        check(code, "TSHttpTxn*Get").ok()?;
        Some((bufp, loc))
    }
}

#[cfg(test)]
mod tests {
    use fake_ats::{FakeTxn, Message, Slot};

    use super::*;

    #[test]
    fn messages_come_when_they_exist() {
        let fake = FakeTxn::new();
        // SAFETY: the fake lives to the end of the test, on this thread.
        let txn = unsafe { Txn::from_raw(fake.raw()) }.expect("not null");
        // SAFETY: the only one in this test.
        let mut messages = unsafe { Messages::of(txn) };
        assert!(messages.client_req_get().is_none());
        assert!(messages.pristine_url_get().is_none());

        fake.put(Slot::ClientReq, Message::request("GET", "http://a.test/p", &[("A", "1")]));
        fake.put(Slot::ServerResp, Message::response(404, "Not Found", &[]));
        let mut cached = Message::response(200, "OK", &[("B", "2")]);
        cached.make_read_only();
        fake.put(Slot::CachedResp, cached);

        let mut request = messages.client_req_get().expect("a request");
        request.set(b"A", b"2").expect("set");
        assert_eq!(request.get_first(b"a"), Some(&b"2"[..]));
        assert_eq!(messages.pristine_url_get().expect("URL").host(), b"a.test");
        assert_eq!(messages.server_resp_get().expect("response").status(), 404);
        let mut cached = messages.cached_resp_get().expect("response");
        assert_eq!(cached.get_first(b"b"), Some(&b"2"[..]));
        assert!(cached.set(b"b", b"3").is_err(), "read-only");
        assert!(messages.client_resp_get().is_none());
        assert!(messages.server_req_get().is_none());
        assert!(messages.transform_resp_get().is_none());
        assert_eq!(messages.txn(), txn);
    }
}

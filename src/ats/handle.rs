//! A transaction that outlasts the hook it was met in: kept by whoever serves it from hook to hook.

use std::ptr::{self, NonNull};

use ats_sys::{
    TSHttpTxn, TSHttpTxnClientReqGet, TSMLoc, TSRemapFromUrlGet, TSRemapToUrlGet, TSReturnCode, tsapi_httptxn,
};

use crate::error::check;
use crate::messages::Messages;
use crate::thread::EventThread;
use crate::txn::Txn;
use crate::url::UrlRef;

/// A transaction, kept from hook to hook.
///
/// May be sent to other threads, and gives nothing there: messages belong to the transaction's event thread.
#[derive(Debug)]
pub struct TxnHandle {
    raw: NonNull<tsapi_httptxn>,
    home: EventThread,
}

// SAFETY: the pointer is only used on the thread that the handle was made on, which `messages` checks.
unsafe impl Send for TxnHandle {}

impl TxnHandle {
    /// A handle for `txn`, whose event thread this is.
    ///
    /// # Safety
    /// It must be dropped before TXN_CLOSE of this transaction is re-enabled. While what [`Self::messages`] lends is
    /// in use, no other [`Messages`] of this transaction may be, nor any view of its messages; the exclusive borrow
    /// of the handle covers those that come from it.
    #[must_use]
    pub unsafe fn new(txn: Txn<'_>) -> Option<Self> {
        Some(Self { raw: NonNull::new(txn.as_raw())?, home: EventThread::current()? })
    }

    /// The transaction's number ([`Txn::id`]); `None` on any other thread than its own.
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        if !self.home.is_current() {
            return None;
        }
        // SAFETY: the handle's contract: the transaction lives; and this is its thread.
        unsafe { Txn::from_raw(self.raw.as_ptr()) }.map(Txn::id)
    }

    /// The transaction's messages; `None` on any other thread than its own.
    #[must_use]
    #[inline]
    pub fn messages(&mut self) -> Option<Messages<'_>> {
        if !self.home.is_current() {
            return None;
        }
        // SAFETY: the handle's contract: the transaction lives; and this is its thread.
        let txn = unsafe { Txn::from_raw(self.raw.as_ptr()) }?;
        // SAFETY: the handle's contract: there is no other view, and the borrow keeps this one alone.
        Some(unsafe { Messages::of(txn) })
    }
}

type UrlGetter = unsafe extern "C" fn(TSHttpTxn, *mut TSMLoc) -> TSReturnCode;

impl Messages<'_> {
    /// The "from" URL of the rule that matched (`TSRemapFromUrlGet`); from DoRemap on.
    #[must_use]
    pub fn remap_from_url_get(&self) -> Option<UrlRef<'_>> {
        self.remap_url_get(TSRemapFromUrlGet)
    }

    /// The "to" URL of the rule that matched, with a regex_map's substitutions made (`TSRemapToUrlGet`).
    #[must_use]
    pub fn remap_to_url_get(&self) -> Option<UrlRef<'_>> {
        self.remap_url_get(TSRemapToUrlGet)
    }

    fn remap_url_get(&self, get: UrlGetter) -> Option<UrlRef<'_>> {
        let txn = self.txn().as_raw();
        let (mut bufp, mut hdr, mut loc) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        // SAFETY: a live transaction, and places for what is returned.
        let code = unsafe { get(txn, &raw mut loc) };
        check(code, "TSRemap*UrlGet").ok()?;
        // SAFETY: as above. The URL's own buffer has no handle; ATS only checks that it is given some live one.
        let code = unsafe { TSHttpTxnClientReqGet(txn, &raw mut bufp, &raw mut hdr) };
        check(code, "TSHttpTxnClientReqGet").ok()?;
        // SAFETY: the URL belongs to the rule, or to the transaction, and changes with neither during this borrow.
        unsafe { UrlRef::from_raw(bufp, loc) }
    }
}

#[cfg(test)]
mod tests {
    use fake_ats::FakeTxn;

    use super::*;

    #[test]
    fn a_handle_works_at_home_alone() {
        fake_ats::on_event_thread();
        let fake = FakeTxn::new();
        // SAFETY: a live fake, and no other view of it.
        let txn = unsafe { Txn::from_raw(fake.raw()) }.expect("not null");
        // SAFETY: as above; dropped before the fake is.
        let mut handle = unsafe { TxnHandle::new(txn) }.expect("not null");
        assert!(handle.messages().is_some());
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(handle.messages().is_none()));
        });
    }
}

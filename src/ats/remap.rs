//! What ATS passes to the `TSRemap*` entry points.

use std::ffi::{CStr, c_char, c_int};
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::ptr::NonNull;

use ats_sys::{TSHttpTxn, TSREMAP_VERSION, TSREMAP_VMAJOR, TSRemapInterface, TSRemapRequestInfo};

use crate::error::{Error, Result};
use crate::http::{Request, RequestRef};
use crate::messages::Messages;
use crate::txn::Txn;
use crate::url::{Url, UrlRef};

/// Checks that ATS offers the interface that this build understands (`TSRemapInit`).
///
/// # Errors
/// [`Error::Interface`] for another major version, an older minor one, or a smaller structure.
///
/// # Safety
/// If `api` is not null, it must point to a structure whose first field is its size.
pub unsafe fn check_interface(api: *const TSRemapInterface) -> Result<()> {
    let (size, version) = match NonNull::new(api.cast_mut()) {
        // SAFETY: not null; both fields have stood there since the first version, and a later one may be longer.
        Some(api) => unsafe { ((*api.as_ptr()).size, (*api.as_ptr()).tsremap_version) },
        None => (0, 0),
    };
    let size = usize::try_from(size).unwrap_or(0);
    let wanted = u64::from(TSREMAP_VERSION);
    // Only what we read must be there: ATS 10 appended a field.
    if size >= size_of::<TSRemapInterface>() && version >> 16 == u64::from(TSREMAP_VMAJOR) && version >= wanted {
        return Ok(());
    }
    let text = |version: u64| format!("{}.{}", version >> 16, version & 0xffff);
    Err(Error::Interface { found: text(version), size, wanted: text(wanted) })
}

/// The buffer for a message to ATS, of `TSRemapInit` and `TSRemapNewInstance`. What does not fit is cut, at the end of
/// a character; there is always a NUL.
#[derive(Debug)]
pub struct ErrBuf<'a> {
    /// The buffer but for its last byte, which stays for the NUL.
    buf: &'a mut [u8],
    len: usize,
    /// Nothing is written after a cut: the message would have a hole.
    full: bool,
}

impl<'a> ErrBuf<'a> {
    /// The writer over the `size` bytes at `buf`, emptied.
    ///
    /// # Safety
    /// If `buf` is not null and `size` is positive, that many bytes there must be ours to write to for `'a`.
    #[must_use]
    pub unsafe fn from_raw(buf: *mut c_char, size: c_int) -> Self {
        let size = usize::try_from(size).unwrap_or(0);
        let buf: &mut [u8] = if buf.is_null() || size == 0 {
            &mut []
        } else {
            let buf = buf.cast::<u8>();
            // SAFETY: not null, and the caller vouches for `size` bytes; written first, since they may be uninitialized.
            unsafe {
                buf.write_bytes(0, size);
                std::slice::from_raw_parts_mut(buf, size)
            }
        };
        let room = buf.len().saturating_sub(1);
        Self { buf: &mut buf[..room], len: 0, full: false }
    }

    /// Replaces the message.
    pub fn set(&mut self, message: fmt::Arguments<'_>) {
        self.buf.fill(0);
        (self.len, self.full) = (0, false);
        // Never an error: what does not fit is cut.
        let _ = self.write_fmt(message);
    }
}

impl fmt::Write for ErrBuf<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.full {
            return Ok(());
        }
        let room = self.buf.len() - self.len;
        let end = text.floor_char_boundary(room);
        self.full = end < text.len();
        self.buf[self.len..self.len + end].copy_from_slice(&text.as_bytes()[..end]);
        self.len += end;
        Ok(())
    }
}

/// The arguments of `TSRemapNewInstance`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceArgs<'a> {
    /// The rule's "from" URL, in ATS's canonical form.
    pub from: &'a [u8],
    /// The rule's "to" URL.
    pub to: &'a [u8],
    /// Each `@pparam`, in order.
    pub params: Vec<&'a [u8]>,
}

impl<'a> InstanceArgs<'a> {
    /// Reads `argv`; null entries are skipped.
    ///
    /// # Safety
    /// If `argv` is not null, it must have `argc` entries, each null or a C string that stays unchanged for `'a`.
    #[must_use]
    pub unsafe fn from_raw(argc: c_int, argv: *const *mut c_char) -> Self {
        let count = if argv.is_null() { 0 } else { usize::try_from(argc).unwrap_or(0) };
        let mut args = (0..count).filter_map(|index| {
            // SAFETY: below `argc`.
            let arg = unsafe { *argv.add(index) };
            // SAFETY: not null, so it is a C string.
            (!arg.is_null()).then(|| unsafe { CStr::from_ptr(arg) }.to_bytes())
        });
        Self { from: args.next().unwrap_or_default(), to: args.next().unwrap_or_default(), params: args.collect() }
    }
}

/// What `TSRemapDoRemap` is about (`TSRemapRequestInfo`). Nothing of it is released by the plugin.
#[derive(Debug)]
pub struct RemapRequest<'a> {
    txn: Txn<'a>,
    rri: NonNull<TSRemapRequestInfo>,
    _rri: PhantomData<&'a mut TSRemapRequestInfo>,
}

impl<'a> RemapRequest<'a> {
    /// The view over what `TSRemapDoRemap` was given; `None` if one is null.
    ///
    /// # Safety
    /// Both must be the arguments of the `TSRemapDoRemap` call that is going on, `'a` must end with it, and there must
    /// be no other view of them.
    #[must_use]
    pub unsafe fn from_raw(txn: TSHttpTxn, rri: *mut TSRemapRequestInfo) -> Option<Self> {
        // SAFETY: the caller's promise.
        let txn = unsafe { Txn::from_raw(txn) }?;
        Some(Self { txn, rri: NonNull::new(rri)?, _rri: PhantomData })
    }

    /// The transaction.
    #[must_use]
    pub fn txn(&self) -> Txn<'a> {
        self.txn
    }

    /// The transaction's messages; there is only the client's request yet.
    #[must_use]
    pub fn messages(&mut self) -> Messages<'_> {
        // SAFETY: `&mut self` makes it the only one for as long as it lives, and so it shares with no other view.
        unsafe { Messages::of(self.txn) }
    }

    /// The client's request, to read and write (`requestHdrp`).
    #[must_use]
    pub fn request(&mut self) -> Option<Request<'_>> {
        // The getter, though it answers the same handles as `rri` holds: ATS caches where the request goes, and the
        // getter tells it that this may change.
        let (mut bufp, mut hdr) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: a live transaction on its thread; both results are ours to write to.
        let code = unsafe { ats_sys::TSHttpTxnClientReqGet(self.txn.as_raw(), &raw mut bufp, &raw mut hdr) };
        crate::error::check(code, "TSHttpTxnClientReqGet").ok()?;
        // SAFETY: the request of this transaction, to which `&mut self` keeps all others out.
        unsafe { Request::from_raw(bufp, hdr) }
    }

    /// The client's request, to read alone (`requestHdrp`). No getter is called, which ATS would take for a sign that the
    /// request may go elsewhere.
    #[must_use]
    pub fn request_ref(&self) -> Option<RequestRef<'_>> {
        // SAFETY: ours for `'a`; the request is read only, and `&self` keeps all writers out.
        unsafe {
            let rri = self.rri.as_ref();
            RequestRef::from_raw(rri.requestBufp, rri.requestHdrp)
        }
    }

    /// The client's URL as it was before this rule's mapping (`TSHttpTxnPristineUrlGet`).
    #[must_use]
    pub fn pristine_url(&self) -> Option<UrlRef<'_>> {
        let (mut bufp, mut loc) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: a live transaction on its thread; both results are ours to write to, and need no release.
        let code = unsafe { ats_sys::TSHttpTxnPristineUrlGet(self.txn.as_raw(), &raw mut bufp, &raw mut loc) };
        crate::error::check(code, "TSHttpTxnPristineUrlGet").ok()?;
        // SAFETY: a URL in the client request's heap, from which `&self` keeps writers out.
        unsafe { UrlRef::from_raw(bufp, loc) }
    }

    /// The request's URL, to read and write (`requestUrl`). To change it is to remap: answer `TSREMAP_DID_REMAP` then.
    #[must_use]
    pub fn request_url(&mut self) -> Option<Url<'_>> {
        // SAFETY: ours for `'a`, and the URL is of the request, to which `&mut self` keeps all others out.
        unsafe {
            let rri = self.rri.as_ref();
            Url::from_raw(rri.requestBufp, rri.requestUrl)
        }
    }

    /// The rule's "from" URL (`mapFromUrl`).
    #[must_use]
    pub fn map_from_url(&self) -> Option<UrlRef<'_>> {
        // SAFETY: ours for `'a`; the rule's URLs are never written to. ATS reads them by location alone, but wants a
        // valid buffer beside it.
        unsafe {
            let rri = self.rri.as_ref();
            UrlRef::from_raw(rri.requestBufp, rri.mapFromUrl)
        }
    }

    /// The rule's "to" URL (`mapToUrl`).
    #[must_use]
    pub fn map_to_url(&self) -> Option<UrlRef<'_>> {
        // SAFETY: as in `map_from_url`.
        unsafe {
            let rri = self.rri.as_ref();
            UrlRef::from_raw(rri.requestBufp, rri.mapToUrl)
        }
    }

    /// Whether the client is redirected to the request's URL, instead of being served from there (`redirect`).
    pub fn set_redirect(&mut self, redirect: bool) {
        // SAFETY: ours for `'a`.
        unsafe { self.rri.as_mut() }.redirect = c_int::from(redirect);
    }
}

#[cfg(test)]
#[path = "remap_test.rs"]
mod tests;

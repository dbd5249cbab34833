//! Requests and responses: the first line of a message, and its [`HeaderMap`] by `Deref`.
//!
//! They are two types because ATS keeps the two kinds of line in one union and checks only in debug builds: a status
//! set on a request would overwrite the pointer to its method.

use std::ffi::{c_char, c_int};
use std::ops::Deref;
use std::ptr;

use ats_sys::{
    TS_HTTP_TYPE_REQUEST, TS_HTTP_TYPE_RESPONSE, TSHttpHdrMethodGet, TSHttpHdrMethodSet, TSHttpHdrReasonGet,
    TSHttpHdrReasonLookup, TSHttpHdrReasonSet, TSHttpHdrStatusGet, TSHttpHdrStatusSet, TSHttpHdrTypeGet,
    TSHttpHdrUrlGet, TSHttpHdrVersionGet, TSHttpHdrVersionSet, TSHttpType, TSMBuffer, TSMLoc,
};

use crate::error::{Error, Result, c_len, check};
use crate::headers::HeaderMap;
use crate::raw_slice::{c_str, slice_or_empty};
use crate::url::{MAX_PART, Url, UrlRef};

/// The version in a first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The 1 of HTTP/1.0.
    pub major: u16,
    /// The 0 of HTTP/1.0.
    pub minor: u16,
}

impl Version {
    /// From `TS_HTTP_VERSION`'s packing, a macro that bindgen cannot see.
    fn unpack(packed: c_int) -> Self {
        let packed = packed.cast_unsigned();
        Self { major: (packed >> 16) as u16, minor: (packed & 0xffff) as u16 }
    }

    fn pack(self) -> c_int {
        (c_int::from(self.major) << 16) | c_int::from(self.minor)
    }
}

/// A request: method, URL and version, and the fields by `Deref`.
#[derive(Debug)]
pub struct Request<'a>(HeaderMap<'a>);

/// A request, to read alone.
#[derive(Debug)]
pub struct RequestRef<'a>(Request<'a>);

impl<'a> RequestRef<'a> {
    /// The view over the request `hdr` in `bufp`; `None` if one is null, or the message is not a request.
    ///
    /// # Safety
    /// Both must belong to a message that lives for `'a` on this thread and that nothing writes to during `'a`.
    #[must_use]
    pub unsafe fn from_raw(bufp: TSMBuffer, hdr: TSMLoc) -> Option<Self> {
        // SAFETY: the caller's promise. Nothing is written through it: it is lent out shared, never exclusively.
        unsafe { Request::from_raw(bufp, hdr) }.map(Self)
    }
}

impl<'a> Deref for RequestRef<'a> {
    type Target = Request<'a>;

    fn deref(&self) -> &Request<'a> {
        &self.0
    }
}

/// A response: status, reason and version, and the fields by `Deref`.
#[derive(Debug)]
pub struct Response<'a>(HeaderMap<'a>);

impl<'a> Request<'a> {
    /// The view over the request `hdr` in `bufp`; `None` if one is null, or the message is not a request.
    ///
    /// # Safety
    /// As for [`HeaderMap::from_raw`].
    #[must_use]
    pub unsafe fn from_raw(bufp: TSMBuffer, hdr: TSMLoc) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { typed(bufp, hdr, TS_HTTP_TYPE_REQUEST) }.map(Self)
    }

    /// `TSHttpHdrMethodGet`
    #[must_use]
    pub fn method(&self) -> &[u8] {
        let (bufp, hdr) = self.as_raw();
        let mut len: c_int = 0;
        // SAFETY: a live request; the string lies in it or is a literal, and `&self` keeps writers out.
        unsafe { slice_or_empty(TSHttpHdrMethodGet(bufp, hdr, &raw mut len), len) }
    }

    /// `TSHttpHdrMethodSet`
    ///
    /// # Errors
    /// A method that is empty or holds blanks or control characters; a read-only request.
    pub fn set_method(&mut self, method: &[u8]) -> Result<()> {
        if method.is_empty() {
            return Err(Error::Empty("method"));
        }
        check_token(method, "method")?;
        let len = c_len(method, MAX_PART, "method")?;
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live request; the method is copied from within the given length.
        let code = unsafe { TSHttpHdrMethodSet(bufp, hdr, method.as_ptr().cast::<c_char>(), len) };
        check(code, "TSHttpHdrMethodSet")
    }

    /// The request's URL, to read (`TSHttpHdrUrlGet`).
    #[must_use]
    pub fn url_ref(&self) -> Option<UrlRef<'_>> {
        let (bufp, loc) = self.url_loc()?;
        // SAFETY: the URL belongs to this message, and `&self` keeps writers out while it is read.
        unsafe { UrlRef::from_raw(bufp, loc) }
    }

    /// The request's URL, to read and write (`TSHttpHdrUrlGet`). Borrows the request as a whole: the URL's strings
    /// lie in the same heap as the header's.
    #[must_use]
    pub fn url(&mut self) -> Option<Url<'_>> {
        let (bufp, loc) = self.url_loc()?;
        // SAFETY: the URL belongs to this message, and `&mut self` makes this the only view of it.
        unsafe { Url::from_raw(bufp, loc) }
    }

    fn url_loc(&self) -> Option<(TSMBuffer, TSMLoc)> {
        let (bufp, hdr) = self.as_raw();
        let mut loc: TSMLoc = ptr::null_mut();
        // SAFETY: a live request; `loc` is ours to write to. URL locations need no release.
        let code = unsafe { TSHttpHdrUrlGet(bufp, hdr, &raw mut loc) };
        check(code, "TSHttpHdrUrlGet").ok()?;
        Some((bufp, loc))
    }
}

impl<'a> Response<'a> {
    /// The view over the response `hdr` in `bufp`; `None` if one is null, or the message is not a response.
    ///
    /// # Safety
    /// As for [`HeaderMap::from_raw`].
    #[must_use]
    pub unsafe fn from_raw(bufp: TSMBuffer, hdr: TSMLoc) -> Option<Self> {
        // SAFETY: the caller's promise.
        unsafe { typed(bufp, hdr, TS_HTTP_TYPE_RESPONSE) }.map(Self)
    }

    /// `TSHttpHdrStatusGet`
    #[must_use]
    pub fn status(&self) -> u16 {
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live response.
        let status = unsafe { TSHttpHdrStatusGet(bufp, hdr) };
        u16::try_from(status).unwrap_or(0)
    }

    /// `TSHttpHdrStatusSet`. The reason stays as it was; see [`Self::set_reason`].
    ///
    /// # Errors
    /// A number that is no status code; a read-only response.
    pub fn set_status(&mut self, status: u16) -> Result<()> {
        let status = check_status(status)?;
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live response.
        check(unsafe { TSHttpHdrStatusSet(bufp, hdr, status) }, "TSHttpHdrStatusSet")
    }

    /// `TSHttpHdrReasonGet`
    #[must_use]
    pub fn reason(&self) -> &[u8] {
        let (bufp, hdr) = self.as_raw();
        let mut len: c_int = 0;
        // SAFETY: a live response; the string lies in it, and `&self` keeps writers out.
        unsafe { slice_or_empty(TSHttpHdrReasonGet(bufp, hdr, &raw mut len), len) }
    }

    /// `TSHttpHdrReasonSet`
    ///
    /// # Errors
    /// A reason with line ends in it; a read-only response.
    pub fn set_reason(&mut self, reason: &[u8]) -> Result<()> {
        if let Some(&byte) = reason.iter().find(|byte| matches!(**byte, b'\r' | b'\n' | b'\0')) {
            return Err(Error::BadByte { what: "reason", byte });
        }
        let len = c_len(reason, MAX_PART, "reason")?;
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live response; the reason is copied from within the given length.
        let code = unsafe { TSHttpHdrReasonSet(bufp, hdr, reason.as_ptr().cast::<c_char>(), len) };
        check(code, "TSHttpHdrReasonSet")
    }
}

impl HeaderMap<'_> {
    /// The version in the first line (`TSHttpHdrVersionGet`).
    #[must_use]
    pub fn version(&self) -> Version {
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live message.
        Version::unpack(unsafe { TSHttpHdrVersionGet(bufp, hdr) })
    }

    /// `TSHttpHdrVersionSet`
    ///
    /// # Errors
    /// A message that is read-only.
    pub fn set_version(&mut self, version: Version) -> Result<()> {
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live message.
        check(unsafe { TSHttpHdrVersionSet(bufp, hdr, version.pack()) }, "TSHttpHdrVersionSet")
    }
}

/// ATS's reason for a status code (`TSHttpHdrReasonLookup`). Any thread.
#[must_use]
pub fn reason_lookup(status: u16) -> &'static [u8] {
    // SAFETY: a table lookup, which answers a literal.
    unsafe { c_str(TSHttpHdrReasonLookup(status.into())) }.unwrap_or_default()
}

/// A status code as ATS takes it, if it is one.
pub(crate) fn check_status(status: u16) -> Result<ats_sys::TSHttpStatus> {
    if (100..=999).contains(&status) { Ok(status.into()) } else { Err(Error::BadStatus(status)) }
}

/// Refuses blanks and control characters, which would end a word of the request line early.
pub(crate) fn check_token(bytes: &[u8], what: &'static str) -> Result<()> {
    match bytes.iter().find(|byte| **byte <= b' ' || **byte == 0x7f) {
        Some(&byte) => Err(Error::BadByte { what, byte }),
        None => Ok(()),
    }
}

/// # Safety
/// As for [`HeaderMap::from_raw`].
unsafe fn typed<'a>(bufp: TSMBuffer, hdr: TSMLoc, kind: TSHttpType) -> Option<HeaderMap<'a>> {
    // SAFETY: the caller's promise.
    let map = unsafe { HeaderMap::from_raw(bufp, hdr) }?;
    // SAFETY: a live message.
    (unsafe { TSHttpHdrTypeGet(bufp, hdr) } == kind).then_some(map)
}

macro_rules! fields_of {
    ($($message:ident),+) => {$(
        impl<'a> Deref for $message<'a> {
            type Target = HeaderMap<'a>;

            fn deref(&self) -> &HeaderMap<'a> {
                &self.0
            }
        }

        impl $message<'_> {
            /// The header fields, to write. By value: with a `&mut HeaderMap`, `mem::swap` could put the fields of a
            /// request under the status line of a response.
            #[must_use]
            pub fn headers_mut(&mut self) -> HeaderMap<'_> {
                self.0.reborrow()
            }

            /// See [`HeaderMap::append`].
            ///
            /// # Errors
            /// As there.
            pub fn append(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
                self.0.append(name, value)
            }

            /// See [`HeaderMap::set`].
            ///
            /// # Errors
            /// As there.
            pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
                self.0.set(name, value)
            }

            /// See [`HeaderMap::remove`].
            ///
            /// # Errors
            /// As there.
            pub fn remove(&mut self, name: &[u8]) -> Result<bool> {
                self.0.remove(name)
            }

            /// See [`HeaderMap::set_version`].
            ///
            /// # Errors
            /// As there.
            pub fn set_version(&mut self, version: Version) -> Result<()> {
                self.0.set_version(version)
            }
        }
    )+};
}

fields_of!(Request, Response);

#[cfg(test)]
mod tests {
    use fake_ats::Message;

    use super::*;

    fn request(message: &Message) -> Request<'_> {
        // SAFETY: the message outlives the view, which is the only one.
        unsafe { Request::from_raw(message.bufp(), message.hdr()) }.expect("a request")
    }

    fn response(message: &Message) -> Response<'_> {
        // SAFETY: the message outlives the view, which is the only one.
        unsafe { Response::from_raw(message.bufp(), message.hdr()) }.expect("a response")
    }

    #[test]
    fn the_request_line() {
        let message = Message::request("GET", "http://a.test:81/p?q", &[("Host", "a.test")]);
        let mut request = request(&message);
        assert_eq!(request.method(), b"GET");
        assert_eq!(request.version(), Version { major: 1, minor: 1 });
        request.set_version(Version { major: 1, minor: 0 }).expect("version");
        assert_eq!(request.version(), Version { major: 1, minor: 0 });
        request.set_method(b"POST").expect("method");
        assert_eq!(request.method(), b"POST");
        assert!(matches!(request.set_method(b"A B"), Err(Error::BadByte { .. })));
        assert_eq!(request.set_method(b""), Err(Error::Empty("method")));
        assert_eq!(request.get_first(b"host"), Some(&b"a.test"[..]));
        assert_eq!(request.url_ref().expect("url").host(), b"a.test");
        request.url().expect("url").set_path(b"/other").expect("path");
        assert_eq!(request.url_ref().expect("url").to_vec(), b"http://a.test:81/other?q");
    }

    #[test]
    fn the_status_line() {
        let message = Message::response(200, "OK", &[]);
        let mut response = response(&message);
        assert_eq!((response.status(), response.reason()), (200, &b"OK"[..]));
        response.set_status(299).expect("status");
        response.set_reason(b"Teapot").expect("reason");
        assert_eq!((response.status(), response.reason()), (299, &b"Teapot"[..]));
        assert_eq!(response.set_status(99), Err(Error::BadStatus(99)));
        assert!(matches!(response.set_reason(b"a\r\nb"), Err(Error::BadByte { .. })));
        response.set(b"X", b"1").expect("set");
        assert_eq!(response.len(), 1);
    }

    #[test]
    fn a_message_is_not_taken_for_the_other_kind() {
        let (request, response) = (Message::request("GET", "/", &[]), Message::response(200, "OK", &[]));
        // SAFETY: live messages, and no view of them is kept.
        unsafe {
            assert!(Response::from_raw(request.bufp(), request.hdr()).is_none());
            assert!(Request::from_raw(response.bufp(), response.hdr()).is_none());
        }
    }

    #[test]
    fn versions_pack_as_ts_http_version_does() {
        let version = Version { major: 2, minor: 7 };
        assert_eq!(version.pack(), 0x2_0007);
        assert_eq!(Version::unpack(0x2_0007), version);
    }

    #[test]
    fn reasons() {
        assert_eq!(reason_lookup(404), b"Not Found");
    }
}

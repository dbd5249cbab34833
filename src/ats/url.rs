//! URLs in a message's heap.
//!
//! ATS's conventions, kept as they are: a path has no leading slash, a query no '?'; a missing scheme or host is an
//! empty string; a port of 0 means "the scheme's own". An empty query and no query are the same. The host of the URL
//! and the `Host` field are two things, and who sets one sets the other.

use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;

use ats_sys::{
    TS_PARSE_DONE, TSMBuffer, TSMLoc, TSReturnCode, TSUrlHostGet, TSUrlHostSet, TSUrlHttpFragmentGet,
    TSUrlHttpFragmentSet, TSUrlHttpQueryGet, TSUrlHttpQuerySet, TSUrlParse, TSUrlPasswordGet, TSUrlPathGet,
    TSUrlPathSet, TSUrlPortGet, TSUrlPortSet, TSUrlRawPortGet, TSUrlSchemeGet, TSUrlSchemeSet, TSUrlStringGet,
    TSUrlUserGet, tsapi_mbuffer, tsapi_mloc,
};

use crate::alloc::TsBuf;
use crate::error::{Error, Result, c_len, check};
use crate::http::check_token;
use crate::raw_slice::slice_or_empty;

/// ATS keeps the length of each part in 16 bits.
pub const MAX_PART: usize = u16::MAX as usize - 1;

type Getter = unsafe extern "C" fn(TSMBuffer, TSMLoc, *mut c_int) -> *const c_char;
type Setter = unsafe extern "C" fn(TSMBuffer, TSMLoc, *const c_char, c_int) -> TSReturnCode;

/// A URL, to read (`TSMBuffer` and the `TSMLoc` of a URL).
///
/// Event thread of the transaction only. The strings lie in the message's heap: what borrows this keeps writers to
/// the message out.
#[derive(Debug, Clone, Copy)]
pub struct UrlRef<'a> {
    bufp: NonNull<tsapi_mbuffer>,
    loc: NonNull<tsapi_mloc>,
    _message: PhantomData<&'a ()>,
}

impl<'a> UrlRef<'a> {
    /// The view over the URL `loc` in `bufp`; `None` if one of them is null.
    ///
    /// # Safety
    /// Both must belong to a message that lives for `'a` on this thread and that nothing writes to during `'a`.
    #[must_use]
    pub unsafe fn from_raw(bufp: TSMBuffer, loc: TSMLoc) -> Option<Self> {
        Some(Self { bufp: NonNull::new(bufp)?, loc: NonNull::new(loc)?, _message: PhantomData })
    }

    /// The scheme, "http" and "https" also where they are only implied (`TSUrlSchemeGet`).
    #[must_use]
    pub fn scheme(&self) -> &'a [u8] {
        self.part(TSUrlSchemeGet)
    }

    /// `TSUrlUserGet`
    #[must_use]
    pub fn user(&self) -> &'a [u8] {
        self.part(TSUrlUserGet)
    }

    /// `TSUrlPasswordGet`
    #[must_use]
    pub fn password(&self) -> &'a [u8] {
        self.part(TSUrlPasswordGet)
    }

    /// The host, IPv6 without its brackets (`TSUrlHostGet`).
    #[must_use]
    pub fn host(&self) -> &'a [u8] {
        self.part(TSUrlHostGet)
    }

    /// The port, or the scheme's own if the URL names none (`TSUrlPortGet`).
    #[must_use]
    pub fn port(&self) -> u16 {
        // SAFETY: a live URL.
        let port = unsafe { TSUrlPortGet(self.bufp.as_ptr(), self.loc.as_ptr()) };
        u16::try_from(port).unwrap_or(0)
    }

    /// The port that stands in the URL, if there is one (`TSUrlRawPortGet`).
    #[must_use]
    pub fn explicit_port(&self) -> Option<u16> {
        // SAFETY: a live URL.
        let port = unsafe { TSUrlRawPortGet(self.bufp.as_ptr(), self.loc.as_ptr()) };
        u16::try_from(port).ok().filter(|port| *port != 0)
    }

    /// The path, without its leading slash (`TSUrlPathGet`).
    #[must_use]
    pub fn path(&self) -> &'a [u8] {
        self.part(TSUrlPathGet)
    }

    /// What followed the first ';' of the path when ATS parsed it (`TSUrlHttpParamsGet`). Empty with ATS 10, which leaves
    /// it in the path, and after [`Url::set_path`], which does so too.
    #[must_use]
    pub fn params(&self) -> &'a [u8] {
        #[cfg(ats9)]
        {
            self.part(ats_sys::TSUrlHttpParamsGet)
        }
        #[cfg(ats10)]
        &[]
    }

    /// The query, without its '?' (`TSUrlHttpQueryGet`).
    #[must_use]
    pub fn query(&self) -> &'a [u8] {
        self.part(TSUrlHttpQueryGet)
    }

    /// The fragment, without its '#' (`TSUrlHttpFragmentGet`).
    #[must_use]
    pub fn fragment(&self) -> &'a [u8] {
        self.part(TSUrlHttpFragmentGet)
    }

    /// Appends the path with its slash, and the query if there is one: what a request line to an origin says.
    pub fn write_path_and_query(&self, out: &mut Vec<u8>) {
        out.push(b'/');
        out.extend_from_slice(self.path());
        for (mark, part) in [(b';', self.params()), (b'?', self.query())] {
            if !part.is_empty() {
                out.push(mark);
                out.extend_from_slice(part);
            }
        }
    }

    /// The URL as a whole (`TSUrlStringGet`).
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut len: c_int = 0;
        // SAFETY: a live URL; the string is a copy that ATS allocates for us, `len` bytes long.
        let string = unsafe {
            let string = TSUrlStringGet(self.bufp.as_ptr(), self.loc.as_ptr(), &raw mut len);
            TsBuf::from_raw(string, usize::try_from(len).unwrap_or(0))
        };
        string.map(|string| string.to_vec()).unwrap_or_default()
    }

    fn part(&self, get: Getter) -> &'a [u8] {
        let mut len: c_int = 0;
        // SAFETY: a live URL; the string lies in the message, which no one writes to during `'a`.
        unsafe { slice_or_empty(get(self.bufp.as_ptr(), self.loc.as_ptr(), &raw mut len), len) }
    }
}

/// A URL, to read (through [`Url::view`]) and write.
#[derive(Debug)]
pub struct Url<'a> {
    view: UrlRef<'a>,
    _message: PhantomData<&'a mut ()>,
}

impl<'a> Url<'a> {
    /// The view over the URL `loc` in `bufp`; `None` if one of them is null.
    ///
    /// # Safety
    /// As for [`crate::headers::HeaderMap::from_raw`].
    #[must_use]
    pub unsafe fn from_raw(bufp: TSMBuffer, loc: TSMLoc) -> Option<Self> {
        // SAFETY: the caller's promise, which includes what a reader needs.
        let view = unsafe { UrlRef::from_raw(bufp, loc) }?;
        Some(Self { view, _message: PhantomData })
    }

    /// The URL, to read. What is read borrows from `self`, and so ends before the next write.
    #[must_use]
    pub fn view(&self) -> UrlRef<'_> {
        UrlRef { ..self.view }
    }

    /// `TSUrlSchemeSet`
    ///
    /// # Errors
    /// For this and the other setters: blanks or control characters, which would end the URL early on the wire; a
    /// string longer than [`MAX_PART`]; a read-only message. Empty removes the part.
    pub fn set_scheme(&mut self, scheme: &[u8]) -> Result<()> {
        self.set(TSUrlSchemeSet, "TSUrlSchemeSet", scheme)
    }

    /// `TSUrlHostSet`
    ///
    /// # Errors
    /// See [`Self::set_scheme`].
    pub fn set_host(&mut self, host: &[u8]) -> Result<()> {
        self.set(TSUrlHostSet, "TSUrlHostSet", host)
    }

    /// The port, or `None` for the scheme's own (`TSUrlPortSet`).
    ///
    /// # Errors
    /// A read-only message.
    pub fn set_port(&mut self, port: Option<u16>) -> Result<()> {
        let (bufp, loc) = self.as_raw();
        // SAFETY: a live URL.
        check(unsafe { TSUrlPortSet(bufp, loc, port.unwrap_or(0).into()) }, "TSUrlPortSet")
    }

    /// The path, with or without its leading slash (`TSUrlPathSet`).
    ///
    /// # Errors
    /// See [`Self::set_scheme`].
    pub fn set_path(&mut self, path: &[u8]) -> Result<()> {
        let path = path.strip_prefix(b"/").unwrap_or(path);
        if !path.is_empty() && self.view().path().is_empty() {
            self.give_root_path()?;
        }
        self.set(TSUrlPathSet, "TSUrlPathSet", path)
    }

    /// The query, without its '?' (`TSUrlHttpQuerySet`).
    ///
    /// # Errors
    /// See [`Self::set_scheme`].
    pub fn set_query(&mut self, query: &[u8]) -> Result<()> {
        self.set(TSUrlHttpQuerySet, "TSUrlHttpQuerySet", query)
    }

    /// The fragment, without its '#' (`TSUrlHttpFragmentSet`).
    ///
    /// # Errors
    /// See [`Self::set_scheme`].
    pub fn set_fragment(&mut self, fragment: &[u8]) -> Result<()> {
        self.set(TSUrlHttpFragmentSet, "TSUrlHttpFragmentSet", fragment)
    }

    /// The part of a `:path`: path, and query if there is a '?'. What the URL had of both, and of params, goes.
    ///
    /// # Errors
    /// See [`Self::set_scheme`].
    pub fn set_path_and_query(&mut self, target: &[u8]) -> Result<()> {
        let (path, query) = match target.iter().position(|byte| *byte == b'?') {
            Some(mark) => (&target[..mark], &target[mark + 1..]),
            None => (target, &[][..]),
        };
        // Both are checked before either is set: half a change would be another request than anyone asked for.
        self.check(query, "query")?;
        self.set_path(path)?;
        #[cfg(ats9)]
        self.set(ats_sys::TSUrlHttpParamsSet, "TSUrlHttpParamsSet", b"")?;
        self.set_query(query)
    }

    /// Replaces the URL as a whole (`TSUrlParse`).
    ///
    /// # Errors
    /// A string that is not a URL, after which the URL is what ATS made of it until then, possibly empty.
    pub fn parse(&mut self, url: &[u8]) -> Result<()> {
        check_token(url, "URL")?;
        let (bufp, loc) = self.as_raw();
        let mut start = url.as_ptr().cast::<c_char>();
        // SAFETY: one past the end of the same slice.
        let end = unsafe { start.add(url.len()) };
        // SAFETY: a live URL; ATS reads from `start` to `end`, copies, and moves `start`.
        let result = unsafe { TSUrlParse(bufp, loc, &raw mut start, end) };
        if result == TS_PARSE_DONE { Ok(()) } else { Err(Error::Refused("TSUrlParse")) }
    }

    /// ATS remembers of "http://host?query" that there was no slash, no call of its API makes it forget that, and a
    /// path that is set later is printed right behind the host: "http://hostpath". So such a URL gets its slash here,
    /// by being parsed anew, before a path is set.
    fn give_root_path(&mut self) -> Result<()> {
        let whole = self.view().to_vec();
        let authority = whole.windows(3).position(|three| three == b"://").map_or(0, |at| at + 3);
        let end = whole[authority..].iter().position(|byte| matches!(byte, b'/' | b';' | b'?' | b'#'));
        let at = end.map_or(whole.len(), |end| authority + end);
        if authority == 0 || whole.get(at) == Some(&b'/') {
            return Ok(());
        }
        let with_slash = [&whole[..at], b"/", &whole[at..]].concat();
        self.parse(&with_slash)
    }

    fn set(&mut self, set: Setter, function: &'static str, value: &[u8]) -> Result<()> {
        let len = self.check(value, function)?;
        let (bufp, loc) = self.as_raw();
        // SAFETY: a live URL; the value is copied from within the given length. `&mut self` says that no slice into
        // the message is out.
        check(unsafe { set(bufp, loc, value.as_ptr().cast::<c_char>(), len) }, function)
    }

    fn check(&self, value: &[u8], what: &'static str) -> Result<c_int> {
        check_token(value, what)?;
        c_len(value, MAX_PART, what)
    }

    fn as_raw(&self) -> (TSMBuffer, TSMLoc) {
        (self.view.bufp.as_ptr(), self.view.loc.as_ptr())
    }
}

#[cfg(test)]
#[path = "url_test.rs"]
mod tests;

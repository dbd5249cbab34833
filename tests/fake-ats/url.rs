//! URLs, with ATS's oddities: see `url_print` and `url_parse_http` in its `URL.cc`.

use std::ffi::{c_char, c_int};
use std::ptr;

use ats_sys::{TS_ERROR, TS_PARSE_DONE, TS_PARSE_ERROR, TS_SUCCESS, TSMBuffer, TSMLoc, TSParseResult, TSReturnCode};

use crate::heap::{Loc, answer, writeable};
use crate::{bytes, misc, object, put};

#[derive(Default)]
pub(crate) struct UrlImpl {
    scheme: Vec<u8>,
    user: Vec<u8>,
    password: Vec<u8>,
    host: Vec<u8>,
    port: u16,
    path: Vec<u8>,
    params: Vec<u8>,
    query: Vec<u8>,
    fragment: Vec<u8>,
    /// "http://host?query": no slash was there, and none is printed, whatever path is set later.
    no_slash: bool,
}

/// What stands before and after the first `mark`, or all and nothing.
fn cut<'a>(text: &'a [u8], mark: &[u8]) -> (&'a [u8], &'a [u8]) {
    match text.windows(mark.len()).position(|window| window == mark) {
        Some(at) => (&text[..at], &text[at + mark.len()..]),
        None => (text, &[]),
    }
}

impl UrlImpl {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut url = Self::default();
        let mut rest = text;
        if text.windows(3).any(|three| three == b"://") {
            let (scheme, after) = cut(text, b"://");
            let end = after.iter().position(|byte| b"/?#".contains(byte)).unwrap_or(after.len());
            let (authority, target) = after.split_at(end);
            url.scheme = scheme.to_vec();
            url.set_authority(authority)?;
            url.no_slash = !target.is_empty() && target[0] != b'/';
            rest = target;
        }
        let rest = rest.strip_prefix(b"/").unwrap_or(rest);
        let (rest, fragment) = cut(rest, b"#");
        let (rest, query) = cut(rest, b"?");
        let (path, params) = cut(rest, b";");
        (url.path, url.params) = (path.to_vec(), params.to_vec());
        (url.query, url.fragment) = (query.to_vec(), fragment.to_vec());
        Some(url)
    }

    fn set_authority(&mut self, authority: &[u8]) -> Option<()> {
        let mut host = authority;
        if authority.contains(&b'@') {
            let (user, after) = cut(authority, b"@");
            let (user, password) = cut(user, b":");
            (self.user, self.password) = (user.to_vec(), password.to_vec());
            host = after;
        }
        let (host, port) = cut(host, b":");
        self.host = host.to_vec();
        if !port.is_empty() {
            self.port = std::str::from_utf8(port).ok()?.parse().ok()?;
        }
        (!host.is_empty()).then_some(())
    }

    fn print(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut part = |before: &str, text: &[u8], after: &str| {
            if !text.is_empty() {
                out.extend_from_slice(before.as_bytes());
                out.extend_from_slice(text);
                out.extend_from_slice(after.as_bytes());
            }
        };
        part("", &self.scheme, "://");
        part("", &self.user, if self.password.is_empty() { "@" } else { "" });
        part(":", &self.password, "@");
        part("", &self.host, "");
        if self.port != 0 {
            part(":", self.port.to_string().as_bytes(), "");
        }
        part("", if self.no_slash { b"" } else { b"/" }, "");
        part("", &self.path, "");
        part(";", &self.params, "");
        part("?", &self.query, "");
        part("#", &self.fragment, "");
        out
    }
}

#[track_caller]
fn url<'a>(loc: TSMLoc) -> &'a mut UrlImpl {
    match object(loc) {
        Loc::Url(url) => url,
        _ => panic!("fake ATS: the location is not a URL"),
    }
}

macro_rules! parts {
    ($($part:ident: $get:ident $(, $set:ident)?;)+) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $get(_bufp: TSMBuffer, loc: TSMLoc, len: *mut c_int) -> *const c_char {
            answer(&url(loc).$part, len)
        }

        $(#[unsafe(no_mangle)]
        extern "C" fn $set(bufp: TSMBuffer, loc: TSMLoc, value: *const c_char, len: c_int) -> TSReturnCode {
            if !writeable(bufp) {
                return TS_ERROR;
            }
            url(loc).$part = bytes(value, len).to_vec();
            TS_SUCCESS
        })?
    )+};
}

parts! {
    scheme: TSUrlSchemeGet, TSUrlSchemeSet;
    user: TSUrlUserGet;
    password: TSUrlPasswordGet;
    host: TSUrlHostGet, TSUrlHostSet;
    path: TSUrlPathGet, TSUrlPathSet;
    params: TSUrlHttpParamsGet, TSUrlHttpParamsSet;
    query: TSUrlHttpQueryGet, TSUrlHttpQuerySet;
    fragment: TSUrlHttpFragmentGet, TSUrlHttpFragmentSet;
}

#[unsafe(no_mangle)]
extern "C" fn TSUrlPortGet(_bufp: TSMBuffer, loc: TSMLoc) -> c_int {
    let url = url(loc);
    match (url.port, url.scheme.as_slice()) {
        (0, b"https") => 443,
        (0, b"http") => 80,
        (port, _) => port.into(),
    }
}

#[unsafe(no_mangle)]
extern "C" fn TSUrlRawPortGet(_bufp: TSMBuffer, loc: TSMLoc) -> c_int {
    url(loc).port.into()
}

#[unsafe(no_mangle)]
extern "C" fn TSUrlPortSet(bufp: TSMBuffer, loc: TSMLoc, port: c_int) -> TSReturnCode {
    let Ok(port) = u16::try_from(port) else {
        return TS_ERROR;
    };
    if !writeable(bufp) {
        return TS_ERROR;
    }
    url(loc).port = port;
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSUrlStringGet(_bufp: TSMBuffer, loc: TSMLoc, len: *mut c_int) -> *mut c_char {
    let text = url(loc).print();
    put(len, c_int::try_from(text.len()).expect("short"));
    misc::allocate(&text)
}

#[unsafe(no_mangle)]
extern "C" fn TSUrlParse(bufp: TSMBuffer, loc: TSMLoc, start: *mut *const c_char, end: *const c_char) -> TSParseResult {
    if !writeable(bufp) {
        return TS_PARSE_ERROR;
    }
    // SAFETY: the wrapper passes a pointer to its own variable, and the two ends of one slice.
    let text = unsafe { bytes(*start, end.offset_from(*start)) };
    put(start, end);
    match UrlImpl::parse(text) {
        Some(parsed) => {
            *url(loc) = parsed;
            TS_PARSE_DONE
        }
        None => {
            *url(loc) = UrlImpl::default();
            TS_PARSE_ERROR
        }
    }
}

/// Makes it a copy of this URL.
pub(crate) fn assign(loc: TSMLoc, text: &[u8]) {
    *url(loc) = UrlImpl::parse(text).expect("a URL");
}

/// Shared by `TSHttpTxnEffectiveUrlStringGet`.
pub(crate) fn string_of(loc: TSMLoc, len: *mut c_int) -> *mut c_char {
    if loc.is_null() {
        put(len, 0);
        return ptr::null_mut();
    }
    TSUrlStringGet(ptr::null_mut(), loc, len)
}

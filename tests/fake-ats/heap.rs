//! Messages: fields and first lines. URLs are in `url.rs`.

use std::cell::Cell;
use std::ffi::{c_char, c_int};
use std::ptr;

use ats_sys::{
    TS_ERROR, TS_HTTP_TYPE_REQUEST, TS_HTTP_TYPE_RESPONSE, TS_SUCCESS, TSHttpStatus, TSHttpType, TSMBuffer, TSMLoc,
    TSReturnCode,
};

use crate::url::UrlImpl;
use crate::{bytes, object, put};

thread_local! {
    static FIELD_HANDLES: Cell<usize> = const { Cell::new(0) };
    static FOUND_BY_NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// How often a field was looked for by ATS's own copy of its name, on this thread.
#[must_use]
pub fn found_by_number() -> usize {
    FOUND_BY_NUMBER.get()
}

/// Field handles of this thread that were handed out and not released.
#[must_use]
pub fn live_field_handles() -> usize {
    FIELD_HANDLES.get()
}

/// What a `TSMBuffer` points to.
pub(crate) struct Heap {
    pub(crate) writeable: bool,
}

/// What a `TSMLoc` points to.
pub(crate) enum Loc {
    Header(Header),
    Url(UrlImpl),
    Field { header: TSMLoc, slot: usize },
}

pub(crate) struct Header {
    kind: TSHttpType,
    version: c_int,
    method: Vec<u8>,
    pub(crate) url: TSMLoc,
    status: TSHttpStatus,
    reason: Vec<u8>,
    /// Slots are never reused, as ATS does it: a handle stays right while others come and go.
    slots: Vec<Slot>,
}

struct Slot {
    name: Vec<u8>,
    value: Vec<u8>,
    state: State,
}

#[derive(PartialEq, Clone, Copy)]
enum State {
    Detached,
    Live,
    Deleted,
}

/// A message, owned by the test.
#[derive(Debug)]
pub struct Message {
    bufp: TSMBuffer,
    hdr: TSMLoc,
    url: TSMLoc,
}

impl Message {
    /// A request, as parsed from the wire.
    #[must_use]
    pub fn request(method: &str, url: &str, fields: &[(&str, &str)]) -> Self {
        let url = UrlImpl::parse(url.as_bytes()).expect("a URL");
        Self::new(TS_HTTP_TYPE_REQUEST, method, 0, "", url, fields)
    }

    /// A response, as parsed from the wire.
    #[must_use]
    pub fn response(status: u16, reason: &str, fields: &[(&str, &str)]) -> Self {
        Self::new(TS_HTTP_TYPE_RESPONSE, "", status, reason, UrlImpl::default(), fields)
    }

    fn new(kind: TSHttpType, method: &str, status: u16, reason: &str, url: UrlImpl, fields: &[(&str, &str)]) -> Self {
        let url: TSMLoc = Box::into_raw(Box::new(Loc::Url(url))).cast();
        let slots = fields
            .iter()
            .map(|(name, value)| Slot { name: (*name).into(), value: (*value).into(), state: State::Live })
            .collect();
        let (method, reason) = (method.into(), reason.into());
        let header = Header { kind, version: 1 << 16 | 1, method, url, status: status.into(), reason, slots };
        Self {
            bufp: Box::into_raw(Box::new(Heap { writeable: true })).cast(),
            hdr: Box::into_raw(Box::new(Loc::Header(header))).cast(),
            url,
        }
    }

    /// Makes it like the cached response: setters answer `TS_ERROR`.
    pub fn make_read_only(&mut self) {
        object::<_, Heap>(self.bufp).writeable = false;
    }

    /// The buffer.
    #[must_use]
    pub fn bufp(&self) -> TSMBuffer {
        self.bufp
    }

    /// The header in it.
    #[must_use]
    pub fn hdr(&self) -> TSMLoc {
        self.hdr
    }

    /// The URL in it.
    #[must_use]
    pub fn url(&self) -> TSMLoc {
        self.url
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        // SAFETY: made by `new` as boxes of these types, and owned by this.
        unsafe {
            drop(Box::from_raw(self.bufp.cast::<Heap>()));
            drop(Box::from_raw(self.hdr.cast::<Loc>()));
            drop(Box::from_raw(self.url.cast::<Loc>()));
        }
    }
}

/// A buffer that the plugin owns.
pub(crate) fn create() -> TSMBuffer {
    Box::into_raw(Box::new(Heap { writeable: true })).cast()
}

/// The end of a buffer of [`create`].
pub(crate) fn destroy(bufp: TSMBuffer) {
    assert!(!bufp.is_null(), "fake ATS: null buffer");
    // SAFETY: made by `create`, and destroyed once.
    drop(unsafe { Box::from_raw(bufp.cast::<Heap>()) });
}

/// A URL that the plugin owns; released with no parent.
pub(crate) fn create_url() -> TSMLoc {
    Box::into_raw(Box::new(Loc::Url(UrlImpl::default()))).cast()
}

#[track_caller]
pub(crate) fn writeable(bufp: TSMBuffer) -> bool {
    object::<_, Heap>(bufp).writeable
}

#[track_caller]
pub(crate) fn header<'a>(hdr: TSMLoc) -> &'a mut Header {
    match object(hdr) {
        Loc::Header(header) => header,
        _ => panic!("fake ATS: the location is not a header"),
    }
}

#[track_caller]
fn of_kind<'a>(hdr: TSMLoc, kind: TSHttpType) -> &'a mut Header {
    let header = header(hdr);
    assert_eq!(header.kind, kind, "fake ATS: request line of a response, or the reverse");
    header
}

/// The field's slot, after the checks that ATS makes.
#[track_caller]
fn slot<'a>(hdr: TSMLoc, field: TSMLoc) -> &'a mut Slot {
    let at = slot_number(hdr, field);
    let slot = &mut header(hdr).slots[at];
    assert!(slot.state != State::Deleted, "fake ATS: the field is deleted");
    slot
}

#[track_caller]
fn slot_number(hdr: TSMLoc, field: TSMLoc) -> usize {
    match object(field) {
        Loc::Field { header, slot } if *header == hdr => *slot,
        _ => panic!("fake ATS: the location is no field of this header"),
    }
}

fn new_handle(header: TSMLoc, slot: usize) -> TSMLoc {
    FIELD_HANDLES.set(FIELD_HANDLES.get() + 1);
    Box::into_raw(Box::new(Loc::Field { header, slot })).cast()
}

/// A handle for the first live slot from `start` on that `wanted` takes.
fn find(hdr: TSMLoc, start: usize, wanted: impl Fn(&Slot) -> bool) -> TSMLoc {
    let mut slots = header(hdr).slots.iter().enumerate().skip(start);
    slots
        .find(|(_, slot)| slot.state == State::Live && wanted(slot))
        .map_or(ptr::null_mut(), |(at, _)| new_handle(hdr, at))
}

macro_rules! known_fields {
    ($($name:ident $len:ident = $text:literal;)+) => {
        $(#[unsafe(no_mangle)]
        static mut $name: *const c_char = $text.as_ptr();
        #[unsafe(no_mangle)]
        static mut $len: c_int = $text.count_bytes() as c_int;)+

        /// Whether this is ATS's own copy of a name, by which it knows the field's number.
        fn is_own_copy(name: *const c_char) -> bool {
            // SAFETY: nobody writes these.
            unsafe { [$($name),+].contains(&name) }
        }
    };
}

known_fields! {
    TS_MIME_FIELD_CONTENT_LENGTH TS_MIME_LEN_CONTENT_LENGTH = c"Content-Length";
    TS_MIME_FIELD_TRANSFER_ENCODING TS_MIME_LEN_TRANSFER_ENCODING = c"Transfer-Encoding";
    TS_MIME_FIELD_HOST TS_MIME_LEN_HOST = c"Host";
}

/// A string as ATS answers it: null if it is empty.
pub(crate) fn answer(text: &[u8], len: *mut c_int) -> *const c_char {
    put(len, c_int::try_from(text.len()).expect("short"));
    if text.is_empty() { ptr::null() } else { text.as_ptr().cast() }
}

#[unsafe(no_mangle)]
extern "C" fn TSHandleMLocRelease(_bufp: TSMBuffer, parent: TSMLoc, mloc: TSMLoc) -> TSReturnCode {
    if parent.is_null() {
        assert!(matches!(object::<_, Loc>(mloc), Loc::Url(_)), "fake ATS: a handle without its parent");
        // SAFETY: a URL of `create_url`, which is not used again.
        drop(unsafe { Box::from_raw(mloc.cast::<Loc>()) });
        return TS_SUCCESS;
    }
    slot_number(parent, mloc);
    FIELD_HANDLES.set(FIELD_HANDLES.get() - 1);
    // SAFETY: a handle of `new_handle`, by the check above, which is not used again.
    drop(unsafe { Box::from_raw(mloc.cast::<Loc>()) });
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldsCount(_bufp: TSMBuffer, hdr: TSMLoc) -> c_int {
    let live = header(hdr).slots.iter().filter(|slot| slot.state == State::Live).count();
    c_int::try_from(live).expect("few")
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldsClear(bufp: TSMBuffer, hdr: TSMLoc) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    header(hdr).slots.clear();
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldGet(_bufp: TSMBuffer, hdr: TSMLoc, idx: c_int) -> TSMLoc {
    let index = usize::try_from(idx).expect("fake ATS: negative index");
    let mut live = header(hdr).slots.iter().enumerate().filter(|(_, slot)| slot.state == State::Live);
    live.nth(index).map_or(ptr::null_mut(), |(at, _)| new_handle(hdr, at))
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldFind(_bufp: TSMBuffer, hdr: TSMLoc, name: *const c_char, len: c_int) -> TSMLoc {
    if is_own_copy(name) {
        FOUND_BY_NUMBER.set(FOUND_BY_NUMBER.get() + 1);
    }
    let name = bytes(name, len);
    find(hdr, 0, |slot| slot.name.eq_ignore_ascii_case(name))
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldNext(_bufp: TSMBuffer, hdr: TSMLoc, field: TSMLoc) -> TSMLoc {
    find(hdr, slot_number(hdr, field) + 1, |_| true)
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldNextDup(_bufp: TSMBuffer, hdr: TSMLoc, field: TSMLoc) -> TSMLoc {
    let name = slot(hdr, field).name.clone();
    find(hdr, slot_number(hdr, field) + 1, |slot| slot.name.eq_ignore_ascii_case(&name))
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldNameGet(_bufp: TSMBuffer, hdr: TSMLoc, field: TSMLoc, len: *mut c_int) -> *const c_char {
    answer(&slot(hdr, field).name, len)
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldValueStringGet(
    _bufp: TSMBuffer,
    hdr: TSMLoc,
    field: TSMLoc,
    idx: c_int,
    len: *mut c_int,
) -> *const c_char {
    assert_eq!(idx, -1, "fake ATS: only whole values are modelled");
    answer(&slot(hdr, field).value, len)
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldValueStringSet(
    bufp: TSMBuffer,
    hdr: TSMLoc,
    field: TSMLoc,
    idx: c_int,
    value: *const c_char,
    len: c_int,
) -> TSReturnCode {
    assert_eq!(idx, -1, "fake ATS: only whole values are modelled");
    if !writeable(bufp) {
        return TS_ERROR;
    }
    slot(hdr, field).value = bytes(value, len).to_vec();
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldCreateNamed(
    bufp: TSMBuffer,
    hdr: TSMLoc,
    name: *const c_char,
    len: c_int,
    result: *mut TSMLoc,
) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    let slots = &mut header(hdr).slots;
    slots.push(Slot { name: bytes(name, len).to_vec(), value: Vec::new(), state: State::Detached });
    let at = slots.len() - 1;
    put(result, new_handle(hdr, at));
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldAppend(bufp: TSMBuffer, hdr: TSMLoc, field: TSMLoc) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    slot(hdr, field).state = State::Live;
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSMimeHdrFieldDestroy(bufp: TSMBuffer, hdr: TSMLoc, field: TSMLoc) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    slot(hdr, field).state = State::Deleted;
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrTypeGet(_bufp: TSMBuffer, hdr: TSMLoc) -> TSHttpType {
    header(hdr).kind
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrVersionGet(_bufp: TSMBuffer, hdr: TSMLoc) -> c_int {
    header(hdr).version
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrVersionSet(bufp: TSMBuffer, hdr: TSMLoc, version: c_int) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    header(hdr).version = version;
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrMethodGet(_bufp: TSMBuffer, hdr: TSMLoc, len: *mut c_int) -> *const c_char {
    answer(&of_kind(hdr, TS_HTTP_TYPE_REQUEST).method, len)
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrMethodSet(bufp: TSMBuffer, hdr: TSMLoc, value: *const c_char, len: c_int) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    of_kind(hdr, TS_HTTP_TYPE_REQUEST).method = bytes(value, len).to_vec();
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrUrlGet(_bufp: TSMBuffer, hdr: TSMLoc, result: *mut TSMLoc) -> TSReturnCode {
    put(result, of_kind(hdr, TS_HTTP_TYPE_REQUEST).url);
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrStatusGet(_bufp: TSMBuffer, hdr: TSMLoc) -> TSHttpStatus {
    of_kind(hdr, TS_HTTP_TYPE_RESPONSE).status
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrStatusSet(bufp: TSMBuffer, hdr: TSMLoc, status: TSHttpStatus) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    of_kind(hdr, TS_HTTP_TYPE_RESPONSE).status = status;
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrReasonGet(_bufp: TSMBuffer, hdr: TSMLoc, len: *mut c_int) -> *const c_char {
    answer(&of_kind(hdr, TS_HTTP_TYPE_RESPONSE).reason, len)
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrReasonSet(bufp: TSMBuffer, hdr: TSMLoc, value: *const c_char, len: c_int) -> TSReturnCode {
    if !writeable(bufp) {
        return TS_ERROR;
    }
    of_kind(hdr, TS_HTTP_TYPE_RESPONSE).reason = bytes(value, len).to_vec();
    TS_SUCCESS
}

#[unsafe(no_mangle)]
extern "C" fn TSHttpHdrReasonLookup(status: TSHttpStatus) -> *const c_char {
    match status {
        200 => c"OK".as_ptr(),
        404 => c"Not Found".as_ptr(),
        _ => ptr::null(),
    }
}

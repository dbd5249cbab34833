//! The header fields of a message: a view over ATS's own storage, which copies nothing.
//!
//! Names and values point into the message's heap, and any write to the same message (its URL included) may move
//! them. So they borrow from `&self`, and writing takes `&mut self`: a slice cannot outlive the write that would
//! leave it dangling.
//!
//! Names are compared without regard to case. A name that ATS knows comes back in ATS's spelling ("Host"), whatever
//! the client sent. Fields whose names begin with '@' are internal: ATS keeps them off the wire, yet lists them.

use std::ffi::{c_char, c_int};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use ats_sys::{
    TSHandleMLocRelease, TSMBuffer, TSMLoc, TSMimeHdrFieldAppend, TSMimeHdrFieldCreateNamed, TSMimeHdrFieldDestroy,
    TSMimeHdrFieldFind, TSMimeHdrFieldGet, TSMimeHdrFieldNameGet, TSMimeHdrFieldNext, TSMimeHdrFieldNextDup,
    TSMimeHdrFieldValueStringGet, TSMimeHdrFieldValueStringSet, TSMimeHdrFieldsClear, TSMimeHdrFieldsCount,
    tsapi_mbuffer, tsapi_mloc,
};

pub use crate::known_field::KnownField;

use crate::error::{Error, Result, c_len, check};
use crate::raw_slice::slice_or_empty;

/// ATS keeps a name's length in 16 bits...
pub const MAX_NAME: usize = u16::MAX as usize - 1;
/// ...and a value's in 24.
pub const MAX_VALUE: usize = (1 << 24) - 1;

/// "The whole value": other indices address the comma-separated parts.
const WHOLE: c_int = -1;

/// The header fields of one message (`TSMBuffer` and the `TSMLoc` of its header).
///
/// Event thread of the transaction only. Valid while the hook that it was taken in lasts; re-enabling the
/// transaction ends that.
#[derive(Debug)]
pub struct HeaderMap<'a> {
    bufp: NonNull<tsapi_mbuffer>,
    hdr: NonNull<tsapi_mloc>,
    /// As an exclusive reference into the message: it is what the mutating methods make use of.
    _message: PhantomData<&'a mut ()>,
}

impl<'a> HeaderMap<'a> {
    /// The view over the header `hdr` in `bufp`; `None` if one of them is null.
    ///
    /// # Safety
    /// Both must belong to a message that lives for `'a` on this thread, and while this view is used, nothing else
    /// may write to that message.
    #[must_use]
    pub unsafe fn from_raw(bufp: TSMBuffer, hdr: TSMLoc) -> Option<Self> {
        Some(Self { bufp: NonNull::new(bufp)?, hdr: NonNull::new(hdr)?, _message: PhantomData })
    }

    /// The same view for a shorter time.
    pub(crate) fn reborrow(&mut self) -> HeaderMap<'_> {
        HeaderMap { bufp: self.bufp, hdr: self.hdr, _message: PhantomData }
    }

    /// The buffer and the header location, as ATS has them.
    #[must_use]
    pub fn as_raw(&self) -> (TSMBuffer, TSMLoc) {
        (self.bufp.as_ptr(), self.hdr.as_ptr())
    }

    /// The number of fields, duplicates counted (`TSMimeHdrFieldsCount`).
    #[must_use]
    pub fn len(&self) -> usize {
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live message, by the contract of `from_raw`.
        let count = unsafe { TSMimeHdrFieldsCount(bufp, hdr) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Whether there are no fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.field_at(0).is_none()
    }

    /// All fields as name and whole value, in the order of the wire, duplicates apart (`TSMimeHdrFieldNext`).
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter { next: self.field_at(0) }
    }

    /// Calls `visit` with the name and the whole value of each field, in the order of the wire.
    pub fn for_each(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        for (name, value) in self.iter() {
            visit(name, value);
        }
    }

    /// The whole value of the first field of this name (`TSMimeHdrFieldFind`).
    #[must_use]
    pub fn get_first(&self, name: &[u8]) -> Option<&[u8]> {
        self.find(name).map(|field| field.value())
    }

    /// [`Self::get_first`] of a field that ATS knows by number: it looks at one bit to say that there is none, and at
    /// no name.
    #[must_use]
    pub fn get_known(&self, field: KnownField) -> Option<&[u8]> {
        self.find_known(field).map(|field| field.value())
    }

    /// Whether there is a field that ATS knows by number.
    #[must_use]
    pub fn has_known(&self, field: KnownField) -> bool {
        self.find_known(field).is_some()
    }

    /// The whole values of all fields of this name, in order (`TSMimeHdrFieldNextDup`).
    #[must_use]
    pub fn values(&self, name: &[u8]) -> Values<'_> {
        Values { next: self.find(name) }
    }

    /// How many fields have this name.
    #[must_use]
    pub fn count(&self, name: &[u8]) -> usize {
        let mut count = 0;
        let mut next = self.find(name);
        while let Some(field) = next {
            count += 1;
            next = field.next_dup();
        }
        count
    }

    /// Adds a field after the others, whether or not there is one of this name (`TSMimeHdrFieldAppend`).
    ///
    /// # Errors
    /// A name or value that cannot stand in one line of a header; a message that is read-only.
    pub fn append(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let (name_len, value_len) = (check_name(name)?, check_value(value)?);
        self.append_checked((name, name_len), (value, value_len))
    }

    /// [`Self::append`], of what was looked at.
    fn append_checked(&mut self, (name, name_len): (&[u8], c_int), (value, value_len): (&[u8], c_int)) -> Result<()> {
        let (bufp, hdr) = self.as_raw();
        let mut loc: TSMLoc = ptr::null_mut();
        // SAFETY: a live message; the name is copied from within the given length; `loc` is ours to write to.
        let code = unsafe { TSMimeHdrFieldCreateNamed(bufp, hdr, name.as_ptr().cast(), name_len, &raw mut loc) };
        check(code, "TSMimeHdrFieldCreateNamed")?;
        let field = Field::adopt(self, loc).ok_or(Error::Refused("TSMimeHdrFieldCreateNamed"))?;
        field.set_value(value, value_len)?;
        // SAFETY: the field was just made for this header, and is not attached yet.
        check(unsafe { TSMimeHdrFieldAppend(bufp, hdr, field.loc.as_ptr()) }, "TSMimeHdrFieldAppend")
    }

    /// Leaves exactly one field of this name, with this value: in the place of the first one, if there is any
    /// (`TSMimeHdrFieldValueStringSet`).
    ///
    /// # Errors
    /// As for [`Self::append`].
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        let (name_len, value_len) = (check_name(name)?, check_value(value)?);
        let Some(first) = self.find(name) else {
            return self.append_checked((name, name_len), (value, value_len));
        };
        first.set_value(value, value_len)?;
        destroy_all(first.next_dup())
    }

    /// Removes all fields of this name, and says whether there were any (`TSMimeHdrFieldDestroy`).
    ///
    /// # Errors
    /// A message that is read-only.
    pub fn remove(&mut self, name: &[u8]) -> Result<bool> {
        let first = self.find(name);
        let found = first.is_some();
        destroy_all(first)?;
        Ok(found)
    }

    /// Removes all fields (`TSMimeHdrFieldsClear`).
    ///
    /// # Errors
    /// A message that is read-only.
    pub fn clear(&mut self) -> Result<()> {
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live message; `&mut self` says that no field handle is out.
        check(unsafe { TSMimeHdrFieldsClear(bufp, hdr) }, "TSMimeHdrFieldsClear")
    }

    fn find(&self, name: &[u8]) -> Option<Field<'_>> {
        // What ATS cannot hold it cannot find either; an empty name would be "not found" as well.
        let len = c_len(name, MAX_NAME, "header name").ok().filter(|len| *len > 0)?;
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live message; the name is read within the given length.
        let loc = unsafe { TSMimeHdrFieldFind(bufp, hdr, name.as_ptr().cast(), len) };
        Field::adopt(self, loc)
    }

    fn find_known(&self, field: KnownField) -> Option<Field<'_>> {
        let (bufp, hdr) = self.as_raw();
        let (name, len) = field.as_raw();
        // SAFETY: a live message; the name is ATS's own, of that length.
        let loc = unsafe { TSMimeHdrFieldFind(bufp, hdr, name, len) };
        Field::adopt(self, loc)
    }

    fn field_at(&self, index: c_int) -> Option<Field<'_>> {
        let (bufp, hdr) = self.as_raw();
        // SAFETY: a live message, and an index that is not negative; beyond the end is answered with null.
        let loc = unsafe { TSMimeHdrFieldGet(bufp, hdr, index) };
        Field::adopt(self, loc)
    }
}

/// Destroys this field and those of the same name behind it.
fn destroy_all(first: Option<Field<'_>>) -> Result<()> {
    let mut next = first;
    while let Some(field) = next {
        // Asked for first: destroying a field unlinks it.
        next = field.next_dup();
        let (bufp, hdr) = (field.bufp.as_ptr(), field.hdr.as_ptr());
        // SAFETY: a live field of this header. The callers hold `&mut HeaderMap`, so no slice into it is out, and
        // the handle is only released after this.
        check(unsafe { TSMimeHdrFieldDestroy(bufp, hdr, field.loc.as_ptr()) }, "TSMimeHdrFieldDestroy")?;
    }
    Ok(())
}

/// A field handle (`TSMLoc`), released on drop. Handles come from a pool of the thread; the strings do not depend on
/// them, but on the message.
#[derive(Debug)]
struct Field<'h> {
    bufp: NonNull<tsapi_mbuffer>,
    hdr: NonNull<tsapi_mloc>,
    loc: NonNull<tsapi_mloc>,
    _map: PhantomData<&'h ()>,
}

impl<'h> Field<'h> {
    /// Takes over a handle that ATS just made for `map`. The lifetime is free on purpose: the mutating methods hold
    /// handles while they hold `&mut HeaderMap`, and the public ones tie it to `&self`.
    fn adopt(map: &HeaderMap<'_>, loc: TSMLoc) -> Option<Self> {
        Some(Self { bufp: map.bufp, hdr: map.hdr, loc: NonNull::new(loc)?, _map: PhantomData })
    }

    fn name(&self) -> &'h [u8] {
        let mut len: c_int = 0;
        // SAFETY: a live field; the string lies in the message, which no one writes to during `'h`.
        unsafe {
            let name = TSMimeHdrFieldNameGet(self.bufp.as_ptr(), self.hdr.as_ptr(), self.loc.as_ptr(), &raw mut len);
            slice_or_empty(name, len)
        }
    }

    fn value(&self) -> &'h [u8] {
        let (bufp, hdr, loc) = (self.bufp.as_ptr(), self.hdr.as_ptr(), self.loc.as_ptr());
        let mut len: c_int = 0;
        // SAFETY: a live field; the string lies in the message, which no one writes to during `'h`.
        unsafe {
            let value = TSMimeHdrFieldValueStringGet(bufp, hdr, loc, WHOLE, &raw mut len);
            slice_or_empty(value, len)
        }
    }

    fn set_value(&self, value: &[u8], len: c_int) -> Result<()> {
        let (bufp, hdr, loc) = (self.bufp.as_ptr(), self.hdr.as_ptr(), self.loc.as_ptr());
        // SAFETY: a live field; the value is copied from within the given length. The callers hold
        // `&mut HeaderMap`, so no slice into the message is out.
        let code = unsafe { TSMimeHdrFieldValueStringSet(bufp, hdr, loc, WHOLE, value.as_ptr().cast::<c_char>(), len) };
        check(code, "TSMimeHdrFieldValueStringSet")
    }

    fn next(&self) -> Option<Self> {
        // SAFETY: a live field of this header.
        let loc = unsafe { TSMimeHdrFieldNext(self.bufp.as_ptr(), self.hdr.as_ptr(), self.loc.as_ptr()) };
        NonNull::new(loc).map(|loc| Self { loc, ..*self })
    }

    fn next_dup(&self) -> Option<Self> {
        // SAFETY: a live field of this header.
        let loc = unsafe { TSMimeHdrFieldNextDup(self.bufp.as_ptr(), self.hdr.as_ptr(), self.loc.as_ptr()) };
        NonNull::new(loc).map(|loc| Self { loc, ..*self })
    }
}

impl Drop for Field<'_> {
    fn drop(&mut self) {
        // SAFETY: a field handle of this header, released once, on the thread whose pool it is from (`HeaderMap`
        // is not Send).
        unsafe { TSHandleMLocRelease(self.bufp.as_ptr(), self.hdr.as_ptr(), self.loc.as_ptr()) };
    }
}

/// See [`HeaderMap::iter`].
#[derive(Debug)]
pub struct Iter<'h> {
    next: Option<Field<'h>>,
}

impl<'h> Iterator for Iter<'h> {
    type Item = (&'h [u8], &'h [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.next.take()?;
        self.next = field.next();
        Some((field.name(), field.value()))
    }
}

/// See [`HeaderMap::values`].
#[derive(Debug)]
pub struct Values<'h> {
    next: Option<Field<'h>>,
}

impl<'h> Iterator for Values<'h> {
    type Item = &'h [u8];

    fn next(&mut self) -> Option<Self::Item> {
        let field = self.next.take()?;
        self.next = field.next_dup();
        Some(field.value())
    }
}

/// Refuses what would not be one name on the wire. ATS writes names and values out as they are.
fn check_name(name: &[u8]) -> Result<c_int> {
    if name.is_empty() {
        return Err(Error::Empty("header name"));
    }
    match name.iter().find(|byte| **byte <= b' ' || matches!(**byte, b':' | 0x7f)) {
        Some(&byte) => Err(Error::BadByte { what: "header name", byte }),
        None => c_len(name, MAX_NAME, "header name"),
    }
}

fn check_value(value: &[u8]) -> Result<c_int> {
    match value.iter().find(|byte| matches!(**byte, b'\r' | b'\n' | b'\0')) {
        Some(&byte) => Err(Error::BadByte { what: "header value", byte }),
        None => c_len(value, MAX_VALUE, "header value"),
    }
}

#[cfg(test)]
#[path = "headers_test.rs"]
mod tests;

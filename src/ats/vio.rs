//! What one side of a transform is to the other: how much is to be moved, how much has been, and from which buffer.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use ats_sys::{
    TSContCall, TSVIO, TSVIOBufferGet, TSVIOContGet, TSVIONBytesGet, TSVIONBytesSet, TSVIONDoneGet, TSVIONDoneSet,
    TSVIONTodoGet, TSVIOReaderGet, TSVIOReenable, tsapi_vio,
};

use crate::event::Event;
use crate::iobuf::{self, IoBuffer, Reader};

/// The number of bytes of something whose end is not known yet (`INT64_MAX`).
pub const UNKNOWN: u64 = i64::MAX.cast_unsigned();

/// A virtual I/O operation (`TSVIO`): bytes on their way from one connection to the next.
///
/// Transaction's event thread only. Exclusive, so that no view of its bytes is lent when some are consumed.
pub struct Vio<'a> {
    raw: NonNull<tsapi_vio>,
    _live: PhantomData<&'a mut tsapi_vio>,
}

impl Vio<'_> {
    /// The operation at `raw`; `None` for null.
    ///
    /// # Safety
    /// During `'a` it must be alive, whatever is called back, and this must be its thread. As long as it has a buffer,
    /// its reader and the continuation that it names must be alive too.
    pub(crate) unsafe fn from_raw(raw: TSVIO) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self { raw, _live: PhantomData })
    }

    /// How many bytes have been moved (`TSVIONDoneGet`).
    #[must_use]
    pub fn ndone(&self) -> u64 {
        // SAFETY: a live VIO.
        from_i64(unsafe { TSVIONDoneGet(self.raw.as_ptr()) })
    }

    /// `TSVIONDoneSet`.
    pub fn ndone_set(&mut self, ndone: u64) {
        // SAFETY: a live VIO; the number is not negative.
        unsafe { TSVIONDoneSet(self.raw.as_ptr(), to_i64(ndone)) };
    }

    /// How many bytes are to be moved in all (`TSVIONBytesGet`); [`UNKNOWN`] until the end is known.
    #[must_use]
    pub fn nbytes(&self) -> u64 {
        // SAFETY: a live VIO.
        from_i64(unsafe { TSVIONBytesGet(self.raw.as_ptr()) })
    }

    /// `TSVIONBytesSet`.
    pub fn nbytes_set(&mut self, nbytes: u64) {
        // SAFETY: a live VIO; the number is not negative.
        unsafe { TSVIONBytesSet(self.raw.as_ptr(), to_i64(nbytes)) };
    }

    /// How many bytes are still to be moved (`TSVIONTodoGet`).
    #[must_use]
    pub fn todo(&self) -> u64 {
        // SAFETY: a live VIO.
        from_i64(unsafe { TSVIONTodoGet(self.raw.as_ptr()) })
    }

    /// The bytes that wait to be moved (`TSVIOReaderGet`); `None` once the writing side has ended it
    /// (`TSVIOBufferGet` is null). More than [`Self::todo`] may wait.
    #[must_use]
    pub fn reader(&self) -> Option<Reader<'_>> {
        // SAFETY: a live VIO.
        let raw = unsafe {
            if TSVIOBufferGet(self.raw.as_ptr()).is_null() {
                return None;
            }
            TSVIOReaderGet(self.raw.as_ptr())
        };
        // SAFETY: alive as long as the VIO has a buffer, and only `consume` takes from it, by `&mut self`.
        unsafe { Reader::from_raw(raw) }
    }

    /// Whether there is a writing side, or was one (`TSVIOContGet`).
    #[must_use]
    pub fn has_writer(&self) -> bool {
        // SAFETY: a live VIO.
        !unsafe { TSVIOContGet(self.raw.as_ptr()) }.is_null()
    }

    /// Takes the first `count` waiting bytes away, or as many as there are, and counts them as done
    /// (`TSIOBufferReaderConsume`, `TSVIONDoneSet`). Answers how many.
    pub fn consume(&mut self, count: usize) -> usize {
        let Some(waiting) = self.reader().map(|reader| reader.len()) else { return 0 };
        let count = count.min(waiting);
        // SAFETY: so many wait.
        unsafe { self.take(count) };
        count
    }

    /// Moves the first `max` waiting bytes, or as many as there are, to the end of `buffer`, by reference, and counts them
    /// as done. Answers how many.
    pub fn move_to(&mut self, buffer: &mut IoBuffer, max: usize) -> usize {
        let count = self.reader().map_or(0, |reader| buffer.copy_from(&reader, 0, max));
        // SAFETY: so many were there, and still are.
        unsafe { self.take(count) };
        count
    }

    /// # Safety
    /// So many bytes must wait.
    unsafe fn take(&mut self, count: usize) {
        // SAFETY: a live VIO. It has a buffer if bytes wait.
        let Some(reader) = NonNull::new(unsafe { TSVIOReaderGet(self.raw.as_ptr()) }).filter(|_| count > 0) else {
            return;
        };
        // SAFETY: alive, since the VIO has a buffer; `&mut self` says that nothing of it is lent.
        unsafe { iobuf::consume(reader, count) };
        self.ndone_set(self.ndone().saturating_add(count as u64));
    }

    /// Tells the reading side that there is more, or that the end is known (`TSVIOReenable`). Only posted.
    pub fn reenable(&mut self) {
        // SAFETY: a live VIO.
        unsafe { TSVIOReenable(self.raw.as_ptr()) };
    }

    /// Tells the writing side something (`TSContCall`, `TSVIOContGet`): `VCONN_WRITE_READY`, `VCONN_WRITE_COMPLETE` or
    /// `ERROR`. `false`, and nothing done, if it has ended the operation and wants to hear no more.
    ///
    /// Runs the writing side before it returns, and with it perhaps the transaction to its end, hooks and the closing
    /// of the transform included. Hold no lock and no borrow. Takes `self`, since the other side may be gone then.
    pub(crate) fn call_back(self, event: Event) -> bool {
        if self.reader().is_none() {
            return false;
        }
        // SAFETY: a live VIO.
        let Some(cont) = NonNull::new(unsafe { TSVIOContGet(self.raw.as_ptr()) }) else { return false };
        // SAFETY: alive, since the VIO has a buffer. Its mutex is the transaction's, which is held.
        unsafe { TSContCall(cont.as_ptr(), event.as_raw(), self.raw.as_ptr().cast()) };
        true
    }
}

impl fmt::Debug for Vio<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vio").field("ndone", &self.ndone()).field("nbytes", &self.nbytes()).finish()
    }
}

/// ATS's numbers are not negative, but for a difference of two.
fn from_i64(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// ATS aborts on negative ones.
pub(crate) fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

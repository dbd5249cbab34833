//! Buffers: chains of blocks that are passed on by reference.
//!
//! An [`IoBuffer`] is a `TSIOBuffer` and the one reader that we have on it. Bytes are only copied into it by
//! [`IoBuffer::write`]; everything else shares the blocks that hold them (`TSIOBufferCopy`).
//!
//! **Threads.** ATS takes blocks from, and gives them back to, pools of its threads: what changes a buffer panics on a
//! foreign thread, where ATS would dereference a null thread.

use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;

use ats_sys::{
    TS_IOBUFFER_SIZE_INDEX_32K, TS_IOBUFFER_SIZE_INDEX_128, TSIOBuffer, TSIOBufferBlockNext, TSIOBufferBlockReadStart,
    TSIOBufferCopy, TSIOBufferCreate, TSIOBufferDestroy, TSIOBufferReader, TSIOBufferReaderAlloc,
    TSIOBufferReaderAvail, TSIOBufferReaderConsume, TSIOBufferReaderFree, TSIOBufferReaderStart, TSIOBufferSizeIndex,
    TSIOBufferSizedCreate, TSIOBufferWrite, tsapi_bufferreader, tsapi_iobuffer,
};

use crate::error::{Error, Result};
use crate::log;
use crate::raw_slice::slice_or_empty_i64;
use crate::thread::{is_ats_thread, require_ats_thread};

/// An owned buffer (`TSIOBuffer`) with its reader: bytes are written at its end and consumed at its start.
///
/// ATS threads only; dropped on a foreign one, it leaks, which is logged.
pub struct IoBuffer {
    buffer: NonNull<tsapi_iobuffer>,
    /// The only reader that is ever made on the buffer: ATS aborts at the sixth.
    reader: NonNull<tsapi_bufferreader>,
    /// How many bytes the reader has before it: nobody else writes to the buffer, or consumes from it. (But for that of a
    /// transform's output, from which ATS consumes: there, this is all that it was ever given.)
    len: usize,
}

// SAFETY: a buffer belongs to no thread. Its blocks are counted atomically, for they are shared with other buffers; and
// the pools that they come from and go to are those of the thread that calls, which `changing` checks is one of ATS's.
unsafe impl Send for IoBuffer {}

impl IoBuffer {
    /// An empty buffer (`TSIOBufferCreate`, `TSIOBufferReaderAlloc`), which grows by blocks of 32 KiB.
    ///
    /// # Errors
    /// [`Error::ForeignThread`].
    pub fn new() -> Result<Self> {
        require_ats_thread("TSIOBufferCreate")?;
        // SAFETY: an ATS thread.
        Self::of(unsafe { TSIOBufferCreate() })
    }

    /// An empty buffer for about this many written bytes (`TSIOBufferSizedCreate`): it grows by the smallest blocks
    /// that one of would hold them, and has the first of these already.
    ///
    /// # Errors
    /// [`Error::ForeignThread`].
    pub fn with_size(bytes: usize) -> Result<Self> {
        require_ats_thread("TSIOBufferSizedCreate")?;
        // SAFETY: an ATS thread, and an index of the range that is allowed.
        Self::of(unsafe { TSIOBufferSizedCreate(size_index(bytes)) })
    }

    fn of(buffer: TSIOBuffer) -> Result<Self> {
        let buffer = NonNull::new(buffer).ok_or(Error::Refused("TSIOBufferCreate"))?;
        // SAFETY: a buffer of ours, with no reader yet.
        let reader = unsafe { TSIOBufferReaderAlloc(buffer.as_ptr()) };
        let reader = NonNull::new(reader).ok_or(Error::Refused("TSIOBufferReaderAlloc"))?;
        Ok(Self { buffer, reader, len: 0 })
    }

    /// Its bytes, to be read.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader { raw: self.reader, known: Some(self.len), _lent: PhantomData }
    }

    /// How many bytes are in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no byte is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits the bytes from `start` to `end`; see [`Reader::read`].
    pub fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8])) {
        self.reader().read(start, end, visit);
    }

    /// Copies `bytes` to the end (`TSIOBufferWrite`).
    ///
    /// # Panics
    /// On a foreign thread.
    pub fn write(&mut self, bytes: &[u8]) {
        changing("TSIOBufferWrite");
        if bytes.is_empty() {
            return;
        }
        // SAFETY: a buffer of ours, on an ATS thread; the bytes are read within their length.
        let written = unsafe { TSIOBufferWrite(self.buffer.as_ptr(), bytes.as_ptr().cast(), to_i64(bytes.len())) };
        self.len += usize::try_from(written).unwrap_or(0);
    }

    /// Takes the first `count` bytes away, or as many as there are (`TSIOBufferReaderConsume`).
    ///
    /// # Panics
    /// On a foreign thread.
    pub fn consume(&mut self, count: usize) {
        let count = count.min(self.len);
        // SAFETY: `&mut self`: nothing of the buffer is lent, and it has so many bytes.
        unsafe { consume(self.reader, count) };
        self.len -= count;
    }

    /// Appends `len` bytes of `source`, from `offset` on, or as many as there are, without copying any
    /// (`TSIOBufferCopy`). Answers how many.
    ///
    /// # Panics
    /// On a foreign thread.
    pub fn copy_from(&mut self, source: &Reader<'_>, offset: usize, len: usize) -> usize {
        changing("TSIOBufferCopy");
        let available = source.len();
        let offset = offset.min(available);
        let len = len.min(available - offset);
        if len == 0 {
            return 0;
        }
        // SAFETY: a buffer of ours and a live reader of another (the borrows are exclusive of each other), on an ATS
        // thread; it has `offset + len` bytes.
        let copied = unsafe { TSIOBufferCopy(self.buffer.as_ptr(), source.raw.as_ptr(), to_i64(len), to_i64(offset)) };
        let copied = usize::try_from(copied).unwrap_or(0);
        self.len += copied;
        copied
    }

    /// Moves all bytes of `other` to the end, by reference.
    ///
    /// # Panics
    /// On a foreign thread.
    pub fn append(&mut self, other: &mut Self) {
        let moved = self.copy_from(&other.reader(), 0, usize::MAX);
        other.consume(moved);
    }

    /// Puts `data` in the place of `size` bytes at `start`. What lies beyond the end is cut off: a `start` there
    /// appends, and so does `size` 0 insert.
    ///
    /// The bytes before and behind are kept by reference, in a new buffer unless there is an easier way.
    ///
    /// # Errors
    /// [`Error::ForeignThread`]; the buffer is as it was.
    pub fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<()> {
        require_ats_thread("TSIOBufferCopy")?;
        let len = self.len();
        let start = start.min(len);
        let end = start.saturating_add(size).min(len);
        if start == len {
            self.write(data);
            return Ok(());
        }
        if start == 0 && data.is_empty() {
            self.consume(end);
            return Ok(());
        }
        if start == 0 && end == len {
            self.consume(len);
            self.write(data);
            return Ok(());
        }
        let mut spliced = Self::with_size(data.len())?;
        spliced.copy_from(&self.reader(), 0, start);
        spliced.write(data);
        spliced.copy_from(&self.reader(), end, len - end);
        *self = spliced;
        Ok(())
    }

    /// For `TSVConnWrite`, whose callee reads through this as long as it is not shut down or closed.
    pub(crate) fn raw_reader(&self) -> TSIOBufferReader {
        self.reader.as_ptr()
    }
}

impl Drop for IoBuffer {
    fn drop(&mut self) {
        if !is_ats_thread() {
            log::error(format_args!("a buffer was dropped on a foreign thread; it leaks"));
            return;
        }
        // SAFETY: an ATS thread; both are ours, and freed once. The buffer does not outlive its reader.
        unsafe {
            TSIOBufferReaderFree(self.reader.as_ptr());
            TSIOBufferDestroy(self.buffer.as_ptr());
        }
    }
}

impl fmt::Debug for IoBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IoBuffer").field("len", &self.len()).finish()
    }
}

/// The bytes that a buffer's reader (`TSIOBufferReader`) has not consumed: ours, or one of ATS's.
///
/// Only reads: to consume is [`IoBuffer::consume`] and [`crate::vio::Vio::consume`], to which no such view is lent.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    raw: NonNull<tsapi_bufferreader>,
    /// How many bytes there are, where we count them.
    known: Option<usize>,
    _lent: PhantomData<&'a tsapi_bufferreader>,
}

impl<'a> Reader<'a> {
    /// The reader at `raw`; `None` for null.
    ///
    /// # Safety
    /// During `'a` it must be alive, and nothing may be consumed from it.
    pub(crate) unsafe fn from_raw(raw: TSIOBufferReader) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self { raw, known: None, _lent: PhantomData })
    }

    /// How many bytes there are; of a reader of ATS's, `TSIOBufferReaderAvail`, which walks all blocks.
    #[must_use]
    pub fn len(&self) -> usize {
        // SAFETY: a live reader.
        self.known.unwrap_or_else(|| usize::try_from(unsafe { TSIOBufferReaderAvail(self.raw.as_ptr()) }).unwrap_or(0))
    }

    /// Whether there is no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Visits the bytes from `start` to `end`, block by block and as far as there are any; no visit is of an empty
    /// slice (`TSIOBufferReaderStart`, `TSIOBufferBlockNext`, `TSIOBufferBlockReadStart`).
    pub fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8])) {
        // Blocks know nothing of a limit on the reader, so it is applied here.
        let end = end.min(self.len());
        let mut passed = 0_usize;
        // SAFETY: a live reader.
        let mut block = unsafe { TSIOBufferReaderStart(self.raw.as_ptr()) };
        while !block.is_null() && passed < end {
            let mut len = 0_i64;
            // SAFETY: a live reader and a block of its chain: its first, of which the reader has consumed some, or a
            // later one, which it answers as a whole. The result is ours to write to. The bytes stay where they are
            // while nothing is consumed.
            let bytes = unsafe {
                let from = TSIOBufferBlockReadStart(block, self.raw.as_ptr(), &raw mut len);
                slice_or_empty_i64(from, len)
            };
            let (from, to) = (start.saturating_sub(passed), (end - passed).min(bytes.len()));
            if from < to {
                visit(&bytes[from..to]);
            }
            passed += bytes.len();
            // SAFETY: a block of a live chain.
            block = unsafe { TSIOBufferBlockNext(block) };
        }
    }
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("len", &self.len()).finish()
    }
}

/// Consumes `count` bytes.
///
/// # Safety
/// The reader must be alive, have so many bytes (ATS would count on beyond the end), and no view of it be lent.
pub(crate) unsafe fn consume(reader: NonNull<tsapi_bufferreader>, count: usize) {
    changing("TSIOBufferReaderConsume");
    if count > 0 {
        // SAFETY: a live reader that has so many bytes, on an ATS thread.
        unsafe { TSIOBufferReaderConsume(reader.as_ptr(), to_i64(count)) };
    }
}

#[track_caller]
fn changing(function: &'static str) {
    assert!(is_ats_thread(), "{}", Error::ForeignThread(function));
}

/// Lengths of what is in memory fit.
pub(crate) fn to_i64(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// The smallest block that holds so many bytes, or the largest: 128 << index.
fn size_index(bytes: usize) -> TSIOBufferSizeIndex {
    (TS_IOBUFFER_SIZE_INDEX_128..TS_IOBUFFER_SIZE_INDEX_32K)
        .find(|index| 128_usize << index >= bytes)
        .unwrap_or(TS_IOBUFFER_SIZE_INDEX_32K)
}

#[cfg(test)]
#[path = "iobuf_test.rs"]
mod tests;

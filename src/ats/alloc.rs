//! Memory from ATS's allocator: what ATS will free must come from it, and what it hands us must go back to it.

use std::ffi::{c_char, c_void};
use std::ops::Deref;
use std::ptr::NonNull;

#[cfg(ats9)]
use ats_sys::_TSfree;
use ats_sys::_TSmalloc;
#[cfg(ats10)]
use ats_sys::TSfree as _TSfree;

/// What `TSmalloc`, a macro, would put here; ATS names it when it tracks memory.
const SITE: *const c_char = c"memory/wasm_remap/".as_ptr();

/// An owned block of ATS's memory (`TSmalloc`), freed by `TSfree` when dropped.
///
/// Any thread: ATS's allocator is the C library's or jemalloc, and keeps nothing per event thread for these.
#[derive(Debug)]
pub struct TsBuf {
    ptr: NonNull<u8>,
    /// Bytes of content. Invariant: `ptr` has at least this many initialized bytes.
    len: usize,
}

// SAFETY: an owned block of bytes, with no ties to the thread that allocated it.
unsafe impl Send for TsBuf {}
// SAFETY: a shared `TsBuf` only gives out `&[u8]`.
unsafe impl Sync for TsBuf {}

impl TsBuf {
    /// Copies `bytes` into a new block, followed by a NUL that is not counted in the length.
    ///
    /// The NUL makes any content a C string too, and keeps an empty block from being a null pointer: for
    /// `TSHttpTxnErrorBodySet` null means "no body set", and ATS would send its own page.
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        Self::gather(bytes.len(), |write| write(bytes))
    }

    /// As [`Self::copy_from`], of what `fill` writes, piece by piece. Beyond `len` bytes in all, nothing is taken.
    #[must_use]
    pub fn gather(len: usize, fill: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Self {
        // SAFETY: the size is not zero, and the site is a C string that lives for ever.
        let ptr = unsafe { _TSmalloc(len + 1, SITE) }.cast::<u8>();
        let Some(ptr) = NonNull::new(ptr) else {
            // ATS aborts before it answers null; if some build does not, neither can we go on.
            std::alloc::handle_alloc_error(std::alloc::Layout::new::<u8>());
        };
        let mut buf = Self { ptr, len: 0 };
        fill(&mut |bytes| {
            let count = bytes.len().min(len - buf.len);
            // SAFETY: the block has `len` bytes and one more, of which `buf.len` are written; nobody else has it yet.
            unsafe { buf.ptr.as_ptr().add(buf.len).copy_from_nonoverlapping(bytes.as_ptr(), count) };
            buf.len += count;
        });
        // SAFETY: the one byte more.
        unsafe { buf.ptr.as_ptr().add(buf.len).write(0) };
        buf
    }

    /// Takes over a string that ATS allocated for its caller, such as the one from `TSUrlStringGet`.
    ///
    /// # Safety
    /// If `ptr` is not null, it must come from ATS's allocator, belong to the caller, and have `len` initialized
    /// bytes.
    pub(crate) unsafe fn from_raw(ptr: *mut c_char, len: usize) -> Option<Self> {
        NonNull::new(ptr.cast::<u8>()).map(|ptr| Self { ptr, len })
    }

    /// Gives the block up: whoever gets the pointer frees it with `TSfree`.
    pub(crate) fn into_raw(self) -> (*mut c_char, usize) {
        let raw = (self.ptr.as_ptr().cast::<c_char>(), self.len);
        std::mem::forget(self);
        raw
    }
}

impl Deref for TsBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the invariant of `len`.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for TsBuf {
    fn drop(&mut self) {
        // SAFETY: the block is ours and from ATS's allocator; `into_raw` forgets `self` before giving it away.
        unsafe { _TSfree(self.ptr.as_ptr().cast::<c_void>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_followed_by_a_nul() {
        let buf = TsBuf::copy_from(b"a\0b");
        assert_eq!(&*buf, b"a\0b");
        // SAFETY: `copy_from` writes one byte past the content.
        assert_eq!(unsafe { *buf.ptr.as_ptr().add(3) }, 0);
    }

    #[test]
    fn pieces_are_gathered_up_to_the_length() {
        let pieces: [&[u8]; 4] = [b"ab", b"", b"cde", b"f"];
        for len in 0..9 {
            let buf = TsBuf::gather(len, |write| pieces.iter().for_each(|piece| write(piece)));
            assert_eq!(&*buf, &b"abcdef"[..len.min(6)]);
            // SAFETY: `gather` writes one byte past the content.
            assert_eq!(unsafe { *buf.ptr.as_ptr().add(buf.len) }, 0);
        }
    }

    #[test]
    fn every_block_is_freed_once() {
        let before = fake_ats::live_blocks();
        let (ptr, len) = TsBuf::copy_from(b"").into_raw();
        assert!(!ptr.is_null());
        assert_eq!(len, 0);
        assert_eq!(fake_ats::live_blocks(), before + 1);
        // SAFETY: the pair just came from `into_raw`.
        drop(unsafe { TsBuf::from_raw(ptr, len) });
        assert_eq!(fake_ats::live_blocks(), before);
        // SAFETY: null is allowed.
        assert!(unsafe { TsBuf::from_raw(std::ptr::null_mut(), 3) }.is_none());
    }
}

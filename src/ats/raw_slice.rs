//! Slices from what C hands out as pointer and length.
//!
//! ATS answers "there is none" with a null pointer and a length of zero, which `slice::from_raw_parts` calls
//! undefined behaviour; this is the one place that makes slices from its pointers.

use std::ffi::{CStr, c_char, c_int};

/// The bytes at `ptr`, or an empty slice if `ptr` is null or `len` is not positive.
///
/// # Safety
/// If `ptr` is not null and `len` is positive, `len` bytes at `ptr` must be readable and stay unchanged for `'a`.
#[must_use]
pub unsafe fn slice_or_empty<'a>(ptr: *const c_char, len: c_int) -> &'a [u8] {
    match usize::try_from(len) {
        // SAFETY: not null, a positive length, and the caller vouches for the bytes.
        Ok(len) if len > 0 && !ptr.is_null() => unsafe { std::slice::from_raw_parts(ptr.cast(), len) },
        _ => &[],
    }
}

/// As [`slice_or_empty`] for the lengths that ATS gives as `int64_t`.
///
/// # Safety
/// As for [`slice_or_empty`].
#[must_use]
pub unsafe fn slice_or_empty_i64<'a>(ptr: *const c_char, len: i64) -> &'a [u8] {
    match usize::try_from(len) {
        // SAFETY: not null, a positive length, and the caller vouches for the bytes.
        Ok(len) if len > 0 && !ptr.is_null() => unsafe { std::slice::from_raw_parts(ptr.cast(), len) },
        _ => &[],
    }
}

/// The bytes of a NUL-terminated string, without the NUL; `None` for null.
///
/// # Safety
/// If `ptr` is not null, it must point to a NUL-terminated string that stays unchanged for `'a`.
#[must_use]
pub unsafe fn c_str<'a>(ptr: *const c_char) -> Option<&'a [u8]> {
    if ptr.is_null() {
        return None;
    }
    // SAFETY: not null, and the caller vouches for the string.
    Some(unsafe { CStr::from_ptr(ptr) }.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_nonpositive_lengths_are_empty() {
        let text = c"abc".as_ptr();
        // SAFETY: null pointers are allowed; `text` has three bytes.
        unsafe {
            assert_eq!(slice_or_empty(std::ptr::null(), 0), b"");
            assert_eq!(slice_or_empty(std::ptr::null(), 7), b"");
            assert_eq!(slice_or_empty(text, 0), b"");
            assert_eq!(slice_or_empty(text, -1), b"");
            assert_eq!(slice_or_empty(text, 3), b"abc");
            assert_eq!(slice_or_empty_i64(std::ptr::null(), 5), b"");
            assert_eq!(slice_or_empty_i64(text, -5), b"");
            assert_eq!(slice_or_empty_i64(text, 2), b"ab");
        }
    }

    #[test]
    fn c_strings() {
        // SAFETY: null is allowed; the literal is NUL-terminated.
        unsafe {
            assert_eq!(c_str(std::ptr::null()), None);
            assert_eq!(c_str(c"x y".as_ptr()), Some(&b"x y"[..]));
        }
    }
}

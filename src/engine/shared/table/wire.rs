//! What crosses the table: slices, sinks, visitors and codes, and no type of Rust's own, whose layout and meaning
//! another build need not share.

use std::any::Any;
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::error::Error;

/// The owner's state, for the owner's functions alone.
pub(super) type State = *const c_void;

/// Bytes that are lent for one call.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Slice {
    at: *const u8,
    len: usize,
}

impl Slice {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Slice { at: bytes.as_ptr(), len: bytes.len() }
    }

    /// # Safety
    /// The slice was lent for a call that lasts at least as long as `'a`.
    pub(super) unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.at.is_null() || self.len == 0 {
            return &[];
        }
        // SAFETY: the caller's promise; `Slice::of` took it from a slice.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }

    /// A vm_id: text, in every build.
    ///
    /// # Safety
    /// As [`Slice::bytes`].
    pub(super) unsafe fn text<'a>(self) -> Result<&'a str, Error> {
        // SAFETY: the caller's promise.
        std::str::from_utf8(unsafe { self.bytes() }).map_err(|_| Error::BadArgument("text"))
    }
}

/// Where a result goes whose size its receiver does not know: called once for each piece, during the call that it
/// is passed to.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Sink {
    put: unsafe extern "C" fn(to: *mut c_void, bytes: Slice),
    to: *mut c_void,
}

impl Sink {
    /// A sink that calls `visit` with each piece, and may be used as long as `visit` lives and nobody else uses it.
    pub(super) fn to<F: FnMut(&[u8])>(visit: &mut Visit<F>) -> Self {
        unsafe extern "C" fn put<F: FnMut(&[u8])>(to: *mut c_void, bytes: Slice) {
            // SAFETY: `to` is the visitor that the sink was made of, which is used by this call alone; the bytes are
            // lent for the call.
            let (visit, bytes) = unsafe { (&mut *to.cast::<Visit<F>>(), bytes.bytes()) };
            visit.run(|visit| visit(bytes));
        }
        Sink { put: put::<F>, to: std::ptr::from_mut(visit).cast() }
    }

    /// Hands over a piece.
    ///
    /// # Safety
    /// The call that the sink was passed to is going on, in this thread.
    pub(super) unsafe fn put(self, bytes: &[u8]) {
        // SAFETY: the caller's promise.
        unsafe { (self.put)(self.to, Slice::of(bytes)) }
    }
}

/// A closure that the other side calls. A panic of its own ends its work, and goes on in [`Visit::finish`], on this
/// side again.
pub(super) struct Visit<F> {
    visit: F,
    panic: Option<Box<dyn Any + Send>>,
}

impl<F> Visit<F> {
    pub(super) fn new(visit: F) -> Self {
        Visit { visit, panic: None }
    }

    /// Its address, for the other side to hand back.
    pub(super) fn address(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    pub(super) fn run(&mut self, call: impl FnOnce(&mut F)) {
        if self.panic.is_none()
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(&mut self.visit)))
        {
            self.panic = Some(panic);
        }
    }

    pub(super) fn finish(self) {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
    }
}

const OK: i32 = 0;
const NOT_FOUND: i32 = 1;
const CAS_MISMATCH: i32 = 2;
const TOO_LARGE: i32 = 3;
const BAD_ARGUMENT: i32 = 4;
const EMPTY: i32 = 5;
const PANICKED: i32 = 6;

/// Runs what the table offers. No panic leaves it: the other side could not unwind.
pub(super) fn guarded(work: impl FnOnce() -> Result<(), Error>) -> i32 {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => OK,
        Ok(Err(error)) => match error {
            Error::NotFound => NOT_FOUND,
            Error::CasMismatch => CAS_MISMATCH,
            Error::TooLarge(_) => TOO_LARGE,
            Error::Empty => EMPTY,
            _ => BAD_ARGUMENT,
        },
        Err(_) => PANICKED,
    }
}

/// What a code says. `bad` and `large` are the texts of the two errors that have one.
///
/// # Panics
/// If the owner did, which has been logged there: it goes on here as in a call within one library.
pub(super) fn outcome(code: i32, bad: &'static str, large: &'static str) -> Result<(), Error> {
    match code {
        OK => Ok(()),
        NOT_FOUND => Err(Error::NotFound),
        CAS_MISMATCH => Err(Error::CasMismatch),
        TOO_LARGE => Err(Error::TooLarge(large)),
        EMPTY => Err(Error::Empty),
        PANICKED => resume_unwind(Box::new("the owner of shared state panicked")),
        // What a later build may add.
        _ => Err(Error::BadArgument(bad)),
    }
}

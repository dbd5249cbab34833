//! Pointers and numbers that belong to the whole process, found by name: how copies of one plugin, which share no statics,
//! meet.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};

use ats_sys::{TS_USER_ARGS_GLB, TSUserArgGet, TSUserArgIndexReserve, TSUserArgSet};

use crate::error::{Result, check};

/// A slot for one pointer in the process (`TSUserArgIndexReserve` with `TS_USER_ARGS_GLB`). ATS has 128 of them for all
/// plugins, and keeps them as long as it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GlobalArg(c_int);

impl GlobalArg {
    /// The slot of this name, reserved if it is not yet: every copy of this plugin gets the same one. While a plugin is
    /// loaded, which ATS does on one thread at a time.
    ///
    /// # Errors
    /// All slots are taken.
    pub fn reserve(name: &CStr, description: &CStr) -> Result<Self> {
        let mut index: c_int = 0;
        // SAFETY: C strings, which ATS copies; the result is ours to write to.
        let code =
            unsafe { TSUserArgIndexReserve(TS_USER_ARGS_GLB, name.as_ptr(), description.as_ptr(), &raw mut index) };
        check(code, "TSUserArgIndexReserve").map(|()| Self(index))
    }

    /// The pointer in the slot, `None` at first (`TSUserArgGet`). Whose it is, is between its setter and its getter.
    #[must_use]
    pub fn get(self) -> Option<NonNull<c_void>> {
        // SAFETY: null stands for the process, and the index is from TSUserArgIndexReserve.
        NonNull::new(unsafe { TSUserArgGet(ptr::null_mut(), self.0) })
    }

    /// Puts a pointer there (`TSUserArgSet`). ATS only keeps it. As for [`Self::reserve`], on one thread at a time.
    pub fn set(self, value: NonNull<c_void>) {
        // SAFETY: null stands for the process, and the index is from TSUserArgIndexReserve.
        unsafe { TSUserArgSet(ptr::null_mut(), self.0, value.as_ptr()) }
    }
}

/// A number that belongs to the whole process, zero at first. Copies find it behind a [`GlobalArg`]; it stays as long as the
/// process does.
#[derive(Debug, Clone, Copy)]
pub struct GlobalNumber(&'static AtomicUsize);

impl GlobalNumber {
    /// The number of this name, made if there is none. As for [`GlobalArg::reserve`], on one thread at a time.
    ///
    /// # Errors
    /// All slots are taken.
    pub fn find_or_create(name: &CStr, description: &CStr) -> Result<Self> {
        let slot = GlobalArg::reserve(name, description)?;
        if let Some(known) = slot.get() {
            // SAFETY: slots of numbers' names are set here alone, to an atomic number that is never freed. Another version of
            // this plugin does the same.
            return Ok(Self(unsafe { known.cast().as_ref() }));
        }
        let number: &'static AtomicUsize = Box::leak(Box::default());
        slot.set(NonNull::from(number).cast());
        Ok(Self(number))
    }

    /// Any thread.
    #[must_use]
    pub fn get(self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Any thread.
    pub fn set(self, value: usize) {
        self.0.store(value, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_for_all_who_know_its_name() {
        let number = GlobalNumber::find_or_create(c"a number", c"").expect("a slot");
        assert_eq!(number.get(), 0);
        number.set(7);
        assert_eq!(GlobalNumber::find_or_create(c"a number", c"").expect("a slot").get(), 7);
        assert_eq!(GlobalNumber::find_or_create(c"another number", c"").expect("a slot").get(), 0);
    }

    #[test]
    fn a_pointer_is_found_by_its_name() {
        let first = GlobalArg::reserve(c"one name", c"").expect("a slot");
        assert_eq!(first.get(), None);
        let mut value = 7u8;
        let pointer = NonNull::from(&mut value).cast();
        first.set(pointer);
        let again = GlobalArg::reserve(c"one name", c"").expect("a slot");
        assert_eq!((again, again.get()), (first, Some(pointer)));
        let other = GlobalArg::reserve(c"another name", c"").expect("a slot");
        assert_eq!(other.get(), None);
    }
}

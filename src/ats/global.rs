//! Pointers that belong to the whole process, found by name: how copies of one plugin, which share no statics, meet.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};

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

#[cfg(test)]
mod tests {
    use super::*;

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

//! One owner for all copies of this library in a process.
//!
//! A server may load another build of the plugin beside the one that runs, and keep both: each has its own statics,
//! its own allocator's view and its own layouts of Rust types. What filters share must be one nevertheless. So the
//! first copy owns it, and every copy, the owner included, reaches it through a [`SharedTable`]: C functions, bytes
//! that are lent for a call, numbers. Nothing of Rust's crosses: no `Vec`, no trait object, no panic.
//!
//! **Unsafe code** of the engine stands in this folder alone. What it relies on is said at [`Published::from_raw`]:
//! a published table and its owner's code stay where they are for the life of the process.
//!
//! **Versions.** `version` says what the fields mean, and changes with their meaning. Fields may be appended, whatever
//! they concern: `size` tells what is there, a newer copy looks before it uses them, an older one never looks.

mod data;
mod metrics;
mod queues;
mod wire;

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr::NonNull;
use std::sync::Arc;

use super::owner::Owner;
use crate::error::Error;
use data::DataTable;
use metrics::MetricTable;
use queues::QueueTable;
use wire::State;

pub use data::SharedData;
pub use metrics::{Histogram, MetricRegistry, MetricValue};
pub use queues::{SharedQueues, Subscription};

/// The meaning of the table's fields.
const VERSION: u32 = 1;

/// What a copy needs to know of a table before it knows anything else. No version may change this part.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    version: u32,
    /// Bytes of the whole table.
    size: u32,
}

/// The functions by which all copies reach what one of them owns.
#[repr(C)]
#[derive(Clone, Copy)]
struct SharedTable {
    head: Head,
    state: State,
    data: DataTable,
    queues: QueueTable,
    metrics: MetricTable,
}

/// A table that another copy of this library published.
#[derive(Debug, Clone, Copy)]
pub struct Published(NonNull<c_void>);

impl Published {
    /// A table by its address, as [`Published::as_raw`] told it.
    ///
    /// # Safety
    /// `address` was told by [`Published::as_raw`], in this or any other build of this library, in this process, and
    /// the code of that copy is never unloaded.
    #[must_use]
    pub const unsafe fn from_raw(address: NonNull<c_void>) -> Self {
        Published(address)
    }

    /// Its address, for other copies to find. The table stays there for the life of the process.
    #[must_use]
    pub const fn as_raw(self) -> NonNull<c_void> {
        self.0
    }

    fn head(self) -> Head {
        // SAFETY: by the promise of `from_raw` a table is there, and every version begins with this part.
        unsafe { self.0.cast::<Head>().read() }
    }
}

/// A copy's access to the shared state.
pub(super) struct Link {
    table: SharedTable,
    /// The state, where this copy owns it: `table.state` points there.
    own: Option<Arc<Owner>>,
}

// SAFETY: functions, and a pointer to an `Owner`, which is `Send` and `Sync` in every version: its functions may be
// called from all threads at once.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

const _: () = {
    const fn is_sync<T: Send + Sync>() {}
    is_sync::<Owner>();
};

impl Link {
    /// A state of one's own, empty.
    pub(super) fn own() -> Self {
        let own = Arc::new(Owner::default());
        let size = u32::try_from(size_of::<SharedTable>()).unwrap_or(0);
        let table = SharedTable {
            head: Head { version: VERSION, size },
            state: Arc::as_ptr(&own).cast(),
            data: DataTable::OF_OWNER,
            queues: QueueTable::OF_OWNER,
            metrics: MetricTable::OF_OWNER,
        };
        Link { table, own: Some(own) }
    }

    /// The state of another copy.
    ///
    /// # Errors
    /// [`Error::Start`] if its table is not one that this build understands.
    pub(super) fn join(published: Published) -> Result<Self, Error> {
        let head = published.head();
        if head.version != VERSION || (head.size as usize) < size_of::<SharedTable>() {
            let (version, size) = (head.version, head.size);
            return Err(Error::Start(format!(
                "the table of shared state has version {version} and {size} bytes, where version {VERSION} and {} bytes \
                 or more are expected",
                size_of::<SharedTable>()
            )));
        }
        // SAFETY: by the promise of `from_raw` a table is there; it has all the fields of this build's, of the same
        // meaning, as has just been checked.
        let table = unsafe { published.0.cast::<SharedTable>().read() };
        Ok(Link { table, own: None })
    }

    /// Has the state, and a table of it, stay for the life of the process. `None` if it is another copy's.
    pub(super) fn publish(&self) -> Option<Published> {
        std::mem::forget(Arc::clone(self.own.as_ref()?));
        Some(Published(NonNull::from(Box::leak(Box::new(self.table))).cast()))
    }

    /// The state, where it is this copy's.
    pub(super) fn owner(&self) -> Option<&Arc<Owner>> {
        self.own.as_ref()
    }
}

/// The state behind a table's pointer.
///
/// # Safety
/// `state` is that of a table made by [`Link::own`] in this very copy, and the call that brought it is going on: the
/// caller's [`Link`] owns the state, or it is published and stays.
unsafe fn owner<'a>(state: State) -> &'a Owner {
    // SAFETY: the caller's promise.
    unsafe { &*state.cast::<Owner>() }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;

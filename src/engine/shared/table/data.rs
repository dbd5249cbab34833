//! Shared data across the table.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use super::wire::{Sink, Slice, State, Visit, guarded, outcome};
use super::{Link, owner};
use crate::error::Error;
use crate::shared::owner::{DataStats, NamespaceLimits};

/// A time to live that never ends.
const FOR_GOOD: u64 = u64::MAX;

/// [`DataStats`].
#[repr(C)]
struct Stats {
    entries: u64,
    bytes: u64,
    evicted: u64,
    expired: u64,
}

type VisitNamespace = unsafe extern "C" fn(to: *mut c_void, vm_id: Slice, stats: *const Stats);

/// The part of the table that is shared data. Times to live are in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct DataTable {
    get: unsafe extern "C" fn(State, vm_id: Slice, key: Slice, value: Sink, version: *mut u32) -> i32,
    set: unsafe extern "C" fn(State, vm_id: Slice, key: Slice, value: Slice, cas: u32, ttl: u64) -> i32,
    delete: unsafe extern "C" fn(State, vm_id: Slice, key: Slice, cas: u32) -> i32,
    increment: unsafe extern "C" fn(State, vm_id: Slice, key: Slice, delta: i64, ttl: u64, sum: *mut i64) -> i32,
    keys: unsafe extern "C" fn(State, vm_id: Slice, prefix: Slice, max: u64, keys: Sink) -> i32,
    configure: unsafe extern "C" fn(State, vm_id: Slice, bytes: u64, entries: u64) -> i32,
    each: unsafe extern "C" fn(State, visit: VisitNamespace, to: *mut c_void) -> i32,
}

impl DataTable {
    /// The functions of a copy that owns the data.
    pub(super) const OF_OWNER: Self = DataTable { get, set, delete, increment, keys, configure, each };
}

// The owner's functions. SAFETY, for all of them: `state` is that of the table which they were called by; slices,
// sinks and places for results are lent for the call.

unsafe extern "C" fn get(state: State, vm_id: Slice, key: Slice, value: Sink, version: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, key) = unsafe { (owner(state), vm_id.text()?, key.bytes()) };
        // SAFETY: as above.
        let found = owner.data.get(vm_id, key, |bytes| unsafe { value.put(bytes) }).ok_or_else(|| Error::NotFound)?;
        // SAFETY: as above.
        unsafe { version.write(found) };
        Ok(())
    })
}

unsafe extern "C" fn set(state: State, vm_id: Slice, key: Slice, value: Slice, cas: u32, ttl: u64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, key, value) = unsafe { (owner(state), vm_id.text()?, key.bytes(), value.bytes()) };
        owner.data.set(vm_id, key, value, cas, from_wire(ttl))
    })
}

unsafe extern "C" fn delete(state: State, vm_id: Slice, key: Slice, cas: u32) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, key) = unsafe { (owner(state), vm_id.text()?, key.bytes()) };
        owner.data.delete(vm_id, key, cas)
    })
}

unsafe extern "C" fn increment(state: State, vm_id: Slice, key: Slice, delta: i64, ttl: u64, sum: *mut i64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, key) = unsafe { (owner(state), vm_id.text()?, key.bytes()) };
        let new = owner.data.increment(vm_id, key, delta, from_wire(ttl))?;
        // SAFETY: as above.
        unsafe { sum.write(new) };
        Ok(())
    })
}

unsafe extern "C" fn keys(state: State, vm_id: Slice, prefix: Slice, max: u64, keys: Sink) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id, prefix) = unsafe { (owner(state), vm_id.text()?, prefix.bytes()) };
        for key in owner.data.keys_with_prefix(vm_id, prefix, to_usize(max)) {
            // SAFETY: as above.
            unsafe { keys.put(&key) };
        }
        Ok(())
    })
}

unsafe extern "C" fn configure(state: State, vm_id: Slice, bytes: u64, entries: u64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, vm_id) = unsafe { (owner(state), vm_id.text()?) };
        owner.data.configure(vm_id, NamespaceLimits { bytes: to_usize(bytes), entries: to_usize(entries) });
        Ok(())
    })
}

unsafe extern "C" fn each(state: State, visit: VisitNamespace, to: *mut c_void) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        unsafe { owner(state) }.data.for_each(|vm_id, stats| {
            let DataStats { entries, bytes, evicted, expired } = stats;
            let stats = Stats { entries: entries as u64, bytes: bytes as u64, evicted, expired };
            // SAFETY: as above.
            unsafe { visit(to, Slice::of(vm_id.as_bytes()), &raw const stats) };
        });
        Ok(())
    })
}

fn from_wire(ttl: u64) -> Option<Duration> {
    (ttl != FOR_GOOD).then(|| Duration::from_nanos(ttl))
}

fn to_wire(ttl: Option<Duration>) -> u64 {
    ttl.map_or(FOR_GOOD, |ttl| u64::try_from(ttl.as_nanos()).unwrap_or(FOR_GOOD))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The shared data of the process, by vm_id. Any thread.
pub struct SharedData(pub(in crate::shared) Arc<Link>);

impl std::fmt::Debug for SharedData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedData").finish_non_exhaustive()
    }
}

const NO_COUNTER: &str = "the value is no counter";
const VALUE: &str = "shared data value";

// SAFETY, for all of the calls below: the table is one that `Link` made or checked; its state lives as long as the
// link, or for the life of the process; what is lent outlives the call.
impl SharedData {
    /// Gives a namespace other ceilings than [`NamespaceLimits::default`]. Where they are lower, what is beyond them
    /// has left when this returns: the oldest first, counted as evicted.
    pub fn configure(&self, vm_id: &str, limits: NamespaceLimits) {
        let table = &self.0.table;
        let (vm_id, bytes, entries) = (Slice::of(vm_id.as_bytes()), limits.bytes as u64, limits.entries as u64);
        // SAFETY: see above.
        let code = unsafe { (table.data.configure)(table.state, vm_id, bytes, entries) };
        // It takes any limits and any text.
        let _ = outcome(code, "vm_id", "vm_id");
    }

    /// Appends the value of `key` to `out` and tells its version, which is never zero. `None` if there is none.
    pub fn get(&self, vm_id: &str, key: &[u8], out: &mut Vec<u8>) -> Option<u32> {
        let table = &self.0.table;
        let mut version = 0;
        let mut value = Visit::new(|bytes: &[u8]| out.extend_from_slice(bytes));
        let (vm_id, key, sink) = (Slice::of(vm_id.as_bytes()), Slice::of(key), Sink::to(&mut value));
        // SAFETY: see above.
        let code = unsafe { (table.data.get)(table.state, vm_id, key, sink, ptr::from_mut(&mut version)) };
        value.finish();
        outcome(code, "key", "key").ok().map(|()| version)
    }

    /// [`SharedData::set_with_ttl`], for good.
    ///
    /// # Errors
    /// As there.
    pub fn set(&self, vm_id: &str, key: &[u8], value: &[u8], cas: u32) -> Result<(), Error> {
        self.set_with_ttl(vm_id, key, value, cas, None)
    }

    /// Sets `key`, if its version is `cas`. Zero sets it whatever its version, and a key that is not there is set
    /// whatever `cas` is, both as in cpp-host. An empty value is a value. `ttl` replaces an earlier one; `None` is
    /// for good.
    ///
    /// # Errors
    /// [`Error::CasMismatch`] if the version is another one. [`Error::TooLarge`] if key and value exceed the
    /// namespace's ceiling by themselves: an older value is gone then too, as if this one had been stored and
    /// evicted at once.
    pub fn set_with_ttl(
        &self,
        vm_id: &str,
        key: &[u8],
        value: &[u8],
        cas: u32,
        ttl: Option<Duration>,
    ) -> Result<(), Error> {
        let table = &self.0.table;
        let (vm_id, key, value) = (Slice::of(vm_id.as_bytes()), Slice::of(key), Slice::of(value));
        // SAFETY: see above.
        let code = unsafe { (table.data.set)(table.state, vm_id, key, value, cas, to_wire(ttl)) };
        outcome(code, "value", VALUE)
    }

    /// Removes `key`, if its version is `cas` or `cas` is zero.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such key; [`Error::CasMismatch`] if its version is another one.
    pub fn delete(&self, vm_id: &str, key: &[u8], cas: u32) -> Result<(), Error> {
        let table = &self.0.table;
        // SAFETY: see above.
        let code = unsafe { (table.data.delete)(table.state, Slice::of(vm_id.as_bytes()), Slice::of(key), cas) };
        outcome(code, "key", "key")
    }

    /// Adds `delta` to the number that `key` holds (eight bytes, little endian; zero if it is not there), wrapping
    /// around, and tells the sum. `ttl` applies to a key that is new; one that is there keeps its own.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if the value is no such number; [`Error::TooLarge`] as in [`SharedData::set`].
    pub fn increment(&self, vm_id: &str, key: &[u8], delta: i64, ttl: Option<Duration>) -> Result<i64, Error> {
        let table = &self.0.table;
        let mut sum = 0;
        let (vm_id, key) = (Slice::of(vm_id.as_bytes()), Slice::of(key));
        // SAFETY: see above.
        let code =
            unsafe { (table.data.increment)(table.state, vm_id, key, delta, to_wire(ttl), ptr::from_mut(&mut sum)) };
        outcome(code, NO_COUNTER, VALUE).map(|()| sum)
    }

    /// The first `max` keys, in their order, of those that begin with `prefix`. Looks at every key of the namespace:
    /// for start-up and administration, not for every request.
    #[must_use]
    pub fn keys_with_prefix(&self, vm_id: &str, prefix: &[u8], max: usize) -> Vec<Box<[u8]>> {
        let table = &self.0.table;
        let mut found = Vec::new();
        let mut keys = Visit::new(|key: &[u8]| found.push(key.into()));
        let (vm_id, prefix, sink) = (Slice::of(vm_id.as_bytes()), Slice::of(prefix), Sink::to(&mut keys));
        // SAFETY: see above.
        let code = unsafe { (table.data.keys)(table.state, vm_id, prefix, max as u64, sink) };
        keys.finish();
        // It takes any prefix and any text.
        let _ = outcome(code, "prefix", "prefix");
        found
    }

    /// Shows the size and losses of every namespace.
    pub fn for_each(&self, visit: impl FnMut(&str, DataStats)) {
        unsafe extern "C" fn show<F: FnMut(&str, DataStats)>(to: *mut c_void, vm_id: Slice, stats: *const Stats) {
            // SAFETY: `to` is the visitor below, which is used by this call alone; the others are lent for the call.
            let (visit, vm_id, stats) = unsafe { (&mut *to.cast::<Visit<F>>(), vm_id.text(), &*stats) };
            let &Stats { entries, bytes, evicted, expired } = stats;
            let stats = DataStats { entries: to_usize(entries), bytes: to_usize(bytes), evicted, expired };
            visit.run(|visit| visit(vm_id.unwrap_or_default(), stats));
        }
        fn with<F: FnMut(&str, DataStats)>(link: &Link, visit: F) {
            let mut visit = Visit::new(visit);
            // SAFETY: see above.
            let code = unsafe { (link.table.data.each)(link.table.state, show::<F>, visit.address()) };
            visit.finish();
            // Showing cannot fail.
            let _ = outcome(code, "visitor", "visitor");
        }
        with(&self.0, visit);
    }
}

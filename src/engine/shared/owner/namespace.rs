//! The shared data of one vm_id: compare-and-swap, ceilings and expiry.
//!
//! A namespace has 64 shards, each under a lock of its own that is held for one lookup or one write. Its
//! ceilings are exact: room is reserved in the namespace's totals before anything is stored, and what is charged
//! covers the memory that is really taken. Where there is no room the entries whose last write is longest ago
//! leave, whichever shard they are in; in namespaces of more than some 8,000 entries their order is exact to
//! about 1.5 % of them, because the age of a write is counted in generations of up to 4,096 writes, which keeps
//! the threads from contending for one counter.
//!
//! What has expired is absent at once. It is freed when somebody asks for it, when it is the oldest and room is
//! needed, or by [`Namespace::sweep`], whichever is first; each way it counts as expired.

use std::collections::BinaryHeap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use parking_lot::{Mutex, MutexGuard};

use super::shard::{OVERHEAD, Shard};
use crate::error::Error;

const SHARDS: usize = 64;

/// So many calls of [`Namespace::sweep`] look at each shard once.
const SWEEPS: usize = 16;

/// The ceilings of one namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NamespaceLimits {
    /// Bytes of memory: keys, values, and 144 bytes an entry for what holds them.
    pub bytes: usize,
    /// Entries.
    pub entries: usize,
}

impl Default for NamespaceLimits {
    /// 64 MiB, 1 Mi entries.
    fn default() -> Self {
        NamespaceLimits { bytes: 64 << 20, entries: 1 << 20 }
    }
}

/// A namespace's size and losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataStats {
    /// Entries now, those included that have expired and are not freed yet.
    pub entries: usize,
    /// Bytes charged for them now.
    pub bytes: usize,
    /// Entries that left to make room, since the start.
    pub evicted: u64,
    /// Entries that were found expired, since the start.
    pub expired: u64,
}

/// The shared data of one vm_id.
pub(super) struct Namespace {
    max_bytes: AtomicUsize,
    max_entries: AtomicUsize,
    /// Keyed at random: keys come from clients.
    hasher: RandomState,
    started: Instant,
    /// What is reserved, of which a write in progress may not have stored its part yet.
    bytes: AtomicUsize,
    entries: AtomicUsize,
    /// The age of writes. A shard advances it once in `writes_a_generation` writes.
    generation: AtomicU64,
    writes_a_generation: AtomicU32,
    /// The generation of each shard's oldest entry, side by side for the search; written under the shard's lock.
    oldest: [AtomicU64; SHARDS],
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    evicted: AtomicU64,
    expired: AtomicU64,
    sweeps: AtomicUsize,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Namespace")
            .field("limits", &self.limits())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

impl Namespace {
    /// An empty namespace.
    pub(super) fn new(limits: NamespaceLimits) -> Self {
        let namespace = Namespace {
            max_bytes: AtomicUsize::new(0),
            max_entries: AtomicUsize::new(0),
            hasher: RandomState::new(),
            started: Instant::now(),
            bytes: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            writes_a_generation: AtomicU32::new(1),
            oldest: std::array::from_fn(|_| AtomicU64::new(u64::MAX)),
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            evicted: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            sweeps: AtomicUsize::new(0),
        };
        namespace.configure(limits);
        namespace
    }

    /// Gives it other ceilings. Where they are lower, what is beyond them has left when this returns, as it leaves
    /// to make room: the oldest first.
    pub(super) fn configure(&self, limits: NamespaceLimits) {
        // Entries are indexed with 32 bits, and no memory holds as many.
        let entries = limits.entries.min(1 << 31);
        let expected = entries.min(limits.bytes / 256);
        let writes = u32::try_from((expected / (SHARDS * 64)).clamp(1, 64)).unwrap_or(64);
        self.writes_a_generation.store(writes, Ordering::Relaxed);
        self.max_bytes.store(limits.bytes, Ordering::Relaxed);
        self.max_entries.store(entries, Ordering::Relaxed);
        while self.bytes.load(Ordering::Relaxed) > limits.bytes || self.entries.load(Ordering::Relaxed) > entries {
            if !self.evict() {
                // What is left belongs to writes in progress, which wait for nothing.
                std::thread::yield_now();
            }
        }
    }

    fn limits(&self) -> NamespaceLimits {
        let (bytes, entries) = (self.max_bytes.load(Ordering::Relaxed), self.max_entries.load(Ordering::Relaxed));
        NamespaceLimits { bytes, entries }
    }

    /// Frees what has expired in the shards whose turn it is: in so many calls, everywhere. Shards without any are
    /// left alone.
    pub(super) fn sweep(&self) {
        let turn = self.sweeps.fetch_add(1, Ordering::Relaxed) % SWEEPS;
        for (at, shard) in self.shards.iter().enumerate().skip(turn).step_by(SWEEPS) {
            let now = self.now();
            let mut shard = shard.lock();
            if shard.soonest() > now {
                continue;
            }
            let (bytes, entries) = shard.remove_expired(now);
            self.release(bytes, entries);
            self.expired.fetch_add(entries as u64, Ordering::Relaxed);
            self.publish(&shard, at);
        }
    }

    /// Shows the value of `key`, with its shard locked, and tells its version, which is never zero. `None` if there
    /// is none.
    pub(super) fn get(&self, key: &[u8], show: impl FnOnce(&[u8])) -> Option<u32> {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.lock(hash);
        let index = self.find_live(&mut shard, hash, key)?;
        let entry = shard.entry(index);
        show(entry.value());
        Some(entry.version)
    }

    /// Sets `key`, if its version is `cas`. Zero sets it whatever its version, and a key that is not there is set
    /// whatever `cas` is, both as in cpp-host. An empty value is a value. `ttl` replaces an earlier one; `None` is
    /// for good.
    ///
    /// # Errors
    /// [`Error::CasMismatch`] if the version is another one. [`Error::TooLarge`] if key and value exceed the
    /// namespace's ceiling by themselves: an older value is gone then too, as if this one had been stored and
    /// evicted at once.
    pub(super) fn set(&self, key: &[u8], value: &[u8], cas: u32, ttl: Option<Duration>) -> Result<(), Error> {
        let expires = self.expires(ttl);
        self.write(key, value.len(), |old| match old {
            Some(old) if cas != 0 && cas != old.version => Err(Error::CasMismatch),
            _ => Ok((value, expires, ())),
        })
    }

    /// Adds `delta` to the number that `key` holds (eight bytes, little endian; zero if it is not there), wrapping
    /// around, and tells the sum. `ttl` applies to a key that is new; one that is there keeps its own.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if the value is no such number; [`Error::TooLarge`] as in [`Namespace::set`].
    pub(super) fn increment(&self, key: &[u8], delta: i64, ttl: Option<Duration>) -> Result<i64, Error> {
        let expires = self.expires(ttl);
        self.write(key, 8, |old| {
            let (sum, expires) = match old {
                None => (delta, expires),
                Some(old) => {
                    let bytes = old.value.try_into().map_err(|_| Error::BadArgument("the value is no counter"))?;
                    (i64::from_le_bytes(bytes).wrapping_add(delta), old.expires)
                }
            };
            Ok((sum.to_le_bytes(), expires, sum))
        })
    }

    /// Removes `key`, if its version is `cas` or `cas` is zero.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such key; [`Error::CasMismatch`] if its version is another one.
    pub(super) fn delete(&self, key: &[u8], cas: u32) -> Result<(), Error> {
        let hash = self.hasher.hash_one(key);
        let mut shard = self.lock(hash);
        let index = self.find_live(&mut shard, hash, key).ok_or(Error::NotFound)?;
        if cas != 0 && cas != shard.entry(index).version {
            return Err(Error::CasMismatch);
        }
        self.remove(&mut shard, hash, index);
        Ok(())
    }

    /// The first `max` keys, in their order, of those that begin with `prefix`. Looks at every key of the namespace, one shard after the
    /// other: for start-up and administration, not for every request.
    pub(super) fn keys_with_prefix(&self, prefix: &[u8], max: usize) -> Vec<Box<[u8]>> {
        let now = self.now();
        let mut keys: BinaryHeap<Box<[u8]>> = BinaryHeap::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let live = shard.entries().iter().filter(|entry| entry.expires == 0 || entry.expires > now);
            for entry in live.filter(|entry| entry.key().starts_with(prefix)) {
                if keys.len() < max {
                    keys.push(entry.key().into());
                } else if let Some(mut last) = keys.peek_mut()
                    && entry.key() < &**last
                {
                    *last = entry.key().into();
                }
            }
        }
        keys.into_sorted_vec()
    }

    /// Size and losses.
    pub(super) fn stats(&self) -> DataStats {
        DataStats {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            evicted: self.evicted.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
        }
    }

    /// Stores what `decide` makes of the old value, with its expiry. `value_len` is the length of what it makes;
    /// it may be asked twice, because room is made with the shard unlocked.
    fn write<V: AsRef<[u8]>, R>(
        &self,
        key: &[u8],
        value_len: usize,
        decide: impl Fn(Option<Old<'_>>) -> Result<(V, u64, R), Error>,
    ) -> Result<R, Error> {
        let hash = self.hasher.hash_one(key);
        let cost = OVERHEAD + key.len() + value_len;
        let mut room = Room { namespace: self, bytes: 0, entries: 0 };
        loop {
            // Asked anew each time: ceilings change.
            let fits = self.fits(cost) && u32::try_from(key.len()).is_ok();
            let mut shard = self.lock(hash);
            let found = self.find_live(&mut shard, hash, key);
            let entry = found.map(|index| shard.entry(index));
            let old = entry.map(|entry| Old { value: entry.value(), version: entry.version, expires: entry.expires });
            let (value, expires, result) = decide(old)?;
            let freed = entry.map_or(0, |entry| entry.cost());
            if !fits {
                if let Some(index) = found {
                    self.remove(&mut shard, hash, index);
                }
                self.evicted.fetch_add(1, Ordering::Relaxed);
                return Err(Error::TooLarge("shared data value"));
            }
            let new = usize::from(found.is_none());
            if !room.reserve(cost.saturating_sub(freed), new) {
                drop(shard);
                // All of it, not the difference: the old value may be what leaves.
                room.make(cost, 1);
                continue;
            }
            let stamp = self.stamp(&mut shard);
            match found {
                Some(index) => shard.overwrite(index, value.as_ref(), expires, stamp),
                None => shard.insert(hash, key, value.as_ref(), expires, stamp),
            }
            // What was reserved and what the old value held, less what is stored, goes back.
            room.bytes = room.bytes + freed - cost;
            room.entries -= new;
            self.publish(&shard, shard_of(hash));
            return Ok(result);
        }
    }

    fn lock(&self, hash: u64) -> MutexGuard<'_, Shard> {
        self.shards[shard_of(hash)].lock()
    }

    /// The entry of `key`. One that has expired is removed instead.
    fn find_live(&self, shard: &mut Shard, hash: u64, key: &[u8]) -> Option<u32> {
        let index = shard.find(hash, key)?;
        let expires = shard.entry(index).expires;
        if expires == 0 || expires > self.now() {
            return Some(index);
        }
        self.expired.fetch_add(1, Ordering::Relaxed);
        self.remove(shard, hash, index);
        None
    }

    fn remove(&self, shard: &mut Shard, hash: u64, index: u32) {
        let cost = shard.remove(index);
        self.release(cost, 1);
        self.publish(shard, shard_of(hash));
    }

    /// Whether so much has a place, if everything else goes.
    fn fits(&self, cost: usize) -> bool {
        let limits = self.limits();
        cost <= limits.bytes && limits.entries > 0
    }

    /// Removes the entry whose last write is longest ago. False if no shard has any.
    fn evict(&self) -> bool {
        let stamps = self.oldest.iter().map(|stamp| stamp.load(Ordering::Relaxed));
        let Some((at, stamp)) = stamps.enumerate().min_by_key(|&(_, stamp)| stamp) else { return false };
        if stamp == u64::MAX {
            return false;
        }
        let mut shard = self.shards[at].lock();
        // Another thread may have emptied it meanwhile; then the next search sees that.
        if let Some(index) = shard.oldest() {
            let expires = shard.entry(index).expires;
            let lost = if expires != 0 && expires <= self.now() { &self.expired } else { &self.evicted };
            let cost = shard.remove(index);
            self.release(cost, 1);
            self.publish(&shard, at);
            lost.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// The age of a write that happens now, in this shard.
    fn stamp(&self, shard: &mut Shard) -> u64 {
        shard.writes += 1;
        if shard.writes >= self.writes_a_generation.load(Ordering::Relaxed) {
            shard.writes = 0;
            self.generation.fetch_add(1, Ordering::Relaxed)
        } else {
            self.generation.load(Ordering::Relaxed)
        }
    }

    /// Shows the age of a shard's oldest entry to those who search for one to evict.
    fn publish(&self, shard: &Shard, at: usize) {
        let shown = &self.oldest[at];
        let stamp = shard.oldest_stamp();
        // Eight of these share a cache line: not written unless it changes.
        if shown.load(Ordering::Relaxed) != stamp {
            shown.store(stamp, Ordering::Relaxed);
        }
    }

    fn release(&self, bytes: usize, entries: usize) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        if entries > 0 {
            self.entries.fetch_sub(entries, Ordering::Relaxed);
        }
    }

    /// Nanoseconds on the clock of expiries.
    fn now(&self) -> u64 {
        nanoseconds(self.started.elapsed())
    }

    fn expires(&self, ttl: Option<Duration>) -> u64 {
        // Never zero, which would be for good.
        ttl.map_or(0, |ttl| self.now().saturating_add(nanoseconds(ttl)).max(1))
    }
}

/// What a key holds before a write.
struct Old<'a> {
    value: &'a [u8],
    version: u32,
    expires: u64,
}

/// Room reserved in a namespace and not used yet; given back when dropped.
struct Room<'a> {
    namespace: &'a Namespace,
    bytes: usize,
    entries: usize,
}

impl Room<'_> {
    /// Sees to it that at least so much is reserved. False, with nothing changed, if there is no room.
    fn reserve(&mut self, bytes: usize, entries: usize) -> bool {
        let Namespace { bytes: bytes_used, entries: entries_used, .. } = self.namespace;
        let limits = self.namespace.limits();
        let (more_bytes, more_entries) = (bytes.saturating_sub(self.bytes), entries.saturating_sub(self.entries));
        if !add_within(entries_used, more_entries, limits.entries) {
            return false;
        }
        if !add_within(bytes_used, more_bytes, limits.bytes) {
            self.namespace.release(0, more_entries);
            return false;
        }
        self.bytes += more_bytes;
        self.entries += more_entries;
        true
    }

    /// Reserves so much, evicting until it is there, or until the ceilings are such that it never will be.
    fn make(&mut self, bytes: usize, entries: usize) {
        while self.namespace.fits(bytes) && !self.reserve(bytes, entries) {
            if !self.namespace.evict() {
                // All the room there is belongs to writes in progress, which wait for nothing.
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.namespace.release(self.bytes, self.entries);
    }
}

fn add_within(total: &AtomicUsize, more: usize, limit: usize) -> bool {
    let add = |total: usize| total.checked_add(more).filter(|&sum| sum <= limit);
    more == 0 || total.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

/// From bits that `hashbrown` uses neither for its buckets (the lowest) nor for its tags (the highest).
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % SHARDS
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "namespace_tests.rs"]
mod tests;

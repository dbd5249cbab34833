//! One shard of a namespace: entries by key, and by the age of their last write. Knows no locks and no ceilings.
//!
//! Entries lie side by side in one vector, chained by index from the oldest to the newest; the hash table holds
//! indices alone, which is why it is `hashbrown::HashTable` and not `std::collections::HashMap`, whose keys would
//! have to be kept twice for the eviction to find them. Removing moves the last entry into the gap, so both
//! structures shrink as well as grow and [`OVERHEAD`] holds at any time.

use hashbrown::HashTable;

/// No entry.
const NONE: u32 = u32::MAX;

/// What an entry costs in memory beyond its key and value, at worst: 56 bytes in a vector that is at most half
/// as long again as it is full, 5 bytes a bucket in a table that is at least a quarter full, and what an
/// allocator adds to one allocation.
pub(super) const OVERHEAD: usize = 144;

/// One key with its value.
pub(super) struct Entry {
    /// Key and value in one allocation.
    data: Box<[u8]>,
    hash: u64,
    /// When it was written, in the namespace's generations.
    stamp: u64,
    /// When it expires, on the namespace's clock; zero is never.
    pub(super) expires: u64,
    key_len: u32,
    /// For compare-and-swap; never zero.
    pub(super) version: u32,
    older: u32,
    newer: u32,
}

impl Entry {
    pub(super) fn key(&self) -> &[u8] {
        &self.data[..self.key_len as usize]
    }

    pub(super) fn value(&self) -> &[u8] {
        &self.data[self.key_len as usize..]
    }

    /// What it is charged with.
    pub(super) fn cost(&self) -> usize {
        OVERHEAD + self.data.len()
    }
}

/// See the module's documentation.
pub(super) struct Shard {
    entries: Vec<Entry>,
    index: HashTable<u32>,
    oldest: u32,
    newest: u32,
    /// Nothing here expires before.
    soonest: u64,
    /// The version given last. One sequence a shard, not a key: a key that was evicted and came back must not
    /// meet a version that somebody still holds.
    version: u32,
    /// Writes since the namespace's generation was advanced from here.
    pub(super) writes: u32,
}

impl Default for Shard {
    fn default() -> Self {
        Shard {
            entries: Vec::new(),
            index: HashTable::new(),
            oldest: NONE,
            newest: NONE,
            soonest: u64::MAX,
            version: 0,
            writes: 0,
        }
    }
}

impl Shard {
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(hash, |&index| self.entries[index as usize].key() == key).copied()
    }

    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry whose last write is longest ago.
    pub(super) fn oldest(&self) -> Option<u32> {
        (self.oldest != NONE).then_some(self.oldest)
    }

    /// Its stamp; the greatest number if there is no entry.
    pub(super) fn oldest_stamp(&self) -> u64 {
        self.oldest().map_or(u64::MAX, |index| self.entry(index).stamp)
    }

    /// Nothing expires before this; the greatest number if nothing expires at all.
    pub(super) fn soonest(&self) -> u64 {
        self.soonest
    }

    /// Adds a key that is not there. `key` must be shorter than 4 GiB.
    pub(super) fn insert(&mut self, hash: u64, key: &[u8], value: &[u8], expires: u64, stamp: u64) {
        if self.entries.len() == self.entries.capacity() {
            // A quarter at a time, not double: the ceiling is on memory that is really taken.
            self.entries.reserve_exact((self.entries.len() / 4).max(4));
        }
        let index = to_u32(self.entries.len());
        let version = self.next_version();
        let key_len = to_u32(key.len());
        let data = join(key, value);
        self.expires_at(expires);
        self.entries.push(Entry { data, hash, stamp, expires, key_len, version, older: NONE, newer: NONE });
        let entries = &self.entries;
        self.index.insert_unique(hash, index, |&index| entries[index as usize].hash);
        self.append(index);
    }

    /// Gives a key another value; it is the newest now.
    pub(super) fn overwrite(&mut self, index: u32, value: &[u8], expires: u64, stamp: u64) {
        self.unchain(index);
        self.expires_at(expires);
        let version = self.next_version();
        let entry = &mut self.entries[index as usize];
        let key_len = entry.key_len as usize;
        if entry.data.len() == key_len + value.len() {
            // Counters and other values of one size: nothing is allocated.
            entry.data[key_len..].copy_from_slice(value);
        } else {
            entry.data = join(&entry.data[..key_len], value);
        }
        entry.version = version;
        entry.expires = expires;
        entry.stamp = stamp;
        self.append(index);
    }

    /// Removes an entry and tells what it was charged with. Indices are void afterwards.
    pub(super) fn remove(&mut self, index: u32) -> usize {
        self.unchain(index);
        let hash = self.entry(index).hash;
        if let Ok(found) = self.index.find_entry(hash, |&candidate| candidate == index) {
            found.remove();
        }
        let last = to_u32(self.entries.len() - 1);
        let removed = self.entries.swap_remove(index as usize);
        if index != last {
            self.moved(last, index);
        }
        self.shrink();
        removed.cost()
    }

    /// Removes all that expire at `now` or earlier, and tells what they were charged with and how many they were.
    /// Indices are void afterwards.
    pub(super) fn remove_expired(&mut self, now: u64) -> (usize, usize) {
        let (mut bytes, mut entries) = (0, 0);
        self.soonest = u64::MAX;
        // From the end: what fills a gap has been looked at.
        for index in (0..self.entries.len()).rev() {
            let expires = self.entries[index].expires;
            if expires != 0 && expires <= now {
                bytes += self.remove(to_u32(index));
                entries += 1;
            } else {
                self.expires_at(expires);
            }
        }
        (bytes, entries)
    }

    /// The entry at `from` is at `to` now: whoever names it must learn of it.
    fn moved(&mut self, from: u32, to: u32) {
        let Entry { hash, older, newer, .. } = self.entries[to as usize];
        if let Some(slot) = self.index.find_mut(hash, |&candidate| candidate == from) {
            *slot = to;
        }
        *self.newer_of(older) = to;
        *self.older_of(newer) = to;
    }

    /// Takes an entry out of the chain.
    fn unchain(&mut self, index: u32) {
        let Entry { older, newer, .. } = self.entries[index as usize];
        *self.newer_of(older) = newer;
        *self.older_of(newer) = older;
    }

    /// Makes an unchained entry the newest.
    fn append(&mut self, index: u32) {
        let newest = self.newest;
        self.entries[index as usize].older = newest;
        self.entries[index as usize].newer = NONE;
        *self.newer_of(newest) = index;
        self.newest = index;
    }

    /// Where the chain names what follows `index`; before the first entry that is the chain's own beginning.
    fn newer_of(&mut self, index: u32) -> &mut u32 {
        if index == NONE { &mut self.oldest } else { &mut self.entries[index as usize].newer }
    }

    /// Where the chain names what precedes `index`; behind the last entry that is the chain's own end.
    fn older_of(&mut self, index: u32) -> &mut u32 {
        if index == NONE { &mut self.newest } else { &mut self.entries[index as usize].older }
    }

    /// Takes an expiry into account; zero is none.
    fn expires_at(&mut self, expires: u64) {
        if expires != 0 {
            self.soonest = self.soonest.min(expires);
        }
    }

    fn next_version(&mut self) -> u32 {
        self.version = self.version.checked_add(1).unwrap_or(1);
        self.version
    }

    fn shrink(&mut self) {
        let len = self.entries.len();
        if self.entries.capacity() > len + len / 2 + 16 {
            self.entries.shrink_to(len + len / 4);
        }
        if self.index.capacity() > 4 * len + 16 {
            let entries = &self.entries;
            self.index.shrink_to(2 * len, |&index| entries[index as usize].hash);
        }
    }
}

fn join(key: &[u8], value: &[u8]) -> Box<[u8]> {
    let mut data = Vec::with_capacity(key.len() + value.len());
    data.extend_from_slice(key);
    data.extend_from_slice(value);
    data.into_boxed_slice()
}

/// Lengths here are bounded by ceilings far below 4 Gi entries and by keys shorter than 4 GiB.
fn to_u32(len: usize) -> u32 {
    u32::try_from(len).expect("bounded by the namespace's ceilings")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Few hashes for many keys, so that collisions are the rule.
    fn hash(key: u8) -> u64 {
        u64::from(key % 5).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }

    fn keys_by_age(shard: &Shard) -> Vec<u8> {
        let mut keys = Vec::new();
        let mut at = shard.oldest;
        while at != NONE {
            keys.push(shard.entry(at).key()[0]);
            at = shard.entry(at).newer;
        }
        keys
    }

    #[test]
    fn versions_skip_zero() {
        let mut shard = Shard { version: u32::MAX - 1, ..Shard::default() };
        shard.insert(1, b"a", b"", 0, 0);
        assert_eq!(shard.entry(0).version, u32::MAX);
        shard.overwrite(0, b"x", 0, 0);
        assert_eq!(shard.entry(0).version, 1);
    }

    #[test]
    fn an_emptied_shard_gives_its_memory_back() {
        let mut shard = Shard::default();
        for n in 0..10_000u64 {
            shard.insert(n.wrapping_mul(0x9E37_79B9_7F4A_7C15), &n.to_le_bytes(), b"", 0, n);
            assert!(shard.entries.capacity() <= shard.entries.len() * 3 / 2 + 16);
        }
        while let Some(index) = shard.oldest() {
            shard.remove(index);
            let len = shard.entries.len();
            assert!(shard.entries.capacity() <= len * 3 / 2 + 16);
            assert!(shard.index.capacity() <= 4 * len + 16);
        }
    }

    proptest! {
        /// Against a map and a list that do the obvious.
        #[test]
        fn behaves_like_its_model(operations in proptest::collection::vec((0..3u8, 0..20u8, 0..9usize), 1..200)) {
            let mut shard = Shard::default();
            let mut values: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
            let mut ages: Vec<u8> = Vec::new();
            for (step, (operation, key, len)) in operations.into_iter().enumerate() {
                let value = vec![key; len];
                let found = shard.find(hash(key), &[key]);
                prop_assert_eq!(found.is_some(), values.contains_key(&key));
                match (operation, found) {
                    (0 | 1, None) => shard.insert(hash(key), &[key], &value, 0, step as u64),
                    (0 | 1, Some(index)) => shard.overwrite(index, &value, 0, step as u64),
                    (_, None) => continue,
                    (_, Some(index)) => {
                        let cost = shard.remove(index);
                        prop_assert_eq!(cost, OVERHEAD + 1 + values[&key].len());
                    }
                }
                ages.retain(|&other| other != key);
                values.remove(&key);
                if operation < 2 {
                    ages.push(key);
                    values.insert(key, value);
                }
                prop_assert_eq!(keys_by_age(&shard), ages.clone());
                prop_assert_eq!(shard.entries().len(), values.len());
                for (key, value) in &values {
                    let index = shard.find(hash(*key), &[*key]).unwrap();
                    prop_assert_eq!(shard.entry(index).value(), value.as_slice());
                }
            }
        }
    }
}

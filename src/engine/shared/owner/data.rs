//! Shared data: one namespace a vm_id.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::namespace::{DataStats, Namespace, NamespaceLimits};
use crate::error::Error;

/// The shared data of the process, by vm_id.
#[derive(Debug, Default)]
pub(in crate::shared) struct Data {
    /// Replaced whole when a namespace is added, which configurations do and guests cannot.
    namespaces: ArcSwap<HashMap<Box<str>, Arc<Namespace>>>,
}

impl Data {
    /// Gives a namespace other ceilings than [`NamespaceLimits::default`], from now on.
    pub(in crate::shared) fn configure(&self, vm_id: &str, limits: NamespaceLimits) {
        self.namespace(vm_id).configure(limits);
    }

    /// The namespace of a vm_id, made if nobody has used it yet.
    fn namespace(&self, vm_id: &str) -> Arc<Namespace> {
        if let Some(namespace) = self.namespaces.load().get(vm_id) {
            return Arc::clone(namespace);
        }
        let new = Arc::new(Namespace::new(NamespaceLimits::default()));
        self.namespaces.rcu(|current| {
            let mut namespaces = HashMap::clone(current);
            namespaces.entry(vm_id.into()).or_insert_with(|| Arc::clone(&new));
            namespaces
        });
        // Another thread may have been first, with another one.
        self.namespaces.load().get(vm_id).map_or(new, Arc::clone)
    }

    /// [`Namespace::get`].
    pub(in crate::shared) fn get(&self, vm_id: &str, key: &[u8], show: impl FnOnce(&[u8])) -> Option<u32> {
        self.namespaces.load().get(vm_id)?.get(key, show)
    }

    /// [`Namespace::set`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::shared) fn set(
        &self,
        vm_id: &str,
        key: &[u8],
        value: &[u8],
        cas: u32,
        ttl: Option<Duration>,
    ) -> Result<(), Error> {
        match self.namespaces.load().get(vm_id) {
            Some(namespace) => namespace.set(key, value, cas, ttl),
            None => self.namespace(vm_id).set(key, value, cas, ttl),
        }
    }

    /// [`Namespace::delete`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::shared) fn delete(&self, vm_id: &str, key: &[u8], cas: u32) -> Result<(), Error> {
        self.namespaces.load().get(vm_id).ok_or(Error::NotFound)?.delete(key, cas)
    }

    /// [`Namespace::increment`].
    ///
    /// # Errors
    /// As there.
    pub(in crate::shared) fn increment(
        &self,
        vm_id: &str,
        key: &[u8],
        delta: i64,
        ttl: Option<Duration>,
    ) -> Result<i64, Error> {
        match self.namespaces.load().get(vm_id) {
            Some(namespace) => namespace.increment(key, delta, ttl),
            None => self.namespace(vm_id).increment(key, delta, ttl),
        }
    }

    /// [`Namespace::keys_with_prefix`].
    pub(in crate::shared) fn keys_with_prefix(&self, vm_id: &str, prefix: &[u8], max: usize) -> Vec<Box<[u8]>> {
        self.namespaces.load().get(vm_id).map_or_else(Vec::new, |namespace| namespace.keys_with_prefix(prefix, max))
    }

    /// [`Namespace::sweep`], of all.
    pub(in crate::shared) fn sweep(&self) {
        for namespace in self.namespaces.load().values() {
            namespace.sweep();
        }
    }

    /// Shows the size and losses of every namespace.
    pub(in crate::shared) fn for_each(&self, mut visit: impl FnMut(&str, DataStats)) {
        for (vm_id, namespace) in self.namespaces.load().iter() {
            visit(vm_id, namespace.stats());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_apart() {
        let data = Data::default();
        data.set("a", b"k", b"1", 0, None).unwrap();
        assert_eq!(data.get("b", b"k", |_| ()), None);
        assert!(matches!(data.delete("b", b"k", 0), Err(Error::NotFound)));
        assert_eq!(data.keys_with_prefix("b", b"", 10).len(), 0);
        assert_eq!(data.increment("b", b"k", 2, None).unwrap(), 2);
        assert_eq!(data.keys_with_prefix("a", b"", 10).len(), 1);
        let mut sizes = Vec::new();
        data.for_each(|vm_id, stats| sizes.push((vm_id.to_owned(), stats.entries)));
        sizes.sort_unstable();
        assert_eq!(sizes, [("a".to_owned(), 1), ("b".to_owned(), 1)]);
    }

    #[test]
    fn threads_that_begin_together_share_one_namespace() {
        for _ in 0..100 {
            let data = Data::default();
            std::thread::scope(|scope| {
                for thread in 0..4u8 {
                    let data = &data;
                    scope.spawn(move || {
                        for n in 0..4u8 {
                            data.increment(&n.to_string(), &[thread], 1, None).unwrap();
                            data.increment(&n.to_string(), b"all", 1, None).unwrap();
                        }
                    });
                }
            });
            for n in 0..4u8 {
                assert_eq!(data.increment(&n.to_string(), b"all", 0, None).unwrap(), 4);
                assert_eq!(data.namespace(&n.to_string()).stats().entries, 5);
            }
        }
    }
}

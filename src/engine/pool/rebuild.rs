//! VMs in place of others that were lost, built while their slot is free for whoever needs it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Entry, Pool};
use crate::error::Error;
use crate::limits::{EPOCH, thread_time};
use crate::settings::PluginSpec;
use crate::vm::Vm;

/// The most plugin contexts that a VM gets before it is in its slot.
const AT_ONCE: usize = 64;

/// A plugin by its index.
type Indexed = (usize, Arc<PluginSpec>);

/// A VM that is to stand in a slot.
struct Built {
    vm: Box<Vm>,
    /// The plugin contexts that it has, with their ids.
    roots: Vec<(Indexed, u32)>,
    /// Those that it refused.
    refused: Vec<(Indexed, Error)>,
    took: Duration,
}

/// Why there is none.
enum Unbuilt {
    /// The VM itself cannot be built.
    Vm(Error),
    /// This plugin context cost it.
    Context(Indexed, Error),
}

impl Pool {
    /// What the last build of a slot's VM took. Not exact: it is for an estimate.
    pub(crate) fn build_time(&self, slot: usize) -> Duration {
        Duration::from_nanos(self.slots[self.index(slot)].build_nanos.load(Ordering::Relaxed))
    }

    pub(super) fn note_build_time(&self, slot: usize, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.slots[self.index(slot)].build_nanos.store(nanos, Ordering::Relaxed);
    }

    /// Whether a VM of this slot is built so quickly that a request may do it; others are left to the rebuilder, and the
    /// failure policy answers meanwhile.
    pub(super) fn is_quick(&self, slot: usize) -> bool {
        self.build_time(slot) < EPOCH
    }

    /// Whether a request would build this slot's VM by itself, and in no time.
    pub(crate) fn leaves_to_requests(&self, slot: usize) -> bool {
        !self.single && !self.service && slot < self.slots.len() && self.is_quick(slot)
    }

    /// Builds a slot's VM if it has none and may, with the plugin contexts that are wanted most. `Some` says when to come
    /// back, if nothing more can be done now.
    ///
    /// The slot is not locked meanwhile: a guest that takes long to start must not hold up its thread, where others wait.
    pub(super) fn rebuild(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        let wanted = {
            let entry = self.lock(slot);
            if entry.guard.vm.is_some() {
                return None;
            }
            if let Some(at) = entry.guard.backoff.not_before().filter(|at| *at > Instant::now()) {
                return Some(at);
            }
            entry.guard.roots.first_missing(&self.plugins.lock(), AT_ONCE)
        };
        let built = self.construct(self.index(slot), wanted);
        let mut entry = self.lock(slot);
        // This is the rebuilder, which knows.
        entry.guard.leaving.attend = false;
        entry.guard.coming = None;
        let early = std::mem::take(&mut entry.guard.early);
        if entry.guard.vm.is_some() {
            // A request was faster.
            entry.leave();
            return None;
        }
        let again = match built {
            Ok(built) => {
                entry.install(built);
                None
            }
            Err(Unbuilt::Vm(error)) => {
                let digest = self.spec.module.digest();
                let what = format!("failure to rebuild a VM of module {digest}");
                self.report(
                    slot,
                    &what,
                    "",
                    &error,
                    format_args!("a VM of module {digest} could not be rebuilt: {error}"),
                );
                entry.guard.backoff.build_failed(Instant::now());
                entry.guard.backoff.not_before()
            }
            Err(Unbuilt::Context(failed, error)) => {
                entry.note_failed_context(&failed, &error);
                entry.slot.counters.traps.add(1);
                Some(Instant::now())
            }
        };
        let station = Arc::clone(&entry.slot.station);
        entry.leave();
        // If there is no such VM, they come to nothing there.
        early.into_iter().for_each(|delivery| station.post(delivery));
        again
    }

    /// Builds a VM for a slot, with as many of these plugin contexts as do not take long, and one at least.
    fn construct(self: &Arc<Self>, index: usize, wanted: Vec<Indexed>) -> Result<Built, Unbuilt> {
        let begun = thread_time();
        let took = || thread_time().saturating_sub(begun);
        let (vm, number) = self.build_vm(Some(index), true).map_err(Unbuilt::Vm)?;
        self.lock(index).guard.coming = Some(number);
        let mut vm = Box::new(vm);
        let (mut roots, mut refused) = (Vec::new(), Vec::new());
        let (mut before, mut last) = (took(), Duration::MAX);
        for plugin in wanted {
            // Those that take long are better made here, where nobody waits; quick ones can wait for a request.
            if before > EPOCH / 2 && last < EPOCH / 10 {
                break;
            }
            match vm.add_root(&plugin.1) {
                Ok(id) => roots.push((plugin, id)),
                Err(error @ Error::Trap(_)) => return Err(Unbuilt::Context(plugin, error)),
                Err(error) => refused.push((plugin, error)),
            }
            let now = took();
            (before, last) = (now, now.saturating_sub(before));
        }
        Ok(Built { vm, roots, refused, took: took() })
    }
}

impl Entry<'_> {
    fn install(&mut self, built: Built) {
        let Built { mut vm, roots, refused, took } = built;
        self.guard.backoff.built();
        self.pool.note_build_time(self.index, took);
        self.pool.runtime.0.registry.vm_rebuilt();
        self.slot.counters.vms_built.add(1);
        self.note_configured(&vm.aftermath());
        self.guard.vm = Some(vm);
        self.guard.generation += 1;
        for ((index, spec), id) in roots {
            self.slot.counters.roots_created.add(1);
            self.pool.stats_of(&spec).rebuilt();
            let there = self.pool.plugins.lock().get(index).is_some_and(|known| Arc::ptr_eq(known, &spec));
            if there {
                self.guard.roots.set(index, id);
            } else if let Some(Err(error)) = self.guard.vm.as_deref_mut().map(|vm| vm.remove_root(id)) {
                // Its plugin has ended meanwhile, and it does not take that well.
                self.discard(&error, None);
                return;
            } else {
                self.slot.counters.roots_deleted.add(1);
            }
        }
        for (plugin, error) in &refused {
            self.note_failed_context(plugin, error);
        }
    }

    /// A plugin context could not be made anew: it is left alone for a while.
    fn note_failed_context(&mut self, (index, spec): &Indexed, error: &Error) {
        self.pool.stats_of(spec).trap(error);
        self.guard.roots.refuse(*index, Instant::now());
        let text = format_args!(
            "filter '{}': its plugin context could not be made anew, and is tried again in a while: {error}",
            spec.name
        );
        self.pool.report(self.index, "failure to make a plugin context anew", &spec.name, error, text);
    }
}

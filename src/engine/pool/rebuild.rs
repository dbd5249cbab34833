//! How VMs come into slots: the first one, and those in place of others that were lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::{Entry, Pool};
use crate::error::Error;
use crate::limits::thread_time;
use crate::settings::PluginSpec;
use crate::vm::Vm;

/// A VM that is to stand in a slot, and its plugins' root contexts.
pub(super) struct Built {
    vm: Box<Vm>,
    roots: Vec<Option<u32>>,
    took: Duration,
}

/// Whether these are the same plugins in the same places.
fn same(one: &[Option<Arc<PluginSpec>>], other: &[Option<Arc<PluginSpec>>]) -> bool {
    let equal = |(one, other): (&Option<Arc<PluginSpec>>, &Option<Arc<PluginSpec>>)| match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (one, other) => one.is_none() && other.is_none(),
    };
    one.len() == other.len() && one.iter().zip(other).all(equal)
}

impl Pool {
    /// Builds a slot's VM if it has none and may. Says when that is to be tried again: what a VM does without a request,
    /// its ticks and its part in queues, must not wait for one.
    ///
    /// The slot is not locked meanwhile: a guest that takes long to start must not hold up its thread, where others wait.
    pub(crate) fn revive(self: &Arc<Self>, slot: usize) -> Option<Instant> {
        loop {
            {
                let entry = self.lock(slot);
                if entry.guard.vm.is_some() {
                    return None;
                }
                if let Some(at) = entry.guard.backoff.not_before().filter(|at| *at > Instant::now()) {
                    return Some(at);
                }
            }
            let specs = self.plugins.lock().specs.clone();
            let built = self.construct(self.index(slot), &specs);
            let mut entry = self.lock(slot);
            if entry.guard.vm.is_some() {
                // A request was faster.
                entry.leave();
                return None;
            }
            if !same(&specs, &self.plugins.lock().specs) {
                // A plugin came or went.
                entry.leave();
                continue;
            }
            if let Err(error) = entry.rebuilt(built) {
                log::error!(target: "wasm_remap", "a VM of module {} could not be rebuilt: {error}", self.spec.module.digest());
            }
            let again = entry.guard.backoff.not_before();
            entry.leave();
            return again;
        }
    }

    /// Builds a VM for a slot, with all of these plugins.
    pub(super) fn construct(self: &Arc<Self>, index: usize, specs: &[Option<Arc<PluginSpec>>]) -> Result<Built, Error> {
        let begun = thread_time();
        let mut vm = Box::new(self.build_vm(Some(index))?);
        let mut roots = vec![None; specs.len()];
        for (root, spec) in roots.iter_mut().zip(specs) {
            if let Some(spec) = spec {
                *root = Some(vm.add_root(spec)?);
            }
        }
        Ok(Built { vm, roots, took: thread_time().saturating_sub(begun) })
    }
}

impl Entry<'_> {
    /// Puts a VM in place of one that was lost, if there is one.
    pub(super) fn rebuilt(&mut self, built: Result<Built, Error>) -> Result<(), Error> {
        match built {
            Ok(built) => {
                self.install(built);
                self.pool.runtime.0.registry.vm_rebuilt();
                if let Some(vm) = &self.guard.vm {
                    vm.state().count_rebuilt();
                }
                Ok(())
            }
            Err(error) => {
                self.guard.backoff.build_failed(Instant::now());
                Err(error)
            }
        }
    }

    /// Builds the VM with every plugin of the pool.
    pub(super) fn build(&mut self) -> Result<(), Error> {
        let specs = self.pool.plugins.lock().specs.clone();
        let built = self.pool.construct(self.index, &specs)?;
        self.install(built);
        Ok(())
    }

    fn install(&mut self, built: Built) {
        let Built { mut vm, roots, took } = built;
        self.guard.backoff.built(took);
        self.slot.build_nanos.store(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.slot.counters.vms_built.add(1);
        self.slot.counters.roots_created.add(roots.iter().flatten().count() as u64);
        let aftermath = vm.aftermath();
        self.note_configured(&aftermath);
        self.guard.vm = Some(vm);
        self.guard.generation += 1;
        self.guard.roots = roots;
    }
}

//! Where a configuration is tried out before VMs in use meet it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use crate::error::Error;
use crate::settings::PluginSpec;
use crate::vm::Vm;

/// The place of a pool's trial VM, where slots are numbered.
pub(super) const PLACE: usize = usize::MAX;

/// So many configurations are tried on one VM: building it takes longer than most of them, and rules come by the thousand.
const USES: usize = 64;

/// For so long after the last one it is kept.
const KEPT: Duration = Duration::from_secs(1);

/// A VM that serves nobody, and may trap.
#[derive(Default)]
pub(super) struct Trial {
    vm: Option<Box<Vm>>,
    uses: usize,
    last: Option<Instant>,
}

impl Pool {
    /// Starts and configures a plugin context where that harms nobody.
    ///
    /// # Errors
    /// As [`Vm::add_root`], in a VM that has nothing else in it.
    pub(super) fn try_out(self: &Arc<Self>, trial: &mut Trial, spec: &Arc<PluginSpec>) -> Result<(), Error> {
        trial.last = Some(Instant::now());
        if trial.uses < USES
            && let Some(vm) = &mut trial.vm
        {
            trial.uses += 1;
            if vm.add_root(spec).is_ok() {
                return Ok(());
            }
            // What it met before may be why. A new VM decides.
        }
        let kept = trial.vm.take().is_some();
        let mut vm = Box::new(self.build_vm(None, false)?.0);
        vm.add_root(spec)?;
        (trial.vm, trial.uses) = (Some(vm), 1);
        if !kept {
            self.runtime.schedule_rebuild(Arc::downgrade(self), PLACE);
        }
        Ok(())
    }

    /// Drops the trial VM if it was not used for a while. Says when to look again.
    pub(super) fn end_trial(&self) -> Option<Instant> {
        let now = Instant::now();
        // Whoever holds the lock uses it.
        let Some(mut trial) = self.adding.try_lock() else { return Some(now + KEPT) };
        let end = trial.last? + KEPT;
        if end > now {
            return Some(end);
        }
        *trial = Trial::default();
        None
    }
}

//! Entering the VM of a filter for a stream, and leaving it.

use std::sync::Arc;

use super::course::{Course, Host, PartState};
use crate::abi::Action;
use crate::body::Side;
use crate::cell::Effects;
use crate::chain::Filter;
use crate::config::FailurePolicy;
use crate::error::Error;
use crate::limits::Nanos;
use crate::pool::Entry;
use crate::vm::Vm;

impl Course {
    /// Creates the filter's context and shows it the request headers, in one visit to its VM.
    pub(super) fn first_contact(&mut self, at: usize, filter: &Filter, host: &mut Host) -> Result<Action, Error> {
        let mut entry = filter.plugin.pool.lock(self.slot);
        let slot = entry.slot;
        let (vm, generation, root) = match entry.vm_for(&filter.plugin) {
            Ok(found) => found,
            Err(error) => {
                entry.leave();
                return Err(error);
            }
        };
        let end_of_stream = self.end_of_stream[Side::Request as usize];
        let context = vm.reserve();
        vm.lend(context, host.take());
        vm.begin_spending(Nanos::ZERO);
        let cell = self.cells.pop().unwrap_or_else(|| Arc::clone(&self.cell));
        // A chain has few filters: the number of one always fits.
        #[expect(clippy::cast_possible_truncation, reason = "see above")]
        let result = vm.begin_stream(context, root, at as u32, cell, end_of_stream);
        if vm.take_back(context, &self.cell, host) {
            keep_effects(&mut self.pending, vm, result.is_ok());
        }
        let spent = vm.end_spending();
        vm.report(&filter.stats);
        filter.stats.begin_stream(self.slot);
        slot.counters.streams_created.add(1);
        let part = &mut self.parts[at];
        part.spent = spent;
        (part.context, part.generation, part.state) = (context, generation, PartState::Alive);
        finish_entry(entry, result, filter)
    }

    /// Enters the VM in which the filter's context lives.
    pub(super) fn visit<A>(
        &mut self,
        at: usize,
        filter: &Filter,
        host: &mut Host,
        run: impl FnOnce(&mut Vm, u32) -> Result<A, Error>,
    ) -> Result<A, Error> {
        let part = &mut self.parts[at];
        let mut entry = filter.plugin.pool.lock(self.slot);
        let Some(vm) = entry.vm_of(part.generation) else {
            return Err(gone());
        };
        vm.lend(part.context, host.take());
        vm.begin_spending(part.spent);
        let result = run(vm, part.context);
        part.spent = vm.end_spending();
        if vm.take_back(part.context, &self.cell, host) {
            keep_effects(&mut self.pending, vm, result.is_ok());
        }
        vm.report(&filter.stats);
        finish_entry(entry, result, filter)
    }
}

/// Keeps what a visit's callbacks asked for; of a visit that failed, nothing.
#[cold]
fn keep_effects(pending: &mut Effects, vm: &mut Vm, ended_well: bool) {
    let effects = vm.take_effects();
    if ended_well {
        pending.merge(effects);
    }
}

/// Why a filter is not there that was.
pub(super) fn gone() -> Error {
    Error::Gone
}

/// Leaves a slot after a callback: in order, or, after a trap, by dropping its VM.
#[inline]
fn finish_entry<A>(entry: Entry<'_>, result: Result<A, Error>, filter: &Filter) -> Result<A, Error> {
    match result {
        Ok(action) => {
            entry.leave();
            Ok(action)
        }
        Err(error) => {
            lose_entry(entry, &error, filter);
            Err(error)
        }
    }
}

#[cold]
fn lose_entry(mut entry: Entry<'_>, error: &Error, filter: &Filter) {
    if filter.policy() == FailurePolicy::Reload {
        entry.rebuild_later();
    }
    entry.poison(error, Some(&filter.stats));
}

/// [`finish_entry`], at the end of a stream.
#[inline]
pub(super) fn finish_ended(entry: Entry<'_>, result: Result<(), Error>, filter: &Filter) -> Result<(), Error> {
    match result {
        Ok(()) => {
            entry.leave_ended();
            Ok(())
        }
        Err(error) => finish_entry(entry, Err(error), filter),
    }
}

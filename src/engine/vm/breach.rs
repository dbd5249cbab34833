//! Limits that a callback met: what becomes of them in the log and in the numbers.

use std::sync::Arc;

use super::Vm;
use super::trap::trap;
use crate::abi::Callback;
use crate::error::{Error, TrapKind};
use crate::limits::{Budget, Limit, Nanos};
use crate::observe::{FilterStats, Refused};
use crate::state::{Context, VmState};

/// What a visit's callbacks met and was not reported yet.
#[derive(Default)]
pub(super) struct Breaches(Vec<(Limit, u64)>);

impl Vm {
    /// What a stream's callbacks may still take begins with what they took before.
    #[inline]
    pub(crate) fn begin_spending(&mut self, spent: Nanos) {
        self.store.data_mut().left = self.transaction_time.saturating_sub(spent);
    }

    /// What they took, all in all. Callbacks of plugin contexts, which may come next, are nobody's transaction.
    #[inline]
    pub(crate) fn end_spending(&mut self) -> Nanos {
        let left = std::mem::replace(&mut self.store.data_mut().left, Nanos::MAX);
        self.transaction_time.saturating_sub(left)
    }

    /// Hands what was measured and met since the last time to the filter whose stream was visited.
    #[inline]
    pub(crate) fn report(&mut self, stats: &FilterStats) {
        self.meter.report(stats);
        if !self.breaches.0.is_empty() {
            self.breaches.0.drain(..).for_each(|(limit, times)| stats.breach(limit, times));
        }
    }

    /// A plugin context failed outside of streams, in what its transactions wait for: its breaker is told.
    #[cold]
    pub(crate) fn blame(&self, root: u32, error: &Error) {
        let (Some(Context::Root(root)), Error::Trap(trap)) = (self.store.data().contexts.get(&root), error) else {
            return;
        };
        if let Some(change) = root.plugin.breaker.failed(trap.spent, false) {
            root.stats().breaker_opened();
            log::error!(target: "wasm_remap", "filter '{}' {change}", root.plugin.name);
        }
    }

    /// A callback is over during which growth was refused. A plugin context's is counted here; a stream's belongs to a
    /// rule, which its visitor knows.
    #[cold]
    pub(super) fn note_refused(&mut self, context: u32) -> Refused {
        let refused = self.store.data_mut().limits.take_refused();
        let stats = match self.store.data().contexts.get(&context) {
            Some(Context::Root(root)) => Some(Arc::clone(root.stats())),
            _ => None,
        };
        for (limit, (times, _)) in [(Limit::Memory, refused.memory), (Limit::Table, refused.table)] {
            match &stats {
                _ if times == 0 => {}
                Some(stats) => stats.breach(limit, times),
                None => self.breaches.0.push((limit, times)),
            }
        }
        refused
    }

    /// How a callback ended, with the limit that ended it.
    #[cold]
    pub(super) fn ended(&self, budget: Budget, refused: Option<Refused>, error: &wasmtime::Error) -> Error {
        let state = self.state();
        let limit = if state.stopwatch.limit() < budget.time { Limit::Transaction } else { budget.limit };
        named(trap(state.callback, self.relay.module(), error), state, limit, refused)
    }
}

/// How an instantiation ended: of the start section it is a callback like any other.
#[cold]
pub(super) fn at_instantiation(state: &mut VmState, budget: Budget, error: &wasmtime::Error) -> Error {
    let refused = state.limits.has_refused().then(|| state.limits.take_refused());
    named(trap(Callback::Start, None, error), state, budget.limit, refused)
}

/// The trap with the limit that it comes from.
fn named(mut error: Error, state: &VmState, time_limit: Limit, refused: Option<Refused>) -> Error {
    let Error::Trap(trap) = &mut error else { return error };
    trap.spent = state.stopwatch.used();
    let limits = &state.settings.limits;
    let set = |limit: Limit| limits.value(limit).map_or_else(String::new, |value| format!("{}: {value}", limit.key()));
    match trap.kind {
        TrapKind::Deadline => {
            trap.limit = Some(time_limit);
            if time_limit == Limit::Transaction {
                trap.kind = TrapKind::TransactionDeadline;
                trap.reason =
                    format!("the transaction's callbacks ran longer than they may (limits.{})", set(time_limit));
            } else {
                trap.reason = format!("{} (limits.{})", trap.reason, set(time_limit));
            }
        }
        TrapKind::StackOverflow => trap.limit = Some(Limit::Stack),
        TrapKind::HostcallBytes => {
            trap.limit = Some(Limit::Hostcall);
            trap.reason = format!("{} (limits.{})", trap.reason, set(Limit::Hostcall));
        }
        // Most guests end themselves when they get no memory: what ended them is the limit.
        TrapKind::Guest | TrapKind::Exit(_) | TrapKind::Hostcall => match refused {
            Some(Refused { memory: (1.., bytes), .. }) => {
                trap.kind = TrapKind::Memory;
                trap.limit = Some(Limit::Memory);
                trap.reason = format!(
                    "{} after memory.grow to {} MiB was refused (limits.{})",
                    trap.reason,
                    bytes.div_ceil(1 << 20),
                    set(Limit::Memory)
                );
            }
            Some(Refused { table: (1.., elements), .. }) => {
                trap.kind = TrapKind::Table;
                trap.limit = Some(Limit::Table);
                trap.reason = format!(
                    "{} after table.grow to {elements} elements was refused (limits.{})",
                    trap.reason,
                    set(Limit::Table)
                );
            }
            _ => {}
        },
        _ => {}
    }
    error
}

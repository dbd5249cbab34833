//! What becomes of a transaction when a filter fails it, or is set aside.

use std::time::Duration;

use super::Verdict;
use super::course::Course;
use crate::breaker::{Admission, Change};
use crate::chain::Chain;
use crate::config::FailurePolicy;
use crate::error::Error;
use crate::journal::{self, Place};
use crate::limits::{EPOCH, Limit};

impl Course {
    /// Applies the failure policy to a filter whose context is lost. `None` goes on without it.
    #[cold]
    pub(super) fn fail(&mut self, chain: &Chain, at: usize, error: &Error) -> Option<Verdict> {
        self.parts[at].lose();
        self.apply_policy(chain, at, error)
    }

    /// Applies the failure policy. `None` goes on without the filter.
    #[cold]
    pub(super) fn apply_policy(&mut self, chain: &Chain, at: usize, error: &Error) -> Option<Verdict> {
        let filter = &chain.filters()[at];
        let aside = matches!(error, Error::SetAside);
        let failure = if aside { &filter.while_open } else { &filter.failure };
        filter.stats.failure(failure.policy);
        if failure.policy.goes_on() {
            if !aside {
                report(
                    chain,
                    self.place(chain, at),
                    at,
                    error,
                    "failure_policy open: the transaction goes on without it",
                );
            }
            self.settle_account(chain, at, error);
            return None;
        }
        let response = failure.response();
        // That it is set aside has been said, and by whom: each transaction would say it again.
        if !aside {
            let policy = failure.policy.as_str();
            let outcome = format!("failure_policy {policy}: the transaction is answered {}", response.status);
            report(chain, self.place(chain, at), at, error, &outcome);
        }
        self.settle_account(chain, at, error);
        self.failed = true;
        self.let_go();
        self.cell.unpark();
        Some(Verdict::Respond(Box::new(response)))
    }

    /// Whether the filter's breaker lets the transaction in.
    #[inline]
    pub(super) fn admits(&mut self, chain: &Chain, at: usize) -> bool {
        match chain.filters()[at].breaker().admit() {
            Admission::Go => true,
            Admission::Probe => {
                self.begin_trial(chain, at);
                true
            }
            Admission::SetAside => false,
        }
    }

    #[cold]
    fn begin_trial(&mut self, chain: &Chain, at: usize) {
        let filter = &chain.filters()[at];
        self.parts[at].probe = true;
        filter.stats.breaker_probe();
        log::info!(target: "wasm_remap", "{}: filter '{}' is on trial", chain.label(), filter.name());
    }

    /// A filter's part in the transaction is over: what its breaker has to know of it.
    pub(super) fn conclude(&mut self, chain: &Chain, at: usize, ended: Result<(), &Error>) {
        match ended {
            Ok(()) if !self.parts[at].probe => {}
            Ok(()) => {
                self.parts[at].probe = false;
                if let Some(change) = chain.filters()[at].breaker().passed() {
                    announce(chain, at, &change);
                }
            }
            Err(error) => self.settle_account(chain, at, error),
        }
    }

    /// Tells the breaker and the numbers of a failure.
    #[cold]
    fn settle_account(&mut self, chain: &Chain, at: usize, error: &Error) {
        let filter = &chain.filters()[at];
        let probe = std::mem::take(&mut self.parts[at].probe);
        let cost = match error {
            // Nobody failed here.
            Error::SetAside => return filter.stats.breaker_rejected(),
            // Whoever did was counted: what was lost with the same VM is not counted again.
            Error::Gone | Error::NoVm(_) => {
                if probe {
                    filter.breaker().returned();
                }
                return;
            }
            // What the callback took, and what it takes to build its VM anew: a guest that takes long to start is not
            // held to be worse for it.
            Error::Trap(trap) => trap.spent + filter.plugin.pool.build_time(self.slot).min(EPOCH),
            Error::Held(limit, _) => {
                filter.stats.breach(*limit, 1);
                Duration::ZERO
            }
            _ => Duration::ZERO,
        };
        if let Some(change) = filter.breaker().failed(cost, probe) {
            filter.stats.breaker_opened();
            announce(chain, at, &change);
        }
    }

    pub(super) fn pause_expired(&mut self, chain: &Chain) -> Verdict {
        let Some((side, wait)) = self.first_wait() else { return Verdict::Continue };
        // Effects that came with the last moment are void: the policy speaks now.
        drop(self.cell.take_effects());
        let at = wait.filter;
        let limit = chain.filters()[at].pause;
        let expired =
            Error::Held(Limit::Pause, format!("it held the transaction for more than {limit:?} (limits.pause_ms)"));
        if let Some(verdict) = self.apply_policy(chain, at, &expired) {
            self.time_pauses(chain);
            return verdict;
        }
        self.enter(chain, |course, host| course.open(chain, side, at, host))
    }
}

/// Says that a filter is set aside, or taken back.
#[cold]
fn announce(chain: &Chain, at: usize, change: &Change) {
    let filter = &chain.filters()[at];
    let (label, name) = (chain.label(), filter.name());
    match change {
        Change::Opened { .. } => {
            let meanwhile = match filter.while_open.policy {
                FailurePolicy::Open => "transactions go on without it".to_owned(),
                _ => format!("transactions are answered {}", filter.while_open.response().status),
            };
            log::error!(target: "wasm_remap", "{label}: filter '{name}' {change}; meanwhile {meanwhile}");
        }
        Change::Closed { .. } => log::warn!(target: "wasm_remap", "{label}: filter '{name}' {change}"),
    }
}

/// One line that says which rule and filter failed, how, and what became of the transaction. What occurs again is counted.
#[cold]
pub(super) fn report(chain: &Chain, place: Place<'_>, at: usize, error: &Error, outcome: &str) {
    let filter = &chain.filters()[at];
    let text = format_args!("{}: filter '{}': {error}; {outcome}", chain.label(), filter.name());
    match error {
        Error::Trap(trap) => journal::trapped(filter.module().digest(), trap, place, text),
        error => journal::told(log::Level::Error, &format!("{error}; {outcome}"), place, text),
    }
}

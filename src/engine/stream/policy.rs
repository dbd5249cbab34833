//! What becomes of a transaction when a filter fails it.

use super::Verdict;
use super::course::Course;
use crate::chain::Chain;
use crate::config::FailurePolicy;
use crate::error::Error;
use crate::host::LocalResponse;
use crate::journal::{self, Place};

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
        chain.filters()[at].stats.failure(chain.filters()[at].policy);
        match chain.filters()[at].policy {
            FailurePolicy::Open => {
                report(
                    chain,
                    self.place(chain, at),
                    at,
                    error,
                    "failure_policy open: the transaction goes on without it",
                );
                None
            }
            FailurePolicy::Closed => {
                report(
                    chain,
                    self.place(chain, at),
                    at,
                    error,
                    "failure_policy closed: the transaction is answered 503",
                );
                self.failed = true;
                self.let_go();
                self.cell.unpark();
                Some(Verdict::Respond(Box::new(LocalResponse::text(503, "Service Unavailable\n"))))
            }
        }
    }

    pub(super) fn pause_expired(&mut self, chain: &Chain) -> Verdict {
        let Some((side, wait)) = self.first_wait() else { return Verdict::Continue };
        // Effects that came with the last moment are void: the policy speaks now.
        drop(self.cell.take_effects());
        let at = wait.filter;
        let limit = chain.filters()[at].pause;
        let expired = Error::Start(format!("it held the transaction for more than {limit:?}"));
        if let Some(verdict) = self.apply_policy(chain, at, &expired) {
            self.time_pauses(chain);
            return verdict;
        }
        self.enter(chain, |course, host| course.open(chain, side, at, host))
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

//! The duty to re-enable a transaction, as a token.
//!
//! While a hook holds a transaction, nothing else happens in it, not even its close: never re-enabled, it leaks for
//! ever and pins the configuration that it runs under; re-enabled twice, the second time is a use after free. So the
//! duty is a value that cannot be copied: [`Hook`] inside the callback, [`Reenable`] while the transaction waits.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use ats_sys::{TSHttpTxn, TSHttpTxnReenable, tsapi_httptxn};

use crate::event::Event;
use crate::messages::Messages;
use crate::thread::EventThread;
use crate::txn::Txn;
use crate::{guard, log};

/// A transaction that a hook holds, on its event thread.
///
/// Made by [`crate::cont`] for each hook event. What it lends borrows from it, and every way of re-enabling takes it
/// by value: no header slice and no [`Txn`] is alive when the state machine runs on.
#[derive(Debug)]
#[must_use = "a transaction that is not re-enabled never ends"]
pub struct Hook {
    token: Reenable,
    /// What it was called for, until it was put off.
    event: Option<Event>,
    /// [`Txn`] and messages are for this thread.
    _not_send: PhantomData<*const ()>,
}

impl Hook {
    /// Takes the duty for the transaction at `raw`; `None` for null.
    ///
    /// # Safety
    /// ATS must just have called a hook of this transaction on this thread, and no one else may re-enable it for that.
    pub unsafe fn from_raw(raw: TSHttpTxn) -> Option<Self> {
        let token = Reenable { txn: NonNull::new(raw)?, home: EventThread::current() };
        Some(Self { token, event: None, _not_send: PhantomData })
    }

    /// The hook that ATS called with this event.
    pub(crate) fn called_with(self, event: Event) -> Self {
        Self { event: Some(event), ..self }
    }

    /// What ATS called the hook for; `None` for one that was put off by [`Self::pause`].
    #[must_use]
    pub fn event(&self) -> Option<Event> {
        self.event
    }

    /// The event thread that it was called on, if it was one.
    pub(crate) fn home(&self) -> Option<EventThread> {
        self.token.home
    }

    /// The transaction.
    #[must_use]
    pub fn txn(&self) -> Txn<'_> {
        // SAFETY: held, so it lives as long as `self` holds it; and a `Hook` does not leave its thread.
        unsafe { Txn::from_non_null(self.token.txn) }
    }

    /// Its messages.
    #[must_use]
    pub fn messages(&mut self) -> Messages<'_> {
        // SAFETY: `&mut self` makes it the only one for as long as it lives, and ATS waits for us meanwhile.
        unsafe { Messages::of(self.txn()) }
    }

    /// Lets the transaction go on (`TSHttpTxnReenable` with `TS_EVENT_HTTP_CONTINUE`).
    ///
    /// Runs the rest of it, possibly up to its close and to the end of the continuation that was called, before it
    /// returns. Hold no lock and no borrow, and make it the last statement.
    pub fn resume(self) {
        self.token.resume();
    }

    /// Ends the transaction with the error answer (`TSHttpTxnReenable` with `TS_EVENT_HTTP_ERROR`): what
    /// [`Txn::status_set`] and [`Txn::error_body_set`] said, or ATS's own page. As for [`Self::resume`].
    pub fn error(self) {
        self.token.error();
    }

    /// Keeps the transaction waiting. Whoever gets the token must see that it is used, by a timer of its own too:
    /// ATS's timeouts close the client's connection but not the transaction.
    pub fn pause(self) -> Reenable {
        self.token
    }
}

/// The duty to re-enable a transaction that waits. May be sent to, and used on, any thread.
#[derive(Debug)]
#[must_use = "a transaction that is not re-enabled never ends"]
pub struct Reenable {
    txn: NonNull<tsapi_httptxn>,
    /// The transaction's event thread.
    home: Option<EventThread>,
}

// SAFETY: TSHttpTxnReenable may be called on any thread, foreign ones included (it posts to the transaction's own);
// what may not is only reachable through `enter`, which checks the thread.
unsafe impl Send for Reenable {}
// SAFETY: `&Reenable` gives access to nothing.
unsafe impl Sync for Reenable {}

impl Reenable {
    /// As [`Hook::resume`]. From another thread than the transaction's it is only posted, and returns at once.
    pub fn resume(self) {
        self.finish(Event::HTTP_CONTINUE);
    }

    /// As [`Hook::error`]. From another thread than the transaction's it is only posted, and returns at once.
    pub fn error(self) {
        self.finish(Event::HTTP_ERROR);
    }

    /// Back to a hook, for the transaction's headers: a timer of ours, say, that fires while it waits.
    ///
    /// # Errors
    /// The token, on any other thread than the transaction's own.
    pub fn enter(self) -> Result<Hook, Self> {
        if self.home.is_some_and(EventThread::is_current) {
            Ok(Hook { token: self, event: None, _not_send: PhantomData })
        } else {
            Err(self)
        }
    }

    /// The transaction's event thread, if the hook was called on one.
    #[must_use]
    pub fn home(&self) -> Option<EventThread> {
        self.home
    }

    fn finish(self, event: Event) {
        // Used: its destructor must not use it again.
        let txn = ManuallyDrop::new(self).txn;
        reenable(txn, event);
    }
}

impl Drop for Reenable {
    fn drop(&mut self) {
        log::error(format_args!("a transaction was dropped without being re-enabled; ending it with an error"));
        let txn = self.txn;
        // The hooks that this sets off must not run on a stack that is being unwound.
        if std::thread::panicking() && guard::after_unwinding(move || reenable(txn, Event::HTTP_ERROR)) {
            return;
        }
        reenable(txn, Event::HTTP_ERROR);
    }
}

/// The only call of `TSHttpTxnReenable`. The callers own the duty, and give it up here.
fn reenable(txn: NonNull<tsapi_httptxn>, event: Event) {
    // SAFETY: the transaction waits for exactly this call (there is one token for each hook call, and it is gone), and
    // any thread may make it.
    unsafe { TSHttpTxnReenable(txn.as_ptr(), event.as_raw()) };
}

#[cfg(test)]
mod tests {
    use fake_ats::FakeTxn;

    use super::*;

    fn hook(fake: &FakeTxn) -> Hook {
        // SAFETY: the fake lives to the end of the test, and no one else re-enables it.
        unsafe { Hook::from_raw(fake.raw()) }.expect("not null")
    }

    const CONTINUE: u32 = ats_sys::TS_EVENT_HTTP_CONTINUE;
    const ERROR: u32 = ats_sys::TS_EVENT_HTTP_ERROR;

    #[test]
    fn each_way_re_enables_once() {
        let fake = FakeTxn::new();
        hook(&fake).resume();
        assert_eq!(fake.take_reenables(), [CONTINUE]);
        hook(&fake).error();
        assert_eq!(fake.take_reenables(), [ERROR]);
        let token = hook(&fake).pause();
        assert_eq!(fake.take_reenables(), [0_u32; 0]);
        token.resume();
        assert_eq!(fake.take_reenables(), [CONTINUE]);
        assert!(fake_ats::take_log().is_empty());
    }

    #[test]
    fn a_dropped_token_ends_the_transaction_and_says_so() {
        let fake = FakeTxn::new();
        drop(hook(&fake));
        drop(hook(&fake).pause());
        assert_eq!(fake.take_reenables(), [ERROR, ERROR]);
        let log = fake_ats::take_log();
        assert_eq!(log.len(), 2);
        assert!(log.iter().all(|(level, line)| *level == "error" && line.contains("re-enabled")));
    }

    #[test]
    fn a_panicking_hook_re_enables_after_unwinding() {
        guard::install_panic_hook();
        let fake = FakeTxn::new();
        fake.on_reenable(|_| assert!(!std::thread::panicking()));
        let hook = hook(&fake);
        guard!("hook", on_panic = (), {
            let _hook = hook;
            panic!("in a hook");
        });
        assert_eq!(fake.take_reenables(), [ERROR]);
    }

    #[test]
    fn tokens_work_on_foreign_threads_and_hooks_do_not() {
        fake_ats::on_event_thread();
        let fake = FakeTxn::new();
        let token = hook(&fake).pause();
        assert!(token.home().is_some_and(EventThread::is_current));
        let token = token.enter().expect("at home").pause();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let token = token.enter().expect_err("not at home");
                token.resume();
            });
        });
        assert_eq!(fake.take_reenables(), [CONTINUE]);
    }

    #[test]
    fn null_is_no_hook() {
        // SAFETY: null is answered with `None`.
        assert!(unsafe { Hook::from_raw(std::ptr::null_mut()) }.is_none());
    }
}

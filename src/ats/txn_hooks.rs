//! One continuation for the hooks of many transactions, each with data of its own.
//!
//! A [`crate::cont::Continuation`] a transaction costs ATS's allocator, our own and a dozen locked instructions. Here
//! one continuation without a mutex serves all, and what belongs to a transaction is found in a table of its thread,
//! since all events of a transaction come on its own event thread. Nothing is locked or counted atomically. (ATS's own
//! place for such things, `TSUserArgGet`, costs a `dynamic_cast`, which is more than all of the rest.)
//!
//! The traps of [`crate::cont`] are met the same way: a handler gets a shared reference, and each call on the stack
//! keeps the data alive, so that a TXN_CLOSE further down the same stack takes nothing from under it; after a panic
//! the handler is only called to [let go](TxnHandler::abandon).

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::hash::{BuildHasherDefault, Hasher};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::rc::Rc;

use ats_sys::{TSCont, TSContCreate, TSEvent, TSHttpTxnHookAdd, tsapi_cont, tsapi_httptxn};

use crate::error::{Error, Result};
use crate::event::{Event, HookId};
use crate::hook::Hook;
use crate::thread::{EventThread, require_ats_thread};
use crate::txn::Txn;
use crate::{guard, log};

/// What is done for one transaction.
pub trait TxnHandler: Sized + 'static {
    /// Names the handler in the log, if it panics.
    const NAME: &'static str;

    /// Handles one hook of the transaction, TXN_CLOSE included, on its event thread.
    ///
    /// Re-enabling may call this again, further down the same stack: no borrow may be held at that point.
    fn handle(this: &Attached<Self>, event: Event, hook: Hook);

    /// After a panic in [`Self::handle`], which is never called again for this transaction. The stack is unwound, and
    /// the transaction does not go on before this returns: let go of what belongs to it.
    fn abandon(&self) {}
}

struct Node<T> {
    data: T,
    poisoned: Cell<bool>,
}

/// A transaction, and the continuation that serves it.
type Key = (NonNull<tsapi_httptxn>, NonNull<tsapi_cont>);

thread_local! {
    /// The transactions of this thread: what was made of an `Rc<Node<T>>`, where `T` is the continuation's.
    static ATTACHED: RefCell<HashMap<Key, NonNull<()>, BuildHasherDefault<AddressHasher>>> = RefCell::default();
}

/// Addresses are spread enough by a multiplication; nobody chooses them to do harm.
#[derive(Default)]
struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, address: usize) {
        self.0 = (self.0.rotate_left(5) ^ address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

/// The data of one transaction. Clones keep it alive, also after the transaction has ended; they stay on its thread.
pub struct Attached<T>(Rc<Node<T>>);

impl<T> Clone for Attached<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Deref for Attached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.data
    }
}

/// The continuation that serves the transactions of one handler. Lives as long as the process.
#[derive(Debug)]
pub struct TxnHooks<T> {
    cont: NonNull<tsapi_cont>,
    _handler: PhantomData<fn(T)>,
}

// SAFETY: the continuation has neither mutex nor data, and ATS calls it from any of its threads; transactions' data stay
// in their own thread's table.
unsafe impl<T> Send for TxnHooks<T> {}
// SAFETY: as for Send; nothing changes after `new`.
unsafe impl<T> Sync for TxnHooks<T> {}

impl<T: TxnHandler> TxnHooks<T> {
    /// The continuation (`TSContCreate`).
    ///
    /// # Errors
    /// [`Error::ForeignThread`].
    pub fn new() -> Result<Self> {
        require_ats_thread("TSContCreate")?;
        // SAFETY: an ATS thread; without a mutex, and the trampoline finds everything by the transaction.
        let cont = unsafe { TSContCreate(Some(trampoline::<T>), ptr::null_mut()) };
        let cont = NonNull::new(cont).ok_or(Error::Refused("TSContCreate"))?;
        Ok(Self { cont, _handler: PhantomData })
    }

    /// Has `data` handle these hooks of the transaction, and its TXN_CLOSE in any case (`TSHttpTxnHookAdd`).
    ///
    /// # Errors
    /// The data, if this serves the transaction already, or if this is no event thread.
    pub fn attach(&self, txn: Txn<'_>, data: T, hooks: &[HookId]) -> std::result::Result<Attached<T>, T> {
        let (Some(_), Some(raw)) = (EventThread::current(), NonNull::new(txn.as_raw())) else { return Err(data) };
        let served = ATTACHED.with_borrow_mut(|attached| match attached.entry((raw, self.cont)) {
            Entry::Occupied(_) => Err(data),
            Entry::Vacant(place) => {
                let node = Rc::new(Node { data, poisoned: Cell::new(false) });
                // The transaction's reference, taken back at its TXN_CLOSE.
                let raw = Rc::into_raw(Rc::clone(&node));
                // SAFETY: an `Rc`'s pointer is not null.
                place.insert(unsafe { NonNull::new_unchecked(raw.cast_mut().cast()) });
                Ok(Attached(node))
            }
        });
        let served = served?;
        for hook in hooks.iter().copied().chain([HookId::TXN_CLOSE]) {
            // SAFETY: a live transaction on its thread, and a continuation that lives for ever.
            unsafe { TSHttpTxnHookAdd(txn.as_raw(), hook.as_raw(), self.cont.as_ptr()) };
        }
        Ok(served)
    }
}

/// What ATS calls for every transaction of a `T`.
unsafe extern "C" fn trampoline<T: TxnHandler>(cont: TSCont, event: TSEvent, edata: *mut c_void) -> c_int {
    let event = Event::from_raw(event);
    guard::run(T::NAME, (), || {
        // SAFETY: ATS calls a transaction hook with its transaction, on its thread, and waits for us to re-enable it;
        // this continuation is called for nothing else.
        let Some(hook) = (unsafe { Hook::from_raw(edata.cast()) }) else { return };
        let hook = hook.called_with(event);
        let (Some(txn), Some(cont)) = (NonNull::new(hook.txn().as_raw()), NonNull::new(cont)) else { return };
        let closing = event == Event::HTTP_TXN_CLOSE;
        let node = ATTACHED.with_borrow_mut(|attached| {
            // At TXN_CLOSE the transaction's own reference becomes this call's.
            if closing { attached.remove(&(txn, cont)) } else { attached.get(&(txn, cont)).copied() }
        });
        let Some(node) = node else {
            log::error(format_args!("{}: a transaction changed its thread; it goes on without us", T::NAME));
            return hook.resume();
        };
        let node = node.as_ptr().cast::<Node<T>>().cast_const();
        if !closing {
            // SAFETY: `attach` put it there from an `Rc` on this thread, for a continuation whose handler is `T`, and
            // that reference lasts until TXN_CLOSE.
            unsafe { Rc::increment_strong_count(node) };
        }
        // SAFETY: as above; one reference was set free for this, one way or the other.
        let this = Attached(unsafe { Rc::from_raw(node) });
        if this.0.poisoned.get() {
            drop(this);
            return hook.resume();
        }
        let after = AfterCall(&this);
        T::handle(&this, event, hook);
        drop(after);
    });
    0
}

/// What follows a call of the handler that panicked.
struct AfterCall<'c, T: TxnHandler>(&'c Attached<T>);

impl<T: TxnHandler> Drop for AfterCall<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.0.poisoned.set(true);
            // Runs before the re-enabling that the hook's own destructor put off: the latest comes first.
            let this = self.0.clone();
            guard::after_unwinding(move || guard::run(T::NAME, (), || this.abandon()));
        }
    }
}

#[cfg(test)]
mod tests {
    use ats_sys::{TS_EVENT_HTTP_CONTINUE as CONTINUE, TS_EVENT_HTTP_ERROR as ERROR};
    use fake_ats::FakeTxn;

    use super::*;

    #[derive(Default)]
    struct Script {
        seen: Rc<RefCell<Vec<Event>>>,
        ends: Rc<Cell<usize>>,
        panics_at: Option<Event>,
    }

    impl TxnHandler for Script {
        const NAME: &'static str = "script";

        fn handle(this: &Attached<Self>, event: Event, hook: Hook) {
            this.seen.borrow_mut().push(event);
            assert!(this.panics_at != Some(event), "as asked");
            hook.resume();
            // The transaction may be over by now; what a call on the stack uses is not.
            assert!(this.seen.borrow().contains(&event));
        }

        fn abandon(&self) {
            self.seen.borrow_mut().push(Event::ERROR);
        }
    }

    impl Drop for Script {
        fn drop(&mut self) {
            self.ends.set(self.ends.get() + 1);
        }
    }

    fn hooks() -> TxnHooks<Script> {
        guard::install_panic_hook();
        fake_ats::on_event_thread();
        TxnHooks::new().expect("an ATS thread")
    }

    type Seen = Rc<RefCell<Vec<Event>>>;

    fn script(panics_at: Option<Event>) -> (Script, Seen, Rc<Cell<usize>>) {
        let script = Script { seen: Rc::default(), ends: Rc::default(), panics_at };
        let (seen, ends) = (Rc::clone(&script.seen), Rc::clone(&script.ends));
        (script, seen, ends)
    }

    /// Runs all hooks of a transaction.
    fn run(fake: &FakeTxn) {
        fake.run(&[HookId::POST_REMAP.as_raw(), HookId::SEND_RESPONSE_HDR.as_raw(), HookId::TXN_CLOSE.as_raw()]);
    }

    #[test]
    fn many_transactions_have_their_own_data_and_it_ends_with_them() {
        let hooks = hooks();
        let (one, two) = (FakeTxn::new(), FakeTxn::new());
        let ((first, seen_first, ends_first), (second, seen_second, ends_second)) = (script(None), script(None));
        for (fake, script, list) in
            [(&one, first, &[HookId::SEND_RESPONSE_HDR][..]), (&two, second, &[HookId::POST_REMAP])]
        {
            // SAFETY: a live fake.
            let txn = unsafe { Txn::from_raw(fake.raw()) }.expect("not null");
            assert!(hooks.attach(txn, script, list).is_ok());
            let again = hooks.attach(txn, Script::default(), &[]);
            assert!(again.is_err(), "one transaction is served once");
        }
        run(&one);
        assert_eq!(*seen_first.borrow(), [Event::HTTP_SEND_RESPONSE_HDR, Event::HTTP_TXN_CLOSE]);
        assert_eq!((ends_first.get(), ends_second.get()), (1, 0));
        run(&two);
        assert_eq!(*seen_second.borrow(), [Event::HTTP_POST_REMAP, Event::HTTP_TXN_CLOSE]);
        assert_eq!(ends_second.get(), 1);
        assert_eq!(one.take_reenables(), [CONTINUE, CONTINUE]);
    }

    #[test]
    fn after_a_panic_the_handler_lets_go_and_is_not_called_again() {
        let hooks = hooks();
        let fake = FakeTxn::new();
        let (script, seen, ends) = script(Some(Event::HTTP_POST_REMAP));
        // SAFETY: a live fake.
        let txn = unsafe { Txn::from_raw(fake.raw()) }.expect("not null");
        assert!(hooks.attach(txn, script, &[HookId::POST_REMAP, HookId::SEND_RESPONSE_HDR]).is_ok());
        run(&fake);
        assert_eq!(*seen.borrow(), [Event::HTTP_POST_REMAP, Event::ERROR]);
        assert_eq!(fake.take_reenables(), [ERROR, CONTINUE, CONTINUE]);
        assert_eq!(ends.get(), 1);
    }

    #[test]
    fn foreign_threads_attach_nothing() {
        let hooks = hooks();
        let fake = FakeTxn::new();
        let raw = fake.raw().expose_provenance();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // SAFETY: a live fake, of which nothing is used.
                let txn = unsafe { Txn::from_raw(ptr::with_exposed_provenance_mut(raw)) }.expect("not null");
                assert!(hooks.attach(txn, Script::default(), &[]).is_err());
            });
        });
    }
}

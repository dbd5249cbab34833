//! Continuations for the hooks of transactions, which go from one transaction to the next.
//!
//! A [`crate::cont::Continuation`] a transaction costs ATS's allocator, our own and a dozen locked instructions. Here a
//! thread keeps what a transaction had, its continuation without a mutex and the place of its data, for the next one
//! that begins there, since all events of a transaction come on its own event thread. In the long run nothing is
//! allocated, and nothing is locked or counted atomically in lines that threads share: of one continuation for all
//! threads, ATS itself counts each TXN_CLOSE twice, in the continuation. (ATS's own place for such things,
//! `TSUserArgGet`, costs a `dynamic_cast`, which is more than all of the rest.)
//!
//! The traps of [`crate::cont`] are met the same way: a handler gets a shared reference, and each call on the stack
//! keeps the data alive, so that a TXN_CLOSE further down the same stack takes nothing from under it; after a panic
//! the handler is only called to [let go](TxnHandler::abandon). What is kept is used again when no call of the last
//! transaction is on the stack and nobody has a clone: ATS knows nothing of it by then.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::thread::LocalKey;

use ats_sys::{
    TSCont, TSContCreate, TSContDataGet, TSContDataSet, TSContDestroy, TSEvent, TSHttpTxnHookAdd, tsapi_cont,
};

use crate::error::{Error, Result};
use crate::event::{Event, HookId};
use crate::hook::Hook;
use crate::thread::EventThread;
use crate::txn::Txn;
use crate::{guard, log};

/// What a thread keeps at most: how far the number of its transactions may swing without an allocation.
const KEPT: usize = 256;

/// What is done for one transaction.
pub trait TxnHandler: Sized + 'static {
    /// Names the handler in the log, if it panics.
    const NAME: &'static str;

    /// What the thread keeps for this handler's next transactions: a `thread_local!` of the implementation's.
    fn kept() -> &'static LocalKey<Kept<Self>>;

    /// Handles one hook of the transaction, TXN_CLOSE included, on its event thread.
    ///
    /// Re-enabling may call this again, further down the same stack: no borrow may be held at that point.
    fn handle(this: &Attached<Self>, event: Event, hook: Hook);

    /// After a panic in [`Self::handle`], which is never called again for this transaction. The stack is unwound, and
    /// the transaction does not go on before this returns: let go of what belongs to it.
    fn abandon(&self) {}
}

/// A continuation, and the data of the transaction that it serves now.
struct Node<T> {
    /// The transaction until its TXN_CLOSE, calls on the stack, clones. None while it is kept for the next one.
    references: Cell<usize>,
    poisoned: Cell<bool>,
    cont: NonNull<tsapi_cont>,
    /// Where it was made, is used, and is kept.
    home: EventThread,
    /// There while there are references.
    data: MaybeUninit<T>,
}

/// What an event thread keeps for its next transactions. (ATS's event threads do not end; elsewhere it leaks.)
pub struct Kept<T>(RefCell<Vec<NonNull<Node<T>>>>);

impl<T> Kept<T> {
    /// Nothing yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(RefCell::new(Vec::new()))
    }
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept").finish_non_exhaustive()
    }
}

impl<T: TxnHandler> Node<T> {
    /// A node of this thread without data, new or used before.
    fn take(home: EventThread) -> Result<NonNull<Self>> {
        match T::kept().with(|kept| kept.0.borrow_mut().pop()) {
            Some(node) => Ok(node),
            None => Self::create(home),
        }
    }

    #[cold]
    fn create(home: EventThread) -> Result<NonNull<Self>> {
        // SAFETY: an event thread, as `home` shows. Without a mutex; the trampoline is for the data that is set below.
        let cont = unsafe { TSContCreate(Some(trampoline::<T>), ptr::null_mut()) };
        let cont = NonNull::new(cont).ok_or(Error::Refused("TSContCreate"))?;
        let (references, poisoned) = (Cell::new(0), Cell::new(false));
        let node = Box::into_raw(Box::new(Node { references, poisoned, cont, home, data: MaybeUninit::uninit() }));
        // SAFETY: a live continuation of ours, which is destroyed together with the node; a box is not null.
        unsafe {
            TSContDataSet(cont.as_ptr(), node.cast());
            Ok(NonNull::new_unchecked(node))
        }
    }

    /// Keeps a node whose data is gone, or destroys it if there are enough.
    fn put(node: NonNull<Self>) {
        // On a thread that ends, which has no room any more, it is destroyed.
        let kept = T::kept().try_with(|kept| {
            let mut kept = kept.0.borrow_mut();
            let room = kept.len() < KEPT;
            if room {
                kept.push(node);
            }
            room
        });
        if !kept.unwrap_or(false) {
            // SAFETY: there are no references and no data any more; the continuation is called for no transaction.
            unsafe {
                TSContDestroy(node.as_ref().cont.as_ptr());
                drop(Box::from_raw(node.as_ptr()));
            }
        }
    }
}

/// The data of one transaction. Clones keep it alive, also after the transaction has ended; they stay on its thread.
pub struct Attached<T: TxnHandler>(NonNull<Node<T>>);

impl<T: TxnHandler> Attached<T> {
    fn node(&self) -> &Node<T> {
        // SAFETY: this is a reference to the node, which is on this thread, and lives as long as there is one.
        unsafe { self.0.as_ref() }
    }

    /// A reference to a node that has data.
    fn to(node: NonNull<Node<T>>) -> Self {
        let this = Self(node);
        let references = &this.node().references;
        references.set(references.get() + 1);
        this
    }
}

impl<T: TxnHandler> Clone for Attached<T> {
    fn clone(&self) -> Self {
        Self::to(self.0)
    }
}

impl<T: TxnHandler> Deref for Attached<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: there is a reference, so there is data.
        unsafe { self.node().data.assume_init_ref() }
    }
}

impl<T: TxnHandler> Drop for Attached<T> {
    fn drop(&mut self) {
        let references = self.node().references.get() - 1;
        if references > 0 {
            self.node().references.set(references);
            return;
        }
        // SAFETY: the last reference, so nobody uses the data; it goes once. What its destructor does finds no way to
        // the node, whose count says one until it is done: a hook that came now would be the transaction's, and that
        // has its own reference until TXN_CLOSE.
        unsafe { (*self.0.as_ptr()).data.assume_init_drop() };
        self.node().references.set(0);
        Node::put(self.0);
    }
}

/// The data of a transaction that has no hooks of ours yet.
pub struct Prepared<T: TxnHandler>(Attached<T>);

impl<T: TxnHandler> Prepared<T> {
    /// Data on its way to a transaction of this thread.
    ///
    /// # Errors
    /// [`Error::ForeignThread`], if this is no event thread; ATS makes no continuation.
    pub fn new(data: impl FnOnce() -> T) -> Result<Self> {
        let home = EventThread::current().ok_or(Error::ForeignThread("TSContCreate"))?;
        let node = Node::<T>::take(home)?;
        let vacant = Vacant(node);
        // SAFETY: the node is of this thread and has no references: nobody else sees it.
        unsafe {
            (*node.as_ptr()).data.write(data());
            (*node.as_ptr()).poisoned.set(false);
        }
        std::mem::forget(vacant);
        Ok(Self(Attached::to(node)))
    }

    /// Has the data handle these hooks of the transaction, and its TXN_CLOSE in any case (`TSHttpTxnHookAdd`).
    #[must_use = "what became of it"]
    pub fn attach(self, txn: Txn<'_>, hooks: &[HookId]) -> Attached<T> {
        let cont = self.0.node().cont;
        // The transaction's reference, which becomes the call's at its TXN_CLOSE.
        std::mem::forget(self.0.clone());
        for hook in hooks.iter().copied().chain([HookId::TXN_CLOSE]) {
            // SAFETY: a live transaction on its thread, and a continuation that lives until after its TXN_CLOSE.
            unsafe { TSHttpTxnHookAdd(txn.as_raw(), hook.as_raw(), cont.as_ptr()) };
        }
        self.0
    }
}

impl<T: TxnHandler> Deref for Prepared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A node whose data is being made: it is kept if that panics.
struct Vacant<T: TxnHandler>(NonNull<Node<T>>);

impl<T: TxnHandler> Drop for Vacant<T> {
    fn drop(&mut self) {
        Node::put(self.0);
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
        // SAFETY: the continuation that was called lives, and its data is a node of `T`'s, see `Node::create`.
        let Some(node) = NonNull::new(unsafe { TSContDataGet(cont) }.cast::<Node<T>>()) else { return hook.resume() };
        // SAFETY: a node lives as long as its continuation; this never changes, so it may be read on any thread.
        let home = unsafe { (*node.as_ptr()).home };
        if hook.home() != Some(home) {
            // ATS 9.2 moves none. What it has of ours stays, unused, for nobody may drop it here.
            log::error(format_args!("{}: a transaction changed its thread; it goes on without us", T::NAME));
            return hook.resume();
        }
        // At TXN_CLOSE the transaction's own reference becomes this call's. Before that, there is that one.
        let this = if event == Event::HTTP_TXN_CLOSE { Attached(node) } else { Attached::to(node) };
        if this.node().poisoned.get() {
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
            self.0.node().poisoned.set(true);
            // Runs before the re-enabling that the hook's own destructor put off: the latest comes first.
            let this = self.0.clone();
            guard::after_unwinding(move || guard::run(T::NAME, (), || this.abandon()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use ats_sys::{TS_EVENT_HTTP_CONTINUE as CONTINUE, TS_EVENT_HTTP_ERROR as ERROR};
    use fake_ats::FakeTxn;

    use super::*;

    #[derive(Default)]
    struct Script {
        seen: Rc<RefCell<Vec<Event>>>,
        ends: Rc<Cell<usize>>,
        panics_at: Option<Event>,
    }

    thread_local!(static KEPT_SCRIPTS: Kept<Script> = const { Kept::new() });

    impl TxnHandler for Script {
        const NAME: &'static str = "script";

        fn kept() -> &'static LocalKey<Kept<Self>> {
            &KEPT_SCRIPTS
        }

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

    fn attach(fake: &FakeTxn, script: Script, hooks: &[HookId]) -> Attached<Script> {
        guard::install_panic_hook();
        fake_ats::on_event_thread();
        // SAFETY: a live fake.
        let txn = unsafe { Txn::from_raw(fake.raw()) }.expect("not null");
        Prepared::new(|| script).unwrap_or_else(|_| panic!("no event thread")).attach(txn, hooks)
    }

    fn kept() -> usize {
        KEPT_SCRIPTS.with(|kept| kept.0.borrow().len())
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
        let (one, two) = (FakeTxn::new(), FakeTxn::new());
        let ((first, seen_first, ends_first), (second, seen_second, ends_second)) = (script(None), script(None));
        drop(attach(&one, first, &[HookId::SEND_RESPONSE_HDR]));
        drop(attach(&two, second, &[HookId::POST_REMAP]));
        run(&one);
        assert_eq!(*seen_first.borrow(), [Event::HTTP_SEND_RESPONSE_HDR, Event::HTTP_TXN_CLOSE]);
        assert_eq!((ends_first.get(), ends_second.get()), (1, 0));
        run(&two);
        assert_eq!(*seen_second.borrow(), [Event::HTTP_POST_REMAP, Event::HTTP_TXN_CLOSE]);
        assert_eq!(ends_second.get(), 1);
        assert_eq!(one.take_reenables(), [CONTINUE, CONTINUE]);
    }

    #[test]
    fn one_transaction_may_be_served_several_times_over() {
        let fake = FakeTxn::new();
        let ((first, seen_first, _), (second, seen_second, ends)) = (script(None), script(None));
        drop(attach(&fake, first, &[HookId::SEND_RESPONSE_HDR]));
        drop(attach(&fake, second, &[HookId::POST_REMAP]));
        run(&fake);
        assert_eq!(*seen_first.borrow(), [Event::HTTP_SEND_RESPONSE_HDR, Event::HTTP_TXN_CLOSE]);
        assert_eq!(*seen_second.borrow(), [Event::HTTP_POST_REMAP, Event::HTTP_TXN_CLOSE]);
        assert_eq!(ends.get(), 1);
    }

    #[test]
    fn a_thread_keeps_what_a_transaction_had_for_the_next() {
        let mut conts = Vec::new();
        for _ in 0..3 {
            let fake = FakeTxn::new();
            let attached = attach(&fake, Script::default(), &[]);
            assert_eq!(kept(), 0);
            conts.push(attached.node().cont);
            run(&fake);
            assert_eq!(kept(), 0, "somebody has a clone");
            assert_eq!(attached.ends.get(), 0);
            let ends = Rc::clone(&attached.ends);
            drop(attached);
            assert_eq!((kept(), ends.get()), (1, 1));
        }
        conts.dedup();
        assert_eq!(conts.len(), 1);
        drop(Prepared::new(Script::default).unwrap_or_else(|_| panic!("no event thread")));
        assert_eq!(kept(), 1, "also what was never attached");
    }

    #[test]
    fn a_thread_keeps_so_many() {
        fake_ats::on_event_thread();
        let fakes: Vec<_> = (0..KEPT + 3).map(|_| FakeTxn::new()).collect();
        fakes.iter().for_each(|fake| drop(attach(fake, Script::default(), &[])));
        let before = fake_ats::live_conts();
        fakes.iter().for_each(run);
        assert_eq!(kept(), KEPT);
        assert_eq!(before - fake_ats::live_conts(), 3);
    }

    #[test]
    fn after_a_panic_the_handler_lets_go_and_is_not_called_again() {
        let fake = FakeTxn::new();
        let (script, seen, ends) = script(Some(Event::HTTP_POST_REMAP));
        drop(attach(&fake, script, &[HookId::POST_REMAP, HookId::SEND_RESPONSE_HDR]));
        run(&fake);
        assert_eq!(*seen.borrow(), [Event::HTTP_POST_REMAP, Event::ERROR]);
        assert_eq!(fake.take_reenables(), [ERROR, CONTINUE, CONTINUE]);
        assert_eq!(ends.get(), 1);
        let next = FakeTxn::new();
        let (script, seen, _) = self::script(None);
        drop(attach(&next, script, &[]));
        run(&next);
        assert_eq!(*seen.borrow(), [Event::HTTP_TXN_CLOSE], "what is kept has forgotten the panic");
    }

    #[test]
    fn data_that_cannot_be_made_leaves_its_place() {
        guard::install_panic_hook();
        fake_ats::on_event_thread();
        guard!("making", on_panic = (), {
            let _never = Prepared::<Script>::new(|| panic!("as asked"));
        });
        assert_eq!(kept(), 1);
    }

    #[test]
    fn foreign_threads_prepare_nothing() {
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(Prepared::new(Script::default).is_err()));
        });
    }
}

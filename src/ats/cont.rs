//! Continuations: what ATS calls back.
//!
//! A [`Handler`] is called through one trampoline, generic over its type. Traps, and what stands against them here:
//!
//! - *Re-entry.* Re-enabling a transaction inside a handler may call the same handler again, further down the same
//!   stack. So a handler gets `&self`, and must hold no lock or `RefCell` borrow at that point.
//! - *Destruction inside the handler*, usual at TXN_CLOSE, and possible in such a nested call while outer ones still
//!   run. The data is reference-counted: each call on the stack keeps it alive.
//! - *Destruction with hooks or timers out.* ATS aborts when it calls a freed continuation. One that was added to a
//!   transaction outlives its TXN_CLOSE, whoever drops it before; pending timers are cancelled first.
//! - *A panic.* The handler is not called again, but for [`Handler::abandon`]: hook events are re-enabled, and
//!   TXN_CLOSE destroys the continuation.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use ats_sys::{
    TSCont, TSContCreate, TSContDataGet, TSContDataSet, TSContDestroy, TSEvent, TSEventFunc, TSMutex, TSMutexCreate,
    TSMutexLock, TSMutexUnlock, TSVConnCreate, tsapi_cont, tsapi_httptxn, tsapi_mutex,
};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::hook::Hook;
use crate::schedule::{Pending, ScheduledAction};
use crate::thread::require_ats_thread;
use crate::{guard, log};

/// What a continuation does.
///
/// `Send`, since ATS may deliver an event on another of its threads; never two at a time, since the continuation's
/// mutex is held during a call (one made [without a mutex](Continuation::without_mutex) must be `Sync` instead).
pub trait Handler: Send + Sized + 'static {
    /// Names the handler in the log, if it panics.
    const NAME: &'static str;

    /// Handles one event.
    fn handle(&self, cont: ContRef<'_, Self>, event: Event, edata: Edata);

    /// After a panic in [`Self::handle`], which is never called again. The stack is unwound, and a transaction that
    /// waits for us does not go on before this returns: let go of what belongs to it.
    fn abandon(&self) {}
}

/// What came with an event.
#[derive(Debug)]
#[must_use = "a hook must be re-enabled"]
pub enum Edata {
    /// A transaction hook ([`Event::is_txn_hook`]): the transaction waits for this to be used.
    Hook(Hook),
    /// A timer of this continuation fired.
    Timer(ScheduledAction),
    /// Anything else, as ATS has it.
    Other(*mut c_void),
}

/// What the continuation, its owner, and each call that is on the stack share.
pub(crate) struct Inner<T> {
    data: T,
    pub(crate) cont: NonNull<tsapi_cont>,
    pub(crate) mutex: Option<NonNull<tsapi_mutex>>,
    pub(crate) pending: Pending,
    /// The transaction whose TXN_CLOSE is still to come, or null.
    bound: AtomicPtr<tsapi_httptxn>,
    /// Destroy it once it is bound no more.
    unwanted: AtomicBool,
    pub(crate) destroyed: AtomicBool,
    poisoned: AtomicBool,
}

// SAFETY: `data` is only reached with the continuation's mutex held (by ATS around a call, by `with_lock`), or it is
// `Sync` (`without_mutex`); `T: Send` lets it be dropped anywhere. The pointers are ATS objects that any ATS thread may
// use, and what would use them checks for that.
unsafe impl<T: Send> Send for Inner<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send> Sync for Inner<T> {}

/// What makes a continuation: `TSContCreate`, `TSVConnCreate`.
type Create = unsafe extern "C" fn(TSEventFunc, TSMutex) -> TSCont;

/// A continuation (`TSCont`) and its owner: dropping this destroys it, or, if it was added to a transaction, has it
/// destroyed after that one's TXN_CLOSE.
pub struct Continuation<T: Handler> {
    inner: Arc<Inner<T>>,
}

/// A continuation, to be used but not owned.
pub struct ContRef<'c, T> {
    pub(crate) inner: &'c Arc<Inner<T>>,
}

impl<T> Clone for ContRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ContRef<'_, T> {}

impl<T: Handler> Continuation<T> {
    /// A continuation with a mutex of its own (`TSContCreate`, `TSMutexCreate`).
    ///
    /// One per transaction, not one shared: a hook whose mutex is taken is retried by ATS after 10 ms.
    ///
    /// # Errors
    /// [`Error::ForeignThread`]; it works on ATS's threads, and on attached ones.
    pub fn new(data: T) -> Result<Self> {
        require_ats_thread("TSContCreate")?;
        // SAFETY: an ATS thread. The continuation below takes the mutex over, and frees it with itself.
        Self::create(data, NonNull::new(unsafe { TSMutexCreate() }), TSContCreate)
    }

    /// A continuation with a mutex of its own that is a virtual connection, too (`TSVConnCreate`). ATS keeps its memory
    /// when it is destroyed, since it is never closed.
    pub(crate) fn of_connection(data: T) -> Result<Self> {
        require_ats_thread("TSVConnCreate")?;
        // SAFETY: as above.
        Self::create(data, NonNull::new(unsafe { TSMutexCreate() }), TSVConnCreate)
    }

    /// A continuation without a mutex: ATS takes no lock to call it, and it cannot be scheduled.
    ///
    /// # Errors
    /// As for [`Self::new`].
    pub fn without_mutex(data: T) -> Result<Self>
    where
        T: Sync,
    {
        require_ats_thread("TSContCreate")?;
        Self::create(data, None, TSContCreate)
    }

    fn create(data: T, mutex: Option<NonNull<tsapi_mutex>>, make: Create) -> Result<Self> {
        let raw_mutex = mutex.map_or(ptr::null_mut(), NonNull::as_ptr);
        // SAFETY: an ATS thread (all callers check); the trampoline is for the data that is set below.
        let cont = unsafe { make(Some(trampoline::<T>), raw_mutex) };
        let cont = NonNull::new(cont).ok_or(Error::Refused("TSContCreate"))?;
        let inner = Arc::new(Inner {
            data,
            cont,
            mutex,
            pending: Pending::default(),
            bound: AtomicPtr::new(ptr::null_mut()),
            unwanted: AtomicBool::new(false),
            destroyed: AtomicBool::new(false),
            poisoned: AtomicBool::new(false),
        });
        let shared = Arc::into_raw(Arc::clone(&inner)).cast_mut();
        // SAFETY: a continuation of ours; it holds one reference from here on, which `Inner::destroy` takes back.
        unsafe { TSContDataSet(cont.as_ptr(), shared.cast::<c_void>()) };
        Ok(Self { inner })
    }

    /// The continuation, to add to hooks or to schedule.
    #[must_use]
    pub fn as_ref(&self) -> ContRef<'_, T> {
        ContRef { inner: &self.inner }
    }

    /// Calls `f` with the handler, under the continuation's mutex (`TSMutexLock`).
    ///
    /// # Errors
    /// [`Error::NoMutex`]; [`Error::ForeignThread`], on which the lock would lock nothing.
    pub fn with_lock<R>(&self, f: impl FnOnce(&T) -> R) -> Result<R> {
        let _lock = MutexLock::take(self.inner.mutex.ok_or(Error::NoMutex)?)?;
        Ok(f(&self.inner.data))
    }
}

impl<T: Handler> Drop for Continuation<T> {
    fn drop(&mut self) {
        self.inner.destroy();
    }
}

impl<T: Handler> ContRef<'_, T> {
    /// Destroys the continuation (`TSContDestroy`), its timers cancelled; its data goes when no call on the stack uses
    /// it any more. If it still waits for a transaction's TXN_CLOSE, it is destroyed after that.
    ///
    /// Inside the handler, do this before re-enabling the transaction.
    pub fn destroy(self) {
        self.inner.destroy();
    }

    /// The pointer, as ATS has it. Not to be used once the continuation is destroyed.
    #[must_use]
    pub fn as_raw(self) -> TSCont {
        self.inner.cont.as_ptr()
    }

    /// Keeps the continuation alive until TXN_CLOSE of `txn`.
    pub(crate) fn bind(self, txn: NonNull<tsapi_httptxn>) -> Result<()> {
        if self.inner.destroyed.load(Ordering::Acquire) {
            return Err(Error::Destroyed);
        }
        let (none, txn) = (ptr::null_mut(), txn.as_ptr());
        match self.inner.bound.compare_exchange(none, txn, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(bound) if bound == txn => Ok(()),
            Err(_) => Err(Error::OtherTransaction),
        }
    }
}

impl<T: Handler> Inner<T> {
    /// The handler; for [`crate::share::Shared`], which asks for `T: Sync`.
    pub(crate) fn data(&self) -> &T {
        &self.data
    }

    fn destroy(&self) {
        if !self.bound.load(Ordering::Acquire).is_null() {
            self.unwanted.store(true, Ordering::Release);
            return;
        }
        // The mutex keeps a call that is about to start on another thread from finding the data half gone.
        let lock = match self.mutex.map(MutexLock::take).transpose() {
            Ok(lock) if require_ats_thread("TSContDestroy").is_ok() => lock,
            _ => {
                // A leak that is logged, instead of a crash.
                log::error(format_args!("{}: a continuation was dropped on a foreign thread; it leaks", T::NAME));
                return;
            }
        };
        if self.destroyed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.pending.cancel_all();
        let cont = self.cont.as_ptr();
        // SAFETY: not destroyed yet (the flag was not set). From here on, a call that was already on its way finds
        // null and does nothing.
        let shared = unsafe {
            let shared = TSContDataGet(cont).cast::<Self>();
            TSContDataSet(cont, ptr::null_mut());
            shared
        };
        // Before the continuation, which may free the mutex with itself.
        drop(lock);
        // SAFETY: an ATS thread, the only destruction, nothing pending, and no hook that could still fire.
        unsafe { TSContDestroy(cont) };
        // SAFETY: the reference that `create` gave to the continuation, taken back once; the caller has its own.
        drop(unsafe { Arc::from_raw(shared) });
    }
}

/// Holds a continuation's mutex (`TSMutexLock`), which one thread may take several times.
pub(crate) struct MutexLock(NonNull<tsapi_mutex>);

impl MutexLock {
    pub(crate) fn take(mutex: NonNull<tsapi_mutex>) -> Result<Self> {
        require_ats_thread("TSMutexLock")?;
        // SAFETY: a live mutex (its continuation is alive), on an ATS thread.
        unsafe { TSMutexLock(mutex.as_ptr()) };
        Ok(Self(mutex))
    }
}

impl Drop for MutexLock {
    fn drop(&mut self) {
        // SAFETY: taken by `take` on this thread (a raw pointer inside keeps it here).
        unsafe { TSMutexUnlock(self.0.as_ptr()) };
    }
}

/// What ATS calls for every continuation over a `T`.
unsafe extern "C" fn trampoline<T: Handler>(cont: TSCont, event: TSEvent, edata: *mut c_void) -> c_int {
    let event = Event::from_raw(event);
    let mut keep = None;
    guard::run(T::NAME, (), || {
        // The duty comes first: whatever happens below, the transaction goes on.
        // SAFETY: ATS calls a transaction hook with its transaction, on its thread, and waits for us to re-enable it.
        let hook = event.is_txn_hook().then(|| unsafe { Hook::from_raw(edata.cast()) }).flatten();
        // SAFETY: ATS calls continuations that live.
        let shared = unsafe { TSContDataGet(cont) }.cast::<Inner<T>>().cast_const();
        if shared.is_null() {
            // Destroyed, and this event was already on its way.
            return hook.map_or((), Hook::resume);
        }
        // SAFETY: the continuation's own reference, made from an `Arc<Inner<T>>` in `create`, is alive as long as the
        // data is set; this adds one for this call.
        let inner = unsafe {
            Arc::increment_strong_count(shared);
            Arc::from_raw(shared)
        };
        call(keep.insert(inner), event, hook, edata);
    });
    // Perhaps the last reference. Under a guard of its own: a destructor that panicked while the guard above unwound
    // the handler's panic would abort the process.
    guard::run(T::NAME, (), || drop(keep));
    // No event that we ask for has an answer.
    0
}

fn call<T: Handler>(inner: &Arc<Inner<T>>, event: Event, hook: Option<Hook>, edata: *mut c_void) {
    let closing = event == Event::HTTP_TXN_CLOSE
        && inner.bound.compare_exchange(edata.cast(), ptr::null_mut(), Ordering::AcqRel, Ordering::Acquire).is_ok();
    let timer = if event.is_timer() { inner.pending.fired(edata) } else { None };
    let after = AfterCall { inner, closing };
    if inner.poisoned.load(Ordering::Acquire) {
        drop(after);
        return hook.map_or((), Hook::resume);
    }
    let edata = match (hook, timer) {
        (Some(hook), _) => Edata::Hook(hook),
        (None, Some(timer)) => Edata::Timer(timer),
        (None, None) => Edata::Other(edata),
    };
    inner.data.handle(ContRef { inner }, event, edata);
    drop(after);
}

/// What follows a call of the handler, by return or by panic.
struct AfterCall<'c, T: Handler> {
    inner: &'c Arc<Inner<T>>,
    /// It was the TXN_CLOSE of the transaction that the continuation was bound to.
    closing: bool,
}

impl<T: Handler> Drop for AfterCall<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inner.poisoned.store(true, Ordering::Release);
            // Runs before the re-enabling that the hook's own destructor put off: the latest comes first.
            let inner = Arc::clone(self.inner);
            guard::after_unwinding(move || guard::run(T::NAME, (), || inner.data.abandon()));
        }
        let unwanted = self.inner.unwanted.load(Ordering::Acquire) || self.inner.poisoned.load(Ordering::Acquire);
        if self.closing && unwanted {
            self.inner.destroy();
        }
    }
}

#[cfg(test)]
#[path = "cont_test.rs"]
mod tests;

//! Transforms: what reads a body on its way through ATS, and writes another (`TSTransformCreate`).
//!
//! Upstream (the client, the origin, the cache, another transform) writes into a transform's *input*; the transform
//! writes to its *output*, when it sees fit and as much as it likes, from a buffer that it fills. How ATS goes on:
//!
//! - The first event comes with the first bytes, or with the end. The message's header is sent when the output is
//!   opened: until then it may be changed, or the body refused by [`Transform::fail`].
//! - A request's output must be opened with its exact length, or ATS drops the connection.
//! - Upstream may be told that all is read ([`Transform::upstream_complete`]) as early as one likes, but from then on
//!   nothing can fail any more: ATS would not listen.
//! - Once the downstream side has taken all, the output is to be shut down ([`Transform::output_shutdown`]).
//!
//! **Threads.** The mutex is the transaction's own (`TSTransformCreate` takes it over), and all events come on its event
//! thread, to which the transform is bound (`TSContThreadAffinitySet`). So handlers need not be `Send`.
//!
//! **The end.** ATS closes a transform with the transaction, or before; one that was never started too. The trampoline
//! looks for that at each event, takes timers and buffer back, and tells the handler once. The continuation itself
//! lives on until the transaction is over, for which it is added to TXN_CLOSE: ATS, when a transform fails before its
//! output was opened, closes it a second time then (`HttpSM::transform_cleanup`), and aborts if it is gone.
//!
//! A transform that ATS has left open when the transaction is over it has forgotten: soon after, the handler is told that it is
//! closed, by an abort.
//!
//! The other traps of [`crate::cont`] are met as there: a handler gets a shared reference, each call on the stack keeps
//! the data alive, and after a panic the handler is only called to [let go](TransformHandler::abandon) and to close.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ats_sys::{
    TS_HTTP_REQUEST_TRANSFORM_HOOK, TS_HTTP_RESPONSE_TRANSFORM_HOOK, TS_VC_CLOSE_ABORT, TSCont, TSContDataGet,
    TSContDataSet, TSContDestroy, TSContThreadAffinitySet, TSEvent, TSHttpHookID, TSHttpTxnHookAdd, TSTransformCreate,
    TSTransformOutputVConnGet, TSVConnClose, TSVConnClosedGet, TSVConnShutdown, tsapi_cont, tsapi_httptxn, tsapi_vio,
};

use crate::error::{Error, Result};
use crate::event::{Event, HookId};
use crate::hook::Hook;
use crate::iobuf::IoBuffer;
use crate::schedule::ScheduledAction;
use crate::thread::EventThread;
use crate::transform_io::Transform;
use crate::txn::Txn;
use crate::wake::{Timers, Waker};
use crate::{guard, log};

/// Which body is transformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransformSide {
    /// The client's, on its way to the origin (`TS_HTTP_REQUEST_TRANSFORM_HOOK`).
    Request,
    /// The origin's or the cache's, on its way to the client (`TS_HTTP_RESPONSE_TRANSFORM_HOOK`).
    Response,
}

impl TransformSide {
    pub(crate) fn hook(self) -> TSHttpHookID {
        match self {
            Self::Request => TS_HTTP_REQUEST_TRANSFORM_HOOK,
            Self::Response => TS_HTTP_RESPONSE_TRANSFORM_HOOK,
        }
    }
}

/// How long a transform that ATS has left open stays when the transaction is over: events of its output, which nobody
/// answers any more, may be on their way.
const LINGER: Duration = Duration::from_millis(100);

/// What a transform is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransformEvent {
    /// Upstream did something: wrote, or came to know the end, or ended the input.
    Input,
    /// The output was read from, and takes more.
    OutputReady,
    /// All `nbytes` of the output were read: shut it down.
    OutputComplete,
    /// The downstream side wants no more, though it may be given to.
    OutputEnded,
    /// The downstream side, another transform, failed. To fail as well is the usual answer.
    Error,
    /// [`TransformRef::wake`] or [`Waker::wake`] was called since.
    Wake,
    /// A timer of this transform fired.
    Timer(ScheduledAction),
    /// Anything else.
    Other(Event),
}

/// What a transform does.
pub trait TransformHandler: Sized + 'static {
    /// Names the handler in the log, if it panics.
    const NAME: &'static str;

    /// Handles one event, on the transaction's event thread.
    ///
    /// What tells upstream something may call [`Self::closed`] before it returns: no borrow may be held at that point.
    fn handle(this: &TransformRef<Self>, transform: &mut Transform<'_>, event: TransformEvent);

    /// The transform was closed, by an abort or not: let go of what belongs to it. Called once, also after a panic, and
    /// if the transform was never started (which is no abort); [`Self::handle`] is not called any more.
    ///
    /// It comes before the TXN_CLOSE of others, or after it: by its own TXN_CLOSE ATS has closed every transform.
    fn closed(&self, aborted: bool);

    /// After a panic in [`Self::handle`], which is never called again. The stack is unwound, and upstream is told of an
    /// error afterwards.
    fn abandon(&self) {}
}

struct Node<T> {
    core: Core,
    data: T,
}

/// All but the handler's own.
pub(crate) struct Core {
    pub(crate) vconn: NonNull<tsapi_cont>,
    home: EventThread,
    pub(crate) side: TransformSide,
    timers: Arc<Timers>,
    waker: RefCell<Option<Waker>>,
    pub(crate) output: Cell<Option<NonNull<tsapi_vio>>>,
    /// What the output reads from. ATS keeps the address of its reader until the output is closed.
    pub(crate) buffer: RefCell<Option<IoBuffer>>,
    /// Until TXN_CLOSE.
    pub(crate) txn: Cell<Option<NonNull<tsapi_httptxn>>>,
    /// Upstream has been told the end.
    pub(crate) ended: Cell<bool>,
    /// ATS has left it behind, open: when that ends.
    lingering: Cell<Option<ScheduledAction>>,
    forgotten: Cell<bool>,
    /// The handler has been told of the closing.
    released: Cell<bool>,
    poisoned: Cell<bool>,
    destroyed: Cell<bool>,
    /// Calls on the stack.
    depth: Cell<u32>,
}

/// A transform's handler. Keeps it alive, also when the transform is closed, and wakes it; stays on its thread.
pub struct TransformRef<T>(Rc<Node<T>>);

impl<T> Clone for TransformRef<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T> Deref for TransformRef<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.data
    }
}

impl<T> TransformRef<T> {
    /// Has the transform called with [`TransformEvent::Wake`], never before this returns, and once for any number of
    /// times until then (`TSContScheduleOnThread`). `false` once it is closed.
    pub fn wake(&self) -> bool {
        self.0.core.timers.wake().is_ok()
    }

    /// What wakes it from other threads.
    ///
    /// # Errors
    /// [`Error::Destroyed`]: it is closed.
    pub fn waker(&self) -> Result<Waker> {
        let core = &self.0.core;
        if core.released.get() {
            return Err(Error::Destroyed);
        }
        if let Some(waker) = &*core.waker.borrow() {
            return Ok(waker.clone());
        }
        // Kept here as well: a wake-up must not be lost because the waker was dropped after it.
        let waker = Waker::new(Arc::clone(&core.timers))?;
        *core.waker.borrow_mut() = Some(waker.clone());
        Ok(waker)
    }

    /// Calls the transform after `delay`, with [`TransformEvent::Timer`] (`TSContScheduleOnThread`).
    ///
    /// # Errors
    /// [`Error::Destroyed`]: it is closed.
    pub fn schedule(&self, delay: Duration) -> Result<ScheduledAction> {
        self.0.core.timers.schedule(delay)
    }

    /// Takes a call back (`TSActionCancel`); `false` if it has been made already, or taken back, as at the closing.
    pub fn cancel(&self, action: ScheduledAction) -> bool {
        self.0.core.timers.cancel(action).unwrap_or(false)
    }

    /// Whether its output is open: begun, and neither shut down nor closed.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        let core = &self.0.core;
        core.closed() == 0 && core.output.get().is_some()
    }

    /// Whether the handler has been told that the transform is closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.core.released.get()
    }
}

impl<T> fmt::Debug for TransformRef<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransformRef").field("side", &self.0.core.side).finish_non_exhaustive()
    }
}

impl Txn<'_> {
    /// Has `handler` transform this body, after those that were added before (`TSTransformCreate`, `TSHttpTxnHookAdd`).
    ///
    /// Before the body is on its way: in DoRemap or a hook before it; READ_RESPONSE_HDR is the last for a response.
    ///
    /// # Errors
    /// [`Error::ForeignThread`].
    pub fn transform_add<T: TransformHandler>(self, side: TransformSide, handler: T) -> Result<TransformRef<T>> {
        let home = EventThread::current().ok_or(Error::ForeignThread("TSTransformCreate"))?;
        // SAFETY: a live transaction on its thread; the trampoline is for the data that is set below.
        let vconn = unsafe { TSTransformCreate(Some(trampoline::<T>), self.as_raw()) };
        let vconn = NonNull::new(vconn).ok_or(Error::Refused("TSTransformCreate"))?;
        let core = Core {
            vconn,
            home,
            side,
            timers: Arc::new(Timers::new(vconn, home)),
            waker: RefCell::default(),
            output: Cell::new(None),
            buffer: RefCell::default(),
            txn: Cell::new(NonNull::new(self.as_raw())),
            ended: Cell::new(false),
            lingering: Cell::new(None),
            forgotten: Cell::new(false),
            released: Cell::new(false),
            poisoned: Cell::new(false),
            destroyed: Cell::new(false),
            depth: Cell::new(0),
        };
        let node = Rc::new(Node { core, data: handler });
        // The continuation's reference, which `Core::destroy` takes back.
        let shared = Rc::into_raw(Rc::clone(&node)).cast_mut().cast::<c_void>();
        if side == TransformSide::Request {
            // SAFETY: just made, on this thread.
            let _: bool = unsafe { crate::transform_guard::protect(vconn) };
        }
        // SAFETY: a transform of ours that lives until it had both its closing and its TXN_CLOSE; a live transaction.
        unsafe {
            TSContDataSet(vconn.as_ptr(), shared);
            TSContThreadAffinitySet(vconn.as_ptr(), home.as_raw());
            TSHttpTxnHookAdd(self.as_raw(), side.hook(), vconn.as_ptr());
            TSHttpTxnHookAdd(self.as_raw(), HookId::TXN_CLOSE.as_raw(), vconn.as_ptr());
        }
        Ok(TransformRef(node))
    }
}

impl Core {
    /// `TSVConnClosedGet`: 0, or how it was closed.
    pub(crate) fn closed(&self) -> c_int {
        if self.released.get() || self.forgotten.get() {
            return TS_VC_CLOSE_ABORT;
        }
        // SAFETY: not destroyed, or it would have been released before.
        unsafe { TSVConnClosedGet(self.vconn.as_ptr()) }
    }

    /// Where the output goes, between the start of the transform and its closing.
    pub(crate) fn output_vconn(&self) -> Option<NonNull<tsapi_cont>> {
        // SAFETY: the callers have a transform that is not closed.
        NonNull::new(unsafe { TSTransformOutputVConnGet(self.vconn.as_ptr()) })
    }

    /// TXN_CLOSE. ATS has closed all transforms that it knows by now; one that was added too late it has not, and one whose
    /// body it gave up on ([`Txn::server_drop`]) it leaves behind, with whatever leads to it.
    fn transaction_over(&self) {
        self.txn.set(None);
        if self.closed() != 0 {
            return;
        }
        if self.output_vconn().is_none() {
            // SAFETY: alive, and never started, so that nobody else will close it. Its event is still to come.
            unsafe { TSVConnClose(self.vconn.as_ptr()) };
        } else {
            // Without a timer it stays, and leaks.
            self.lingering.set(self.timers.schedule(LINGER).ok());
        }
    }

    /// It has lingered. To close it would have its output call who read from that: a tunnel that is no more.
    fn forget(&self) {
        if let Some(output) = self.output.take().and_then(|_| self.output_vconn()) {
            // SAFETY: a connection of this thread. What ATS reads at the end of the row it never frees then; another transform of
            // the row lingers as well, and behind us: it was added, and its TXN_CLOSE came, after ours. Its reader goes with us.
            unsafe { TSVConnShutdown(output.as_ptr(), 0, 1) };
        }
        self.forgotten.set(true);
    }
}

/// What ATS calls for every transform of a `T`.
unsafe extern "C" fn trampoline<T: TransformHandler>(cont: TSCont, event: TSEvent, edata: *mut c_void) -> c_int {
    let event = Event::from_raw(event);
    let mut keep = None;
    guard::run(T::NAME, (), || {
        let closing = event == Event::HTTP_TXN_CLOSE;
        // SAFETY: ATS calls a transaction hook with its transaction, on its thread, and waits for us to re-enable it.
        let hook = closing.then(|| unsafe { Hook::from_raw(edata.cast()) }).flatten();
        // SAFETY: ATS calls continuations that live.
        let node = unsafe { TSContDataGet(cont) }.cast::<Node<T>>().cast_const();
        // SAFETY: if not null, what `transform_add` made of an `Rc`, whose reference lasts until the data is taken
        // back; this field never changes, so that any thread may read it.
        if node.is_null() || !unsafe { (*node).core.home }.is_current() {
            log::error(format_args!("{}: a transform was called on another thread, or after its end", T::NAME));
            return hook.map_or((), Hook::resume);
        }
        // SAFETY: as above, and on the thread that counts the references. This adds one for this call.
        let node = unsafe {
            Rc::increment_strong_count(node);
            Rc::from_raw(node)
        };
        call(keep.insert(TransformRef(node)), event, hook, edata);
    });
    // Perhaps the last reference, under a guard of its own, as in `cont`.
    guard::run(T::NAME, (), || drop(keep));
    0
}

fn call<T: TransformHandler>(this: &TransformRef<T>, event: Event, hook: Option<Hook>, edata: *mut c_void) {
    let core = &this.0.core;
    let entered = Entered::new(this);
    let timer = if event.is_timer() { core.timers.fired(edata) } else { None };
    if hook.is_some() {
        core.transaction_over();
    }
    if timer.is_some_and(|(action, _)| core.lingering.get() == Some(action)) && core.closed() == 0 {
        core.forget();
    }
    if core.closed() != 0 {
        release(this);
    } else if core.poisoned.get() {
        // The handler would have done this.
        if event == Event::VCONN_WRITE_COMPLETE {
            Transform::of(core).output_shutdown();
        }
    } else if hook.is_none() {
        let event = match (event, timer) {
            (_, Some((_, true))) => TransformEvent::Wake,
            (_, Some((action, false))) => TransformEvent::Timer(action),
            (Event::IMMEDIATE | Event::TIMEOUT, None) => TransformEvent::Input,
            (Event::VCONN_WRITE_READY, None) => TransformEvent::OutputReady,
            (Event::VCONN_WRITE_COMPLETE, None) => TransformEvent::OutputComplete,
            (Event::VCONN_EOS, None) => TransformEvent::OutputEnded,
            (Event::ERROR, None) => TransformEvent::Error,
            (other, None) => TransformEvent::Other(other),
        };
        T::handle(this, &mut Transform::of(core), event);
    }
    drop(entered);
    // Last of all: the transaction runs on, and ends.
    if let Some(hook) = hook {
        hook.resume();
    }
}

/// The transform is closed: takes back what ATS had of it, and tells the handler.
fn release<T: TransformHandler>(this: &TransformRef<T>) {
    let core = &this.0.core;
    let aborted = core.closed() == TS_VC_CLOSE_ABORT;
    if core.released.replace(true) {
        return;
    }
    core.timers.close();
    core.output.set(None);
    // Its reader is known to nobody any more: ATS closes the output with the transform.
    let buffer = core.buffer.take();
    let waker = core.waker.take();
    this.0.data.closed(aborted);
    drop((buffer, waker));
}

/// A call of the transform on the stack. With the last one, if the transform and its transaction are over, it ends.
struct Entered<'c, T: TransformHandler>(&'c TransformRef<T>);

impl<'c, T: TransformHandler> Entered<'c, T> {
    fn new(this: &'c TransformRef<T>) -> Self {
        let depth = &this.0.core.depth;
        depth.set(depth.get() + 1);
        Self(this)
    }
}

impl<T: TransformHandler> Drop for Entered<'_, T> {
    fn drop(&mut self) {
        let core = &self.0.0.core;
        core.depth.set(core.depth.get() - 1);
        if std::thread::panicking() && !core.released.get() {
            core.poisoned.set(true);
            let this = self.0.clone();
            guard::after_unwinding(move || guard::run(T::NAME, (), || fail(&this)));
            // Runs first: the latest does.
            let this = self.0.clone();
            guard::after_unwinding(move || guard::run(T::NAME, (), || this.abandon()));
        }
        let over = core.released.get() && core.txn.get().is_none();
        if over && core.depth.get() == 0 && !core.destroyed.replace(true) {
            destroy(&self.0.0);
        }
    }
}

/// After a panic: the transaction must end.
fn fail<T: TransformHandler>(this: &TransformRef<T>) {
    let _entered = Entered::new(this);
    Transform::of(&this.0.core).fail();
}

/// The end of the continuation, in an event of its own that ATS has counted.
fn destroy<T>(node: &Rc<Node<T>>) {
    let vconn = node.core.vconn.as_ptr();
    // SAFETY: an event of the transform on its thread; it is closed, nothing of ours is pending and no hook is to come.
    // ATS frees it now, or with the last of its own events that are still on their way, for which it calls us no more.
    unsafe {
        TSContDataSet(vconn, std::ptr::null_mut());
        TSContDestroy(vconn);
    }
    // SAFETY: the continuation's reference, which `transform_add` gave it, taken back once; the caller has its own.
    unsafe { Rc::decrement_strong_count(Rc::as_ptr(node)) };
}

#[cfg(test)]
#[path = "transform_test.rs"]
pub(crate) mod tests;

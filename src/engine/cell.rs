//! What a stream's contexts and its host share: the place where the host waits between callbacks, and the
//! effects that hostcalls asked for.
//!
//! **Invariant.** A hostcall never acts on the proxy: it records an [`Effects`] here, and the host applies it
//! once the VM is left and its lock released, because resuming a transaction may run the proxy's state machine
//! (next hooks and the close included) inside the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use parking_lot::{Mutex, MutexGuard};

use crate::body::{Bodies, BodyBuffer, Side};
use crate::error::Error;
use crate::host::{LocalResponse, StreamHost, Waker};

/// What hostcalls asked for and nobody has applied yet.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// By side: the filters that `proxy_continue_stream` resumes, a bit each.
    pub(crate) continued: [u64; 2],
    /// By side: the filters that want to see no (more) of the body, a bit each.
    pub(crate) declined: [u64; 2],
    /// `proxy_close_stream` of either side.
    pub(crate) close: bool,
    /// `proxy_send_local_response`; the first one wins.
    pub(crate) local_response: Option<Box<LocalResponse>>,
    /// Whether any of the above is set.
    pub(crate) any: bool,
}

impl Effects {
    /// Takes over what `other` asks for; an answer that is there already wins.
    pub(crate) fn merge(&mut self, other: Effects) {
        for side in Side::ALL {
            self.continued[side as usize] |= other.continued[side as usize];
            self.declined[side as usize] |= other.declined[side as usize];
        }
        self.close |= other.close;
        self.any |= other.any;
        if self.local_response.is_none() {
            self.local_response = other.local_response;
        }
    }
}

/// A value kept by `set_property`, for later callbacks and filters of the same stream.
#[derive(Default)]
struct Property {
    path: Vec<u8>,
    value: Vec<u8>,
    /// Whoever set it had declared that nobody may set it again.
    read_only: bool,
}

/// The values of one stream. What the stream before allocated for its own serves again, if it is little.
#[derive(Default)]
struct Properties {
    all: Vec<Property>,
    /// How many of them are this stream's; what follows is room.
    used: usize,
}

impl Properties {
    /// More than this is not kept for another stream.
    const KEPT: usize = 1 << 10;

    fn iter(&self) -> impl Iterator<Item = &Property> {
        self.all[..self.used].iter()
    }

    /// None is kept, and of their room no more than most streams need.
    fn clear(&mut self) {
        self.all.truncate(8);
        self.all.shrink_to(8);
        for property in &mut self.all {
            if property.path.capacity() + property.value.capacity() > Self::KEPT {
                *property = Property::default();
            }
        }
        self.used = 0;
    }

    fn push(&mut self, path: &[u8], value: &[u8], read_only: bool) {
        if self.used == self.all.len() {
            self.all.push(Property::default());
        }
        let property = &mut self.all[self.used];
        self.used += 1;
        property.path.clear();
        property.path.extend_from_slice(path);
        property.value.clear();
        property.value.extend_from_slice(value);
        property.read_only = read_only;
    }
}

#[derive(Default)]
struct Inner {
    /// Here while the stream is paused, or may be acted on by callbacks of other contexts; else with its driver.
    host: Option<Box<dyn StreamHost>>,
    effects: Effects,
    properties: Properties,
    bodies: Bodies,
    /// A driver is waiting for effects: whoever records one must wake the host.
    parked: bool,
    /// The stream has ended; a host that comes back late is dropped.
    closed: bool,
    waker: Option<Waker>,
}

/// The shared part of one stream. Cheap to clone as an `Arc`.
pub struct StreamCell {
    /// The number of the chain's label, for log lines.
    label: AtomicU64,
    /// The chain and the filters of it that take part: streams of one kind begin alike.
    kind: (AtomicU64, AtomicU64),
    /// Somebody looked into what follows since the stream began: it may not be as it was then.
    touched: AtomicBool,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for StreamCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StreamCell").finish_non_exhaustive()
    }
}

impl StreamCell {
    pub(crate) fn new(bodies: Bodies, label: u64) -> Arc<Self> {
        Arc::new(StreamCell {
            kind: (AtomicU64::new(0), AtomicU64::new(0)),
            label: AtomicU64::new(label),
            touched: AtomicBool::new(false),
            inner: Mutex::new(Inner { bodies, ..Inner::default() }),
        })
    }

    /// The number of the chain's label.
    pub(crate) fn label(&self) -> u64 {
        self.label.load(Ordering::Relaxed)
    }

    /// Makes the cell of a stream that is over the cell of another one. False if somebody else still has it: there must be
    /// no more than `own` references, which are the caller's. `kind` says what streams begin alike.
    #[inline]
    pub(crate) fn begin_again(
        self: &Arc<Self>,
        own: usize,
        kind: (u64, u64),
        label: u64,
        bodies: impl FnOnce() -> Bodies,
    ) -> bool {
        if Arc::strong_count(self) != own {
            return false;
        }
        // What others did to it before they let go of it has happened.
        fence(Ordering::Acquire);
        let known = (self.kind.0.load(Ordering::Relaxed), self.kind.1.load(Ordering::Relaxed));
        if known != kind || self.touched.load(Ordering::Relaxed) {
            self.kind.0.store(kind.0, Ordering::Relaxed);
            self.kind.1.store(kind.1, Ordering::Relaxed);
            self.label.store(label, Ordering::Relaxed);
            self.begin_touched(bodies());
        }
        true
    }

    /// The stream is over, and its cell waits for another one, which may never come: what is the host's goes now, and all that
    /// may be large.
    #[inline]
    pub(crate) fn rest(&self) {
        if self.touched.load(Ordering::Relaxed) {
            drop(self.close());
            self.empty();
        }
    }

    fn empty(&self) {
        let mut inner = self.lock();
        inner.properties.clear();
        let (effects, bodies) = (std::mem::take(&mut inner.effects), std::mem::take(&mut inner.bodies));
        drop(inner);
        // Outside the lock: a body's memory is the host's.
        drop((effects, bodies));
    }

    fn begin_touched(&self, bodies: Bodies) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        // Both went when the stream ended, unless it had none.
        (inner.host, inner.waker) = (None, None);
        inner.effects = Effects::default();
        inner.properties.clear();
        inner.bodies.begin_again(bodies);
        (inner.parked, inner.closed) = (false, false);
        self.touched.store(false, Ordering::Relaxed);
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.touched.store(true, Ordering::Relaxed);
        self.inner.lock()
    }

    /// Lends the host to a VM. `None` if it is lent already or the stream has ended.
    pub(crate) fn take_host(&self) -> Option<Box<dyn StreamHost>> {
        self.lock().host.take()
    }

    /// Takes the host back. With `parked`, a driver waits for effects from now on.
    pub(crate) fn put_host(&self, host: Option<Box<dyn StreamHost>>, parked: bool) {
        let mut inner = self.lock();
        if host.is_some() {
            inner.host = host;
        }
        inner.parked = parked;
    }

    /// Takes the host back from a callback that was not this stream's own.
    pub(crate) fn return_host(&self, host: Box<dyn StreamHost>) {
        let mut inner = self.lock();
        if !inner.closed {
            inner.host = Some(host);
        }
    }

    /// Records an effect. True if a driver waits for it, so that the caller must see to [`StreamCell::wake`].
    pub(crate) fn record(&self, change: impl FnOnce(&mut Effects)) -> bool {
        let mut inner = self.lock();
        change(&mut inner.effects);
        inner.effects.any = true;
        inner.parked
    }

    /// The effects so far, leaving none.
    pub(crate) fn take_effects(&self) -> Effects {
        std::mem::take(&mut self.lock().effects)
    }

    /// The driver no longer waits for effects.
    pub(crate) fn unpark(&self) {
        self.lock().parked = false;
    }

    /// Asks the host to drive the stream, if it waits.
    pub(crate) fn wake(&self) {
        let mut inner = self.lock();
        if inner.parked
            && let Some(wake) = inner.waker.as_mut()
        {
            wake();
        }
    }

    /// Whom to call when effects come for a parked stream; at once if they are there already.
    pub(crate) fn set_waker(&self, mut waker: Waker) {
        let mut inner = self.lock();
        if inner.parked && inner.effects.any {
            waker();
        }
        inner.waker = Some(waker);
    }

    /// Runs `f` on the host, unless it is lent to a VM or gone.
    pub(crate) fn with_host<R>(&self, f: impl FnOnce(&mut dyn StreamHost) -> R) -> Option<R> {
        let mut inner = self.lock();
        let host = inner.host.as_mut()?;
        Some(f(host.as_mut()))
    }

    /// Appends the value kept for `path` to `out`; false if there is none.
    pub(crate) fn property(&self, path: &[u8], out: &mut Vec<u8>) -> bool {
        let inner = self.lock();
        match inner.properties.iter().find(|property| property.path == path) {
            Some(property) => {
                out.extend_from_slice(&property.value);
                true
            }
            None => false,
        }
    }

    /// Keeps a value for later callbacks and filters; with `read_only`, for good.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if the value that is there may not be replaced, or the stream keeps too many bytes
    /// already.
    pub(crate) fn set_property(&self, path: &[u8], value: &[u8], read_only: bool) -> Result<(), Error> {
        /// What one stream may keep in all, keys included: a guest must not grow the host without bound.
        const LIMIT: usize = 1 << 20;
        let mut inner = self.lock();
        let at = inner.properties.iter().position(|property| property.path == path);
        if at.is_some_and(|at| inner.properties.all[at].read_only) {
            return Err(Error::BadArgument("the property is read-only, and set already"));
        }
        let others = inner.properties.iter().enumerate().filter(|(index, _)| Some(*index) != at);
        let used: usize = others.map(|(_, property)| property.path.len() + property.value.len()).sum();
        if used + path.len() + value.len() > LIMIT {
            return Err(Error::BadArgument("the stream keeps too many properties"));
        }
        match at {
            // A value that was set before somebody declared it keeps its freedom, as in Envoy.
            Some(at) => {
                let own = &mut inner.properties.all[at].value;
                // What is counted is what is kept: not the room of a value that was longer.
                if own.capacity() > Properties::KEPT.max(2 * value.len()) {
                    *own = value.to_vec();
                } else {
                    own.clear();
                    own.extend_from_slice(value);
                }
            }
            None => inner.properties.push(path, value, read_only),
        }
        Ok(())
    }

    /// Runs `f` on what filters have of the bodies. `f` calls nothing of the proxy's that runs its state machine.
    pub(crate) fn with_bodies<R>(&self, f: impl FnOnce(&mut Bodies) -> R) -> R {
        f(&mut self.lock().bodies)
    }

    /// Takes what a filter has of a body.
    pub(crate) fn take_body(&self, filter: usize, side: Side) -> Option<Box<dyn BodyBuffer>> {
        self.with_bodies(|bodies| bodies.take(filter, side))
    }

    /// Ends the stream: later effects fall into the void. The host goes to its last callbacks, and then away.
    pub(crate) fn close(&self) -> Option<Box<dyn StreamHost>> {
        let mut inner = self.lock();
        inner.parked = false;
        inner.closed = true;
        let (host, waker) = (inner.host.take(), inner.waker.take());
        drop(inner);
        // Outside the lock: a waker may hold the last reference to things of the host's.
        drop(waker);
        host
    }
}

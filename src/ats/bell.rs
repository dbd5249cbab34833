//! Calling a handler on an event thread from other threads, at once and with no lock.
//!
//! `TSContScheduleOnThread` holds the continuation's mutex while it puts the event down. The event thread, which that wakes,
//! may look before the mutex is free; ATS then tries again after 10 ms, and with the rest of its loop that is 18. It
//! happened to three of a hundred calls. A virtual connection of a plugin, when it is re-enabled, puts the same event down
//! and takes no mutex (`INKVConnInternal::reenable`).

use std::fmt;
use std::ptr::NonNull;

use ats_sys::{TSContThreadAffinitySet, TSVConnWrite, TSVIOReenable, tsapi_vio};

use crate::cont::{ContRef, Continuation, Handler};
use crate::error::{Error, Result};
use crate::iobuf::IoBuffer;
use crate::thread::EventThread;

/// A handler that is called on one event thread whenever the bell was rung.
///
/// It lives as long as the process: nothing then has to be agreed on between those who ring and an end.
pub struct Bell<T: Handler> {
    cont: Continuation<T>,
    vio: NonNull<tsapi_vio>,
    /// The operation names its reader. No byte ever passes.
    _buffer: IoBuffer,
}

// SAFETY: the operation is only used by `ring`, which any thread may call.
unsafe impl<T: Handler> Send for Bell<T> {}
// SAFETY: as for Send.
unsafe impl<T: Handler> Sync for Bell<T> {}

impl<T: Handler> fmt::Debug for Bell<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell").field("handler", &T::NAME).finish_non_exhaustive()
    }
}

impl<T: Handler> Bell<T> {
    /// A bell that calls `data` on `thread`, which should be one of those that carry transactions: for another one, ATS
    /// picks a thread itself (`TSVConnCreate`, `TSContThreadAffinitySet`, `TSVConnWrite`).
    ///
    /// # Errors
    /// [`Error::ForeignThread`]; memory that ATS refuses.
    pub fn new(data: T, thread: EventThread) -> Result<&'static Bell<T>> {
        let cont = Continuation::of_connection(data)?;
        let buffer = IoBuffer::new()?;
        let raw = cont.as_ref().as_raw();
        // SAFETY: a connection of ours with a mutex, on an ATS thread (`of_connection` checks). It and the buffer, which is
        // empty, so that nothing is called for it, live as long as the process.
        let vio = unsafe {
            TSContThreadAffinitySet(raw, thread.as_raw());
            TSVConnWrite(raw, raw, buffer.raw_reader(), i64::MAX)
        };
        let vio = NonNull::new(vio).ok_or(Error::Refused("TSVConnWrite"))?;
        Ok(Box::leak(Box::new(Bell { cont, vio, _buffer: buffer })))
    }

    /// Has the handler called, with [`crate::event::Event::IMMEDIATE`], once for each time (`TSVIOReenable`). From any
    /// thread, also one that ATS does not know; never before this returns.
    pub fn ring(&'static self) {
        // SAFETY: an operation that lives as long as the process. Of it, only its connection is looked at, for which an
        // event is counted and put down, both atomically.
        unsafe { TSVIOReenable(self.vio.as_ptr()) };
    }

    /// The continuation, to be scheduled.
    #[must_use]
    pub fn as_ref(&self) -> ContRef<'_, T> {
        self.cont.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::cont::Edata;
    use crate::event::Event;

    struct Count(Arc<AtomicUsize>);

    impl Handler for Count {
        const NAME: &'static str = "count";

        fn handle(&self, _cont: ContRef<'_, Self>, event: Event, edata: Edata) {
            assert_eq!(event, Event::IMMEDIATE);
            assert!(matches!(edata, Edata::Other(_)), "{edata:?}");
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn each_ring_is_a_call_and_never_inside_it() {
        fake_ats::on_event_thread();
        let count = Arc::new(AtomicUsize::new(0));
        let thread = EventThread::current().expect("an event thread");
        let bell = Bell::new(Count(Arc::clone(&count)), thread).expect("a bell");
        bell.ring();
        bell.ring();
        assert_eq!(count.load(Ordering::Relaxed), 0);
        fake_ats::run_scheduled();
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_foreign_thread_makes_none() {
        fake_ats::on_event_thread();
        let thread = EventThread::current().expect("an event thread");
        let made = std::thread::spawn(move || Bell::new(Count(Arc::default()), thread).map(|_| ()));
        assert_eq!(made.join().expect("no panic"), Err(Error::ForeignThread("TSVConnCreate")));
    }
}

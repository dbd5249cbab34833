//! ATS's threads, and foreign ones that want to speak to it.

use std::marker::PhantomData;
use std::ptr::NonNull;

use ats_sys::{
    TSEventThread, TSEventThreadSelf, TSThread, TSThreadDestroy, TSThreadInit, TSThreadSelf, tsapi_event_thread,
    tsapi_thread,
};

use crate::error::{Error, Result};

/// An event thread (`TSEventThread`), as [`EventThread::current`] found it.
///
/// Event threads live as long as the process, so this may be kept, compared and sent about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventThread(NonNull<tsapi_event_thread>);

// SAFETY: only an address; ATS never frees its event threads, and takes this as an argument on any of its threads.
unsafe impl Send for EventThread {}
// SAFETY: as for Send: nothing is read through the pointer.
unsafe impl Sync for EventThread {}

impl EventThread {
    /// `TSEventThreadSelf`: the event thread that we run on. `None` on foreign threads, attached ones included.
    #[must_use]
    pub fn current() -> Option<Self> {
        // SAFETY: reads a thread-local of ATS's; allowed on every thread.
        NonNull::new(unsafe { TSEventThreadSelf() }).map(Self)
    }

    /// Whether we run on this thread.
    #[must_use]
    pub fn is_current(self) -> bool {
        Self::current() == Some(self)
    }

    /// The address, as ATS has it.
    #[must_use]
    pub fn as_raw(self) -> TSEventThread {
        self.0.as_ptr()
    }
}

/// Whether ATS knows this thread: one of its own, or one with an [`AttachedThread`] (`TSThreadSelf`).
#[must_use]
pub fn is_ats_thread() -> bool {
    // SAFETY: reads a thread-local of ATS's; allowed on every thread.
    !unsafe { TSThreadSelf() }.is_null()
}

/// Refuses foreign threads in the name of `function`, which would dereference the thread that it does not find.
pub(crate) fn require_ats_thread(function: &'static str) -> Result<()> {
    if is_ats_thread() { Ok(()) } else { Err(Error::ForeignThread(function)) }
}

/// Makes a foreign thread known to ATS (`TSThreadInit`) for as long as this lives.
///
/// Without it, only [`crate::hook::Reenable`] works there: creating a continuation crashes, and a lock taken there
/// locks nothing (ATS compares the holder with a null thread). With it, continuations can be created and scheduled
/// on event threads. It stays on the thread that made it.
///
/// One for the life of a thread, not one for each call: ATS's thread object is large, and what its allocators cached
/// for the thread is lost with it. In a trial with 9.2.9 that attached a new thread for each of 4,500 requests, the
/// process grew by about 100 MB; how much of that is this and how much the threads themselves was not told apart.
#[derive(Debug)]
pub struct AttachedThread {
    thread: NonNull<tsapi_thread>,
    /// `TSThreadDestroy` must run on the thread that it is for.
    _not_send: PhantomData<*const ()>,
}

impl AttachedThread {
    /// Attaches the current thread; `None` if ATS knows it already.
    #[must_use]
    pub fn attach() -> Option<Self> {
        if is_ats_thread() {
            return None;
        }
        // SAFETY: this thread is unknown to ATS, so no other thread object is displaced.
        let thread: TSThread = unsafe { TSThreadInit() };
        NonNull::new(thread).map(|thread| Self { thread, _not_send: PhantomData })
    }
}

impl Drop for AttachedThread {
    fn drop(&mut self) {
        // SAFETY: made by TSThreadInit on this very thread (the type is not Send), and destroyed once.
        unsafe { TSThreadDestroy(self.thread.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_threads_are_none_until_attached() {
        assert_eq!(EventThread::current(), None);
        assert_eq!(require_ats_thread("TSContCreate"), Err(Error::ForeignThread("TSContCreate")));
        {
            let _attached = AttachedThread::attach().expect("a foreign thread");
            assert!(is_ats_thread());
            assert_eq!(EventThread::current(), None, "attached, and yet no event thread");
            assert!(AttachedThread::attach().is_none());
        }
        assert!(!is_ats_thread());
    }

    #[test]
    fn event_threads_are_told_apart() {
        fake_ats::on_event_thread();
        let here = EventThread::current().expect("an event thread");
        assert!(here.is_current());
        let there = std::thread::spawn(move || {
            fake_ats::on_event_thread();
            assert!(!here.is_current());
            EventThread::current().expect("another event thread")
        });
        assert_ne!(there.join().expect("no panic"), here);
    }
}

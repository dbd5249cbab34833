//! The threads that calls run on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use super::Options;

struct Thread {
    handle: Handle,
    /// Ends the thread when dropped.
    _stop: oneshot::Sender<()>,
}

/// Started at the first call, ended with the value. Nobody waits for their end: the value may be dropped on one of them.
pub(crate) struct Threads {
    options: Options,
    started: OnceLock<Vec<Thread>>,
    starting: Mutex<()>,
    next: AtomicUsize,
}

impl Threads {
    pub(crate) fn new(options: Options) -> Threads {
        Threads { options, started: OnceLock::new(), starting: Mutex::new(()), next: AtomicUsize::new(0) }
    }

    /// The thread for the next call.
    pub(crate) fn next(&self) -> Result<&Handle, String> {
        let threads = match self.started.get() {
            Some(threads) => threads,
            None => self.start()?,
        };
        let index = if threads.len() == 1 { 0 } else { self.next.fetch_add(1, Ordering::Relaxed) % threads.len() };
        Ok(&threads[index].handle)
    }

    /// What runs on the threads now: calls, connections and their upkeep.
    pub(crate) fn tasks(&self) -> usize {
        let threads = self.started.get().map(Vec::as_slice).unwrap_or_default();
        threads.iter().map(|thread| thread.handle.metrics().num_alive_tasks()).sum()
    }

    fn start(&self) -> Result<&Vec<Thread>, String> {
        let _starting = self.starting.lock();
        if let Some(threads) = self.started.get() {
            return Ok(threads);
        }
        let threads: Result<Vec<_>, _> = (0..self.options.threads.max(1)).map(|index| self.thread(index)).collect();
        let threads = threads.map_err(|error| format!("a thread for calls cannot be started: {error}"))?;
        Ok(self.started.get_or_init(|| threads))
    }

    fn thread(&self, index: usize) -> std::io::Result<Thread> {
        // Name lookups block; they have a few threads of their own, which end when there is nothing to look up.
        let runtime =
            Builder::new_current_thread().enable_all().thread_name("wasm-dns").max_blocking_threads(4).build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let Options { on_thread_start, on_thread_stop, .. } = self.options.clone();
        thread::Builder::new().name(format!("wasm-callout-{index}")).spawn(move || {
            if let Some(start) = on_thread_start {
                start();
            }
            // Ends with an error, which is the signal: the sender was dropped.
            let _ = runtime.block_on(stopped);
            // A lookup that hangs must not hold the thread.
            runtime.shutdown_background();
            if let Some(stop) = on_thread_stop {
                stop();
            }
        })?;
        Ok(Thread { handle, _stop: stop })
    }
}

/// What a thread is known by, to keep calls with the connections of their own thread.
pub(crate) use std::thread::ThreadId;

/// The thread that this runs on, which is one of ours.
pub(crate) fn here() -> ThreadId {
    thread::current().id()
}

/// Something to run on each thread.
pub type Hook = Arc<dyn Fn() + Send + Sync>;

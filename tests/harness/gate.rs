//! How many servers run at once. A machine with two cores that runs eight servers tests its scheduler.

use std::cell::Cell;
use std::env;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The environment's name for the number of servers at once; 2 if it says nothing.
pub const VARIABLE: &str = "WASM_REMAP_TEST_SERVERS";

static RUNNING: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// Leave to run one server; given back on drop.
#[derive(Debug)]
pub struct Permit {
    holder: std::thread::ThreadId,
}

impl Permit {
    /// Waits until a server may start. A thread that already runs one does not wait: two tests of two servers each
    /// would else wait for each other.
    #[track_caller]
    pub fn acquire() -> Permit {
        let limit = limit();
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if HELD.get() == 0 {
            let (guard, timeout) = FREED
                .wait_timeout_while(running, Duration::from_secs(1800), |running| *running >= limit)
                .unwrap_or_else(PoisonError::into_inner);
            assert!(!timeout.timed_out(), "half an hour passed, and {limit} other servers still run");
            running = guard;
        }
        *running += 1;
        HELD.set(HELD.get() + 1);
        Permit { holder: std::thread::current().id() }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        FREED.notify_all();
        if self.holder == std::thread::current().id() {
            // A thread's locals may be gone before its last values are dropped.
            let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(1)));
        }
    }
}

fn limit() -> usize {
    match env::var(VARIABLE) {
        Ok(text) => text
            .parse()
            .ok()
            .filter(|&n| n > 0)
            .unwrap_or_else(|| panic!("{VARIABLE} is {text:?}, not a number above 0")),
        Err(_) => 2,
    }
}

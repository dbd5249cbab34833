//! One subject a file; the crate's root re-exports what a test names.

pub mod artifacts;
pub mod ask;
pub mod client;
pub mod config;
pub mod gate;
pub mod http;
pub mod http2;
pub mod install;
pub mod load;
pub mod log;
pub mod origin;
pub mod payload;
pub mod ports;
pub mod process;
pub mod server;
pub mod strict;
pub mod upstream;

use std::time::{Duration, Instant};

/// Asks `condition` every few milliseconds until it gives a value; panics with `what` when `timeout` has passed.
#[track_caller]
pub fn wait_until<T>(timeout: Duration, what: &str, condition: impl FnMut() -> Option<T>) -> T {
    match poll(timeout, condition) {
        Some(value) => value,
        None => panic!("waited {timeout:?} in vain: {what}"),
    }
}

/// As [`wait_until`], with `None` where that one panics.
pub(crate) fn poll<T>(timeout: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = condition() {
            return Some(value);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

//! Says that something takes long, while it does.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After how long the first line is due, and after how long each other one.
const FIRST: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(5);

/// A compile that runs.
pub(super) struct Progress {
    begun: Instant,
    /// Dropped at the end, which the teller hears at once. Both are `None` if there is no thread to be had.
    teller: Option<(Sender<()>, JoinHandle<bool>)>,
}

/// What became of it.
pub(super) struct Ended {
    pub(super) time: Duration,
    /// There were lines about it.
    pub(super) made: bool,
}

impl Progress {
    /// Something begins that is to be announced as `what`.
    pub(super) fn of(what: String) -> Self {
        Progress::telling(FIRST, LATER, move |time| {
            log::info!(target: "wasm_remap", "compiling {what}: {} s so far", time.as_secs());
        })
    }

    fn telling(first: Duration, later: Duration, say: impl Fn(Duration) + Send + 'static) -> Self {
        let begun = Instant::now();
        let (end, ended) = channel::<()>();
        let tell = move || {
            let mut next = first;
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(next.saturating_sub(begun.elapsed())) {
                say(begun.elapsed());
                next = (next + later).max(begun.elapsed());
            }
            next > first
        };
        let teller = std::thread::Builder::new().name("wasm-progress".to_owned()).spawn(tell).ok();
        Progress { begun, teller: teller.map(|thread| (end, thread)) }
    }

    /// It is over. An error that drops this instead ends the lines, too.
    pub(super) fn end(self) -> Ended {
        let time = self.begun.elapsed();
        let made = self.teller.is_some_and(|(end, thread)| {
            drop(end);
            thread.join().unwrap_or(false)
        });
        Ended { time, made }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn what_is_soon_over_is_not_announced() {
        let progress = Progress::telling(Duration::from_secs(3600), Duration::from_secs(1), |_| panic!("too early"));
        let ended = progress.end();
        assert!(!ended.made && ended.time < Duration::from_secs(3600));
    }

    #[test]
    fn what_takes_long_is_announced_again_and_again_until_it_ends() {
        let times: Arc<Mutex<Vec<Duration>>> = Arc::default();
        let told = Arc::clone(&times);
        let (first, later) = (Duration::from_millis(30), Duration::from_millis(20));
        let progress = Progress::telling(first, later, move |time| told.lock().push(time));
        while times.lock().len() < 3 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = progress.end();
        assert!(ended.made);
        let times = std::mem::take(&mut *times.lock());
        assert!(times[0] >= first && times[1] >= first + later && times[2] >= first + 2 * later, "{times:?}");
        assert!(times.iter().all(|time| *time <= ended.time + later), "{times:?}");
    }
}

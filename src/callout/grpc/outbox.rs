//! Messages on their way out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Bytes that may wait to be sent. One message of any size may.
const MOST: usize = 4 << 20;

/// Why a message is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The stream has ended, or its last message was sent.
    #[error("the stream has ended")]
    Closed,
    /// The server does not take what waits already.
    #[error("more than 4 MiB wait to be sent")]
    Full,
    /// gRPC's lengths have four bytes.
    #[error("a message of gRPC cannot be longer than 4 GiB")]
    TooLong,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// No message follows.
    ended: bool,
    /// The stream is over.
    closed: bool,
}

/// Filled by the caller, emptied by the stream's task.
#[derive(Default)]
pub(super) struct Outbox {
    state: Mutex<State>,
    changed: Notify,
    cancelled: AtomicBool,
}

/// What is to be sent next.
pub(super) enum Next {
    Message {
        message: Bytes,
        last: bool,
    },
    /// The end, by itself.
    End,
    Nothing,
}

impl Outbox {
    pub(super) fn push(&self, message: Bytes, end: bool) -> Result<(), SendError> {
        if u32::try_from(message.len()).is_err() {
            return Err(SendError::TooLong);
        }
        let mut state = self.state.lock();
        if state.ended || state.closed {
            return Err(SendError::Closed);
        }
        if state.bytes > 0 && state.bytes + message.len() > MOST {
            return Err(SendError::Full);
        }
        state.bytes += message.len();
        state.queue.push_back(message);
        state.ended = end;
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }

    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.close();
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The stream is over: what waits will not be sent.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.queue.clear();
        state.bytes = 0;
    }

    pub(super) fn pop(&self) -> Next {
        let mut state = self.state.lock();
        match state.queue.pop_front() {
            Some(message) => Next::Message { message, last: state.ended && state.queue.is_empty() },
            None if state.ended => Next::End,
            None => Next::Nothing,
        }
    }

    /// The server took a message.
    pub(super) fn taken(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.bytes = state.bytes.saturating_sub(bytes);
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded() {
        let outbox = Outbox::default();
        outbox.push(Bytes::from(vec![0; MOST + 1]), false).expect("one message of any size");
        assert_eq!(outbox.push(Bytes::from_static(b"x"), false), Err(SendError::Full));
        assert!(matches!(outbox.pop(), Next::Message { last: false, .. }));
        assert_eq!(outbox.push(Bytes::from_static(b"x"), false), Err(SendError::Full), "popped is not yet taken");
        outbox.taken(MOST + 1);
        outbox.push(Bytes::from_static(b"x"), true).expect("there is room again");
        assert_eq!(outbox.push(Bytes::new(), false), Err(SendError::Closed));
        assert!(matches!(outbox.pop(), Next::Message { last: true, .. }));
    }
}

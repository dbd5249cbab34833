//! A body that tells the trace what filters do to it.

use std::sync::{Arc, Mutex};

use engine::{BodyBuffer, Error, Side};

use super::trace::{Trace, lock};

pub(super) struct Watched {
    pub(super) bytes: Vec<u8>,
    pub(super) side: Side,
    pub(super) trace: Arc<Mutex<Trace>>,
}

impl BodyBuffer for Watched {
    fn len(&self) -> usize {
        // The engine asks for it when it counts what a filter gets, last of all before the callback.
        lock(&self.trace).measured(self.bytes.len());
        self.bytes.len()
    }

    fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8])) {
        visit(&self.bytes[start..end]);
    }

    fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<(), Error> {
        self.bytes.splice(start..start + size, data.iter().copied());
        lock(&self.trace).wrote(self.side, start, size, data);
        Ok(())
    }

    fn append(&mut self, other: Box<dyn BodyBuffer>) {
        let len = other.len();
        other.read(0, len, &mut |piece| self.bytes.extend_from_slice(piece));
    }
}

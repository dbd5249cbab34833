//! What a transform does in an event: read its input, write its output, tell upstream.

use std::cell::Cell;
use std::fmt;
use std::ptr::NonNull;

use ats_sys::{TSVConnShutdown, TSVConnWrite, TSVConnWriteVIOGet};

use crate::error::{Error, Result};
use crate::event::Event;
use crate::iobuf::IoBuffer;
use crate::log;
use crate::transform::{Core, TransformSide};
use crate::txn::Txn;
use crate::vio::{self, Vio};

/// A transform in one of its events.
///
/// Once it is closed, which may happen in a call of this, nothing here does anything.
pub struct Transform<'a> {
    core: &'a Core,
    /// It was found to be open, and nothing was done since that may have closed it: to tell upstream something may.
    open: Cell<bool>,
}

impl<'a> Transform<'a> {
    pub(crate) fn of(core: &'a Core) -> Self {
        Self { core, open: Cell::new(false) }
    }

    /// Tells upstream something. False if it listens no more.
    fn tell(&mut self, event: Event) -> bool {
        let told = self.input().is_some_and(|input| input.call_back(event));
        self.open.set(false);
        told
    }

    /// Which body it is.
    #[must_use]
    pub fn side(&self) -> TransformSide {
        self.core.side
    }

    /// The transaction; `None` after its TXN_CLOSE.
    #[must_use]
    pub fn txn(&self) -> Option<Txn<'_>> {
        // SAFETY: it waits for us at TXN_CLOSE, which has not come; this is its thread; what runs it on takes
        // `&mut self`.
        self.core.txn.get().map(|txn| unsafe { Txn::from_non_null(txn) })
    }

    /// Whether ATS has closed it (`TSVConnClosedGet`).
    #[must_use]
    pub fn is_closed(&self) -> bool {
        if !self.open.get() {
            self.open.set(self.core.closed() == 0);
        }
        !self.open.get()
    }

    /// What upstream writes (`TSVConnWriteVIOGet`); `None` once the transform is closed.
    #[must_use]
    pub fn input(&mut self) -> Option<Vio<'_>> {
        if self.is_closed() {
            return None;
        }
        // SAFETY: the transform is alive, and stays so during a call; its write VIO is a part of it. While it is not
        // closed, upstream lives; and it empties the VIO when it goes.
        unsafe { Vio::from_raw(TSVConnWriteVIOGet(self.core.vconn.as_ptr())) }
    }

    /// Whether upstream has begun to write, and [`Self::input`] says something (`TSVIOContGet`). It may have nothing to
    /// write yet: only with the first bytes does ATS call the transform.
    #[must_use]
    pub fn input_begun(&mut self) -> bool {
        self.input().is_some_and(|input| input.has_writer())
    }

    /// Moves bytes of the input that wait, at most `max`, to the end of `buffer`, by reference. Answers how many.
    ///
    /// Does not tell upstream, which writes no more than ATS's buffers hold until it is told.
    pub fn input_take(&mut self, buffer: &mut IoBuffer, max: usize) -> usize {
        let Some(mut input) = self.input() else { return 0 };
        let max = max.min(usize::try_from(input.todo()).unwrap_or(usize::MAX));
        input.move_to(buffer, max)
    }

    /// Whether all of the rest of the input, of so many bytes at most, waits to be taken.
    #[must_use]
    pub fn input_is_here(&mut self, most: u64) -> bool {
        self.input().is_some_and(|input| {
            let todo = input.todo();
            todo <= most && input.reader().is_some_and(|reader| reader.len() as u64 >= todo)
        })
    }

    /// Whether nothing more will come: all was taken, or upstream has ended the input.
    #[must_use]
    pub fn input_ended(&mut self) -> bool {
        self.input().is_none_or(|input| input.todo() == 0 || input.reader().is_none())
    }

    /// Tells upstream to write more. See [`Vio::call_back`], as for the next two.
    pub fn upstream_ready(&mut self) -> bool {
        !self.core.ended.get() && self.tell(Event::VCONN_WRITE_READY)
    }

    /// Tells upstream that all is read, once. Its connection is free then, and errors reach nobody.
    pub fn upstream_complete(&mut self) -> bool {
        !self.core.ended.replace(true) && self.tell(Event::VCONN_WRITE_COMPLETE)
    }

    /// Breaks the transaction off by telling upstream of an error.
    ///
    /// Before the output was opened, a response becomes the error answer ([`Txn::status_set`],
    /// [`Txn::error_body_set`]), and a request's connection is dropped; after that, both sides' connections are.
    ///
    /// `false` if upstream has ended and listens no more. The output is then ended where it is: what the other side gets
    /// may look complete. So hold [`Self::upstream_complete`] back as long as something may fail.
    pub fn fail(&mut self) -> bool {
        if self.is_closed() {
            return false;
        }
        if !self.core.ended.replace(true) && self.tell(Event::ERROR) {
            return true;
        }
        self.cut();
        false
    }

    /// Ends the output where it is.
    fn cut(&mut self) {
        if let Some(mut output) = self.output() {
            let done = output.ndone();
            output.nbytes_set(done);
            return output.reenable();
        }
        if self.core.buffer.borrow().is_some() || self.is_closed() {
            return;
        }
        // A request without a length is refused by ATS, which is what we want of it.
        let nbytes = if self.core.side == TransformSide::Request { vio::UNKNOWN } else { 0 };
        if let Err(error) = IoBuffer::new().and_then(|buffer| self.output_open(buffer, nbytes)) {
            log::error(format_args!("a transform that failed could not be ended: {error}"));
        }
    }

    /// Opens the output: from `buffer`, `nbytes` in all, or [`vio::UNKNOWN`] (`TSTransformOutputVConnGet`,
    /// `TSVConnWrite`). The header is sent, as soon as this thread gets to it.
    ///
    /// # Errors
    /// It is closed ([`Error::Destroyed`]), was not started ([`Error::Missing`]) or has an output ([`Error::Refused`]).
    pub fn output_open(&mut self, buffer: IoBuffer, nbytes: u64) -> Result<()> {
        if self.is_closed() {
            return Err(Error::Destroyed);
        }
        let mut place = self.core.buffer.borrow_mut();
        if place.is_some() {
            return Err(Error::Refused("TSVConnWrite"));
        }
        let output = self.core.output_vconn().ok_or(Error::Missing("TSTransformOutputVConnGet"))?;
        let reader = buffer.raw_reader();
        // First of all: whatever comes of it, the buffer lives as long as the transform is open.
        *place = Some(buffer);
        // SAFETY: two live connections of this thread, the transform's mutex held, and a reader that lives until the
        // transform is closed, which closes its output first.
        let vio = unsafe { TSVConnWrite(output.as_ptr(), self.core.vconn.as_ptr(), reader, vio::to_i64(nbytes)) };
        self.core.output.set(NonNull::new(vio));
        Ok(())
    }

    /// The output; `None` while it is not open, or not any more.
    #[must_use]
    pub fn output(&mut self) -> Option<Vio<'_>> {
        if self.is_closed() {
            return None;
        }
        // SAFETY: not closed, so the output that `output_open` got is not either; it is freed in an event of its own.
        self.core.output.get().and_then(|vio| unsafe { Vio::from_raw(vio.as_ptr()) })
    }

    /// Whether the output was opened; it may have been shut down since.
    #[must_use]
    pub fn output_opened(&self) -> bool {
        self.core.buffer.borrow().is_some()
    }

    /// How many bytes were written to the output and not read from it: the measure for holding upstream back.
    #[must_use]
    pub fn output_waiting(&mut self) -> usize {
        // The blocks in between are many, where ATS makes chunks of 4 KiB of them: nobody walks them to count.
        let Some(done) = self.output().map(|output| output.ndone()) else { return 0 };
        let given = self.core.buffer.borrow().as_ref().map_or(0, IoBuffer::len);
        given.saturating_sub(usize::try_from(done).unwrap_or(usize::MAX))
    }

    /// Writes to the output's buffer. The other side only looks there when the output is re-enabled. `false`, and
    /// nothing done, without an output.
    pub fn output_write(&mut self, bytes: &[u8]) -> bool {
        self.output_with(|buffer| buffer.write(bytes))
    }

    /// Moves all of `buffer` to the output's, by reference; as [`Self::output_write`].
    pub fn output_append(&mut self, buffer: &mut IoBuffer) -> bool {
        self.output_with(|output| output.append(buffer))
    }

    fn output_with(&mut self, change: impl FnOnce(&mut IoBuffer)) -> bool {
        if self.output().is_none() {
            return false;
        }
        self.core.buffer.borrow_mut().as_mut().map(change).is_some()
    }

    /// Shuts the output down, after [`TransformEvent::OutputComplete`](crate::transform::TransformEvent::OutputComplete) (`TSVConnShutdown`).
    pub fn output_shutdown(&mut self) {
        if self.is_closed() || self.core.output.take().is_none() {
            return;
        }
        if let Some(output) = self.core.output_vconn() {
            // SAFETY: a live connection of this thread.
            unsafe { TSVConnShutdown(output.as_ptr(), 0, 1) };
        }
    }
}

impl fmt::Debug for Transform<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transform").field("side", &self.core.side).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "transform_io_test.rs"]
mod tests;

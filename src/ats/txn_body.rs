//! A transaction's bodies, without a transform: those that ATS buffered, and those that we make.

use std::ffi::c_int;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use ats_sys::{
    TS_EVENT_HTTP_SEND_RESPONSE_HDR, TS_SUCCESS, TSHttpSsnClientVConnGet, TSHttpTxnClientFdGet,
    TSHttpTxnClientReceivedErrorGet, TSHttpTxnPostBufferReaderGet, TSHttpTxnServerFdGet,
    TSHttpTxnServerReqBodyBytesGet, TSHttpTxnServerRequestBodySet, TSHttpTxnServerVConnGet, TSHttpTxnShutDown,
    TSHttpTxnSsnGet, TSIOBufferReaderAvail, TSIOBufferReaderFree, TSVConnInactivityTimeoutSet, TSVConnReadVIOGet,
    TSVConnWriteVIOGet, TSVIOBufferGet, TSVIONBytesGet, TSVIONBytesSet, TSVIONDoneGet, TSVIONTodoGet, TSVIOReaderGet,
    TSVIOReenable, tsapi_bufferreader,
};

use crate::alloc::TsBuf;
use crate::error::{Result, check};
use crate::event::Event;
use crate::hook::Hook;
use crate::iobuf::{Reader, to_i64};
use crate::txn::Txn;

/// What [`Txn::client_left`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientLeft {
    /// Not as far as can be told.
    No,
    /// Its end of the connection is closed. What it sent before may still be unread.
    Connection,
    /// The stream is over: nothing more will come.
    Stream,
}

impl<'t> Txn<'t> {
    /// Has the next re-enabling with an error ([`crate::hook::Hook::error`]) end the transaction without any answer:
    /// the client's connection is closed (`TSHttpTxnShutDown`).
    ///
    /// # Errors
    /// ATS refused.
    pub fn shut_down(self) -> Result<()> {
        // The event only says that this is not TXN_CLOSE, where it is too late.
        let event = TS_EVENT_HTTP_SEND_RESPONSE_HDR;
        // SAFETY: a live transaction on its thread.
        check(unsafe { TSHttpTxnShutDown(self.as_raw(), event) }, "TSHttpTxnShutDown")
    }

    /// Sends this body to the origin, with its length, and not the client's, which is not read
    /// (`TSHttpTxnServerRequestBodySet`); `None` takes back one that was set. At SEND_REQUEST_HDR or before. ATS frees
    /// it.
    ///
    /// It is kept where [`Self::error_body_set`] keeps its body, too: either takes the other's place.
    pub fn server_request_body_set(self, body: Option<TsBuf>) {
        let (body, len) = body.map_or((std::ptr::null_mut(), 0), TsBuf::into_raw);
        // SAFETY: a live transaction on its thread, which takes over the block; it is from its allocator.
        unsafe { TSHttpTxnServerRequestBodySet(self.as_raw(), body, to_i64(len)) };
    }

    /// The client's body as ATS has buffered it (`TSHttpTxnPostBufferReaderGet`). A chunked one comes with its framing.
    ///
    /// # Safety
    /// This must be the transaction's `HTTP_REQUEST_BUFFER_READ_COMPLETE` hook: without such a buffer ATS dereferences
    /// a null pointer. (At most four of these may be alive at once, or ATS aborts.)
    #[must_use]
    pub unsafe fn post_buffer_reader(self) -> Option<PostBuffer<'t>> {
        // SAFETY: a live transaction on its thread, which has such a buffer. What it answers is for us to free.
        let reader = NonNull::new(unsafe { TSHttpTxnPostBufferReaderGet(self.as_raw()) })?;
        Some(PostBuffer { reader, _txn: PhantomData })
    }

    /// The socket of the connection to the origin, while there is one (`TSHttpTxnServerFdGet`). Only to look at.
    #[must_use]
    pub fn server_fd(self) -> Option<c_int> {
        let mut fd: c_int = -1;
        // SAFETY: a live transaction on its thread; the result is ours to write to.
        let code = unsafe { TSHttpTxnServerFdGet(self.as_raw(), &raw mut fd) };
        (code == TS_SUCCESS && fd >= 0).then_some(fd)
    }
}

impl Txn<'_> {
    /// How many bytes of the request's body the origin's connection has taken, framing included, once it has taken all
    /// (`TSHttpTxnServerReqBodyBytesGet`); before that, and if ATS gave up on it, 0.
    #[must_use]
    pub fn server_req_body_bytes(self) -> u64 {
        // SAFETY: a live transaction on its thread.
        u64::try_from(unsafe { TSHttpTxnServerReqBodyBytesGet(self.as_raw()) }).unwrap_or(0)
    }

    /// How many bytes wait to be written to the client's connection (`TSHttpSsnClientVConnGet`, `TSVConnWriteVIOGet`);
    /// `None` where that cannot be told: over HTTP/2, whose streams share a connection.
    #[must_use]
    pub fn client_backlog(self) -> Option<usize> {
        if self.client_protocol_contains(c"h2") {
            return None;
        }
        // SAFETY: a live transaction on its thread, whose client's connection lives as long as it is the session's; its
        // operation is a part of it, and as long as that has a buffer, its reader is alive - while there is something to write.
        unsafe {
            let session = TSHttpTxnSsnGet(self.as_raw());
            if session.is_null() {
                return None;
            }
            let connection = TSHttpSsnClientVConnGet(session);
            if connection.is_null() {
                return None;
            }
            let vio = TSVConnWriteVIOGet(connection);
            if vio.is_null() {
                return None;
            }
            // All is written: ATS frees a buffer then, and leaves its address behind until there is more to write.
            if TSVIONTodoGet(vio) <= 0 || TSVIOBufferGet(vio).is_null() {
                return Some(0);
            }
            let reader = TSVIOReaderGet(vio);
            if reader.is_null() { None } else { usize::try_from(TSIOBufferReaderAvail(reader)).ok() }
        }
    }

    /// How many bytes wait to be written to the origin's connection (`TSHttpTxnServerVConnGet`, `TSVConnWriteVIOGet`).
    #[must_use]
    pub fn server_backlog(self) -> Option<usize> {
        // SAFETY: as for the client's connection, above.
        unsafe {
            let connection = TSHttpTxnServerVConnGet(self.as_raw());
            if connection.is_null() {
                return None;
            }
            let vio = TSVConnWriteVIOGet(connection);
            if vio.is_null() {
                return None;
            }
            // All is written: ATS frees a buffer then, and leaves its address behind until there is more to write.
            if TSVIONTodoGet(vio) <= 0 || TSVIOBufferGet(vio).is_null() {
                return Some(0);
            }
            let reader = TSVIOReaderGet(vio);
            if reader.is_null() { None } else { usize::try_from(TSIOBufferReaderAvail(reader)).ok() }
        }
    }

    /// Has the connection to the client time out (`TSVConnInactivityTimeoutSet`) when nothing has been read from it or
    /// written to it for so long, and a second or so, for all that share it: ATS ends the transaction then. To end it by
    /// `shutdown(2)` would not do: ATS takes that for a client that has said all, and waits.
    pub fn client_time_out(self, idle: Duration) {
        // 0 would be no limit.
        let nanoseconds = i64::try_from(idle.as_nanos()).unwrap_or(i64::MAX).max(1);
        // SAFETY: a live transaction on its thread, whose client's connection lives as long as it is the session's.
        unsafe {
            let session = TSHttpTxnSsnGet(self.as_raw());
            if session.is_null() {
                return;
            }
            let connection = TSHttpSsnClientVConnGet(session);
            if !connection.is_null() {
                TSVConnInactivityTimeoutSet(connection, nanoseconds);
            }
        }
    }

    /// Whether the client has reset its stream (`TSHttpTxnClientReceivedErrorGet`), which only HTTP/2 has, or has ended its
    /// connection, read by ATS or not (`TSHttpTxnClientFdGet`, `poll(2)`).
    ///
    /// ATS tells a transform of neither while it waits for more of an HTTP/2 request's body: it stops reading from the
    /// connection, as for an answer that is to be finished for the cache (`HttpSM::state_watch_for_client_abort`,
    /// `HttpTunnel::has_consumer_besides_client`), and waits for that body as long as the origin does.
    #[must_use]
    pub fn client_left(self) -> ClientLeft {
        let (mut class, mut code) = (0_u32, 0_u64);
        let mut fd: c_int = -1;
        // SAFETY: a live transaction on its thread; the results are ours to write to.
        let known = unsafe {
            TSHttpTxnClientReceivedErrorGet(self.as_raw(), &raw mut class, &raw mut code);
            TSHttpTxnClientFdGet(self.as_raw(), &raw mut fd) == TS_SUCCESS
        };
        if class != 0 {
            return ClientLeft::Stream;
        }
        if !known || fd < 0 {
            return ClientLeft::No;
        }
        let mut poll = libc::pollfd { fd, events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: one place, which is ours.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
        let ended = poll.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0;
        if ready > 0 && ended { ClientLeft::Connection } else { ClientLeft::No }
    }

    /// Has ATS stop reading from the origin, or go on (`TSHttpTxnServerVConnGet`, `TSVIONBytesSet`): a body in chunks it
    /// would read to its end, whoever has to hold it (`HttpTunnel` takes the framing off into a buffer without bounds).
    ///
    /// `so_far` keeps what ATS had set, while it has stopped.
    pub fn server_read_hold(self, hold: bool, so_far: &mut Option<i64>) {
        if hold == so_far.is_some() {
            return;
        }
        // SAFETY: a live transaction on its thread, whose connection to the origin, if there is one, lives; its operation
        // is a part of it.
        unsafe {
            let connection = TSHttpTxnServerVConnGet(self.as_raw());
            let vio = if connection.is_null() { std::ptr::null_mut() } else { TSVConnReadVIOGet(connection) };
            if vio.is_null() || TSVIOBufferGet(vio).is_null() {
                *so_far = None;
                return;
            }
            match so_far.take() {
                Some(nbytes) => {
                    TSVIONBytesSet(vio, nbytes);
                    TSVIOReenable(vio);
                }
                None => {
                    *so_far = Some(TSVIONBytesGet(vio));
                    TSVIONBytesSet(vio, TSVIONDoneGet(vio));
                }
            }
        }
    }

    /// Ends the connection to the origin, if there is one, while the origin is being sent a body: ATS goes on to answer with
    /// an error.
    ///
    /// By `shutdown(2)` on [`Self::server_fd`], which ATS takes for an end by the origin, at once. It gives up on the body then
    /// (`HttpTunnel::abort_tunnel`), and has an event on its way from the body's transform to the tunnel, which it must
    /// outlive: where an HTTP/2 client has [left](Self::client_left) it does not. So the connection is made to time out there,
    /// within a second or so (`TSVConnInactivityTimeoutSet`): then ATS closes the transform.
    pub fn server_drop(self) {
        if self.client_protocol_contains(c"h2") && self.client_left() != ClientLeft::No {
            // SAFETY: a live transaction on its thread, whose connection to the origin, if there is one, lives.
            unsafe {
                let connection = TSHttpTxnServerVConnGet(self.as_raw());
                if !connection.is_null() {
                    TSVConnInactivityTimeoutSet(connection, 1);
                }
            }
        } else if let Some(fd) = self.server_fd() {
            // SAFETY: a system call on a socket that the transaction keeps open; ATS closes it itself.
            unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
        }
    }
}

impl Hook {
    /// The client's body as ATS has buffered it; `None` at any other hook than REQUEST_BUFFER_READ_COMPLETE.
    #[must_use]
    pub fn post_buffer(&self) -> Option<PostBuffer<'_>> {
        if self.event() != Some(Event::HTTP_REQUEST_BUFFER_READ_COMPLETE) {
            return None;
        }
        // SAFETY: this is that hook: the event is the one that ATS called it with.
        unsafe { self.txn().post_buffer_reader() }
    }
}

/// A reader of the client's body that ATS has buffered, freed when dropped (`TSIOBufferReaderFree`).
pub struct PostBuffer<'t> {
    reader: NonNull<tsapi_bufferreader>,
    _txn: PhantomData<Txn<'t>>,
}

impl PostBuffer<'_> {
    /// The body.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        // SAFETY: ours, and the buffer is the transaction's, which lives; nothing is ever consumed.
        let reader = unsafe { Reader::from_raw(self.reader.as_ptr()) };
        reader.expect("not null")
    }
}

impl fmt::Debug for PostBuffer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PostBuffer").field(&self.reader()).finish()
    }
}

impl Drop for PostBuffer<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, freed once, while its buffer lives; a view of a transaction stays on its thread.
        unsafe { TSIOBufferReaderFree(self.reader.as_ptr()) };
    }
}

#[cfg(test)]
#[path = "txn_body_test.rs"]
mod tests;

//! Transforms: their connections and operations, and what ATS does on both sides of them.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::rc::Rc;

use ats_sys::{
    TS_EVENT_ERROR, TS_EVENT_VCONN_WRITE_COMPLETE, TS_EVENT_VCONN_WRITE_READY, TS_VC_CLOSE_ABORT, TS_VC_CLOSE_NORMAL,
    TSCont, TSEvent, TSEventFunc, TSHttpHookID, TSHttpTxn, TSIOBuffer, TSIOBufferReader, TSMutex, TSVConn, TSVIO,
};

use crate::txn::FakeTxn;
use crate::{cont, iobuf, object};

/// What a continuation that is a connection has more: `INKVConnInternal`, or the end of the chain of transforms.
pub(crate) struct VConn {
    write: Vio,
    output: TSVConn,
    closed: c_int,
    /// Events on their way.
    pub(crate) count: u32,
    pub(crate) deletable: bool,
    pub(crate) deleted: bool,
    /// The end of the chain, which handles no events.
    terminus: bool,
    reenables: u32,
    shut: bool,
}

struct Vio {
    owner: TSVConn,
    cont: TSCont,
    reader: TSIOBufferReader,
    nbytes: i64,
    ndone: i64,
}

impl VConn {
    fn new(terminus: bool) -> Self {
        let null = ptr::null_mut();
        let write = Vio { owner: null, cont: null, reader: ptr::null_mut(), nbytes: 0, ndone: 0 };
        let output = ptr::null_mut();
        Self {
            write,
            output,
            closed: 0,
            count: 0,
            deletable: false,
            deleted: false,
            terminus,
            reenables: 0,
            shut: false,
        }
    }

    /// An event arrived, or was taken back.
    pub(crate) fn count_event(&mut self) {
        self.deletable = self.closed != 0 && self.count == 1;
        self.count = self.count.checked_sub(1).expect("fake ATS: an event that was not counted");
    }

    /// Answers whether it is freed.
    pub(crate) fn destroy(&mut self) -> bool {
        assert!(!self.deleted, "fake ATS: destroyed twice");
        self.deleted = true;
        self.deletable
    }
}

fn vconn<'a>(conn: TSVConn) -> &'a mut VConn {
    cont::live(conn).vconn.as_mut().expect("fake ATS: no connection")
}

fn signal(conn: TSVConn) {
    let of = vconn(conn);
    if of.terminus { of.reenables += 1 } else { cont::schedule_internal(conn) }
}

/// `do_io_close`.
fn close(conn: TSVConn, abort: bool) {
    let of = vconn(conn);
    of.closed = if abort { TS_VC_CLOSE_ABORT } else { TS_VC_CLOSE_NORMAL };
    of.write.reader = ptr::null_mut();
    let output = std::mem::replace(&mut of.output, ptr::null_mut());
    if !output.is_null() {
        close(output, abort);
    }
    if !vconn(conn).terminus {
        cont::schedule_internal(conn);
    }
}

/// The rest of ATS around the transforms of one body: upstream writes into the first, and the last one's output is
/// read.
pub struct FakeTunnel(Rc<RefCell<Tunnel>>);

struct Tunnel {
    first: TSVConn,
    last: TSVConn,
    terminus: TSVConn,
    input: (TSIOBuffer, TSIOBufferReader),
    alive: bool,
    events: Vec<TSEvent>,
    on_event: Option<Box<dyn FnMut(TSEvent)>>,
}

impl FakeTunnel {
    /// Starts the transforms of this hook, for a body of this length.
    #[must_use]
    pub fn open(txn: &FakeTxn, hook: TSHttpHookID, nbytes: i64) -> Self {
        let chain = txn.conts(hook);
        let terminus = cont::new_cont(None, ptr::null_mut());
        cont::live(terminus).vconn = Some(VConn::new(true));
        for (at, conn) in chain.iter().enumerate() {
            vconn(*conn).output = chain.get(at + 1).copied().unwrap_or(terminus);
        }
        let (first, last) = (chain[0], chain[chain.len() - 1]);
        let input = iobuf::create();
        let tunnel = Tunnel { first, last, terminus, input, alive: true, events: Vec::new(), on_event: None };
        let tunnel = Rc::new(RefCell::new(tunnel));
        let upstream = cont::new_cont(Some(upstream), ptr::null_mut());
        // SAFETY: a continuation of ours; the data lives as long as the test's handle does, and a weak count more.
        unsafe { ats_sys::TSContDataSet(upstream, Rc::into_raw(Rc::clone(&tunnel)).cast_mut().cast()) };
        // SAFETY: as a plugin would.
        unsafe { ats_sys::TSVConnWrite(first, upstream, input.1, nbytes) };
        Self(tunnel)
    }

    /// Upstream writes some of the body.
    pub fn feed(&self, bytes: &[u8]) {
        let (buffer, first) = (self.0.borrow().input.0, self.0.borrow().first);
        iobuf::write(buffer, bytes);
        signal(first);
    }

    /// Upstream comes to know the length of the body.
    pub fn finish(&self, nbytes: i64) {
        let first = self.0.borrow().first;
        vconn(first).write.nbytes = nbytes;
        signal(first);
    }

    /// Downstream reads at most `max` bytes, and says so.
    pub fn drain(&self, max: usize) -> Vec<u8> {
        let terminus = self.0.borrow().terminus;
        let vio = &mut vconn(terminus).write;
        if vio.reader.is_null() {
            return Vec::new();
        }
        let todo = usize::try_from(vio.nbytes - vio.ndone).expect("not negative");
        let taken = iobuf::take(vio.reader, max.min(todo));
        vio.ndone += i64::try_from(taken.len()).expect("short");
        let (cont, vio, complete) = (vio.cont, (&raw mut *vio).cast(), vio.ndone == vio.nbytes);
        if complete {
            cont::call(cont, TS_EVENT_VCONN_WRITE_COMPLETE, vio);
        } else if !taken.is_empty() {
            cont::call(cont, TS_EVENT_VCONN_WRITE_READY, vio);
        }
        taken
    }

    /// Downstream, were it another transform, says something.
    pub fn downstream(&self, event: TSEvent) {
        let (last, terminus) = (self.0.borrow().last, self.0.borrow().terminus);
        cont::call(last, event, (&raw mut vconn(terminus).write).cast());
    }

    /// The length that the output was opened with, or given since; `None` before, and after the end.
    #[must_use]
    pub fn output_nbytes(&self) -> Option<i64> {
        let vio = &vconn(self.0.borrow().terminus).write;
        (!vio.reader.is_null()).then_some(vio.nbytes)
    }

    /// How often the output was re-enabled, and whether it was shut down.
    #[must_use]
    pub fn output_state(&self) -> (u32, bool) {
        let of = vconn(self.0.borrow().terminus);
        (of.reenables, of.shut)
    }

    /// How much of the input was taken, and how much waits.
    #[must_use]
    pub fn input_state(&self) -> (i64, i64) {
        let tunnel = self.0.borrow();
        // SAFETY: a live reader of ours.
        let waiting = unsafe { ats_sys::TSIOBufferReaderAvail(tunnel.input.1) };
        (vconn(tunnel.first).write.ndone, waiting)
    }

    /// What upstream was told since the last call.
    #[must_use]
    pub fn take_events(&self) -> Vec<TSEvent> {
        std::mem::take(&mut self.0.borrow_mut().events)
    }

    /// Called when upstream is told something, on the same stack, and after it has seen to it.
    pub fn on_event(&self, f: impl FnMut(TSEvent) + 'static) {
        self.0.borrow_mut().on_event = Some(Box::new(f));
    }

    /// ATS closes the transforms.
    pub fn close(&self, abort: bool) {
        let first = self.0.borrow().first;
        self.0.borrow_mut().alive = false;
        close(first, abort);
    }
}

impl FakeTxn {
    /// ATS closes transforms that were not started, or of which it thinks so.
    pub fn close_transforms(&self, hook: TSHttpHookID) {
        for conn in self.conts(hook) {
            close(conn, false);
        }
    }
}

impl Drop for FakeTunnel {
    fn drop(&mut self) {
        let (buffer, reader) = self.0.borrow().input;
        iobuf::destroy(buffer, reader);
    }
}

impl std::fmt::Debug for FakeTunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FakeTunnel").field(&self.0.borrow().first).finish()
    }
}

/// The tunnel, as a transform's upstream.
unsafe extern "C" fn upstream(cont: TSCont, event: TSEvent, _edata: *mut c_void) -> c_int {
    // SAFETY: set by `open`, with a reference that is never taken back.
    let tunnel = unsafe { &*ats_sys::TSContDataGet(cont).cast::<RefCell<Tunnel>>() };
    let (first, alive, callback) = {
        let mut tunnel = tunnel.borrow_mut();
        tunnel.events.push(event);
        (tunnel.first, tunnel.alive, tunnel.on_event.take())
    };
    if alive && event == TS_EVENT_VCONN_WRITE_COMPLETE {
        tunnel.borrow_mut().alive = false;
        TSVConnShutdown(first, 0, 1);
    }
    if alive && event == TS_EVENT_ERROR {
        tunnel.borrow_mut().alive = false;
        close(first, true);
    }
    if let Some(mut callback) = callback {
        callback(event);
        tunnel.borrow_mut().on_event.get_or_insert(callback);
    }
    0
}

#[unsafe(no_mangle)]
extern "C" fn TSTransformCreate(function: TSEventFunc, txn: TSHttpTxn) -> TSVConn {
    assert!(!txn.is_null(), "fake ATS: no transaction");
    // SAFETY: any time.
    let conn = cont::new_plugin_cont(function, unsafe { ats_sys::TSMutexCreate() });
    cont::live(conn).vconn = Some(VConn::new(false));
    conn
}

#[unsafe(no_mangle)]
extern "C" fn TSVConnCreate(function: TSEventFunc, mutex: TSMutex) -> TSVConn {
    assert!(!mutex.is_null(), "fake ATS: no mutex");
    let conn = cont::new_plugin_cont(function, mutex);
    cont::live(conn).vconn = Some(VConn::new(false));
    conn
}

#[unsafe(no_mangle)]
extern "C" fn TSTransformOutputVConnGet(conn: TSVConn) -> TSVConn {
    vconn(conn).output
}

#[unsafe(no_mangle)]
extern "C" fn TSVConnWriteVIOGet(conn: TSVConn) -> TSVIO {
    (&raw mut vconn(conn).write).cast()
}

#[unsafe(no_mangle)]
extern "C" fn TSVConnClosedGet(conn: TSVConn) -> c_int {
    vconn(conn).closed
}

#[unsafe(no_mangle)]
extern "C" fn TSVConnClose(conn: TSVConn) {
    close(conn, false);
}

#[unsafe(no_mangle)]
extern "C" fn TSVConnWrite(conn: TSVConn, cont: TSCont, reader: TSIOBufferReader, nbytes: i64) -> TSVIO {
    assert!(nbytes >= 0, "fake ATS: negative length");
    let of = vconn(conn);
    assert_eq!(of.closed, 0, "the wrappers write to no closed connection");
    of.write = Vio { owner: conn, cont, reader, nbytes, ndone: 0 };
    // SAFETY: a live reader, or the fake panics.
    if !of.terminus && unsafe { ats_sys::TSIOBufferReaderAvail(reader) } > 0 {
        signal(conn);
    }
    TSVConnWriteVIOGet(conn)
}

#[unsafe(no_mangle)]
extern "C" fn TSVConnShutdown(conn: TSVConn, read: c_int, write: c_int) {
    assert_eq!((read, write), (0, 1), "fake ATS: transforms shut the writing down");
    let of = vconn(conn);
    of.write.reader = ptr::null_mut();
    of.shut = true;
    if !of.terminus {
        signal(conn);
    }
}

fn vio<'a>(raw: TSVIO) -> &'a mut Vio {
    let vio: &mut Vio = object(raw);
    assert!(vio.owner.is_null() || vconn(vio.owner).closed == 0, "fake ATS: an operation of a closed connection");
    vio
}

#[unsafe(no_mangle)]
extern "C" fn TSVIOReenable(raw: TSVIO) {
    signal(vio(raw).owner);
}

#[unsafe(no_mangle)]
extern "C" fn TSVIOBufferGet(raw: TSVIO) -> TSIOBuffer {
    let reader = vio(raw).reader;
    if reader.is_null() { ptr::null_mut() } else { iobuf::buffer_of(reader) }
}

#[unsafe(no_mangle)]
extern "C" fn TSVIOReaderGet(raw: TSVIO) -> TSIOBufferReader {
    vio(raw).reader
}

#[unsafe(no_mangle)]
extern "C" fn TSVIOContGet(raw: TSVIO) -> TSCont {
    vio(raw).cont
}

#[unsafe(no_mangle)]
extern "C" fn TSVIONBytesGet(raw: TSVIO) -> i64 {
    vio(raw).nbytes
}

#[unsafe(no_mangle)]
extern "C" fn TSVIONBytesSet(raw: TSVIO, nbytes: i64) {
    assert!(nbytes >= 0, "fake ATS: negative length");
    vio(raw).nbytes = nbytes;
}

#[unsafe(no_mangle)]
extern "C" fn TSVIONDoneGet(raw: TSVIO) -> i64 {
    vio(raw).ndone
}

#[unsafe(no_mangle)]
extern "C" fn TSVIONDoneSet(raw: TSVIO, ndone: i64) {
    assert!(ndone >= 0, "fake ATS: negative length");
    vio(raw).ndone = ndone;
}

#[unsafe(no_mangle)]
extern "C" fn TSVIONTodoGet(raw: TSVIO) -> i64 {
    vio(raw).nbytes - vio(raw).ndone
}

use std::cell::RefCell;

use ats_sys::{
    TS_EVENT_ERROR as ERROR, TS_EVENT_HTTP_CONTINUE as CONTINUE, TS_EVENT_VCONN_WRITE_COMPLETE as COMPLETE,
    TS_EVENT_VCONN_WRITE_READY as READY,
};
use fake_ats::{FakeTunnel, FakeTxn, run_all_scheduled, run_scheduled};

use super::*;
use crate::vio;

pub(crate) const REQUEST: TSHttpHookID = TS_HTTP_REQUEST_TRANSFORM_HOOK;
pub(crate) const RESPONSE: TSHttpHookID = TS_HTTP_RESPONSE_TRANSFORM_HOOK;

/// What a handler saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Saw {
    Event(TransformEvent),
    Closed(bool),
    Abandoned,
}

pub(crate) type Log = Rc<RefCell<Vec<Saw>>>;
pub(crate) type Script = Box<dyn Fn(&TransformRef<Probe>, &mut Transform<'_>, TransformEvent)>;

/// Does as a test says.
pub(crate) struct Probe {
    log: Log,
    drops: Rc<Cell<u32>>,
    script: Script,
}

impl TransformHandler for Probe {
    const NAME: &'static str = "probe";

    fn handle(this: &TransformRef<Self>, transform: &mut Transform<'_>, event: TransformEvent) {
        this.log.borrow_mut().push(Saw::Event(event));
        (this.script)(this, transform, event);
    }

    fn closed(&self, aborted: bool) {
        self.log.borrow_mut().push(Saw::Closed(aborted));
    }

    fn abandon(&self) {
        self.log.borrow_mut().push(Saw::Abandoned);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.drops.set(self.drops.get() + 1);
    }
}

/// A transaction with a transform, and what is left behind by it.
pub(crate) struct Bench {
    pub(crate) fake: FakeTxn,
    log: Log,
    pub(crate) drops: Rc<Cell<u32>>,
    pub(crate) conts: usize,
}

impl Bench {
    pub(crate) fn new() -> Self {
        guard::install_panic_hook();
        fake_ats::on_event_thread();
        let (fake, log, drops) = (FakeTxn::new(), Log::default(), Rc::default());
        Self { fake, log, drops, conts: fake_ats::live_conts() }
    }

    pub(crate) fn add(
        &self,
        side: TransformSide,
        script: impl Fn(&TransformRef<Probe>, &mut Transform<'_>, TransformEvent) + 'static,
    ) -> TransformRef<Probe> {
        // SAFETY: a live fake of this thread.
        let txn = unsafe { Txn::from_raw(self.fake.raw()) }.expect("not null");
        let probe = Probe { log: Rc::clone(&self.log), drops: Rc::clone(&self.drops), script: Box::new(script) };
        txn.transform_add(side, probe).expect("an event thread")
    }

    pub(crate) fn saw(&self) -> Vec<Saw> {
        self.log.take()
    }

    pub(crate) fn txn_close(&self) {
        self.fake.run(&[HookId::TXN_CLOSE.as_raw()]);
    }

    /// Everything is over: nothing is left, and nothing more comes.
    pub(crate) fn finish(self, tunnel: Option<FakeTunnel>) {
        run_all_scheduled();
        assert_eq!(fake_ats::live_conts(), self.conts, "the continuation is destroyed");
        assert_eq!(fake_ats::scheduled(), 0);
        assert_eq!(self.saw(), []);
        assert_eq!(self.drops.get(), 1, "the data is gone, once");
        drop(tunnel);
        assert_eq!(fake_ats::live_buffers(), (0, 0), "no buffer is left");
    }
}

/// Passes everything on as it comes.
pub(crate) fn pass(_this: &TransformRef<Probe>, transform: &mut Transform<'_>, event: TransformEvent) {
    match event {
        TransformEvent::Input => {
            if !transform.output_opened() {
                let buffer = IoBuffer::new().expect("an ATS thread");
                transform.output_open(buffer, vio::UNKNOWN).expect("open");
                assert_eq!(
                    transform.output_open(IoBuffer::new().expect("as above"), 3),
                    Err(Error::Refused("TSVConnWrite"))
                );
            }
            let mut moved = IoBuffer::new().expect("an ATS thread");
            let count = transform.input_take(&mut moved, usize::MAX);
            assert!(transform.output_append(&mut moved));
            let ended = transform.input_ended();
            let done = transform.input().map_or(0, |input| input.ndone());
            let mut output = transform.output().expect("an output");
            if ended {
                output.nbytes_set(done);
            }
            output.reenable();
            if ended {
                transform.upstream_complete();
                assert!(!transform.upstream_complete(), "told once");
            } else if count > 0 {
                assert!(transform.upstream_ready());
            }
        }
        TransformEvent::OutputComplete => transform.output_shutdown(),
        TransformEvent::Error => {
            transform.fail();
        }
        _ => {}
    }
}

pub(crate) fn nothing(_this: &TransformRef<Probe>, _transform: &mut Transform<'_>, _event: TransformEvent) {}

pub(crate) const INPUT: Saw = Saw::Event(TransformEvent::Input);

impl TransformRef<Probe> {
    pub(crate) fn raw(&self) -> TSCont {
        self.0.core.vconn.as_ptr()
    }
}

/// The transaction of the test, for a callback of it.
pub(crate) struct FakeHook(pub(crate) *const FakeTxn);

impl FakeHook {
    pub(crate) fn run(&self, hook: TSHttpHookID) {
        // SAFETY: the test's, which lives longer.
        unsafe { &*self.0 }.run(&[hook]);
    }
}

#[test]
fn a_body_passes_through_by_reference() {
    let bench = Bench::new();
    drop(bench.add(TransformSide::Response, pass));
    assert_eq!(bench.fake.hooks(), [RESPONSE, HookId::TXN_CLOSE.as_raw()]);
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, i64::MAX);
    run_all_scheduled();
    assert_eq!(bench.saw(), [], "not called before there is something");
    let _ = fake_ats::take_copied();
    tunnel.feed(b"more than one block of it");
    run_all_scheduled();
    assert_eq!(tunnel.output_nbytes(), Some(i64::MAX));
    assert_eq!(tunnel.take_events(), [READY]);
    assert_eq!(tunnel.drain(5), b"more ");
    assert_eq!(bench.saw(), [INPUT, Saw::Event(TransformEvent::OutputReady)]);
    tunnel.feed(b", and the rest");
    tunnel.finish(39);
    run_all_scheduled();
    assert_eq!(tunnel.take_events(), [COMPLETE]);
    assert_eq!(tunnel.drain(99), b"than one block of it, and the rest");
    assert!(bench.saw().ends_with(&[Saw::Event(TransformEvent::OutputComplete)]));
    assert!(tunnel.output_state().1);
    assert_eq!(fake_ats::take_copied(), 0);

    tunnel.close(false);
    run_scheduled();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    assert_eq!(fake_ats::live_conts(), bench.conts + 1, "until the transaction is over");
    bench.txn_close();
    assert_eq!(bench.fake.take_reenables(), [CONTINUE]);
    bench.finish(Some(tunnel));
}

#[test]
fn closing_comes_before_or_after_txn_close() {
    for (event_first, abort) in [(true, true), (true, false), (false, true), (false, false)] {
        let bench = Bench::new();
        let this = bench.add(TransformSide::Response, pass);
        let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, i64::MAX);
        tunnel.feed(b"x");
        run_all_scheduled();
        assert!(!this.is_closed());
        tunnel.close(abort);
        if event_first {
            run_all_scheduled();
            assert_eq!(bench.saw(), [INPUT, Saw::Closed(abort)]);
        }
        bench.txn_close();
        assert_eq!(bench.fake.take_reenables(), [CONTINUE]);
        run_all_scheduled();
        if !event_first {
            assert_eq!(bench.saw(), [INPUT, Saw::Closed(abort)]);
        }
        assert!(this.is_closed());
        drop(this);
        bench.finish(Some(tunnel));
    }
}

#[test]
fn a_transform_that_is_closed_after_the_transaction_ends_then() {
    let bench = Bench::new();
    drop(bench.add(TransformSide::Request, pass));
    let tunnel = FakeTunnel::open(&bench.fake, REQUEST, 1);
    bench.txn_close();
    assert_eq!(bench.saw(), []);
    tunnel.close(true);
    run_all_scheduled();
    assert_eq!(bench.saw(), [Saw::Closed(true)]);
    bench.finish(Some(tunnel));
}

#[test]
fn a_transform_that_ats_has_forgotten_ends_soon_after_the_transaction() {
    for opened in [false, true] {
        let bench = Bench::new();
        let this = bench.add(TransformSide::Request, pass);
        let tunnel = FakeTunnel::open(&bench.fake, REQUEST, i64::MAX);
        if opened {
            tunnel.feed(b"a part of it");
            run_all_scheduled();
            assert_eq!(bench.saw(), [INPUT]);
            assert!(this.is_writing() && !tunnel.output_state().1);
        }
        bench.txn_close();
        assert_eq!(bench.fake.take_reenables(), [CONTINUE]);
        assert_eq!((bench.saw(), this.is_closed()), (vec![], false), "its output may be about to say something");
        run_all_scheduled();
        assert_eq!(bench.saw(), [Saw::Closed(true)]);
        assert_eq!(tunnel.output_state().1, opened, "nobody reads from what is freed");
        assert!(this.is_closed() && !this.is_writing() && !this.wake());
        drop(this);
        bench.finish(Some(tunnel));
    }
}

#[test]
fn an_unused_transform_is_closed_once() {
    // As ATS does it, and if it was added too late for that.
    for closed_by_ats in [true, false] {
        let bench = Bench::new();
        let this = bench.add(TransformSide::Request, nothing);
        if closed_by_ats {
            bench.fake.close_transforms(REQUEST);
        }
        bench.txn_close();
        assert_eq!(bench.saw(), [Saw::Closed(false)]);
        assert_eq!(bench.fake.take_reenables(), [CONTINUE]);
        drop(this);
        bench.finish(None);
    }
}

#[test]
fn a_second_closing_finds_it_alive() {
    for pending in [false, true] {
        let bench = Bench::new();
        drop(bench.add(TransformSide::Response, pass));
        let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 1);
        tunnel.close(true);
        run_all_scheduled();
        // What `HttpSM::transform_cleanup` does, when the first was for an error before the output was opened.
        bench.fake.close_transforms(RESPONSE);
        if !pending {
            run_all_scheduled();
        }
        bench.txn_close();
        assert_eq!(bench.saw(), [Saw::Closed(true)]);
        bench.finish(Some(tunnel));
    }
}

#[test]
fn after_a_panic_upstream_is_told_and_the_handler_is_only_closed() {
    for nested in [false, true] {
        let bench = Bench::new();
        drop(bench.add(TransformSide::Response, move |_, transform, _| {
            transform.output_open(IoBuffer::new().expect("an ATS thread"), 9).expect("open");
            panic!("as asked");
        }));
        let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, i64::MAX);
        let (fake, hook) = (FakeHook(&raw const bench.fake), HookId::TXN_CLOSE.as_raw());
        tunnel.on_event(move |_| {
            assert!(!std::thread::panicking());
            if nested {
                fake.run(hook);
            }
        });
        tunnel.feed(b"abc");
        run_scheduled();
        assert_eq!(tunnel.take_events(), [ERROR]);
        assert!(bench.log.borrow().starts_with(&[INPUT, Saw::Abandoned]));
        tunnel.downstream(READY);
        run_all_scheduled();
        if !nested {
            bench.txn_close();
        }
        assert_eq!(bench.saw(), [INPUT, Saw::Abandoned, Saw::Closed(true)]);
        assert!(fake_ats::take_log()[0].1.contains("as asked"));
        bench.finish(Some(tunnel));
    }
}

#[test]
fn a_panic_with_nobody_upstream_still_ends_the_output() {
    let bench = Bench::new();
    drop(bench.add(TransformSide::Response, |_, transform, event| {
        if event == TransformEvent::OutputReady {
            panic!("too late");
        }
        transform.output_open(IoBuffer::new().expect("an ATS thread"), 9).expect("open");
        transform.output_write(b"abcdefghi");
        transform.upstream_complete();
    }));
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 3);
    tunnel.feed(b"abc");
    run_scheduled();
    assert_eq!(tunnel.drain(4), b"abcd");
    assert_eq!(tunnel.output_nbytes(), Some(4));
    assert_eq!(tunnel.drain(4), b"");
    assert!(tunnel.output_state().1, "shut down without the handler");
    run_all_scheduled();
    assert_eq!(bench.saw(), [INPUT, Saw::Event(TransformEvent::OutputReady), Saw::Abandoned]);
    tunnel.close(false);
    bench.txn_close();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    bench.finish(Some(tunnel));
}

#[test]
fn foreign_threads_add_none() {
    let fake = FakeTxn::new();
    // SAFETY: a live fake, of which nothing is used.
    let txn = unsafe { Txn::from_raw(fake.raw()) }.expect("not null");
    let probe = Probe { log: Log::default(), drops: Rc::default(), script: Box::new(nothing) };
    assert!(matches!(txn.transform_add(TransformSide::Request, probe), Err(Error::ForeignThread(_))));
}

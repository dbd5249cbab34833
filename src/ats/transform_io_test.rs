use std::time::Duration;

use ats_sys::{
    TS_EVENT_ERROR as ERROR, TS_EVENT_HTTP_CONTINUE as CONTINUE, TS_EVENT_VCONN_EOS as EOS,
    TS_EVENT_VCONN_WRITE_COMPLETE as COMPLETE, TS_EVENT_VCONN_WRITE_READY as READY,
};
use fake_ats::{FakeTunnel, run_all_scheduled, run_scheduled};

use super::*;
use crate::event::HookId;
use crate::transform::TransformEvent;
use crate::transform::tests::{Bench, FakeHook, INPUT, REQUEST, RESPONSE, Saw, nothing, pass};

#[test]
fn telling_upstream_may_end_everything_below() {
    let bench = Bench::new();
    let txn = bench.fake.raw().expose_provenance();
    let this = bench.add(TransformSide::Response, move |this, transform, event| {
        if event != TransformEvent::Input {
            return;
        }
        assert_eq!(transform.txn().map(|txn| txn.as_raw().addr()), Some(txn));
        transform.output_open(IoBuffer::new().expect("an ATS thread"), 1).expect("open");
        assert!(transform.output_write(b"x"));
        assert!(this.schedule(Duration::from_secs(1)).is_ok());
        assert!(transform.fail());
        // Now nothing is left, and nothing is touched.
        assert!(this.is_closed() && transform.is_closed());
        assert!(transform.txn().is_none() && transform.input().is_none() && transform.output().is_none());
        assert!(!transform.fail() && !transform.upstream_ready() && !transform.upstream_complete());
        assert!(transform.input_ended() && !transform.output_write(b"x"));
        assert_eq!(transform.input_take(&mut IoBuffer::new().expect("an ATS thread"), 9), 0);
        assert_eq!(transform.output_open(IoBuffer::new().expect("as above"), 1), Err(Error::Destroyed));
        transform.output_shutdown();
        assert!(!this.wake());
        assert!(this.schedule(Duration::ZERO).is_err() && this.waker().is_err());
    });
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, i64::MAX);
    let (fake, hook) = (FakeHook(&raw const bench.fake), HookId::TXN_CLOSE.as_raw());
    tunnel.on_event(move |_| fake.run(hook));
    tunnel.feed(b"abc");
    run_scheduled();
    assert_eq!(tunnel.take_events(), [ERROR]);
    assert_eq!(bench.fake.take_reenables(), [CONTINUE]);
    assert_eq!(bench.saw(), [INPUT, Saw::Closed(true)]);
    drop(this);
    bench.finish(Some(tunnel));
}

#[test]
fn failing_tells_upstream_while_it_listens() {
    for opened in [false, true] {
        let bench = Bench::new();
        drop(bench.add(TransformSide::Response, move |_, transform, _| {
            if opened {
                transform.output_open(IoBuffer::new().expect("an ATS thread"), 9).expect("open");
            }
            assert!(!transform.input_is_here(u64::MAX), "the end is not known");
            assert!(transform.fail());
        }));
        let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, i64::MAX);
        tunnel.feed(b"abc");
        run_all_scheduled();
        assert_eq!(tunnel.take_events(), [ERROR]);
        assert_eq!(bench.saw(), [INPUT, Saw::Closed(true)]);
        bench.txn_close();
        bench.finish(Some(tunnel));
    }
}

#[test]
fn failing_later_cuts_the_output() {
    for (side, opened, expected) in [
        (TransformSide::Response, true, Some(2)),
        (TransformSide::Response, false, Some(0)),
        (TransformSide::Request, false, Some(i64::MAX)),
    ] {
        let bench = Bench::new();
        let this = bench.add(side, move |_, transform, event| match event {
            TransformEvent::Input => {
                if opened && !transform.output_opened() {
                    assert!(transform.input_is_here(3) && !transform.input_is_here(2));
                    transform.output_open(IoBuffer::new().expect("an ATS thread"), 9).expect("open");
                    assert!(transform.output_write(b"abc"));
                    assert_eq!(transform.output_waiting(), 3);
                }
                transform.upstream_complete();
            }
            TransformEvent::Wake => assert!(!transform.fail()),
            _ => {}
        });
        let tunnel = FakeTunnel::open(&bench.fake, side.hook(), 3);
        tunnel.feed(b"abc");
        run_all_scheduled();
        assert_eq!(tunnel.drain(2), if opened { &b"ab"[..] } else { b"" });
        assert!(this.wake());
        run_all_scheduled();
        assert_eq!(tunnel.take_events(), [COMPLETE]);
        assert_eq!(tunnel.output_nbytes(), expected);
        tunnel.close(false);
        drop(this);
        bench.txn_close();
        run_all_scheduled();
        assert_eq!(bench.saw().iter().filter(|saw| **saw == Saw::Closed(false)).count(), 1);
        bench.finish(Some(tunnel));
    }
}

#[test]
fn what_downstream_says_is_told_apart() {
    let bench = Bench::new();
    drop(bench.add(TransformSide::Response, nothing));
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 1);
    for event in [READY, COMPLETE, EOS, ERROR, 4321] {
        tunnel.downstream(event);
    }
    let seen = [
        TransformEvent::OutputReady,
        TransformEvent::OutputComplete,
        TransformEvent::OutputEnded,
        TransformEvent::Error,
        TransformEvent::Other(Event::from_raw(4321)),
    ];
    assert_eq!(bench.saw(), seen.map(Saw::Event));
    tunnel.close(false);
    bench.txn_close();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    bench.finish(Some(tunnel));
}

#[test]
fn transforms_in_a_row() {
    let bench = Bench::new();
    let (first, second) = (bench.add(TransformSide::Response, pass), bench.add(TransformSide::Response, pass));
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 9);
    tunnel.feed(b"two");
    run_all_scheduled();
    assert_eq!(tunnel.drain(9), b"two");
    tunnel.feed(b" times");
    run_all_scheduled();
    assert_eq!(tunnel.drain(9), b" times");
    run_all_scheduled();
    assert!(tunnel.output_state().1);
    tunnel.close(false);
    run_all_scheduled();
    assert_eq!(bench.saw().iter().filter(|saw| **saw == Saw::Closed(false)).count(), 2);
    bench.txn_close();
    run_all_scheduled();
    drop((first, second));
    assert_eq!(bench.drops.get(), 2);
    assert_eq!(fake_ats::live_conts(), bench.conts);
}

#[test]
fn an_error_runs_up_the_row() {
    let bench = Bench::new();
    drop(bench.add(TransformSide::Response, pass));
    let last = bench.add(TransformSide::Response, |_, transform, _| {
        transform.fail();
    });
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 9);
    tunnel.feed(b"two");
    run_all_scheduled();
    assert_eq!(tunnel.take_events().last(), Some(&ERROR));
    assert!(bench.saw().contains(&Saw::Event(TransformEvent::Error)));
    bench.txn_close();
    run_all_scheduled();
    assert!(last.is_closed());
    drop(last);
    assert_eq!(bench.drops.get(), 2);
}

#[test]
fn upstream_may_end_the_input() {
    let bench = Bench::new();
    let this = bench.add(TransformSide::Response, |_, transform, _| {
        assert!(transform.input().expect("open").reader().is_none());
        assert!(transform.input_ended() && !transform.input_is_here(u64::MAX));
        assert!(!transform.upstream_ready());
        assert_eq!(transform.input().expect("open").consume(3), 0);
        assert_eq!(transform.input_take(&mut IoBuffer::new().expect("an ATS thread"), 3), 0);
    });
    let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 9);
    // SAFETY: a live connection.
    unsafe { ats_sys::TSVConnShutdown(this.raw(), 0, 1) };
    run_all_scheduled();
    assert_eq!(bench.saw(), [INPUT]);
    tunnel.close(false);
    bench.txn_close();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    drop(this);
    bench.finish(Some(tunnel));
}

#[test]
fn an_operation_counts_what_is_consumed() {
    let bench = Bench::new();
    drop(bench.add(TransformSide::Request, |_, transform, _| {
        assert_eq!(transform.side(), TransformSide::Request);
        let mut input = transform.input().expect("open");
        assert_eq!((input.nbytes(), input.ndone(), input.todo()), (8, 0, 8));
        assert_eq!(input.reader().map(|reader| reader.len()), Some(5));
        assert_eq!(input.consume(2), 2);
        assert_eq!(input.consume(99), 3);
        assert_eq!((input.ndone(), input.todo()), (5, 3));
        input.nbytes_set(4);
        assert_eq!(input.todo(), 0, "more than all is none left");
        input.nbytes_set(vio::UNKNOWN);
        assert_eq!(input.nbytes(), vio::UNKNOWN);
        input.ndone_set(0);
    }));
    let tunnel = FakeTunnel::open(&bench.fake, REQUEST, 8);
    tunnel.feed(b"abcde");
    run_scheduled();
    assert_eq!(bench.saw(), [INPUT]);
    assert_eq!(tunnel.input_state(), (0, 0));
    tunnel.close(false);
    bench.txn_close();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    bench.finish(Some(tunnel));
}

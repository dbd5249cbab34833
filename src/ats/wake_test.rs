use fake_ats::{FakeTunnel, run_all_scheduled, run_scheduled};

use super::*;
use crate::transform::tests::{Bench, RESPONSE, Saw, nothing};
use crate::transform::{TransformEvent, TransformSide};

#[test]
fn timers_come_as_what_they_are() {
    let bench = Bench::new();
    let this = bench.add(TransformSide::Response, nothing);
    let timer = this.schedule(Duration::from_millis(3)).expect("open");
    let cancelled = this.schedule(Duration::ZERO).expect("open");
    assert!(this.cancel(cancelled) && !this.cancel(cancelled));
    assert!(this.wake() && this.wake());
    assert_eq!(fake_ats::scheduled(), 2);
    run_scheduled();
    assert_eq!(bench.saw(), [TransformEvent::Timer(timer), TransformEvent::Wake].map(Saw::Event));
    assert!(this.wake(), "again");
    run_scheduled();
    assert_eq!(bench.saw(), [Saw::Event(TransformEvent::Wake)]);
    bench.fake.close_transforms(RESPONSE);
    bench.txn_close();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    drop(this);
    bench.finish(None);
}

#[test]
fn closing_takes_timers_back_and_later_wakings_do_nothing() {
    for txn_first in [false, true] {
        let bench = Bench::new();
        let this = bench.add(TransformSide::Response, nothing);
        let waker = this.waker().expect("open");
        let timer = this.schedule(Duration::from_secs(9)).expect("open");
        assert!(this.wake());
        let tunnel = FakeTunnel::open(&bench.fake, RESPONSE, 1);
        tunnel.close(true);
        if txn_first {
            bench.txn_close();
        } else {
            run_scheduled();
        }
        // The wake-up was on its way before the closing, and is not delivered as one.
        assert_eq!(bench.saw(), [Saw::Closed(true)]);
        assert_eq!(fake_ats::scheduled(), 0);
        assert!(!this.wake() && !this.cancel(timer));
        assert_eq!(waker.wake(), Ok(()));
        assert_eq!(this.schedule(Duration::ZERO), Err(Error::Destroyed));
        assert_eq!(fake_ats::scheduled(), 0);
        if !txn_first {
            bench.txn_close();
        }
        drop((this, waker));
        bench.finish(Some(tunnel));
    }
}

#[test]
fn other_threads_wake_it_on_its_own() {
    let bench = Bench::new();
    let this = bench.add(TransformSide::Response, nothing);
    for closed in [false, true] {
        let waker = this.waker().expect("open");
        std::thread::spawn(move || {
            assert_eq!(waker.wake(), Err(Error::ForeignThread("TSMutexLock")));
            fake_ats::on_event_thread();
            assert_eq!(waker.wake(), Ok(()));
            assert_eq!(waker.wake(), Ok(()));
            run_all_scheduled();
        })
        .join()
        .expect("no panic");
        assert_eq!(bench.saw(), []);
        if closed {
            bench.fake.close_transforms(RESPONSE);
            bench.txn_close();
        }
        run_scheduled();
        run_all_scheduled();
        assert_eq!(bench.saw(), [if closed { Saw::Closed(false) } else { Saw::Event(TransformEvent::Wake) }]);
    }
    assert!(fake_ats::take_log().is_empty());
    drop(this);
    bench.finish(None);
}

#[test]
fn a_waker_may_outlive_everything() {
    let bench = Bench::new();
    let waker = bench.add(TransformSide::Response, nothing).waker().expect("open");
    bench.fake.close_transforms(RESPONSE);
    bench.txn_close();
    run_all_scheduled();
    assert_eq!(bench.saw(), [Saw::Closed(false)]);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fake_ats::on_event_thread();
            assert_eq!(waker.wake(), Ok(()));
        });
    });
    run_scheduled();
    drop(waker);
    bench.finish(None);
}

//! Tests of the breaker, on a clock of their own.

use super::*;

const MS: fn(u64) -> Duration = Duration::from_millis;

fn settings() -> BreakerSettings {
    BreakerSettings {
        failures: 4,
        percent: 50,
        lost: MS(1000),
        window: MS(10_000),
        pause: MS(1000),
        max_pause: MS(5000),
        probes: 1,
    }
}

struct Bench {
    breaker: Breaker,
    open: Arc<AtomicU64>,
    now: Instant,
}

impl Bench {
    fn new(settings: BreakerSettings) -> Self {
        let open = Arc::default();
        let breaker = Breaker::new(settings, Arc::clone(&open));
        let now = *BEGIN;
        Bench { breaker, open, now }
    }

    fn admit(&self) -> Admission {
        if self.breaker.state.load(Ordering::Relaxed) == QUIET {
            Admission::Go
        } else {
            self.breaker.admit_slowly(self.now)
        }
    }

    fn fail(&self, cost: Duration, probe: bool) -> Option<Change> {
        self.breaker.failed_at(self.now, cost, probe)
    }

    /// A transaction that fails.
    fn bad(&self) -> Option<Change> {
        match self.admit() {
            Admission::Go => self.fail(Duration::ZERO, false),
            Admission::Probe => self.fail(Duration::ZERO, true),
            Admission::SetAside => None,
        }
    }

    /// One that goes well.
    fn good(&self) -> Option<Change> {
        match self.admit() {
            Admission::Probe => self.breaker.passed_at(self.now),
            Admission::Go | Admission::SetAside => None,
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn state(&self) -> (BreakerState, u64) {
        (self.breaker.state(), self.open.load(Ordering::Relaxed))
    }

    /// Fails until it opens, and says for how long.
    fn open(&self) -> Duration {
        for _ in 0..100 {
            if let Some(Change::Opened { pause, .. }) = self.bad() {
                return pause;
            }
        }
        panic!("it does not open");
    }
}

#[test]
fn it_opens_tries_and_closes_by_itself() {
    let mut bench = Bench::new(settings());
    assert_eq!(bench.state(), (BreakerState::Closed, 0));
    for _ in 0..3 {
        assert_eq!(bench.bad(), None);
    }
    assert_eq!(bench.state(), (BreakerState::Closed, 0));
    bench.pass(MS(500));
    let Some(Change::Opened { pause, failures, transactions, within, .. }) = bench.bad() else { panic!() };
    assert_eq!((failures, transactions, within), (4, 4, Some(MS(500))));
    assert!((MS(800)..=MS(1200)).contains(&pause), "{pause:?}");
    assert_eq!(bench.state(), (BreakerState::Open, 1));
    for _ in 0..5 {
        assert_eq!(bench.admit(), Admission::SetAside);
    }
    assert_eq!(bench.fail(Duration::ZERO, false), None, "of a transaction that began before");
    bench.pass(MS(1201));
    assert_eq!(bench.admit(), Admission::Probe);
    assert_eq!(bench.state(), (BreakerState::HalfOpen, 1));
    assert_eq!(bench.admit(), Admission::SetAside, "one at a time");
    assert_eq!(bench.fail(Duration::ZERO, false), None, "of a transaction that began before");
    bench.pass(MS(3));
    let Some(Change::Closed { after, rejected }) = bench.breaker.passed_at(bench.now) else { panic!() };
    assert_eq!((after, rejected), (MS(1204), 6));
    assert_eq!(bench.state(), (BreakerState::Closed, 0));
    assert_eq!(bench.admit(), Admission::Go);
    assert_eq!(bench.breaker.state.load(Ordering::Relaxed), QUIET);
}

#[test]
fn pauses_double_up_to_the_longest_and_begin_anew_when_it_has_recovered() {
    let mut bench = Bench::new(settings());
    let mut pause = bench.open();
    for expected in [2000, 4000, 5000, 5000] {
        bench.pass(pause + MS(1));
        assert_eq!(bench.admit(), Admission::Probe);
        let Some(Change::Opened { pause: next, within: None, .. }) = bench.fail(Duration::ZERO, true) else { panic!() };
        let expected = MS(expected);
        assert!(next >= expected.mul_f64(0.79) && next <= expected.mul_f64(1.21), "{next:?} for {expected:?}");
        pause = next;
    }
    // Taken back, and bad again at once: that was no recovery.
    bench.pass(pause + MS(1));
    assert!(matches!(bench.good(), Some(Change::Closed { .. })));
    bench.pass(MS(100));
    assert!(bench.open() >= MS(3900));
    bench.pass(MS(7000));
    assert!(matches!(bench.good(), Some(Change::Closed { .. })));
    bench.pass(MS(10_001));
    assert!(bench.open() <= MS(1200), "it was well for longer than a window");
}

#[test]
fn a_few_bad_requests_among_good_ones_do_not_open_it() {
    let mut bench = Bench::new(settings());
    // One of three, for a minute.
    for at in 0..60_000 {
        bench.pass(MS(1));
        let change = if at % 3 == 0 { bench.bad() } else { bench.good() };
        assert_eq!(change, None, "{at}");
    }
    // Few, but nothing else.
    let mut bench = Bench::new(settings());
    for _ in 0..100 {
        bench.pass(MS(3334));
        assert_eq!(bench.bad(), None, "three in a window");
    }
}

#[test]
fn what_takes_long_opens_it_whatever_its_share() {
    let mut bench = Bench::new(settings());
    let mut opened = None;
    for at in 1.. {
        for _ in 0..1000 {
            bench.good();
        }
        bench.pass(MS(10));
        assert_eq!(bench.admit(), Admission::Go);
        if let Some(change) = bench.fail(MS(100), false) {
            opened = Some((at, change));
            break;
        }
    }
    let Some((10, Change::Opened { lost, .. })) = opened else { panic!("{opened:?}") };
    assert_eq!(lost, MS(1000));
    let bench = Bench::new(settings());
    assert_eq!((bench.fail(MS(5000), false), bench.fail(MS(5000), false)), (None, None), "two are not many");
    assert!(bench.fail(MS(1), false).is_some());
    let bench = Bench::new(BreakerSettings { lost: Duration::ZERO, ..settings() });
    for _ in 0..3 {
        assert_eq!(bench.fail(MS(5000), false), None, "not looked at");
    }
}

#[test]
fn several_probes_at_a_time_must_all_go_well() {
    let mut bench = Bench::new(BreakerSettings { probes: 3, ..settings() });
    let pause = bench.open();
    bench.pass(pause + MS(1));
    let admitted: Vec<_> = (0..4).map(|_| bench.admit()).collect();
    assert_eq!(admitted, [Admission::Probe, Admission::Probe, Admission::Probe, Admission::SetAside]);
    assert_eq!(bench.breaker.passed_at(bench.now), None);
    // One is lost through no fault of its own, and another one may try.
    bench.breaker.returned();
    assert_eq!(bench.admit(), Admission::Probe);
    assert_eq!(bench.admit(), Admission::Probe, "in place of the one that passed");
    assert_eq!(bench.admit(), Admission::SetAside);
    assert_eq!(bench.breaker.passed_at(bench.now), None);
    assert!(matches!(bench.breaker.passed_at(bench.now), Some(Change::Closed { .. })));
    assert_eq!(bench.breaker.passed_at(bench.now), None, "late, and of no use any more");
}

#[test]
fn a_probe_that_is_never_heard_of_is_not_waited_for() {
    let mut bench = Bench::new(settings());
    let pause = bench.open();
    bench.pass(pause + MS(1));
    assert_eq!(bench.admit(), Admission::Probe);
    bench.pass(MS(9_999));
    assert_eq!(bench.admit(), Admission::SetAside);
    bench.pass(MS(2));
    assert_eq!(bench.admit(), Admission::Probe);
}

#[test]
fn without_a_breaker_nothing_is_ever_set_aside() {
    let bench = Bench::new(BreakerSettings { failures: 0, ..settings() });
    for _ in 0..1000 {
        assert_eq!(bench.admit(), Admission::Go);
        assert_eq!(bench.fail(MS(1000), false), None);
    }
    assert_eq!(bench.breaker.state.load(Ordering::Relaxed), QUIET);
}

#[test]
fn one_that_goes_while_it_is_open_is_not_counted_any_more() {
    let bench = Bench::new(settings());
    bench.open();
    let open = Arc::clone(&bench.open);
    assert_eq!(open.load(Ordering::Relaxed), 1);
    drop(bench);
    assert_eq!(open.load(Ordering::Relaxed), 0);
}

#[test]
fn breakers_with_equal_settings_are_equal() {
    let shared = |settings| SharedBreaker(Arc::new(Breaker::new(settings, Arc::default())));
    assert_eq!(shared(settings()), shared(settings()));
    assert_ne!(shared(settings()), shared(BreakerSettings::default()));
}

#[test]
fn threads_that_fail_and_try_together_agree() {
    let breaker = Breaker::new(BreakerSettings { pause: MS(1), max_pause: MS(1), ..settings() }, Arc::default());
    let (opened, closed, probes) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (breaker, opened, closed, probes) = (&breaker, &opened, &closed, &probes);
            scope.spawn(move || {
                for turn in 0..50_000_u32 {
                    let admission = breaker.admit();
                    let change = match admission {
                        Admission::SetAside => continue,
                        Admission::Probe => {
                            probes.fetch_add(1, Ordering::Relaxed);
                            if turn % 3 == thread % 3 { breaker.failed(MS(0), true) } else { breaker.passed() }
                        }
                        Admission::Go => breaker.failed(MS(0), false),
                    };
                    match change {
                        Some(Change::Opened { .. }) => opened.fetch_add(1, Ordering::Relaxed),
                        Some(Change::Closed { .. }) => closed.fetch_add(1, Ordering::Relaxed),
                        None => 0,
                    };
                }
            });
        }
    });
    let (opened, closed, probes) = (opened.into_inner(), closed.into_inner(), probes.into_inner());
    // Each opening is followed by a probe or is the last thing that happened; each probe closes or opens.
    assert!(opened > 1 && opened - closed.min(opened) <= probes + 1, "{opened} {closed} {probes}");
    assert_eq!(breaker.open.load(Ordering::Relaxed), u64::from(breaker.state() != BreakerState::Closed));
}

use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use ats_sys::{TS_EVENT_HTTP_CONTINUE as CONTINUE, TS_EVENT_HTTP_ERROR as ERROR};
use fake_ats::FakeTxn;

use super::*;
use crate::event::HookId;
use crate::schedule::Pool;
use crate::thread::EventThread;
use crate::txn::Txn;

type Step = Box<dyn Fn(ContRef<'_, Script>, Edata) + Send>;

/// A handler whose test says what it does, and which notes events and its own end.
struct Script {
    seen: Arc<parking_lot::Mutex<Vec<Event>>>,
    drops: Arc<AtomicUsize>,
    step: Step,
    panic_in_drop: bool,
}

impl Handler for Script {
    const NAME: &'static str = "script";

    fn handle(&self, cont: ContRef<'_, Self>, event: Event, edata: Edata) {
        self.seen.lock().push(event);
        (self.step)(cont, edata);
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panic_in_drop, "in drop");
    }
}

struct Bench {
    fake: FakeTxn,
    seen: Arc<parking_lot::Mutex<Vec<Event>>>,
    drops: Arc<AtomicUsize>,
    conts: usize,
}

impl Bench {
    fn new() -> Self {
        guard::install_panic_hook();
        fake_ats::on_event_thread();
        Self { fake: FakeTxn::new(), seen: Arc::default(), drops: Arc::default(), conts: fake_ats::live_conts() }
    }

    fn script(&self, step: impl Fn(ContRef<'_, Script>, Edata) + Send + 'static) -> Script {
        let (seen, drops) = (Arc::clone(&self.seen), Arc::clone(&self.drops));
        Script { seen, drops, step: Box::new(step), panic_in_drop: false }
    }

    fn cont(&self, step: impl Fn(ContRef<'_, Script>, Edata) + Send + 'static) -> Continuation<Script> {
        Continuation::new(self.script(step)).expect("an ATS thread")
    }

    fn txn(&self) -> Txn<'_> {
        // SAFETY: the fake lives as long as the handle, on this thread.
        unsafe { Txn::from_raw(self.fake.raw()) }.expect("not null")
    }

    fn run(&self, hooks: &[HookId]) {
        self.fake.run(&hooks.iter().map(|hook| hook.as_raw()).collect::<Vec<_>>());
    }

    /// Continuation and data are gone, each once.
    #[track_caller]
    fn assert_gone(&self) {
        assert_eq!(self.drops.load(Ordering::SeqCst), 1, "data dropped");
        assert_eq!(fake_ats::live_conts(), self.conts, "continuations destroyed");
    }

    #[track_caller]
    fn assert_alive(&self) {
        assert_eq!(self.drops.load(Ordering::SeqCst), 0, "data alive");
        assert_eq!(fake_ats::live_conts(), self.conts + 1, "continuation alive");
    }
}

fn resume(edata: Edata) {
    if let Edata::Hook(hook) = edata {
        hook.resume();
    }
}

#[test]
fn an_owner_that_goes_takes_it_along() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| resume(edata));
    assert_eq!(cont.with_lock(|script| script.panic_in_drop), Ok(false));
    bench.assert_alive();
    drop(cont);
    bench.assert_gone();
}

#[test]
fn a_dropped_owner_waits_for_the_close() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| resume(edata));
    bench.txn().hook_add(HookId::SEND_RESPONSE_HDR, cont.as_ref()).expect("hook");
    drop(cont);
    bench.assert_alive();
    // Nested, as ATS does it: the close comes inside the re-enable of the hook before.
    bench.run(&[HookId::SEND_RESPONSE_HDR, HookId::TXN_CLOSE]);
    bench.assert_gone();
    assert_eq!(*bench.seen.lock(), [Event::HTTP_SEND_RESPONSE_HDR, Event::HTTP_TXN_CLOSE]);
    assert_eq!(bench.fake.take_reenables(), [CONTINUE, CONTINUE]);
}

#[test]
fn the_close_comes_unasked_and_once() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| resume(edata));
    for _ in 0..2 {
        bench.txn().hook_add(HookId::POST_REMAP, cont.as_ref()).expect("hook");
    }
    bench.txn().hook_add(HookId::TXN_CLOSE, cont.as_ref()).expect("hook");
    assert_eq!(bench.fake.hooks(), [HookId::TXN_CLOSE.as_raw(), HookId::POST_REMAP.as_raw()]);
    bench.run(&[HookId::TXN_CLOSE]);
    bench.assert_alive();
    drop(cont);
    bench.assert_gone();
}

#[test]
fn destroyed_inside_its_own_nested_close() {
    let bench = Bench::new();
    let depth = Arc::new(AtomicUsize::new(0));
    let drops = Arc::clone(&bench.drops);
    let cont = bench.cont(move |cont, edata| {
        let Edata::Hook(hook) = edata else { panic!("hooks only") };
        if depth.fetch_add(1, Ordering::SeqCst) == 1 {
            cont.destroy();
            cont.destroy();
        }
        hook.resume();
        assert_eq!(drops.load(Ordering::SeqCst), 0, "the data lives while a call on the stack uses it");
    });
    bench.txn().hook_add(HookId::READ_RESPONSE_HDR, cont.as_ref()).expect("hook");
    drop(cont);
    bench.run(&[HookId::READ_RESPONSE_HDR, HookId::TXN_CLOSE]);
    bench.assert_gone();
    assert_eq!(bench.fake.take_reenables(), [CONTINUE, CONTINUE]);
}

#[test]
fn nothing_can_be_done_with_a_destroyed_one() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| resume(edata));
    cont.as_ref().destroy();
    assert_eq!(bench.txn().hook_add(HookId::POST_REMAP, cont.as_ref()), Err(Error::Destroyed));
    drop(cont);
    bench.assert_gone();
}

#[test]
fn one_continuation_one_transaction() {
    let (bench, other) = (Bench::new(), FakeTxn::new());
    let cont = bench.cont(|_, edata| resume(edata));
    bench.txn().hook_add(HookId::POST_REMAP, cont.as_ref()).expect("hook");
    // SAFETY: the fake lives to the end of the test, on this thread.
    let txn = unsafe { Txn::from_raw(other.raw()) }.expect("not null");
    assert_eq!(txn.hook_add(HookId::POST_REMAP, cont.as_ref()), Err(Error::OtherTransaction));
    assert!(other.hooks().is_empty());
    bench.run(&[HookId::TXN_CLOSE]);
    assert_eq!(txn.hook_add(HookId::POST_REMAP, cont.as_ref()), Ok(()), "free again after the close");
    other.run(&[HookId::TXN_CLOSE.as_raw()]);
}

#[test]
fn a_panic_poisons() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| {
        let _hook = edata;
        panic!("in the handler");
    });
    bench.txn().hook_add(HookId::POST_REMAP, cont.as_ref()).expect("hook");
    bench.txn().hook_add(HookId::SEND_RESPONSE_HDR, cont.as_ref()).expect("hook");
    // The owner is kept, as by an instance: the close destroys the continuation all the same.
    bench.run(&[HookId::POST_REMAP, HookId::SEND_RESPONSE_HDR, HookId::TXN_CLOSE]);
    assert_eq!(*bench.seen.lock(), [Event::HTTP_POST_REMAP], "not called again");
    assert_eq!(bench.fake.take_reenables(), [ERROR, CONTINUE, CONTINUE]);
    assert_eq!(fake_ats::live_conts(), bench.conts);
    drop(cont);
    bench.assert_gone();
}

#[test]
fn what_panicked_lets_go_before_the_transaction_goes_on() {
    struct Holder(Arc<parking_lot::Mutex<Vec<&'static str>>>);
    impl Handler for Holder {
        const NAME: &'static str = "holder";

        fn handle(&self, _cont: ContRef<'_, Self>, _event: Event, _edata: Edata) {
            panic!("in the handler");
        }

        fn abandon(&self) {
            assert!(!std::thread::panicking(), "the stack is unwound");
            self.0.lock().push("abandoned");
            panic!("there, too");
        }
    }

    for hook in [HookId::POST_REMAP, HookId::TXN_CLOSE] {
        let bench = Bench::new();
        let told = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let told_by_ats = Arc::clone(&told);
        bench.fake.on_reenable(move |_| told_by_ats.lock().push("re-enabled"));
        let cont = Continuation::without_mutex(Holder(Arc::clone(&told))).expect("an ATS thread");
        bench.txn().hook_add(hook, cont.as_ref()).expect("hook");
        drop(cont);
        bench.run(&[hook]);
        assert_eq!(*told.lock(), ["abandoned", "re-enabled"]);
        assert_eq!(bench.fake.take_reenables(), [ERROR]);
        if hook != HookId::TXN_CLOSE {
            bench.run(&[HookId::TXN_CLOSE]);
            assert_eq!(*told.lock(), ["abandoned", "re-enabled", "re-enabled"], "once");
        }
        assert_eq!(fake_ats::live_conts(), bench.conts);
    }
}

#[test]
fn a_panic_in_handler_and_destructor_is_two_log_lines() {
    let bench = Bench::new();
    let mut script = bench.script(|_, _edata| panic!("in the handler"));
    script.panic_in_drop = true;
    let cont = Continuation::new(script).expect("an ATS thread");
    bench.txn().hook_add(HookId::TXN_CLOSE, cont.as_ref()).expect("hook");
    drop(cont);
    bench.run(&[HookId::TXN_CLOSE]);
    bench.assert_gone();
    let log = fake_ats::take_log();
    let panics: Vec<_> = log.iter().filter(|(_, line)| line.contains("panic in script")).collect();
    assert_eq!(panics.len(), 2, "{log:?}");
    assert_eq!(bench.fake.take_reenables(), [ERROR]);
}

#[test]
fn paused_and_resumed_by_a_timer() {
    let bench = Bench::new();
    let token = Arc::new(parking_lot::Mutex::new(None));
    let cont = bench.cont(move |cont, edata| match edata {
        Edata::Hook(hook) => {
            *token.lock() = Some(hook.pause());
            cont.schedule_here(Duration::from_millis(5)).expect("scheduled");
        }
        Edata::Timer(_) => {
            let token = token.lock().take().expect("paused");
            let hook = token.enter().expect("on its thread");
            hook.resume();
        }
        Edata::Other(_) => panic!("not asked for"),
    });
    bench.txn().hook_add(HookId::POST_REMAP, cont.as_ref()).expect("hook");
    bench.run(&[HookId::POST_REMAP]);
    assert_eq!(bench.fake.take_reenables(), [0_u32; 0]);
    fake_ats::run_scheduled();
    assert_eq!(*bench.seen.lock(), [Event::HTTP_POST_REMAP, Event::TIMEOUT]);
    assert_eq!(bench.fake.take_reenables(), [CONTINUE]);
}

#[test]
fn timers_can_be_taken_back_until_they_fire() {
    let bench = Bench::new();
    let fired = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let note = Arc::clone(&fired);
    let cont = bench.cont(move |_, edata| {
        if let Edata::Timer(action) = edata {
            note.lock().push(action);
        }
    });
    let here = EventThread::current().expect("an event thread");
    let first = cont.as_ref().schedule_on_pool(Duration::ZERO, Pool::Task).expect("scheduled");
    let second = cont.as_ref().schedule_on_thread(Duration::from_secs(1), here).expect("scheduled");
    assert_eq!(fake_ats::scheduled(), 2);
    assert_eq!(cont.as_ref().cancel(second), Ok(true));
    assert_eq!(cont.as_ref().cancel(second), Ok(false), "twice is harmless");
    fake_ats::run_scheduled();
    assert_eq!(*fired.lock(), [first]);
    assert_eq!(*bench.seen.lock(), [Event::IMMEDIATE]);
    assert_eq!(cont.as_ref().cancel(first), Ok(false), "fired");
    cont.as_ref().schedule_here(Duration::from_secs(1)).expect("scheduled");
    drop(cont);
    assert_eq!(fake_ats::scheduled(), 0, "destruction cancels");
    bench.assert_gone();
}

#[test]
fn without_a_mutex_there_are_hooks_and_no_timers() {
    struct Counter(AtomicUsize);
    impl Handler for Counter {
        const NAME: &'static str = "counter";

        fn handle(&self, _cont: ContRef<'_, Self>, _event: Event, edata: Edata) {
            self.0.fetch_add(1, Ordering::SeqCst);
            resume(edata);
        }
    }

    let bench = Bench::new();
    let cont = Continuation::without_mutex(Counter(AtomicUsize::new(0))).expect("an ATS thread");
    bench.txn().hook_add(HookId::POST_REMAP, cont.as_ref()).expect("hook");
    bench.run(&[HookId::POST_REMAP, HookId::TXN_CLOSE]);
    assert_eq!(cont.inner.data.0.load(Ordering::SeqCst), 2);
    assert_eq!(cont.as_ref().schedule_here(Duration::ZERO), Err(Error::NoMutex));
    assert_eq!(cont.with_lock(|_| ()), Err(Error::NoMutex));
}

#[test]
fn foreign_threads_are_refused() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| resume(edata));
    let script = bench.script(|_, edata| resume(edata));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(
                cont.as_ref().schedule_here(Duration::ZERO),
                Err(Error::ForeignThread("TSContScheduleOnThread"))
            );
            assert_eq!(cont.with_lock(|_| ()), Err(Error::ForeignThread("TSMutexLock")));
            assert!(matches!(Continuation::new(script), Err(Error::ForeignThread("TSContCreate"))));
            cont.as_ref().destroy();
            assert!(fake_ats::take_log()[0].1.contains("foreign thread"), "a leak, and logged");
        });
    });
    assert_eq!(bench.drops.load(Ordering::SeqCst), 1, "only the one that was never a continuation");
    drop(cont);
    assert_eq!(bench.drops.load(Ordering::SeqCst), 2);
}

#[test]
fn the_request_buffer_event_comes_under_one_name() {
    let bench = Bench::new();
    let cont = bench.cont(|_, edata| resume(edata));
    bench.txn().hook_add(HookId::REQUEST_BUFFER_READ_COMPLETE, cont.as_ref()).expect("hook");
    drop(cont);
    bench.run(&[HookId::REQUEST_BUFFER_READ_COMPLETE, HookId::TXN_CLOSE]);
    assert_eq!(*bench.seen.lock(), [Event::HTTP_REQUEST_BUFFER_READ_COMPLETE, Event::HTTP_TXN_CLOSE]);
    bench.assert_gone();
}

//! Tests of the statistics of filters.

use super::*;
use crate::error::{Trap, TrapKind};

fn trap(kind: TrapKind) -> Error {
    Error::Trap(Box::new(Trap {
        callback: Callback::RequestHeaders,
        kind,
        reason: String::new(),
        limit: None,
        spent: Duration::ZERO,
        backtrace: Vec::new(),
    }))
}

#[test]
fn a_rule_that_comes_back_goes_on_counting() {
    let registry = Registry::new(2);
    let stats = registry.stats("a -> b", "f");
    stats.begin_stream(0);
    drop(stats);
    let stats = registry.stats("a -> b", "f");
    stats.begin_stream(1);
    stats.begin_stream(7);
    assert_eq!(stats.read().streams, 3, "slots, and what runs beyond them");
    assert_eq!(registry.stats("a -> b", "g").read().streams, 0);
    assert_eq!(registry.stats("a -> c", "f").read().streams, 0);
    assert_eq!(registry.all().len(), 3);
}

#[test]
fn what_happened_is_told_apart() {
    let registry = Registry::new(1);
    let stats = registry.stats("r", "f");
    stats.trap(&trap(TrapKind::Guest));
    stats.trap(&trap(TrapKind::Guest));
    stats.trap(&trap(TrapKind::Exit(3)));
    stats.trap(&Error::Start("no".to_owned()));
    stats.failure(FailurePolicy::Open);
    stats.breach(Limit::Memory, 3);
    stats.breach(Limit::Pause, 1);
    stats.breaker_opened();
    stats.breaker_probe();
    stats.breaker_rejected();
    stats.breaker_rejected();
    stats.callout(CalloutOutcome::Ok, Duration::from_millis(3));
    stats.callout(CalloutOutcome::Dns, Duration::from_millis(5));
    stats.pause(0);
    stats.paused(0, Duration::from_secs(2));
    stats.local_response(3);
    stats.callback(Callback::Tick, Duration::from_micros(1));
    let read = stats.read();
    assert_eq!(read.traps, [("exit", 1), ("refused", 1), ("trap", 2)]);
    assert_eq!(read.failures, [("closed", 0), ("open", 1), ("reload", 0)]);
    assert_eq!(read.breaches, [("memory_mib", 3), ("pause_ms", 1)]);
    assert_eq!((read.opened, read.probes, read.rejected, read.breaker), (1, 1, 2, None));
    let breaker = Arc::new(Breaker::new(crate::config::BreakerSettings::default(), registry.open_breakers()));
    stats.watch(&breaker);
    stats.watch(&breaker);
    assert_eq!(stats.read().breaker, Some(BreakerState::Closed));
    drop(breaker);
    assert_eq!(stats.read().breaker, None, "it is the filter's, and goes with it");
    assert_eq!(read.callouts, [("ok", 1), ("dns", 1)]);
    assert_eq!(read.callout_times.map(|times| times.count), Some(2));
    assert_eq!((read.pauses, read.paused_nanos, read.local_responses), (1, 2_000_000_000, 1));
    assert_eq!(read.callbacks.len(), 1);
    assert_eq!(read.callbacks[0].0, "proxy_on_tick");
    assert_eq!(registry.process.callouts[CalloutOutcome::Dns as usize].load(Ordering::Relaxed), 1);
}

#[test]
fn rules_that_are_gone_do_not_fill_the_memory() {
    let registry = Registry::new(1);
    let kept = registry.stats("kept", "f");
    kept.begin_stream(0);
    for rule in 0..2 * MAX_IDLE {
        drop(registry.stats(rule.to_string(), "f"));
    }
    assert!(registry.all().len() <= MAX_IDLE + LOOK + 1, "{}", registry.all().len());
    assert_eq!(registry.stats("kept", "f").read().streams, 1);
}

//! A VM's side of measuring.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::filter::FilterStats;
use super::sample::Sampler;
use super::{Observer, VmGauge};
use crate::abi::Callback;
use crate::state::{Context, VmState};

/// Measures the callbacks of one VM.
pub(crate) struct Meter {
    observer: Observer,
    sampler: Sampler,
    /// Whether callbacks are measured: those of plugin contexts always, a stream's in some visits.
    measuring: bool,
    /// Callbacks of streams that were measured and not reported yet.
    measured: Vec<(Callback, Duration)>,
}

impl Meter {
    pub(crate) fn new(observer: Observer) -> Self {
        let sampler = Sampler::new(Arc::clone(&observer.clock));
        Meter { observer, sampler, measuring: true, measured: Vec::new() }
    }

    pub(crate) fn gauge(&self) -> &Arc<VmGauge> {
        &self.observer.gauge
    }

    /// A stream's visit begins.
    #[inline]
    pub(crate) fn begin_visit(&mut self) {
        self.measuring = self.sampler.take();
    }

    /// It is over.
    #[inline]
    pub(crate) fn end_visit(&mut self) {
        self.measuring = true;
    }

    /// Whether callbacks are measured, each of them.
    #[inline]
    pub(crate) fn is_measuring(&self) -> bool {
        self.measuring
    }

    /// A callback begins: when, if it is measured.
    #[inline]
    pub(crate) fn start(&self) -> Option<Instant> {
        if self.measuring { Some(Instant::now()) } else { None }
    }

    /// A measured callback is over. A plugin context's is counted here; a stream's belongs to a rule, which its visitor
    /// knows.
    #[cold]
    pub(crate) fn stop(&mut self, state: &VmState, callback: Callback, context: u32, begun: Instant) {
        let time = begun.elapsed();
        match state.contexts.get(&context) {
            Some(Context::Root(root)) => root.stats().callback(callback, time),
            Some(Context::Stream { .. }) => self.measured.push((callback, time)),
            None => {}
        }
    }

    /// Hands what was measured since the last time to the filter whose stream was visited.
    #[inline]
    pub(crate) fn report(&mut self, stats: &FilterStats) {
        if !self.measured.is_empty() {
            self.report_measured(stats);
        }
    }

    #[cold]
    fn report_measured(&mut self, stats: &FilterStats) {
        self.measured.drain(..).for_each(|(callback, time)| stats.callback(callback, time));
    }
}

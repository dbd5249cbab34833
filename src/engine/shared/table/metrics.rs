//! Metrics that filters define, across the table.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use super::wire::{Slice, State, Visit, guarded, outcome};
use super::{Link, owner};
use crate::abi::MetricType;
use crate::error::Error;
use crate::shared::owner::{MAX_NAME, Metrics, Reading};

/// Values that a histogram counted together.
#[repr(C)]
#[derive(Clone, Copy)]
struct Bucket {
    greatest: u64,
    count: u64,
}

/// A metric, for one call.
#[repr(C)]
struct Shown {
    name: Slice,
    /// A [`MetricType`].
    metric_type: u32,
    bucket_count: u32,
    /// The value, a gauge's with its sign; a histogram's sum.
    value: u64,
    buckets: *const Bucket,
}

type VisitMetric = unsafe extern "C" fn(to: *mut c_void, shown: *const Shown);

/// The part of the table that is metrics.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct MetricTable {
    define: unsafe extern "C" fn(State, metric_type: u32, name: Slice, metric: *mut u32) -> i32,
    record: unsafe extern "C" fn(State, metric: u32, value: i64) -> i32,
    increment: unsafe extern "C" fn(State, metric: u32, offset: i64) -> i32,
    get: unsafe extern "C" fn(State, metric: u32, value: *mut u64) -> i32,
    refused: unsafe extern "C" fn(State, refused: *mut u64) -> i32,
    each: unsafe extern "C" fn(State, visit: VisitMetric, to: *mut c_void) -> i32,
}

impl MetricTable {
    /// The functions of a copy that owns the metrics.
    pub(super) const OF_OWNER: Self = MetricTable { define, record, increment, get, refused, each };
}

// The owner's functions. SAFETY, for all of them: `state` is that of the table which they were called by; slices
// and places for results are lent for the call.

unsafe extern "C" fn define(state: State, metric_type: u32, name: Slice, metric: *mut u32) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let (owner, name) = unsafe { (owner(state), name.text()?) };
        let metric_type = metric_type_of(metric_type).ok_or_else(|| Error::BadArgument("metric type"))?;
        let id = owner.metrics.define(metric_type, name)?;
        // SAFETY: as above.
        unsafe { metric.write(id) };
        Ok(())
    })
}

unsafe extern "C" fn record(state: State, metric: u32, value: i64) -> i32 {
    // SAFETY: see above.
    guarded(|| unsafe { owner(state) }.metrics.record(metric, value))
}

unsafe extern "C" fn increment(state: State, metric: u32, offset: i64) -> i32 {
    // SAFETY: see above.
    guarded(|| unsafe { owner(state) }.metrics.increment(metric, offset))
}

unsafe extern "C" fn get(state: State, metric: u32, value: *mut u64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        let found = unsafe { owner(state) }.metrics.get(metric)?;
        // SAFETY: as above.
        unsafe { value.write(found) };
        Ok(())
    })
}

unsafe extern "C" fn refused(state: State, refused: *mut u64) -> i32 {
    guarded(|| {
        // SAFETY: see above.
        unsafe { refused.write(owner(state).metrics.refused()) };
        Ok(())
    })
}

unsafe extern "C" fn each(state: State, visit: VisitMetric, to: *mut c_void) -> i32 {
    guarded(|| {
        let mut buckets: Vec<Bucket> = Vec::new();
        // SAFETY: see above.
        unsafe { owner(state) }.metrics.for_each(|name, reading| {
            buckets.clear();
            let (metric_type, value) = match reading {
                Reading::Counter(value) => (MetricType::Counter, value),
                Reading::Gauge(value) => (MetricType::Gauge, value.cast_unsigned()),
                Reading::Histogram(histogram) => {
                    buckets.extend(histogram.buckets().map(|(greatest, count)| Bucket { greatest, count }));
                    (MetricType::Histogram, histogram.sum())
                }
            };
            let shown = Shown {
                name: Slice::of(name.as_bytes()),
                metric_type: metric_type as u32,
                bucket_count: u32::try_from(buckets.len()).unwrap_or(0),
                value,
                buckets: buckets.as_ptr(),
            };
            // SAFETY: as above.
            unsafe { visit(to, &raw const shown) };
        });
        Ok(())
    })
}

fn metric_type_of(number: u32) -> Option<MetricType> {
    MetricType::from_wire(i32::try_from(number).ok()?)
}

/// A value, as [`MetricRegistry::for_each`] shows it.
#[derive(Debug, Clone, Copy)]
pub enum MetricValue<'a> {
    /// Grows, and wraps around.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// A distribution.
    Histogram(&'a Histogram),
}

impl MetricValue<'_> {
    /// The type that this is a value of.
    #[must_use]
    pub fn metric_type(&self) -> MetricType {
        match self {
            MetricValue::Counter(_) => MetricType::Counter,
            MetricValue::Gauge(_) => MetricType::Gauge,
            MetricValue::Histogram(_) => MetricType::Histogram,
        }
    }
}

/// A distribution of unsigned values as it was at one moment, in buckets no wider than a quarter of the values in
/// them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Histogram {
    sum: u64,
    buckets: Vec<(u64, u64)>,
}

impl Histogram {
    /// The sum of the values, wrapping around.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The buckets that are not empty, in order: the greatest value that belongs there, and how many did. Whoever
    /// needs the number of all values adds these up, so that both agree.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.buckets.iter().copied()
    }
}

/// The metrics of the process, by name and by number. Any thread.
pub struct MetricRegistry(pub(in crate::shared) Arc<Link>);

impl std::fmt::Debug for MetricRegistry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MetricRegistry").finish_non_exhaustive()
    }
}

// SAFETY, for all of the calls below: the table is one that `Link` made or checked; its state lives as long as the
// link, or for the life of the process; what is lent outlives the call.
impl MetricRegistry {
    /// The number of the metric called `name`, made if there is none. Never zero.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if it has another type; [`Error::TooLarge`] if there is no room for another metric
    /// or the name is longer than 1,024 bytes, and then [`MetricRegistry::sink`] serves in its stead.
    pub fn define(&self, metric_type: MetricType, name: &str) -> Result<u32, Error> {
        let table = &self.0.table;
        let mut metric = 0;
        let large = if name.len() > MAX_NAME { "metric name" } else { "the number of metrics" };
        let (number, name) = (metric_type as u32, Slice::of(name.as_bytes()));
        // SAFETY: see above.
        let code = unsafe { (table.metrics.define)(table.state, number, name, ptr::from_mut(&mut metric)) };
        outcome(code, "a metric of this name has another type", large).map(|()| metric)
    }

    /// A metric that may be recorded to and is never shown.
    #[must_use]
    pub fn sink(&self, metric_type: MetricType) -> u32 {
        Metrics::sink(metric_type)
    }

    /// How many definitions there was no room for.
    #[must_use]
    pub fn refused(&self) -> u64 {
        let table = &self.0.table;
        let mut refused = 0;
        // SAFETY: see above.
        let code = unsafe { (table.metrics.refused)(table.state, ptr::from_mut(&mut refused)) };
        // It cannot fail.
        let _ = outcome(code, "metrics", "metrics");
        refused
    }

    /// Adds to a counter, sets a gauge, counts a value in a histogram. Counters and histograms take the value's
    /// bits as unsigned, as Envoy does.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such metric.
    #[inline]
    pub fn record(&self, metric: u32, value: i64) -> Result<(), Error> {
        let table = &self.0.table;
        // SAFETY: see above.
        let code = unsafe { (table.metrics.record)(table.state, metric, value) };
        outcome(code, "value", "value")
    }

    /// Adds to a counter or gauge.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such metric; [`Error::BadArgument`] if it is a histogram, or a counter
    /// and `offset` is not positive.
    #[inline]
    pub fn increment(&self, metric: u32, offset: i64) -> Result<(), Error> {
        let table = &self.0.table;
        // SAFETY: see above.
        let code = unsafe { (table.metrics.increment)(table.state, metric, offset) };
        outcome(code, "counters only grow, and histograms have no value to increment", "offset")
    }

    /// The value of a counter, or of a gauge with its sign in the uppermost bit.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such metric; [`Error::BadArgument`] if it is a histogram.
    #[inline]
    pub fn get(&self, metric: u32) -> Result<u64, Error> {
        let table = &self.0.table;
        let mut value = 0;
        // SAFETY: see above.
        let code = unsafe { (table.metrics.get)(table.state, metric, ptr::from_mut(&mut value)) };
        outcome(code, "a histogram has no single value", "value").map(|()| value)
    }

    /// Shows every metric, in the order in which they were defined.
    pub fn for_each(&self, visit: impl FnMut(&str, MetricValue<'_>)) {
        unsafe extern "C" fn show<F: FnMut(&str, MetricValue<'_>)>(to: *mut c_void, shown: *const Shown) {
            // SAFETY: `to` is the visitor below, which is used by this call alone; the metric is lent for the call.
            let (visit, shown) = unsafe { (&mut *to.cast::<Visit<F>>(), &*shown) };
            // SAFETY: as above.
            let name = unsafe { shown.name.text() }.unwrap_or_default();
            visit.run(|visit| match metric_type_of(shown.metric_type) {
                Some(MetricType::Counter) => visit(name, MetricValue::Counter(shown.value)),
                Some(MetricType::Gauge) => visit(name, MetricValue::Gauge(shown.value.cast_signed())),
                Some(MetricType::Histogram) => {
                    // SAFETY: as above: so many buckets are there, at an address that no slice of length zero needs.
                    let buckets = unsafe { std::slice::from_raw_parts(shown.buckets, shown.bucket_count as usize) };
                    let buckets = buckets.iter().map(|bucket| (bucket.greatest, bucket.count)).collect();
                    visit(name, MetricValue::Histogram(&Histogram { sum: shown.value, buckets }));
                }
                None => {}
            });
        }
        fn with<F: FnMut(&str, MetricValue<'_>)>(link: &Link, visit: F) {
            let mut visit = Visit::new(visit);
            // SAFETY: see above.
            let code = unsafe { (link.table.metrics.each)(link.table.state, show::<F>, visit.address()) };
            visit.finish();
            // Showing cannot fail.
            let _ = outcome(code, "visitor", "visitor");
        }
        with(&self.0, visit);
    }
}

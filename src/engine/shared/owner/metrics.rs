//! Metrics that filters define: counters, gauges and histograms, one a name for the whole process.
//!
//! A metric's number holds its type in its lowest two bits, as in cpp-host. Metrics are never removed, because
//! guests keep their numbers; recording takes no lock and allocates nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::slots::Slots;
use crate::abi::MetricType;
use crate::error::Error;

/// Bytes of a name.
pub(in crate::shared) const MAX_NAME: usize = 1024;

/// The bits of a number that hold the type.
const TYPE_BITS: u32 = 2;

/// Stands where a number's index stands, for the metrics that swallow what there is no room for.
const SINK: u32 = u32::MAX >> TYPE_BITS;

/// A value, as [`Metrics::for_each`] shows it.
#[derive(Debug, Clone, Copy)]
pub(in crate::shared) enum Reading<'a> {
    /// Grows, and wraps around.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// A distribution, still counting.
    Histogram(&'a Histogram),
}

enum Value {
    Counter(AtomicU64),
    Gauge(AtomicI64),
    Histogram(Box<Histogram>),
}

impl Value {
    fn new(metric_type: MetricType) -> Self {
        match metric_type {
            MetricType::Counter => Value::Counter(AtomicU64::new(0)),
            MetricType::Gauge => Value::Gauge(AtomicI64::new(0)),
            MetricType::Histogram => Value::Histogram(Box::default()),
        }
    }
}

struct Metric {
    name: Box<str>,
    value: Value,
}

/// The metrics of the process, by name and by number.
pub(in crate::shared) struct Metrics {
    ids: Mutex<HashMap<Box<str>, u32>>,
    metrics: Slots<Metric>,
    sinks: [Value; 3],
    refused: AtomicU64,
}

impl Default for Metrics {
    /// 10,000 metrics at most.
    fn default() -> Self {
        Metrics::new(10_000)
    }
}

impl Metrics {
    /// No metrics yet, and never more than `max`.
    pub(in crate::shared) fn new(max: usize) -> Self {
        let [counter, gauge, histogram] = [MetricType::Counter, MetricType::Gauge, MetricType::Histogram];
        Metrics {
            ids: Mutex::default(),
            metrics: Slots::new(max.min(SINK as usize)),
            sinks: [Value::new(counter), Value::new(gauge), Value::new(histogram)],
            refused: AtomicU64::new(0),
        }
    }

    /// The number of the metric called `name`, made if there is none. Never zero.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if it has another type; [`Error::TooLarge`] if there is no room for another metric
    /// or the name is longer than 1,024 bytes, and then [`Metrics::sink`] serves in its stead.
    pub(in crate::shared) fn define(&self, metric_type: MetricType, name: &str) -> Result<u32, Error> {
        let mut ids = self.ids.lock();
        if let Some(&id) = ids.get(name) {
            return if type_bits(id) == metric_type as u32 {
                Ok(id)
            } else {
                Err(Error::BadArgument("a metric of this name has another type"))
            };
        }
        if name.len() > MAX_NAME {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::TooLarge("metric name"));
        }
        let Some(index) = self.metrics.push(Metric { name: name.into(), value: Value::new(metric_type) }) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::TooLarge("the number of metrics"));
        };
        // Below `SINK`, by the registry's capacity. Indices in numbers begin at one, as in cpp-host.
        let index = u32::try_from(index + 1).map_err(|_| Error::TooLarge("the number of metrics"))?;
        let id = (index << TYPE_BITS) | metric_type as u32;
        ids.insert(name.into(), id);
        Ok(id)
    }

    /// A metric that may be recorded to and is never shown.
    pub(in crate::shared) fn sink(metric_type: MetricType) -> u32 {
        (SINK << TYPE_BITS) | metric_type as u32
    }

    /// How many definitions there was no room for.
    pub(in crate::shared) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Adds to a counter, sets a gauge, counts a value in a histogram. Counters and histograms take the value's
    /// bits as unsigned, as Envoy does.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such metric.
    #[inline]
    pub(in crate::shared) fn record(&self, id: u32, value: i64) -> Result<(), Error> {
        match self.value(id)? {
            Value::Counter(counter) => _ = counter.fetch_add(value.cast_unsigned(), Ordering::Relaxed),
            Value::Gauge(gauge) => gauge.store(value, Ordering::Relaxed),
            Value::Histogram(histogram) => histogram.record(value.cast_unsigned()),
        }
        Ok(())
    }

    /// Adds to a counter or gauge.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such metric; [`Error::BadArgument`] if it is a histogram, or a counter
    /// and `offset` is not positive.
    #[inline]
    pub(in crate::shared) fn increment(&self, id: u32, offset: i64) -> Result<(), Error> {
        match self.value(id)? {
            Value::Counter(_) if offset <= 0 => return Err(Error::BadArgument("counters only grow")),
            Value::Counter(counter) => _ = counter.fetch_add(offset.cast_unsigned(), Ordering::Relaxed),
            Value::Gauge(gauge) => _ = gauge.fetch_add(offset, Ordering::Relaxed),
            Value::Histogram(_) => return Err(Error::BadArgument("a histogram has no value to increment")),
        }
        Ok(())
    }

    /// The value of a counter, or of a gauge with its sign in the uppermost bit.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such metric; [`Error::BadArgument`] if it is a histogram.
    #[inline]
    pub(in crate::shared) fn get(&self, id: u32) -> Result<u64, Error> {
        match self.value(id)? {
            Value::Counter(counter) => Ok(counter.load(Ordering::Relaxed)),
            Value::Gauge(gauge) => Ok(gauge.load(Ordering::Relaxed).cast_unsigned()),
            Value::Histogram(_) => Err(Error::BadArgument("a histogram has no single value")),
        }
    }

    /// Shows every metric, in the order in which they were defined.
    pub(in crate::shared) fn for_each(&self, mut visit: impl FnMut(&str, Reading<'_>)) {
        for metric in self.metrics.iter() {
            let value = match &metric.value {
                Value::Counter(counter) => Reading::Counter(counter.load(Ordering::Relaxed)),
                Value::Gauge(gauge) => Reading::Gauge(gauge.load(Ordering::Relaxed)),
                Value::Histogram(histogram) => Reading::Histogram(histogram),
            };
            visit(&metric.name, value);
        }
    }

    #[inline]
    fn value(&self, id: u32) -> Result<&Value, Error> {
        let value = match id >> TYPE_BITS {
            SINK => self.sinks.get(type_bits(id) as usize),
            // Zero, which no metric has, wraps to an index beyond all.
            index => self.metrics.get(index.wrapping_sub(1) as usize).map(|metric| &metric.value),
        };
        let value = value.ok_or(Error::NotFound)?;
        let metric_type = match value {
            Value::Counter(_) => MetricType::Counter,
            Value::Gauge(_) => MetricType::Gauge,
            Value::Histogram(_) => MetricType::Histogram,
        };
        if metric_type as u32 == type_bits(id) { Ok(value) } else { Err(Error::NotFound) }
    }
}

fn type_bits(id: u32) -> u32 {
    id & ((1 << TYPE_BITS) - 1)
}

/// Buckets of a histogram: one for each value below 4, then four for each doubling.
const BUCKETS: usize = 252;

/// A distribution of unsigned values, in buckets no wider than a quarter of the values in them.
pub(in crate::shared) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl std::fmt::Debug for Histogram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.buckets()).finish()
    }
}

impl Histogram {
    /// Counts a value.
    pub(in crate::shared) fn record(&self, value: u64) {
        self.buckets[bucket_of(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// The sum of the values, wrapping around.
    pub(in crate::shared) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// The buckets that are not empty: the greatest value that belongs there, and how many did. Whoever needs
    /// the number of all values adds these up, so that both agree.
    pub(in crate::shared) fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        counts.enumerate().filter(|&(_, count)| count > 0).map(|(bucket, count)| (greatest_of(bucket), count))
    }
}

/// The bucket of a value: its highest bit and the two below it.
fn bucket_of(value: u64) -> usize {
    if value < 4 {
        return value as usize;
    }
    let shift = value.ilog2() - 2;
    // 4 to 7: the three bits, the highest always set.
    let top = (value >> shift) as usize;
    shift as usize * 4 + top
}

/// The greatest value of a bucket.
fn greatest_of(bucket: usize) -> u64 {
    if bucket < 4 {
        return bucket as u64;
    }
    let shift = bucket / 4 - 1;
    let top = (bucket % 4 + 4) as u64;
    (top << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;

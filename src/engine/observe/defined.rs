//! Metrics that filters define, on their way to whoever shows them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::collect::{Buckets, Family, Kind, Sample, Value};
use super::labels::MetricName;
use crate::shared::{MetricValue, Shared};

/// What stands before the names that filters give.
const PREFIX: &str = "wasm_remap_filter_";

/// The value of a metric that a filter defines, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DefinedValue {
    /// Grows, and wraps around.
    Counter(u64),
    /// Goes up and down.
    Gauge(i64),
    /// The greatest value of each bucket that is not empty, and how many are in it.
    Histogram {
        /// Ascending.
        buckets: Vec<(u64, u64)>,
        /// Of all values, wrapping around.
        sum: u64,
    },
}

impl DefinedValue {
    fn read(value: &MetricValue<'_>) -> Self {
        match value {
            MetricValue::Counter(count) => DefinedValue::Counter(*count),
            MetricValue::Gauge(value) => DefinedValue::Gauge(*value),
            MetricValue::Histogram(histogram) => {
                DefinedValue::Histogram { buckets: histogram.buckets().collect(), sum: histogram.sum() }
            }
        }
    }

    fn kind(&self) -> Kind {
        match self {
            DefinedValue::Counter(_) => Kind::Counter,
            DefinedValue::Gauge(_) => Kind::Gauge,
            DefinedValue::Histogram { .. } => Kind::Histogram,
        }
    }

    /// Adds another metric of the same kind that is shown as the same one.
    fn merge(&mut self, other: DefinedValue) {
        match (self, other) {
            (DefinedValue::Counter(a), DefinedValue::Counter(b)) => *a = a.wrapping_add(b),
            (DefinedValue::Gauge(a), DefinedValue::Gauge(b)) => *a = a.wrapping_add(b),
            (DefinedValue::Histogram { buckets, sum }, DefinedValue::Histogram { buckets: others, sum: other }) => {
                let mut all: BTreeMap<u64, u64> = buckets.iter().copied().collect();
                others.into_iter().for_each(|(greatest, count)| *all.entry(greatest).or_default() += count);
                *buckets = all.into_iter().collect();
                *sum = sum.wrapping_add(other);
            }
            // Callers compare kinds first.
            _ => {}
        }
    }
}

/// A metric that filters define, by the name under which it is shown among dotted names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defined {
    /// [`MetricName::dotted`], with the type behind it if two metrics of different types would share a name.
    pub dotted: String,
    /// Now.
    pub value: DefinedValue,
}

impl Defined {
    /// Every metric that filters have defined, in the order in which they were. Metrics whose names become equal are
    /// one, their values added. Any thread.
    #[must_use]
    pub fn all(shared: &Shared) -> Vec<Self> {
        let mut places: HashMap<String, usize> = HashMap::new();
        let mut all: Vec<Defined> = Vec::new();
        shared.metrics.for_each(|name, value| {
            let value = DefinedValue::read(&value);
            let mut dotted = MetricName::parse(name).dotted();
            loop {
                match places.get(&dotted) {
                    None => {
                        places.insert(dotted.clone(), all.len());
                        all.push(Defined { dotted, value });
                        return;
                    }
                    Some(&at) if all[at].value.kind() == value.kind() => {
                        all[at].value.merge(value);
                        return;
                    }
                    Some(_) => {
                        dotted.push('.');
                        dotted += kind_name(value.kind());
                    }
                }
            }
        });
        all
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

/// The metrics that filters have defined, as families. Those of one name and type are one family, however their labels
/// differ; those with equal labels, too, are one metric.
pub(super) fn families(shared: &Shared) -> Vec<Family> {
    struct Members {
        family: Family,
        values: BTreeMap<Vec<(String, String)>, DefinedValue>,
    }
    let mut families: Vec<Members> = Vec::new();
    // By base name and type. And every name that a line begins with, since no two families may share one.
    let mut places: HashMap<(String, &'static str), usize> = HashMap::new();
    let mut taken: BTreeSet<String> = BTreeSet::new();
    shared.metrics.for_each(|name, value| {
        let value = DefinedValue::read(&value);
        let kind = value.kind();
        let parsed = MetricName::parse(name);
        let base = parsed.prometheus();
        let at = *places.entry((base.clone(), kind_name(kind))).or_insert_with(|| {
            let mut full = format!("{PREFIX}{base}");
            if kind == Kind::Counter && !full.ends_with("_total") {
                full += "_total";
            }
            while lines_of(kind, &full).iter().any(|line| taken.contains(line)) {
                // Before the suffix that says that it is a counter.
                let stem = full.strip_suffix("_total").filter(|_| kind == Kind::Counter);
                full = match stem {
                    Some(stem) => format!("{stem}_counter_total"),
                    None => format!("{full}_{}", kind_name(kind)),
                };
            }
            taken.extend(lines_of(kind, &full));
            let help = format!("Defined by a filter as {}.", parsed.base);
            families.push(Members { family: Family::new(kind, full, help), values: BTreeMap::new() });
            families.len() - 1
        });
        // By name, as Prometheus compares them.
        let mut labels = parsed.labels;
        labels.sort_unstable();
        match families[at].values.entry(labels) {
            std::collections::btree_map::Entry::Vacant(place) => _ = place.insert(value),
            std::collections::btree_map::Entry::Occupied(mut known) => known.get_mut().merge(value),
        }
    });
    let finish = |Members { mut family, values }: Members| {
        family.samples = values.into_iter().map(|(labels, value)| sample(labels, value)).collect();
        family
    };
    families.into_iter().map(finish).collect()
}

/// The names that lines of this family begin with.
fn lines_of(kind: Kind, name: &str) -> Vec<String> {
    let mut lines = vec![name.to_owned()];
    if kind == Kind::Histogram {
        lines.extend(["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")));
    }
    lines
}

fn sample(labels: Vec<(String, String)>, value: DefinedValue) -> Sample {
    let labels = labels.into_iter().map(|(name, value)| (Cow::Owned(name), value)).collect();
    let value = match value {
        DefinedValue::Counter(count) => Value::Integer(count),
        DefinedValue::Gauge(value) => Value::Signed(value),
        DefinedValue::Histogram { buckets, sum } => Value::Histogram(cumulative(&buckets, sum)),
    };
    Sample { labels, value }
}

/// A bucket for each doubling, from the first one to the last that is not empty: bounds that were there once stay.
#[expect(clippy::cast_precision_loss, reason = "Prometheus's numbers have 53 bits")]
fn cumulative(buckets: &[(u64, u64)], sum: u64) -> Buckets {
    let count = buckets.iter().map(|&(_, count)| count).sum();
    let greatest = buckets.last().map_or(0, |&(greatest, _)| greatest);
    let mut cumulative = Vec::new();
    let (mut below, mut rest) = (0, buckets.iter().peekable());
    let mut bound = 0u64;
    if count > 0 {
        loop {
            while let Some(&(_, count)) = rest.next_if(|&&(greatest, _)| greatest <= bound) {
                below += count;
            }
            cumulative.push((bound as f64, below));
            if bound >= greatest {
                break;
            }
            bound = bound << 1 | 1;
        }
    }
    Buckets { cumulative, count, sum: sum as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::MetricType;

    fn define(shared: &Shared, metric_type: MetricType, name: &str, values: &[i64]) {
        let id = shared.metrics.define(metric_type, name).unwrap();
        values.iter().for_each(|&value| shared.metrics.record(id, value).unwrap());
    }

    #[test]
    fn one_base_is_one_family() {
        let shared = Shared::default();
        define(&shared, MetricType::Counter, "requests{code=\"200\"}", &[1]);
        define(&shared, MetricType::Counter, "requests{code=\"404\"}", &[2]);
        define(&shared, MetricType::Counter, "code=.=404;.;requests", &[3]);
        define(&shared, MetricType::Gauge, "requests", &[-4]);
        define(&shared, MetricType::Counter, "done_total", &[5]);
        let families = families(&shared);
        let names: Vec<_> = families.iter().map(|family| &*family.name).collect();
        assert_eq!(
            names,
            ["wasm_remap_filter_requests_total", "wasm_remap_filter_requests", "wasm_remap_filter_done_total"]
        );
        let values: Vec<_> = families[0].samples.iter().map(|sample| (&*sample.labels[0].1, &sample.value)).collect();
        assert_eq!(values, [("200", &Value::Integer(1)), ("404", &Value::Integer(5))]);
        assert_eq!(families[1].samples[0].value, Value::Signed(-4));
    }

    #[test]
    fn no_two_families_share_a_line() {
        let shared = Shared::default();
        define(&shared, MetricType::Histogram, "time", &[1]);
        define(&shared, MetricType::Gauge, "time_sum", &[1]);
        define(&shared, MetricType::Gauge, "time{}", &[1]);
        define(&shared, MetricType::Gauge, "a_total", &[1]);
        define(&shared, MetricType::Counter, "a", &[1]);
        let names: Vec<_> = families(&shared).into_iter().map(|family| family.name).collect();
        assert_eq!(
            names,
            [
                "wasm_remap_filter_time",
                "wasm_remap_filter_time_sum_gauge",
                "wasm_remap_filter_time_gauge",
                "wasm_remap_filter_a_total",
                "wasm_remap_filter_a_counter_total",
            ]
        );
    }

    #[test]
    fn dotted_names_are_unique() {
        let shared = Shared::default();
        define(&shared, MetricType::Counter, "a b", &[1]);
        define(&shared, MetricType::Counter, "a_b", &[2]);
        define(&shared, MetricType::Gauge, "a/b", &[3]);
        define(&shared, MetricType::Counter, "r{code=\"200\"}", &[4]);
        let all = Defined::all(&shared);
        let names: Vec<_> = all.iter().map(|defined| (&*defined.dotted, &defined.value)).collect();
        assert_eq!(
            names,
            [
                ("a_b", &DefinedValue::Counter(3)),
                ("a_b.gauge", &DefinedValue::Gauge(3)),
                ("r.code.200", &DefinedValue::Counter(4)),
            ]
        );
    }

    #[test]
    fn buckets_add_up() {
        let shared = Shared::default();
        define(&shared, MetricType::Histogram, "h", &[0, 1, 5, 5, 9]);
        define(&shared, MetricType::Histogram, "empty", &[]);
        define(&shared, MetricType::Histogram, "huge", &[-1]);
        let families = families(&shared);
        let read = |at: usize| match &families[at].samples[0].value {
            Value::Histogram(buckets) => buckets.clone(),
            other => panic!("{other:?}"),
        };
        let h = read(0);
        assert_eq!(h.cumulative, [(0.0, 1), (1.0, 2), (3.0, 2), (7.0, 4), (15.0, 5)]);
        assert_eq!((h.count, h.sum), (5, 20.0));
        assert_eq!(read(1), Buckets { cumulative: Vec::new(), count: 0, sum: 0.0 });
        let huge = read(2);
        assert_eq!(huge.count, 1);
        assert_eq!(huge.cumulative.last().map(|last| last.1), Some(1));
    }
}

use proptest::prelude::*;

use super::*;

use MetricType::{Counter, Gauge, Histogram as Distribution};

#[test]
fn a_name_is_one_metric() {
    let metrics = Metrics::default();
    let id = metrics.define(Counter, "hits").unwrap();
    assert_ne!(id, 0);
    assert_eq!(metrics.define(Counter, "hits").unwrap(), id);
    assert!(matches!(metrics.define(Gauge, "hits"), Err(Error::BadArgument(_))));
    assert_ne!(metrics.define(Counter, "misses").unwrap(), id);
    assert_eq!(metrics.refused(), 0);
}

#[test]
fn values_follow_envoy() {
    let metrics = Metrics::default();
    let counter = metrics.define(Counter, "c").unwrap();
    metrics.increment(counter, 5).unwrap();
    metrics.record(counter, 2).unwrap();
    for refused in [0, -1, i64::MIN] {
        assert!(matches!(metrics.increment(counter, refused), Err(Error::BadArgument(_))));
    }
    assert_eq!(metrics.get(counter).unwrap(), 7);

    let gauge = metrics.define(Gauge, "g").unwrap();
    metrics.record(gauge, 5).unwrap();
    metrics.increment(gauge, -7).unwrap();
    metrics.increment(gauge, 0).unwrap();
    assert_eq!(metrics.get(gauge).unwrap().cast_signed(), -2);

    let histogram = metrics.define(Distribution, "h").unwrap();
    for value in [0, 3, 100, 101] {
        metrics.record(histogram, value).unwrap();
    }
    assert!(matches!(metrics.get(histogram), Err(Error::BadArgument(_))));
    assert!(matches!(metrics.increment(histogram, 1), Err(Error::BadArgument(_))));

    let mut seen = Vec::new();
    metrics.for_each(|name, value| {
        let text = match value {
            Reading::Counter(value) => value.to_string(),
            Reading::Gauge(value) => value.to_string(),
            Reading::Histogram(histogram) => format!("{histogram:?} {}", histogram.sum()),
        };
        seen.push((name.to_owned(), text));
    });
    let expected = [("c", "7"), ("g", "-2"), ("h", "{0: 1, 3: 1, 111: 2} 204")];
    assert_eq!(seen, expected.map(|(name, text)| (name.to_owned(), text.to_owned())));
}

#[test]
fn numbers_that_were_never_given_are_unknown() {
    let metrics = Metrics::default();
    let counter = metrics.define(Counter, "c").unwrap();
    // Zero, an index beyond, the right index with another type, and a sink of no type.
    for unknown in [0, 1, 2, 3, counter + 4, counter + 1, counter + 3, u32::MAX] {
        assert!(matches!(metrics.get(unknown), Err(Error::NotFound)), "{unknown}");
        assert!(matches!(metrics.record(unknown, 1), Err(Error::NotFound)));
        assert!(matches!(metrics.increment(unknown, 1), Err(Error::NotFound)));
    }
}

#[test]
fn there_are_only_so_many_and_then_a_sink() {
    let metrics = Metrics::new(2);
    metrics.define(Counter, "a").unwrap();
    metrics.define(Gauge, "b").unwrap();
    assert!(matches!(metrics.define(Counter, "c"), Err(Error::TooLarge(_))));
    metrics.define(Counter, "a").unwrap();
    for metric_type in [Counter, Gauge, Distribution] {
        let sink = Metrics::sink(metric_type);
        metrics.record(sink, 1).unwrap();
        assert_eq!(metrics.increment(sink, 1).is_ok(), metric_type != Distribution);
    }
    let mut shown = 0;
    metrics.for_each(|_, _| shown += 1);
    assert_eq!(shown, 2);
    assert!(matches!(Metrics::default().define(Gauge, &"x".repeat(1025)), Err(Error::TooLarge(_))));
    assert_eq!(metrics.refused(), 1);
}

#[test]
fn threads_that_define_and_count_together_lose_nothing() {
    let metrics = Metrics::default();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let counters: Vec<_> = (0..500).map(|n| metrics.define(Counter, &format!("c{n}")).unwrap()).collect();
                let histogram = metrics.define(Distribution, "h").unwrap();
                for round in 0..20 {
                    for &counter in &counters {
                        metrics.increment(counter, 1).unwrap();
                    }
                    metrics.record(histogram, round).unwrap();
                }
            });
        }
    });
    let mut shown = 0;
    metrics.for_each(|_, value| {
        shown += 1;
        match value {
            Reading::Counter(value) => assert_eq!(value, 80),
            Reading::Gauge(_) => unreachable!(),
            Reading::Histogram(h) => assert_eq!(h.buckets().map(|(_, count)| count).sum::<u64>(), 80),
        }
    });
    assert_eq!(shown, 501);
}

#[test]
fn buckets_meet_without_gap_or_overlap() {
    assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    assert_eq!(greatest_of(BUCKETS - 1), u64::MAX);
    for bucket in 0..BUCKETS {
        let greatest = greatest_of(bucket);
        assert_eq!(bucket_of(greatest), bucket);
        if bucket + 1 < BUCKETS {
            assert_eq!(bucket_of(greatest + 1), bucket + 1);
        }
    }
}

proptest! {
    #[test]
    fn a_bucket_says_a_value_to_a_quarter(value: u64) {
        let greatest = greatest_of(bucket_of(value));
        prop_assert!(greatest >= value);
        prop_assert!(greatest - value <= value / 4);
    }
}

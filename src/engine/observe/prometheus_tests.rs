//! Tests of the exposition format: exact text, and what a parser makes of it.

use super::super::collect::Buckets;
use super::*;

#[test]
fn every_kind_as_text() {
    let mut counter = Family::new(Kind::Counter, "a_total", "Counts\nall \\ \"things\".");
    counter.add(&[], Value::Integer(u64::MAX));
    let mut gauge = Family::new(Kind::Gauge, "b", "Goes.");
    gauge.add(&[("rule", "http://a/ -> http://b/"), ("filter", "x\"y\\z\n")], Value::Signed(-3));
    gauge.add(&[("rule", "")], Value::Real(0.25));
    let mut histogram = Family::new(Kind::Histogram, "c_seconds", "Takes.");
    let buckets = Buckets { cumulative: vec![(0.000_000_5, 1), (10.0, 3)], count: 4, sum: 12.5 };
    histogram.add(&[("callback", "proxy_on_log")], Value::Histogram(buckets));
    let expected = "\
# HELP a_total Counts\\nall \\\\ \"things\".
# TYPE a_total counter
a_total 18446744073709551615
# HELP b Goes.
# TYPE b gauge
b{rule=\"http://a/ -> http://b/\",filter=\"x\\\"y\\\\z\\n\"} -3
b{rule=\"\"} 0.25
# HELP c_seconds Takes.
# TYPE c_seconds histogram
c_seconds_bucket{callback=\"proxy_on_log\",le=\"0.0000005\"} 1
c_seconds_bucket{callback=\"proxy_on_log\",le=\"10\"} 3
c_seconds_bucket{callback=\"proxy_on_log\",le=\"+Inf\"} 4
c_seconds_sum{callback=\"proxy_on_log\"} 12.5
c_seconds_count{callback=\"proxy_on_log\"} 4
";
    assert_eq!(render([&counter, &gauge, &histogram]), expected);
}

#[test]
fn a_parser_reads_it_back() {
    use prometheus_parse::{Scrape, Value as Parsed};
    let mut counter = Family::new(Kind::Counter, "a_total", "Counts.");
    counter.add(&[("filter", "quote\"back\\slash,comma=x")], Value::Integer(7));
    let mut histogram = Family::new(Kind::Histogram, "c_seconds", "Takes.");
    let buckets = Buckets { cumulative: vec![(0.000_000_5, 1), (10.0, 3)], count: 4, sum: 12.5 };
    histogram.add(&[("callback", "x")], Value::Histogram(buckets));
    let text = render([&counter, &histogram]);
    let scrape = Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).unwrap();
    let find = |name: &str| scrape.samples.iter().find(|sample| sample.metric == name).unwrap();
    let sample = find("a_total");
    assert!(matches!(sample.value, Parsed::Counter(value) if value == 7.0), "{sample:?}");
    let Parsed::Histogram(counts) = &find("c_seconds").value else { panic!("{scrape:?}") };
    let counts: Vec<_> = counts.iter().map(|bucket| (bucket.less_than, bucket.count)).collect();
    assert_eq!(counts, [(0.000_000_5, 1.0), (10.0, 3.0), (f64::INFINITY, 4.0)]);
    assert!(matches!(find("c_seconds_sum").value, Parsed::Untyped(value) if value == 12.5));
}

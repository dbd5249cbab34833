//! Families as text, in Prometheus's exposition format 0.0.4.

use std::fmt::Write as _;

use super::collect::{Family, Kind, Sample, Value};

/// The media type of what [`render`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The families as text.
#[must_use]
pub fn render<'a>(families: impl IntoIterator<Item = &'a Family>) -> String {
    let mut out = String::with_capacity(16 << 10);
    for family in families {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        out += "# HELP ";
        out += &family.name;
        out.push(' ');
        escape(&mut out, &family.help, false);
        out += "\n# TYPE ";
        out += &family.name;
        out.push(' ');
        out += kind;
        out.push('\n');
        family.samples.iter().for_each(|sample| render_sample(&mut out, &family.name, sample));
    }
    out
}

fn render_sample(out: &mut String, name: &str, sample: &Sample) {
    match &sample.value {
        Value::Integer(value) => line(out, name, "", sample, None, value),
        Value::Signed(value) => line(out, name, "", sample, None, value),
        Value::Real(value) => line(out, name, "", sample, None, value),
        Value::Histogram(buckets) => {
            for (bound, count) in &buckets.cumulative {
                line(out, name, "_bucket", sample, Some(&bound.to_string()), count);
            }
            line(out, name, "_bucket", sample, Some("+Inf"), &buckets.count);
            line(out, name, "_sum", sample, None, &buckets.sum);
            line(out, name, "_count", sample, None, &buckets.count);
        }
    }
}

fn line(out: &mut String, name: &str, suffix: &str, sample: &Sample, le: Option<&str>, value: &dyn std::fmt::Display) {
    out.push_str(name);
    out.push_str(suffix);
    let labels = sample.labels.iter().map(|(label, value)| (&**label, &**value));
    let mut before = '{';
    for (label, value) in labels.chain(le.map(|le| ("le", le))) {
        out.push(before);
        out.push_str(label);
        out.push_str("=\"");
        escape(out, value, true);
        out.push('"');
        before = ',';
    }
    if before == ',' {
        out.push('}');
    }
    // A string takes all that is written to it.
    let _ = writeln!(out, " {value}");
}

/// Backslash and line feed have escapes everywhere, quotes in the values of labels.
fn escape(out: &mut String, text: &str, quotes: bool) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '"' if quotes => out.push_str("\\\""),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
#[path = "prometheus_tests.rs"]
mod tests;

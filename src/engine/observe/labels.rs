//! Labels in the names of metrics.
//!
//! `proxy_define_metric` takes a name and no labels, so filters put them into the name. What is understood:
//!
//! | form | from | example |
//! | --- | --- | --- |
//! | `key=.=value;.;…name` | Istio's filters: the C++ SDK's `Metric` with `=.=` and `;.;` for separators | `reporter=.=source;.;response_code=.=200;.;_istio_requests_total` |
//! | `name{key="value",…}` | Prometheus's own notation | `requests{code="200"}` |
//!
//! In Istio's form the parts that are no tags are the name, wherever they stand, without the `_` or `.` by which they
//! are joined to the tags. A key may have a name before it up to the last dot: `requests.code=.=200;.;`.
//!
//! A leading `wasmcustom.` or `istiocustom.`, which Envoy puts before every such name and some filters copy, is dropped.
//!
//! Anything else has no labels, and stays as it is. That is so for the C++ SDK's default separators: in
//! `code.200.method.GET.requests` nothing says which word is a tag. The same goes for names that Kong takes apart by
//! patterns of its configuration.

/// Names of labels that somebody else fills in: `le` is a bucket's.
const RESERVED: &[&str] = &["le", "quantile"];

/// What a metric's name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetricName {
    /// The name without labels, as the filter wrote it.
    pub base: String,
    /// Names, fit for Prometheus, and values, as the filter wrote them. No name comes twice: the first counts.
    pub labels: Vec<(String, String)>,
}

impl MetricName {
    /// Takes a name apart. Never fails: what is not understood is a name without labels.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let name = without_prefix(name);
        let parsed = tags(name).or_else(|| notation(name));
        let (base, labels) = parsed.unwrap_or_else(|| (name.to_owned(), Vec::new()));
        let mut unique: Vec<(String, String)> = Vec::with_capacity(labels.len());
        for (label, value) in labels {
            let label = label_name(&label);
            if !unique.iter().any(|(known, _)| *known == label) {
                unique.push((label, value));
            }
        }
        MetricName { base, labels: unique }
    }

    /// The base as a part of a Prometheus name: letters, digits, `_` and `:`.
    #[must_use]
    pub fn prometheus(&self) -> String {
        fit(&self.base, |c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    }

    /// Base and labels as one dotted name of letters, digits, `_`, `-` and `.`: `requests.code.200`.
    #[must_use]
    pub fn dotted(&self) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let mut dotted = fit(&self.base, allowed);
        for (label, value) in &self.labels {
            dotted.push('.');
            dotted += label;
            dotted.push('.');
            dotted += &fit(value, allowed);
        }
        dotted
    }
}

fn without_prefix(name: &str) -> &str {
    let rest = ["wasmcustom.", "istiocustom."].iter().find_map(|prefix| name.strip_prefix(prefix));
    rest.filter(|rest| !rest.is_empty()).unwrap_or(name)
}

type Parsed = Option<(String, Vec<(String, String)>)>;

/// `key=.=value;.;…name`.
fn tags(name: &str) -> Parsed {
    if !name.contains("=.=") || !name.contains(";.;") {
        return None;
    }
    let mut base: Vec<&str> = Vec::new();
    let mut labels = Vec::new();
    for (at, part) in name.split(";.;").enumerate() {
        match part.split_once("=.=") {
            Some((key, value)) => {
                let key = match key.rsplit_once('.') {
                    Some((before, key)) if at == 0 => {
                        base.push(before);
                        key
                    }
                    _ => key,
                };
                labels.push((key.to_owned(), value.to_owned()));
            }
            None => base.push(part),
        }
    }
    let base: Vec<_> =
        base.into_iter().map(|part| part.trim_matches(['_', '.'])).filter(|part| !part.is_empty()).collect();
    // Without a name, what looks like the first key may well hold it.
    if base.is_empty() { None } else { Some((base.join("_"), labels)) }
}

/// `name{key="value",…}`, all of it or nothing.
fn notation(name: &str) -> Parsed {
    let (base, rest) = name.split_once('{')?;
    let mut rest = rest.strip_suffix('}')?.trim();
    if base.is_empty() {
        return None;
    }
    let mut labels = Vec::new();
    while !rest.is_empty() {
        let (key, quoted) = rest.split_once('=')?;
        let key = key.trim();
        if key.is_empty() {
            return None;
        }
        let mut value = String::new();
        let mut chars = quoted.trim_start().strip_prefix('"')?.chars();
        loop {
            match chars.next()? {
                '"' => break,
                '\\' => match chars.next()? {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                plain => value.push(plain),
            }
        }
        labels.push((key.to_owned(), value));
        rest = chars.as_str().trim_start();
        if !rest.is_empty() {
            // A comma may stand behind the last one, too.
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    Some((base.to_owned(), labels))
}

/// A label's name as Prometheus takes it: letters, digits and `_`, no digit first, no `__` first.
fn label_name(name: &str) -> String {
    let fitted = fit(name, |c| c.is_ascii_alphanumeric() || c == '_');
    let fitted = match fitted.strip_prefix("__") {
        Some(rest) => format!("_{}", rest.trim_start_matches('_')),
        None => fitted,
    };
    if fitted.is_empty() || fitted.starts_with(|c: char| c.is_ascii_digit()) || RESERVED.contains(&fitted.as_str()) {
        return format!("label_{fitted}");
    }
    fitted
}

/// The text with `_` for every character that may not stand in it.
fn fit(text: &str, allowed: impl Fn(char) -> bool) -> String {
    text.chars().map(|c| if allowed(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> (String, Vec<(String, String)>) {
        let MetricName { base, labels } = MetricName::parse(name);
        (base, labels)
    }

    fn labels(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn istio_puts_tags_before_the_name() {
        let name = "reporter=.=destination;.;source_principal=.=spiffe://cluster.local/ns/a/sa/b;.;response_code=.=200;.;\
                    grpc_response_status=.=;.;_istio_requests_total";
        let expected = labels(&[
            ("reporter", "destination"),
            ("source_principal", "spiffe://cluster.local/ns/a/sa/b"),
            ("response_code", "200"),
            ("grpc_response_status", ""),
        ]);
        assert_eq!(parsed(name), ("istio_requests_total".to_owned(), expected.clone()));
        assert_eq!(parsed(&format!("wasmcustom.{name}")).1, expected);
        assert_eq!(
            parsed("code=.=200;.;requests_total"),
            ("requests_total".to_owned(), labels(&[("code", "200")])),
            "without the underscore, as newer ones have it"
        );
    }

    #[test]
    fn the_name_may_come_first() {
        let expected = ("requests_total".to_owned(), labels(&[("code", "200"), ("method", "GET")]));
        assert_eq!(parsed("requests_total;.;code=.=200;.;method=.=GET;.;"), expected);
        assert_eq!(parsed("requests_total.code=.=200;.;method=.=GET;.;"), expected);
        assert_eq!(
            parsed("istiocustom.requests_total.code=.=a.b=c;.;"),
            ("requests_total".to_owned(), labels(&[("code", "a.b=c")]))
        );
        let glued = "requests_total_code=.=200;.;";
        assert_eq!(parsed(glued), (glued.to_owned(), Vec::new()), "where the key begins is not to be known");
    }

    #[test]
    fn prometheus_notation() {
        let expected = labels(&[("code", "200"), ("path", "/a\"b\\,}=\n")]);
        assert_eq!(parsed(r#"requests{code="200",path="/a\"b\\,}=\n"}"#), ("requests".to_owned(), expected.clone()));
        assert_eq!(parsed(r#"requests{ code = "200" , path="/a\"b\\,}=\n", }"#).1, expected);
        assert_eq!(parsed("requests{}"), ("requests".to_owned(), Vec::new()));
        for broken in [
            "requests{",
            "requests{code}",
            "requests{code=200}",
            r#"requests{code="2"#,
            r#"{code="2"}"#,
            r#"r{="2"}"#,
            r#"r{a="1"b="2"}"#,
            "}{",
        ] {
            assert_eq!(parsed(broken), (broken.to_owned(), Vec::new()), "{broken}");
        }
    }

    #[test]
    fn other_names_stay_as_they_are() {
        for name in
            ["requests", "a.b.c", "code.200.method.GET.requests", "pw.filter.count_s_id=7", "a=.=b", "a;.;b", "", "ü"]
        {
            assert_eq!(parsed(name), (name.to_owned(), Vec::new()));
        }
        assert_eq!(parsed("wasmcustom.requests").0, "requests");
        assert_eq!(parsed("wasmcustom.").0, "wasmcustom.", "a name is never empty that was not");
    }

    #[test]
    fn what_leaves_here_is_fit_for_both() {
        let name = MetricName::parse("2 a.b-ü{__a-b=\"x y\",9=\"z\",le=\"1\",a=\"1\",a=\"2\"}");
        assert_eq!(name.prometheus(), "2_a_b__");
        assert_eq!(name.labels, labels(&[("_a_b", "x y"), ("label_9", "z"), ("label_le", "1"), ("a", "1")]));
        assert_eq!(name.dotted(), "2_a.b-_._a_b.x_y.label_9.z.label_le.1.a.1");
    }

    proptest::proptest! {
        #[test]
        fn any_name_gives_names_that_prometheus_takes(name in "\\PC{0,40}|[a=.;_]{0,30}|[a-c{}=\",\\\\ ]{0,30}") {
            let name = MetricName::parse(&name);
            proptest::prop_assert!(name.prometheus().chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'));
            for (label, _) in &name.labels {
                proptest::prop_assert!(label.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_'), "{label}");
                proptest::prop_assert!(!label.starts_with("__"), "{label}");
            }
        }
    }
}

//! The compiled evaluation against one that is written for its meaning alone: from the file's own words, over owned
//! strings, one pattern after the other.

use std::net::IpAddr;
use std::time::Instant;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use super::{Evaluation, Matcher};
use crate::config::matching::Condition;
use crate::testing::{Transaction, TransactionView};

/// A request, in strings.
#[derive(Debug, Clone)]
struct Asked {
    method: String,
    scheme: String,
    host: String,
    port: Option<u16>,
    path: String,
    query: String,
    headers: Vec<(String, String)>,
    client: Option<IpAddr>,
    internal: bool,
}

mod naive {
    use super::*;

    /// Whether all that the mapping says holds.
    pub(super) fn holds(condition: &Value, asked: &Asked) -> bool {
        condition.as_object().unwrap().iter().all(|(key, value)| match key.as_str() {
            "any" => value.as_array().unwrap().iter().any(|inner| holds(inner, asked)),
            "all" => value.as_array().unwrap().iter().all(|inner| holds(inner, asked)),
            "not" => !holds(value, asked),
            "method" => list(value).iter().any(|method| method.as_str() == Some(&asked.method)),
            "scheme" => list(value).iter().any(|scheme| scheme.as_str() == Some(&asked.scheme)),
            "internal" => value.as_bool() == Some(asked.internal),
            "client" => list(value).iter().any(|network| client(network.as_str().unwrap(), asked)),
            "host" => list(value).iter().any(|pattern| host(pattern, asked)),
            "path" => list(value).iter().any(|pattern| path(pattern, &asked.path)),
            "headers" => value.as_object().unwrap().iter().all(|(name, values)| {
                let own = asked.headers.iter().filter(|(own, _)| own.to_lowercase() == name.to_lowercase());
                field(values, &own.map(|(_, value)| value.clone()).collect::<Vec<_>>())
            }),
            "query" => value.as_object().unwrap().iter().all(|(name, values)| {
                let own = query(&asked.query).into_iter().filter(|(own, _)| own == name);
                field(values, &own.map(|(_, value)| value).collect::<Vec<_>>())
            }),
            "cookies" => value.as_object().unwrap().iter().all(|(name, values)| {
                let own = cookies(asked).into_iter().filter(|(own, _)| own == name);
                field(values, &own.map(|(_, value)| value).collect::<Vec<_>>())
            }),
            "sample" => sample(value, asked),
            other => panic!("{other}"),
        })
    }

    fn list(value: &Value) -> Vec<Value> {
        value.as_array().cloned().unwrap_or_else(|| vec![value.clone()])
    }

    fn client(network: &str, asked: &Asked) -> bool {
        let Some(address) = asked.client else { return false };
        let address = match address {
            IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
            v4 => v4,
        };
        match network.parse::<ipnet::IpNet>() {
            Ok(network) => network.contains(&address),
            Err(_) => network.parse::<IpAddr>().unwrap() == address,
        }
    }

    fn host(pattern: &Value, asked: &Asked) -> bool {
        let host = asked.host.to_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let mut pattern = pattern.clone();
        if let Some(text) = pattern.as_str().map(str::to_owned) {
            let mut name = text.as_str();
            if let Some((front, number)) = text.rsplit_once(':') {
                let default = if asked.scheme == "https" { 443 } else { 80 };
                if number.parse::<u16>().unwrap() != asked.port.unwrap_or(default) {
                    return false;
                }
                name = front;
            }
            pattern = if name.contains('*') { json!({"glob": name}) } else { json!({"exact": name}) };
        }
        is(&lower(&pattern), host, '\0')
    }

    /// Host patterns know no case.
    fn lower(pattern: &Value) -> Value {
        serde_json::from_str(&pattern.to_string().to_lowercase()).unwrap()
    }

    fn path(pattern: &Value, path: &str) -> bool {
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8().unwrap().into_owned();
        let mut segments: Vec<&str> = Vec::new();
        let mut folder = true;
        for segment in decoded.split('/').skip(1) {
            folder = matches!(segment, "" | "." | "..");
            match segment {
                "" | "." => {}
                ".." => _ = segments.pop(),
                name => segments.push(name),
            }
        }
        let plain = format!("/{}{}", segments.join("/"), if folder && !segments.is_empty() { "/" } else { "" });
        let pattern = match pattern.as_str() {
            Some(text) if text.contains('*') => json!({"glob": text}),
            Some(text) => json!({"exact": text}),
            None => pattern.clone(),
        };
        is(&pattern, &plain, '/')
    }

    fn field(values: &Value, own: &[String]) -> bool {
        list(values).iter().any(|value| match value {
            Value::String(text) => own.contains(text),
            other => match other.get("present") {
                Some(present) => present.as_bool() == Some(!own.is_empty()),
                None => own.iter().any(|text| is(other, text, '\0')),
            },
        })
    }

    fn is(pattern: &Value, text: &str, separator: char) -> bool {
        let (kind, own) = pattern.as_object().unwrap().iter().next().unwrap();
        let own = own.as_str().unwrap();
        match kind.as_str() {
            "exact" => own == text,
            "prefix" => text.starts_with(own),
            "suffix" => text.ends_with(own),
            "contains" => text.contains(own),
            "glob" => glob(&own.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>(), separator),
            "regex" => regex::Regex::new(&format!("(?s){own}")).unwrap().is_match(text),
            other => panic!("{other}"),
        }
    }

    /// `*`, `**` as the last segment, and plain characters.
    fn glob(glob_text: &[char], text: &[char], separator: char) -> bool {
        match glob_text {
            [] => text.is_empty(),
            ['*', '*'] if separator == '/' => true,
            ['*', rest @ ..] => {
                let stop = text.iter().position(|c| *c == separator).unwrap_or(text.len());
                (0..=stop).any(|taken| glob(rest, &text[taken..], separator))
            }
            [c, rest @ ..] => text.first() == Some(c) && glob(rest, &text[1..], separator),
        }
    }

    fn query(text: &str) -> Vec<(String, String)> {
        let decode = |part: &str| {
            percent_encoding::percent_decode_str(&part.replace('+', " ")).decode_utf8().unwrap().into_owned()
        };
        let parts = text.split('&').filter(|part| !part.is_empty());
        parts.map(|part| part.split_once('=').unwrap_or((part, ""))).map(|(k, v)| (decode(k), decode(v))).collect()
    }

    fn cookies(asked: &Asked) -> Vec<(String, String)> {
        let fields = asked.headers.iter().filter(|(name, _)| name.eq_ignore_ascii_case("cookie"));
        let pairs = fields.flat_map(|(_, field)| field.split(';').map(str::to_owned).collect::<Vec<_>>());
        pairs
            .map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((&pair, ""));
                (name.trim().to_owned(), value.trim().to_owned())
            })
            .collect()
    }

    fn sample(sample: &Value, asked: &Asked) -> bool {
        let seed = sample.get("seed").and_then(Value::as_str).unwrap_or_default();
        let key: Option<Vec<u8>> = match sample.get("by").and_then(Value::as_str).unwrap_or("client") {
            "client" => asked.client.map(|address| match address.to_canonical() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            }),
            by => {
                let (kind, name) = by.split_once(' ').unwrap();
                let values = match kind {
                    "header" => asked.headers.iter().map(|(own, value)| (own.to_lowercase(), value.clone())).collect(),
                    _ => cookies(asked),
                };
                values.into_iter().find(|(own, _)| own == name).map(|(_, value)| value.into_bytes())
            }
        };
        let Some(key) = key else { return false };
        let hash = xxhash_rust::xxh3::xxh3_64_with_seed(&key, xxhash_rust::xxh3::xxh3_64(seed.as_bytes()));
        let percent = sample["percent"].as_f64().unwrap();
        (hash as f64 / 2f64.powi(64)) < percent / 100.0
    }
}

fn pick(texts: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(texts).prop_map(str::to_owned)
}

/// What patterns and requests are made of: little, so that they meet.
const SEGMENTS: &[&str] = &["a", "b", "ab", "admin", "x.png", "1"];
const WORDS: &[&str] = &["", "a", "b", "ab", "ba", "a b", "1", "aab"];
const NAMES: &[&str] = &["x-a", "X-B", "accept"];
const HOSTS: &[&str] = &["a.test", "b.test", "x.a.test", "y.x.a.test", "test", "::1"];
const CLIENTS: &[&str] = &["10.0.0.1", "10.1.2.3", "127.0.0.1", "2001:db8::1", "::ffff:10.1.2.3", "::1"];
const NETWORKS: &[&str] =
    &["10.0.0.0/8", "10.1.0.0/16", "127.0.0.1", "2001:db8::/32", "0.0.0.0/0", "::1", "10.1.2.3/32"];

fn plain_path() -> impl Strategy<Value = String> {
    (prop::collection::vec(pick(SEGMENTS), 0..4), any::<bool>()).prop_map(|(segments, folder)| {
        let end = if folder && !segments.is_empty() { "/" } else { "" };
        format!("/{}{end}", segments.join("/"))
    })
}

fn expression() -> impl Strategy<Value = String> {
    pick(&["a", "^a", "b$", "^/a", "a.b", "^/[ab]+$", "(a|b)1?", "^$", "admin|png", "^.*b.*$", "a{2}"])
}

fn text_pattern() -> impl Strategy<Value = Value> {
    let word = || pick(WORDS);
    let some = || pick(&WORDS[1..]);
    let glob = pick(&["*", "a*", "*b", "*a*", "a*b", "ab", "*1"]);
    prop_oneof![
        word().prop_map(|text| json!(text)),
        word().prop_map(|text| json!({"exact": text})),
        some().prop_map(|text| json!({"prefix": text})),
        some().prop_map(|text| json!({"suffix": text})),
        some().prop_map(|text| json!({"contains": text})),
        glob.prop_map(|text| json!({"glob": text})),
        expression().prop_map(|text| json!({"regex": text})),
        any::<bool>().prop_map(|present| json!({"present": present})),
    ]
}

fn path_pattern() -> impl Strategy<Value = Value> {
    let glob = || pick(&["/*", "/a/*", "/**", "/a/**", "/*/b", "/*.png", "/a*/**", "/admin/*/*", "*.png"]);
    prop_oneof![
        plain_path().prop_map(|text| json!(text)),
        glob().prop_map(|text| json!(text)),
        plain_path().prop_map(|text| json!({"exact": text})),
        plain_path().prop_map(|text| json!({"prefix": text})),
        pick(SEGMENTS).prop_map(|text| json!({"suffix": text})),
        pick(SEGMENTS).prop_map(|text| json!({"contains": text})),
        glob().prop_map(|text| json!({"glob": text})),
        expression().prop_map(|text| json!({"regex": text})),
    ]
}

fn host_pattern() -> impl Strategy<Value = Value> {
    let named = || pick(&HOSTS[..5]);
    let glob = || pick(&["*.a.test", "*.test", "*", "A.*", "*a*"]);
    prop_oneof![
        (named(), prop::option::of(prop::sample::select(vec![80u16, 443, 8080])))
            .prop_map(|(host, port)| json!(port.map_or(host.clone(), |port| format!("{host}:{port}")))),
        (glob(), prop::option::of(prop::sample::select(vec![80u16, 8080])))
            .prop_map(|(host, port)| json!(port.map_or(host.clone(), |port| format!("{host}:{port}")))),
        named().prop_map(|host| json!({"exact": host.to_uppercase()})),
        named().prop_map(|host| json!({"suffix": host})),
        pick(&["x", "a."]).prop_map(|host| json!({"prefix": host})),
        pick(&["^a[.]", "TEST$", "^x"]).prop_map(|text| json!({"regex": text})),
    ]
}

fn one_or_more(one: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop::collection::vec(one, 1..7)
        .prop_map(|mut list| if list.len() == 1 { list.remove(0) } else { Value::Array(list) })
}

fn named(names: &'static [&'static str]) -> impl Strategy<Value = Value> {
    prop::collection::btree_map(pick(names), one_or_more(text_pattern()), 1..3)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn percent() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0u32..=100).prop_map(|whole| json!(whole)),
        (0u32..=1_000_000).prop_map(|millionths| json!(f64::from(millionths) / 10_000.0)),
    ]
}

fn leaf() -> impl Strategy<Value = (String, Value)> {
    let text = |texts| one_or_more(pick(texts).prop_map(Value::from));
    let sample = (percent(), pick(&["client", "header x-a", "cookie a"]), pick(&["", "s"]))
        .prop_map(|(percent, by, seed)| json!({"percent": percent, "by": by, "seed": seed}));
    prop_oneof![
        text(&["GET", "POST", "PUT"]).prop_map(|value| ("method".to_owned(), value)),
        text(&["http", "https"]).prop_map(|value| ("scheme".to_owned(), value)),
        any::<bool>().prop_map(|value| ("internal".to_owned(), value.into())),
        text(NETWORKS).prop_map(|value| ("client".to_owned(), value)),
        one_or_more(host_pattern()).prop_map(|value| ("host".to_owned(), value)),
        one_or_more(path_pattern()).prop_map(|value| ("path".to_owned(), value)),
        named(NAMES).prop_map(|value| ("headers".to_owned(), value)),
        named(&WORDS[1..4]).prop_map(|value| ("query".to_owned(), value)),
        named(&WORDS[1..4]).prop_map(|value| ("cookies".to_owned(), value)),
        sample.prop_map(|value| ("sample".to_owned(), value)),
    ]
}

fn mapping(entries: impl Strategy<Value = (String, Value)>) -> impl Strategy<Value = Value> {
    prop::collection::vec(entries, 1..3).prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>()))
}

fn condition() -> impl Strategy<Value = Value> {
    mapping(leaf()).prop_recursive(5, 40, 5, |inner| {
        let list = || prop::collection::vec(inner.clone(), 1..5);
        let compound = prop_oneof![
            list().prop_map(|list| ("any".to_owned(), Value::Array(list))),
            list().prop_map(|list| ("all".to_owned(), Value::Array(list))),
            inner.clone().prop_map(|inner| ("not".to_owned(), inner)),
        ];
        mapping(prop_oneof![1 => leaf(), 3 => compound])
    })
}

/// A path as somebody writes it who would rather not be recognised.
fn any_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        6 => pick(SEGMENTS),
        1 => pick(&["", ".", "..", "%2e%2E", "%2e", "%61", "%61dmin", "a%2Fb", "%2561"]),
    ];
    prop::collection::vec(part, 1..5).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn asked() -> impl Strategy<Value = Asked> {
    let value = || pick(WORDS);
    let encoded = || pick(&["a", "b", "ab", "%61", "a%20b", "a+b", "1", ""]);
    let parameters = prop::collection::vec((encoded(), prop::option::of(encoded())), 0..4).prop_map(|list| {
        let one = |(name, value): (String, Option<String>)| match value {
            Some(value) => format!("{name}={value}"),
            None => name,
        };
        list.into_iter().map(one).collect::<Vec<_>>().join("&")
    });
    let cookie = prop::collection::vec((pick(&WORDS[1..4]), value()), 1..3).prop_map(|list| {
        let pairs: Vec<_> = list.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        ("Cookie".to_owned(), pairs.join("; "))
    });
    let header = (pick(&["X-A", "x-b", "Accept", "other"]), value());
    let headers = prop::collection::vec(prop_oneof![3 => header, 1 => cookie], 0..5);
    let host = (pick(HOSTS), any::<bool>(), any::<bool>()).prop_map(|(host, upper, dot)| {
        let host = if upper { host.to_uppercase() } else { host };
        if dot && !host.contains(':') { format!("{host}.") } else { host }
    });
    let line = (pick(&["GET", "POST", "HEAD"]), pick(&["http", "https"]), host, any_path(), parameters);
    let port = prop::option::of(prop::sample::select(vec![80u16, 443, 8080]));
    let client = prop::option::weighted(0.9, prop::sample::select(CLIENTS));
    (line, port, headers, client, any::<bool>()).prop_map(
        |((method, scheme, host, path, query), port, headers, client, internal)| Asked {
            method,
            scheme,
            host,
            port,
            path,
            query,
            headers,
            client: client.map(|text| text.parse().unwrap()),
            internal,
        },
    )
}

impl Asked {
    fn transaction(&self) -> Transaction {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let authority = self.port.map_or(host.clone(), |port| format!("{host}:{port}"));
        let target = if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) };
        let mut transaction = Transaction::get(&authority, &target);
        transaction.request_line[0] = self.method.clone().into();
        transaction.request_line[3] = self.scheme.clone().into();
        self.headers.iter().fold(transaction, |transaction, (name, value)| transaction.header(name, value))
    }
}

/// What the compiled condition says.
fn compiled(matcher: &Matcher, asked: &Asked) -> bool {
    let transaction = asked.transaction();
    let view = TransactionView { transaction: &transaction, client: asked.client, internal: asked.internal };
    matcher.holds(&mut Evaluation::new(&view))
}

fn matcher(condition: &Value) -> (Condition, Matcher) {
    let parsed: Condition =
        serde_json::from_value(condition.clone()).unwrap_or_else(|error| panic!("{condition}: {error}"));
    let matcher = Matcher::new(&parsed).unwrap();
    (parsed, matcher)
}

#[test]
fn random_requests_against_a_reference_evaluator() {
    const CONDITIONS: u32 = 3000;
    const REQUESTS: usize = 20;
    let (mut held, mut all) = (0u32, 0u32);
    let mut runner = TestRunner::new(Config { cases: CONDITIONS, failure_persistence: None, ..Config::default() });
    let counts = std::cell::Cell::new((0u32, 0u32));
    let result = runner.run(&(condition(), prop::collection::vec(asked(), REQUESTS)), |(condition, requests)| {
        let (parsed, matcher) = matcher(&condition);
        for asked in &requests {
            let expected = naive::holds(&condition, asked);
            prop_assert_eq!(compiled(&matcher, asked), expected, "{} for {:?}", condition, asked);
            let transaction = asked.transaction();
            let view = TransactionView { transaction: &transaction, client: asked.client, internal: asked.internal };
            prop_assert_eq!(parsed.refusal(&view).is_none(), expected, "{} has a reason when it fails", condition);
            let (held, all) = counts.get();
            counts.set((held + u32::from(expected), all + 1));
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    (held, all) = (held + counts.get().0, all + counts.get().1);
    println!("{CONDITIONS} random conditions, {all} requests: {held} held");
    assert!(all >= 60_000 && held > all / 10 && held < all * 9 / 10, "{held} of {all} held: the cases prove little");
}

/// A rule's worth of conditions: a thousand, of every kind.
#[test]
fn a_rule_of_a_thousand_conditions_against_a_reference_evaluator() {
    const RULES: u32 = 24;
    const REQUESTS: usize = 100;
    let mut runner = TestRunner::new(Config { cases: RULES, failure_persistence: None, ..Config::default() });
    let strategy = (
        prop::collection::vec(condition(), 400),
        prop::collection::vec(mapping(leaf()), 400),
        prop::collection::vec(asked(), REQUESTS),
    );
    let took = std::cell::Cell::new((0u128, 0u32));
    let result = runner.run(&strategy, |(deep, leaves, requests)| {
        // Until there are a thousand: some that are wanted, and some that are not.
        let (mut wanted, mut unwanted, mut count) = (Vec::new(), Vec::new(), 0);
        for (at, one) in deep.into_iter().zip(leaves).flat_map(|(a, b)| [a, b]).enumerate() {
            let (parsed, _) = matcher(&one);
            if count + parsed.count() > 1000 {
                continue;
            }
            count += parsed.count();
            if at % 3 == 0 { wanted.push(one) } else { unwanted.push(json!({"not": one})) }
        }
        for condition in [
            json!({"any": wanted, "not": {"all": unwanted}}),
            json!({"all": [{"any": unwanted}, {"not": {"all": wanted}}]}),
        ] {
            let (parsed, matcher) = matcher(&condition);
            prop_assert!((990..=1000).contains(&parsed.count()), "{}", parsed.count());
            for asked in &requests {
                prop_assert_eq!(compiled(&matcher, asked), naive::holds(&condition, asked), "{:?}", asked);
            }
            let transactions: Vec<_> = requests.iter().map(|asked| (asked.transaction(), asked)).collect();
            let start = Instant::now();
            for (transaction, asked) in &transactions {
                let view = TransactionView { transaction, client: asked.client, internal: asked.internal };
                std::hint::black_box(matcher.holds(&mut Evaluation::new(&view)));
            }
            let (nanoseconds, evaluations) = took.get();
            took.set((nanoseconds + start.elapsed().as_nanos(), evaluations + REQUESTS as u32));
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    let (nanoseconds, evaluations) = took.get();
    println!("1,000 mixed conditions: {} ns an evaluation", nanoseconds / u128::from(evaluations));
}

/// Not a measurement for a page, but for whoever changes this: `--nocapture` shows it.
#[test]
fn a_thousand_texts_cost_about_as_much_as_one() {
    let list = |one: &dyn Fn(usize) -> Value| Value::Array((0..1000).map(one).collect());
    let cases = [
        ("hosts", json!({"host": list(&|n| json!(format!("h{n}.test")))})),
        ("host suffixes", json!({"host": list(&|n| json!(format!("*.h{n}.test")))})),
        ("paths", json!({"path": list(&|n| json!(format!("/p/{n}")))})),
        ("path prefixes", json!({"path": list(&|n| json!({"prefix": format!("/p/{n}/")}))})),
        ("path globs", json!({"path": list(&|n| json!(format!("/p/{n}/*/x")))})),
        ("path expressions", json!({"path": list(&|n| json!({"regex": format!("^/p/{n}/[a-z]+$")}))})),
        ("networks", json!({"client": list(&|n| json!(format!("10.{}.{}.0/24", n / 250, n % 250)))})),
        ("header values", json!({"headers": {"x-key": list(&|n| json!(format!("key-{n}")))}})),
        (
            "pairs of method and path",
            json!({"any": (0..500)
            .map(|n| json!({"method": "GET", "path": format!("/p/{n}")}))
            .collect::<Vec<_>>()}),
        ),
    ];
    let transaction = Transaction::get("www.h1000.test", "/p/1000/abc?x=1")
        .header("Accept", "text/html")
        .header("X-Key", "key-1000")
        .header("User-Agent", "test/1.0");
    let view = TransactionView { transaction: &transaction, client: Some([192, 0, 2, 1].into()), internal: false };
    let best = |condition: &Value| {
        let (_, matcher) = matcher(condition);
        let turn = || {
            let start = Instant::now();
            for _ in 0..2000 {
                assert!(!matcher.holds(&mut Evaluation::new(std::hint::black_box(&view))));
            }
            start.elapsed().as_nanos() as f64 / 2000.0
        };
        (0..15).map(|_| turn()).fold(f64::INFINITY, f64::min)
    };
    for (what, condition) in &cases {
        println!("1,000 {what}, none of which is the request's: {:.0} ns", best(condition));
    }
    let one = best(&json!({"path": "/p/0"}));
    println!("1 path, not the request's: {one:.0} ns");
    for (what, condition) in [&cases[0], &cases[2], &cases[3], &cases[6]] {
        let many = best(condition);
        assert!(many < 20.0 * one.max(20.0), "1,000 {what} take {many:.0} ns, one path takes {one:.0}");
    }
}

use std::path::Path;

use super::*;
use crate::config;

/// The condition of one filter whose `match` is this, at line 4 of its file.
fn parse(text: &str) -> Result<Condition, String> {
    let indented = text.replace('\n', "\n      ");
    let file = format!("filters:\n  - name: a\n    module: b\n    match:\n      {indented}\n");
    let parsed = config::parse(Path::new("f.yaml"), &file).map_err(|error| error.to_string())?;
    Ok(parsed.filters.into_iter().next().unwrap().matching.unwrap())
}

#[test]
fn every_form_means_what_the_documentation_says() {
    for (text, words) in [
        ("method: GET", "method GET"),
        ("method: [GET, HEAD]", "method GET or HEAD"),
        ("host: Shop.Example.com.", "host shop.example.com"),
        ("host: '*.Example.com:8443'", "host like *.example.com on port 8443"),
        ("host: ['[::1]:80', '::1', 'a.test:81']", "host ::1 on port 80 or ::1 or a.test on port 81"),
        ("host: {regex: '^a[0-9]+[.]test$'}", "host matching ~^a[0-9]+[.]test$"),
        ("path: /admin", "path /admin"),
        ("path: /admin/**", "path like /admin/**"),
        (
            "path: [{prefix: /a}, {suffix: .png}, {contains: b}]",
            "path beginning with /a or ending with .png or containing b",
        ),
        ("query: {debug: '1', id: {present: true}}", "query parameter debug 1 and query parameter id present"),
        ("headers: {X-A: [x, {prefix: y}]}", "header x-a x or beginning with y"),
        ("headers: {accept: '*/*', x: ''}", "header accept */* and header x \"\""),
        ("cookies: {Session: {present: false}}", "cookie Session absent"),
        ("client: 10.0.0.1", "client 10.0.0.1"),
        (
            "client: [10.0.0.0/8, '2001:db8::/32', '::ffff:10.1.2.3', '::ffff:192.0.2.0/120']",
            "client 10.0.0.0/8 or 2001:db8::/32 or 10.1.2.3 or 192.0.2.0/24",
        ),
        ("scheme: https", "scheme https"),
        ("internal: false", "a client's request"),
        ("sample: {percent: 0.25}", "0.25 % of clients"),
        ("sample: {percent: 12.3456, by: header X-User, seed: s}", "12.3456 % of the values of header x-user (seed s)"),
        ("sample: {percent: 100, by: cookie Id}", "100 % of the values of cookie Id"),
        ("method: GET\npath: /a", "method GET and path /a"),
        ("any: [{method: GET}, {path: /a, scheme: http}]", "method GET or (path /a and scheme http)"),
        ("not: {path: /a}\nhost: a", "host a and not path /a"),
        ("not: {any: [{path: /a}, {host: b}]}", "not (path /a or host b)"),
        ("all: [{any: [{path: /a}, {host: b}]}, {method: GET}]", "(path /a or host b) and method GET"),
        ("path: [/1, /2, /3, /4, /5, /6, /7]", "path /1 or /2 or /3 or /4 or /5 or 2 more"),
    ] {
        let condition = parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(condition.to_string(), words, "{text}");
    }
    assert_eq!(parse("method: [GET, HEAD]\nnot: {query: {a: [b, c]}}").unwrap().count(), 4);
}

#[test]
fn mistakes_say_where_and_what() {
    let mut wrong = Vec::new();
    for (text, expected) in [
        ("{}", "5:7: filters[0].match: an empty mapping says nothing"),
        (
            "GET",
            "5:7: filters[0].match: a mapping of conditions, such as {path: /admin/**} is expected, not the text 'GET'",
        ),
        ("methods: GET", "5:7: filters[0].match: unknown key 'methods' in \"»methods«: GET\"; did you mean 'method'?"),
        ("method:", "5:14: filters[0].match.method: one, or a list of them is expected, not nothing"),
        ("method: get", "5:15: filters[0].match.method: methods are written in capitals: 'GET'"),
        ("method: []", "5:15: filters[0].match.method: an empty list says nothing"),
        ("method: [GET, 'A B']", "5:21: filters[0].match.method[1]: 'A B' is no method"),
        ("host: http://a.test/", "5:13: filters[0].match.host: 'http://a.test/' is no host: it has a '/'"),
        (
            "host: 'a.test:0'",
            "5:13: filters[0].match.host: 'a.test:0' is no host: its port is no number from 1 to 65535",
        ),
        ("path: admin", "5:13: filters[0].match.path: 'admin' matches no path: a path begins with '/'"),
        (
            "path: /%61dmin",
            "5:13: filters[0].match.path: '/%61dmin' matches no path: paths are compared with their \
          %-escapes decoded, and without '//', '/./' and '/../'; write '/admin'",
        ),
        ("path: /a//b", "5:13: filters[0].match.path: '/a//b' matches no path"),
        ("path: /search?q=x", "5:13: filters[0].match.path: '/search?q=x': '?' stands for one character in a glob"),
        ("path: {present: true}", "5:13: filters[0].match.path: every request has one"),
        ("path: {prefix: /a, suffix: b}", "5:13: filters[0].match.path: a pattern has one key"),
        ("path: {prefix: ''}", "5:22: filters[0].match.path.prefix: must not be empty"),
        (
            "path: {regex: '^/a(b'}",
            "5:21: filters[0].match.path.regex: the expression '^/a(b' cannot be read at character 4: unclosed group",
        ),
        ("path: ['/a/{b,c']", "5:14: filters[0].match.path[0]: the glob '/a/{b,c' cannot be read"),
        (
            "path: {regex: '(a{1000}){1000}'}",
            "5:21: filters[0].match.path.regex: the expression '(a{1000}){1000}' is too large",
        ),
        ("query: {page: 1}", "5:21: filters[0].match.query.page: 1 is no text, and a value, or a mapping"),
        (
            "headers: {':path': /a}",
            "5:16: filters[0].match.headers: ':path' is no header field here: use the key 'path'",
        ),
        ("headers: {'@x': a}", "5:16: filters[0].match.headers: '@x' is no name of a header field"),
        ("headers: {A: x, a: y}", "5:16: filters[0].match.headers: 'a' stands here twice"),
        (
            "client: 10.0.0.1/8",
            "5:15: filters[0].match.client: '10.0.0.1/8' has bits beyond its length of 8: is it 10.0.0.0/8?",
        ),
        (
            "client: [10.0.0.0/33]",
            "5:16: filters[0].match.client[0]: '10.0.0.0/33' is neither an address nor a network",
        ),
        ("scheme: ftp", "5:15: filters[0].match.scheme: 'ftp' is no scheme of a client's"),
        ("internal: 1", "5:17: filters[0].match.internal: 'true' or 'false' is expected"),
        ("sample: {percent: 101}", "5:25: filters[0].match.sample.percent: 101 is not within 0 to 100"),
        ("sample: {percent: -0.5}", "5:25: filters[0].match.sample.percent: -0.5 is not within 0 to 100"),
        ("sample: {percent: 0.00001}", "5:25: filters[0].match.sample.percent: 0.00001 has more than four decimals"),
        ("sample: {percent: 1, by: user}", "5:32: filters[0].match.sample.by: 'user' decides nothing"),
        ("sample: {by: path}", "5:15: filters[0].match.sample: the key 'percent' is missing"),
        ("any: []", "5:12: filters[0].match.any: an empty list says nothing"),
        ("not: {}", "5:12: filters[0].match.not: an empty mapping says nothing"),
        ("all: [{path: /a}, {}]", "5:25: filters[0].match.all[1]: an empty mapping says nothing"),
    ] {
        let message = parse(text).expect_err(text);
        let expected = format!("f.yaml:{expected}");
        if !message.starts_with(&expected) {
            wrong.push(format!("{text}\n  got {message}\n  not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn there_are_limits() {
    let nested = |levels: usize| format!("{}{{path: /a}}{}", "{not: ".repeat(levels), "}".repeat(levels));
    assert!(parse(&nested(MAX_DEPTH - 1)).is_ok());
    let message = parse(&nested(MAX_DEPTH)).unwrap_err();
    assert!(message.contains("conditions stand 17 deep in each other here; there may be 16 levels"), "{message}");
    // Beyond serde_yaml's own limit, which keeps the stack.
    let message = parse(&nested(1000)).unwrap_err();
    assert!(message.contains("nested too deeply: more than 127 levels"), "{message:.300}");

    let list = |count: usize| (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>().join(", ");
    let filter = |count: usize| format!("  - {{name: a, module: b, match: {{path: [{}]}}}}\n", list(count));
    let file = |filters: &str| config::parse(Path::new("f.yaml"), &format!("filters:\n{filters}"));
    assert!(file(&filter(MAX_CONDITIONS)).is_ok());
    let message = file(&filter(MAX_CONDITIONS + 1)).unwrap_err().to_string();
    assert!(message.starts_with("f.yaml:2:33: filters[0].match: has 4097 conditions; there may be 4096"), "{message}");
    let message = file(&filter(2049).repeat(2)).unwrap_err().to_string();
    assert!(message.contains("filters: its filters have 4098 conditions; a file may have 4096"), "{message}");
}

#[test]
fn a_service_has_no_match() {
    let file = "services: [{name: a, module: b, match: {path: /a}}]\n";
    let message = config::parse(Path::new("f.yaml"), file).unwrap_err().to_string();
    assert_eq!(
        message,
        "f.yaml:1:33: services[0].match: a service has no transactions, so no 'match': drop the key in \"services: [{name: a, \
         module: b, »match«: {path: /a}}]\""
    );
}

#[test]
fn the_schema_knows_every_key() {
    let schema = schemars::schema_for!(Condition).to_value();
    let text = schema.to_string();
    for key in [
        "method", "host", "path", "query", "headers", "cookies", "client", "scheme", "internal", "sample", "any",
        "all", "not",
    ] {
        assert!(schema["properties"].get(key).is_some(), "{key} is not in {text}");
    }
    assert_eq!(schema["additionalProperties"], false);
    for key in ["exact", "regex", "present", "percent", "seed"] {
        assert!(text.contains(&format!("\"{key}\"")), "{key} is not in {text}");
    }
}

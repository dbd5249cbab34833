use super::*;

fn config(json: &str) -> Config {
    Config::parse(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

#[test]
fn fills_in_the_defaults() {
    let config = config(r#"{"limit": 100, "per": "minute"}"#);
    assert_eq!(config.rate, Rate::new(100, 60 * SECOND, 100).unwrap());
    assert_eq!((config.name.as_str(), config.key.as_slice()), ("default", &[Part::ClientAddress][..]));
    assert_eq!((config.status, config.on_missing_key, config.headers), (429, OnMissingKey::Limit, Headers::Separate));
    assert!(!config.dry_run && !config.asks_for_address() && config.only.is_empty());
    assert_eq!(config.bucket_name("10.0.0.1", &config.rate), "rate-limit/default/100/60000000000/100/10.0.0.1");
}

#[test]
fn reads_every_key() {
    let config = config(
        r#"{
            "name": "api", "limit": 5, "per": 10, "burst": 20, "key": [{"header": "x-client"}, {"path": 1}],
            "address_prefix": {"ipv6": 48}, "keys": {"alice /api": 50, "10.0.0.0/8": {"limit": 7, "burst": 8}, "10.1.0.0/16": 9},
            "exempt": ["bob /api", "192.0.2.1"], "only": ["/api"], "on_missing_key": "deny", "status": 503,
            "message": "slow down", "content_type": "text/html", "headers": "combined", "dry_run": true
        }"#,
    );
    let rate = |limit, burst| Rate::new(limit, 10 * SECOND, burst).unwrap();
    let address = |text: &str| Some(text.parse::<IpAddr>().unwrap());
    assert_eq!(*config.rate("alice /api", None), rate(50, 50));
    assert_eq!(*config.rate("carol /api", None), rate(5, 20));
    assert_eq!(*config.rate("carol /api", address("10.9.9.9")), rate(7, 8));
    assert_eq!(*config.rate("carol /api", address("10.1.9.9")), rate(9, 9));
    assert!(config.is_exempt(Some("bob /api"), None) && config.is_exempt(None, address("192.0.2.1")));
    assert!(!config.is_exempt(Some("bob"), address("192.0.2.2")) && !config.is_exempt(None, None));
    assert!(config.asks_for_address() && config.dry_run);
    assert_eq!(config.address_prefix, Prefix { ipv4: 32, ipv6: 48 });
}

#[test]
fn everything_is_one_bucket() {
    assert!(config(r#"{"limit": 1, "per": "day", "key": "everything"}"#).key.is_empty());
}

#[test]
fn names_the_key_that_is_wrong() {
    for (json, expected) in [
        ("", "configuration: missing; expected `limit`"),
        ("{}", "configuration: missing field `limit`"),
        (r#"{"limit": 1}"#, "configuration: missing field `per`"),
        (r#"{"limit": 0, "per": "second"}"#, "configuration: limit: expected at least one"),
        (r#"{"limit": 1.5, "per": "second"}"#, "configuration: limit: invalid type"),
        (r#"{"limit": 1, "per": "week"}"#, "configuration: per: expected `second`, `minute`"),
        (r#"{"limit": 1, "per": 0}"#, "configuration: per: expected at least one second"),
        (r#"{"limit": 1, "per": 99999999999}"#, "configuration: per: expected at least one second, and no more"),
        (r#"{"limit": 1, "per": "second", "burst": 0}"#, "configuration: burst: expected at least one"),
        (r#"{"limit": 1, "per": "day", "burst": 9999999999}"#, "configuration: burst: is beyond"),
        (r#"{"limit": 1, "per": "second", "name": "a/b"}"#, "configuration: name: \"a/b\": expected letters"),
        (r#"{"limit": 1, "per": "second", "key": "cookie"}"#, "configuration: key: expected `client_address`"),
        (r#"{"limit": 1, "per": "second", "key": []}"#, "configuration: key: an empty list"),
        (r#"{"limit": 1, "per": "second", "key": {"header": "a b"}}"#, "configuration: key: \"a b\" is not the name"),
        (r#"{"limit": 1, "per": "second", "key": {"path": 0}}"#, "configuration: key: expected at least one segment"),
        (r#"{"limit": 1, "per": "second", "address_prefix": {"ipv4": 33}}"#, "configuration: address_prefix: expected"),
        (
            r#"{"limit": 1, "per": "second", "keys": {"a": "1"}}"#,
            "configuration: keys.a: expected a number of requests",
        ),
        (r#"{"limit": 1, "per": "second", "keys": {"a": 0}}"#, "configuration: keys.a: expected at least one"),
        (
            r#"{"limit": 1, "per": "second", "keys": {"10.0.0.1/8": 1}}"#,
            "configuration: keys.10.0.0.1/8: \"10.0.0.1/8\" has",
        ),
        (r#"{"limit": 1, "per": "second", "exempt": ["::/200"]}"#, "configuration: exempt: \"::/200\": expected"),
        (r#"{"limit": 1, "per": "second", "only": ["api"]}"#, "configuration: only: \"api\" does not begin"),
        (r#"{"limit": 1, "per": "second", "status": 200}"#, "configuration: status: expected"),
        (r#"{"limit": 1, "per": "second", "content_type": ""}"#, "configuration: content_type: expected"),
        (
            r#"{"limit": 1, "per": "second", "on_missing_key": "refuse"}"#,
            "configuration: on_missing_key: unknown variant",
        ),
        (r#"{"limit": 1, "per": "second", "rate": 1}"#, "configuration: rate: unknown field `rate`"),
        (r#"{"limit": 1, "per": "second"} {}"#, "configuration: more than one"),
    ] {
        let error = Config::parse(json.as_bytes()).map(|_| ()).unwrap_err();
        assert!(error.starts_with(expected), "{json}\n  gave     {error}\n  expected {expected}");
    }
}

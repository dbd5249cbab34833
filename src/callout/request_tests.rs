use super::*;

fn headers(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(name, value)| (Bytes::from(name.to_string()), Bytes::from(value.to_string()))).collect()
}

fn get(more: &[(&str, &str)]) -> Pairs {
    let mut all = headers(&[(":method", "GET"), (":path", "/p?q"), (":authority", "a.test")]);
    all.extend(headers(more));
    all
}

fn made(headers: Pairs, body: &'static str, protocol: Protocol) -> Request<()> {
    let request = HttpRequest { headers, body: Bytes::from(body), trailers: Vec::new() };
    Outgoing::new(request, protocol, false).expect("a request").head(())
}

fn refusal(headers: Pairs) -> String {
    let request = HttpRequest { headers, ..HttpRequest::default() };
    match Outgoing::new(request, Protocol::Http1, false) {
        Err(Refused::BadRequest(what)) => what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_version_names_the_host_in_its_own_way() {
    let request = made(get(&[("host", "other.test"), ("X-A", "1"), ("x-a", "2")]), "", Protocol::Http1);
    assert_eq!(request.uri(), "/p?q");
    assert_eq!(request.headers()["host"], "a.test");
    let values: Vec<_> = request.headers().get_all("x-a").iter().collect();
    assert_eq!(values, ["1", "2"]);
    let request = made(get(&[("host", "other.test")]), "", Protocol::Http2);
    assert_eq!(request.uri(), "http://a.test/p?q");
    assert!(!request.headers().contains_key("host"));
}

#[test]
fn the_length_is_the_bodys_and_hops_are_dropped() {
    let given = [
        ("content-length", "99"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip, Trailers"),
        ("upgrade", "h2c"),
        ("keep-alive", "5"),
    ];
    let request = made(get(&given), "four", Protocol::Http1);
    let names: Vec<_> = request.headers().keys().map(HeaderName::as_str).collect();
    assert_eq!(request.headers()["content-length"], "4");
    assert_eq!(request.headers()["te"], "trailers");
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(!made(get(&[("content-length", "99")]), "", Protocol::Http2).headers().contains_key("content-length"));
}

#[test]
fn trailers_make_http1_chunked() {
    let trailers = headers(&[("x-sum", "1"), ("x-more", "2")]);
    let request = HttpRequest { headers: get(&[("content-length", "4")]), body: Bytes::from("four"), trailers };
    let request = Outgoing::new(request, Protocol::Http1, false).expect("a request").head(());
    assert_eq!(request.headers()["transfer-encoding"], "chunked");
    assert!(!request.headers().contains_key("content-length"));
    assert_eq!(request.headers().get_all("trailer").iter().count(), 2);
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let without = |name: &str| get(&[]).into_iter().filter(|(key, _)| key != name).collect::<Pairs>();
    for name in [":method", ":path", ":authority"] {
        assert!(refusal(without(name)).contains(name));
    }
    let with = |name, value| refusal([without(name), headers(&[(name, value)])].concat());
    assert!(with(":method", "G T").contains("`G T` cannot be a :method"));
    assert!(with(":method", "CONNECT").contains("tunnel"));
    assert!(with(":path", "p").contains("does not begin with /"));
    assert!(with(":path", "/a b").contains("`/a b`"));
    assert!(with(":authority", "a b").contains("`a b`"));
    assert!(with(":scheme", "ftp").contains("ftp"));
    assert!(refusal(get(&[(":status", "200")])).contains(":status"));
    assert!(refusal(get(&[(":path", "/")])).contains("twice"));
    assert!(refusal(get(&[("a b", "1")])).contains("`a b`"));
    assert!(refusal(get(&[("x-a", "1\r\nx-b: 2")])).contains("x-a"));
}

#[test]
fn grpc_has_its_headers() {
    let (service, method) = (Bytes::from("test.Echo"), Bytes::from("Unary"));
    let metadata = headers(&[("x-a", "1"), ("te", "gzip"), ("grpc-timeout", "1S")]);
    let request = Outgoing::grpc(&service, &method, metadata, "a.test:1", true).expect("a request").head(());
    assert_eq!(request.uri(), "https://a.test:1/test.Echo/Unary");
    assert_eq!(request.headers()["content-type"], "application/grpc");
    assert_eq!(request.headers()["te"], "trailers");
    assert!(!request.headers().contains_key("grpc-timeout"));
    let wrong = Outgoing::grpc(&Bytes::from("a/b"), &method, Vec::new(), "a.test:1", true);
    assert!(matches!(wrong, Err(Refused::BadRequest(what)) if what.contains("a/b")));
}

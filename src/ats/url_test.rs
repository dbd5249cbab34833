use fake_ats::Message;

use super::*;

fn with_url(text: &str, test: impl FnOnce(&mut Url<'_>)) {
    let message = Message::request("GET", text, &[]);
    // SAFETY: the message outlives the view, which is the only one.
    test(&mut unsafe { Url::from_raw(message.bufp(), message.url()) }.expect("a URL"));
}

fn string(url: &Url<'_>) -> String {
    String::from_utf8(url.view().to_vec()).expect("UTF-8")
}

#[test]
fn parts_of_a_full_url() {
    with_url("https://u:p@a.test:8443/d/e;v=1?x=1&y#top", |url| {
        let view = url.view();
        assert_eq!((view.scheme(), view.host()), (&b"https"[..], &b"a.test"[..]));
        assert_eq!((view.user(), view.password()), (&b"u"[..], &b"p"[..]));
        assert_eq!((view.port(), view.explicit_port()), (8443, Some(8443)));
        assert_eq!((view.path(), view.params()), (&b"d/e"[..], &b"v=1"[..]));
        assert_eq!((view.query(), view.fragment()), (&b"x=1&y"[..], &b"top"[..]));
        assert_eq!(string(url), "https://u:p@a.test:8443/d/e;v=1?x=1&y#top");
        let mut target = Vec::new();
        url.view().write_path_and_query(&mut target);
        assert_eq!(target, b"/d/e;v=1?x=1&y");
    });
}

#[test]
fn parts_that_are_not_there_are_empty() {
    with_url("/only", |url| {
        let view = url.view();
        assert_eq!((view.scheme(), view.host(), view.query()), (&b""[..], &b""[..], &b""[..]));
        assert_eq!(view.path(), b"only");
        assert_eq!(view.explicit_port(), None);
    });
    with_url("https://a.test/", |url| {
        assert_eq!((url.view().port(), url.view().explicit_port()), (443, None));
    });
}

#[test]
fn setters() {
    with_url("http://a.test/p?q", |url| {
        url.set_scheme(b"https").expect("scheme");
        url.set_host(b"b.test").expect("host");
        url.set_port(Some(8080)).expect("port");
        url.set_path(b"/x/y").expect("path");
        url.set_query(b"z=2").expect("query");
        url.set_fragment(b"f").expect("fragment");
        assert_eq!(string(url), "https://b.test:8080/x/y?z=2#f");
        url.set_port(None).expect("port");
        url.set_query(b"").expect("query");
        url.set_fragment(b"").expect("fragment");
        url.set_path(b"").expect("path");
        assert_eq!(string(url), "https://b.test/");
    });
}

#[test]
fn path_and_query_together() {
    with_url("http://a.test/p;v?q", |url| {
        url.set_path_and_query(b"/n?a=b?c").expect("target");
        assert_eq!(string(url), "http://a.test/n?a=b?c");
        url.set_path_and_query(b"/m").expect("target");
        assert_eq!(string(url), "http://a.test/m");
        assert!(url.set_path_and_query(b"/m2?a b").is_err());
        assert_eq!(string(url), "http://a.test/m", "no half change");
    });
}

#[test]
fn a_path_set_on_a_url_without_one_does_not_run_into_the_host() {
    for (before, after) in [
        ("http://a.test?q", "http://a.test/evil?q"),
        ("http://a.test", "http://a.test/evil"),
        ("http://a.test/", "http://a.test/evil"),
        ("http://a.test:81?q#f", "http://a.test:81/evil?q#f"),
    ] {
        with_url(before, |url| {
            url.set_path(b"evil").expect("path");
            assert_eq!(string(url), after);
        });
    }
}

#[test]
fn parse_replaces_all() {
    with_url("http://a.test/p?q", |url| {
        url.parse(b"https://c.test/r").expect("URL");
        assert_eq!(string(url), "https://c.test/r");
        assert!(matches!(url.parse(b"http://c.test/ HTTP/1.1"), Err(Error::BadByte { .. })));
    });
}

#[test]
fn what_would_split_the_request_line_is_refused() {
    with_url("http://a.test/p", |url| {
        assert!(matches!(url.set_path(b"a HTTP/1.1\r\nX: y"), Err(Error::BadByte { byte: b' ', .. })));
        assert!(matches!(url.set_host(b"a\r\n"), Err(Error::BadByte { .. })));
        assert!(matches!(url.set_query(&[b'q'; MAX_PART + 1]), Err(Error::TooLong { .. })));
        assert_eq!(string(url), "http://a.test/p");
    });
}

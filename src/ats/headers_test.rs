use fake_ats::Message;

use super::*;

/// The view over a fake message, which must outlive it.
fn view(message: &Message) -> HeaderMap<'_> {
    // SAFETY: the message lives as long as the view, and each test makes one view of it.
    unsafe { HeaderMap::from_raw(message.bufp(), message.hdr()) }.expect("not null")
}

fn pairs<'h>(map: &'h HeaderMap<'_>) -> Vec<(&'h str, &'h str)> {
    map.iter().map(|(name, value)| (text(name), text(value))).collect()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("UTF-8")
}

fn sample() -> Message {
    Message::request(
        "GET",
        "/",
        &[("Host", "a.test"), ("X-A", "1, 2"), ("Cookie", "c=1"), ("x-a", "3"), ("X-Empty", "")],
    )
}

/// Every test ends with as many field handles as it began with.
fn balanced(test: impl FnOnce()) {
    let before = fake_ats::live_field_handles();
    test();
    assert_eq!(fake_ats::live_field_handles(), before, "field handles leaked");
}

#[test]
fn fields_come_in_wire_order_with_duplicates_and_whole_values() {
    balanced(|| {
        let message = sample();
        let map = view(&message);
        assert_eq!(map.len(), 5);
        assert!(!map.is_empty());
        assert_eq!(
            pairs(&map),
            [("Host", "a.test"), ("X-A", "1, 2"), ("Cookie", "c=1"), ("x-a", "3"), ("X-Empty", "")]
        );
        let mut visited = 0;
        map.for_each(|_, _| visited += 1);
        assert_eq!(visited, 5);
        // An iterator that is left early holds a handle; dropping it must release that.
        assert_eq!(map.iter().next().map(|(name, _)| text(name)), Some("Host"));
    });
}

#[test]
fn look_ups_ignore_case_and_see_duplicates() {
    balanced(|| {
        let message = sample();
        let map = view(&message);
        assert_eq!(map.get_first(b"HOST"), Some(&b"a.test"[..]));
        assert_eq!(map.get_first(b"x-a"), Some(&b"1, 2"[..]));
        assert_eq!(map.get_first(b"X-Empty"), Some(&b""[..]));
        assert_eq!(map.get_first(b"X-None"), None);
        assert_eq!(map.get_first(b""), None);
        assert_eq!(map.values(b"X-A").map(text).collect::<Vec<_>>(), ["1, 2", "3"]);
        assert_eq!((map.count(b"X-A"), map.count(b"Host"), map.count(b"X-None")), (2, 1, 0));
    });
}

#[test]
fn append_keeps_what_is_there() {
    balanced(|| {
        let message = sample();
        let mut map = view(&message);
        map.append(b"X-A", b"4").expect("append");
        map.append(b"X-New", b"").expect("append");
        assert_eq!(map.values(b"x-a").map(text).collect::<Vec<_>>(), ["1, 2", "3", "4"]);
        assert_eq!(pairs(&map).last(), Some(&("X-New", "")));
    });
}

#[test]
fn set_leaves_one_field_in_the_place_of_the_first() {
    balanced(|| {
        let message = sample();
        let mut map = view(&message);
        map.set(b"x-A", b"new").expect("set");
        map.set(b"X-B", b"added").expect("set");
        assert_eq!(
            pairs(&map),
            [("Host", "a.test"), ("X-A", "new"), ("Cookie", "c=1"), ("X-Empty", ""), ("X-B", "added")]
        );
    });
}

#[test]
fn remove_takes_all_duplicates() {
    balanced(|| {
        let message = sample();
        let mut map = view(&message);
        assert_eq!(map.remove(b"X-A"), Ok(true));
        assert_eq!(map.remove(b"X-A"), Ok(false));
        assert_eq!(pairs(&map), [("Host", "a.test"), ("Cookie", "c=1"), ("X-Empty", "")]);
        map.clear().expect("clear");
        assert!(map.is_empty());
        assert_eq!(map.len(), 0);
    });
}

#[test]
fn nothing_that_would_split_a_line_gets_in() {
    balanced(|| {
        let message = sample();
        let mut map = view(&message);
        for value in [&b"a\r\nX-Evil: 1"[..], b"a\n", b"\0"] {
            assert!(matches!(map.set(b"X-A", value), Err(Error::BadByte { what: "header value", .. })));
            assert!(matches!(map.append(b"X-A", value), Err(Error::BadByte { .. })));
        }
        for name in [&b"a b"[..], b"a:", b"a\r\n", b"\x7f"] {
            assert!(matches!(map.set(name, b"v"), Err(Error::BadByte { what: "header name", .. })));
        }
        assert_eq!(map.append(b"", b"v"), Err(Error::Empty("header name")));
        assert!(matches!(map.append(&[b'n'; MAX_NAME + 1], b""), Err(Error::TooLong { .. })));
        assert!(matches!(map.append(b"n", &vec![b'v'; MAX_VALUE + 1]), Err(Error::TooLong { .. })));
        assert_eq!(map.len(), 5, "nothing was changed");
    });
}

#[test]
fn a_read_only_message_refuses_and_leaks_nothing() {
    balanced(|| {
        let mut message = sample();
        message.make_read_only();
        let mut map = view(&message);
        assert!(matches!(map.append(b"a", b"b"), Err(Error::Refused("TSMimeHdrFieldCreateNamed"))));
        assert!(matches!(map.set(b"Host", b"b"), Err(Error::Refused("TSMimeHdrFieldValueStringSet"))));
        assert!(matches!(map.remove(b"Host"), Err(Error::Refused("TSMimeHdrFieldDestroy"))));
        assert!(map.clear().is_err());
        assert_eq!(map.len(), 5);
    });
}

#[test]
fn null_is_no_message() {
    // SAFETY: null is answered with `None`, nothing is read.
    assert!(unsafe { HeaderMap::from_raw(ptr::null_mut(), ptr::null_mut()) }.is_none());
}

#[test]
fn fields_that_ats_knows_by_number_are_found_without_their_names() {
    let message = Message::request("GET", "http://a.test/", &[("hOsT", "a.test"), ("Content-Length", "0")]);
    let map = view(&message);
    assert_eq!(map.get_known(KnownField::Host), Some(&b"a.test"[..]));
    assert_eq!(map.get_known(KnownField::ContentLength), Some(&b"0"[..]));
    assert!(!map.has_known(KnownField::TransferEncoding));
    assert_eq!(fake_ats::found_by_number(), 3);
    assert_eq!(map.get_first(b"Content-Length"), Some(&b"0"[..]));
    assert_eq!(fake_ats::found_by_number(), 3, "a name of ours is text to ATS");
}

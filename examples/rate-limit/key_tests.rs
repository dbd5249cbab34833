use super::*;

struct Asked {
    client: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

impl Request for Asked {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        let found = self.headers.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| value.as_bytes().to_vec())
    }

    fn client(&self) -> Option<Vec<u8>> {
        (!self.client.is_empty()).then(|| self.client.as_bytes().to_vec())
    }
}

const FULL: Asked = Asked {
    client: "10.1.2.3:4567",
    headers: &[
        (":authority", "Shop.example.com"),
        (":path", "/api/v1/orders/7?page=2&key=a%20b"),
        ("x-client", "alice"),
        ("x-empty", ""),
        ("cookie", "theme=light; session=\"s 1\"; sessions=no"),
    ],
};

fn key(request: &Asked, parts: &[Part]) -> Option<String> {
    of(request, parts, Prefix::default()).map(|key| String::from_utf8(key).unwrap())
}

#[test]
fn every_part_has_its_value() {
    let text = |text: &str| text.to_owned();
    for (part, expected) in [
        (Part::ClientAddress, Some("10.1.2.3")),
        (Part::Host, Some("shop.example.com")),
        (Part::Header(text("x-client")), Some("alice")),
        (Part::Header(text("x-empty")), None),
        (Part::Header(text("x-none")), None),
        (Part::Cookie(text("session")), Some("s 1")),
        (Part::Cookie(text("theme")), Some("light")),
        (Part::Cookie(text("them")), None),
        (Part::Query(text("key")), Some("a b")),
        (Part::Query(text("none")), None),
        (Part::Path(1), Some("/api")),
        (Part::Path(2), Some("/api/v1")),
        (Part::Path(9), Some("/api/v1/orders/7")),
        (Part::Everything, Some("")),
    ] {
        assert_eq!(key(&FULL, std::slice::from_ref(&part)).as_deref(), expected, "{part:?}");
    }
    assert_eq!(key(&FULL, &[Part::ClientAddress, Part::Path(1)]).unwrap(), "10.1.2.3 /api");
    assert_eq!(key(&FULL, &[Part::ClientAddress, Part::Header(text("x-none"))]), None);
    let nobody = Asked { client: "", headers: &[] };
    assert_eq!(key(&nobody, &[Part::ClientAddress]), None);
}

#[test]
fn a_client_of_ipv6_is_its_network() {
    let asked = |client| Asked { client, headers: &[] };
    let network = |client| key(&asked(client), &[Part::ClientAddress]).unwrap();
    assert_eq!(network("[2001:db8:1:2:3:4:5:6]:80"), "2001:db8:1:2::");
    assert_eq!(network("[2001:db8:1:2::9]:81"), "2001:db8:1:2::");
    assert_eq!(network("[::ffff:10.0.0.1]:80"), "10.0.0.1");
    assert_eq!(network("10.0.0.1"), "10.0.0.1");
    let wide = Prefix { ipv4: 24, ipv6: 48 };
    let wide = |client| String::from_utf8(of(&asked(client), &[Part::ClientAddress], wide).unwrap()).unwrap();
    assert_eq!((wide("10.0.0.77:1"), wide("[2001:db8:1:2::9]:1")), ("10.0.0.0".into(), "2001:db8:1::".into()));
}

#[test]
fn networks_hold_their_addresses_and_no_others() {
    let network = |text| Network::parse(text).unwrap().unwrap();
    for (text, inside, outside) in [
        ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
        ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
        ("0.0.0.0/0", "1.2.3.4", "::1"),
        ("::/0", "::1", "1.2.3.4"),
        ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
        ("::1", "::1", "::2"),
    ] {
        assert!(network(text).contains(inside.parse().unwrap()), "{text} {inside}");
        assert!(!network(text).contains(outside.parse().unwrap()), "{text} {outside}");
    }
    for wrong in ["10.0.0.0/33", "10.0.0.1/8", "::1/129", "10.0.0.0/x", "10.0.0.0/"] {
        assert!(Network::parse(wrong).unwrap().is_err(), "{wrong}");
    }
    for other in ["alice", "10.0.0", "", "10.0.0.1 /login"] {
        assert_eq!(Network::parse(other), None, "{other}");
    }
}

#[test]
fn no_spelling_of_a_path_is_another_one() {
    for spelling in
        ["/login", "/login/", "//login", "/./login", "/x/../login", "/%6cogin", "/x%2f..%2Flogin?a=/b", "\\login"]
    {
        assert_eq!(normal_path(spelling.as_bytes()), b"/login", "{spelling}");
    }
    assert_eq!(normal_path(b""), b"/");
    assert_eq!(normal_path(b"/../.."), b"/");
    let prefixes = ["/login".to_owned(), "/api/".to_owned()];
    for (path, below) in
        [("/login", true), ("/login/now", true), ("/logins", false), ("/api", true), ("/api/x", true), ("/", false)]
    {
        assert_eq!(is_below(path.as_bytes(), &prefixes), below, "{path}");
    }
    assert!(is_below(b"/anything", &["/".to_owned()]));
}

#[test]
fn keys_are_bounded_text() {
    assert_eq!(bounded(b"alice".to_vec()), "alice");
    let long = bounded(vec![b'a'; 65]);
    assert_eq!(long.len(), 65);
    assert_ne!(long, bounded(vec![b'a'; 66]));
    assert_ne!(bounded(b"\xff".to_vec()), bounded(b"\xfe".to_vec()));
}

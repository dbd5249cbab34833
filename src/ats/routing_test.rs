use fake_ats::FakeTxn;

use super::*;

fn txn(fake: &FakeTxn) -> Txn<'_> {
    // SAFETY: the fake lives as long as the handle, on this thread.
    unsafe { Txn::from_raw(fake.raw()) }.expect("not null")
}

#[test]
fn a_cache_url_is_whole_and_chosen_once() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    assert_eq!(txn.cache_url(), None);
    for wrong in
        [&b""[..], b"/path", b"a.test/path", b"ftp://a.test/", b"http:///x", b"http://a.test/b c", b"http://a\0/"]
    {
        assert!(txn.cache_url_set(wrong).is_err(), "{:?}", String::from_utf8_lossy(wrong));
    }
    txn.cache_url_set(b"http://key.test/a?b").expect("set");
    assert_eq!(txn.cache_url().as_deref(), Some(&b"http://key.test/a?b"[..]));
    assert!(txn.cache_url_set(b"http://other.test/").is_err(), "the first one stays");
}

#[test]
fn flags_are_kept() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    for flag in [CacheFlag::NO_STORE, CacheFlag::REQUEST_CACHEABLE, CacheFlag::RESPONSE_CACHEABLE] {
        assert!(!txn.cache_flag(flag));
        txn.cache_flag_set(flag, true);
        assert!(txn.cache_flag(flag));
    }
}

#[test]
fn next_hops_are_checked() {
    let before = fake_ats::live_blocks();
    {
        let fake = FakeTxn::new();
        let txn = txn(&fake);
        assert_eq!(txn.parent_proxy(), None);
        for (name, port) in [(&b""[..], 1), (b"a b", 1), (b"a\0b", 1), (b"parent.test", 0)] {
            assert!(txn.parent_proxy_set(name, port).is_err());
        }
        txn.parent_proxy_set(b"parent.test", 3128).expect("set");
        assert_eq!(txn.parent_proxy(), Some((&b"parent.test"[..], 3128)));

        assert!(txn.server_addr_set("192.0.2.1:0".parse().expect("an address")).is_err());
        let addr = "[2001:db8::1]:81".parse().expect("an address");
        txn.server_addr_set(addr).expect("set");
        assert_eq!(txn.server_addr(), Some(addr));

        assert!(txn.redirect_url_set(b"/relative").is_err());
        txn.redirect_url_set(b"http://a.test/x").expect("set");
        txn.redirect_url_set(b"http://a.test/y").expect("set");
        assert_eq!(fake.redirect_url().as_deref(), Some(&b"http://a.test/y"[..]));
    }
    assert_eq!(fake_ats::live_blocks(), before, "ATS frees what it was given");
}

use fake_ats::{FakeTxn, Message, Slot};

use super::*;
use crate::Error;

fn txn(fake: &FakeTxn) -> Txn<'_> {
    // SAFETY: the fake lives as long as the handle, on this thread.
    unsafe { Txn::from_raw(fake.raw()) }.expect("not null")
}

#[test]
fn null_is_no_transaction() {
    // SAFETY: null is answered with `None`.
    assert!(unsafe { Txn::from_raw(ptr::null_mut()) }.is_none());
}

#[test]
fn status_and_error_body() {
    let before = fake_ats::live_blocks();
    {
        let fake = FakeTxn::new();
        let txn = txn(&fake);
        assert_eq!(txn.status_get(), 0);
        txn.status_set(419).expect("status");
        assert_eq!(txn.status_get(), 419);
        assert_eq!(txn.status_set(1000), Err(Error::BadStatus(1000)));

        txn.error_body_set(Some(TsBuf::copy_from(b"a\0b")), Some(b"text/plain"));
        assert_eq!(fake.error_body(), Some((b"a\0b".to_vec(), Some("text/plain".into()))));
        txn.error_body_set(Some(TsBuf::copy_from(b"")), Some(b""));
        assert_eq!(fake.error_body(), Some((Vec::new(), Some(String::new()))));
        txn.error_body_set(None, None);
        assert_eq!(fake.error_body(), Some((Vec::new(), None)));
        txn.error_body_set(Some(TsBuf::copy_from(b"last")), None);
    }
    assert_eq!(fake_ats::live_blocks(), before, "ATS frees what it was given");
}

#[test]
fn addresses() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    assert_eq!(txn.client_addr(), None);
    let addr = "192.0.2.1:9".parse().expect("an address");
    fake.set_address(addr);
    assert_eq!([txn.client_addr(), txn.incoming_addr(), txn.server_addr()], [Some(addr); 3]);
}

#[test]
fn small_facts() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    assert_eq!(txn.id(), 42);
    assert!(!txn.is_internal() && !txn.aborted());
    fake.set_flags(true, true);
    assert!(txn.is_internal() && txn.aborted());

    assert_eq!(txn.cache_lookup_status(), None);
    for (raw, status) in
        [(0, CacheLookup::Miss), (1, CacheLookup::HitStale), (2, CacheLookup::HitFresh), (3, CacheLookup::Skipped)]
    {
        fake.set_cache_lookup(raw);
        assert_eq!(txn.cache_lookup_status(), Some(status));
    }

    assert_eq!(txn.milestone(Milestone::SERVER_CLOSE), None);
    fake.set_milestone(ats_sys::TS_MILESTONE_SERVER_CLOSE, 17);
    assert_eq!(txn.milestone(Milestone::SERVER_CLOSE), Some(17));

    assert_eq!(txn.plugin_tag(), None);
    assert!(!txn.client_protocol_contains(c"h2"));
    fake.set_names("fetch", "h2");
    assert_eq!(txn.plugin_tag(), Some(&b"fetch"[..]));
    assert!(txn.client_protocol_contains(c"h2"));

    txn.cache_transformed(false);
    assert_eq!(fake.cache_transformed(), (1, 0));
}

#[test]
fn the_effective_url_is_a_copy() {
    let before = fake_ats::live_blocks();
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    assert!(txn.effective_url().is_none());
    fake.put(Slot::ClientReq, Message::request("GET", "http://a.test/p", &[]));
    assert_eq!(txn.effective_url().as_deref(), Some(&b"http://a.test/p"[..]));
    assert_eq!(fake_ats::live_blocks(), before);
}

#[test]
fn overridable_records() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    let key = ConfigKey::find(b"proxy.config.http.request_buffer_enabled").expect("a key");
    assert_eq!(key, ConfigKey::HTTP_REQUEST_BUFFER_ENABLED);
    assert_eq!(ConfigKey::find(b"proxy.config.none"), None);
    assert_eq!(txn.config_int_get(key), Err(Error::Refused("TSHttpTxnConfigIntGet")));
    txn.config_int_set(key, 1).expect("set");
    assert_eq!(txn.config_int_get(key), Ok(1));
}

#[test]
fn arguments() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    let arg = TxnArg::reserve(c"wasm_remap", c"per transaction").expect("a slot");
    assert_eq!(txn.arg_get(arg), None);
    let mut value = 5_u8;
    let pointer = NonNull::from(&mut value).cast();
    txn.arg_set(arg, Some(pointer));
    assert_eq!(txn.arg_get(arg), Some(pointer));
    txn.arg_set(arg, None);
    assert_eq!(txn.arg_get(arg), None);
}

use fake_ats::FakeTxn;

use super::*;

fn txn(fake: &FakeTxn) -> Txn<'_> {
    fake_ats::on_event_thread();
    // SAFETY: a live fake of this thread.
    unsafe { Txn::from_raw(fake.raw()) }.expect("not null")
}

#[test]
fn a_request_body_is_ats_s_to_free() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    let before = fake_ats::live_blocks();
    assert_eq!(fake.request_body(), None);
    for body in [&b"first"[..], b"", b"\0last"] {
        txn.server_request_body_set(Some(TsBuf::copy_from(body)));
        assert_eq!(fake.request_body().as_deref(), Some(body));
        assert_eq!(fake_ats::live_blocks(), before + 1);
    }
    txn.server_request_body_set(None);
    assert_eq!(fake.request_body(), None);
    assert_eq!(fake_ats::live_blocks(), before);
}

#[test]
fn the_buffered_body_is_read_and_its_reader_freed() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    let body = b"a body of more than one block";
    fake.set_post_buffer(body);
    // ATS has five.
    for _ in 0..9 {
        // SAFETY: there is such a body.
        let buffered = unsafe { txn.post_buffer_reader() }.expect("a reader");
        let mut seen: Vec<u8> = Vec::new();
        buffered.reader().read(2, usize::MAX, &mut |bytes| seen.extend(bytes));
        assert_eq!(seen, body[2..]);
    }
    drop(fake);
    assert_eq!(fake_ats::live_buffers(), (0, 0));
}

#[test]
fn the_rest() {
    let fake = FakeTxn::new();
    let txn = txn(&fake);
    assert!(!fake.shut_down());
    assert_eq!(txn.shut_down(), Ok(()));
    assert!(fake.shut_down());
    assert_eq!(txn.server_fd(), None);
    fake.set_server_fd(7);
    assert_eq!(txn.server_fd(), Some(7));
}

#[test]
fn a_client_is_seen_to_leave() {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    let fake = FakeTxn::new();
    let txn = txn(&fake);
    assert_eq!(txn.client_left(), ClientLeft::No);
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().expect("two ends");
    fake.set_client_fd(ours.as_raw_fd());
    theirs.write_all(b"something to read").expect("room");
    assert_eq!(txn.client_left(), ClientLeft::No);
    theirs.shutdown(std::net::Shutdown::Write).expect("an open end");
    assert_eq!(txn.client_left(), ClientLeft::Connection);
    drop(theirs);
    assert_eq!(txn.client_left(), ClientLeft::Connection);
    fake.reset_client();
    assert_eq!(txn.client_left(), ClientLeft::Stream);
}

use fake_ats::{FakeTxn, Message, Slot};

use super::*;

fn interface(size: usize, version: u64) -> Result<()> {
    let api = TSRemapInterface { size: size as _, tsremap_version: version };
    // SAFETY: a whole structure.
    unsafe { check_interface(&raw const api) }
}

#[test]
fn interfaces() {
    let (size, version) = (size_of::<TSRemapInterface>(), u64::from(TSREMAP_VERSION));
    assert_eq!(interface(size, version), Ok(()));
    assert_eq!(interface(size + 8, version + 1), Ok(()), "a later minor version, with a longer structure");
    assert!(interface(size - 1, version).is_err());
    let error = interface(size, 2 << 16 | 5).expect_err("another major version");
    assert_eq!(error.to_string(), "ATS offers remap interface 2.5 of 16 bytes; this plugin was built for 3.0");
    assert!(interface(size, 4 << 16).is_err());
    // SAFETY: null is allowed.
    assert!(unsafe { check_interface(std::ptr::null()) }.is_err());
}

/// What is in a buffer of `size` bytes after `write`, up to the NUL; everything behind it must be untouched.
fn written(size: usize, write: impl FnOnce(&mut ErrBuf<'_>)) -> String {
    let mut buf = vec![b'#'; size + 4];
    // SAFETY: the buffer is longer than `size`.
    let mut errbuf = unsafe { ErrBuf::from_raw(buf.as_mut_ptr().cast(), c_int::try_from(size).expect("small")) };
    write(&mut errbuf);
    assert_eq!(&buf[size..], b"####", "written past the end");
    let nul = buf.iter().position(|byte| *byte == 0).expect("a NUL");
    assert!(nul < size);
    String::from_utf8(buf[..nul].to_vec()).expect("cut between characters")
}

#[test]
fn messages_are_cut_and_terminated() {
    assert_eq!(written(16, |e| e.set(format_args!("short {}", 1))), "short 1");
    assert_eq!(written(8, |e| e.set(format_args!("1234567"))), "1234567");
    assert_eq!(written(8, |e| e.set(format_args!("12345678"))), "1234567");
    assert_eq!(
        written(8, |e| e.set(format_args!("{}{}", "123456\u{e9}", "x"))),
        "123456",
        "no half character, no hole"
    );
    assert_eq!(written(1, |e| e.set(format_args!("x"))), "");
    assert_eq!(written(16, |_| ()), "", "empty when nothing is written");
    assert_eq!(
        written(16, |e| {
            e.set(format_args!("a long first one that is cut"));
            e.set(format_args!("second"));
        }),
        "second"
    );
}

#[test]
fn no_buffer_is_survived() {
    // SAFETY: null and sizes of zero and below are allowed.
    unsafe {
        ErrBuf::from_raw(std::ptr::null_mut(), 64).set(format_args!("x"));
        let mut byte: c_char = 7;
        ErrBuf::from_raw(&raw mut byte, 0).set(format_args!("x"));
        ErrBuf::from_raw(&raw mut byte, -1).set(format_args!("x"));
        assert_eq!(byte, 7);
    }
}

#[test]
fn instance_arguments() {
    let mut argv = [c"http://from/", c"http://to/", c"a.yaml", c"b.yaml"].map(|arg| arg.as_ptr().cast_mut());
    // SAFETY: four C strings.
    let args = unsafe { InstanceArgs::from_raw(4, argv.as_ptr()) };
    assert_eq!((args.from, args.to), (&b"http://from/"[..], &b"http://to/"[..]));
    assert_eq!(args.params, [b"a.yaml", b"b.yaml"]);
    argv[3] = std::ptr::null_mut();
    // SAFETY: as above; null entries, a null vector and a count of zero are allowed.
    unsafe {
        assert_eq!(InstanceArgs::from_raw(4, argv.as_ptr()).params, [b"a.yaml"]);
        assert_eq!(InstanceArgs::from_raw(3, std::ptr::null()).from, b"");
        assert_eq!(InstanceArgs::from_raw(0, argv.as_ptr()).to, b"");
    }
}

#[test]
fn a_remap_request() {
    let fake = FakeTxn::new();
    let (from, to) = (Message::request("", "http://from/", &[]), Message::request("", "http://to/", &[]));
    let request = Message::request("GET", "http://from/p", &[("A", "1")]);
    let mut rri = TSRemapRequestInfo {
        mapFromUrl: from.url(),
        mapToUrl: to.url(),
        requestUrl: request.url(),
        requestBufp: request.bufp(),
        requestHdrp: request.hdr(),
        redirect: 0,
    };
    fake.put(Slot::ClientReq, request);
    {
        // SAFETY: all of it lives to the end of the block, and this is the only view.
        let mut remap = unsafe { RemapRequest::from_raw(fake.raw(), &raw mut rri) }.expect("not null");
        assert_eq!(remap.map_from_url().expect("URL").host(), b"from");
        assert_eq!(remap.map_to_url().expect("URL").host(), b"to");
        remap.request().expect("request").set(b"A", b"2").expect("set");
        remap.request_url().expect("URL").set_host(b"to").expect("host");
        assert_eq!(remap.request().expect("request").url_ref().expect("URL").to_vec(), b"http://to/p");
        assert_eq!(remap.messages().client_req_get().expect("request").get_first(b"a"), Some(&b"2"[..]));
        assert_eq!(remap.txn().id(), 42);
        remap.set_redirect(true);
        // SAFETY: null is answered with `None`.
        assert!(unsafe { RemapRequest::from_raw(fake.raw(), std::ptr::null_mut()) }.is_none());
    }
    assert_eq!(rri.redirect, 1);
}

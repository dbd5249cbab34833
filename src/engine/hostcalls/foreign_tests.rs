//! Each foreign function as a guest meets it.

use proptest::prelude::*;
use prost::Message as _;

use super::super::calls::{REQUEST, Scene};
use super::super::signatures::{SignArguments, SignResult, VerifyArguments, VerifyResult};
use super::*;

const OK: i32 = Status::Ok as i32;
const BAD_ARGUMENT: i32 = Status::BadArgument as i32;
const MALFORMED: i32 = Status::SerializationFailure as i32;

impl Scene {
    /// Calls a foreign function as SDKs do.
    fn foreign(&mut self, name: &str, arguments: &[u8]) -> Result<Vec<u8>, i32> {
        let function = FOREIGN_FUNCTIONS.iter().find(|function| function.name == name).unwrap();
        self.free = 1024;
        let ([name, name_size], [data, size]) = (self.put(name.as_bytes()), self.put(arguments));
        self.guest.write(8, &[0xEE; 8]);
        match self.guest.call("proxy_call_foreign_function", &[name, name_size, data, size, 8, 12]) {
            OK => {
                let (at, len) = (self.guest.u32_at(8), self.guest.u32_at(12));
                Ok(self.guest.read(at, len))
            }
            status => {
                let declared = function.answers.iter().any(|answer| *answer as i32 == status);
                assert!(declared, "{} answered {status}, which is not in its row", function.name);
                Err(status)
            }
        }
    }
}

/// A foreign function without a test fails here.
#[test]
fn every_foreign_function_has_a_test() {
    let tests = include_str!("foreign_tests.rs");
    for function in FOREIGN_FUNCTIONS {
        assert!(tests.contains(&format!("\"{}\"", function.name)), "{} is not tested", function.name);
        assert!(!function.doc.is_empty() && !function.arguments.is_empty() && !function.result.is_empty());
        assert!(function.answers.iter().all(|status| {
            let call = crate::hostcalls::HOSTCALLS.iter().find(|call| call.name == "proxy_call_foreign_function");
            call.unwrap().answers.contains(status)
        }));
        assert_eq!(FOREIGN_FUNCTIONS.iter().filter(|other| other.name == function.name).count(), 1);
    }
}

#[test]
fn zlib_streams_are_made_and_read() {
    let mut scene = Scene::usual();
    let text = b"filter ".repeat(600);
    let stream = scene.foreign("compress", &text).unwrap();
    assert_eq!(stream[0], 0x78, "zlib's header, as Envoy's");
    assert!(stream.len() < 100);
    assert_eq!(scene.foreign("uncompress", &stream).unwrap(), text);
    let mut behind = stream.clone();
    behind.extend_from_slice(b"more");
    assert_eq!(scene.foreign("uncompress", &behind).unwrap(), text, "what follows is ignored, as by zlib");
    // The stream of zlib's own compress("hello").
    let known = b"\x78\x9c\xcb\x48\xcd\xc9\xc9\x07\x00\x06\x2c\x02\x15";
    assert_eq!(scene.foreign("uncompress", known).unwrap(), b"hello");
    assert_eq!(scene.foreign("compress", b"hello").unwrap(), known);
    let empty = scene.foreign("compress", b"").unwrap();
    assert_eq!(scene.foreign("uncompress", &empty).unwrap(), b"");
    for malformed in [&b""[..], b"hello", &known[..8], &stream[..stream.len() - 1], b"\x1f\x8b\x08"] {
        assert_eq!(scene.foreign("uncompress", malformed).unwrap_err(), MALFORMED, "{malformed:?}");
    }
}

#[test]
fn a_bomb_is_refused_and_costs_no_more_than_the_limit() {
    let mut scene = Scene::usual();
    let mut bomb = Vec::new();
    let state = scene.guest.store.data_mut();
    state.stopwatch.start(std::time::Duration::from_secs(10).into());
    compress(state, &vec![0; 65 << 20], &mut bomb).unwrap();
    let mut out = Vec::new();
    assert!(matches!(uncompress(state, &bomb, &mut out), Err(Error::TooLarge(_))));
    assert_eq!(out.len(), 64 << 20, "and not a byte more");
    assert_eq!(scene.foreign("uncompress", &bomb[..8 << 10]).unwrap_err(), MALFORMED, "cut before the limit");
}

#[test]
fn work_of_ours_is_held_to_the_callbacks_time() {
    let mut scene = Scene::usual();
    let state = scene.guest.store.data_mut();
    state.stopwatch.start(std::time::Duration::from_millis(15).into());
    let noise: Vec<u8> = (0..32u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect();
    let error = compress(state, &noise, &mut Vec::new()).unwrap_err();
    let Error::Wasm(error) = error else { panic!("{error}") };
    assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::Interrupt), "a deadline, as the guest's own");
}

const KEYS: [(&str, &str, &str); 3] = [
    ("rsa", include_str!("testdata/rsa.pem"), include_str!("testdata/rsa.pub.pem")),
    ("p256", include_str!("testdata/p256.pem"), include_str!("testdata/p256.pub.pem")),
    ("p384", include_str!("testdata/p384.pem"), include_str!("testdata/p384.pub.pem")),
];

fn verified(scene: &mut Scene, arguments: &VerifyArguments) -> VerifyResult {
    let result = scene.foreign("verify_signature", &arguments.encode_to_vec()).unwrap();
    VerifyResult::decode(result.as_slice()).unwrap()
}

fn to_verify(key: usize, hash: &str, signature: &[u8]) -> VerifyArguments {
    VerifyArguments {
        hash_function: hash.to_owned(),
        public_key_pem: KEYS[key].2.to_owned(),
        signature: signature.to_vec(),
        text: b"hello".to_vec(),
        public_key: Vec::new(),
    }
}

#[test]
fn signatures_of_openssl_are_verified() {
    use rustls_pki_types::pem::PemObject as _;
    let mut scene = Scene::usual();
    let cases: [(usize, &str, &[u8]); 4] = [
        (0, "sha256", include_bytes!("testdata/rsa.sha256.sig")),
        (0, "SHA512", include_bytes!("testdata/rsa.sha512.sig")),
        (1, "sha256", include_bytes!("testdata/p256.sha256.sig")),
        (2, "sha384", include_bytes!("testdata/p384.sha384.sig")),
    ];
    for (key, hash, signature) in cases {
        let good = to_verify(key, hash, signature);
        assert_eq!(verified(&mut scene, &good), VerifyResult { result: true, error: String::new() }, "{hash}");
        let der = rustls_pki_types::SubjectPublicKeyInfoDer::from_pem_slice(KEYS[key].2.as_bytes()).unwrap();
        let in_der =
            VerifyArguments { public_key: der.as_ref().to_vec(), public_key_pem: String::new(), ..good.clone() };
        assert!(verified(&mut scene, &in_der).result);
        for cut in 0..in_der.public_key.len() {
            let broken = VerifyArguments { public_key: in_der.public_key[..cut].to_vec(), ..in_der.clone() };
            assert_eq!(scene.foreign("verify_signature", &broken.encode_to_vec()).unwrap_err(), BAD_ARGUMENT);
        }
        let forged = verified(&mut scene, &VerifyArguments { text: b"jello".to_vec(), ..good.clone() });
        assert_eq!((forged.result, forged.error.as_str()), (false, "Failed to verify digest."));
        let other = verified(&mut scene, &VerifyArguments { hash_function: "md5".to_owned(), ..good });
        assert_eq!((other.result, other.error.as_str()), (false, "md5 is not supported."));
    }
}

#[test]
fn what_is_signed_verifies() {
    for (key, (name, private, _)) in KEYS.iter().enumerate() {
        let mut scene = Scene::usual();
        let sign = |scene: &mut Scene, hash: &str| {
            let arguments = SignArguments {
                hash_function: hash.to_owned(),
                text: b"hello".to_vec(),
                private_key_pem: (*private).to_owned(),
                private_key: Vec::new(),
            };
            let result = scene.foreign("sign", &arguments.encode_to_vec()).unwrap();
            SignResult::decode(result.as_slice()).unwrap()
        };
        let hash = if *name == "p384" { "sha384" } else { "Sha256" };
        let signed = sign(&mut scene, hash);
        assert!(signed.result && signed.error.is_empty(), "{name}: {}", signed.error);
        assert!(verified(&mut scene, &to_verify(key, hash, &signed.signature)).result, "{name}");
        if *name == "rsa" {
            let known = include_bytes!("testdata/rsa.sha256.sig");
            assert_eq!(signed.signature, known, "PKCS #1 v1.5 is deterministic: what OpenSSL says");
        }
        let refused = sign(&mut scene, "sha1");
        assert_eq!((refused.result, refused.error.as_str()), (false, "sha1 is not supported."), "{name}");
    }
}

#[test]
fn keys_are_one_and_readable() {
    let mut scene = Scene::usual();
    let pem = KEYS[1].1.to_owned();
    let none = SignArguments { hash_function: "sha256".to_owned(), text: b"hello".to_vec(), ..Default::default() };
    let both = SignArguments { private_key: b"x".to_vec(), private_key_pem: pem.clone(), ..none.clone() };
    let noise = SignArguments { private_key: b"x".to_vec(), ..none.clone() };
    let public = SignArguments { private_key_pem: KEYS[1].2.to_owned(), ..none.clone() };
    for wrong in [none, both, noise, public] {
        assert_eq!(scene.foreign("sign", &wrong.encode_to_vec()).unwrap_err(), BAD_ARGUMENT);
    }
    let private = VerifyArguments { public_key_pem: pem, ..to_verify(1, "sha256", b"") };
    assert_eq!(scene.foreign("verify_signature", &private.encode_to_vec()).unwrap_err(), BAD_ARGUMENT);
    for name in ["sign", "verify_signature", "declare_property"] {
        assert_eq!(scene.foreign(name, b"\xFF").unwrap_err(), BAD_ARGUMENT, "no protobuf");
        assert_eq!(scene.foreign(name, b"").unwrap_err(), BAD_ARGUMENT, "nothing in it");
    }
}

#[test]
fn declared_properties_are_set_and_read_by_their_terms() {
    let mut scene = Scene::in_root();
    // As Envoy's C++ filters write them: name "once", readonly, type String, span DownstreamRequest.
    let once = b"\x0a\x04once\x10\x01\x18\x01\x28\x01";
    assert_eq!(scene.foreign("declare_property", once).unwrap(), b"");
    assert_eq!(scene.foreign("declare_property", once).unwrap_err(), BAD_ARGUMENT, "once a name");
    assert_eq!(scene.foreign("declare_property", b"\x0a\x04free\x18\x02\x22\x01s").unwrap(), b"");
    assert_eq!(scene.foreign("declare_property", b"\x0a\x01\xff").unwrap_err(), BAD_ARGUMENT, "no text");
    let root = scene.guest.store.data_mut().root_mut().unwrap().own_mut().declared.clone();
    assert_eq!(root.len(), 2);
    let mut scene = Scene::usual();
    scene.guest.store.data_mut().root_mut().unwrap().own_mut().declared = root;
    let set = |scene: &mut Scene, path: &[u8], value: &[u8]| {
        let ([path, path_size], [value, value_size]) = (scene.put(path), scene.put(value));
        scene.guest.call("proxy_set_property", &[path, path_size, value, value_size])
    };
    assert_eq!(set(&mut scene, b"once", b"1"), OK);
    assert_eq!(set(&mut scene, b"once\0", b"2"), BAD_ARGUMENT, "it is read-only");
    assert_eq!(scene.property(b"once").unwrap(), b"1");
    for value in [b"1", b"2"] {
        assert_eq!(set(&mut scene, b"free", value), OK);
        assert_eq!(scene.property(b"free").unwrap(), value);
    }
    // Another plugin's filter of the stream has declared nothing, and may not either.
    scene.guest.store.data_mut().root_mut().unwrap().own_mut().declared.clear();
    assert_eq!(set(&mut scene, b"once", b"3"), BAD_ARGUMENT);
}

#[test]
fn a_plugin_declares_so_many_properties() {
    let mut scene = Scene::in_root();
    let state = scene.guest.store.data_mut();
    let mut declare = |name: String| {
        let arguments = DeclarePropertyArguments { name, ..Default::default() };
        declare_property(state, &arguments.encode_to_vec(), &mut Vec::new())
    };
    assert!(declare("n".repeat(1025)).is_err());
    for index in 0..1024 {
        declare(index.to_string()).unwrap();
    }
    assert!(declare("more".to_owned()).is_err());
}

#[test]
fn routes_are_always_clear() {
    assert_eq!(Scene::usual().foreign("clear_route_cache", b"").unwrap(), b"");
    assert_eq!(Scene::in_root().foreign("clear_route_cache", b"whatever").unwrap(), b"");
}

#[test]
fn all_values_of_a_field() {
    let mut scene = Scene::usual();
    let mut values = |map: i64, name: &str| {
        let arguments = [&u32::try_from(map).unwrap().to_le_bytes()[..], name.as_bytes()].concat();
        scene.foreign("header_values", &arguments)
    };
    let fields = |bytes: Vec<u8>| {
        let pairs = pairs::decode(&bytes, pairs::PairsLimits::default()).unwrap();
        pairs.into_iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect::<Vec<_>>()
    };
    let both = [(b"x-in".to_vec(), b"1".to_vec()), (b"x-in".to_vec(), b"2".to_vec())];
    assert_eq!(fields(values(REQUEST, "X-IN").unwrap()), both);
    assert_eq!(fields(values(REQUEST, ":path").unwrap()), [(b":path".to_vec(), b"/p?q=1".to_vec())]);
    assert_eq!(values(REQUEST, "absent").unwrap(), [0; 4], "a map without pairs");
    assert_eq!(values(1, "x-in").unwrap(), [0; 4], "no trailers");
    assert_eq!(values(8, "x-in").unwrap_err(), BAD_ARGUMENT);
    assert_eq!(scene.foreign("header_values", b"\0\0\0").unwrap_err(), BAD_ARGUMENT);
    assert_eq!(Scene::in_root().foreign("header_values", b"\0\0\0\0x-in").unwrap(), [0; 4]);
}

/// The arguments of `shared_data_set_with_ttl`.
fn to_set(ttl: u64, cas: u32, key: &[u8], value: &[u8]) -> Vec<u8> {
    let len = u32::try_from(key.len()).unwrap().to_le_bytes();
    [&ttl.to_le_bytes()[..], &cas.to_le_bytes(), &len, key, value].concat()
}

/// Those of `shared_data_increment`.
fn to_add(delta: i64, ttl: u64, key: &[u8]) -> Vec<u8> {
    [&delta.to_le_bytes()[..], &ttl.to_le_bytes(), key].concat()
}

impl Scene {
    fn sum(&mut self, delta: i64, ttl: u64, key: &[u8]) -> i64 {
        let sum = self.foreign("shared_data_increment", &to_add(delta, ttl, key)).unwrap();
        i64::from_le_bytes(sum.try_into().unwrap())
    }

    /// A key of shared data with its version, as `proxy_get_shared_data` gives it.
    fn shared(&mut self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        let [at, size] = self.put(key);
        if self.guest.call("proxy_get_shared_data", &[at, size, 8, 12, 16]) != OK {
            return None;
        }
        let (at, len, version) = (self.guest.u32_at(8), self.guest.u32_at(12), self.guest.u32_at(16));
        Some((self.guest.read(at, len), version))
    }

    fn keys(&mut self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let list = self.foreign("shared_data_keys", prefix).unwrap();
        let (mut rest, mut keys) = (&list[..], Vec::new());
        while let Some((len, behind)) = rest.split_first_chunk() {
            let (key, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
            keys.push(key.to_vec());
            rest = behind;
        }
        assert!(rest.is_empty());
        keys
    }
}

#[test]
fn shared_data_is_set_for_a_time() {
    let mut scene = Scene::usual();
    let set = |scene: &mut Scene, ttl, cas, value: &[u8]| {
        scene.foreign("shared_data_set_with_ttl", &to_set(ttl, cas, b"key", value)).unwrap()
    };
    assert_eq!(set(&mut scene, 1, 0, b"short"), [1]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(scene.shared(b"key"), None);
    assert_eq!(set(&mut scene, 3_600_000, 7, b"long"), [1], "what is not there has any version");
    let (value, version) = scene.shared(b"key").unwrap();
    assert_eq!(value, b"long");
    assert_eq!(set(&mut scene, 1, version + 1, b"late"), [0]);
    assert_eq!(set(&mut scene, 1, version, b"short"), [1]);
    assert_eq!(set(&mut scene, 0, 0, b""), [1]);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(scene.shared(b"key").unwrap().0, b"", "for good, and empty is a value");
    let whole = to_set(0, 0, b"key", b"");
    for cut in 0..whole.len() {
        assert_eq!(scene.foreign("shared_data_set_with_ttl", &whole[..cut]).unwrap_err(), BAD_ARGUMENT, "{cut}");
    }
}

#[test]
fn shared_data_is_incremented_in_one_step() {
    let mut scene = Scene::usual();
    assert_eq!(scene.sum(-5, 0, b"n"), -5);
    assert_eq!(scene.sum(7, 1, b"n"), 2, "the time is for keys that are new");
    assert_eq!(scene.sum(1, 1, b"window"), 1);
    std::thread::sleep(std::time::Duration::from_millis(5));
    assert_eq!(scene.sum(1, 0, b"window"), 1, "the window is over");
    assert_eq!(scene.shared(b"n").unwrap().0, 2i64.to_le_bytes());
    assert_eq!(scene.sum(i64::MAX, 0, b"n"), i64::MIN + 1);
    assert_eq!(scene.sum(0, 0, b""), 0, "an empty key is a key");
    scene.foreign("shared_data_set_with_ttl", &to_set(0, 0, b"text", b"1234567")).unwrap();
    assert_eq!(scene.foreign("shared_data_increment", &to_add(1, 0, b"text")).unwrap_err(), BAD_ARGUMENT);
    for cut in 0..16 {
        assert_eq!(scene.foreign("shared_data_increment", &to_add(1, 0, b"")[..cut]).unwrap_err(), BAD_ARGUMENT);
    }
}

#[test]
fn keys_of_shared_data_are_listed_and_deleted() {
    let mut scene = Scene::usual();
    for key in [&b"a/2"[..], b"b", b"a/1", b"a/\xFF", b"a/"] {
        scene.sum(1, 0, key);
    }
    assert_eq!(scene.keys(b"a/"), [&b"a/"[..], b"a/1", b"a/2", b"a/\xFF"]);
    assert_eq!(scene.keys(b"").len(), 5);
    assert!(scene.keys(b"c").is_empty());
    assert_eq!(scene.foreign("shared_data_delete", b"a/1").unwrap(), b"");
    assert_eq!(scene.foreign("shared_data_delete", b"a/1").unwrap_err(), Status::NotFound as i32);
    assert_eq!(scene.shared(b"a/1"), None);
    for n in 0..10_100u32 {
        let state = scene.guest.store.data();
        state.shared.data.set(&state.settings.vm_id, format!("many/{n:05}").as_bytes(), b"", 0).unwrap();
    }
    // Past the guest of this test, whose memory is too small for it.
    let mut list = Vec::new();
    let state = scene.guest.store.data_mut();
    // As a callback that begins now: the list is held to its time.
    state.stopwatch.start(std::time::Duration::from_secs(10).into());
    foreign_data::keys(state, b"many/", &mut list).unwrap();
    assert_eq!(list.len(), 10_000 * (4 + 10));
    assert!(list.starts_with(b"\x0a\0\0\0many/00000\x0a\0\0\0many/00001") && list.ends_with(b"many/09999"));
    assert!(state.shared.data.keys_with_prefix("another", b"", 1).is_empty());
}

#[test]
fn who_wants_no_result_gets_none() {
    let mut scene = Scene::usual();
    let ([name, name_size], [data, size]) = (scene.put(b"compress"), scene.put(b"hello"));
    let mut call = |data_to, size_to| {
        scene.guest.write(12, &[0xEE; 4]);
        let args = [name, name_size, data, size, data_to, size_to];
        assert_eq!(scene.guest.call("proxy_call_foreign_function", &args), OK);
        scene.guest.u32_at(12)
    };
    assert_eq!(call(0, 12), 13, "its size alone");
    assert_eq!(call(0, 0), 0xEEEE_EEEE);
}

proptest! {
    #[test]
    fn no_arguments_make_a_function_answer_what_its_row_does_not_say(
        index in 0..FOREIGN_FUNCTIONS.len(), arguments in proptest::collection::vec(any::<u8>(), 0..200)
    ) {
        thread_local!(static SCENE: std::cell::RefCell<Option<Scene>> = const { std::cell::RefCell::new(None) });
        SCENE.with_borrow_mut(|scene| {
            let scene = scene.get_or_insert_with(Scene::usual);
            let _ = scene.foreign(FOREIGN_FUNCTIONS[index].name, &arguments);
        });
    }
}

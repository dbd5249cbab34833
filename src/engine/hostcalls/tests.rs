//! Each hostcall as a guest meets it: what it answers, what it changes, and what it makes of bad arguments.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use callout::{Callouts, ClusterSettings, Endpoint};

use crate::abi::{AbiVersion, Callback, Status, pairs};
use crate::cell::StreamCell;
use crate::settings::PluginSpec;
use crate::state::{Context, RootContext};
use crate::testing::{Fields, SharedTransaction, Transaction};
use crate::upstreams::Upstreams;
use crate::wasi::harness::Puppet;

pub(super) const OK: i32 = Status::Ok as i32;
pub(super) const NOT_FOUND: i32 = Status::NotFound as i32;
pub(super) const BAD_ARGUMENT: i32 = Status::BadArgument as i32;
pub(super) const SERIALIZATION_FAILURE: i32 = Status::SerializationFailure as i32;

pub(super) const REQUEST: i64 = 0;
const REQUEST_TRAILERS: i64 = 1;
const RESPONSE: i64 = 2;
const CALL_RESPONSE: i64 = 6;
const NO_MAP: i64 = 8;
/// An address outside the guest's memory.
pub(super) const OUTSIDE: i64 = 0xFFFF_FFF0;

const ROOT: u32 = 1;
const STREAM: u32 = 2;

/// A guest in the middle of `proxy_on_request_headers` of stream context 2, whose plugin context is 1.
pub(super) struct Scene {
    pub(super) guest: Puppet,
    transaction: SharedTransaction,
    /// The next free byte of what tests write into the guest.
    pub(super) free: usize,
}

impl Scene {
    fn new(transaction: Transaction) -> Self {
        let mut guest = Puppet::new();
        let transaction = SharedTransaction::new(transaction);
        let plugin = Arc::new(PluginSpec {
            name: "shop".into(),
            root_id: "root".into(),
            configuration: Arc::from(&b"configuration"[..]),
            upstreams: Arc::new(upstreams()),
            log: crate::settings::SiteOf(crate::journal::Site::plain()),
            breaker: crate::breaker::SharedBreaker(Arc::new(crate::breaker::Breaker::new(
                crate::config::BreakerSettings::default(),
                Arc::default(),
            ))),
        });
        let root = RootContext::new(plugin);
        let cell = StreamCell::new(crate::body::Bodies::default(), 0);
        let state = guest.store.data_mut();
        state.contexts.insert(ROOT, Context::Root(root));
        state.contexts.insert(STREAM, Context::Stream { root: ROOT, filter: 0, cell });
        let mut host = transaction.host();
        host.begin(Callback::RequestHeaders);
        state.host = Some(host);
        state.host_of = STREAM;
        state.callback = Callback::RequestHeaders;
        state.true_context = STREAM;
        state.effective_context = STREAM;
        Scene { guest, transaction, free: 1024 }
    }

    /// A request with a field that is there twice, and a response.
    pub(super) fn usual() -> Self {
        let mut transaction = Transaction::get("a.test", "/p?q=1").header("X-In", "1").header("x-in", "2");
        transaction.status = b"200".to_vec();
        transaction.response = Some(vec![(b"Server".to_vec(), b"o".to_vec())]);
        Scene::new(transaction)
    }

    /// As if the callback were one of the plugin context's.
    pub(super) fn in_root() -> Self {
        let mut scene = Scene::usual();
        let state = scene.guest.store.data_mut();
        state.return_host();
        state.true_context = ROOT;
        state.effective_context = ROOT;
        scene
    }

    /// Writes `bytes` into the guest: address and size, as arguments are.
    pub(super) fn put(&mut self, bytes: &[u8]) -> [i64; 2] {
        let at = self.free;
        self.guest.write(at, bytes);
        self.free += bytes.len() + 1;
        [at as i64, bytes.len() as i64]
    }

    /// Calls a function that returns bytes through a pointer at 0 and a size at 4.
    pub(super) fn returned(&mut self, name: &str, args: &[i64]) -> Result<Vec<u8>, i32> {
        self.guest.write(0, &[0xEE; 8]);
        let args: Vec<i64> = args.iter().copied().chain([0, 4]).collect();
        match self.guest.call(name, &args) {
            OK => {
                let (at, len) = (self.guest.u32_at(0), self.guest.u32_at(4));
                // Of an empty buffer only the size is written.
                assert!(len > 0 || at == 0 || name == "proxy_get_buffer_bytes", "nothing is a null pointer");
                Ok(if len > 0 { self.guest.read(at, len) } else { Vec::new() })
            }
            status => Err(status),
        }
    }

    pub(super) fn value(&mut self, map: i64, name: &str) -> Result<Vec<u8>, i32> {
        let [key, key_size] = self.put(name.as_bytes());
        self.returned("proxy_get_header_map_value", &[map, key, key_size])
    }

    /// `proxy_add_…` or `proxy_replace_header_map_value`.
    pub(super) fn write(&mut self, call: &str, map: i64, name: &[u8], value: &[u8]) -> i32 {
        let ([key, key_size], [value, value_size]) = (self.put(name), self.put(value));
        self.guest.call(call, &[map, key, key_size, value, value_size])
    }

    pub(super) fn property(&mut self, path: &[u8]) -> Result<Vec<u8>, i32> {
        let [path, size] = self.put(path);
        self.returned("proxy_get_property", &[path, size])
    }

    fn request(&self) -> Fields {
        self.transaction.0.lock().request.clone()
    }
}

/// One cluster, and one address that may be called.
fn upstreams() -> Upstreams {
    let callouts = Callouts::new(callout::Options::default());
    let settings = ClusterSettings {
        name: "cluster".to_owned(),
        endpoints: vec![Endpoint { host: "127.0.0.1".to_owned(), port: 9 }],
        ..ClusterSettings::default()
    };
    let clusters = BTreeMap::from([("cluster".to_owned(), settings)]);
    Upstreams::new(callouts, &clusters, &["a.example:80".parse().unwrap()]).unwrap()
}

pub(super) fn encoded(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    pairs::encode(fields.iter().copied(), &mut out).unwrap();
    out
}

#[test]
fn one_value_of_a_map() {
    let mut scene = Scene::usual();
    assert_eq!(scene.value(REQUEST, "x-IN").unwrap(), b"1", "the first, whatever the case");
    assert_eq!(scene.value(REQUEST, ":path").unwrap(), b"/p?q=1");
    assert_eq!(scene.value(REQUEST, ":authority").unwrap(), b"a.test");
    assert_eq!(scene.value(RESPONSE, ":status").unwrap(), b"200");
    assert_eq!(scene.value(REQUEST, ":status").unwrap_err(), NOT_FOUND);
    assert_eq!(scene.value(REQUEST, "absent").unwrap_err(), NOT_FOUND);
    assert_eq!(scene.value(REQUEST, "").unwrap_err(), NOT_FOUND);
    assert_eq!(scene.value(REQUEST_TRAILERS, "x").unwrap_err(), NOT_FOUND);
    assert_eq!(scene.value(CALL_RESPONSE, "x").unwrap_err(), NOT_FOUND);
    assert_eq!(scene.value(NO_MAP, "x").unwrap_err(), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_get_header_map_value", &[REQUEST, OUTSIDE, 32, 0, 4]), BAD_ARGUMENT);
    let [key, size] = scene.put(b"x-in");
    assert_eq!(scene.guest.call("proxy_get_header_map_value", &[REQUEST, key, size, OUTSIDE, 4]), BAD_ARGUMENT);
    // A module of 0.1.0 knows no absence.
    scene.guest.store.data_mut().abi = AbiVersion::V0_1_0;
    assert_eq!(scene.value(REQUEST, "absent").unwrap(), b"");
    let mut root = Scene::in_root();
    assert_eq!(root.value(REQUEST, "x-in").unwrap_err(), NOT_FOUND, "no stream, no map");
}

#[test]
fn all_pairs_of_a_map() {
    let mut scene = Scene::usual();
    let bytes = scene.returned("proxy_get_header_map_pairs", &[REQUEST]).unwrap();
    let expected = encoded(&[
        (b":method", b"GET"),
        (b":path", b"/p?q=1"),
        (b":authority", b"a.test"),
        (b":scheme", b"http"),
        (b"x-in", b"1"),
        (b"x-in", b"2"),
    ]);
    assert_eq!(bytes, expected, "pseudo-headers first, then the wire's order, names in lower case");
    assert_eq!(scene.guest.call("proxy_get_header_map_size", &[REQUEST, 16]), OK);
    assert_eq!(scene.guest.u32_at(16) as usize, expected.len(), "in bytes, as elsewhere");
    assert_eq!(scene.returned("proxy_get_header_map_pairs", &[REQUEST_TRAILERS]).unwrap(), b"", "SDKs bear no refusal");
    assert_eq!(scene.guest.call("proxy_get_header_map_size", &[REQUEST_TRAILERS, 16]), OK);
    assert_eq!(scene.guest.u32_at(16), 0, "nor here");
    assert_eq!(scene.guest.call("proxy_get_header_map_size", &[REQUEST, OUTSIDE]), BAD_ARGUMENT);
    assert_eq!(scene.returned("proxy_get_header_map_pairs", &[NO_MAP]).unwrap_err(), BAD_ARGUMENT);
}

#[test]
fn adding_replacing_and_removing() {
    let mut scene = Scene::usual();
    assert_eq!(scene.write("proxy_add_header_map_value", REQUEST, b"x-in", b"3"), OK);
    assert_eq!(scene.request().len(), 3);
    assert_eq!(scene.write("proxy_replace_header_map_value", REQUEST, b"X-In", b"only"), OK);
    assert_eq!(scene.request(), [(b"X-In".to_vec(), b"only".to_vec())]);
    assert_eq!(
        scene.write("proxy_replace_header_map_value", REQUEST, b"new", b""),
        OK,
        "made if absent; empty is a value"
    );
    let [key, size] = scene.put(b"x-in");
    assert_eq!(scene.guest.call("proxy_remove_header_map_value", &[REQUEST, key, size]), OK);
    assert_eq!(scene.guest.call("proxy_remove_header_map_value", &[REQUEST, key, size]), OK, "also if absent");
    assert_eq!(scene.request(), [(b"new".to_vec(), b"".to_vec())]);
    assert_eq!(scene.write("proxy_add_header_map_value", REQUEST, b":path", b"/other"), OK);
    assert_eq!(scene.transaction.0.lock().request_line[1], b"/other");
    let [key, size] = scene.put(b":path");
    assert_eq!(scene.guest.call("proxy_remove_header_map_value", &[REQUEST, key, size]), BAD_ARGUMENT);
}

#[test]
fn nothing_that_splits_a_message_gets_into_a_map() {
    let mut scene = Scene::usual();
    let before = scene.request();
    for call in ["proxy_add_header_map_value", "proxy_replace_header_map_value"] {
        for (name, value) in [
            (&b"x\r\ny"[..], &b"v"[..]),
            (b"", b"v"),
            (b"a b", b"v"),
            (b"x", b"v\r\nevil: 1"),
            (b"x", b"\0"),
            (b":path", b"/\r\nx: y"),
        ] {
            assert_eq!(scene.write(call, REQUEST, name, value), BAD_ARGUMENT, "{call} {name:?} {value:?}");
        }
        assert_eq!(scene.guest.call(call, &[REQUEST, OUTSIDE, 32, 0, 0]), BAD_ARGUMENT);
        assert_eq!(scene.guest.call(call, &[REQUEST, 0, 1, OUTSIDE, 32]), BAD_ARGUMENT);
        assert_eq!(scene.write(call, NO_MAP, b"x", b"v"), BAD_ARGUMENT);
        assert_eq!(scene.write(call, CALL_RESPONSE, b"x", b"v"), BAD_ARGUMENT);
        assert_eq!(scene.write(call, REQUEST_TRAILERS, b"x", b"v"), OK, "swallowed: ATS has none to write to");
    }
    assert_eq!(scene.request(), before);
}

#[test]
fn a_whole_map_is_replaced_or_left_alone() {
    let mut scene = Scene::usual();
    let map = encoded(&[(b":path", b"/new"), (b"a", b"1"), (b"a", b"2")]);
    let [data, size] = scene.put(&map);
    assert_eq!(scene.guest.call("proxy_set_header_map_pairs", &[REQUEST, data, size]), OK);
    assert_eq!(scene.request(), [(b"a".to_vec(), b"1".to_vec()), (b"a".to_vec(), b"2".to_vec())]);
    assert_eq!(scene.transaction.0.lock().request_line[1], b"/new");
    let before = scene.request();
    let [data, size] = scene.put(&map[..map.len() - 1]);
    assert_eq!(scene.guest.call("proxy_set_header_map_pairs", &[REQUEST, data, size]), SERIALIZATION_FAILURE);
    let [data, size] = scene.put(&encoded(&[(b"b", b"1"), (b"c", b"\r\n")]));
    assert_eq!(scene.guest.call("proxy_set_header_map_pairs", &[REQUEST, data, size]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_set_header_map_pairs", &[REQUEST, OUTSIDE, 32]), BAD_ARGUMENT);
    assert_eq!(scene.request(), before, "a refused map changes nothing");
    assert_eq!(scene.guest.call("proxy_set_header_map_pairs", &[REQUEST, 0, 0]), OK);
    assert_eq!(scene.request(), []);
}

#[test]
fn configurations_are_buffers() {
    let mut scene = Scene::usual();
    let read = |scene: &mut Scene, start: i64, max: i64| scene.returned("proxy_get_buffer_bytes", &[7, start, max]);
    assert_eq!(read(&mut scene, 0, 0xFFFF_FFFF).unwrap(), b"configuration");
    assert_eq!(read(&mut scene, 3, 4).unwrap(), b"figu");
    assert_eq!(read(&mut scene, 13, 4).unwrap(), b"", "behind the end is nothing");
    assert_eq!(read(&mut scene, 0xFFFF_FFFF, 0xFFFF_FFFF).unwrap(), b"");
    assert_eq!(scene.returned("proxy_get_buffer_bytes", &[6, 0, 9]).unwrap(), b"", "no vm_configuration");
    assert_eq!(scene.returned("proxy_get_buffer_bytes", &[0, 0, 9]).unwrap_err(), NOT_FOUND, "no body now");
    assert_eq!(scene.returned("proxy_get_buffer_bytes", &[9, 0, 9]).unwrap_err(), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_get_buffer_status", &[7, 16, 20]), OK);
    assert_eq!((scene.guest.u32_at(16), scene.guest.u32_at(20)), (13, 0));
    assert_eq!(scene.guest.call("proxy_get_buffer_status", &[1, 16, 20]), NOT_FOUND);
    assert_eq!(scene.guest.call("proxy_get_buffer_status", &[7, OUTSIDE, 20]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_set_buffer_bytes", &[7, 0, 0, 0, 1]), BAD_ARGUMENT, "read-only");
    assert_eq!(scene.guest.call("proxy_set_buffer_bytes", &[0, 0, 0, 0, 1]), NOT_FOUND);
    assert_eq!(scene.guest.call("proxy_set_buffer_bytes", &[0, 0, 0, OUTSIDE, 32]), BAD_ARGUMENT);
    // 0.1.0 has one call for both configurations.
    assert_eq!(scene.returned("proxy_get_configuration", &[]).unwrap(), b"configuration");
    scene.guest.store.data_mut().callback = Callback::VmStart;
    assert_eq!(scene.returned("proxy_get_configuration", &[]).unwrap(), b"");
}

#[test]
fn properties_of_plugin_host_and_stream() {
    let mut transaction = Transaction::get("a.test", "/");
    transaction.properties.push((b"source\0port".to_vec(), 80u64.to_le_bytes().to_vec()));
    let mut scene = Scene::new(transaction);
    assert_eq!(scene.property(b"plugin_name").unwrap(), b"shop");
    assert_eq!(scene.property(b"plugin_root_id\0").unwrap(), b"root", "with the NUL that some SDKs leave");
    assert_eq!(scene.property(b"plugin_vm_id").unwrap(), b"vm");
    assert_eq!(scene.property(b"source\0port").unwrap(), 80u64.to_le_bytes());
    assert_eq!(scene.property(b"no\0such").unwrap_err(), NOT_FOUND);
    let set = |scene: &mut Scene, path: &[u8], value: &[u8]| {
        let ([path, path_size], [value, value_size]) = (scene.put(path), scene.put(value));
        scene.guest.call("proxy_set_property", &[path, path_size, value, value_size])
    };
    assert_eq!(set(&mut scene, b"my\0key", b"one"), OK);
    assert_eq!(set(&mut scene, b"my\0key", b"two"), OK);
    assert_eq!(scene.property(b"my\0key").unwrap(), b"two", "kept with the stream");
    assert_eq!(set(&mut scene, b"", b"x"), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_set_property", &[OUTSIDE, 32, 0, 0]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_get_property", &[OUTSIDE, 32, 0, 4]), BAD_ARGUMENT);
    let mut root = Scene::in_root();
    assert_eq!(root.property(b"plugin_name").unwrap(), b"shop");
    assert_eq!(root.property(b"request\0path").unwrap_err(), NOT_FOUND);
    assert_eq!(set(&mut root, b"my\0key", b"x"), NOT_FOUND, "no stream to keep it with");
}

#[test]
fn a_stream_keeps_a_mebibyte_of_properties_at_most() {
    let mut scene = Scene::usual();
    let ([path, path_size], value) = (scene.put(b"key"), 4096);
    scene.guest.write(8000, &[7; 60]);
    assert_eq!(scene.guest.call("proxy_set_property", &[path, path_size, 1024, 20 << 10]), OK);
    let cell = Arc::clone(scene.guest.store.data().cell().unwrap());
    assert!(cell.set_property(b"big", &vec![0; 1 << 19], false).is_ok());
    assert!(cell.set_property(b"bigger", &vec![0; 1 << 19], false).is_err());
    assert_eq!(scene.guest.call("proxy_set_property", &[path, path_size, 1024, value]), OK, "what fits still does");
}

#[test]
fn foreign_functions() {
    let mut scene = Scene::usual();
    let call = |scene: &mut Scene, name: &[u8]| {
        let [name, size] = scene.put(name);
        scene.guest.call("proxy_call_foreign_function", &[name, size, 0, 0, 0, 4])
    };
    assert_eq!(call(&mut scene, b"clear_route_cache"), OK);
    assert_eq!(call(&mut scene, b"unheard_of"), NOT_FOUND);
    assert_eq!(scene.guest.call("proxy_call_foreign_function", &[OUTSIDE, 32, 0, 0, 0, 4]), BAD_ARGUMENT);
    assert_eq!(call(&mut Scene::in_root(), b"clear_route_cache"), OK, "as in Envoy");
}

#[test]
fn a_local_response_is_recorded_whole_and_the_first_one_counts() {
    let mut scene = Scene::usual();
    let reply = |scene: &mut Scene, status: i64, fields: &[(&[u8], &[u8])]| {
        let ([details, details_size], [body, body_size]) = (scene.put(b"Teapot"), scene.put(b"\0body"));
        let [headers, headers_size] = scene.put(&encoded(fields));
        let args = [status, details, details_size, body, body_size, headers, headers_size, 0xFFFF_FFFF];
        scene.guest.call("proxy_send_local_response", &args)
    };
    for status in [0, 99, 199, 1000, 0xFFFF_FFFF] {
        assert_eq!(reply(&mut scene, status, &[]), BAD_ARGUMENT, "{status}");
    }
    assert_eq!(reply(&mut scene, 200, &[(b"a", b"\r\n")]), BAD_ARGUMENT);
    assert!(scene.guest.store.data().effects.local_response.is_none());
    assert_eq!(reply(&mut scene, 418, &[(b":status", b"500"), (b"a", b"1"), (b"a", b"2")]), OK);
    assert_eq!(reply(&mut scene, 500, &[]), OK);
    let response = scene.guest.store.data_mut().effects.local_response.take().unwrap();
    assert_eq!((response.status, response.grpc_status), (418, None));
    assert_eq!((response.details.as_slice(), response.body.as_slice()), (&b"Teapot"[..], &b"\0body"[..]));
    assert_eq!(response.headers, [(b"a".to_vec(), b"1".to_vec()), (b"a".to_vec(), b"2".to_vec())]);
    assert_eq!(scene.guest.call("proxy_send_local_response", &[200, 0, 0, OUTSIDE, 32, 0, 0, 0]), BAD_ARGUMENT);
    let [headers, size] = scene.put(b"\x01\0\0\0");
    assert_eq!(
        scene.guest.call("proxy_send_local_response", &[200, 0, 0, 0, 0, headers, size, 0]),
        SERIALIZATION_FAILURE
    );
    assert_eq!(reply(&mut Scene::in_root(), 200, &[]), NOT_FOUND);
}

#[test]
fn resuming_and_closing_are_effects() {
    let mut scene = Scene::usual();
    assert_eq!(scene.guest.call("proxy_continue_stream", &[0]), OK);
    assert_eq!(scene.guest.store.data().effects.continued, [1, 0]);
    assert_eq!(scene.guest.call("proxy_continue_stream", &[1]), OK);
    assert_eq!(scene.guest.store.data().effects.continued, [1, 1]);
    assert_eq!(scene.guest.call("proxy_close_stream", &[1]), OK);
    assert!(scene.guest.store.data().effects.close);
    for stream in [2, 3, 4] {
        assert_eq!(scene.guest.call("proxy_continue_stream", &[stream]), BAD_ARGUMENT);
        assert_eq!(scene.guest.call("proxy_close_stream", &[stream]), BAD_ARGUMENT);
    }
    let mut scene = Scene::usual();
    assert_eq!(scene.guest.call("proxy_continue_request", &[]), OK);
    assert_eq!(scene.guest.call("proxy_continue_response", &[]), OK);
    let effects = &scene.guest.store.data().effects;
    assert!(effects.continued == [1, 1] && !effects.close);
    assert_eq!(scene.guest.call("proxy_clear_route_cache", &[]), OK);
    let mut root = Scene::in_root();
    assert_eq!(root.guest.call("proxy_continue_stream", &[0]), NOT_FOUND);
    assert_eq!(root.guest.call("proxy_close_stream", &[0]), NOT_FOUND);
}

#[test]
fn the_effective_context_decides_whose_stream_it_is() {
    let mut scene = Scene::in_root();
    let other = SharedTransaction::new(Transaction::get("b.test", "/b"));
    let cell = StreamCell::new(crate::body::Bodies::default(), 0);
    cell.put_host(Some(other.host()), true);
    scene.guest.store.data_mut().contexts.insert(7, Context::Stream { root: ROOT, filter: 0, cell: Arc::clone(&cell) });
    assert_eq!(scene.guest.call("proxy_set_effective_context", &[99]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_set_effective_context", &[7]), OK);
    assert_eq!(scene.value(REQUEST, ":path").unwrap(), b"/b");
    assert_eq!(scene.guest.call("proxy_continue_stream", &[0]), OK);
    assert!(!scene.guest.store.data().effects.any, "not the entered context's own");
    assert_eq!(scene.guest.store.data().woken.len(), 1, "whoever waits for it is woken");
    assert_eq!(scene.guest.call("proxy_set_effective_context", &[i64::from(ROOT)]), OK);
    scene.guest.store.data_mut().return_host();
    assert!(cell.take_host().is_some(), "the host went home");
    assert_eq!(cell.take_effects().continued, [1, 0]);
}

#[test]
fn plugin_contexts_end_and_tick() {
    let mut scene = Scene::in_root();
    assert_eq!(scene.guest.call("proxy_done", &[]), NOT_FOUND, "nobody waits for it");
    scene.guest.store.data_mut().root_mut().unwrap().own_mut().pending_done = true;
    assert_eq!(scene.guest.call("proxy_done", &[]), OK);
    assert_eq!(scene.guest.call("proxy_done", &[]), NOT_FOUND, "once");
    assert_eq!(scene.guest.store.data().roots_done, [ROOT]);
    assert_eq!(scene.guest.call("proxy_set_tick_period_milliseconds", &[20]), OK);
    let state = scene.guest.store.data();
    assert!(state.timers_changed);
    let own = state.root().and_then(RootContext::own).expect("it ticks");
    assert_eq!(own.tick_period, Duration::from_millis(20));
    assert!(own.tick_due.is_some());
    assert_eq!(scene.guest.call("proxy_set_tick_period_milliseconds", &[0]), OK);
    assert!(scene.guest.store.data().root().and_then(RootContext::own).is_some_and(|own| own.tick_due.is_none()));
    let mut stream = Scene::usual();
    assert_eq!(stream.guest.call("proxy_done", &[]), NOT_FOUND, "streams do not wait");
    assert_eq!(stream.guest.call("proxy_set_tick_period_milliseconds", &[20]), OK, "its plugin context ticks");
}

#[test]
fn log_and_clock() {
    let mut scene = Scene::usual();
    let [data, size] = scene.put(b"hello");
    for level in 0..6 {
        assert_eq!(scene.guest.call("proxy_log", &[level, data, size]), OK);
    }
    assert_eq!(scene.guest.call("proxy_log", &[6, data, size]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_log", &[2, OUTSIDE, 32]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_get_log_level", &[16]), OK);
    assert!(scene.guest.u32_at(16) <= 5);
    assert_eq!(scene.guest.call("proxy_get_log_level", &[OUTSIDE]), BAD_ARGUMENT);
    assert_eq!(scene.guest.call("proxy_get_current_time_nanoseconds", &[24]), OK);
    assert!(scene.guest.u64_at(24) > 1_700_000_000_000_000_000, "after 2023");
    assert_eq!(scene.guest.call("proxy_get_current_time_nanoseconds", &[OUTSIDE]), BAD_ARGUMENT);
}

#[test]
fn the_allocator_may_not_call_back() {
    let mut scene = Scene::usual();
    let alloc = scene.guest.store.data_mut().alloc.take();
    for call in super::HOSTCALLS.iter().filter(|call| !call.anywhere) {
        let args = vec![0; call.params.len()];
        let error = scene.guest.try_call(call.name, &args).unwrap_err();
        assert!(format!("{error:#}").contains("may not be called from here"), "{}: {error:#}", call.name);
    }
    let [data, size] = scene.put(b"still");
    assert_eq!(scene.guest.call("proxy_log", &[2, data, size]), OK);
    scene.guest.store.data_mut().alloc = alloc;
}

/// Whatever a call is called with, from wherever, it answers with a status of its row: [`Puppet::call`] looks.
#[test]
fn no_call_answers_what_its_row_does_not_say() {
    const ARGUMENTS: [i64; 7] = [0, 1, 2, 9, 1024, 0xFFFF_FFFF, OUTSIDE];
    for make in [Scene::usual, Scene::in_root] {
        for call in super::HOSTCALLS {
            let mut scene = make();
            for seed in 0..64usize {
                scene.guest.write(1024, b"\x01\0\0\0\x05\0\0\0\x01\0\0\0:path\0/\0");
                // Neighbours differ, and every argument takes every value beside every value of the next.
                let args: Vec<_> =
                    (0..call.params.len()).map(|at| ARGUMENTS[(seed / (1 + at) + at * seed) % 7]).collect();
                scene.guest.call(call.name, &args);
            }
        }
    }
}

/// A hostcall without a test fails here.
#[test]
fn every_hostcall_has_a_test() {
    let tests = [include_str!("tests.rs"), include_str!("shared_tests.rs"), include_str!("callouts_tests.rs")].concat();
    for call in super::HOSTCALLS {
        assert!(tests.contains(&format!("\"{}\"", call.name)), "{} is not tested", call.name);
    }
}

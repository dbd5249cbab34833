use crate::abi::{MetricType, Status};
use crate::runtime::{Options, Runtime};
use crate::shared::MetricValue;
use crate::wasi::harness::Puppet;

const OK: i32 = Status::Ok as i32;
const NOT_FOUND: i32 = Status::NotFound as i32;
const BAD_ARGUMENT: i32 = Status::BadArgument as i32;
/// An address outside every memory of these tests.
const OUTSIDE: i64 = 0xFFFF_FFF0;

/// What a call returned through a pointer at 0 and a size at 4.
fn returned(guest: &mut Puppet) -> Vec<u8> {
    let (at, len) = (guest.u32_at(0), guest.u32_at(4));
    guest.read(at, len)
}

fn two_vms() -> (Puppet, Puppet) {
    let runtime = Runtime::new(Options::with_slots(1)).unwrap();
    (Puppet::within(&runtime, "a"), Puppet::within(&runtime, "b"))
}

#[test]
fn shared_data_is_shared_by_vm_id_and_compared() {
    let (mut a, mut b) = two_vms();
    for guest in [&mut a, &mut b] {
        guest.write(100, b"keyvalue");
        assert_eq!(guest.call("proxy_get_shared_data", &[100, 3, 0, 4, 8]), NOT_FOUND);
    }
    assert_eq!(a.call("proxy_set_shared_data", &[100, 3, 103, 5, 0]), OK);
    assert_eq!(b.call("proxy_get_shared_data", &[100, 3, 0, 4, 8]), NOT_FOUND);
    assert_eq!(a.call("proxy_get_shared_data", &[100, 3, 0, 4, 8]), OK);
    assert_eq!(returned(&mut a), b"value");
    let cas = i64::from(a.u32_at(8));
    assert_ne!(cas, 0);
    assert_eq!(a.call("proxy_set_shared_data", &[100, 3, 0, 0, cas]), OK);
    assert_eq!(a.call("proxy_set_shared_data", &[100, 3, 103, 5, cas]), Status::CasMismatch as i32);
    // Empty is a value, of which the Rust SDK wants the version alone.
    a.write(0, &[9; 12]);
    assert_eq!(a.call("proxy_get_shared_data", &[100, 3, 0, 4, 8]), OK);
    assert_eq!(a.u64_at(0), 0);
    assert!(i64::from(a.u32_at(8)) > cas);
    for args in [[OUTSIDE, 32, 0, 0, 0], [0, 0, OUTSIDE, 32, 0]] {
        assert_eq!(a.call("proxy_set_shared_data", &args), BAD_ARGUMENT);
    }
    assert_eq!(a.call("proxy_get_shared_data", &[100, 3, 0, 4, OUTSIDE]), BAD_ARGUMENT);
}

#[test]
fn queues_are_found_across_vm_ids() {
    let (mut a, mut b) = two_vms();
    for guest in [&mut a, &mut b] {
        guest.write(100, b"queue\xFF");
        guest.write(200, b"a");
    }
    assert_eq!(b.call("proxy_resolve_shared_queue", &[200, 1, 100, 5, 8]), NOT_FOUND);
    assert_eq!(a.call("proxy_register_shared_queue", &[100, 5, 8]), OK);
    let id = i64::from(a.u32_at(8));
    assert_eq!(b.call("proxy_resolve_shared_queue", &[200, 1, 100, 5, 8]), OK);
    assert_eq!(i64::from(b.u32_at(8)), id);
    assert_eq!(a.call("proxy_resolve_shared_queue", &[0, 0, 100, 5, 8]), OK);
    assert_eq!(b.call("proxy_resolve_shared_queue", &[0, 0, 100, 5, 8]), NOT_FOUND);
    assert_eq!(b.call("proxy_resolve_shared_queue", &[105, 1, 100, 5, 8]), NOT_FOUND);
    assert_eq!(b.call("proxy_enqueue_shared_queue", &[id, 100, 5]), OK);
    assert_eq!(b.call("proxy_enqueue_shared_queue", &[id, 0, 0]), OK);
    assert_eq!(b.call("proxy_enqueue_shared_queue", &[id + 1, 100, 5]), NOT_FOUND);
    assert_eq!(b.call("proxy_enqueue_shared_queue", &[id, OUTSIDE, 32]), BAD_ARGUMENT);
    assert_eq!(a.call("proxy_dequeue_shared_queue", &[id, 0, 4]), OK);
    assert_eq!(returned(&mut a), b"queue");
    assert_eq!(a.call("proxy_dequeue_shared_queue", &[id, 0, 4]), OK);
    assert_eq!(returned(&mut a), b"");
    assert_eq!(a.call("proxy_dequeue_shared_queue", &[id, 0, 4]), Status::Empty as i32);
    assert_eq!(a.call("proxy_dequeue_shared_queue", &[id + 1, 0, 4]), NOT_FOUND);
}

#[test]
fn a_full_queue_answers_what_every_sdk_survives() {
    let mut guest = Puppet::new();
    assert_eq!(guest.call("proxy_register_shared_queue", &[0, 0, 8]), OK);
    let id = i64::from(guest.u32_at(8));
    for _ in 0..65_536 {
        assert_eq!(guest.call("proxy_enqueue_shared_queue", &[id, 0, 0]), OK);
    }
    assert_eq!(guest.call("proxy_enqueue_shared_queue", &[id, 0, 0]), NOT_FOUND);
}

#[test]
fn an_item_that_its_consumer_could_not_take_stays_in_the_queue() {
    let (mut a, mut b) = two_vms();
    assert_eq!(a.call("proxy_register_shared_queue", &[0, 0, 8]), OK);
    let id = i64::from(a.u32_at(8));
    for item in [b"first", b"other"] {
        a.write(100, item);
        assert_eq!(a.call("proxy_enqueue_shared_queue", &[id, 100, 5]), OK);
    }
    a.break_allocator(true);
    assert!(a.try_call("proxy_dequeue_shared_queue", &[id, 0, 4]).is_err());
    for item in [b"first", b"other"] {
        assert_eq!(b.call("proxy_dequeue_shared_queue", &[id, 0, 4]), OK);
        assert_eq!(returned(&mut b), item);
    }
}

#[test]
fn metrics_are_one_for_the_process() {
    let (mut a, mut b) = two_vms();
    let mut ids = [0; 2];
    for (guest, id) in [&mut a, &mut b].into_iter().zip(&mut ids) {
        guest.write(100, b"hits\xFF");
        assert_eq!(guest.call("proxy_define_metric", &[0, 100, 4, 8]), OK);
        *id = i64::from(guest.u32_at(8));
    }
    assert_eq!(ids[0], ids[1]);
    let id = ids[0];
    assert_eq!(a.call("proxy_increment_metric", &[id, 2]), OK);
    assert_eq!(b.call("proxy_record_metric", &[id, 3]), OK);
    assert_eq!(a.call("proxy_increment_metric", &[id, -1]), BAD_ARGUMENT);
    assert_eq!(a.call("proxy_get_metric", &[id, 16]), OK);
    assert_eq!(a.u64_at(16), 5);
    assert_eq!(a.call("proxy_get_metric", &[id, OUTSIDE]), BAD_ARGUMENT);
    for (name, args) in [("get", [99, 16]), ("record", [99, 1]), ("increment", [99, 1])] {
        assert_eq!(a.call(&format!("proxy_{name}_metric"), &args), NOT_FOUND);
    }
    for args in [[3, 100, 4, 8], [0, 100, 5, 8], [1, 100, 4, 8], [0, OUTSIDE, 32, 8], [0, 100, 4, OUTSIDE]] {
        assert_eq!(a.call("proxy_define_metric", &args), BAD_ARGUMENT, "{args:?}");
    }
    // Too long a name: counted nowhere, but the filter lives.
    assert_eq!(a.call("proxy_define_metric", &[2, 4096, 2000, 8]), OK);
    let sink = i64::from(a.u32_at(8));
    assert_eq!(a.call("proxy_record_metric", &[sink, 1]), OK);
    let mut seen = Vec::new();
    a.store.data().shared.metrics.for_each(|name, value| {
        assert!(matches!(value, MetricValue::Counter(5)));
        seen.push((name.to_owned(), value.metric_type()));
    });
    assert_eq!(seen, [("hits".to_owned(), MetricType::Counter)]);
}

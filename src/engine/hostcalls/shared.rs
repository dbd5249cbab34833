//! Shared data and shared queues: the ABI's side of [`crate::shared`].
//!
//! The Rust SDK traps its VM on every status that it does not expect, so each call answers with nothing but
//! these (`proxy-wasm` 0.2.5, `hostcalls.rs`; C++ and Go take any):
//!
//! | call | statuses that the Rust SDK survives |
//! | --- | --- |
//! | `set_shared_data` | Ok, CasMismatch |
//! | `get_shared_data` | Ok, NotFound |
//! | `register_shared_queue` | Ok |
//! | `resolve_shared_queue` | Ok, NotFound |
//! | `enqueue_shared_queue` | Ok, NotFound |
//! | `dequeue_shared_queue` | Ok, Empty, NotFound |
//!
//! Two consequences: a value that no namespace has room for is stored and evicted in one go, which a filter must
//! be ready for anyway, and a full queue that refuses answers NotFound. Pointers outside the guest's memory
//! answer BadArgument all the same: no SDK makes them.

use std::sync::Arc;
use std::time::Duration;

use crate::answer::News;
use crate::error::Error;
use crate::journal;
use crate::memory::{self, Guest};
use crate::shared::QueueConsumer;
use crate::state::VmState;
use crate::station::{Address, Delivery, Station};

pub(super) fn set_shared_data(
    guest: &mut Guest<'_>,
    key: i32,
    key_size: i32,
    value: i32,
    value_size: i32,
    cas: i32,
) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let key = memory::bytes(memory, key, key_size)?;
    let value = memory::bytes(memory, value, value_size)?;
    store(state, key, value, cas.cast_unsigned(), None)
}

/// Sets a key of the namespace of this VM's vm_id.
///
/// # Errors
/// [`Error::CasMismatch`] alone.
pub(super) fn store(state: &VmState, key: &[u8], value: &[u8], cas: u32, ttl: Option<Duration>) -> Result<(), Error> {
    let vm_id = &state.settings.vm_id;
    match state.shared.data.set_with_ttl(vm_id, key, value, cas, ttl) {
        Err(Error::TooLarge(_)) => {
            let text = format_args!(
                "shared data of vm_id {vm_id:?}: a value of {} bytes exceeds the whole namespace",
                value.len()
            );
            journal::told(log::Level::Warn, "too large value of shared data", state.place(None), text);
            Ok(())
        }
        result => result,
    }
}

pub(super) fn get_shared_data(
    guest: &mut Guest<'_>,
    key: i32,
    key_size: i32,
    data: i32,
    size: i32,
    cas: i32,
) -> Result<(), Error> {
    memory::with_scratch(guest, |guest, scratch| {
        let (memory, state) = memory::split(guest)?;
        let key = memory::bytes(memory, key, key_size)?;
        let version = state.shared.data.get(&state.settings.vm_id, key, scratch).ok_or_else(|| Error::NotFound)?;
        memory::return_bytes(guest, scratch, data, size)?;
        let (memory, _) = memory::split(guest)?;
        memory::write_u32(memory, cas, version)
    })
}

pub(super) fn register_shared_queue(guest: &mut Guest<'_>, name: i32, name_size: i32, id: i32) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let name = memory::bytes(memory, name, name_size)?;
    let queue = state.shared.queues.register(&state.settings.vm_id, name)?;
    memory::write_u32(memory, id, queue)?;
    consume(state, queue)
}

/// Makes the plugin context one of those that are told of the queue's items.
fn consume(state: &mut VmState, queue: u32) -> Result<(), Error> {
    let Some(home) = state.home.as_ref().filter(|_| state.takes_queues) else { return Ok(()) };
    let Some(root) = state.root_id() else { return Ok(()) };
    let consumer = Consumer { station: Arc::clone(&home.station), address: home.address.clone(), root };
    let shared = Arc::clone(&state.shared);
    if let Some(context) = state.root_mut()
        && let std::collections::btree_map::Entry::Vacant(place) = context.own_mut().queues.entry(queue)
    {
        place.insert(shared.queues.subscribe(queue, Arc::new(consumer))?);
        state.reached_out = true;
    }
    Ok(())
}

/// A plugin context that takes items of a queue.
struct Consumer {
    station: Arc<Station>,
    address: Address,
    root: u32,
}

impl QueueConsumer for Consumer {
    fn ready(&self, queue: u32) {
        let (address, root) = (self.address.clone(), self.root);
        self.station.post(Delivery { address, root, news: News::Queue(queue) });
    }
}

pub(super) fn resolve_shared_queue(
    guest: &mut Guest<'_>,
    vm_id: i32,
    vm_id_size: i32,
    name: i32,
    name_size: i32,
    id: i32,
) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let vm_id = memory::bytes(memory, vm_id, vm_id_size)?;
    let name = memory::bytes(memory, name, name_size)?;
    // An empty vm_id is the caller's own, as in cpp-host. One that is no text is nobody's.
    let vm_id = match vm_id {
        [] => state.settings.vm_id.as_str(),
        vm_id => std::str::from_utf8(vm_id).map_err(|_| Error::NotFound)?,
    };
    let queue = state.shared.queues.resolve(vm_id, name).ok_or_else(|| Error::NotFound)?;
    memory::write_u32(memory, id, queue)
}

pub(super) fn enqueue_shared_queue(guest: &mut Guest<'_>, id: i32, value: i32, value_size: i32) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let value = memory::bytes(memory, value, value_size)?;
    match state.shared.queues.enqueue(id.cast_unsigned(), value) {
        Err(Error::TooLarge(_)) => Err(Error::NotFound),
        result => result,
    }
}

pub(super) fn dequeue_shared_queue(guest: &mut Guest<'_>, id: i32, data: i32, size: i32) -> Result<(), Error> {
    let id = id.cast_unsigned();
    let item = guest.data().shared.queues.take(id)?;
    let result = memory::return_bytes(guest, &item, data, size);
    guest.data_mut().taken += 1;
    if result.is_err() {
        // The guest never had it (its allocator trapped, most likely): another consumer shall.
        guest.data().shared.queues.give_back(id, &item);
    }
    result
}

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;

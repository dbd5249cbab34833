//! Buffers: configurations now; bodies join them with the body callbacks.

use std::sync::Arc;

use crate::abi::{BufferType, Callback};
use crate::error::Error;
use crate::memory::{self, Guest};
use crate::state::VmState;

/// The bytes of a buffer that does not change while it is read.
fn fixed(state: &VmState, buffer: BufferType) -> Result<Arc<[u8]>, Error> {
    match buffer {
        BufferType::VmConfiguration => Ok(Arc::clone(&state.settings.vm_configuration)),
        BufferType::PluginConfiguration => {
            state.root().map(|root| Arc::clone(&root.plugin.configuration)).ok_or_else(|| Error::NotFound)
        }
        BufferType::HttpRequestBody
        | BufferType::HttpResponseBody
        | BufferType::DownstreamData
        | BufferType::UpstreamData
        | BufferType::HttpCallResponseBody
        | BufferType::GrpcCallMessage
        | BufferType::ForeignFunctionArguments => Err(Error::NotFound),
    }
}

pub(super) fn get_configuration(guest: &mut Guest<'_>, data: i32, size: i32) -> Result<(), Error> {
    let buffer = if guest.data().callback == Callback::VmStart {
        BufferType::VmConfiguration
    } else {
        BufferType::PluginConfiguration
    };
    let bytes = fixed(guest.data(), buffer)?;
    memory::return_bytes(guest, &bytes, data, size)
}

pub(super) fn get_buffer_bytes(
    guest: &mut Guest<'_>,
    buffer: i32,
    start: i32,
    max: i32,
    data: i32,
    size: i32,
) -> Result<(), Error> {
    let buffer = BufferType::from_wire(buffer).ok_or_else(|| Error::BadArgument("buffer"))?;
    let bytes = fixed(guest.data(), buffer)?;
    let start = (start.cast_unsigned() as usize).min(bytes.len());
    let end = start.saturating_add(max.cast_unsigned() as usize).min(bytes.len());
    memory::return_bytes(guest, &bytes[start..end], data, size)
}

pub(super) fn get_buffer_status(guest: &mut Guest<'_>, buffer: i32, size: i32, flags: i32) -> Result<(), Error> {
    let buffer = BufferType::from_wire(buffer).ok_or_else(|| Error::BadArgument("buffer"))?;
    let len = u32::try_from(fixed(guest.data(), buffer)?.len()).map_err(|_| Error::TooLarge("buffer"))?;
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, size, len)?;
    memory::write_u32(memory, flags, 0)
}

pub(super) fn set_buffer_bytes(
    guest: &mut Guest<'_>,
    buffer: i32,
    _start: i32,
    _size: i32,
    data: i32,
    data_size: i32,
) -> Result<(), Error> {
    let buffer = BufferType::from_wire(buffer).ok_or_else(|| Error::BadArgument("buffer"))?;
    let (memory, state) = memory::split(guest)?;
    memory::bytes(memory, data, data_size)?;
    fixed(state, buffer)?;
    Err(Error::BadArgument("this buffer is read-only"))
}

//! Buffers: bodies, of which a filter sees what it has before it, and configurations.

use std::sync::Arc;

use bytes::Bytes;

use crate::abi::{BufferType, Callback};
use crate::body::Side;
use crate::error::Error;
use crate::memory::{self, Guest};
use crate::state::VmState;

/// The bytes of a buffer that does not change while it is read, kept while the guest makes room for them.
enum Fixed {
    Configuration(Arc<[u8]>),
    Answer(Bytes),
}

impl std::ops::Deref for Fixed {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Fixed::Configuration(bytes) => bytes,
            Fixed::Answer(bytes) => bytes,
        }
    }
}

fn fixed(state: &VmState, buffer: BufferType) -> Result<Fixed, Error> {
    match buffer {
        BufferType::VmConfiguration => Ok(Fixed::Configuration(Arc::clone(&state.settings.vm_configuration))),
        BufferType::PluginConfiguration => {
            let root = state.root().ok_or_else(|| Error::NotFound)?;
            Ok(Fixed::Configuration(Arc::clone(&root.plugin.configuration)))
        }
        BufferType::HttpCallResponseBody | BufferType::GrpcCallMessage => {
            state.answer.buffer(buffer).cloned().map(Fixed::Answer).ok_or_else(|| Error::NotFound)
        }
        BufferType::HttpRequestBody
        | BufferType::HttpResponseBody
        | BufferType::DownstreamData
        | BufferType::UpstreamData
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
    let (start, max) = (start.cast_unsigned() as usize, max.cast_unsigned() as usize);
    let Some(side) = Side::of_buffer(buffer) else {
        let bytes = fixed(guest.data(), buffer)?;
        let (start, end) = cut(start, max, bytes.len());
        if start == end {
            return nothing(guest, size);
        }
        return memory::return_bytes(guest, &bytes[start..end], data, size);
    };
    let len = body_len(guest.data(), side)?;
    let (start, end) = cut(start, max, len);
    if start == end {
        return nothing(guest, size);
    }
    let len = u32::try_from(end - start).map_err(|_| Error::TooLarge("body"))?;
    let address = memory::allocate(guest, len)?;
    let (memory, state) = memory::split(guest)?;
    let mut place = memory::bytes_mut(memory, address, len.cast_signed())?;
    // From the host's buffers straight to where the guest wants it: the only copy there is.
    let (cell, filter) = state.part()?;
    cell.with_bodies(|bodies| {
        // The guest's allocator has run, and can do nothing to a body.
        let Some(body) = bodies.get(filter, side) else { return };
        body.read(start, end, &mut |piece| {
            let (head, tail) = std::mem::take(&mut place).split_at_mut(piece.len());
            head.copy_from_slice(piece);
            place = tail;
        });
    });
    memory::write_u32(memory, data, address.cast_unsigned())?;
    memory::write_u32(memory, size, len)
}

/// Nothing is there: a size of zero, and the pointer stays as it is. cpp-host writes neither; AssemblyScript's SDK looks
/// behind a null pointer when there is no configuration.
fn nothing(guest: &mut Guest<'_>, size: i32) -> Result<(), Error> {
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, size, 0)
}

/// The part of `len` bytes that begins at `start` and has no more than `max`.
fn cut(start: usize, max: usize, len: usize) -> (usize, usize) {
    let start = start.min(len);
    (start, start.saturating_add(max).min(len))
}

/// How much of a body the filter has before it.
///
/// # Errors
/// [`Error::NotFound`] where there is no body, or none yet.
fn body_len(state: &VmState, side: Side) -> Result<usize, Error> {
    let (cell, filter) = state.part()?;
    cell.with_bodies(|bodies| bodies.get(filter, side).map(|body| body.len())).ok_or_else(|| Error::NotFound)
}

pub(super) fn get_buffer_status(guest: &mut Guest<'_>, buffer: i32, size: i32, flags: i32) -> Result<(), Error> {
    let buffer = BufferType::from_wire(buffer).ok_or_else(|| Error::BadArgument("buffer"))?;
    let len = match Side::of_buffer(buffer) {
        Some(side) => body_len(guest.data(), side)?,
        None => fixed(guest.data(), buffer)?.len(),
    };
    let len = u32::try_from(len).map_err(|_| Error::TooLarge("buffer"))?;
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, size, len)?;
    memory::write_u32(memory, flags, 0)
}

pub(super) fn set_buffer_bytes(
    guest: &mut Guest<'_>,
    buffer: i32,
    start: i32,
    size: i32,
    data: i32,
    data_size: i32,
) -> Result<(), Error> {
    let buffer = BufferType::from_wire(buffer).ok_or_else(|| Error::BadArgument("buffer"))?;
    let (memory, state) = memory::split(guest)?;
    let data = memory::bytes(memory, data, data_size)?;
    let Some(side) = Side::of_buffer(buffer) else {
        fixed(state, buffer)?;
        return Err(Error::BadArgument("this buffer is read-only"));
    };
    let limit = state.settings.limits.body_bytes;
    let (cell, filter) = state.part()?;
    let (start, size) = (start.cast_unsigned() as usize, size.cast_unsigned() as usize);
    cell.with_bodies(|bodies| {
        let len = bodies.get(filter, side).ok_or_else(|| Error::NotFound)?.len();
        // What a filter adds is held to its limit too, beside one chunk of what came.
        if data.len() > limit.max(64 << 10) && data.len() > len {
            return Err(Error::BadArgument("more bytes than limits.body_kib allows"));
        }
        bodies.splice(filter, side, start, size, data)
    })
}

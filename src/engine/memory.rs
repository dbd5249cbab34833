//! The one way to a guest's memory: checked, borrowed, never kept.

use wasmtime::{AsContextMut, Caller, Extern, Memory};

use crate::error::Error;
use crate::state::VmState;

/// What a hostcall is called with.
pub(crate) type Guest<'a> = Caller<'a, VmState>;

/// The guest's memory and the store's data, borrowed side by side.
///
/// # Errors
/// [`Error::Forbidden`] if there is no memory, which a module that was let in always has.
#[inline]
pub(crate) fn split<'a>(guest: &'a mut Guest<'_>) -> Result<(&'a mut [u8], &'a mut VmState), Error> {
    let memory = match guest.data().memory {
        Some(memory) => memory,
        None => early_memory(guest)?,
    };
    Ok(memory.data_and_store_mut(guest))
}

/// The memory of a guest whose start section runs, before anybody could look its exports up.
#[cold]
fn early_memory(guest: &mut Guest<'_>) -> Result<Memory, Error> {
    let memory = guest.get_export("memory").and_then(Extern::into_memory);
    let memory = memory.ok_or_else(|| Error::Forbidden("a hostcall that needs memory"))?;
    guest.data_mut().memory = Some(memory);
    Ok(memory)
}

/// `size` bytes of `memory` at `address`.
///
/// # Errors
/// [`Error::Memory`] if the range leaves the memory.
pub(crate) fn bytes(memory: &[u8], address: i32, size: i32) -> Result<&[u8], Error> {
    let (address, size) = (address.cast_unsigned(), size.cast_unsigned());
    let start = address as usize;
    // Neither is wider than 32 bits: the sum fits.
    memory.get(start..start + size as usize).ok_or_else(|| Error::Memory { address, size })
}

/// `size` writable bytes of `memory` at `address`.
///
/// # Errors
/// [`Error::Memory`] if the range leaves the memory.
pub(crate) fn bytes_mut(memory: &mut [u8], address: i32, size: i32) -> Result<&mut [u8], Error> {
    let (address, size) = (address.cast_unsigned(), size.cast_unsigned());
    let start = address as usize;
    memory.get_mut(start..start + size as usize).ok_or_else(|| Error::Memory { address, size })
}

/// Writes a little-endian `u32`.
///
/// # Errors
/// [`Error::Memory`] if the four bytes leave the memory.
pub(crate) fn write_u32(memory: &mut [u8], address: i32, value: u32) -> Result<(), Error> {
    bytes_mut(memory, address, 4)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Writes a little-endian `u64`.
///
/// # Errors
/// [`Error::Memory`] if the eight bytes leave the memory.
pub(crate) fn write_u64(memory: &mut [u8], address: i32, value: u64) -> Result<(), Error> {
    bytes_mut(memory, address, 8)?.copy_from_slice(&value.to_le_bytes());
    Ok(())
}

/// Reads a little-endian `u32`.
///
/// # Errors
/// [`Error::Memory`] if the four bytes leave the memory.
pub(crate) fn read_u32(memory: &[u8], address: i32) -> Result<u32, Error> {
    let slice = bytes(memory, address, 4)?;
    Ok(u32::from_le_bytes([slice[0], slice[1], slice[2], slice[3]]))
}

/// Writes a zero pointer and size, which is how an empty or absent value is returned: nothing is allocated.
///
/// # Errors
/// [`Error::Memory`] if either place leaves the memory.
pub(crate) fn return_empty(guest: &mut Guest<'_>, data: i32, size: i32) -> Result<(), Error> {
    let (memory, _) = split(guest)?;
    write_u32(memory, data, 0)?;
    write_u32(memory, size, 0)
}

/// Room for `size` bytes from the guest's own allocator. The guest owns it from now on.
///
/// # Errors
/// [`Error::GuestAllocation`] if the allocator answers zero; the trap, if it traps.
pub(crate) fn allocate(guest: &mut Guest<'_>, size: u32) -> Result<i32, Error> {
    // Taken out for the duration: `TypedFunc` cannot be called while it is borrowed from the store, cloning
    // it costs more than the call, and its absence tells hostcalls that the allocator is running.
    let alloc = guest.data_mut().alloc.take().ok_or_else(|| Error::Forbidden("a hostcall that returns bytes"))?;
    let result = alloc.call(guest.as_context_mut(), size);
    guest.data_mut().alloc = Some(alloc);
    match result {
        Ok(0) => Err(Error::GuestAllocation(size)),
        Ok(address) => Ok(address.cast_signed()),
        Err(error) => Err(Error::Wasm(error)),
    }
}

/// Hands `value` to the guest: allocates there, copies once, writes pointer and size.
///
/// # Errors
/// As [`allocate`], and [`Error::Memory`] if pointer and size have no place.
pub(crate) fn return_bytes(guest: &mut Guest<'_>, value: &[u8], data: i32, size: i32) -> Result<(), Error> {
    if value.is_empty() {
        return return_empty(guest, data, size);
    }
    let len = u32::try_from(value.len()).map_err(|_| Error::TooLarge("value"))?;
    guest.data_mut().count_moved(u64::from(len))?;
    let address = allocate(guest, len)?;
    let (memory, _) = split(guest)?;
    bytes_mut(memory, address, len.cast_signed())?.copy_from_slice(value);
    write_u32(memory, data, address.cast_unsigned())?;
    write_u32(memory, size, len)
}

/// Runs `fill` on the VM's scratch buffer (empty, with its capacity kept) and takes its result along.
pub(crate) fn with_scratch<R>(guest: &mut Guest<'_>, run: impl FnOnce(&mut Guest<'_>, &mut Vec<u8>) -> R) -> R {
    let mut scratch = std::mem::take(&mut guest.data_mut().scratch);
    scratch.clear();
    let result = run(guest, &mut scratch);
    // One large value must not pin its memory in every VM for good.
    if scratch.capacity() > 256 << 10 {
        scratch = Vec::with_capacity(1024);
    }
    guest.data_mut().scratch = scratch;
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked_at_every_edge() {
        let mut memory = vec![7u8; 16];
        assert_eq!(bytes(&memory, 0, 16).unwrap().len(), 16);
        assert_eq!(bytes(&memory, 16, 0).unwrap().len(), 0);
        assert!(bytes(&memory, 17, 0).is_err());
        assert!(bytes(&memory, 0, 17).is_err());
        assert!(bytes(&memory, -1, 1).is_err());
        assert!(bytes(&memory, -1, -1).is_err());
        assert!(bytes_mut(&mut memory, 15, 2).is_err());
        assert!(write_u64(&mut memory, 9, 1).is_err());
        write_u32(&mut memory, 12, 0x0102_0304).unwrap();
        assert_eq!(read_u32(&memory, 12).unwrap(), 0x0102_0304);
    }
}

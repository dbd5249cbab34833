//! Resuming and ending streams: effects, applied by the host after the VM is left.

use crate::abi::StreamType;
use crate::body::Side;
use crate::error::Error;
use crate::memory::Guest;

pub(super) fn continue_stream(guest: &mut Guest<'_>, stream: i32) -> Result<(), Error> {
    match StreamType::from_wire(stream).ok_or_else(|| Error::BadArgument("stream type"))? {
        StreamType::HttpRequest => continue_request(guest),
        StreamType::HttpResponse => continue_response(guest),
        StreamType::Downstream | StreamType::Upstream => Err(Error::BadArgument("no TCP stream here")),
    }
}

pub(super) fn close_stream(guest: &mut Guest<'_>, stream: i32) -> Result<(), Error> {
    match StreamType::from_wire(stream).ok_or_else(|| Error::BadArgument("stream type"))? {
        StreamType::HttpRequest | StreamType::HttpResponse => {
            guest.data_mut().record_effect(|effects, _| effects.close = true)
        }
        StreamType::Downstream | StreamType::Upstream => Err(Error::BadArgument("no TCP stream here")),
    }
}

pub(super) fn continue_request(guest: &mut Guest<'_>) -> Result<(), Error> {
    resume(guest, Side::Request)
}

pub(super) fn continue_response(guest: &mut Guest<'_>) -> Result<(), Error> {
    resume(guest, Side::Response)
}

fn resume(guest: &mut Guest<'_>, side: Side) -> Result<(), Error> {
    guest.data_mut().record_effect(|effects, filter| effects.continued[side as usize] |= 1 << filter)
}

pub(super) fn clear_route_cache(_guest: &mut Guest<'_>) -> Result<(), Error> {
    Ok(())
}

//! `proxy_send_local_response`.

use crate::abi::pairs;
use crate::error::Error;
use crate::host::LocalResponse;
use crate::memory::{self, Guest};

use super::headers::check_field;

#[expect(clippy::too_many_arguments, reason = "the ABI's own signature")]
pub(super) fn send_local_response(
    guest: &mut Guest<'_>,
    status: i32,
    details: i32,
    details_size: i32,
    body: i32,
    body_size: i32,
    headers: i32,
    headers_size: i32,
    grpc_status: i32,
) -> Result<(), Error> {
    let status = u16::try_from(status)
        .ok()
        .filter(|status| (200..=999).contains(status))
        .ok_or_else(|| Error::BadArgument("status code"))?;
    let (memory, state) = memory::split(guest)?;
    let details = memory::bytes(memory, details, details_size)?;
    let body = memory::bytes(memory, body, body_size)?;
    let fields = pairs::decode(memory::bytes(memory, headers, headers_size)?, state.settings.limits.pairs)?;
    let mut headers = Vec::with_capacity(fields.len());
    for (name, value) in fields {
        // `:status` is given twice by some SDKs; the parameter is the one that counts.
        if name.first() == Some(&b':') {
            continue;
        }
        check_field(name, value)?;
        headers.push((name.to_vec(), value.to_vec()));
    }
    let response = Box::new(LocalResponse {
        status,
        details: details.to_vec(),
        headers,
        body: body.to_vec(),
        grpc_status: u32::try_from(grpc_status).ok(),
    });
    state.record_effect(|effects, _| {
        effects.local_response.get_or_insert(response);
    })
}

//! Properties.

use crate::body::Side;
use crate::config::Body;
use crate::error::Error;
use crate::memory::{self, Guest};
use crate::state::{RootContext, VmState};

/// A path with the NUL that some SDKs leave behind it taken off.
pub(super) fn trim(path: &[u8]) -> &[u8] {
    path.strip_suffix(&[0]).unwrap_or(path)
}

fn find(state: &mut VmState, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let root = state.root().ok_or_else(|| Error::NotFound)?;
    match path {
        b"plugin_name" => out.extend_from_slice(root.plugin.name.as_bytes()),
        b"plugin_root_id" => out.extend_from_slice(root.plugin.root_id.as_bytes()),
        b"plugin_body" => out.extend_from_slice(shown(state)?.as_str().as_bytes()),
        b"plugin_vm_id" => out.extend_from_slice(state.settings.vm_id.as_bytes()),
        _ => {
            if state.cell()?.property(path, out) {
                return Ok(());
            }
            return state.stream_mut()?.property(path, out);
        }
    }
    Ok(())
}

/// The bodies that the filter is shown.
fn shown(state: &VmState) -> Result<Body, Error> {
    let (cell, filter) = state.part()?;
    Ok(cell.with_bodies(|bodies| bodies.shown(filter)))
}

/// Declines bodies of this transaction: what is not in `value` any more. None that was declined comes back.
fn decline(state: &mut VmState, value: &[u8]) -> Result<(), Error> {
    let wanted =
        Body::from_name(value).ok_or_else(|| Error::BadArgument("plugin_body is both, request, response or none"))?;
    let left = shown(state)?.and(wanted);
    let (cell, filter) = state.part()?;
    cell.with_bodies(|bodies| bodies.show(filter, left));
    state.record_effect(|effects, filter| {
        for side in Side::ALL.into_iter().filter(|side| !left.shows(*side)) {
            effects.declined[side as usize] |= 1 << filter;
        }
    })
}

pub(super) fn get_property(
    guest: &mut Guest<'_>,
    path: i32,
    path_size: i32,
    data: i32,
    size: i32,
) -> Result<(), Error> {
    memory::with_scratch(guest, |guest, scratch| {
        let (memory, state) = memory::split(guest)?;
        let path = trim(memory::bytes(memory, path, path_size)?);
        find(state, path, scratch)?;
        memory::return_bytes(guest, scratch, data, size)
    })
}

pub(super) fn set_property(
    guest: &mut Guest<'_>,
    path: i32,
    path_size: i32,
    value: i32,
    value_size: i32,
) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let path = trim(memory::bytes(memory, path, path_size)?);
    let value = memory::bytes(memory, value, value_size)?;
    if path.is_empty() {
        return Err(Error::BadArgument("property path"));
    }
    if path == b"plugin_body" {
        let value = value.to_vec();
        return decline(state, &value);
    }
    match state.stream_mut()?.set_property(path, value) {
        Err(Error::NotFound) => {
            let declared = state.root().and_then(RootContext::own).and_then(|own| own.declared.get(path));
            let read_only = declared.is_some_and(|read_only| *read_only);
            state.cell()?.set_property(path, value, read_only)
        }
        result => result,
    }
}

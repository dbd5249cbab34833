//! HTTP and gRPC calls to others.
//!
//! A call is sent at once, by threads of its own; its answer comes to the plugin context as a callback, on the VM's own
//! thread, and never inside the call. A VM that only tries a configuration out reaches nobody: its calls are accepted,
//! and never answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callout::{Cluster, GrpcRequest, HttpRequest, Pairs, Refused};

use crate::abi::pairs;
use crate::answer::{CallKind, News, Outgoing, Way};
use crate::error::Error;
use crate::journal::{self, Place};
use crate::limits::Limit;
use crate::memory::{self, Guest};
use crate::observe::CalloutOutcome;
use crate::state::VmState;
use crate::station::Delivery;
use crate::upstreams::{Unknown, Upstreams};

/// How many calls one VM may have under way, clusters' own limits aside: a guest must not grow the host without bound.
const MAX_CALLS: usize = 65_536;

/// Complaints about upstreams that the log is spared after so many.
const MAX_COMPLAINTS: usize = 16;

#[expect(clippy::too_many_arguments, reason = "the ABI's parameters")]
pub(super) fn http_call(
    guest: &mut Guest<'_>,
    upstream: i32,
    upstream_size: i32,
    headers: i32,
    headers_size: i32,
    body: i32,
    body_size: i32,
    trailers: i32,
    trailers_size: i32,
    timeout: i32,
    id: i32,
) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let timeout = time(timeout)?;
    let limits = state.settings.limits.pairs;
    let upstream = memory::bytes(memory, upstream, upstream_size)?;
    let headers = own(&pairs::decode(memory::bytes(memory, headers, headers_size)?, limits)?);
    let value = |name: &[u8]| headers.iter().find(|(own, _)| own == name).map(|(_, value)| value);
    for (name, missing) in [
        (&b":method"[..], "a call without :method"),
        (b":path", "a call without :path"),
        (b":authority", "a call without :authority"),
    ] {
        value(name).filter(|value| !value.is_empty()).ok_or_else(|| Error::BadArgument(missing))?;
    }
    let secure = value(b":scheme").is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https"));
    let body = Bytes::copy_from_slice(memory::bytes(memory, body, body_size)?);
    let trailers = own(&pairs::decode(memory::bytes(memory, trailers, trailers_size)?, limits)?);
    let cluster = match upstreams(state)?.find(upstream, secure) {
        Ok(cluster) => cluster,
        Err(unknown) => {
            complain(state, upstream, &unknown);
            return Err(Error::BadArgument("upstream"));
        }
    };
    let request = HttpRequest { headers, body, trailers };
    let (token, root) = begin(state, CallKind::Http)?;
    // Before the call is sent: a guest that named memory of nobody's is not to have sent one.
    memory::write_u32(memory, id, token)?;
    let Some(home) = &state.home else { return Ok(()) };
    let (station, address) = (Arc::clone(&home.station), home.address.clone());
    let done = move |result| station.post(Delivery { address, root, news: News::Http { token, result } });
    let call = match cluster.http_call(request, timeout, Box::new(done)) {
        Ok(call) => call,
        Err(refused) => return Err(refusal(state, &refused)),
    };
    keep(state, token, root, Way::Http(call));
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the ABI's parameters")]
pub(super) fn grpc_call(
    guest: &mut Guest<'_>,
    upstream: i32,
    upstream_size: i32,
    service: i32,
    service_size: i32,
    method: i32,
    method_size: i32,
    metadata: i32,
    metadata_size: i32,
    message: i32,
    message_size: i32,
    timeout: i32,
    id: i32,
) -> Result<(), Error> {
    let (memory, _) = memory::split(guest)?;
    let message = Bytes::copy_from_slice(memory::bytes(memory, message, message_size)?);
    // SDKs know no other refusal here than that the upstream makes no sense.
    let timeout = time(timeout).map_err(|_| Error::Unparsable("a timeout below zero"))?;
    let names = [(upstream, upstream_size), (service, service_size), (method, method_size), (metadata, metadata_size)];
    open(guest, names, timeout, id, CallKind::GrpcCall, |stream| {
        stream.send(message, true).map_err(|_| Error::Busy("the message cannot be sent"))?;
        Ok(Way::GrpcCall(stream, None))
    })
}

#[expect(clippy::too_many_arguments, reason = "the ABI's parameters")]
pub(super) fn grpc_stream(
    guest: &mut Guest<'_>,
    upstream: i32,
    upstream_size: i32,
    service: i32,
    service_size: i32,
    method: i32,
    method_size: i32,
    metadata: i32,
    metadata_size: i32,
    id: i32,
) -> Result<(), Error> {
    let names = [(upstream, upstream_size), (service, service_size), (method, method_size), (metadata, metadata_size)];
    open(guest, names, None, id, CallKind::GrpcStream, |stream| Ok(Way::GrpcStream(stream)))
}

/// Opens a gRPC stream to where the four places of memory say, and lets `make` make of it what it is to be.
fn open(
    guest: &mut Guest<'_>,
    names: [(i32, i32); 4],
    timeout: Option<Duration>,
    id: i32,
    kind: CallKind,
    make: impl FnOnce(callout::GrpcStream) -> Result<Way, Error>,
) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let limits = state.settings.limits.pairs;
    let part = |(address, size)| memory::bytes(memory, address, size);
    let [upstream, service, method, metadata] = names;
    let upstream = part(upstream)?;
    let request = GrpcRequest {
        service: Bytes::copy_from_slice(part(service)?),
        method: Bytes::copy_from_slice(part(method)?),
        metadata: own(&pairs::decode(part(metadata)?, limits)?),
    };
    let cluster: Arc<Cluster> = match upstreams(state)?.find_grpc(upstream) {
        Ok(cluster) => cluster,
        Err(unknown) => {
            complain(state, upstream, &unknown);
            return Err(Error::Unparsable("upstream"));
        }
    };
    let (token, root) = begin(state, kind)?;
    memory::write_u32(memory, id, token)?;
    let Some(home) = &state.home else { return Ok(()) };
    let (station, address) = (Arc::clone(&home.station), home.address.clone());
    let events = move |event| {
        station.post(Delivery { address: address.clone(), root, news: News::Grpc { token, event } });
    };
    let stream = match cluster.grpc(request, timeout, Box::new(events)) {
        Ok(stream) => stream,
        Err(refused) => {
            let error = refusal(state, &refused);
            let wrong = matches!(error, Error::BadArgument(_));
            return Err(if wrong { Error::Unparsable("service, method or metadata") } else { error });
        }
    };
    let way = make(stream)?;
    keep(state, token, root, way);
    Ok(())
}

pub(super) fn grpc_send(guest: &mut Guest<'_>, id: i32, message: i32, size: i32, end: i32) -> Result<(), Error> {
    let (memory, state) = memory::split(guest)?;
    let token = id.cast_unsigned();
    if CallKind::of(token) != Some(CallKind::GrpcStream) {
        return Err(Error::BadArgument("no gRPC stream has this number"));
    }
    let message = Bytes::copy_from_slice(memory::bytes(memory, message, size)?);
    let Some(outgoing) = state.calls.get(token) else { return nobody(state) };
    let stream = outgoing.grpc().ok_or_else(|| Error::NotFound)?;
    stream.send(message, end != 0).map_err(|_| Error::BadArgument("the stream takes no more messages"))
}

/// Ends a call or stream at once. Nothing more of it is delivered.
pub(super) fn grpc_cancel(guest: &mut Guest<'_>, id: i32) -> Result<(), Error> {
    let state = guest.data_mut();
    match state.calls.get(id.cast_unsigned()).and_then(Outgoing::grpc) {
        Some(stream) => stream.cancel(),
        None => return nobody(state),
    }
    state.calls.remove(id.cast_unsigned());
    Ok(())
}

/// No more messages from here; what the other side still sends is delivered. Of a call, which has sent its message, it is
/// the end.
pub(super) fn grpc_close(guest: &mut Guest<'_>, id: i32) -> Result<(), Error> {
    let state = guest.data_mut();
    match state.calls.get(id.cast_unsigned()).map(|call| &call.way) {
        Some(Way::GrpcStream(stream)) => {
            stream.close();
            Ok(())
        }
        Some(Way::GrpcCall(..)) => grpc_cancel(guest, id),
        Some(Way::Http(_)) => Err(Error::NotFound),
        None => nobody(state),
    }
}

/// A number that no call has, unless the VM has no calls because it only tries something out.
fn nobody(state: &VmState) -> Result<(), Error> {
    if state.home.is_none() { Ok(()) } else { Err(Error::NotFound) }
}

pub(super) fn get_status(guest: &mut Guest<'_>, code: i32, data: i32, size: i32) -> Result<(), Error> {
    let (status, message) = guest.data().answer.status();
    let message = message.as_bytes().to_vec();
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, code, status)?;
    memory::return_bytes(guest, &message, data, size)
}

/// A token, and the plugin context that the call is for.
fn begin(state: &mut VmState, kind: CallKind) -> Result<(u32, u32), Error> {
    let root = state.root_id().ok_or_else(|| Error::BadArgument("no plugin context"))?;
    if state.calls.count_of(root) >= state.settings.limits.callouts {
        if let Some(root) = state.root() {
            root.stats().breach(Limit::Callouts, 1);
        }
        count(state, CalloutOutcome::Overflow);
        return Err(Error::Busy("the filter has as many calls under way as limits.callouts permits"));
    }
    if state.calls.len() >= MAX_CALLS {
        count(state, CalloutOutcome::Overflow);
        return Err(Error::Busy("the VM has too many calls under way"));
    }
    // The callback may act on streams: from now on they look for that.
    state.reached_out = true;
    Ok((state.calls.token(kind), root))
}

fn upstreams(state: &VmState) -> Result<Arc<Upstreams>, Error> {
    let root = state.root().ok_or_else(|| Error::BadArgument("no plugin context"))?;
    Ok(Arc::clone(&root.plugin.upstreams))
}

/// Milliseconds; zero is forever.
fn time(timeout: i32) -> Result<Option<Duration>, Error> {
    let timeout = u64::try_from(timeout).map_err(|_| Error::BadArgument("a timeout below zero"))?;
    Ok((timeout > 0).then(|| Duration::from_millis(timeout)))
}

fn own(pairs: &[pairs::Pair<'_>]) -> Pairs {
    pairs.iter().map(|(name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value))).collect()
}

/// Notes a call that is under way.
fn keep(state: &mut VmState, token: u32, root: u32, way: Way) {
    let (Some(home), Some(context)) = (&state.home, state.root()) else { return };
    let call = Outgoing::new(root, way, &home.calls, Arc::clone(context.stats()));
    state.calls.insert(token, call);
}

/// Counts a call that is not sent.
fn refusal(state: &VmState, refused: &Refused) -> Error {
    let (outcome, error) = match refused {
        Refused::BadRequest(why) => {
            log::debug!("a call is refused: {why}");
            (CalloutOutcome::Refused, Error::BadArgument("the call's headers"))
        }
        _ => (CalloutOutcome::Overflow, Error::Busy("the cluster has as many calls under way as it may")),
    };
    count(state, outcome);
    error
}

fn count(state: &VmState, outcome: CalloutOutcome) {
    if let Some(root) = state.root() {
        root.stats().callout(outcome, Duration::ZERO);
    }
}

/// Tells the log why an upstream cannot be called: once for each, since filters try again for every transaction.
fn complain(state: &mut VmState, upstream: &[u8], unknown: &Unknown) {
    count(state, CalloutOutcome::Refused);
    if state.complaints.len() >= MAX_COMPLAINTS || state.complaints.iter().any(|told| **told == *upstream) {
        return;
    }
    state.complaints.push(upstream.into());
    let place = Place { txn: None, ..state.place(None) };
    let filter = place.filter;
    let upstream = String::from_utf8_lossy(upstream);
    let upstream = upstream.escape_debug();
    let what = format!("call of '{upstream:.100}', which is unknown,");
    let text = match unknown {
        Unknown::NotAllowed => format!(
            "filter '{filter}' calls {upstream}, which its callout_hosts do not allow: add it there, or define a cluster"
        ),
        Unknown::NoCluster | Unknown::Malformed => format!(
            "filter '{filter}' calls the cluster '{upstream}', which is not defined: add it under 'clusters' in a file \
             of the rule"
        ),
    };
    journal::told(log::Level::Error, &what, place, format_args!("{text}"));
}

#[cfg(test)]
#[path = "callouts_tests.rs"]
mod tests;

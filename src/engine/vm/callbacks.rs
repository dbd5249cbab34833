//! The exports that the engine calls.

use wasmtime::{Instance, Store, TypedFunc, WasmParams, WasmResults};

use super::relay::count_fields;
use crate::abi::{AbiVersion, MapType};
use crate::error::Error;
use crate::state::VmState;

/// `proxy_on_request_headers` and `proxy_on_response_headers`, by ABI version.
pub(super) enum HeadersCallback {
    /// 0.1.0: `(context, headers) -> action`.
    Old(TypedFunc<(u32, u32), i32>),
    /// Since 0.2.0: `(context, headers, end_of_stream) -> action`.
    New(TypedFunc<(u32, u32, u32), i32>),
}

/// `proxy_on_request_body` and `proxy_on_response_body`: `(context, size, end_of_stream) -> action`.
pub(super) type BodyCallback = TypedFunc<(u32, u32, u32), i32>;

/// `proxy_on_http_call_response`: `(root, token, headers, body size, trailers)`.
pub(super) type HttpCallResponse = TypedFunc<(u32, u32, u32, u32, u32), ()>;

/// The exports that the engine calls. Absent ones are never called.
pub(super) struct Callbacks {
    pub(super) context_create: Option<TypedFunc<(u32, u32), ()>>,
    pub(super) vm_start: Option<TypedFunc<(u32, u32), u32>>,
    pub(super) configure: Option<TypedFunc<(u32, u32), u32>>,
    pub(super) tick: Option<TypedFunc<u32, ()>>,
    pub(super) http_call_response: Option<HttpCallResponse>,
    /// `(root, token, elements or bytes or status)`, each of them.
    pub(super) grpc_initial_metadata: Option<TypedFunc<(u32, u32, u32), ()>>,
    pub(super) grpc_receive: Option<TypedFunc<(u32, u32, u32), ()>>,
    pub(super) grpc_trailing_metadata: Option<TypedFunc<(u32, u32, u32), ()>>,
    pub(super) grpc_close: Option<TypedFunc<(u32, u32, u32), ()>>,
    /// `(root, queue)`.
    pub(super) queue_ready: Option<TypedFunc<(u32, u32), ()>>,
    pub(super) request_headers: Option<HeadersCallback>,
    pub(super) response_headers: Option<HeadersCallback>,
    /// By side: `proxy_on_request_body`, `proxy_on_response_body`.
    pub(super) body: [Option<BodyCallback>; 2],
    pub(super) done: Option<TypedFunc<u32, u32>>,
    pub(super) log: Option<TypedFunc<u32, ()>>,
    pub(super) delete: Option<TypedFunc<u32, ()>>,
}

impl Callbacks {
    /// Those of an instance.
    ///
    /// # Errors
    /// [`Error::Module`], naming an export that has another type than the ABI's.
    pub(super) fn of(instance: &Instance, store: &mut Store<VmState>, abi: AbiVersion) -> Result<Self, Error> {
        Ok(Callbacks {
            context_create: optional(instance, store, "proxy_on_context_create")?,
            vm_start: optional(instance, store, "proxy_on_vm_start")?,
            configure: optional(instance, store, "proxy_on_configure")?,
            tick: optional(instance, store, "proxy_on_tick")?,
            http_call_response: optional(instance, store, "proxy_on_http_call_response")?,
            grpc_initial_metadata: optional(instance, store, "proxy_on_grpc_receive_initial_metadata")?,
            grpc_receive: optional(instance, store, "proxy_on_grpc_receive")?,
            grpc_trailing_metadata: optional(instance, store, "proxy_on_grpc_receive_trailing_metadata")?,
            grpc_close: optional(instance, store, "proxy_on_grpc_close")?,
            queue_ready: optional(instance, store, "proxy_on_queue_ready")?,
            request_headers: headers_callback(instance, store, abi, "proxy_on_request_headers")?,
            response_headers: headers_callback(instance, store, abi, "proxy_on_response_headers")?,
            body: [
                optional(instance, store, "proxy_on_request_body")?,
                optional(instance, store, "proxy_on_response_body")?,
            ],
            done: optional(instance, store, "proxy_on_done")?,
            log: optional(instance, store, "proxy_on_log")?,
            delete: optional(instance, store, "proxy_on_delete")?,
        })
    }
}

pub(super) fn optional<P: WasmParams, R: WasmResults>(
    instance: &Instance,
    store: &mut Store<VmState>,
    name: &str,
) -> Result<Option<TypedFunc<P, R>>, Error> {
    if !store.data().settings.allows(name) {
        return Ok(None);
    }
    match instance.get_func(&mut *store, name) {
        None => Ok(None),
        Some(func) => func
            .typed(&*store)
            .map(Some)
            .map_err(|error| Error::Module(format!("export {name} has another type than the ABI's: {error}"))),
    }
}

fn headers_callback(
    instance: &Instance,
    store: &mut Store<VmState>,
    abi: AbiVersion,
    name: &str,
) -> Result<Option<HeadersCallback>, Error> {
    if abi == AbiVersion::V0_1_0 {
        Ok(optional(instance, store, name)?.map(HeadersCallback::Old))
    } else {
        Ok(optional(instance, store, name)?.map(HeadersCallback::New))
    }
}

#[inline]
pub(super) fn call_headers(
    callback: Option<&HeadersCallback>,
    store: &mut Store<VmState>,
    map: MapType,
    id: u32,
    end_of_stream: bool,
) -> wasmtime::Result<i32> {
    let Some(callback) = callback else { return Ok(0) };
    let fields = count_fields(store.data_mut(), map);
    match callback {
        HeadersCallback::New(callback) => callback.call(store, (id, fields, u32::from(end_of_stream))),
        HeadersCallback::Old(callback) => callback.call(store, (id, fields)),
    }
}

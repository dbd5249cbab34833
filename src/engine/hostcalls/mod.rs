//! The hostcall table: every function of ABI 0.1.0, 0.2.0 and 0.2.1, declared once.
//!
//! A line of the table gives the name, the parameters, the versions that have the call, where it may be called,
//! the handler, and what it answers besides `Ok`: `or` these in the ordinary course of things, these when `misused`. From it come the linker's entries, [`HOSTCALLS`] (for `wasm-remap inspect` and the
//! documentation) and the completeness test. One file holds one family of handlers.
//!
//! Handlers answer `Result<(), Error>`; [`Error::to_status`] turns that into the status that the guest gets, or
//! into a trap where no status serves.

mod buffers;
mod callouts;
mod context;
mod foreign;
mod foreign_data;
mod headers;
mod local_response;
mod logging;
mod metrics;
mod properties;
mod sdks;
mod shared;
mod signatures;
mod streams;

pub use foreign::{FOREIGN_FUNCTIONS, ForeignFunction};
pub(crate) use headers::check_field;
pub(crate) use logging::write_line;
pub use sdks::{Survives, assemblyscript_sdk, rust_sdk};
use wasmtime::Linker;

use crate::abi::{AbiVersion, Status};
use crate::error::Error;
use crate::memory::Guest;
use crate::state::VmState;
use crate::vm::{follow, recount};

/// A Wasm type of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamType {
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
}

/// How far a call is implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does what the specification says.
    Full,
    /// It does what the specification says, but for what the text names.
    Partial(&'static str),
    /// It links and always answers with this status, which SDKs take for an ordinary refusal.
    Refused(Status),
}

/// One hostcall, as a row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Hostcall {
    /// The import's name; its module is `env`.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Parameters, in order. The result is always one `i32`, the status.
    pub params: &'static [(&'static str, ParamType)],
    /// The ABI versions whose specification has it. Linked for all of them, since modules mix.
    pub versions: &'static [AbiVersion],
    /// How far it is implemented.
    pub support: Support,
    /// May be called while the guest's allocator or its start function runs.
    pub anywhere: bool,
    /// What it may answer a filter that does nothing wrong. First the usual one: [`Status::Ok`], unless it is refused.
    pub answers: &'static [Status],
    /// What else it may answer one that does: with wrong arguments, or from where the call makes no sense.
    pub misused: &'static [Status],
}

const ALL: &[AbiVersion] = AbiVersion::ALL;
const V0_1_0: &[AbiVersion] = &[AbiVersion::V0_1_0];
const SINCE_0_2_0: &[AbiVersion] = &[AbiVersion::V0_2_0, AbiVersion::V0_2_1];
const SINCE_0_2_1: &[AbiVersion] = &[AbiVersion::V0_2_1];

macro_rules! param_type {
    (i32) => {
        ParamType::I32
    };
    (i64) => {
        ParamType::I64
    };
}

/// What the table says of a handler.
macro_rules! support {
    (refused $status:ident) => {
        Support::Refused(Status::$status)
    };
    ($family:ident $function:ident) => {
        Support::Full
    };
    ($family:ident $function:ident $missing:literal) => {
        Support::Partial($missing)
    };
}

macro_rules! hostcalls {
    ($(
        $(#[doc = $doc:literal])+
        fn $name:ident ( $($arg:ident : $ty:ident),* $(,)? ) in $versions:ident $(, $anywhere:ident)? => $($handler:tt)::+ $(($status:ident))?
            $(, without $missing:literal)? $(, or $($or:ident)+)? $(, misused $($misused:ident)+)? ;
    )+) => {
        /// Every hostcall, in the order of the specification.
        pub const HOSTCALLS: &[Hostcall] = &[$(
            Hostcall {
                name: stringify!($name),
                doc: concat!($($doc),+).trim_ascii(),
                params: &[$((stringify!($arg), param_type!($ty))),*],
                versions: $versions,
                support: support!($($handler)+ $($status)? $($missing)?),
                anywhere: false $(|| hostcalls!(@anywhere $anywhere))?,
                answers: &[hostcalls!(@usual $($status)?) $(, $(Status::$or),+)?],
                misused: &[$($(Status::$misused),+)?],
            },
        )+];

        /// Makes every hostcall known to `linker`, under the module `env`.
        pub(crate) fn link(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
            $(
                linker.func_wrap("env", stringify!($name),
                    |mut guest: Guest<'_>, $($arg: $ty),*| -> wasmtime::Result<i32> {
                        const ANYWHERE: bool = false $(|| hostcalls!(@anywhere $anywhere))?;
                        follow(&mut guest);
                        if !ANYWHERE && guest.data().alloc.is_none() {
                            return fail(Error::Forbidden(stringify!($name)));
                        }
                        let given: u64 = 0 $(+ if const { counts(stringify!($arg)) } { $arg.bytes() } else { 0 })*;
                        hostcalls!(@call guest given ($($arg),*) $($handler)::+ $(($status))?)
                    })?;
            )+
            Ok(())
        }
    };
    (@anywhere anywhere) => { true };
    (@usual) => { Status::Ok };
    (@usual $status:ident) => { Status::$status };
    (@call $guest:ident $given:ident ($($arg:ident),*) refused ($status:ident)) => {{
        let _ = (&mut $guest, $given, $($arg),*);
        Ok(Status::$status as i32)
    }};
    (@call $guest:ident $given:ident ($($arg:ident),*) $family:ident :: $function:ident) => {{
        let result = $family::$function(&mut $guest $(, $arg)*);
        recount(&mut $guest);
        complete(account(&mut $guest, $given, result))
    }};
}

/// Whether a parameter of this name is the size of something that the guest hands over.
const fn counts(name: &str) -> bool {
    // The size of a place for a result is none, nor is the most that a result may have.
    const fn is(name: &[u8], at: usize, text: &[u8]) -> bool {
        let mut index = 0;
        while index < text.len() {
            if at + index >= name.len() || name[at + index] != text[index] {
                return false;
            }
            index += 1;
        }
        true
    }
    let name = name.as_bytes();
    let suffix = b"_size";
    name.len() > suffix.len()
        && is(name, name.len() - suffix.len(), suffix)
        && !is(name, 0, b"return_")
        && !is(name, 0, b"max_")
}

/// A parameter as a size.
trait Size: Copy {
    fn bytes(self) -> u64;
}

impl Size for i32 {
    #[inline]
    fn bytes(self) -> u64 {
        u64::from(self.cast_unsigned())
    }
}

impl Size for i64 {
    #[inline]
    fn bytes(self) -> u64 {
        0
    }
}

/// Counts what the guest handed over, unless it was not there to be taken.
#[inline]
fn account(guest: &mut Guest<'_>, given: u64, result: Result<(), Error>) -> Result<(), Error> {
    // A call that is refused may not have looked at all of it; and who named memory of nobody's has handed nothing over.
    let taken = matches!(result, Ok(()) | Err(Error::CasMismatch));
    if given > 0 && taken {
        guest.data_mut().count_moved(given)?;
    }
    result
}

hostcalls! {
    /// Ends a plugin context whose `proxy_on_done` answered false.
    fn proxy_done() in ALL => context::done, misused NotFound;
    /// Makes another context the one that calls act on.
    fn proxy_set_effective_context(context_id: i32) in ALL => context::set_effective_context, or BadArgument;

    /// Writes a line to the log.
    fn proxy_log(level: i32, message_data: i32, message_size: i32) in ALL, anywhere => logging::log, misused BadArgument;
    /// The level below which lines are dropped.
    fn proxy_get_log_level(return_level: i32) in SINCE_0_2_1, anywhere => logging::get_log_level, misused BadArgument;
    /// Nanoseconds since 1970.
    fn proxy_get_current_time_nanoseconds(return_time: i32) in ALL, anywhere => logging::get_current_time_nanoseconds, misused BadArgument;
    /// Sets the period of `proxy_on_tick` of this plugin context; zero ends it.
    fn proxy_set_tick_period_milliseconds(period: i32) in ALL => context::set_tick_period_milliseconds, misused BadArgument;

    /// The configuration of the plugin, or of the VM during `proxy_on_vm_start`.
    fn proxy_get_configuration(return_data: i32, return_size: i32) in V0_1_0 => buffers::get_configuration, misused NotFound BadArgument;
    /// Inserts into, appends to or replaces (parts of) a buffer.
    fn proxy_set_buffer_bytes(buffer_id: i32, offset: i32, size: i32, data: i32, data_size: i32) in ALL => buffers::set_buffer_bytes, misused NotFound BadArgument;
    /// Reads (part of) a buffer.
    fn proxy_get_buffer_bytes(buffer_id: i32, offset: i32, max_size: i32, return_data: i32, return_size: i32) in ALL => buffers::get_buffer_bytes, or NotFound, misused BadArgument;
    /// The size of a buffer.
    fn proxy_get_buffer_status(buffer_id: i32, return_size: i32, return_flags: i32) in ALL => buffers::get_buffer_status, or NotFound, misused BadArgument;

    /// The bytes that a map takes when encoded.
    fn proxy_get_header_map_size(map_id: i32, return_size: i32) in ALL => headers::get_header_map_size, misused BadArgument;
    /// All fields of a map, pseudo-headers first.
    fn proxy_get_header_map_pairs(map_id: i32, return_data: i32, return_size: i32) in ALL => headers::get_header_map_pairs, misused BadArgument;
    /// Makes these the only fields of a map.
    fn proxy_set_header_map_pairs(map_id: i32, pairs_data: i32, pairs_size: i32) in ALL => headers::set_header_map_pairs, misused BadArgument SerializationFailure;
    /// The first value of a field.
    fn proxy_get_header_map_value(map_id: i32, key_data: i32, key_size: i32, return_data: i32, return_size: i32) in ALL => headers::get_header_map_value, or NotFound, misused BadArgument;
    /// Adds a field, also beside others of its name.
    fn proxy_add_header_map_value(map_id: i32, key_data: i32, key_size: i32, value_data: i32, value_size: i32) in ALL => headers::add_header_map_value, misused BadArgument;
    /// Makes this the only value of a field.
    fn proxy_replace_header_map_value(map_id: i32, key_data: i32, key_size: i32, value_data: i32, value_size: i32) in ALL => headers::replace_header_map_value, misused BadArgument;
    /// Removes every field of a name.
    fn proxy_remove_header_map_value(map_id: i32, key_data: i32, key_size: i32) in ALL => headers::remove_header_map_value, misused BadArgument;

    /// Resumes a paused stream.
    fn proxy_continue_stream(stream_type: i32) in SINCE_0_2_0 => streams::continue_stream, misused NotFound BadArgument;
    /// Ends a stream.
    fn proxy_close_stream(stream_type: i32) in SINCE_0_2_0 => streams::close_stream, misused NotFound BadArgument;
    /// Resumes a paused request.
    fn proxy_continue_request() in V0_1_0 => streams::continue_request, misused NotFound;
    /// Resumes a paused response.
    fn proxy_continue_response() in V0_1_0 => streams::continue_response, misused NotFound;
    /// Has routes computed anew: nothing to do here, since a rule's chain runs before the remap settles.
    fn proxy_clear_route_cache() in V0_1_0 => streams::clear_route_cache;
    /// The status of the HTTP or gRPC call whose callback runs.
    fn proxy_get_status(return_code: i32, return_message_data: i32, return_message_size: i32) in ALL => callouts::get_status, misused BadArgument;
    /// Answers the request here and now.
    fn proxy_send_local_response(
        status_code: i32, details_data: i32, details_size: i32, body_data: i32, body_size: i32,
        headers_data: i32, headers_size: i32, grpc_status: i32
    ) in ALL => local_response::send_local_response, misused NotFound BadArgument SerializationFailure;

    /// Sends an HTTP request to a cluster.
    fn proxy_http_call(
        upstream_data: i32, upstream_size: i32, headers_data: i32, headers_size: i32, body_data: i32, body_size: i32,
        trailers_data: i32, trailers_size: i32, timeout: i32, return_call_id: i32
    ) in ALL => callouts::http_call, or BadArgument InternalFailure, misused SerializationFailure;
    /// Sends one gRPC message to a cluster and awaits one.
    fn proxy_grpc_call(
        upstream_data: i32, upstream_size: i32, service_data: i32, service_size: i32, method_data: i32, method_size: i32,
        metadata_data: i32, metadata_size: i32, message_data: i32, message_size: i32, timeout: i32, return_call_id: i32
    ) in ALL => callouts::grpc_call, or ParseFailure InternalFailure, misused BadArgument SerializationFailure;
    /// Opens a gRPC stream to a cluster.
    fn proxy_grpc_stream(
        upstream_data: i32, upstream_size: i32, service_data: i32, service_size: i32, method_data: i32, method_size: i32,
        metadata_data: i32, metadata_size: i32, return_stream_id: i32
    ) in ALL => callouts::grpc_stream, or ParseFailure InternalFailure, misused BadArgument SerializationFailure;
    /// Sends a message on a gRPC stream.
    fn proxy_grpc_send(stream_id: i32, message_data: i32, message_size: i32, end_stream: i32) in ALL => callouts::grpc_send, or NotFound BadArgument;
    /// Cancels a gRPC call or stream: nothing more of it is delivered.
    fn proxy_grpc_cancel(call_id: i32) in ALL => callouts::grpc_cancel, or NotFound;
    /// Closes this side of a gRPC stream, or ends a call.
    fn proxy_grpc_close(call_id: i32) in ALL => callouts::grpc_close, or NotFound;

    /// Writes a key of the shared data of this VM id, if its version is the given one.
    fn proxy_set_shared_data(key_data: i32, key_size: i32, value_data: i32, value_size: i32, cas: i32) in ALL => shared::set_shared_data, or CasMismatch, misused BadArgument;
    /// Reads a key of the shared data of this VM id, with its version.
    fn proxy_get_shared_data(key_data: i32, key_size: i32, return_value_data: i32, return_value_size: i32, return_cas: i32) in ALL => shared::get_shared_data, or NotFound, misused BadArgument;
    /// Creates a queue, or makes this plugin context the consumer of one that is there.
    fn proxy_register_shared_queue(name_data: i32, name_size: i32, return_queue_id: i32) in ALL => shared::register_shared_queue, misused BadArgument;
    /// The id of a queue of another VM id.
    fn proxy_resolve_shared_queue(vm_id_data: i32, vm_id_size: i32, name_data: i32, name_size: i32, return_queue_id: i32) in ALL => shared::resolve_shared_queue, or NotFound, misused BadArgument;
    /// Puts an item into a queue.
    fn proxy_enqueue_shared_queue(queue_id: i32, value_data: i32, value_size: i32) in ALL => shared::enqueue_shared_queue, or NotFound, misused BadArgument;
    /// Takes the oldest item out of a queue.
    fn proxy_dequeue_shared_queue(queue_id: i32, return_data: i32, return_size: i32) in ALL => shared::dequeue_shared_queue, or Empty NotFound, misused BadArgument;

    /// Creates a metric, or finds the one of this name.
    fn proxy_define_metric(metric_type: i32, name_data: i32, name_size: i32, return_metric_id: i32) in ALL => metrics::define_metric, misused BadArgument;
    /// Sets a gauge, adds to a counter, records in a histogram.
    fn proxy_record_metric(metric_id: i32, value: i64) in ALL => metrics::record_metric, or NotFound;
    /// Adds to a counter or gauge.
    fn proxy_increment_metric(metric_id: i32, offset: i64) in ALL => metrics::increment_metric, or NotFound BadArgument;
    /// Reads a counter or gauge.
    fn proxy_get_metric(metric_id: i32, return_value: i32) in ALL => metrics::get_metric, or NotFound BadArgument;

    /// Reads a property of the stream, the plugin or the host.
    fn proxy_get_property(path_data: i32, path_size: i32, return_data: i32, return_size: i32) in ALL => properties::get_property, or NotFound, misused BadArgument;
    /// Sets a property of the host's, or keeps a value for later filters of the stream.
    fn proxy_set_property(path_data: i32, path_size: i32, value_data: i32, value_size: i32) in ALL => properties::set_property, misused NotFound BadArgument;
    /// Calls a function that the host offers beyond the ABI.
    fn proxy_call_foreign_function(
        name_data: i32, name_size: i32, arguments_data: i32, arguments_size: i32, return_data: i32, return_size: i32
    ) in ALL => foreign::call_foreign_function, or NotFound BadArgument SerializationFailure;
}

/// The calls of 0.1.0 that its text gives no result, though the hosts of its time returned a status. Modules import
/// them both ways.
pub(crate) const VOID_IN_0_1_0: &[&str] =
    &["proxy_continue_request", "proxy_continue_response", "proxy_clear_route_cache"];

/// Replaces [`VOID_IN_0_1_0`] by versions without a result.
pub(crate) fn link_void(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap("env", "proxy_continue_request", |mut guest: Guest<'_>| {
        follow(&mut guest);
        complete(streams::continue_request(&mut guest)).map(drop)
    })?;
    linker.func_wrap("env", "proxy_continue_response", |mut guest: Guest<'_>| {
        follow(&mut guest);
        complete(streams::continue_response(&mut guest)).map(drop)
    })?;
    linker.func_wrap("env", "proxy_clear_route_cache", |mut guest: Guest<'_>| {
        follow(&mut guest);
        complete(streams::clear_route_cache(&mut guest)).map(drop)
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Also imported by C++ modules that emscripten built: nothing to do, and nothing to return.
pub(crate) fn link_emscripten(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
    linker.func_wrap("env", "emscripten_notify_memory_growth", |_: i32| {})?;
    linker.func_wrap("env", "pthread_equal", |left: i32, right: i32| i32::from(left == right))?;
    Ok(())
}

/// The status of a call that has run, or its trap.
#[inline]
fn complete(result: Result<(), Error>) -> wasmtime::Result<i32> {
    match result {
        Ok(()) => Ok(Status::Ok as i32),
        Err(error) => fail(error),
    }
}

#[cold]
fn fail(error: Error) -> wasmtime::Result<i32> {
    match error.to_status() {
        Some(status) => {
            log::trace!(target: "wasm_remap::hostcall", "answered {status:?}: {error}");
            Ok(status as i32)
        }
        None => Err(match error {
            Error::Wasm(error) => error,
            error => wasmtime::Error::new(error),
        }),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod calls;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_documented() {
        let mut names: Vec<_> = HOSTCALLS.iter().map(|call| call.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(HOSTCALLS.iter().all(|call| !call.doc.is_empty() && !call.versions.is_empty()));
    }

    /// The specification's lists of host functions, version by version.
    #[test]
    fn every_function_of_every_version_is_there() {
        const COMMON: &[&str] = &[
            "proxy_done",
            "proxy_set_effective_context",
            "proxy_log",
            "proxy_get_current_time_nanoseconds",
            "proxy_set_tick_period_milliseconds",
            "proxy_set_buffer_bytes",
            "proxy_get_buffer_bytes",
            "proxy_get_buffer_status",
            "proxy_get_header_map_size",
            "proxy_get_header_map_pairs",
            "proxy_set_header_map_pairs",
            "proxy_get_header_map_value",
            "proxy_add_header_map_value",
            "proxy_replace_header_map_value",
            "proxy_remove_header_map_value",
            "proxy_get_status",
            "proxy_send_local_response",
            "proxy_http_call",
            "proxy_grpc_call",
            "proxy_grpc_stream",
            "proxy_grpc_send",
            "proxy_grpc_cancel",
            "proxy_grpc_close",
            "proxy_set_shared_data",
            "proxy_get_shared_data",
            "proxy_register_shared_queue",
            "proxy_resolve_shared_queue",
            "proxy_enqueue_shared_queue",
            "proxy_dequeue_shared_queue",
            "proxy_define_metric",
            "proxy_record_metric",
            "proxy_increment_metric",
            "proxy_get_metric",
            "proxy_get_property",
            "proxy_set_property",
            "proxy_call_foreign_function",
        ];
        const ONLY: &[(&str, &[AbiVersion])] = &[
            ("proxy_get_configuration", V0_1_0),
            ("proxy_continue_request", V0_1_0),
            ("proxy_continue_response", V0_1_0),
            ("proxy_clear_route_cache", V0_1_0),
            ("proxy_continue_stream", SINCE_0_2_0),
            ("proxy_close_stream", SINCE_0_2_0),
            ("proxy_get_log_level", SINCE_0_2_1),
        ];
        let find = |name: &str| HOSTCALLS.iter().find(|call| call.name == name).unwrap_or_else(|| panic!("{name}"));
        for name in COMMON {
            assert_eq!(find(name).versions, ALL, "{name}");
        }
        for (name, versions) in ONLY {
            assert_eq!(find(name).versions, *versions, "{name}");
        }
        assert_eq!(HOSTCALLS.len(), COMMON.len() + ONLY.len());
    }

    #[test]
    fn sizes_of_what_guests_hand_over_are_known_by_their_names() {
        let counted: Vec<_> = HOSTCALLS
            .iter()
            .flat_map(|call| call.params.iter().map(|(name, _)| *name))
            .filter(|name| counts(name))
            .collect();
        assert!(counted.iter().all(|name| !name.starts_with("return") && *name != "max_size"));
        for call in HOSTCALLS {
            // Whoever takes bytes says how many.
            let given = call.params.iter().filter(|(name, _)| name.ends_with("_data") && !name.starts_with("return"));
            let sizes = call.params.iter().filter(|(name, _)| counts(name)).count();
            let buffer = usize::from(call.name == "proxy_set_buffer_bytes");
            assert_eq!(sizes, given.count() + buffer, "{}", call.name);
        }
    }

    #[test]
    fn refusals_are_statuses_that_sdks_know() {
        for call in HOSTCALLS {
            if let Support::Refused(status) = call.support {
                assert!(status.is_known_to_sdks(), "{}", call.name);
            }
        }
    }
}

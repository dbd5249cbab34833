//! What the SDKs survive of what hostcalls answer.
//!
//! A trap costs the VM and every transaction in it, and two SDKs trap on statuses that they do not expect. So no call
//! answers a filter that does nothing wrong with anything that its SDK does not bear; a test holds every row of the
//! hostcall table to that. The C++ SDK hands any status to the filter; the Go SDK does too, those without a name
//! there (3 and 4 of ours) as an error that says "unknown status code".

use crate::abi::Status;

/// What an SDK makes of a call's answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Survives {
    /// It has no wrapper for the call.
    NotCalled,
    /// These, and it traps on others.
    These(&'static [Status]),
    /// Any that it has a name for.
    Any,
}

/// Of `proxy-wasm` 0.2.5, `hostcalls.rs`: what its `match` of a status lists; the rest is `panic!`.
#[must_use]
pub fn rust_sdk(hostcall: &str) -> Survives {
    use Status::{BadArgument, CasMismatch, Empty, InternalFailure, NotFound, Ok, ParseFailure, SerializationFailure};
    Survives::These(match hostcall {
        "proxy_get_buffer_bytes"
        | "proxy_get_header_map_value"
        | "proxy_get_shared_data"
        | "proxy_resolve_shared_queue"
        | "proxy_enqueue_shared_queue"
        | "proxy_grpc_cancel"
        | "proxy_grpc_close"
        | "proxy_record_metric" => &[Ok, NotFound],
        "proxy_get_metric" | "proxy_increment_metric" | "proxy_grpc_send" => &[Ok, NotFound, BadArgument],
        "proxy_get_property" => &[Ok, NotFound, SerializationFailure, InternalFailure],
        "proxy_set_shared_data" => &[Ok, CasMismatch],
        "proxy_dequeue_shared_queue" => &[Ok, NotFound, Empty],
        "proxy_http_call" => &[Ok, BadArgument, InternalFailure],
        "proxy_grpc_call" | "proxy_grpc_stream" => &[Ok, ParseFailure, InternalFailure],
        "proxy_set_effective_context" => &[Ok, BadArgument],
        "proxy_call_foreign_function" => &[Ok, NotFound, BadArgument, SerializationFailure, InternalFailure],
        "proxy_get_configuration"
        | "proxy_get_buffer_status"
        | "proxy_get_header_map_size"
        | "proxy_continue_request"
        | "proxy_continue_response"
        | "proxy_clear_route_cache" => return Survives::NotCalled,
        _ => &[Ok],
    })
}

/// Of `@solo-io/proxy-runtime` 0.1.8, `runtime.ts`: what it throws an error for unless it is `Ok`.
#[must_use]
pub fn assemblyscript_sdk(hostcall: &str) -> Survives {
    match hostcall {
        "proxy_get_status"
        | "proxy_set_tick_period_milliseconds"
        | "proxy_get_current_time_nanoseconds"
        | "proxy_get_property"
        | "proxy_set_header_map_pairs"
        | "proxy_replace_header_map_value"
        | "proxy_remove_header_map_value"
        | "proxy_get_header_map_size"
        | "proxy_define_metric" => Survives::These(&[Status::Ok]),
        "proxy_get_log_level"
        | "proxy_get_configuration"
        | "proxy_set_buffer_bytes"
        | "proxy_close_stream"
        | "proxy_continue_request"
        | "proxy_continue_response"
        | "proxy_grpc_stream"
        | "proxy_grpc_send"
        | "proxy_grpc_cancel"
        | "proxy_grpc_close"
        | "proxy_get_metric"
        | "proxy_call_foreign_function" => Survives::NotCalled,
        _ => Survives::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostcalls::HOSTCALLS;

    /// The one ordinary answer that an SDK does not bear. Envoy gives it, too, and so does the specification: there
    /// is no other way to say that a property has no value.
    const KNOWN: &[(&str, Status)] = &[("proxy_get_property", Status::NotFound)];

    #[test]
    fn what_calls_answer_is_what_sdks_survive() {
        for call in HOSTCALLS {
            for (sdk, survives) in [("Rust", rust_sdk(call.name)), ("AssemblyScript", assemblyscript_sdk(call.name))] {
                let Survives::These(borne) = survives else { continue };
                for status in call.answers.iter().filter(|status| !borne.contains(status)) {
                    let known = sdk == "AssemblyScript" && KNOWN.contains(&(call.name, *status));
                    assert!(known, "the {sdk} SDK traps when {} answers {status:?}", call.name);
                }
            }
        }
    }

    #[test]
    fn no_call_answers_what_no_sdk_knows() {
        for call in HOSTCALLS {
            assert!(call.answers.iter().chain(call.misused).all(|status| status.is_known_to_sdks()), "{}", call.name);
            assert!(!call.answers.is_empty() && call.misused.iter().all(|status| !call.answers.contains(status)));
        }
    }
}

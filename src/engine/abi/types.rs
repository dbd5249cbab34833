//! Enumerations that cross the border as `i32`, with the numbers the specification gives them.

/// Builds an enumeration of the ABI together with its checked conversion from the wire's `i32`.
macro_rules! wire_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(i32)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)+ }

        impl $name {
            /// Every variant, in the order of its number.
            pub const ALL: &'static [$name] = &[$($name::$variant,)+];

            /// The variant with this number, if the ABI has one.
            #[must_use]
            pub const fn from_wire(value: i32) -> Option<Self> {
                match value {
                    $($value => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

wire_enum! {
    /// `proxy_status_t`, and the statuses above 10 that cpp-host defines beyond the specification.
    ///
    /// The Rust SDK knows 0-4, 7, 8 and 10 alone: any other number is undefined behaviour in the guest, so
    /// [`Status::is_known_to_sdks`] is asserted wherever a status leaves for a guest.
    Status {
        /// The call did what it says.
        Ok = 0,
        /// No such item.
        NotFound = 1,
        /// An argument is wrong, or the item cannot be used now.
        BadArgument = 2,
        /// Serialised input did not parse.
        SerializationFailure = 3,
        /// An upstream's name did not resolve to anything (`proxy_grpc_*`).
        ParseFailure = 4,
        /// A pointer or size lies outside the guest's memory.
        InvalidMemoryAccess = 6,
        /// A queue is empty.
        Empty = 7,
        /// Compare-and-swap: somebody else was first.
        CasMismatch = 8,
        /// The host failed; also the answer for a call that this host does not offer.
        InternalFailure = 10,
        /// Not implemented. Never sent to guests: see [`Status::is_known_to_sdks`].
        Unimplemented = 12,
    }
}

impl Status {
    /// Whether the SDKs' own status enumerations have this value.
    #[must_use]
    pub const fn is_known_to_sdks(self) -> bool {
        !matches!(self, Status::InvalidMemoryAccess | Status::Unimplemented)
    }
}

wire_enum! {
    /// `proxy_log_level_t`.
    LogLevel {
        /// The finest grain.
        Trace = 0,
        /// For whoever debugs the filter.
        Debug = 1,
        /// Ordinary events.
        Info = 2,
        /// Something is off, and handled.
        Warn = 3,
        /// Something failed.
        Error = 4,
        /// The filter cannot go on.
        Critical = 5,
    }
}

impl LogLevel {
    /// The level as it stands in log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warn => "warn",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
        }
    }
}

wire_enum! {
    /// `proxy_buffer_type_t`.
    BufferType {
        /// The body chunk of the request, or what is buffered of it.
        HttpRequestBody = 0,
        /// The body chunk of the response, or what is buffered of it.
        HttpResponseBody = 1,
        /// Bytes of a TCP stream from the client. No stream contexts exist here: always absent.
        DownstreamData = 2,
        /// Bytes of a TCP stream from the origin. No stream contexts exist here: always absent.
        UpstreamData = 3,
        /// The body of the answer to `proxy_http_call`.
        HttpCallResponseBody = 4,
        /// A message of a gRPC call or stream.
        GrpcCallMessage = 5,
        /// `vm_configuration`.
        VmConfiguration = 6,
        /// `configuration` of the filter.
        PluginConfiguration = 7,
        /// Arguments of `proxy_on_foreign_function`.
        ForeignFunctionArguments = 8,
    }
}

wire_enum! {
    /// `proxy_map_type_t`.
    MapType {
        /// Header fields of the request.
        HttpRequestHeaders = 0,
        /// Trailer fields of the request.
        HttpRequestTrailers = 1,
        /// Header fields of the response.
        HttpResponseHeaders = 2,
        /// Trailer fields of the response.
        HttpResponseTrailers = 3,
        /// Initial metadata of a gRPC call or stream.
        GrpcCallInitialMetadata = 4,
        /// Trailing metadata of a gRPC call or stream.
        GrpcCallTrailingMetadata = 5,
        /// Header fields of the answer to `proxy_http_call`.
        HttpCallResponseHeaders = 6,
        /// Trailer fields of the answer to `proxy_http_call`.
        HttpCallResponseTrailers = 7,
    }
}

wire_enum! {
    /// `proxy_stream_type_t`.
    StreamType {
        /// The HTTP request.
        HttpRequest = 0,
        /// The HTTP response.
        HttpResponse = 1,
        /// Bytes from the client.
        Downstream = 2,
        /// Bytes from the origin.
        Upstream = 3,
    }
}

wire_enum! {
    /// `proxy_metric_type_t`.
    MetricType {
        /// Only grows.
        Counter = 0,
        /// Goes up and down.
        Gauge = 1,
        /// A distribution.
        Histogram = 2,
    }
}

wire_enum! {
    /// `proxy_peer_type_t`.
    PeerType {
        /// Not known.
        Unknown = 0,
        /// This side closed.
        Local = 1,
        /// The other side closed.
        Remote = 2,
    }
}

/// What a callback for headers asks the host to do next.
///
/// Every "stop" of Envoy's vocabulary (1 StopIteration, 3 …AndBuffer, 4 …AndWatermark and above) holds the
/// stream here; 2 (ContinueAndEndStream) continues, as in Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Go on with the next filter.
    Continue,
    /// Hold the stream until `proxy_continue_stream`.
    Pause,
}

impl Action {
    /// The meaning of a return value of `proxy_on_request_headers` and `proxy_on_response_headers`.
    #[must_use]
    pub const fn from_headers_result(value: i32) -> Self {
        match value {
            0 | 2 => Action::Continue,
            _ => Action::Pause,
        }
    }
}

/// What a callback for a body asks the host to do next.
///
/// As Envoy reads the number: 1 is StopIterationAndBuffer, 2 …AndWatermark, 3 and above …NoBuffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyAction {
    /// Pass on what the filter has before it.
    Continue,
    /// Keep it and go on reading: the next callback sees all of it.
    Buffer,
    /// Keep it and stop reading when there is much of it.
    Watermark,
    /// Drop it and pass nothing on: the filter has it.
    NoBuffer,
}

impl BodyAction {
    /// The meaning of a return value of `proxy_on_request_body` and `proxy_on_response_body`.
    #[must_use]
    pub const fn from_body_result(value: i32) -> Self {
        match value {
            0 => BodyAction::Continue,
            1 => BodyAction::Buffer,
            2 => BodyAction::Watermark,
            _ => BodyAction::NoBuffer,
        }
    }
}

/// The ABI version that a module declares with its marker export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AbiVersion {
    /// `proxy_abi_version_0_1_0`: header callbacks without `end_of_stream`; a missing header reads as empty.
    V0_1_0,
    /// `proxy_abi_version_0_2_0`.
    V0_2_0,
    /// `proxy_abi_version_0_2_1`.
    V0_2_1,
}

impl AbiVersion {
    /// Every version, oldest first.
    pub const ALL: &'static [AbiVersion] = &[AbiVersion::V0_1_0, AbiVersion::V0_2_0, AbiVersion::V0_2_1];

    /// The export by which a module declares this version.
    #[must_use]
    pub const fn marker(self) -> &'static str {
        match self {
            AbiVersion::V0_1_0 => "proxy_abi_version_0_1_0",
            AbiVersion::V0_2_0 => "proxy_abi_version_0_2_0",
            AbiVersion::V0_2_1 => "proxy_abi_version_0_2_1",
        }
    }

    /// The version as people write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            AbiVersion::V0_1_0 => "0.1.0",
            AbiVersion::V0_2_0 => "0.2.0",
            AbiVersion::V0_2_1 => "0.2.1",
        }
    }
}

/// A callback of the guest, for messages, metrics and the question which phase a hostcall runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Callback {
    /// `_initialize`, `main` or `_start`.
    Start,
    /// `proxy_on_context_create`.
    ContextCreate,
    /// `proxy_on_vm_start`.
    VmStart,
    /// `proxy_on_configure`.
    Configure,
    /// `proxy_on_tick`.
    Tick,
    /// `proxy_on_http_call_response`.
    HttpCallResponse,
    /// `proxy_on_grpc_receive_initial_metadata`.
    GrpcReceiveInitialMetadata,
    /// `proxy_on_grpc_receive`.
    GrpcReceive,
    /// `proxy_on_grpc_receive_trailing_metadata`.
    GrpcReceiveTrailingMetadata,
    /// `proxy_on_grpc_close`.
    GrpcClose,
    /// `proxy_on_queue_ready`.
    QueueReady,
    /// `proxy_on_request_headers`.
    RequestHeaders,
    /// `proxy_on_request_body`.
    RequestBody,
    /// `proxy_on_response_headers`.
    ResponseHeaders,
    /// `proxy_on_response_body`.
    ResponseBody,
    /// `proxy_on_done`.
    Done,
    /// `proxy_on_log`.
    Log,
    /// `proxy_on_delete`.
    Delete,
}

impl Callback {
    /// The export's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Callback::Start => "_initialize",
            Callback::ContextCreate => "proxy_on_context_create",
            Callback::VmStart => "proxy_on_vm_start",
            Callback::Configure => "proxy_on_configure",
            Callback::Tick => "proxy_on_tick",
            Callback::HttpCallResponse => "proxy_on_http_call_response",
            Callback::GrpcReceiveInitialMetadata => "proxy_on_grpc_receive_initial_metadata",
            Callback::GrpcReceive => "proxy_on_grpc_receive",
            Callback::GrpcReceiveTrailingMetadata => "proxy_on_grpc_receive_trailing_metadata",
            Callback::GrpcClose => "proxy_on_grpc_close",
            Callback::QueueReady => "proxy_on_queue_ready",
            Callback::RequestHeaders => "proxy_on_request_headers",
            Callback::RequestBody => "proxy_on_request_body",
            Callback::ResponseHeaders => "proxy_on_response_headers",
            Callback::ResponseBody => "proxy_on_response_body",
            Callback::Done => "proxy_on_done",
            Callback::Log => "proxy_on_log",
            Callback::Delete => "proxy_on_delete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_numbers_round_trip() {
        for &status in Status::ALL {
            assert_eq!(Status::from_wire(status as i32), Some(status));
        }
        for &map in MapType::ALL {
            assert_eq!(MapType::from_wire(map as i32), Some(map));
        }
        assert_eq!(BufferType::from_wire(9), None);
        assert_eq!(LogLevel::from_wire(-1), None);
    }

    #[test]
    fn header_actions_follow_envoy() {
        assert_eq!(Action::from_headers_result(0), Action::Continue);
        assert_eq!(Action::from_headers_result(1), Action::Pause);
        assert_eq!(Action::from_headers_result(2), Action::Continue);
        assert_eq!(Action::from_headers_result(3), Action::Pause);
        assert_eq!(Action::from_headers_result(77), Action::Pause);
    }
}

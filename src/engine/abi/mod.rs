//! The words of the Proxy-Wasm ABI: enumerations, statuses, versions and the encoding of maps.
//!
//! Mirrors `abi-versions/v0.2.1` of the specification; where 0.1.0 and 0.2.0 differ, the item says so.

pub mod pairs;
mod types;

pub use types::{
    AbiVersion, Action, BodyAction, BufferType, Callback, LogLevel, MapType, MetricType, PeerType, Status, StreamType,
};

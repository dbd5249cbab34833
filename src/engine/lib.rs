//! Proxy-Wasm on wasmtime: modules, VMs, contexts, hostcalls, chains. Knows no proxy.
//!
//! A host (the ATS plugin, the `wasm-remap` command, a test) makes one [`Runtime`] for its process, loads
//! [`Chain`]s from configuration files, and drives a [`Stream`] through each transaction, giving it a
//! [`StreamHost`] by which filters see and change that transaction.
//!
//! ```text
//! Runtime ── Module (compiled once) ── Pool (one a VM key) ── Slot (one an event thread) ── Vm
//!    Chain ── Filter ── Plugin (a root context in every VM of its pool)
//!       Stream (one transaction) ── StreamCell (host and effects, shared with the VMs)
//! ```
#![deny(unsafe_code)]

pub mod abi;
mod answer;
mod backoff;
mod body;
mod breaker;
mod capabilities;
mod cell;
mod chain;
mod code;
pub mod config;
mod contexts;
mod counters;
mod engines;
mod error;
pub mod files;
mod host;
mod hostcalls;
pub mod inspect;
pub mod journal;
mod limits;
mod matching;
mod memory;
mod module;
pub mod observe;
mod pool;
mod runtime;
mod sections;
mod service;
mod settings;
pub mod shared;
mod spec;
mod state;
mod station;
mod stream;
pub mod testing;
mod upstreams;
mod vm;
mod wasi;

pub use body::{BodyBuffer, Bytes, Side};
pub use capabilities::Capabilities;
pub use cell::StreamCell;
pub use chain::{Chain, Filter, Needs};
pub use config::{At, Body, FailurePolicy, Isolation, RequestBody};
pub use counters::Counters;
pub use engines::Compiler;
pub use error::{Error, Trap, TrapKind};
pub use host::{LocalResponse, PseudoHeader, StreamHost, Waker};
pub use hostcalls::{
    FOREIGN_FUNCTIONS, ForeignFunction, HOSTCALLS, Hostcall, ParamType, Support, Survives, assemblyscript_sdk, rust_sdk,
};
pub use journal::GUEST_TARGET;
pub use limits::{Limit, Limits};
pub use matching::{Participants, RequestView, host_and_port};
pub use module::{Digest, Exported, Module};
pub use observe::{CalloutOutcome, FilterStats};
pub use runtime::{Options, Runtime};
pub use station::Errand;
pub use stream::{Passed, Stream, Verdict};
pub use wasi::{Errno, WASI, WasiFunction, WasiSupport};

//! Safe wrappers over the plugin API of Apache Traffic Server (ATS).
//!
//! What can be said in types is said there: whose memory a pointer is, what invalidates it, that a transaction is
//! re-enabled exactly once. What cannot is in the documentation of each item, which names the `TS*` function that
//! it mirrors. One subject a file:
//!
//! | module | subject |
//! | --- | --- |
//! | [`guard`](mod@guard) | the one door through which ATS calls us: no panic passes it |
//! | [`txn`], [`messages`], [`hook`] | a transaction; its messages; the duty to re-enable it |
//! | [`headers`], [`http`], [`url`] | header fields; request and status lines; URLs |
//! | [`remap`] | what the `TSRemap*` entry points are given |
//! | [`txn_hooks`] | what is done at the hooks of a transaction, with a continuation that the thread has kept |
//! | [`transform`], [`transform_io`], [`wake`] | transforms of bodies: their life, what they do, how they are woken |
//! | [`iobuf`], [`vio`] | the buffers that bodies are in; their way from one side to the other |
//! | [`txn_body`] | bodies without a transform |
//! | [`session`], [`tls`], [`certificate`] | the connections of a transaction, and who is at their ends |
//! | [`routing`], [`record`] | where it goes, what the cache makes of it; records that it overrides |
//! | [`cont`], [`schedule`], [`bell`], [`event`], [`thread`] | continuations, timers, calls from other threads, event numbers, threads |
//! | [`log`](mod@log), [`text_log`] | diagnostics; log files of our own |
//! | [`stats`], [`mgmt`], [`alloc`] | counters, records, memory that ATS will free |
//! | [`global`] | pointers and numbers by which copies of the plugin find each other |
//! | [`counting`] | which thread runs a callback of ours, for builds that count allocations |
//! | [`lifecycle`] | messages of the operator's |
//!
//! **Threads.** ATS calls a plugin on its event threads, and a transaction keeps its thread. Everything here may be
//! called on those threads alone, except what says otherwise; the transaction types are therefore not `Send`. The
//! exceptions are [`hook::Reenable`], [`wake::Waker`], [`bell::Bell`], [`text_log::TextLog`], the logging functions and the `mgmt` reads.
//!
//! **Re-entrancy.** Re-enabling a transaction on its own thread runs the rest of it inside the caller's stack: later
//! hooks, other plugins and the close. A handler therefore gets `&self`, and no lock, borrow or header slice may be
//! alive at that point; [`hook::Hook::resume`] takes the hook by value so that the compiler refuses the latter.

pub mod addr;
pub mod alloc;
pub mod bell;
pub mod certificate;
pub mod chunked;
pub mod cont;
pub mod counting;
pub mod error;
pub mod event;
pub mod global;
#[macro_use]
pub mod guard;
pub mod handle;
pub mod headers;
pub mod hook;
pub mod http;
pub mod iobuf;
mod known_field;
pub mod lifecycle;
pub mod log;
pub mod messages;
pub mod mgmt;
pub mod raw_slice;
pub mod record;
pub mod remap;
pub mod routing;
pub mod schedule;
pub mod session;
pub mod share;
pub mod stats;
pub mod text_log;
pub mod thread;
pub mod tls;
pub mod transform;
pub mod transform_guard;
pub mod transform_io;
pub mod txn;
pub mod txn_body;
pub mod txn_hooks;
pub mod url;
pub mod vio;
pub mod wake;

pub use ats_sys as sys;
pub use error::{Error, Result};

// Links the TS* symbols that unit tests reach; outside of tests they exist only in traffic_server.
#[cfg(test)]
use fake_ats as _;

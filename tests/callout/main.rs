//! Callouts against real servers on the loopback address: nothing here is a mock.
#![forbid(unsafe_code)]

mod endpoints;
mod failures;
mod grpc;
mod http;
mod latency;
mod pools;
mod support;
mod tls;

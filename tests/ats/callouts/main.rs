//! HTTP calls of filters on a real traffic_server: what the callback is told, what the client gets, and what is left.
#![forbid(unsafe_code)]

mod busy;
mod ext_auth;
mod gone;
mod limits;
mod lives;
mod outcomes;
mod phases;
mod support;

//! The other tests of this folder once more, with every filter compiled by Winch: nothing of what they say depends on the
//! compiler. But for those of the shared state, which hardly enter a guest.

#![allow(clippy::duplicate_mod, reason = "each of them has its own, as in the program that it is by itself")]

#[path = "bodies.rs"]
mod bodies;
#[path = "capabilities.rs"]
mod capabilities;
#[path = "deliveries.rs"]
mod deliveries;
#[path = "loading.rs"]
mod loading;
#[path = "streams.rs"]
mod streams;

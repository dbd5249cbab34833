//! The other tests of this folder once more, with every filter compiled by Winch: nothing of what they say depends on the
//! compiler.

#[path = "bodies.rs"]
mod bodies;
#[path = "capabilities.rs"]
mod capabilities;
#[path = "deliveries.rs"]
mod deliveries;
#[path = "loading.rs"]
mod loading;
#[path = "shared.rs"]
mod shared;
#[path = "streams.rs"]
mod streams;

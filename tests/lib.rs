//! The harness of the tests that cross crates: a private traffic_server, a scripted origin, a client that sees
//! every byte, and a load generator.
//!
//! ```no_run
//! use wasm_remap_tests::{Client, Origin, Reply, Rule, TrafficServer};
//!
//! let origin = Origin::start();
//! origin.route("/hello", Reply::new(200).body("hi"));
//! let server = TrafficServer::builder()
//!     .origin(&origin)
//!     .rule(Rule::new("shop.test", "http://{origin}/").wasm(["filters/shop.yaml"]))
//!     .file("filters/shop.yaml", "filters:\n  - name: headers\n    module: {guest:headers}\n")
//!     .start();
//! let response = Client::connect(server.port()).get("shop.test", "/hello");
//! assert_eq!((response.status, response.text()), (200, "hi".into()));
//! assert_eq!(origin.requests()[0].headers.get("host").as_deref(), Some("shop.test"));
//! ```
//!
//! Nothing here is skipped: what a test needs and the machine lacks is a panic that says what to install or build.
#![forbid(unsafe_code)]

pub mod harness;

pub use harness::artifacts;
pub use harness::ask::{Ask, Sending};
pub use harness::client::{Client, ClientError, Connection, Response, Writer, get};
pub use harness::config::{RecordValue, Rule};
pub use harness::http::{Fields, Framing};
pub use harness::http2::{Exchange, Http2, Http2Error};
pub use harness::load;
pub use harness::log::Mark;
pub use harness::origin::{Handler, Hold, Origin, Reply, Request};
pub use harness::payload::{self, Payload};
pub use harness::server::{Builder, Exit, TrafficServer};
pub use harness::strict;
pub use harness::upstream::{GrpcUpstream, Upstream};
pub use harness::wait_until;

//! The seam between the engine and whoever runs it: the ATS plugin, the offline runner, a test.
//!
//! The engine knows Proxy-Wasm and no proxy; a host knows one proxy and no Proxy-Wasm. What a filter may see
//! and change of one transaction goes through [`StreamHost`]; what it asks to happen to that transaction is
//! recorded as an effect and applied by the host later (see [`crate::StreamCell`]).

use std::any::Any;

use crate::abi::{Callback, MapType};
use crate::error::Error;

/// A header that stands for a part of the request or status line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PseudoHeader {
    /// `:method`.
    Method,
    /// `:path`: path and query, as the client sent them.
    Path,
    /// `:authority`: host and, where not the default, port.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `:status`, three digits.
    Status,
}

impl PseudoHeader {
    /// Those of a request, in the order in which they lead its pairs.
    pub const REQUEST: [PseudoHeader; 4] =
        [PseudoHeader::Method, PseudoHeader::Path, PseudoHeader::Authority, PseudoHeader::Scheme];
    /// Those of a response.
    pub const RESPONSE: [PseudoHeader; 1] = [PseudoHeader::Status];

    /// The name with its colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            PseudoHeader::Method => ":method",
            PseudoHeader::Path => ":path",
            PseudoHeader::Authority => ":authority",
            PseudoHeader::Scheme => ":scheme",
            PseudoHeader::Status => ":status",
        }
    }

    /// The pseudo-headers of a map; empty for maps that have none.
    #[must_use]
    pub const fn of_map(map: MapType) -> &'static [PseudoHeader] {
        match map {
            MapType::HttpRequestHeaders => &Self::REQUEST,
            MapType::HttpResponseHeaders => &Self::RESPONSE,
            _ => &[],
        }
    }

    /// The pseudo-header of `map` with this name, colon included.
    #[must_use]
    pub fn find(map: MapType, name: &[u8]) -> Option<Self> {
        if name.first() != Some(&b':') {
            return None;
        }
        Self::of_map(map).iter().copied().find(|pseudo| pseudo.as_str().as_bytes() == name)
    }
}

/// One transaction, as its filters may see and change it.
///
/// Called with the VM entered, so an implementation must neither enter a VM nor run the proxy's state machine.
/// Every method may be called in every callback; what does not exist (yet, or any more) is
/// [`Error::NotFound`], which the engine turns into the answer that SDKs expect there.
///
/// Names are compared without regard to case. Names and values have been checked by the engine before they
/// come here: no CR, LF or NUL, names are tokens.
pub trait StreamHost: Any + Send {
    /// The stream is over, and the engine lets go of its host: it may be kept for another stream. Called at most once,
    /// and not if the stream was abandoned; on whichever thread ends the stream.
    fn retire(self: Box<Self>) {}

    /// A callback of the guest begins: handles kept from an earlier one may be stale now.
    ///
    /// Callbacks that follow each other are entered as one, and a host that does not [watch](StreamHost::is_watching) hears
    /// of the later ones when they make their first hostcall, or not at all.
    fn begin(&mut self, callback: Callback);

    /// Whether it is to hear of every callback when it begins. That costs: they are then entered one by one.
    fn is_watching(&self) -> bool {
        false
    }

    /// A number by which the proxy's own logs know the transaction, where it has one.
    fn transaction_id(&self) -> Option<u64> {
        None
    }

    /// Appends the value of the first field called `name`, whole, to `out`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such field, or no such map.
    fn header(&mut self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error>;

    /// Shows every field in the order of the wire, duplicates included, pseudo-headers not.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the map itself is not there.
    fn headers(&mut self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error>;

    /// The number of fields, pseudo-headers not counted.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the map itself is not there.
    fn header_count(&mut self, map: MapType) -> Result<usize, Error>;

    /// Adds a field behind those that are there, also where one has the same name.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the map itself is not there.
    fn add_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error>;

    /// Makes `value` the only value of `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the map itself is not there.
    fn set_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error>;

    /// Removes every field called `name`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the map itself is not there.
    fn remove_header(&mut self, map: MapType, name: &[u8]) -> Result<(), Error>;

    /// Removes every field.
    ///
    /// # Errors
    /// [`Error::NotFound`] if the map itself is not there.
    fn clear_headers(&mut self, map: MapType) -> Result<(), Error>;

    /// Appends the value of a pseudo-header to `out`.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none now.
    fn pseudo_header(&mut self, pseudo: PseudoHeader, out: &mut Vec<u8>) -> Result<(), Error>;

    /// Changes the request or status line.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not there; [`Error::BadArgument`] if it cannot take the value.
    fn set_pseudo_header(&mut self, pseudo: PseudoHeader, value: &[u8]) -> Result<(), Error>;

    /// Appends a property's value to `out`, in Envoy's encoding. `path` is its segments, joined by NUL.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a path without a meaning here.
    fn property(&mut self, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error>;

    /// Changes a property of the host's own.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a path that the host does not know: the engine then keeps the value with the
    /// stream, where later filters can read it. [`Error::BadArgument`] for a value that the host refuses.
    fn set_property(&mut self, path: &[u8], value: &[u8]) -> Result<(), Error>;

    /// Whether a pseudo-header of the request other than `:method` was set: the request goes elsewhere.
    fn request_line_changed(&self) -> bool {
        false
    }
}

/// Called when effects wait for a stream that is paused: see to it that [`crate::Stream::resume`] runs soon.
///
/// Runs outside every VM, but possibly on another thread than the stream's and with the stream's cell locked: it
/// schedules and returns, and calls nothing of the engine.
pub type Waker = Box<dyn FnMut() + Send>;

/// What `proxy_send_local_response` asked for, or what a failure policy answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalResponse {
    /// The status code, 200 to 999: an answer is final.
    pub status: u16,
    /// `status_code_details`: the reason phrase where not empty, and for the log.
    pub details: Vec<u8>,
    /// Header fields in order, duplicates kept. Pseudo-headers are refused before they come here.
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    /// The body, any bytes.
    pub body: Vec<u8>,
    /// `grpc_status`, where the filter set one.
    pub grpc_status: Option<u32>,
}

impl LocalResponse {
    /// The body that is sent: none where the status has none.
    #[must_use]
    pub fn sent_body(&self) -> &[u8] {
        if matches!(self.status, 204 | 304) { &[] } else { &self.body }
    }

    /// A response of the engine's own: a status, a short text.
    #[must_use]
    pub fn text(status: u16, body: &str) -> Self {
        LocalResponse {
            status,
            details: Vec::new(),
            headers: vec![(b"content-type".to_vec(), b"text/plain".to_vec())],
            body: body.as_bytes().to_vec(),
            grpc_status: None,
        }
    }
}

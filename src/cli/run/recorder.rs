//! The engine's offline host, with an eye on it.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use engine::abi::{Callback, MapType};
use engine::testing::{Fields, SharedTransaction};
use engine::{Error, PseudoHeader, Side, StreamHost};

use super::message::Length;
use super::trace::{Trace, lock};

/// Notes every callback, and answers the properties that every transaction has.
pub(super) struct Recorder {
    pub(super) inner: Box<dyn StreamHost>,
    pub(super) shared: SharedTransaction,
    pub(super) trace: Arc<Mutex<Trace>>,
    pub(super) client: IpAddr,
}

impl Recorder {
    /// Takes note of what a filter says of a body's length.
    fn note_length(&self, map: MapType, name: &[u8], value: Option<&[u8]>) {
        let side = match map {
            MapType::HttpRequestHeaders => Side::Request,
            MapType::HttpResponseHeaders => Side::Response,
            _ => return,
        };
        if name.eq_ignore_ascii_case(b"content-length") {
            let number = |value: &[u8]| std::str::from_utf8(value).ok()?.trim().parse().ok();
            let length = value.map_or(Length::Removed, |value| Length::Set(number(value)));
            lock(&self.trace).lengths[side as usize] = length;
        }
    }

    /// A property by its path, segments joined by NUL, in Envoy's encodings.
    fn known_property(&self, path: &[u8]) -> Option<Vec<u8>> {
        let transaction = self.shared.0.lock();
        let [method, target, authority, scheme] = &transaction.request_line;
        let field = |fields: &Fields, name: &[u8]| {
            let found = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone())
        };
        let request = |name: &[u8]| field(&transaction.request, name);
        let cut = target.iter().position(|byte| *byte == b'?').unwrap_or(target.len());
        let segments: Vec<_> = path.split(|byte| *byte == 0).collect();
        match segments.as_slice() {
            [b"request", b"path"] => Some(target.clone()),
            [b"request", b"url_path"] => Some(target[..cut].to_vec()),
            [b"request", b"query"] => Some(target.get(cut + 1..).unwrap_or_default().to_vec()),
            [b"request", b"method"] => Some(method.clone()),
            [b"request", b"scheme"] => Some(scheme.clone()),
            [b"request", b"host"] => Some(authority.clone()),
            [b"request", b"protocol"] => Some(b"HTTP/1.1".to_vec()),
            [b"request", b"headers", name] => request(name),
            [b"request", b"referer"] => request(b"referer"),
            [b"request", b"useragent"] => request(b"user-agent"),
            [b"request", b"id"] => request(b"x-request-id"),
            [b"response", b"code"] => {
                let status: u64 = std::str::from_utf8(&transaction.status).ok()?.parse().ok()?;
                Some(status.to_le_bytes().to_vec())
            }
            [b"response", b"headers", name] => field(transaction.response.as_ref()?, name),
            [b"source", b"address"] => Some(SocketAddr::new(self.client, 0).to_string().into()),
            _ => None,
        }
    }
}

impl StreamHost for Recorder {
    fn transaction_id(&self) -> Option<u64> {
        self.inner.transaction_id()
    }

    fn is_watching(&self) -> bool {
        true
    }

    fn begin(&mut self, callback: Callback) {
        let now = self.shared.0.lock().clone();
        lock(&self.trace).begin(callback, &now);
        self.inner.begin(callback);
    }

    fn header(&mut self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        self.inner.header(map, name, out)
    }

    fn headers(&mut self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        self.inner.headers(map, visit)
    }

    fn header_count(&mut self, map: MapType) -> Result<usize, Error> {
        self.inner.header_count(map)
    }

    fn add_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.note_length(map, name, Some(value));
        self.inner.add_header(map, name, value)
    }

    fn set_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.note_length(map, name, Some(value));
        self.inner.set_header(map, name, value)
    }

    fn remove_header(&mut self, map: MapType, name: &[u8]) -> Result<(), Error> {
        self.note_length(map, name, None);
        self.inner.remove_header(map, name)
    }

    fn clear_headers(&mut self, map: MapType) -> Result<(), Error> {
        self.note_length(map, b"content-length", None);
        self.inner.clear_headers(map)
    }

    fn pseudo_header(&mut self, pseudo: PseudoHeader, out: &mut Vec<u8>) -> Result<(), Error> {
        self.inner.pseudo_header(pseudo, out)
    }

    fn set_pseudo_header(&mut self, pseudo: PseudoHeader, value: &[u8]) -> Result<(), Error> {
        self.inner.set_pseudo_header(pseudo, value)
    }

    fn property(&mut self, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match self.known_property(path) {
            Some(value) => {
                out.extend_from_slice(&value);
                Ok(())
            }
            None => self.inner.property(path, out),
        }
    }

    fn set_property(&mut self, path: &[u8], value: &[u8]) -> Result<(), Error> {
        self.inner.set_property(path, value)
    }
}

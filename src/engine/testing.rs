//! A host without a proxy: one transaction in plain vectors, for tests, benchmarks and the offline runner.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::abi::{Callback, MapType};
use crate::error::Error;
use crate::host::{PseudoHeader, StreamHost};
use crate::matching::RequestView;

/// Header fields in order.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a transaction consists of, in memory.
#[derive(Debug, Default, Clone)]
pub struct Transaction {
    /// `:method`, `:path`, `:authority`, `:scheme`, in the order of [`PseudoHeader::REQUEST`].
    pub request_line: [Vec<u8>; 4],
    /// Fields of the request.
    pub request: Fields,
    /// `:status`.
    pub status: Vec<u8>,
    /// Fields of the response; `None` until there is one.
    pub response: Option<Fields>,
    /// Properties that the host answers.
    pub properties: Vec<(Vec<u8>, Vec<u8>)>,
    /// Every callback that began, in order.
    pub callbacks: Vec<Callback>,
}

impl Transaction {
    /// A GET request.
    #[must_use]
    pub fn get(authority: &str, path: &str) -> Self {
        Transaction {
            request_line: [b"GET".to_vec(), path.into(), authority.into(), b"http".to_vec()],
            ..Transaction::default()
        }
    }

    /// Adds a request field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request.push((name.into(), value.into()));
        self
    }

    /// The first value of a field of `fields`, as text.
    #[must_use]
    pub fn find<'a>(fields: &'a Fields, name: &str) -> Option<&'a str> {
        let found = fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes()));
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }
}

/// A [`Transaction`] as conditions see it.
#[derive(Debug, Clone, Copy)]
pub struct TransactionView<'a> {
    /// What is looked at.
    pub transaction: &'a Transaction,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// A plugin made the request.
    pub internal: bool,
}

impl TransactionView<'_> {
    /// Path and query, apart.
    fn target(&self) -> (&[u8], &[u8]) {
        let target = &self.transaction.request_line[1];
        match target.iter().position(|byte| *byte == b'?') {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, &[]),
        }
    }
}

impl RequestView for TransactionView<'_> {
    fn method(&self) -> &[u8] {
        &self.transaction.request_line[0]
    }

    fn scheme(&self) -> &[u8] {
        &self.transaction.request_line[3]
    }

    fn host(&self) -> (&[u8], u16) {
        let default = if matches!(self.scheme(), b"https" | b"wss") { 443 } else { 80 };
        crate::matching::host_and_port(&self.transaction.request_line[2], default)
    }

    fn path(&self) -> [&[u8]; 4] {
        match self.target().0 {
            [b'/', rest @ ..] => [b"/", rest, b"", b""],
            other => [other, b"", b"", b""],
        }
    }

    fn query(&self) -> &[u8] {
        self.target().1
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        let of_this_name = |field: &&(Vec<u8>, Vec<u8>)| field.0.eq_ignore_ascii_case(name.as_bytes());
        self.transaction.request.iter().filter(of_this_name).any(|(_, value)| visit(value))
    }

    fn client(&self) -> Option<IpAddr> {
        self.client
    }

    fn is_internal(&self) -> bool {
        self.internal
    }
}

/// A [`Transaction`] that a stream uses and the caller can look at, between callbacks.
#[derive(Debug, Clone, Default)]
pub struct SharedTransaction(pub Arc<Mutex<Transaction>>);

impl SharedTransaction {
    /// Makes it shared.
    #[must_use]
    pub fn new(transaction: Transaction) -> Self {
        SharedTransaction(Arc::new(Mutex::new(transaction)))
    }

    /// The host for a stream.
    #[must_use]
    pub fn host(&self) -> Box<dyn StreamHost> {
        self.make_host(true)
    }

    /// The same, and it does not watch: as inside a proxy, it hears of callbacks that make hostcalls.
    #[must_use]
    pub fn unwatching_host(&self) -> Box<dyn StreamHost> {
        self.make_host(false)
    }

    fn make_host(&self, watching: bool) -> Box<dyn StreamHost> {
        /// As a proxy numbers its transactions.
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        Box::new(MemoryHost { number, watching, shared: Arc::clone(&self.0), local: Transaction::default() })
    }
}

/// Works on a copy, which goes back to the caller's transaction whenever a callback begins and at the end, so
/// that header values can be borrowed without a lock.
struct MemoryHost {
    number: u64,
    watching: bool,
    shared: Arc<Mutex<Transaction>>,
    local: Transaction,
}

impl MemoryHost {
    fn fields(&self, map: MapType) -> Result<&Fields, Error> {
        match map {
            MapType::HttpRequestHeaders => Ok(&self.local.request),
            MapType::HttpResponseHeaders => self.local.response.as_ref().ok_or(Error::NotFound),
            _ => Err(Error::NotFound),
        }
    }

    fn fields_mut(&mut self, map: MapType) -> Result<&mut Fields, Error> {
        match map {
            MapType::HttpRequestHeaders => Ok(&mut self.local.request),
            MapType::HttpResponseHeaders => self.local.response.as_mut().ok_or(Error::NotFound),
            _ => Err(Error::NotFound),
        }
    }

    fn publish(&self) {
        *self.shared.lock() = self.local.clone();
    }
}

impl StreamHost for MemoryHost {
    fn transaction_id(&self) -> Option<u64> {
        Some(self.number)
    }

    fn is_watching(&self) -> bool {
        self.watching
    }

    fn begin(&mut self, callback: Callback) {
        self.local = self.shared.lock().clone();
        self.local.callbacks.push(callback);
        self.publish();
    }

    fn header(&mut self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut fields = self.fields(map)?.iter();
        let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).ok_or(Error::NotFound)?;
        out.extend_from_slice(value);
        Ok(())
    }

    fn headers(&mut self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        self.fields(map)?.iter().for_each(|(name, value)| visit(name, value));
        Ok(())
    }

    fn header_count(&mut self, map: MapType) -> Result<usize, Error> {
        let shared = self.shared.lock();
        match map {
            MapType::HttpRequestHeaders => Ok(shared.request.len()),
            MapType::HttpResponseHeaders => shared.response.as_ref().map(Vec::len).ok_or(Error::NotFound),
            _ => Err(Error::NotFound),
        }
    }

    fn add_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.fields_mut(map)?.push((name.to_vec(), value.to_vec()));
        self.publish();
        Ok(())
    }

    fn set_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        let fields = self.fields_mut(map)?;
        fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        fields.push((name.to_vec(), value.to_vec()));
        self.publish();
        Ok(())
    }

    fn remove_header(&mut self, map: MapType, name: &[u8]) -> Result<(), Error> {
        self.fields_mut(map)?.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        self.publish();
        Ok(())
    }

    fn clear_headers(&mut self, map: MapType) -> Result<(), Error> {
        self.fields_mut(map)?.clear();
        self.publish();
        Ok(())
    }

    fn pseudo_header(&mut self, pseudo: PseudoHeader, out: &mut Vec<u8>) -> Result<(), Error> {
        let value = match PseudoHeader::REQUEST.iter().position(|known| *known == pseudo) {
            Some(at) => &self.local.request_line[at],
            None => &self.local.status,
        };
        if value.is_empty() {
            return Err(Error::NotFound);
        }
        out.extend_from_slice(value);
        Ok(())
    }

    fn set_pseudo_header(&mut self, pseudo: PseudoHeader, value: &[u8]) -> Result<(), Error> {
        match PseudoHeader::REQUEST.iter().position(|known| *known == pseudo) {
            Some(at) => self.local.request_line[at] = value.to_vec(),
            None => self.local.status = value.to_vec(),
        }
        self.publish();
        Ok(())
    }

    fn property(&mut self, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let found = self.local.properties.iter().find(|(key, _)| key == path).ok_or(Error::NotFound)?;
        out.extend_from_slice(&found.1);
        Ok(())
    }

    fn set_property(&mut self, _path: &[u8], _value: &[u8]) -> Result<(), Error> {
        Err(Error::NotFound)
    }
}

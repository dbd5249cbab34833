//! What a chain does in one transaction, callback by callback.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::abi::{Callback, MapType};
use engine::inspect::Identity;
use engine::testing::{Fields, SharedTransaction, Transaction};
use engine::{Chain, Error, Filter, PseudoHeader, StreamHost};
use serde::Serialize;

use crate::capture;

/// The chain's name in log lines, by which they are told apart from others.
pub(crate) const LABEL: &str = "run";

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One callback of one filter.
#[derive(Serialize)]
pub(crate) struct Step {
    pub(crate) filter: String,
    pub(crate) callback: &'static str,
    pub(crate) changes: Vec<Change>,
    pub(crate) log: Vec<String>,
}

#[derive(Serialize, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) message: &'static str,
    /// `added` or `removed`.
    pub(crate) change: &'static str,
    pub(crate) name: String,
    pub(crate) value: String,
}

/// One callback, with the transaction before and after it.
struct Event {
    filter: usize,
    callback: Callback,
    before: Transaction,
    after: Option<Transaction>,
    log: Vec<capture::Line>,
}

/// What was called, in order.
pub(crate) struct Trace {
    names: Vec<String>,
    /// What each filter's module exports.
    exports: Vec<Vec<Callback>>,
    /// In which VM each filter runs: a trap takes along every context of its VM.
    vms: Vec<Identity>,
    /// Filters that have a context in this transaction.
    alive: Vec<bool>,
    /// What may come in this phase, in order. A host is told which callback begins and not of which filter, but their
    /// order is fixed: the next one of this name is it.
    expected: VecDeque<(usize, Callback)>,
    events: Vec<Event>,
}

impl Trace {
    pub(crate) fn new(chain: &Chain) -> Self {
        let filters = chain.filters();
        let exports = filters
            .iter()
            .map(|filter| filter.module().callbacks().iter().filter_map(|row| row.called).collect())
            .collect();
        Trace {
            names: filters.iter().map(|filter| filter.name().to_owned()).collect(),
            exports,
            vms: filters.iter().map(Filter::vm_identity).collect(),
            alive: vec![false; filters.len()],
            expected: VecDeque::new(),
            events: Vec::new(),
        }
    }

    fn expect(&mut self, filters: impl Iterator<Item = usize>, callbacks: &[Callback]) {
        self.expected.clear();
        for filter in filters {
            let exported = callbacks.iter().filter(|callback| self.exports[filter].contains(callback));
            self.expected.extend(exported.map(|callback| (filter, *callback)));
        }
    }

    pub(crate) fn expect_request(&mut self) {
        self.expect(0..self.names.len(), &[Callback::ContextCreate, Callback::RequestHeaders]);
    }

    pub(crate) fn expect_response(&mut self) {
        let alive: Vec<_> = (0..self.names.len()).rev().filter(|filter| self.alive[*filter]).collect();
        self.expect(alive.into_iter(), &[Callback::ResponseHeaders]);
    }

    pub(crate) fn expect_end(&mut self) {
        let alive: Vec<_> = (0..self.names.len()).filter(|filter| self.alive[*filter]).collect();
        self.expect(alive.into_iter(), &[Callback::Done, Callback::Log, Callback::Delete]);
    }

    fn begin(&mut self, callback: Callback, now: &Transaction) {
        self.close(now);
        let mut filter = None;
        while let Some((next, expected)) = self.expected.pop_front() {
            if expected == callback {
                filter = Some(next);
                break;
            }
        }
        let filter = filter.unwrap_or_default();
        self.alive[filter] = true;
        self.events.push(Event { filter, callback, before: now.clone(), after: None, log: Vec::new() });
    }

    /// Ends the open event, if there is one; what was logged since it began is its own.
    pub(crate) fn close(&mut self, now: &Transaction) {
        let lines = capture::take();
        let Some(event) = self.events.last_mut() else { return };
        event.after.get_or_insert_with(|| now.clone());
        // The engine reports whose callback failed. That a filter held the transaction too long costs it nothing but
        // its say; anything else is the end of its VM.
        let mut gone = vec![false; self.names.len()];
        for line in lines.iter().filter(|line| !line.guest) {
            let Some(reported) = line.text.strip_prefix(LABEL).and_then(|text| text.strip_prefix(": filter '")) else {
                continue;
            };
            for (filter, name) in self.names.iter().enumerate() {
                let reason = reported.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix("': "));
                gone[filter] |= reason.is_some_and(|reason| !reason.starts_with("it held the transaction"));
            }
        }
        for filter in 0..gone.len() {
            let shares = |other: usize| gone[other] && self.vms[other] == self.vms[filter];
            if self.alive[filter] && (0..gone.len()).any(shares) {
                self.alive[filter] = false;
                self.expected.retain(|(expected, _)| *expected != filter);
            }
        }
        event.log.extend(lines);
    }

    /// The filter whose callback came last.
    pub(crate) fn current_name(&self) -> String {
        self.events.last().map_or_else(String::new, |event| self.names[event.filter].clone())
    }

    pub(crate) fn steps(&self, chain: &Chain) -> Vec<Step> {
        let step = |event: &Event| Step {
            filter: chain.filters()[event.filter].name().to_owned(),
            callback: event.callback.as_str(),
            changes: event.after.as_ref().map_or_else(Vec::new, |after| changes(&event.before, after)),
            log: event.log.iter().map(ToString::to_string).collect(),
        };
        self.events.iter().map(step).collect()
    }
}

/// What became of a transaction: what went first, what came second.
fn changes(before: &Transaction, after: &Transaction) -> Vec<Change> {
    let mut changes = Vec::new();
    let response = |transaction: &Transaction| transaction.response.as_ref().map(|_| response_fields(transaction));
    compare(&mut changes, "request", &request_fields(before), &request_fields(after));
    if let (Some(before), Some(after)) = (response(before), response(after)) {
        compare(&mut changes, "response", &before, &after);
    }
    changes
}

fn compare(changes: &mut Vec<Change>, message: &'static str, before: &Fields, after: &Fields) {
    let without = |all: &Fields, others: &Fields| -> Fields {
        let mut others = others.clone();
        let unmatched = |field: &&(Vec<u8>, Vec<u8>)| match others.iter().position(|other| other == *field) {
            Some(at) => {
                others.remove(at);
                false
            }
            None => true,
        };
        all.iter().filter(unmatched).cloned().collect()
    };
    for (change, fields) in [("removed", without(before, after)), ("added", without(after, before))] {
        changes.extend(text(&fields).into_iter().map(|(name, value)| Change { message, change, name, value }));
    }
}

/// The request line as pseudo-headers, and the fields.
fn request_fields(transaction: &Transaction) -> Fields {
    let names = PseudoHeader::REQUEST.iter().map(|pseudo| pseudo.as_str().as_bytes().to_vec());
    names.zip(transaction.request_line.iter().cloned()).chain(transaction.request.iter().cloned()).collect()
}

/// The status as a pseudo-header, and the fields.
fn response_fields(transaction: &Transaction) -> Fields {
    let status = (PseudoHeader::Status.as_str().as_bytes().to_vec(), transaction.status.clone());
    std::iter::once(status).chain(transaction.response.iter().flatten().cloned()).collect()
}

pub(crate) fn text(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

/// The engine's offline host, with an eye on it: notes every callback, and answers the properties that every
/// transaction has.
pub(crate) struct Recorder {
    pub(crate) inner: Box<dyn StreamHost>,
    pub(crate) shared: SharedTransaction,
    pub(crate) trace: Arc<Mutex<Trace>>,
    pub(crate) client: IpAddr,
}

impl Recorder {
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
        self.inner.add_header(map, name, value)
    }

    fn set_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.inner.set_header(map, name, value)
    }

    fn remove_header(&mut self, map: MapType, name: &[u8]) -> Result<(), Error> {
        self.inner.remove_header(map, name)
    }

    fn clear_headers(&mut self, map: MapType) -> Result<(), Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_field_by_field() {
        let before = Transaction::get("a", "/x").header("k", "1").header("k", "1").header("gone", "2");
        let mut after = Transaction::get("a", "/y").header("k", "1").header("new", "3");
        after.response = None;
        let told: Vec<_> = changes(&before, &after)
            .into_iter()
            .map(|change| format!("{} {} {}: {}", change.message, change.change, change.name, change.value))
            .collect();
        let expected = [
            "request removed :path: /x",
            "request removed k: 1",
            "request removed gone: 2",
            "request added :path: /y",
            "request added new: 3",
        ];
        assert_eq!(told, expected);
    }
}

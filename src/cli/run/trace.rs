//! What a chain does in one transaction, callback by callback.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::abi::Callback;
use engine::inspect::Identity;
use engine::testing::{Fields, Transaction};
use engine::{At, Body, Chain, Filter, Participants, PseudoHeader, Side, Stream};
use serde::Serialize;

use super::message::Length;
use crate::capture;

/// The chain's name in log lines, by which they are told apart from others.
pub(super) const LABEL: &str = "run";

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One callback of one filter.
#[derive(Serialize)]
pub(super) struct Step {
    pub(super) filter: String,
    pub(super) callback: &'static str,
    /// Of a callback for a body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<Seen>,
    pub(super) changes: Vec<Change>,
    /// To bodies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) writes: Vec<Write>,
    pub(super) log: Vec<String>,
}

#[derive(Serialize, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) message: &'static str,
    /// `added` or `removed`.
    pub(super) change: &'static str,
    pub(super) name: String,
    pub(super) value: String,
}

/// What a filter was shown of a body.
#[derive(Serialize, Clone)]
pub(super) struct Seen {
    /// How many bytes it had before it: those that it held, and those that came.
    pub(super) bytes: usize,
    /// They are the last.
    pub(super) end: bool,
    /// It let none of them pass.
    pub(super) held: bool,
}

/// What a filter did to a body.
#[derive(Serialize, Clone)]
pub(super) struct Write {
    /// `request` or `response`.
    pub(super) body: &'static str,
    /// At which of the bytes that the filter had before it.
    pub(super) start: usize,
    /// How many went away there.
    pub(super) removed: usize,
    /// How many came instead.
    pub(super) added: usize,
    /// Those, if they are UTF-8.
    pub(super) text: Option<String>,
}

/// One callback, with the transaction before and after it.
struct Event {
    filter: usize,
    callback: Callback,
    body: Option<Seen>,
    before: Transaction,
    after: Option<Transaction>,
    writes: Vec<Write>,
    log: Vec<capture::Line>,
}

/// What was called, in order.
pub(super) struct Trace {
    names: Vec<String>,
    /// What each filter's module exports; nothing of those that take no part.
    exports: Vec<Vec<Callback>>,
    /// In which VM each filter runs: a trap takes along every context of its VM.
    vms: Vec<Identity>,
    /// Filters that have a context in this transaction.
    alive: Vec<bool>,
    /// What may come in this phase, in order. A host is told which callback begins and not of which filter, but their
    /// order is fixed: the next one of this name is it.
    expected: VecDeque<(usize, Callback)>,
    /// The bodies that each filter is shown, and on which side of the cache.
    shown: Vec<(Body, At)>,
    /// By side: the order of the filter that may be shown the body next, if it is shown it.
    next: [usize; 2],
    /// By side: all of the body has come.
    ended: [bool; 2],
    /// The length of what a filter has before it.
    measured: Option<usize>,
    /// By side: what filters say of the body's length.
    pub(super) lengths: [Length; 2],
    events: Vec<Event>,
}

impl Trace {
    pub(super) fn new(chain: &Chain, participants: Participants) -> Self {
        let filters = chain.filters();
        let of_one = |(place, filter): (usize, &Filter)| match participants.contains(place) {
            true => filter.module().callbacks().iter().filter_map(|row| row.called).collect(),
            false => Vec::new(),
        };
        let exports = filters.iter().enumerate().map(of_one).collect();
        Trace {
            names: filters.iter().map(|filter| filter.name().to_owned()).collect(),
            exports,
            vms: filters.iter().map(Filter::vm_identity).collect(),
            alive: vec![false; filters.len()],
            expected: VecDeque::new(),
            shown: filters.iter().map(|filter| (filter.body(), filter.at())).collect(),
            next: [0; 2],
            ended: [false; 2],
            measured: None,
            lengths: [Length::Kept; 2],
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

    pub(super) fn expect_request(&mut self) {
        self.expect(0..self.names.len(), &[Callback::ContextCreate, Callback::RequestHeaders]);
    }

    pub(super) fn expect_response(&mut self, at: At) {
        let sees = |filter: &usize| self.alive[*filter] && self.shown[*filter].1 == at;
        let alive: Vec<_> = (0..self.names.len()).rev().filter(sees).collect();
        self.expect(alive.into_iter(), &[Callback::ResponseHeaders]);
    }

    pub(super) fn expect_end(&mut self) {
        let alive: Vec<_> = (0..self.names.len()).filter(|filter| self.alive[*filter]).collect();
        self.expect(alive.into_iter(), &[Callback::Done, Callback::Log, Callback::Delete]);
    }

    /// A piece of a body comes.
    pub(super) fn expect_body(&mut self, side: Side, end: bool) {
        self.next[side as usize] = 0;
        self.ended[side as usize] = end;
        self.measured = None;
    }

    /// What is held may go on: behind the filter that was called last, or with the one that holds the headers.
    pub(super) fn expect_resume(&mut self, stream: &Stream) {
        for side in Side::ALL {
            if let Some(filter) = stream.holds_headers(side) {
                self.next[side as usize] = self.place(side, filter);
            }
        }
        self.measured = None;
    }

    /// The filter that meets the message of this side as the one of this order; and the other way round.
    fn place(&self, side: Side, order: usize) -> usize {
        match side {
            Side::Request => order,
            Side::Response => self.names.len() - 1 - order,
        }
    }

    /// Whose callback for a body comes next. A guess, where several filters are shown it: that one of them has declined
    /// by `plugin_body`, or which of several that hold it goes on, the engine does not tell.
    fn next_for_body(&mut self, side: Side) -> Option<usize> {
        let count = self.names.len();
        let from = self.next[side as usize];
        let is_next = |order: &usize| {
            let filter = self.place(side, *order);
            self.alive[filter] && self.shown[filter].0.shows(side)
        };
        let order = (from..count).chain(0..from).find(is_next)?;
        self.next[side as usize] = order + 1;
        Some(self.place(side, order))
    }

    /// A filter has so many bytes of a body before it.
    pub(super) fn measured(&mut self, len: usize) {
        self.measured = Some(len);
    }

    /// The filter whose callback runs wrote to a body.
    pub(super) fn wrote(&mut self, side: Side, start: usize, removed: usize, data: &[u8]) {
        if let Some(event) = self.events.last_mut() {
            let text = std::str::from_utf8(data).ok().map(str::to_owned);
            event.writes.push(Write { body: side.as_str(), start, removed, added: data.len(), text });
        }
    }

    /// The filter whose callback came last holds what it was shown.
    pub(super) fn held(&mut self) {
        if let Some(seen) = self.events.last_mut().and_then(|event| event.body.as_mut()) {
            seen.held = true;
        }
    }

    pub(super) fn begin(&mut self, callback: Callback, now: &Transaction) {
        self.close(now);
        let side = match callback {
            Callback::RequestBody => Some(Side::Request),
            Callback::ResponseBody => Some(Side::Response),
            _ => None,
        };
        let body = side.map(|side| Seen {
            bytes: self.measured.take().unwrap_or_default(),
            end: self.ended[side as usize],
            held: false,
        });
        let filter = match side {
            Some(side) => self.next_for_body(side),
            // A tick that turns to this stream, or an answer to a call. Of which filter nobody says; mostly of the one
            // that waits for it.
            None if is_of_its_own(callback) => self.events.last().map(|event| event.filter),
            None => self.expected.iter().position(|(_, expected)| *expected == callback).and_then(|at| {
                self.expected.drain(..at);
                self.expected.pop_front().map(|(filter, _)| filter)
            }),
        };
        let filter = filter.unwrap_or_default();
        self.alive[filter] = true;
        let (before, after) = (now.clone(), None);
        self.events.push(Event { filter, callback, body, before, after, writes: Vec::new(), log: Vec::new() });
    }

    /// Ends the open event, if there is one; what was logged since it began is its own.
    pub(super) fn close(&mut self, now: &Transaction) {
        let lines = capture::take();
        let Some(event) = self.events.last_mut() else { return };
        event.after.get_or_insert_with(|| now.clone());
        // The engine reports whose callback failed. That a filter held the transaction too long, or too much of it, costs
        // it nothing but its say; anything else is the end of its VM.
        let mut gone = vec![false; self.names.len()];
        for line in lines.iter().filter(|line| !line.guest) {
            let Some(reported) = line.text.strip_prefix(LABEL).and_then(|text| text.strip_prefix(": filter '")) else {
                continue;
            };
            for (filter, name) in self.names.iter().enumerate() {
                let reason = reported.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix("': "));
                gone[filter] |= reason.is_some_and(|reason| !reason.starts_with("it held "));
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

    /// The filter that holds the stream: if not the headers, then what its last callback was for.
    pub(super) fn holder(&self, stream: &Stream) -> String {
        let headers = Side::ALL.into_iter().find_map(|side| stream.holds_headers(side));
        let filter = headers.or_else(|| self.events.last().map(|event| event.filter));
        filter.map_or_else(String::new, |filter| self.names[filter].clone())
    }

    pub(super) fn steps(&self, chain: &Chain) -> Vec<Step> {
        let step = |event: &Event| Step {
            filter: chain.filters()[event.filter].name().to_owned(),
            callback: event.callback.as_str(),
            body: event.body.clone(),
            changes: event.after.as_ref().map_or_else(Vec::new, |after| changes(&event.before, after)),
            writes: event.writes.clone(),
            log: event.log.iter().map(ToString::to_string).collect(),
        };
        self.events.iter().map(step).collect()
    }
}

/// Whether a callback comes when it does, and not because of what the client or the origin sends.
fn is_of_its_own(callback: Callback) -> bool {
    matches!(
        callback,
        Callback::Tick
            | Callback::QueueReady
            | Callback::HttpCallResponse
            | Callback::GrpcReceiveInitialMetadata
            | Callback::GrpcReceive
            | Callback::GrpcReceiveTrailingMetadata
            | Callback::GrpcClose
    )
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

pub(super) fn text(fields: &Fields) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
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

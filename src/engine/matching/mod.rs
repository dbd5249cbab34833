//! Which filters of a chain take part in a transaction, decided before any VM is entered.
//!
//! A [`Condition`](crate::config::matching::Condition) of a file is compiled once ([`compile`]): cheap questions come
//! first, and what asks the same thing of many texts asks it of all of them at once. Its evaluation allocates nothing,
//! but for a path of more than 512 bytes, a host of more than 256, or an encoded value of more than 256; it reads of the
//! request what the conditions ask for, and no more.
//!
//! The order in which conditions are asked cannot be seen: they change nothing.

mod compile;
mod explain;
mod fields;
mod networks;
mod path;
pub(crate) mod pattern;
mod sample;
mod text;

#[cfg(test)]
mod reference;

use std::net::IpAddr;

use smallvec::SmallVec;

use crate::config::matching::{FieldKind, canonical};
use networks::Networks;
use sample::Share;
use text::TextSet;

/// A request, as conditions ask for it. Nothing is read before it is asked for.
///
/// All of it is the client's own: the URL before the rule's mapping, the fields before any filter.
pub trait RequestView {
    /// The method, as it stands in the request.
    fn method(&self) -> &[u8];

    /// The scheme.
    fn scheme(&self) -> &[u8];

    /// The host, of an IPv6 address without its brackets, and the port: the scheme's own where the URL names none.
    /// Empty if there is none.
    fn host(&self) -> (&[u8], u16);

    /// The path, beginning with '/', in pieces, so that nobody has to put it together for this.
    fn path(&self) -> [&[u8]; 4];

    /// The query, without its '?'.
    fn query(&self) -> &[u8];

    /// Shows the values of the fields of this name, whose case is of no meaning, until `visit` says that it is enough.
    /// Whether it said so.
    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool;

    /// The client's address.
    fn client(&self) -> Option<IpAddr>;

    /// Whether a plugin made the request, and no client.
    fn is_internal(&self) -> bool;
}

/// The filters of a chain that take part in a transaction, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Participants(pub(crate) u64);

impl Participants {
    /// Nobody.
    pub const NONE: Self = Participants(0);

    /// The first `count` filters.
    pub(crate) fn first(count: usize) -> Self {
        debug_assert!(count <= 64);
        Participants(
            u32::try_from(count).ok().and_then(|count| 1u64.checked_shl(count)).map_or(u64::MAX, |bit| bit - 1),
        )
    }

    /// Whether no filter takes part.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the filter of this place, counted from 0, takes part.
    #[must_use]
    pub fn contains(self, filter: usize) -> bool {
        self.0 >> filter & 1 != 0
    }

    /// The places of those that do, first to last.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..64).filter(move |place| self.contains(*place))
    }
}

/// A compiled condition.
#[derive(Debug)]
pub(crate) struct Matcher(Node);

/// One question, or several.
#[derive(Debug)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Method(Box<[Box<[u8]>]>),
    Scheme(Box<[Box<[u8]>]>),
    Internal(bool),
    Port(u16),
    Host(TextSet),
    Path(TextSet),
    Client(Networks),
    Field(FieldQuestion),
    Share(Share),
}

/// What is asked of values of one name.
#[derive(Debug)]
struct FieldQuestion {
    kind: FieldKind,
    name: Box<str>,
    test: FieldAnswer,
}

#[derive(Debug)]
enum FieldAnswer {
    /// Whether there is one.
    Present(bool),
    /// Whether one is like this.
    Is(TextSet),
}

/// The answers that several conditions need, kept while one request is looked at.
///
/// They are made where they stay: moving half a kilobyte about would cost more than most conditions.
pub(crate) struct Evaluation<'v> {
    view: &'v dyn RequestView,
    /// The path as a whole, once somebody needs it put together.
    path: path::Plain,
    rest: Rest<'v>,
    host: SmallVec<[u8; 256]>,
    host_is_known: bool,
}

/// What stands behind the first '/' of the path in its plain form.
enum Rest<'v> {
    /// Nobody has asked.
    Unknown,
    /// As the request has it: most paths are plain.
    Lent(&'v [u8]),
    /// In [`Evaluation::path`].
    Made,
}

impl<'v> Evaluation<'v> {
    pub(crate) fn new(view: &'v dyn RequestView) -> Self {
        Evaluation {
            view,
            // Not `new_const`: as a constant their room would be filled with zeros, each time.
            path: SmallVec::new(),
            rest: Rest::Unknown,
            host: SmallVec::new(),
            host_is_known: false,
        }
    }

    /// The path in its plain form.
    fn path(&mut self) -> &[u8] {
        if let Rest::Unknown | Rest::Lent(_) = self.rest {
            path::put_plain(self.view.path(), &mut self.path);
            self.rest = Rest::Made;
        }
        &self.path
    }

    /// What stands in it behind the first '/'.
    fn rest(&mut self) -> &[u8] {
        if let Rest::Unknown = self.rest {
            match self.view.path() {
                [[b'/'], rest, [], []] if path::is_plain(rest) => self.rest = Rest::Lent(rest),
                _ => _ = self.path(),
            }
        }
        match self.rest {
            Rest::Lent(rest) => rest,
            _ => self.path.get(1..).unwrap_or_default(),
        }
    }

    fn path_is_like(&mut self, set: &TextSet) -> bool {
        set.is_or_begins(self.rest()) || set.has_others() && set.others(self.path())
    }

    /// The host in small letters, without the dot that may stand behind it.
    fn host(&mut self) -> &[u8] {
        if !self.host_is_known {
            self.host_is_known = true;
            let (host, _) = self.view.host();
            self.host.extend_from_slice(host.strip_suffix(b".").unwrap_or(host));
            self.host.make_ascii_lowercase();
        }
        &self.host
    }

    fn client(&self) -> Option<IpAddr> {
        self.view.client().map(canonical)
    }

    /// Shows the values of this kind and name until `visit` says that it is enough.
    fn values(&self, kind: FieldKind, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        match kind {
            FieldKind::Header => self.view.header(name, visit),
            FieldKind::Query => fields::query(self.view.query(), name, visit),
            FieldKind::Cookie => self.view.header("cookie", &mut |field| fields::cookies(field, name, visit)),
        }
    }

    fn holds(&mut self, node: &Node) -> bool {
        match node {
            Node::All(nodes) => nodes.iter().all(|node| self.holds(node)),
            Node::Any(nodes) => nodes.iter().any(|node| self.holds(node)),
            Node::Not(node) => !self.holds(node),
            Node::Method(methods) => methods.iter().any(|method| **method == *self.view.method()),
            Node::Scheme(schemes) => {
                let scheme = self.view.scheme();
                schemes.iter().any(|own| own.eq_ignore_ascii_case(scheme))
            }
            Node::Internal(internal) => self.view.is_internal() == *internal,
            Node::Port(port) => self.view.host().1 == *port,
            Node::Host(set) => set.matches(self.host()),
            Node::Path(set) => self.path_is_like(set),
            Node::Client(networks) => self.client().is_some_and(|address| networks.contains(address)),
            Node::Field(FieldQuestion { kind, name, test }) => match test {
                FieldAnswer::Present(wanted) => self.values(*kind, name, &mut |_| true) == *wanted,
                FieldAnswer::Is(set) => self.values(*kind, name, &mut |value| set.matches(value)),
            },
            Node::Share(share) => share.takes(self),
        }
    }
}

impl Matcher {
    /// Whether the condition holds for a request.
    pub(crate) fn holds(&self, evaluation: &mut Evaluation<'_>) -> bool {
        evaluation.holds(&self.0)
    }
}

/// The host of an authority, of an IPv6 address without its brackets, and its port, or the one that is its scheme's own.
#[must_use]
pub fn host_and_port(authority: &[u8], default: u16) -> (&[u8], u16) {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    if let Some(rest) = authority.strip_prefix(b"[")
        && let Some(end) = rest.iter().position(|byte| *byte == b']')
    {
        let port = rest[end + 1..].strip_prefix(b":").and_then(number);
        return (&rest[..end], port.unwrap_or(default));
    }
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(at) => (&authority[..at], number(&authority[at + 1..]).unwrap_or(default)),
        None => (authority, default),
    }
}

/// A path of a file in its plain form.
pub(crate) fn plain_path(path: &str) -> Vec<u8> {
    path::plain([path.as_bytes(), b"", b"", b""]).to_vec()
}

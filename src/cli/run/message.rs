//! The messages of a transaction, as they are printed.

use engine::testing::{Fields, Transaction};
use serde::Serialize;

use super::trace::text;

/// A request or a response.
#[derive(Debug, Serialize, Clone, Default)]
pub(super) struct Message {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) method: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<BodyReport>,
}

/// A body.
#[derive(Debug, Serialize, Clone)]
pub(super) struct BodyReport {
    pub(super) bytes: usize,
    /// Null if it is not UTF-8.
    pub(super) text: Option<String>,
    /// False if it breaks off.
    pub(super) complete: bool,
}

impl BodyReport {
    /// `None` for none.
    pub(super) fn of(bytes: &[u8], complete: bool) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok().map(str::to_owned);
        (!bytes.is_empty() || !complete).then_some(BodyReport { bytes: bytes.len(), text, complete })
    }
}

impl Message {
    pub(super) fn request(transaction: &Transaction) -> Self {
        let [method, path, authority, scheme] =
            transaction.request_line.each_ref().map(|part| String::from_utf8_lossy(part));
        Message {
            method: Some(method.clone().into_owned()),
            url: Some(format!("{scheme}://{authority}{path}")),
            headers: text(&transaction.request),
            ..Message::default()
        }
    }

    pub(super) fn response(transaction: &Transaction) -> Self {
        let status = std::str::from_utf8(&transaction.status).ok().and_then(|status| status.parse().ok());
        let headers = text(transaction.response.as_ref().unwrap_or(&Fields::new()));
        Message { status, headers, ..Message::default() }
    }

    /// Says where the body ends in these words, and in no other.
    pub(super) fn frame(&mut self, framing: &[(String, String)]) {
        let is_framing = |name: &str| FRAMING.iter().any(|known| name.eq_ignore_ascii_case(known));
        let found: Vec<_> = self.headers.iter().filter(|(name, _)| is_framing(name)).cloned().collect();
        if found != framing {
            self.headers.retain(|(name, _)| !is_framing(name));
            self.headers.extend_from_slice(framing);
        }
    }
}

/// Fields that say where a body ends: Traffic Server's to write, whatever filters do to them.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// Where a message ends, as its fields say.
#[derive(Debug, Clone, Default)]
pub(super) struct Framing {
    fields: Vec<(String, String)>,
}

impl Framing {
    pub(super) fn of(fields: &Fields) -> Self {
        let mut fields = text(fields);
        fields.retain(|(name, _)| FRAMING.iter().any(|known| name.eq_ignore_ascii_case(known)));
        Framing { fields }
    }

    pub(super) fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// The length that is announced.
    pub(super) fn length(&self) -> Option<u64> {
        let chunked = self.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        let length = self.fields.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        length.filter(|_| !chunked)?.1.trim().parse().ok()
    }
}

/// How a body goes out that filters were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outgoing {
    Sized(u64),
    Chunked,
}

impl Outgoing {
    /// In the words of the message as it came, where they are still right.
    pub(super) fn fields(self, came: &Framing) -> Vec<(String, String)> {
        match self {
            Outgoing::Sized(length) if came.length() == Some(length) => came.fields.clone(),
            Outgoing::Sized(length) => vec![("content-length".to_owned(), length.to_string())],
            Outgoing::Chunked if came.length().is_none() && !came.fields.is_empty() => came.fields.clone(),
            Outgoing::Chunked => vec![("transfer-encoding".to_owned(), "chunked".to_owned())],
        }
    }
}

/// What filters say of the length of a body that they may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Length {
    /// Nothing: it is what it was.
    #[default]
    Kept,
    /// They removed the field.
    Removed,
    /// They wrote it; a number, if it is one.
    Set(Option<u64>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_stays_where_it_is_right() {
        let fields: Fields = vec![(b"Content-Length".to_vec(), b"5".to_vec()), (b"a".to_vec(), b"b".to_vec())];
        let came = Framing::of(&fields);
        assert_eq!(came.length(), Some(5));
        let mut message = Message { headers: text(&fields), ..Message::default() };
        message.frame(&Outgoing::Sized(5).fields(&came));
        assert_eq!(message.headers, text(&fields));
        message.frame(&Outgoing::Chunked.fields(&came));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(message.headers, [pair("a", "b"), pair("transfer-encoding", "chunked")]);
        message.frame(&Outgoing::Sized(7).fields(&came));
        assert_eq!(message.headers, [pair("a", "b"), pair("content-length", "7")]);
    }
}

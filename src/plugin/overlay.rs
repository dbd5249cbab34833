//! A response's head, as filters see and change it before ATS has made the one that goes to the client.
//!
//! ATS asks for a transformed body before it builds the client's response, and what it builds that from is what the
//! cache keeps. So filters work on a copy here, and what they did is done again to the client's response when it is
//! there; the fields that ATS adds meanwhile (Date, Age, Via) stay.

use ats::http::{Response, reason_lookup};

use crate::framing::{Length, is_framing, is_length};

/// What filters did, to be done again.
#[derive(Debug)]
enum Change {
    Add(Vec<u8>, Vec<u8>),
    Set(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    Status(u16),
}

/// The head of a response, copied.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) status: u16,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    changes: Vec<Change>,
    length: Length,
}

impl Overlay {
    /// A copy of `response`, whose body is so long, if that is known: ATS has taken the field out already.
    pub(crate) fn of(response: &Response<'_>, body: Option<u64>) -> Self {
        let mut fields = Vec::with_capacity(response.len() + 1);
        response.for_each(|name, value| {
            if name.first() != Some(&b'@') && !is_length(name) {
                fields.push((name.to_vec(), value.to_vec()));
            }
        });
        if let Some(length) = body {
            fields.push((b"Content-Length".to_vec(), length.to_string().into_bytes()));
        }
        Overlay { status: response.status(), fields, changes: Vec::new(), length: Length::Kept }
    }

    pub(crate) fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    }

    pub(crate) fn fields(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        self.fields.push((name.to_vec(), value.to_vec()));
        self.note(name, Some(value), Change::Add(name.to_vec(), value.to_vec()));
    }

    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        let mut place = Some(value);
        // In the place of the first one, as ATS does it.
        self.fields.retain_mut(|(field, old)| {
            if !field.eq_ignore_ascii_case(name) {
                return true;
            }
            let Some(value) = place.take() else { return false };
            *old = value.to_vec();
            true
        });
        if place.is_some() {
            self.fields.push((name.to_vec(), value.to_vec()));
        }
        self.note(name, Some(value), Change::Set(name.to_vec(), value.to_vec()));
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        self.fields.retain(|(field, _)| !field.eq_ignore_ascii_case(name));
        self.note(name, None, Change::Remove(name.to_vec()));
    }

    pub(crate) fn clear(&mut self) {
        while let Some((name, _)) = self.fields.first() {
            let name = name.clone();
            self.remove(&name);
        }
    }

    pub(crate) fn set_status(&mut self, status: u16) {
        self.status = status;
        self.changes.push(Change::Status(status));
    }

    /// What filters say of the body's length.
    pub(crate) fn length(&self) -> &Length {
        &self.length
    }

    fn note(&mut self, name: &[u8], value: Option<&[u8]>, change: Change) {
        if is_length(name) {
            self.length = value.map_or(Length::Removed, |value| Length::Set(value.to_vec()));
        } else if !is_framing(name) {
            self.changes.push(change);
        }
    }

    /// Does to the client's response what filters did to this.
    ///
    /// # Errors
    /// ATS refuses a field; the others are written nevertheless.
    pub(crate) fn apply(&self, head: &mut Response<'_>) -> ats::Result<()> {
        let mut result = Ok(());
        for change in &self.changes {
            let done = match change {
                Change::Add(name, value) => head.append(name, value),
                Change::Set(name, value) => head.set(name, value),
                Change::Remove(name) => head.remove(name).map(drop),
                Change::Status(status) => {
                    head.set_status(*status).and_then(|()| head.set_reason(reason_lookup(*status)))
                }
            };
            result = result.and(done);
        }
        result
    }
}

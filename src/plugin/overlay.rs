//! A response's head, as filters see and change it before ATS has made the one that goes to the client.
//!
//! ATS asks for a transformed body before it builds the client's response, and what it builds that from is what the
//! cache keeps. So filters work on a copy here, and what they did is done again to the client's response when it is
//! there; the fields that ATS adds meanwhile (Date, Age, Via) stay.

use std::cell::Cell;

use ats::http::{Response, reason_lookup};

use crate::framing::{Length, is_framing, is_length};

/// What a spare copy may keep of memory.
const KEPT: usize = 16 << 10;

/// A part of [`Overlay::text`].
#[derive(Debug, Clone, Copy)]
struct Span {
    at: usize,
    end: usize,
}

/// What filters did, to be done again.
#[derive(Debug, Clone, Copy)]
enum Change {
    Add(Span, Span),
    Set(Span, Span),
    Remove(Span),
    Status(u16),
}

/// The head of a response, copied.
#[derive(Debug)]
pub(crate) struct Overlay {
    pub(crate) status: u16,
    /// All names and values, those that were replaced too.
    text: Vec<u8>,
    fields: Vec<(Span, Span)>,
    changes: Vec<Change>,
    length: Length,
}

thread_local! {
    /// A copy that was used: the next response needs no memory of its own.
    static SPARE: Cell<Option<Box<Overlay>>> = const { Cell::new(None) };
}

impl Overlay {
    /// A copy of `response`, whose body is so long, if that is known: ATS has taken the field out already.
    pub(crate) fn of(response: &Response<'_>, body: Option<u64>) -> Box<Self> {
        let mut overlay = SPARE.take().unwrap_or_else(|| {
            Box::new(Overlay {
                status: 0,
                text: Vec::with_capacity(1024),
                fields: Vec::with_capacity(24),
                changes: Vec::with_capacity(8),
                length: Length::Kept,
            })
        });
        overlay.status = response.status();
        response.for_each(|name, value| {
            if name.first() != Some(&b'@') && !is_length(name) {
                overlay.push(name, value);
            }
        });
        if let Some(length) = body {
            let mut digits = [0; 20];
            overlay.push(b"Content-Length", decimal(length, &mut digits));
        }
        overlay
    }

    /// Gives the memory of a copy that is done with to the next.
    pub(crate) fn recycle(mut self: Box<Self>) {
        let tables = self.fields.capacity() * size_of::<(Span, Span)>() + self.changes.capacity() * size_of::<Change>();
        if self.text.capacity() + tables > KEPT {
            return;
        }
        self.text.clear();
        self.fields.clear();
        self.changes.clear();
        self.length = Length::Kept;
        SPARE.set(Some(self));
    }

    fn write(&mut self, bytes: &[u8]) -> Span {
        let at = self.text.len();
        self.text.extend_from_slice(bytes);
        Span { at, end: self.text.len() }
    }

    fn push(&mut self, name: &[u8], value: &[u8]) -> (Span, Span) {
        let field = (self.write(name), self.write(value));
        self.fields.push(field);
        field
    }

    fn get(&self, span: Span) -> &[u8] {
        &self.text[span.at..span.end]
    }

    pub(crate) fn first(&self, name: &[u8]) -> Option<&[u8]> {
        self.fields().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn fields(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.get(*name), self.get(*value)))
    }

    pub(crate) fn add(&mut self, name: &[u8], value: &[u8]) {
        let (name_at, value_at) = self.push(name, value);
        self.note(name, Some(value), Change::Add(name_at, value_at));
    }

    pub(crate) fn set(&mut self, name: &[u8], value: &[u8]) {
        let (name_at, value_at) = (self.write(name), self.write(value));
        let mut place = Some(value_at);
        // In the place of the first one, as ATS does it.
        self.retain_mut(name, |old| {
            place.take().is_some_and(|value| {
                *old = value;
                true
            })
        });
        if let Some(value) = place {
            self.fields.push((name_at, value));
        }
        self.note(name, Some(value), Change::Set(name_at, value_at));
    }

    pub(crate) fn remove(&mut self, name: &[u8]) {
        let name_at = self.write(name);
        self.retain_mut(name, |_| false);
        self.note(name, None, Change::Remove(name_at));
    }

    /// Keeps of the fields of this name those whose value `keep` wants to.
    fn retain_mut(&mut self, name: &[u8], mut keep: impl FnMut(&mut Span) -> bool) {
        let text = &self.text;
        self.fields.retain_mut(|(field, value)| !text[field.at..field.end].eq_ignore_ascii_case(name) || keep(value));
    }

    pub(crate) fn clear(&mut self) {
        while let Some((name, _)) = self.fields.first().copied() {
            let name = self.get(name).to_vec();
            self.remove(&name);
        }
    }

    pub(crate) fn set_status(&mut self, status: u16) {
        self.status = status;
        // The last one counts, wherever it stands: however often it is set, it is written once.
        match self.changes.iter_mut().find_map(|change| if let Change::Status(old) = change { Some(old) } else { None })
        {
            Some(old) => *old = status,
            None => self.changes.push(Change::Status(status)),
        }
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
                Change::Add(name, value) => head.append(self.get(*name), self.get(*value)),
                Change::Set(name, value) => head.set(self.get(*name), self.get(*value)),
                Change::Remove(name) => head.remove(self.get(*name)).map(drop),
                Change::Status(status) => {
                    head.set_status(*status).and_then(|()| head.set_reason(reason_lookup(*status)))
                }
            };
            result = result.and(done);
        }
        result
    }
}

/// A number's digits.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

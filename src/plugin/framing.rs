//! Fields that say where a message ends, or that are one connection's own. ATS writes them, from what it really sends;
//! a filter that could would split messages. What filters do to them is an opinion on the body's length, kept here.

/// Never passed on to ATS, in either direction.
const FRAMING: [&[u8]; 6] =
    [b"content-length", b"transfer-encoding", b"connection", b"keep-alive", b"proxy-connection", b"upgrade"];

/// Whether this field is ATS's to write.
pub(crate) fn is_framing(name: &[u8]) -> bool {
    matches!(name.len(), 7 | 10 | 14 | 16 | 17) && FRAMING.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Whether this field is the body's length.
pub(crate) fn is_length(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length")
}

/// What filters say of the length of a body that they may change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Length {
    /// Nothing: it is what it was.
    #[default]
    Kept,
    /// They removed the field: it is not known.
    Removed,
    /// They wrote it.
    Set(Vec<u8>),
}

impl Length {
    /// The number that filters wrote, if it is one.
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Length::Set(text) => std::str::from_utf8(text).ok()?.trim().parse().ok(),
            Length::Kept | Length::Removed => None,
        }
    }
}

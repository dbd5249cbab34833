//! Names of fields that ATS knows by number.
//!
//! ATS finds a field by comparing names one by one, unless it is given the pointer to its own copy of the name: then it
//! knows the number of the field, and looks at the header's presence bits and at the place that it noted.

use std::ffi::{c_char, c_int};

/// A field that ATS knows by number (`TS_MIME_FIELD_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KnownField {
    /// `TS_MIME_FIELD_CONTENT_LENGTH`
    ContentLength,
    /// `TS_MIME_FIELD_TRANSFER_ENCODING`
    TransferEncoding,
    /// `TS_MIME_FIELD_HOST`
    Host,
}

impl KnownField {
    /// ATS's own copy of the name, and its length.
    pub(crate) fn as_raw(self) -> (*const c_char, c_int) {
        use ats_sys::{
            TS_MIME_FIELD_CONTENT_LENGTH, TS_MIME_FIELD_HOST, TS_MIME_FIELD_TRANSFER_ENCODING,
            TS_MIME_LEN_CONTENT_LENGTH, TS_MIME_LEN_HOST, TS_MIME_LEN_TRANSFER_ENCODING,
        };
        // SAFETY: ATS writes these once, before it loads any plugin.
        unsafe {
            match self {
                KnownField::ContentLength => (TS_MIME_FIELD_CONTENT_LENGTH, TS_MIME_LEN_CONTENT_LENGTH),
                KnownField::TransferEncoding => (TS_MIME_FIELD_TRANSFER_ENCODING, TS_MIME_LEN_TRANSFER_ENCODING),
                KnownField::Host => (TS_MIME_FIELD_HOST, TS_MIME_LEN_HOST),
            }
        }
    }
}

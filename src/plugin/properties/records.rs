//! `ats.config.NAME`: records that a transaction may override, as text.

use std::borrow::Cow;

use ats::record::{Record, RecordValue};
use ats::txn::Txn;
use engine::Error;

use super::{absent, bytes, refused, text};

/// The name may be one segment, or one a part.
fn find(name: &[u8]) -> Option<Record> {
    let name = match name.contains(&0) {
        true => Cow::Owned(name.iter().map(|byte| if *byte == 0 { b'.' } else { *byte }).collect()),
        false => Cow::Borrowed(name),
    };
    Record::find(&name)
}

pub(super) fn read(txn: Txn<'_>, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let record = find(name).ok_or_else(absent)?;
    match txn.record_get(record).map_err(|_| absent())? {
        RecordValue::Int(value) => text(out, Some(value)),
        RecordValue::Float(value) => text(out, Some(value)),
        RecordValue::Text(value) => bytes(out, Some(value)),
    }
}

pub(super) fn write(txn: Txn<'_>, name: &[u8], value: &[u8]) -> Result<(), Error> {
    let record = find(name).ok_or_else(|| Error::BadArgument("no record that a transaction may override"))?;
    txn.record_set(record, value).map_err(|error| refused(&error))
}

//! Records that a transaction may override, by their names.
//!
//! ATS's own calls trust their callers: one with the wrong type dereferences a null converter, and some values divide
//! by zero or loop for ever later on. So a record carries its type here, and knows what it may be set to.

use std::collections::HashSet;
use std::ffi::{CString, c_char, c_int};
use std::ptr;

use ats_sys::{
    TS_CONFIG_HTTP_CHUNKING_SIZE, TS_CONFIG_HTTP_HOST_RESOLUTION_PREFERENCE,
    TS_CONFIG_HTTP_PER_PARENT_CONNECT_ATTEMPTS, TS_CONFIG_HTTP_REQUEST_BUFFER_ENABLED, TS_CONFIG_NULL,
    TS_CONFIG_SSL_CERT_FILEPATH, TS_RECORDDATATYPE_FLOAT, TS_RECORDDATATYPE_INT, TS_RECORDDATATYPE_NULL,
    TS_RECORDDATATYPE_STRING, TS_SUCCESS, TSHttpTxnConfigFind, TSHttpTxnConfigFloatGet, TSHttpTxnConfigFloatSet,
    TSHttpTxnConfigIntGet, TSHttpTxnConfigIntSet, TSHttpTxnConfigStringGet, TSHttpTxnConfigStringSet, TSMgmtFloat,
    TSMgmtInt, TSOverridableConfigKey,
};
use parking_lot::Mutex;

use crate::error::{Error, Result, c_len, check};
use crate::raw_slice::slice_or_empty;
use crate::txn::Txn;

/// What a record's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Int,
    Float,
    Text,
}

/// A record that a transaction may override.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    key: TSOverridableConfigKey,
    kind: Kind,
}

/// The value of a [`Record`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RecordValue<'t> {
    /// `INT`
    Int(i64),
    /// `FLOAT`
    Float(f32),
    /// `STRING`
    Text(&'t [u8]),
}

impl Record {
    /// The record of this name (`TSHttpTxnConfigFind`); `None` if there is none that a transaction may override. Any
    /// thread.
    #[must_use]
    pub fn find(name: &[u8]) -> Option<Self> {
        let len = c_len(name, 1024, "record name").ok().filter(|len| *len > 0)?;
        let (mut key, mut kind) = (TS_CONFIG_NULL, TS_RECORDDATATYPE_NULL);
        // SAFETY: the name is read within the given length; both results are ours to write to.
        let code = unsafe { TSHttpTxnConfigFind(name.as_ptr().cast(), len, &raw mut key, &raw mut kind) };
        let kind = match kind {
            _ if code != TS_SUCCESS => return None,
            TS_RECORDDATATYPE_INT => Kind::Int,
            TS_RECORDDATATYPE_FLOAT => Kind::Float,
            TS_RECORDDATATYPE_STRING => Kind::Text,
            _ => return None,
        };
        Some(Self { key, kind })
    }

    /// The least value that does no harm. What a record means by a negative value is nothing but -1.
    fn least(self) -> i64 {
        match self.key {
            // ATS divides by the one, and writes chunks of the other for as long as bytes are left.
            TS_CONFIG_HTTP_PER_PARENT_CONNECT_ATTEMPTS | TS_CONFIG_HTTP_CHUNKING_SIZE => 1,
            _ => -1,
        }
    }
}

impl<'t> Txn<'t> {
    /// A record as this transaction sees it (`TSHttpTxnConfigIntGet`, `…FloatGet`, `…StringGet`).
    ///
    /// # Errors
    /// A string that ATS does not tell, as most of those for TLS.
    pub fn record_get(self, record: Record) -> Result<RecordValue<'t>> {
        match record.kind {
            Kind::Int => self.int(record).map(RecordValue::Int),
            Kind::Float => {
                let mut value: TSMgmtFloat = 0.0;
                // SAFETY: a live transaction on its thread, and a record that is a float.
                let code = unsafe { TSHttpTxnConfigFloatGet(self.as_raw(), record.key, &raw mut value) };
                check(code, "TSHttpTxnConfigFloatGet").map(|()| RecordValue::Float(value))
            }
            Kind::Text => {
                if record.key == TS_CONFIG_HTTP_HOST_RESOLUTION_PREFERENCE {
                    // Unset, as it is by default, its length is asked of a null pointer.
                    return Err(Error::Refused("TSHttpTxnConfigStringGet"));
                }
                let (mut value, mut len): (*const c_char, c_int) = (ptr::null(), 0);
                // SAFETY: a live transaction on its thread; both results are ours to write to.
                let code = unsafe { TSHttpTxnConfigStringGet(self.as_raw(), record.key, &raw mut value, &raw mut len) };
                check(code, "TSHttpTxnConfigStringGet")?;
                // SAFETY: the configuration that the transaction holds has the string, or `intern` has it for ever.
                Ok(RecordValue::Text(unsafe { slice_or_empty(value, len) }))
            }
        }
    }

    /// Overrides a record with the value that this text says (`TSHttpTxnConfigIntSet`, `…FloatSet`, `…StringSet`).
    ///
    /// # Errors
    /// A text that is no number, or one that the record cannot hold; a string with control characters; a record that
    /// has no effect or is this plugin's own to set. The record is then as it was.
    pub fn record_set(self, record: Record, text: &[u8]) -> Result<()> {
        const WRONG: Error = Error::Refused("the record: not a value for it");
        if matches!(record.key, TS_CONFIG_HTTP_REQUEST_BUFFER_ENABLED | TS_CONFIG_SSL_CERT_FILEPATH) {
            return Err(Error::Refused("the record: not for a filter to set"));
        }
        let number = std::str::from_utf8(text).map_err(|_| WRONG);
        match record.kind {
            Kind::Int => {
                let value = number?.parse::<i64>().map_err(|_| WRONG)?;
                // ATS takes many of them for an `int`.
                if !(record.least()..=i64::from(i32::MAX)).contains(&value) {
                    return Err(WRONG);
                }
                let before = self.int(record)?;
                self.set_int(record, value)?;
                // Many are kept in a byte, which cuts without a word.
                if self.int(record)? == value {
                    return Ok(());
                }
                self.set_int(record, before)?;
                Err(WRONG)
            }
            Kind::Float => {
                let value = number?.parse::<f32>().ok().filter(|value| (0.0..=1.0).contains(value)).ok_or(WRONG)?;
                // SAFETY: a live transaction on its thread, and a record that is a float.
                let code = unsafe { TSHttpTxnConfigFloatSet(self.as_raw(), record.key, value) };
                check(code, "TSHttpTxnConfigFloatSet")
            }
            Kind::Text => {
                let text = intern(text)?;
                let len = c_int::try_from(text.to_bytes().len()).map_err(|_| WRONG)?;
                // SAFETY: a live transaction on its thread. ATS keeps the pointer, and the string stays for ever.
                let code = unsafe { TSHttpTxnConfigStringSet(self.as_raw(), record.key, text.as_ptr(), len) };
                check(code, "TSHttpTxnConfigStringSet")
            }
        }
    }

    fn int(self, record: Record) -> Result<i64> {
        let mut value: TSMgmtInt = 0;
        // SAFETY: a live transaction on its thread, and a record that is an integer.
        let code = unsafe { TSHttpTxnConfigIntGet(self.as_raw(), record.key, &raw mut value) };
        check(code, "TSHttpTxnConfigIntGet").map(|()| value)
    }

    fn set_int(self, record: Record, value: i64) -> Result<()> {
        // SAFETY: a live transaction on its thread, and a record that is an integer.
        check(unsafe { TSHttpTxnConfigIntSet(self.as_raw(), record.key, value) }, "TSHttpTxnConfigIntSet")
    }
}

/// A string for ever. ATS keeps the pointers that it is given for as long as it likes, and other plugins may read them
/// until the transaction is gone. They are parts of configurations, so there are few; a filter that makes them up is
/// stopped.
fn intern(text: &[u8]) -> Result<&'static std::ffi::CStr> {
    const MOST: usize = 4096;
    const LONGEST: usize = 1024;
    static STRINGS: Mutex<Option<HashSet<&'static std::ffi::CStr>>> = Mutex::new(None);
    if let Some(&byte) = text.iter().find(|byte| byte.is_ascii_control()) {
        return Err(Error::BadByte { what: "record", byte });
    }
    c_len(text, LONGEST, "record")?;
    let text = CString::new(text).map_err(|_| Error::BadByte { what: "record", byte: 0 })?;
    let mut strings = STRINGS.lock();
    let strings = strings.get_or_insert_default();
    if let Some(known) = strings.get(text.as_c_str()) {
        return Ok(known);
    }
    if strings.len() == MOST {
        return Err(Error::Refused("the record: filters have set too many different strings"));
    }
    let kept: &'static std::ffi::CStr = Box::leak(text.into_boxed_c_str());
    strings.insert(kept);
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use fake_ats::FakeTxn;

    use super::*;

    fn txn(fake: &FakeTxn) -> Txn<'_> {
        // SAFETY: the fake lives as long as the handle, on this thread.
        unsafe { Txn::from_raw(fake.raw()) }.expect("not null")
    }

    fn record(name: &str) -> Record {
        Record::find(name.as_bytes()).expect("a record")
    }

    #[test]
    fn values_have_the_records_type() {
        let fake = FakeTxn::new();
        let txn = txn(&fake);
        assert_eq!((Record::find(b"proxy.config.none"), Record::find(b"")), (None, None));
        for (name, text, value) in [
            ("proxy.config.http.connect_attempts_timeout", "12", RecordValue::Int(12)),
            ("proxy.config.http.cache.heuristic_lm_factor", "0.25", RecordValue::Float(0.25)),
            ("proxy.config.http.response_server_str", "me", RecordValue::Text(b"me")),
        ] {
            txn.record_set(record(name), text.as_bytes()).expect("set");
            assert_eq!(txn.record_get(record(name)), Ok(value), "{name}");
        }
    }

    #[test]
    fn values_that_harm_are_refused() {
        let fake = FakeTxn::new();
        let txn = txn(&fake);
        for (name, wrong) in [
            ("proxy.config.http.connect_attempts_timeout", &["", "x", "1x", "-2", "2147483648", " 1"][..]),
            // A byte in ATS, and in the fake.
            ("proxy.config.http.cache.http", &["256"]),
            ("proxy.config.http.chunking.size", &["0", "-1"]),
            ("proxy.config.http.parent_proxy.per_parent_connect_attempts", &["0"]),
            ("proxy.config.http.cache.heuristic_lm_factor", &["2", "-1", "nan", ""]),
            ("proxy.config.http.response_server_str", &["a\r\nb", "a\0b"]),
            ("proxy.config.http.request_buffer_enabled", &["0", "1"]),
        ] {
            for text in wrong {
                assert!(txn.record_set(record(name), text.as_bytes()).is_err(), "{name}: {text:?}");
            }
        }
        assert!(txn.record_get(record("proxy.config.hostdb.ip_resolve")).is_err(), "ATS would crash");
    }

    #[test]
    fn strings_are_kept_once_and_not_without_end() {
        let first = intern(b"a string").expect("kept");
        assert!(ptr::eq(first, intern(b"a string").expect("kept")));
        assert!(intern(&[b'x'; 1025]).is_err());
    }
}

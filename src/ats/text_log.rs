//! Log files of a plugin's own (`TSTextLogObject*`), which ATS writes, rolls and deletes as it does its other ones.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use ats_sys::{
    TS_LOG_MODE_ADD_TIMESTAMP, TS_LOG_MODE_DO_NOT_RENAME, TSTextLogObject, TSTextLogObjectCreate,
    TSTextLogObjectRollingEnabledSet, TSTextLogObjectRollingIntervalSecSet, TSTextLogObjectRollingOffsetHrSet,
    TSTextLogObjectRollingSizeMbSet, TSTextLogObjectWrite,
};

use crate::error::{Error, Result, check};
use crate::global::GlobalArg;

/// ATS drops, without a word, what does not fit into its `proxy.config.log.log_buffer_size`, 9,216 bytes by default.
pub const MAX_LINE: usize = 8 << 10;

/// A log file. Any thread. It stays open as long as ATS runs: nobody could know that no thread writes to it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TextLog(NonNull<c_void>);

// SAFETY: ATS locks what a log object has to lock, as threads of its own write to it, too.
unsafe impl Send for TextLog {}
// SAFETY: as above.
unsafe impl Sync for TextLog {}

/// When a log file is rolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rolling {
    /// Each time that so many seconds of the day have passed, and the hour at which they begin to count.
    pub interval: Option<(u32, u8)>,
    /// When it has so many MiB.
    pub size_mib: Option<u32>,
}

impl TextLog {
    /// The log file of this name in ATS's directory of logs (`TSTextLogObjectCreate`), with a time before each line. A name
    /// without a dot gets `.log` behind it.
    ///
    /// ATS has one object a file, and another copy of this plugin may have opened it: copies find it in a [`GlobalArg`]
    /// that is called after it. As for that, on one thread at a time.
    ///
    /// # Errors
    /// Something else in this process has a file of this name open, or the system has its reasons; diags.log says more.
    pub fn open(name: &str) -> Result<Self> {
        let c_string = |text: &str| CString::new(text).map_err(|_| Error::BadByte { what: "log file", byte: 0 });
        let (name, shared) = (c_string(name)?, c_string(&format!("wasm_remap.log.{name}"))?);
        // Where all arguments are taken, the file is this copy's alone.
        let shared = GlobalArg::reserve(&shared, c"a log file of wasm_remap").ok();
        if let Some(raw) = shared.and_then(GlobalArg::get) {
            return Ok(Self(raw));
        }
        let log = Self::create(&name)?;
        if let Some(shared) = shared {
            shared.set(log.0);
        }
        Ok(log)
    }

    fn create(name: &CStr) -> Result<Self> {
        let mut raw: TSTextLogObject = ptr::null_mut();
        // Renamed, it would be a file that nobody looks for.
        let mode = (TS_LOG_MODE_ADD_TIMESTAMP | TS_LOG_MODE_DO_NOT_RENAME) as c_int;
        // SAFETY: a C string, which ATS copies, and a place for what it makes.
        let code = unsafe { TSTextLogObjectCreate(name.as_ptr(), mode, &raw mut raw) };
        check(code, "TSTextLogObjectCreate")?;
        NonNull::new(raw.cast()).map(Self).ok_or(Error::Refused("TSTextLogObjectCreate"))
    }

    /// Sets when the file is rolled (`TSTextLogObjectRolling*Set`); without, ATS's records say so.
    ///
    /// # Errors
    /// ATS takes no such rolling.
    pub fn set_rolling(self, rolling: Rolling) -> Result<()> {
        /// `proxy.config.log.rolling_enabled`: by time, by size, by whichever comes first.
        const HOW: [c_int; 4] = [0, 1, 2, 3];
        let number = |value: u32| c_int::try_from(value).unwrap_or(c_int::MAX);
        let raw = self.0.as_ptr().cast();
        let how = HOW[usize::from(rolling.interval.is_some()) + 2 * usize::from(rolling.size_mib.is_some())];
        // SAFETY: a log object, which lives as long as ATS.
        let code = unsafe { TSTextLogObjectRollingEnabledSet(raw, how) };
        check(code, "TSTextLogObjectRollingEnabledSet")?;
        if let Some((seconds, hour)) = rolling.interval {
            // SAFETY: as above.
            unsafe {
                TSTextLogObjectRollingIntervalSecSet(raw, number(seconds));
                TSTextLogObjectRollingOffsetHrSet(raw, c_int::from(hour));
            }
        }
        if let Some(mib) = rolling.size_mib {
            // SAFETY: as above.
            unsafe { TSTextLogObjectRollingSizeMbSet(raw, number(mib)) };
        }
        Ok(())
    }

    /// Appends a line (`TSTextLogObjectWrite`), cut at [`MAX_LINE`]. It reaches the file within seconds.
    ///
    /// # Errors
    /// ATS has no room for it, in memory or on disk.
    pub fn write(self, line: &str) -> Result<()> {
        const FORMAT: *const c_char = c"%.*s".as_ptr();
        let line = &line[..line.floor_char_boundary(MAX_LINE)];
        let len = c_int::try_from(line.len()).unwrap_or(c_int::MAX);
        // SAFETY: a log object, which lives as long as ATS; the format takes a length and that many bytes, which is what
        // follows.
        let code = unsafe { TSTextLogObjectWrite(self.0.as_ptr().cast(), FORMAT, len, line.as_ptr().cast::<c_char>()) };
        check(code, "TSTextLogObjectWrite")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_and_never_formats() {
        let log = TextLog::open("auth.log").unwrap();
        log.write("100 %s %n").unwrap();
        log.write(&"\u{e9}".repeat(MAX_LINE)).unwrap();
        let lines = fake_ats::text_log("auth.log");
        assert_eq!(lines[0], "100 %s %n");
        assert_eq!(lines[1].len(), MAX_LINE, "cut between characters");
        assert!(TextLog::create(c"auth.log").is_err(), "ATS opens it once");
        let again = TextLog::open("auth.log").unwrap();
        assert_eq!(again, log, "and copies share it");
        again.write("again").unwrap();
        assert_eq!(fake_ats::text_log("auth.log").len(), 3);
    }

    #[test]
    fn rolling_is_by_time_by_size_or_by_both() {
        let log = TextLog::open("rolled.log").unwrap();
        let rolled = |interval, size_mib| {
            log.set_rolling(Rolling { interval, size_mib }).unwrap();
            fake_ats::text_log_rolling("rolled.log")
        };
        assert_eq!(rolled(Some((3600, 2)), None), [1, 3600, 2, 0]);
        assert_eq!(rolled(None, Some(10)), [2, 3600, 2, 10]);
        assert_eq!(rolled(Some((60, 0)), Some(20)), [3, 60, 0, 20]);
    }
}

//! Integer statistics (`TSStat*`), which `traffic_ctl metric` and `stats_over_http` show.
//!
//! ATS 9 has 1400 slots for all plugins, and never gives one back, so a name is looked up before it is created.

use std::ffi::{CString, c_int};

use ats_sys::{
    TS_RECORDDATATYPE_INT, TS_STAT_NON_PERSISTENT, TS_STAT_SYNC_SUM, TS_SUCCESS, TSStatCreate, TSStatFindName,
    TSStatIntDecrement, TSStatIntGet, TSStatIntIncrement, TSStatIntSet,
};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::thread::require_ats_thread;

/// A statistic. Lives as long as the process; the number behind it may be kept and sent about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stat(c_int);

impl Stat {
    /// The statistic of this name, created at zero if there is none (`TSStatFindName`, `TSStatCreate`). Any thread.
    ///
    /// After a reload, and in a second copy of this plugin, that is the one that there was, with its value.
    ///
    /// # Errors
    /// A name with a NUL in it; [`Error::StatsFull`].
    pub fn find_or_create(name: &str) -> Result<Self> {
        /// Two threads that both find nothing would create the name twice, and lose what one of them counts.
        static CREATING: Mutex<()> = Mutex::new(());

        let c_name = CString::new(name).map_err(|_| Error::BadByte { what: "statistic", byte: 0 })?;
        let _creating = CREATING.lock();
        let mut id: c_int = 0;
        // SAFETY: a C string; the result is ours to write to.
        if unsafe { TSStatFindName(c_name.as_ptr(), &raw mut id) } == TS_SUCCESS {
            return Ok(Self(id));
        }
        // SAFETY: a C string, which ATS copies. It answers TS_ERROR, which is negative, or the id.
        let id =
            unsafe { TSStatCreate(c_name.as_ptr(), TS_RECORDDATATYPE_INT, TS_STAT_NON_PERSISTENT, TS_STAT_SYNC_SUM) };
        if id < 0 {
            return Err(Error::StatsFull(name.to_owned()));
        }
        let mut found: c_int = 0;
        // Where there is room for a number, and none left in ATS's list of all records, the number has no name: nobody
        // would ever see it.
        // SAFETY: as the first look.
        if unsafe { TSStatFindName(c_name.as_ptr(), &raw mut found) } == TS_SUCCESS {
            Ok(Self(id))
        } else {
            Err(Error::StatsFull(name.to_owned()))
        }
    }

    /// Adds `amount`, which may be negative (`TSStatIntIncrement`, `TSStatIntDecrement`). No update is lost: each
    /// thread counts for itself, and ATS adds up now and then, so a getter sees it late.
    ///
    /// # Errors
    /// [`Error::ForeignThread`]: the count lies in the thread object, and ATS would write beside a null one.
    pub fn increment(self, amount: i64) -> Result<()> {
        require_ats_thread("TSStatIntIncrement")?;
        // SAFETY: an id that ATS gave out, on one of its threads.
        unsafe {
            if amount >= 0 {
                TSStatIntIncrement(self.0, amount);
            } else {
                // ATS subtracts it again; the most negative number wraps back to itself.
                TSStatIntDecrement(self.0, amount.wrapping_neg());
            }
        }
        Ok(())
    }

    /// `TSStatIntSet`, for gauges that one place writes. Any thread.
    pub fn set(self, value: i64) {
        // SAFETY: an id that ATS gave out; this writes the global sum, atomically.
        unsafe { TSStatIntSet(self.0, value) };
    }

    /// The sum as ATS last added it up (`TSStatIntGet`). Any thread.
    #[must_use]
    pub fn get(self) -> i64 {
        // SAFETY: an id that ATS gave out.
        unsafe { TSStatIntGet(self.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_created_once() {
        fake_ats::on_event_thread();
        let stat = Stat::find_or_create("plugin.wasm_remap.a").expect("a slot");
        assert_eq!(Stat::find_or_create("plugin.wasm_remap.a"), Ok(stat));
        assert_ne!(Stat::find_or_create("plugin.wasm_remap.b"), Ok(stat));
        stat.increment(1).expect("an ATS thread");
        stat.increment(5).expect("an ATS thread");
        stat.increment(-2).expect("an ATS thread");
        assert_eq!(stat.get(), 4);
        stat.set(-7);
        assert_eq!(stat.get(), -7);
        assert!(matches!(Stat::find_or_create("a\0b"), Err(Error::BadByte { .. })));
    }

    #[test]
    fn the_cap_is_an_error() {
        fake_ats::set_stat_slots(1);
        assert!(Stat::find_or_create("one").is_ok());
        assert_eq!(Stat::find_or_create("two"), Err(Error::StatsFull("two".into())));
        assert!(Stat::find_or_create("one").is_ok(), "what exists is still found");
    }

    #[test]
    fn foreign_threads_do_not_count() {
        let stat = Stat::find_or_create("x").expect("a slot");
        assert_eq!(stat.increment(1), Err(Error::ForeignThread("TSStatIntIncrement")));
    }
}

//! Reading ATS's records and directories. Any thread.

use std::ffi::{CStr, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use ats_sys::{
    TS_SUCCESS, TSConfigDirGet, TSInstallDirGet, TSMgmtInt, TSMgmtIntGet, TSMgmtString, TSMgmtStringGet,
    TSPluginDirGet, TSRuntimeDirGet,
};

use crate::alloc::TsBuf;
use crate::raw_slice::c_str;

/// An integer record, such as `proxy.config.exec_thread.limit` (`TSMgmtIntGet`); `None` if there is none of this name
/// and type.
#[must_use]
pub fn int_get(name: &CStr) -> Option<i64> {
    let mut value: TSMgmtInt = 0;
    // SAFETY: a C string; the result is ours to write to.
    let code = unsafe { TSMgmtIntGet(name.as_ptr(), &raw mut value) };
    (code == TS_SUCCESS).then_some(value)
}

/// A record with a fraction, such as `proxy.config.exec_thread.autoconfig.scale` (`TSMgmtFloatGet`).
#[must_use]
pub fn float_get(name: &CStr) -> Option<f32> {
    let mut value: ats_sys::TSMgmtFloat = 0.0;
    // SAFETY: a C string; the result is ours to write to.
    let code = unsafe { ats_sys::TSMgmtFloatGet(name.as_ptr(), &raw mut value) };
    (code == TS_SUCCESS).then_some(value)
}

/// A string record (`TSMgmtStringGet`); `None` if there is none of this name and type, or it is unset.
#[must_use]
pub fn string_get(name: &CStr) -> Option<Vec<u8>> {
    let mut value: TSMgmtString = ptr::null_mut();
    // SAFETY: a C string; the result is ours to write to.
    let code = unsafe { TSMgmtStringGet(name.as_ptr(), &raw mut value) };
    if code != TS_SUCCESS {
        return None;
    }
    // SAFETY: null, or a C string that ATS allocated for us.
    let len = unsafe { c_str(value) }.map_or(0, <[u8]>::len);
    // SAFETY: as above, of that length.
    unsafe { TsBuf::from_raw(value, len) }.map(|value| value.to_vec())
}

/// Where ATS is installed (`TSInstallDirGet`).
#[must_use]
pub fn install_dir() -> &'static Path {
    // SAFETY: the answer lives as long as the process.
    unsafe { dir(TSInstallDirGet()) }
}

/// Where remap.config is, and where relative paths in it begin (`TSConfigDirGet`).
#[must_use]
pub fn config_dir() -> &'static Path {
    // SAFETY: the answer lives as long as the process.
    unsafe { dir(TSConfigDirGet()) }
}

/// Where ATS keeps what it needs while it runs (`TSRuntimeDirGet`).
#[must_use]
pub fn runtime_dir() -> &'static Path {
    // SAFETY: the answer lives as long as the process.
    unsafe { dir(TSRuntimeDirGet()) }
}

/// Where plugins are looked for (`TSPluginDirGet`).
#[must_use]
pub fn plugin_dir() -> &'static Path {
    // SAFETY: the answer lives as long as the process.
    unsafe { dir(TSPluginDirGet()) }
}

/// # Safety
/// `path` must be null or a C string that lives as long as the process.
unsafe fn dir(path: *const c_char) -> &'static Path {
    // SAFETY: the caller's promise.
    Path::new(OsStr::from_bytes(unsafe { c_str(path) }.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records() {
        fake_ats::set_record_int("proxy.config.exec_thread.limit", 4);
        fake_ats::set_record_string("proxy.config.proxy_name", "edge");
        assert_eq!(int_get(c"proxy.config.exec_thread.limit"), Some(4));
        assert_eq!(int_get(c"proxy.config.none"), None);
        let before = fake_ats::live_blocks();
        assert_eq!(string_get(c"proxy.config.proxy_name"), Some(b"edge".to_vec()));
        assert_eq!(string_get(c"proxy.config.none"), None);
        assert_eq!(fake_ats::live_blocks(), before, "the string is freed");
    }

    #[test]
    fn directories() {
        assert_eq!(install_dir(), Path::new("/fake"));
        assert_eq!(config_dir(), Path::new("/fake/etc"));
        assert_eq!(runtime_dir(), Path::new("/fake/run"));
        assert_eq!(plugin_dir(), Path::new("/fake/modules"));
    }
}

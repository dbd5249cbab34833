//! Messages to plugins.

use std::cell::RefCell;
use std::ffi::CString;
use std::ptr;

use ats_sys::{TS_EVENT_LIFECYCLE_MSG, TS_LIFECYCLE_MSG_HOOK, TSCont, TSLifecycleHookID, TSPluginMsg};

use crate::cont;

thread_local! {
    static HOOKS: RefCell<Vec<TSCont>> = const { RefCell::new(Vec::new()) };
}

#[unsafe(no_mangle)]
extern "C" fn TSLifecycleHookAdd(id: TSLifecycleHookID, cont: TSCont) {
    assert_eq!(id, TS_LIFECYCLE_MSG_HOOK, "fake ATS: the only one of these hooks in use");
    assert!(!cont::has_mutex(cont), "fake ATS: the real one aborts if the mutex is taken");
    HOOKS.with_borrow_mut(|hooks| hooks.push(cont));
}

/// `traffic_ctl plugin msg TAG DATA`: every hook of this thread gets the message; without data, a null pointer.
pub fn send_message(tag: &str, data: Option<&[u8]>) {
    let tag = CString::new(tag).expect("no NUL");
    let hooks = HOOKS.with_borrow(Clone::clone);
    for hook in hooks {
        let mut message = TSPluginMsg {
            tag: tag.as_ptr(),
            data: data.map_or(ptr::null(), |data| data.as_ptr().cast()),
            data_size: data.map_or(0, <[u8]>::len),
        };
        cont::call(hook, TS_EVENT_LIFECYCLE_MSG, (&raw mut message).cast());
    }
}

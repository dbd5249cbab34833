//! Messages of the operator's: `traffic_ctl plugin msg TAG DATA`.

use ats_sys::{TS_LIFECYCLE_MSG_HOOK, TSLifecycleHookAdd, TSPluginMsg};

use crate::cont::{ContRef, Continuation, Edata, Handler};
use crate::error::Result;
use crate::event::Event;
use crate::raw_slice;

/// A message to all plugins (`TSPluginMsg`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'m> {
    /// Whom it is for.
    pub tag: &'m [u8],
    /// What it says, without the NUL that `traffic_ctl` puts at its end; empty if there was nothing but the tag.
    pub data: &'m [u8],
}

/// Has `hear` called for every message, as long as the process runs: ATS takes no hook of this kind back
/// (`TSLifecycleHookAdd`). Once for each loaded copy of a plugin, while that is loaded.
///
/// `hear` is called on a thread of the management's, which is none of ATS's event threads, and which must not wait: it
/// carries every other order of the operator's, too.
///
/// # Errors
/// As for [`Continuation::without_mutex`].
pub fn on_message(hear: impl Fn(Message<'_>) + Send + Sync + 'static) -> Result<()> {
    // Without a mutex: ATS would only try to take it, and abort if it were taken.
    let cont = Continuation::without_mutex(Listener(hear))?;
    // SAFETY: a continuation of ours, on an ATS thread (`without_mutex` checks).
    unsafe { TSLifecycleHookAdd(TS_LIFECYCLE_MSG_HOOK, cont.as_ref().as_raw()) };
    // The hook outlives everything.
    std::mem::forget(cont);
    Ok(())
}

struct Listener<F>(F);

impl<F: Fn(Message<'_>) + Send + Sync + 'static> Handler for Listener<F> {
    const NAME: &'static str = "message to plugins";

    fn handle(&self, _cont: ContRef<'_, Self>, event: Event, edata: Edata) {
        if let (Event::LIFECYCLE_MSG, Edata::Other(message)) = (event, edata)
            && !message.is_null()
        {
            // SAFETY: with this event ATS passes a message that lives for this call.
            let message = unsafe { read(&*message.cast::<TSPluginMsg>()) };
            (self.0)(message);
        }
    }
}

/// # Safety
/// The message must be one of ATS's: its tag null or a C string, its data null or of that size.
unsafe fn read(message: &TSPluginMsg) -> Message<'_> {
    // SAFETY: the caller's promise.
    let tag = unsafe { raw_slice::c_str(message.tag) }.unwrap_or_default();
    // A message came over a socket, in a buffer of a few kilobytes.
    let size = i64::try_from(message.data_size).unwrap_or(0);
    // SAFETY: the caller's promise.
    let data = unsafe { raw_slice::slice_or_empty_i64(message.data.cast(), size) };
    Message { tag, data: data.strip_suffix(b"\0").unwrap_or(data) }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn messages_are_heard_with_their_tag_and_without_their_nul() {
        fake_ats::on_event_thread();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hear = {
            let heard = Arc::clone(&heard);
            move |message: Message<'_>| {
                heard.lock().expect("no panic").push((message.tag.to_vec(), message.data.to_vec()));
            }
        };
        on_message(hear).expect("an event thread");
        // From a thread that ATS's threads are not.
        fake_ats::send_message("wasm_remap", Some(b"reload shop.yaml\0"));
        fake_ats::send_message("other", Some(b"raw\0bytes"));
        fake_ats::send_message("wasm_remap", None);
        let expected: [(&[u8], &[u8]); 3] =
            [(b"wasm_remap", b"reload shop.yaml"), (b"other", b"raw\0bytes"), (b"wasm_remap", b"")];
        let heard = heard.lock().expect("no panic");
        assert_eq!(heard.iter().map(|(tag, data)| (&tag[..], &data[..])).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_listener_that_panics_is_not_called_again_and_others_are() {
        fake_ats::on_event_thread();
        crate::guard::install_panic_hook();
        let count = Arc::new(Mutex::new(0));
        on_message(|_| panic!("heard")).expect("an event thread");
        on_message({
            let count = Arc::clone(&count);
            move |_| *count.lock().expect("no panic") += 1
        })
        .expect("an event thread");
        fake_ats::send_message("a", None);
        fake_ats::send_message("b", None);
        assert_eq!(*count.lock().expect("no panic"), 2);
    }

    #[test]
    fn a_foreign_thread_cannot_listen() {
        assert!(on_message(|_| ()).is_err());
    }
}

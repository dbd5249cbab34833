//! The one door through which ATS calls us.
//!
//! A panic that leaves an `extern "C"` function aborts the process, and with it every other rule's traffic. So each
//! callback enters through [`guard!`](crate::guard!), which names what it answers on panic; `TSRemapDoRemap` for
//! instance answers `TSREMAP_NO_REMAP`, so that the request goes where remap.config alone would send it.
//!
//! `AssertUnwindSafe` is argued here once: state that a panic left half-changed is not used again, because whoever
//! owns such state poisons it ([`crate::cont`] skips the handler of a continuation that panicked).

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log;

static PANICS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// How many guards are on this thread's stack; more than one, since re-enables nest.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    /// What the hook saw, kept for the guard, which logs it once the stack is unwound.
    static LAST: RefCell<Option<String>> = const { RefCell::new(None) };
    /// What must not run during unwinding; see [`after_unwinding`].
    static DEFERRED: RefCell<Vec<Box<dyn FnOnce()>>> = const { RefCell::new(Vec::new()) };
}

/// Runs a block as the body of a callback from ATS: `guard!("TSRemapDoRemap", on_panic = TSREMAP_NO_REMAP, { ... })`.
///
/// The block is the body of a closure, so `return` leaves the callback. A panic is caught, counted and logged as one
/// line, and the value of `on_panic` is answered.
#[macro_export]
macro_rules! guard {
    ($name:expr, on_panic = $value:expr, $body:block) => {
        $crate::guard::run($name, $value, move || $body)
    };
}

/// What [`guard!`](crate::guard!) expands to.
pub fn run<T>(name: &'static str, on_panic: T, body: impl FnOnce() -> T) -> T {
    // Looked up once: in a shared object the place of a thread-local is the answer of a function.
    let outcome = DEPTH.with(|depth| {
        depth.set(depth.get() + 1);
        let outcome = panic::catch_unwind(AssertUnwindSafe(body));
        depth.set(depth.get() - 1);
        outcome
    });
    match outcome {
        Ok(value) => value,
        Err(payload) => {
            report(name, payload);
            run_deferred();
            on_panic
        }
    }
}

/// Panics caught by guards since the library was loaded.
#[must_use]
pub fn panic_count() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// Makes panics inside guards quiet: the message goes to ATS's log through the guard, not to stderr.
///
/// The standard hook prints and may walk the stack, on the thread that carries traffic (62 ms were measured for the
/// first one). Panics outside of guarded code, such as on threads of our own, still reach the hook that was
/// installed before. Call once from `TSRemapInit`; more calls do nothing.
pub fn install_panic_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !is_active() {
                return previous(info);
            }
            let message = info.payload_as_str().unwrap_or("(payload is not a string)");
            let line = match info.location() {
                Some(at) => format!("{message} at {}:{}:{}", at.file(), at.line(), at.column()),
                None => message.to_owned(),
            };
            // A thread that is ending has no thread-locals any more; the guard then logs without a location.
            let _ = LAST.try_with(|last| *last.borrow_mut() = Some(line));
        }));
    });
}

/// Whether a guard is on this thread's stack.
pub(crate) fn is_active() -> bool {
    DEPTH.try_with(Cell::get).unwrap_or(0) > 0
}

/// Puts off `action` to the moment when the guard has caught the panic that is now unwinding.
///
/// For destructors that would re-enter ATS: a re-enable runs further hooks, and those must not run on a stack that
/// is being unwound. Answers `false`, without keeping the action, if no guard will come by.
pub(crate) fn after_unwinding(action: impl FnOnce() + 'static) -> bool {
    is_active() && DEFERRED.try_with(|list| list.borrow_mut().push(Box::new(action))).is_ok()
}

fn run_deferred() {
    loop {
        // The borrow ends before the action runs: it re-enters ATS, which may come back to this very list.
        let next = DEFERRED.try_with(|list| list.borrow_mut().pop()).ok().flatten();
        let Some(action) = next else { return };
        action();
    }
}

fn report(name: &str, payload: Box<dyn Any + Send>) {
    let count = PANICS.fetch_add(1, Ordering::Relaxed) + 1;
    let seen = LAST.try_with(|last| last.borrow_mut().take()).ok().flatten();
    let message = seen.as_deref().unwrap_or_else(|| payload_text(&*payload));
    log::error(format_args!("panic in {name} (number {count}): {message}"));
    // A payload of another type may panic when dropped, and there is no guard left around us.
    if !payload.is::<&'static str>() && !payload.is::<String>() {
        std::mem::forget(payload);
    }
}

fn payload_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "(payload is not a string)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_body_answers_its_own_value() {
        let value = guard!("TSRemapDoRemap", on_panic = -1, {
            if true {
                return 3;
            }
            4
        });
        assert_eq!(value, 3);
        assert!(!is_active());
    }

    #[test]
    fn a_panic_answers_on_panic_and_is_one_log_line() {
        install_panic_hook();
        let before = panic_count();
        let value = guard!("TSRemapDoRemap", on_panic = 7, { panic!("first\nsecond {}", 2) });
        assert_eq!(value, 7);
        assert!(panic_count() > before);
        let lines = fake_ats::take_log();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (level, line) = &lines[0];
        assert_eq!(*level, "error");
        assert!(line.contains("panic in TSRemapDoRemap"), "{line}");
        assert!(line.contains(r"first\nsecond 2 at "), "{line}");
        assert!(line.contains("guard.rs:"), "{line}");
    }

    #[test]
    fn odd_payloads_are_survived() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let value = guard!("x", on_panic = 1, { panic::panic_any(Bomb) });
        assert_eq!(value, 1);
    }

    #[test]
    fn deferred_actions_run_after_unwinding_only() {
        thread_local!(static UNWINDING: Cell<Option<bool>> = const { Cell::new(None) });
        struct OnDrop;
        impl Drop for OnDrop {
            fn drop(&mut self) {
                assert!(std::thread::panicking());
                assert!(after_unwinding(|| UNWINDING.set(Some(std::thread::panicking()))));
            }
        }
        guard!("x", on_panic = (), {
            let _on_drop = OnDrop;
            panic!("go");
        });
        assert_eq!(UNWINDING.get(), Some(false));
        assert!(!after_unwinding(|| ()), "no guard, nobody to run it");
    }

    #[test]
    fn guards_nest() {
        let value = guard!("outer", on_panic = 0, {
            let inner = guard!("inner", on_panic = 10, { panic!("inner only") });
            assert!(is_active());
            inner + 1
        });
        assert_eq!(value, 11);
    }
}

//! How a guest ended.

use std::time::Duration;

use wasmtime::{FrameInfo, Module, WasmBacktrace};

use crate::abi::Callback;
use crate::error::{Error, Trap, TrapKind};
use crate::journal::Frame;
use crate::limits::Limit;

/// Sorts a guest's end into its class. Frames of the `relay` are not the guest's.
pub(super) fn trap(callback: Callback, relay: Option<&Module>, error: &wasmtime::Error) -> Error {
    let (kind, reason) = if let Some(exit) = error.downcast_ref::<crate::wasi::GuestExit>() {
        (TrapKind::Exit(exit.0), exit.to_string())
    } else if let Some(ours) = error.downcast_ref::<Error>() {
        let bytes = matches!(ours, Error::Exceeded(Limit::Hostcall));
        (if bytes { TrapKind::HostcallBytes } else { TrapKind::Hostcall }, ours.to_string())
    } else {
        match error.downcast_ref::<wasmtime::Trap>() {
            Some(wasmtime::Trap::Interrupt) => {
                (TrapKind::Deadline, "the callback ran longer than its deadline".to_owned())
            }
            Some(wasmtime::Trap::StackOverflow) => (TrapKind::StackOverflow, "the guest's stack is used up".to_owned()),
            Some(trap) => (TrapKind::Guest, trap.to_string().replace("wasm trap: ", "trap: ")),
            None => (TrapKind::Guest, crate::module::one_line(error)),
        }
    };
    let backtrace = error.downcast_ref::<WasmBacktrace>().map_or_else(Vec::new, |backtrace| {
        let number = |offset: usize| u32::try_from(offset).ok();
        // The relay is ours.
        let is_ours = |frame: &&FrameInfo| relay.is_some_and(|relay| Module::same(relay, frame.module()));
        let guests = backtrace.frames().iter().filter(|frame| !is_ours(frame));
        let frames = guests.take(20).map(|frame| Frame {
            function: frame.func_index(),
            offset: frame.func_offset().and_then(number).unwrap_or(0),
            module_offset: frame.module_offset().and_then(number),
            name: frame.func_name().map(str::to_owned),
        });
        frames.collect()
    });
    // Which limit it was, and what it took, is for the VM to say.
    Error::Trap(Box::new(Trap { callback, kind, reason, limit: None, spent: Duration::ZERO, backtrace }))
}

/// The text of a panic's payload.
pub(super) fn host_panic(callback: Callback, payload: &(dyn std::any::Any + Send)) -> Error {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "unknown panic".to_owned());
    let reason = format!("the host panicked in a hostcall: {text}");
    let (limit, spent, backtrace) = (None, Duration::ZERO, Vec::new());
    Error::Trap(Box::new(Trap { callback, kind: TrapKind::HostPanic, reason, limit, spent, backtrace }))
}

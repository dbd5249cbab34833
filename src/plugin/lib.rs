//! `wasm_remap.so`: Proxy-Wasm filters for single remap rules of Apache Traffic Server.
//!
//! Only the `TSRemap*` entry points are here. Each goes through a guard that says what it answers on panic, and
//! hands over to safe code: [`process`] (one engine for the process), [`rule`] (one `TSRemapNewInstance`),
//! [`transaction`] (hooks), [`host`] (the engine's view of a transaction), [`reply`] (local responses).
//!
//! What is here knows ATS and no Proxy-Wasm semantics; those are the engine's.

mod body;
mod course;
mod fault;
mod framing;
mod host;
mod logs;
mod matching;
mod metrics_endpoint;
mod overlay;
mod process;
mod properties;
mod registry;
mod reload;
mod reply;
mod request_body;
mod rule;
mod state;
mod stats;
mod threads;
mod transaction;
mod transforms;
mod wait;
mod watch;

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;
use std::sync::Arc;

use ats::guard;
use ats::handle::TxnHandle;
use ats::remap::{ErrBuf, InstanceArgs, RemapRequest, check_interface};
use ats::sys::{
    TS_ERROR, TS_SUCCESS, TSHttpTxn, TSREMAP_DID_REMAP, TSREMAP_DID_REMAP_STOP, TSREMAP_NO_REMAP,
    TSREMAP_NO_REMAP_STOP, TSRemapInterface, TSRemapReloadStatus, TSRemapRequestInfo, TSRemapStatus, TSReturnCode,
};
use engine::shared::Published;
use rule::Rule;
use transaction::Outcome;

/// Once for each loaded copy of the plugin, on the main thread or, at a reload, on an ET_TASK thread.
///
/// On panic: `TS_ERROR`, so that the configuration that names us does not load.
///
/// # Safety
/// ATS calls this with pointers that are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TSRemapInit(api: *mut TSRemapInterface, errbuf: *mut c_char, size: c_int) -> TSReturnCode {
    guard::install_panic_hook();
    // SAFETY: ATS's own buffer of that size, for the duration of this call.
    let mut errbuf = unsafe { ErrBuf::from_raw(errbuf, size) };
    guard!("TSRemapInit", on_panic = TS_ERROR, {
        // SAFETY: ATS passes its interface structure, whose first field is its size.
        let checked = unsafe { check_interface(api) };
        match checked.map_err(|error| error.to_string()).and_then(|()| process::start(published)) {
            Ok(()) => TS_SUCCESS,
            Err(message) => {
                errbuf.set(format_args!("wasm_remap: {message}"));
                TS_ERROR
            }
        }
    })
}

/// The shared state that another copy of this plugin published at an address.
fn published(address: NonNull<c_void>) -> Published {
    // SAFETY: the address comes from the slot of the process where copies of this plugin, and nobody else, put what
    // `Published::as_raw` tells them. No copy is ever unloaded, see docs/architecture.md.
    unsafe { Published::from_raw(address) }
}

/// Once a rule: loads its chain. On the main thread at startup, on an ET_TASK thread at a reload.
///
/// On panic: `TS_ERROR`, so that the new configuration is refused and the old one goes on serving.
///
/// # Safety
/// ATS calls this with pointers that are valid for the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TSRemapNewInstance(
    argc: c_int,
    argv: *mut *mut c_char,
    instance: *mut *mut c_void,
    errbuf: *mut c_char,
    size: c_int,
) -> TSReturnCode {
    // SAFETY: ATS's own buffer of that size, for the duration of this call.
    let mut errbuf = unsafe { ErrBuf::from_raw(errbuf, size) };
    guard!("TSRemapNewInstance", on_panic = TS_ERROR, {
        // SAFETY: ATS passes `argc` C strings, which stay as they are during this call.
        let args = unsafe { InstanceArgs::from_raw(argc, argv) };
        fault::inject("TSRemapNewInstance");
        match registry::make(&args) {
            Ok(rule) => {
                // SAFETY: ATS passes the place where it keeps what belongs to the rule.
                unsafe { *instance = Arc::into_raw(rule).cast_mut().cast() };
                TS_SUCCESS
            }
            Err(message) => {
                // ATS logs it, with the line of remap.config.
                errbuf.set(format_args!("{message}"));
                TS_ERROR
            }
        }
    })
}

/// Once a request that the rule matches, on the transaction's event thread.
///
/// On panic: the request is answered 503. A rule's filters may be what protects its origin; a bug of ours must not
/// open the door.
///
/// # Safety
/// ATS calls this with the pointer that [`TSRemapNewInstance`] gave, a live transaction and its request info.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TSRemapDoRemap(
    instance: *mut c_void,
    txn: TSHttpTxn,
    rri: *mut TSRemapRequestInfo,
) -> TSRemapStatus {
    let answer = guard!("TSRemapDoRemap", on_panic = None, {
        // SAFETY: the pointer is the reference that TSRemapNewInstance gave; ATS deletes an instance only after the last
        // transaction that uses it, so a shared borrow for this call holds.
        let rule = unsafe { &*instance.cast::<Rule>() };
        // SAFETY: these are the arguments of the DoRemap call that is going on, and there is no other view of them.
        let request = unsafe { RemapRequest::from_raw(txn, rri) };
        Some(request.map_or_else(Outcome::default, |mut request| {
            let slot = threads::slot();
            let Some((chain, participants)) = transaction::participants(rule, &request, slot) else {
                return Outcome::default();
            };
            // SAFETY: the handle goes with the stream's host, which lets go of it at TXN_CLOSE, before that is re-enabled
            // (`state::State::close`, `TxnHost::retire`) - or with the stream itself, if the transaction's data could not be
            // prepared, or `begin` panicked before that was attached. The engine uses
            // it only while one of its calls runs, and no other view of the messages is alive around those.
            let handle = unsafe { TxnHandle::new(request.txn()) };
            handle.map_or_else(Outcome::default, |handle| {
                transaction::begin(&chain, &mut request, handle, participants, slot)
            })
        }))
    });
    match answer {
        Some(Outcome { remapped: true, answered: true }) => TSREMAP_DID_REMAP_STOP,
        Some(Outcome { remapped: true, answered: false }) => TSREMAP_DID_REMAP,
        Some(Outcome { remapped: false, answered: true }) => TSREMAP_NO_REMAP_STOP,
        Some(Outcome { remapped: false, answered: false }) => TSREMAP_NO_REMAP,
        None => guard!("TSRemapDoRemap (after a panic)", on_panic = TSREMAP_NO_REMAP_STOP, {
            // SAFETY: as above; the first view went with the panic.
            if let Some(request) = unsafe { RemapRequest::from_raw(txn, rri) } {
                reply::refuse(request.txn());
            }
            TSREMAP_NO_REMAP_STOP
        }),
    }
}

/// Once a rule that is no longer used by any transaction, on an ET_TASK thread.
///
/// On panic: what is not freed yet leaks.
///
/// # Safety
/// ATS calls this once with the pointer that [`TSRemapNewInstance`] gave.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn TSRemapDeleteInstance(instance: *mut c_void) {
    guard!("TSRemapDeleteInstance", on_panic = (), {
        if !instance.is_null() {
            fault::inject("TSRemapDeleteInstance");
            // SAFETY: made by Arc::into_raw in TSRemapNewInstance, and deleted once. Other threads have references of
            // their own.
            registry::delete(unsafe { Arc::from_raw(instance.cast::<Rule>().cast_const()) });
        }
    });
}

/// Before the rules of a new configuration are made.
#[unsafe(no_mangle)]
pub extern "C" fn TSRemapPreConfigReload() {
    guard!("TSRemapPreConfigReload", on_panic = (), { process::before_reload() });
}

/// After that, whether it was taken or not.
#[unsafe(no_mangle)]
pub extern "C" fn TSRemapPostConfigReload(status: TSRemapReloadStatus) {
    guard!("TSRemapPostConfigReload", on_panic = (), { process::after_reload(status) });
}

//! What the guests share: reading a JSON configuration, telling VMs apart, texts in shared data, and misbehaving in a chosen
//! callback.

mod fnv;
mod misbehave;
pub mod shared;

use std::cell::OnceCell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use proxy_wasm::hostcalls;
use proxy_wasm::types::BufferType;
use serde::de::DeserializeOwned;

pub use fnv::Fnv;
pub use misbehave::{Behaviour, misbehave};

/// The plugin configuration, or the default where there is none. What is wrong with it is logged, for `on_configure`
/// to refuse.
pub fn plugin_configuration<T: DeserializeOwned + Default>() -> Option<T> {
    configuration(BufferType::PluginConfiguration)
}

/// The same of the VM configuration.
pub fn vm_configuration<T: DeserializeOwned + Default>() -> Option<T> {
    configuration(BufferType::VmConfiguration)
}

fn configuration<T: DeserializeOwned + Default>(buffer: BufferType) -> Option<T> {
    let bytes = hostcalls::get_buffer(buffer, 0, usize::MAX).ok()??;
    parse(&bytes)
}

/// JSON from configuration bytes; none at all are the default.
pub fn parse<T: DeserializeOwned + Default>(bytes: &[u8]) -> Option<T> {
    if bytes.is_empty() {
        return Some(T::default());
    }
    serde_json::from_slice(bytes).inspect_err(|error| log::error!("configuration: {error}")).ok()
}

/// How many requests this VM has seen, this one included.
pub fn count_request() -> u32 {
    static REQUESTS: AtomicU32 = AtomicU32::new(0);
    REQUESTS.fetch_add(1, Ordering::Relaxed) + 1
}

/// A random name that this VM gave itself: 16 hexadecimal digits.
pub fn vm_name() -> String {
    thread_local!(static NAME: OnceCell<String> = const { OnceCell::new() });
    NAME.with(|name| name.get_or_init(|| hex(&random(8))).clone())
}

/// Random bytes from WASI.
pub fn random(len: usize) -> Vec<u8> {
    #[link(wasm_import_module = "wasi_snapshot_preview1")]
    unsafe extern "C" {
        fn random_get(data: *mut u8, size: usize) -> u32;
    }
    let mut bytes = vec![0; len];
    // SAFETY: the host writes `len` bytes, which is what the vector holds.
    let errno = unsafe { random_get(bytes.as_mut_ptr(), len) };
    assert_eq!(errno, 0, "random_get");
    bytes
}

/// Hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

//! How much memory the guests of a VM key have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::{ResourceLimiter, StoreLimits};

/// The VMs of one key, now.
#[derive(Debug, Default)]
pub(crate) struct VmGauge {
    vms: AtomicU64,
    bytes: AtomicU64,
}

impl VmGauge {
    /// VMs that are there.
    pub(crate) fn vms(&self) -> u64 {
        self.vms.load(Ordering::Relaxed)
    }

    /// Bytes of their linear memories.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A store's ceilings, which also see how much it has: memory only ever changes by asking them.
pub(crate) struct MeasuredLimits {
    limits: StoreLimits,
    gauge: Arc<VmGauge>,
    bytes: u64,
    /// The growth that was granted last; taken back if it fails all the same.
    granted: u64,
    /// What was refused and nobody has asked about yet: the bytes, and the elements, that there would have been.
    refused: Refused,
}

/// Growth that was refused because of a limit.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Refused {
    pub(crate) any: bool,
    /// How many times, and the bytes that there would have been the last time.
    pub(crate) memory: (u64, usize),
    /// How many times, and the elements that there would have been the last time.
    pub(crate) table: (u64, usize),
}

impl Refused {
    fn note(&mut self, of: impl Fn(&mut Self) -> &mut (u64, usize), desired: usize) {
        self.any = true;
        let (times, last) = of(self);
        *times += 1;
        *last = desired;
    }
}

impl MeasuredLimits {
    pub(crate) fn new(limits: StoreLimits, gauge: Arc<VmGauge>) -> Self {
        gauge.vms.fetch_add(1, Ordering::Relaxed);
        MeasuredLimits { limits, gauge, bytes: 0, granted: 0, refused: Refused::default() }
    }

    /// Whether anything was refused since somebody asked.
    #[inline]
    pub(crate) fn has_refused(&self) -> bool {
        self.refused.any
    }

    /// What was refused since the last time.
    pub(crate) fn take_refused(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }
}

impl Drop for MeasuredLimits {
    fn drop(&mut self) {
        self.gauge.vms.fetch_sub(1, Ordering::Relaxed);
        self.gauge.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl ResourceLimiter for MeasuredLimits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = self.limits.memory_growing(current, desired, maximum)?;
        // A maximum of the module's own is no limit of ours.
        if !allowed && maximum.is_none_or(|maximum| desired <= maximum) {
            self.refused.note(|refused| &mut refused.memory, desired);
        }
        self.granted = if allowed { desired.saturating_sub(current) as u64 } else { 0 };
        self.bytes += self.granted;
        self.gauge.bytes.fetch_add(self.granted, Ordering::Relaxed);
        Ok(allowed)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let granted = std::mem::take(&mut self.granted);
        self.bytes -= granted;
        self.gauge.bytes.fetch_sub(granted, Ordering::Relaxed);
        self.limits.memory_grow_failed(error)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let allowed = self.limits.table_growing(current, desired, maximum)?;
        if !allowed && maximum.is_none_or(|maximum| desired <= maximum) {
            self.refused.note(|refused| &mut refused.table, desired);
        }
        Ok(allowed)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.limits.table_grow_failed(error)
    }

    fn instances(&self) -> usize {
        self.limits.instances()
    }

    fn tables(&self) -> usize {
        self.limits.tables()
    }

    fn memories(&self) -> usize {
        self.limits.memories()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_while_the_store_lives() {
        let gauge = Arc::new(VmGauge::default());
        let limits = wasmtime::StoreLimitsBuilder::new().memory_size(3 << 16).build();
        let engine = wasmtime::Engine::default();
        let mut store = wasmtime::Store::new(&engine, MeasuredLimits::new(limits, Arc::clone(&gauge)));
        store.limiter(|limits| limits);
        let text = "(module (memory (export \"m\") 1))";
        let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        assert_eq!((gauge.vms(), gauge.bytes()), (1, 1 << 16));
        let memory = instance.get_memory(&mut store, "m").unwrap();
        memory.grow(&mut store, 2).unwrap();
        assert_eq!(gauge.bytes(), 3 << 16);
        memory.grow(&mut store, 1).unwrap_err();
        assert_eq!(gauge.bytes(), 3 << 16, "what was refused is not there");
        assert!(store.data().has_refused());
        assert_eq!(store.data_mut().take_refused().memory, (1, 4 << 16));
        assert!(!store.data().has_refused());
        drop(store);
        assert_eq!((gauge.vms(), gauge.bytes()), (0, 0));
    }
}

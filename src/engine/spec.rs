//! What VMs and plugin contexts are made from: what is compared to decide whether two filters share them.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::module::Module;
use crate::settings::VmSettings;

/// What makes two VMs interchangeable: equal keys share VMs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VmKey([u8; 32]);

impl VmKey {
    /// The beginning of the key: enough to tell the keys of one server apart.
    pub(crate) fn short(&self) -> String {
        self.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What a VM is built from.
#[derive(Debug)]
pub(crate) struct VmSpec {
    pub(crate) key: VmKey,
    pub(crate) module: Arc<Module>,
    pub(crate) settings: Arc<VmSettings>,
}

impl VmSpec {
    pub(crate) fn new(module: Arc<Module>, settings: VmSettings) -> Self {
        let mut hash = Sha256::new();
        let mut part = |bytes: &[u8]| {
            // Lengths first, so that no two lists of parts hash alike.
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(settings.vm_id.as_bytes());
        part(&module.digest().0);
        part(module.compiler().as_str().as_bytes());
        part(&settings.vm_configuration);
        for (name, value) in &settings.environment {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        part(format!("{:?}", settings.limits).as_bytes());
        part(format!("{:?}", settings.capabilities).as_bytes());
        let key = VmKey(hash.finalize().into());
        VmSpec { key, module, settings: Arc::new(settings) }
    }
}

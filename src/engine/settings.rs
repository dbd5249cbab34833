//! What a guest is given by its configuration: read by hostcalls, and part of what decides who shares a VM.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::breaker::SharedBreaker;
use crate::capabilities::Capabilities;
use crate::journal::Site;
use crate::limits::Limits;
use crate::upstreams::Upstreams;

/// What is the same for every plugin context of a VM.
#[derive(Debug)]
pub(crate) struct VmSettings {
    pub(crate) vm_id: String,
    pub(crate) vm_configuration: Arc<[u8]>,
    /// The guest's environment: what the configuration names, never the server's own.
    pub(crate) environment: Vec<(String, String)>,
    pub(crate) limits: Limits,
    /// What the guest may call and be called for; `None` is everything.
    pub(crate) capabilities: Option<Capabilities>,
}

impl VmSettings {
    /// Whether an export of this name may be called.
    pub(crate) fn allows(&self, export: &str) -> bool {
        self.capabilities.as_ref().is_none_or(|capabilities| capabilities.allows(export))
    }
}

/// What a plugin context is made from. Equal specifications share one plugin context a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct PluginSpec {
    /// One text for all filters of this name.
    pub(crate) name: Arc<str>,
    pub(crate) root_id: Box<str>,
    pub(crate) configuration: Arc<[u8]>,
    /// Whom it may call.
    pub(crate) upstreams: Arc<Upstreams>,
    /// Where its lines go.
    pub(crate) log: SiteOf,
    /// Sets it aside when it fails too often. Compared by its settings; of equal specifications the first one's counts.
    pub(crate) breaker: SharedBreaker,
}

/// A [`Site`], compared by what its configuration says: what it has counted makes no difference.
#[derive(Debug, Clone)]
pub(crate) struct SiteOf(pub(crate) Arc<Site>);

impl PartialEq for SiteOf {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_like(&other.0)
    }
}

impl Eq for SiteOf {}

impl Hash for SiteOf {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.settings().hash(state);
    }
}

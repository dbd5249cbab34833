//! What `check` finds, as JSON has it.

use engine::Limits;
use serde::Serialize;

use super::besides::{ClusterReport, MetricsReport, NamespaceReport, ServiceReport};
use super::bodies::{ChainBodies, FilterBodies};
use super::hooks::Hook;

/// All that was found.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) ok: bool,
    pub(super) rules: Vec<RuleReport>,
    /// What is wrong with remap.config itself.
    pub(super) errors: Vec<String>,
    /// VMs that serve more than one filter.
    pub(super) shared: Vec<SharedVm>,
    pub(super) totals: Totals,
}

/// One chain: a rule's, or that of the files on the command line.
#[derive(Serialize)]
pub(super) struct RuleReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Origin>,
    pub(super) files: Vec<String>,
    /// What the plugin adds to each transaction of the rule, and which filters it is for.
    pub(super) hooks: Vec<Hook>,
    pub(super) bodies: ChainBodies,
    pub(super) filters: Vec<FilterReport>,
    pub(super) services: Vec<ServiceReport>,
    /// Whom they may call.
    pub(super) clusters: Vec<ClusterReport>,
    /// Ceilings that the rule sets for what they share.
    pub(super) namespaces: Vec<NamespaceReport>,
    /// Where metrics are served.
    pub(super) metrics: Vec<MetricsReport>,
    pub(super) errors: Vec<Mistake>,
    pub(super) warnings: Vec<String>,
    pub(super) log: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct Origin {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) kind: String,
    pub(super) from: String,
    pub(super) to: String,
}

#[derive(Serialize, Clone)]
pub(super) struct Mistake {
    pub(super) message: String,
    /// What the filter logged before it failed.
    pub(super) log: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct FilterReport {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) module: ModuleReport,
    pub(super) root_id: String,
    pub(super) configuration_bytes: usize,
    pub(super) vm_id: String,
    pub(super) vm_configuration_bytes: usize,
    pub(super) environment: Vec<String>,
    pub(super) failure_policy: &'static str,
    pub(super) limits: LimitsReport,
    pub(super) bodies: FilterBodies,
    /// Exported and called.
    pub(super) callbacks: Vec<&'static str>,
    /// Exported, and not called by this version.
    pub(super) callbacks_not_called: Vec<&'static str>,
    /// Imported, and always refused by this version.
    pub(super) refused_calls: Vec<RefusedCall>,
    /// What it may call and be called for; null is everything.
    pub(super) allowed_capabilities: Option<Vec<&'static str>>,
    /// Imported, and refused because it is not among these.
    pub(super) restricted_calls: Vec<String>,
    /// Addresses outside of clusters that it may call.
    pub(super) callout_hosts: Vec<String>,
    /// Filters with equal numbers share their VMs.
    pub(super) vm: usize,
    /// Filters with equal numbers share their plugin context.
    pub(super) plugin_context: usize,
}

#[derive(Serialize)]
pub(super) struct ModuleReport {
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) bytes: u64,
    pub(super) abi: &'static str,
    pub(super) compiler: &'static str,
}

#[derive(Serialize)]
pub(super) struct LimitsReport {
    pub(super) memory_mib: usize,
    pub(super) stack_kib: usize,
    pub(super) callback_ms: u128,
    pub(super) configure_ms: u128,
    pub(super) pause_ms: u128,
    pub(super) body_kib: usize,
    pub(super) header_kib: usize,
    pub(super) header_count: usize,
}

impl LimitsReport {
    pub(super) fn of(limits: &Limits) -> Self {
        LimitsReport {
            memory_mib: limits.memory_bytes >> 20,
            stack_kib: limits.stack_bytes >> 10,
            callback_ms: limits.callback.as_millis(),
            configure_ms: limits.configure.as_millis(),
            pause_ms: limits.pause.as_millis(),
            body_kib: limits.body_bytes >> 10,
            header_kib: limits.pairs.bytes >> 10,
            header_count: limits.pairs.pairs,
        }
    }
}

#[derive(Serialize)]
pub(super) struct RefusedCall {
    pub(super) name: &'static str,
    pub(super) status: String,
}

#[derive(Serialize)]
pub(super) struct SharedVm {
    pub(super) vm: usize,
    pub(super) vm_id: String,
    pub(super) module_sha256: String,
    pub(super) filters: usize,
    pub(super) plugin_contexts: usize,
}

#[derive(Serialize, Default)]
pub(super) struct Totals {
    pub(super) rules: usize,
    pub(super) other_rules: usize,
    pub(super) filters: usize,
    pub(super) services: usize,
    pub(super) modules: usize,
    pub(super) vms_per_thread: usize,
    pub(super) plugin_contexts_per_vm_thread: usize,
}

impl Default for Report {
    fn default() -> Self {
        Report { ok: true, rules: Vec::new(), errors: Vec::new(), shared: Vec::new(), totals: Totals::default() }
    }
}

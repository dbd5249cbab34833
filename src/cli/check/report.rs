//! What `check` finds, as JSON has it.

use engine::config::matching::Condition;
use engine::config::{BreakerSpec, ConfigError, FilterSpec};
use engine::{Isolation, Limits};
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
    /// How many VMs its filters run in.
    pub(super) vms: RuleVms,
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

#[derive(Serialize, Clone, Default)]
pub(super) struct Mistake {
    /// One line, as the plugin logs it.
    pub(super) message: String,
    /// What the filter logged before it failed.
    pub(super) log: Vec<String>,
    /// Where it stands, if it is one in a filter file.
    #[serde(flatten)]
    pub(super) place: Option<Place>,
    /// The same for a terminal: what is wrong, and the lines that show it.
    #[serde(skip)]
    pub(super) shown: Option<(String, String)>,
}

/// Where a mistake stands in a filter file. Lines, columns and lengths are in characters.
#[derive(Serialize, Clone)]
pub(super) struct Place {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    /// How much of the line is wrong; 0 where something is missing.
    length: Option<usize>,
    /// What was probably meant.
    suggestion: Option<String>,
    /// What else helps.
    hint: Option<String>,
}

impl Mistake {
    /// One that has no place in a filter file.
    pub(super) fn new(message: impl Into<String>, log: Vec<String>) -> Self {
        Mistake { message: message.into(), log, ..Mistake::default() }
    }

    /// The mistake, with what it is in front: the rule that it keeps from loading.
    pub(super) fn of_rule(&mut self, rule: &str) {
        self.message = format!("{rule}: {}", self.message);
        if let Some((headline, _)) = &mut self.shown {
            *headline = format!("{rule}: {headline}");
        }
    }
}

impl From<ConfigError> for Mistake {
    fn from(error: ConfigError) -> Self {
        Mistake {
            message: error.to_string(),
            log: Vec::new(),
            shown: Some((error.headline(), error.snippet(2))),
            place: Some(Place {
                file: error.file.display().to_string(),
                line: error.at.map(|(line, _)| line),
                column: error.at.map(|(_, column)| column),
                length: error.excerpt.map(|excerpt| excerpt.length),
                suggestion: error.suggestion,
                hint: error.hint,
            }),
        }
    }
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
    /// What it is answered then; null if it goes on.
    pub(super) failure_status: Option<u16>,
    /// When it is set aside; null if it never is.
    pub(super) breaker: Option<BreakerReport>,
    pub(super) limits: LimitsReport,
    /// Which transactions it takes part in; null is all.
    pub(super) r#match: Option<MatchReport>,
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
    pub(super) log: LogReport,
    /// `shared`, `rule` or `transaction`.
    pub(super) isolation: &'static str,
    /// Filters with equal numbers share their VMs, but for those of `isolation: transaction`, which share none.
    pub(super) vm: usize,
    /// Linear memory of one such VM once it is configured.
    pub(super) vm_memory_bytes: u64,
    /// Filters with equal numbers share their plugin context.
    pub(super) plugin_context: usize,
}

impl FilterReport {
    /// Whether each transaction has a VM of its own.
    pub(super) fn is_single(&self) -> bool {
        self.isolation == Isolation::Transaction.as_str()
    }
}

/// The VMs that the filters of a rule run in, those included that other rules share.
#[derive(Serialize, Default, Clone, Copy)]
pub(super) struct RuleVms {
    pub(super) per_thread: usize,
    pub(super) per_transaction: usize,
}

impl RuleVms {
    pub(super) fn of(filters: &[FilterReport]) -> Self {
        let mut vms: Vec<_> = filters.iter().filter(|filter| !filter.is_single()).map(|filter| filter.vm).collect();
        vms.sort_unstable();
        vms.dedup();
        let per_transaction = filters.iter().filter(|filter| filter.is_single()).count();
        RuleVms { per_thread: vms.len(), per_transaction }
    }
}

#[derive(Serialize)]
pub(super) struct MatchReport {
    /// In words.
    pub(super) when: String,
    /// Patterns, addresses and values.
    pub(super) conditions: usize,
}

impl MatchReport {
    pub(super) fn of(condition: &Condition) -> Self {
        MatchReport { when: condition.to_string(), conditions: condition.count() }
    }
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
    pub(super) table_elements: usize,
    pub(super) callback_ms: u128,
    pub(super) transaction_ms: u128,
    pub(super) start_ms: u128,
    pub(super) configure_ms: u128,
    pub(super) pause_ms: u128,
    pub(super) body_kib: usize,
    pub(super) header_kib: usize,
    pub(super) header_count: usize,
    pub(super) hostcall_kib: u64,
    pub(super) callouts: usize,
}

impl LimitsReport {
    pub(super) fn of(limits: &Limits) -> Self {
        LimitsReport {
            memory_mib: limits.memory_bytes >> 20,
            stack_kib: limits.stack_bytes >> 10,
            table_elements: limits.table_elements,
            callback_ms: limits.callback.as_millis(),
            transaction_ms: limits.transaction.as_millis(),
            start_ms: limits.start.as_millis(),
            configure_ms: limits.configure.as_millis(),
            pause_ms: limits.pause.as_millis(),
            body_kib: limits.body_bytes >> 10,
            header_kib: limits.pairs.bytes >> 10,
            header_count: limits.pairs.pairs,
            hostcall_kib: limits.hostcall_bytes >> 10,
            callouts: limits.callouts,
        }
    }
}

#[derive(Serialize)]
pub(super) struct BreakerReport {
    pub(super) failures: u32,
    pub(super) percent: u32,
    pub(super) lost_ms: u128,
    pub(super) window_ms: u128,
    pub(super) pause_ms: u128,
    pub(super) max_pause_ms: u128,
    pub(super) probes: u32,
    /// `closed`, `open` or `reload`; null is what the failure policy says.
    pub(super) while_open: Option<&'static str>,
}

impl BreakerReport {
    /// `None` if there is none.
    pub(super) fn of(spec: &BreakerSpec) -> Option<Self> {
        let settings = spec.settings;
        (settings.failures > 0).then(|| BreakerReport {
            failures: settings.failures,
            percent: settings.percent,
            lost_ms: settings.lost.as_millis(),
            window_ms: settings.window.as_millis(),
            pause_ms: settings.pause.as_millis(),
            max_pause_ms: settings.max_pause.as_millis(),
            probes: settings.probes,
            while_open: spec.while_open.as_ref().map(|failure| failure.policy.as_str()),
        })
    }
}

#[derive(Serialize)]
pub(super) struct RefusedCall {
    pub(super) name: &'static str,
    pub(super) status: String,
}

/// Where a filter's lines go.
#[derive(Serialize)]
pub(super) struct LogReport {
    /// From which level on; null is `info`.
    pub(super) level: Option<&'static str>,
    /// Null is the server's diagnostics.
    pub(super) file: Option<String>,
    pub(super) lines_per_second: u32,
}

impl LogReport {
    pub(super) fn of(spec: &FilterSpec) -> Self {
        LogReport {
            level: spec.log.level.map(|level| level.as_str()),
            file: spec.log.file.as_ref().map(|file| file.name.clone()),
            lines_per_second: spec.limits.log_lines,
        }
    }
}

/// A VM that serves more than one filter.
#[derive(Serialize)]
pub(super) struct SharedVm {
    pub(super) vm: usize,
    pub(super) vm_id: String,
    pub(super) module: String,
    pub(super) module_sha256: String,
    pub(super) filters: usize,
    pub(super) rules: usize,
    pub(super) plugin_contexts: usize,
    /// Linear memory of one such VM once it is configured.
    pub(super) memory_bytes: u64,
    pub(super) users: Vec<User>,
}

/// A filter that shares its VM.
#[derive(Serialize)]
pub(super) struct User {
    /// Null where files were named, and no rules.
    pub(super) rule: Option<String>,
    pub(super) filter: String,
    pub(super) plugin_context: usize,
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
    /// About what the VMs of one event thread take at the start: their linear memory, of which untouched pages take
    /// nothing, and what each takes beside it.
    pub(super) memory_bytes_per_thread: u64,
}

impl Default for Report {
    fn default() -> Self {
        Report { ok: true, rules: Vec::new(), errors: Vec::new(), shared: Vec::new(), totals: Totals::default() }
    }
}

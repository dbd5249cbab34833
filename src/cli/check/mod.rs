//! `wasm-remap check`: does it load, and what comes of it.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

use engine::config::{self, FilterSpec};
use engine::inspect::{Identity, Offer};
use engine::{Chain, FailurePolicy, Filter, Options, Runtime, Support};
use serde::Serialize;

use crate::capture::{self, Threshold};
use crate::output::{Format, Outcome, count, line, list, size};
use crate::remap::{self, Rules};

const EXAMPLES: &str = "\
Examples:
  Every rule of a remap.config that names wasm_remap.so:
    wasm-remap check --remap-config /etc/trafficserver/remap.config

  The same, before the files go to where Traffic Server reads them:
    wasm-remap check --remap-config new/remap.config --config-dir new

  Two files that one rule names, @pparam=auth.yaml @pparam=rate.yaml, as the one chain that they make:
    wasm-remap check auth.yaml rate.yaml

  Names and modules of all filters, for a script:
    wasm-remap check --remap-config remap.config --format json | jq -r '.rules[].filters[] | .name, .module.sha256'

Each filter is compiled, started and configured, in one VM. Modules do run: their start function, proxy_on_vm_start
and proxy_on_configure. Exit status: 0 everything loads, 1 something does not, 2 the command line is wrong.";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Filter files; several make one chain, as several @pparam of one rule do
    #[arg(required_unless_present = "remap_config", conflicts_with = "remap_config", value_name = "FILE.yaml")]
    files: Vec<PathBuf>,

    /// Check every rule of this remap.config, and of what it includes, that names wasm_remap.so
    #[arg(long, value_name = "FILE")]
    remap_config: Option<PathBuf>,

    /// Where relative paths of remap.config begin [default: the directory of the remap.config]
    #[arg(long, value_name = "DIR", requires = "remap_config", conflicts_with = "files")]
    config_dir: Option<PathBuf>,

    /// Say only what is wrong, and a summary
    #[arg(short, long)]
    quiet: bool,

    /// Show what filters log while they start, from this level on
    #[arg(long, value_enum, default_value_t = Threshold::Warn, value_name = "LEVEL")]
    log: Threshold,

    /// How to print the result
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// All that was found.
#[derive(Serialize)]
struct Report {
    ok: bool,
    rules: Vec<RuleReport>,
    /// What is wrong with remap.config itself.
    errors: Vec<String>,
    /// VMs that serve more than one filter.
    shared: Vec<SharedVm>,
    totals: Totals,
}

/// One chain: a rule's, or that of the files on the command line.
#[derive(Serialize)]
struct RuleReport {
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<Origin>,
    files: Vec<String>,
    /// What the plugin adds to each transaction of the rule, and which filters it is for.
    hooks: Vec<Hook>,
    filters: Vec<FilterReport>,
    errors: Vec<Mistake>,
    warnings: Vec<String>,
    log: Vec<String>,
}

#[derive(Serialize)]
struct Origin {
    file: String,
    line: usize,
    kind: String,
    from: String,
    to: String,
}

#[derive(Serialize, Clone)]
struct Mistake {
    message: String,
    /// What the filter logged before it failed.
    log: Vec<String>,
}

#[derive(Serialize)]
struct Hook {
    hook: &'static str,
    filters: Vec<String>,
}

#[derive(Serialize)]
struct FilterReport {
    name: String,
    file: String,
    module: ModuleReport,
    root_id: String,
    configuration_bytes: usize,
    vm_id: String,
    vm_configuration_bytes: usize,
    environment: Vec<String>,
    failure_policy: &'static str,
    limits: LimitsReport,
    /// Exported and called.
    callbacks: Vec<&'static str>,
    /// Exported, and not called by this version.
    callbacks_not_called: Vec<&'static str>,
    /// Imported, and always refused by this version.
    refused_calls: Vec<RefusedCall>,
    /// What it may call and be called for; null is everything.
    allowed_capabilities: Option<Vec<&'static str>>,
    /// Imported, and refused because it is not among these.
    restricted_calls: Vec<String>,
    /// Filters with equal numbers share their VMs.
    vm: usize,
    /// Filters with equal numbers share their plugin context.
    plugin_context: usize,
}

#[derive(Serialize)]
struct ModuleReport {
    path: String,
    sha256: String,
    bytes: u64,
    abi: &'static str,
}

#[derive(Serialize)]
struct LimitsReport {
    memory_mib: usize,
    callback_ms: u128,
    configure_ms: u128,
    pause_ms: u128,
}

#[derive(Serialize)]
struct RefusedCall {
    name: &'static str,
    status: String,
}

#[derive(Serialize)]
struct SharedVm {
    vm: usize,
    vm_id: String,
    module_sha256: String,
    filters: usize,
    plugin_contexts: usize,
}

#[derive(Serialize, Default)]
struct Totals {
    rules: usize,
    other_rules: usize,
    filters: usize,
    modules: usize,
    vms_per_thread: usize,
    plugin_contexts_per_vm_thread: usize,
}

/// What a list of files loads as.
struct Loaded {
    specs: Vec<FilterSpec>,
    chain: Option<Arc<Chain>>,
    errors: Vec<Mistake>,
    log: Vec<String>,
}

/// Loads each list of files once, however many rules name it.
struct Loader {
    runtime: Runtime,
    known: HashMap<Vec<PathBuf>, Rc<Loaded>>,
}

impl Loader {
    fn load(&mut self, files: &[PathBuf]) -> Rc<Loaded> {
        if let Some(known) = self.known.get(files) {
            return Rc::clone(known);
        }
        let loaded = Rc::new(load(&self.runtime, files));
        self.known.insert(files.to_vec(), Rc::clone(&loaded));
        loaded
    }
}

/// Loads a chain as the plugin does, but goes on after a mistake to find the others.
fn load(runtime: &Runtime, files: &[PathBuf]) -> Loaded {
    let (mut specs, mut errors, mut log) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        match config::load(file) {
            Ok(found) => specs.extend(found),
            Err(error) => errors.push(Mistake { message: error.to_string(), log: Vec::new() }),
        }
    }
    // Kept until the whole chain is there, which then finds every VM and plugin context ready.
    let mut singles = Vec::new();
    for spec in &specs {
        let result = Chain::load(runtime, "check", slice::from_ref(spec));
        let lines = capture::take().into_iter().map(|line| line.to_string());
        match result {
            Ok(chain) => {
                singles.push(chain);
                log.extend(lines);
            }
            Err(error) => errors.push(Mistake { message: error.to_string(), log: lines.collect() }),
        }
    }
    let chain = if !errors.is_empty() {
        None
    } else if let [_] = specs.as_slice() {
        singles.pop()
    } else {
        Chain::load(runtime, "check", &specs)
            .map_err(|error| errors.push(Mistake { message: error.to_string(), log: Vec::new() }))
            .ok()
    };
    Loaded { specs, chain, errors, log }
}

pub(crate) fn execute(args: &Args) -> Outcome {
    capture::install(args.log);
    let runtime = match Runtime::new(Options::with_slots(1)) {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::failure(&error.to_string()),
    };
    let mut loader = Loader { runtime, known: HashMap::new() };
    let mut checked = Checked::default();
    if let Some(remap_config) = &args.remap_config {
        let own = remap_config.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let config_dir = args.config_dir.as_deref().unwrap_or(own);
        // As the plugin gets it, so that messages are the same.
        let config_dir = match std::path::absolute(config_dir) {
            Ok(dir) => dir,
            Err(error) => return Outcome::failure(&format!("{}: {error}", config_dir.display())),
        };
        let rules = remap::read(remap_config, &config_dir);
        checked.rules(&mut loader, &rules, &config_dir);
        checked.report.errors = rules.mistakes;
        checked.report.totals.other_rules = rules.others;
    } else {
        let loaded = loader.load(&args.files);
        checked.add(None, &args.files, &loaded, Vec::new());
    }
    let report = checked.finish();
    match args.format {
        Format::Json => Outcome::json(&report, report.ok),
        Format::Text => render(&report, args.quiet, args.remap_config.is_some()),
    }
}

/// The report as it grows, and the numbers that VMs and contexts got.
#[derive(Default)]
struct Checked {
    report: Report,
    vms: HashMap<Identity, usize>,
    contexts: HashMap<Identity, usize>,
    /// Identities are addresses: they mean something while what they point to is alive.
    alive: Vec<Arc<Chain>>,
}

impl Default for Report {
    fn default() -> Self {
        Report { ok: true, rules: Vec::new(), errors: Vec::new(), shared: Vec::new(), totals: Totals::default() }
    }
}

impl Checked {
    fn rules(&mut self, loader: &mut Loader, rules: &Rules, config_dir: &Path) {
        for rule in &rules.rules {
            for params in &rule.instances {
                let label = rule.label();
                let mut files = Vec::new();
                let mut errors = Vec::new();
                if params.is_empty() {
                    errors.push("no filter file: add @pparam=FILE.yaml".to_owned());
                }
                for param in params {
                    match remap::resolve(param, config_dir) {
                        Ok(file) => files.push(file),
                        Err(error) => errors.push(error),
                    }
                }
                let origin = Origin {
                    file: rule.file.display().to_string(),
                    line: rule.line,
                    kind: rule.kind.clone(),
                    from: rule.from.clone(),
                    to: rule.to.clone(),
                };
                let place = format!("{}:{}: {label}", origin.file, origin.line);
                let loaded = if errors.is_empty() {
                    loader.load(&files)
                } else {
                    let errors =
                        errors.into_iter().map(|message| Mistake { message, log: Vec::new() }).collect::<Vec<_>>();
                    Rc::new(Loaded { specs: Vec::new(), chain: None, errors, log: Vec::new() })
                };
                let warnings = rule.ignored.iter().map(|why| format!("{place}: {why}")).collect();
                self.add(Some(origin), &files, &loaded, warnings);
                if let Some(added) = self.report.rules.last_mut() {
                    for error in &mut added.errors {
                        error.message = format!("{place}: {}", error.message);
                    }
                }
            }
        }
    }

    fn add(&mut self, rule: Option<Origin>, files: &[PathBuf], loaded: &Loaded, mut warnings: Vec<String>) {
        let mut filters = Vec::new();
        let mut hooks = Vec::new();
        if let Some(chain) = &loaded.chain {
            self.alive.push(Arc::clone(chain));
            hooks = hooks_of(chain);
            for (spec, filter) in loaded.specs.iter().zip(chain.filters()) {
                filters.push(self.filter(spec, filter));
            }
            if hooks.is_empty() {
                let place = rule.as_ref().map_or(String::new(), |rule| format!("{}:{}: ", rule.file, rule.line));
                warnings
                    .push(format!("{place}no filter of the chain has a callback for transactions: it does nothing"));
            }
        }
        self.report.totals.rules += 1;
        self.report.totals.filters += filters.len();
        self.report.rules.push(RuleReport {
            rule,
            files: files.iter().map(|file| file.display().to_string()).collect(),
            hooks,
            filters,
            errors: loaded.errors.clone(),
            warnings,
            log: loaded.log.clone(),
        });
    }

    fn filter(&mut self, spec: &FilterSpec, filter: &Filter) -> FilterReport {
        let module = filter.module();
        let next = self.vms.len() + 1;
        let vm = *self.vms.entry(filter.vm_identity()).or_insert(next);
        let next = self.contexts.len() + 1;
        let plugin_context = *self.contexts.entry(filter.context_identity()).or_insert(next);
        let (called, not_called): (Vec<_>, Vec<_>) =
            module.callbacks().into_iter().partition(|row| row.called.is_some());
        let refused = module.imports().into_iter().filter_map(|import| match import.offer {
            Offer::Hostcall(call) => match call.support {
                Support::Refused(status) => Some(RefusedCall { name: call.name, status: format!("{status:?}") }),
                Support::Full | Support::Partial(_) => None,
            },
            _ => None,
        });
        let restricted = module.imports().into_iter().filter(|import| !module.allows(&import.name));
        FilterReport {
            name: spec.name.clone(),
            file: spec.source.clone(),
            module: ModuleReport {
                path: spec.module.display().to_string(),
                sha256: module.digest().to_string(),
                bytes: std::fs::metadata(&spec.module).map_or(0, |data| data.len()),
                abi: module.abi().as_str(),
            },
            root_id: spec.root_id.clone(),
            configuration_bytes: spec.configuration.len(),
            vm_id: spec.vm_id.clone(),
            vm_configuration_bytes: spec.vm_configuration.len(),
            environment: spec.environment.iter().map(|(name, _)| name.clone()).collect(),
            failure_policy: match filter.policy() {
                FailurePolicy::Closed => "closed",
                FailurePolicy::Open => "open",
            },
            limits: LimitsReport {
                memory_mib: spec.limits.memory_bytes >> 20,
                callback_ms: spec.limits.callback.as_millis(),
                configure_ms: spec.limits.configure.as_millis(),
                pause_ms: spec.limits.pause.as_millis(),
            },
            callbacks: called.into_iter().map(|row| row.name).collect(),
            callbacks_not_called: not_called.into_iter().map(|row| row.name).collect(),
            refused_calls: refused.collect(),
            allowed_capabilities: spec.allowed_capabilities.as_ref().map(|list| list.names().collect()),
            restricted_calls: restricted.map(|import| import.name).collect(),
            vm,
            plugin_context,
        }
    }

    fn finish(mut self) -> Report {
        let mut groups: HashMap<usize, (SharedVm, Vec<usize>)> = HashMap::new();
        let mut modules = Vec::new();
        for filter in self.report.rules.iter().flat_map(|rule| &rule.filters) {
            modules.push(filter.module.sha256.clone());
            let group = groups.entry(filter.vm).or_insert_with(|| {
                let shared = SharedVm {
                    vm: filter.vm,
                    vm_id: filter.vm_id.clone(),
                    module_sha256: filter.module.sha256.clone(),
                    filters: 0,
                    plugin_contexts: 0,
                };
                (shared, Vec::new())
            });
            group.0.filters += 1;
            group.1.push(filter.plugin_context);
        }
        modules.sort();
        modules.dedup();
        self.report.totals.modules = modules.len();
        self.report.totals.vms_per_thread = self.vms.len();
        self.report.totals.plugin_contexts_per_vm_thread = self.contexts.len();
        let mut shared: Vec<_> = groups.into_values().filter(|(group, _)| group.filters > 1).collect();
        shared.sort_by_key(|(group, _)| group.vm);
        self.report.shared = shared
            .into_iter()
            .map(|(mut group, mut contexts)| {
                contexts.sort_unstable();
                contexts.dedup();
                group.plugin_contexts = contexts.len();
                group
            })
            .collect();
        self.report.ok = self.report.errors.is_empty() && self.report.rules.iter().all(|rule| rule.errors.is_empty());
        self.report
    }
}

/// What the plugin does with a chain, and which filters it does it for.
fn hooks_of(chain: &Chain) -> Vec<Hook> {
    let needs = chain.needs();
    if !needs.request_headers {
        return Vec::new();
    }
    let named = |wanted: &dyn Fn(engine::Exported) -> bool| -> Vec<String> {
        chain
            .filters()
            .iter()
            .filter(|filter| wanted(filter.exported()))
            .map(|filter| filter.name().to_owned())
            .collect()
    };
    let mut hooks = vec![Hook {
        hook: "TSRemapDoRemap",
        filters: named(&|exported| exported.request_headers || exported.response_headers || exported.end),
    }];
    if needs.response_headers {
        hooks.push(Hook { hook: "SEND_RESPONSE_HDR", filters: named(&|exported| exported.response_headers) });
    }
    hooks.push(Hook { hook: "TXN_CLOSE", filters: named(&|exported| exported.end) });
    hooks
}

fn render(report: &Report, quiet: bool, remap: bool) -> Outcome {
    let (mut out, mut err) = (String::new(), String::new());
    for rule in &report.rules {
        if !quiet && rule.errors.is_empty() {
            render_rule(&mut out, rule, &report.shared);
            out.push('\n');
        }
        for warning in &rule.warnings {
            let _ = writeln!(err, "warning: {warning}");
        }
        for error in &rule.errors {
            let _ = writeln!(err, "error: {}", error.message);
            for text in &error.log {
                line(&mut err, 2, "log", text);
            }
        }
    }
    for error in &report.errors {
        let _ = writeln!(err, "error: {error}");
    }
    let totals = &report.totals;
    let rules = if remap {
        format!("{}, {} without the plugin; ", count(totals.rules, "rule"), count(totals.other_rules, "other"))
    } else {
        String::new()
    };
    if report.ok {
        let _ = writeln!(
            out,
            "ok: {rules}{} of {}, in {} a thread with {}",
            count(totals.filters, "filter"),
            count(totals.modules, "module"),
            count(totals.vms_per_thread, "VM"),
            count(totals.plugin_contexts_per_vm_thread, "plugin context"),
        );
    } else {
        let errors = report.errors.len() + report.rules.iter().map(|rule| rule.errors.len()).sum::<usize>();
        let _ = writeln!(err, "{} found; nothing of this would load", count(errors, "mistake"));
    }
    Outcome { out, err, ok: report.ok }
}

fn render_rule(out: &mut String, rule: &RuleReport, shared: &[SharedVm]) {
    let _ = match &rule.rule {
        Some(origin) => {
            writeln!(out, "{} {} -> {}  ({}:{})", origin.kind, origin.from, origin.to, origin.file, origin.line)
        }
        None => writeln!(out, "chain"),
    };
    list(out, 2, "files", &rule.files);
    let hooks: Vec<_> = rule
        .hooks
        .iter()
        .map(|hook| match hook.filters.as_slice() {
            [] => hook.hook.to_owned(),
            filters => format!("{} ({})", hook.hook, filters.join(" ")),
        })
        .collect();
    list(out, 2, "hooks", &hooks);
    for (at, filter) in rule.filters.iter().enumerate() {
        let _ = writeln!(out, "  filter {}: {}", at + 1, filter.name);
        let module = &filter.module;
        line(out, 4, "module", &module.path);
        line(out, 4, "", format!("ABI {}, {}, sha256 {}", module.abi, size(module.bytes), module.sha256));
        if !filter.root_id.is_empty() {
            line(out, 4, "root_id", &filter.root_id);
        }
        let short = |name: &&'static str| name.trim_start_matches("proxy_on_");
        list(out, 4, "callbacks", &filter.callbacks.iter().map(short).collect::<Vec<_>>());
        // SDKs export and import everything, used or not: a list of that belongs to `inspect`.
        let not_called = filter.callbacks_not_called.len();
        let refused = filter.refused_calls.len();
        if not_called + refused > 0 {
            let (exports, imports) = (count(not_called, "export"), count(refused, "import"));
            line(out, 4, "unused", format!("{exports} never called, {imports} refused (wasm-remap inspect)"));
        }
        if let Some(allowed) = &filter.allowed_capabilities {
            let (allowed, restricted) = (allowed.len(), count(filter.restricted_calls.len(), "import"));
            line(out, 4, "capabilities", format!("{allowed} allowed; {restricted} refused for want of them"));
        }
        let failure = match filter.failure_policy {
            "open" => "open: a transaction in which it fails goes on without it",
            _ => "closed: a transaction in which it fails is answered 503",
        };
        line(out, 4, "failure", failure);
        let limits = &filter.limits;
        let limits = format!(
            "memory {} MiB, callback {} ms, configure {} ms, pause {} ms",
            limits.memory_mib, limits.callback_ms, limits.configure_ms, limits.pause_ms
        );
        line(out, 4, "limits", limits);
        list(out, 4, "variables", &filter.environment);
        let others = shared.iter().find(|group| group.vm == filter.vm).map_or(0, |group| group.filters - 1);
        let with = match others {
            0 => "its own".to_owned(),
            others => format!("shared with {}", count(others, "other filter")),
        };
        let vm_id = if filter.vm_id.is_empty() { String::new() } else { format!(" (vm_id {})", filter.vm_id) };
        line(out, 4, "VM", format!("{}{vm_id}, {with}; plugin context {}", filter.vm, filter.plugin_context));
    }
    for text in &rule.log {
        line(out, 2, "log", text);
    }
}

//! `wasm-remap check`: does it load, and what comes of it.

mod besides;
mod bodies;
mod hooks;
mod load;
mod render;
mod report;
mod sharing;
mod surprises;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use engine::config::{FilterSpec, Source, Variables};
use engine::inspect::{Identity, Offer};
use engine::{Chain, Filter, Options, Runtime, Support};

use crate::capture::{self, Threshold};
use crate::output::{Format, Outcome};
use crate::remap::{self, Rules};
use besides::Besides;
use bodies::ChainBodies;
use load::{Loaded, Loader};
use report::{
    BreakerReport, FilterReport, LimitsReport, LogReport, MatchReport, Mistake, ModuleReport, Origin, RefusedCall,
    Report, RuleReport, RuleVms,
};

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

    /// Where relative paths of remap.config and of the C++ plugin begin [default: the directory of the file]
    #[arg(long, value_name = "DIR")]
    config_dir: Option<PathBuf>,

    /// A variable for `substitute`, in place of the environment's own; any number of times
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,

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

/// `NAME=VALUE`.
///
/// # Errors
/// What is expected instead.
pub(crate) fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn execute(args: &Args) -> Outcome {
    capture::install(args.log);
    let runtime = match Runtime::new(Options { offline: true, ..Options::with_slots(1) }) {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::failure(&error.to_string()),
    };
    let variables = Variables::default().with(args.env.iter().cloned());
    let mut loader = Loader { runtime, variables, config_dir: args.config_dir.clone(), known: HashMap::new() };
    let mut checked = Checked::default();
    if let Some(remap_config) = &args.remap_config {
        let own = remap_config.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let config_dir = args.config_dir.as_deref().unwrap_or(own);
        // As the plugin gets it, so that messages are the same.
        let config_dir = match std::path::absolute(config_dir) {
            Ok(dir) => dir,
            Err(error) => return Outcome::failure(&format!("{}: {error}", config_dir.display())),
        };
        loader.config_dir = Some(config_dir.clone());
        let rules = remap::read(remap_config, &config_dir);
        checked.rules(&mut loader, &rules, &config_dir);
        checked.report.errors = rules.mistakes;
        checked.report.totals.other_rules = rules.others;
    } else {
        let loaded = loader.load("check", &args.files);
        checked.add(None, &args.files, &loaded, Vec::new());
    }
    let report = checked.finish();
    match args.format {
        Format::Json => Outcome::json(&report, report.ok),
        Format::Text => render::render(&report, args.quiet, args.remap_config.is_some()),
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
                    loader.load(&label, &files)
                } else {
                    let errors = errors.into_iter().map(|message| Mistake::new(message, Vec::new())).collect();
                    Rc::new(Loaded { errors, ..Loaded::default() })
                };
                let warnings = rule.ignored.iter().map(|why| format!("{place}: {why}")).collect();
                self.add(Some(origin), &files, &loaded, warnings);
                if let Some(added) = self.report.rules.last_mut() {
                    for error in &mut added.errors {
                        error.of_rule(&place);
                    }
                }
            }
        }
    }

    fn add(&mut self, rule: Option<Origin>, files: &[PathBuf], loaded: &Loaded, mut warnings: Vec<String>) {
        let mut filters = Vec::new();
        let mut hooks = Vec::new();
        let mut bodies = ChainBodies::default();
        let mut besides = None;
        warnings.extend(loaded.config.warnings.iter().map(ToString::to_string));
        if let Some(chain) = &loaded.chain {
            self.alive.push(Arc::clone(chain));
            hooks = hooks::of_chain(&loaded.config.filters, chain);
            bodies = bodies::of_chain(&loaded.config.filters, chain);
            let place = rule.as_ref().map_or(String::new(), |rule| format!("{}:{}: ", rule.file, rule.line));
            for (spec, filter) in loaded.config.filters.iter().zip(chain.filters()) {
                filters.push(self.filter(spec, filter));
                warnings.extend(bodies::warnings(spec, filter).into_iter().map(|warning| format!("{place}{warning}")));
            }
            if hooks.is_empty() && !loaded.config.filters.is_empty() {
                warnings
                    .push(format!("{place}no filter of the chain has a callback for transactions: it does nothing"));
            }
            let surprises = surprises::of(&loaded.config);
            warnings.extend(surprises.into_iter().map(|warning| format!("{place}{warning}")));
            let found = besides::of(&loaded.config, chain, &loaded.services);
            warnings.extend(found.warnings.iter().map(|warning| format!("{place}{warning}")));
            besides = Some(found);
        }
        self.report.totals.rules += 1;
        self.report.totals.filters += filters.len();
        let Besides { clusters, services, namespaces, metrics, .. } = besides.unwrap_or_default();
        self.report.totals.services += services.len();
        self.report.rules.push(RuleReport {
            rule,
            files: files.iter().map(|file| file.display().to_string()).collect(),
            hooks,
            bodies,
            vms: RuleVms::of(&filters),
            filters,
            services,
            clusters,
            namespaces,
            metrics,
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
                path: spec.code.source.to_string(),
                sha256: module.digest().to_string(),
                bytes: match &spec.code.source {
                    Source::File(path) => std::fs::metadata(path).map_or(0, |data| data.len()),
                    Source::Inline(bytes) => bytes.len() as u64,
                },
                compiler: spec.code.compiler.as_str(),
                abi: module.abi().as_str(),
            },
            root_id: spec.root_id.clone(),
            configuration_bytes: spec.configuration.len(),
            vm_id: spec.vm_id.clone(),
            vm_configuration_bytes: spec.vm_configuration.len(),
            environment: spec.environment.iter().map(|(name, _)| name.clone()).collect(),
            failure_policy: filter.policy().as_str(),
            failure_status: (!filter.policy().goes_on()).then(|| filter.failure().response().status),
            breaker: BreakerReport::of(&spec.breaker),
            limits: LimitsReport::of(&spec.limits),
            r#match: spec.matching.as_ref().map(MatchReport::of),
            bodies: bodies::of_filter(spec, filter),
            callbacks: called.into_iter().map(|row| row.name).collect(),
            callbacks_not_called: not_called.into_iter().map(|row| row.name).collect(),
            refused_calls: refused.collect(),
            allowed_capabilities: spec.allowed_capabilities.as_ref().map(|list| list.names().collect()),
            restricted_calls: restricted.map(|import| import.name).collect(),
            callout_hosts: spec.callout_hosts.iter().map(ToString::to_string).collect(),
            log: LogReport::of(spec),
            isolation: filter.isolation().as_str(),
            vm,
            vm_memory_bytes: filter.vm_memory_bytes(),
            plugin_context,
        }
    }

    fn finish(mut self) -> Report {
        sharing::tell(&mut self.report);
        self.report.ok = self.report.errors.is_empty() && self.report.rules.iter().all(|rule| rule.errors.is_empty());
        self.report
    }
}

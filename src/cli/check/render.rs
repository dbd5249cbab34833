//! What `check` finds, as text.

use std::fmt::Write as _;

use super::bodies;
use super::report::{FilterReport, Report, RuleReport, SharedVm};
use crate::output::{Outcome, count, line, list, size};

pub(super) fn render(report: &Report, quiet: bool, remap: bool) -> Outcome {
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

//! What `check` finds, as text.

use std::fmt::Write as _;

use super::besides::{ClusterReport, NamespaceReport, ServiceReport};
use super::bodies::{ChainBodies, FilterBodies};
use super::hooks::Hook;
use super::report::{LimitsReport, ModuleReport, Report, RuleReport, SharedVm};
use crate::output::{Outcome, count, line, list, paragraph, size};

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
    let services = match totals.services {
        0 => String::new(),
        services => format!("; {}", count(services, "service")),
    };
    if report.ok {
        let _ = writeln!(
            out,
            "ok: {rules}{} of {}, in {} a thread with {}{services}",
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
    let hooks: Vec<_> = rule.hooks.iter().map(hook).collect();
    list(out, 2, "hooks", &hooks);
    bodies(out, &rule.bodies);
    for text in &rule.bodies.advice {
        paragraph(out, 2, "advice", text);
    }
    for each in &rule.clusters {
        paragraph(out, 2, "cluster", &cluster(each));
    }
    for each in &rule.namespaces {
        paragraph(out, 2, "namespace", &namespace(each));
    }
    for each in &rule.metrics {
        let open = if each.any_address { ", which other machines may reach" } else { "" };
        line(out, 2, "metrics", format!("served on http://{}/metrics{open}", each.listen));
    }
    for (at, filter) in rule.filters.iter().enumerate() {
        let _ = writeln!(out, "  filter {}: {}", at + 1, filter.name);
        module(out, &filter.module);
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
        line(out, 4, "bodies", shown(&filter.bodies));
        let failure = match filter.failure_policy {
            "open" => "open: a transaction in which it fails goes on without it",
            _ => "closed: a transaction in which it fails is answered 503",
        };
        line(out, 4, "failure", failure);
        limits(out, &filter.limits);
        list(out, 4, "may call", &filter.callout_hosts);
        list(out, 4, "variables", &filter.environment);
        let others = shared.iter().find(|group| group.vm == filter.vm).map_or(0, |group| group.filters - 1);
        let with = match others {
            0 => "its own".to_owned(),
            others => format!("shared with {}", count(others, "other filter")),
        };
        let vm_id = if filter.vm_id.is_empty() { String::new() } else { format!(" (vm_id {})", filter.vm_id) };
        line(out, 4, "VM", format!("{}{vm_id}, {with}; plugin context {}", filter.vm, filter.plugin_context));
    }
    for (at, each) in rule.services.iter().enumerate() {
        let _ = writeln!(out, "  service {}: {}", at + 1, each.name);
        service(out, each);
    }
    for text in &rule.log {
        line(out, 2, "log", text);
    }
}

fn module(out: &mut String, module: &ModuleReport) {
    line(out, 4, "module", &module.path);
    line(
        out,
        4,
        "",
        format!("ABI {}, {}, sha256 {}, {}", module.abi, size(module.bytes), module.sha256, module.compiler),
    );
}

fn limits(out: &mut String, limits: &LimitsReport) {
    let limits = [
        format!("memory {} MiB", limits.memory_mib),
        format!("stack {} KiB", limits.stack_kib),
        format!("callback {} ms", limits.callback_ms),
        format!("configure {} ms", limits.configure_ms),
        format!("pause {} ms", limits.pause_ms),
        format!("held of a body {} KiB", limits.body_kib),
        format!("header map {} KiB", limits.header_kib),
        count(limits.header_count, "field"),
    ];
    list(out, 4, "limits", &limits);
}

fn service(out: &mut String, service: &ServiceReport) {
    module(out, &service.module);
    if !service.root_id.is_empty() {
        line(out, 4, "root_id", &service.root_id);
    }
    let short = |name: &&'static str| name.trim_start_matches("proxy_on_");
    list(out, 4, "callbacks", &service.callbacks.iter().map(short).collect::<Vec<_>>());
    let limits = &service.limits;
    // The others are about transactions.
    let limits = [
        format!("memory {} MiB", limits.memory_mib),
        format!("stack {} KiB", limits.stack_kib),
        format!("callback {} ms", limits.callback_ms),
        format!("configure {} ms", limits.configure_ms),
        format!("header map {} KiB", limits.header_kib),
        count(limits.header_count, "field"),
    ];
    list(out, 4, "limits", &limits);
    list(out, 4, "may call", &service.callout_hosts);
    list(out, 4, "variables", &service.environment);
    let vm_id = if service.vm_id.is_empty() { String::new() } else { format!(" (vm_id {})", service.vm_id) };
    line(out, 4, "VM", format!("one in the process, with a thread of its own{vm_id}"));
}

fn cluster(cluster: &ClusterReport) -> String {
    let tls = match &cluster.tls {
        None => String::new(),
        Some(tls) if !tls.verify => ", TLS that takes any certificate".to_owned(),
        Some(tls) => {
            let authority = tls.ca_file.as_deref().unwrap_or("the system's authorities");
            let own = tls.certificate_file.as_ref().map(|own| format!(", shows {own}")).unwrap_or_default();
            format!(", TLS (trusts {authority}{own})")
        }
    };
    let ClusterReport { name, endpoints, protocol, max_connections, max_in_flight, response_kib, .. } = cluster;
    format!(
        "{name}: {protocol}{tls} to {}; {max_connections} connections each, {max_in_flight} calls, answers of {response_kib} \
         KiB at most",
        endpoints.join(", ")
    )
}

fn namespace(namespace: &NamespaceReport) -> String {
    let NamespaceReport { vm_id, memory_mib, entries, queue_mib, queue_items, queue_overflow } = namespace;
    let vm_id = if vm_id.is_empty() { "no vm_id" } else { vm_id };
    format!(
        "{vm_id}: {memory_mib} MiB and {entries} entries of data; {queue_mib} MiB and {queue_items} items a queue \
         ({queue_overflow})"
    )
}

fn hook(hook: &Hook) -> String {
    let filters = hook.filters.join(" ");
    match (filters.as_str(), hook.only) {
        ("", None) => hook.hook.to_owned(),
        (filters, None) => format!("{} ({filters})", hook.hook),
        (filters, Some(only)) => format!("{} ({filters}; {only})", hook.hook),
    }
}

/// What a chain sees of bodies.
fn bodies(out: &mut String, bodies: &ChainBodies) {
    let change = |may: bool| {
        if may { "may change" } else { "stay as they are: no proxy_set_buffer_bytes" }
    };
    let mut label = "bodies";
    if !bodies.request.is_empty() {
        let how = match bodies.buffered_kib {
            Some(kib) => format!(
                "whole, up to {kib} KiB, before the origin gets anything ({}: request_body: buffer)",
                bodies.buffered_for.join(" ")
            ),
            None => "as they come".to_owned(),
        };
        let change = change(bodies.request_may_change);
        paragraph(out, 2, label, &format!("requests', {how}: {}; {change}", bodies.request.join(" ")));
        label = "";
    }
    if let Some(at) = bodies.response_at {
        let side = match at {
            "origin" => "once, at the origin's side of the cache",
            _ => "at the client's side of the cache",
        };
        let change = change(bodies.response_may_change);
        paragraph(out, 2, label, &format!("responses', {side}: {}; {change}", bodies.response.join(" ")));
        label = "";
    }
    if !label.is_empty() {
        line(out, 2, label, "none: they pass at full speed");
    }
}

/// What a filter sees of bodies.
fn shown(bodies: &FilterBodies) -> String {
    let shown = match (bodies.request, bodies.response) {
        (true, true) => "requests' and responses'",
        (true, false) => "requests'",
        (false, true) => "responses'",
        (false, false) => "none",
    };
    let mut text = shown.to_owned();
    if bodies.request || bodies.response {
        text += match (bodies.reads, bodies.changes) {
            (_, true) => ", which it may change",
            (true, false) => ", which it cannot change",
            (false, false) => ", which it cannot look at",
        };
    }
    if let Some(why) = &bodies.why_not {
        text += &format!(" ({why})");
    }
    if bodies.at == "origin" {
        text += "; responses at the origin's side of the cache";
    }
    text
}

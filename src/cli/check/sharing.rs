//! Which VMs there are, who runs in them, and what they take.

use std::collections::{BTreeMap, BTreeSet};

use super::report::{FilterReport, Report, RuleReport, SharedVm, User};

/// A VM's own share of our memory and the kernel's, beside its linear memory: measured, see docs/architecture.md.
const VM_BYTES: u64 = 45 << 10;

/// Fills in what is shared, and the totals.
pub(super) fn tell(report: &mut Report) {
    let users = report.rules.iter().enumerate().flat_map(|(number, rule)| {
        let user = move |filter| (number, rule, filter);
        rule.filters.iter().map(user)
    });
    let mut vms: BTreeMap<usize, Vec<(usize, &RuleReport, &FilterReport)>> = BTreeMap::new();
    let (mut modules, mut contexts) = (BTreeSet::new(), BTreeSet::new());
    for user in users {
        modules.insert(user.2.module.sha256.as_str());
        contexts.insert(user.2.plugin_context);
        // Those of single transactions are nobody else's, and of no thread.
        if !user.2.is_single() {
            vms.entry(user.2.vm).or_default().push(user);
        }
    }
    let memory =
        |users: &Vec<(usize, &RuleReport, &FilterReport)>| users.first().map_or(0, |user| user.2.vm_memory_bytes);
    report.totals.modules = modules.len();
    report.totals.vms_per_thread = vms.len();
    report.totals.plugin_contexts_per_vm_thread = contexts.len();
    report.totals.memory_bytes_per_thread = vms.values().map(|users| memory(users) + VM_BYTES).sum();
    let shared: Vec<_> = vms.iter().filter(|(_, users)| users.len() > 1).map(|(&vm, users)| of_vm(vm, users)).collect();
    report.shared = shared;
}

fn of_vm(vm: usize, users: &[(usize, &RuleReport, &FilterReport)]) -> SharedVm {
    let rules: BTreeSet<_> = users.iter().map(|(rule, ..)| *rule).collect();
    let contexts: BTreeSet<_> = users.iter().map(|(.., filter)| filter.plugin_context).collect();
    let (_, _, first) = users[0];
    SharedVm {
        vm,
        vm_id: first.vm_id.clone(),
        module: first.module.path.clone(),
        module_sha256: first.module.sha256.clone(),
        filters: users.len(),
        rules: rules.len(),
        plugin_contexts: contexts.len(),
        memory_bytes: first.vm_memory_bytes,
        users: users
            .iter()
            .map(|(_, rule, filter)| User {
                rule: rule.rule.as_ref().map(|origin| format!("{} -> {}", origin.from, origin.to)),
                filter: filter.name.clone(),
                plugin_context: filter.plugin_context,
            })
            .collect(),
    }
}

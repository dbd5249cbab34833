//! What loads, and does something else than somebody may expect.

use std::collections::BTreeMap;

use engine::Limits;
use engine::config::{ConfigFile, FilterSpec};

/// Warnings about a chain and its services, as their files describe them.
pub(super) fn of(config: &ConfigFile) -> Vec<String> {
    let mut warnings = names(&config.filters);
    warnings.extend(config.services.iter().filter_map(service));
    warnings.extend(namespaces(config));
    warnings.extend(files(config));
    warnings
}

/// Filters that log lines and metrics cannot tell apart.
fn names(filters: &[FilterSpec]) -> Vec<String> {
    let mut counts: BTreeMap<&str, Vec<&FilterSpec>> = BTreeMap::new();
    for filter in filters {
        counts.entry(&filter.name).or_default().push(filter);
    }
    let mut warnings = Vec::new();
    for (name, named) in counts.into_iter().filter(|(_, named)| named.len() > 1) {
        let (count, first) = (named.len(), named[0]);
        warnings.push(format!(
            "{count} filters of the chain are called '{name}': log lines and metrics do not tell them apart"
        ));
        let same = |other: &&&FilterSpec| {
            other.code == first.code
                && other.configuration == first.configuration
                && other.root_id == first.root_id
                && other.vm_id == first.vm_id
        };
        if named.iter().skip(1).filter(same).count() > 0 {
            warnings.push(format!(
                "filter '{name}' stands in the chain more than once, with the same module and configuration: each request \
                 passes it as often"
            ));
        }
    }
    warnings
}

/// Keys that are about transactions, of which a service has none.
fn service(spec: &FilterSpec) -> Option<String> {
    let usual = Limits::default();
    let keys = [
        ("limits.pause_ms", spec.limits.pause != usual.pause),
        ("limits.body_kib", spec.limits.body_bytes != usual.body_bytes),
    ];
    let named: Vec<_> = keys.into_iter().filter(|(_, said)| *said).map(|(key, _)| format!("'{key}'")).collect();
    let (noun, verb) = if named.len() == 1 { ("", "means") } else { ("s", "mean") };
    (!named.is_empty()).then(|| {
        format!(
            "service '{}': the key{noun} {} {verb} nothing here, for a service has no transactions",
            spec.name,
            named.join(", ")
        )
    })
}

/// Ceilings for a namespace in which nobody is.
fn namespaces(config: &ConfigFile) -> Vec<String> {
    let users = || config.filters.iter().chain(&config.services);
    if users().next().is_none() {
        return Vec::new();
    }
    let unused = config.namespaces.iter().filter(|space| users().all(|spec| spec.vm_id != space.vm_id));
    let text = |space: &engine::config::Namespace| {
        format!(
            "namespace '{}': no filter and no service of this rule has this 'vm_id', so its ceilings hold for others' alone",
            space.vm_id
        )
    };
    unused.map(text).collect()
}

/// One log file that is to be rolled in two ways.
fn files(config: &ConfigFile) -> Vec<String> {
    let mut rolled = BTreeMap::new();
    let mut warnings = Vec::new();
    for spec in config.filters.iter().chain(&config.services) {
        let Some(file) = &spec.log.file else { continue };
        let Some(rolling) = file.rolling else { continue };
        let (first, known) = *rolled.entry(&file.name).or_insert((&spec.name, rolling));
        if known != rolling {
            warnings.push(format!(
                "the log file '{}' is rolled in two ways, by '{first}' and by '{}': the one that is loaded last decides",
                file.name, spec.name
            ));
        }
    }
    warnings
}

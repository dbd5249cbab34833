//! What a rule has besides its chain: clusters, services, ceilings of namespaces, a port for metrics.

use engine::config::{ClusterSettings, ConfigFile, FilterSpec, Metrics, Namespace, Protocol};
use engine::inspect::Inspection;
use engine::shared::Overflow;
use engine::{Chain, Filter};
use serde::Serialize;

use super::report::{LimitsReport, ModuleReport};
use crate::calls::Calls;

#[derive(Serialize)]
pub(super) struct ClusterReport {
    pub(super) name: String,
    pub(super) endpoints: Vec<String>,
    /// `http1` or `http2`.
    pub(super) protocol: &'static str,
    /// Null for cleartext.
    pub(super) tls: Option<TlsReport>,
    pub(super) connect_timeout_ms: u128,
    pub(super) idle_timeout_ms: u128,
    pub(super) max_connections: usize,
    pub(super) max_in_flight: usize,
    pub(super) retries: u32,
    /// Null if no endpoint is ever left out.
    pub(super) ejection: Option<EjectionReport>,
    pub(super) response_kib: usize,
    pub(super) dns_refresh_ms: u128,
    /// The filters and services whose modules import a call for it.
    pub(super) callers: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct TlsReport {
    pub(super) verify: bool,
    /// Null for the system's.
    pub(super) ca_file: Option<String>,
    pub(super) certificate_file: Option<String>,
    pub(super) key_file: Option<String>,
    /// Null for the endpoint's host.
    pub(super) server_name: Option<String>,
}

#[derive(Serialize)]
pub(super) struct EjectionReport {
    pub(super) failures: u32,
    pub(super) seconds: u64,
}

#[derive(Serialize)]
pub(super) struct ServiceReport {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) module: ModuleReport,
    pub(super) root_id: String,
    pub(super) configuration_bytes: usize,
    pub(super) vm_id: String,
    pub(super) vm_configuration_bytes: usize,
    pub(super) environment: Vec<String>,
    pub(super) limits: LimitsReport,
    /// Of those that a service is called for.
    pub(super) callbacks: Vec<&'static str>,
    pub(super) callout_hosts: Vec<String>,
}

#[derive(Serialize)]
pub(super) struct NamespaceReport {
    pub(super) vm_id: String,
    pub(super) memory_mib: usize,
    pub(super) entries: usize,
    pub(super) queue_mib: usize,
    pub(super) queue_items: usize,
    /// `reject` or `drop_oldest`.
    pub(super) queue_overflow: &'static str,
}

#[derive(Serialize)]
pub(super) struct MetricsReport {
    pub(super) listen: String,
    pub(super) any_address: bool,
}

/// All of it, for one rule.
#[derive(Default)]
pub(super) struct Besides {
    pub(super) clusters: Vec<ClusterReport>,
    pub(super) services: Vec<ServiceReport>,
    pub(super) namespaces: Vec<NamespaceReport>,
    pub(super) metrics: Vec<MetricsReport>,
    pub(super) warnings: Vec<String>,
}

/// Somebody who may call clusters.
struct Party {
    /// `filter 'a'`, `service 'b'`.
    title: String,
    name: String,
    calls: Calls,
    /// It has `callout_hosts`.
    hosts: bool,
}

impl Party {
    fn new(kind: &str, spec: &FilterSpec, calls: Calls) -> Self {
        let (title, name) = (format!("{kind} '{}'", spec.name), spec.name.clone());
        Party { title, name, calls, hosts: !spec.callout_hosts.is_empty() }
    }

    fn may_call(&self, cluster: &ClusterSettings) -> bool {
        self.calls.http || self.calls.grpc && cluster.protocol == Protocol::Http2
    }
}

/// `services` are the modules of the rule's services, in order.
pub(super) fn of(config: &ConfigFile, chain: &Chain, services: &[Inspection]) -> Besides {
    let filters = config.filters.iter().zip(chain.filters());
    let filter = |(spec, filter): (&FilterSpec, &Filter)| {
        let module = filter.module();
        Party::new("filter", spec, Calls::of(&module.imports(), |name| module.allows(name)))
    };
    let service = |(spec, module): (&FilterSpec, &Inspection)| {
        Party::new("service", spec, Calls::of(&module.imports, |name| allows(spec, name)))
    };
    let parties: Vec<_> = filters.map(filter).chain(config.services.iter().zip(services).map(service)).collect();
    let (reports, idle): (Vec<_>, Vec<_>) =
        config.services.iter().zip(services).map(|(spec, module)| of_service(spec, module)).unzip();
    let mut warnings: Vec<_> = idle.into_iter().flatten().collect();
    warnings.extend(of_calls(config, &parties));
    Besides {
        clusters: config.clusters.values().map(|cluster| of_cluster(cluster, &parties)).collect(),
        services: reports,
        namespaces: config.namespaces.iter().map(of_namespace).collect(),
        metrics: config.metrics.iter().map(of_metrics).collect(),
        warnings,
    }
}

fn allows(spec: &FilterSpec, name: &str) -> bool {
    spec.allowed_capabilities.as_ref().is_none_or(|list| list.allows(name))
}

fn of_cluster(cluster: &ClusterSettings, parties: &[Party]) -> ClusterReport {
    let text = |path: &std::path::PathBuf| path.display().to_string();
    ClusterReport {
        name: cluster.name.clone(),
        endpoints: cluster.endpoints.iter().map(ToString::to_string).collect(),
        protocol: match cluster.protocol {
            Protocol::Http1 => "http1",
            Protocol::Http2 => "http2",
        },
        tls: cluster.tls.as_ref().map(|tls| TlsReport {
            verify: tls.verify,
            ca_file: tls.ca_file.as_ref().map(text),
            certificate_file: tls.certificate_file.as_ref().map(text),
            key_file: tls.key_file.as_ref().map(text),
            server_name: tls.server_name.clone(),
        }),
        connect_timeout_ms: cluster.connect_timeout.as_millis(),
        idle_timeout_ms: cluster.idle_timeout.as_millis(),
        max_connections: cluster.max_connections,
        max_in_flight: cluster.max_in_flight,
        retries: cluster.retries,
        ejection: cluster
            .ejection
            .map(|ejection| EjectionReport { failures: ejection.failures, seconds: ejection.duration.as_secs() }),
        response_kib: cluster.response_bytes >> 10,
        dns_refresh_ms: cluster.dns_refresh.as_millis(),
        callers: parties.iter().filter(|party| party.may_call(cluster)).map(|party| party.name.clone()).collect(),
    }
}

/// The callbacks that a service is called for when something happens.
fn is_occasion(name: &str) -> bool {
    matches!(name, "proxy_on_tick" | "proxy_on_queue_ready" | "proxy_on_http_call_response")
        || name.starts_with("proxy_on_grpc_")
}

/// A service, and a warning if it can do nothing.
fn of_service(spec: &FilterSpec, module: &Inspection) -> (ServiceReport, Option<String>) {
    let begins = ["proxy_on_context_create", "proxy_on_vm_start", "proxy_on_configure"];
    let ends = ["proxy_on_done", "proxy_on_log", "proxy_on_delete"];
    let called: Vec<_> = module
        .callbacks
        .iter()
        .filter(|row| row.called.is_some() && allows(spec, row.name))
        .map(|row| row.name)
        .filter(|name| is_occasion(name) || begins.contains(name) || ends.contains(name))
        .collect();
    let idle = (!called.iter().any(|name| is_occasion(name))).then(|| {
        format!(
            "service '{}' does nothing once it is configured: it has none of proxy_on_tick, proxy_on_queue_ready and the \
             callbacks of calls",
            spec.name
        )
    });
    let report = ServiceReport {
        name: spec.name.clone(),
        file: spec.source.clone(),
        module: ModuleReport {
            path: spec.code.source.to_string(),
            sha256: module.digest.to_string(),
            bytes: module.size as u64,
            compiler: spec.code.compiler.as_str(),
            abi: module.versions.last().map_or("-", |version| version.as_str()),
        },
        root_id: spec.root_id.clone(),
        configuration_bytes: spec.configuration.len(),
        vm_id: spec.vm_id.clone(),
        vm_configuration_bytes: spec.vm_configuration.len(),
        environment: spec.environment.iter().map(|(name, _)| name.clone()).collect(),
        limits: LimitsReport::of(&spec.limits),
        callbacks: called,
        callout_hosts: spec.callout_hosts.iter().map(ToString::to_string).collect(),
    };
    (report, idle)
}

fn of_namespace(namespace: &Namespace) -> NamespaceReport {
    NamespaceReport {
        vm_id: namespace.vm_id.clone(),
        memory_mib: namespace.data.bytes >> 20,
        entries: namespace.data.entries,
        queue_mib: namespace.queues.bytes >> 20,
        queue_items: namespace.queues.items,
        queue_overflow: match namespace.queues.overflow {
            Overflow::Reject => "reject",
            Overflow::DropOldest => "drop_oldest",
        },
    }
}

fn of_metrics(metrics: &Metrics) -> MetricsReport {
    MetricsReport { listen: metrics.listen.to_string(), any_address: metrics.any_address }
}

/// Calls that would all be refused, clusters that nobody calls, and TLS that protects nobody.
fn of_calls(config: &ConfigFile, parties: &[Party]) -> Vec<String> {
    let mut warnings = Vec::new();
    let speaks_http2 = config.clusters.values().any(|cluster| cluster.protocol == Protocol::Http2);
    for party in parties {
        let (title, (http, grpc)) = (&party.title, party.calls.certain());
        if http && config.clusters.is_empty() && !party.hosts {
            warnings.push(format!(
                "{title} sends HTTP requests (its module imports proxy_http_call), and there is nobody whom it may call: \
                 the rule has no 'clusters', and it has no 'callout_hosts'"
            ));
        }
        if grpc && !speaks_http2 {
            warnings.push(format!(
                "{title} calls gRPC (its module imports proxy_grpc_call or proxy_grpc_stream), and there is nobody whom \
                 it may call: no cluster of the rule has 'protocol: http2'"
            ));
        }
    }
    for cluster in config.clusters.values() {
        let name = &cluster.name;
        if !parties.iter().any(|party| party.may_call(cluster)) {
            warnings.push(format!(
                "cluster '{name}' is of no use here: no module of the rule imports a call that it could be sent"
            ));
        }
        if cluster.tls.as_ref().is_some_and(|tls| !tls.verify) {
            warnings.push(format!(
                "cluster '{name}': with 'verify: false' whoever stands between can read and change everything; name the \
                 authority that signed its certificate in 'ca_file' instead"
            ));
        }
    }
    warnings
}

//! The ordered filters of a rule.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::body::{Bodies, Side};
use crate::breaker::{Breaker, SharedBreaker};
use crate::config::{At, Body, ConfigFile, Failure, FailurePolicy, FilterSpec, Isolation, RequestBody};
use crate::error::Error;
use crate::journal::{self, Label, Place, Site};
use crate::matching::{Evaluation, Matcher, Participants, RequestView};
use crate::module::{Digest, Exported};
use crate::observe::FilterStats;
use crate::pool::Plugin;
use crate::runtime::Runtime;
use crate::service::Service;
use crate::settings::{PluginSpec, SiteOf, VmSettings};
use crate::spec::VmSpec;

/// Filters are told apart by a bit each.
const MAX_FILTERS: usize = 64;

/// One entry of a chain: a module and its configuration, limits and failure policy.
#[derive(Debug)]
pub struct Filter {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) stats: Arc<FilterStats>,
    pub(crate) failure: Failure,
    /// The same while its breaker is open.
    pub(crate) while_open: Failure,
    pub(crate) pause: Duration,
    pub(crate) body_bytes: usize,
    /// The bodies that it is shown: what its file allows, of what its module exports.
    pub(crate) body: Body,
    pub(crate) at: At,
    request_body: RequestBody,
    /// Which transactions it takes part in; `None` is all.
    matcher: Option<Box<Matcher>>,
}

impl Filter {
    /// The filter's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plugin.spec.name
    }

    /// What is counted of it.
    #[must_use]
    pub fn stats(&self) -> &Arc<FilterStats> {
        &self.stats
    }

    /// What its module exports.
    #[must_use]
    pub fn exported(&self) -> Exported {
        self.plugin.pool.spec.module.exported()
    }

    /// The bodies that the filter is shown.
    #[must_use]
    pub fn body(&self) -> Body {
        self.body
    }

    /// On which side of the cache it sees responses.
    #[must_use]
    pub fn at(&self) -> At {
        self.at
    }

    /// Whether a body of this side may leave the filter other than it came.
    #[must_use]
    pub fn changes_body(&self, side: Side) -> bool {
        self.body.shows(side) && self.exported().changes_bodies
    }

    /// With whom it shares its VMs.
    #[must_use]
    pub fn isolation(&self) -> Isolation {
        self.plugin.pool.spec.isolation
    }

    /// Whether it takes part in some transactions only.
    #[must_use]
    pub fn is_choosy(&self) -> bool {
        self.matcher.is_some()
    }

    /// What becomes of a transaction when the filter fails.
    #[must_use]
    pub fn policy(&self) -> FailurePolicy {
        self.failure.policy
    }

    /// The same, with the answer that the client gets.
    #[must_use]
    pub fn failure(&self) -> &Failure {
        &self.failure
    }

    pub(crate) fn breaker(&self) -> &Breaker {
        &self.plugin.spec.breaker
    }
}

/// The callbacks that a chain needs to see, so that a host hooks nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Some filter has a callback at the beginning, or a context to end.
    pub request_headers: bool,
    /// Some filter sees request bodies.
    pub request_body: bool,
    /// Some filter wants them whole, before the origin is contacted. Then all get them so.
    pub buffers_request: bool,
    /// Some filter has `proxy_on_response_headers`, or ends, on the client's side of the cache.
    pub response_headers: bool,
    /// Some filter has `proxy_on_response_headers` on the origin's side of the cache.
    pub origin_response_headers: bool,
    /// Some filter sees response bodies, on this side of the cache.
    pub response_body: Option<At>,
    /// By side: some filter may change the body.
    pub changes_body: [bool; 2],
    /// The most that one filter may hold of a request's body.
    pub request_limit: usize,
}

/// A rule's filters: request callbacks run first to last, response callbacks last to first.
#[derive(Debug)]
pub struct Chain {
    /// Which chain of the process it is, counted from 1.
    number: u64,
    label: Label,
    filters: Box<[Filter]>,
    needs: Needs,
    /// All of them.
    everyone: Participants,
    /// Some filter does not take part in every transaction.
    choosy: bool,
    /// Run as long as some chain names them.
    services: Box<[Arc<Service>]>,
}

impl Chain {
    /// Compiles, starts and configures every filter of `config`, in all slots, and its services.
    ///
    /// `label` names the rule in log lines. Takes as long as compiling takes, so never on an event thread that
    /// serves.
    ///
    /// # Errors
    /// The first filter that cannot be loaded, named with its file, its name and what is wrong.
    pub fn load(runtime: &Runtime, label: impl Into<Arc<str>>, config: &ConfigFile) -> Result<Arc<Self>, Error> {
        Chain::load_labelled(runtime, label.into(), config)
    }

    fn load_labelled(runtime: &Runtime, text: Arc<str>, config: &ConfigFile) -> Result<Arc<Self>, Error> {
        let label = &*text;
        let _ahead = runtime.0.library.load_ahead(config);
        let mut filters = Vec::with_capacity(config.filters.len());
        for spec in &config.filters {
            let plugin = load_filter(runtime, label, config, spec)
                .map_err(|error| Error::Start(format!("{}: filter '{}': {error}", spec.source, spec.name)))?;
            let matcher = spec.matching.as_ref().map(Matcher::new).transpose();
            let matcher = matcher
                .map_err(|error| Error::Start(format!("{}: filter '{}': match: {error}", spec.source, spec.name)))?;
            let exported = plugin.pool.spec.module.exported();
            let has = match (exported.request_body, exported.response_body) {
                (true, true) => Body::Both,
                (true, false) => Body::Request,
                (false, true) => Body::Response,
                (false, false) => Body::None,
            };
            let failure = Failure { policy: spec.failure_policy, answer: spec.failure_answer.clone() };
            let stats = runtime.filter_stats(Arc::clone(&text), Arc::clone(&plugin.spec.name));
            if spec.breaker.settings.failures > 0 {
                stats.watch(&plugin.spec.breaker.0);
            }
            filters.push(Filter {
                plugin,
                stats,
                while_open: spec.breaker.while_open.clone().unwrap_or_else(|| failure.clone()),
                failure,
                pause: spec.limits.pause,
                body_bytes: spec.limits.body_bytes,
                body: spec.body.and(has),
                at: spec.at,
                request_body: spec.request_body,
                matcher: matcher.map(Box::new),
            });
        }
        if filters.len() > MAX_FILTERS {
            return Err(Error::Start(format!("a chain has {} filters; there may be {MAX_FILTERS}", filters.len())));
        }
        check_sides(&filters)?;
        let needs = needs(filters.iter());
        for namespace in &config.namespaces {
            runtime.shared().data.configure(&namespace.vm_id, namespace.data);
            runtime.shared().queues.configure(&namespace.vm_id, namespace.queues);
        }
        // Last: what only tries a configuration out, and refuses it, has started nothing.
        let service = |spec: &FilterSpec| {
            load_service(runtime, label, config, spec)
                .map_err(|error| Error::Start(format!("{}: service '{}': {error}", spec.source, spec.name)))
        };
        let services = config.services.iter().filter_map(|spec| service(spec).transpose()).collect::<Result<_, _>>()?;
        let everyone = Participants::first(filters.len());
        let choosy = filters.iter().any(Filter::is_choosy);
        static NUMBERS: AtomicU64 = AtomicU64::new(1);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let filters = filters.into();
        Ok(Arc::new(Chain { number, label: Label::new(text), filters, needs, everyone, choosy, services }))
    }

    /// The rule, for log lines.
    #[must_use]
    pub fn label(&self) -> &str {
        self.label.text()
    }

    /// What no other chain has.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The number by which [`Label::of`] finds it.
    #[inline]
    pub(crate) fn label_number(&self) -> u64 {
        self.label.number()
    }

    /// The filters, first to last.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// The names of the services that it keeps running.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.services.iter().map(|service| service.name())
    }

    /// The filters that take part in every transaction, and those whose `match` holds for this one. To be asked once,
    /// when the transaction meets the chain: what filters change later does not change it.
    #[inline]
    #[must_use]
    pub fn participants(&self, view: &dyn RequestView) -> Participants {
        if self.choosy { self.choose(view) } else { self.everyone }
    }

    fn choose(&self, view: &dyn RequestView) -> Participants {
        let mut evaluation = Evaluation::new(view);
        let mut mask = 0;
        for (place, filter) in self.filters.iter().enumerate() {
            if filter.matcher.as_ref().is_none_or(|matcher| matcher.holds(&mut evaluation)) {
                mask |= 1 << place;
            }
        }
        Participants(mask)
    }

    /// All filters.
    #[must_use]
    pub fn everyone(&self) -> Participants {
        self.everyone
    }

    /// The filters that take part, with their places.
    pub(crate) fn taking_part(&self, participants: Participants) -> impl Iterator<Item = (usize, &Filter)> {
        self.filters.iter().enumerate().filter(move |(place, _)| participants.contains(*place))
    }

    /// Whether some filter that takes part has callbacks outside of streams, from which it may act on them. The others
    /// have no context in the stream, and filters with one VM are asynchronous together.
    #[inline]
    pub(crate) fn is_asynchronous(&self, participants: Participants) -> bool {
        self.taking_part(participants).any(|(_, filter)| filter.plugin.pool.is_asynchronous())
    }

    /// The bodies that the filter is shown in a stream with these participants.
    pub(crate) fn shown(&self, place: usize, participants: Participants) -> Body {
        if participants.contains(place) { self.filters[place].body } else { Body::None }
    }

    /// What the filters of a stream begin with.
    pub(crate) fn bodies(&self, participants: Participants) -> Bodies {
        let none = !self.needs.request_body && self.needs.response_body.is_none();
        if none {
            return Bodies::default();
        }
        Bodies::showing((0..self.filters.len()).map(|place| self.shown(place, participants)).collect())
    }

    /// Which callbacks the chain needs to see, if all of its filters take part.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Which callbacks these of its filters need to see.
    #[inline]
    #[must_use]
    pub fn needs_of(&self, participants: Participants) -> Needs {
        if participants == self.everyone {
            return self.needs;
        }
        needs(self.taking_part(participants).map(|(_, filter)| filter))
    }
}

/// Refuses filters that cannot stand in one chain: whether they ever take part in one transaction is not known.
///
/// # Errors
/// Two of them.
fn check_sides(filters: &[Filter]) -> Result<(), Error> {
    let mut shown = filters.iter().filter(|filter| filter.body.shows(Side::Response));
    let Some(first) = shown.next() else { return Ok(()) };
    match shown.find(|filter| filter.at != first.at) {
        None => Ok(()),
        Some(other) => Err(Error::Start(format!(
            "filters '{}' and '{}' both see response bodies, one at the client's and one at the origin's side of the \
             cache, which keeps a body in one form only: give both the same 'at', or one of them 'body: none' or \
             'body: request'",
            first.name(),
            other.name()
        ))),
    }
}

/// What these filters need to see.
fn needs<'a>(filters: impl Iterator<Item = &'a Filter>) -> Needs {
    let mut needs = Needs::default();
    for filter in filters {
        let exported = filter.exported();
        let bodies = filter.body != Body::None;
        needs.request_headers |= exported.request_headers || exported.response_headers || exported.end || bodies;
        if filter.body.shows(Side::Request) {
            needs.request_body = true;
            needs.buffers_request |= filter.request_body == RequestBody::Buffer;
            needs.request_limit = needs.request_limit.max(filter.body_bytes);
        }
        match filter.at {
            At::Client => needs.response_headers |= exported.response_headers,
            At::Origin => needs.origin_response_headers |= exported.response_headers,
        }
        if filter.body.shows(Side::Response) {
            needs.response_body = Some(filter.at);
        }
        for side in Side::ALL {
            needs.changes_body[side as usize] |= filter.changes_body(side);
        }
    }
    needs
}

fn load_filter(runtime: &Runtime, label: &str, config: &ConfigFile, spec: &FilterSpec) -> Result<Arc<Plugin>, Error> {
    let (vm, plugin) = prepare(runtime, label, config, spec)?;
    let digest = vm.module.digest();
    runtime.pool(vm).plugin(plugin).map_err(|error| in_module(spec, digest, &error))
}

/// Starts a service, or finds the one that runs. Without the means to reach anybody, it is only tried out.
fn load_service(
    runtime: &Runtime,
    label: &str,
    config: &ConfigFile,
    spec: &FilterSpec,
) -> Result<Option<Arc<Service>>, Error> {
    let (vm, plugin) = prepare(runtime, label, config, spec)?;
    let digest = vm.module.digest();
    if runtime.0.offline {
        return runtime.pool(vm).plugin(plugin).map(|_| None).map_err(|error| in_module(spec, digest, &error));
    }
    let key = vm.key;
    let service =
        runtime.0.services.get(key, &plugin, |station| runtime.service_pool(vm, station).plugin(plugin.clone()));
    service.map(Some).map_err(|error| in_module(spec, digest, &error))
}

/// A filter that does not start. Where its guest trapped, the log has its call stack besides.
fn in_module(spec: &FilterSpec, digest: Digest, error: &Error) -> Error {
    if let Error::Trap(trap) = error {
        let place = Place { filter: &spec.name, ..Place::default() };
        journal::trapped(digest, trap, place, format_args!("filter '{}' does not start: {error}", spec.name));
    }
    Error::Start(format!("module {}: {error}", spec.code.source))
}

/// What the VM and the plugin context of a filter are made from.
fn prepare(
    runtime: &Runtime,
    label: &str,
    config: &ConfigFile,
    spec: &FilterSpec,
) -> Result<(VmSpec, PluginSpec), Error> {
    let mut module = runtime.0.library.load(&spec.code, spec.limits.stack_bytes, config.code_cache.as_ref())?;
    if let Some(capabilities) = &spec.allowed_capabilities {
        let digest = module.digest();
        module = module.restrict(capabilities).map_err(|error| in_module(spec, digest, &error))?;
    }
    let settings = VmSettings {
        vm_id: spec.vm_id.clone(),
        vm_configuration: Arc::clone(&spec.vm_configuration),
        environment: spec.environment.clone(),
        limits: spec.limits,
        capabilities: spec.allowed_capabilities.clone(),
    };
    let stats = runtime.filter_stats("", spec.name.as_str());
    let name = stats.filter_name();
    let log = Site::new(spec.log.clone(), spec.limits.log_lines, stats).map_err(Error::Start)?;
    let upstreams = runtime.upstreams(&config.clusters, &spec.callout_hosts)?;
    let plugin = PluginSpec {
        name,
        root_id: spec.root_id.as_str().into(),
        configuration: Arc::clone(&spec.configuration),
        upstreams,
        log: SiteOf(log),
        breaker: SharedBreaker(Arc::new(Breaker::new(spec.breaker.settings, runtime.0.registry.open_breakers()))),
    };
    Ok((VmSpec::new(module, settings, spec.isolation, label), plugin))
}

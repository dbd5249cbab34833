//! The ordered filters of a rule.

use std::sync::Arc;
use std::time::Duration;

use crate::config::{FailurePolicy, FilterSpec};
use crate::error::Error;
use crate::module::Exported;
use crate::pool::Plugin;
use crate::runtime::Runtime;
use crate::settings::{PluginSpec, VmSettings};
use crate::spec::VmSpec;

/// One entry of a chain: a module and its configuration, limits and failure policy.
#[derive(Debug)]
pub struct Filter {
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) policy: FailurePolicy,
    pub(crate) pause: Duration,
}

impl Filter {
    /// The filter's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plugin.spec.name
    }

    /// What its module exports.
    #[must_use]
    pub fn exported(&self) -> Exported {
        self.plugin.pool.spec.module.exported()
    }

    /// What becomes of a transaction when the filter fails.
    #[must_use]
    pub fn policy(&self) -> FailurePolicy {
        self.policy
    }
}

/// The callbacks that a chain needs to see, so that a host hooks nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Needs {
    /// Some filter has a callback at the beginning, or a context to end.
    pub request_headers: bool,
    /// Some filter has `proxy_on_response_headers`.
    pub response_headers: bool,
}

/// A rule's filters: request callbacks run first to last, response callbacks last to first.
#[derive(Debug)]
pub struct Chain {
    label: String,
    filters: Vec<Filter>,
    needs: Needs,
}

impl Chain {
    /// Compiles, starts and configures every filter of `specs`, in all slots.
    ///
    /// `label` names the rule in log lines. Takes as long as compiling takes, so never on an event thread that
    /// serves.
    ///
    /// # Errors
    /// The first filter that cannot be loaded, named with its file, its name and what is wrong.
    pub fn load(runtime: &Runtime, label: &str, specs: &[FilterSpec]) -> Result<Arc<Self>, Error> {
        let mut filters = Vec::with_capacity(specs.len());
        for spec in specs {
            let plugin = load_filter(runtime, spec)
                .map_err(|error| Error::Start(format!("{}: filter '{}': {error}", spec.source, spec.name)))?;
            filters.push(Filter { plugin, policy: spec.failure_policy, pause: spec.limits.pause });
        }
        let needs = filters.iter().fold(Needs::default(), |needs, filter| {
            let exported = filter.exported();
            Needs {
                request_headers: needs.request_headers
                    || exported.request_headers
                    || exported.response_headers
                    || exported.end,
                response_headers: needs.response_headers || exported.response_headers,
            }
        });
        Ok(Arc::new(Chain { label: label.to_owned(), filters, needs }))
    }

    /// The rule, for log lines.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The filters, first to last.
    #[must_use]
    pub fn filters(&self) -> &[Filter] {
        &self.filters
    }

    /// Whether some filter has callbacks outside of streams, from which it may act on them.
    #[inline]
    pub(crate) fn is_asynchronous(&self) -> bool {
        self.filters.iter().any(|filter| filter.plugin.pool.is_asynchronous())
    }

    /// Which callbacks the chain needs to see.
    #[must_use]
    pub fn needs(&self) -> Needs {
        self.needs
    }
}

fn load_filter(runtime: &Runtime, spec: &FilterSpec) -> Result<Arc<Plugin>, Error> {
    let path = spec.module.display();
    let bytes =
        std::fs::read(&spec.module).map_err(|error| Error::Module(format!("module {path} cannot be read: {error}")))?;
    let module = runtime.module(&bytes).map_err(|error| Error::Module(format!("module {path}: {error}")))?;
    let settings = VmSettings {
        vm_id: spec.vm_id.clone(),
        vm_configuration: Arc::clone(&spec.vm_configuration),
        environment: spec.environment.clone(),
        limits: spec.limits,
    };
    let pool = runtime.pool(VmSpec::new(module, settings));
    let plugin = pool.plugin(PluginSpec {
        name: spec.name.clone(),
        root_id: spec.root_id.clone(),
        configuration: Arc::clone(&spec.configuration),
    });
    plugin.map_err(|error| Error::Start(format!("module {path}: {error}")))
}

//! Where Envoy's files have their filters: in a list, a connection manager, a listener, a whole bootstrap.

use super::Work;
use super::any::{type_name, type_of};
use super::envoy::{self, Entry};
use super::fields::{Cursor, Fields, Problem};
use super::node::{Node, Place};
use super::ours::Draft;

const MANAGER: &str = "envoy.filters.network.http_connection_manager";

/// The filters of one connection manager.
struct Chain {
    /// The listener's name, and the filter chain's behind a slash.
    label: String,
    place: Place,
    filters: Vec<Draft>,
}

/// What a file holds.
#[derive(Default)]
struct Found {
    chains: Vec<Chain>,
    services: Vec<Draft>,
    /// Listeners with Wasm filters that are not the one that is meant.
    passed_over: Vec<String>,
}

/// The filters and services of a file.
pub(super) fn read(root: &Cursor<'_>, work: &mut Work<'_>) -> Result<(Vec<Draft>, Vec<Draft>), Problem> {
    let mut found = Found::default();
    found.anything(root, work)?;
    let Found { mut chains, services, passed_over } = found;
    if let Some(wanted) = work.listener
        && chains.is_empty()
    {
        let known = if passed_over.is_empty() { "none has any".to_owned() } else { passed_over.join(", ") };
        return Err(root.problem(format!("no listener '{wanted}' with Wasm filters: {known}")));
    }
    // Listeners for HTTP and HTTPS often have the same filters.
    chains.dedup_by(|one, other| same(&one.filters, &other.filters));
    match chains.as_slice() {
        [] if services.is_empty() => return Err(root.problem("there is no Wasm filter in it")),
        [] | [_] => {}
        [_, second, ..] => {
            let labels: Vec<_> = chains.iter().map(|chain| format!("'{}'", chain.label)).collect();
            return Err(Problem::new(
                second.place.clone(),
                format!(
                    "Wasm filters of several listeners, and not the same ones: {}. A rule has one chain: `wasm-remap \
                     migrate --listener NAME` writes one of them",
                    labels.join(", ")
                ),
            ));
        }
    }
    let filters = chains.pop().map_or_else(Vec::new, |chain| chain.filters);
    Ok((filters, services))
}

fn same(one: &[Draft], other: &[Draft]) -> bool {
    let plain =
        |drafts: &[Draft]| drafts.iter().map(|draft| (draft.mapping(), draft.inline.clone())).collect::<Vec<_>>();
    plain(one) == plain(other)
}

impl Found {
    /// Whatever a file begins with.
    fn anything(&mut self, root: &Cursor<'_>, work: &mut Work<'_>) -> Result<(), Problem> {
        if let Node::List(_) = root.node {
            return self.filters(root, "", work);
        }
        let fields = root.fields()?;
        let of_type = type_of(root)?;
        if fields.has("static_resources") || fields.has("bootstrap_extensions") {
            self.bootstrap(&fields, work)
        } else if fields.has("filter_chains") || fields.has("default_filter_chain") {
            self.listener(root, 0, work)
        } else if let Some(listeners) = fields.get("listeners")? {
            self.listeners(&listeners, work)
        } else if let Some(resources) = fields.get("resources")? {
            // What a discovery service answers, in a file.
            self.listeners(&resources, work)
        } else if let Some(filters) = fields.get("http_filters")? {
            self.filters(&filters, "", work)
        } else if fields.has("typed_config") || fields.has("config_discovery") {
            self.entry(root, work)
        } else if fields.has("vm_config") {
            self.one(envoy::plugin(root, None, work)?, root)
        } else if of_type.is_some_and(envoy::is_service) || fields.has("singleton") {
            self.services.push(envoy::service(root, None, work)?);
            Ok(())
        } else if of_type.is_none() && fields.has("name") {
            self.entry(root, work)
        } else {
            let (_, message) = envoy::typed(root)?;
            self.one(envoy::wasm(&message, None, work)?, root)
        }
    }

    fn one(&mut self, draft: Draft, root: &Cursor<'_>) -> Result<(), Problem> {
        self.chains.push(Chain { label: String::new(), place: root.place.clone(), filters: vec![draft] });
        Ok(())
    }

    /// An entry of a list by itself: a filter, a connection manager, or a service.
    fn entry(&mut self, root: &Cursor<'_>, work: &mut Work<'_>) -> Result<(), Problem> {
        if let Some(manager) = manager(root)? {
            return manager.get("http_filters")?.map_or(Ok(()), |filters| self.filters(&filters, "", work));
        }
        if self.extension(root, work)? {
            return Ok(());
        }
        match envoy::entry(root)? {
            Entry::Wasm(name, message) => self.one(envoy::wasm(&message, name, work)?, root),
            Entry::Router | Entry::Other(_) | Entry::Disabled(_) => {
                Err(root.problem("there is no Wasm filter in it: expected type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm"))
            }
        }
    }

    fn bootstrap(&mut self, fields: &Fields<'_>, work: &mut Work<'_>) -> Result<(), Problem> {
        if let Some(resources) = fields.get("static_resources")? {
            let resources = resources.fields()?;
            if let Some(listeners) = resources.get("listeners")? {
                self.listeners(&listeners, work)?;
            }
            if let Some(clusters) = resources.get("clusters")? {
                let message = "Envoy's clusters are not taken over: those that filters call stand under `clusters` in a \
                               filter file in our spelling";
                work.warn(clusters.place.on_key(), message);
            }
        }
        if let Some(extensions) = fields.get("bootstrap_extensions")? {
            for extension in extensions.list()? {
                self.extension(&extension, work)?;
            }
        }
        Ok(())
    }

    /// Takes an extension of the bootstrap, if it is a service.
    fn extension(&mut self, extension: &Cursor<'_>, work: &mut Work<'_>) -> Result<bool, Problem> {
        let fields = extension.fields()?;
        let Some(config) = fields.get("typed_config")? else { return Ok(false) };
        let (of_type, message) = envoy::typed(&config)?;
        if !of_type.is_some_and(envoy::is_service) {
            return Ok(false);
        }
        self.services.push(envoy::service(&message, None, work)?);
        Ok(true)
    }

    fn listeners(&mut self, listeners: &Cursor<'_>, work: &mut Work<'_>) -> Result<(), Problem> {
        for (index, listener) in listeners.list()?.iter().enumerate() {
            self.listener(listener, index, work)?;
        }
        Ok(())
    }

    fn listener(&mut self, listener: &Cursor<'_>, index: usize, work: &mut Work<'_>) -> Result<(), Problem> {
        let fields = listener.fields()?;
        let name = fields.get("name")?.map(|name| name.text()).transpose()?;
        let name = name.map_or_else(|| index.to_string(), str::to_owned);
        let mut chains = fields.get("filter_chains")?.map_or_else(|| Ok(Vec::new()), |chains| chains.list())?;
        chains.extend(fields.get("default_filter_chain")?);
        let several = chains.len() > 1;
        for (index, chain) in chains.iter().enumerate() {
            let fields = chain.fields()?;
            let own = fields.get("name")?.map(|name| name.text()).transpose()?;
            let own = own.map_or_else(|| index.to_string(), str::to_owned);
            let label = if several { format!("{name}/{own}") } else { name.clone() };
            let Some(filters) = fields.get("filters")? else { continue };
            for filter in filters.list()? {
                if let Some(manager) = manager(&filter)? {
                    if let Some(filters) = manager.get("http_filters")? {
                        self.filters(&filters, &label, work)?;
                    }
                } else if network_wasm(&filter)? {
                    let message = "a Wasm filter for connections, of which there are none here: it is ignored";
                    work.warn(filter.place.clone(), message);
                }
            }
        }
        Ok(())
    }

    /// A list of HTTP filters. One without Wasm in it is nobody's concern.
    fn filters(&mut self, list: &Cursor<'_>, label: &str, work: &mut Work<'_>) -> Result<(), Problem> {
        if work.listener.is_some_and(|wanted| label != wanted && label.split('/').next() != Some(wanted)) {
            let is_wasm = |item: &Cursor<'_>| matches!(envoy::entry(item), Ok(Entry::Wasm(..)));
            if list.list()?.iter().any(is_wasm) {
                self.passed_over.push(format!("'{label}'"));
            }
            return Ok(());
        }
        let mut filters = Vec::new();
        let mut others = Vec::new();
        for item in list.list()? {
            match envoy::entry(&item)? {
                Entry::Wasm(name, message) => filters.push(envoy::wasm(&message, name, work)?),
                Entry::Router => {}
                Entry::Disabled(name) => {
                    let name = name.unwrap_or("without a name");
                    work.warn(item.place.clone(), format!("the filter '{name}' is disabled: it is left out"));
                }
                Entry::Other(name) => others.push((name, item.place.clone())),
            }
        }
        if filters.is_empty() {
            return Ok(());
        }
        for (name, place) in others {
            if !work.migrating {
                return Err(Problem::new(
                    place,
                    format!(
                        "'{name}' is no Wasm filter: left out, it would let pass what it is there to stop. Take it out of \
                         the file, or let `wasm-remap migrate` write one without it"
                    ),
                ));
            }
            work.warn(
                place,
                format!("'{name}' is no Wasm filter: it is left out, and something of Traffic Server must do its work"),
            );
        }
        self.chains.push(Chain { label: label.to_owned(), place: list.place.clone(), filters });
        Ok(())
    }
}

/// The connection manager of a network filter.
fn manager<'a>(filter: &Cursor<'a>) -> Result<Option<Fields<'a>>, Problem> {
    let fields = filter.fields()?;
    if let Some(config) = fields.get("typed_config")? {
        let (of_type, message) = envoy::typed(&config)?;
        let is_manager =
            of_type.is_some_and(|name| name.starts_with("envoy.") && name.ends_with(".HttpConnectionManager"));
        return is_manager.then(|| message.fields()).transpose();
    }
    let name = fields.get("name")?.map(|name| name.text()).transpose()?;
    match fields.get("config")? {
        Some(config) if name == Some(MANAGER) => config.fields().map(Some),
        _ => Ok(None),
    }
}

fn network_wasm(filter: &Cursor<'_>) -> Result<bool, Problem> {
    let Some(config) = filter.fields()?.get("typed_config")? else { return Ok(false) };
    Ok(type_of(&config)?.map(type_name) == Some("envoy.extensions.filters.network.wasm.v3.Wasm"))
}

//! Which filters are shown bodies, why, and what it would save not to.

use engine::config::{At, Body, FilterSpec, RequestBody};
use engine::{Chain, Filter, Side};
use serde::Serialize;

/// The bodies that a filter is shown.
#[derive(Serialize)]
pub(super) struct FilterBodies {
    pub(super) request: bool,
    pub(super) response: bool,
    /// Why it is not shown others: `body` in its file, or no callback.
    pub(super) why_not: Option<String>,
    /// It can look at them: its module imports a call for that, and may make it.
    pub(super) reads: bool,
    /// It can change them.
    pub(super) changes: bool,
    /// Where it sees responses: `client` or `origin`.
    pub(super) at: &'static str,
    /// `stream` or `buffer`.
    pub(super) request_body: &'static str,
}

/// The bodies that a chain is shown.
#[derive(Serialize, Default)]
pub(super) struct ChainBodies {
    /// The filters that are shown requests' bodies.
    pub(super) request: Vec<String>,
    /// Those for whose sake they are shown whole.
    pub(super) buffered_for: Vec<String>,
    /// The most that they may have then.
    pub(super) buffered_kib: Option<usize>,
    pub(super) request_may_change: bool,
    /// The filters that are shown responses' bodies.
    pub(super) response: Vec<String>,
    /// Where: `client` or `origin`.
    pub(super) response_at: Option<&'static str>,
    pub(super) response_may_change: bool,
    /// What could be saved.
    pub(super) advice: Vec<String>,
}

/// A module's callback for bodies of this side.
fn callback(side: Side) -> &'static str {
    match side {
        Side::Request => "proxy_on_request_body",
        Side::Response => "proxy_on_response_body",
    }
}

pub(super) fn at(at: At) -> &'static str {
    match at {
        At::Client => "client",
        At::Origin => "origin",
    }
}

/// Whether the filter's module asks for one of these calls, and may make it.
fn calls(filter: &Filter, names: &[&str]) -> bool {
    let module = filter.module();
    module.imports().iter().any(|import| names.contains(&import.name.as_str()) && module.allows(&import.name))
}

const READ: &str = "proxy_get_buffer_bytes";
const WRITE: &str = "proxy_set_buffer_bytes";

pub(super) fn of_filter(spec: &FilterSpec, filter: &Filter) -> FilterBodies {
    let shown = filter.body();
    let missing: Vec<_> =
        Side::ALL.into_iter().filter(|side| !shown.shows(*side)).map(|side| why_not(spec, filter, side)).collect();
    let why_not = match missing.as_slice() {
        [] => None,
        [one, other] if one != other => Some(format!("{one}; {other}")),
        [one, ..] => Some(one.clone()),
    };
    FilterBodies {
        request: shown.shows(Side::Request),
        response: shown.shows(Side::Response),
        why_not,
        reads: shown != Body::None && calls(filter, &[READ, WRITE]),
        changes: shown != Body::None && filter.exported().changes_bodies,
        at: at(filter.at()),
        request_body: match spec.request_body {
            RequestBody::Stream => "stream",
            RequestBody::Buffer => "buffer",
        },
    }
}

/// Why a filter is not shown bodies of this side.
fn why_not(spec: &FilterSpec, filter: &Filter, side: Side) -> String {
    let name = callback(side);
    if !spec.body.shows(side) {
        format!("body: {}", spec.body.as_str())
    } else if filter.module().allows(name) {
        format!("its module exports no {name}")
    } else {
        format!("{name} is not among its allowed_capabilities")
    }
}

pub(super) fn of_chain(specs: &[FilterSpec], chain: &Chain) -> ChainBodies {
    let needs = chain.needs();
    let named = |wanted: &dyn Fn(&FilterSpec, &Filter) -> bool| -> Vec<String> {
        let pairs = specs.iter().zip(chain.filters()).filter(|(spec, filter)| wanted(spec, filter));
        pairs.map(|(_, filter)| filter.name().to_owned()).collect()
    };
    let buffers = |spec: &FilterSpec, filter: &Filter| {
        spec.request_body == RequestBody::Buffer && filter.body().shows(Side::Request)
    };
    let mut advice: Vec<_> =
        specs.iter().zip(chain.filters()).filter_map(|(spec, filter)| advice_for(spec, filter, chain)).collect();
    if needs.buffers_request && needs.changes_body[Side::Request as usize] && needs.response_body.is_some() {
        advice.push(
            "requests' bodies are gathered when the connection to the origin is open (nothing is sent on it yet), for \
             the chain may change them and is shown responses' too: from on_request_body, no filter can send the \
             request elsewhere"
                .to_owned(),
        );
    }
    ChainBodies {
        request: named(&|_, filter| filter.body().shows(Side::Request)),
        buffered_for: named(&buffers),
        buffered_kib: needs.buffers_request.then_some(needs.request_limit >> 10),
        request_may_change: needs.changes_body[Side::Request as usize],
        response: named(&|_, filter| filter.body().shows(Side::Response)),
        response_at: needs.response_body.map(at),
        response_may_change: needs.changes_body[Side::Response as usize],
        advice,
    }
}

/// What it would save not to show the filter bodies.
fn advice_for(spec: &FilterSpec, filter: &Filter, chain: &Chain) -> Option<String> {
    let sides: Vec<_> = Side::ALL.into_iter().filter(|side| filter.body().shows(*side)).collect();
    if sides.is_empty() {
        return None;
    }
    let name = filter.name();
    let exports: Vec<_> = sides.iter().map(|side| callback(*side)).collect();
    let exports = exports.join(" and ");
    let alone = |side: Side| chain.filters().iter().filter(|other| other.body().shows(side)).count() == 1;
    let spared = sides.iter().rev().filter(|side| alone(**side)).map(|side| match side {
        Side::Request => "each request with a body",
        Side::Response => "each response",
    });
    let spared: Vec<_> = spared.collect();
    let saves = match spared.as_slice() {
        [] => "spares it its callbacks, and in all filters that are shown bodies it spares the transforms".to_owned(),
        spared => format!("spares {} a transform", spared.join(" and ")),
    };
    let looks = calls(filter, &[READ, WRITE]);
    if looks && spec.body != Body::Both {
        // Somebody has chosen.
        return None;
    }
    Some(if looks {
        format!(
            "filter '{name}' sees bodies (its module exports {exports}, as every SDK's does): if it does nothing with \
             them, `body: none` {saves}"
        )
    } else {
        format!(
            "filter '{name}' is shown bodies that it cannot look at: its module exports {exports}, as every SDK's \
             does, and {} {READ} nor {WRITE}. Unless it counts or holds them, set `body: none`, which {saves}",
            if calls_but_may_not(filter) { "may call neither" } else { "imports neither" }
        )
    })
}

/// Whether it is the file that keeps the filter from looking at bodies.
fn calls_but_may_not(filter: &Filter) -> bool {
    filter.module().imports().iter().any(|import| [READ, WRITE].contains(&import.name.as_str()))
}

/// What stands in a filter's file, and means nothing.
pub(super) fn warnings(spec: &FilterSpec, filter: &Filter) -> Vec<String> {
    let mut warnings = Vec::new();
    let name = filter.name();
    if spec.request_body == RequestBody::Buffer && !filter.body().shows(Side::Request) {
        let why = why_not(spec, filter, Side::Request);
        warnings.push(format!(
            "filter '{name}': 'request_body: buffer' buffers nothing, for it is shown no requests' bodies ({why})"
        ));
    }
    if spec.at == At::Origin && !filter.exported().response_headers && !filter.body().shows(Side::Response) {
        warnings.push(format!("filter '{name}': 'at: origin' means nothing, for it has no callback for responses"));
    }
    warnings
}

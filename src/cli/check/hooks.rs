//! What the plugin does with a chain, and which filters it does it for.

use engine::config::FilterSpec;
use engine::{At, Chain, Exported, Filter, RequestBody, Side};
use serde::Serialize;

/// Something that the plugin adds to transactions of a rule.
#[derive(Serialize)]
pub(super) struct Hook {
    pub(super) hook: &'static str,
    pub(super) filters: Vec<String>,
    /// To which of them it is added; absent if to all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) only: Option<&'static str>,
    /// What each of them has it for.
    pub(super) why: Vec<Why>,
}

/// Why a filter needs a hook.
#[derive(Serialize)]
pub(super) struct Why {
    pub(super) filter: String,
    /// What its module exports.
    pub(super) exports: Vec<&'static str>,
    /// What its file says, defaults included: without it, or with another value, the hook would not be needed.
    pub(super) keys: Vec<String>,
}

/// The callbacks and the keys for the sake of which the plugin adds a hook, as far as the filter has them.
fn why(hook: &str, spec: &FilterSpec, filter: &Filter) -> Why {
    const CONTEXT: [&str; 3] = ["proxy_on_done", "proxy_on_log", "proxy_on_delete"];
    let body = format!("body: {}", spec.body.as_str());
    let at = format!("at: {}", super::bodies::at(spec.at));
    let buffer = || {
        let buffers = spec.request_body == RequestBody::Buffer && filter.body().shows(Side::Request);
        buffers.then(|| "request_body: buffer".to_owned())
    };
    let headers = |wanted: At| (filter.at() == wanted).then_some("proxy_on_response_headers");
    let (request, response) = ("proxy_on_request_body", "proxy_on_response_body");
    let shown = |side, name| filter.body().shows(side).then_some(name);
    let (wanted, keys): (Vec<&'static str>, Vec<String>) = match hook {
        "TSRemapDoRemap" => {
            let mut wanted = vec!["proxy_on_request_headers", "proxy_on_response_headers"];
            wanted.extend([shown(Side::Request, request), shown(Side::Response, response)].into_iter().flatten());
            wanted.extend(CONTEXT);
            (wanted, Vec::new())
        }
        "REQUEST_BUFFER_READ_COMPLETE" => (vec![request], [Some(body), buffer()].into_iter().flatten().collect()),
        "REQUEST_TRANSFORM" | "SEND_REQUEST_HDR" => (vec![request], vec![body]),
        "CACHE_LOOKUP_COMPLETE" | "RESPONSE_TRANSFORM" => (vec![response], vec![body, at]),
        "READ_RESPONSE_HDR" => {
            let own = headers(At::Origin)
                .into_iter()
                .chain(shown(Side::Response, response).filter(|_| spec.at == At::Origin));
            let own: Vec<_> = own.collect();
            // Without a filter at the origin it is to see an answer that comes before the request's body is sent.
            if own.is_empty() { (vec![request], vec![body]) } else { (own, vec![at]) }
        }
        "SEND_RESPONSE_HDR" if filter.exported().response_headers => (vec!["proxy_on_response_headers"], Vec::new()),
        "SEND_RESPONSE_HDR" => {
            let bodies = [shown(Side::Request, request), shown(Side::Response, response)];
            (bodies.into_iter().flatten().collect(), vec![body])
        }
        _ => (CONTEXT.to_vec(), Vec::new()),
    };
    let exported = filter.module().callbacks();
    let exports = wanted.into_iter().filter(|name| exported.iter().any(|row| row.name == *name)).collect();
    Why { filter: filter.name().to_owned(), exports, keys }
}

/// With a body, as far as their heads say.
const WITH_BODY: Option<&str> = Some("requests with a body");
/// To `HEAD`, nothing has a body.
const NO_HEAD: Option<&str> = Some("not HEAD");

pub(super) fn of_chain(specs: &[FilterSpec], chain: &Chain) -> Vec<Hook> {
    let needs = chain.needs();
    if !needs.request_headers {
        return Vec::new();
    }
    let named = |wanted: &dyn Fn(&Filter, Exported) -> bool| -> Vec<String> {
        let filters = chain.filters().iter().filter(|filter| wanted(filter, filter.exported()));
        filters.map(|filter| filter.name().to_owned()).collect()
    };
    let request = |filter: &Filter| filter.body().shows(Side::Request);
    let response = |filter: &Filter| filter.body().shows(Side::Response);
    let headers_at = |filter: &Filter, exported: Exported, at| exported.response_headers && filter.at() == at;
    let requests = named(&|filter, _| request(filter));
    let responses = named(&|filter, _| response(filter));
    let at_origin = needs.response_body == Some(At::Origin);

    let mut hooks = Vec::new();
    let mut hook = |hook, filters: Vec<String>, only| {
        let pairs =
            specs.iter().zip(chain.filters()).filter(|(_, filter)| filters.iter().any(|name| name == filter.name()));
        let why = pairs.map(|(spec, filter)| why(hook, spec, filter)).filter(|why| !why.exports.is_empty()).collect();
        hooks.push(Hook { hook, filters, only, why });
    };
    let all = |filter: &Filter, exported: Exported| {
        exported.request_headers || exported.response_headers || exported.end || request(filter) || response(filter)
    };
    hook("TSRemapDoRemap", named(&all), None);
    if needs.request_body {
        if needs.buffers_request {
            hook("REQUEST_BUFFER_READ_COMPLETE", requests.clone(), WITH_BODY);
        }
        hook("REQUEST_TRANSFORM", requests.clone(), WITH_BODY);
        hook("SEND_REQUEST_HDR", requests.clone(), WITH_BODY);
    }
    if at_origin {
        hook("CACHE_LOOKUP_COMPLETE", responses.clone(), NO_HEAD);
    }
    if needs.origin_response_headers {
        let filters =
            named(&|filter, exported| headers_at(filter, exported, At::Origin) || at_origin && response(filter));
        hook("READ_RESPONSE_HDR", filters, None);
    } else if at_origin {
        hook("READ_RESPONSE_HDR", responses.clone(), NO_HEAD);
    } else if needs.request_body {
        hook("READ_RESPONSE_HDR", requests.clone(), WITH_BODY);
    }
    if needs.response_body.is_some() {
        hook("RESPONSE_TRANSFORM", responses.clone(), NO_HEAD);
    }
    if needs.response_headers || needs.origin_response_headers {
        hook("SEND_RESPONSE_HDR", named(&|_, exported| exported.response_headers), None);
    } else if needs.response_body.is_some() {
        hook("SEND_RESPONSE_HDR", responses, NO_HEAD);
    } else if needs.request_body {
        hook("SEND_RESPONSE_HDR", requests, WITH_BODY);
    }
    hook("TXN_CLOSE", named(&|_, exported| exported.end), None);
    hooks
}

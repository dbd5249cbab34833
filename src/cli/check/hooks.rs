//! What the plugin does with a chain, and which filters it does it for.

use engine::{At, Chain, Exported, Filter, Side};
use serde::Serialize;

/// Something that the plugin adds to transactions of a rule.
#[derive(Serialize)]
pub(super) struct Hook {
    pub(super) hook: &'static str,
    pub(super) filters: Vec<String>,
    /// To which of them it is added; absent if to all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) only: Option<&'static str>,
}

/// With a body, as far as their heads say.
const WITH_BODY: Option<&str> = Some("requests with a body");
/// To `HEAD`, nothing has a body.
const NO_HEAD: Option<&str> = Some("not HEAD");

pub(super) fn of_chain(chain: &Chain) -> Vec<Hook> {
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
    let mut hook = |hook, filters: Vec<String>, only| hooks.push(Hook { hook, filters, only });
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

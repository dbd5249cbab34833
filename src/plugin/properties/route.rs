//! `xds.*`: Envoy's names for what a rule of remap.config is. Its route is the rule's "from" URL, its virtual host that
//! URL's host, its cluster the "to" URL's host and port, its node this server.

use engine::Error;

use super::{absent, bytes, text};
use crate::host::TxnHost;

pub(super) fn is_known(path: &[u8]) -> bool {
    matches!(path, b"route_name" | b"virtual_host_name" | b"cluster_name" | b"node\0id")
}

pub(super) fn read(host: &mut TxnHost, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    if path == b"node\0id" {
        return bytes(out, ats::mgmt::string_get(c"proxy.config.proxy_name").as_deref());
    }
    let (messages, ..) = host.parts()?;
    match path {
        b"route_name" => bytes(out, Some(&messages.remap_from_url_get().ok_or_else(absent)?.to_vec())),
        b"virtual_host_name" => bytes(out, Some(messages.remap_from_url_get().ok_or_else(absent)?.host())),
        b"cluster_name" => {
            let url = messages.remap_to_url_get().ok_or_else(absent)?;
            bytes(out, Some(url.host()))?;
            text(out, Some(format_args!(":{}", url.port())))
        }
        _ => Err(absent()),
    }
}

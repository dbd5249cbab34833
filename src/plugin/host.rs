//! The engine's view of an ATS transaction.
//!
//! What a filter reads of the request line is the client's: ATS has already put the rule's "to" URL into the request
//! when DoRemap runs, so `:path` and `:scheme` come from the pristine URL, and `:authority` from the Host field, which
//! ATS rewrites after DoRemap. What a filter writes to `:path` is in the client's terms too, and goes through the
//! rule's mapping; what it writes to `:authority` and `:scheme` is where the request goes.

use ats::handle::TxnHandle;
use ats::http::{Request, reason_lookup};
use ats::messages::Messages;
use engine::abi::{Callback, MapType};
use engine::{Error, PseudoHeader, StreamHost};

use crate::properties;

/// One transaction, for the engine. Dropped by [`engine::Stream::finish`], in TXN_CLOSE.
pub(crate) struct TxnHost {
    txn: TxnHandle,
    /// The callback that runs.
    callback: Callback,
    /// What filters made of the request line, where they did.
    pub(crate) line: RequestLine,
}

/// The parts of the request line that filters replaced, in the client's terms.
#[derive(Default)]
pub(crate) struct RequestLine {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) authority: Option<Vec<u8>>,
    pub(crate) scheme: Option<Vec<u8>>,
}

/// A map or message that is not there (any more, or yet), or that this thread may not touch. A function, so that it
/// is made (and dropped) only where it is needed.
fn absent() -> Error {
    Error::NotFound
}

/// What ATS refused, as the guest hears it.
fn refused(error: ats::Error) -> Error {
    log::debug!("a filter's write was refused: {error}");
    Error::BadArgument("ATS refuses this value")
}

impl TxnHost {
    /// The host of a transaction.
    pub(crate) fn new(txn: TxnHandle) -> Self {
        TxnHost { txn, callback: Callback::ContextCreate, line: RequestLine::default() }
    }

    fn messages(&mut self) -> Result<Messages<'_>, Error> {
        self.txn.messages().ok_or_else(absent)
    }

    /// Whether the response may be shown: ATS has something there from SEND_RESPONSE_HDR on.
    fn has_response(&self) -> bool {
        matches!(self.callback, Callback::ResponseHeaders | Callback::Done | Callback::Log | Callback::Delete)
    }

    /// Runs `read` on the fields of a map.
    fn with_map<R>(
        &mut self,
        map: MapType,
        run: impl FnOnce(&mut ats::headers::HeaderMap<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let response = self.has_response();
        let mut messages = self.messages()?;
        match map {
            MapType::HttpRequestHeaders => run(&mut messages.client_req_get().ok_or_else(absent)?.headers_mut()),
            MapType::HttpResponseHeaders if response => {
                run(&mut messages.client_resp_get().ok_or_else(absent)?.headers_mut())
            }
            _ => Err(absent()),
        }
    }
}

impl StreamHost for TxnHost {
    fn begin(&mut self, callback: Callback) {
        self.callback = callback;
    }

    fn header(&mut self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        crate::fault::inject_in_hostcall(&mut self.txn);
        self.with_map(map, |fields| {
            out.extend_from_slice(fields.get_first(name).ok_or_else(absent)?);
            Ok(())
        })
    }

    fn headers(&mut self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        self.with_map(map, |fields| {
            fields.for_each(|name, value| {
                // Fields that begin with '@' are ATS's own and never on the wire.
                if name.first() != Some(&b'@') {
                    visit(name, value);
                }
            });
            Ok(())
        })
    }

    fn header_count(&mut self, map: MapType) -> Result<usize, Error> {
        self.with_map(map, |fields| Ok(fields.len()))
    }

    fn add_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.with_map(map, |fields| fields.append(name, value).map_err(refused))
    }

    fn set_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        self.with_map(map, |fields| fields.set(name, value).map_err(refused))
    }

    fn remove_header(&mut self, map: MapType, name: &[u8]) -> Result<(), Error> {
        self.with_map(map, |fields| fields.remove(name).map(drop).map_err(refused))
    }

    fn clear_headers(&mut self, map: MapType) -> Result<(), Error> {
        self.with_map(map, |fields| fields.clear().map_err(refused))
    }

    fn pseudo_header(&mut self, pseudo: PseudoHeader, out: &mut Vec<u8>) -> Result<(), Error> {
        let has_response = self.has_response();
        let TxnHost { txn, line, .. } = self;
        let mut messages = txn.messages().ok_or_else(absent)?;
        read_pseudo(&mut messages, line, has_response, pseudo, out)
    }

    fn set_pseudo_header(&mut self, pseudo: PseudoHeader, value: &[u8]) -> Result<(), Error> {
        let has_response = self.has_response();
        let TxnHost { txn, line, .. } = self;
        let mut messages = txn.messages().ok_or_else(absent)?;
        match pseudo {
            PseudoHeader::Method => messages.client_req_get().ok_or_else(absent)?.set_method(value).map_err(refused),
            PseudoHeader::Path => {
                set_path(&mut messages, value)?;
                line.path = Some(value.to_vec());
                Ok(())
            }
            PseudoHeader::Authority => {
                let mut request = messages.client_req_get().ok_or_else(absent)?;
                set_authority(&mut request, value)?;
                line.authority = Some(value.to_vec());
                Ok(())
            }
            PseudoHeader::Scheme => {
                if !matches!(value, b"http" | b"https") {
                    return Err(Error::BadArgument(":scheme is http or https"));
                }
                let mut request = messages.client_req_get().ok_or_else(absent)?;
                request.url().ok_or_else(absent)?.set_scheme(value).map_err(refused)?;
                line.scheme = Some(value.to_vec());
                Ok(())
            }
            PseudoHeader::Status if has_response => {
                let status = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u16>().ok());
                let status = status
                    .filter(|status| (200..=999).contains(status))
                    .ok_or_else(|| Error::BadArgument(":status"))?;
                let mut response = messages.client_resp_get().ok_or_else(absent)?;
                response.set_status(status).map_err(refused)?;
                response.set_reason(reason_lookup(status)).map_err(refused)
            }
            PseudoHeader::Status => Err(absent()),
        }
    }

    fn property(&mut self, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let has_response = self.has_response();
        let TxnHost { txn, line, .. } = self;
        let mut messages = txn.messages().ok_or_else(absent)?;
        properties::read(&mut messages, line, has_response, path, out)
    }

    fn set_property(&mut self, _path: &[u8], _value: &[u8]) -> Result<(), Error> {
        Err(absent())
    }

    fn request_line_changed(&self) -> bool {
        self.line.path.is_some() || self.line.authority.is_some() || self.line.scheme.is_some()
    }
}

/// Appends a pseudo-header's value.
///
/// # Errors
/// [`Error::NotFound`] if there is none now.
pub(crate) fn read_pseudo(
    messages: &mut Messages<'_>,
    line: &RequestLine,
    has_response: bool,
    pseudo: PseudoHeader,
    out: &mut Vec<u8>,
) -> Result<(), Error> {
    match (pseudo, line) {
        (PseudoHeader::Path, RequestLine { path: Some(known), .. })
        | (PseudoHeader::Authority, RequestLine { authority: Some(known), .. })
        | (PseudoHeader::Scheme, RequestLine { scheme: Some(known), .. }) => out.extend_from_slice(known),
        (PseudoHeader::Method, _) => {
            out.extend_from_slice(messages.client_req_get().ok_or_else(absent)?.method());
        }
        (PseudoHeader::Path, _) => {
            messages.pristine_url_get().ok_or_else(absent)?.write_path_and_query(out);
        }
        (PseudoHeader::Authority, _) => {
            let before = out.len();
            if let Some(url) = messages.pristine_url_get() {
                out.extend_from_slice(url.host());
                if let Some(port) = url.explicit_port() {
                    out.push(b':');
                    out.extend_from_slice(port.to_string().as_bytes());
                }
            }
            if out.len() == before {
                let request = messages.client_req_get().ok_or_else(absent)?;
                out.extend_from_slice(request.get_first(b"Host").ok_or_else(absent)?);
            }
        }
        (PseudoHeader::Scheme, _) => {
            out.extend_from_slice(messages.pristine_url_get().ok_or_else(absent)?.scheme());
        }
        (PseudoHeader::Status, _) if has_response => {
            let status = messages.client_resp_get().ok_or_else(absent)?.status();
            out.extend_from_slice(status.to_string().as_bytes());
        }
        (PseudoHeader::Status, _) => return Err(absent()),
    }
    Ok(())
}

/// Writes a path that a filter gave in the client's terms, through the rule's mapping.
fn set_path(messages: &mut Messages<'_>, value: &[u8]) -> Result<(), Error> {
    if value.first() != Some(&b'/') || value.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(Error::BadArgument(":path begins with '/' and has no blanks"));
    }
    let from = messages.remap_from_url_get().map_or_else(Vec::new, |url| url.path().to_vec());
    let to = messages.remap_to_url_get().map_or_else(Vec::new, |url| url.path().to_vec());
    let mapped = map_path(&from, &to, value);
    let mut request = messages.client_req_get().ok_or_else(absent)?;
    request.url().ok_or_else(absent)?.set_path_and_query(&mapped).map_err(refused)
}

/// What a rule from the path `from` to the path `to` (both without their first slash, as ATS has them) makes of
/// `path`: the rest behind `from`, behind `to`. A path that is not under `from` counts as a rest as a whole.
fn map_path(from: &[u8], to: &[u8], path: &[u8]) -> Vec<u8> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let rest = path.strip_prefix(from).unwrap_or(path);
    let mut mapped = vec![b'/'];
    mapped.extend_from_slice(to);
    match (mapped.ends_with(b"/"), rest.first()) {
        (true, Some(b'/')) => mapped.extend_from_slice(&rest[1..]),
        (false, Some(first)) if !matches!(first, b'/' | b'?') => {
            mapped.push(b'/');
            mapped.extend_from_slice(rest);
        }
        _ => mapped.extend_from_slice(rest),
    }
    mapped
}

/// Sends the request to another host: its URL and its Host field.
fn set_authority(request: &mut Request<'_>, value: &[u8]) -> Result<(), Error> {
    const WRONG: Error = Error::BadArgument(":authority is host or host:port");
    let text = std::str::from_utf8(value).map_err(|_| WRONG)?;
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control() || "/?#@".contains(c)) {
        return Err(WRONG);
    }
    let (host, port) = match text.rsplit_once(':') {
        // Colons inside brackets are an IPv6 address's own.
        Some((host, port)) if !port.contains(']') => (host, Some(port.parse::<u16>().map_err(|_| WRONG)?)),
        _ => (text, None),
    };
    {
        let mut url = request.url().ok_or_else(absent)?;
        url.set_host(host.as_bytes()).map_err(refused)?;
        url.set_port(port).map_err(refused)?;
    }
    request.set(b"Host", value).map_err(refused)
}

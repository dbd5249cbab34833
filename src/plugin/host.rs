//! The engine's view of an ATS transaction.
//!
//! What a filter reads of the request line is the client's: ATS has already put the rule's "to" URL into the request
//! when DoRemap runs, so `:path` and `:scheme` come from the pristine URL, and `:authority` from the Host field, which
//! ATS rewrites after DoRemap. What a filter writes to `:path` is in the client's terms too, and goes through the
//! rule's mapping; what it writes to `:authority` and `:scheme` is where the request goes.

use std::any::Any;
use std::cell::RefCell;

use ats::handle::TxnHandle;
use ats::headers::KnownField;
use ats::http::{Request, Response, reason_lookup};
use ats::messages::Messages;
use engine::abi::{Callback, MapType};
use engine::{Error, PseudoHeader, Stream, StreamHost};

use crate::framing::{Length, is_framing, is_length};
use crate::overlay::Overlay;
use crate::properties;

thread_local! {
    /// Hosts of streams that are over, for the next ones of this thread.
    #[allow(clippy::vec_box, reason = "the boxes are what is kept: the engine wants one")]
    static KEPT: RefCell<Vec<Box<TxnHost>>> = const { RefCell::new(Vec::new()) };
}

/// How many a thread keeps.
const KEPT_AT_MOST: usize = 256;

/// One transaction, for the engine. Retired by [`engine::Stream::finish`], in TXN_CLOSE.
#[derive(Default)]
pub(crate) struct TxnHost {
    /// There until the stream is over.
    txn: Option<TxnHandle>,
    /// What filters made of the request line, where they did.
    pub(crate) line: RequestLine,
    /// What filters say of the request body's length.
    pub(crate) request_length: Length,
    /// ATS has made the origin's request of the client's: what is written to the one is written to the other.
    pub(crate) late: bool,
    /// Where a response's head is now.
    pub(crate) response: ResponseView,
}

/// Where filters find the head of the response.
#[derive(Debug, Default)]
pub(crate) enum ResponseView {
    /// There is none yet.
    #[default]
    Absent,
    /// ATS's own, as the origin sent it and as the cache will keep it: in READ_RESPONSE_HDR.
    Origin,
    /// A copy, while a body passes that the client's head depends on.
    Early(Box<Overlay>),
    /// ATS's own, on its way to the client: from SEND_RESPONSE_HDR on.
    Client,
}

/// The plugin's host of a stream, and what `f` says of it. `None` while a callback of another context has it.
pub(crate) fn with_host<R>(stream: &mut Stream, f: impl FnOnce(&mut TxnHost) -> R) -> Option<R> {
    stream.with_host(|host| (host as &mut dyn Any).downcast_mut().map(f)).flatten()
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
    /// The host of a transaction: one that this thread kept, if there is one.
    pub(crate) fn new(txn: TxnHandle) -> Box<Self> {
        let kept = KEPT.with(|kept| kept.borrow_mut().pop());
        let mut host = kept.unwrap_or_default();
        host.txn = Some(txn);
        host
    }

    /// The transaction's messages, if there are any for this thread.
    fn messages(&mut self) -> Option<Messages<'_>> {
        self.txn.as_mut().and_then(TxnHandle::messages)
    }

    /// Panics on demand; see [`crate::fault`].
    pub(crate) fn inject(&mut self, callback: &str) {
        if let Some(mut messages) = self.messages() {
            crate::fault::inject_for(callback, &mut messages);
        }
    }

    /// What properties are read from: the messages, the request line as filters made it, and the response's place.
    pub(crate) fn parts(&mut self) -> Result<(Messages<'_>, &RequestLine, &ResponseView), Error> {
        let TxnHost { txn, line, response, .. } = self;
        Ok((messages_of(txn)?, line, response))
    }

    /// Makes the copy of the response on which filters work while its body is on its way, of so many bytes if known.
    /// Its status.
    pub(crate) fn begin_early(&mut self, body: Option<u64>) -> Option<u16> {
        let mut messages = self.messages()?;
        let overlay = Overlay::of(&messages.transform_resp_get()?, body);
        let status = overlay.status;
        self.response = ResponseView::Early(overlay);
        Some(status)
    }

    /// What filters say of the length of the response's body.
    pub(crate) fn response_length(&self) -> Length {
        match &self.response {
            ResponseView::Early(overlay) => overlay.length().clone(),
            _ => Length::Kept,
        }
    }

    /// Turns from the copy to the client's response, which gets what filters did to the copy.
    pub(crate) fn apply_early(&mut self) {
        let ResponseView::Early(overlay) = std::mem::replace(&mut self.response, ResponseView::Client) else { return };
        if let Some(mut messages) = self.messages()
            && let Some(mut head) = messages.client_resp_get()
            && let Err(error) = overlay.apply(&mut head)
        {
            crate::logs::tell(
                "a response that is incomplete",
                self.transaction_id(),
                format_args!("what filters did to a response is incomplete: {error}"),
            );
        }
        overlay.recycle();
    }

    /// Runs `run` on the fields of a map of ATS's.
    fn with_map<R>(
        &mut self,
        map: MapType,
        run: impl FnOnce(&mut ats::headers::HeaderMap<'_>) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let TxnHost { txn, response, .. } = self;
        let mut messages = messages_of(txn)?;
        match map {
            MapType::HttpRequestHeaders => run(&mut messages.client_req_get().ok_or_else(absent)?.headers_mut()),
            MapType::HttpResponseHeaders => run(&mut response_of(&mut messages, response)?.headers_mut()),
            _ => Err(absent()),
        }
    }

    /// Runs `change` on the fields of a map of ATS's, and on those that ATS has made of them.
    fn change(
        &mut self,
        map: MapType,
        change: impl Fn(&mut ats::headers::HeaderMap<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.with_map(map, &change)?;
        if self.late
            && map == MapType::HttpRequestHeaders
            && let Some(mut request) = self.messages().as_mut().and_then(Messages::server_req_get)
        {
            change(&mut request.headers_mut())?;
        }
        Ok(())
    }

    /// The copy of the response, if that is what filters see of it now.
    fn early(&mut self, map: MapType) -> Option<&mut Overlay> {
        match &mut self.response {
            ResponseView::Early(overlay) if map == MapType::HttpResponseHeaders => Some(overlay),
            _ => None,
        }
    }

    /// Takes note of a write to a field that is ATS's to write. True if it was one, and must go no further.
    fn note_framing(&mut self, map: MapType, name: &[u8], value: Option<&[u8]>) -> bool {
        if !is_framing(name) {
            return false;
        }
        if map == MapType::HttpRequestHeaders && is_length(name) {
            self.request_length = value.map_or(Length::Removed, |value| Length::Set(value.to_vec()));
        }
        true
    }
}

/// The messages of a host's transaction.
fn messages_of(txn: &mut Option<TxnHandle>) -> Result<Messages<'_>, Error> {
    txn.as_mut().and_then(TxnHandle::messages).ok_or_else(absent)
}

/// The response where `view` says that it is.
pub(crate) fn response_of<'m>(messages: &'m mut Messages<'_>, view: &ResponseView) -> Result<Response<'m>, Error> {
    let response = match view {
        ResponseView::Client => messages.client_resp_get(),
        ResponseView::Origin => messages.server_resp_get(),
        ResponseView::Absent | ResponseView::Early(_) => None,
    };
    response.ok_or_else(absent)
}

impl StreamHost for TxnHost {
    fn transaction_id(&self) -> Option<u64> {
        self.txn.as_ref().and_then(TxnHandle::id)
    }

    fn retire(mut self: Box<Self>) {
        *self = TxnHost::default();
        // A thread that ends keeps nothing.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_AT_MOST {
                kept.push(self);
            }
        });
    }

    fn begin(&mut self, _callback: Callback) {}

    fn header(&mut self, map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        crate::fault::inject_in_hostcall(self.txn.as_mut());
        if let Some(overlay) = self.early(map) {
            out.extend_from_slice(overlay.first(name).ok_or_else(absent)?);
            return Ok(());
        }
        if map == MapType::HttpRequestHeaders && self.request_length != Length::Kept && is_length(name) {
            let Length::Set(value) = &self.request_length else { return Err(absent()) };
            out.extend_from_slice(value);
            return Ok(());
        }
        self.with_map(map, |fields| {
            out.extend_from_slice(fields.get_first(name).ok_or_else(absent)?);
            Ok(())
        })
    }

    fn headers(&mut self, map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        if let Some(overlay) = self.early(map) {
            overlay.fields().for_each(|(name, value)| visit(name, value));
            return Ok(());
        }
        let length = if map == MapType::HttpRequestHeaders { self.request_length.clone() } else { Length::Kept };
        self.with_map(map, |fields| {
            fields.for_each(|name, value| {
                // Fields that begin with '@' are ATS's own and never on the wire.
                if name.first() != Some(&b'@') && (length == Length::Kept || !is_length(name)) {
                    visit(name, value);
                }
            });
            Ok(())
        })?;
        if let Length::Set(value) = &length {
            visit(b"Content-Length", value);
        }
        Ok(())
    }

    fn header_count(&mut self, map: MapType) -> Result<usize, Error> {
        if let Some(overlay) = self.early(map) {
            return Ok(overlay.fields().len());
        }
        self.with_map(map, |fields| Ok(fields.len()))
    }

    fn add_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        if let Some(overlay) = self.early(map) {
            overlay.add(name, value);
            return Ok(());
        }
        if self.note_framing(map, name, Some(value)) {
            return Ok(());
        }
        self.change(map, |fields| fields.append(name, value).map_err(refused))
    }

    fn set_header(&mut self, map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        if let Some(overlay) = self.early(map) {
            overlay.set(name, value);
            return Ok(());
        }
        if self.note_framing(map, name, Some(value)) {
            return Ok(());
        }
        self.change(map, |fields| fields.set(name, value).map_err(refused))
    }

    fn remove_header(&mut self, map: MapType, name: &[u8]) -> Result<(), Error> {
        if let Some(overlay) = self.early(map) {
            overlay.remove(name);
            return Ok(());
        }
        if self.note_framing(map, name, None) {
            return Ok(());
        }
        self.change(map, |fields| fields.remove(name).map(drop).map_err(refused))
    }

    fn clear_headers(&mut self, map: MapType) -> Result<(), Error> {
        if let Some(overlay) = self.early(map) {
            overlay.clear();
            return Ok(());
        }
        if map == MapType::HttpRequestHeaders {
            self.request_length = Length::Removed;
        }
        self.change(map, |fields| {
            // Not by `clear`: what frames the message stays.
            let mut names: Vec<Vec<u8>> = Vec::with_capacity(fields.len());
            fields.for_each(|name, _| {
                if name.first() != Some(&b'@') && !is_framing(name) {
                    names.push(name.to_vec());
                }
            });
            names.iter().try_for_each(|name| fields.remove(name).map(drop)).map_err(refused)
        })
    }

    fn pseudo_header(&mut self, pseudo: PseudoHeader, out: &mut Vec<u8>) -> Result<(), Error> {
        let TxnHost { txn, line, response, .. } = self;
        let mut messages = messages_of(txn)?;
        read_pseudo(&mut messages, line, response, pseudo, out)
    }

    fn set_pseudo_header(&mut self, pseudo: PseudoHeader, value: &[u8]) -> Result<(), Error> {
        let TxnHost { txn, line, response, .. } = self;
        let mut messages = messages_of(txn)?;
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
            PseudoHeader::Status => {
                let status = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u16>().ok());
                let status = status
                    .filter(|status| (200..=999).contains(status))
                    .ok_or_else(|| Error::BadArgument(":status"))?;
                if let ResponseView::Early(overlay) = response {
                    overlay.set_status(status);
                    return Ok(());
                }
                let mut response = response_of(&mut messages, response)?;
                response.set_status(status).map_err(refused)?;
                response.set_reason(reason_lookup(status)).map_err(refused)
            }
        }
    }

    fn property(&mut self, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        properties::read(self, path, out)
    }

    fn set_property(&mut self, path: &[u8], value: &[u8]) -> Result<(), Error> {
        properties::write(self, path, value)
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
    response: &ResponseView,
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
                out.extend_from_slice(request.get_known(KnownField::Host).ok_or_else(absent)?);
            }
        }
        (PseudoHeader::Scheme, _) => {
            out.extend_from_slice(messages.pristine_url_get().ok_or_else(absent)?.scheme());
        }
        (PseudoHeader::Status, _) => {
            let status = match response {
                ResponseView::Early(overlay) => overlay.status,
                view => response_of(messages, view)?.status(),
            };
            out.extend_from_slice(status.to_string().as_bytes());
        }
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
    // ATS copies a Host into a buffer of 1,025 bytes when it follows a redirect, and does not look at its length.
    if text.len() > 255 {
        return Err(WRONG);
    }
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

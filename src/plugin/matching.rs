//! A request as the conditions of `match` see it: in DoRemap, before any filter, and read from where ATS has it.

use std::cell::OnceCell;
use std::net::IpAddr;

use ats::headers::KnownField;
use ats::http::RequestRef;
use ats::remap::RemapRequest;
use ats::url::UrlRef;
use engine::{RequestView, host_and_port};

/// A request, of which nothing is looked at before a condition asks for it.
pub(crate) struct View<'r, 'q> {
    request: &'r RemapRequest<'q>,
    head: OnceCell<Option<RequestRef<'r>>>,
    url: OnceCell<Option<UrlRef<'r>>>,
}

impl<'r, 'q> View<'r, 'q> {
    pub(crate) fn new(request: &'r RemapRequest<'q>) -> Self {
        View { request, head: OnceCell::new(), url: OnceCell::new() }
    }

    fn head(&self) -> Option<&RequestRef<'r>> {
        self.head.get_or_init(|| self.request.request_ref()).as_ref()
    }

    /// The client's own URL: the rule's "to" URL is in the request already.
    fn url(&self) -> Option<UrlRef<'r>> {
        *self.url.get_or_init(|| self.request.pristine_url())
    }
}

impl RequestView for View<'_, '_> {
    fn method(&self) -> &[u8] {
        self.head().map_or(b"", |head| head.method())
    }

    fn scheme(&self) -> &[u8] {
        self.url().map_or(b"", |url| url.scheme())
    }

    fn host(&self) -> (&[u8], u16) {
        let port = self.url().map_or(0, |url| url.port());
        match self.url().map(|url| url.host()) {
            Some(host) if !host.is_empty() => (host, port),
            _ => {
                let field = self.head().and_then(|head| head.get_known(KnownField::Host)).unwrap_or_default();
                host_and_port(field, port)
            }
        }
    }

    fn path(&self) -> [&[u8]; 4] {
        let Some(url) = self.url() else { return [b"/", b"", b"", b""] };
        // As in `UrlRef::write_path_and_query`, which is what filters read of it.
        let params = url.params();
        [b"/", url.path(), if params.is_empty() { b"" } else { b";" }, params]
    }

    fn query(&self) -> &[u8] {
        self.url().map_or(b"", |url| url.query())
    }

    fn header(&self, name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
        self.head().is_some_and(|head| head.values(name.as_bytes()).any(visit))
    }

    fn client(&self) -> Option<IpAddr> {
        self.request.txn().client_addr().map(|address| address.ip())
    }

    fn is_internal(&self) -> bool {
        self.request.txn().is_internal()
    }
}

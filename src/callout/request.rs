//! From a filter's pairs to a request that can be sent: checked on the caller's thread, framed for either version.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use super::failure::Refused;
use super::settings::Protocol;

/// Names and values, in order. Pseudo-headers begin with a colon.
pub type Pairs = Vec<(Bytes, Bytes)>;

/// A request, as a filter gives it.
#[derive(Clone, Debug, Default)]
pub struct HttpRequest {
    /// With `:method`, `:path` and `:authority`; `:scheme` is by default what the connection is.
    pub headers: Pairs,
    /// The body; empty is none.
    pub body: Bytes,
    /// Sent behind the body.
    pub trailers: Pairs,
}

/// A request that can be sent, as often as needed.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    uri: Uri,
    /// Framed for the cluster's protocol.
    headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
    protocol: Protocol,
}

fn bad(what: impl Into<String>) -> Refused {
    Refused::BadRequest(what.into())
}

fn show(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).escape_debug().collect()
}

/// The pseudo-headers and the rest of some pairs.
#[derive(Default)]
pub(crate) struct Parsed {
    pub(crate) method: Option<Bytes>,
    pub(crate) path: Option<Bytes>,
    pub(crate) authority: Option<Bytes>,
    pub(crate) scheme: Option<Bytes>,
    pub(crate) headers: HeaderMap,
}

impl Parsed {
    pub(crate) fn new(pairs: Pairs) -> Result<Parsed, Refused> {
        let mut parsed = Parsed { headers: HeaderMap::with_capacity(pairs.len() + 2), ..Parsed::default() };
        for (name, value) in pairs {
            if name.first() == Some(&b':') {
                let place = match &name[..] {
                    b":method" => &mut parsed.method,
                    b":path" => &mut parsed.path,
                    b":authority" => &mut parsed.authority,
                    b":scheme" => &mut parsed.scheme,
                    _ => return Err(bad(format!("`{}` is no pseudo-header of a request", show(&name)))),
                };
                if place.replace(value).is_some() {
                    return Err(bad(format!("`{}` is given twice", show(&name))));
                }
                continue;
            }
            let (name, value) = field(&name, value)?;
            parsed.headers.append(name, value);
        }
        Ok(parsed)
    }
}

fn field(name: &Bytes, value: Bytes) -> Result<(HeaderName, HeaderValue), Refused> {
    let name = HeaderName::from_bytes(name).map_err(|_| bad(format!("`{}` is no name of a header", show(name))))?;
    let value = HeaderValue::from_maybe_shared(value)
        .map_err(|_| bad(format!("the value of header `{name}` has characters that no header may have")))?;
    Ok((name, value))
}

fn authority(value: Bytes) -> Result<Authority, Refused> {
    let text = show(&value);
    Authority::from_maybe_shared(value).map_err(|_| bad(format!("`{text}` cannot be an :authority")))
}

/// Takes out what belongs to one connection, and what is said anew: RFC 9110, 7.6.1.
fn strip(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed {
        headers.remove(name);
    }
    const HOP: [HeaderName; 6] = [
        header::CONNECTION,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::CONTENT_LENGTH,
        header::HOST,
        header::TRAILER,
    ];
    for name in HOP {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if headers.contains_key(header::TE) {
        let trailers = headers.get_all(header::TE).iter().any(|value| {
            let tokens = value.to_str().unwrap_or_default().split(',');
            tokens.map(str::trim).any(|token| token.eq_ignore_ascii_case("trailers"))
        });
        headers.remove(header::TE);
        if trailers {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
    }
}

impl Outgoing {
    pub(crate) fn new(request: HttpRequest, protocol: Protocol, tls: bool) -> Result<Outgoing, Refused> {
        let parsed = Parsed::new(request.headers)?;
        let method = parsed.method.ok_or_else(|| bad("there is no :method"))?;
        let method =
            Method::from_bytes(&method).map_err(|_| bad(format!("`{}` cannot be a :method", show(&method))))?;
        if method == Method::CONNECT {
            return Err(bad("CONNECT asks for a tunnel, which a call is not"));
        }
        let path = parsed.path.ok_or_else(|| bad("there is no :path"))?;
        if path.first() != Some(&b'/') && !(method == Method::OPTIONS && &path[..] == b"*") {
            return Err(bad(format!("the :path `{}` does not begin with /", show(&path))));
        }
        let text = show(&path);
        let path = PathAndQuery::from_maybe_shared(path).map_err(|_| bad(format!("`{text}` cannot be a :path")))?;
        let authority = authority(parsed.authority.ok_or_else(|| bad("there is no :authority"))?)?;
        let scheme = match parsed.scheme.as_deref() {
            None if tls => Scheme::HTTPS,
            None => Scheme::HTTP,
            Some(b"https") => Scheme::HTTPS,
            Some(b"http") => Scheme::HTTP,
            Some(other) => return Err(bad(format!("`{}` is neither of the schemes http and https", show(other)))),
        };
        let mut trailers = HeaderMap::new();
        for (name, value) in request.trailers {
            let (name, value) = field(&name, value)?;
            trailers.append(name, value);
        }
        let mut headers = parsed.headers;
        strip(&mut headers);
        strip(&mut trailers);
        let (method, body) = (method, request.body);
        if trailers.is_empty() {
            // An upload without a body says so; other methods have none unless they say so.
            if !body.is_empty() || matches!(method, Method::POST | Method::PUT | Method::PATCH) {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
            }
        } else if protocol == Protocol::Http1 {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            // hyper sends those that are announced.
            for name in trailers.keys() {
                headers.append(header::TRAILER, HeaderValue::from(name.clone()));
            }
        }
        let uri = match protocol {
            Protocol::Http1 => {
                let host = HeaderValue::from_str(authority.as_str());
                headers.insert(header::HOST, host.map_err(|_| bad("the :authority cannot be sent as Host"))?);
                Uri::from(path)
            }
            Protocol::Http2 => absolute(scheme, authority, path)?,
        };
        Ok(Outgoing { method, uri, headers, body, trailers, protocol })
    }

    /// The request of a gRPC stream.
    pub(crate) fn grpc(
        service: &Bytes,
        method: &Bytes,
        metadata: Pairs,
        default_authority: &str,
        tls: bool,
    ) -> Result<Outgoing, Refused> {
        let parsed = Parsed::new(metadata)?;
        if parsed.method.is_some() || parsed.path.is_some() || parsed.scheme.is_some() {
            return Err(bad("of the pseudo-headers, metadata of gRPC may hold :authority alone"));
        }
        for (what, name) in [("service", service), ("method", method)] {
            let usual = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            if name.is_empty() || !name.iter().all(usual) {
                return Err(bad(format!("`{}` is no name of a gRPC {what}", show(name))));
            }
        }
        let path = PathAndQuery::from_maybe_shared(Bytes::from([b"/", &service[..], b"/", &method[..]].concat()));
        let path = path.map_err(|_| bad("the service and the method make no path"))?;
        let given = parsed.authority.unwrap_or_else(|| Bytes::copy_from_slice(default_authority.as_bytes()));
        let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = absolute(scheme, authority(given)?, path)?;
        let mut headers = parsed.headers;
        strip(&mut headers);
        headers.remove("grpc-timeout");
        // What the peer may compress with, or what is compressed: nothing.
        headers.remove("grpc-encoding");
        headers.remove("grpc-accept-encoding");
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        let typed = headers.get(header::CONTENT_TYPE);
        if !typed.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc")) {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        }
        let (method, trailers) = (Method::POST, HeaderMap::new());
        Ok(Outgoing { method, uri, headers, body: Bytes::new(), trailers, protocol: Protocol::Http2 })
    }

    /// Everything but the body.
    pub(crate) fn head<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        *request.version_mut() = match self.protocol {
            Protocol::Http1 => Version::HTTP_11,
            Protocol::Http2 => Version::HTTP_2,
        };
        request
    }

    /// Whether sending it twice is as good as once: RFC 9110, 9.2.2.
    pub(crate) fn idempotent(&self) -> bool {
        self.method.is_idempotent()
    }
}

fn absolute(scheme: Scheme, authority: Authority, path: PathAndQuery) -> Result<Uri, Refused> {
    let built = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    built.map_err(|error| bad(format!(":scheme, :authority and :path make no URL: {error}")))
}

/// Headers as pairs, the values of a name together and in their order.
pub(crate) fn pairs(status: Option<http::StatusCode>, headers: &HeaderMap) -> Pairs {
    let mut pairs = Vec::with_capacity(headers.len() + 1);
    if let Some(status) = status {
        pairs.push((Bytes::from_static(b":status"), Bytes::copy_from_slice(status.as_str().as_bytes())));
    }
    let copy = |value: &HeaderValue| Bytes::copy_from_slice(value.as_bytes());
    pairs.extend(headers.iter().map(|(name, value)| (Bytes::copy_from_slice(name.as_str().as_bytes()), copy(value))));
    pairs
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;

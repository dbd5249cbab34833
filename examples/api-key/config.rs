//! The configuration and the decision that it leads to; no hostcall is made here.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// The body of the answer to a request that is refused.
pub(crate) const REFUSAL: &[u8] = b"{\"error\":\"missing or unknown API key\"}\n";

/// The configuration as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    keys: BTreeMap<String, String>,
    #[serde(default = "default_header")]
    header: String,
    #[serde(default)]
    query: Option<String>,
    #[serde(default = "default_client_header")]
    client_header: String,
    #[serde(default)]
    forward_key: bool,
    #[serde(default = "default_realm")]
    realm: String,
    #[serde(default)]
    exempt: Vec<String>,
}

fn default_header() -> String {
    "x-api-key".to_owned()
}

fn default_client_header() -> String {
    "x-api-client".to_owned()
}

fn default_realm() -> String {
    "api".to_owned()
}

/// The configuration as the transactions use it.
#[derive(Debug)]
pub(crate) struct Config {
    /// Key and client name.
    keys: Vec<(Box<[u8]>, Box<str>)>,
    /// The request header that holds the key.
    pub(crate) header: String,
    /// The query parameter that may hold it instead.
    query: Option<String>,
    /// The request header that tells the origin who the client is.
    pub(crate) client_header: String,
    /// Whether the origin sees the key.
    pub(crate) forward_key: bool,
    /// The value of `www-authenticate`.
    pub(crate) challenge: String,
    exempt: Vec<String>,
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict<'a> {
    /// Its path needs no key.
    Exempt,
    /// It presented the key of this client.
    Known(&'a str),
    /// It presented no key, or one that nobody has.
    Refused,
}

impl Config {
    /// Reads the JSON that the host hands over.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        if json.is_empty() {
            return Err("configuration: missing; expected `keys`".to_owned());
        }
        let mut json = serde_json::Deserializer::from_slice(json);
        let written: Written = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            // A path below `keys` holds a key, which has no place in a log.
            let path = match error.path().to_string() {
                path if path == "." => String::new(),
                path if path.starts_with("keys.") => "keys.<key>: ".to_owned(),
                path => format!("{path}: "),
            };
            // serde_json counts lines of the JSON, which the user never sees.
            let reason = error.into_inner().to_string();
            let reason = reason.split(" at line ").next().unwrap_or_default();
            format!("configuration: {path}{reason}")
        })?;
        json.end().map_err(|_| "configuration: more than one JSON value".to_owned())?;
        written.check()
    }

    /// Whether a decision needs the request's path.
    pub(crate) fn reads_path(&self) -> bool {
        self.query.is_some() || !self.exempt.is_empty()
    }

    /// Decides by the value of the key header, if there is one, and by the path with its query. A header that is
    /// present is the one that counts, so that no query can stand in for a wrong header.
    pub(crate) fn decide(&self, header: Option<&[u8]>, path: &[u8]) -> Verdict<'_> {
        let (bare, query) = split(path);
        if self.is_exempt(bare) {
            return Verdict::Exempt;
        }
        let presented = match (header, &self.query) {
            (Some(key), _) => Some(Cow::Borrowed(key)),
            (None, Some(parameter)) => query.and_then(|query| parameter_value(query, parameter)),
            (None, None) => None,
        };
        presented.and_then(|key| self.client(&key)).map_or(Verdict::Refused, Verdict::Known)
    }

    /// The path with the key's parameter taken out of the query, if it was there.
    pub(crate) fn path_without_key(&self, path: &[u8]) -> Option<Vec<u8>> {
        let parameter = self.query.as_deref()?;
        let (bare, query) = split(path);
        let query = query?;
        parameter_value(query, parameter)?;
        let mut path = bare.to_vec();
        let mut separator = b'?';
        for piece in query.split(|byte| *byte == b'&') {
            // The rest stays as the client wrote it, byte for byte.
            if form_urlencoded::parse(piece).any(|(name, _)| name == parameter) {
                continue;
            }
            path.push(separator);
            path.extend_from_slice(piece);
            separator = b'&';
        }
        Some(path)
    }

    /// Compares with every key there is, in a time that tells nothing of how much of one was right.
    fn client(&self, presented: &[u8]) -> Option<&str> {
        let mut found = 0_u32;
        for (number, (key, _)) in (1_u32..).zip(&self.keys) {
            found.conditional_assign(&number, key.ct_eq(presented));
        }
        let index = usize::try_from(found.checked_sub(1)?).ok()?;
        self.keys.get(index).map(|(_, client)| &**client)
    }

    /// A prefix covers itself and what lies below it. A path that an origin may read as another one
    /// (`/public/../admin`) is never exempt.
    fn is_exempt(&self, path: &[u8]) -> bool {
        if self.exempt.is_empty() || is_ambiguous(path) {
            return false;
        }
        self.exempt.iter().any(|prefix| {
            path.strip_prefix(prefix.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/") || prefix.ends_with('/'))
        })
    }
}

impl Written {
    fn check(self) -> Result<Config, String> {
        let fail = |key: &str, reason: &str| Err(format!("configuration: {key}: {reason}"));
        if self.keys.is_empty() {
            return fail("keys", "at least one is needed");
        }
        for (key, client) in &self.keys {
            if key.is_empty() {
                return fail("keys", "an empty key lets everybody in");
            }
            if key.bytes().any(|byte| byte.is_ascii_control()) || key.trim() != key {
                return fail("keys", "a key with control characters or outer spaces fits in no header");
            }
            if client.is_empty() || client.bytes().any(|byte| byte.is_ascii_control()) {
                return fail("keys.<key>", "expected a client name for a header value");
            }
        }
        for (name, header) in [("header", &self.header), ("client_header", &self.client_header)] {
            if !is_token(header) {
                return fail(name, &format!("{header:?} is not a header name"));
            }
        }
        if self.header.eq_ignore_ascii_case(&self.client_header) {
            return fail("client_header", "is the same as `header`");
        }
        if self.query.as_deref() == Some("") {
            return fail("query", "expected the name of a parameter");
        }
        if self.realm.bytes().any(|byte| byte.is_ascii_control() || byte == b'"' || byte == b'\\') {
            return fail("realm", "holds a quote, a backslash or a control character");
        }
        if let Some(prefix) = self.exempt.iter().find(|prefix| !prefix.starts_with('/')) {
            return fail("exempt", &format!("{prefix:?} does not begin with `/`"));
        }
        if let Some(prefix) = self.exempt.iter().find(|p| is_ambiguous(p.as_bytes())) {
            return fail("exempt", &format!("{prefix:?} can be read as another path"));
        }
        Ok(Config {
            keys: self.keys.into_iter().map(|(key, client)| (key.into_bytes().into(), client.into())).collect(),
            header: self.header.to_ascii_lowercase(),
            query: self.query,
            client_header: self.client_header.to_ascii_lowercase(),
            forward_key: self.forward_key,
            challenge: format!("ApiKey realm=\"{}\"", self.realm),
            exempt: self.exempt,
        })
    }
}

/// The path, and the query if there is one.
fn split(path: &[u8]) -> (&[u8], Option<&[u8]>) {
    match path.iter().position(|byte| *byte == b'?') {
        Some(at) => (&path[..at], Some(&path[at + 1..])),
        None => (path, None),
    }
}

/// The first parameter of this name, decoded.
fn parameter_value<'a>(query: &'a [u8], name: &str) -> Option<Cow<'a, [u8]>> {
    form_urlencoded::parse(query).find(|(key, _)| key == name).map(|(_, value)| match value {
        Cow::Borrowed(value) => Cow::Borrowed(value.as_bytes()),
        Cow::Owned(value) => Cow::Owned(value.into_bytes()),
    })
}

/// Whether a server may resolve this path to another: dot segments, with parameters (`..;x`) or without, empty
/// segments, backslashes, and the escaped forms of these.
fn is_ambiguous(path: &[u8]) -> bool {
    let dots = path.split(|byte| *byte == b'/').any(|segment| {
        let name = segment.split(|byte| *byte == b';').next();
        matches!(name, Some(b"." | b".."))
    });
    let empty = path.windows(2).any(|pair| pair == b"//");
    let escaped = path.windows(3).any(|escape| {
        escape[0] == b'%' && matches!(&escape[1..].to_ascii_lowercase()[..], b"2e" | b"2f" | b"5c" | b"25" | b"00")
    });
    dots || empty || escaped || path.contains(&b'\\')
}

/// A field name is a token of RFC 9110 §5.6.2.
fn is_token(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Config {
        Config::parse(json.as_bytes()).unwrap()
    }

    fn full() -> Config {
        config(
            r#"{
                "keys": {"k-alice": "alice", "k-bob": "bob"},
                "query": "api_key",
                "exempt": ["/health", "/public/", "/.well-known/"]
            }"#,
        )
    }

    #[test]
    fn fills_in_the_defaults() {
        let config = config(r#"{"keys": {"k": "c"}}"#);
        assert_eq!(config.header, "x-api-key");
        assert_eq!(config.client_header, "x-api-client");
        assert_eq!(config.challenge, "ApiKey realm=\"api\"");
        assert!(!config.forward_key);
        assert!(!config.reads_path());
    }

    #[test]
    fn knows_a_key_from_the_header() {
        let config = full();
        for (key, verdict) in [
            (Some("k-alice"), Verdict::Known("alice")),
            (Some("k-bob"), Verdict::Known("bob")),
            (Some("k-carol"), Verdict::Refused),
            (Some("k-alic"), Verdict::Refused),
            (Some("k-alicee"), Verdict::Refused),
            (Some(""), Verdict::Refused),
            (None, Verdict::Refused),
        ] {
            assert_eq!(config.decide(key.map(str::as_bytes), b"/x"), verdict, "{key:?}");
        }
        assert_eq!(config.decide(Some(b"\xff"), b"/x"), Verdict::Refused);
    }

    #[test]
    fn knows_a_key_from_the_query_only_where_no_header_is() {
        let config = full();
        for (header, path, verdict) in [
            (None, "/x?api_key=k-bob", Verdict::Known("bob")),
            (None, "/x?a=1&api%5Fkey=k%2Dbob&b", Verdict::Known("bob")),
            (None, "/x?api_key=k-bob&api_key=no", Verdict::Known("bob")),
            (None, "/x?api_key=no&api_key=k-bob", Verdict::Refused),
            (None, "/x?API_KEY=k-bob", Verdict::Refused),
            (None, "/x?api_key", Verdict::Refused),
            (None, "/x?", Verdict::Refused),
            (Some(&b"no"[..]), "/x?api_key=k-bob", Verdict::Refused),
        ] {
            assert_eq!(config.decide(header, path.as_bytes()), verdict, "{path}");
        }
    }

    #[test]
    fn takes_the_key_out_of_the_query() {
        let config = full();
        for (path, expected) in [
            ("/x?api_key=k", Some("/x")),
            ("/x?a=1&api_key=k&b=%2f", Some("/x?a=1&b=%2f")),
            ("/x?api_key=k&api%5fkey=l&a", Some("/x?a")),
            ("/x?a=1", None),
            ("/x", None),
        ] {
            assert_eq!(
                config.path_without_key(path.as_bytes()),
                expected.map(|path| path.as_bytes().to_vec()),
                "{path}"
            );
        }
    }

    #[test]
    fn exempts_whole_segments_and_nothing_ambiguous() {
        let config = full();
        for path in [
            "/health",
            "/health?x=/../",
            "/health/live",
            "/public/",
            "/public/a.css",
            "/public/a.b/%20",
            "/public/a..b/...",
            "/.well-known/acme",
        ] {
            assert_eq!(config.decide(None, path.as_bytes()), Verdict::Exempt, "{path}");
        }
        for path in [
            "/",
            "",
            "/healthy",
            "/public",
            "/Health",
            "/x/health",
            "/public/../admin",
            "/public/..;/admin",
            "/public/%2e%2E/admin",
            "/public/%2E./admin",
            "/public/..%2fadmin",
            "/public/.%5cadmin",
            "/public/..\\admin",
            "/public//admin",
            "/public/%252e%252e/admin",
            "/public/./x",
            "/public/.;a=b/x",
            "/public/..",
        ] {
            assert_eq!(config.decide(None, path.as_bytes()), Verdict::Refused, "{path}");
        }
    }

    #[test]
    fn names_what_is_wrong_and_no_key() {
        for (json, expected) in [
            ("", "configuration: missing; expected `keys`"),
            ("{}", "configuration: missing field `keys`"),
            (r#"{"keys": {}}"#, "configuration: keys: at least one"),
            (r#"{"keys": {"": "a"}}"#, "configuration: keys: an empty key"),
            (r#"{"keys": {"secret ": "a"}}"#, "configuration: keys: a key with"),
            (r#"{"keys": {"secret": 1}}"#, "configuration: keys.<key>: invalid type: integer `1`, expected a string"),
            (r#"{"keys": {"secret": ""}}"#, "configuration: keys.<key>: expected a client name"),
            (r#"{"key": {"secret": "a"}}"#, "configuration: key: unknown field `key`, expected one of `keys`"),
            (r#"{"keys": {"secret": "a"}, "header": "x y"}"#, "configuration: header: \"x y\" is not"),
            (r#"{"keys": {"secret": "a"}, "header": "X-Api-Client"}"#, "configuration: client_header: is the same"),
            (r#"{"keys": {"secret": "a"}, "query": ""}"#, "configuration: query: expected"),
            (r#"{"keys": {"secret": "a"}, "realm": "a\"b"}"#, "configuration: realm: holds a quote"),
            (r#"{"keys": {"secret": "a"}, "forward_key": "no"}"#, "configuration: forward_key: invalid type"),
            (r#"{"keys": {"secret": "a"}, "exempt": ["health"]}"#, "configuration: exempt: \"health\" does not begin"),
            (r#"{"keys": {"secret": "a"}, "exempt": ["/a/../b"]}"#, "configuration: exempt: \"/a/../b\" can be read"),
        ] {
            let error = Config::parse(json.as_bytes()).unwrap_err();
            assert!(error.starts_with(expected), "{json}\n  gave     {error}\n  expected {expected}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}

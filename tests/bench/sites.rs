//! The servers that are compared: alike but for the plugin of one rule.
//!
//! All have the same records and the same two rules (`work.test` with the plugin, `bare.test` with none, over HTTP and,
//! where that is asked for, over TLS), and the same origin. Where a plugin changes responses, it does so as the response
//! is sent to the client, so that every cache hit pays for it. What plugins of different makes do for one work, the
//! client cannot tell apart; [`Variant::prove`](crate::variants::Variant::prove) makes sure of it.

use wasm_remap_tests::{Builder, Origin, Reply, Request, Rule, TrafficServer};

/// The object that is asked for, and kept by the cache.
pub(crate) const OBJECT: &str = "/object";
/// One that no cache may keep.
pub(crate) const FRESH: &str = "/fresh";
/// One that the origin does not have, which the cache keeps in mind.
pub(crate) const MISSING: &str = "/missing";
/// One that says what the origin learnt of the client, in [`CLIENT_SEEN`] and [`KEY_SEEN`].
pub(crate) const WHO: &str = "/who";
pub(crate) const CLIENT_SEEN: &str = "x-client-seen";
pub(crate) const KEY_SEEN: &str = "x-key-seen";
/// The field that the plugins add.
pub(crate) const FIELD: &str = "x-bench";
/// The rule that a server's plugin is on.
pub(crate) const WORK: &str = "work.test";
/// The rule that has none.
pub(crate) const BARE: &str = "bare.test";

/// What a server's rule for [`WORK`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// Nothing.
    Plain,
    /// Nothing, in a process of its own.
    Control,
    /// header_rewrite.
    HeaderRewrite(Work),
    /// A Lua script.
    Lua(Work),
    /// A filter of ours.
    Ours(Work),
    /// This many `headers` filters, each of which sets one response header.
    Chain(usize),
    /// A `headers` filter whose `match` holds for all that is asked.
    Matched,
    /// A `headers` filter that takes part in no request that is asked.
    LeftOut,
    /// The filter of the micro-benchmark: reads one request header, adds another.
    BenchHeaders,
}

/// What a plugin does, whoever made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Sets one response header.
    Header,
    /// Wants an API key: the origin learns whose it is, and without one the answer is 401.
    ApiKey,
    /// Makes of a 404 a redirect to [`OBJECT`].
    Missing,
}

impl Site {
    /// The module that Traffic Server's installation must have.
    pub(crate) fn module(self) -> Option<&'static str> {
        match self {
            Site::HeaderRewrite(_) => Some("header_rewrite.so"),
            Site::Lua(_) => Some("tslua.so"),
            _ => None,
        }
    }

    /// The server, not started yet.
    pub(crate) fn builder(self, origin: &Origin) -> Builder {
        self.build(origin, false)
    }

    /// The same, with the rules for requests over TLS, too.
    pub(crate) fn builder_tls(self, origin: &Origin) -> Builder {
        self.build(origin, true)
    }

    fn build(self, origin: &Origin, tls: bool) -> Builder {
        let rule = Rule::new(WORK, "http://{origin}/");
        let builder = TrafficServer::builder().origin(origin).threads(1);
        let (rule, builder) = match self {
            Site::Plain | Site::Control => (rule, builder),
            Site::HeaderRewrite(work) => {
                (rule.plugin("header_rewrite.so", ["bench.conf"]), builder.file("bench.conf", &work.header_rewrite()))
            }
            Site::Lua(work) => (rule.plugin("tslua.so", ["{etc}/bench.lua"]), builder.file("bench.lua", work.lua())),
            _ => (rule.wasm(["bench.yaml"]), builder.file("bench.yaml", &format!("filters:\n{}", self.filters()))),
        };
        let bare = Rule::new(BARE, "http://{origin}/");
        let builder = builder.rule(rule.clone()).rule(bare.clone());
        let builder = if tls { builder.tls().rule(rule.tls()).rule(bare.tls()) } else { builder };
        builder
            // Ten minutes instead of the harness's tenth of a second. As installed it is every few seconds, on the
            // event thread: some 90 million instructions that fall into one turn and not into the next.
            .record("proxy.config.config_update_interval_ms", 600_000)
            .record("proxy.config.raw_stat_sync_interval_ms", 600_000)
            .record("proxy.config.remote_sync_interval_ms", 600_000)
            // A connection serves a whole round.
            .record("proxy.config.http.keep_alive_no_activity_timeout_in", 600)
            .record("proxy.config.http2.no_activity_timeout_in", 600)
            .record("proxy.config.log.logging_enabled", 0)
            // A 404 comes from the cache as any other answer does.
            .record("proxy.config.http.negative_caching_enabled", 1)
    }

    /// The filters of our file.
    fn filters(self) -> String {
        match self {
            Site::Chain(count) => (0..count).map(headers_filter).collect(),
            Site::Matched => headers_filter(0) + "    match: {path: {prefix: /obj}}\n",
            Site::LeftOut => headers_filter(0) + "    match: {path: {prefix: /never}}\n",
            Site::BenchHeaders => filter("bench-headers", ""),
            Site::Ours(Work::Header) => headers_filter(0),
            Site::Ours(Work::ApiKey) => filter("api-key", "    configuration: {keys: {sesame: alice}}\n"),
            Site::Ours(Work::Missing) => filter("redirect-missing", ""),
            Site::Plain | Site::Control | Site::HeaderRewrite(_) | Site::Lua(_) => String::new(),
        }
    }

    /// Whether it wants an API key.
    pub(crate) fn checks_keys(self) -> bool {
        matches!(self, Site::HeaderRewrite(Work::ApiKey) | Site::Lua(Work::ApiKey) | Site::Ours(Work::ApiKey))
    }

    /// Whether our plugin is on the rule.
    pub(crate) fn is_ours(self) -> bool {
        !self.filters().is_empty()
    }
}

/// The origin: small objects of which one may be kept and one may not, and one that is missing.
pub(crate) fn origin() -> Origin {
    let origin = Origin::start();
    origin.discard();
    let reply = |status| Reply::new(status).header("Content-Type", "text/plain").body(vec![b'x'; 100]);
    origin.route(OBJECT, reply(200).cacheable(86_400));
    origin.route(FRESH, reply(200).header("Cache-Control", "no-store"));
    origin.route(MISSING, reply(404).cacheable(86_400));
    origin.route(WHO, |request: &Request| {
        let header = |name| request.header(name).unwrap_or_default();
        let reply = Reply::new(200).header("Cache-Control", "no-store");
        reply.header(CLIENT_SEEN, header("x-api-client")).header(KEY_SEEN, header("x-api-key"))
    });
    origin
}

fn filter(guest: &str, more: &str) -> String {
    format!("  - name: {guest}\n    module: {{guest:{guest}}}\n    body: none\n{more}")
}

fn headers_filter(number: usize) -> String {
    let field = if number == 0 { FIELD.to_owned() } else { format!("{FIELD}-{number}") };
    let more = format!("    configuration: {{response: {{set: {{{field}: \"1\"}}}}}}\n");
    filter("headers", &more).replacen("name: headers", &format!("name: headers-{number}"), 1)
}

impl Work {
    fn header_rewrite(self) -> String {
        match self {
            Work::Header => format!("cond %{{SEND_RESPONSE_HDR_HOOK}}\nset-header {FIELD} \"1\"\n"),
            Work::ApiKey => HEADER_REWRITE_API_KEY.to_owned(),
            Work::Missing => HEADER_REWRITE_MISSING.to_owned(),
        }
    }

    fn lua(self) -> &'static str {
        match self {
            Work::Header => LUA_HEADER,
            Work::ApiKey => LUA_API_KEY,
            Work::Missing => LUA_MISSING,
        }
    }
}

const LUA_HEADER: &str = "\
function send_response()
  ts.client_response.header['x-bench'] = '1'
  return 0
end

function do_remap()
  ts.hook(TS_LUA_HOOK_SEND_RESPONSE_HDR, send_response)
  return 0
end
";

/// What `examples/api-key` does, and answers, with keys in a table.
const LUA_API_KEY: &str = r#"
local keys = { sesame = 'alice' }

function challenge()
  ts.client_response.header['Content-Type'] = 'application/json'
  ts.client_response.header['WWW-Authenticate'] = 'ApiKey realm="api"'
  ts.client_response.header['Cache-Control'] = 'no-store'
  return 0
end

function do_remap()
  local key = ts.client_request.header['x-api-key']
  local client = key and keys[key]
  if client == nil then
    ts.http.set_resp(401, '{"error":"missing or unknown API key"}\n')
    ts.hook(TS_LUA_HOOK_SEND_RESPONSE_HDR, challenge)
    return 0
  end
  ts.client_request.header['x-api-client'] = client
  ts.client_request.header['x-api-key'] = nil
  return 0
end
"#;

const LUA_MISSING: &str = "\
function send_response()
  if ts.client_response.get_status() == 404 then
    ts.client_response.set_status(302)
    ts.client_response.header['Location'] = '/object'
  end
  return 0
end

function do_remap()
  ts.hook(TS_LUA_HOOK_SEND_RESPONSE_HDR, send_response)
  return 0
end
";

/// It has no table of keys: one key is one condition. The answer's body is ATS's page for a 401, for it cannot set another
/// before there is a response.
const HEADER_REWRITE_API_KEY: &str = r#"
cond %{REMAP_PSEUDO_HOOK}
cond %{CLIENT-HEADER:X-Api-Key} ="sesame" [NOT]
set-status 401

cond %{REMAP_PSEUDO_HOOK}
cond %{CLIENT-HEADER:X-Api-Key} ="sesame"
set-header X-Api-Client "alice"
rm-header X-Api-Key

cond %{SEND_RESPONSE_HDR_HOOK}
cond %{STATUS} =401
set-header Content-Type "application/json"
set-header WWW-Authenticate "ApiKey realm=\"api\""
set-header Cache-Control "no-store"
"#;

const HEADER_REWRITE_MISSING: &str = "\
cond %{SEND_RESPONSE_HDR_HOOK}
cond %{STATUS} =404
set-status 302
set-header Location \"/object\"
";

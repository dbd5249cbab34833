//! What is compared: servers, and requests to them.
//!
//! All servers are alike but for the plugin of one rule: the same records, the same two rules (`work.test` with the
//! plugin, `bare.test` with none), the same origin, one small object in the cache. Where a variant adds response
//! headers, it sets them as the response is sent to the client, so that every cache hit pays for it.

use wasm_remap_tests::harness::install::Install;
use wasm_remap_tests::{Builder, Client, Origin, Reply, Rule, TrafficServer};

/// The object that is asked for.
pub(crate) const PATH: &str = "/object";
/// The field that the plugins add.
const FIELD: &str = "x-bench";
/// The rule that a server's plugin is on.
const WORK: &str = "work.test";
/// The rule that has none.
const BARE: &str = "bare.test";

/// What a server's rule for [`WORK`] runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Site {
    /// Nothing.
    Plain,
    /// Nothing, in a process of its own.
    Control,
    /// header_rewrite, which sets one response header.
    HeaderRewrite,
    /// A Lua script, which sets one response header.
    Lua,
    /// A Lua script, which wants an API key.
    LuaApiKey,
    /// This many `headers` filters, each of which sets one response header.
    Headers(usize),
    /// A `headers` filter that takes part in no request that is asked.
    LeftOut,
    /// The filter of the micro-benchmark: reads one request header, adds another.
    BenchHeaders,
    /// The filter that wants an API key.
    ApiKey,
}

/// One line of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Variant {
    /// Its name on the command line.
    pub(crate) key: &'static str,
    /// Its name in the tables.
    pub(crate) title: &'static str,
    /// The server.
    pub(crate) site: Site,
    /// The rule.
    host: &'static str,
    /// The status that answers.
    status: u16,
    /// How many fields it adds to the response.
    fields: usize,
}

/// What every other variant is compared with.
pub(crate) const BASE: &str = "none";

/// All of them; the base first.
const ALL: &[Variant] = &[
    hit(BASE, "no plugin", Site::Plain, 0),
    hit("control", "no plugin, a second server (A/A control)", Site::Control, 0),
    hit("header_rewrite", "header_rewrite: 1 response header set", Site::HeaderRewrite, 1),
    hit("lua", "Lua: 1 response header set", Site::Lua, 1),
    hit("headers", "ours: 1 response header set (`headers`)", Site::Headers(1), 1),
    hit("bench-headers", "ours: 1 request header read, 1 set (`bench-headers`)", Site::BenchHeaders, 0),
    hit("chain2", "ours: chain of 2 `headers`, 2 response headers set", Site::Headers(2), 2),
    hit("chain5", "ours: chain of 5 `headers`, 5 response headers set", Site::Headers(5), 5),
    Variant { host: BARE, ..hit("unmatched", "ours on another rule: this rule has no plugin", Site::Headers(1), 0) },
    hit("left-out", "ours on this rule: no filter takes part (`match`)", Site::LeftOut, 0),
    Variant { status: 401, ..hit("lua-api-key", "Lua: API key check, answers 401", Site::LuaApiKey, 0) },
    Variant { status: 401, ..hit("api-key", "ours: API key check, answers 401 (`api-key`)", Site::ApiKey, 0) },
];

const fn hit(key: &'static str, title: &'static str, site: Site, fields: usize) -> Variant {
    Variant { key, title, site, host: WORK, status: 200, fields }
}

/// The variants asked for, all if none is named, and those among them that lack a module on this machine.
///
/// # Panics
/// At a name that is none.
pub(crate) fn choose(only: &[String]) -> (Vec<Variant>, Vec<Variant>) {
    for key in only {
        let known: Vec<_> = ALL.iter().map(|variant| variant.key).collect();
        assert!(known.contains(&key.as_str()), "{key} is none of {}", known.join(", "));
    }
    let wanted =
        |variant: &&Variant| only.is_empty() || variant.key == BASE || only.iter().any(|key| key == variant.key);
    let installed =
        |variant: &Variant| variant.site.module().is_none_or(|module| Install::get().modules.join(module).is_file());
    ALL.iter().filter(wanted).copied().partition(installed)
}

/// The position of a variant.
pub(crate) fn find(variants: &[Variant], key: &str) -> Option<usize> {
    variants.iter().position(|variant| variant.key == key)
}

impl Variant {
    /// The request, as wrk sends it.
    pub(crate) fn request(&self) -> String {
        format!("GET {PATH} HTTP/1.1\r\nHost: {}\r\n\r\n", self.host)
    }

    /// The rule's host.
    pub(crate) fn host(&self) -> &'static str {
        self.host
    }

    /// The status that every response has.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether every response is one that wrk counts as an error.
    pub(crate) fn is_refused(&self) -> bool {
        self.status >= 400
    }

    /// Whether the plugin is on its rule.
    pub(crate) fn is_ours(&self) -> bool {
        self.host == WORK && matches!(self.site, Site::Headers(_) | Site::LeftOut | Site::BenchHeaders | Site::ApiKey)
    }

    /// Has the object cached, and makes sure that the plugin does its work and that the cache answers.
    ///
    /// # Panics
    /// If one of them does not.
    pub(crate) fn prove(&self, server: &TrafficServer, origin: &Origin) {
        let mut client = Client::connect(server.port());
        let mut asked = u32::MAX;
        for attempt in 0.. {
            let before = origin.request_count();
            let response = client.get(self.host, PATH);
            assert_eq!(response.status, self.status, "{}: {}", self.title, response.text());
            let fields =
                response.headers.names().iter().filter(|name| name.to_ascii_lowercase().starts_with(FIELD)).count();
            assert_eq!(fields, self.fields, "{}: {:?}", self.title, response.headers);
            assert!(client.is_open(), "{}: the connection is not kept", self.title);
            // What was just fetched is not in the cache at once. The last of three answers in a row shall be from it.
            asked = if origin.request_count() == before { asked.min(attempt) } else { u32::MAX };
            if asked != u32::MAX && attempt >= asked + 2 {
                return;
            }
            assert!(attempt < 200, "{}: the origin is asked again and again", self.title);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Site {
    /// The module that Traffic Server's installation must have.
    pub(crate) fn module(self) -> Option<&'static str> {
        match self {
            Site::HeaderRewrite => Some("header_rewrite.so"),
            Site::Lua | Site::LuaApiKey => Some("tslua.so"),
            _ => None,
        }
    }

    /// The server, not started yet.
    pub(crate) fn builder(self, origin: &Origin) -> Builder {
        let rule = Rule::new(WORK, "http://{origin}/");
        let builder = TrafficServer::builder().origin(origin).threads(1);
        let (rule, builder) = match self {
            Site::Plain | Site::Control => (rule, builder),
            Site::HeaderRewrite => {
                let script = format!("cond %{{SEND_RESPONSE_HDR_HOOK}}\nset-header {FIELD} \"1\"\n");
                (rule.plugin("header_rewrite.so", ["bench.conf"]), builder.file("bench.conf", &script))
            }
            Site::Lua => (rule.plugin("tslua.so", ["{etc}/bench.lua"]), builder.file("bench.lua", LUA)),
            Site::LuaApiKey => (rule.plugin("tslua.so", ["{etc}/bench.lua"]), builder.file("bench.lua", LUA_API_KEY)),
            Site::Headers(count) => {
                let filters: String = (0..count).map(headers_filter).collect();
                (rule.wasm(["bench.yaml"]), builder.file("bench.yaml", &format!("filters:\n{filters}")))
            }
            Site::LeftOut => {
                let filters = headers_filter(0) + "    match: {path: {prefix: /never}}\n";
                (rule.wasm(["bench.yaml"]), builder.file("bench.yaml", &format!("filters:\n{filters}")))
            }
            Site::BenchHeaders => {
                let filters = "filters:\n  - name: bench\n    module: {guest:bench-headers}\n    body: none\n";
                (rule.wasm(["bench.yaml"]), builder.file("bench.yaml", filters))
            }
            Site::ApiKey => (rule.wasm(["bench.yaml"]), builder.file("bench.yaml", API_KEY)),
        };
        builder
            .rule(rule)
            .rule(Rule::new(BARE, "http://{origin}/"))
            // Ten minutes instead of the harness's tenth of a second. As installed it is every few seconds, on the
            // event thread: some 90 million instructions that fall into one turn and not into the next.
            .record("proxy.config.config_update_interval_ms", 600_000)
            .record("proxy.config.raw_stat_sync_interval_ms", 600_000)
            .record("proxy.config.remote_sync_interval_ms", 600_000)
            // A connection serves a whole round.
            .record("proxy.config.http.keep_alive_no_activity_timeout_in", 600)
            .record("proxy.config.log.logging_enabled", 0)
    }
}

/// The origin: one small object that may be kept.
pub(crate) fn origin() -> Origin {
    let origin = Origin::start();
    origin.discard();
    let reply = Reply::new(200).cacheable(86_400).header("Content-Type", "text/plain").body(vec![b'x'; 100]);
    origin.route(PATH, reply);
    origin
}

fn headers_filter(number: usize) -> String {
    let field = if number == 0 { FIELD.to_owned() } else { format!("{FIELD}-{number}") };
    format!(
        "  - name: headers-{number}\n    module: {{guest:headers}}\n    body: none\n    \
         configuration: {{response: {{set: {{{field}: \"1\"}}}}}}\n"
    )
}

const LUA: &str = "\
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

function do_remap()
  local key = ts.client_request.header['x-api-key']
  local client = key and keys[key]
  if client == nil then
    ts.http.set_resp(401, '{"error":"missing or unknown API key"}\n')
    return 0
  end
  ts.client_request.header['x-api-client'] = client
  ts.client_request.header['x-api-key'] = nil
  return 0
end
"#;

const API_KEY: &str = "\
filters:
  - name: api-key
    module: {guest:api-key}
    body: none
    configuration: {keys: {sesame: alice}}
";

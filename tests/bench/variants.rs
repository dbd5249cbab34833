//! What is compared: requests to the servers of [`sites`](crate::sites), each with the one of no plugin that it is set against.

use std::time::Duration;

use wasm_remap_tests::harness::install::Install;
use wasm_remap_tests::{Builder, Client, Origin, Response, TrafficServer};

use crate::machine::{self, Machine};
use crate::sites::{BARE, CLIENT_SEEN, FIELD, FRESH, KEY_SEEN, MISSING, OBJECT, Site, WHO, WORK, Work};

/// How often a variant has a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Often {
    /// In each round: bars are held against it.
    Always,
    /// In each third.
    Seldom,
    /// Its instructions are counted, and nothing else.
    Counted,
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
    /// How often it is timed.
    pub(crate) often: Often,
    /// Whether its instructions are counted.
    pub(crate) counted: bool,
    /// What it is compared with: the same requests without a plugin.
    pub(crate) base: &'static str,
    /// The rule.
    host: &'static str,
    /// What is asked for.
    path: &'static str,
    /// The API key of every request.
    key_sent: &'static str,
    /// The status that answers.
    status: u16,
    /// How many fields it adds to the response.
    fields: usize,
}

/// A cache hit without a plugin.
pub(crate) const BASE: &str = "none";
/// The same requests to a second server without a plugin.
pub(crate) const CONTROL: &str = "control";
const MISS: &str = "miss-none";
const GONE: &str = "404-none";

/// The key that is known. Every request has one, so that all are of a length.
const KEY: &str = "sesame";
/// One that nobody has.
const WRONG: &str = "simsim";

const fn hit(key: &'static str, title: &'static str, site: Site, fields: usize) -> Variant {
    Variant {
        key,
        title,
        site,
        often: Often::Always,
        counted: true,
        base: BASE,
        host: WORK,
        path: OBJECT,
        key_sent: KEY,
        status: 200,
        fields,
    }
}

const fn seldom(variant: Variant) -> Variant {
    Variant { often: Often::Seldom, ..variant }
}

const fn miss(key: &'static str, title: &'static str, site: Site, fields: usize) -> Variant {
    Variant { path: FRESH, base: MISS, counted: false, ..seldom(hit(key, title, site, fields)) }
}

const fn missing(key: &'static str, title: &'static str, site: Site, status: u16) -> Variant {
    Variant { path: MISSING, base: GONE, status, ..seldom(hit(key, title, site, 0)) }
}

const fn refused(key: &'static str, title: &'static str, site: Site) -> Variant {
    Variant { key_sent: WRONG, status: 401, ..seldom(hit(key, title, site, 0)) }
}

/// All of them; whatever is a base comes before what is compared with it.
const ALL: &[Variant] = &[
    hit(BASE, "no plugin", Site::Plain, 0),
    hit(CONTROL, "no plugin, a second server (A/A control)", Site::Control, 0),
    hit("header_rewrite", "header_rewrite: 1 response header set", Site::HeaderRewrite(Work::Header), 1),
    hit("lua", "Lua: 1 response header set", Site::Lua(Work::Header), 1),
    hit("headers", "ours: 1 response header set (`headers`)", Site::Chain(1), 1),
    seldom(hit("bench-headers", "ours: 1 request header read, 1 set (`bench-headers`)", Site::BenchHeaders, 0)),
    seldom(hit("chain2", "ours: chain of 2 `headers`, 2 response headers set", Site::Chain(2), 2)),
    hit("chain5", "ours: chain of 5 `headers`, 5 response headers set", Site::Chain(5), 5),
    Variant {
        often: Often::Counted,
        ..hit("chain10", "ours: chain of 10 `headers`, 10 response headers set", Site::Chain(10), 10)
    },
    seldom(hit("matched", "ours: 1 response header set, by a filter with a `match` that holds", Site::Matched, 1)),
    Variant { host: BARE, ..hit("unmatched", "ours on another rule: this rule has no plugin", Site::Chain(1), 0) },
    hit("left-out", "ours on this rule: no filter takes part (`match`)", Site::LeftOut, 0),
    seldom(hit("header_rewrite-key", "header_rewrite: API key accepted", Site::HeaderRewrite(Work::ApiKey), 0)),
    seldom(hit("lua-key", "Lua: API key accepted", Site::Lua(Work::ApiKey), 0)),
    seldom(hit("api-key", "ours: API key accepted (`api-key`)", Site::Ours(Work::ApiKey), 0)),
    refused("header_rewrite-401", "header_rewrite: API key refused, 401", Site::HeaderRewrite(Work::ApiKey)),
    refused("lua-401", "Lua: API key refused, 401", Site::Lua(Work::ApiKey)),
    refused("api-key-401", "ours: API key refused, 401 (`api-key`)", Site::Ours(Work::ApiKey)),
    missing(GONE, "no plugin: 404", Site::Plain, 404),
    missing("header_rewrite-404", "header_rewrite: 404 to a redirect", Site::HeaderRewrite(Work::Missing), 302),
    missing("lua-404", "Lua: 404 to a redirect", Site::Lua(Work::Missing), 302),
    missing("ours-404", "ours: 404 to a redirect (`redirect-missing`)", Site::Ours(Work::Missing), 302),
    miss(MISS, "no plugin: from the origin", Site::Plain, 0),
    miss("miss-control", "no plugin, a second server: from the origin", Site::Control, 0),
    miss("miss-header_rewrite", "header_rewrite: 1 header set, from the origin", Site::HeaderRewrite(Work::Header), 1),
    miss("miss-lua", "Lua: 1 header set, from the origin", Site::Lua(Work::Header), 1),
    miss("miss-headers", "ours: 1 header set, from the origin (`headers`)", Site::Chain(1), 1),
];

/// The variants asked for, all if none is named, and those among them that lack a module on this machine. What they are
/// compared with is among them.
///
/// # Panics
/// At a name that is none.
pub(crate) fn choose(only: &[String]) -> (Vec<Variant>, Vec<Variant>) {
    for key in only {
        let known: Vec<_> = ALL.iter().map(|variant| variant.key).collect();
        assert!(known.contains(&key.as_str()), "{key} is none of {}", known.join(", "));
    }
    let named = |key: &str| only.iter().any(|name| name == key);
    let needed = |key: &str| key == BASE || ALL.iter().any(|variant| named(variant.key) && variant.base == key);
    let wanted = |variant: &&Variant| only.is_empty() || named(variant.key) || needed(variant.key);
    let installed =
        |variant: &Variant| variant.site.module().is_none_or(|module| Install::get().modules.join(module).is_file());
    let mut chosen: Vec<Variant> = ALL.iter().filter(wanted).copied().collect();
    if !only.is_empty() {
        // Who names variants wants to know of these, and of each as much as of the others.
        for variant in chosen.iter_mut().filter(|variant| variant.often == Often::Seldom || named(variant.key)) {
            variant.often = Often::Always;
        }
    }
    chosen.into_iter().partition(installed)
}

/// The position of a variant.
pub(crate) fn find(variants: &[Variant], key: &str) -> Option<usize> {
    variants.iter().position(|variant| variant.key == key)
}

impl Variant {
    /// The request, as wrk sends it.
    pub(crate) fn request(&self) -> String {
        let (name, value) = self.field();
        format!("GET {} HTTP/1.1\r\nHost: {}\r\n{name}: {value}\r\n\r\n", self.path, self.host)
    }

    /// The rule's host.
    pub(crate) fn host(&self) -> &'static str {
        self.host
    }

    /// What is asked for.
    pub(crate) fn path(&self) -> &'static str {
        self.path
    }

    /// The field that every request has.
    pub(crate) fn field(&self) -> (&'static str, &'static str) {
        ("X-Api-Key", self.key_sent)
    }

    /// The status that every response has.
    pub(crate) fn status(&self) -> u16 {
        self.status
    }

    /// Whether every response is one that wrk counts as an error.
    pub(crate) fn is_refused(&self) -> bool {
        self.status >= 400
    }

    /// Whether the origin answers.
    pub(crate) fn is_miss(&self) -> bool {
        self.path == FRESH
    }

    /// Whether the plugin is on its rule.
    pub(crate) fn is_ours(&self) -> bool {
        self.host == WORK && self.site.is_ours()
    }

    /// Starts a server, on the processors that are for servers, and proves that it does this work.
    pub(crate) fn start(&self, server: Builder, origin: &Origin, machine: &Machine) -> TrafficServer {
        let server = server.start();
        if machine.pins() {
            machine::pin_server(&server);
        }
        self.prove(&server, origin);
        server
    }

    /// Makes sure that the plugin does its work, and that the cache answers, or the origin, as it should.
    ///
    /// # Panics
    /// If one of them does not.
    pub(crate) fn prove(&self, server: &TrafficServer, origin: &Origin) {
        let mut client = Client::connect(server.port());
        if self.status == 200 && self.site.checks_keys() {
            let (name, value) = self.field();
            let response = client.request("GET", self.host, WHO, &[(name, value)], b"");
            let seen = [CLIENT_SEEN, KEY_SEEN].map(|name| response.header(name).unwrap_or_default());
            assert_eq!(seen, ["alice", ""], "{}: what the origin sees", self.title);
        }
        let mut answered = u32::MAX;
        for attempt in 0.. {
            let before = origin.request_count();
            client.send(self.request().as_bytes());
            let response = client.read_response();
            self.examine(&response);
            assert!(client.is_open(), "{}: the connection is not kept", self.title);
            let asked = origin.request_count() != before;
            // What was just fetched is not in the cache at once. The last of three answers in a row shall be from where
            // all are to be from.
            answered = if asked == self.is_miss() { answered.min(attempt) } else { u32::MAX };
            if answered != u32::MAX && attempt >= answered + 2 {
                return;
            }
            assert!(attempt < 200, "{}: the cache and the origin do not answer as they should", self.title);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Makes sure that a response is what this variant makes of it.
    ///
    /// # Panics
    /// If it is not.
    pub(crate) fn examine(&self, response: &Response) {
        assert_eq!(response.status, self.status, "{}: {}", self.title, response.text());
        let fields =
            response.headers.names().iter().filter(|name| name.to_ascii_lowercase().starts_with(FIELD)).count();
        assert_eq!(fields, self.fields, "{}: {:?}", self.title, response.headers);
        let has = |name: &str, value: &str| {
            assert_eq!(
                response.header(name).as_deref(),
                Some(value),
                "{}: {name} of {:?}",
                self.title,
                response.headers
            );
        };
        match self.status {
            302 => has("location", OBJECT),
            401 => has("www-authenticate", "ApiKey realm=\"api\""),
            _ => assert_eq!(response.body_len, 100, "{}", self.title),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_comes_after_what_it_is_compared_with() {
        for (at, variant) in ALL.iter().enumerate() {
            let base = find(ALL, variant.base).expect("a base");
            assert!(base <= at, "{}", variant.key);
            assert_eq!(find(ALL, variant.key), Some(at), "{} stands there twice", variant.key);
            assert!(ALL[base].base == variant.base && ALL[base].site == Site::Plain, "{}", variant.key);
        }
    }

    #[test]
    fn plugins_of_different_makes_do_the_same_work() {
        let origin = crate::sites::origin();
        let mut done: Vec<Site> = Vec::new();
        for site in ALL.iter().filter(|variant| variant.often != Often::Counted).map(|variant| variant.site) {
            if done.contains(&site) {
                continue;
            }
            done.push(site);
            let server = site.builder(&origin).start();
            ALL.iter().filter(|variant| variant.site == site).for_each(|variant| variant.prove(&server, &origin));
        }
        assert!(done.len() >= 14, "{done:?}");
    }

    #[test]
    fn what_is_named_brings_what_it_is_compared_with() {
        let keys = |only: &[&str]| {
            let only: Vec<String> = only.iter().map(|key| (*key).to_owned()).collect();
            choose(&only).0.iter().map(|variant| (variant.key, variant.often)).collect::<Vec<_>>()
        };
        let always = |keys: &[&'static str]| keys.iter().map(|key| (*key, Often::Always)).collect::<Vec<_>>();
        assert_eq!(keys(&["chain10"]), always(&[BASE, "chain10"]));
        assert_eq!(keys(&["miss-headers"]), always(&[BASE, MISS, "miss-headers"]));
        assert_eq!(choose(&[]).0.len() + choose(&[]).1.len(), ALL.len());
    }
}

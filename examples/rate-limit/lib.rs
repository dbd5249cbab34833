//! Limits how many requests each client may make: a token bucket a client, in shared data.
//!
//! A bucket is shared by all threads, and by all rules whose filters have one `vm_id`, one `name` and the same numbers; it
//! survives reloads. A token is taken by compare-and-swap, in a loop: none is lost, and none is given out twice.

mod bucket;
mod config;
mod key;

use std::cell::Cell;
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MetricType, Status};

use bucket::{Bucket, Decision, Rate, seconds};
use config::{Config, Headers, OnMissingKey};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { limit: None }));
}}

/// The version that a bucket is created with. A key that is not there is set whatever version is given, and one that is there
/// only if the version is right: with one that no bucket has (hosts count up from 1), of two threads that both found no bucket
/// the second is told so, instead of taking its token from the bucket that the first has made.
const NEW: u32 = u32::MAX;

/// One filter configuration, shared by all of its transactions. Without one, everything is refused.
struct Root {
    limit: Option<Rc<Limit>>,
}

struct Limit {
    config: Config,
    /// Whether the host has `shared_data_set_with_ttl`; asked by trying.
    has_ttl: Cell<bool>,
    /// Counters of requests.
    passed: u32,
    refused: u32,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        let config = match Config::parse(&bytes) {
            Ok(config) => config,
            Err(error) => {
                log::error!("rate-limit: {error}");
                return false;
            }
        };
        let counter = |what: &str| {
            hostcalls::define_metric(MetricType::Counter, &format!("rate_limit.{}.{what}", config.name)).ok()
        };
        let (Some(passed), Some(refused)) = (counter("passed"), counter("refused")) else {
            log::error!("rate-limit: the counters rate_limit.{}.* cannot be made", config.name);
            return false;
        };
        self.limit = Some(Rc::new(Limit { config, has_ttl: Cell::new(true), passed, refused }));
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { limit: self.limit.clone(), told: None }))
    }
}

struct Transaction {
    limit: Option<Rc<Limit>>,
    /// What the response's headers will tell.
    told: Option<Told>,
}

struct Told {
    limit: u64,
    window: u64,
    remaining: u64,
    reset: u64,
}

impl Context for Transaction {}

impl key::Request for Transaction {
    fn header(&self, name: &str) -> Option<Vec<u8>> {
        // As bytes: what a client sends need not be UTF-8, and the SDK stops the filter on text that is not.
        self.get_http_request_header_bytes(name)
    }

    fn client(&self) -> Option<Vec<u8>> {
        self.get_property(vec!["source", "address"])
    }
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(limit) = self.limit.clone() else {
            self.send_http_response(500, vec![], None);
            return Action::Pause;
        };
        let config = &limit.config;
        if !config.only.is_empty() {
            let path = self.get_http_request_header_bytes(":path").unwrap_or_default();
            if !key::is_below(&key::normal_path(&path), &config.only) {
                return Action::Continue;
            }
        }
        let address = if config.asks_for_address() { key::client_address(self) } else { None };
        let key = key::of(self, &config.key, config.address_prefix).map(key::bounded);
        if config.is_exempt(key.as_deref(), address) {
            return Action::Continue;
        }
        let key = match (key, config.on_missing_key) {
            (Some(key), _) => key,
            (None, OnMissingKey::Limit) => String::new(),
            (None, OnMissingKey::Allow) => return Action::Continue,
            (None, OnMissingKey::Deny) => return self.refuse(&limit, None),
        };
        let rate = config.rate(&key, address);
        let decision = self.take(&limit, &config.bucket_name(&key, rate), rate);
        self.told = Some(Told {
            limit: rate.burst,
            window: seconds(rate.fills_in()),
            remaining: decision.remaining,
            reset: seconds(decision.full_in),
        });
        if decision.passes {
            count(limit.passed);
            return Action::Continue;
        }
        // A nanosecond's wait is a second's, since a client cannot be told less.
        self.refuse(&limit, Some(seconds(decision.token_in)))
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if let (Some(limit), Some(told)) = (&self.limit, &self.told) {
            for (name, value) in told.headers(&limit.config) {
                self.set_http_response_header(name, Some(&value));
            }
        }
        Action::Continue
    }
}

impl Transaction {
    /// Takes a token if there is one. Whoever is told that the bucket is another one by now looks again; of all who try,
    /// one succeeds each time, so that this ends.
    fn take(&self, limit: &Limit, name: &str, rate: &Rate) -> Decision {
        loop {
            let (stored, version) = self.get_shared_data(name);
            // After the bucket was read, so that it is never later than this.
            let now = self.get_current_time().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
            let decision = rate.take(stored.as_deref(), now);
            match decision.store {
                Some(bucket) if !self.store(limit, name, bucket, version.unwrap_or(NEW), decision.full_in) => {}
                _ => return decision,
            }
        }
    }

    /// Whether the bucket still had this version.
    fn store(&self, limit: &Limit, name: &str, bucket: Bucket, version: u32, full_in: u64) -> bool {
        let value = bucket.encode();
        if limit.has_ttl.get() {
            // A full bucket is as good as none, so that it may go then. A second more: clocks are not alike.
            let ttl = full_in.div_ceil(1_000_000) + 1_000;
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            let arguments =
                [&ttl.to_le_bytes()[..], &version.to_le_bytes(), &length.to_le_bytes(), name.as_bytes(), &value]
                    .concat();
            match self.call_foreign_function("shared_data_set_with_ttl", Some(&arguments)) {
                Ok(stored) => return stored.as_deref() == Some(&[1]),
                // Another host: buckets stay until it makes room for others.
                Err(_) => limit.has_ttl.set(false),
            }
        }
        !matches!(self.set_shared_data(name, Some(&value), Some(version)), Err(Status::CasMismatch))
    }

    fn refuse(&mut self, limit: &Limit, retry_after: Option<u64>) -> Action {
        let config = &limit.config;
        count(limit.refused);
        if config.dry_run {
            return Action::Continue;
        }
        let retry_after = retry_after.map(|seconds| seconds.to_string());
        // Not every host shows a filter the response that it made itself, and setting them twice does no harm.
        let told = self.told.as_ref().map(|told| told.headers(config)).unwrap_or_default();
        let mut headers = vec![("content-type", config.content_type.as_str()), ("cache-control", "no-store")];
        headers.extend(retry_after.iter().map(|seconds| ("retry-after", seconds.as_str())));
        headers.extend(told.iter().map(|(name, value)| (*name, value.as_str())));
        self.send_http_response(config.status, headers, Some(config.message.as_bytes()));
        Action::Pause
    }
}

fn count(counter: u32) {
    // The SDK knows no status here that a counter of ours could have.
    let _ = hostcalls::increment_metric(counter, 1);
}

impl Told {
    fn headers(&self, config: &Config) -> Vec<(&'static str, String)> {
        let Told { limit, window, remaining, reset } = self;
        let mut headers = Vec::new();
        if matches!(config.headers, Headers::Separate | Headers::Both) {
            headers.push(("ratelimit-limit", limit.to_string()));
            headers.push(("ratelimit-remaining", remaining.to_string()));
            headers.push(("ratelimit-reset", reset.to_string()));
        }
        if matches!(config.headers, Headers::Combined | Headers::Both) {
            let name = &config.name;
            headers.push(("ratelimit-policy", format!("\"{name}\";q={limit};w={window}")));
            headers.push(("ratelimit", format!("\"{name}\";r={remaining};t={reset}")));
        }
        headers
    }
}

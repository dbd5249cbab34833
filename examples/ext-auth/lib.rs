//! Asks an authoriser about each request, over HTTP: what it answers with 2xx goes on, anything else is the answer.
//!
//! The request waits meanwhile. Verdicts may be kept in shared data, for all threads, so that an authoriser is asked once for
//! many requests with the same credentials.

mod config;
mod verdict;

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, UNIX_EPOCH};

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MapType};

use config::{Config, OnFailure};
use verdict::{Header, MOST_BODY, Verdict};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { auth: None }));
}}

/// One filter configuration, shared by all of its transactions. Without one, everything is refused.
struct Root {
    auth: Option<Rc<Auth>>,
}

struct Auth {
    config: Config,
    /// Whether the host has `shared_data_set_with_ttl`; asked by trying.
    has_ttl: Cell<bool>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match Config::parse(&bytes) {
            Ok(config) => {
                self.auth = Some(Rc::new(Auth { config, has_ttl: Cell::new(true) }));
                true
            }
            Err(error) => {
                log::error!("ext-auth: {error}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { auth: self.auth.clone(), call: None, name: None, to_client: Vec::new() }))
    }
}

struct Transaction {
    auth: Option<Rc<Auth>>,
    /// The call whose response this request waits for.
    call: Option<u32>,
    /// Where the verdict is kept, if verdicts are.
    name: Option<String>,
    /// What a verdict that let the request through had for the client.
    to_client: Vec<Header>,
}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(auth) = self.auth.clone() else {
            self.send_http_response(500, vec![], None);
            return Action::Pause;
        };
        let config = &auth.config;
        let wanted = |name: &String| self.get_http_request_header_bytes(name);
        self.name = config.cache.as_ref().map(|cache| verdict::name(config, cache.key.iter().map(wanted)));
        let kept = self.name.as_deref().and_then(|name| {
            let (bytes, _) = self.get_shared_data(name);
            verdict::decode(&bytes?, self.now())
        });
        if let Some(verdict) = kept {
            return self.carry_out(config, verdict);
        }
        match self.ask(config) {
            Some(call) => {
                self.call = Some(call);
                Action::Pause
            }
            None => self.fail(config),
        }
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        for (name, value) in std::mem::take(&mut self.to_client) {
            self.add_http_response_header_bytes(&name, &value);
        }
        Action::Continue
    }
}

impl Context for Transaction {
    fn on_http_call_response(&mut self, call: u32, headers: usize, body: usize, _trailers: usize) {
        let (Some(auth), true) = (self.auth.clone(), self.call.take() == Some(call)) else {
            return;
        };
        let config = &auth.config;
        // Without any header the authoriser has not answered: no connection, a reset, or too late.
        let verdict = if headers > 0 {
            let headers = self.get_http_call_response_headers_bytes();
            Verdict::of(config, &headers, || {
                self.get_http_call_response_body(0, body.min(MOST_BODY)).unwrap_or_default()
            })
        } else {
            None
        };
        let action = match verdict {
            Some(verdict) => {
                if let (Some(name), Some(ttl)) = (&self.name, verdict.ttl(config)) {
                    self.keep(&auth, name, &verdict, ttl);
                }
                self.carry_out(config, verdict)
            }
            None => {
                log::warn!("ext-auth: no verdict from cluster {}", config.cluster);
                self.fail(config)
            }
        };
        if action == Action::Continue {
            self.resume_http_request();
        }
    }
}

impl Transaction {
    fn now(&self) -> u64 {
        let now = self.get_current_time().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    }

    /// Asks about this request. `None`: the host knows no such cluster, or takes no call.
    fn ask(&self, config: &Config) -> Option<u32> {
        let pseudo = |name: &str| self.get_http_request_header_bytes(name).unwrap_or_default();
        let mut headers: Vec<Header> = vec![
            (":method".to_owned(), config.method.clone().into_bytes()),
            (":path".to_owned(), config.path.clone().into_bytes()),
            (":authority".to_owned(), config.authority.as_ref().unwrap_or(&config.cluster).clone().into_bytes()),
            ("x-forwarded-method".to_owned(), pseudo(":method")),
            ("x-forwarded-host".to_owned(), pseudo(":authority")),
            ("x-forwarded-uri".to_owned(), pseudo(":path")),
        ];
        for name in &config.headers {
            if let Some(value) = self.get_http_request_header_bytes(name) {
                headers.push((name.clone(), value));
            }
        }
        // The SDK takes headers of calls as text alone. What is none cannot be asked about.
        let text: Option<Vec<(&str, &str)>> = headers
            .iter()
            .map(|(name, value)| std::str::from_utf8(value).ok().map(|value| (name.as_str(), value)))
            .collect();
        match self.dispatch_http_call(&config.cluster, text?, None, vec![], config.timeout()) {
            Ok(call) => Some(call),
            Err(status) => {
                log::error!("ext-auth: cluster {} cannot be asked: {status:?}", config.cluster);
                None
            }
        }
    }

    /// What a verdict says: `Continue`, or the answer is on its way.
    fn carry_out(&mut self, config: &Config, verdict: Verdict) -> Action {
        match verdict {
            Verdict::Allowed { to_origin, to_client } => {
                self.forget_claims(config);
                for (name, value) in to_origin {
                    self.add_http_request_header_bytes(&name, &value);
                }
                self.to_client = to_client;
                Action::Continue
            }
            Verdict::Refused { status, headers, body } => {
                let mut headers: Vec<(&str, &[u8])> =
                    headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
                headers.push(("cache-control", b"no-store"));
                answer(status, headers, &body);
                Action::Pause
            }
        }
    }

    /// What happens without a verdict: `Continue`, or the answer is on its way.
    fn fail(&self, config: &Config) -> Action {
        match config.on_failure {
            OnFailure::Allow => {
                self.forget_claims(config);
                Action::Continue
            }
            OnFailure::Deny => {
                let headers: Vec<(&str, &[u8])> = vec![("content-type", b"text/plain"), ("cache-control", b"no-store")];
                answer(503, headers, b"the authorization service does not answer\n");
                Action::Pause
            }
        }
    }

    /// Nobody but the authoriser says what the origin is told in these headers.
    fn forget_claims(&self, config: &Config) {
        for name in &config.to_origin {
            let _ = hostcalls::remove_map_value(MapType::HttpRequestHeaders, name);
        }
    }

    fn keep(&self, auth: &Auth, name: &str, verdict: &Verdict, ttl: Duration) {
        let Some(value) = verdict::encode(verdict, self.now(), ttl) else {
            return;
        };
        if auth.has_ttl.get() {
            let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
            let length = u32::try_from(name.len()).unwrap_or(u32::MAX);
            let arguments = [
                &milliseconds.to_le_bytes()[..],
                &0_u32.to_le_bytes(),
                &length.to_le_bytes(),
                name.as_bytes(),
                value.as_slice(),
            ];
            if self.call_foreign_function("shared_data_set_with_ttl", Some(&arguments.concat())).is_ok() {
                return;
            }
            // Another host: verdicts stay until it makes room for others, and are looked at for their time.
            auth.has_ttl.set(false);
        }
        // Whatever version is there: of two verdicts of one moment, either is good.
        let _ = self.set_shared_data(name, Some(&value), None);
    }
}

/// A local response whose headers need not be text.
fn answer(status: u32, headers: Vec<(&str, &[u8])>, body: &[u8]) {
    // The SDK takes text alone: what is none would stop the filter, and is left out.
    let headers =
        headers.into_iter().filter_map(|(name, value)| Some((name, std::str::from_utf8(value).ok()?))).collect();
    // It also stops the filter on a status that is not Ok.
    let _ = hostcalls::send_http_response(status, headers, Some(body));
}

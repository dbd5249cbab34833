//! Refuses to start.
//!
//! Configuration, all optional: `{"accept": false, "message": "no reason", "level": "error"}`. `on_configure` logs
//! the message and returns `accept`. The VM configuration has the same form, for `on_vm_start`, which accepts where
//! there is none.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{ContextType, LogLevel};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Trace);
    proxy_wasm::set_root_context(|_| Box::new(Root));
}}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    accept: bool,
    message: Option<String>,
    level: Option<String>,
}

impl Config {
    fn say(&self, default: &str) -> bool {
        let level = self.level.as_deref().and_then(|level| level.parse().ok());
        log::log!(level.unwrap_or(log::Level::Error), "{}", self.message.as_deref().unwrap_or(default));
        self.accept
    }
}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn on_vm_start(&mut self, size: usize) -> bool {
        if size == 0 {
            return true;
        }
        support::vm_configuration::<Config>().is_some_and(|config| config.say("configure-false: the VM is refused"))
    }

    fn on_configure(&mut self, size: usize) -> bool {
        let config = if size == 0 { Some(Config::default()) } else { support::plugin_configuration() };
        config.is_some_and(|config| config.say("configure-false: the configuration is refused"))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction))
    }
}

struct Transaction;

impl Context for Transaction {}

impl HttpContext for Transaction {}

//! Sets, adds and removes request and response headers, as its configuration says.
//!
//! The configuration is read once, in `proxy_on_configure`. A transaction costs one hostcall for each header that
//! changes, and no allocation in the filter.

mod config;

use std::rc::Rc;

use proxy_wasm::hostcalls::{add_map_value, remove_map_value, set_map_value};
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MapType};

use config::{Changes, Config};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// One filter configuration, shared by all of its transactions.
#[derive(Default)]
struct Root {
    config: Rc<Config>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        match Config::parse(&bytes) {
            Ok(config) => {
                self.config = Rc::new(config);
                true
            }
            Err(error) => {
                log::error!("headers: {error}");
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { config: Rc::clone(&self.config) }))
    }
}

struct Transaction {
    config: Rc<Config>,
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        apply(MapType::HttpRequestHeaders, &self.config.request);
        Action::Continue
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        apply(MapType::HttpResponseHeaders, &self.config.response);
        Action::Continue
    }
}

/// Removes first, then sets, then adds: a header that is both removed and added ends with the added values alone.
fn apply(map: MapType, changes: &Changes) {
    for name in &changes.remove {
        // The SDK itself stops the filter on a status that means a bug of ours; there is no error left to handle.
        let _ = remove_map_value(map, name);
    }
    for (name, value) in &changes.set {
        let _ = set_map_value(map, name, Some(value));
    }
    for (name, value) in &changes.add {
        let _ = add_map_value(map, name, value);
    }
}

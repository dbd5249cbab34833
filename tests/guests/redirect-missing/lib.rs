//! Answers 302 with `location: /object` where the response would be a 404, from the origin or the cache; lets any other
//! response pass. No configuration.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Transaction));
}}

struct Transaction;

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if self.get_http_response_header_bytes(":status").as_deref() == Some(b"404") {
            self.set_http_response_header(":status", Some("302"));
            self.set_http_response_header("location", Some("/object"));
        }
        Action::Continue
    }
}

//! The filter that the micro-benchmark times: a whole transaction is six callbacks (context create, request headers,
//! response headers, done, log, delete) and two hostcalls (`user-agent` is read, `x-bench` is added). No
//! configuration.

use proxy_wasm::traits::{Context, HttpContext};
use proxy_wasm::types::Action;

proxy_wasm::main! {{
    proxy_wasm::set_http_context(|_, _| Box::new(Transaction));
}}

struct Transaction;

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let agent = self.get_http_request_header_bytes("user-agent");
        self.add_http_request_header("x-bench", if agent.is_some() { "agent" } else { "none" });
        Action::Continue
    }
}

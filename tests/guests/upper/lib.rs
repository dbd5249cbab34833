//! Makes the letters of response bodies large: every byte is read, and every chunk written anew.
//!
//! Configuration, optional: `length` says that the response keeps its content-length; `whole` waits for the end of the
//! body, which is then rewritten at once; `letters` does without the 128-bit instructions, which not every toolchain
//! makes.

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Clone, Copy, Default)]
struct Config {
    length: bool,
    whole: bool,
    letters: bool,
}

#[derive(Default)]
struct Root(Config);

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        for word in self.get_plugin_configuration().unwrap_or_default().split(|byte| *byte == b' ') {
            match word {
                b"length" => self.0.length = true,
                b"whole" => self.0.whole = true,
                b"letters" => self.0.letters = true,
                b"" => {}
                _ => return false,
            }
        }
        true
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction(self.0)))
    }
}

struct Transaction(Config);

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        if self.0.length
            && let Some(length) = self.get_http_response_header("content-length")
        {
            // To say it again is to promise it.
            self.set_http_response_header("content-length", Some(&length));
        }
        Action::Continue
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        if self.0.whole && !end_of_stream {
            return Action::Pause;
        }
        if size > 0
            && let Some(mut body) = self.get_http_response_body(0, size)
        {
            if self.0.letters {
                body.make_ascii_uppercase();
            } else {
                upper(&mut body);
            }
            self.set_http_response_body(0, size, &body);
        }
        Action::Continue
    }
}

/// So many at a time, for a round of a guest's loop looks at the clock of its deadline, too.
#[cfg(target_family = "wasm")]
#[target_feature(enable = "simd128")]
fn upper(bytes: &mut [u8]) {
    let (blocks, rest) = bytes.as_chunks_mut::<128>();
    blocks.iter_mut().for_each(|block| block.make_ascii_uppercase());
    rest.make_ascii_uppercase();
}

#[cfg(not(target_family = "wasm"))]
fn upper(bytes: &mut [u8]) {
    bytes.make_ascii_uppercase();
}

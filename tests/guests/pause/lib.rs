//! Pauses a transaction in its header callbacks and resumes it, or answers it, from a tick of the root context.
//!
//! Request headers:
//! - `x-pause-ms: N`: pause, and resume after N milliseconds;
//! - `x-pause-forever: 1`: pause, and never resume;
//! - `x-pause-answer: STATUS`: pause, and answer from the tick with this status and the body `answered from a
//!   tick\n`, after `x-pause-ms` (0 if absent);
//! - `x-pause-at: request_headers | response_headers`: where; the first is the default;
//! - `x-pause-keep: 1`: a context that is deleted while it is paused stays in the queue, so that the tick resumes a
//!   context that is no more (the log then says `pause: context N is gone`).
//!
//! A response that was not answered here has `x-paused-ms`, the time for which it was held (0 if it was not). The
//! tick logs `pause: resume N`, `pause: answer N`.
//!
//! Configuration, optional: `{"tick_ms": 10}`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    tick_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { tick_ms: 10 }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Request,
    Response,
}

/// A transaction that waits for the tick.
struct Paused {
    id: u32,
    side: Side,
    due: SystemTime,
    answer: Option<u32>,
}

#[derive(Default)]
struct Root {
    queue: Rc<RefCell<Vec<Paused>>>,
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let config = if size == 0 { Some(Config::default()) } else { support::plugin_configuration::<Config>() };
        let Some(config) = config else {
            return false;
        };
        self.set_tick_period(Duration::from_millis(config.tick_ms));
        true
    }

    fn on_tick(&mut self) {
        let now = self.get_current_time();
        // Out of the queue first: resuming may run callbacks of the same transaction.
        let due: Vec<Paused> = self.queue.borrow_mut().extract_if(.., |paused| paused.due <= now).collect();
        for paused in due {
            if hostcalls::set_effective_context(paused.id).is_err() {
                log::warn!("pause: context {} is gone", paused.id);
                continue;
            }
            // The SDK itself stops the guest on a status that is not Ok.
            let _ = match (paused.answer, paused.side) {
                (Some(status), _) => {
                    log::info!("pause: answer {}", paused.id);
                    hostcalls::send_http_response(
                        status,
                        vec![("x-pause-answered", "tick")],
                        Some(b"answered from a tick\n"),
                    )
                }
                (None, Side::Request) => {
                    log::info!("pause: resume {}", paused.id);
                    hostcalls::resume_http_request()
                }
                (None, Side::Response) => {
                    log::info!("pause: resume {}", paused.id);
                    hostcalls::resume_http_response()
                }
            };
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { id, queue: Rc::clone(&self.queue), order: None, paused: None, keep: false }))
    }
}

/// What the request asks for.
struct Order {
    side: Side,
    after: Option<Duration>,
    answer: Option<u32>,
}

struct Transaction {
    id: u32,
    queue: Rc<RefCell<Vec<Paused>>>,
    order: Option<Order>,
    paused: Option<SystemTime>,
    keep: bool,
}

impl Transaction {
    fn read_order(&self) -> Option<Order> {
        let number = |name: &str| self.get_http_request_header(name).and_then(|value| value.parse::<u32>().ok());
        let ms = number("x-pause-ms");
        let answer = number("x-pause-answer");
        let forever = number("x-pause-forever").is_some();
        if ms.is_none() && answer.is_none() && !forever {
            return None;
        }
        let side = match self.get_http_request_header("x-pause-at").as_deref() {
            Some("response_headers") => Side::Response,
            _ => Side::Request,
        };
        let after = Duration::from_millis(ms.unwrap_or(0).into());
        Some(Order { side, after: (!forever).then_some(after), answer })
    }

    fn pause_at(&mut self, side: Side) -> Action {
        let Some(order) = self.order.take_if(|order| order.side == side) else {
            return Action::Continue;
        };
        let now = self.get_current_time();
        self.paused = Some(now);
        if let Some(after) = order.after {
            self.queue.borrow_mut().push(Paused { id: self.id, side, due: now + after, answer: order.answer });
        }
        Action::Pause
    }
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        self.order = self.read_order();
        self.keep = self.get_http_request_header("x-pause-keep").is_some();
        self.pause_at(Side::Request)
    }

    fn on_http_response_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let held = self.paused.and_then(|since| self.get_current_time().duration_since(since).ok()).unwrap_or_default();
        self.set_http_response_header("x-paused-ms", Some(&held.as_millis().to_string()));
        self.pause_at(Side::Response)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.keep {
            self.queue.borrow_mut().retain(|paused| paused.id != self.id);
        }
    }
}

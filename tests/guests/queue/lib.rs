//! Puts numbered items into a shared queue and takes them out, so that a test can tell whether each came out once.
//!
//! Root ids:
//! - `producer`: request header `x-items: <first>-<last>` puts items of these numbers into the queue, `x-items: <count>` as many of
//!   numbers that nobody has had, from 1 on; `x-item-bytes: <size>` makes each so large (8 at least, the default). The answer is
//!   200 with `accepted=<n> refused=<n>`, or 404 if nobody has registered the queue.
//! - `consumer`: registers the queue, takes items in `on_queue_ready`, and counts them in shared data.
//! - `stats`: answers every request: 200 with a line `<name>=<value>` for each of `items`, `sum`, `squares` (of the numbers that
//!   were taken, wrapping around), `malformed`, `callbacks`, `empty` (callbacks in which there was no item), `traps`.
//!
//! Configuration: `{"queue": "items", "vm_id": "", "take": 0, "tick_ms": 0, "trap_every": 0, "trap": "before"}`, all optional:
//! - `vm_id`: of the queue's owner, for producers; the filter's own if empty;
//! - `take`: how many items a callback takes at most; 0 for all that there are;
//! - `tick_ms`: the consumer takes at its ticks as well;
//! - `trap_every`: every callback `on_queue_ready` whose number this divides (from 1, over all VMs) traps: `before` it takes an item,
//!   `after` it has counted what it took, or `holding`, with one item taken that nobody counts.
//!
//! Counts are those of the filter's own vm_id: consumers and `stats` have one.

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;
use support::shared;

use std::rc::Rc;
use std::time::Duration;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

/// What is counted, by the names of `stats`.
const COUNTS: [&str; 7] = ["items", "sum", "squares", "malformed", "callbacks", "empty", "traps"];

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    queue: String,
    vm_id: String,
    take: u64,
    tick_ms: u64,
    trap_every: i64,
    trap: Trap,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            queue: "items".to_owned(),
            vm_id: String::new(),
            take: 0,
            tick_ms: 0,
            trap_every: 0,
            trap: Trap::Before,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trap {
    Before,
    After,
    Holding,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Role {
    Producer,
    Consumer,
    #[default]
    Stats,
}

#[derive(Default)]
struct Root {
    role: Role,
    config: Rc<Config>,
    queue: u32,
}

fn count(name: &str, delta: i64) -> i64 {
    shared::add(&format!("queue.{name}"), delta)
}

impl Root {
    /// Takes what there is, and counts it in one go.
    fn take(&self) -> i64 {
        let (mut items, mut sum, mut squares, mut malformed) = (0_i64, 0_i64, 0_i64, 0_i64);
        while self.config.take == 0 || items.unsigned_abs() < self.config.take {
            let Ok(Some(item)) = hostcalls::dequeue_shared_queue(self.queue) else { break };
            items += 1;
            match item.first_chunk().map(|number| i64::from_le_bytes(*number)) {
                Some(number) => {
                    sum = sum.wrapping_add(number);
                    squares = squares.wrapping_add(number.wrapping_mul(number));
                }
                None => malformed += 1,
            }
        }
        for (name, delta) in [("items", items), ("sum", sum), ("squares", squares), ("malformed", malformed)] {
            if delta != 0 {
                count(name, delta);
            }
        }
        items
    }
}

impl Context for Root {}

impl RootContext for Root {
    fn on_configure(&mut self, size: usize) -> bool {
        let root_id = self.get_property(vec!["plugin_root_id"]).unwrap_or_default();
        self.role = match root_id.as_slice() {
            b"producer" => Role::Producer,
            b"consumer" => Role::Consumer,
            b"stats" => Role::Stats,
            other => {
                log::error!("queue: root_id {:?}", String::from_utf8_lossy(other));
                return false;
            }
        };
        if size > 0 {
            match support::plugin_configuration::<Config>() {
                Some(config) => self.config = Rc::new(config),
                None => return false,
            }
        }
        if self.role == Role::Consumer {
            self.queue = self.register_shared_queue(&self.config.queue);
            if self.config.tick_ms > 0 {
                self.set_tick_period(Duration::from_millis(self.config.tick_ms));
            }
        }
        true
    }

    fn on_queue_ready(&mut self, queue: u32) {
        assert_eq!(queue, self.queue, "the queue that was registered");
        let callbacks = count("callbacks", 1);
        let trap = (self.config.trap_every > 0 && callbacks % self.config.trap_every == 0).then_some(self.config.trap);
        match trap {
            Some(Trap::Before) => {
                count("traps", 1);
                panic!("before an item is taken");
            }
            Some(Trap::Holding) => {
                count("traps", 1);
                let item = hostcalls::dequeue_shared_queue(self.queue);
                panic!("holding {item:?}");
            }
            Some(Trap::After) | None => {}
        }
        if self.take() == 0 {
            count("empty", 1);
        }
        if trap == Some(Trap::After) {
            count("traps", 1);
            panic!("after items were counted");
        }
    }

    fn on_tick(&mut self) {
        self.take();
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Transaction { role: self.role, config: Rc::clone(&self.config) }))
    }
}

struct Transaction {
    role: Role,
    config: Rc<Config>,
}

impl Transaction {
    fn produce(&self) -> (u32, String) {
        let Some(queue) = self.resolve_shared_queue(&self.config.vm_id, &self.config.queue) else {
            return (404, "nobody has registered the queue\n".to_owned());
        };
        let text = self.get_http_request_header("x-items").unwrap_or_default();
        let numbers = match text.split_once('-') {
            Some((first, last)) => first.parse::<i64>().ok().zip(last.parse::<i64>().ok()),
            None => text.parse().ok().map(|items| {
                let last = shared::add("queue.numbered", items);
                (last - items + 1, last)
            }),
        };
        let Some((first, last)) = numbers else {
            return (400, "x-items: expected <first>-<last> or <count>\n".to_owned());
        };
        let size = self.get_http_request_header("x-item-bytes").and_then(|text| text.parse().ok()).unwrap_or(8);
        let mut item = vec![b'.'; size.max(8)];
        let (mut accepted, mut refused) = (0, 0);
        for number in first..=last {
            item[..8].copy_from_slice(&number.to_le_bytes());
            match self.enqueue_shared_queue(queue, Some(&item)) {
                Ok(()) => accepted += 1,
                Err(_) => refused += 1,
            }
        }
        (200, format!("accepted={accepted} refused={refused}\n"))
    }
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let (status, text) = match self.role {
            Role::Producer => self.produce(),
            Role::Consumer => return Action::Continue,
            Role::Stats => {
                let line = |name: &&str| format!("{name}={}\n", shared::number(&format!("queue.{name}")));
                (200, COUNTS.iter().map(line).collect())
            }
        };
        self.send_http_response(status, vec![("content-type", "text/plain")], Some(text.as_bytes()));
        Action::Pause
    }
}

//! A service that counts its life in shared data, and fails as it is told; as a filter, it tells what services have counted.
//!
//! With `plugin_root_id` `service`; configuration, optional:
//! `{"name": "service", "tick_ms": 10, "panic_every": 0, "spin_at": 0, "refuse": false, "slow_ms": 0}`:
//! - `panic_every`: every tick whose number this divides traps; `spin_at`: the tick of this number never returns. Ticks are
//!   numbered from 1, over all VMs;
//! - `refuse`: `on_configure` returns false; `slow_ms`: a tick takes so long.
//!
//! Counted under `service.<name>.<what>` are `started` (on_vm_start), `configured`, `ticks` (begun), `ticked` (ended), `together`
//! (ticks that began while another VM's had not ended), `done`.
//!
//! With any other root id it is a filter: request header `x-service: <name>` is answered 200 with a line `<what>=<value>` for
//! each of these, and one `vm=<vm>` for each VM that was configured. Without the header the request passes.

use std::time::Duration;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel};
use serde::Deserialize;
use support::shared;

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root::default()));
}}

const COUNTS: [&str; 6] = ["started", "configured", "ticks", "ticked", "together", "done"];

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Config {
    name: String,
    tick_ms: u64,
    panic_every: i64,
    spin_at: i64,
    refuse: bool,
    slow_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config { name: "service".to_owned(), tick_ms: 10, panic_every: 0, spin_at: 0, refuse: false, slow_ms: 0 }
    }
}

#[derive(Default)]
struct Root {
    serves: bool,
    started: bool,
    config: Config,
}

impl Root {
    fn count(&self, what: &str, delta: i64) -> i64 {
        shared::add(&format!("service.{}.{what}", self.config.name), delta)
    }
}

impl Context for Root {
    fn on_done(&mut self) -> bool {
        if self.serves {
            self.count("done", 1);
        }
        true
    }
}

impl RootContext for Root {
    fn on_vm_start(&mut self, _size: usize) -> bool {
        self.started = true;
        true
    }

    fn on_configure(&mut self, size: usize) -> bool {
        self.serves = self.get_property(vec!["plugin_root_id"]).as_deref() == Some(b"service");
        if !self.serves {
            return true;
        }
        if size > 0 {
            match support::plugin_configuration() {
                Some(config) => self.config = config,
                None => return false,
            }
        }
        // Its name is known only now.
        if self.started {
            self.count("started", 1);
        }
        if self.config.refuse {
            log::error!("service {}: refuses its configuration", self.config.name);
            return false;
        }
        self.count("configured", 1);
        shared::append(&format!("service.{}.vms", self.config.name), &format!("vm={}", support::vm_name()));
        self.set_tick_period(Duration::from_millis(self.config.tick_ms));
        true
    }

    fn on_tick(&mut self) {
        let tick = self.count("ticks", 1);
        // How many are between their begin and their end now. One that trapped has ended, too.
        if self.count("running", 1) > 1 {
            self.count("together", 1);
        }
        if self.config.slow_ms > 0 {
            let end = self.get_current_time() + Duration::from_millis(self.config.slow_ms);
            while self.get_current_time() < end {}
        }
        let panics = self.config.panic_every > 0 && tick % self.config.panic_every == 0;
        let spins = tick == self.config.spin_at;
        self.count("running", -1);
        if panics {
            panic!("at tick {tick}");
        }
        if spins {
            loop {
                std::hint::spin_loop();
            }
        }
        self.count("ticked", 1);
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

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        let Some(name) = self.get_http_request_header("x-service") else {
            return Action::Continue;
        };
        let line = |what: &&str| format!("{what}={}\n", shared::number(&format!("service.{name}.{what}")));
        let mut text: String = COUNTS.iter().map(line).collect();
        text.push_str(&String::from_utf8_lossy(&shared::text(&format!("service.{name}.vms"))));
        self.send_http_response(200, vec![("content-type", "text/plain")], Some(text.as_bytes()));
        Action::Pause
    }
}

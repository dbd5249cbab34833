//! Ships a line of JSON for each transaction to a log collector, in batches.
//!
//! The module has two root ids. `collector` is a filter: at the end of each transaction it appends a line to a shared queue,
//! which costs the transaction no wait. `shipper` is a service, once a process: it takes the lines from the queue and posts them
//! to a cluster. What cannot be sent stays in the queue, whose size the host bounds, and after that is dropped and counted.

mod batch;
mod config;
mod line;

use std::cell::Cell;
use std::rc::Rc;
use std::time::UNIX_EPOCH;

use proxy_wasm::hostcalls;
use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType, LogLevel, MetricType};

use batch::{Batches, Outcome};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Info);
    proxy_wasm::set_root_context(|_| Box::new(Root { role: Role::None }));
}}

/// What a root id does, once its configuration is read.
enum Role {
    None,
    Collector(Rc<Collector>),
    Shipper(Box<Shipper>),
}

struct Root {
    role: Role,
}

struct Collector {
    config: config::Collector,
    /// Zero until somebody has registered it.
    queue: Cell<u32>,
    dropped: u32,
}

struct Shipper {
    config: config::Shipper,
    queue: u32,
    batches: Batches,
    /// The call whose answer is waited for.
    call: Option<u32>,
    /// Whether the host waits for the rest to be sent.
    ending: bool,
    shipped: u32,
    retried: u32,
    failed: u32,
    dropped: u32,
}

fn counter(what: &str) -> Result<u32, String> {
    let name = format!("log_shipper.{what}");
    hostcalls::define_metric(MetricType::Counter, &name).map_err(|_| format!("the counter {name} cannot be made"))
}

fn count(counter: u32, lines: u64) {
    // The SDK knows no status here that a counter of ours could have.
    let _ = hostcalls::increment_metric(counter, i64::try_from(lines).unwrap_or(i64::MAX));
}

impl Root {
    fn configure(&mut self) -> Result<(), String> {
        let root_id = self.get_property(vec!["plugin_root_id"]).unwrap_or_default();
        let bytes = self.get_plugin_configuration().unwrap_or_default();
        self.role = match root_id.as_slice() {
            b"collector" => Role::Collector(Rc::new(Collector {
                config: config::Collector::parse(&bytes)?,
                queue: Cell::new(0),
                dropped: counter("dropped")?,
            })),
            b"shipper" => {
                let config = config::Shipper::parse(&bytes)?;
                let queue = self.register_shared_queue(&config.queue);
                self.set_tick_period(config.tick());
                Role::Shipper(Box::new(Shipper {
                    config,
                    queue,
                    batches: Batches::default(),
                    call: None,
                    ending: false,
                    shipped: counter("shipped")?,
                    retried: counter("retried")?,
                    failed: counter("failed")?,
                    dropped: counter("dropped")?,
                }))
            }
            other => {
                let other = String::from_utf8_lossy(other);
                return Err(format!("root_id {other:?}: expected `collector` or `shipper`"));
            }
        };
        Ok(())
    }

    fn shipper(&mut self) -> Option<&mut Shipper> {
        if let Role::Shipper(shipper) = &mut self.role { Some(shipper) } else { None }
    }
}

impl Context for Root {
    fn on_http_call_response(&mut self, call: u32, headers: usize, _body: usize, _trailers: usize) {
        // Without any header there was no answer.
        let status = if headers > 0 { self.get_http_call_response_header(":status") } else { None };
        if let Some(shipper) = self.shipper().filter(|shipper| shipper.call == Some(call)) {
            shipper.call = None;
            shipper.answered(status.as_deref());
            shipper.work();
            if shipper.ending && shipper.batches.is_empty() {
                self.done();
            }
        }
    }

    fn on_done(&mut self) -> bool {
        let Some(shipper) = self.shipper() else {
            return true;
        };
        shipper.ending = true;
        shipper.work();
        shipper.batches.is_empty()
    }
}

impl RootContext for Root {
    fn on_configure(&mut self, _size: usize) -> bool {
        self.configure().inspect_err(|error| log::error!("log-shipper: {error}")).is_ok()
    }

    fn on_queue_ready(&mut self, _queue: u32) {
        if let Some(shipper) = self.shipper() {
            shipper.work();
        }
    }

    fn on_tick(&mut self) {
        if let Some(shipper) = self.shipper() {
            shipper.work();
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _id: u32) -> Option<Box<dyn HttpContext>> {
        let collector = if let Role::Collector(collector) = &self.role { Some(Rc::clone(collector)) } else { None };
        Some(Box::new(Transaction { collector }))
    }
}

impl Shipper {
    /// Takes lines while there is room for them, and sends what is due.
    fn work(&mut self) {
        loop {
            let mut none_left = false;
            while self.batches.has_room(&self.config) && !none_left {
                match hostcalls::dequeue_shared_queue(self.queue) {
                    Ok(Some(line)) => {
                        if !self.batches.add(&self.config, &line, now()) {
                            count(self.dropped, 1);
                        }
                    }
                    _ => none_left = true,
                }
            }
            // A full batch that is on its way leaves room for more lines; what is not due makes none.
            if !self.send() || none_left {
                return;
            }
        }
    }

    /// Whether something was sent.
    fn send(&mut self) -> bool {
        let Some(body) = self.batches.next(&self.config, now(), self.ending) else {
            return false;
        };
        let config = &self.config;
        let length = body.len().to_string();
        let headers = vec![
            (":method", "POST"),
            (":path", config.path.as_str()),
            (":authority", config.authority.as_ref().unwrap_or(&config.cluster).as_str()),
            ("content-type", config.content_type.as_str()),
            ("content-length", length.as_str()),
        ];
        match hostcalls::dispatch_http_call(&config.cluster, headers, Some(body), vec![], config.timeout()) {
            Ok(call) => {
                self.call = Some(call);
                true
            }
            Err(status) => {
                log::error!("log-shipper: cluster {} cannot be asked: {status:?}", config.cluster);
                self.answered(None);
                false
            }
        }
    }

    fn answered(&mut self, status: Option<&str>) {
        let arrived = status.is_some_and(|status| status.starts_with('2'));
        match self.batches.answered(&self.config, arrived, now()) {
            Outcome::Arrived(lines) => count(self.shipped, lines),
            Outcome::Again => count(self.retried, 1),
            Outcome::GivenUp(lines) => {
                let status = status.unwrap_or("no answer");
                log::error!("log-shipper: {lines} lines are lost: cluster {}: {status}", self.config.cluster);
                count(self.failed, lines);
            }
            Outcome::Nothing => {}
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let now = hostcalls::get_current_time().unwrap_or(UNIX_EPOCH).duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}

/// Without a collector (the root id of a service is no filter's) nothing is logged.
struct Transaction {
    collector: Option<Rc<Collector>>,
}

impl Context for Transaction {}

impl HttpContext for Transaction {
    fn on_http_request_headers(&mut self, _count: usize, _end_of_stream: bool) -> Action {
        Action::Continue
    }

    fn on_log(&mut self) {
        let Some(collector) = &self.collector else {
            return;
        };
        let config = &collector.config;
        if collector.queue.get() == 0 {
            // Only whoever takes from a queue registers it.
            collector.queue.set(self.resolve_shared_queue(&config.vm_id, &config.queue).unwrap_or(0));
        }
        let line = line::write(&config.fields, |field| self.get_property(field.path()));
        // A queue that is not there yet, and one that is full.
        if self.enqueue_shared_queue(collector.queue.get(), Some(&line)).is_err() {
            count(collector.dropped, 1);
        }
    }
}

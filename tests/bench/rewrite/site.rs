//! The server, its rules and its origin. All ways are rules of one server, so that all have its memory layout and its
//! cache: what the rule with no plugin has put there, all others get.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Builder, Client, Rule, TrafficServer};

use crate::native;

/// Of bodies.
pub(crate) const SIZES: [usize; 5] = [1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20];

/// Where a response comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Cache,
    Origin,
}

impl Source {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Source::Cache => "cache",
            Source::Origin => "origin",
        }
    }

    pub(crate) fn path(self, size: usize) -> String {
        format!("/{}/{size}", self.as_str())
    }
}

/// A way through the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    /// The rule.
    pub(crate) host: &'static str,
    /// It makes letters large.
    rewrites: bool,
    /// Responses keep their content-length, whatever their size.
    keeps: bool,
    /// By its place in [`WAYS`]: what does nothing, and sends as this does.
    pub(crate) null: Option<usize>,
    /// It has to reach the bar.
    pub(crate) judged: bool,
}

const fn way(key: &'static str, title: &'static str, host: &'static str) -> Way {
    Way { key, title, host, rewrites: true, keeps: false, null: Some(NULL), judged: false }
}

/// The places of those that others are compared with.
pub(crate) const NONE: usize = 0;
pub(crate) const CONTROL: usize = 1;
pub(crate) const NULL: usize = 2;
const NULL_KEPT: usize = 3;
pub(crate) const LUA: usize = 5;

/// All of them.
pub(crate) const WAYS: [Way; 11] = [
    Way { rewrites: false, keeps: true, null: None, ..way("none", "no plugin", "none.test") },
    Way {
        rewrites: false,
        keeps: true,
        null: None,
        ..way("control", "no plugin, another rule (A/A control)", "control.test")
    },
    Way { rewrites: false, null: None, ..way("null", "null transform in C: by reference", "null.test") },
    Way {
        rewrites: false,
        keeps: true,
        null: None,
        ..way("null-kept", "null transform in C, length kept", "null-kept.test")
    },
    way("c", "the work in C, no sandbox", "c.test"),
    way("lua", "Lua", "lua.test"),
    Way { judged: true, ..way("rust", "ours: Rust-SDK filter", "rust.test") },
    Way { judged: true, ..way("guest-c", "ours: C filter", "guest-c.test") },
    Way {
        keeps: true,
        null: Some(NULL_KEPT),
        ..way("rust-kept", "ours: Rust-SDK filter, length kept", "rust-kept.test")
    },
    way("letters", "ours: Rust-SDK filter, a byte at a time", "letters.test"),
    // The whole is there when its head is sent, so its length is.
    Way {
        keeps: true,
        null: Some(NULL_KEPT),
        ..way("whole", "ours: Rust-SDK filter, the whole body at once", "whole.test")
    },
];

/// What all rewriting does, in Lua.
const SCRIPT: &str = "\
function upper(data, eos)
  return string.upper(data), eos
end

function do_remap()
  ts.hook(TS_LUA_RESPONSE_TRANSFORM, upper)
  ts.http.resp_cache_transformed(0)
  ts.http.resp_cache_untransformed(1)
  return 0
end
";

/// The server and its origin.
#[derive(Debug)]
pub(crate) struct Site {
    server: TrafficServer,
    origin: Origin,
    /// How often the origin had been asked for what is in the cache when all of it was.
    fetched: u64,
}

impl Site {
    /// Starts both, has the cache filled, and proves that each way answers with the right bytes.
    pub(crate) fn start(under: impl FnOnce(Builder) -> Builder) -> Site {
        let origin = Origin::start();
        let rule = |host| Rule::new(host, &format!("http://127.0.0.1:{}/", origin.port));
        let filter = |name: &str, guest: &str, configuration: &str| {
            format!(
                "filters:\n  - name: {name}\n    module: {{guest:{guest}}}\n    body: response\n    \
                 configuration: {configuration:?}\n    limits: {{body_kib: 16384, memory_mib: 64}}\n"
            )
        };
        let (null, upper) = ("{etc}/null_transform.so", "{etc}/upper_transform.so");
        let library = |name| native::compile(name, &["-shared", "-fPIC"]);
        let builder = TrafficServer::builder()
            .threads(1)
            .record("proxy.config.config_update_interval_ms", 600_000)
            .record("proxy.config.raw_stat_sync_interval_ms", 600_000)
            .record("proxy.config.remote_sync_interval_ms", 600_000)
            .record("proxy.config.http.keep_alive_no_activity_timeout_in", 600)
            .record("proxy.config.log.logging_enabled", 0)
            // All sizes are answered from memory.
            .record("proxy.config.cache.ram_cache_cutoff", 64 << 20)
            .record("proxy.config.cache.ram_cache.size", 128 << 20)
            .rule(rule("none.test"))
            .rule(rule("control.test"))
            .rule(rule("null.test").plugin(null, [""; 0]))
            .rule(rule("null-kept.test").plugin(null, ["length"]))
            .rule(rule("c.test").plugin(upper, [""; 0]))
            .rule(rule("lua.test").plugin("tslua.so", ["{etc}/upper.lua"]))
            .rule(rule("rust.test").wasm(["rust.yaml"]))
            .rule(rule("guest-c.test").wasm(["guest-c.yaml"]))
            .rule(rule("rust-kept.test").wasm(["rust-kept.yaml"]))
            .rule(rule("letters.test").wasm(["letters.yaml"]))
            .rule(rule("whole.test").wasm(["whole.yaml"]))
            .file_bytes("null_transform.so", library("null_transform"))
            .file_bytes("upper_transform.so", library("upper_transform"))
            .file("upper.lua", SCRIPT)
            .file("rust.yaml", &filter("rust", "upper", ""))
            .file("guest-c.yaml", &filter("guest-c", "c-upper", ""))
            .file("rust-kept.yaml", &filter("rust-kept", "upper", "length"))
            .file("letters.yaml", &filter("letters", "upper", "letters"))
            .file("whole.yaml", &filter("whole", "upper", "whole"));
        let mut site = Site { server: under(builder).start(), origin, fetched: 0 };
        for size in SIZES {
            site.fill(size);
        }
        site.fetched = site.origin.fetched.load(Ordering::Relaxed);
        for way in &WAYS {
            for size in SIZES {
                for source in [Source::Cache, Source::Origin] {
                    site.prove(way, source, size);
                }
            }
        }
        site.assert_cached();
        site
    }

    /// Stops the server.
    pub(crate) fn stop(self) {
        let exit = self.server.shutdown();
        assert_eq!(exit.crash, None);
    }

    pub(crate) fn server(&self) -> &TrafficServer {
        &self.server
    }

    /// That no response but the first of each size came from elsewhere than the cache.
    ///
    /// # Panics
    /// If one did.
    pub(crate) fn assert_cached(&self) {
        let fetched = self.origin.fetched.load(Ordering::Relaxed);
        assert_eq!(fetched, self.fetched, "requests went to the origin: these were no cache hits");
        assert!(self.server.is_alive(), "the server is gone");
    }

    /// Asks until the cache answers; what was just fetched is not there at once.
    fn fill(&self, size: usize) {
        let mut client = Client::connect(self.server.port());
        let mut answered = 0;
        for attempt in 0.. {
            let before = self.origin.fetched.load(Ordering::Relaxed);
            let response = client.get(WAYS[NONE].host, &Source::Cache.path(size));
            assert_eq!((response.status, response.body.len()), (200, size));
            answered = if self.origin.fetched.load(Ordering::Relaxed) == before { answered + 1 } else { 0 };
            if answered == 3 {
                return;
            }
            assert!(attempt < 200, "the origin is asked again and again for {size} bytes");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn prove(&self, way: &Way, source: Source, size: usize) {
        let mut client = Client::connect(self.server.port());
        let response = client.get(way.host, &source.path(size));
        let what = format!("{}, {size} bytes from the {}", way.title, source.as_str());
        assert_eq!(response.status, 200, "{what}: {}", response.text());
        let mut right = text(size);
        if way.rewrites {
            right.make_ascii_uppercase();
        }
        assert!(response.body == right, "{what}: not the body that was wanted");
        // The others keep it where all of the body was there before the head was sent.
        assert!(!way.keeps || response.header("content-length").is_some(), "{what}: {:?}", response.headers);
    }
}

/// A body.
fn text(size: usize) -> Vec<u8> {
    b"the quick brown fox jumps over the lazy dog; 1234567890\n".iter().copied().cycle().take(size).collect()
}

/// An origin that lasts as long as this process. What is asked of it as `/cache/...` may be kept.
#[derive(Debug)]
struct Origin {
    port: u16,
    /// Requests for what may be kept.
    fetched: Arc<AtomicU64>,
}

impl Origin {
    fn start() -> Origin {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("the loopback address has a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let fetched = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&fetched);
        thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let count = Arc::clone(&count);
                // Who leaves early has been seen by the client.
                thread::spawn(move || drop(serve(stream, &count)));
            }
        });
        Origin { port, fetched }
    }
}

fn serve(mut stream: TcpStream, fetched: &AtomicU64) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut response: Vec<u8> = Vec::new();
    let mut made_for = String::new();
    let mut buffer = [0; 16 << 10];
    let mut read = 0;
    loop {
        let count = stream.read(&mut buffer[read..])?;
        if count == 0 {
            return Ok(());
        }
        read += count;
        if !buffer[..read].ends_with(b"\r\n\r\n") {
            continue;
        }
        let head = String::from_utf8_lossy(&buffer[..read]);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path.starts_with("/cache/") {
            fetched.fetch_add(1, Ordering::Relaxed);
        }
        if path != made_for {
            let size: usize = path.rsplit('/').next().and_then(|word| word.parse().ok()).unwrap_or(0);
            let keep = if path.starts_with("/cache/") { "max-age=86400" } else { "no-store" };
            response = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nCache-Control: {keep}\r\nContent-Length: {size}\r\n\r\n"
            )
            .into_bytes();
            response.extend(text(size));
            path.clone_into(&mut made_for);
        }
        read = 0;
        stream.write_all(&response)?;
    }
}

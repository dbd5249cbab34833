//! Requests to clusters, for filters that ask other servers: HTTP/1.1, HTTP/2 and gRPC, with TLS, pools of connections,
//! round robin, ejection, retries and a circuit limit. Knows nothing of Wasm, and of no proxy.
//!
//! A call is begun on any thread and never blocks it. It runs on one of a few threads of this crate's own
//! (`wasm-callout-N`), and so does the closure that takes its answer, which should therefore be quick: every other
//! call of that thread waits for it. What panics there ends that call alone.
//!
//! ```no_run
//! use callout::{Callouts, ClusterSettings, Endpoint, HttpRequest, Options};
//! use std::time::Duration;
//!
//! let callouts = Callouts::new(Options::default());
//! let auth = callouts.cluster(&ClusterSettings {
//!     name: "auth".into(),
//!     endpoints: vec![Endpoint { host: "auth.internal".into(), port: 8080 }],
//!     ..ClusterSettings::default()
//! })?;
//! let headers = [(":method", "GET"), (":path", "/check"), (":authority", "auth.internal")];
//! let headers = headers.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect();
//! let request = HttpRequest { headers, ..HttpRequest::default() };
//! let call = auth.http_call(request, Some(Duration::from_secs(1)), Box::new(|answer| match answer {
//!     Ok(response) => println!("{} bytes", response.body.len()),
//!     Err(failure) => eprintln!("{failure}"),
//! }))?;
//! call.detach();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod body;
mod call;
mod cluster;
mod connect;
mod encrypted;
mod failure;
mod grpc;
mod health;
mod http1;
mod http2;
mod request;
mod resolve;
mod settings;
mod stats;
mod target;
mod threads;
mod tls;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

pub use call::{Call, Done, HttpResponse};
pub use cluster::Cluster;
pub use failure::{Failure, FailureKind, Refused};
pub use grpc::{Credit, Events, GrpcEvent, GrpcMessage, GrpcRequest, GrpcStream, SendError};
pub use request::{HttpRequest, Pairs};
pub use settings::{ClusterError, ClusterSettings, Ejection, Endpoint, Protocol, Tls};
pub use stats::ClusterStats;
pub use threads::Hook;

use threads::Threads;
use tls::Files;

/// How calls are run.
#[derive(Clone)]
pub struct Options {
    /// How many threads; at least one. One sends some tens of thousands of calls a second.
    pub threads: usize,
    /// Run on each thread before its first call.
    pub on_thread_start: Option<Hook>,
    /// Run on each thread as the last thing.
    pub on_thread_stop: Option<Hook>,
}

impl Default for Options {
    fn default() -> Options {
        Options { threads: 1, on_thread_start: None, on_thread_stop: None }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("threads", &self.threads).finish_non_exhaustive()
    }
}

type Key = (ClusterSettings, Files);

struct Inner {
    threads: Arc<Threads>,
    /// Clusters in use, and places of some that are not any more.
    clusters: Mutex<HashMap<Key, Weak<Cluster>>>,
}

/// All clusters of a process, and the threads that their calls run on. Clones are the same.
///
/// The threads are started at the first call. They end when the last clone, the last cluster and the last call are gone.
#[derive(Clone)]
pub struct Callouts(Arc<Inner>);

impl fmt::Debug for Callouts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callouts").field("clusters", &self.0.clusters.lock().len()).finish_non_exhaustive()
    }
}

impl Callouts {
    /// Starts nothing yet.
    pub fn new(options: Options) -> Callouts {
        Callouts(Arc::new(Inner { threads: Arc::new(Threads::new(options)), clusters: Mutex::default() }))
    }

    /// The cluster of these settings. Reads its certificate files, and the system's trusted certificates if they count;
    /// asks the network nothing. May be called on any thread that may read files.
    ///
    /// While a cluster is in use, equal settings with equal contents of files give the same one: its connections, its
    /// circuit and its ejections outlive a reload of the configuration.
    ///
    /// # Errors
    /// Settings that cannot be, and files that cannot be used.
    pub fn cluster(&self, settings: &ClusterSettings) -> Result<Arc<Cluster>, ClusterError> {
        settings.check()?;
        let key = (settings.clone(), Files::read(settings)?);
        if let Some(cluster) = self.0.clusters.lock().get(&key).and_then(Weak::upgrade) {
            return Ok(cluster);
        }
        let made = Arc::new(Cluster::new(settings, &key.1, Arc::clone(&self.0.threads))?);
        let mut clusters = self.0.clusters.lock();
        // Somebody else may have been quicker.
        if let Some(cluster) = clusters.get(&key).and_then(Weak::upgrade) {
            drop(clusters);
            return Ok(cluster);
        }
        clusters.retain(|_, cluster| cluster.strong_count() > 0);
        clusters.insert(key, Arc::downgrade(&made));
        Ok(made)
    }

    /// How many tasks the threads have: calls under way, open connections and their upkeep.
    pub fn tasks(&self) -> usize {
        self.0.threads.tasks()
    }
}

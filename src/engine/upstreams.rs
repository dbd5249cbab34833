//! Whom a filter may call: the clusters of its configuration, and addresses that its allow-list permits.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, Weak};

use callout::{Callouts, Cluster, ClusterSettings, Endpoint, Tls};
use parking_lot::Mutex;
use prost::Message;

use crate::config::HostPattern;
use crate::error::Error;

/// How many addresses outside of clusters one filter may call, before the oldest of them are forgotten.
const MAX_ADDRESSES: usize = 64;

/// Whom a filter may call. Equal if all of it is the same: clusters by identity, since equal settings are one cluster.
pub(crate) struct Upstreams {
    callouts: Callouts,
    clusters: BTreeMap<String, Arc<Cluster>>,
    hosts: Vec<HostPattern>,
    /// Addresses that were called.
    addresses: Mutex<HashMap<(String, bool), Arc<Cluster>>>,
}

/// The [`Upstreams`] that there are: most filters may call nobody, or all of them the same.
#[derive(Default)]
pub(crate) struct UpstreamsTable(Mutex<Known>);

#[derive(Default)]
struct Known {
    hasher: RandomState,
    /// By hash. Weakly: clusters that nobody names any more are to end.
    all: HashMap<u64, Vec<Weak<Upstreams>>>,
    /// With so many it is time to forget those that are gone.
    next_look: usize,
}

impl UpstreamsTable {
    /// The equal one that is there, or this one.
    pub(crate) fn share(&self, upstreams: Upstreams) -> Arc<Upstreams> {
        let known = &mut *self.0.lock();
        let hash = known.hasher.hash_one(&upstreams);
        let alike = known.all.get(&hash).into_iter().flatten();
        if let Some(same) = alike.filter_map(Weak::upgrade).find(|known| **known == upstreams) {
            return same;
        }
        if known.all.len() >= known.next_look {
            known.all.retain(|_, alike| {
                alike.retain(|upstreams| upstreams.strong_count() > 0);
                !alike.is_empty()
            });
            known.next_look = (known.all.len() * 2).max(64);
        }
        let upstreams = Arc::new(upstreams);
        known.all.entry(hash).or_default().push(Arc::downgrade(&upstreams));
        upstreams
    }
}

impl std::fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstreams")
            .field("clusters", &self.clusters.keys())
            .field("hosts", &self.hosts)
            .finish_non_exhaustive()
    }
}

impl PartialEq for Upstreams {
    fn eq(&self, other: &Self) -> bool {
        let same = |name: &String, cluster: &Arc<Cluster>| {
            other.clusters.get(name).is_some_and(|other| Arc::ptr_eq(cluster, other))
        };
        self.hosts == other.hosts
            && self.clusters.len() == other.clusters.len()
            && self.clusters.iter().all(|(name, cluster)| same(name, cluster))
    }
}

impl Eq for Upstreams {}

impl Hash for Upstreams {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.hosts.hash(state);
        for (name, cluster) in &self.clusters {
            name.hash(state);
            Arc::as_ptr(cluster).hash(state);
        }
    }
}

/// Why an upstream cannot be called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Neither a cluster nor an address.
    NoCluster,
    /// An address that the allow-list does not hold.
    NotAllowed,
    /// What was given is no text, and no description of a service.
    Malformed,
}

impl Upstreams {
    /// The clusters that these settings describe.
    ///
    /// # Errors
    /// [`Error::Start`], naming the cluster and what is wrong with it.
    pub(crate) fn new(
        callouts: Callouts,
        clusters: &BTreeMap<String, ClusterSettings>,
        hosts: &[HostPattern],
    ) -> Result<Self, Error> {
        let cluster = |(name, settings): (&String, &ClusterSettings)| {
            let cluster = callouts.cluster(settings);
            let cluster = cluster.map_err(|error| Error::Start(format!("cluster '{name}': {error}")))?;
            Ok((name.clone(), cluster))
        };
        let clusters = clusters.iter().map(cluster).collect::<Result<_, Error>>()?;
        Ok(Upstreams { callouts, clusters, hosts: hosts.to_vec(), addresses: Mutex::default() })
    }

    /// The cluster of this name, or one that is made of an address; `secure` says whether that is spoken to by TLS.
    ///
    /// # Errors
    /// [`Unknown`].
    pub(crate) fn find(&self, name: &[u8], secure: bool) -> Result<Arc<Cluster>, Unknown> {
        let name = std::str::from_utf8(name).map_err(|_| Unknown::Malformed)?;
        if let Some(cluster) = self.clusters.get(name) {
            return Ok(Arc::clone(cluster));
        }
        let (host, port) = split(name).ok_or(Unknown::NoCluster)?;
        if !self.hosts.iter().any(|pattern| pattern.matches(host, port)) {
            return Err(Unknown::NotAllowed);
        }
        let mut addresses = self.addresses.lock();
        let key = (name.to_ascii_lowercase(), secure);
        if let Some(cluster) = addresses.get(&key) {
            return Ok(Arc::clone(cluster));
        }
        let settings = ClusterSettings {
            name: key.0.clone(),
            endpoints: vec![Endpoint { host: host.to_owned(), port }],
            tls: secure.then(Tls::default),
            ..ClusterSettings::default()
        };
        let cluster = self.callouts.cluster(&settings).map_err(|_| Unknown::NoCluster)?;
        if addresses.len() >= MAX_ADDRESSES {
            addresses.clear();
        }
        addresses.insert(key, Arc::clone(&cluster));
        Ok(cluster)
    }

    /// [`Upstreams::find`] for gRPC, where guests give the name, or a serialised `GrpcService` of Envoy's that holds it.
    ///
    /// # Errors
    /// [`Unknown`].
    pub(crate) fn find_grpc(&self, upstream: &[u8]) -> Result<Arc<Cluster>, Unknown> {
        match self.find(upstream, false) {
            Err(Unknown::NoCluster | Unknown::Malformed) => {}
            found => return found,
        }
        let service = GrpcService::decode(upstream).map_err(|_| Unknown::NoCluster)?;
        match (service.envoy_grpc, service.google_grpc) {
            (Some(EnvoyGrpc { cluster_name }), _) => self.find(cluster_name.as_bytes(), false),
            (None, Some(GoogleGrpc { target_uri })) => self.find(target_uri.as_bytes(), false),
            (None, None) => Err(Unknown::NoCluster),
        }
    }
}

/// `envoy.config.core.v3.GrpcService`, as far as it says whom to call.
#[derive(Clone, PartialEq, Message)]
struct GrpcService {
    #[prost(message, optional, tag = "1")]
    envoy_grpc: Option<EnvoyGrpc>,
    #[prost(message, optional, tag = "2")]
    google_grpc: Option<GoogleGrpc>,
}

#[derive(Clone, PartialEq, Message)]
struct EnvoyGrpc {
    #[prost(string, tag = "1")]
    cluster_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct GoogleGrpc {
    #[prost(string, tag = "1")]
    target_uri: String,
}

/// `host:port`, `[v6]:port`.
fn split(name: &str) -> Option<(&str, u16)> {
    let (host, port) = name.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bracketed {
        Some(host) => Some((host, port)),
        None if host.is_empty() || host.contains(':') => None,
        None => Some((host, port)),
    }
}

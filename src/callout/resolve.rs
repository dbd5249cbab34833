//! From an endpoint to its addresses.
//!
//! Addresses are used for `dns_refresh`. Then they are looked up again in the background, and the old ones serve on,
//! for as long as need be if the lookup fails; only where nobody called for so long that they are twice as old does a
//! call wait for new ones. Lookups of one name never overlap.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::sync::Notify;

use super::failure::{Failure, FailureKind};
use super::settings::Endpoint;
use super::target::{Shared, Target};

/// A name that failed is not looked up again for so long.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    targets: Vec<Arc<Target>>,
    /// When they were found.
    found: Option<Instant>,
    /// When the last lookup failed, and why.
    failed: Option<(Instant, Failure)>,
    looking: bool,
}

pub(crate) struct Resolver {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    server_name: Option<ServerName<'static>>,
    /// An IP address needs no lookup.
    fixed: bool,
    state: Mutex<State>,
    /// A lookup ended.
    done: Notify,
}

impl Resolver {
    pub(crate) fn new(shared: &Arc<Shared>, endpoint: &Endpoint, server_name: Option<ServerName<'static>>) -> Resolver {
        let mut state = State::default();
        let address = endpoint.host.parse::<IpAddr>();
        if let Ok(address) = address {
            let address = SocketAddr::new(address, endpoint.port);
            state.targets.push(Arc::new(Target::new(shared, endpoint, server_name.clone(), address)));
        }
        Resolver {
            shared: Arc::clone(shared),
            endpoint: endpoint.clone(),
            server_name,
            fixed: address.is_ok(),
            state: Mutex::new(state),
            done: Notify::new(),
        }
    }

    /// Its addresses, however old.
    pub(crate) fn any(&self) -> Vec<Arc<Target>> {
        self.state.lock().targets.clone()
    }

    /// How many addresses it has.
    pub(crate) fn count(&self) -> usize {
        self.state.lock().targets.len()
    }

    /// Adds its addresses unless they are too old; looks for new ones in the background if it is time.
    pub(crate) fn recent(self: &Arc<Self>, targets: &mut Vec<Arc<Target>>) {
        let mut state = self.state.lock();
        if !self.fixed {
            let refresh = self.shared.settings.dns_refresh;
            let age = state.found.map(|found| found.elapsed());
            if age.is_none_or(|age| age >= refresh) {
                self.look_up(&mut state);
            }
            if age.is_none_or(|age| age >= refresh.saturating_mul(2)) {
                return;
            }
        }
        targets.extend_from_slice(&state.targets);
    }

    /// Waits for the lookup that is under way, if there is one; answers with the last one's failure.
    pub(crate) async fn settled(&self) -> Result<(), Failure> {
        loop {
            let done = self.done.notified();
            tokio::pin!(done);
            done.as_mut().enable();
            {
                let state = self.state.lock();
                if !state.looking {
                    return state.failed.as_ref().map_or(Ok(()), |(_, failure)| Err(failure.clone()));
                }
            }
            done.await;
        }
    }

    /// Begins a lookup, on the thread of a call. It does not depend on that call.
    fn look_up(self: &Arc<Self>, state: &mut State) {
        if state.looking || state.failed.as_ref().is_some_and(|(at, _)| at.elapsed() < AFTER_FAILURE) {
            return;
        }
        state.looking = true;
        let resolver = Arc::clone(self);
        tokio::spawn(async move {
            let found = tokio::net::lookup_host((resolver.endpoint.host.as_str(), resolver.endpoint.port)).await;
            resolver.settle(found.map(Iterator::collect).map_err(|error| error.to_string()));
        });
    }

    fn settle(&self, found: Result<Vec<SocketAddr>, String>) {
        let found = found.and_then(|found| if found.is_empty() { Err("no address".to_owned()) } else { Ok(found) });
        let mut state = self.state.lock();
        state.looking = false;
        match found {
            Ok(mut addresses) => {
                addresses.sort_unstable();
                addresses.dedup();
                // Those that stay keep their connections and their health.
                let old = std::mem::take(&mut state.targets);
                let target = |address: &SocketAddr| {
                    let kept = old.iter().find(|target| target.address == *address);
                    kept.map(Arc::clone).unwrap_or_else(|| {
                        let name = self.server_name.clone();
                        Arc::new(Target::new(&self.shared, &self.endpoint, name, *address))
                    })
                };
                state.targets = addresses.iter().map(target).collect();
                state.found = Some(Instant::now());
                state.failed = None;
            }
            Err(why) => {
                let (cluster, host) = (&self.shared.settings.name, &self.endpoint.host);
                let stale = if state.targets.is_empty() { "" } else { "; its old addresses serve on" };
                log::warn!("cluster `{cluster}`: the name `{host}` cannot be looked up: {why}{stale}");
                let message = format!("cluster `{cluster}`: the name `{host}` cannot be looked up: {why}");
                state.failed = Some((Instant::now(), Failure::new(FailureKind::Dns, message)));
            }
        }
        drop(state);
        self.done.notify_waiters();
    }
}

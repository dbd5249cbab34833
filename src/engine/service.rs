//! Services: filters that run once in the process, with no transaction, for what is done in the background.
//!
//! A service has a VM and a thread of its own, so that what it does delays nobody. It lives as long as some rule names
//! it; rules that describe it alike share it, before and after a reload. A VM that traps is built anew, later each time.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::pool::Plugin;
use crate::runtime::spawn;
use crate::settings::PluginSpec;
use crate::spec::VmKey;
use crate::station::Station;

/// What calls the thread of a service.
#[derive(Default)]
struct Bell {
    rung: Mutex<Rung>,
    changed: Condvar,
}

#[derive(Default)]
struct Rung {
    /// There is something to do.
    work: bool,
    /// Nobody names the service any more.
    end: bool,
}

impl Bell {
    fn ring(&self) {
        self.rung.lock().work = true;
        self.changed.notify_one();
    }

    /// Says that nobody names the service any more.
    fn end(&self) {
        self.rung.lock().end = true;
        self.ring();
    }

    fn ended(&self) -> bool {
        self.rung.lock().end
    }

    /// Waits until there is something to do, or until `due`.
    fn wait(&self, due: Option<Instant>) {
        let mut rung = self.rung.lock();
        while !rung.work {
            match due {
                None => self.changed.wait(&mut rung),
                Some(due) => {
                    if self.changed.wait_until(&mut rung, due).timed_out() {
                        break;
                    }
                }
            }
        }
        rung.work = false;
    }
}

/// A service that runs. Dropping the last handle ends it. Its plugin context is its thread's alone, so that the last
/// callbacks run there, too.
pub(crate) struct Service {
    key: VmKey,
    spec: Arc<PluginSpec>,
    bell: Arc<Bell>,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.bell.end();
    }
}

/// How long a service that answers `proxy_on_done` with false has until its `proxy_done`.
const FAREWELL: Duration = Duration::from_secs(10);

/// How long a thread delivers before it looks after its timers.
const TURN: Duration = Duration::from_millis(10);

impl Service {
    /// The name in its file.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Starts a service's thread. `build` makes its plugin context, in a pool whose one slot is at the station.
    fn start(build: impl FnOnce(&Arc<Station>) -> Result<Arc<Plugin>, Error>) -> Result<Arc<Self>, Error> {
        let bell = Arc::new(Bell::default());
        let station = Station::new({
            let bell = Arc::clone(&bell);
            Box::new(move |_| bell.ring())
        });
        let plugin = build(&station)?;
        let service = Service { key: plugin.pool.spec.key, spec: Arc::clone(&plugin.spec), bell: Arc::clone(&bell) };
        spawn("wasm-service", move || {
            let pool = Arc::clone(&plugin.pool);
            // Delivers and ticks; says when there is more to do.
            let turn = || {
                let more = station.deliver(TURN);
                let due = station.run_timers();
                if more { Some(Instant::now()) } else { due }
            };
            while !bell.ended() {
                let due = turn();
                bell.wait([due, pool.revive(0)].into_iter().flatten().min());
            }
            drop(plugin);
            // It may have something to finish, for which answers and ticks are needed.
            let end = Instant::now() + FAREWELL;
            while pool.is_ending() && Instant::now() < end {
                let due = turn();
                if pool.is_ending() {
                    bell.wait(Some(due.map_or(end, |due| due.min(end))));
                }
            }
        })?;
        Ok(Arc::new(service))
    }
}

/// The services of the process.
#[derive(Default)]
pub(crate) struct Services(Mutex<Vec<Weak<Service>>>);

impl Services {
    /// The service of this VM key and plugin, or one that is started; `build` makes its plugin context, at a station.
    ///
    /// # Errors
    /// As `build`, and [`Error::Module`] if no thread can be started.
    pub(crate) fn get(
        &self,
        key: VmKey,
        spec: &PluginSpec,
        build: impl FnOnce(&Arc<Station>) -> Result<Arc<Plugin>, Error>,
    ) -> Result<Arc<Service>, Error> {
        let same = |service: &Arc<Service>| service.key == key && *service.spec == *spec;
        if let Some(service) = self.0.lock().iter().filter_map(Weak::upgrade).find(same) {
            return Ok(service);
        }
        // Rules are loaded one after the other, so nobody starts the same one meanwhile.
        let service = Service::start(build)?;
        let mut services = self.0.lock();
        services.retain(|service| service.strong_count() > 0);
        services.push(Arc::downgrade(&service));
        Ok(service)
    }
}

//! The rules of the process, and what was loaded for them: what did not change is not loaded again.
//!
//! ATS makes every rule of remap.config anew at each reload, between `TSRemapPreConfigReload` and
//! `TSRemapPostConfigReload`: a *pass*. A rule whose line and whose files are the same gets the chain that is there. The
//! rules of the pass before serve until the new ones do, and are deleted after their last transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{Duration, Instant};

use ats::remap::InstanceArgs;
use engine::files::Look;
use parking_lot::{Mutex, MutexGuard};

use crate::process;
use crate::reload::{self, Errand};
use crate::rule::{self, Failure, Loaded, Name, Rule};

/// What rules there are. Held for lookups alone.
#[derive(Default)]
struct Registry {
    /// By number: ATS deletes them in its own time.
    rules: BTreeMap<u64, Weak<Rule>>,
    last_number: u64,
    /// What was loaded last for each name.
    latest: HashMap<Arc<Name>, Weak<Loaded>>,
    /// The pass of the rules that are made now.
    pass: u64,
    /// The pass that was taken last: older rules only wait for their last transactions.
    serving: u64,
    /// The configuration that was taken last names another copy of the plugin, or none.
    unused: bool,
}

static REGISTRY: LazyLock<Mutex<Registry>> = LazyLock::new(Mutex::default);

/// What is known of ATS's reload that is going on. Whoever loads chains holds this: one after the other, so that two rules
/// that say the same find what the other has loaded, and services are started once.
#[derive(Default)]
pub(crate) struct Pass {
    look: Look,
    unchanged: u64,
    loaded: u64,
    spent: Duration,
}

static LOADING: LazyLock<Mutex<Pass>> = LazyLock::new(Mutex::default);

/// Waits until nobody else loads.
pub(crate) fn loading() -> MutexGuard<'static, Pass> {
    LOADING.lock()
}

/// Counts of reloads, whoever asked for them.
#[derive(Default)]
pub(crate) struct Counts {
    /// Rules for which a chain was loaded.
    pub(crate) loaded: AtomicU64,
    /// Rules that kept theirs, since nothing of it had changed.
    pub(crate) unchanged: AtomicU64,
    /// Attempts that failed.
    pub(crate) failures: AtomicU64,
    /// Rules whose last attempt failed.
    pub(crate) failing: AtomicU64,
    /// How long the last reload took of our time, in milliseconds.
    pub(crate) milliseconds: AtomicU64,
    /// Chains that were replaced and that transactions still use.
    pub(crate) retired: AtomicU64,
}

impl Counts {
    /// The end of a reload.
    pub(crate) fn ended(&self, loaded: u64, unchanged: u64, spent: Duration) {
        self.loaded.fetch_add(loaded, Ordering::Relaxed);
        self.unchanged.fetch_add(unchanged, Ordering::Relaxed);
        self.milliseconds.store(u64::try_from(spent.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// After rules' failures have changed.
    pub(crate) fn count_failing(&self) {
        let failing = in_service().iter().filter(|rule| rule.current().failure.is_some()).count();
        self.failing.store(failing as u64, Ordering::Relaxed);
    }
}

pub(crate) static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::default);

/// `TSRemapNewInstance`.
///
/// # Errors
/// One line that names the rule, the file and what is wrong.
pub(crate) fn make(args: &InstanceArgs<'_>) -> Result<Arc<Rule>, String> {
    let mut pass = loading();
    let begun = Instant::now();
    let name = Arc::new(Name::of(args)?);
    let obtained = obtain(Arc::clone(&name), &mut pass.look);
    pass.spent += begun.elapsed();
    let (name, loaded, new) = match obtained {
        Ok(obtained) => obtained,
        Err(failure) => {
            COUNTS.failures.fetch_add(1, Ordering::Relaxed);
            let failure = Arc::new(failure);
            // The rule of the same name goes on serving, if there is one.
            let same = in_service().into_iter().filter(|rule| rule.name == name);
            same.for_each(|rule| rule.set_failure(Some(Arc::clone(&failure))));
            return Err(failure.message.clone());
        }
    };
    if new {
        pass.loaded += 1;
    } else {
        pass.unchanged += 1;
    }
    process::get().rules_created.fetch_add(1, Ordering::Relaxed);
    let mut registry = REGISTRY.lock();
    registry.last_number += 1;
    registry.latest.insert(Arc::clone(&name), Arc::downgrade(&loaded));
    let rule = Arc::new(Rule::new(name, registry.last_number, registry.pass, loaded));
    registry.rules.insert(rule.number, Arc::downgrade(&rule));
    Ok(rule)
}

/// The chain that is there, if nothing of it has changed, or another one, and whether it is. With the name under which
/// others know it.
fn obtain(name: Arc<Name>, look: &mut Look) -> Result<(Arc<Name>, Arc<Loaded>, bool), Failure> {
    let known = {
        let registry = REGISTRY.lock();
        let known = registry.latest.get_key_value(&name);
        known.map(|(name, loaded)| (Arc::clone(name), loaded.upgrade()))
    };
    match known {
        Some((name, Some(loaded))) if loaded.made_from.is_current(look) => Ok((name, loaded, false)),
        Some((name, _)) => rule::load(&name, look).map(|loaded| (name, loaded, true)),
        None => rule::load(&name, look).map(|loaded| (name, loaded, true)),
    }
}

/// What was loaded last for a rule, if nothing of it has changed.
pub(crate) fn latest(name: &Name, look: &mut Look) -> Option<Arc<Loaded>> {
    let latest = REGISTRY.lock().latest.get(name).and_then(Weak::upgrade);
    latest.filter(|loaded| loaded.made_from.is_current(look))
}

/// This is what was loaded last.
pub(crate) fn set_latest(name: &Arc<Name>, loaded: &Arc<Loaded>) {
    REGISTRY.lock().latest.insert(Arc::clone(name), Arc::downgrade(loaded));
}

/// `TSRemapDeleteInstance`.
pub(crate) fn delete(rule: Arc<Rule>) {
    REGISTRY.lock().rules.remove(&rule.number);
    process::get().rules_deleted.fetch_add(1, Ordering::Relaxed);
    // The last one, unless its next chain is being loaded.
    drop(rule);
}

/// The rules of the configuration that was taken last, and of one that is on its way; the oldest first.
pub(crate) fn in_service() -> Vec<Arc<Rule>> {
    let registry = REGISTRY.lock();
    let rules = registry.rules.values().filter_map(Weak::upgrade);
    rules.filter(|rule| rule.pass >= registry.serving).collect()
}

/// Whether the configuration that was taken last uses this copy of the plugin.
pub(crate) fn is_unused() -> bool {
    REGISTRY.lock().unused
}

/// `TSRemapPreConfigReload`.
pub(crate) fn begin_pass() {
    *loading() = Pass::default();
    REGISTRY.lock().pass += 1;
}

/// `TSRemapPostConfigReload`: the new configuration was taken, and names this copy or not; or it was refused.
pub(crate) fn end_pass(taken: bool, used: bool) {
    // What was looked at in this pass says nothing of the next one.
    let Pass { unchanged, loaded, spent, .. } = std::mem::take(&mut *loading());
    {
        let mut registry = REGISTRY.lock();
        if taken {
            registry.serving = registry.pass;
            registry.unused = !used;
        }
        registry.latest.retain(|_, loaded| loaded.strong_count() > 0);
    }
    if unchanged + loaded > 0 {
        COUNTS.ended(loaded, unchanged, spent);
        log::info!(
            "reload: {} rules, {unchanged} unchanged, {loaded} loaded, {:.2} s",
            unchanged + loaded,
            spent.as_secs_f64()
        );
    }
    COUNTS.count_failing();
    // Other rules, other files.
    let watched = || in_service().iter().any(|rule| rule.current().loaded.watch);
    if reload::is_running() || watched() {
        reload::send(Errand::RulesChanged);
    }
}

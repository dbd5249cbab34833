//! What there is one of in the process: the engine, and what was decided at its start.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ats::global::GlobalArg;
use ats::log::{DebugTag, Logger};
use crossbeam::utils::CachePadded;
use engine::shared::Published;
use engine::{Options, Runtime};

use crate::{registry, reload, stats, threads};

/// The tag under which `proxy.config.diags.debug.tags` shows our debug lines.
const TAG: DebugTag = DebugTag::new(c"wasm_remap");

/// The most slots that we make of our own accord.
const MAX_SLOTS: usize = 256;

/// The process's state; lives as long as the plugin, which is never unloaded.
pub(crate) struct Process {
    pub(crate) runtime: Runtime,
    /// What came to DoRemap, by slot: each is written by one thread, mostly.
    entered: Box<[CachePadded<Entered>]>,
    /// The same, on threads beyond the number that we expected.
    entered_elsewhere: Entered,
    /// Rules made and deleted.
    pub(crate) rules_created: AtomicU64,
    pub(crate) rules_deleted: AtomicU64,
    /// Configurations refused at a reload.
    pub(crate) reloads_refused: AtomicU64,
    /// A configuration was taken.
    serving: AtomicBool,
    /// `proxy.config.http.post_copy_size`: the largest request body that ATS buffers.
    pub(crate) post_copy_size: u64,
}

/// Transactions that came to us.
#[derive(Default)]
struct Entered {
    all: AtomicU64,
    /// Those in which no filter takes part.
    unmatched: AtomicU64,
}

static PROCESS: OnceLock<Process> = OnceLock::new();

/// The process's state.
///
/// # Panics
/// Before `TSRemapInit` has succeeded, and ATS calls nothing else before that.
pub(crate) fn get() -> &'static Process {
    PROCESS.get().expect("ATS calls TSRemapInit first, and nothing else if that fails")
}

impl Process {
    /// Counts a transaction that came to us.
    pub(crate) fn count_entered(&self, slot: usize) {
        self.count(slot, |entered| &entered.all);
    }

    /// Counts one in which no filter takes part.
    pub(crate) fn count_unmatched(&self, slot: usize) {
        self.count(slot, |entered| &entered.unmatched);
    }

    fn count(&self, slot: usize, which: impl Fn(&Entered) -> &AtomicU64) {
        match self.entered.get(slot) {
            // The slot's own thread is the only one that writes: no locked instruction is needed.
            Some(entered) => {
                let counter = which(entered);
                counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            }
            None => {
                which(&self.entered_elsewhere).fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Transactions that came to us.
    pub(crate) fn entered(&self) -> u64 {
        self.sum(|entered| &entered.all)
    }

    /// Those of them in which no filter took part.
    pub(crate) fn unmatched(&self) -> u64 {
        self.sum(|entered| &entered.unmatched)
    }

    fn sum(&self, which: impl Fn(&Entered) -> &AtomicU64) -> u64 {
        let slots = self.entered.iter().map(|entered| which(entered).load(Ordering::Relaxed));
        slots.sum::<u64>() + which(&self.entered_elsewhere).load(Ordering::Relaxed)
    }
}

/// `TSRemapInit`: starts the engine. A second call in the same copy changes nothing. `published` makes a shared state
/// of the address at which another copy published it.
pub(crate) fn start(published: impl Fn(NonNull<c_void>) -> Published) -> Result<(), String> {
    Logger::install(TAG);
    engine::journal::serve(std::sync::Arc::new(crate::logs::Files::default()));
    crate::fault::inject("TSRemapInit");
    if PROCESS.get().is_some() {
        return Ok(());
    }
    let slots = event_threads().clamp(1, MAX_SLOTS);
    let meeting = GlobalArg::reserve(
        c"wasm_remap.shared",
        c"shared data, queues and metrics of all copies of wasm_remap",
    )
    .inspect_err(|error| {
        log::warn!(
            "a copy of this plugin that replaces this one will not find its shared data, queues and metrics, which \
                 then start afresh: {error}"
        );
    })
    .ok();
    let shared = meeting.and_then(GlobalArg::get).map(published);
    let options = Options { on_callout_thread: Some(threads::attach), shared, ..Options::with_slots(slots) };
    let runtime = Runtime::new(options).map_err(|error| error.to_string())?;
    runtime.on_errand(threads::call);
    let process = Process {
        runtime,
        entered: (0..slots).map(|_| CachePadded::default()).collect(),
        entered_elsewhere: Entered::default(),
        rules_created: AtomicU64::new(0),
        rules_deleted: AtomicU64::new(0),
        reloads_refused: AtomicU64::new(0),
        serving: AtomicBool::new(false),
        post_copy_size: ats::mgmt::int_get(c"proxy.config.http.post_copy_size")
            .and_then(|size| u64::try_from(size).ok())
            .unwrap_or(0),
    };
    if PROCESS.set(process).is_ok() {
        log::info!("{} {}: {slots} slots, one an event thread", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
        share(meeting);
        if !ats::transform_guard::can_stream_requests() {
            log::warn!(
                "this build of ATS is not the one that is known here: request bodies are shown to filters as they come, \
                 and sent to the origin only when they are complete (limits.body_kib)"
            );
        }
        threads::start(slots)?;
        stats::start();
        if let Err(error) = reload::listen() {
            log::warn!("'traffic_ctl plugin msg wasm_remap' is not heard: {error}");
        }
    }
    Ok(())
}

/// Lets copies that come later find what this one owns. One that could not join the owner takes its place: later
/// copies more likely resemble the latest.
fn share(meeting: Option<GlobalArg>) {
    match (meeting, get().runtime.shared().publish()) {
        (Some(meeting), Some(published)) => meeting.set(published.as_raw()),
        (_, None) => log::info!("shared data, queues and metrics are those of the copy that was there before"),
        (None, Some(_)) => {}
    }
}

/// How many ET_NET threads ATS makes, by its own rule: a fixed number, or the cores times a factor.
fn event_threads() -> usize {
    let record = |name: &std::ffi::CStr| ats::mgmt::int_get(name);
    let limit = record(c"proxy.config.exec_thread.limit").unwrap_or(2);
    let automatic = record(c"proxy.config.exec_thread.autoconfig").unwrap_or(1) != 0;
    if automatic {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let scale = ats::mgmt::float_get(c"proxy.config.exec_thread.autoconfig.scale").unwrap_or(1.5);
        // As ATS does it: truncated, and at least one. Too few would only make threads share.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small positive numbers"
        )]
        let threads = (cores as f32 * scale) as usize;
        threads.max(1)
    } else {
        usize::try_from(limit).unwrap_or(1)
    }
}

/// `TSRemapPreConfigReload`.
pub(crate) fn before_reload() {
    crate::fault::inject("TSRemapPreConfigReload");
    log::debug!("configuration reload begins");
    registry::begin_pass();
}

/// `TSRemapPostConfigReload`.
pub(crate) fn after_reload(status: ats::sys::TSRemapReloadStatus) {
    crate::fault::inject("TSRemapPostConfigReload");
    let process = get();
    let taken = status != ats::sys::TSREMAP_CONFIG_RELOAD_FAILURE;
    let used = status == ats::sys::TSREMAP_CONFIG_RELOAD_SUCCESS_PLUGIN_USED;
    registry::end_pass(taken, used);
    if used {
        stats::take();
    }
    if taken {
        process.serving.store(true, Ordering::Relaxed);
    } else if process.serving.load(Ordering::Relaxed) {
        process.reloads_refused.fetch_add(1, Ordering::Relaxed);
        log::warn!("the new configuration was refused; the old one goes on serving");
    }
}

//! What one filter logs: from which level on, whereto, and how much of it.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use log::Level;

use super::line::{Line, MAX_FILE_LINE, MAX_LINE};
use super::{LogWriter, Place, journal, server};
use crate::abi::LogLevel;
use crate::observe::FilterStats;

/// The target under which a guest's lines reach the `log` crate's logger.
pub const GUEST_TARGET: &str = "wasm_remap::guest";

/// The level from which on a filter's lines are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Threshold {
    /// This one, and what is graver.
    From(LogLevel),
    /// None are.
    Off,
}

impl Threshold {
    /// The word in a configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Threshold::From(level) => level.as_str(),
            Threshold::Off => "off",
        }
    }
}

/// When a log file is rolled. What is absent is as the proxy's own records have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rolling {
    /// Each time that so many seconds of the day have passed.
    pub interval_s: Option<u32>,
    /// The hour of the day at which they begin to count.
    pub offset_hour: Option<u8>,
    /// When it has so many MiB.
    pub size_mib: Option<u32>,
}

/// A log file of filters' own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LogFile {
    /// Its name in the proxy's directory of logs.
    pub name: String,
    /// When it is rolled; `None` is as the proxy rolls its other files.
    pub rolling: Option<Rolling>,
}

/// What a configuration says of a filter's lines.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LogSettings {
    /// Without, it is `info`, or what the proxy's debugging says.
    pub level: Option<Threshold>,
    /// Without, they go to the proxy's diagnostics.
    pub file: Option<Arc<LogFile>>,
}

/// Where the lines of a plugin context go. Shared by its VMs, so that a VM that is lost and built anew has no more lines
/// than one that lives.
pub(crate) struct Site {
    settings: LogSettings,
    /// The most lines a second.
    limit: u32,
    writer: Option<Arc<dyn LogWriter>>,
    stats: Arc<FilterStats>,
    /// The second that is counted, in the high half, and the lines in it.
    window: AtomicU64,
    dropped: AtomicU64,
    /// The log's own thread knows that there is something to tell.
    called: AtomicBool,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("filter", &self.filter()).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Seconds since somebody first asked.
fn second() -> u32 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    u32::try_from(BEGIN.get_or_init(Instant::now).elapsed().as_secs()).unwrap_or(u32::MAX)
}

impl Site {
    /// # Errors
    /// The log file cannot be opened.
    pub(crate) fn new(settings: LogSettings, limit: u32, stats: Arc<FilterStats>) -> Result<Arc<Self>, String> {
        let writer = match (&settings.file, server()) {
            (Some(file), Some(server)) => Some(
                server.open(file).map_err(|error| format!("log.file: '{}' cannot be opened: {error}", file.name))?,
            ),
            _ => None,
        };
        Ok(Arc::new(Site {
            settings,
            limit,
            writer,
            stats,
            window: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            called: AtomicBool::new(false),
        }))
    }

    /// One that nothing is said of.
    #[cfg(test)]
    pub(crate) fn plain() -> Arc<Self> {
        Site::new(LogSettings::default(), 100, crate::observe::Registry::new(1).stats("", "f")).expect("no file")
    }

    /// The filter's name.
    fn filter(&self) -> &str {
        self.stats.filter()
    }

    /// Where what belongs to no rule is counted.
    pub(crate) fn stats(&self) -> &Arc<FilterStats> {
        &self.stats
    }

    /// Whether two sites treat lines alike.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.settings == other.settings && self.limit == other.limit
    }

    pub(crate) fn settings(&self) -> &LogSettings {
        &self.settings
    }

    /// Whether a line of this level is kept.
    pub(crate) fn keeps(&self, level: LogLevel) -> bool {
        match self.settings.level {
            Some(Threshold::Off) => false,
            Some(Threshold::From(least)) => level >= least,
            None => level >= LogLevel::Info && self.writer.is_some() || enabled(level),
        }
    }

    /// The level from which on lines are kept, as `proxy_get_log_level` answers it: what is not kept need not be formatted.
    pub(crate) fn level(&self) -> LogLevel {
        match self.settings.level {
            // The ABI has no word for "none".
            Some(Threshold::Off) => LogLevel::Critical,
            Some(Threshold::From(least)) => least,
            None => LogLevel::ALL.iter().copied().find(|level| self.keeps(*level)).unwrap_or(LogLevel::Critical),
        }
    }

    /// A line of the guest's, of a level that is kept. `starting` counts the lines of a VM that starts, and has a limit of its own.
    pub(crate) fn write(
        self: &Arc<Self>,
        level: LogLevel,
        context: u32,
        starting: Option<&Cell<u32>>,
        place: Place<'_>,
        message: &[u8],
    ) {
        if !self.admits(starting) {
            return;
        }
        let message = String::from_utf8_lossy(&message[..message.len().min(MAX_LINE)]);
        let filter = self.filter();
        let text = format_args!("[{filter}] #{context} {}: {message}", level.as_str());
        match &self.writer {
            Some(writer) => writer.write(Line::within(MAX_FILE_LINE, text, place, None).as_str()),
            None => {
                // A level that the configuration names is the filter's own affair, whatever is debugged elsewhere.
                let to = if self.settings.level.is_some() { to(level).min(Level::Info) } else { to(level) };
                log::log!(target: GUEST_TARGET, to, "{}", Line::of(text, place, None));
            }
        }
    }

    fn admits(self: &Arc<Self>, starting: Option<&Cell<u32>>) -> bool {
        let admitted = match starting {
            Some(lines) => {
                lines.set(lines.get().saturating_add(1));
                lines.get() <= self.limit
            }
            None => take(&self.window, second(), self.limit),
        };
        if !admitted {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.stats.log_dropped();
            if !self.called.swap(true, Ordering::AcqRel) {
                journal().falls_silent(Arc::clone(self));
            }
        }
        admitted
    }

    /// Says how many lines were dropped, once their second is over. False if it is not.
    pub(super) fn speak(&self) -> bool {
        if self.window.load(Ordering::Relaxed) >> 32 == u64::from(second()) {
            return false;
        }
        // In this order: whoever drops a line after this calls again.
        self.called.store(false, Ordering::Release);
        let dropped = self.dropped.swap(0, Ordering::AcqRel);
        if dropped == 0 {
            return true;
        }
        let (filter, limit) = (self.filter(), self.limit);
        let lines = if dropped == 1 { "line" } else { "lines" };
        let text = format_args!(
            "{dropped} {lines} of filter '{filter}' dropped in the last second (limits.log_lines_per_second: {limit})"
        );
        let place = Place { filter, ..Place::default() };
        match &self.writer {
            Some(writer) => writer.write(Line::within(MAX_FILE_LINE, text, place, None).as_str()),
            None => super::write(Level::Warn, &Line::of(text, place, None)),
        }
        true
    }
}

/// Where a guest's level is among the `log` crate's.
fn to(level: LogLevel) -> Level {
    match level {
        LogLevel::Trace => Level::Trace,
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error | LogLevel::Critical => Level::Error,
    }
}

fn enabled(level: LogLevel) -> bool {
    log::log_enabled!(target: GUEST_TARGET, to(level))
}

/// A line of a guest that has no plugin context: of its start function. No filter's limit is known here, so all of them have
/// one.
pub(crate) fn write_stray(level: LogLevel, place: Place<'_>, message: &[u8]) {
    static WINDOW: AtomicU64 = AtomicU64::new(0);
    if !enabled(level) || !take(&WINDOW, second(), 100) {
        return;
    }
    let message = String::from_utf8_lossy(&message[..message.len().min(MAX_LINE)]);
    let text = format_args!("[-] #0 {}: {message}", level.as_str());
    log::log!(target: GUEST_TARGET, to(level), "{}", Line::of(text, place, None));
}

/// Takes one of the lines that a second has. `window` is that second, in the high half, and the lines in it.
fn take(window: &AtomicU64, second: u32, limit: u32) -> bool {
    let this = u64::from(second) << 32;
    let next = |window: u64| {
        let count = if window >> 32 == u64::from(second) { window & u64::from(u32::MAX) } else { 0 };
        (count < u64::from(limit)).then_some(this | (count + 1))
    };
    window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Registry;

    fn site(settings: LogSettings, limit: u32) -> Arc<Site> {
        Site::new(settings, limit, Registry::new(1).stats("", "f")).unwrap()
    }

    fn from(level: Threshold) -> LogSettings {
        LogSettings { level: Some(level), file: None }
    }

    #[test]
    fn a_second_has_so_many_lines() {
        let site = site(LogSettings::default(), 3);
        let taken = |second| (0..5).filter(|_| take(&site.window, second, site.limit)).count();
        assert_eq!([taken(0), taken(0), taken(7), taken(8)], [3, 0, 3, 3]);
    }

    #[test]
    fn threads_share_the_lines_of_a_second() {
        let site = site(LogSettings::default(), 1000);
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| take(&site.window, 5, site.limit)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }

    #[test]
    fn vms_that_start_have_lines_of_their_own() {
        let site = site(LogSettings::default(), 2);
        for _ in 0..3 {
            let lines = Cell::new(0);
            assert_eq!([(); 3].map(|()| site.admits(Some(&lines))), [true, true, false]);
        }
        assert_eq!(site.dropped.load(Ordering::Relaxed), 3);
        assert!(site.called.load(Ordering::Relaxed));
    }

    #[test]
    fn a_level_that_is_named_is_what_guests_hear() {
        for &level in LogLevel::ALL {
            let site = site(from(Threshold::From(level)), 1);
            assert_eq!(site.level(), level);
            assert!(LogLevel::ALL.iter().all(|other| site.keeps(*other) == (*other >= level)));
        }
        let off = site(from(Threshold::Off), 1);
        assert_eq!(off.level(), LogLevel::Critical);
        assert!(!off.keeps(LogLevel::Critical));
    }
}

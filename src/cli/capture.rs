//! What the engine and its guests log, kept until somebody shows it beside what caused it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::ValueEnum;
use log::{Level, LevelFilter, Log, Metadata, Record};

/// One line of the log.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Its level.
    pub(crate) level: Level,
    /// Whether a guest wrote it. Then the text says which filter, which context and which level.
    pub(crate) guest: bool,
    /// The text.
    pub(crate) text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.guest {
            f.write_str(&self.text)
        } else {
            write!(f, "{}: {}", self.level.as_str().to_ascii_lowercase(), self.text)
        }
    }
}

/// The level from which lines are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Threshold {
    /// No lines.
    Off,
    /// Errors, and what guests call critical.
    Error,
    /// And warnings.
    Warn,
    /// And information.
    Info,
    /// And debug lines.
    Debug,
    /// And every hostcall that was answered with another status than OK.
    Trace,
}

struct Capture(Mutex<Vec<Line>>);

static CAPTURE: Capture = Capture(Mutex::new(Vec::new()));

impl Capture {
    /// A panic elsewhere leaves the lines as whole as they were.
    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Capture {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // The compiler logs under its own names, of no interest to an operator.
        metadata.target().starts_with("wasm_remap")
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let guest = record.target() == engine::GUEST_TARGET;
            self.lines().push(Line { level: record.level(), guest, text: record.args().to_string() });
        }
    }

    fn flush(&self) {}
}

/// Begins to keep lines.
pub(crate) fn install(threshold: Threshold) {
    // The only logger of this process; guests ask for the level, so it is right before the first one starts.
    let _ = log::set_logger(&CAPTURE);
    log::set_max_level(match threshold {
        Threshold::Off => LevelFilter::Off,
        Threshold::Error => LevelFilter::Error,
        Threshold::Warn => LevelFilter::Warn,
        Threshold::Info => LevelFilter::Info,
        Threshold::Debug => LevelFilter::Debug,
        Threshold::Trace => LevelFilter::Trace,
    });
}

/// The lines since the last call.
pub(crate) fn take() -> Vec<Line> {
    std::mem::take(&mut CAPTURE.lines())
}

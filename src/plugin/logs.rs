//! Lines about transactions, and log files of filters: opened once in the process, whatever rules, reloads and copies of
//! this plugin there are.

use std::collections::HashMap;
use std::sync::Arc;

use ats::text_log::{self, TextLog};
use engine::journal::{self, LogFile, LogFiles, LogWriter, Place, Rolling, Thread};
use parking_lot::Mutex;

/// The files that are open, by name.
#[derive(Default)]
pub(crate) struct Files(Mutex<HashMap<String, Open>>);

/// A file, and how it is rolled.
type Open = (Arc<File>, Option<Rolling>);

#[derive(Debug)]
struct File {
    name: String,
    log: TextLog,
}

impl LogWriter for File {
    fn write(&self, line: &str) {
        if let Err(error) = self.log.write(line) {
            let text = format_args!("{}: lines are lost: {error}", self.name);
            journal::told(log::Level::Error, &format!("loss of lines of {}", self.name), Place::default(), text);
        }
    }
}

impl LogFiles for Files {
    fn open(&self, file: &LogFile) -> Result<Arc<dyn LogWriter>, String> {
        // Held while the file is opened: its name must not be opened twice.
        let mut files = self.0.lock();
        let (writer, rolling) = match files.get(&file.name) {
            Some((known, rolling)) => (Arc::clone(known), *rolling),
            None => {
                let log = TextLog::open(&file.name).map_err(|error| format!("{error}; diags.log may say why"))?;
                (Arc::new(File { name: file.name.clone(), log }), None)
            }
        };
        // The last rule that says how decides.
        if let Some(wanted) = file.rolling.filter(|wanted| rolling != Some(*wanted)) {
            let interval = wanted.interval_s.map(|seconds| (seconds, wanted.offset_hour.unwrap_or(0)));
            let set = writer.log.set_rolling(text_log::Rolling { interval, size_mib: wanted.size_mib });
            set.map_err(|error| format!("log.rolling: {error}"))?;
        }
        files.insert(file.name.clone(), (Arc::clone(&writer), file.rolling.or(rolling)));
        Ok(writer)
    }
}

/// Logs something that clients or filters can bring about as often as they like, where the transaction's stream is not at
/// hand (else [`engine::Stream::tell`]): told in full when it occurs first, and counted after that, as `what`.
#[cold]
pub(crate) fn tell(what: &str, txn: Option<u64>, text: std::fmt::Arguments<'_>) {
    let place = Place { thread: Thread::Slot(crate::threads::slot()), txn, ..Place::default() };
    journal::told(log::Level::Error, what, place, text);
}

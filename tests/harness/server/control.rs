//! A running server's configuration and statistics.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use super::super::install::Install;
use super::super::{client, poll};
use super::TrafficServer;

const RELOADED: &str = "remap.config finished loading";
const REFUSED: &str = "remap.config failed to load";

impl TrafficServer {
    /// Writes a file of the configuration directory as it is.
    #[track_caller]
    pub fn write_file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        self.root.write(&format!("etc/{name}"), bytes.as_ref())
    }

    /// Writes a text file of the configuration directory, its `{names}` replaced.
    #[track_caller]
    pub fn write_text(&self, name: &str, text: &str) -> PathBuf {
        self.write_file(name, self.expand(text))
    }

    /// Replaces `{names}` as the builder does.
    #[track_caller]
    pub fn expand(&self, text: &str) -> String {
        self.root.expand(text)
    }

    /// Replaces remap.config, which counts from the next [`reload`](TrafficServer::reload).
    #[track_caller]
    pub fn rewrite_remap(&self, text: &str) {
        let mut text = self.expand(text);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        self.root.write("etc/remap.config", text.as_bytes());
        *self.remap.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Puts a new copy of the plugin in the old one's place, which ATS takes for another version at the next reload.
    #[track_caller]
    pub fn renew_plugin(&self) {
        self.root.renew_plugin();
    }

    /// As [`renew_plugin`](TrafficServer::renew_plugin), with another build.
    #[track_caller]
    pub fn replace_plugin(&mut self, build: PathBuf) {
        self.root.replace_plugin(build);
    }

    /// Has the server load its configuration again and waits for the outcome, with the log lines of it. ATS looks at
    /// remap.config if it changed, so this changes it; the manager takes two to ten seconds.
    #[track_caller]
    pub fn reload(&self) -> Result<Vec<String>, Vec<String>> {
        self.wait_for_manager();
        let serial = self.reloads.fetch_add(1, Ordering::Relaxed) + 1;
        let text = self.remap.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mark = self.mark();
        self.root.write("etc/remap.config", format!("{text}# reload {serial}\n").as_bytes());
        self.traffic_ctl(&["config", "reload"]);
        let outcome = poll(Duration::from_secs(60), || {
            let lines = self.lines_since(mark);
            let ended = lines.iter().find(|line| line.contains(RELOADED) || line.contains(REFUSED))?;
            let failed = ended.contains(REFUSED);
            Some(if failed { Err(lines) } else { Ok(lines) })
        });
        outcome.unwrap_or_else(|| {
            panic!(
                "a minute after `traffic_ctl config reload` nothing was loaded:\n{}",
                self.lines_since(mark).join("\n")
            )
        })
    }

    /// Runs traffic_ctl, which must succeed, and gives its output.
    #[track_caller]
    pub fn traffic_ctl(&self, args: &[&str]) -> String {
        self.wait_for_manager();
        match self.try_traffic_ctl(args) {
            Ok(output) => output,
            Err(error) => panic!("traffic_ctl {}: {error}", args.join(" ")),
        }
    }

    /// As [`traffic_ctl`](TrafficServer::traffic_ctl), with its complaint as the error.
    pub fn try_traffic_ctl(&self, args: &[&str]) -> Result<String, String> {
        let program = Install::get().program("traffic_ctl");
        let output = Command::new(program)
            .args(args)
            .env("TS_RUNROOT", self.root())
            .current_dir(self.root())
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            Ok(text)
        } else {
            Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    /// The manager answers some time after the server does.
    #[track_caller]
    fn wait_for_manager(&self) {
        assert!(self.manager, "this needs traffic_manager: start the server with .manager()");
        self.managed.get_or_init(|| {
            let answered = poll(Duration::from_secs(30), || {
                self.try_traffic_ctl(&["metric", "get", "proxy.process.http.incoming_requests"]).ok()
            });
            assert!(answered.is_some(), "traffic_manager does not answer\n{}", self.logs.tails());
        });
    }

    /// A metric by its name, a tenth of a second old at most (a second under a manager without `.stats()`); `None` if
    /// there is none.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<i64> {
        if !self.stats {
            self.wait_for_manager();
            let output = self.try_traffic_ctl(&["metric", "get", name]).ok()?;
            return output.split_whitespace().last()?.parse().ok();
        }
        self.metrics().remove(name)
    }

    /// All metrics that are numbers. Needs `.stats()`; the request for them counts as one.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, i64> {
        assert!(self.stats, "this needs stats_over_http: start the server with .stats()");
        // What was counted on another thread is added up every tenth of a second.
        thread::sleep(Duration::from_millis(150));
        let text = client::get(self.port(), "stats.test", "/_stats", &[]).text();
        let metric = |line: &str| {
            let mut parts = line.split('"');
            let (name, value) = (parts.nth(1)?, parts.nth(1)?);
            Some((name.to_owned(), value.parse().ok()?))
        };
        text.lines().filter_map(metric).collect()
    }

    /// The plugin's own counters, without their `wasm_remap.`, once they are as `settled` wants them. It exports them
    /// every second. Needs `.stats()`.
    #[track_caller]
    pub fn counters(&self, what: &str, settled: impl Fn(&BTreeMap<String, i64>) -> bool) -> BTreeMap<String, i64> {
        let mut last = BTreeMap::new();
        let counters = poll(Duration::from_secs(20), || {
            let own = |(name, value): (String, i64)| Some((name.strip_prefix("wasm_remap.")?.to_owned(), value));
            last = self.metrics().into_iter().filter_map(own).collect();
            settled(&last).then(|| last.clone())
        });
        counters.unwrap_or_else(|| panic!("waited 20 s in vain: {what}\n{last:#?}"))
    }
}

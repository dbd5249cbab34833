//! The installed Traffic Server: its programs and its directories.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What is installed on this machine.
#[derive(Debug)]
pub struct Install {
    /// `traffic_server`
    pub server: PathBuf,
    /// Beside it.
    pub bin: PathBuf,
    /// Its plugins.
    pub modules: PathBuf,
    /// Its libraries.
    pub lib: PathBuf,
    /// Its headers.
    pub include: PathBuf,
    /// Its configuration, of which the harness uses the error pages alone.
    pub etc: PathBuf,
}

impl Install {
    /// Looks once: `TRAFFIC_SERVER`, then `PATH`, then `/usr/bin`. Panics if there is none.
    #[track_caller]
    pub fn get() -> &'static Install {
        static INSTALL: OnceLock<Install> = OnceLock::new();
        INSTALL.get_or_init(find)
    }

    /// Another of its programs.
    #[track_caller]
    pub fn program(&self, name: &str) -> PathBuf {
        let path = self.bin.join(name);
        if path.is_file() {
            return path;
        }
        in_path(name).unwrap_or_else(|| {
            panic!("{} has no {name} beside it, nor has PATH: `apt install trafficserver`", self.server.display())
        })
    }
}

/// A program of the machine, or a panic that names the package to install.
#[track_caller]
pub fn tool(name: &str, package: &str) -> PathBuf {
    in_path(name).unwrap_or_else(|| panic!("{name} is not installed: `apt install {package}`"))
}

fn find() -> Install {
    let server = match env::var_os("TRAFFIC_SERVER").map(PathBuf::from) {
        Some(path) => {
            assert!(path.is_file(), "TRAFFIC_SERVER names {}, which is no file", path.display());
            path
        }
        None => in_path("traffic_server")
            .or_else(|| Some(PathBuf::from("/usr/bin/traffic_server")).filter(|path| path.is_file()))
            .unwrap_or_else(|| {
                panic!(
                    "no traffic_server: not in TRAFFIC_SERVER, PATH or /usr/bin. \
                 These tests run on a real one: `apt install trafficserver`"
                )
            }),
    };
    let server = server.canonicalize().unwrap_or(server);
    let bin = server.parent().map_or_else(|| PathBuf::from("/usr/bin"), Path::to_path_buf);
    let layout = layout(&bin);
    let dir = |key: &str, default: &str| layout.get(key).map_or_else(|| PathBuf::from(default), PathBuf::from);
    Install {
        modules: dir("PLUGINDIR", "/usr/lib/trafficserver/modules"),
        lib: dir("LIBDIR", "/usr/lib/trafficserver"),
        include: dir("INCLUDEDIR", "/usr/include"),
        etc: dir("SYSCONFDIR", "/etc/trafficserver"),
        server,
        bin,
    }
}

/// `traffic_layout info`; where it cannot be asked, the Debian package's directories stand in.
fn layout(bin: &Path) -> HashMap<String, String> {
    let output =
        Command::new(bin.join("traffic_layout")).arg("info").env_remove("TS_RUNROOT").current_dir("/").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

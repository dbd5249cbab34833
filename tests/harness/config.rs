//! A server's own directory tree and the configuration in it.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::artifacts;
use super::install::Install;
use super::process;

/// A value of records.config, with the type that ATS wants named beside it.
#[derive(Clone, Debug, PartialEq)]
pub enum RecordValue {
    /// `INT`
    Int(i64),
    /// `FLOAT`
    Float(f64),
    /// `STRING`
    Text(String),
}

impl fmt::Display for RecordValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordValue::Int(value) => write!(f, "INT {value}"),
            RecordValue::Float(value) => write!(f, "FLOAT {value:?}"),
            RecordValue::Text(value) => write!(f, "STRING {value}"),
        }
    }
}

impl From<i64> for RecordValue {
    fn from(value: i64) -> RecordValue {
        RecordValue::Int(value)
    }
}

impl From<f64> for RecordValue {
    fn from(value: f64) -> RecordValue {
        RecordValue::Float(value)
    }
}

impl From<&str> for RecordValue {
    fn from(value: &str) -> RecordValue {
        RecordValue::Text(value.to_owned())
    }
}

impl From<String> for RecordValue {
    fn from(value: String) -> RecordValue {
        RecordValue::Text(value)
    }
}

/// One line of remap.config.
#[derive(Clone, Debug)]
pub struct Rule {
    scheme: &'static str,
    host: String,
    path: String,
    target: String,
    plugins: Vec<(String, Vec<String>)>,
}

impl Rule {
    /// Maps all of a host to a target, such as `http://{origin}/`.
    pub fn new(host: &str, target: &str) -> Rule {
        Rule {
            scheme: "http",
            host: host.to_owned(),
            path: "/".to_owned(),
            target: target.to_owned(),
            plugins: Vec::new(),
        }
    }

    /// Maps what comes over TLS, and nothing else.
    pub fn tls(mut self) -> Rule {
        self.scheme = "https";
        self
    }

    /// Maps what begins with this path alone.
    pub fn path(mut self, path: &str) -> Rule {
        self.path = path.to_owned();
        self
    }

    /// Adds a plugin and its parameters.
    pub fn plugin<S: Into<String>>(mut self, name: &str, params: impl IntoIterator<Item = S>) -> Rule {
        self.plugins.push((name.to_owned(), params.into_iter().map(Into::into).collect()));
        self
    }

    /// Adds the plugin under test with its filter files.
    pub fn wasm<S: Into<String>>(self, files: impl IntoIterator<Item = S>) -> Rule {
        self.plugin(artifacts::PLUGIN, files)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {}://{}{} {}", self.scheme, self.host, self.path, self.target)?;
        for (name, params) in &self.plugins {
            write!(f, " @plugin={name}")?;
            for param in params {
                write!(f, " @pparam={param}")?;
            }
        }
        Ok(())
    }
}

/// The directory tree that one server calls its own.
#[derive(Debug)]
pub(crate) struct Root {
    dir: Option<TempDir>,
    path: PathBuf,
    owner: Option<Owner>,
    variables: BTreeMap<String, String>,
    build: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct Owner {
    name: String,
    user: u32,
    group: u32,
}

impl Root {
    /// Makes the tree: empty but for what every server needs.
    #[track_caller]
    pub(crate) fn create(variables: BTreeMap<String, String>, build: Option<PathBuf>) -> Root {
        let owner = owner();
        let parent = parent();
        // Short, for a socket's path may have 107 bytes.
        let dir = tempfile::Builder::new().prefix("wasm-remap-").rand_bytes(6).tempdir_in(&parent);
        let dir = dir.unwrap_or_else(|error| panic!("cannot make a directory in {}: {error}", parent.display()));
        let path = dir.path().to_path_buf();
        let mut root = Root { dir: Some(dir), path: path.clone(), owner, variables, build };
        for name in ["", "etc", "log", "run", "cache", "share", "modules", "wasm"] {
            let dir = path.join(name);
            fs::create_dir_all(&dir).expect("a directory under one just made");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
            root.give(&dir);
        }
        for name in ["etc", "log", "modules", "wasm"] {
            root.variables.insert(name.to_owned(), path.join(name).display().to_string());
        }
        root.variables.insert("root".to_owned(), path.display().to_string());
        root
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the tree where it is.
    pub(crate) fn keep(&mut self) -> &Path {
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
        &self.path
    }

    /// The user that the server is to become.
    pub(crate) fn user_record(&self) -> String {
        // Whoever is not root stays who he is.
        self.owner.as_ref().map_or_else(|| "#-1".to_owned(), |owner| owner.name.clone())
    }

    /// Writes a file, readable and owned by the server's user. It appears whole or not at all.
    #[track_caller]
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path.join(name);
        let parent = path.parent().expect("a file stands in a directory");
        self.make_dirs(parent);
        let temporary = parent.join(format!(".{}.new", path.file_name().unwrap_or_default().to_string_lossy()));
        fs::write(&temporary, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", temporary.display()));
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o644)).expect("the file is ours");
        self.give(&temporary);
        fs::rename(&temporary, &path).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        path
    }

    /// Copies a file in, for its own place may be closed to the server's user.
    #[track_caller]
    pub(crate) fn copy_in(&self, from: &Path, name: &str) -> PathBuf {
        let bytes = fs::read(from).unwrap_or_else(|error| panic!("cannot read {}: {error}", from.display()));
        self.write(name, &bytes)
    }

    fn make_dirs(&self, dir: &Path) {
        if dir.is_dir() {
            return;
        }
        if let Some(parent) = dir.parent() {
            self.make_dirs(parent);
        }
        fs::create_dir(dir).unwrap_or_else(|error| panic!("cannot create {}: {error}", dir.display()));
        self.give(dir);
    }

    pub(crate) fn give(&self, path: &Path) {
        if let Some(owner) = &self.owner {
            chown(path, Some(owner.user), Some(owner.group))
                .unwrap_or_else(|error| panic!("cannot give {} to {}: {error}", path.display(), owner.name));
        }
    }

    /// Puts `{name}` and `{guest:name}` in place; a guest is copied in on the way, the plugin when it is named.
    #[track_caller]
    pub(crate) fn expand(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            let inside = rest[1..].split('}').next().unwrap_or_default();
            // Whatever else stands in braces belongs to YAML or JSON.
            let value = match inside.strip_prefix("guest:") {
                Some(name) => Some(self.guest(name).display().to_string()),
                None => self.variables.get(inside).cloned(),
            };
            match value {
                Some(value) if rest.len() > inside.len() + 1 => {
                    out.push_str(&value);
                    rest = &rest[inside.len() + 2..];
                }
                _ => {
                    out.push('{');
                    rest = &rest[1..];
                }
            }
        }
        out.push_str(rest);
        if out.contains(artifacts::PLUGIN) {
            self.plugin();
        }
        out
    }

    /// The guest's copy.
    #[track_caller]
    pub(crate) fn guest(&self, name: &str) -> PathBuf {
        let file = format!("wasm/{name}.wasm");
        let path = self.path.join(&file);
        if path.is_file() { path } else { self.copy_in(&artifacts::guest(name), &file) }
    }

    /// The plugin's copy.
    #[track_caller]
    pub(crate) fn plugin(&self) -> PathBuf {
        let path = self.path.join("modules").join(artifacts::PLUGIN);
        if path.is_file() { path } else { self.renew_plugin() }
    }

    /// Copies the plugin in again, two seconds younger than the copy before: ATS tells them apart by the second.
    #[track_caller]
    pub(crate) fn renew_plugin(&self) -> PathBuf {
        let name = format!("modules/{}", artifacts::PLUGIN);
        let before = fs::metadata(self.path.join(&name)).and_then(|data| data.modified()).ok();
        let build = self.build.clone().unwrap_or_else(artifacts::plugin);
        let path = self.copy_in(&build, &name);
        if let Some(before) = before {
            let time = SystemTime::now().max(before + Duration::from_secs(2));
            let file = fs::File::options().write(true).open(&path).expect("the copy is ours");
            file.set_modified(time).expect("the copy is ours");
        }
        path
    }

    /// The same with another build, which counts from now on.
    #[track_caller]
    pub(crate) fn replace_plugin(&mut self, build: PathBuf) {
        self.build = Some(build);
        self.renew_plugin();
    }

    /// Writes what every server needs: its layout, and configuration files that are else warned about.
    #[track_caller]
    pub(crate) fn write_basics(&self, install: &Install) {
        let root = self.path.display();
        let layout = format!(
            "prefix: {root}\nexec_prefix: {root}\nbindir: {bin}\nsbindir: {bin}\nsysconfdir: {root}/etc\ndatadir: {root}/share\n\
             includedir: {include}\nlibdir: {lib}\nlibexecdir: {root}/modules\nlocalstatedir: {root}\nruntimedir: {root}/run\n\
             logdir: {root}/log\ncachedir: {root}/cache\n",
            bin = install.bin.display(),
            include = install.include.display(),
            lib = install.lib.display(),
        );
        self.write("runroot.yaml", layout.as_bytes());
        self.write("etc/storage.config", format!("{root}/cache 64M\n").as_bytes());
        self.write(
            "etc/ip_allow.yaml",
            b"ip_allow:\n  - apply: in\n    ip_addrs: 127.0.0.1\n    action: allow\n    methods: ALL\n",
        );
        self.write("etc/logging.yaml", b"logging:\n  formats: []\n");
        // Not ssl_multicert.config: an empty one costs every start 50 ms, an absent one a warning.
        for name in
            ["cache.config", "hosting.config", "parent.config", "socks.config", "splitdns.config", "volume.config"]
        {
            self.write(&format!("etc/{name}"), b"");
        }
        self.write("etc/sni.yaml", b"sni: []\n");
        // The error pages are the installation's: what a local response looks like depends on them.
        let pages = install.etc.join("body_factory");
        if pages.is_dir() {
            symlink(&pages, self.path.join("etc/body_factory")).expect("the directory is ours");
        }
        let Ok(modules) = fs::read_dir(&install.modules) else { return };
        for module in modules.filter_map(Result::ok) {
            // An installed copy of the plugin under test is not the one under test.
            if module.file_name() != artifacts::PLUGIN {
                symlink(module.path(), self.path.join("modules").join(module.file_name()))
                    .expect("the directory is ours");
            }
        }
    }
}

/// Whom files are given to, and as whom the server runs, if this process is root: traffic_server refuses to be.
fn owner() -> Option<Owner> {
    if process::own_user() != 0 {
        return None;
    }
    let names = env::var("TRAFFIC_SERVER_USER")
        .map_or_else(|_| vec!["trafficserver".to_owned(), "nobody".to_owned()], |name| vec![name]);
    for name in &names {
        if let Some((user, group)) = process::user(name) {
            return Some(Owner { name: name.clone(), user, group });
        }
    }
    panic!(
        "root must become another user to run traffic_server, and there is none of {}: name one in TRAFFIC_SERVER_USER",
        names.join(", ")
    );
}

/// Where trees are made: a directory that another user can pass through.
fn parent() -> PathBuf {
    let candidates = [env::temp_dir(), PathBuf::from("/tmp"), PathBuf::from("/var/tmp")];
    let passable = |dir: &PathBuf| {
        let open = |dir: &Path| fs::metadata(dir).is_ok_and(|data| data.is_dir() && data.mode() & 0o001 != 0);
        process::own_user() != 0 || dir.ancestors().all(open)
    };
    candidates
        .into_iter()
        .find(|dir| dir.is_dir() && passable(dir))
        .expect("a temporary directory that every user can pass through")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_reads_as_remap_config_does() {
        let rule = Rule::new("a.test", "http://{origin}/")
            .path("/x/")
            .wasm(["f/a.yaml", "f/b.yaml"])
            .plugin("conf_remap.so", ["k=v"]);
        assert_eq!(
            rule.to_string(),
            "map http://a.test/x/ http://{origin}/ @plugin=wasm_remap.so @pparam=f/a.yaml @pparam=f/b.yaml @plugin=conf_remap.so @pparam=k=v"
        );
    }

    #[test]
    fn only_known_names_in_braces_are_replaced() {
        let variables = BTreeMap::from([("origin".to_owned(), "127.0.0.1:9".to_owned())]);
        let root = Root::create(variables, None);
        assert_eq!(root.expand("{origin} {a: 1} {{origin}} {orig"), "127.0.0.1:9 {a: 1} {127.0.0.1:9} {orig");
        assert_eq!(root.expand("{etc}"), root.path().join("etc").display().to_string());
    }

    #[test]
    fn records_carry_their_type() {
        assert_eq!(RecordValue::from(3).to_string(), "INT 3");
        assert_eq!(RecordValue::from(1.0).to_string(), "FLOAT 1.0");
        assert_eq!(RecordValue::from("x").to_string(), "STRING x");
    }
}

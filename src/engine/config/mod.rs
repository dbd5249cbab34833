//! Filter files: YAML in, [`FilterSpec`]s out.
//!
//! Every mistake is an error with file, line and column and a word on what was expected. serde_yaml is used here
//! and nowhere else, since it is no longer developed.

mod clusters;
mod code;
pub mod error;
mod filter;
mod limits;
mod metrics;
mod namespaces;
mod place;
mod spelling;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use filter::RawFilter;

pub use callout::{ClusterSettings, Protocol};
pub use clusters::HostPattern;
pub use code::{Code, CodeCache, Source};
pub use error::ConfigError;
pub use filter::{At, Body, FailurePolicy, FilterSpec, RequestBody};
pub use metrics::Metrics;
pub use namespaces::Namespace;
pub use spelling::{Migration, Spelling};

/// A configuration file larger than this is surely another file.
const MAX_FILE: u64 = 16 << 20;

/// What a file says, or several files together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigFile {
    /// The chain, first to last.
    pub filters: Vec<FilterSpec>,
    /// Filters that run once in the process, with no transaction.
    pub services: Vec<FilterSpec>,
    /// Upstreams that filters and services call, by name.
    pub clusters: BTreeMap<String, ClusterSettings>,
    /// Ceilings of what filters with one `vm_id` share.
    pub namespaces: Vec<Namespace>,
    /// Where metrics are served; nowhere without.
    pub metrics: Vec<Metrics>,
    /// What is accepted, and may not mean what its writer thinks.
    pub warnings: Vec<ConfigError>,
    /// Where compiled code is kept; nowhere without.
    pub code_cache: Option<CodeCache>,
}

impl ConfigFile {
    /// Adds what another file says, behind what is here.
    ///
    /// # Errors
    /// A cluster, or a `code_cache`, that both have, and not alike.
    pub fn extend(&mut self, other: ConfigFile) -> Result<(), String> {
        for (name, settings) in other.clusters {
            if self.clusters.get(&name).is_some_and(|own| *own != settings) {
                return Err(format!(
                    "the cluster '{name}' is defined in two files of the rule, and not alike: define it in one, or give \
                     one of them another name"
                ));
            }
            self.clusters.insert(name, settings);
        }
        match (&self.code_cache, other.code_cache) {
            (Some(own), Some(other)) if *own != other => {
                return Err(format!(
                    "code_cache is said in two files of the rule, and not alike: {} with {} MiB, and {} with {} MiB",
                    own.directory.display(),
                    own.max_bytes >> 20,
                    other.directory.display(),
                    other.max_bytes >> 20
                ));
            }
            (None, Some(other)) => self.code_cache = Some(other),
            _ => {}
        }
        self.filters.extend(other.filters);
        self.services.extend(other.services);
        self.namespaces.extend(other.namespaces);
        self.metrics.extend(other.metrics);
        self.warnings.extend(other.warnings);
        Ok(())
    }

    /// Reads the files of a rule, in order. `config_dir` is as in [`load`].
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn load_all<P: AsRef<Path>>(
        files: impl IntoIterator<Item = P>,
        config_dir: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut all = ConfigFile::default();
        for file in files {
            let file = file.as_ref();
            all.extend(load(file, config_dir)?).map_err(|message| ConfigError::of_file(file, message))?;
        }
        Ok(all)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    filters: Option<Vec<RawFilter>>,
    #[serde(default)]
    services: Vec<RawFilter>,
    #[serde(default)]
    clusters: BTreeMap<String, clusters::RawCluster>,
    #[serde(default)]
    namespaces: Vec<namespaces::RawNamespace>,
    metrics: Option<metrics::RawMetrics>,
    code_cache: Option<code::RawCodeCache>,
}

/// Reads one filter file.
///
/// Module paths are relative to the file that names them; but those of files of the C++ plugin to `config_dir`, the
/// proxy's configuration directory, or to the file too where none is known.
///
/// # Errors
/// The first mistake, with its place.
pub fn load(file: &Path, config_dir: Option<&Path>) -> Result<ConfigFile, ConfigError> {
    let fail = |message: String| ConfigError::of_file(file, message);
    let metadata = std::fs::metadata(file).map_err(|error| fail(format!("cannot be read: {error}")))?;
    if metadata.len() > MAX_FILE {
        return Err(fail(format!("has {} bytes; a filter file has no more than {MAX_FILE}", metadata.len())));
    }
    let text = std::fs::read_to_string(file).map_err(|error| fail(format!("cannot be read: {error}")))?;
    match spelling::load(file, &text, config_dir)? {
        Some(config) => Ok(config),
        None => ours(file, &text),
    }
}

/// [`load`], from text that is there already. `file` is for messages and for relative paths.
///
/// # Errors
/// As there.
pub fn parse(file: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    match spelling::load(file, text, None)? {
        Some(config) => Ok(config),
        None => ours(file, text),
    }
}

/// A file in our own spelling.
fn ours(file: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    let fail = |message: String| ConfigError::of_file(file, message);
    let raw: RawFile = serde_yaml::from_str(text).map_err(|error| yaml_error(file, &error))?;
    let shared = !raw.services.is_empty()
        || !raw.clusters.is_empty()
        || !raw.namespaces.is_empty()
        || raw.metrics.is_some()
        || raw.code_cache.is_some();
    let filters = match raw.filters {
        Some(filters) if filters.is_empty() => {
            return Err(fail(
                "the list 'filters' is empty: name at least one filter, or drop the file from the rule".into(),
            ));
        }
        Some(filters) => filters,
        // What other files of the rule use.
        None if shared => Vec::new(),
        None => {
            return Err(fail(
                "has neither 'filters' nor 'services', 'clusters', 'namespaces', 'metrics' or 'code_cache'".into(),
            ));
        }
    };
    let home = file.parent().unwrap_or(Path::new("."));
    let list = |key: &str, raw: Vec<RawFilter>| {
        let one = |(index, filter): (usize, RawFilter)| {
            filter.resolve(file, home).map_err(|message| fail(format!("{key}[{index}]: {message}")))
        };
        raw.into_iter().enumerate().map(one).collect::<Result<Vec<_>, _>>()
    };
    let namespace = |(index, raw): (usize, namespaces::RawNamespace)| {
        raw.resolve().map_err(|message| fail(format!("namespaces[{index}]: {message}")))
    };
    let services = list("services", raw.services)?;
    if let Some(service) = services.iter().find(|service| service.request_body != RequestBody::default()) {
        return Err(fail(format!("service '{}': a service has no transactions, so no 'request_body'", service.name)));
    }
    Ok(ConfigFile {
        filters: list("filters", filters)?,
        services,
        clusters: clusters::resolve(raw.clusters, home).map_err(fail)?,
        namespaces: raw.namespaces.into_iter().enumerate().map(namespace).collect::<Result<_, _>>()?,
        metrics: raw.metrics.map(|metrics| metrics.resolve()).transpose().map_err(fail)?.into_iter().collect(),
        warnings: Vec::new(),
        code_cache: raw.code_cache.map(|cache| cache.resolve(home)),
    })
}

/// serde_yaml's error with its place where places belong.
fn yaml_error(file: &Path, error: &serde_yaml::Error) -> ConfigError {
    let at = error.location().map(|place| (place.line(), place.column()));
    let mut message = error.to_string();
    if let Some(cut) = message.rfind(" at line ").filter(|_| at.is_some()) {
        message.truncate(cut);
    }
    ConfigError { at, ..ConfigError::of_file(file, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::pairs::PairsLimits;
    use crate::capabilities::Capabilities;

    fn parse_text(text: &str) -> Result<Vec<FilterSpec>, String> {
        parse(Path::new("/etc/f/shop.yaml"), text).map(|file| file.filters).map_err(|error| error.to_string())
    }

    #[test]
    fn a_filter_file_in_full() {
        let specs = parse_text(
            "filters:\n  - name: a\n    module: m/a.wasm\n    root_id: r\n    configuration: {b: [1, true]}\n    \
             vm_id: v\n    vm_configuration: text\n    environment: {K: V}\n    failure_policy: open\n    \
             limits: {memory_mib: 8, callback_ms: 5, header_kib: 3, header_count: 7}\n    \
             allowed_capabilities: [proxy_log]\n  - name: b\n    module: /abs/b.wasm\n",
        )
        .unwrap();
        assert_eq!(specs[0].code, Code::file("/etc/f/m/a.wasm"));
        assert_eq!(&*specs[0].configuration, br#"{"b":[1,true]}"#);
        assert_eq!(&*specs[0].vm_configuration, b"text");
        assert_eq!(specs[0].failure_policy, FailurePolicy::Open);
        assert_eq!(specs[0].limits.memory_bytes, 8 << 20);
        assert_eq!(specs[0].limits.pairs, PairsLimits { pairs: 7, bytes: 3 << 10 });
        assert_eq!(specs[0].allowed_capabilities, Some(Capabilities::new(["proxy_log"]).unwrap()));
        assert_eq!(specs[0].environment, [("K".to_owned(), "V".to_owned())]);
        assert_eq!(specs[1].code, Code::file("/abs/b.wasm"));
        assert_eq!(specs[1].failure_policy, FailurePolicy::Closed);
        assert!(specs[1].configuration.is_empty());
        assert_eq!(specs[1].limits.pairs, PairsLimits::default());
        assert_eq!(specs[1].allowed_capabilities, None);
    }

    #[test]
    fn where_metrics_are_served() {
        let metrics = |text: &str| {
            let text = format!("filters: [{{name: a, module: b}}]\n{text}");
            parse(Path::new("f.yaml"), &text).unwrap().metrics.pop()
        };
        assert_eq!(metrics(""), None);
        let listen = |address: &str, any_address| Some(Metrics { listen: address.parse().unwrap(), any_address });
        assert_eq!(metrics("metrics: {listen: '127.0.0.1:9151'}"), listen("127.0.0.1:9151", false));
        assert_eq!(metrics("metrics: {listen: '[::1]:9151'}"), listen("[::1]:9151", false));
        assert_eq!(metrics("metrics: {listen: 0.0.0.0:9151, any_address: true}"), listen("0.0.0.0:9151", true));
    }

    #[test]
    fn mistakes_say_where_and_what() {
        let cases = [
            (
                "filters:\n  - name: a\n    modul: a.wasm\n",
                "/etc/f/shop.yaml:3:5: filters[0]: unknown field `modul`, expected one of `name`, `module`",
            ),
            ("filters:\n  - name: a\n", "/etc/f/shop.yaml:2:5: filters[0]: missing field `module`"),
            (
                "filters:\n  - name: [1]\n    module: a\n",
                "/etc/f/shop.yaml:2:11: filters[0].name: invalid type: sequence",
            ),
            ("filter: []\n", "/etc/f/shop.yaml:1:1: unknown field `filter`, expected one of `filters`, `services`"),
            (
                "metrics: {listen: 9151}\nfilters: [{name: a, module: b}]\n",
                "/etc/f/shop.yaml: metrics.listen: '9151' is no address; one looks like 127.0.0.1:9151",
            ),
            (
                "metrics: {listen: localhost:9151}\nfilters: [{name: a, module: b}]\n",
                "/etc/f/shop.yaml: metrics.listen: 'localhost:9151' is no address; one looks like 127.0.0.1:9151",
            ),
            (
                "metrics: {listen: '127.0.0.1:0'}\nfilters: [{name: a, module: b}]\n",
                "/etc/f/shop.yaml: metrics.listen: port 0 is another one each time",
            ),
            (
                "metrics: {listen: '0.0.0.0:9151'}\nfilters: [{name: a, module: b}]\n",
                "/etc/f/shop.yaml: metrics.listen: 0.0.0.0:9151 may be reached from other machines",
            ),
            ("filters: 3\n", "/etc/f/shop.yaml:1:10: filters: invalid type: integer `3`, expected a sequence"),
            ("filters: []\n", "/etc/f/shop.yaml: the list 'filters' is empty"),
            ("filters:\n\t- a\n", "/etc/f/shop.yaml:2:1: found character that cannot start any token"),
            (
                "filters:\n  - {name: a, module: b, failure_policy: half}\n",
                "/etc/f/shop.yaml:2:42: filters[0].failure_policy: unknown variant `half`, expected `closed` or `open`",
            ),
            (
                "filters:\n  - {name: a, module: b, limits: {callback_ms: 0}}\n",
                "/etc/f/shop.yaml: filters[0]: limits.callback_ms: must be at least 1",
            ),
            (
                "filters:\n  - {name: a, module: b, limits: {header_kib: 0}}\n",
                "/etc/f/shop.yaml: filters[0]: limits.header_kib: must be at least 1",
            ),
            (
                "filters:\n  - name: a\n    module: b\n    allowed_capabilities: [proxy_log, proxy_logs]\n",
                "/etc/f/shop.yaml:4:27: filters[0].allowed_capabilities: 'proxy_logs' is no hostcall, callback or \
                 function of WASI; the nearest name is 'proxy_log'",
            ),
            (
                "filters:\n  - name: a\n    module: b\n    allowed_capabilities:\n",
                "/etc/f/shop.yaml:4:26: filters[0].allowed_capabilities: invalid type: unit value, expected a list of \
                 names ([] allows nothing; without the key everything is allowed)",
            ),
            (
                "filters:\n  - name: a\n    module: b\n    allowed_capabilities: {proxy_log: {max: 3}}\n",
                "/etc/f/shop.yaml:4:40: filters[0].allowed_capabilities.proxy_log: unknown field `max`, there are no \
                 fields",
            ),
            ("", "/etc/f/shop.yaml"),
        ];
        for (text, expected) in cases {
            let message = parse_text(text).unwrap_err();
            assert!(message.starts_with(expected), "for {text:?}\n  got {message}\n  not {expected}");
        }
    }
}

//! Filter files: YAML in, [`FilterSpec`]s out.
//!
//! Every mistake is an error with file, line and column, what is wrong marked, and a word on what was expected. serde_yaml
//! is used here and nowhere else, since it is no longer developed.

#![allow(clippy::result_large_err, reason = "made once, when a file is wrong")]

mod breaker;
mod clusters;
mod code;
mod defaults;
pub mod error;
mod failure;
mod filter;
mod isolation;
mod limits;
mod log;
pub mod matching;
mod metrics;
mod mistake;
mod modules;
mod namespaces;
mod place;
mod reader;
mod reads;
mod schema;
mod spelling;
mod substitute;
mod suggest;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;

use defaults::{RawDefaults, RawService};
use filter::RawFilter;
use modules::Modules;
use place::{Part, Source as Text, Trail};
use substitute::{Substitution, VariableName};

pub use breaker::{BreakerSettings, BreakerSpec};
pub use callout::{ClusterSettings, Protocol};
pub use clusters::HostPattern;
pub use code::{Code, CodeCache, Source};
pub use error::{ConfigError, Excerpt};
pub use failure::{Failure, FailurePolicy};
pub use filter::{At, Body, FilterSpec, RequestBody};
pub use isolation::Isolation;
pub use metrics::Metrics;
pub use namespaces::Namespace;
pub use schema::schema;
pub use spelling::{Migration, Spelling};
pub use substitute::Variables;
pub(crate) use suggest::least_far;

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
    /// The files that it is loaded from are watched, and what changes takes effect by itself.
    pub watch: bool,
    /// What is accepted, and may not mean what its writer thinks.
    pub warnings: Vec<ConfigError>,
    /// Where compiled code is kept; nowhere without.
    pub code_cache: Option<CodeCache>,
}

impl ConfigFile {
    /// Adds what another file, at `file`, says, behind what is here.
    ///
    /// # Errors
    /// A cluster, or a `code_cache`, that both have, and not alike.
    pub fn extend(&mut self, file: &Path, other: ConfigFile) -> Result<(), ConfigError> {
        for (name, settings) in other.clusters {
            if self.clusters.get(&name).is_some_and(|own| *own != settings) {
                let message = "the cluster is described in two files of the rule, and not alike: keep one of the two, or \
                               give one of them another name";
                let trail = Trail::default().key("clusters").key(name);
                return Err(again(file, &trail, message.to_owned()));
            }
            self.clusters.insert(name, settings);
        }
        match (&self.code_cache, other.code_cache) {
            (Some(own), Some(other)) if *own != other => {
                let message = format!(
                    "code_cache is said in two files of the rule, and not alike: {} with {} MiB, and {} with {} MiB",
                    own.directory.display(),
                    own.max_bytes >> 20,
                    other.directory.display(),
                    other.max_bytes >> 20
                );
                return Err(again(file, &Trail::default().key("code_cache"), message));
            }
            (None, Some(other)) => self.code_cache = Some(other),
            _ => {}
        }
        self.filters.extend(other.filters);
        self.services.extend(other.services);
        self.namespaces.extend(other.namespaces);
        self.metrics.extend(other.metrics);
        self.watch |= other.watch;
        self.warnings.extend(other.warnings);
        Ok(())
    }

    /// Reads the files of a rule, in order. `config_dir` is as in [`load`].
    ///
    /// # Errors
    /// The first mistake, with its place.
    pub fn load_all<P: AsRef<Path>>(files: impl IntoIterator<Item = P>) -> Result<Self, ConfigError> {
        ConfigFile::load_all_with(files, &Variables::default(), None)
    }

    /// [`ConfigFile::load_all`], with other environment variables than the process's. `config_dir` is as in [`load_with`].
    ///
    /// # Errors
    /// As there.
    pub fn load_all_with<P: AsRef<Path>>(
        files: impl IntoIterator<Item = P>,
        variables: &Variables,
        config_dir: Option<&Path>,
    ) -> Result<Self, ConfigError> {
        let mut all = ConfigFile::default();
        for file in files {
            all.extend(file.as_ref(), load_with(file.as_ref(), variables, config_dir)?)?;
        }
        Ok(all)
    }
}

/// A filter file of wasm_remap.so.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "File")]
struct RawFile {
    /// The chain: request callbacks run first to last, response callbacks last to first.
    #[schemars(length(min = 1))]
    filters: Option<Vec<RawFilter>>,
    /// What every filter and service of this file says that does not say it itself; `limits` and `environment` key by key.
    defaults: Option<RawDefaults>,
    /// Names for modules that several filters use.
    modules: Option<Modules>,
    /// Environment variables of traffic_server that are put into texts of this file in the place of ${NAME}.
    #[expect(dead_code, reason = "read before all else, see `Prelude`")]
    substitute: Option<Vec<VariableName>>,
    /// Filters that run once in the process, without transactions.
    services: Option<Vec<RawService>>,
    /// Upstreams that filters and services call, by name.
    clusters: Option<BTreeMap<String, clusters::RawCluster>>,
    /// Ceilings of what filters with one `vm_id` share.
    namespaces: Option<Vec<namespaces::RawNamespace>>,
    /// Where metrics are served. Default: nowhere.
    metrics: Option<metrics::RawMetrics>,
    /// Whether what changes in the files of a rule that names this one takes effect by itself. Default: false.
    #[serde(default)]
    watch: bool,
    /// Where compiled modules are kept from one start to the next. Default: nowhere.
    code_cache: Option<code::RawCodeCache>,
    /// Which lines of this file's filters are kept, and where.
    log: Option<log::RawLog>,
}

/// A mistake in a file that was read before. Its text is gone; should the file be, too, the message says it all the same.
fn again(file: &Path, trail: &Trail, message: String) -> ConfigError {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    Text::new(file, &text).wrong(trail, Part::Key, message)
}

/// What must be known before a file is read.
#[derive(Deserialize)]
struct Prelude {
    substitute: Option<Vec<VariableName>>,
}

/// Reads one filter file.
///
/// Module paths are relative to the file that names them; but those of files of the C++ plugin to `config_dir`, the
/// proxy's configuration directory, or to the file too where none is known.
///
/// # Errors
/// The first mistake, with its place.
pub fn load(file: &Path) -> Result<ConfigFile, ConfigError> {
    load_with(file, &Variables::default(), None)
}

/// [`load`], with other environment variables than the process's. Module paths of files of the C++ plugin are relative to
/// `config_dir`, the proxy's configuration directory, or to the file where none is known.
///
/// # Errors
/// As there.
pub fn load_with(file: &Path, variables: &Variables, config_dir: Option<&Path>) -> Result<ConfigFile, ConfigError> {
    let fail = |message: String| ConfigError::of_file(file, message);
    let unreadable = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::PermissionDenied => Some("whoever runs traffic_server must be able to read it".to_owned()),
            ErrorKind::IsADirectory => Some("a filter file is expected".to_owned()),
            _ => None,
        };
        ConfigError { hint, ..fail(format!("cannot be read: {error}")) }
    };
    let metadata = std::fs::metadata(file).map_err(unreadable)?;
    if metadata.len() > MAX_FILE {
        return Err(fail(format!("has {} bytes; a filter file has no more than {MAX_FILE}", metadata.len())));
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    match std::str::from_utf8(&bytes) {
        _ if bytes.starts_with(b"\0asm") => Err(fail("is a WebAssembly module; a filter file is expected".to_owned())),
        Ok(text) => parse_with(file, text, variables, config_dir),
        Err(_) if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) => {
            Err(fail("is UTF-16: save it as UTF-8".to_owned()))
        }
        Err(error) => {
            let (good, rest) = bytes.split_at(error.valid_up_to());
            let text = String::from_utf8_lossy(&bytes);
            let source = Text::new(file, &text);
            // A byte order mark is no part of the first line.
            let at = source.place_of(good.len().saturating_sub(text.len() - source.text.len()));
            let byte = rest.first().copied().unwrap_or_default();
            Err(source.at(Some(at), Part::Value, format!("the byte {byte:#04x} is not UTF-8: save the file as UTF-8")))
        }
    }
}

/// [`load`], from text that is there already. `file` is for messages and for relative paths.
///
/// # Errors
/// As there.
pub fn parse(file: &Path, text: &str) -> Result<ConfigFile, ConfigError> {
    parse_with(file, text, &Variables::default(), None)
}

/// [`parse`], with other environment variables than the process's.
///
/// # Errors
/// As there.
pub fn parse_with(
    file: &Path,
    text: &str,
    variables: &Variables,
    config_dir: Option<&Path>,
) -> Result<ConfigFile, ConfigError> {
    // Which spelling is it?
    match spelling::load(file, text, config_dir)? {
        Some(config) => Ok(config),
        None => own_spelling(&Text::new(file, text), variables),
    }
}

/// A file in our own spelling.
fn own_spelling(source: &Text<'_>, variables: &Variables) -> Result<ConfigFile, ConfigError> {
    let none = Substitution::none(variables);
    let substitution = if source.text.contains("substitute") {
        let prelude: Prelude = reader::read(source, &none)?;
        Substitution::of(prelude.substitute.unwrap_or_default(), variables)
    } else {
        none
    };
    resolve(source, reader::read(source, &substitution)?)
}

/// What a file says, looked at as a whole.
fn resolve(source: &Text<'_>, raw: RawFile) -> Result<ConfigFile, ConfigError> {
    let top = Trail::default();
    let empty = raw.services.as_ref().is_none_or(Vec::is_empty)
        && raw.clusters.as_ref().is_none_or(BTreeMap::is_empty)
        && raw.namespaces.as_ref().is_none_or(Vec::is_empty)
        && raw.metrics.is_none()
        && raw.code_cache.is_none();
    match &raw.filters {
        Some(filters) if filters.is_empty() => {
            let message = "the list is empty: name at least one filter, or drop the key";
            return Err(source.wrong(&top.key("filters"), Part::Value, message));
        }
        // Without filters, a file is for what other files of the rule use.
        None if empty => {
            let message = "has neither 'filters' nor 'services', 'clusters', 'namespaces', 'metrics' or 'code_cache'";
            return Err(source.at(Some((1, 1)), Part::Lack, message.to_owned()));
        }
        _ => {}
    }
    let home = source.file.parent().unwrap_or(Path::new("."));
    let defaults = raw.defaults.unwrap_or_default();
    defaults.check(source)?;
    let modules = raw.modules.unwrap_or_default();
    let log = raw.log.unwrap_or_default();
    let mut file = ConfigFile {
        watch: raw.watch,
        code_cache: raw.code_cache.map(|cache| cache.resolve(home)),
        ..ConfigFile::default()
    };
    for (index, filter) in raw.filters.into_iter().flatten().enumerate() {
        let trail = Trail::default().key("filters").index(index);
        file.filters.push(filter.over(&defaults.0).resolve(source, &trail, &modules, home, &log)?);
    }
    matching::check_count(file.filters.iter().filter_map(|filter| filter.matching.as_ref()))
        .map_err(|message| source.wrong(&top.key("filters"), Part::Value, message))?;
    for (index, service) in raw.services.into_iter().flatten().enumerate() {
        let trail = Trail::default().key("services").index(index);
        service.check(source, &trail)?;
        let mut service = service.0.over(&defaults.0).resolve(source, &trail, &modules, home, &log)?;
        // What is the default of filters means nothing to it.
        service.isolation = Isolation::default();
        file.services.push(service);
    }
    for (name, cluster) in raw.clusters.into_iter().flatten() {
        let trail = Trail::default().key("clusters").key(&name);
        if name.is_empty() || name.chars().any(char::is_control) {
            let message = "the name must be printable text, since log lines and metrics carry it";
            return Err(source.wrong(&trail, Part::Key, message));
        }
        let settings = cluster.resolve(&name, home).map_err(|message| source.wrong_below(&trail, &message))?;
        file.clusters.insert(name, settings);
    }
    for (index, namespace) in raw.namespaces.into_iter().flatten().enumerate() {
        let trail = Trail::default().key("namespaces").index(index);
        file.namespaces.push(namespace.resolve().map_err(|message| source.wrong_below(&trail, &message))?);
    }
    if let Some(metrics) = raw.metrics {
        let metrics = metrics.resolve().map_err(|message| source.wrong_below(&Trail::default(), &message))?;
        file.metrics.push(metrics);
    }
    Ok(file)
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

    /// The corpus in tests/bad-config has the others.
    #[test]
    fn mistakes_say_where_and_what() {
        let cases = [
            (
                "filters:\n  - name: a\n    modul: a.wasm\n",
                "/etc/f/shop.yaml:3:5: filters[0]: unknown key 'modul' in \"»modul«: a.wasm\"; did you mean 'module'? Keys here: ",
            ),
            (
                "filters:\n  - {name: a, module: b, limits: {callback_ms: 0}}\n",
                "/etc/f/shop.yaml:2:48: filters[0].limits.callback_ms: must be at least 1 in \"- {name: a, module: b, limits: \
                 {callback_ms: »0«}}\"",
            ),
            ("", "/etc/f/shop.yaml:1:1: has neither 'filters' nor 'services'"),
        ];
        for (text, expected) in cases {
            let message = parse_text(text).unwrap_err();
            assert!(message.starts_with(expected), "for {text:?}\n  got {message}\n  not {expected}");
        }
    }

    #[test]
    fn defaults_hold_where_a_filter_says_nothing() {
        let file = parse(
            Path::new("/etc/f/shop.yaml"),
            "defaults:\n  vm_id: v\n  failure_policy: open\n  body: none\n  environment: {A: '1', B: '1'}\n  \
             limits: {memory_mib: 8, pause_ms: 7}\n  vm_configuration: {x: 1}\n  allowed_capabilities: [proxy_log]\n\
             filters:\n  - {name: a, module: a}\n  - {name: b, module: b, vm_id: w, failure_policy: closed, body: both, \
             environment: {B: '2', C: '2'}, limits: {pause_ms: 9, body_kib: 1}, vm_configuration: y, \
             allowed_capabilities: []}\nservices:\n  - {name: s, module: s}\n",
        )
        .unwrap();
        let [a, b] = file.filters.as_slice() else { panic!("{file:?}") };
        assert_eq!((a.vm_id.as_str(), a.failure_policy, a.body), ("v", FailurePolicy::Open, Body::None));
        assert_eq!((a.limits.memory_bytes, a.limits.pause.as_millis()), (8 << 20, 7));
        assert_eq!(&*a.vm_configuration, br#"{"x":1}"#);
        assert_eq!(a.allowed_capabilities, Some(Capabilities::new(["proxy_log"]).unwrap()));
        assert_eq!((b.vm_id.as_str(), b.failure_policy, b.body), ("w", FailurePolicy::Closed, Body::Both));
        let limits = (b.limits.memory_bytes, b.limits.pause.as_millis(), b.limits.body_bytes);
        assert_eq!(limits, (8 << 20, 9, 1 << 10));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(b.environment, [pair("A", "1"), pair("B", "2"), pair("C", "2")]);
        assert_eq!(&*b.vm_configuration, b"y");
        assert_eq!(b.allowed_capabilities, Some(Capabilities::new([]).unwrap()));
        // What is about transactions is no mistake in a default, though a service has no use for it.
        let service = &file.services[0];
        assert_eq!((service.vm_id.as_str(), service.limits.memory_bytes), ("v", 8 << 20));
    }

    #[test]
    fn modules_have_names() {
        let text = "modules: {auth: lib/auth-1.2.wasm, b.wasm: /abs/c.wasm}\nfilters:\n  - {name: a, module: auth}\n  \
                    - {name: b, module: b.wasm}\n  - {name: c, module: other.wasm}\nservices:\n  - {name: d, module: auth}\n";
        let file = parse(Path::new("/etc/f/shop.yaml"), text).unwrap();
        let paths: Vec<_> =
            file.filters.iter().map(|filter| filter.code.source.path().unwrap().to_str().unwrap()).collect();
        assert_eq!(paths, ["/etc/f/lib/auth-1.2.wasm", "/abs/c.wasm", "/etc/f/other.wasm"]);
        assert_eq!(file.services[0].code, file.filters[0].code);
    }

    #[test]
    fn variables_are_put_in_where_the_file_asks() {
        let variables = Variables::only([
            ("HOST", "auth.test"),
            ("N", "7"),
            ("YES", "true"),
            ("POLICY", "open"),
            ("HURT", "x: {y: [1]}\n- \"z\" # "),
        ]);
        let text = "substitute: [HOST, N, YES, POLICY, HURT]\nfilters:\n  - name: f-${N}\n    module: ${HOST}/m.wasm\n    \
                    configuration: {${N}: '${N}', number: ${N}, text: '${HURT}', keep: '${OTHER} $${N}', plain: 5}\n    \
                    vm_configuration: ${HURT}\n    failure_policy: ${POLICY}\n    environment: {A: '${N}${N}'}\n    \
                    limits: {memory_mib: ${N}, pause_ms: '${N}0'}\n    callout_hosts: ['${HOST}:${N}']\n\
                    metrics: {listen: '127.0.0.${N}:80${N}', any_address: '${YES}'}\n";
        let text = text.replace("{${N}: '${N}'", "{'${N}': '${N}'").replace(": ${N},", ": '${N}',");
        let file = parse_with(Path::new("/etc/f/shop.yaml"), &text, &variables, None).unwrap();
        let filter = &file.filters[0];
        assert_eq!(
            (filter.name.as_str(), filter.code.source.path().and_then(Path::to_str)),
            ("f-7", Some("/etc/f/auth.test/m.wasm"))
        );
        let json: serde_json::Value = serde_json::from_slice(&filter.configuration).unwrap();
        let expected = serde_json::json!({
            // Keys stay, and what comes from a variable is text where anything may stand.
            "${N}": "7", "number": "7", "text": "x: {y: [1]}\n- \"z\" # ", "keep": "${OTHER} ${N}", "plain": 5,
        });
        assert_eq!(json, expected);
        assert_eq!(&*filter.vm_configuration, b"x: {y: [1]}\n- \"z\" # ");
        assert_eq!(filter.failure_policy, FailurePolicy::Open);
        assert_eq!(filter.environment, [("A".to_owned(), "77".to_owned())]);
        assert_eq!((filter.limits.memory_bytes, filter.limits.pause.as_millis()), (7 << 20, 70));
        assert_eq!(filter.callout_hosts[0].to_string(), "auth.test:7");
        assert_eq!(file.metrics[0], Metrics { listen: "127.0.0.7:807".parse().unwrap(), any_address: true });
        // Without being asked, nothing is put in.
        let text = "filters: [{name: 'f-${N}', module: m}]";
        assert_eq!(parse_with(Path::new("f"), text, &variables, None).unwrap().filters[0].name, "f-${N}");
    }

    #[test]
    fn variables_that_are_wrong_are_told_with_their_place() {
        let variables = Variables::only([("N", "many")]);
        let message = |text: &str| parse_with(Path::new("f"), text, &variables, None).unwrap_err().to_string();
        assert_eq!(
            message("substitute: [N]\nfilters: [{name: a, module: b, limits: {memory_mib: '${N}'}}]"),
            "f:2:53: filters[0].limits.memory_mib: a whole number from 1 to 4096 is expected, not the text 'many' in \
             \"filters: [{name: a, module: b, limits: {memory_mib: »'${N}'«}}]\""
        );
        assert_eq!(
            message("substitute: [N, UNSET]\nfilters: [{name: '${UNSET}', module: b}]"),
            "f:2:18: filters[0].name: the environment variable UNSET is not set, where the file is read in \"filters: \
             [{name: »'${UNSET}'«, module: b}]\""
        );
        assert_eq!(
            message("substitute: [N]\nclusters: {a: {endpoints: ['${N}']}}"),
            "f:2:28: clusters.a.endpoints[0]: 'many' is no address: host:port is expected, such as auth.example:8080, \
             10.0.0.1:80, [::1]:80, *.example:443 or *.example:* (with the value of ${N}) in \"clusters: {a: {endpoints: \
             [»'${N}'«]}}\""
        );
    }
}

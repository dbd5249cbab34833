//! `module` of a filter: where its code is, which code it must be, and who compiles it. And `code_cache`, where compiled
//! code is kept.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use crate::engines::Compiler;
use crate::module::Digest;

/// Where a module's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// In a file, its path resolved.
    File(PathBuf),
    /// In the configuration itself.
    Inline(Arc<[u8]>),
}

impl Source {
    /// The file, if it is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File(path) => Some(path),
            Source::Inline(_) => None,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => write!(f, "{}", path.display()),
            Source::Inline(bytes) => write!(f, "(inline, {} bytes)", bytes.len()),
        }
    }
}

/// The code of a filter.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Code {
    /// Where it is.
    pub source: Source,
    /// What its bytes must hash to; `None` is anything.
    pub sha256: Option<Digest>,
    /// Who makes machine code of it.
    pub compiler: Compiler,
}

impl Code {
    /// The code of this file, whatever it is, with the usual compiler.
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Code { source: Source::File(path.into()), sha256: None, compiler: Compiler::default() }
    }
}

/// `module: PATH`, or `module: {path: PATH, sha256: DIGEST, compiler: NAME}`.
#[derive(Debug, Clone, JsonSchema)]
#[schemars(untagged, rename = "Module")]
pub(super) enum RawModule {
    /// The module's path, relative to this file.
    Path(PathBuf),
    /// The same with what is expected of it.
    Described(RawDescribed),
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DescribedModule")]
pub(super) struct RawDescribed {
    /// The Wasm file, relative to this one.
    path: PathBuf,
    /// The SHA-256 that the file must have, in hexadecimal.
    #[schemars(with = "Option<String>", extend("pattern" = "^[0-9a-fA-F]{64}$"))]
    sha256: Option<Pin>,
    /// Who makes machine code of it.
    #[serde(default)]
    compiler: Compiler,
}

/// A digest, as files have it.
#[derive(Debug, Clone)]
struct Pin(Digest);

// By hand: an error of `try_from` stands at the mapping, one of a visitor at the value.
impl<'de> Deserialize<'de> for Pin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;

        impl Visitor<'_> for Digits {
            type Value = Pin;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a SHA-256, 64 hexadecimal digits as a text")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Pin, E> {
                text.parse().map(Pin).map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Digits)
    }
}

// By hand: what serde derives for "this or that" says neither what was wrong nor where.
impl<'de> Deserialize<'de> for RawModule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = RawModule;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a mapping with 'path', and 'sha256' and 'compiler' if wanted")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<RawModule, E> {
                Ok(RawModule::Path(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RawModule, A::Error> {
                RawDescribed::deserialize(MapAccessDeserializer::new(map)).map(RawModule::Described)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl RawModule {
    /// What may be a name of `modules`: a text.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            RawModule::Path(path) => path.to_str(),
            RawModule::Described(_) => None,
        }
    }

    /// The code that a file in `home` means.
    pub(super) fn resolve(self, home: &Path) -> Code {
        match self {
            RawModule::Path(path) => Code::file(home.join(path)),
            RawModule::Described(RawDescribed { path, sha256, compiler }) => {
                Code { source: Source::File(home.join(path)), sha256: sha256.map(|pin| pin.0), compiler }
            }
        }
    }
}

/// Where compiled code is kept from one start to the next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CodeCache {
    /// The directory, resolved.
    pub directory: PathBuf,
    /// How many bytes it may hold.
    pub max_bytes: u64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CodeCache")]
pub(super) struct RawCodeCache {
    /// A directory that belongs to the server's user and that nobody else may write to, relative to this file. Made if it
    /// is not there.
    directory: PathBuf,
    /// How large it may grow.
    #[serde(default)]
    #[schemars(with = "u32", range(min = 1, max = 1_048_576))]
    max_mib: MaxMib,
}

struct MaxMib(u32);

impl Default for MaxMib {
    fn default() -> Self {
        MaxMib(1024)
    }
}

impl<'de> Deserialize<'de> for MaxMib {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number;

        impl Visitor<'_> for Number {
            type Value = MaxMib;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of MiB")
            }

            fn visit_u64<E: serde::de::Error>(self, mib: u64) -> Result<MaxMib, E> {
                match u32::try_from(mib) {
                    Ok(mib @ 1..=1_048_576) => Ok(MaxMib(mib)),
                    _ => Err(E::custom(format_args!("{mib} is not within 1 to 1048576"))),
                }
            }
        }

        deserializer.deserialize_u32(Number)
    }
}

impl RawCodeCache {
    pub(super) fn resolve(self, home: &Path) -> CodeCache {
        CodeCache { directory: home.join(self.directory), max_bytes: u64::from(self.max_mib.0) << 20 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConfigFile, parse};

    const DIGEST: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

    fn file(text: &str) -> Result<ConfigFile, String> {
        parse(Path::new("/etc/f/shop.yaml"), text).map_err(|error| error.to_string())
    }

    fn code(module: &str) -> Result<Code, String> {
        file(&format!("filters:\n  - name: a\n    module: {module}\n")).map(|file| file.filters[0].code.clone())
    }

    #[test]
    fn a_module_is_a_path_or_says_what_it_must_be() {
        assert_eq!(code("m/a.wasm"), Ok(Code::file("/etc/f/m/a.wasm")));
        assert_eq!(code("{path: /m/a.wasm}"), Ok(Code::file("/m/a.wasm")));
        let pinned = code(&format!("{{path: a.wasm, sha256: {DIGEST}, compiler: winch}}")).unwrap();
        assert_eq!(pinned.source.path(), Some(Path::new("/etc/f/a.wasm")));
        assert_eq!(pinned.sha256.unwrap().to_string(), DIGEST.to_lowercase());
        assert_eq!(pinned.compiler, Compiler::Winch);
    }

    #[test]
    fn mistakes_in_a_module_have_their_place() {
        let place = "/etc/f/shop.yaml:3:";
        let cases = [
            (
                "{path: a, sha: b}",
                "23: filters[0].module: unknown key 'sha' in \"module: {path: a, »sha«: b}\"; did you mean 'sha256'?",
            ),
            ("{compiler: winch}", "13: filters[0].module: the key 'path' is missing"),
            ("{path: a, sha256: abcd}", "31: filters[0].module.sha256: 'abcd' is no SHA-256: 64 hexadecimal digits"),
            (
                "{path: a, compiler: llvm}",
                "33: filters[0].module.compiler: 'cranelift' or 'winch' is expected, not 'llvm'",
            ),
            ("[a]", "13: filters[0].module: a path, or a mapping with 'path'"),
        ];
        for (module, expected) in cases {
            let message = code(module).unwrap_err();
            assert!(message.starts_with(&format!("{place}{expected}")), "for {module}\n  got {message}");
        }
    }

    #[test]
    fn where_compiled_code_is_kept() {
        let cache =
            |text: &str| file(&format!("{text}\nfilters: [{{name: a, module: b}}]\n")).map(|file| file.code_cache);
        assert_eq!(cache(""), Ok(None));
        let kept =
            |directory: &str, mib: u64| Ok(Some(CodeCache { directory: directory.into(), max_bytes: mib << 20 }));
        assert_eq!(cache("code_cache: {directory: /var/cache/w}"), kept("/var/cache/w", 1024));
        assert_eq!(cache("code_cache: {directory: w, max_mib: 3}"), kept("/etc/f/w", 3));
        for (text, expected) in [
            ("code_cache: {}", "the key 'directory' is missing"),
            ("code_cache: {directory: w, max_mib: 0}", "code_cache.max_mib: 0 is not within 1 to 1048576"),
            ("code_cache: {directory: w, size: 0}", "unknown key 'size'"),
        ] {
            let message = cache(text).unwrap_err();
            assert!(message.starts_with("/etc/f/shop.yaml:1:") && message.contains(expected), "{message}");
        }
    }

    #[test]
    fn files_of_a_rule_agree_on_one_cache() {
        let one = |text: &str| file(&format!("{text}\nfilters: [{{name: a, module: b}}]\n")).unwrap();
        let mut all = one("");
        all.extend(Path::new("f.yaml"), one("code_cache: {directory: /w}")).unwrap();
        all.extend(Path::new("f.yaml"), one("")).unwrap();
        all.extend(Path::new("f.yaml"), one("code_cache: {directory: /w}")).unwrap();
        assert_eq!(all.code_cache.as_ref().unwrap().directory, Path::new("/w"));
        let message = all.extend(Path::new("f.yaml"), one("code_cache: {directory: /v}")).unwrap_err().to_string();
        assert!(message.contains("/w") && message.contains("/v"), "{message}");
    }

    #[test]
    fn a_file_may_have_the_cache_alone() {
        assert!(file("code_cache: {directory: /w}").unwrap().filters.is_empty());
    }
}

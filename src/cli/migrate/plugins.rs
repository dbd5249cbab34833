//! plugin.config, as far as it concerns ATS's own Wasm plugin: which lines load it, with which files.

use std::path::{Path, PathBuf};

/// The plugin's file name.
const PLUGIN: &str = "wasm.so";

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plugins {
    /// The numbers of the lines that load the plugin, with their files, in order. Their paths begin where those of the
    /// plugin begin.
    pub(super) lines: Vec<(usize, Vec<PathBuf>)>,
    /// How many other plugins there are.
    pub(super) others: usize,
}

/// Reads a plugin.config. Relative paths begin at `config_dir`.
///
/// Lines are cut into words as Traffic Server does it: at blanks, but not within double quotes, up to a `#` that begins
/// a line or a word.
pub(super) fn parse(text: &str, config_dir: &Path) -> Plugins {
    let mut plugins = Plugins::default();
    for (index, line) in text.lines().enumerate() {
        let words = words(line);
        let Some((plugin, arguments)) = words.split_first() else { continue };
        if Path::new(plugin).file_name().is_some_and(|name| name == PLUGIN) {
            plugins.lines.push((index + 1, arguments.iter().map(|argument| config_dir.join(argument)).collect()));
        } else {
            plugins.others += 1;
        }
    }
    plugins
}

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = line.trim();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, tail) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len())),
        };
        words.push(word.to_owned());
        rest = tail.trim_start();
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_load_the_plugin() {
        let text = "# plugins\nheader_rewrite.so a.config\n\n  wasm.so my.yaml /abs/b.yaml # why\n\
                    /opt/ts/wasm.so \"with blank.yaml\"\nwasm_remap.so x\n#wasm.so off.yaml\nwasm.so\n";
        let found = parse(text, Path::new("/etc/ts"));
        assert_eq!(
            found.lines,
            [
                (4, vec![PathBuf::from("/etc/ts/my.yaml"), PathBuf::from("/abs/b.yaml")]),
                (5, vec![PathBuf::from("/etc/ts/with blank.yaml")]),
                (8, vec![]),
            ]
        );
        assert_eq!(found.others, 2);
    }
}

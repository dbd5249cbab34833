//! remap.config, as far as it concerns the plugin: which rules name it, with which parameters.
//!
//! Lines are cut into words as Traffic Server 9.2 does it, oddities included, because a check that reads a file
//! otherwise than the server checks another file. What Traffic Server refuses for reasons of its own (addresses,
//! expressions, filters) is left to it.

use std::fs;
use std::path::{Path, PathBuf};

/// The plugin's file name, under which rules load it.
pub(crate) const PLUGIN: &str = "wasm_remap.so";

/// More levels of `.include` than this are a file that includes itself.
const MAX_DEPTH: usize = 16;

/// A line that names the plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    /// The file that the line stands in.
    pub(crate) file: PathBuf,
    /// Its number, the first one's where it is continued.
    pub(crate) line: usize,
    /// `map`, `regex_map_with_recv_port`, …
    pub(crate) kind: String,
    /// The first URL, as Traffic Server prints it.
    pub(crate) from: String,
    /// The second one.
    pub(crate) to: String,
    /// The parameters of each time that the line names the plugin.
    pub(crate) instances: Vec<Vec<Vec<u8>>>,
    /// Why Traffic Server loads no plugin for this line, where it does not.
    pub(crate) ignored: Option<String>,
}

impl Rule {
    /// The rule, in the plugin's words.
    pub(crate) fn label(&self) -> String {
        format!("rule {} -> {}", self.from, self.to)
    }
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    /// Lines that name the plugin, in order.
    pub(crate) rules: Vec<Rule>,
    /// How many other rules there are.
    pub(crate) others: usize,
    /// What keeps Traffic Server from loading the file, one line each.
    pub(crate) mistakes: Vec<String>,
}

/// Reads a remap.config and what it includes. Relative paths begin at `config_dir`.
pub(crate) fn read(file: &Path, config_dir: &Path) -> Rules {
    let mut rules = Rules::default();
    rules.read(file, config_dir, 0);
    rules
}

impl Rules {
    fn read(&mut self, file: &Path, config_dir: &Path, depth: usize) {
        match fs::read(file) {
            Ok(text) => self.parse(file, &text, config_dir, depth),
            Err(error) => self.mistakes.push(format!("{}: cannot be read: {error}", file.display())),
        }
    }

    fn parse(&mut self, file: &Path, text: &[u8], config_dir: &Path, depth: usize) {
        for (line, text) in lines(text) {
            let text = text.trim_ascii();
            if text.is_empty() || text.starts_with(b"#") {
                continue;
            }
            let words = words(text);
            // A lone '@' is no option, and dropped.
            let options: Vec<_> = words.iter().filter_map(|word| word.strip_prefix(b"@")).collect();
            let plain: Vec<_> =
                words.iter().filter(|word| !word.starts_with(b"@")).map(|word| String::from_utf8_lossy(word)).collect();
            let mut mistake = |message: String| self.mistakes.push(format!("{}:{line}: {message}", file.display()));
            match plain.as_slice() {
                [directive, arguments @ ..] if directive.starts_with('.') => {
                    if directive == ".include" {
                        if arguments.is_empty() {
                            mistake("'.include' names no file".to_owned());
                        } else if depth == MAX_DEPTH {
                            mistake(format!("'.include' within {MAX_DEPTH} others: does the file include itself?"));
                        } else {
                            for argument in arguments {
                                self.include(&config_dir.join(&**argument), file, line, config_dir, depth + 1);
                            }
                        }
                    } else if !DIRECTIVES.contains(&&**directive) {
                        mistake(format!("unknown directive '{directive}'"));
                    }
                }
                [kind, from, to, ..] => match plugins_of(kind) {
                    None => mistake(format!("unknown kind of rule '{kind}': expected 'map' or one of its relatives")),
                    Some(loads) => self.rule(file, line, [kind, from, to], &options, loads),
                },
                _ => mistake("a rule has a kind and two URLs: 'map http://from/ http://to/'".to_owned()),
            }
        }
    }

    fn rule(&mut self, file: &Path, line: usize, [kind, from, to]: [&str; 3], options: &[&[u8]], loads: bool) {
        let instances = instances(options);
        if instances.is_empty() {
            self.others += 1;
            return;
        }
        self.rules.push(Rule {
            file: file.to_owned(),
            line,
            kind: kind.to_owned(),
            from: canonical(from, true),
            to: canonical(to, false),
            instances,
            ignored: (!loads).then(|| format!("Traffic Server loads no plugin for '{kind}': the chain never runs")),
        });
    }

    fn include(&mut self, path: &Path, file: &Path, line: usize, config_dir: &Path, depth: usize) {
        if !path.is_dir() {
            if path.is_file() {
                self.read(path, config_dir, depth);
            } else {
                self.mistakes.push(format!("{}:{line}: there is no file {}", file.display(), path.display()));
            }
            return;
        }
        match fs::read_dir(path) {
            Ok(entries) => {
                let mut entries: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
                entries.sort();
                for entry in entries.iter().filter(|entry| !entry.is_dir()) {
                    self.read(entry, config_dir, depth);
                }
            }
            Err(error) => {
                let place = format!("{}:{line}", file.display());
                self.mistakes.push(format!("{place}: {} cannot be read: {error}", path.display()));
            }
        }
    }
}

/// Directives about named filters, which are Traffic Server's own matter.
const DIRECTIVES: [&str; 15] = [
    ".definefilter",
    ".deffilter",
    ".defflt",
    ".deletefilter",
    ".delfilter",
    ".delflt",
    ".usefilter",
    ".activefilter",
    ".activatefilter",
    ".useflt",
    ".unusefilter",
    ".deactivatefilter",
    ".unactivefilter",
    ".deuseflt",
    ".unuseflt",
];

/// Whether a kind of rule loads plugins; `None` if there is no such kind.
fn plugins_of(kind: &str) -> Option<bool> {
    let kind = kind.to_ascii_lowercase();
    match kind.strip_prefix("regex_").unwrap_or(&kind) {
        "map" | "map_with_referer" | "map_with_recv_port" => Some(true),
        "reverse_map" | "redirect" | "redirect_temporary" => Some(false),
        _ => None,
    }
}

/// Lines with their numbers, those that end in a backslash joined with the next. Comments are continued too.
fn lines(text: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut continued = false;
    for (at, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let (line, continues) = match line.strip_suffix(b"\\") {
            Some(line) => (line, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, whole)) if continued => {
                whole.push(b' ');
                whole.extend_from_slice(line);
            }
            _ => lines.push((at + 1, line.to_vec())),
        }
        continued = continues;
    }
    lines
}

/// Cut at blanks and tabs, but not between quotes of either kind, which stay in the word.
fn words(line: &[u8]) -> Vec<&[u8]> {
    let mut quoted = false;
    line.split(|byte| {
        quoted ^= matches!(byte, b'"' | b'\'');
        !quoted && matches!(byte, b' ' | b'\t')
    })
    .filter(|word| !word.is_empty())
    .collect()
}

/// The parameters of each mention of the plugin. What stands before the first plugin belongs to that one.
fn instances(options: &[&[u8]]) -> Vec<Vec<Vec<u8>>> {
    let mut found: Vec<(bool, Vec<Vec<u8>>)> = Vec::new();
    let mut before = Vec::new();
    for option in options {
        if let Some(path) = value(option, b"plugin=") {
            let ours = Path::new(&*String::from_utf8_lossy(path)).file_name().is_some_and(|name| name == PLUGIN);
            found.push((ours, std::mem::take(&mut before)));
        } else if let Some(param) = value(option, b"pparam=") {
            found.last_mut().map_or(&mut before, |(_, params)| params).push(param.to_vec());
        }
    }
    found.into_iter().filter_map(|(ours, params)| ours.then_some(params)).collect()
}

/// The value of an option, unless it is empty.
fn value<'a>(option: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, value) = option.split_at_checked(name.len())?;
    (found.eq_ignore_ascii_case(name) && !value.is_empty()).then_some(value)
}

/// A URL as Traffic Server prints it: the host in lower case in what is matched, one slash where there is no path or
/// several, `http` where there is no scheme.
fn canonical(url: &str, matched: bool) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    // Two slashes at the end say "this URL alone".
    let path = if matched { path.strip_suffix("//").unwrap_or(path) } else { path };
    let host = if matched { host.to_ascii_lowercase() } else { host.to_owned() };
    format!("{scheme}://{host}/{}", path.trim_start_matches('/'))
}

/// A `@pparam`: a path, relative to the configuration directory. In the plugin's words where it is none.
///
/// # Errors
/// What is expected instead.
pub(crate) fn resolve(param: &[u8], config_dir: &Path) -> Result<PathBuf, String> {
    let text = std::str::from_utf8(param)
        .map_err(|_| format!("@pparam={} is not UTF-8: a path is expected", String::from_utf8_lossy(param)))?;
    if text.starts_with('-') {
        return Err(format!("@pparam={text}: there are no options; a path to a filter file is expected"));
    }
    Ok(config_dir.join(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Rules {
        let mut rules = Rules::default();
        rules.parse(Path::new("r"), text.as_bytes(), Path::new("/etc/ts"), 0);
        rules
    }

    fn params(rule: &Rule) -> Vec<Vec<String>> {
        let text = |param: &Vec<u8>| String::from_utf8_lossy(param).into_owned();
        rule.instances.iter().map(|params| params.iter().map(text).collect()).collect()
    }

    #[test]
    fn rules_that_name_the_plugin() {
        let found = parse(
            "# comment\n\n  map http://A.test http://B.test @plugin=wasm_remap.so @pparam=a.yaml @pparam=b.yaml\n\
             map http://c.test/ http://d.test/\n\
             .definefilter x @action=deny @method=delete\n.usefilter x\n\
             regex_map http://(.*).test/ http://d/ @PLUGIN=/opt/wasm_remap.so @Pparam=c.yaml @plugin=other.so @pparam=x\n\
             map_with_recv_port http://e/ http://f/ @pparam=first @plugin=other.so @pparam=y @plugin=wasm_remap.so\n",
        );
        assert_eq!(found.mistakes, [""; 0]);
        assert_eq!(found.others, 1);
        let lines: Vec<_> = found.rules.iter().map(|rule| (rule.line, rule.label())).collect();
        assert_eq!(
            lines,
            [
                (3, "rule http://a.test/ -> http://B.test/".to_owned()),
                (7, "rule http://(.*).test/ -> http://d/".to_owned()),
                (8, "rule http://e/ -> http://f/".to_owned()),
            ]
        );
        assert_eq!(params(&found.rules[0]), [["a.yaml", "b.yaml"]]);
        assert_eq!(params(&found.rules[1]), [["c.yaml"]]);
        assert_eq!(params(&found.rules[2]), [[""; 0]]);
    }

    #[test]
    fn lines_are_continued_comments_too() {
        let found = parse(
            "map http://a/ \\\n  http://b/ \\\n @plugin=wasm_remap.so @pparam=a.yaml\n\
             # a comment \\\nmap http://hidden/ http://b/ @plugin=wasm_remap.so\n\
             map http://c/ http://d/ @plugin=wasm_remap.so\n",
        );
        let lines: Vec<_> = found.rules.iter().map(|rule| (rule.line, rule.from.as_str())).collect();
        assert_eq!(lines, [(1, "http://a/"), (6, "http://c/")]);
    }

    #[test]
    fn a_plugin_twice_and_quotes() {
        let found = parse(
            "map http://a/ http://b/ @plugin=wasm_remap.so @pparam='a b' @pparam= @ @plugin=wasm_remap.so @pparam=c",
        );
        assert_eq!(params(&found.rules[0]), [["'a b'"], ["c"]]);
    }

    #[test]
    fn kinds_that_load_no_plugin() {
        let found = parse("redirect http://a/ http://b/ @plugin=wasm_remap.so @pparam=a.yaml");
        assert!(found.rules[0].ignored.as_deref().unwrap().contains("'redirect'"));
    }

    #[test]
    fn mistakes_name_their_line() {
        let found = parse("\nmap http://a/\nmop http://a/ http://b/\n.inclde x\n.include\n.include missing.config\n");
        let expected = [
            "r:2: a rule has a kind and two URLs",
            "r:3: unknown kind of rule 'mop'",
            "r:4: unknown directive '.inclde'",
            "r:5: '.include' names no file",
            "r:6: there is no file /etc/ts/missing.config",
        ];
        assert_eq!(found.mistakes.len(), expected.len());
        for (mistake, expected) in found.mistakes.iter().zip(expected) {
            assert!(mistake.starts_with(expected), "{mistake}\n{expected}");
        }
    }

    /// As traffic_server 9.2 gives them to the plugin.
    #[test]
    fn urls_are_those_that_the_plugin_is_given() {
        for (from, to, label) in [
            ("HTTP://A.test", "http://B.Test", "rule HTTP://a.test/ -> http://B.Test/"),
            ("http://a.test:80/X//", "http://b.test:8080", "rule http://a.test:80/X -> http://b.test:8080/"),
            ("/foo", "http://b.test/y", "rule http:///foo -> http://b.test/y"),
            ("http://(.*)\\.Test/", "http://b.test//y/", "rule http://(.*)\\.test/ -> http://b.test/y/"),
            ("http://a.test/?q=1", "http://b.test?q=2", "rule http://a.test/?q=1 -> http://b.test?q=2/"),
        ] {
            let found = parse(&format!("map {from} {to} @plugin=wasm_remap.so"));
            assert_eq!(found.rules[0].label(), label);
        }
    }

    #[test]
    fn parameters_are_paths() {
        let config_dir = Path::new("/etc/ts");
        assert_eq!(resolve(b"f/a.yaml", config_dir).unwrap(), Path::new("/etc/ts/f/a.yaml"));
        assert_eq!(resolve(b"/a.yaml", config_dir).unwrap(), Path::new("/a.yaml"));
        assert!(resolve(b"--x", config_dir).unwrap_err().contains("there are no options"));
        assert!(resolve(b"\xff", config_dir).unwrap_err().contains("not UTF-8"));
    }
}

//! A mistake in a configuration file, and where it stands.

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

/// A mistake in a configuration file.
///
/// Its [`Display`](fmt::Display) is one line, for logs; [`ConfigError::headline`] and [`ConfigError::snippet`] are for
/// terminals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Line and column, counted from one, where known. Columns are characters.
    pub at: Option<(usize, usize)>,
    /// What is wrong and what was expected.
    pub message: String,
    /// The line of `at`, and how much of it is wrong.
    pub excerpt: Option<Excerpt>,
    /// What was probably meant: what to write in the place of what is marked.
    pub suggestion: Option<String>,
    /// What else helps, as the end of a sentence: the keys that there are, where a key belongs.
    pub hint: Option<String>,
}

/// A line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The whole line, without its end.
    pub line: String,
    /// How many characters of it are wrong, from the column on. None where something is missing.
    pub length: usize,
}

/// More characters of a line than this are not shown: diags.log gets no more of a message than ATS's buffer holds.
const SHOWN: usize = 72;

impl ConfigError {
    /// A mistake that is the file's as a whole: it is not there, or cannot be read.
    pub fn of_file(file: &Path, message: impl Into<String>) -> Self {
        ConfigError {
            file: file.to_owned(),
            at: None,
            message: message.into(),
            excerpt: None,
            suggestion: None,
            hint: None,
        }
    }

    /// Place and message, without the excerpt.
    #[must_use]
    pub fn headline(&self) -> String {
        let place = match self.at {
            Some((line, column)) => format!(":{line}:{column}"),
            None => String::new(),
        };
        format!("{}{place}: {}", self.file.display(), self.message)
    }

    /// The line with a mark under what is wrong, and what else helps: several lines, each indented by `indent`. Empty
    /// where there is nothing more to say than [`ConfigError::headline`] does.
    #[must_use]
    pub fn snippet(&self, indent: usize) -> String {
        let mut out = String::new();
        let suggestion = self.suggestion.as_ref().map(|meant| format!("did you mean '{meant}'?"));
        let mut margin = String::new();
        if let (Some((number, column)), Some(excerpt)) = (self.at, &self.excerpt) {
            let number = number.to_string();
            margin = " ".repeat(number.len());
            // Tabs and their like have no width that could be known.
            let shown: String = excerpt.line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let carets = "^".repeat(excerpt.length.max(1));
            let _ = writeln!(out, "{:indent$}{number} | {}", "", shown.trim_end());
            let under = format!("{:indent$}{margin} | {:2$}{carets}", "", "", column.saturating_sub(1));
            let _ = writeln!(out, "{under} {}", suggestion.as_deref().unwrap_or_default());
        } else if let Some(suggestion) = suggestion {
            let _ = writeln!(out, "{:indent$}= {suggestion}", "");
        }
        if let Some(hint) = &self.hint {
            let _ = writeln!(out, "{:indent$}{margin} = {hint}", "");
        }
        out.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
    }
}

impl Excerpt {
    /// The line without its indentation, with `»` and `«` around what is wrong; cut where it is long.
    fn marked(&self, column: usize) -> String {
        let start = column.saturating_sub(1);
        let chars: Vec<char> = self.line.chars().collect();
        let end = (start + self.length).min(chars.len());
        let indentation = chars.iter().take_while(|c| c.is_whitespace()).count().min(start);
        // What is wrong stays in sight, with a little of what stands before it.
        let first = indentation.max(start.saturating_sub(SHOWN / 2));
        let last = chars.len().min((first + SHOWN).max(start + 1));
        let mut out = String::new();
        if first > indentation {
            out.push('…');
        }
        for (at, c) in chars.iter().enumerate().take(last).skip(first) {
            if at == start {
                out.push('»');
            }
            out.extend(c.escape_debug().filter(|_| c.is_control()));
            if !c.is_control() {
                out.push(*c);
            }
            if at + 1 == end {
                out.push('«');
            }
        }
        if end > last {
            out.push_str("…«");
        } else if last < chars.len() {
            out.push('…');
        }
        out.truncate(out.trim_end().len());
        out
    }
}

/// One line: `FILE:LINE:COLUMN: MESSAGE in "»WRONG« REST"; did you mean 'RIGHT'? HINT`.
impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        if let (Some((_, column)), Some(excerpt)) = (self.at, &self.excerpt)
            && excerpt.length > 0
        {
            write!(f, " in \"{}\"", excerpt.marked(column))?;
        }
        match (&self.suggestion, &self.hint) {
            (Some(suggestion), None) => write!(f, "; did you mean '{suggestion}'?"),
            (Some(suggestion), Some(hint)) => {
                let mut letters = hint.chars();
                let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
                write!(f, "; did you mean '{suggestion}'? {first}{}", letters.as_str())
            }
            (None, Some(hint)) => write!(f, "; {hint}"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> ConfigError {
        ConfigError {
            file: PathBuf::from("f.yaml"),
            at: Some((3, 5)),
            message: "filters[0]: unknown key 'modul'".to_owned(),
            excerpt: Some(Excerpt { line: "    modul: a.wasm".to_owned(), length: 5 }),
            suggestion: Some("module".to_owned()),
            hint: Some("keys here: name, module".to_owned()),
        }
    }

    #[test]
    fn one_line_for_logs_and_several_for_terminals() {
        let error = error();
        assert_eq!(
            error.to_string(),
            "f.yaml:3:5: filters[0]: unknown key 'modul' in \"»modul«: a.wasm\"; did you mean 'module'? Keys here: name, \
             module"
        );
        assert_eq!(
            error.snippet(2),
            "  3 |     modul: a.wasm\n    |     ^^^^^ did you mean 'module'?\n    = keys here: name, module\n"
        );
        let bare = ConfigError::of_file(Path::new("f.yaml"), "cannot be read");
        assert_eq!((bare.to_string().as_str(), bare.snippet(2).as_str()), ("f.yaml: cannot be read", ""));
    }

    #[test]
    fn long_lines_are_cut_around_what_is_wrong() {
        let line = format!("  {}: {} # {}", "a".repeat(60), "b".repeat(90), "c".repeat(90));
        let excerpt = |length| Excerpt { line: line.clone(), length };
        let shown = excerpt(90).marked(65);
        assert!(shown.starts_with("…aaa") && shown.contains(": »bbb") && shown.ends_with("b…«"), "{shown}");
        let shown = excerpt(3).marked(65);
        assert!(shown.contains(": »bbb«bbb") && shown.ends_with("b…"), "{shown}");
        assert!(shown.chars().count() <= SHOWN + 4, "{shown}");
        let tab = Excerpt { line: "\ta: b".to_owned(), length: 1 };
        assert_eq!(tab.marked(1), "»\\t«a: b");
    }
}

//! Globs and regular expressions, compiled with limits, so that no request makes one slow.

use globset::GlobBuilder;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

use crate::config::matching::{Domain, Pattern};

/// What one compiled expression may take.
const SIZE: usize = 1 << 20;

/// What the automaton of one thread may take that is built while an expression is used.
const CACHE: usize = 512 << 10;

/// The same of a set.
const SET_SIZE: usize = 16 << 20;
const SET_CACHE: usize = 4 << 20;

/// The expression that a pattern is, if it is one that has to be searched with.
///
/// # Errors
/// What is wrong with it, and where.
fn expression(pattern: &Pattern, domain: Domain) -> Result<String, String> {
    match pattern {
        Pattern::Glob(glob) => GlobBuilder::new(glob)
            .literal_separator(domain == Domain::Path)
            .backslash_escape(true)
            .build()
            .map(|glob| glob.regex().to_owned())
            .map_err(|error| format!("the glob '{glob}' cannot be read: {}", error.kind())),
        Pattern::Contains(text) => Ok(regex::escape(text)),
        Pattern::Exact(text) => Ok(format!("^(?:{})$", regex::escape(text))),
        Pattern::Prefix(text) => Ok(format!("^(?:{})", regex::escape(text))),
        Pattern::Suffix(text) => Ok(format!("(?:{})$", regex::escape(text))),
        Pattern::Regex(text) => Ok(text.clone()),
    }
}

/// A pattern as a regular expression.
///
/// Bytes are matched, not characters, and `.` is any of them: with anything less, a byte that is no UTF-8, or an
/// encoded line end, would take a path out of reach of `^/admin/.*$`.
///
/// # Errors
/// What is wrong with it, and where.
pub(crate) fn compile(pattern: &Pattern, domain: Domain) -> Result<Regex, String> {
    let text = expression(pattern, domain)?;
    RegexBuilder::new(&text)
        .unicode(false)
        .dot_matches_new_line(true)
        .case_insensitive(domain == Domain::Host)
        .size_limit(SIZE)
        .dfa_size_limit(CACHE)
        .build()
        .map_err(|error| wrong(pattern.text(), &error))
}

/// Several patterns, searched for at once. `None` if together they are larger than a set may be.
pub(super) fn compile_set<'a>(patterns: impl Iterator<Item = &'a Pattern>, domain: Domain) -> Option<RegexSet> {
    let texts: Vec<_> = patterns.map(|pattern| expression(pattern, domain)).collect::<Result<_, _>>().ok()?;
    RegexSetBuilder::new(texts)
        .unicode(false)
        .dot_matches_new_line(true)
        .case_insensitive(domain == Domain::Host)
        .size_limit(SET_SIZE)
        .dfa_size_limit(SET_CACHE)
        .build()
        .ok()
}

/// The message of an expression that does not compile, on one line.
fn wrong(text: &str, error: &regex::Error) -> String {
    let regex::Error::Syntax(report) = error else {
        return format!("the expression '{text}' is too large: compiled, it takes more than {} KiB", SIZE >> 10);
    };
    // The report shows the expression, indented by four, and marks the place below it.
    let mark = report.lines().find(|line| !line.trim().is_empty() && line.trim_matches([' ', '^']).is_empty());
    let place = mark.and_then(|line| line.find('^')).map(|at| format!(" at character {}", at.saturating_sub(3)));
    let why = report.lines().rev().find_map(|line| line.strip_prefix("error: "));
    let why = why.map_or_else(|| report.split_whitespace().collect::<Vec<_>>().join(" "), str::to_owned);
    format!("the expression '{text}' cannot be read{}: {why}", place.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: Pattern, domain: Domain, text: &[u8]) -> bool {
        compile(&pattern, domain).unwrap().is_match(text)
    }

    #[test]
    fn a_dot_is_any_byte() {
        let regex = || Pattern::Regex("^/admin/.*$".to_owned());
        for path in [&b"/admin/\xff"[..], b"/admin/\n", b"/admin/a\nb\xc3", b"/admin/"] {
            assert!(matches(regex(), Domain::Path, path), "{path:?}");
        }
        assert!(!matches(regex(), Domain::Path, b"/x/admin/"));
    }

    #[test]
    fn stars_stop_at_slashes_in_paths_alone() {
        let glob = |text: &str| Pattern::Glob(text.to_owned());
        for (text, path, expected) in [
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a/b/c", true),
            ("/a/**", "/a/", true),
            ("/a/**", "/a", false),
            ("/**/c", "/c", true),
            ("/**/c", "/a/b/c", true),
            ("/a/**/c", "/a/c", true),
            ("/*.{png,jpg}", "/x.jpg", true),
            ("/*.{png,jpg}", "/x.gif", false),
            ("/[a-c]?", "/b1", true),
            ("/[!a-c]?", "/b1", false),
            ("/a\\*", "/a*", true),
            ("/a\\*", "/ab", false),
        ] {
            assert_eq!(matches(glob(text), Domain::Path, path.as_bytes()), expected, "{text} {path}");
        }
        assert!(matches(glob("*.example.com"), Domain::Host, b"a.b.example.com"));
        assert!(!matches(glob("*.example.com"), Domain::Host, b"example.com"));
        assert!(matches(glob("text/*"), Domain::Value, b"text/a/b"));
    }

    #[test]
    fn mistakes_say_where() {
        let fail = |pattern: Pattern| compile(&pattern, Domain::Value).unwrap_err();
        let regex = |text: &str| fail(Pattern::Regex(text.to_owned()));
        assert_eq!(regex("ab(c"), "the expression 'ab(c' cannot be read at character 3: unclosed group");
        assert_eq!(regex("a**["), "the expression 'a**[' cannot be read at character 4: unclosed character class");
        assert!(regex("(?:a{1000}){1000}").contains("too large"), "{}", regex("(?:a{1000}){1000}"));
        let glob = fail(Pattern::Glob("/a{b".to_owned()));
        assert!(glob.starts_with("the glob '/a{b' cannot be read: unclosed alternate group"), "{glob}");
    }
}

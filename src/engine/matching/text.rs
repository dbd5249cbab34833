//! Many patterns as one: whether a text is like any of them.

use hashbrown::HashTable;
use regex::bytes::{Regex, RegexSet};
use xxhash_rust::xxh3::xxh3_64;

use super::pattern;
use crate::config::matching::{Domain, Pattern};

/// So few texts are compared one by one.
const FEW: usize = 4;

/// So many patterns make one set.
const SET: usize = 256;

/// Patterns of which any may match. Of paths, exact texts and beginnings stand without their first '/', which all have:
/// so a path is compared where it lies, with no '/' before it.
#[derive(Debug, Default)]
pub(super) struct TextSet {
    few: Box<[Box<[u8]>]>,
    many: Option<HashTable<Box<[u8]>>>,
    /// None begins with another. In order.
    prefixes: Box<[Box<[u8]>]>,
    /// Backwards, and as `prefixes` are.
    suffixes: Box<[Box<[u8]>]>,
    searches: Box<[Search]>,
}

#[derive(Debug)]
enum Search {
    One(Regex),
    Set(RegexSet),
}

impl TextSet {
    /// A set of patterns that are known to compile.
    ///
    /// # Errors
    /// One that does not.
    pub(super) fn new(patterns: &[&Pattern], domain: Domain) -> Result<Self, String> {
        let (mut exact, mut prefixes, mut suffixes) = (Vec::new(), Vec::new(), Vec::new());
        let (mut literals, mut expressions) = (Vec::new(), Vec::new());
        for pattern in patterns {
            // What does not begin with '/' is no path, nor the beginning of one.
            let own = |text: &str| match domain {
                Domain::Path => text.strip_prefix('/').map(|rest| Box::from(rest.as_bytes())),
                Domain::Host | Domain::Value => Some(Box::from(text.as_bytes())),
            };
            match simple(pattern, domain) {
                Simple::Exact(text) => exact.extend(own(text)),
                Simple::Prefix(text) => prefixes.extend(own(text)),
                Simple::Suffix(text) => suffixes.push(text.bytes().rev().collect()),
                Simple::Contains => literals.push(*pattern),
                Simple::Expression => expressions.push(*pattern),
            }
        }
        exact.sort_unstable();
        exact.dedup();
        let mut set = TextSet { prefixes: free(prefixes), suffixes: free(suffixes), ..TextSet::default() };
        if exact.len() <= FEW {
            set.few = exact.into();
        } else {
            let mut table = HashTable::with_capacity(exact.len());
            for text in exact {
                table.insert_unique(xxh3_64(&text), text, |text| xxh3_64(text));
            }
            set.many = Some(table);
        }
        let mut searches = Vec::new();
        // Apart: literals alone are found by their own means, which are faster.
        for list in [literals, expressions] {
            for part in list.chunks(SET) {
                search(part, domain, &mut searches)?;
            }
        }
        set.searches = searches.into();
        Ok(set)
    }

    /// Whether the text, which is no path, is like one of them.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        self.is_or_begins(text) || self.others(text)
    }

    /// Whether the text is one of them, or begins with one. Of a path: what stands behind its first '/'.
    pub(super) fn is_or_begins(&self, text: &[u8]) -> bool {
        self.few.iter().any(|own| **own == *text)
            || self.many.as_ref().is_some_and(|many| many.find(xxh3_64(text), |own| **own == *text).is_some())
            || begins(&self.prefixes, text)
    }

    /// Whether [`Self::others`] may say yes.
    pub(super) fn has_others(&self) -> bool {
        !self.suffixes.is_empty() || !self.searches.is_empty()
    }

    /// Whether the text is as one of those that are neither exact texts nor beginnings.
    pub(super) fn others(&self, text: &[u8]) -> bool {
        ends(&self.suffixes, text)
            || self.searches.iter().any(|search| match search {
                Search::One(regex) => regex.is_match(text),
                Search::Set(set) => set.is_match(text),
            })
    }

    /// What it costs to ask, roughly, in nanoseconds.
    pub(super) fn cost(&self) -> u32 {
        let one = |list: &[Box<[u8]>]| u32::from(!list.is_empty()) * 5;
        let searches = u32::try_from(self.searches.len()).unwrap_or(u32::MAX);
        3 + one(&self.prefixes) + one(&self.suffixes) + searches.saturating_mul(60)
    }
}

/// What a pattern comes down to.
enum Simple<'a> {
    Exact(&'a str),
    Prefix(&'a str),
    Suffix(&'a str),
    Contains,
    Expression,
}

fn simple(pattern: &Pattern, domain: Domain) -> Simple<'_> {
    let plain = |text: &str| !text.contains(['*', '?', '[', ']', '{', '}', '\\']);
    match pattern {
        Pattern::Exact(text) => Simple::Exact(text),
        Pattern::Prefix(text) => Simple::Prefix(text),
        Pattern::Suffix(text) => Simple::Suffix(text),
        Pattern::Contains(_) => Simple::Contains,
        Pattern::Glob(text) if plain(text) => Simple::Exact(text),
        // "/a/**" is all that begins with "/a/", and ".../*" is not: it stops at the next '/'.
        Pattern::Glob(text) if domain == Domain::Path => match text.strip_suffix("**") {
            Some(rest) if rest.ends_with('/') && plain(rest) => Simple::Prefix(rest),
            _ => Simple::Expression,
        },
        Pattern::Glob(text) => match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(rest), _) if plain(rest) => Simple::Suffix(rest),
            (_, Some(rest)) if plain(rest) => Simple::Prefix(rest),
            _ => Simple::Expression,
        },
        Pattern::Regex(_) => Simple::Expression,
    }
}

/// Compiles patterns into as few searches as their sizes permit.
fn search(patterns: &[&Pattern], domain: Domain, searches: &mut Vec<Search>) -> Result<(), String> {
    match patterns {
        [] => {}
        [one] => searches.push(Search::One(pattern::compile(one, domain)?)),
        several => match pattern::compile_set(several.iter().copied(), domain) {
            Some(set) => searches.push(Search::Set(set)),
            None => {
                let (front, back) = several.split_at(several.len() / 2);
                search(front, domain, searches)?;
                search(back, domain, searches)?;
            }
        },
    }
    Ok(())
}

/// In order, and without those that begin with another.
fn free(mut texts: Vec<Box<[u8]>>) -> Box<[Box<[u8]>]> {
    texts.sort_unstable();
    // What begins with another stands behind it, with nothing between that does not.
    texts.dedup_by(|later, earlier| later.starts_with(earlier));
    texts.into()
}

/// Whether the text begins with one of these. If one does, it is the last that is not behind the text in their order:
/// what stood between the two would begin with it, too.
fn begins(prefixes: &[Box<[u8]>], text: &[u8]) -> bool {
    let at = prefixes.partition_point(|prefix| **prefix <= *text);
    at.checked_sub(1).is_some_and(|at| text.starts_with(&prefixes[at]))
}

/// The same from the end.
fn ends(suffixes: &[Box<[u8]>], text: &[u8]) -> bool {
    let at = suffixes.partition_point(|suffix| suffix.iter().le(text.iter().rev()));
    at.checked_sub(1).is_some_and(|at| {
        let suffix = &suffixes[at];
        suffix.len() <= text.len() && suffix.iter().eq(text.iter().rev().take(suffix.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beginnings_and_ends_of_many() {
        let patterns: Vec<_> = ["ab", "abc", "b", "ca", "c"]
            .iter()
            .flat_map(|text| [Pattern::Prefix((*text).to_owned()), Pattern::Suffix(format!("{text}!"))])
            .collect();
        let set = TextSet::new(&patterns.iter().collect::<Vec<_>>(), Domain::Value).unwrap();
        assert_eq!(set.prefixes.len(), 3, "ab, b, c");
        for (text, expected) in [
            ("ab", true),
            ("abz", true),
            ("a", false),
            ("", false),
            ("bzz", true),
            ("d", false),
            ("cz", true),
            ("zab!", true),
            ("zb!", true),
            ("zca!", true),
            ("za!", false),
            ("!", false),
        ] {
            assert_eq!(set.matches(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_thousand_expressions_are_few_searches() {
        let patterns: Vec<_> = (0..1000).map(|n| Pattern::Regex(format!("^/{n}/[a-z]+/x$"))).collect();
        let set = TextSet::new(&patterns.iter().collect::<Vec<_>>(), Domain::Path).unwrap();
        assert_eq!(set.searches.len(), 4);
        assert!(set.matches(b"/999/ab/x") && set.matches(b"/0/ab/x") && !set.matches(b"/1000/ab/x"));
    }

    #[test]
    fn expressions_too_large_for_one_set_are_several() {
        // Each one within its limit.
        let patterns: Vec<_> = (0..40).map(|n| Pattern::Regex(format!("^{n}(?:[a-z]{{9}}x){{800}}$"))).collect();
        let set = TextSet::new(&patterns.iter().collect::<Vec<_>>(), Domain::Path).unwrap();
        assert!(set.searches.len() > 1 && set.searches.len() < 40, "{}", set.searches.len());
        assert!(set.matches(format!("39{}", "abcdefghix".repeat(800)).as_bytes()));
        assert!(!set.matches(format!("40{}", "abcdefghix".repeat(800)).as_bytes()));
    }
}

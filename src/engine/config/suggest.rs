//! What was probably meant.

use serde_json::Value;

use super::place::{Step, Trail};
use super::schema;

/// The candidate that differs least from `word`, if it does not differ too much to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = snake_case(word);
    let close = |candidate: &&str| {
        let candidate = snake_case(candidate);
        let letters = plain.chars().count().max(candidate.chars().count());
        // A third of the letters may be wrong; or the word was cut short.
        strsim::osa_distance(&plain, &candidate) <= (letters / 3).clamp(1, 4)
            || plain.len() >= 3 && (candidate.starts_with(&plain) || plain.starts_with(&candidate))
    };
    candidates.into_iter().filter(close).min_by_key(|candidate| strsim::osa_distance(&plain, &snake_case(candidate)))
}

/// The candidate that differs from `word` least of all, however much that is.
pub(crate) fn least_far<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates.into_iter().min_by_key(|candidate| (strsim::osa_distance(word, candidate), *candidate))
}

/// The key that is this one in another spelling: `rootId`, `root-id` and `Root_ID` are `root_id`.
pub(super) fn spelling_of<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = squeezed(key);
    known.into_iter().find(|known| *known != key && squeezed(known) == plain)
}

fn squeezed(key: &str) -> String {
    key.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// `camelCase`, `kebab-case` and `Title Case` as `snake_case`.
fn snake_case(word: &str) -> String {
    let mut out = String::new();
    let mut lower = false;
    for c in word.chars() {
        if c.is_uppercase() && lower {
            out.push('_');
        }
        lower = c.is_lowercase() || c.is_ascii_digit();
        if matches!(c, '-' | ' ' | '.') {
            out.push('_');
        } else {
            out.extend(c.to_lowercase());
        }
    }
    out
}

/// What the schema knows of a place in a file.
pub(super) struct Known<'a> {
    root: Value,
    trail: &'a Trail,
}

impl<'a> Known<'a> {
    pub(super) fn at(trail: &'a Trail) -> Self {
        Known { root: schema::schema(), trail }
    }

    /// The schemas of every node on the way, the file's first.
    fn way(&self) -> Vec<Vec<&Value>> {
        let mut way = vec![vec![&self.root]];
        for step in &self.trail.0 {
            let above = way.last().into_iter().flatten();
            let here = above.flat_map(|node| below(&self.root, node, step)).collect();
            way.push(here);
        }
        way
    }

    fn here(&self) -> Vec<&Value> {
        let here = self.way().pop().unwrap_or_default();
        here.into_iter().flat_map(|node| alternatives(&self.root, node)).collect()
    }

    /// The keys that the mapping here may have.
    pub(super) fn keys(&self) -> Vec<String> {
        let here = self.way().pop().unwrap_or_default();
        here.iter().flat_map(|node| properties(&self.root, node)).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn is_mapping(&self) -> bool {
        self.here().iter().any(|node| node["type"] == "object")
    }

    /// The numbers that are permitted here, in words.
    pub(super) fn range(&self) -> Option<String> {
        let here = self.here();
        let bound = |key: &str| here.iter().find_map(|node| node[key].as_u64());
        match (bound("minimum"), bound("maximum")) {
            (Some(least), Some(most)) => Some(format!("a whole number from {least} to {most}")),
            (Some(least), None) => Some(format!("a whole number from {least} to {}", u32::MAX)),
            _ => None,
        }
    }

    /// Where a key belongs that is not known here, if it is one of another level: what to write instead, where that
    /// can be said in a word, and a sentence.
    pub(super) fn elsewhere(&self, key: &str) -> Option<(Option<String>, String)> {
        let (root, top) = (&self.root, self.trail.0.is_empty());
        let mut above = self.way();
        let here = above.pop()?;
        let below_here = here.iter().flat_map(|node| properties(root, node));
        // Of a key of filters that stands beside them, `filters` is told before `defaults`.
        for (name, node) in below_here.filter(|(name, _)| !(top && *name == "defaults")) {
            if let Some(found) = own(root, node, key) {
                return Some((Some(format!("{name}.{found}")), format!("it belongs in '{name}'")));
            }
        }
        let mut place = self.trail.clone();
        while let Some(nodes) = above.pop() {
            place.0.pop();
            if let Some(found) = nodes.iter().find_map(|node| own(root, node, key)) {
                let place =
                    if place.0.is_empty() { "at the top of the file".to_owned() } else { format!("in {place}") };
                let spelled = if found == key { String::new() } else { format!(", as '{found}'") };
                return Some((None, format!("it belongs {place}{spelled}")));
            }
        }
        // A key of filters beside the lists of filters.
        let find = |node: &&Value| {
            let inner = |(name, node)| Some(format!("{name}.{}", own(root, node, key)?));
            own(root, node, key).or_else(|| properties(root, node).find_map(inner))
        };
        let of = |steps: &[Step]| {
            let mut nodes = here.clone();
            for step in steps {
                nodes = nodes.into_iter().flat_map(|node| below(root, node, step)).collect();
            }
            nodes.iter().find_map(find)
        };
        let found = top.then(|| of(&[Step::Key("filters".to_owned()), Step::Index(0)])).flatten()?;
        let of_all = of(&[Step::Key("defaults".to_owned())]).map_or("", |_| ", or of all of them in 'defaults'");
        Some((None, format!("it belongs in an entry of 'filters', as '{found}'{of_all}")))
    }
}

/// The property of this node that is `key`, in whatever spelling.
fn own(root: &Value, node: &Value, key: &str) -> Option<String> {
    properties(root, node).map(|(name, _)| name).find(|name| squeezed(name) == squeezed(key)).cloned()
}

fn properties<'a>(root: &'a Value, node: &'a Value) -> impl Iterator<Item = (&'a String, &'a Value)> {
    alternatives(root, node).into_iter().filter_map(|node| node["properties"].as_object()).flatten()
}

/// What a schema says of what stands one step below.
fn below<'a>(root: &'a Value, node: &'a Value, step: &Step) -> Vec<&'a Value> {
    let one = |node: &'a Value| match step {
        Step::Key(key) => node["properties"].get(key).or_else(|| node.get("additionalProperties")),
        Step::Index(_) => node.get("items"),
    };
    alternatives(root, node).into_iter().filter_map(one).collect()
}

/// A schema, what it refers to, and what it may be instead.
fn alternatives<'a>(root: &'a Value, node: &'a Value) -> Vec<&'a Value> {
    let mut found = vec![node];
    let mut at = 0;
    // Types that hold themselves would go round for ever.
    while at < found.len() && found.len() < 64 {
        let node = found[at];
        at += 1;
        let referred = node["$ref"].as_str().and_then(|pointer| root.pointer(pointer.strip_prefix('#')?));
        found.extend(referred);
        found.extend(["anyOf", "oneOf", "allOf"].iter().filter_map(|key| node[key].as_array()).flatten());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words() {
        let keys = ["name", "module", "root_id", "configuration", "vm_id", "vm_configuration", "environment"];
        for (word, meant) in [
            ("modul", Some("module")),
            ("moudle", Some("module")),
            ("rootId", Some("root_id")),
            ("vmid", Some("vm_id")),
            ("config", Some("configuration")),
            ("env", Some("environment")),
            ("vm_config", Some("vm_configuration")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, keys), meant, "{word}");
        }
        assert_eq!(spelling_of("vm-Configuration", keys), Some("vm_configuration"));
        assert_eq!(spelling_of("vm_id", keys), None);
    }

    #[test]
    fn keys_of_other_levels() {
        let filter = Trail::default().key("filters").index(3);
        let says = |trail: &Trail, key| {
            Known::at(trail).elsewhere(key).map(|(suggestion, hint)| (suggestion.unwrap_or_default(), hint))
        };
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(says(&filter, "memory_mib"), pair("limits.memory_mib", "it belongs in 'limits'"));
        assert_eq!(says(&filter, "memoryMib"), pair("limits.memory_mib", "it belongs in 'limits'"));
        assert_eq!(says(&filter.clone().key("limits"), "body"), pair("", "it belongs in filters[3]"));
        assert_eq!(says(&filter, "clusters"), pair("", "it belongs at the top of the file"));
        assert_eq!(
            says(&Trail::default(), "vm_id"),
            pair("", "it belongs in an entry of 'filters', as 'vm_id', or of all of them in 'defaults'")
        );
        assert_eq!(
            says(&Trail::default().key("clusters").key("a"), "verify"),
            pair("tls.verify", "it belongs in 'tls'")
        );
        assert_eq!(says(&filter, "colour"), None);
        assert_eq!(says(&Trail::default(), "module"), pair("", "it belongs in an entry of 'filters', as 'module'"));
        let memory = filter.clone().key("limits").key("memory_mib");
        assert_eq!(Known::at(&memory).range().as_deref(), Some("a whole number from 1 to 4096"));
        assert!(Known::at(&filter.clone().key("limits")).is_mapping() && !Known::at(&memory).is_mapping());
        let of_services = Known::at(&Trail::default().key("services").index(0)).keys();
        assert!(of_services.iter().any(|key| key == "vm_id") && !of_services.iter().any(|key| key == "body"));
    }
}

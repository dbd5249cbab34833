//! Which files a configuration has read when it is loaded, beside those that it stands in.

use std::path::Path;

use super::ConfigFile;

impl ConfigFile {
    /// The files that loading this reads: modules, and what clusters name. Each as often as it is named.
    pub fn reads(&self) -> impl Iterator<Item = &Path> {
        let modules = self.filters.iter().chain(&self.services).filter_map(|spec| spec.code.source.path());
        let of_tls = self.clusters.values().filter_map(|cluster| cluster.tls.as_ref()).flat_map(|tls| {
            [&tls.ca_file, &tls.certificate_file, &tls.key_file].into_iter().filter_map(|file| file.as_deref())
        });
        modules.chain(of_tls)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use crate::config::parse;

    #[test]
    fn modules_and_the_files_of_clusters() {
        let file = parse(
            Path::new("/etc/f/shop.yaml"),
            "filters: [{name: a, module: a.wasm}, {name: b, module: /b.wasm}]\n\
             services: [{name: s, module: a.wasm}]\n\
             clusters: {c: {endpoints: ['c:1'], tls: {ca_file: ca.pem, certificate_file: c.pem, key_file: /k.pem}}}\n",
        )
        .unwrap();
        let reads: Vec<_> = file.reads().map(Path::to_owned).collect();
        let expected = ["/etc/f/a.wasm", "/b.wasm", "/etc/f/a.wasm", "/etc/f/ca.pem", "/etc/f/c.pem", "/k.pem"];
        assert_eq!(reads, expected.map(PathBuf::from));
    }

    #[test]
    fn a_rule_is_watched_if_one_of_its_files_says_so() {
        let one = |text: &str| parse(Path::new("f.yaml"), text).unwrap();
        let mut all = one("filters: [{name: a, module: b}]\n");
        assert!(!all.watch);
        all.extend(Path::new("f.yaml"), one("watch: true\nfilters: [{name: a, module: b}]\n")).unwrap();
        all.extend(Path::new("f.yaml"), one("watch: false\nfilters: [{name: a, module: b}]\n")).unwrap();
        assert!(all.watch);
    }
}

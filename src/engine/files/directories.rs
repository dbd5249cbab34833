//! Which directories to watch in order to be told of a file.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// As many symbolic links the kernel follows.
const MAX_LINKS: usize = 40;

/// The directories in which something changes when a path leads to another file, or to none, or its file is written to:
/// that of the file itself, that of each symbolic link on the way, and where the way ends too early, the last directory
/// that is there.
#[derive(Debug, Default)]
pub struct Directories {
    found: BTreeSet<PathBuf>,
    /// By directory as it is named: the directory that this leads to.
    known: HashMap<PathBuf, Option<PathBuf>>,
}

impl Directories {
    /// Adds those of a file.
    pub fn add(&mut self, file: &Path) {
        let Ok(file) = std::path::absolute(file) else { return };
        let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else { return };
        // Thousands of files stand in few directories.
        let real = match self.known.get(parent) {
            Some(real) => real.clone(),
            None => {
                let real = self.walk(PathBuf::new(), parent);
                self.known.insert(parent.to_owned(), real.clone());
                real
            }
        };
        if let Some(real) = real {
            self.walk(real, Path::new(name));
        }
    }

    /// All of them.
    #[must_use]
    pub fn found(self) -> BTreeSet<PathBuf> {
        self.found
    }

    /// Follows a path from a directory without links on its way; what is at its end, if that is a directory.
    fn walk(&mut self, mut at: PathBuf, path: &Path) -> Option<PathBuf> {
        let parts = |path: &Path| path.components().map(|part| part.as_os_str().to_owned()).collect::<Vec<OsString>>();
        let mut rest: VecDeque<_> = parts(path).into();
        let mut links = 0;
        while let Some(part) = rest.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::RootDir) => at = PathBuf::from("/"),
                Some(Component::ParentDir) => _ = at.pop(),
                Some(Component::Normal(name)) => {
                    let next = at.join(name);
                    let kind = std::fs::symlink_metadata(&next).map(|data| data.file_type());
                    match kind {
                        Ok(kind) if kind.is_symlink() && links < MAX_LINKS => {
                            links += 1;
                            self.found.insert(at.clone());
                            let target = std::fs::read_link(&next).unwrap_or_default();
                            parts(&target).into_iter().rev().for_each(|part| rest.push_front(part));
                        }
                        Ok(kind) if kind.is_dir() => at = next,
                        // A file; or nothing, or something that leads no further.
                        _ => {
                            self.found.insert(at);
                            return None;
                        }
                    }
                }
                _ => {}
            }
        }
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn of(file: &Path) -> Vec<PathBuf> {
        let mut directories = Directories::default();
        directories.add(file);
        directories.found().into_iter().collect()
    }

    #[test]
    fn every_place_where_the_way_to_a_file_may_turn() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("releases/5/filters")).unwrap();
        fs::write(at("releases/5/filters/shop.yaml"), "").unwrap();
        assert_eq!(of(&at("releases/5/filters/shop.yaml")), [at("releases/5/filters")]);
        // As deployments do it: the link is replaced.
        symlink("releases/5", at("current")).unwrap();
        assert_eq!(of(&at("current/filters/shop.yaml")), [root.clone(), at("releases/5/filters")]);
        // As Kubernetes does it: two links, of which the second is replaced.
        fs::create_dir_all(at("mount/..2026")).unwrap();
        fs::write(at("mount/..2026/shop.yaml"), "").unwrap();
        symlink("..2026", at("mount/..data")).unwrap();
        symlink("..data/shop.yaml", at("mount/shop.yaml")).unwrap();
        assert_eq!(of(&at("mount/shop.yaml")), [at("mount"), at("mount/..2026")]);
        // Upwards, and from the root.
        symlink(at("mount/../mount/shop.yaml"), at("releases/link")).unwrap();
        assert_eq!(of(&at("releases/link")), [at("mount"), at("mount/..2026"), at("releases")]);
    }

    #[test]
    fn what_is_not_there_is_waited_for_where_it_would_come() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(of(&root.join("shop.yaml")), std::slice::from_ref(&root));
        assert_eq!(of(&root.join("a/b/shop.yaml")), std::slice::from_ref(&root));
        fs::create_dir(root.join("a")).unwrap();
        assert_eq!(of(&root.join("a/b/shop.yaml")), [root.join("a")]);
        // A link into the void, and one that turns in a circle.
        symlink("void/shop.yaml", root.join("link")).unwrap();
        assert_eq!(of(&root.join("link")), std::slice::from_ref(&root));
        symlink("circle", root.join("circle")).unwrap();
        assert_eq!(of(&root.join("circle")), [root]);
    }

    #[test]
    fn files_of_one_directory_are_one_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let mut directories = Directories::default();
        for n in 0..1000 {
            directories.add(&root.join(format!("{n}.yaml")));
        }
        assert_eq!(directories.found().into_iter().collect::<Vec<_>>(), [root]);
    }
}

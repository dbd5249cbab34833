//! Where the things under test were built: the plugin and the guests.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The plugin's file name, as a remap rule gives it.
pub const PLUGIN: &str = "wasm_remap.so";

/// The built plugin: `WASM_REMAP_SO`, then this profile's directory, then the newest under its `deps`.
#[track_caller]
pub fn plugin() -> PathBuf {
    if let Some(path) = env::var_os("WASM_REMAP_SO").map(PathBuf::from) {
        assert!(path.is_file(), "WASM_REMAP_SO names {}, which is no file", path.display());
        return path;
    }
    let profile = profile_dir();
    let direct = profile.join("libwasm_remap.so");
    if direct.is_file() {
        return direct;
    }
    let deps = profile.join("deps");
    newest(&deps, "libwasm_remap", ".so").unwrap_or_else(|| {
        panic!(
            "the plugin is not built: neither {} nor {}/libwasm_remap*.so exists. Run `make build`, or name the file in WASM_REMAP_SO",
            direct.display(),
            deps.display()
        )
    })
}

/// The plugin built with panics on demand (feature `fault-injection`): `WASM_REMAP_FAULT_SO`, then
/// `fault/wasm_remap.so` under the target directory.
#[track_caller]
pub fn fault_plugin() -> PathBuf {
    let path = match env::var_os("WASM_REMAP_FAULT_SO") {
        Some(path) => PathBuf::from(path),
        None => target_dir().join("fault").join(PLUGIN),
    };
    assert!(
        path.is_file(),
        "the plugin with fault injection is not built: there is no {}. Run `make build-tests`, or name the file in WASM_REMAP_FAULT_SO",
        path.display()
    );
    path
}

/// The built guest `name`: `WASM_REMAP_GUESTS`, then `guests` under the target directory.
#[track_caller]
pub fn guest(name: &str) -> PathBuf {
    let file = format!("{name}.wasm");
    let dirs = guest_dirs();
    dirs.iter().map(|dir| dir.join(&file)).find(|path| path.is_file()).unwrap_or_else(|| {
        let tried: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        panic!(
            "the guest {file} is in none of {}. Run `make guests`, or name its directory in WASM_REMAP_GUESTS",
            tried.join(", ")
        )
    })
}

/// A file of the repository, by its path from the root: `configs/…`, `examples/…`.
#[track_caller]
pub fn repository(path: &str) -> PathBuf {
    let full = workspace().join(path);
    assert!(full.exists(), "the repository has no {path}");
    full
}

/// Cargo's target directory.
pub fn target_dir() -> PathBuf {
    if let Some(dir) = env::var_os("CARGO_TARGET_DIR") {
        return workspace().join(dir);
    }
    let profile = profile_dir();
    // target/<profile>, or target/<triple>/<profile>: the target directory itself carries Cargo's tag.
    let tagged = profile.ancestors().find(|dir| dir.join("CACHEDIR.TAG").is_file());
    tagged.map_or_else(|| workspace().join("target"), Path::to_path_buf)
}

fn workspace() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests' package stands in the workspace").to_path_buf()
}

fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("a running test knows its own path");
    let dir = exe.parent().expect("an executable stands in a directory");
    // Tests run from `deps`, doc tests and other programs from elsewhere.
    if dir.ends_with("deps") {
        dir.parent().map_or_else(|| dir.to_path_buf(), Path::to_path_buf)
    } else {
        dir.to_path_buf()
    }
}

fn guest_dirs() -> Vec<PathBuf> {
    if let Some(dir) = env::var_os("WASM_REMAP_GUESTS") {
        return vec![PathBuf::from(dir)];
    }
    let mut dirs = vec![target_dir().join("guests")];
    let default = workspace().join("target/guests");
    if !dirs.contains(&default) {
        dirs.push(default);
    }
    dirs
}

fn newest(dir: &Path, prefix: &str, suffix: &str) -> Option<PathBuf> {
    let modified =
        |path: &PathBuf| fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
        })
        .max_by_key(modified)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::catch_unwind;

    #[test]
    fn what_is_not_built_is_named_with_what_builds_it() {
        let message = catch_unwind(|| guest("no-such-guest")).expect_err("there is no such guest");
        let message = message.downcast_ref::<String>().expect("a message");
        assert!(message.contains("no-such-guest.wasm") && message.contains("make guests"), "{message}");
    }

    #[test]
    fn the_target_directory_holds_this_test() {
        let own = env::current_exe().expect("a running test knows its own path");
        assert!(own.starts_with(target_dir()), "{} is not in {}", own.display(), target_dir().display());
    }
}

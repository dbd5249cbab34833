use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::engines::{Compiler, Engines, Variant};

/// A directory for caches, an engine, and modules.
struct Place {
    dir: tempfile::TempDir,
    engines: Engines,
}

impl Place {
    fn new() -> Self {
        Place { dir: tempfile::tempdir().unwrap(), engines: Engines::new().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    fn cache(&self) -> Cache {
        self.cache_of(64 << 20)
    }

    fn cache_of(&self, max_bytes: u64) -> Cache {
        Cache::new(CodeCache { directory: self.path(), max_bytes })
    }

    fn home(&self, compiler: Compiler) -> Arc<EngineVariant> {
        self.engines.get(Variant { compiler, ..Variant::default() }).unwrap()
    }

    /// Keeps a module whose `f` gives this number; its digest, and its entry's path.
    fn keep(&self, cache: &Cache, compiler: Compiler, number: u32) -> (Digest, PathBuf) {
        let home = self.home(compiler);
        let (digest, bytes) = module(number);
        let module = wasmtime::Module::new(&home.engine, bytes).unwrap();
        assert!(cache.store(&home, digest, &module));
        (digest, self.path().join(name(&home, digest).0))
    }

    /// What `f` of the module with this digest gives, if the cache has it.
    fn run(&self, cache: &Cache, compiler: Compiler, digest: Digest) -> Option<u32> {
        let home = self.home(compiler);
        let module = cache.load(&home, digest)?;
        let mut store = wasmtime::Store::new(&home.engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let f = instance.get_typed_func::<(), u32>(&mut store, "f").unwrap();
        Some(f.call(&mut store, ()).unwrap())
    }

    fn files(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.path()).into_iter().flatten();
        let mut names: Vec<_> = names.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// `f` gives the number, by way of memory, so that there is data as well as code.
fn module(number: u32) -> (Digest, Vec<u8>) {
    let data: String = number.to_le_bytes().iter().map(|byte| format!("\\{byte:02x}")).collect();
    let text = format!(
        r#"(module (memory 1) (data (i32.const 8) "{data}") (func (export "f") (result i32) (i32.load (i32.const 8))))"#
    );
    let bytes = wat::parse_str(text).unwrap();
    (Digest::of(&bytes), bytes)
}

fn settle() {
    std::thread::sleep(SETTLED + Duration::from_millis(20));
}

const USUAL: Compiler = Compiler::Cranelift;

#[test]
fn what_was_kept_is_loaded_by_whom_it_was_kept_for() {
    let place = Place::new();
    let cache = place.cache();
    assert_eq!(place.run(&cache, USUAL, module(7).0), None);
    for compiler in Compiler::ALL {
        for number in [7, 8] {
            place.keep(&cache, compiler, number);
        }
    }
    // Another process's, as good as.
    let (again, cache) = (Place { dir: place.dir, engines: Engines::new().unwrap() }, cache);
    for compiler in Compiler::ALL {
        for number in [7, 8] {
            assert_eq!(again.run(&cache, compiler, module(number).0), Some(number), "{compiler}");
        }
    }
    assert_eq!(again.run(&cache, USUAL, module(9).0), None);
    assert_eq!(std::fs::metadata(again.path()).unwrap().mode() & 0o777, 0o700);
    let files = again.files();
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        assert_eq!(std::fs::metadata(again.path().join(&file)).unwrap().mode() & 0o777, 0o600, "{file}");
    }
}

#[test]
fn entries_that_are_not_what_was_written_are_not_loaded() {
    let place = Place::new();
    let cache = place.cache();
    let (digest, path) = place.keep(&cache, USUAL, 7);
    let (_, other) = place.keep(&cache, USUAL, 8);
    let (_, winch) = place.keep(&cache, Compiler::Winch, 7);
    let whole = std::fs::read(&path).unwrap();
    let code = whole.len() - trailer_size();
    let key = name(&place.home(USUAL), digest).1;
    let mut bad: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("the trailer alone", whole[code..].to_vec()),
        ("the trailer of nothing", entry::trailer(&key, &[]).to_vec()),
        ("no trailer", whole[..code].to_vec()),
        ("a byte more", [&whole[..], b"x"].concat()),
        ("a byte more in the middle", [&whole[..code], b"x", &whole[code..]].concat()),
        ("a byte less in the middle", [&whole[..code - 1], &whole[code..]].concat()),
        ("another's", std::fs::read(&other).unwrap()),
        ("another compiler's", std::fs::read(&winch).unwrap()),
        ("zeros", vec![0; whole.len()]),
        // Whole, and of what wasmtime does not take for its own.
        ("no code at all", {
            let code = b"\x7fELF and nothing else".to_vec();
            let trailer = entry::trailer(&key, &code);
            [&code[..], &trailer].concat()
        }),
    ];
    // As a wasmtime of another version would have written it, under the same name.
    let mut foreign = key;
    foreign[0] ^= 1;
    bad.push(("another version's", [&whole[..code], &entry::trailer(&foreign, &whole[..code])].concat()));
    for cut in [1, 8, 71, 72, 73, 4096, whole.len() / 2, whole.len() - 1] {
        bad.push(("cut short", whole[..whole.len() - cut].to_vec()));
    }
    for (what, bytes) in bad {
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(place.run(&cache, USUAL, digest), None, "{what}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));

    // What stands there and is no file of ours.
    let refused = |what: &str| assert_eq!(place.run(&cache, USUAL, digest), None, "{what}");
    let aside = place.dir.path().join("aside");
    std::fs::rename(&path, &aside).unwrap();
    symlink(&aside, &path).unwrap();
    refused("a symbolic link");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    refused("a directory");
    std::fs::remove_dir(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    refused("a pipe");
    std::fs::remove_file(&path).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    for mode in [0o620, 0o602] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        refused("writable by others");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    // A new one takes the place of a bad one.
    std::fs::write(&path, b"bad").unwrap();
    place.keep(&cache, USUAL, 7);
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
}

fn trailer_size() -> usize {
    entry::trailer(&[0; 32], &[]).len()
}

#[test]
fn one_bit_anywhere_is_enough() {
    let place = Place::new();
    let cache = place.cache();
    let (digest, path) = place.keep(&cache, USUAL, 7);
    settle();
    // With a note, which must not help.
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    assert!(path.with_extension("seen").exists());
    let whole = std::fs::read(&path).unwrap();
    let trailer = whole.len() - trailer_size();
    for at in (0..trailer).step_by(97).chain(trailer..whole.len()) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(place.run(&cache, USUAL, digest), None, "byte {at}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever becomes of an entry: it is what was written, or it is not loaded.
    #[test]
    fn damage_is_never_loaded(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1_u8..), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        moved in prop::option::of((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1_usize..5000)),
    ) {
        thread_local! {
            static PLACE: (Place, Vec<u8>, Digest, PathBuf) = {
                let place = Place::new();
                let (digest, path) = place.keep(&place.cache(), USUAL, 7);
                (place, std::fs::read(&path).unwrap(), digest, path)
            };
        }
        PLACE.with(|(place, whole, digest, path)| {
            let mut bytes = whole.clone();
            for (at, bits) in &flips {
                bytes[at.index(whole.len())] ^= *bits;
            }
            if let Some((from, to, length)) = moved {
                let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
                let length = length.min(bytes.len() - from.max(to));
                bytes.copy_within(from..from + length, to);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(whole.len() + 1));
            }
            std::fs::write(path, &bytes).unwrap();
            let expected = (bytes == *whole).then_some(7);
            prop_assert_eq!(place.run(&place.cache(), USUAL, *digest), expected);
            Ok(())
        })?;
    }
}

#[test]
fn a_note_spares_the_verification_until_the_entry_changes() {
    let place = Place::new();
    let cache = place.cache();
    let (digest, path) = place.keep(&cache, USUAL, 7);
    let note = path.with_extension("seen");
    let identity = |path: &PathBuf| std::fs::metadata(path).map(|data| (data.ino(), data.ctime(), data.ctime_nsec())).ok();
    assert_eq!(identity(&note), None, "the date of a new entry says nothing yet");
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    settle();
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    let first = identity(&note);
    assert!(first.is_some());
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    assert_eq!(identity(&note), first, "heeded");

    // A change, with the dates that can be set put back.
    let date = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    File::options().write(true).open(&path).unwrap().set_modified(date).unwrap();
    assert_eq!(place.run(&cache, USUAL, digest), None);
    bytes[middle] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    settle();
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    assert_ne!(identity(&note), first, "written anew");

    // Notes that are damaged, of another boot, or of another entry are none.
    let text = std::fs::read_to_string(&note).unwrap();
    let boot = boot().unwrap();
    let elsewhere = text.replace(boot, "00000000-0000-0000-0000-000000000000");
    for bad in ["", "1", &text[1..], &text[..text.len() - 3], &elsewhere, &text.replace(' ', "  ")] {
        std::fs::write(&note, bad).unwrap();
        let before = identity(&note);
        assert_eq!(place.run(&cache, USUAL, digest), Some(7), "{bad:?}");
        assert_ne!(identity(&note), before, "{bad:?} was heeded");
        assert_eq!(std::fs::read_to_string(&note).unwrap(), text);
    }
}

#[test]
fn a_file_that_was_read_before_is_known_by_its_note() {
    let place = Place::new();
    let cache = place.cache();
    let file = place.dir.path().join("m.wasm");
    std::fs::write(&file, b"contents").unwrap();
    settle();
    let (bytes, id) = super::super::files::read(&file).unwrap();
    assert_eq!(cache.digest(&file), None);
    cache.note_digest(id.unwrap(), Digest::of(&bytes));
    assert_eq!(cache.digest(&file), Some((id.unwrap(), Digest::of(b"contents"))));
    std::fs::write(&file, b"contents").unwrap();
    assert_eq!(cache.digest(&file), None, "written again");
}

#[test]
fn a_directory_that_others_can_write_to_is_not_used() {
    let place = Place::new();
    let cache = place.cache();
    let (digest, _) = place.keep(&cache, USUAL, 7);
    let home = place.home(USUAL);
    let (_, bytes) = module(8);
    let other = wasmtime::Module::new(&home.engine, &bytes).unwrap();
    let refused = |cache: &Cache, why: &str| {
        assert_eq!(place.run(cache, USUAL, digest), None, "{why}");
        assert!(!cache.store(&home, Digest::of(&bytes), &other), "{why}");
        assert!(cache.complaint.lock().contains(why), "{}", cache.complaint.lock());
    };
    let path = place.path();
    for mode in [0o720, 0o702, 0o777, 0o1777] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        refused(&cache, "others may write to it");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(place.run(&cache, USUAL, digest), Some(7));
    if rustix::process::geteuid().is_root() {
        chown(&path, Some(65_534), None).unwrap();
        refused(&cache, "it belongs to the user 65534");
        chown(&path, Some(0), None).unwrap();
    }
    let elsewhere = |name: &str| Cache::new(CodeCache { directory: place.dir.path().join(name), max_bytes: 64 << 20 });
    symlink(&path, place.dir.path().join("link")).unwrap();
    refused(&elsewhere("link"), "symbolic link");
    std::fs::write(place.dir.path().join("file"), b"").unwrap();
    refused(&elsewhere("file"), "Not a directory");
    refused(&elsewhere("no/such"), "it cannot be made: No such file or directory");
    // Where not even root can write.
    let (system, why) = (Cache::new(CodeCache { directory: "/proc/self".into(), max_bytes: 64 << 20 }), "symbolic link");
    refused(&system, why);
    let system = Cache::new(CodeCache { directory: "/proc/sys/kernel".into(), max_bytes: 64 << 20 });
    assert!(!system.store(&home, Digest::of(&bytes), &other));
    assert!(system.complaint.lock().starts_with("code_cache /proc/sys/kernel: "), "{}", system.complaint.lock());
    assert_eq!(place.files().len(), 1, "nothing was written anywhere");
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    let place = Place::new();
    let directory = Directory::open(&place.path()).unwrap();
    for lasting in [false, true] {
        let error = directory.write("x.code", lasting, |file| {
            file.write_all(&[1; 5000])?;
            Err(std::io::ErrorKind::StorageFull.into())
        });
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        assert_eq!(place.files(), [] as [String; 0]);
    }
    // What was there before stays.
    directory.write("x.code", true, |file| file.write_all(b"whole")).unwrap();
    directory.write("x.code", true, |_| Err(std::io::ErrorKind::StorageFull.into())).unwrap_err();
    assert_eq!(std::fs::read(place.path().join("x.code")).unwrap(), b"whole");
}

/// Sets a file's date so many hours back.
fn age(path: &PathBuf, hours: u64) {
    let time = SystemTime::now() - Duration::from_secs(3600 * hours);
    File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

#[test]
fn what_was_not_used_for_longest_leaves_first() {
    let place = Place::new();
    let roomy = place.cache();
    let paths: Vec<_> = (0..3).map(|number| place.keep(&roomy, USUAL, number).1).collect();
    let size = std::fs::metadata(&paths[0]).unwrap().len();
    settle();
    // Used last in the order 1, 2, 0, and 0 only just.
    for (hours, number) in [(9, 1), (8, 2), (7, 0)] {
        assert_eq!(place.run(&roomy, USUAL, module(number).0), Some(number));
        let path = &paths[number as usize];
        age(path, 20);
        age(&path.with_extension("seen"), hours);
    }
    settle();
    assert_eq!(place.run(&roomy, USUAL, module(0).0), Some(0));
    let leftover = place.path().join(".x.code.1.1");
    std::fs::write(&leftover, b"of a process that ended").unwrap();
    age(&leftover, 2);
    let tight = place.cache_of(3 * size + size / 2);
    let (_, newest) = place.keep(&tight, USUAL, 9);
    let there: Vec<_> = paths.iter().chain([&newest, &leftover]).map(|path| path.exists()).collect();
    assert_eq!(there, [true, false, true, true, false]);
    assert!(!paths[1].with_extension("seen").exists());
    // One that is larger than all of it is not kept, and drives out nobody.
    let home = place.home(USUAL);
    let (digest, bytes) = module(10);
    let module = wasmtime::Module::new(&home.engine, bytes).unwrap();
    assert!(!place.cache_of(size / 2).store(&home, digest, &module));
    assert!(newest.exists());
}

#[test]
fn code_that_is_in_use_outlives_its_entry() {
    let place = Place::new();
    let cache = place.cache();
    let (digest, path) = place.keep(&cache, USUAL, 7);
    let home = place.home(USUAL);
    let module = cache.load(&home, digest).unwrap();
    // Replaced, then removed.
    place.keep(&cache, USUAL, 7);
    std::fs::remove_file(&path).unwrap();
    for _ in 0..3 {
        let mut store = wasmtime::Store::new(&home.engine, ());
        store.set_epoch_deadline(u64::MAX / 2);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let f = instance.get_typed_func::<(), u32>(&mut store, "f").unwrap();
        assert_eq!(f.call(&mut store, ()).unwrap(), 7);
    }
}

/// Not a test of its own: what a process of the next one does, if it is told where.
#[test]
fn one_of_several_processes() {
    let Some(directory) = std::env::var_os("WASM_REMAP_CACHE_RACE").map(PathBuf::from) else { return };
    let place = Place::new();
    let size = std::fs::read_dir(&directory).unwrap().next().unwrap().unwrap().metadata().unwrap().len();
    // Room for three of four: somebody's entry is always being removed.
    let cache = Cache::new(CodeCache { directory, max_bytes: 3 * size + size / 2 });
    let home = place.home(USUAL);
    let modules: Vec<_> = (0..4)
        .map(|number| {
            let (digest, bytes) = module(number);
            (number, digest, wasmtime::Module::new(&home.engine, bytes).unwrap())
        })
        .collect();
    let mut found = 0;
    for round in 0..60 {
        for (number, digest, module) in &modules {
            if (round + number) % 3 == 0 {
                assert!(cache.store(&home, *digest, module), "{}", cache.complaint.lock());
            }
            if let Some(result) = place.run(&cache, USUAL, *digest) {
                assert_eq!(result, *number);
                found += 1;
            }
        }
    }
    assert!(found > 0);
}

#[test]
fn processes_share_a_directory_and_none_meets_half_an_entry() {
    let place = Place::new();
    place.keep(&place.cache(), USUAL, 0);
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "code::cache::tests::one_of_several_processes", "--nocapture"])
            .env("WASM_REMAP_CACHE_RACE", place.path())
            .stderr(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    for child in [child(), child(), child()] {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!place.files().iter().any(|file| file.starts_with('.')), "{:?}", place.files());
}

//! `watch: true`: files that change, however they do.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use wasm_remap_tests::{Origin, TrafficServer, artifacts};

use crate::support::{PATIENCE, complaint, message, rules, stamp, version, wait_for_version, watched};

/// Another module that does the same: a custom section more.
pub(crate) fn another_module(nonce: u8) -> Vec<u8> {
    let mut bytes = fs::read(artifacts::guest("headers")).expect("a guest");
    // Section 0, five bytes: a name of three, and one byte.
    bytes.extend([0, 5, 3, b't', b'a', b'g', nonce]);
    bytes
}

fn one(origin: &Origin) -> TrafficServer {
    rules(origin, &["one"]).file("one.yaml", &watched("1")).stats().start()
}

/// No manager is needed, and nothing is asked.
#[test]
fn files_that_are_written_renamed_and_deleted() {
    let origin = Origin::start();
    let server = one(&origin);
    let etc = PathBuf::from(server.expand("{etc}"));
    assert_eq!(version(&server, "one"), "1");
    assert!(server.thread_names().iter().any(|name| name.starts_with("notify-rs")), "{:?}", server.thread_names());

    // The harness writes beside, and renames.
    server.write_text("one.yaml", &watched("2"));
    wait_for_version(&server, "one", "2");
    // In place, as an editor may.
    fs::write(etc.join("one.yaml"), server.expand(&watched("3"))).expect("the file is ours");
    wait_for_version(&server, "one", "3");
    // Deleted, which is a mistake that costs nothing, and there again.
    let mark = server.mark();
    fs::remove_file(etc.join("one.yaml")).expect("the file is ours");
    let why = complaint(&server, mark);
    assert!(why.contains("one.yaml: cannot be read: No such file or directory"), "{why}");
    assert_eq!(version(&server, "one"), "3");
    server.write_text("one.yaml", &watched("4"));
    wait_for_version(&server, "one", "4");

    // The module that it names does not come until later.
    let mark = server.mark();
    let file = |version: &str| format!("watch: true\nfilters:\n{}", stamp("a", "later/headers.wasm", version));
    server.write_text("one.yaml", &file("5"));
    let why = complaint(&server, mark);
    assert!(why.contains("later/headers.wasm cannot be read"), "{why}");
    assert_eq!(version(&server, "one"), "4");
    server.write_file("later/headers.wasm", another_module(1));
    wait_for_version(&server, "one", "5");
    // It is written over in place, and its digest is another one.
    let built = |vms: i64| {
        server.counters("other VMs", |counters| counters["vms_built"] == vms && counters["vms_dropped"] == vms - 2)
    };
    built(4);
    fs::write(etc.join("later/headers.wasm"), another_module(2)).expect("the file is ours");
    built(6);
    assert_eq!(version(&server, "one"), "5");
    // What is no module is not taken, and not tried over and over.
    let mark = server.mark();
    fs::write(etc.join("later/headers.wasm"), "no module").expect("the file is ours");
    let why = complaint(&server, mark);
    assert!(why.contains("not a WebAssembly module"), "{why}");
    thread::sleep(Duration::from_secs(3));
    let complaints = server.lines_since(mark).iter().filter(|line| line.contains("not a WebAssembly module")).count();
    assert_eq!(complaints, 1);
    assert_eq!(version(&server, "one"), "5");

    // Without the key, nobody watches any more, and the thread of the notices ends.
    server.write_text("one.yaml", &watched("6").replace("watch: true\n", ""));
    wait_for_version(&server, "one", "6");
    wasm_remap_tests::wait_until(PATIENCE, "the end of the notices", || {
        (!server.thread_names().iter().any(|name| name.starts_with("notify-rs"))).then_some(())
    });
    let counters = server.counters("no panic", |counters| counters["chains_retired"] == 0);
    assert_eq!((counters["panics"], counters["traps"]), (0, 0));
}

/// `ln -sfn`, made of what the system has.
fn turn(link: &Path, target: &str) {
    let new = link.with_file_name("new-link");
    symlink(target, &new).expect("the directory is ours");
    fs::rename(&new, link).expect("the directory is ours");
}

#[test]
fn links_that_are_turned_and_directories_that_come_and_go() {
    let origin = Origin::start();
    let server = rules(&origin, &["mount", "release", "one"])
        .remap("map http://deep.test/ http://{origin}/ @plugin=wasm_remap.so @pparam=deep/in/here/deep.yaml")
        .file("mount.yaml", &watched("0"))
        .file("release.yaml", &watched("0"))
        .file("one.yaml", &watched("0"))
        .file("deep/in/here/deep.yaml", &watched("0"))
        .manager()
        .start();
    let etc = PathBuf::from(server.expand("{etc}"));
    // As Kubernetes mounts a ConfigMap.
    for n in 1..=3 {
        server.write_text(&format!("..{n}/mount.yaml"), &watched(&n.to_string()));
        turn(&etc.join("..data"), &format!("..{n}"));
        if n == 1 {
            turn(&etc.join("mount.yaml"), "..data/mount.yaml");
        } else {
            fs::remove_dir_all(etc.join(format!("..{}", n - 1))).expect("the directory is ours");
        }
        wait_for_version(&server, "mount", &n.to_string());
    }
    // As releases are turned on.
    for n in 1..=3 {
        server.write_text(&format!("releases/{n}/release.yaml"), &watched(&n.to_string()));
        turn(&etc.join("releases/current"), &n.to_string());
        if n == 1 {
            turn(&etc.join("release.yaml"), "releases/current/release.yaml");
        }
        wait_for_version(&server, "release", &n.to_string());
    }
    // A directory is moved aside and another one comes, also one that has the same number again.
    for n in 1..=3 {
        let mark = server.mark();
        if n == 2 {
            fs::rename(etc.join("deep/in/here"), etc.join("deep/in/aside")).expect("the directory is ours");
        } else {
            fs::remove_dir_all(etc.join("deep/in/here")).expect("the directory is ours");
        }
        let why = complaint(&server, mark);
        assert!(why.contains("deep.yaml: cannot be read"), "{why}");
        assert_eq!(version(&server, "deep"), (n - 1).to_string());
        server.write_text("deep/in/here/deep.yaml", &watched(&n.to_string()));
        wait_for_version(&server, "deep", &n.to_string());
    }
    // Further up, which nobody tells of: it is found out by looking.
    server.write_text("next/in/here/deep.yaml", &watched("4"));
    thread::sleep(Duration::from_secs(1));
    fs::rename(etc.join("deep"), etc.join("old")).expect("the directory is ours");
    fs::rename(etc.join("next"), etc.join("deep")).expect("the directory is ours");
    wait_for_version(&server, "deep", "4");
    // All the while, nothing happened to another rule.
    let lines = message(&server, "status one.yaml", "status: 1 rules, 0 replaced chains");
    let status = lines.iter().find(|line| line.contains("status: rule http://one.test/")).expect("a line");
    assert!(
        status.contains("generation 3,")
            && status.contains(" filters, watches ")
            && status.ends_with("last error: none"),
        "{status}"
    );
}

/// Runs what follows in a user namespace of its own, of whose users none may have inotify.
const WITHOUT_INOTIFY: &str = r#"
[ "$(id -u)" = 0 ] || exit 1
unshare --user sh -c '
    until [ "$(id -u)" = "$1" ]; do sleep 0.05; done
    shift
    exec sh -c "echo 0 >/proc/sys/user/max_inotify_instances && exec \"\$@\"" sh "$@"
' sh "$(id -u)" "$@" &
pid=$!
trap 'kill -TERM $pid' TERM
until echo '0 0 65536' 2>/dev/null >/proc/$pid/uid_map; do sleep 0.05; done
echo '0 0 65536' >/proc/$pid/gid_map
wait $pid
"#;

/// Where the kernel gives no notices, the log says so once, and files are looked at.
#[test]
fn without_inotify_files_are_looked_at() {
    // Only root may make such a namespace with more than one user, and not in every container.
    let probe = ["-c", WITHOUT_INOTIFY, "sh", "true"];
    let possible = Command::new("timeout").arg("10").arg("sh").args(probe).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        println!("no user namespace with inotify turned off can be made here");
        return;
    }
    let origin = Origin::start();
    let server =
        rules(&origin, &["one"]).file("one.yaml", &watched("1")).under(["sh", "-c", WITHOUT_INOTIFY, "sh"]).start();
    // It is the shell that ends.
    server.expect_exit();
    let line = server.wait_for_log("files cannot be watched: ", PATIENCE);
    assert!(line.contains("WARNING: ") && line.contains("they are looked at every 2 seconds"), "{line}");
    for n in 2..5 {
        server.write_text("one.yaml", &watched(&n.to_string()));
        wait_for_version(&server, "one", &n.to_string());
    }
    assert_eq!(server.diags().matches("files cannot be watched: ").count(), 1);
}

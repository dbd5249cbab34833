use super::harness::Puppet;
use super::*;

#[test]
fn names_are_unique_and_documented() {
    let mut names: Vec<_> = WASI.iter().map(|function| function.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), WASI.len());
    assert!(WASI.iter().all(|function| !function.doc.is_empty()));
}

/// Names and signatures of the specification (`i` is 32 bits, `I` is 64).
#[test]
fn every_function_is_there_with_its_signature() {
    const SPECIFICATION: &[(&str, &str)] = &[
        ("args_get", "ii"),
        ("args_sizes_get", "ii"),
        ("environ_get", "ii"),
        ("environ_sizes_get", "ii"),
        ("clock_res_get", "ii"),
        ("clock_time_get", "iIi"),
        ("fd_advise", "iIIi"),
        ("fd_allocate", "iII"),
        ("fd_close", "i"),
        ("fd_datasync", "i"),
        ("fd_fdstat_get", "ii"),
        ("fd_fdstat_set_flags", "ii"),
        ("fd_fdstat_set_rights", "iII"),
        ("fd_filestat_get", "ii"),
        ("fd_filestat_set_size", "iI"),
        ("fd_filestat_set_times", "iIIi"),
        ("fd_pread", "iiiIi"),
        ("fd_prestat_get", "ii"),
        ("fd_prestat_dir_name", "iii"),
        ("fd_pwrite", "iiiIi"),
        ("fd_read", "iiii"),
        ("fd_readdir", "iiiIi"),
        ("fd_renumber", "ii"),
        ("fd_seek", "iIii"),
        ("fd_sync", "i"),
        ("fd_tell", "ii"),
        ("fd_write", "iiii"),
        ("path_create_directory", "iii"),
        ("path_filestat_get", "iiiii"),
        ("path_filestat_set_times", "iiiiIIi"),
        ("path_link", "iiiiiii"),
        ("path_open", "iiiiiIIii"),
        ("path_readlink", "iiiiii"),
        ("path_remove_directory", "iii"),
        ("path_rename", "iiiiii"),
        ("path_symlink", "iiiii"),
        ("path_unlink_file", "iii"),
        ("poll_oneoff", "iiii"),
        ("proc_exit", "i"),
        ("proc_raise", "i"),
        ("sched_yield", ""),
        ("random_get", "ii"),
        ("sock_accept", "iii"),
        ("sock_recv", "iiiiii"),
        ("sock_send", "iiiii"),
        ("sock_shutdown", "ii"),
    ];
    assert_eq!(WASI.len(), SPECIFICATION.len());
    for (function, (name, params)) in WASI.iter().zip(SPECIFICATION) {
        let letter = |&(_, ty): &(&str, ParamType)| if ty == ParamType::I32 { 'i' } else { 'I' };
        assert_eq!((function.name, function.params.iter().map(letter).collect::<String>().as_str()), (*name, *params));
    }
}

const BADF: i32 = Errno::Badf as i32;
const FAULT: i32 = Errno::Fault as i32;
const INVAL: i32 = Errno::Inval as i32;
/// An address outside every memory of these tests.
const OUTSIDE: i64 = 0xFFFF_FFF0;

/// Writes these pieces to memory and calls `fd_write`.
fn fd_write(guest: &mut Puppet, fd: i64, pieces: &[&[u8]]) -> (i32, u32) {
    let mut at = 4096u32;
    for (index, piece) in pieces.iter().enumerate() {
        guest.write(at as usize, piece);
        let len = u32::try_from(piece.len()).unwrap();
        guest.write(1024 + index * 8, &at.to_le_bytes());
        guest.write(1028 + index * 8, &len.to_le_bytes());
        at += len;
    }
    let errno = guest.call("fd_write", &[fd, 1024, pieces.len() as i64, 16]);
    (errno, guest.u32_at(16))
}

/// Whoever imports anything of WASI under either name links, with the specification's signatures: the puppet
/// imports all of it.
#[test]
fn refusals_refuse_and_nothing_traps() {
    let mut guest = Puppet::new();
    for function in WASI.iter().filter(|function| function.name != "proc_exit") {
        for prefix in ["", "old_"] {
            let name = format!("{prefix}{}", function.name);
            for argument in [0, 5, OUTSIDE] {
                let errno = guest.call(&name, &vec![argument; function.params.len()]);
                match function.support {
                    WasiSupport::Refused(expected) => assert_eq!(errno, expected as i32, "{name}"),
                    WasiSupport::Full => assert!((0..=76).contains(&errno), "{name}: {errno}"),
                }
            }
        }
    }
}

#[test]
fn before_there_is_a_memory_calls_fail_and_do_not_trap() {
    let mut guest = Puppet::new();
    guest.store.data_mut().memory = None;
    assert_eq!(guest.call("clock_time_get", &[0, 0, 0]), FAULT);
    assert_eq!(guest.call("fd_write", &[1, 0, 0, 0]), FAULT);
    assert_eq!(guest.call("random_get", &[0, 8]), FAULT);
}

#[test]
fn writes_are_kept_until_their_line_ends() {
    let mut guest = Puppet::new();
    assert_eq!(fd_write(&mut guest, 1, &[b"one\ntw", b"", b"o"]), (0, 7));
    assert_eq!(guest.store.data().stdio, [b"two".to_vec(), vec![]]);
    assert_eq!(fd_write(&mut guest, 2, &[b"error"]), (0, 5));
    assert_eq!(fd_write(&mut guest, 1, &[b"\n"]), (0, 1));
    assert_eq!(guest.store.data().stdio, [vec![], b"error".to_vec()]);
    assert_eq!(fd_write(&mut guest, 1, &[]), (0, 0));
    for fd in [0, 3, 0xFFFF_FFFF] {
        assert_eq!(fd_write(&mut guest, fd, &[b"x"]).0, BADF);
    }
    assert_eq!(guest.call("fd_pwrite", &[2, 1024, 1, 99, 16]), 0);
    flush(guest.store.data_mut());
    assert!(guest.store.data().stdio.iter().all(Vec::is_empty));
}

#[test]
fn bad_vectors_write_nothing_at_all() {
    let mut guest = Puppet::new();
    fd_write(&mut guest, 1, &[b"kept"]);
    // The second piece lies outside.
    guest.write(1032, &[0xF0, 0xFF, 0xFF, 0xFF, 32, 0, 0, 0]);
    assert_eq!(guest.call("fd_write", &[1, 1024, 2, 16]), FAULT);
    assert_eq!(guest.call("fd_write", &[1, OUTSIDE, 1, 16]), FAULT);
    assert_eq!(guest.call("fd_write", &[1, 1024, 1, OUTSIDE]), FAULT);
    assert_eq!(guest.call("fd_write", &[1, 0, 1025, 16]), INVAL);
    assert_eq!(guest.call("fd_write", &[1, 0, 0xFFFF_FFFF, 16]), INVAL);
    assert_eq!(guest.store.data().stdio[0], b"kept");
}

#[test]
fn one_write_takes_a_bounded_number_of_bytes() {
    let mut guest = Puppet::new();
    // 1,024 pieces that are all of the memory: 64 MiB by 1,024 descriptions of 64 KiB.
    for index in 0..1024 {
        guest.write(1024 + index * 8, &[0, 0, 0, 0, 0, 0, 1, 0]);
    }
    assert_eq!(guest.call("fd_write", &[1, 1024, 1024, 16]), 0);
    assert_eq!(guest.u32_at(16), 64 << 10);
    assert!(guest.store.data().stdio[0].len() < 16 << 10);
}

#[test]
fn standard_streams_are_terminals() {
    let mut guest = Puppet::new();
    for (fd, right) in [(0, 2), (1, 64), (2, 64)] {
        guest.write(64, &[0xFF; 24]);
        assert_eq!(guest.call("fd_fdstat_get", &[fd, 64]), 0);
        assert_eq!(guest.u64_at(64), 2);
        assert_eq!(guest.u64_at(72), right);
        assert_eq!(guest.u64_at(80), 0);
    }
    assert_eq!(guest.call("fd_fdstat_get", &[3, 64]), BADF);
    assert_eq!(guest.call("fd_prestat_get", &[3, 64]), BADF);
    assert_eq!(guest.call("fd_close", &[1]), 0);
    assert_eq!(guest.call("fd_close", &[3]), BADF);
    assert_eq!(guest.call("fd_seek", &[1, 0, 0, 64]), Errno::Spipe as i32);
}

#[test]
fn the_environment_is_the_configured_one() {
    let mut guest = Puppet::new();
    assert_eq!(guest.call("environ_sizes_get", &[0, 4]), 0);
    assert_eq!((guest.u32_at(0), guest.u32_at(4)), (2, 4 + 15));
    assert_eq!(guest.call("environ_get", &[64, 128]), 0);
    assert_eq!((guest.u32_at(64), guest.u32_at(68)), (128, 132));
    assert_eq!(guest.read(128, 19), b"A=1\0LONG=two words\0");
    assert_eq!(guest.call("environ_get", &[64, OUTSIDE]), FAULT);
    guest.write(0, &[9; 8]);
    assert_eq!(guest.call("args_sizes_get", &[0, 4]), 0);
    assert_eq!(guest.u64_at(0), 0);
    assert_eq!(guest.call("args_get", &[0, 0]), 0);
}

#[test]
fn clocks_run() {
    let mut guest = Puppet::new();
    let mut read = |clock| {
        assert_eq!(guest.call("clock_time_get", &[clock, 0, 8]), 0);
        guest.u64_at(8)
    };
    // After 2020, before 2200.
    assert!((1_577_836_800_000_000_000..7_258_118_400_000_000_000).contains(&read(0)));
    let first = read(1);
    assert!(first > 0);
    assert!(read(1) >= first);
    assert_eq!(guest.call("clock_res_get", &[1, 8]), 0);
    assert_eq!(guest.u64_at(8), 1);
    for clock in [2, 3, 4, 0xFFFF_FFFF] {
        assert_eq!(guest.call("clock_time_get", &[clock, 0, 8]), Errno::Notsup as i32);
        assert_eq!(guest.call("clock_res_get", &[clock, 8]), Errno::Notsup as i32);
    }
}

#[test]
fn random_bytes_are_random() {
    let mut guest = Puppet::new();
    assert_eq!(guest.call("random_get", &[0, 64]), 0);
    let first = guest.read(0, 64);
    assert_eq!(guest.call("random_get", &[0, 64]), 0);
    assert_ne!(guest.read(0, 64), first);
    assert_eq!(guest.read(64, 64), [0; 64]);
    assert_eq!(guest.call("random_get", &[0, 65_536]), 0);
    assert_eq!(guest.call("random_get", &[0, 65_537]), INVAL);
    assert_eq!(guest.call("random_get", &[60_000, 65_536]), FAULT);
}

#[test]
fn sleeping_is_over_at_once_and_says_so() {
    for (name, size) in [("poll_oneoff", 48usize), ("old_poll_oneoff", 56)] {
        let mut guest = Puppet::new();
        // A clock, a file to read, standard output to write.
        for (index, (tag, fd)) in [(0u8, 0u8), (1, 5), (2, 1)].into_iter().enumerate() {
            guest.write(1024 + index * size, &[index as u8 + 7; 8]);
            guest.write(1024 + index * size + 8, &[tag]);
            guest.write(1024 + index * size + 16, &[fd]);
        }
        guest.write(2048, &[0xFF; 96]);
        assert_eq!(guest.call(name, &[1024, 2048, 3, 16]), 0);
        assert_eq!(guest.u32_at(16), 3);
        for (index, (tag, errno)) in [(0u8, 0u8), (1, 8), (2, 0)].into_iter().enumerate() {
            let mut event = [0; 32];
            event[..8].fill(index as u8 + 7);
            event[8] = errno;
            event[10] = tag;
            assert_eq!(guest.read(2048 + index as u32 * 32, 32), event, "{name} {index}");
        }
        assert_eq!(guest.call(name, &[1024, 2048, 0, 16]), INVAL);
        assert_eq!(guest.call(name, &[1024, 2048, 0xFFFF_FFFF, 16]), INVAL);
        assert_eq!(guest.call(name, &[OUTSIDE, 2048, 1, 16]), FAULT);
        assert_eq!(guest.call(name, &[1024, OUTSIDE, 1, 16]), FAULT);
        assert_eq!(guest.call(name, &[1024, 2048, 1, OUTSIDE]), FAULT);
    }
}

#[test]
fn an_exit_is_told_from_other_traps_and_leaves_no_line_behind() {
    let mut guest = Puppet::new();
    fd_write(&mut guest, 2, &[b"last words"]);
    let error = guest.try_call("proc_exit", &[3]).unwrap_err();
    assert_eq!(error.downcast_ref::<GuestExit>(), Some(&GuestExit(3)));
    assert_eq!(guest.store.data().stdio[1], b"");
}

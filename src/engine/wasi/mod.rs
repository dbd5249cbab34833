//! WASI preview 1, as far as a filter has a use for it: log lines, clocks, randomness, the environment that the
//! configuration names. There are no files, no sockets and no arguments; whatever asks for them is refused.
//!
//! Every function is declared once, in the table below, and linked under both names that modules use:
//! `wasi_snapshot_preview1` and its predecessor `wasi_unstable`. All must link, used or not, because a toolchain's
//! library imports more than its programs call. They may be called from anywhere, the guest's allocator and start
//! function included: each answers with an error number and none calls back into the guest.

mod poll;
mod process;
mod stdio;

use wasmtime::Linker;

use crate::error::Error;
use crate::hostcalls::ParamType;
use crate::memory::Guest;
use crate::state::VmState;
use crate::vm::follow;

pub(crate) use stdio::flush;

/// One function of WASI, as a row of the table.
#[derive(Debug, Clone, Copy)]
pub struct WasiFunction {
    /// The import's name; its module is `wasi_snapshot_preview1` or `wasi_unstable`.
    pub name: &'static str,
    /// What it does, in one line.
    pub doc: &'static str,
    /// Parameters, in order. The result is one `i32`, the error number, but for `proc_exit`, which has none.
    pub params: &'static [(&'static str, ParamType)],
    /// How far it is implemented.
    pub support: WasiSupport,
}

/// How far a function is implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WasiSupport {
    /// It does what the specification says, as far as there is anything to do it to.
    Full,
    /// It links and always answers with this error.
    Refused(Errno),
}

/// WASI's error numbers, those that are answered here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Errno {
    /// No such file descriptor.
    Badf = 8,
    /// A pointer or size lies outside the guest's memory, or there is no memory yet.
    Fault = 21,
    /// An argument is wrong.
    Inval = 28,
    /// The system failed.
    Io = 29,
    /// No such file.
    Noent = 44,
    /// Not offered here.
    Nosys = 52,
    /// Not a directory.
    Notdir = 54,
    /// Not supported.
    Notsup = 58,
    /// Not something with positions.
    Spipe = 70,
    /// Not among what this VM may use.
    Notcapable = 76,
}

/// All that [`crate::memory`] can object to.
impl From<Error> for Errno {
    fn from(_: Error) -> Self {
        Errno::Fault
    }
}

/// The guest called `proc_exit`: it trapped, but on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the guest called proc_exit({0})")]
pub(crate) struct GuestExit(pub(crate) i32);

macro_rules! param_type {
    (i32) => {
        ParamType::I32
    };
    (i64) => {
        ParamType::I64
    };
}

/// A row's body: `refused Error`, `exits`, or the path of a handler.
macro_rules! row {
    (@support refused $errno:ident) => { WasiSupport::Refused(Errno::$errno) };
    (@support $($handler:tt)+) => { WasiSupport::Full };
    (@link $linker:ident $module:ident $name:ident ($($arg:ident : $ty:ident),*) refused $errno:ident) => {
        $linker.func_wrap($module, stringify!($name), |$(_: $ty),*| Errno::$errno as i32)
    };
    (@link $linker:ident $module:ident $name:ident ($code:ident : i32) exits) => {
        $linker.func_wrap($module, stringify!($name), |mut guest: Guest<'_>, $code: i32| -> wasmtime::Result<()> {
            follow(&mut guest);
            flush(guest.data_mut());
            Err(wasmtime::Error::new(GuestExit($code)))
        })
    };
    (@link $linker:ident $module:ident $name:ident ($($arg:ident : $ty:ident),*) $($handler:tt)+) => {
        $linker.func_wrap($module, stringify!($name), |mut guest: Guest<'_>, $($arg: $ty),*| -> wasmtime::Result<i32> {
            follow(&mut guest);
            let errno = complete(stringify!($name), $($handler)+(&mut guest, $($arg),*));
            guest.data_mut().count_moved(0).map_err(wasmtime::Error::new)?;
            Ok(errno)
        })
    };
}

macro_rules! wasi {
    ($(
        $(#[doc = $doc:literal])+
        fn $name:ident ( $($arg:ident : $ty:ident),* $(,)? ) { $($body:tt)+ }
    )+) => {
        /// Every function of WASI, in the order of the specification.
        pub const WASI: &[WasiFunction] = &[$(
            WasiFunction {
                name: stringify!($name),
                doc: concat!($($doc),+).trim_ascii(),
                params: &[$((stringify!($arg), param_type!($ty))),*],
                support: row!(@support $($body)+),
            },
        )+];

        /// Links one of the two modules. They differ in nothing that is offered here but the layout of what
        /// `poll_oneoff` reads.
        fn link_module<const UNSTABLE: bool>(linker: &mut Linker<VmState>, module: &str) -> wasmtime::Result<()> {
            $(row!(@link linker module $name ($($arg : $ty),*) $($body)+)?;)+
            Ok(())
        }
    };
}

wasi! {
    /// The arguments: there are none.
    fn args_get(argv: i32, argv_buf: i32) { process::args_get }
    /// The number of arguments, which is zero.
    fn args_sizes_get(return_argc: i32, return_argv_buf_size: i32) { process::args_sizes_get }
    /// The environment that the configuration gives the VM.
    fn environ_get(environ: i32, environ_buf: i32) { process::environ_get }
    /// The size of that environment.
    fn environ_sizes_get(return_count: i32, return_buf_size: i32) { process::environ_sizes_get }
    /// The resolution of the real-time or the monotonic clock: one nanosecond.
    fn clock_res_get(id: i32, return_resolution: i32) { process::clock_res_get }
    /// The time of the real-time or the monotonic clock.
    fn clock_time_get(id: i32, precision: i64, return_time: i32) { process::clock_time_get }

    /// Advice about a file: ignored.
    fn fd_advise(fd: i32, offset: i64, len: i64, advice: i32) { stdio::fd_advise }
    /// Room in a file: standard streams need none.
    fn fd_allocate(fd: i32, offset: i64, len: i64) { stdio::fd_allocate }
    /// Closes a file: standard streams stay open.
    fn fd_close(fd: i32) { stdio::known }
    /// Flushes a file: nothing to do for standard streams.
    fn fd_datasync(fd: i32) { stdio::known }
    /// What a standard stream is: a character device.
    fn fd_fdstat_get(fd: i32, return_stat: i32) { stdio::fd_fdstat_get }
    /// Changes a file's flags.
    fn fd_fdstat_set_flags(fd: i32, flags: i32) { refused Nosys }
    /// Takes rights to a file away: standard streams keep theirs.
    fn fd_fdstat_set_rights(fd: i32, rights_base: i64, rights_inheriting: i64) { stdio::fd_fdstat_set_rights }
    /// A file's attributes.
    fn fd_filestat_get(fd: i32, return_stat: i32) { refused Badf }
    /// Changes a file's size: standard streams have none.
    fn fd_filestat_set_size(fd: i32, size: i64) { stdio::fd_filestat_set_size }
    /// Changes a file's times: standard streams have none.
    fn fd_filestat_set_times(fd: i32, atim: i64, mtim: i64, flags: i32) { stdio::fd_filestat_set_times }
    /// Reads at a position.
    fn fd_pread(fd: i32, iovs: i32, iovs_len: i32, offset: i64, return_size: i32) { refused Nosys }
    /// A directory that is open from the start: there are none.
    fn fd_prestat_get(fd: i32, return_prestat: i32) { refused Badf }
    /// The name of such a directory.
    fn fd_prestat_dir_name(fd: i32, path: i32, path_len: i32) { refused Nosys }
    /// Writes lines to the log, as `fd_write` does; the position is ignored.
    fn fd_pwrite(fd: i32, iovs: i32, iovs_len: i32, offset: i64, return_size: i32) { stdio::fd_pwrite }
    /// Reads.
    fn fd_read(fd: i32, iovs: i32, iovs_len: i32, return_size: i32) { refused Nosys }
    /// Reads a directory.
    fn fd_readdir(fd: i32, buf: i32, buf_len: i32, cookie: i64, return_size: i32) { refused Notdir }
    /// Gives a file another number.
    fn fd_renumber(fd: i32, to: i32) { stdio::fd_renumber }
    /// Moves a file's position: standard streams have none.
    fn fd_seek(fd: i32, offset: i64, whence: i32, return_offset: i32) { stdio::fd_seek }
    /// Flushes a file: nothing to do for standard streams.
    fn fd_sync(fd: i32) { stdio::known }
    /// A file's position: standard streams have none.
    fn fd_tell(fd: i32, return_offset: i32) { stdio::fd_tell }
    /// Writes lines to the log: standard output as information, standard error as errors.
    fn fd_write(fd: i32, iovs: i32, iovs_len: i32, return_size: i32) { stdio::fd_write }

    /// Makes a directory.
    fn path_create_directory(fd: i32, path: i32, path_len: i32) { refused Notsup }
    /// A file's attributes, by its path.
    fn path_filestat_get(fd: i32, flags: i32, path: i32, path_len: i32, return_stat: i32) { refused Notsup }
    /// Changes a file's times, by its path.
    fn path_filestat_set_times(
        fd: i32, flags: i32, path: i32, path_len: i32, atim: i64, mtim: i64, fst_flags: i32
    ) { refused Notsup }
    /// Makes a hard link.
    fn path_link(
        old_fd: i32, old_flags: i32, old_path: i32, old_path_len: i32, new_fd: i32, new_path: i32, new_path_len: i32
    ) { refused Notsup }
    /// Opens a file: there are none.
    fn path_open(
        fd: i32, dirflags: i32, path: i32, path_len: i32, oflags: i32, rights_base: i64, rights_inheriting: i64,
        fdflags: i32, return_fd: i32
    ) { refused Noent }
    /// Reads a symbolic link.
    fn path_readlink(fd: i32, path: i32, path_len: i32, buf: i32, buf_len: i32, return_size: i32) { refused Notsup }
    /// Removes a directory.
    fn path_remove_directory(fd: i32, path: i32, path_len: i32) { refused Notsup }
    /// Renames a file.
    fn path_rename(
        fd: i32, old_path: i32, old_path_len: i32, new_fd: i32, new_path: i32, new_path_len: i32
    ) { refused Notsup }
    /// Makes a symbolic link.
    fn path_symlink(old_path: i32, old_path_len: i32, fd: i32, new_path: i32, new_path_len: i32) { refused Notsup }
    /// Removes a file.
    fn path_unlink_file(fd: i32, path: i32, path_len: i32) { refused Notsup }

    /// Waits for clocks and files: never waits, every clock has rung already.
    fn poll_oneoff(subscriptions: i32, events: i32, count: i32, return_count: i32) { poll::poll_oneoff::<UNSTABLE> }
    /// Ends the VM.
    fn proc_exit(code: i32) { exits }
    /// Sends a signal to the guest itself.
    fn proc_raise(signal: i32) { refused Notsup }
    /// Lets other threads run: the guest has none.
    fn sched_yield() { process::sched_yield }
    /// Fills a buffer of up to 64 KiB with random bytes, fit for cryptography.
    fn random_get(buf: i32, buf_len: i32) { process::random_get }

    /// Accepts a connection.
    fn sock_accept(fd: i32, flags: i32, return_fd: i32) { refused Notsup }
    /// Receives from a socket.
    fn sock_recv(
        fd: i32, iovs: i32, iovs_len: i32, flags: i32, return_size: i32, return_flags: i32
    ) { refused Notsup }
    /// Sends to a socket.
    fn sock_send(fd: i32, iovs: i32, iovs_len: i32, flags: i32, return_size: i32) { refused Notsup }
    /// Shuts a socket down.
    fn sock_shutdown(fd: i32, how: i32) { refused Notsup }
}

/// Makes WASI known to `linker`, under both names.
pub(crate) fn link(linker: &mut Linker<VmState>) -> wasmtime::Result<()> {
    process::start_clock();
    link_module::<false>(linker, "wasi_snapshot_preview1")?;
    link_module::<true>(linker, "wasi_unstable")
}

/// The error number of a call that has run.
#[inline]
fn complete(name: &str, result: Result<(), Errno>) -> i32 {
    match result {
        Ok(()) => 0,
        Err(errno) => {
            log::trace!(target: "wasm_remap::hostcall", "{name} answered {errno:?}");
            errno as i32
        }
    }
}

#[cfg(test)]
pub(crate) mod harness;
#[cfg(test)]
mod tests;

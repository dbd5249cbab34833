//! What stands between ATS and a null pointer: a request's transform, when the origin answers before it has the body.
//!
//! ATS then gives up on the body (`HttpTunnel::abort_tunnel`) and tells whoever reads it so by `do_io_write` with no
//! buffer. A network connection understands that. `INKVConnInternal`, which is what a transform is, takes the buffer's
//! address out of the null pointer (`MIOBufferAccessor::reader_for`) and the server is gone; so in 9.2 and in 10.2, for
//! every plugin that transforms request bodies as they come. An origin answers early when it wants no such body: 401
//! and 413 are usual, and anybody may be behind it.
//!
//! The call is virtual. So each transform of ours gets a table of virtual functions of its own making, equal to ATS's
//! but for that one function: without a buffer, it ends the input (`TSVConnShutdown`), which is what was meant, and
//! else it is ATS's own. Nothing is guessed: the table and the function are found by their symbols, the object must point
//! into that very table, and the function must stand in it exactly once. Where this does not hold, there is no guard, and
//! whoever asked is told, to do without sending a body before it is complete.

use std::ffi::{CStr, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

use ats_sys::{TSVConnShutdown, TSVConnWriteVIOGet, TSVIO, tsapi_cont};

/// `vtable for INKVConnInternal`.
const TABLE: &CStr = c"_ZTV16INKVConnInternal";
/// `INKVConnInternal::do_io_write(Continuation *, int64_t, IOBufferReader *, bool)`.
const FUNCTION: &CStr = c"_ZN16INKVConnInternal11do_io_writeEP12ContinuationlP14IOBufferReaderb";

/// `do_io_write`, as the C++ ABI calls it.
type DoIoWrite = unsafe extern "C" fn(*mut tsapi_cont, *mut c_void, i64, *mut c_void, bool) -> TSVIO;

/// ATS's table and our copy of it.
struct Guard {
    theirs: usize,
    ours: Box<[usize]>,
    /// Where in it the function stands.
    place: usize,
    do_io_write: DoIoWrite,
}

static GUARD: OnceLock<Option<Guard>> = OnceLock::new();

fn guard() -> Option<&'static Guard> {
    GUARD.get_or_init(find).as_ref()
}

/// A symbol of the program, and its size.
fn symbol(name: &CStr) -> Option<(usize, usize)> {
    // SAFETY: a lookup by a C string.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        return None;
    }
    let mut info = libc::Dl_info {
        dli_fname: ptr::null(),
        dli_fbase: ptr::null_mut(),
        dli_sname: ptr::null(),
        dli_saddr: ptr::null_mut(),
    };
    let mut entry: *mut c_void = ptr::null_mut();
    // SAFETY: an address from dlsym, and places for what is returned: of the kind that RTLD_DL_SYMENT asks for.
    let found = unsafe { dladdr1(address, &raw mut info, &raw mut entry, RTLD_DL_SYMENT) };
    let entry = entry.cast::<libc::Elf64_Sym>();
    if found == 0 || entry.is_null() || info.dli_saddr != address {
        return None;
    }
    // SAFETY: the symbol table's entry, as the call above answers it; it stays as long as the program.
    let size = unsafe { (*entry).st_size };
    Some((address.addr(), usize::try_from(size).ok()?))
}

unsafe extern "C" {
    /// glibc's `dladdr` that also gives the symbol table's entry.
    fn dladdr1(address: *const c_void, info: *mut libc::Dl_info, extra: *mut *mut c_void, flags: c_int) -> c_int;
}

const RTLD_DL_SYMENT: c_int = 1;

fn find() -> Option<Guard> {
    let (table, size) = symbol(TABLE)?;
    let (function, _) = symbol(FUNCTION)?;
    let words = size / size_of::<usize>();
    // SAFETY: an object of that many words in the program's read-only data, which stays as it is.
    let theirs = unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance::<usize>(table), words) };
    let mut places = theirs.iter().enumerate().filter(|(_, word)| **word == function);
    let (place, _) = places.next()?;
    if places.next().is_some() {
        return None;
    }
    let mut ours: Box<[usize]> = theirs.into();
    ours[place] = (do_io_write as DoIoWrite as *const ()).expose_provenance();
    // SAFETY: the symbol's type, by its mangled name.
    let original = unsafe { std::mem::transmute::<*const (), DoIoWrite>(ptr::with_exposed_provenance(function)) };
    Some(Guard { theirs: table, ours, place, do_io_write: original })
}

/// In ATS's place.
unsafe extern "C" fn do_io_write(
    vconn: *mut tsapi_cont,
    cont: *mut c_void,
    nbytes: i64,
    reader: *mut c_void,
    owner: bool,
) -> TSVIO {
    if reader.is_null() {
        // SAFETY: ATS calls this on a live transform, on its thread. The input is ended, as by TSVConnShutdown anywhere.
        return unsafe {
            TSVConnShutdown(vconn, 0, 1);
            TSVConnWriteVIOGet(vconn)
        };
    }
    match guard() {
        // SAFETY: ATS's own arguments for ATS's own function.
        Some(guard) => unsafe { (guard.do_io_write)(vconn, cont, nbytes, reader, owner) },
        // Only reached through the guard's table.
        None => ptr::null_mut(),
    }
}

/// Guards a transform that was just made. `false` if this ATS is not the one that is known here.
///
/// # Safety
/// It is a live transform of this thread, and no event of it is under way.
pub(crate) unsafe fn protect(vconn: NonNull<tsapi_cont>) -> bool {
    let Some(guard) = guard() else { return false };
    let table = vconn.as_ptr().cast::<usize>();
    // SAFETY: a C++ object with virtual functions begins with the address of its first function's place in its table,
    // and this is one.
    let first = unsafe { table.read() }.wrapping_sub(guard.theirs);
    let word = size_of::<usize>();
    // The function must be one of those that are found from there.
    if first % word != 0 || first / word > guard.place {
        return false;
    }
    // SAFETY: as above. When ATS uses the memory again it writes a whole new object there. Our table, of the same layout,
    // lives as long as the process.
    unsafe { table.write(guard.ours[first / word..].as_ptr().expose_provenance()) };
    true
}

/// Whether request bodies may be sent on as they come: see above.
#[must_use]
pub fn can_stream_requests() -> bool {
    guard().is_some()
}

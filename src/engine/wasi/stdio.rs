//! Standard streams. What a guest writes goes to the log line by line, however it is cut into writes.

use super::Errno;
use crate::abi::LogLevel;
use crate::hostcalls::write_line;
use crate::memory::{self, Guest};
use crate::state::VmState;

/// A line that has not ended by then is logged as it stands.
const MAX_LINE: usize = 16 << 10;

/// The most that one call takes; it reports what it took, and the guest's library writes the rest. No deadline
/// interrupts a call, so none may be long.
const MAX_WRITE: usize = 64 << 10;

/// The most pieces that one call may be cut into.
const MAX_PIECES: u32 = 1024;

/// The index in [`VmState::stdio`] and the level of a stream that can be written.
pub(super) fn output(fd: i32) -> Option<(usize, LogLevel)> {
    match fd {
        1 => Some((0, LogLevel::Info)),
        2 => Some((1, LogLevel::Error)),
        _ => None,
    }
}

pub(super) fn fd_write(guest: &mut Guest<'_>, fd: i32, iovs: i32, len: i32, out: i32) -> Result<(), Errno> {
    let (stream, level) = output(fd).ok_or(Errno::Badf)?;
    if len.cast_unsigned() > MAX_PIECES {
        return Err(Errno::Inval);
    }
    let (memory, state) = memory::split(guest)?;
    // Everything is checked before anything is logged: a call that fails has done nothing.
    let memory = &*memory;
    memory::bytes(memory, out, 4)?;
    let iovs = memory::bytes(memory, iovs, len * 8)?;
    let pieces = iovs.chunks_exact(8).map(|iov| {
        let (address, size) = (memory::read_u32(iov, 0)?, memory::read_u32(iov, 4)?);
        memory::bytes(memory, address.cast_signed(), size.cast_signed())
    });
    for piece in pieces.clone() {
        piece?;
    }
    let mut line = std::mem::take(&mut state.stdio[stream]);
    let mut written = 0;
    for piece in pieces {
        let piece = piece?;
        let piece = &piece[..piece.len().min(MAX_WRITE - written)];
        feed(&mut line, piece, |line| write_line(state, level, line));
        written += piece.len();
    }
    state.stdio[stream] = line;
    // Whoever called looks whether it was too much.
    let _ = state.count_moved(written as u64);
    let (memory, _) = memory::split(guest)?;
    memory::write_u32(memory, out, u32::try_from(written).map_err(|_| Errno::Inval)?)?;
    Ok(())
}

pub(super) fn fd_pwrite(
    guest: &mut Guest<'_>,
    fd: i32,
    iovs: i32,
    len: i32,
    _offset: i64,
    out: i32,
) -> Result<(), Errno> {
    fd_write(guest, fd, iovs, len, out)
}

/// Logs what a guest has written and not ended with a line break: nothing more will come.
pub(crate) fn flush(state: &mut VmState) {
    for (stream, level) in [1, 2].into_iter().filter_map(output) {
        let line = std::mem::take(&mut state.stdio[stream]);
        if !line.is_empty() {
            write_line(state, level, &line);
        }
    }
}

/// Adds `bytes` to the line begun in `line`, and shows every line that ends. Empty lines are left out.
fn feed(line: &mut Vec<u8>, bytes: &[u8], mut show: impl FnMut(&[u8])) {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    // What follows the last line break, if only nothing, is the next line's beginning.
    let rest = lines.next_back().unwrap_or_default();
    for ended in lines {
        if line.is_empty() && ended.len() <= MAX_LINE {
            // As a rule: a whole line in one write, and nothing to keep.
            show_line(ended, &mut show);
        } else {
            keep(line, ended, &mut show);
            show_line(line, &mut show);
            line.clear();
        }
    }
    keep(line, rest, &mut show);
}

/// Appends to a line that has not ended, showing it in parts if it grows too long.
fn keep(line: &mut Vec<u8>, mut bytes: &[u8], show: &mut impl FnMut(&[u8])) {
    while !bytes.is_empty() {
        let (head, tail) = bytes.split_at(bytes.len().min(MAX_LINE - line.len()));
        line.extend_from_slice(head);
        bytes = tail;
        if line.len() == MAX_LINE {
            show(line);
            line.clear();
        }
    }
}

fn show_line(line: &[u8], show: &mut impl FnMut(&[u8])) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.is_empty() {
        show(line);
    }
}

/// Succeeds for the standard streams, of which none needs what is asked for.
pub(super) fn known(_guest: &mut Guest<'_>, fd: i32) -> Result<(), Errno> {
    if matches!(fd, 0..=2) { Ok(()) } else { Err(Errno::Badf) }
}

pub(super) fn fd_advise(_: &mut Guest<'_>, _fd: i32, _offset: i64, _len: i64, _advice: i32) -> Result<(), Errno> {
    Ok(())
}

pub(super) fn fd_allocate(guest: &mut Guest<'_>, fd: i32, _offset: i64, _len: i64) -> Result<(), Errno> {
    known(guest, fd)
}

pub(super) fn fd_fdstat_set_rights(guest: &mut Guest<'_>, fd: i32, _base: i64, _inherit: i64) -> Result<(), Errno> {
    known(guest, fd)
}

pub(super) fn fd_filestat_set_size(guest: &mut Guest<'_>, fd: i32, _size: i64) -> Result<(), Errno> {
    known(guest, fd)
}

pub(super) fn fd_filestat_set_times(
    guest: &mut Guest<'_>,
    fd: i32,
    _atim: i64,
    _mtim: i64,
    _flags: i32,
) -> Result<(), Errno> {
    known(guest, fd)
}

pub(super) fn fd_renumber(guest: &mut Guest<'_>, fd: i32, to: i32) -> Result<(), Errno> {
    known(guest, fd)?;
    known(guest, to)?;
    Err(Errno::Notsup)
}

pub(super) fn fd_seek(guest: &mut Guest<'_>, fd: i32, _offset: i64, _whence: i32, _out: i32) -> Result<(), Errno> {
    known(guest, fd)?;
    Err(Errno::Spipe)
}

pub(super) fn fd_tell(guest: &mut Guest<'_>, fd: i32, _out: i32) -> Result<(), Errno> {
    known(guest, fd)?;
    Err(Errno::Spipe)
}

pub(super) fn fd_fdstat_get(guest: &mut Guest<'_>, fd: i32, out: i32) -> Result<(), Errno> {
    const CHARACTER_DEVICE: u8 = 2;
    const READ: u64 = 1 << 1;
    const WRITE: u64 = 1 << 6;
    known(guest, fd)?;
    // Without the right to seek a character device is a terminal to C, which then buffers by the line.
    let rights = if fd == 0 { READ } else { WRITE };
    let mut stat = [0; 24];
    stat[0] = CHARACTER_DEVICE;
    stat[8..16].copy_from_slice(&rights.to_le_bytes());
    let (memory, _) = memory::split(guest)?;
    memory::bytes_mut(memory, out, 24)?.copy_from_slice(&stat);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(writes: &[&[u8]]) -> (Vec<Vec<u8>>, Vec<u8>) {
        let (mut lines, mut rest) = (Vec::new(), Vec::new());
        for write in writes {
            feed(&mut rest, write, |line| lines.push(line.to_vec()));
        }
        (lines, rest)
    }

    #[test]
    fn lines_are_put_together_from_writes() {
        let (lines, rest) = shown(&[b"one\ntw", b"o\r", b"\n\r\n\n", b"three", b""]);
        assert_eq!(lines, [&b"one"[..], b"two"]);
        assert_eq!(rest, b"three");
    }

    #[test]
    fn a_line_without_end_is_shown_in_parts() {
        let (lines, rest) = shown(&[&[b'x'; MAX_LINE - 1], b"yz", &[b'z'; 2 * MAX_LINE], b"\n"]);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [MAX_LINE, MAX_LINE, MAX_LINE, 1]);
        assert_eq!(rest, b"");
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(text in "[ab\r\n]{0,60}", cut in 0usize..60) {
            let bytes = text.as_bytes();
            let (head, tail) = bytes.split_at(cut.min(bytes.len()));
            prop_assert_eq!(shown(&[head, tail]), shown(&[bytes]));
        }
    }
}

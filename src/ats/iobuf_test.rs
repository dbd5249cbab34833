use fake_ats::BLOCK;

use super::*;

fn content(buffer: &IoBuffer) -> Vec<u8> {
    part(buffer, 0, usize::MAX)
}

fn part(buffer: &IoBuffer, start: usize, end: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    buffer.read(start, end, &mut |piece| {
        assert!(!piece.is_empty());
        bytes.extend(piece);
    });
    bytes
}

/// The numbers from `from` on.
fn bytes(from: usize, count: usize) -> Vec<u8> {
    (from..from + count).map(|number| u8::try_from(number).expect("small")).collect()
}

/// A buffer with these bytes in blocks of all kinds: shared and own, partly consumed and partly filled.
fn buffer(len: usize) -> IoBuffer {
    fake_ats::on_event_thread();
    let mut source = IoBuffer::with_size(1).expect("an ATS thread");
    source.write(b"consumed!");
    source.write(&bytes(0, len));
    source.consume(9);
    let mut buffer = IoBuffer::new().expect("an ATS thread");
    buffer.write(b"also consumed");
    let shared = len / 2;
    assert_eq!(buffer.copy_from(&source.reader(), 0, shared), shared);
    buffer.write(&bytes(shared, len - shared));
    buffer.consume(13);
    assert_eq!(content(&buffer), bytes(0, len));
    buffer
}

#[test]
fn parts_are_read_across_blocks() {
    const LEN: usize = 3 * BLOCK + 3;
    let buffer = buffer(LEN);
    assert_eq!(buffer.len(), LEN);
    let whole = bytes(0, LEN);
    for start in 0..LEN + 2 {
        for end in (0..LEN + 2).chain([usize::MAX]) {
            let (from, to) = (start.min(LEN), end.min(LEN));
            assert_eq!(part(&buffer, start, end), whole.get(from..to).unwrap_or_default(), "{start}..{end}");
        }
    }
}

#[test]
fn an_empty_buffer_has_nothing() {
    for mut buffer in [buffer(0), IoBuffer::new().expect("an ATS thread"), IoBuffer::with_size(9).expect("as above")] {
        assert!(buffer.is_empty());
        assert_eq!(content(&buffer), b"");
        buffer.consume(7);
        buffer.write(b"");
        assert_eq!(buffer.copy_from(&IoBuffer::new().expect("as above").reader(), 3, 9), 0);
        assert!(buffer.is_empty());
        buffer.write(b"x");
        assert_eq!(content(&buffer), b"x");
    }
}

#[test]
fn consuming_stops_at_the_end() {
    for count in 0..2 * BLOCK + 3 {
        let mut buffer = buffer(2 * BLOCK);
        buffer.consume(count);
        assert_eq!(content(&buffer), bytes(count.min(2 * BLOCK), (2 * BLOCK).saturating_sub(count)));
        buffer.write(b"more");
        assert!(content(&buffer).ends_with(b"more"));
        buffer.consume(usize::MAX);
        assert!(buffer.is_empty());
    }
}

#[test]
fn copies_share_their_bytes() {
    let source = buffer(3 * BLOCK);
    let whole = bytes(0, 3 * BLOCK);
    let _ = fake_ats::take_copied();
    for offset in 0..3 * BLOCK + 2 {
        for len in (0..3 * BLOCK + 2).chain([usize::MAX]) {
            let mut copy = IoBuffer::new().expect("an ATS thread");
            let expected = &whole[offset.min(whole.len())..offset.saturating_add(len).min(whole.len())];
            assert_eq!(copy.copy_from(&source.reader(), offset, len), expected.len());
            assert_eq!(content(&copy), expected);
        }
    }
    assert_eq!(fake_ats::take_copied(), 0);
    assert_eq!(content(&source), whole, "the source keeps its bytes");
}

#[test]
fn shared_blocks_are_not_written_to() {
    let mut source = buffer(5);
    let mut copy = IoBuffer::new().expect("an ATS thread");
    copy.copy_from(&source.reader(), 0, 3);
    copy.write(b"copy");
    source.write(b"source");
    assert_eq!(content(&copy), [&bytes(0, 3)[..], b"copy"].concat());
    assert_eq!(content(&source), [&bytes(0, 5)[..], b"source"].concat());
}

#[test]
fn appending_moves_everything_by_reference() {
    let (mut to, mut from) = (buffer(BLOCK), buffer(2 * BLOCK + 1));
    let _ = fake_ats::take_copied();
    to.append(&mut from);
    assert_eq!(fake_ats::take_copied(), 0);
    assert!(from.is_empty());
    assert_eq!(content(&to), [bytes(0, BLOCK), bytes(0, 2 * BLOCK + 1)].concat());
    from.write(b"again");
    to.append(&mut from);
    assert!(content(&to).ends_with(b"again"));
}

#[test]
fn splicing_is_like_a_vec_s() {
    const LEN: usize = 2 * BLOCK + 2;
    for len in [0, 1, BLOCK, LEN] {
        let whole = bytes(0, len);
        for start in (0..len + 2).chain([usize::MAX]) {
            for size in (0..len + 2).chain([usize::MAX]) {
                for data in [&b""[..], b"!", &[b'?'; 20]] {
                    let mut buffer = buffer(len);
                    let _ = fake_ats::take_copied();
                    buffer.splice(start, size, data).expect("an ATS thread");
                    assert_eq!(fake_ats::take_copied(), data.len(), "only what is new is copied");
                    let mut model = whole.clone();
                    let from = start.min(len);
                    model.splice(from..from.saturating_add(size).min(len), data.iter().copied());
                    assert_eq!(content(&buffer), model, "{start} {size} {data:?} of {len}");
                    buffer.write(b"end");
                    assert_eq!(content(&buffer)[model.len()..], *b"end");
                }
            }
        }
    }
}

#[test]
fn many_splices_in_a_row() {
    let (mut spliced, mut model) = (buffer(40), bytes(0, 40));
    // Numbers without a pattern: a linear congruence.
    let mut state = 12_345_usize;
    let mut next = |below: usize| {
        state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345) & 0x7FFF_FFFF;
        (state >> 8) % below
    };
    for round in 0..500 {
        let start = next(model.len() + 1);
        let end = (start + next(12)).min(model.len());
        let data = vec![u8::try_from(round % 256).expect("small"); next(12)];
        spliced.splice(start, end - start, &data).expect("an ATS thread");
        model.splice(start..end, data);
        let gone = next(3).min(model.len());
        spliced.consume(gone);
        model.drain(..gone);
        assert_eq!(content(&spliced), model);
    }
}

#[test]
fn everything_is_freed() {
    let mut kept = buffer(40);
    let mut other = buffer(33);
    kept.append(&mut other);
    kept.splice(20, 30, b"middle").expect("an ATS thread");
    other.copy_from(&kept.reader(), 1, 44);
    assert!(fake_ats::live_buffers().1 > 0);
    drop(kept);
    assert_eq!(other.len(), 44, "shared bytes outlive their first buffer");
    drop(other);
    assert_eq!(fake_ats::live_buffers(), (0, 0));
}

#[test]
fn foreign_threads_make_no_buffers_and_leak_those_that_they_drop() {
    assert!(matches!(IoBuffer::new(), Err(Error::ForeignThread(_))));
    assert!(matches!(IoBuffer::with_size(3), Err(Error::ForeignThread(_))));
    let mut buffer = buffer(3);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            assert_eq!(buffer.splice(0, 1, b""), Err(Error::ForeignThread("TSIOBufferCopy")));
            drop(buffer);
            assert!(fake_ats::take_log()[0].1.contains("leaks"));
        });
    });
}

#[test]
#[should_panic(expected = "TSIOBufferWrite was called on a thread that is not one of ATS's")]
fn foreign_threads_write_nothing() {
    let mut buffer = std::thread::spawn(|| buffer(3)).join().expect("no panic");
    buffer.write(b"x");
}

#[test]
fn sizes_are_the_smallest_that_do() {
    for (bytes, index) in [(0, 0), (128, 0), (129, 1), (4096, 5), (4097, 6), (32_768, 8), (1 << 30, 8)] {
        assert_eq!(size_index(bytes), index, "{bytes}");
    }
}

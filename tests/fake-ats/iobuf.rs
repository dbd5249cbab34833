//! Buffers: chains of blocks that share their data, with ATS's ways of consuming and appending.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::{c_char, c_void};
use std::ptr;
use std::rc::Rc;

use ats_sys::{TSIOBuffer, TSIOBufferBlock, TSIOBufferReader, TSIOBufferSizeIndex};

use crate::misc::assert_ats_thread;
use crate::{object, put};

/// How much a block of a buffer from `TSIOBufferCreate` holds. Small, so that tests get several.
pub const BLOCK: usize = 16;

thread_local! {
    /// Buffers, readers and blocks that were made and not freed.
    static LIVE: RefCell<HashSet<usize>> = RefCell::default();
    static BLOCKS: Cell<usize> = const { Cell::new(0) };
    static COPIED: Cell<usize> = const { Cell::new(0) };
}

/// Buffers and readers of this thread that were not freed, and blocks.
#[must_use]
pub fn live_buffers() -> (usize, usize) {
    (LIVE.with_borrow(HashSet::len), BLOCKS.get())
}

/// Bytes that were copied into buffers since the last call; passed on by reference are not.
#[must_use]
pub fn take_copied() -> usize {
    COPIED.take()
}

/// The bytes of a block, shared by those that were made of it. Of fixed capacity: they never move.
struct Data(RefCell<Box<[u8]>>);

struct Block {
    data: Rc<Data>,
    start: Cell<usize>,
    end: Cell<usize>,
    /// Where the data's owner may write up to; for all others this is the end.
    capacity: usize,
    next: RefCell<Option<Rc<Block>>>,
}

impl Block {
    fn new(data: Rc<Data>, start: usize, end: usize, capacity: usize) -> Rc<Self> {
        BLOCKS.set(BLOCKS.get() + 1);
        Rc::new(Self { data, start: Cell::new(start), end: Cell::new(end), capacity, next: RefCell::default() })
    }

    fn len(&self) -> usize {
        self.end.get() - self.start.get()
    }

    fn next(&self) -> Option<Rc<Self>> {
        self.next.borrow().clone()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        BLOCKS.set(BLOCKS.get() - 1);
    }
}

pub(crate) struct Buffer {
    block_size: usize,
    writer: Option<Rc<Block>>,
    readers: Vec<TSIOBufferReader>,
}

struct Reader {
    buffer: TSIOBuffer,
    block: Option<Rc<Block>>,
    offset: usize,
}

impl Reader {
    fn len(&self) -> usize {
        let mut total = 0;
        let mut at = self.block.clone();
        while let Some(block) = at {
            total += block.len();
            at = block.next();
        }
        total.checked_sub(self.offset).expect("fake ATS: more was consumed than there is")
    }

    /// As ATS does: no further than to a block that has something.
    fn skip_empty(&mut self) {
        while let Some(block) = self.block.clone() {
            match block.next() {
                Some(next) if next.len() > 0 && self.offset >= block.len() => {
                    self.offset -= block.len();
                    self.block = Some(next);
                }
                _ => return,
            }
        }
    }
}

#[track_caller]
fn live<'a, H, T>(handle: *mut H) -> &'a mut T {
    assert!(LIVE.with_borrow(|live| live.contains(&handle.addr())), "fake ATS: a buffer or reader that is freed");
    object(handle)
}

fn keep<H, T>(value: T) -> *mut H {
    let raw = Box::into_raw(Box::new(value));
    LIVE.with_borrow_mut(|live| live.insert(raw.addr()));
    raw.cast()
}

fn free<H, T>(handle: *mut H) {
    assert!(LIVE.with_borrow_mut(|live| live.remove(&handle.addr())), "fake ATS: freed twice");
    // SAFETY: from `keep`, with this type, and not freed before.
    drop(unsafe { Box::from_raw(handle.cast::<T>()) });
}

impl Buffer {
    fn append(&mut self, block: Rc<Block>) {
        match &self.writer {
            None => {
                for reader in &self.readers {
                    let reader: &mut Reader = live(*reader);
                    reader.block.get_or_insert_with(|| Rc::clone(&block));
                }
            }
            Some(writer) => {
                *writer.next.borrow_mut() = Some(Rc::clone(&block));
                if block.len() == 0 {
                    return;
                }
            }
        }
        self.writer = Some(block);
    }

    fn add_block(&mut self) {
        let data = Rc::new(Data(RefCell::new(vec![0; self.block_size].into_boxed_slice())));
        self.append(Block::new(data, 0, 0, self.block_size));
    }

    fn write(&mut self, mut bytes: &[u8]) {
        COPIED.set(COPIED.get() + bytes.len());
        while !bytes.is_empty() {
            if self.writer.is_none() {
                self.add_block();
            }
            let writer = Rc::clone(self.writer.as_ref().expect("a block"));
            let count = (writer.capacity - writer.end.get()).min(bytes.len());
            let end = writer.end.get();
            writer.data.0.borrow_mut()[end..end + count].copy_from_slice(&bytes[..count]);
            writer.end.set(end + count);
            bytes = &bytes[count..];
            if !bytes.is_empty() {
                if writer.next().is_none() {
                    self.add_block();
                }
                self.writer = writer.next();
            }
        }
    }

    fn copy(&mut self, from: &Reader, mut len: usize, offset: usize) -> usize {
        let mut offset = offset + from.offset;
        let wanted = len;
        let mut at = from.block.clone();
        while let Some(block) = at {
            if len == 0 {
                break;
            }
            if block.len() <= offset {
                offset -= block.len();
            } else {
                let start = block.start.get() + offset;
                let count = len.min(block.end.get() - start);
                self.append(Block::new(Rc::clone(&block.data), start, start + count, start + count));
                len -= count;
                offset = 0;
            }
            at = block.next();
        }
        wanted - len
    }
}

/// A buffer with a reader, for the other side of a transform.
pub(crate) fn create() -> (TSIOBuffer, TSIOBufferReader) {
    let buffer = TSIOBufferCreate();
    (buffer, TSIOBufferReaderAlloc(buffer))
}

pub(crate) fn write(buffer: TSIOBuffer, bytes: &[u8]) {
    live::<_, Buffer>(buffer).write(bytes);
    // Ours, not the plugin's.
    COPIED.set(COPIED.get() - bytes.len());
}

/// Takes at most `max` bytes from a reader.
pub(crate) fn take(reader: TSIOBufferReader, max: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let from: &Reader = live(reader);
    let (mut at, mut offset) = (from.block.clone(), from.offset);
    while let Some(block) = at {
        let data = block.data.0.borrow();
        let whole = &data[block.start.get()..block.end.get()];
        bytes.extend(&whole[offset.min(whole.len())..]);
        offset = offset.saturating_sub(whole.len());
        at = block.next();
    }
    bytes.truncate(max);
    TSIOBufferReaderConsume(reader, i64::try_from(bytes.len()).expect("short"));
    bytes
}

pub(crate) fn destroy(buffer: TSIOBuffer, reader: TSIOBufferReader) {
    TSIOBufferReaderFree(reader);
    TSIOBufferDestroy(buffer);
}

pub(crate) fn buffer_of(reader: TSIOBufferReader) -> TSIOBuffer {
    live::<_, Reader>(reader).buffer
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferCreate() -> TSIOBuffer {
    assert_ats_thread("TSIOBufferCreate");
    keep(Buffer { block_size: BLOCK, writer: None, readers: Vec::new() })
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferSizedCreate(index: TSIOBufferSizeIndex) -> TSIOBuffer {
    assert_ats_thread("TSIOBufferSizedCreate");
    assert!(index <= ats_sys::TS_IOBUFFER_SIZE_INDEX_32K, "fake ATS: no such size");
    let mut buffer = Buffer { block_size: BLOCK << index, writer: None, readers: Vec::new() };
    buffer.add_block();
    keep(buffer)
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferDestroy(buffer: TSIOBuffer) {
    assert_ats_thread("TSIOBufferDestroy");
    assert!(live::<_, Buffer>(buffer).readers.is_empty(), "the wrappers free the reader first");
    free::<_, Buffer>(buffer);
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferReaderAlloc(buffer: TSIOBuffer) -> TSIOBufferReader {
    let of: &mut Buffer = live(buffer);
    assert!(of.readers.len() < 5, "fake ATS: too many readers");
    let reader = keep(Reader { buffer, block: of.writer.clone(), offset: 0 });
    of.readers.push(reader);
    reader
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferReaderFree(reader: TSIOBufferReader) {
    let of: &mut Buffer = live(buffer_of(reader));
    of.readers.retain(|other| *other != reader);
    free::<_, Reader>(reader);
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferReaderClone(reader: TSIOBufferReader) -> TSIOBufferReader {
    let from: &Reader = live(reader);
    let clone = TSIOBufferReaderAlloc(from.buffer);
    let to: &mut Reader = live(clone);
    (to.block, to.offset) = (from.block.clone(), from.offset);
    clone
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferReaderAvail(reader: TSIOBufferReader) -> i64 {
    i64::try_from(live::<_, Reader>(reader).len()).expect("short")
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferReaderConsume(reader: TSIOBufferReader, count: i64) {
    assert_ats_thread("TSIOBufferReaderConsume");
    let reader: &mut Reader = live(reader);
    let count = usize::try_from(count).expect("fake ATS: negative length");
    assert!(count <= reader.len(), "fake ATS: consumed beyond the end");
    reader.offset += count;
    reader.skip_empty();
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferReaderStart(reader: TSIOBufferReader) -> TSIOBufferBlock {
    let reader: &mut Reader = live(reader);
    reader.skip_empty();
    block_raw(reader.block.as_ref())
}

fn block_raw(block: Option<&Rc<Block>>) -> TSIOBufferBlock {
    block.map_or(ptr::null_mut(), |block| Rc::as_ptr(block).cast_mut().cast())
}

fn block_at<'a>(block: TSIOBufferBlock) -> &'a Block {
    assert!(!block.is_null(), "fake ATS: null block");
    // SAFETY: a block of a chain that is not consumed meanwhile, or the wrappers are wrong.
    unsafe { &*block.cast::<Block>() }
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferBlockNext(block: TSIOBufferBlock) -> TSIOBufferBlock {
    block_raw(block_at(block).next.borrow().as_ref())
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferBlockReadStart(
    block: TSIOBufferBlock,
    reader: TSIOBufferReader,
    len: *mut i64,
) -> *const c_char {
    let reader: &Reader = live(reader);
    let first = block_raw(reader.block.as_ref()) == block;
    let block = block_at(block);
    // What was consumed is only known of the reader's own block.
    let offset = if first { reader.offset } else { 0 };
    put(len, i64::try_from(block.len().saturating_sub(offset)).expect("short"));
    let start = block.data.0.borrow().as_ptr();
    start.wrapping_add(block.start.get() + offset).cast()
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferWrite(buffer: TSIOBuffer, bytes: *const c_void, len: i64) -> i64 {
    assert_ats_thread("TSIOBufferWrite");
    live::<_, Buffer>(buffer).write(crate::bytes(bytes.cast(), len));
    len
}

#[unsafe(no_mangle)]
extern "C" fn TSIOBufferCopy(buffer: TSIOBuffer, reader: TSIOBufferReader, len: i64, offset: i64) -> i64 {
    assert_ats_thread("TSIOBufferCopy");
    let (len, offset) = (usize::try_from(len).expect("not negative"), usize::try_from(offset).expect("not negative"));
    let from: &Reader = live(reader);
    i64::try_from(live::<_, Buffer>(buffer).copy(from, len, offset)).expect("short")
}

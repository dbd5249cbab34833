//! What wasmtime does not tell of a module: its sections. For modules that are known to be valid; of others something is
//! said, or nothing.

/// The sections that are looked at.
const CUSTOM: u8 = 0;
const GLOBAL: u8 = 6;
const START: u8 = 8;
const CODE: u8 = 10;
const DATA: u8 = 11;

/// Of each section: its number, where it begins, and what is in it.
struct Sections<'m> {
    all: &'m [u8],
    rest: &'m [u8],
}

fn all(bytes: &[u8]) -> Sections<'_> {
    Sections { all: bytes, rest: bytes.get(8..).unwrap_or_default() }
}

impl<'m> Iterator for Sections<'m> {
    type Item = (u8, usize, &'m [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&id, tail) = self.rest.split_first()?;
        let Some((body, tail)) = sized(tail) else {
            self.rest = &[];
            return None;
        };
        self.rest = tail;
        Some((id, self.all.len() - tail.len() - body.len(), body))
    }
}

/// The custom sections: names and contents.
pub(crate) fn custom(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    all(bytes).filter(|(id, ..)| *id == CUSTOM).filter_map(|(_, _, body)| sized(body))
}

/// Where the contents of the code section begin: DWARF counts from there.
pub(crate) fn code_offset(bytes: &[u8]) -> Option<usize> {
    all(bytes).find(|(id, ..)| *id == CODE).map(|(_, at, _)| at)
}

/// Whether there is a start section.
pub(crate) fn has_start(bytes: &[u8]) -> bool {
    all(bytes).any(|(id, ..)| id == START)
}

/// Bytes of code, and how many functions they are.
pub(crate) fn code(bytes: &[u8]) -> (usize, u32) {
    let section = all(bytes).find(|(id, ..)| *id == CODE).map(|(_, _, body)| body).unwrap_or_default();
    (section.len(), unsigned(section).map_or(0, |(count, _)| u32::try_from(count).unwrap_or(u32::MAX)))
}

/// What made the module, by its `producers` section: `Rust 1.95.0`, `clang 19.1.7`.
pub(crate) fn producers(bytes: &[u8]) -> Vec<String> {
    fn read(body: &[u8]) -> Option<Vec<String>> {
        let text = |bytes| sized(bytes).map(|(text, rest)| (String::from_utf8_lossy(text).into_owned(), rest));
        let mut found = Vec::new();
        let (fields, mut rest) = unsigned(body)?;
        for _ in 0..fields {
            let (field, tail) = text(rest)?;
            let (values, tail) = unsigned(tail)?;
            rest = tail;
            for _ in 0..values {
                let (name, tail) = text(rest)?;
                let (version, tail) = text(tail)?;
                rest = tail;
                // Languages are told by what compiled them.
                if field == "processed-by" {
                    found.push(format!("{name} {version}").trim().to_owned());
                } else if field == "language" && version.is_empty() {
                    found.push(name);
                }
            }
        }
        Some(found)
    }
    let section = custom(bytes).find(|(name, _)| *name == b"producers");
    let mut found = section.and_then(|(_, body)| read(body)).unwrap_or_default();
    // A language whose compiler is named under the same name is said once.
    let compilers: Vec<_> = found.iter().filter(|name| name.contains(' ')).map(|name| name.to_lowercase()).collect();
    found.retain(|name| {
        let (language, compiler) = (name.to_lowercase(), name.contains(' '));
        compiler || !compilers.iter().any(|other| other.starts_with(&format!("{language} ")))
    });
    found
}

/// How a module lays out its memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes that are written to it at the start.
    pub(crate) data: u64,
    /// The stack that its compiler has put into it, where that shows.
    pub(crate) stack: Option<u64>,
}

/// Reads the data segments, and where the stack pointer begins. Linkers of C, C++, Rust and Zig put it into the first
/// global; the stack grows down from there to address 0, or to the end of the data.
pub(crate) fn layout(bytes: &[u8]) -> Layout {
    let mut layout = Layout::default();
    let (mut lowest, mut end) = (u64::MAX, 0);
    for (_, _, body) in all(bytes).filter(|(id, ..)| *id == DATA) {
        for (at, len) in segments(body) {
            layout.data += len;
            if let Some(at) = at {
                lowest = lowest.min(at);
                end = end.max(at + len);
            }
        }
    }
    let top = all(bytes).find(|(id, ..)| *id == GLOBAL).and_then(|(_, _, body)| first_global(body));
    layout.stack = top.and_then(|top| match top {
        0 => None,
        top if top <= lowest => Some(top),
        top => top.checked_sub(end).filter(|stack| *stack > 0),
    });
    layout
}

/// The value of the first global, if it is an `i32` that changes.
fn first_global(body: &[u8]) -> Option<u64> {
    const I32: u8 = 0x7f;
    let (count, rest) = unsigned(body)?;
    match rest {
        [I32, 1, init @ ..] if count > 0 => constant(init).map(|(value, _)| value),
        _ => None,
    }
}

/// Of each data segment: where it goes, if that is known, and its size.
fn segments(body: &[u8]) -> Vec<(Option<u64>, u64)> {
    let mut found = Vec::new();
    let Some((count, mut rest)) = unsigned(body) else { return found };
    for _ in 0..count {
        let next = unsigned(rest).and_then(|(kind, tail)| {
            let (at, tail) = match kind {
                0 => constant(tail).map(|(at, tail)| (Some(at), tail))?,
                1 => (None, tail),
                _ => return None,
            };
            let (data, tail) = sized(tail)?;
            Some((at, data.len() as u64, tail))
        });
        let Some((at, len, tail)) = next else { break };
        found.push((at, len));
        rest = tail;
    }
    found
}

/// An expression that is `i32.const`, and what follows it.
fn constant(bytes: &[u8]) -> Option<(u64, &[u8])> {
    const I32_CONST: u8 = 0x41;
    const END: u8 = 0x0b;
    let mut value = 0i64;
    for (at, byte) in bytes.strip_prefix(&[I32_CONST])?.iter().take(5).enumerate() {
        value |= i64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if byte & 0x40 != 0 {
                value |= -1 << (7 * (at + 1));
            }
            let rest = bytes.get(at + 2..)?.strip_prefix(&[END])?;
            // An address: what looks negative is beyond 2 GiB.
            #[expect(clippy::cast_possible_truncation, reason = "32 bits are meant")]
            return Some((u64::from((value as i32).cast_unsigned()), rest));
        }
    }
    None
}

/// An unsigned LEB128 number, and what follows it.
fn unsigned(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (at, byte) in bytes.iter().take(5).enumerate() {
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some((number, &bytes[at + 1..]));
        }
    }
    None
}

/// Splits off what a LEB128 length announces.
fn sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = unsigned(bytes)?;
    rest.split_at_checked(usize::try_from(size).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(text: &str) -> Vec<u8> {
        wat::parse_str(format!("(module {text})")).unwrap()
    }

    #[test]
    fn the_stack_is_found_where_linkers_put_it() {
        let layout = |text: &str| layout(&module(text));
        // Before the data, as Rust has it.
        let first = r#"(memory 20) (global (mut i32) (i32.const 1048576)) (data (i32.const 1048576) "abcd")"#;
        assert_eq!(layout(first), Layout { data: 4, stack: Some(1 << 20) });
        // Behind it.
        let behind = r#"(memory 2) (global (mut i32) (i32.const 66560)) (data (i32.const 1024) "abcdef")"#;
        assert_eq!(layout(behind), Layout { data: 6, stack: Some(66_560 - 1030) });
        // None that shows: no such global, or one that does not change.
        assert_eq!(layout(r#"(memory 1) (data "passive")"#), Layout { data: 7, stack: None });
        assert_eq!(layout("(global i32 (i32.const 9))").stack, None);
        assert_eq!(layout("(global (mut i64) (i64.const 9))").stack, None);
        assert_eq!(layout(""), Layout::default());
        let high = r#"(memory 65536) (data (i32.const -16) "abcd")"#;
        assert_eq!(segments(all(&module(high)).find(|(id, ..)| *id == DATA).unwrap().2), [(Some(0xffff_fff0), 4)]);
    }

    #[test]
    fn producers_are_read() {
        let mut bytes = module("");
        let mut body = b"\x09producers\x02".to_vec();
        body.extend_from_slice(b"\x08language\x02\x04Rust\x00\x03C11\x00");
        body.extend_from_slice(b"\x0cprocessed-by\x01\x05rustc\x061.95.0");
        bytes.push(CUSTOM);
        bytes.push(u8::try_from(body.len()).unwrap());
        bytes.extend_from_slice(&body);
        assert_eq!(producers(&bytes), ["Rust", "C11", "rustc 1.95.0"]);
        assert_eq!(custom(&bytes).map(|(name, _)| name).collect::<Vec<_>>(), [b"producers"]);
        for len in 0..bytes.len() {
            // Cut anywhere, nothing is harmed.
            let _ = (producers(&bytes[..len]), layout(&bytes[..len]), code_offset(&bytes[..len]), code(&bytes[..len]));
        }
    }

    #[test]
    fn code_is_measured_from_where_it_begins() {
        let bytes = module("(func) (func)");
        let at = code_offset(&bytes).unwrap();
        assert_eq!(&bytes[at..at + 3], [2, 2, 0], "two functions, the first of two bytes, with no locals");
        assert_eq!(code(&bytes), (bytes.len() - at, 2));
        assert!(!has_start(&bytes) && has_start(&module("(func) (start 0)")));
    }
}

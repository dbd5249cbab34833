//! Bodies on their way through a chain: bytes of the host's, which the engine moves and seldom copies.

use std::any::Any;

use smallvec::SmallVec;

use crate::abi::BufferType;
use crate::config::Body;
use crate::error::Error;

/// One of the two messages of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request, on its way to the origin.
    Request = 0,
    /// The response, on its way to the client.
    Response = 1,
}

impl Side {
    /// Both.
    pub const ALL: [Side; 2] = [Side::Request, Side::Response];

    /// As a word in log lines.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Side::Request => "request",
            Side::Response => "response",
        }
    }

    /// Whose body a buffer is; `None` for buffers that are no body.
    pub(crate) const fn of_buffer(buffer: BufferType) -> Option<Self> {
        match buffer {
            BufferType::HttpRequestBody => Some(Side::Request),
            BufferType::HttpResponseBody => Some(Side::Response),
            _ => None,
        }
    }
}

/// Bytes of a body, in whatever form the host has them.
///
/// Owned: valid until dropped, also after the callback in which the host got them. Moved between filters by
/// [`BodyBuffer::append`], which a host implements without copying for its own kind.
pub trait BodyBuffer: Any + Send {
    /// How many bytes there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Shows the bytes from `start` up to `end`, in as many pieces as they happen to lie in. Both are within the length.
    fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8]));

    /// Puts `data` in the place of `size` bytes at `start`. The range is within the length.
    ///
    /// # Errors
    /// [`Error::TooLarge`] or whatever else keeps the host from it; nothing has changed then.
    fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<(), Error>;

    /// Moves all of `other` behind what is here.
    fn append(&mut self, other: Box<dyn BodyBuffer>);
}

/// Bytes in a vector: for answers of our own, the offline runner and tests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl BodyBuffer for Bytes {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8])) {
        visit(&self.0[start..end]);
    }

    fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<(), Error> {
        self.0.splice(start..start + size, data.iter().copied());
        Ok(())
    }

    fn append(&mut self, other: Box<dyn BodyBuffer>) {
        other.read(0, other.len(), &mut |piece| self.0.extend_from_slice(piece));
    }
}

/// Joins two runs of bytes of which either may be missing.
pub(crate) fn join(
    front: Option<Box<dyn BodyBuffer>>,
    back: Option<Box<dyn BodyBuffer>>,
) -> Option<Box<dyn BodyBuffer>> {
    match (front, back) {
        (Some(mut front), Some(back)) => {
            front.append(back);
            Some(front)
        }
        (front, back) => front.or(back),
    }
}

/// The bytes that filters of one stream have before them, or hold.
#[derive(Default)]
pub(crate) struct Bodies {
    /// Rarely more than one.
    held: SmallVec<[Held; 1]>,
    /// By side: some filter wrote to the body.
    changed: [bool; 2],
    /// By filter: the bodies that it is shown, where the chain has any.
    shown: SmallVec<[Body; 4]>,
}

struct Held {
    filter: usize,
    side: Side,
    bytes: Box<dyn BodyBuffer>,
}

impl Bodies {
    /// The bodies that filters are shown, in the order of the chain.
    pub(crate) fn showing(shown: SmallVec<[Body; 4]>) -> Self {
        Bodies { held: SmallVec::new(), changed: [false; 2], shown }
    }

    /// The bodies that the filter is shown.
    pub(crate) fn shown(&self, filter: usize) -> Body {
        self.shown.get(filter).copied().unwrap_or(Body::None)
    }

    /// Changes that.
    pub(crate) fn show(&mut self, filter: usize, body: Body) {
        if let Some(shown) = self.shown.get_mut(filter) {
            *shown = body;
        }
    }

    fn position(&self, filter: usize, side: Side) -> Option<usize> {
        self.held.iter().position(|held| held.filter == filter && held.side == side)
    }

    /// Puts `bytes` behind what the filter has already. Returns how many it has then.
    pub(crate) fn add(&mut self, filter: usize, side: Side, bytes: Option<Box<dyn BodyBuffer>>) -> usize {
        match (self.position(filter, side), bytes) {
            (Some(at), bytes) => {
                let held = &mut self.held[at].bytes;
                if let Some(bytes) = bytes {
                    held.append(bytes);
                }
                held.len()
            }
            (None, Some(bytes)) => {
                let len = bytes.len();
                self.held.push(Held { filter, side, bytes });
                len
            }
            (None, None) => 0,
        }
    }

    /// Takes what the filter has.
    pub(crate) fn take(&mut self, filter: usize, side: Side) -> Option<Box<dyn BodyBuffer>> {
        self.position(filter, side).map(|at| self.held.swap_remove(at).bytes)
    }

    /// What the filter has; `None` if it has nothing before it, as opposed to an empty chunk.
    pub(crate) fn get(&self, filter: usize, side: Side) -> Option<&dyn BodyBuffer> {
        self.position(filter, side).map(|at| &*self.held[at].bytes)
    }

    /// Writes into what the filter has: `start` beyond the end appends, a range beyond the end is cut.
    pub(crate) fn splice(
        &mut self,
        filter: usize,
        side: Side,
        start: usize,
        size: usize,
        data: &[u8],
    ) -> Result<(), Error> {
        let at = match self.position(filter, side) {
            Some(at) => at,
            None => return Err(Error::NotFound),
        };
        let bytes = &mut self.held[at].bytes;
        let len = bytes.len();
        let start = start.min(len);
        bytes.splice(start, size.min(len - start), data)?;
        self.changed[side as usize] = true;
        Ok(())
    }

    /// Whether any filter wrote to the body of this side.
    pub(crate) fn changed(&self, side: Side) -> bool {
        self.changed[side as usize]
    }

    /// Becomes what another stream begins with; the room for what is held stays.
    pub(crate) fn begin_again(&mut self, next: Bodies) {
        self.held.clear();
        self.changed = next.changed;
        self.shown = next.shown;
    }

    /// Lets go of everything.
    pub(crate) fn clear(&mut self) {
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Option<Box<dyn BodyBuffer>> {
        Some(Box::new(Bytes(text.as_bytes().to_vec())))
    }

    fn text(bytes: Option<Box<dyn BodyBuffer>>) -> String {
        let mut out = Vec::new();
        if let Some(bytes) = bytes {
            bytes.read(0, bytes.len(), &mut |piece| out.extend_from_slice(piece));
        }
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_prepend_append_insert_and_replace() {
        // By the specification's table of proxy_set_buffer_bytes.
        for (start, size, data, expected) in [
            (0, 0, "xy", "xyabcdef"),
            (6, 0, "xy", "abcdefxy"),
            (99, 7, "xy", "abcdefxy"),
            (2, 0, "xy", "abxycdef"),
            (2, 3, "xy", "abxyf"),
            (2, 99, "xy", "abxy"),
            (0, 6, "xy", "xy"),
            (0, usize::MAX, "", ""),
        ] {
            let mut bodies = Bodies::default();
            assert_eq!(bodies.add(1, Side::Request, bytes("abc")), 3);
            assert_eq!(bodies.add(1, Side::Request, bytes("def")), 6);
            assert!(!bodies.changed(Side::Request));
            bodies.splice(1, Side::Request, start, size, data.as_bytes()).unwrap();
            assert!(bodies.changed(Side::Request) && !bodies.changed(Side::Response));
            assert_eq!(text(bodies.take(1, Side::Request)), expected, "{start} {size}");
            assert!(bodies.splice(1, Side::Request, 0, 0, b"").is_err(), "nothing is there any more");
        }
    }

    #[test]
    fn filters_and_sides_have_their_own() {
        let mut bodies = Bodies::default();
        bodies.add(0, Side::Request, bytes("a"));
        bodies.add(0, Side::Response, bytes("b"));
        bodies.add(1, Side::Request, bytes("c"));
        assert_eq!(bodies.get(0, Side::Response).map(BodyBuffer::len), Some(1));
        assert_eq!(text(bodies.take(1, Side::Request)), "c");
        assert_eq!(text(bodies.take(0, Side::Request)), "a");
        bodies.clear();
        assert!(bodies.get(0, Side::Response).is_none());
        assert_eq!(text(join(bytes("a"), bytes("b"))), "ab");
        assert_eq!(text(join(None, bytes("b"))), "b");
        assert!(join(None, None).is_none());
    }
}

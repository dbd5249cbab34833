//! A host with one request, which is always the same. It has no size and so takes no memory: what is allocated or spent
//! while a stream runs is the engine's.

use std::cell::Cell;
use std::hint::black_box;

use engine::abi::{Callback, MapType};
use engine::{BodyBuffer, Error, PseudoHeader, StreamHost};

/// The fields of a request as browsers send it, and of every response.
const FIELDS: [(&[u8], &[u8]); 10] = [
    (b"Host", b"shop.example.com"),
    (b"Connection", b"keep-alive"),
    (b"Accept", b"text/html,application/xhtml+xml"),
    (b"Accept-Encoding", b"gzip, deflate, br"),
    (b"Accept-Language", b"en"),
    (b"Cookie", b"session=0123456789abcdef"),
    (b"Referer", b"https://shop.example.com/"),
    (b"User-Agent", b"Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/130.0"),
    (b"Cache-Control", b"max-age=0"),
    (b"X-Request-Id", b"7f3a"),
];

thread_local!(static WRITES: Cell<u64> = const { Cell::new(0) });

/// How often filters have written to a header, on this thread: proof that they do.
pub(crate) fn writes() -> u64 {
    WRITES.get()
}

pub(crate) struct Host;

impl Host {
    fn write(name: &[u8], value: &[u8]) {
        black_box((name, value));
        WRITES.set(WRITES.get() + 1);
    }
}

impl StreamHost for Host {
    fn begin(&mut self, _callback: Callback) {}

    fn header(&mut self, _map: MapType, name: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let mut fields = FIELDS.iter();
        let (_, value) = fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).ok_or(Error::NotFound)?;
        out.extend_from_slice(value);
        Ok(())
    }

    fn headers(&mut self, _map: MapType, visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), Error> {
        FIELDS.iter().for_each(|(name, value)| visit(name, value));
        Ok(())
    }

    fn header_count(&mut self, _map: MapType) -> Result<usize, Error> {
        Ok(FIELDS.len())
    }

    fn add_header(&mut self, _map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        Self::write(name, value);
        Ok(())
    }

    fn set_header(&mut self, _map: MapType, name: &[u8], value: &[u8]) -> Result<(), Error> {
        Self::write(name, value);
        Ok(())
    }

    fn remove_header(&mut self, _map: MapType, name: &[u8]) -> Result<(), Error> {
        Self::write(name, b"");
        Ok(())
    }

    fn clear_headers(&mut self, _map: MapType) -> Result<(), Error> {
        Ok(())
    }

    fn pseudo_header(&mut self, pseudo: PseudoHeader, out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(match pseudo {
            PseudoHeader::Method => b"GET",
            PseudoHeader::Path => b"/basket?item=17",
            PseudoHeader::Authority => b"shop.example.com",
            PseudoHeader::Scheme => b"https",
            PseudoHeader::Status => b"200",
        });
        Ok(())
    }

    fn set_pseudo_header(&mut self, _pseudo: PseudoHeader, value: &[u8]) -> Result<(), Error> {
        Self::write(b":", value);
        Ok(())
    }

    fn property(&mut self, path: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        match path {
            b"request\0path" => {
                out.extend_from_slice(b"/basket?item=17");
                Ok(())
            }
            _ => Err(Error::NotFound),
        }
    }

    fn set_property(&mut self, _path: &[u8], _value: &[u8]) -> Result<(), Error> {
        Err(Error::NotFound)
    }
}

/// A piece of a body, whose own memory is used again and again.
pub(crate) struct Chunk(pub(crate) Vec<u8>);

impl BodyBuffer for Chunk {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8])) {
        visit(&self.0[start..end]);
    }

    fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<(), Error> {
        if data.len() == size {
            self.0[start..start + size].copy_from_slice(data);
        } else {
            self.0.splice(start..start + size, data.iter().copied());
        }
        Ok(())
    }

    fn append(&mut self, other: Box<dyn BodyBuffer>) {
        other.read(0, other.len(), &mut |piece| self.0.extend_from_slice(piece));
    }
}

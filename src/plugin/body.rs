//! Bodies for the engine: ATS's buffers, whose blocks go from hand to hand by reference.

use std::any::Any;

use ats::iobuf::IoBuffer;
use engine::{BodyBuffer, Error};

/// Bytes of a body in a buffer of ATS's.
pub(crate) struct IoBody(pub(crate) IoBuffer);

impl BodyBuffer for IoBody {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn read(&self, start: usize, end: usize, visit: &mut dyn FnMut(&[u8])) {
        self.0.read(start, end, visit);
    }

    fn splice(&mut self, start: usize, size: usize, data: &[u8]) -> Result<(), Error> {
        self.0.splice(start, size, data).map_err(|error| {
            crate::logs::tell(
                "a filter's change of a body that was refused",
                None,
                format_args!("a filter's change of a body was refused: {error}"),
            );
            Error::BadArgument("this thread cannot change bodies")
        })
    }

    fn append(&mut self, other: Box<dyn BodyBuffer>) {
        append(&mut self.0, other);
    }
}

/// Moves `bytes` to the end of `buffer`: by reference, unless somebody else made them.
pub(crate) fn append(buffer: &mut IoBuffer, bytes: Box<dyn BodyBuffer>) {
    match (bytes as Box<dyn Any>).downcast::<IoBody>() {
        Ok(mut bytes) => buffer.append(&mut bytes.0),
        Err(bytes) => {
            if let Ok(bytes) = bytes.downcast::<engine::Bytes>() {
                buffer.write(&bytes.0);
            }
        }
    }
}

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
        match (other as Box<dyn Any>).downcast::<IoBody>() {
            Ok(mut other) => self.0.append(&mut other.0),
            Err(other) => {
                if let Ok(other) = other.downcast::<engine::Bytes>() {
                    self.0.write(&other.0);
                }
            }
        }
    }
}

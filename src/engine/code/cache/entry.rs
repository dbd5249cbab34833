//! An entry: compiled code as wasmtime serialised it, and behind it a trailer of ours that tells whether it is all there and
//! as it was.
//!
//! The checksum is one against damage (a disk, a copy that broke off, an editor) and is quick to compute. It keeps nobody
//! away who could write the file: he would compute it as well. The key says whose code it is, so that an entry under
//! another one's name is not taken for it.
//!
//! wasmtime finds its sections by a table, and does not mind what stands behind them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

/// Digest of the module, compiler, and everything else that decides what code is made of it.
pub(super) type Key = [u8; 32];

const MAGIC: &[u8; 8] = b"wremap\x01\n";

/// Magic, key, length and checksum of the code, checksum of this.
const TRAILER: usize = 8 + 32 + 8 + 16 + 8;

/// How much is read at a time: what stays in the processor's cache between copying and hashing.
const CHUNK: usize = 256 << 10;

/// The trailer of an entry.
pub(super) fn trailer(key: &Key, code: &[u8]) -> [u8; TRAILER] {
    make(key, code.len() as u64, xxh3_128(code))
}

fn make(key: &Key, length: u64, sum: u128) -> [u8; TRAILER] {
    let mut trailer = [0; TRAILER];
    trailer[..8].copy_from_slice(MAGIC);
    trailer[8..40].copy_from_slice(key);
    trailer[40..48].copy_from_slice(&length.to_le_bytes());
    trailer[48..64].copy_from_slice(&sum.to_le_bytes());
    let own = xxh3_64(&trailer[..64]);
    trailer[64..].copy_from_slice(&own.to_le_bytes());
    trailer
}

/// An entry whose trailer is in order and whose code has not been looked at.
pub(super) struct Unverified {
    file: File,
    length: u64,
    sum: u128,
}

/// An entry whose code is what was written. Made here alone: it is what mapping code as code relies on.
pub(super) struct Verified(File);

impl Verified {
    /// The file, at no particular position.
    pub(super) fn into_file(self) -> File {
        self.0
    }
}

impl Unverified {
    /// Looks at the trailer of a file of this size.
    ///
    /// # Errors
    /// Why this is no entry with this key.
    pub(super) fn open(file: File, size: u64, key: &Key) -> Result<Self, String> {
        let damaged = |what: &str| format!("it is damaged: {what}");
        let length = size.checked_sub(TRAILER as u64).ok_or_else(|| damaged("it is too short"))?;
        let mut trailer = [0; TRAILER];
        file.read_exact_at(&mut trailer, length).map_err(|error| error.to_string())?;
        let mut sum = [0; 16];
        sum.copy_from_slice(&trailer[48..64]);
        let sum = u128::from_le_bytes(sum);
        // What it ought to be, from the little in it that cannot be known.
        if trailer == make(key, length, sum) {
            return Ok(Unverified { file, length, sum });
        }
        let own = xxh3_64(&trailer[..64]).to_le_bytes();
        if trailer[64..] != own || trailer[..8] != *MAGIC {
            Err(damaged("its end is not that of an entry"))
        } else if trailer[8..40] != *key {
            Err("it is another module's, or of another compiler, wasmtime or processor".to_owned())
        } else {
            Err(damaged("its length has changed"))
        }
    }

    /// The checksum that the trailer has.
    pub(super) fn sum(&self) -> String {
        format!("{:032x}", self.sum)
    }

    /// Reads the whole of it.
    ///
    /// # Errors
    /// It is not what was written.
    pub(super) fn verify(self) -> Result<Verified, String> {
        let mut hash = Xxh3::new();
        let mut chunk = vec![0; CHUNK];
        let mut code = (&self.file).take(self.length);
        let mut read = 0;
        loop {
            match code.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => {
                    hash.update(&chunk[..count]);
                    read += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        if read != self.length || hash.digest128() != self.sum {
            return Err("it is damaged: its checksum is another one".to_owned());
        }
        Ok(Verified(self.file))
    }

    /// It was read whole since the machine was started, and nobody has changed it since.
    pub(super) fn noted(self) -> Verified {
        Verified(self.file)
    }
}

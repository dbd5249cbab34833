//! Foreign functions: what filters call by name, beyond the ABI. Envoy's where they make sense here, in Envoy's
//! encodings, and ours for what the ABI lacks.
//!
//! A row of [`FOREIGN_FUNCTIONS`] is all there is to one: `proxy_call_foreign_function`, the documentation and the
//! completeness test read it. A handler gets its arguments where they lie in the guest's memory, and appends its
//! result to a buffer that is handed to the guest when it is done.

use std::time::Instant;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status as Progress};

use crate::abi::{MapType, Status, pairs};
use crate::error::Error;
use crate::host::PseudoHeader;
use crate::limits::EPOCH;
use crate::memory::{self, Guest};
use crate::state::VmState;

use super::{foreign_data, signatures};

type Handler = fn(&mut VmState, &[u8], &mut Vec<u8>) -> Result<(), Error>;

/// A function that filters call by name.
#[derive(Debug, Clone, Copy)]
pub struct ForeignFunction {
    /// Its name.
    pub name: &'static str,
    /// Whether Envoy has it too, with the same encodings. Else it is ours.
    pub envoy: bool,
    /// What it does, in one line.
    pub doc: &'static str,
    /// What its arguments are.
    pub arguments: &'static str,
    /// What its result is.
    pub result: &'static str,
    /// What it may answer besides [`Status::Ok`].
    pub answers: &'static [Status],
    handler: Handler,
}

/// Every foreign function.
pub const FOREIGN_FUNCTIONS: &[ForeignFunction] = &[
    ForeignFunction {
        name: "compress",
        envoy: true,
        doc: "Compresses.",
        arguments: "the bytes",
        result: "a zlib stream (RFC 1950)",
        answers: &[Status::SerializationFailure],
        handler: compress,
    },
    ForeignFunction {
        name: "uncompress",
        envoy: true,
        doc: "Uncompresses. Here, not in Envoy, the result has a limit: `limits.memory_mib`, 64 MiB at most.",
        arguments: "a zlib stream (RFC 1950); what follows it is ignored",
        result: "the bytes",
        answers: &[Status::BadArgument, Status::SerializationFailure],
        handler: uncompress,
    },
    ForeignFunction {
        name: "verify_signature",
        envoy: true,
        doc: "Verifies a signature: RSA (PKCS #1 v1.5, 1,024 to 8,192 bits) with sha1, sha256, sha384 (from 2,048 bits \
              on) or sha512; ECDSA (ASN.1) on P-256 or P-384 with sha256 or sha384. Others are reported as errors.",
        arguments: "protobuf `string hash_function = 1; bytes public_key = 2; bytes signature = 3; bytes text = 4; \
                    string public_key_pem = 5`; one of the keys, a SubjectPublicKeyInfo",
        result: "protobuf `bool result = 1; string error = 2`",
        answers: &[Status::BadArgument],
        handler: signatures::verify,
    },
    ForeignFunction {
        name: "sign",
        envoy: true,
        doc: "Signs: RSA (PKCS #1 v1.5, 2,048 to 4,096 bits) with sha256, sha384 or sha512; ECDSA (ASN.1) on P-256 \
              with sha256 or P-384 with sha384. Others are reported as errors.",
        arguments: "protobuf `string hash_function = 1; bytes private_key = 2; bytes text = 3; string private_key_pem \
                    = 4`; one of the keys, PKCS #8 (RSA: PKCS #1 too)",
        result: "protobuf `bool result = 1; bytes signature = 2; string error = 3`",
        answers: &[Status::BadArgument],
        handler: signatures::sign,
    },
    ForeignFunction {
        name: "declare_property",
        envoy: true,
        doc: "Declares a property that `proxy_set_property` will set: with `readonly`, once a transaction. Once a name \
              and plugin context. Whatever its type, its value is kept as bytes, and read whole; whatever its span, \
              it is kept with the transaction.",
        arguments: "protobuf `string name = 1; bool readonly = 2; enum type = 3; bytes schema = 4; enum span = 5`",
        result: "nothing",
        answers: &[Status::BadArgument],
        handler: declare_property,
    },
    ForeignFunction {
        name: "clear_route_cache",
        envoy: true,
        doc: "Has routes computed anew: nothing to do here, since a rule's chain runs before the remap settles.",
        arguments: "nothing",
        result: "nothing",
        answers: &[],
        handler: |_, _, _| Ok(()),
    },
    ForeignFunction {
        name: "header_values",
        envoy: false,
        doc: "All values of a field, in order, where `proxy_get_header_map_value` gives the first: `set-cookie` is not \
              a list that commas separate.",
        arguments: "the map's number, `u32` little endian, and the field's name",
        result: "the fields of this name, as `proxy_get_header_map_pairs` encodes maps; the name in lower case. None \
                 is a map without pairs",
        answers: &[Status::BadArgument],
        handler: header_values,
    },
    ForeignFunction {
        name: "shared_data_delete",
        envoy: false,
        doc: "Removes a key from the shared data of this VM id, whatever its version.",
        arguments: "the key",
        result: "nothing",
        answers: &[Status::NotFound],
        handler: foreign_data::delete,
    },
    ForeignFunction {
        name: "shared_data_keys",
        envoy: false,
        doc: "The keys of the shared data of this VM id that begin with a prefix: the first 10,000, sorted by their \
              bytes. Looks at every key there is: for ticks, not for every request.",
        arguments: "the prefix",
        result: "for each key its length, `u32` little endian, and its bytes",
        answers: &[Status::BadArgument],
        handler: foreign_data::keys,
    },
    ForeignFunction {
        name: "shared_data_set_with_ttl",
        envoy: false,
        doc: "Writes a key of the shared data of this VM id, as `proxy_set_shared_data` does, for a time. A write \
              without a time makes it stay.",
        arguments: "the time in milliseconds, `u64`, 0 for good; the version, `u32`, 0 for any; the key's length, \
                    `u32`; all little endian; the key; the value",
        result: "one byte: 1, it is stored; 0, the version is another one",
        answers: &[Status::BadArgument],
        handler: foreign_data::set_with_ttl,
    },
    ForeignFunction {
        name: "shared_data_increment",
        envoy: false,
        doc: "Adds to a number in the shared data of this VM id, in one step. A key that is not there counts as 0, and \
              sums wrap around. The value is 8 bytes, little endian; one of another length is a bad argument.",
        arguments: "what to add, `i64`; the time in milliseconds that a key which is new lives, `u64`, 0 for good; both \
                    little endian; the key",
        result: "the sum, `i64` little endian",
        answers: &[Status::BadArgument],
        handler: foreign_data::increment,
    },
];

pub(super) fn call_foreign_function(
    guest: &mut Guest<'_>,
    name: i32,
    name_size: i32,
    arguments: i32,
    arguments_size: i32,
    data: i32,
    size: i32,
) -> Result<(), Error> {
    memory::with_scratch(guest, |guest, result| {
        let (memory, state) = memory::split(guest)?;
        let name = memory::bytes(memory, name, name_size)?;
        let arguments = memory::bytes(memory, arguments, arguments_size)?;
        let function = FOREIGN_FUNCTIONS.iter().find(|function| function.name.as_bytes() == name);
        let function = function.ok_or_else(|| Error::NotFound)?;
        (function.handler)(state, arguments, result)?;
        match (data, size) {
            // As in cpp-host: who does not want the result, or its size, gives no place for it.
            (0, 0) => Ok(()),
            (0, size) => {
                let len = u32::try_from(result.len()).map_err(|_| Error::TooLarge("result"))?;
                memory::write_u32(memory::split(guest)?.0, size, len)
            }
            (data, size) => memory::return_bytes(guest, result, data, size),
        }
    })
}

/// How much is worked on before the time is looked at.
const PIECE: usize = 64 << 10;

/// Work of ours on behalf of a callback is held to its time as its own work is.
pub(super) fn check_time(state: &mut VmState, begun: Instant) -> Result<(), Error> {
    if begun.elapsed() < EPOCH || state.stopwatch.look().is_some() {
        return Ok(());
    }
    Err(Error::Wasm(wasmtime::Trap::Interrupt.into()))
}

fn compress(state: &mut VmState, input: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let begun = Instant::now();
    // Level 6, the default of zlib and so of Envoy.
    let mut stream = Compress::new(Compression::default(), true);
    let mut rest = input;
    loop {
        let (piece, behind) = rest.split_at(rest.len().min(PIECE));
        let flush = if behind.is_empty() { FlushCompress::Finish } else { FlushCompress::None };
        let before = stream.total_in();
        out.reserve(PIECE);
        match stream.compress_vec(piece, out, flush) {
            Ok(Progress::StreamEnd) => return Ok(()),
            Ok(_) => rest = &rest[moved(before, stream.total_in())..],
            Err(_) => return Err(Error::Malformed("zlib does not take it")),
        }
        check_time(state, begun)?;
    }
}

fn uncompress(state: &mut VmState, input: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let begun = Instant::now();
    // More has no place in the guest, and should have none in the host.
    let limit = state.settings.limits.memory_bytes.min(64 << 20);
    let mut stream = Decompress::new(true);
    let mut rest = input;
    let mut piece = vec![0; PIECE];
    loop {
        let before = (stream.total_in(), stream.total_out());
        let progress = stream.decompress(&rest[..rest.len().min(PIECE)], &mut piece, FlushDecompress::None);
        let progress = progress.map_err(|_| Error::Malformed("this is no zlib stream"))?;
        let (consumed, made) = (moved(before.0, stream.total_in()), moved(before.1, stream.total_out()));
        if out.len() + made > limit {
            return Err(Error::TooLarge("what this expands to"));
        }
        out.extend_from_slice(&piece[..made]);
        rest = &rest[consumed..];
        if progress == Progress::StreamEnd {
            return Ok(());
        }
        if consumed == 0 && made == 0 {
            return Err(Error::Malformed("the zlib stream is cut short"));
        }
        check_time(state, begun)?;
    }
}

/// How many bytes a call of zlib's took, or made.
fn moved(before: u64, after: u64) -> usize {
    usize::try_from(after - before).unwrap_or(usize::MAX)
}

/// Envoy's `DeclarePropertyArguments`.
#[derive(Clone, PartialEq, prost::Message)]
struct DeclarePropertyArguments {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bool, tag = "2")]
    read_only: bool,
    #[prost(int32, tag = "3")]
    value_type: i32,
    #[prost(bytes = "vec", tag = "4")]
    schema: Vec<u8>,
    #[prost(int32, tag = "5")]
    span: i32,
}

fn declare_property(state: &mut VmState, arguments: &[u8], _: &mut Vec<u8>) -> Result<(), Error> {
    /// What one plugin context may declare: a guest must not grow the host without bound.
    const NAMES: usize = 1024;
    const NAME: usize = 1024;
    let declared: DeclarePropertyArguments = decode(arguments)?;
    let root = state.root_mut().ok_or_else(|| Error::BadArgument("no plugin context"))?;
    let name = super::properties::trim(declared.name.as_bytes());
    let known = &mut root.own_mut().declared;
    if name.is_empty() || name.len() > NAME || known.len() >= NAMES {
        return Err(Error::BadArgument("a property's name has 1 to 1,024 bytes, and a plugin 1,024 properties"));
    }
    if known.contains_key(name) {
        return Err(Error::BadArgument("the property is declared already"));
    }
    known.insert(name.into(), declared.read_only);
    Ok(())
}

/// Reads a protobuf message.
///
/// # Errors
/// [`Error::BadArgument`], as Envoy.
pub(super) fn decode<M: prost::Message + Default>(bytes: &[u8]) -> Result<M, Error> {
    M::decode(bytes).map_err(|_| Error::BadArgument("these are not the function's arguments as a protobuf message"))
}

fn header_values(state: &mut VmState, arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let (map, name) = arguments.split_first_chunk().ok_or_else(|| Error::BadArgument("a map in four bytes"))?;
    let map = MapType::from_wire(i32::from_le_bytes(*map)).ok_or_else(|| Error::BadArgument("map"))?;
    let mut values: Vec<Vec<u8>> = Vec::new();
    let visited = state.stream_mut().and_then(|host| match PseudoHeader::find(map, name) {
        Some(pseudo) => {
            let mut value = Vec::new();
            host.pseudo_header(pseudo, &mut value)?;
            values.push(value);
            Ok(())
        }
        None => host.headers(map, &mut |field, value| {
            if field.eq_ignore_ascii_case(name) {
                values.push(value.to_vec());
            }
        }),
    });
    match visited {
        // A map that is not there has no fields. "Not found" stays for hosts without this function.
        Ok(()) | Err(Error::NotFound) => {}
        Err(error) => return Err(error),
    }
    let name = name.to_ascii_lowercase();
    pairs::encode(values.iter().map(|value| (name.as_slice(), value.as_slice())), out)
}

#[cfg(test)]
#[path = "foreign_tests.rs"]
mod tests;

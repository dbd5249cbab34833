//! `sign` and `verify_signature`: Envoy's messages, ring's cryptography.

use prost::Message;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};

use crate::error::Error;
use crate::state::VmState;

use super::foreign::decode;

/// Envoy's `VerifySignatureArguments`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VerifyArguments {
    #[prost(string, tag = "1")]
    pub(super) hash_function: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) public_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) signature: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) text: Vec<u8>,
    #[prost(string, tag = "5")]
    pub(super) public_key_pem: String,
}

/// Envoy's `VerifySignatureResult`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct VerifyResult {
    #[prost(bool, tag = "1")]
    pub(super) result: bool,
    #[prost(string, tag = "2")]
    pub(super) error: String,
}

/// Envoy's `SignArguments`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SignArguments {
    #[prost(string, tag = "1")]
    pub(super) hash_function: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) private_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) text: Vec<u8>,
    #[prost(string, tag = "4")]
    pub(super) private_key_pem: String,
}

/// Envoy's `SignResult`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SignResult {
    #[prost(bool, tag = "1")]
    pub(super) result: bool,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) signature: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) error: String,
}

/// What kind of key somebody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
}

const NO_KEY: Error = Error::BadArgument("one key, in DER or in PEM");

/// Neither the function's fault nor the host's: the filter reads why in the result.
fn unsupported(hash: &str) -> String {
    format!("{hash} is not supported.")
}

pub(super) fn verify(_: &mut VmState, arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let arguments: VerifyArguments = decode(arguments)?;
    let der = match (arguments.public_key.as_slice(), arguments.public_key_pem.as_bytes()) {
        ([], []) | ([_, ..], [_, ..]) => return Err(NO_KEY),
        (der, []) => SubjectPublicKeyInfoDer::from(der),
        ([], pem) => SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| NO_KEY)?,
    };
    let (kind, key) = public_key(&der).ok_or(NO_KEY)?;
    let result = match verification(kind, &arguments.hash_function) {
        None => VerifyResult { result: false, error: unsupported(&arguments.hash_function) },
        Some(algorithm) => {
            let key = UnparsedPublicKey::new(algorithm, key);
            match key.verify(&arguments.text, &arguments.signature) {
                Ok(()) => VerifyResult { result: true, error: String::new() },
                Err(_) => VerifyResult { result: false, error: "Failed to verify digest.".to_owned() },
            }
        }
    };
    result.encode(out).map_err(|_| Error::TooLarge("result"))
}

/// What a filter verifies, and with how short a key, is its own affair: hence the legacy algorithms.
fn verification(kind: Kind, hash: &str) -> Option<&'static dyn VerificationAlgorithm> {
    match (kind, hash.to_ascii_lowercase().as_str()) {
        (Kind::Rsa, "sha1") => Some(&signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY),
        (Kind::Rsa, "sha256") => Some(&signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY),
        (Kind::Rsa, "sha384") => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
        (Kind::Rsa, "sha512") => Some(&signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY),
        (Kind::P256, "sha256") => Some(&signature::ECDSA_P256_SHA256_ASN1),
        (Kind::P256, "sha384") => Some(&signature::ECDSA_P256_SHA384_ASN1),
        (Kind::P384, "sha256") => Some(&signature::ECDSA_P384_SHA256_ASN1),
        (Kind::P384, "sha384") => Some(&signature::ECDSA_P384_SHA384_ASN1),
        _ => None,
    }
}

/// A private key that ring has read.
enum PrivateKey {
    Rsa(Box<RsaKeyPair>),
    Ec(Kind, Box<EcdsaKeyPair>),
}

pub(super) fn sign(_: &mut VmState, arguments: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
    let arguments: SignArguments = decode(arguments)?;
    let der = match (arguments.private_key.as_slice(), arguments.private_key_pem.as_bytes()) {
        ([], []) | ([_, ..], [_, ..]) => return Err(NO_KEY),
        (der, []) => PrivateKeyDer::try_from(der).map_err(|_| NO_KEY)?,
        ([], pem) => PrivateKeyDer::from_pem_slice(pem).map_err(|_| NO_KEY)?,
    };
    let random = SystemRandom::new();
    let key = private_key(&der, &random).ok_or(NO_KEY)?;
    let hash = arguments.hash_function.to_ascii_lowercase();
    let signed = match (&key, hash.as_str()) {
        (PrivateKey::Rsa(key), "sha256" | "sha384" | "sha512") => {
            let padding: &dyn signature::RsaEncoding = match hash.as_str() {
                "sha256" => &signature::RSA_PKCS1_SHA256,
                "sha384" => &signature::RSA_PKCS1_SHA384,
                _ => &signature::RSA_PKCS1_SHA512,
            };
            let mut signature = vec![0; key.public().modulus_len()];
            key.sign(padding, &random, &arguments.text, &mut signature).map(|()| signature).map_err(|_| None)
        }
        (PrivateKey::Ec(Kind::P256, key), "sha256") | (PrivateKey::Ec(Kind::P384, key), "sha384") => {
            key.sign(&random, &arguments.text).map(|signature| signature.as_ref().to_vec()).map_err(|_| None)
        }
        _ => Err(Some(unsupported(&arguments.hash_function))),
    };
    let result = match signed {
        Ok(signature) => SignResult { result: true, signature, error: String::new() },
        Err(error) => SignResult {
            result: false,
            signature: Vec::new(),
            error: error.unwrap_or_else(|| "Failed to sign.".to_owned()),
        },
    };
    result.encode(out).map_err(|_| Error::TooLarge("result"))
}

fn private_key(der: &PrivateKeyDer<'_>, random: &SystemRandom) -> Option<PrivateKey> {
    match der {
        PrivateKeyDer::Pkcs1(der) => {
            Some(PrivateKey::Rsa(Box::new(RsaKeyPair::from_der(der.secret_pkcs1_der()).ok()?)))
        }
        PrivateKeyDer::Pkcs8(der) => {
            let der = der.secret_pkcs8_der();
            let on =
                |kind, curve| Some(PrivateKey::Ec(kind, Box::new(EcdsaKeyPair::from_pkcs8(curve, der, random).ok()?)));
            on(Kind::P256, &signature::ECDSA_P256_SHA256_ASN1_SIGNING)
                .or_else(|| on(Kind::P384, &signature::ECDSA_P384_SHA384_ASN1_SIGNING))
                .or_else(|| Some(PrivateKey::Rsa(Box::new(RsaKeyPair::from_pkcs8(der).ok()?))))
        }
        _ => None,
    }
}

/// The kind of a SubjectPublicKeyInfo and the key in it, as ring wants it: of RSA the `RSAPublicKey`, else the point.
fn public_key(der: &[u8]) -> Option<(Kind, &[u8])> {
    const SEQUENCE: u8 = 0x30;
    const OBJECT_ID: u8 = 0x06;
    const BIT_STRING: u8 = 0x03;
    const RSA: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 1, 1, 1];
    const EC: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 2, 1];
    const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7];
    const P384: &[u8] = &[0x2B, 0x81, 4, 0, 0x22];
    let (info, []) = element(der, SEQUENCE)? else { return None };
    let (algorithm, info) = element(info, SEQUENCE)?;
    let (algorithm, parameters) = element(algorithm, OBJECT_ID)?;
    let kind = match algorithm {
        RSA => Kind::Rsa,
        EC => match element(parameters, OBJECT_ID)?.0 {
            P256 => Kind::P256,
            P384 => Kind::P384,
            _ => return None,
        },
        _ => return None,
    };
    let (bits, []) = element(info, BIT_STRING)? else { return None };
    // Before the bits, how many of the last byte are unused.
    bits.strip_prefix(&[0]).map(|key| (kind, key))
}

/// The DER element with this tag that `input` begins with: its content, and what follows it.
fn element(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = input.split_first()?;
    if found != tag {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return rest.split_at_checked(usize::from(first));
    }
    // More than four bytes of length are no key's.
    let count = usize::from(first & 0x7F);
    let (length, rest) = rest.split_at_checked(count).filter(|_| (1..=4).contains(&count))?;
    rest.split_at_checked(length.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)))
}

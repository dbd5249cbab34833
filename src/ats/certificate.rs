//! What is said of a certificate: as Envoy says it, which is as OpenSSL does.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::Tag;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Names of attributes that OpenSSL has short names for; any other is written as its number.
const ATTRIBUTES: [(&str, &str); 25] = [
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
];

/// The subject, in the form of RFC 2253: most specific part first. `None` if `der` is no certificate.
#[must_use]
pub fn subject(der: &[u8]) -> Option<String> {
    with(der, |certificate| Some(rfc2253(certificate.subject())))
}

/// The first DNS name among the alternative names.
#[must_use]
pub fn dns_name(der: &[u8]) -> Option<String> {
    alternative(der, |name| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    })
}

/// The first URI among the alternative names.
#[must_use]
pub fn uri(der: &[u8]) -> Option<String> {
    alternative(der, |name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// The SHA-256 of the certificate, in small hexadecimal digits.
#[must_use]
pub fn sha256(der: &[u8]) -> String {
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(der) {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The certificate in PEM, percent-encoded.
#[must_use]
pub fn url_encoded_pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN%20CERTIFICATE-----%0A");
    // 48 bytes are a line of 64 digits.
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let word =
                three.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
            for place in 0..4 {
                match DIGITS[word >> (18 - 6 * place) & 63] {
                    _ if place > three.len() => text.push_str("%3D"),
                    b'+' => text.push_str("%2B"),
                    b'/' => text.push_str("%2F"),
                    digit => text.push(char::from(digit)),
                }
            }
        }
        text.push_str("%0A");
    }
    text.push_str("-----END%20CERTIFICATE-----%0A");
    text
}

fn with<R>(der: &[u8], read: impl FnOnce(&X509Certificate<'_>) -> Option<R>) -> Option<R> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    read(&certificate)
}

fn alternative(der: &[u8], pick: impl Fn(&GeneralName<'_>) -> Option<String>) -> Option<String> {
    with(der, |certificate| {
        let names = certificate.subject_alternative_name().ok()??;
        names.value.general_names.iter().find_map(pick)
    })
}

fn rfc2253(name: &X509Name<'_>) -> String {
    let mut text = String::new();
    let parts: Vec<Vec<&AttributeTypeAndValue<'_>>> = name.iter_rdn().map(|part| part.iter().collect()).collect();
    for part in parts.iter().rev() {
        for (index, attribute) in part.iter().rev().enumerate() {
            if !text.is_empty() {
                text.push(if index == 0 { ',' } else { '+' });
            }
            write_attribute(attribute, &mut text);
        }
    }
    text
}

fn write_attribute(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let number = attribute.attr_type().to_id_string();
    let known = ATTRIBUTES.iter().find(|(id, _)| *id == number).map(|(_, name)| *name);
    text.push_str(known.unwrap_or(&number));
    text.push('=');
    let value = attribute.attr_value();
    let bytes = value.data;
    let string = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            Some(bytes.to_vec())
        }
        Tag::T61String => Some(bytes.iter().map(|byte| char::from(*byte)).collect::<String>().into_bytes()),
        Tag::BmpString => {
            let units = bytes.chunks_exact(2).map(|two| u16::from_be_bytes([two[0], two[1]]));
            Some(char::decode_utf16(units).map(|c| c.unwrap_or('\u{fffd}')).collect::<String>().into_bytes())
        }
        _ => None,
    };
    match string {
        Some(string) if known.is_some() => escape(&string, text),
        _ => dump(value.tag().0, bytes, text),
    }
}

/// A string with what would end it or mislead a reader escaped: as `ASN1_STRFLGS_RFC2253` has it.
fn escape(string: &[u8], text: &mut String) {
    let last = string.len().wrapping_sub(1);
    for (at, byte) in string.iter().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(*byte));
            }
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b'#' if at == 0 => text.push_str("\\#"),
            b' '..=b'~' => text.push(char::from(*byte)),
            byte => {
                let _ = write!(text, "\\{byte:02X}");
            }
        }
    }
}

/// A value that is no string, or of an attribute without a name: its DER.
fn dump(tag: u32, bytes: &[u8], text: &mut String) {
    let _ = write!(text, "#{tag:02X}");
    match bytes.len() {
        len @ 0..0x80 => {
            let _ = write!(text, "{len:02X}");
        }
        len => {
            let length = len.to_be_bytes();
            let digits = &length[length.iter().position(|byte| *byte != 0).unwrap_or(0)..];
            let _ = write!(text, "{:02X}", 0x80 | digits.len());
            for byte in digits {
                let _ = write!(text, "{byte:02X}");
            }
        }
    }
    for byte in bytes {
        let _ = write!(text, "{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_says_nothing() {
        for der in [&b""[..], b"\x30", b"\x30\x82\xff\xff", &[0x30; 100]] {
            assert_eq!((subject(der), dns_name(der), uri(der)), (None, None, None));
        }
    }

    #[test]
    fn strings_are_escaped_as_openssl_does() {
        for (string, escaped) in [
            ("plain text", "plain text"),
            ("a,b+c\"d\\e<f>g;h", "a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h"),
            (" # ", "\\ #\\ "),
            ("#1 #2", "\\#1 #2"),
            ("Ü\n", "\\C3\\9C\\0A"),
            (" ", "\\ "),
            ("", ""),
        ] {
            let mut text = String::new();
            escape(string.as_bytes(), &mut text);
            assert_eq!(text, escaped);
        }
    }

    #[test]
    fn other_values_are_dumped() {
        for (bytes, dumped) in [(&b"abc"[..], "#0C03616263"), (b"", "#0C00")] {
            let mut text = String::new();
            dump(0x0c, bytes, &mut text);
            assert_eq!(text, dumped);
        }
        let mut text = String::new();
        dump(0x0c, &[0; 300], &mut text);
        assert!(text.starts_with("#0C82012C0000"), "{text}");
    }

    #[test]
    fn pem_is_percent_encoded() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        let body = |der: &[u8]| {
            let pem = url_encoded_pem(der);
            let pem = pem.strip_prefix("-----BEGIN%20CERTIFICATE-----%0A").expect("a head").to_owned();
            pem.strip_suffix("-----END%20CERTIFICATE-----%0A").expect("an end").to_owned()
        };
        assert_eq!(body(b""), "");
        assert_eq!(body(b"f"), "Zg%3D%3D%0A");
        assert_eq!(body(b"fo"), "Zm8%3D%0A");
        assert_eq!(body(b"foo"), "Zm9v%0A");
        assert_eq!(body(&[0xfb, 0xff, 0xfe]), "%2B%2F%2F%2B%0A");
        assert_eq!(body(&[0; 49]), format!("{}%0AAA%3D%3D%0A", "A".repeat(64)));
    }
}

//! gRPC's statuses, where the server gives none: from HTTP's status and from HTTP/2's error codes.

use std::time::Duration;

use h2::Reason;
use http::{HeaderMap, StatusCode};

pub(super) const OK: u32 = 0;
pub(super) const CANCELLED: u32 = 1;
pub(super) const UNKNOWN: u32 = 2;
pub(super) const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const PERMISSION_DENIED: u32 = 7;
pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
pub(super) const UNIMPLEMENTED: u32 = 12;
pub(super) const INTERNAL: u32 = 13;
pub(super) const UNAVAILABLE: u32 = 14;
pub(super) const UNAUTHENTICATED: u32 = 16;

/// For a response that says nothing of gRPC, such as a gateway's.
pub(super) fn of_http(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 => UNIMPLEMENTED,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// For a stream or a connection that broke off.
pub(super) fn of_h2(error: &h2::Error) -> u32 {
    let Some(reason) = error.reason() else { return UNAVAILABLE };
    match reason {
        Reason::REFUSED_STREAM => UNAVAILABLE,
        Reason::CANCEL => CANCELLED,
        Reason::ENHANCE_YOUR_CALM => RESOURCE_EXHAUSTED,
        Reason::INADEQUATE_SECURITY => PERMISSION_DENIED,
        // A connection that ends in good order takes its streams along.
        Reason::NO_ERROR if error.is_go_away() => UNAVAILABLE,
        _ => INTERNAL,
    }
}

/// The status and the message in a server's trailers.
pub(super) fn of_trailers(trailers: &HeaderMap) -> Option<(u32, String)> {
    let status = trailers.get("grpc-status")?;
    let number = status.to_str().ok().and_then(|text| text.trim().parse().ok());
    let message = trailers.get("grpc-message").map(|value| decode(value.as_bytes())).unwrap_or_default();
    Some(match number {
        Some(number) => (number, message),
        None => (UNKNOWN, format!("the grpc-status {status:?} is no number")),
    })
}

/// Percent-encoding undone. What is wrongly encoded is left as it is, as gRPC says.
fn decode(value: &[u8]) -> String {
    let hex = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(&byte) = value.get(at) {
        match (byte, hex(value.get(at + 1)), hex(value.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                bytes.push((high * 16 + low) as u8);
                at += 3;
            }
            _ => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The value of `grpc-timeout`: at most eight digits and a unit.
pub(super) fn timeout(left: Duration) -> String {
    const MOST: u128 = 99_999_999;
    match (left.as_micros(), left.as_millis(), left.as_secs()) {
        (micros, ..) if micros <= MOST => format!("{micros}u"),
        (_, millis, _) if millis <= MOST => format!("{millis}m"),
        (.., seconds) => format!("{}S", u128::from(seconds).min(MOST)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_decoded() {
        for (encoded, decoded) in [
            ("", ""),
            ("plain", "plain"),
            ("a%20b%25", "a b%"),
            ("gr%C3%BC%c3%9f", "grüß"),
            ("100% sure%2", "100% sure%2"),
            ("%zz%FF", "%zz\u{fffd}"),
        ] {
            assert_eq!(decode(encoded.as_bytes()), decoded);
        }
    }

    #[test]
    fn timeouts_have_eight_digits() {
        assert_eq!(timeout(Duration::from_millis(250)), "250000u");
        assert_eq!(timeout(Duration::from_secs(120)), "120000m");
        assert_eq!(timeout(Duration::from_secs(200_000)), "200000S");
        assert_eq!(timeout(Duration::MAX), "99999999S");
    }

    #[test]
    fn http_statuses_map_as_grpc_says() {
        let expected =
            [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14), (418, 2)];
        for (http, grpc) in expected {
            assert_eq!(of_http(StatusCode::from_u16(http).expect("a status")), grpc);
        }
    }
}

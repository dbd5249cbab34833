//! Query parameters and cookies, by name.

use smallvec::SmallVec;

use super::path::{decode, unescaped};

/// Shows the values of the parameters of this name, decoded, until `visit` says that it is enough.
///
/// `name=value` between '&'; without '=' the value is empty. Names and values are decoded: %-escapes, and '+' for a
/// blank.
pub(super) fn query(query: &[u8], name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    query.split(|byte| *byte == b'&').any(|parameter| {
        // Between two '&', and where there is no query at all, is nothing.
        if parameter.is_empty() {
            return false;
        }
        let (own, value) = halves(parameter);
        if !is(own, name.as_bytes()) {
            return false;
        }
        if !value.iter().any(|byte| matches!(byte, b'%' | b'+')) {
            return visit(value);
        }
        let mut decoded = SmallVec::<[u8; 256]>::from_slice(value);
        decode(&mut decoded, true);
        visit(&decoded)
    })
}

/// Whether the name, once it is decoded, is this one.
fn is(mut encoded: &[u8], name: &[u8]) -> bool {
    for wanted in name {
        if encoded.is_empty() {
            return false;
        }
        let (byte, length) = unescaped(encoded, true);
        if byte != *wanted {
            return false;
        }
        encoded = &encoded[length..];
    }
    encoded.is_empty()
}

/// Shows the values of the cookies of this name in one field, as they stand there, until `visit` says that it is enough.
pub(super) fn cookies(field: &[u8], name: &str, visit: &mut dyn FnMut(&[u8]) -> bool) -> bool {
    field.split(|byte| *byte == b';').any(|pair| {
        let (own, value) = halves(pair);
        own.trim_ascii() == name.as_bytes() && visit(value.trim_ascii())
    })
}

/// What stands before the first '=', and behind it.
fn halves(pair: &[u8]) -> (&[u8], &[u8]) {
    match pair.iter().position(|byte| *byte == b'=') {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(visit: impl FnOnce(&mut dyn FnMut(&[u8]) -> bool) -> bool) -> Vec<String> {
        let mut values = Vec::new();
        assert!(!visit(&mut |value| {
            values.push(String::from_utf8_lossy(value).into_owned());
            false
        }));
        values
    }

    #[test]
    fn parameters_are_decoded() {
        let text = b"a=1&b=x%20y+z&&a&%61=%32&ab=3&a=b=c&%zz=4&=5";
        let values = |name: &str| all(|visit| query(text, name, visit));
        assert_eq!(values("a"), ["1", "", "2", "b=c"]);
        assert_eq!(values("b"), ["x y z"]);
        assert_eq!(values("%zz"), ["4"]);
        assert_eq!(values("c"), [""; 0]);
        assert!(all(|visit| query(b"", "", visit)).is_empty());
        assert!(query(text, "a", &mut |value| value.is_empty()));
    }

    #[test]
    fn cookies_stand_as_they_are() {
        let text = b"a=1; b=\"x y\" ;a = %32;c";
        let values = |name: &str| all(|visit| cookies(text, name, visit));
        assert_eq!(values("a"), ["1", "%32"]);
        assert_eq!(values("b"), ["\"x y\""]);
        assert_eq!(values("c"), [""]);
        assert_eq!(values("A"), [""; 0]);
    }
}

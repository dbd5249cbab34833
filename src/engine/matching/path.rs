//! A path in its plain form: what is compared.
//!
//! Two ways to write a path that lead to the same place must be the same path here, or whoever is not to be seen
//! writes it the other way. So it is what nginx compares its locations with: %-escapes are decoded once, that of '/'
//! too; runs of '/' are one; '.' and '..' are gone through, and '..' of the root is the root. Escapes that are none
//! stay. What the origin gets is not touched.

use smallvec::SmallVec;

/// Paths up to this length need no allocation.
pub(super) type Plain = SmallVec<[u8; 512]>;

/// Puts the pieces of a path together in `path`, which is empty, and gives it its plain form.
pub(super) fn put_plain(pieces: [&[u8]; 4], path: &mut Plain) {
    for piece in pieces {
        if !piece.is_empty() {
            path.extend_from_slice(piece);
        }
    }
    // One look tells of most paths that they are plain.
    let mut before = 0;
    let (mut encoded, mut special) = (false, false);
    for &byte in path.iter() {
        encoded |= byte == b'%';
        special |= before == b'/' && matches!(byte, b'/' | b'.');
        before = byte;
    }
    if encoded {
        decode(path, false);
    }
    if encoded || special {
        let len = walk(path);
        path.truncate(len);
    }
}

/// Whether what stands behind the first '/' of a path has nothing that [`put_plain`] would change.
pub(super) fn is_plain(rest: &[u8]) -> bool {
    let mut before = b'/';
    for &byte in rest {
        // Letters and digits come behind these three.
        if byte <= b'/' && (byte == b'%' || before == b'/' && matches!(byte, b'/' | b'.')) {
            return false;
        }
        before = byte;
    }
    true
}

/// [`put_plain`], for who is in no hurry.
pub(super) fn plain(pieces: [&[u8]; 4]) -> Plain {
    let mut path = Plain::new();
    put_plain(pieces, &mut path);
    path
}

/// Decodes the %-escapes of a text in its place; with `form`, '+' is a blank.
pub(super) fn decode<A: smallvec::Array<Item = u8>>(text: &mut SmallVec<A>, form: bool) {
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let (byte, length) = unescaped(&text[from..], form);
        text[to] = byte;
        from += length;
        to += 1;
    }
    text.truncate(to);
}

/// The first byte of a text, its escape decoded, and how many bytes that takes. The text is not empty.
pub(super) fn unescaped(text: &[u8], form: bool) -> (u8, usize) {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16)).map(|digit| digit as u8);
    match text[0] {
        b'%' => match (digit(1), digit(2)) {
            (Some(high), Some(low)) => (high << 4 | low, 3),
            _ => (b'%', 1),
        },
        b'+' if form => (b' ', 1),
        byte => (byte, 1),
    }
}

/// Goes through the segments in their place. The path begins with '/'. What is written never overtakes what is read.
fn walk(path: &mut [u8]) -> usize {
    let mut from = 1;
    // Behind the last '/' that was written.
    let mut to = 1;
    while from < path.len() {
        let end = path[from..].iter().position(|byte| *byte == b'/').map_or(path.len(), |at| from + at);
        match &path[from..end] {
            b"" | b"." => {}
            b".." => to = path[..to - 1].iter().rposition(|byte| *byte == b'/').map_or(1, |at| at + 1),
            segment => {
                let length = segment.len();
                path.copy_within(from..end, to);
                to += length;
                if end < path.len() {
                    path[to] = b'/';
                    to += 1;
                }
            }
        }
        from = end + 1;
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_to_the_same_place_are_the_same() {
        for (path, expected) in [
            ("/", "/"),
            ("/admin", "/admin"),
            ("/%61dmin", "/admin"),
            ("/%61%64%6D%69%6e", "/admin"),
            ("//admin", "/admin"),
            ("/a//b///", "/a/b/"),
            ("/./admin", "/admin"),
            ("/%2e/admin", "/admin"),
            ("/x/../admin", "/admin"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/x/..%2fadmin", "/admin"),
            ("/public%2F..%2Fadmin", "/admin"),
            ("/../../admin", "/admin"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/..", "/"),
            ("/..", "/"),
            ("/.", "/"),
            ("//", "/"),
            ("/...", "/..."),
            ("/.a/..b/c..", "/.a/..b/c.."),
            // Once: what is encoded twice is another path.
            ("/%2561dmin", "/%61dmin"),
            ("/%zz%4", "/%zz%4"),
            ("/%", "/%"),
            ("/a+b", "/a+b"),
            ("/a;b", "/a;b"),
        ] {
            assert_eq!(&plain([path.as_bytes(), b"", b"", b""])[..], expected.as_bytes(), "{path}");
            assert!(!is_plain(&path.as_bytes()[1..]) || path == expected, "{path}");
        }
        assert!(is_plain(b"") && is_plain(b"a/b.c/d..") && is_plain(b"a;b/"));
        assert_eq!(&plain([b"/", b"a/%2e", b";", b"./b"])[..], b"/a/.;./b");
        assert_eq!(&plain([b"/", b"%ff%00%0a", b"", b""])[..], b"/\xff\0\n");
    }

    proptest::proptest! {
        #[test]
        fn plain_paths_stay_plain(text in "(/|\\.|\\.\\.|a|%2e|%2F|%41){0,12}") {
            let path = format!("/{text}");
            let once = plain([path.as_bytes(), b"", b"", b""]);
            proptest::prop_assert_eq!(once[0], b'/');
            proptest::prop_assert!(!once.windows(2).any(|two| two == b"//"));
            let twice = plain([&once, b"", b"", b""]);
            proptest::prop_assert_eq!(twice, once);
        }
    }
}

//! Transactions with a response body, by its size and by what the filter does with it.

use std::sync::Arc;

use engine::{At, BodyBuffer, Side, Stream, Verdict};

use super::guests::module;
use super::host::{Chunk, Host};
use super::{Case, Group};

/// Bodies, as a size for people, the size of a chunk, and how many of them.
pub(crate) const SIZES: [(&str, usize, usize); 4] =
    [("1 KiB", 1 << 10, 1), ("10 KiB", 10 << 10, 1), ("100 KiB", 25 << 10, 4), ("1 MiB", 32 << 10, 32)];

/// What filters do with each chunk, `$size` bytes.
pub(crate) const DEEDS: [(&str, &str); 3] = [("passed", ""), ("read", READ), ("rewritten", REWRITE)];

const READ: &str =
    "(if (call $proxy_get_buffer_bytes (i32.const 1) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20))
      (then unreachable))";

const REWRITE: &str =
    "(if (call $proxy_get_buffer_bytes (i32.const 1) (i32.const 0) (local.get $size) (i32.const 16) (i32.const 20))
      (then unreachable))
    (i32.store8 (i32.load (i32.const 16)) (i32.const 88))
    (if (call $proxy_set_buffer_bytes (i32.const 1) (i32.const 0) (local.get $size)
          (i32.load (i32.const 16)) (i32.load (i32.const 20)))
      (then unreachable))";

/// The name of a case.
pub(crate) fn name(size: &str, deed: &str) -> String {
    format!("a body of {size}, {deed}")
}

fn case((size, chunk, chunks): (&str, usize, usize), deed: &'static str, code: &'static str) -> Case {
    let rewritten = deed == "rewritten";
    Case::new(Group::Bodies, name(size, deed), move |bed| {
        let callback = format!(
            r#"(func (export "proxy_on_response_body") (param i32) (param $size i32) (param i32) (result i32)
    {code} (i32.const 0))"#
        );
        let chain = bed.text(deed, &module(&callback));
        // The host's bytes go round: what has passed is given again.
        let mut bytes: Option<Box<dyn BodyBuffer>> = Some(Box::new(Chunk(vec![b'x'; chunk])));
        move |runs| {
            for _ in 0..runs {
                let mut stream = Stream::new(Arc::clone(&chain), 0, Box::new(Host));
                assert_eq!(stream.request_headers(true), Verdict::Continue);
                assert_eq!(stream.response_headers(At::Client, false), Verdict::Continue);
                for left in (0..chunks).rev() {
                    assert_eq!(stream.body(Side::Response, bytes.take(), left == 0), Verdict::Continue);
                    let passed = stream.take_body(Side::Response);
                    let size = passed.bytes.as_ref().map(|bytes| bytes.len());
                    assert_eq!((size, passed.end), (Some(chunk), left == 0));
                    bytes = passed.bytes;
                }
                assert_eq!(stream.changed_body(Side::Response), rewritten);
                stream.finish();
            }
        }
    })
}

pub(crate) fn cases() -> Vec<Case> {
    DEEDS.iter().flat_map(|&(deed, code)| SIZES.map(|size| case(size, deed, code))).collect()
}

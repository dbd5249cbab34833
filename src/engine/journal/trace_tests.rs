use super::*;
use crate::abi::Callback;
use crate::error::TrapKind;

fn frame(function: u32, offset: u32) -> Frame {
    Frame { function, offset, module_offset: None, name: None }
}

fn trap(kind: TrapKind, backtrace: &[Frame]) -> Trap {
    Trap {
        callback: Callback::RequestHeaders,
        kind,
        reason: String::new(),
        limit: None,
        spent: std::time::Duration::ZERO,
        backtrace: backtrace.to_vec(),
    }
}

#[test]
fn names_are_as_their_authors_wrote_them() {
    for (name, expected) in [
        ("_ZN4core9panicking9panic_fmt17h0123456789abcdefE", "core::panicking::panic_fmt"),
        ("_RNvCs1234_7mycrate3foo", "mycrate::foo"),
        ("_ZN4auth5TokenC2ERKSs", "auth::Token::Token"),
        ("_ZNK3foo3barINS_3bazEEEvT_", "foo::bar<foo::baz>"),
        ("malloc", "malloc"),
        ("_Z", "_Z"),
    ] {
        assert_eq!(demangled(name), expected);
    }
    assert_eq!(frame(7, 0).to_string(), "function 7");
}

#[test]
fn a_trap_is_known_again_by_its_place() {
    let of = |digest: u8, trap: &Trap| Fingerprint::of(Digest([digest; 32]), trap);
    let frames = [frame(1, 2), frame(3, 4)];
    let base = of(0, &trap(TrapKind::Guest, &frames));
    assert_eq!(of(0, &trap(TrapKind::Guest, &frames)), base);
    let others = [
        of(1, &trap(TrapKind::Guest, &frames)),
        of(0, &trap(TrapKind::Exit(1), &frames)),
        of(0, &trap(TrapKind::Guest, &[frame(1, 3), frame(3, 4)])),
        of(0, &trap(TrapKind::Guest, &frames[..1])),
        of(0, &Trap { callback: Callback::Done, ..trap(TrapKind::Guest, &frames) }),
    ];
    assert!(others.iter().all(|other| *other != base));
    // A loop is interrupted somewhere, and a recursion ends at some depth.
    let deadline = |offset| of(0, &trap(TrapKind::Deadline, &[frame(9, offset), frame(1, offset), frame(3, 4)]));
    assert_eq!(deadline(1), deadline(2));
    let deep = |depth: usize| {
        let frames = [&vec![frame(9, 1); depth][..], &[frame(1, 1), frame(3, 4)]].concat();
        of(0, &trap(TrapKind::StackOverflow, &frames))
    };
    assert_eq!(deep(3), deep(17));
    assert_eq!(base.to_string().len(), 8);
}

#[test]
fn without_source_lines_there_are_names() {
    let named = Frame { name: Some("_ZN1a1bE".to_owned()), ..frame(1, 1) };
    assert_eq!(describe(Digest([9; 32]), &[named, frame(2, 2)]), "a::b < function 2");
    assert_eq!(describe(Digest([9; 32]), &[]), "");
}

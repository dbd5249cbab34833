//! Placeholder
#[test]
fn x() {}

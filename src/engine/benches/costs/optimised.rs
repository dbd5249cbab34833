//! Whether this is the build whose figures count.

use std::collections::BTreeSet;

/// # Errors
/// What to do, if the engine was built otherwise than Cargo.toml says.
pub(crate) fn require() -> Result<(), String> {
    let level = env!("WASM_REMAP_OPT_LEVEL");
    let units = code_generation_units();
    if level == "3" && units <= 1 && !cfg!(debug_assertions) {
        return Ok(());
    }
    Err(format!(
        "this build of the engine (opt-level {level}, {units} codegen units) is not the one of Cargo.toml's release profile \
         (3, 1): take overrides out of .cargo/config.toml and the environment, and run it by `cargo bench --workspace`"
    ))
}

/// Of how many units the engine was made: line tables name them. None is found where there are no line tables.
fn code_generation_units() -> usize {
    const MARK: &[u8] = b"lib.rs/@/engine.";
    let program = std::env::current_exe().and_then(std::fs::read).unwrap_or_default();
    let mut units = BTreeSet::new();
    let mut rest = &program[..];
    while let Some(at) = rest.windows(MARK.len()).position(|window| window == MARK) {
        rest = &rest[at + MARK.len()..];
        let end = rest.iter().take(64).position(|&byte| byte == 0).unwrap_or(0);
        if let Ok(name) = std::str::from_utf8(&rest[..end])
            && let Some((_, unit)) = name.split_once("-cgu.")
        {
            units.insert(unit.to_owned());
        }
    }
    units.len()
}

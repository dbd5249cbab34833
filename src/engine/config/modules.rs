//! The key `modules`: names for modules that several filters use.

use std::collections::BTreeMap;
use std::path::Path;

use super::code::RawModule;
use super::suggest;

/// The names of a file.
pub(super) type Modules = BTreeMap<String, RawModule>;

/// What a filter's `module` means: the entry of `modules` that has this name, else itself.
///
/// # Errors
/// What looks like a name, is none, and is no file either: the message, and the name that was probably meant.
pub(super) fn resolve(
    module: RawModule,
    modules: &Modules,
    home: &Path,
) -> Result<RawModule, (String, Option<String>)> {
    let Some(text) = module.text() else { return Ok(module) };
    if let Some(named) = modules.get(text) {
        return Ok(named.clone());
    }
    if modules.is_empty() || text.contains('/') || text.ends_with(".wasm") || home.join(text).is_file() {
        return Ok(module);
    }
    let names = || modules.keys().map(String::as_str);
    let known = names().collect::<Vec<_>>().join(", ");
    let message = format!("'{text}' is neither a name of 'modules' ({known}) nor a file");
    Err((message, suggest::nearest(text, names()).map(str::to_owned)))
}

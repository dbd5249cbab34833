//! The JSON Schema of filter files, for editors; generated from the types that files are read into.

use schemars::generate::SchemaSettings;
use serde_json::Value;

use super::RawFile;

/// The JSON Schema (draft 7) of a filter file in our own spelling.
#[must_use]
pub fn schema() -> Value {
    let schema = SchemaSettings::draft07().into_generator().into_root_schema_for::<RawFile>();
    let mut schema = schema.to_value();
    tidy(&mut schema);
    if let Some(root) = schema.as_object_mut() {
        root.insert("title".to_owned(), "A filter file of wasm_remap.so".into());
    }
    schema
}

/// A key is absent or has a value, so nothing is ever null; and Rust's names of numbers say nothing to an editor.
fn tidy(node: &mut Value) {
    match node {
        Value::Object(object) => {
            object.remove("format");
            if object.get("default").is_some_and(Value::is_null) {
                object.remove("default");
            }
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|ty| ty != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    object.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
                choices.retain(|choice| choice["type"] != "null");
                if let [only] = choices.as_slice() {
                    // Beside others, draft 7 does not look at `$ref`.
                    let only = Value::Array(vec![only.clone()]);
                    object.remove("anyOf");
                    object.insert("allOf".to_owned(), only);
                }
            }
            object.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

#[cfg(test)]
#[path = "schema_test.rs"]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;

/// What the schema has against a value: as much of JSON Schema as ours uses, and a panic at what is new.
fn objections(root: &Value, node: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    let Value::Object(node) = node else {
        assert_eq!(node, true, "{place}: a schema is a mapping or 'true'");
        return;
    };
    let mut object = |text: String| found.push(format!("{place}: {text}"));
    for (keyword, says) in node {
        match keyword.as_str() {
            "$schema" | "title" | "description" | "default" | "examples" | "definitions" => {}
            "$ref" => {
                let pointer = says.as_str().unwrap().strip_prefix('#').unwrap();
                let target = root.pointer(pointer).unwrap_or_else(|| panic!("{place}: {says} leads nowhere"));
                let mut inner = Vec::new();
                objections(root, target, value, place, &mut inner);
                inner.into_iter().for_each(&mut object);
            }
            "type" => {
                let is = |ty: &Value| match ty.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    // A number is as good as the text that it is written as.
                    "string" => value.is_string() || value.is_number() || value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "boolean" => value.is_boolean(),
                    other => panic!("{place}: type {other}"),
                };
                let fits = says.as_array().map_or_else(|| is(says), |types| types.iter().any(is));
                if !fits {
                    object(format!("{value} is not of type {says}"));
                }
            }
            "properties" => {
                for (key, schema) in says.as_object().unwrap() {
                    if let Some(value) = value.get(key) {
                        let mut inner = Vec::new();
                        objections(root, schema, value, &format!("{place}.{key}"), &mut inner);
                        inner.into_iter().for_each(&mut object);
                    }
                }
            }
            "additionalProperties" => {
                for (key, value) in value.as_object().into_iter().flatten() {
                    if node.get("properties").is_some_and(|known| known.get(key).is_some()) {
                        continue;
                    }
                    if says == false {
                        object(format!("no key '{key}'"));
                    } else {
                        let mut inner = Vec::new();
                        objections(root, says, value, &format!("{place}.{key}"), &mut inner);
                        inner.into_iter().for_each(&mut object);
                    }
                }
            }
            "required" => {
                for key in says.as_array().unwrap() {
                    if value.is_object() && value.get(key.as_str().unwrap()).is_none() {
                        object(format!("the key {key} is missing"));
                    }
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    let mut inner = Vec::new();
                    objections(root, says, item, &format!("{place}[{index}]"), &mut inner);
                    inner.into_iter().for_each(&mut object);
                }
            }
            "propertyNames" => {
                for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
                    let mut inner = Vec::new();
                    objections(root, says, &Value::from(key.as_str()), place, &mut inner);
                    inner.into_iter().for_each(&mut object);
                }
            }
            "enum" => {
                if !says.as_array().unwrap().contains(value) {
                    object(format!("{value} is none of {says}"));
                }
            }
            "const" => {
                if says != value {
                    object(format!("{value} is not {says}"));
                }
            }
            "minimum" if value.is_number() && value.as_f64() < says.as_f64() => object(format!("{value} < {says}")),
            "maximum" if value.is_number() && value.as_f64() > says.as_f64() => object(format!("{value} > {says}")),
            "minItems" if value.as_array().is_some_and(|list| (list.len() as u64) < says.as_u64().unwrap()) => {
                object("too few entries".to_owned());
            }
            "minLength" if value.as_str() == Some("") => object("is empty".to_owned()),
            "pattern" => {
                let pattern = regex::Regex::new(says.as_str().unwrap()).unwrap();
                if value.as_str().is_some_and(|text| !pattern.is_match(text)) {
                    object(format!("{value} does not match {says}"));
                }
            }
            "minProperties" if value.as_object().is_some_and(|map| (map.len() as u64) < says.as_u64().unwrap()) => {
                object("too few keys".to_owned());
            }
            "exclusiveMinimum" if value.is_number() && value.as_f64() <= says.as_f64() => {
                object(format!("{value} <= {says}"))
            }
            "maxProperties" if value.as_object().is_some_and(|map| (map.len() as u64) > says.as_u64().unwrap()) => {
                object("too many keys".to_owned());
            }
            "minimum" | "maximum" | "maxProperties" | "minItems" | "minLength" | "minProperties"
            | "exclusiveMinimum" => {}
            "anyOf" | "oneOf" | "allOf" => {
                let choices = says.as_array().unwrap().iter().map(|choice| {
                    let mut inner = Vec::new();
                    objections(root, choice, value, place, &mut inner);
                    inner
                });
                let choices: Vec<_> = choices.collect();
                let fit = choices.iter().filter(|inner| inner.is_empty()).count();
                let fits = match keyword.as_str() {
                    "anyOf" => fit > 0,
                    "oneOf" => fit == 1,
                    _ => fit == choices.len(),
                };
                if !fits {
                    object(format!("{keyword}: {fit} of {} fit: {choices:?}", choices.len()));
                }
            }
            other => panic!("{place}: the keyword {other} is new; teach it to this test"),
        }
    }
}

fn against(text: &str) -> Vec<String> {
    let value: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
    let (schema, mut found) = (schema(), Vec::new());
    objections(&schema, &schema, &serde_json::to_value(value).unwrap(), "", &mut found);
    found
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[test]
fn every_example_fits_the_schema() {
    let mut files: Vec<_> =
        std::fs::read_dir(repository().join("configs/filters")).unwrap().map(|entry| entry.unwrap().path()).collect();
    for example in std::fs::read_dir(repository().join("examples")).unwrap() {
        let file = example.unwrap().path().join("filter.yaml");
        files.extend(file.is_file().then_some(file));
    }
    assert!(files.len() >= 12, "{files:?}");
    for file in files {
        let found = against(&std::fs::read_to_string(&file).unwrap());
        assert!(found.is_empty(), "{}: {found:?}", file.display());
    }
}

#[test]
fn the_schema_objects_to_what_does_not_load() {
    for (text, objection) in [
        ("filter: []", "no key 'filter'"),
        ("filters: []", "too few entries"),
        ("filters: [{name: a}]", "the key \"module\" is missing"),
        ("filters: [{name: a, module: b, modul: c}]", "no key 'modul'"),
        ("filters: [{name: a, module: b, limits: {memory_mib: 9999}}]", "9999 > 4096"),
        ("filters: [{name: a, module: b, limits: {memory_mib: soon}}]", "integer"),
        ("filters: [{name: a, module: b, body: half}]", "fit"),
        ("filters: [{name: a, module: b, allowed_capabilities: [proxy_logs]}]", "proxy_logs"),
        ("filters: [{name: a, module: b, vm_id: }]", "null is not of type"),
        ("defaults: {name: a}", "no key 'name'"),
        ("services: [{name: a, module: b, body: none}]", "no key 'body'"),
        ("clusters: {a: {endpoints: [here]}}", "does not match"),
        ("clusters: {a: {protocol: http1}}", "the key \"endpoints\" is missing"),
        ("substitute: ['${A}']", "does not match"),
    ] {
        let found = against(text).join("; ");
        assert!(found.contains(objection), "{text}: {found}");
        let loads = crate::config::parse(Path::new("f.yaml"), text);
        assert!(loads.is_err(), "{text} loads");
    }
}

#[test]
fn every_key_is_described() {
    let schema = schema();
    let mut missing = Vec::new();
    let definitions = schema["definitions"].as_object().unwrap();
    for (name, node) in definitions.iter().chain([(&"the file".to_owned(), &schema)]) {
        for (key, property) in node["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(|text| text.len() < 8) {
                missing.push(format!("{name}.{key}"));
            }
        }
    }
    assert!(definitions.len() > 8 && missing.is_empty(), "{missing:?}");
}

//! The shape of `match`, for editors.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::forms::{By, FieldName, FieldValues, List, Method, Named, Network, OneOrMore, Percent, Scheme, Seed, Token};
use super::patterns::{GlobText, HostText, Part, PathText, RawPattern, RegexText, Whole};
use super::{Condition, RawMatch};

impl JsonSchema for Condition {
    fn schema_name() -> Cow<'static, str> {
        RawMatch::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        RawMatch::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = RawMatch::json_schema(generator);
        schema.insert("minProperties".to_owned(), 1.into());
        schema
    }
}

/// Texts, and what an editor can know of them.
macro_rules! texts {
    ($($type:ident: $schema:tt;)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )+};
}

texts! {
    Method: {"type": "string", "pattern": "^[A-Z!#$%&'*+.^_`|~0-9-]+$"};
    Scheme: {"type": "string", "enum": ["http", "https", "ws", "wss"]};
    Network: {"type": "string", "examples": ["10.0.0.0/8", "::1"]};
    Percent: {"type": "number", "minimum": 0, "maximum": 100};
    By: {"type": "string", "pattern": "^(client|path|header .+|cookie .+)$", "default": "client"};
    Seed: {"type": "string", "default": ""};
    Part: {"type": "string", "minLength": 1};
    Whole: {"type": "string"};
    GlobText: {"type": "string"};
    RegexText: {"type": "string"};
    Token: {"type": "string", "minLength": 1};
    FieldName: {"type": "string", "minLength": 1};
}

/// A text, or a pattern.
fn text_or_pattern(generator: &mut SchemaGenerator) -> Schema {
    let mut pattern = RawPattern::json_schema(generator);
    pattern.insert("minProperties".to_owned(), 1.into());
    pattern.insert("maxProperties".to_owned(), 1.into());
    json_schema!({"anyOf": [{"type": "string"}, pattern]})
}

macro_rules! patterns {
    ($($type:ident)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                concat!("Match", stringify!($type)).into()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                text_or_pattern(generator)
            }
        }
    )+};
}

patterns!(HostText PathText);

impl JsonSchema for FieldValues {
    fn schema_name() -> Cow<'static, str> {
        "MatchValues".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = text_or_pattern(generator);
        json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMore<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMore{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]})
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("ListOf{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"type": "array", "items": one, "minItems": 1})
    }
}

impl<N> JsonSchema for Named<N> {
    fn schema_name() -> Cow<'static, str> {
        "MatchNamed".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let values = generator.subschema_for::<FieldValues>();
        json_schema!({"type": "object", "additionalProperties": values, "minProperties": 1})
    }
}

//! Arguments of tools: their schema, and what is said when they do not fit.

use super::Refusal;
use crate::model::ids::ItemId;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;

/// No arguments.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// An item's number; `12`, `"12"` and `"#12"` are the same.
#[derive(Debug, Clone, Copy)]
pub struct Item(pub ItemId);

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let number = match &value {
            Value::Number(number) => number.as_i64(),
            Value::String(text) => text.trim().trim_start_matches('#').parse().ok(),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        };
        match number {
            Some(number) if number > 0 => Ok(Item(ItemId(number))),
            Some(_) | None => {
                Err(D::Error::custom(format!("{value} is no item number, such as 12")))
            }
        }
    }
}

impl JsonSchema for Item {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Item".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": 1})
    }
}

/// The schema of `A`, without references: not every provider follows them.
pub fn schema<A: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<A>().to_value();
    if let Some(map) = schema.as_object_mut() {
        map.remove("title");
        map.remove("description");
        map.entry("properties").or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    schema
}

/// Reads arguments; when they do not fit, says why and what would.
pub fn parse<A: DeserializeOwned>(tool: &str, schema: &Value, value: Value) -> Result<A, Refusal> {
    // A missing object is no arguments.
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    serde_json::from_value(value).map_err(|error| {
        Refusal::Said(format!("Wrong arguments for {tool}: {error}. {}", shape(schema)))
    })
}

/// The arguments in a line: names, types, and which may be left out.
fn shape(schema: &Value) -> String {
    let empty = serde_json::Map::new();
    let properties = schema["properties"].as_object().unwrap_or(&empty);
    if properties.is_empty() {
        return "It takes none: {}.".to_owned();
    }
    let required: Vec<&str> = schema["required"]
        .as_array()
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let mut text = "It takes:".to_owned();
    for (name, property) in properties {
        let optional = if required.contains(&name.as_str()) { "" } else { ", optional" };
        let _ = write!(text, " {name} ({}{optional});", kind(property));
    }
    text.pop();
    text.push('.');
    text
}

fn kind(property: &Value) -> String {
    if let Some(choices) = choices(property) {
        return format!("one of {}", choices.join(", "));
    }
    match &property["type"] {
        Value::String(kind) => kind.clone(),
        Value::Array(kinds) => {
            let kinds = kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null");
            kinds.collect::<Vec<_>>().join(" or ")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => "value".to_owned(),
    }
}

/// The values of an enumeration: `enum`, or `oneOf` of constants, possibly beside null.
fn choices(property: &Value) -> Option<Vec<&str>> {
    if let Some(values) = property["enum"].as_array() {
        return Some(values.iter().filter_map(Value::as_str).collect());
    }
    for key in ["oneOf", "anyOf"] {
        let Some(variants) = property[key].as_array() else { continue };
        let mut found = Vec::new();
        for variant in variants {
            match variant["const"].as_str() {
                Some(value) => found.push(value),
                None => found.extend(choices(variant).unwrap_or_default()),
            }
        }
        if !found.is_empty() {
            return Some(found);
        }
    }
    None
}

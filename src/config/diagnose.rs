//! Finds everything that is wrong with the form of a configuration, not only the first thing.
//!
//! The example file holds every key, so it is the list of what is known; each key of the user's
//! file is tried alone in its place in the example, so that serde's own reason is had for each.

use super::error::{ConfigError, Step};
use super::source::Source;
use super::{Config, nearest};
use toml::de::DeTable;
use toml::{Table, Value};

/// The example, with every key and its default.
pub const EXAMPLE: &str = include_str!("../../config/musher.example.toml");

/// Keys that people write for what must stand elsewhere.
const SECRETS: &[(&str, &str)] = &[
    ("password", "password_env"),
    ("api_key", "api_key_env"),
    ("key", "api_key_env"),
    ("token", "api_key_env"),
    ("access_token", "password_env"),
    ("store_passphrase", "store_passphrase_env"),
    ("passphrase", "store_passphrase_env"),
];

/// The example with what it comments out: a table in which every key stands.
pub fn full_example() -> Table {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_setting(rest) => rest,
        _ => line,
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    // The example is part of the binary, and a test reads it.
    text.parse().unwrap_or_default()
}

/// Whether a commented line is a key with a value, not a sentence.
fn is_setting(line: &str) -> bool {
    line.split_once(" = ").is_some_and(|(key, _)| {
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    })
}

/// All errors of syntax, or else all errors of form.
pub(super) fn diagnose(source: &Source) -> Vec<ConfigError> {
    let (_, errors) = DeTable::parse_recoverable(&source.text);
    if !errors.is_empty() {
        return errors.iter().map(|error| syntax(source, error)).collect();
    }
    let mut walk = Walk { source, example: full_example(), errors: vec![] };
    match source.text.parse::<Table>() {
        Ok(table) => {
            let example = walk.example.clone();
            walk.table(&table, &example, &mut vec![]);
        }
        Err(error) => walk.errors.push(syntax(source, &error)),
    }
    walk.errors
}

fn syntax(source: &Source, error: &toml::de::Error) -> ConfigError {
    ConfigError {
        file: source.path.clone(),
        line: error.span().map(|span| source.line_of(span.start)),
        key: String::new(),
        value: None,
        reason: format!("this is not TOML: {}", error.message().replace('\n', " ")),
        remedy: "put the line right; config/musher.example.toml shows the form".to_owned(),
    }
}

struct Walk<'a> {
    source: &'a Source,
    example: Table,
    errors: Vec<ConfigError>,
}

impl Walk<'_> {
    fn table(&mut self, given: &Table, known: &Table, place: &mut Vec<Step>) {
        for (key, value) in given {
            place.push(Step::Key(key.clone()));
            match known.get(key) {
                Some(sample) => self.value(value, sample, place),
                None => self.unknown(key, known, place),
            }
            place.pop();
        }
        for (key, _) in known.iter().filter(|(key, _)| !given.contains_key(*key)) {
            place.push(Step::Key(key.clone()));
            if self.is_required(place) {
                let (kind, remedy) = self.how_to_add(key, known, place);
                let error = self.source.error(place, format!("this {kind} is missing"), remedy);
                self.errors.push(error);
            }
            place.pop();
        }
    }

    fn how_to_add(&self, key: &str, known: &Table, place: &[Step]) -> (&'static str, String) {
        match known.get(key) {
            Some(Value::Table(_)) => (
                "table",
                format!("add it with its keys, as config/musher.example.toml shows: [{key}]"),
            ),
            Some(sample) => {
                let within = super::error::shown(&place[..place.len() - 1]);
                let within = if within.is_empty() { "the file".to_owned() } else { within };
                ("key", format!("add it to {within}, for example: {key} = {sample}"))
            }
            None => ("key", "add it".to_owned()),
        }
    }

    fn value(&mut self, given: &Value, sample: &Value, place: &mut Vec<Step>) {
        match (given, sample) {
            (Value::Table(given), Value::Table(sample)) => self.table(given, sample, place),
            (Value::Array(given), Value::Array(sample))
                if matches!(sample.first(), Some(Value::Table(_))) =>
            {
                let Some(first) = sample.first() else { return };
                for (position, element) in given.iter().enumerate() {
                    place.push(Step::At(position));
                    self.value(element, first, place);
                    place.pop();
                }
            }
            (given, Value::Table(_)) => {
                let reason = format!("it must be a table, not {}", a_kind(given));
                let remedy = format!("write [{}] and its keys below", super::error::shown(place));
                let error = self.source.error(place, reason, remedy);
                self.errors.push(error);
            }
            (given, sample) => self.leaf(given, sample, place),
        }
    }

    /// Tries one value in the place that it has in the example.
    fn leaf(&mut self, given: &Value, sample: &Value, place: &[Step]) {
        let mut trial = self.example.clone();
        if let Some(slot) = slot(&mut trial, place) {
            *slot = given.clone();
        }
        let Err(error) = Value::Table(trial).try_into::<Config>() else { return };
        let reason = error.message().replace('\n', " ");
        let remedy = match (given, sample) {
            (Value::String(text), Value::String(_)) if reason.contains("expected one of") => {
                let known = reason.rsplit("expected one of").next().unwrap_or("");
                let known =
                    known.split('`').filter(|part| !part.trim_matches([',', ' ']).is_empty());
                nearest(text, known).map_or_else(
                    || "write one of these".to_owned(),
                    |known| format!("did you mean \"{known}\"?"),
                )
            }
            (given @ (Value::String(_) | Value::Integer(_)), Value::Array(_)) => {
                format!("write it as a list: [{given}]")
            }
            (Value::String(text), sample) if is_kind(text, sample) => {
                format!("write it without quotes: {text}")
            }
            (_, sample) => format!("write {}, such as {sample}", a_kind(sample)),
        };
        let error = self.source.error(place, reason, remedy);
        self.errors.push(error);
    }

    fn unknown(&mut self, key: &str, known: &Table, place: &[Step]) {
        let secret =
            SECRETS.iter().find(|(name, instead)| *name == key && known.contains_key(*instead));
        let remedy = if let Some((_, instead)) = secret {
            format!("secrets do not stand in this file: set {instead} to the name of a variable")
        } else if let Some(known) = nearest(key, known.keys().map(String::as_str)) {
            format!("did you mean `{known}`?")
        } else {
            let all: Vec<&str> = known.keys().map(String::as_str).collect();
            format!("take it out; known here are {}", all.join(", "))
        };
        let error = self.source.error(place, "there is no such key", remedy);
        self.errors.push(error);
    }

    /// Whether the example without this key is no configuration any more.
    fn is_required(&self, place: &[Step]) -> bool {
        let mut trial = self.example.clone();
        let Some((Step::Key(key), above)) = place.split_last() else { return false };
        let removed = match above {
            [] => trial.remove(key),
            above => slot(&mut trial, above)
                .and_then(Value::as_table_mut)
                .and_then(|table| table.remove(key)),
        };
        removed.is_some() && Value::Table(trial).try_into::<Config>().is_err()
    }
}

/// The value at a place of the example; every position of an array is its first.
fn slot<'a>(table: &'a mut Table, place: &[Step]) -> Option<&'a mut Value> {
    let (first, rest) = place.split_first()?;
    let Step::Key(key) = first else { return None };
    let mut here = table.get_mut(key)?;
    for step in rest {
        here = match step {
            Step::Key(key) => here.as_table_mut()?.get_mut(key)?,
            Step::At(_) => here.as_array_mut()?.first_mut()?,
        };
    }
    Some(here)
}

/// Whether a text would be a value of the right kind, were it not in quotes.
fn is_kind(text: &str, sample: &Value) -> bool {
    match sample {
        Value::Integer(_) => text.parse::<i64>().is_ok(),
        Value::Float(_) => text.parse::<f64>().is_ok(),
        Value::Boolean(_) => text.parse::<bool>().is_ok(),
        Value::String(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => false,
    }
}

fn a_kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text in quotes",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list in brackets",
        Value::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    /// Every key that a value holds, with the path to it.
    fn keys(value: &Json, path: &str, out: &mut Vec<String>) {
        match value {
            Json::Object(map) => {
                for (key, value) in map {
                    let path = format!("{path}/{key}");
                    out.push(path.clone());
                    keys(value, &path, out);
                }
            }
            Json::Array(list) => list.iter().for_each(|value| keys(value, path, out)),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {}
        }
    }

    #[test]
    fn the_example_holds_every_key_with_its_default() {
        let full: Config = Value::Table(full_example()).try_into().unwrap();
        let (mut in_types, mut in_example) = (vec![], vec![]);
        keys(&serde_json::to_value(&full).unwrap(), "", &mut in_types);
        keys(&serde_json::to_value(full_example()).unwrap(), "", &mut in_example);
        in_types.sort();
        in_example.sort();
        assert_eq!(in_types, in_example, "config/musher.example.toml and the types differ");

        // What is not commented out is the default, but for what has none.
        let given: Config = toml::from_str(EXAMPLE).unwrap();
        let bare: Config = toml::from_str(
            r#"
            [matrix]
            homeserver = "https://matrix.example.org"
            user_id = "@musher:example.org"
            password_env = "MUSHER_MATRIX_PASSWORD"
            allowed_users = ["@you:example.org"]
            allowed_rooms = ["*"]
            [llm]
            provider = "anthropic"
            model = "claude-sonnet-4-5"
            api_key_env = "ANTHROPIC_API_KEY"
            [[projects]]
            name = "shop"
            path = "/srv/shop"
            [[agents]]
            name = "coder-1"
            role = "coder"
            runtime = "claude-code"
            "#,
        )
        .unwrap();
        assert_eq!(given, bare, "a value in the example is not the default");
    }
}

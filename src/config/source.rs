//! The text of a configuration file, and where in it a key stands.

use super::error::{ConfigError, Step, is_secret, shown};
use std::path::{Path, PathBuf};
use toml::de::{DeTable, DeValue};

/// A configuration file as read.
#[derive(Debug, Clone)]
pub struct Source {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

impl Source {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self, Box<ConfigError>> {
        match std::fs::read_to_string(path) {
            Ok(text) => Ok(Self { path: path.to_owned(), text }),
            Err(error) => Err(Box::new(ConfigError {
                file: path.to_owned(),
                line: None,
                key: String::new(),
                value: None,
                reason: format!("it cannot be read: {error}"),
                remedy: "name another file with `-c FILE`, or write one with `musher init`"
                    .to_owned(),
            })),
        }
    }

    /// An error at a place of the file.
    pub(super) fn error(
        &self,
        place: &[Step],
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) -> ConfigError {
        let found = self.find(place);
        let key = match place.last() {
            Some(Step::Key(key)) => key.as_str(),
            Some(Step::At(_)) | None => "",
        };
        let value = found.value.map(|range| self.text[range].trim().to_owned());
        let value = value.filter(|value| value.len() <= 80 && !value.contains('\n'));
        ConfigError {
            file: self.path.clone(),
            line: found.offset.map(|offset| self.line_of(offset)),
            key: shown(place),
            value: value.filter(|_| !is_secret(key)),
            reason: reason.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn line_of(&self, offset: usize) -> usize {
        let offset = offset.min(self.text.len());
        self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Where a place is, or the nearest thing around it that there is.
    fn find(&self, place: &[Step]) -> Found {
        let mut found = Found { offset: None, value: None };
        let (root, _errors) = DeTable::parse_recoverable(&self.text);
        let root = DeValue::Table(root.into_inner());
        let mut here = &root;
        for step in place {
            let next = match (here, step) {
                (DeValue::Table(table), Step::Key(key)) => table
                    .iter()
                    .find(|(name, _)| name.get_ref() == key)
                    .map(|(name, value)| (name.span(), value)),
                (DeValue::Array(array), Step::At(position)) => {
                    array.get(*position).map(|value| (value.span(), value))
                }
                _ => None,
            };
            let Some((span, value)) = next else {
                found.value = None;
                return found;
            };
            found = Found { offset: Some(span.start), value: Some(value.span()) };
            here = value.get_ref();
        }
        if matches!(here, DeValue::Table(_)) {
            found.value = None;
        }
        found
    }
}

struct Found {
    offset: Option<usize>,
    value: Option<std::ops::Range<usize>>,
}

//! What is wrong with a configuration, in words that say how to put it right.

use std::fmt;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// Its line; `None` when the whole file is meant.
    pub line: Option<usize>,
    /// The key, such as `llm.provider` or `agents[1].role`; empty when none is meant.
    pub key: String,
    /// The value that stands there, unless it may be a secret.
    pub value: Option<String>,
    /// Why it is wrong.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        if let Some(value) = &self.value {
            write!(f, " = {value}")?;
        }
        write!(f, ": {}; {}", self.reason, self.remedy)
    }
}

/// Everything that is wrong with a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, error) in self.0.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// A place in the configuration: keys and positions, outermost first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A key of a table.
    Key(String),
    /// A position in an array.
    At(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Step::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(position: usize) -> Self {
        Step::At(position)
    }
}

/// Writes a place as a person would: `agents[1].role`.
pub(super) fn shown(place: &[Step]) -> String {
    let mut out = String::new();
    for step in place {
        match step {
            Step::Key(key) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Step::At(position) => out.push_str(&format!("[{position}]")),
        }
    }
    out
}

/// Reads a place as [`shown`] writes it.
pub(super) fn place(text: &str) -> Vec<Step> {
    let mut out = vec![];
    for part in text.split(['.', '[']) {
        let position = part.strip_suffix(']').and_then(|number| number.parse().ok());
        out.push(position.map_or_else(|| Step::from(part), Step::At));
    }
    out
}

/// Whether a value under this key may be a secret: it is not repeated in messages then.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_lowercase();
    let named = ["password", "passphrase", "secret", "token", "key"];
    let counts = key.contains("tokens") && !key.contains("access");
    !counts && !key.ends_with("_file") && named.iter().any(|part| key.contains(part))
}

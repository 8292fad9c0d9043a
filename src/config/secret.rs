//! Secrets: read from the variable or file that the configuration names.

use super::error::{ConfigError, Step, place};
use super::source::Source;
use super::{Config, Provider};
use crate::redact;
use secrecy::SecretString;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Why a secret was not had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// The variable is not there.
    #[error("the variable {0} is not set; export it before starting musher")]
    Unset(String),
    /// The variable or file is empty.
    #[error("{0} is empty; put the secret into it")]
    Empty(String),
    /// The file cannot be read.
    #[error(
        "the file {0} cannot be read: {1}; create it with the secret in it, readable by you alone"
    )]
    Unreadable(String, String),
    /// Others may read the file.
    #[error("the file {0} can be read by others; run `chmod 600 {0}`")]
    Exposed(String),
}

/// Reads the secret that `*_env` or `*_file` names; `None` when neither is set.
///
/// What is read is remembered by [`redact`], so that it shows up in no log, message or row.
pub fn secret(env: Option<&str>, file: Option<&Path>) -> Result<Option<SecretString>, SecretError> {
    let (text, from) = match (env, file) {
        (Some(name), _) => {
            let text = std::env::var(name).map_err(|_| SecretError::Unset(name.to_owned()))?;
            (text, format!("the variable {name}"))
        }
        (None, Some(path)) => (read_file(path)?, format!("the file {}", path.display())),
        (None, None) => return Ok(None),
    };
    let text = text.trim();
    if text.is_empty() {
        return Err(SecretError::Empty(from));
    }
    redact::remember(text);
    Ok(Some(SecretString::from(text)))
}

fn read_file(path: &Path) -> Result<String, SecretError> {
    let shown = path.display().to_string();
    let unreadable =
        |error: std::io::Error| SecretError::Unreadable(shown.clone(), error.to_string());
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(SecretError::Exposed(shown));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

/// An error about what a key names, at its place in the file; `key` as messages write it, such as
/// `agents[1].replay_file`.
///
/// `text` is a sentence with its remedy behind a colon.
pub fn error_at(config: &Config, key: &str, text: &str) -> ConfigError {
    let source = Source::read(&config.file)
        .unwrap_or_else(|_| Source { path: config.file.clone(), text: String::new() });
    let (reason, remedy) = text.rsplit_once(": ").unwrap_or((text, "put it right"));
    source.error(&place(key), reason, remedy)
}

/// Tries every secret that the configuration names.
pub fn check_secrets(config: &Config) -> Vec<ConfigError> {
    let Ok(source) = Source::read(&config.file) else { return vec![] };
    let mut errors = vec![];
    let mut check = |table: &str, key: &str, env: Option<&String>, file: Option<&Path>| {
        let Err(error) = secret(env.map(String::as_str), file) else { return };
        let key = format!("{key}{}", if env.is_some() { "_env" } else { "_file" });
        let place = [Step::from(table), Step::Key(key)];
        let text = error.to_string();
        let (reason, remedy) = text.split_once("; ").unwrap_or((&text, "put it right"));
        errors.push(source.error(&place, reason, remedy));
    };
    if let Some(matrix) = &config.matrix {
        check("matrix", "password", matrix.password_env.as_ref(), matrix.password_file.as_deref());
        check(
            "matrix",
            "store_passphrase",
            matrix.store_passphrase_env.as_ref(),
            matrix.store_passphrase_file.as_deref(),
        );
    }
    let llm = &config.llm;
    if llm.provider != Provider::Replay {
        check("llm", "api_key", llm.api_key_env.as_ref(), llm.api_key_file.as_deref());
    }
    errors
}

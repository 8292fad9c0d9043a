//! The API key: from a variable or a file, never from the configuration itself.

use super::LlmError;
use crate::config::LlmConfig;
use crate::redact;
use secrecy::SecretString;
use std::os::unix::fs::MetadataExt as _;

/// Reads the key that the configuration names; `None` when it names none.
///
/// The key is remembered by [`redact`], so that it never shows up in what is stored or shown.
pub fn read(config: &LlmConfig) -> Result<Option<SecretString>, LlmError> {
    let key = if let Some(variable) = &config.api_key_env {
        std::env::var(variable).map_err(|_| {
            LlmError::Setup(format!(
                "[llm] api_key_env names the variable {variable}, which is not set: \
                 export it before starting musher"
            ))
        })?
    } else if let Some(path) = &config.api_key_file {
        let failed = |what: String| {
            LlmError::Setup(format!("[llm] api_key_file {}: {what}", path.display()))
        };
        let mode = std::fs::metadata(path)
            .map_err(|error| failed(format!("{error}: put the key into that file")))?
            .mode();
        if mode & 0o077 != 0 {
            return Err(failed("others can read it: run `chmod 600` on it".to_owned()));
        }
        std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?
    } else {
        return Ok(None);
    };
    let key = key.trim().to_owned();
    if key.is_empty() {
        return Err(LlmError::Setup(
            "[llm] the key that api_key_env or api_key_file names is empty".to_owned(),
        ));
    }
    redact::remember(&key);
    Ok(Some(SecretString::from(key)))
}

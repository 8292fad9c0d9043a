//! Secrets are taken out of everything that is stored or shown.

use regex::Regex;
use std::sync::{LazyLock, RwLock};

/// What stands in a secret's place.
const MARK: &str = "[redacted]";

/// Secrets known by value: what was read from `*_env` and `*_file`.
static KNOWN: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// Secrets known by shape: API keys and tokens of the common services.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        \bsk-[A-Za-z0-9_-]{16,}            # Anthropic, OpenAI
        | \bsyt_[A-Za-z0-9_=-]{10,}        # Synapse access token
        | \b(?:ghp|gho|ghu|ghs|ghr)_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,}
        | \bglpat-[A-Za-z0-9_-]{16,}
        | \bxox[abprs]-[A-Za-z0-9-]{10,}
        | \bAKIA[0-9A-Z]{16}\b
        | \bAIza[0-9A-Za-z_-]{30,}
        | (?i:bearer)\s+[A-Za-z0-9._~+/=-]{16,}
        | -----BEGIN[ A-Z]*PRIVATE\ KEY-----[\s\S]*?(?:-----END[ A-Z]*PRIVATE\ KEY-----|\z)
        | (?P<web>https?://)[^\s/@]+@      # credentials in a URL: in the web's, a token alone, too
        | (?P<scheme>[a-z][a-z0-9+.-]*://)[^\s/@:]+:[^\s/@]+@
        ",
    )
    .expect("the pattern is constant and compiles")
});

/// Remembers a secret, so that [`redact`] finds it wherever it turns up.
///
/// Values under six characters are ignored: they would take out half of every text.
pub fn remember(secret: &str) {
    if secret.len() < 6 {
        return;
    }
    let mut known = KNOWN.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !known.iter().any(|other| other == secret) {
        known.push(secret.to_owned());
    }
}

/// Returns `text` without the secrets in it.
pub fn redact(text: &str) -> String {
    let mut out = SHAPES
        .replace_all(text, |found: &regex::Captures<'_>| {
            match found.name("web").or(found.name("scheme")) {
                Some(scheme) => format!("{}{MARK}@", scheme.as_str()),
                None => MARK.to_owned(),
            }
        })
        .into_owned();
    let known = KNOWN.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    for secret in known.iter() {
        if out.contains(secret.as_str()) {
            out = out.replace(secret.as_str(), MARK);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_by_shape_and_by_value() {
        remember("correct horse battery");
        for (given, expected) in [
            ("key sk-ant-api03-abcdefghijklmnop here", "key [redacted] here"),
            ("https://bob:hunter2@git.example.org/x", "https://[redacted]@git.example.org/x"),
            ("to https://t0ken@git.example.org/x", "to https://[redacted]@git.example.org/x"),
            ("ssh://git@git.example.org/x", "ssh://git@git.example.org/x"),
            ("Authorization: Bearer abcdefghijklmnopqrstuv", "Authorization: [redacted]"),
            ("it is correct horse battery!", "it is [redacted]!"),
            ("nothing to hide: sk-1", "nothing to hide: sk-1"),
        ] {
            assert_eq!(redact(given), expected);
        }
    }
}

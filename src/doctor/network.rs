//! The checks that ask others: the homeserver and the model.

use super::Check;
use crate::chat::matrix::trial::{self, Trial};
use crate::config::{Config, LlmConfig, MatrixConfig, Provider, secret};
use crate::llm::{Llm, LlmError, Request};
use crate::model::llm::LlmMessage;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a model may take for a word.
const MODEL_TIMEOUT: Duration = Duration::from_secs(40);
/// Most tokens of that word.
const MODEL_TOKENS: u32 = 16;

pub(super) async fn homeserver(config: &Config) -> Check {
    match &config.matrix {
        None => Check::skipped("homeserver", "there is no [matrix]"),
        Some(matrix) => check_homeserver(&matrix.homeserver).await,
    }
}

/// Asks a homeserver for its versions.
pub async fn check_homeserver(url: &str) -> Check {
    let id = "homeserver";
    let remedy = "check matrix.homeserver: open its address with /_matrix/client/versions behind \
                  it in a browser";
    match trial::newest_version(url).await {
        Trial::Answered(Some(newest)) => {
            Check::ok(id, format!("{url} speaks Matrix up to {newest}"))
        }
        Trial::Answered(None) => {
            Check::failed(id, format!("{url} answers, and is no homeserver"), remedy)
        }
        Trial::Refused { status, .. } => {
            Check::failed(id, format!("{url} answers with {status}"), remedy)
        }
        Trial::Unreachable(why) => {
            Check::failed(id, format!("{url} cannot be reached: {why}"), remedy)
        }
    }
}

pub(super) async fn login(config: &Config) -> Check {
    let Some(matrix) = &config.matrix else {
        return Check::skipped("login", "there is no [matrix]");
    };
    match kept_token(&config.data_dir.join("matrix").join("session.json")) {
        Some(token) => check_session(matrix, &token).await,
        None => check_login(matrix).await,
    }
}

/// The access token of an earlier login, wherever the file holds it.
fn kept_token(file: &Path) -> Option<String> {
    fn find(value: &Value) -> Option<&str> {
        match value {
            Value::Object(map) => match map.get("access_token") {
                Some(Value::String(token)) => Some(token),
                Some(_) | None => map.values().find_map(find),
            },
            Value::Array(list) => list.iter().find_map(find),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    }
    let token = find(&serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()?)?.to_owned();
    crate::redact::remember(&token);
    Some(token)
}

async fn check_session(matrix: &MatrixConfig, token: &str) -> Check {
    let id = "login";
    let url = &matrix.homeserver;
    match trial::owner_of(url, token).await {
        Trial::Answered(user) if user == matrix.user_id => {
            Check::ok(id, format!("logged in as {}", matrix.user_id))
        }
        Trial::Answered(user) => Check::failed(
            id,
            format!("the kept session is that of {user}"),
            "set matrix.user_id to that account, or use another data_dir",
        ),
        Trial::Refused { status: 401, .. } => Check::failed(
            id,
            "the homeserver has ended the bot's session",
            "stop the server and move the directory matrix/ out of the data directory; the next \
             start logs in as a new device, which cannot read encrypted messages of before",
        ),
        other @ (Trial::Refused { .. } | Trial::Unreachable(_)) => {
            not_asked(id, url, &other, "try again later, or ask who runs the homeserver")
        }
    }
}

/// The ends of a question about an account that say nothing about the account.
fn not_asked<T>(id: &str, url: &str, trial: &Trial<T>, remedy: &str) -> Check {
    match trial {
        Trial::Refused { status, why } => {
            Check::failed(id, format!("the homeserver answers with {status}: {why}"), remedy)
        }
        Trial::Unreachable(why) => {
            Check::failed(id, format!("{url} cannot be reached: {why}"), "see the check homeserver")
        }
        Trial::Answered(_) => Check::skipped(id, "it was answered"),
    }
}

/// Logs in with the configured password, and out again.
pub async fn check_login(matrix: &MatrixConfig) -> Check {
    let id = "login";
    let password = match secret(matrix.password_env.as_deref(), matrix.password_file.as_deref()) {
        Ok(Some(password)) => password,
        Ok(None) => {
            return Check::failed(id, "no password is named", "set matrix.password_env");
        }
        Err(error) => {
            let text = error.to_string();
            let (what, remedy) = text.split_once("; ").unwrap_or((&text, "put it right"));
            return Check::failed(id, what, remedy);
        }
    };
    let url = &matrix.homeserver;
    let named = matrix.password_env.clone().unwrap_or_else(|| "the password file".to_owned());
    match trial::log_in_and_out(url, &matrix.user_id, &password).await {
        Trial::Answered(()) => {
            Check::ok(id, format!("the password of {} is right", matrix.user_id))
        }
        Trial::Refused { status: 403, why } => Check::failed(
            id,
            format!("the homeserver refuses the password of {}: {why}", matrix.user_id),
            &format!("check matrix.user_id and the password in {named}"),
        ),
        Trial::Refused { status: 429, .. } => Check::warning(
            id,
            "the homeserver limits logins; the password was not tried",
            "try again in a minute",
        ),
        other @ (Trial::Refused { .. } | Trial::Unreachable(_)) => {
            not_asked(id, url, &other, "check that it allows login with a password")
        }
    }
}

/// Asks the model for a word.
pub async fn check_model(config: &LlmConfig) -> Check {
    let id = "model";
    let llm = match Llm::new(config, None) {
        Ok(llm) => llm,
        Err(error) => return refused(id, &error),
    };
    if config.provider == Provider::Replay {
        return Check::ok(id, "answers come from a recording");
    }
    let messages = [LlmMessage::user("Answer with the single word: ready")];
    let request = Request {
        system: "You are being tested for whether you can be reached.",
        messages: &messages,
        tools: &[],
        max_output_tokens: MODEL_TOKENS,
        cancel: CancellationToken::new(),
    };
    let mut quiet = |_delta| {};
    match tokio::time::timeout(MODEL_TIMEOUT, llm.stream(request, &mut quiet)).await {
        Ok(Ok(_reply)) => Check::ok(id, format!("{} answers", llm.name())),
        Ok(Err(error)) => refused(id, &error),
        Err(_late) => Check::failed(
            id,
            format!("{} has not answered within {} s", llm.name(), MODEL_TIMEOUT.as_secs()),
            "check the network and llm.base_url",
        ),
    }
}

fn refused(id: &str, error: &LlmError) -> Check {
    let text = error.to_string();
    let (what, remedy) = text.split_once("): ").unwrap_or((&text, "check the table [llm]"));
    Check::failed(id, what, remedy)
}

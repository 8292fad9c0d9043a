//! The checks that ask others: the homeserver and the model.

use super::Check;
use crate::config::{Config, LlmConfig, MatrixConfig, Provider, secret};
use crate::llm::{Llm, LlmError, Request};
use crate::model::llm::LlmMessage;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a homeserver may take to answer.
const HTTP_TIMEOUT: Duration = Duration::from_secs(15);
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
    match call(Method::GET, url, "versions", None, None).await {
        Ok((StatusCode::OK, body)) => {
            match body["versions"].as_array().and_then(|all| all.last()) {
                Some(newest) => {
                    let newest = newest.as_str().unwrap_or("?");
                    Check::ok(id, format!("{url} speaks Matrix up to {newest}"))
                }
                None => Check::failed(id, format!("{url} answers, and is no homeserver"), remedy),
            }
        }
        Ok((status, _)) => Check::failed(id, format!("{url} answers with {status}"), remedy),
        Err(why) => Check::failed(id, format!("{url} cannot be reached: {why}"), remedy),
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
    match call(Method::GET, url, "v3/account/whoami", Some(token), None).await {
        Ok((StatusCode::OK, body)) if body["user_id"] == matrix.user_id.as_str() => {
            Check::ok(id, format!("logged in as {}", matrix.user_id))
        }
        Ok((StatusCode::OK, body)) => Check::failed(
            id,
            format!("the kept session is that of {}", body["user_id"]),
            "set matrix.user_id to that account, or use another data_dir",
        ),
        Ok((StatusCode::UNAUTHORIZED, _)) => Check::failed(
            id,
            "the homeserver has ended the bot's session",
            "stop the server and move the directory matrix/ out of the data directory; the next \
             start logs in as a new device, which cannot read encrypted messages of before",
        ),
        Ok((status, body)) => Check::failed(
            id,
            format!("the homeserver answers with {status}: {}", said(&body)),
            "try again later, or ask who runs the homeserver",
        ),
        Err(why) => {
            Check::failed(id, format!("{url} cannot be reached: {why}"), "see the check homeserver")
        }
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
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": matrix.user_id },
        "password": password.expose_secret(),
        "initial_device_display_name": "musher doctor",
    });
    let url = &matrix.homeserver;
    let named = matrix.password_env.clone().unwrap_or_else(|| "the password file".to_owned());
    match call(Method::POST, url, "v3/login", None, Some(body)).await {
        Ok((StatusCode::OK, body)) => {
            if let Some(token) = body["access_token"].as_str() {
                // The device must not stay behind; if it does, it does no harm.
                let _ = call(Method::POST, url, "v3/logout", Some(token), Some(json!({}))).await;
            }
            Check::ok(id, format!("the password of {} is right", matrix.user_id))
        }
        Ok((StatusCode::FORBIDDEN, body)) => Check::failed(
            id,
            format!("the homeserver refuses the password of {}: {}", matrix.user_id, said(&body)),
            &format!("check matrix.user_id and the password in {named}"),
        ),
        Ok((StatusCode::TOO_MANY_REQUESTS, _)) => Check::warning(
            id,
            "the homeserver limits logins; the password was not tried",
            "try again in a minute",
        ),
        Ok((status, body)) => Check::failed(
            id,
            format!("the homeserver answers with {status}: {}", said(&body)),
            "check that it allows login with a password",
        ),
        Err(why) => {
            Check::failed(id, format!("{url} cannot be reached: {why}"), "see the check homeserver")
        }
    }
}

fn said(body: &Value) -> &str {
    body["error"].as_str().unwrap_or("no reason given")
}

async fn call(
    method: Method,
    homeserver: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> Result<(StatusCode, Value), String> {
    let client = reqwest::Client::builder().timeout(HTTP_TIMEOUT).build().map_err(causes)?;
    let url = format!("{}/_matrix/client/{path}", homeserver.trim_end_matches('/'));
    let mut request = client.request(method, url);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if let Some(body) = body {
        request = request.json(&body);
    }
    let response = request.send().await.map_err(causes)?;
    let status = response.status();
    Ok((status, response.json().await.unwrap_or(Value::Null)))
}

/// An error with what is behind it, without the URL that was asked.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
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

//! A few questions to a homeserver, without a session of ours and without the SDK's stores: for
//! `doctor` and `init`, which must leave nothing behind.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::error::Error;
use std::time::Duration;

/// How long a homeserver may take to answer.
const TIMEOUT: Duration = Duration::from_secs(15);

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial<T> {
    /// The answer.
    Answered(T),
    /// The homeserver said no.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        why: String,
    },
    /// There was no answer.
    Unreachable(String),
}

/// Asks for the newest version of Matrix that is spoken at `url`; `None`: by none that answers
/// like a homeserver.
pub async fn newest_version(url: &str) -> Trial<Option<String>> {
    let answer = call(Method::GET, url, "versions", None, None).await;
    map(answer, |body| {
        let newest = body["versions"].as_array().and_then(|all| all.last())?;
        Some(newest.as_str().unwrap_or("?").to_owned())
    })
}

/// Asks whose session a token belongs to.
pub async fn owner_of(url: &str, token: &str) -> Trial<String> {
    let answer = call(Method::GET, url, "v3/account/whoami", Some(token), None).await;
    map(answer, |body| body["user_id"].as_str().unwrap_or_default().to_owned())
}

/// Logs in with a password, and out again.
pub async fn log_in_and_out(url: &str, user: &str, password: &SecretString) -> Trial<()> {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": user },
        "password": password.expose_secret(),
        "initial_device_display_name": "musher doctor",
    });
    let answer = call(Method::POST, url, "v3/login", None, Some(body)).await;
    if let Trial::Answered(body) = &answer
        && let Some(token) = body["access_token"].as_str()
    {
        // The device must not stay behind; if it does, it does no harm.
        let _ = call(Method::POST, url, "v3/logout", Some(token), Some(json!({}))).await;
    }
    map(answer, drop)
}

fn map<T>(answer: Trial<Value>, read: impl FnOnce(Value) -> T) -> Trial<T> {
    match answer {
        Trial::Answered(body) => Trial::Answered(read(body)),
        Trial::Refused { status, why } => Trial::Refused { status, why },
        Trial::Unreachable(why) => Trial::Unreachable(why),
    }
}

async fn call(
    method: Method,
    homeserver: &str,
    path: &str,
    token: Option<&str>,
    body: Option<Value>,
) -> Trial<Value> {
    let ask = async {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let url = format!("{}/_matrix/client/{path}", homeserver.trim_end_matches('/'));
        let mut request = client.request(method, url);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status();
        Ok::<_, reqwest::Error>((status, response.json().await.unwrap_or(Value::Null)))
    };
    match ask.await {
        Ok((StatusCode::OK, body)) => Trial::Answered(body),
        Ok((status, body)) => {
            let why = body["error"].as_str().unwrap_or("no reason given").to_owned();
            Trial::Refused { status: status.as_u16(), why }
        }
        Err(error) => Trial::Unreachable(causes(error)),
    }
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

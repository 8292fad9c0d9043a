//! The provider APIs over HTTP, through genai: the only file that knows it.
//!
//! What was found with genai 0.7.2 and is relied on here: HTTP errors of a stream arrive wrapped
//! as `WebStream`, status and headers inside; a stream may go on after an error, so the first one
//! ends it; a stream that ends without `End` was cut off; a base URL must end in `/`; a tool
//! result has no error flag, so Anthropic gets its own block and the others a prefix.

use super::{Delta, LlmError, Model, Price, Reply, Request, Stop, key};
use crate::config::{LlmConfig, Provider};
use crate::llm::tools::ToolSpec;
use crate::model::llm::{LlmMessage, Part, Speaker, Usage};
use crate::redact::redact;
use async_trait::async_trait;
use futures_util::StreamExt as _;
use genai::adapter::AdapterKind;
use genai::chat::{
    CacheControl, ChatMessage, ChatOptions, ChatRequest, ChatStreamEvent, ContentPart,
    MessageContent, StopReason, StreamEnd, Tool, ToolCall, ToolResponse,
};
use genai::resolver::{AuthData, Endpoint};
use genai::webc::StreamTimeout;
use genai::{Client, ModelIden, ServiceTarget};
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// How long a connection to the API may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the API may think before it begins to answer.
const HEADER_TIMEOUT: Duration = Duration::from_secs(180);

/// How long an answer may be silent; the APIs send pings much more often.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How much of an API's error text is shown.
const DETAIL_MAX: usize = 300;

/// One model of one provider.
pub struct Wire {
    client: Client,
    kind: AdapterKind,
    endpoint: Endpoint,
    key: Option<SecretString>,
    model: String,
    price: Option<Price>,
}

impl Wire {
    /// Reads the key and prepares the client; connects to nobody.
    pub fn new(config: &LlmConfig, model: &str, price: Option<Price>) -> Result<Self, LlmError> {
        let (kind, standard, version) = match config.provider {
            Provider::Anthropic => (AdapterKind::Anthropic, "https://api.anthropic.com", "v1"),
            Provider::Openai => (AdapterKind::OpenAI, "https://api.openai.com", "v1"),
            Provider::Gemini => {
                (AdapterKind::Gemini, "https://generativelanguage.googleapis.com", "v1beta")
            }
            Provider::Ollama => (AdapterKind::Ollama, "http://localhost:11434", ""),
            Provider::ClaudeCode | Provider::Replay => {
                return Err(LlmError::Setup("this provider has no HTTP API".to_owned()));
            }
        };
        let base = config.base_url.as_deref().unwrap_or(standard);
        let url = base_url(base, version)?;
        let key = key::read(config)?;
        if key.is_none() && config.base_url.is_none() && config.provider != Provider::Ollama {
            return Err(LlmError::Setup(
                "[llm] has no key: name its variable with api_key_env, or its file with \
                 api_key_file"
                    .to_owned(),
            ));
        }
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(format!("musher/{}", crate::version::plain()))
            // A redirect would carry the key to wherever it points.
            .redirect(reqwest::redirect::Policy::none());
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http
            .build()
            .map_err(|error| LlmError::Setup(format!("cannot prepare HTTP: {error}")))?;
        let client = Client::builder()
            .with_reqwest(http)
            .build()
            .map_err(|error| LlmError::Setup(format!("cannot prepare the model API: {error}")))?;
        Ok(Self {
            client,
            kind,
            endpoint: Endpoint::from_owned(url.as_str()),
            key,
            model: model.to_owned(),
            price,
        })
    }

    fn target(&self) -> ServiceTarget {
        // A server of one's own often wants no key, but the library wants one to send.
        let key = self.key.as_ref().map_or("none", |key| key.expose_secret());
        ServiceTarget {
            endpoint: self.endpoint.clone(),
            auth: AuthData::from_single(key),
            model: ModelIden::new(self.kind, self.model.as_str()),
        }
    }

    fn chat_request(&self, request: &Request<'_>) -> ChatRequest {
        let mut messages = translate(request.messages, self.kind);
        if self.kind == AdapterKind::Anthropic
            && let Some(last) = messages.pop()
        {
            // Everything up to here is the same in the next step: tools, system and history.
            messages.push(last.with_options(CacheControl::Ephemeral));
        }
        let mut chat = ChatRequest::new(messages);
        if !request.system.is_empty() {
            chat = chat.with_system(request.system);
        }
        if !request.tools.is_empty() {
            chat = chat.with_tools(request.tools.iter().map(tool));
        }
        chat
    }
}

#[async_trait]
impl Model for Wire {
    async fn attempt(
        &self,
        request: &Request<'_>,
        on: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<Reply, LlmError> {
        let options = ChatOptions::default()
            .with_max_tokens(request.max_output_tokens)
            .with_stream_header_timeout(HEADER_TIMEOUT)
            .with_stream_read_timeout(IDLE_TIMEOUT)
            .with_capture_usage(true)
            .with_capture_content(true)
            .with_capture_tool_calls(true)
            .with_capture_reasoning_content(true);
        let response = self
            .client
            .exec_chat_stream(self.target(), self.chat_request(request), Some(&options))
            .await
            .map_err(|error| classify(&error))?;
        let mut stream = response.stream;
        let mut announced = HashSet::new();
        while let Some(event) = stream.next().await {
            match event.map_err(|error| classify(&error))? {
                ChatStreamEvent::Chunk(chunk) => on(Delta::Text(chunk.content)),
                ChatStreamEvent::ToolCallChunk(chunk) => {
                    if announced.insert(chunk.tool_call.call_id) {
                        on(Delta::ToolCall { name: chunk.tool_call.fn_name });
                    }
                }
                ChatStreamEvent::End(end) => return Ok(self.reply(end)),
                ChatStreamEvent::Start
                | ChatStreamEvent::ReasoningChunk(_)
                | ChatStreamEvent::ThoughtSignatureChunk(_)
                | ChatStreamEvent::Heartbeat => {}
            }
        }
        Err(LlmError::BrokenOff { detail: "the connection closed before its end".to_owned() })
    }
}

impl Wire {
    fn reply(&self, end: StreamEnd) -> Reply {
        let parts: Vec<Part> =
            end.captured_content.map(|content| parts_of(content.into_parts())).unwrap_or_default();
        let calls = parts.iter().any(|part| matches!(part, Part::ToolCall { .. }));
        let stop = match end.captured_stop_reason {
            Some(StopReason::MaxTokens(_)) => Stop::MaxTokens,
            Some(StopReason::ContentFilter(_)) => Stop::Refused,
            // What counts is what stands in the answer: some servers say "stop" beside a call.
            Some(
                StopReason::Completed(_)
                | StopReason::ToolCall(_)
                | StopReason::StopSequence(_)
                | StopReason::Other(_),
            )
            | None
                if calls =>
            {
                Stop::ToolCalls
            }
            Some(
                StopReason::Completed(_)
                | StopReason::ToolCall(_)
                | StopReason::StopSequence(_)
                | StopReason::Other(_),
            )
            | None => Stop::End,
        };
        let (usage, cost_microusd) = self.usage(end.captured_usage.unwrap_or_default());
        let message = LlmMessage { speaker: Speaker::Assistant, parts };
        Reply { message, stop, usage, cost_microusd }
    }

    fn usage(&self, used: genai::chat::Usage) -> (Usage, i64) {
        let count = |tokens: Option<i32>| u64::try_from(tokens.unwrap_or(0)).unwrap_or(0);
        let details = used.prompt_tokens_details.unwrap_or_default();
        let cached = count(details.cached_tokens);
        let written = count(details.cache_creation_tokens);
        let output = count(used.completion_tokens);
        let input = count(used.prompt_tokens).saturating_sub(cached);
        let fresh = input.saturating_sub(written);
        let cost = self.price.map_or(0, |price| price.microusd(fresh, cached, written, output));
        (Usage { input, cached, output }, cost)
    }
}

/// Brings a base URL into the form that the library wants: with the API's version, when the
/// path does not end in one already, and a slash at the end.
fn base_url(base: &str, version: &str) -> Result<reqwest::Url, LlmError> {
    let wrong = |why: &str| {
        LlmError::Setup(format!(
            "[llm] base_url = \"{}\" {why}: give something like http://127.0.0.1:9999",
            redact(base)
        ))
    };
    let mut url =
        reqwest::Url::parse(base).map_err(|error| wrong(&format!("is no URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(wrong("is no http or https address"));
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let last = path.rsplit('/').next().unwrap_or_default();
    let versioned =
        last.strip_prefix('v').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let path = if versioned || version.is_empty() {
        format!("{path}/")
    } else {
        format!("{path}/{version}/")
    };
    url.set_path(&path);
    url.set_query(None);
    Ok(url)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_matches(['[', ']']);
        host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn tool(spec: &ToolSpec) -> Tool {
    Tool::new(spec.name.as_str())
        .with_description(spec.description.as_str())
        .with_schema(spec.schema.clone())
}

/// Our messages in the library's terms.
fn translate(messages: &[LlmMessage], kind: AdapterKind) -> Vec<ChatMessage> {
    let mut names: HashMap<&str, &str> = HashMap::new();
    let mut out = Vec::new();
    for message in messages {
        let (mut results, mut others) = (Vec::new(), Vec::new());
        for part in &message.parts {
            match part {
                // The APIs refuse empty text.
                Part::Text { text } if text.trim().is_empty() => {}
                Part::Text { text } => others.push(ContentPart::from_text(text.as_str())),
                Part::ToolCall { id, name, arguments } => {
                    names.insert(id, name);
                    others.push(ContentPart::ToolCall(ToolCall {
                        call_id: id.clone(),
                        fn_name: name.clone(),
                        fn_arguments: arguments.clone(),
                        thought_signatures: None,
                    }));
                }
                Part::ToolResult { id, text, is_error } => {
                    results.push(result_part(kind, id, names.get(id.as_str()), text, *is_error));
                }
                Part::Thinking { text, signature: Some(signature) } => {
                    others.push(ContentPart::ThoughtSignature(signature.clone()));
                    others.push(ContentPart::ReasoningContent(text.clone()));
                }
                // Thinking that nobody signed is not taken back.
                Part::Thinking { signature: None, .. } => {}
            }
        }
        // Results come first: they answer the calls of the message before.
        if !results.is_empty() {
            out.push(ChatMessage::tool(MessageContent::from_parts(results)));
        }
        if !others.is_empty() {
            let content = MessageContent::from_parts(others);
            out.push(match message.speaker {
                Speaker::User => ChatMessage::user(content),
                Speaker::Assistant => ChatMessage::assistant(content),
            });
        }
    }
    out
}

fn result_part(
    kind: AdapterKind,
    id: &str,
    name: Option<&&str>,
    text: &str,
    is_error: bool,
) -> ContentPart {
    if is_error && kind == AdapterKind::Anthropic {
        let block = json!({
            "type": "tool_result", "tool_use_id": id, "content": text, "is_error": true
        });
        return ContentPart::from_custom(block, None);
    }
    let text = if is_error { format!("ERROR: {text}") } else { text.to_owned() };
    let mut response = ToolResponse::new(id, text);
    if let Some(name) = name {
        response = response.with_fn_name(*name);
    }
    ContentPart::ToolResponse(response)
}

/// The library's answer in our terms.
fn parts_of(parts: Vec<ContentPart>) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::new();
    for part in parts {
        match part {
            ContentPart::Text(text) => {
                if !text.is_empty() {
                    out.push(Part::Text { text });
                }
            }
            ContentPart::ToolCall(call) => out.push(Part::ToolCall {
                id: call.call_id,
                name: call.fn_name,
                arguments: object(call.fn_arguments),
            }),
            ContentPart::ThoughtSignature(signature) => {
                out.push(Part::Thinking { text: String::new(), signature: Some(signature) });
            }
            ContentPart::ReasoningContent(reasoning) => {
                // Follows the signature that it belongs to.
                if let Some(Part::Thinking { text, .. }) = out.last_mut() {
                    *text = reasoning;
                }
            }
            ContentPart::Binary(_) | ContentPart::ToolResponse(_) | ContentPart::Custom(_) => {}
        }
    }
    out
}

/// Arguments are an object, whatever came: text that is none is kept where the tool's own check
/// of its arguments will show it to the model.
fn object(arguments: Value) -> Value {
    match arguments {
        Value::Object(_) => arguments,
        Value::Null => json!({}),
        Value::String(text) if text.trim().is_empty() => json!({}),
        Value::String(text) => match serde_json::from_str(&text) {
            Ok(Value::Object(map)) => Value::Object(map),
            Ok(_) | Err(_) => json!({ "not_json": text }),
        },
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => json!({ "not_json": arguments }),
    }
}

/// Finds out what a failure was, from status codes and the API's own error types.
// The library's error has thirty variants and will grow: only those that a stream can meet matter.
#[allow(clippy::wildcard_enum_match_arm)]
fn classify(error: &genai::Error) -> LlmError {
    match error {
        genai::Error::HttpError { status, body, headers, .. } => {
            by_status(status.as_u16(), body, headers)
        }
        genai::Error::WebStream { error: inner, cause, .. } => {
            if let Some(inner) = inner.downcast_ref::<genai::Error>() {
                return classify(inner);
            }
            if let Some(timeout) = inner.downcast_ref::<StreamTimeout>() {
                return LlmError::Unreachable { detail: timeout.to_string() };
            }
            if let Some(inner) = inner.downcast_ref::<reqwest::Error>() {
                return by_transport(inner);
            }
            LlmError::BrokenOff { detail: detail(cause) }
        }
        genai::Error::ChatResponse { body, .. } => in_stream(body),
        genai::Error::WebModelCall { webc_error: genai::webc::Error::Reqwest(inner), .. } => {
            by_transport(inner)
        }
        genai::Error::StreamParse { .. } | genai::Error::JsonValueExt(_) => LlmError::BrokenOff {
            detail: "the stream is not of the form that was expected".to_owned(),
        },
        other => match (other.status(), other.headers()) {
            (Some(status), Some(headers)) => {
                by_status(status.as_u16(), &other.to_string(), headers)
            }
            (Some(_) | None, _) => LlmError::BadRequest { detail: detail(&other.to_string()) },
        },
    }
}

fn by_transport(error: &reqwest::Error) -> LlmError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    if error.is_body() || error.is_decode() {
        LlmError::BrokenOff { detail: detail(&text) }
    } else {
        LlmError::Unreachable { detail: detail(&text) }
    }
}

fn by_status(status: u16, body: &str, headers: &HeaderMap) -> LlmError {
    let parsed: Value = serde_json::from_str(body).unwrap_or(Value::Null);
    let error = parsed.get("error").unwrap_or(&parsed);
    let message = error.get("message").and_then(Value::as_str).unwrap_or(body);
    let detail = format!("{status}: {}", detail(message));
    let kind = |wanted: &str| {
        ["type", "code"].iter().any(|key| error.get(key).and_then(Value::as_str) == Some(wanted))
    };
    if kind("insufficient_quota") || kind("billing_error") || status == 402 {
        return LlmError::NoCredit { detail };
    }
    // Anthropic gives these two no type of their own, only the beginning of the message.
    if status == 400 && message.starts_with("Your credit balance is too low") {
        return LlmError::NoCredit { detail };
    }
    if kind("context_length_exceeded")
        || status == 413
        || (status == 400 && message.starts_with("prompt is too long"))
    {
        return LlmError::ContextFull { detail };
    }
    match status {
        401 | 403 => LlmError::Unauthorised { detail },
        404 | 300..=399 => LlmError::NotFound { detail },
        429 => LlmError::RateLimited { retry_after: retry_after(headers) },
        408 | 500..=599 => LlmError::Overloaded { detail, retry_after: retry_after(headers) },
        _ => LlmError::BadRequest { detail },
    }
}

/// An error event inside a stream that had begun well.
fn in_stream(body: &Value) -> LlmError {
    let error = body.get("error").unwrap_or(body);
    let message = error.get("message").and_then(Value::as_str).unwrap_or("no reason given");
    let detail = detail(message);
    match error.get("type").and_then(Value::as_str).unwrap_or_default() {
        "rate_limit_error" | "rate_limit_exceeded" => LlmError::RateLimited { retry_after: None },
        "authentication_error" | "permission_error" => LlmError::Unauthorised { detail },
        "billing_error" | "insufficient_quota" => LlmError::NoCredit { detail },
        "invalid_request_error" => LlmError::BadRequest { detail },
        "not_found_error" => LlmError::NotFound { detail },
        // overloaded_error, api_error, server_error and what is not known.
        _ => LlmError::Overloaded { detail, retry_after: None },
    }
}

/// What the server asks to wait: `retry-after-ms`, or `retry-after` in seconds or as a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let positive = |number: f64| number.is_finite() && number >= 0.0;
    if let Some(millis) = text("retry-after-ms").and_then(|text| text.parse::<f64>().ok()) {
        return positive(millis).then(|| Duration::from_secs_f64(millis.min(1e9) / 1000.0));
    }
    let value = text("retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        return positive(seconds).then(|| Duration::from_secs_f64(seconds.min(1e6)));
    }
    let at = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    (at.with_timezone(&chrono::Utc) - chrono::Utc::now()).to_std().ok()
}

/// An API's words, without secrets and not too long.
fn detail(text: &str) -> String {
    let text = redact(text.trim());
    let mut cut: String = text.chars().take(DETAIL_MAX).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_reaches_the_api_with_and_without_its_version() {
        for (given, version, expected) in [
            ("http://127.0.0.1:9999", "v1", "http://127.0.0.1:9999/v1/"),
            ("http://127.0.0.1:9999/", "v1", "http://127.0.0.1:9999/v1/"),
            ("http://127.0.0.1:9999/v1", "v1", "http://127.0.0.1:9999/v1/"),
            ("https://openrouter.ai/api/v1/", "v1", "https://openrouter.ai/api/v1/"),
            ("https://example.org/compatible", "v1", "https://example.org/compatible/v1/"),
            (
                "https://generativelanguage.googleapis.com",
                "v1beta",
                "https://generativelanguage.googleapis.com/v1beta/",
            ),
            ("http://localhost:11434", "", "http://localhost:11434/"),
        ] {
            assert_eq!(base_url(given, version).unwrap().as_str(), expected);
        }
        assert!(base_url("localhost:9999", "v1").is_err());
        assert!(base_url("nonsense", "v1").is_err());
    }

    #[test]
    fn arguments_are_an_object_whatever_came() {
        for (given, expected) in [
            (json!({"a": 1}), json!({"a": 1})),
            (json!(""), json!({})),
            (Value::Null, json!({})),
            (json!("{\"a\": 1}"), json!({"a": 1})),
            (json!("{\"a\": "), json!({"not_json": "{\"a\": "})),
            (json!([1]), json!({"not_json": [1]})),
        ] {
            assert_eq!(object(given), expected);
        }
    }

    #[test]
    fn failures_are_told_apart_by_status_and_type() {
        let none = HeaderMap::new();
        let body = |kind: &str, message: &str| {
            json!({"error": {"type": kind, "message": message}}).to_string()
        };
        assert!(matches!(by_status(401, "", &none), LlmError::Unauthorised { .. }));
        assert!(matches!(by_status(529, "", &none), LlmError::Overloaded { .. }));
        assert!(matches!(by_status(404, "", &none), LlmError::NotFound { .. }));
        assert!(matches!(
            by_status(429, &body("insufficient_quota", "x"), &none),
            LlmError::NoCredit { .. }
        ));
        assert!(matches!(
            by_status(400, &body("invalid_request_error", "prompt is too long: 9 > 8"), &none),
            LlmError::ContextFull { .. }
        ));
        assert!(matches!(
            by_status(400, &body("invalid_request_error", "no"), &none),
            LlmError::BadRequest { .. }
        ));
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", "7".parse().unwrap());
        let expected = LlmError::RateLimited { retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(by_status(429, "", &headers), expected);
    }
}

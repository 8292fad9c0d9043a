//! The stream-json protocol: from lines to what they mean. Pure.
//!
//! What is not known is [`Native::Other`] and passed over: the CLI says more with each release.

use crate::agents::asks::Question;
use crate::model::agent::Failure;
use crate::model::llm::Usage;
use chrono::{DateTime, Utc};
use serde_json::Value;
use std::collections::BTreeMap;

use super::super::TurnOutcome;
use super::super::shown::{cut, one_line, text, tool_summary};

/// A line of the CLI's stdout.
#[derive(Debug, Clone, PartialEq)]
pub enum Native {
    /// A turn begins: said for each one.
    Init {
        /// The session.
        session: String,
        /// The model.
        model: String,
        /// Tool servers that are not connected.
        bad_servers: Vec<String>,
    },
    /// `running`, `idle`, `requires_action`.
    State(String),
    /// The model said something or wants tools. One API message is several of these.
    Assistant {
        /// In order.
        blocks: Vec<Block>,
        /// What failed, when the message stands for a failed request.
        error: Option<String>,
        /// Whether it is a subagent's.
        nested: bool,
    },
    /// Tools answered.
    ToolResults(Vec<ToolResult>),
    /// A message of ours was taken in.
    Replay(String),
    /// The turn ended; boxed for its size.
    Result(Box<TurnReport>),
    /// The CLI wants something.
    Request {
        /// To answer it.
        id: String,
        /// What.
        request: Value,
    },
    /// The CLI answers, or echoes our answer.
    Response {
        /// The request.
        id: String,
        /// What it answered, or what failed.
        answer: Result<Value, String>,
    },
    /// The CLI takes a request back.
    Cancelled(String),
    /// A rate limit.
    RateLimit {
        /// Whether nothing works until then.
        blocked: bool,
        /// Until when.
        until: Option<DateTime<Utc>>,
    },
    /// The API failed and is asked again.
    Retry {
        /// Which attempt.
        attempt: u64,
        /// What failed.
        error: String,
    },
    /// Anything else, by its type.
    Other(String),
}

/// A piece of what a model said.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// Text.
    Text(String),
    /// A tool to be run.
    Tool {
        /// Its call.
        id: String,
        /// Its name.
        name: String,
        /// Its arguments, in short.
        summary: String,
    },
}

/// What a tool answered.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolResult {
    /// Its call.
    pub id: String,
    /// Whether it worked.
    pub ok: bool,
    /// The answer, in short.
    pub summary: String,
}

/// The `result` line.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnReport {
    /// `success`, `error_during_execution`, …
    pub subtype: String,
    /// Whether it failed; a failed one may say `success`.
    pub is_error: bool,
    /// The HTTP status that failed it.
    pub api_error_status: Option<u64>,
    /// The last text, or what failed.
    pub text: String,
    /// The session.
    pub session: Option<String>,
    /// What each model has used since the process started, and its cost in millionths of a dollar.
    pub used: BTreeMap<String, (Usage, i64)>,
}

/// Reads a line; an error when it is no JSON object.
pub fn parse(line: &str) -> Result<Native, String> {
    let value: Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let Some(kind) = value.get("type").and_then(Value::as_str) else {
        return match value.is_object() {
            true => Ok(Native::Other("(no type)".to_owned())),
            false => Err("not an object".to_owned()),
        };
    };
    Ok(match kind {
        "system" => system(&value),
        "assistant" => assistant(&value),
        "user" => user(&value),
        "result" => Native::Result(Box::new(result(&value))),
        "control_request" => Native::Request {
            id: text(&value, "request_id"),
            request: value.get("request").cloned().unwrap_or(Value::Null),
        },
        "control_response" => response(&value),
        "control_cancel_request" => Native::Cancelled(text(&value, "request_id")),
        "rate_limit_event" => rate_limit(&value),
        other => Native::Other(other.to_owned()),
    })
}

fn system(value: &Value) -> Native {
    let subtype = text(value, "subtype");
    match subtype.as_str() {
        "init" => {
            let servers = value.get("mcp_servers").and_then(Value::as_array);
            let bad = servers.into_iter().flatten().filter(|server| {
                matches!(text(server, "status").as_str(), "failed" | "needs-auth" | "disabled")
            });
            Native::Init {
                session: text(value, "session_id"),
                model: text(value, "model"),
                bad_servers: bad.map(|server| text(server, "name")).collect(),
            }
        }
        "session_state_changed" => Native::State(text(value, "state")),
        "api_retry" => Native::Retry {
            attempt: value.get("attempt").and_then(Value::as_u64).unwrap_or(0),
            error: match value.get("error_status").and_then(Value::as_u64) {
                Some(status) => format!("{} (HTTP {status})", text(value, "error")),
                None => text(value, "error"),
            },
        },
        other => Native::Other(format!("system/{other}")),
    }
}

fn assistant(value: &Value) -> Native {
    let content = value.pointer("/message/content").and_then(Value::as_array);
    let blocks = content.into_iter().flatten().filter_map(|block| {
        match block.get("type").and_then(Value::as_str)? {
            "text" => Some(Block::Text(text(block, "text"))),
            "tool_use" => Some(Block::Tool {
                id: text(block, "id"),
                name: text(block, "name"),
                summary: cut(&tool_summary(block.get("input").unwrap_or(&Value::Null))),
            }),
            _thinking => None,
        }
    });
    Native::Assistant {
        blocks: blocks.collect(),
        error: value.get("error").and_then(Value::as_str).map(str::to_owned),
        nested: value.get("parent_tool_use_id").is_some_and(Value::is_string),
    }
}

fn user(value: &Value) -> Native {
    if value.get("isReplay").and_then(Value::as_bool) == Some(true) {
        return Native::Replay(text(value, "uuid"));
    }
    let content = value.pointer("/message/content").and_then(Value::as_array);
    let results = content
        .into_iter()
        .flatten()
        .filter(|block| block.get("type").and_then(Value::as_str) == Some("tool_result"));
    Native::ToolResults(
        results
            .map(|block| ToolResult {
                id: text(block, "tool_use_id"),
                ok: block.get("is_error").and_then(Value::as_bool) != Some(true),
                summary: cut(&content_text(block.get("content").unwrap_or(&Value::Null))),
            })
            .collect(),
    )
}

/// The text of a tool's answer: a string, or blocks.
fn content_text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => {
            let texts: Vec<&str> = blocks
                .iter()
                .map(|block| block.get("text").and_then(Value::as_str).unwrap_or("(not text)"))
                .collect();
            texts.join("\n")
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => content.to_string(),
    }
}

fn response(value: &Value) -> Native {
    let response = value.get("response").unwrap_or(&Value::Null);
    let answer = match text(response, "subtype").as_str() {
        "success" => Ok(response.get("response").cloned().unwrap_or(Value::Null)),
        _error => Err(text(response, "error")),
    };
    Native::Response { id: text(response, "request_id"), answer }
}

fn rate_limit(value: &Value) -> Native {
    let info = value.get("rate_limit_info").unwrap_or(&Value::Null);
    let until = info.get("resetsAt").and_then(|at| match at {
        Value::Number(number) => seconds_or_millis(number.as_i64()?),
        Value::String(text) => {
            DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc))
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    });
    Native::RateLimit { blocked: text(info, "status") == "rejected", until }
}

fn seconds_or_millis(number: i64) -> Option<DateTime<Utc>> {
    /// As seconds the year 5138: what is larger is milliseconds.
    const MILLIS_FROM: i64 = 100_000_000_000;
    let seconds = if number >= MILLIS_FROM { number / 1000 } else { number };
    DateTime::from_timestamp(seconds, 0)
}

fn result(value: &Value) -> TurnReport {
    let models = value.get("modelUsage").and_then(Value::as_object);
    let used = models.into_iter().flatten().map(|(model, usage)| {
        let tokens = |key: &str| usage.get(key).and_then(Value::as_u64).unwrap_or(0);
        let dollars = usage.get("costUSD").and_then(Value::as_f64).unwrap_or(0.0);
        let usage = Usage {
            input: tokens("inputTokens") + tokens("cacheCreationInputTokens"),
            cached: tokens("cacheReadInputTokens"),
            output: tokens("outputTokens"),
        };
        (model.clone(), (usage, (dollars * 1e6).round() as i64))
    });
    TurnReport {
        subtype: text(value, "subtype"),
        is_error: value.get("is_error").and_then(Value::as_bool).unwrap_or(false),
        api_error_status: value.get("api_error_status").and_then(Value::as_u64),
        text: match value.get("result").and_then(Value::as_str) {
            Some(text) => text.to_owned(),
            None => errors(value),
        },
        session: value.get("session_id").and_then(Value::as_str).map(str::to_owned),
        used: used.collect(),
    }
}

/// The CLI's tool by which a model asks a person.
pub const QUESTIONS: &str = "AskUserQuestion";

/// The questions in a call of [`QUESTIONS`].
pub fn questions(input: &Value) -> Vec<Question> {
    let text = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let list = |value: &Value, key: &str| {
        value.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let question = |value: &Value| Question {
        text: text(value, "question"),
        options: list(value, "options").iter().map(|option| text(option, "label")).collect(),
        several: value.get("multiSelect").and_then(Value::as_bool).unwrap_or(false),
    };
    list(input, "questions").iter().map(question).collect()
}

fn errors(value: &Value) -> String {
    let errors = value.get("errors").and_then(Value::as_array);
    let texts: Vec<&str> = errors.into_iter().flatten().filter_map(Value::as_str).collect();
    texts.join("; ")
}

/// What a turn came to. `error` is that of the last assistant line, `until` that of a rate limit
/// that blocks, `interrupted` whether we asked for the end.
pub fn outcome(
    report: &TurnReport,
    error: Option<&str>,
    until: Option<DateTime<Utc>>,
    interrupted: bool,
) -> TurnOutcome {
    let failed = |failure, message: String| TurnOutcome::Failed { failure, message };
    match report.subtype.as_str() {
        "error_max_turns" => return TurnOutcome::Limit("its limit of model calls".to_owned()),
        "error_max_budget_usd" => return TurnOutcome::Limit("its limit of money".to_owned()),
        "error_during_execution" if interrupted => return TurnOutcome::Interrupted,
        "error_during_execution" if report.text.contains("No conversation found") => {
            return failed(Failure::SessionLost, report.text.clone());
        }
        _other => {}
    }
    if !report.is_error {
        return TurnOutcome::Done;
    }
    if interrupted {
        return TurnOutcome::Interrupted;
    }
    let said = one_line(&report.text);
    let lower = said.to_lowercase();
    let signed_out = lower.contains("not logged in") || lower.contains("credit balance");
    match (report.api_error_status, error) {
        (Some(401..=403), _) | (_, Some("authentication_failed" | "billing_error")) => {
            failed(Failure::Auth, auth_message(&said))
        }
        _ if signed_out => failed(Failure::Auth, auth_message(&said)),
        (Some(429), _) | (_, Some("rate_limit")) => TurnOutcome::RateLimited(until),
        (Some(413), _) => failed(Failure::ContextFull, said),
        (Some(400), _) if lower.contains("too long") => failed(Failure::ContextFull, said),
        (Some(400..=499), _) | (_, Some("invalid_request" | "model_not_found")) => {
            failed(Failure::BadRequest, said)
        }
        (Some(_), _) | (None, Some(_)) => failed(Failure::Provider, said),
        (None, None) => failed(Failure::Provider, said),
    }
}

fn auth_message(said: &str) -> String {
    format!(
        "Claude Code is not allowed to call the model ({said}). Give the server ANTHROPIC_API_KEY, \
         or CLAUDE_CODE_OAUTH_TOKEN from `claude setup-token`, name it in the agent's `env`, and \
         restart"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(subtype: &str, is_error: bool, status: Option<u64>, text: &str) -> TurnReport {
        TurnReport {
            subtype: subtype.to_owned(),
            is_error,
            api_error_status: status,
            text: text.to_owned(),
            session: None,
            used: BTreeMap::new(),
        }
    }

    #[test]
    fn a_failed_turn_that_says_success_is_a_failure() {
        let failure = |status, error, text| match outcome(
            &report("success", true, status, text),
            error,
            None,
            false,
        ) {
            TurnOutcome::Failed { failure, .. } => Some(failure),
            TurnOutcome::Done
            | TurnOutcome::Interrupted
            | TurnOutcome::Limit(_)
            | TurnOutcome::Spent(_)
            | TurnOutcome::RateLimited(_) => None,
        };
        assert_eq!(failure(Some(401), None, ""), Some(Failure::Auth));
        assert_eq!(failure(None, None, "Not logged in · Please run /login"), Some(Failure::Auth));
        assert_eq!(failure(Some(400), None, "Your credit balance is too low"), Some(Failure::Auth));
        assert_eq!(failure(Some(429), Some("rate_limit"), ""), None);
        assert_eq!(failure(Some(529), Some("server_error"), ""), Some(Failure::Provider));
        assert_eq!(failure(None, Some("unknown"), "Connection error."), Some(Failure::Provider));
        assert_eq!(failure(Some(404), Some("model_not_found"), ""), Some(Failure::BadRequest));
        assert_eq!(failure(Some(400), None, "prompt is too long"), Some(Failure::ContextFull));
    }

    #[test]
    fn an_interrupt_is_told_from_a_failure_by_who_asked_for_it() {
        let broken = report("error_during_execution", true, None, "");
        assert_eq!(outcome(&broken, None, None, true), TurnOutcome::Interrupted);
        assert!(matches!(outcome(&broken, None, None, false), TurnOutcome::Failed { .. }));
        let done = report("success", false, None, "hi");
        assert_eq!(outcome(&done, None, None, true), TurnOutcome::Done);
    }

    #[test]
    fn unknown_lines_are_opaque_and_other_text_is_an_error() {
        for (line, kind) in [
            (r#"{"type":"tool_progress","x":1}"#, "tool_progress"),
            (r#"{"type":"system","subtype":"compact_boundary"}"#, "system/compact_boundary"),
            (r#"{"no":"type"}"#, "(no type)"),
        ] {
            assert_eq!(parse(line), Ok(Native::Other(kind.to_owned())));
        }
        assert!(parse("Segmentation fault").is_err());
        assert!(parse("[1]").is_err());
    }

    #[test]
    fn a_hard_rate_limit_names_its_end() {
        let line = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1800000000}}"#;
        let until = DateTime::from_timestamp(1_800_000_000, 0);
        assert_eq!(parse(line), Ok(Native::RateLimit { blocked: true, until }));
        let soft = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"allowed_warning"}}"#;
        assert_eq!(parse(soft), Ok(Native::RateLimit { blocked: false, until: None }));
    }
}

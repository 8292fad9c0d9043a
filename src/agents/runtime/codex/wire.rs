//! What the app-server says: from notifications to what they mean. Pure.
//!
//! What is not known is [`Told::Other`] and passed over: the CLI says more with each release.

use super::super::TurnOutcome;
use super::super::shown::{cut, one_line, text, tool_summary};
use crate::model::agent::Failure;
use crate::model::llm::Usage;
use chrono::{DateTime, Utc};
use serde_json::Value;

/// A notification.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// A turn begins.
    TurnStarted(String),
    /// The turn is over; the turn itself, with its status and error.
    TurnCompleted(Value),
    /// A message of ours was taken in, by our id for it.
    Consumed(String),
    /// The model said something.
    Text(String),
    /// A tool is about to run.
    ToolStart {
        /// Its call.
        id: String,
        /// Its name.
        name: String,
        /// Its arguments, in short.
        summary: String,
    },
    /// A patch is about to be applied: files, by path.
    Changes {
        /// Its call.
        id: String,
        /// The files.
        paths: Vec<String>,
    },
    /// A tool has run.
    ToolEnd {
        /// Its call.
        id: String,
        /// Whether it worked.
        ok: bool,
        /// Its answer, in short.
        summary: String,
    },
    /// A command as the model wrote it.
    RawCall {
        /// Its call.
        id: String,
        /// The shell line, where it is one text.
        command: String,
        /// Whether it is to run outside of the sandbox.
        escalated: bool,
    },
    /// What the last model call used, and the thread in all, which tells a repetition.
    Used {
        /// Of the last call.
        last: Usage,
        /// All tokens of the thread.
        total: u64,
    },
    /// The API failed and is asked again.
    Retry(String),
    /// The API failed for good; the end of the turn says it again.
    Error(Value),
    /// A request was answered or withdrawn.
    Resolved(Value),
    /// A rate limit was reached.
    Limited(Option<DateTime<Utc>>),
    /// A tool server failed to start.
    BadServer(String),
    /// Progress: a sign of life, and nothing more.
    Progress,
    /// Anything else, by its method.
    Other(String),
}

/// Reads a notification.
pub fn read(method: &str, params: &Value) -> Told {
    match method {
        "turn/started" => Told::TurnStarted(path(params, "/turn/id")),
        "turn/completed" => Told::TurnCompleted(params["turn"].clone()),
        "item/started" => started(&params["item"]),
        "item/completed" => completed(&params["item"]),
        "rawResponseItem/completed" => raw(&params["item"]),
        "thread/tokenUsage/updated" => Told::Used {
            last: usage(&params["tokenUsage"]["last"]),
            total: params["tokenUsage"]["total"]["totalTokens"].as_u64().unwrap_or(0),
        },
        "error" if params["willRetry"] == true => Told::Retry(error_text(&params["error"])),
        "error" => Told::Error(params["error"].clone()),
        "serverRequest/resolved" => Told::Resolved(params["requestId"].clone()),
        "account/rateLimits/updated" => limits(&params["rateLimits"]),
        "mcpServer/startupStatus/updated" if params["status"] == "failed" => {
            Told::BadServer(text(params, "name"))
        }
        "warning" | "configWarning" | "deprecationNotice" | "guardianWarning"
        | "model/rerouted" | "thread/compacted" => {
            let words = ["message", "summary"].map(|key| text(params, key));
            Told::Other(cut(format!("{method} {}", words.concat()).trim()))
        }
        known if is_progress(known) => Told::Progress,
        other => Told::Other(other.to_owned()),
    }
}

fn is_progress(method: &str) -> bool {
    method.ends_with("elta")
        || ["thread/", "rawResponse/", "item/", "hook/", "mcpServer/", "turn/", "skills/"]
            .iter()
            .any(|known| method.starts_with(known))
        || method == "remoteControl/status/changed"
}

fn path(value: &Value, pointer: &str) -> String {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn started(item: &Value) -> Told {
    let id = text(item, "id");
    match text(item, "type").as_str() {
        "userMessage" => Told::Consumed(text(item, "clientId")),
        "commandExecution" => Told::ToolStart {
            id,
            name: SHELL.to_owned(),
            summary: cut(&script(&text(item, "command"))),
        },
        "fileChange" => {
            let changes = item["changes"].as_array().into_iter().flatten();
            Told::Changes { id, paths: changes.map(|change| text(change, "path")).collect() }
        }
        "dynamicToolCall" => Told::ToolStart {
            id,
            name: text(item, "tool"),
            summary: cut(&tool_summary(&item["arguments"])),
        },
        "mcpToolCall" => Told::ToolStart {
            id,
            name: format!("mcp__{}__{}", text(item, "server"), text(item, "tool")),
            summary: cut(&tool_summary(&item["arguments"])),
        },
        _other => Told::Progress,
    }
}

fn completed(item: &Value) -> Told {
    let id = text(item, "id");
    let done = item["status"] == "completed";
    match text(item, "type").as_str() {
        "agentMessage" => Told::Text(text(item, "text")),
        "commandExecution" => Told::ToolEnd {
            id,
            ok: done && item["exitCode"].as_i64().unwrap_or(0) == 0,
            summary: cut(&text(item, "aggregatedOutput")),
        },
        "fileChange" => Told::ToolEnd { id, ok: done, summary: text(item, "status") },
        "dynamicToolCall" => Told::ToolEnd {
            id,
            ok: done && item["success"] != false,
            summary: cut(&contents(&item["contentItems"])),
        },
        "mcpToolCall" => Told::ToolEnd {
            id,
            ok: done && item["error"].is_null(),
            summary: cut(&contents(&item["result"]["content"])),
        },
        _other => Told::Progress,
    }
}

/// What commands are called in rules and in the log: as other CLIs call it, so that a rule means
/// the same for each of them.
pub const SHELL: &str = "Bash";

/// What changes of files are called.
pub const EDIT: &str = "Edit";

fn contents(items: &Value) -> String {
    let texts = items.as_array().into_iter().flatten().map(|item| text(item, "text"));
    texts.collect::<Vec<_>>().join("\n")
}

/// A call as the model made it. Shells are called differently from model to model.
pub fn raw(item: &Value) -> Told {
    if item["type"] != "function_call" {
        return Told::Progress;
    }
    let Ok(arguments) = serde_json::from_str::<Value>(&text(item, "arguments")) else {
        return Told::Progress;
    };
    let inside = ["", "use_default"].contains(&&*text(&arguments, "sandbox_permissions"));
    let line = ["cmd", "command"].map(|key| text(&arguments, key)).concat();
    Told::RawCall {
        id: text(item, "call_id"),
        command: line,
        escalated: !inside || arguments["with_escalated_permissions"] == true,
    }
}

fn usage(value: &Value) -> Usage {
    let tokens = |key: &str| value[key].as_u64().unwrap_or(0);
    let cached = tokens("cachedInputTokens");
    Usage {
        input: tokens("inputTokens").saturating_sub(cached),
        cached,
        output: tokens("outputTokens"),
    }
}

fn limits(limits: &Value) -> Told {
    if limits["rateLimitReachedType"].is_null() {
        return Told::Progress;
    }
    let full = ["primary", "secondary"].into_iter().filter_map(|window| {
        let window = &limits[window];
        let full = window["usedPercent"].as_f64().unwrap_or(0.0) >= 100.0;
        DateTime::from_timestamp(window["resetsAt"].as_i64().filter(|_| full)?, 0)
    });
    Told::Limited(full.max())
}

/// The shell line within the call of a shell, `/bin/bash -lc 'line'`.
///
/// What cannot be taken apart is given back whole: a rule then sees the shell.
pub fn script(command: &str) -> String {
    let quoted = ["-lc ", "-c "].iter().find_map(|flag| {
        let (shell, rest) = command.split_once(flag)?;
        (!shell.contains(['\'', '"']) && shell.trim_end().ends_with("sh")).then_some(rest)
    });
    quoted.and_then(unquote).unwrap_or_else(|| command.to_owned())
}

/// One word of a shell's quoting; `None` when it is more than one.
fn unquote(word: &str) -> Option<String> {
    let mut plain = String::new();
    let mut letters = word.trim().chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => loop {
                match letters.next()? {
                    '\'' => break,
                    inner => plain.push(inner),
                }
            },
            '"' => loop {
                match letters.next()? {
                    '"' => break,
                    '\\' => match letters.next()? {
                        special @ ('"' | '\\' | '$' | '`') => plain.push(special),
                        other => plain.extend(['\\', other]),
                    },
                    inner => plain.push(inner),
                }
            },
            '\\' => plain.push(letters.next()?),
            blank if blank.is_whitespace() => return None,
            other => plain.push(other),
        }
    }
    Some(plain)
}

fn error_text(error: &Value) -> String {
    let (message, details) = (text(error, "message"), text(error, "additionalDetails"));
    if details.is_empty() { message } else { format!("{message}: {details}") }
}

/// What a turn came to. `until` is that of a rate limit that was reached.
pub fn outcome(turn: &Value, until: Option<DateTime<Utc>>) -> TurnOutcome {
    match text(turn, "status").as_str() {
        "completed" => TurnOutcome::Done,
        "interrupted" => TurnOutcome::Interrupted,
        _failed => failure(&turn["error"], until),
    }
}

fn failure(error: &Value, until: Option<DateTime<Utc>>) -> TurnOutcome {
    let info = &error["codexErrorInfo"];
    let kind = match info {
        Value::String(kind) => kind.clone(),
        Value::Object(object) => object.keys().next().cloned().unwrap_or_default(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => String::new(),
    };
    let status = info.get(kind.as_str()).and_then(|inner| inner["httpStatusCode"].as_u64());
    let said = one_line(&error_text(error));
    let lower = said.to_lowercase();
    let failed = |failure| TurnOutcome::Failed { failure, message: said.clone() };
    let unpaid = ["check your plan and billing", "insufficient_quota", "quota exceeded"];
    if matches!(status, Some(401..=403))
        || kind == "unauthorized"
        || unpaid.iter().any(|words| lower.contains(words))
    {
        return TurnOutcome::Failed { failure: Failure::Auth, message: auth_message(&said) };
    }
    match (kind.as_str(), status) {
        ("usageLimitExceeded" | "rateLimitExceeded", _) | (_, Some(429)) => {
            TurnOutcome::RateLimited(until)
        }
        ("sessionBudgetExceeded", _) => TurnOutcome::Limit("Codex's own budget".to_owned()),
        ("contextWindowExceeded", _) | (_, Some(413)) => failed(Failure::ContextFull),
        ("badRequest" | "modelNotFound" | "cyberPolicy", _) | (_, Some(400..=499)) => {
            failed(Failure::BadRequest)
        }
        _provider => failed(Failure::Provider),
    }
}

fn auth_message(said: &str) -> String {
    format!(
        "Codex is not allowed to call the model ({said}). Give the server OPENAI_API_KEY, name it \
         in the agent's `env`, and restart; or run `codex login` as the user that Musher runs as"
    )
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm)] // a test picks the one case that it is about
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_shell_line_is_what_the_shell_is_given() {
        for (command, line) in [
            ("/bin/bash -lc 'touch x'", "touch x"),
            (r#"/bin/bash -lc "echo 'a' \"b\" \$c; ls""#, "echo 'a' \"b\" $c; ls"),
            ("/bin/zsh -c ls", "ls"),
            (r"bash -lc 'it'\''s'", "it's"),
            ("bash -lc ls extra", "bash -lc ls extra"),
            ("bash -lc 'open", "bash -lc 'open"),
            ("git commit -c x", "git commit -c x"),
        ] {
            assert_eq!(script(command), line, "{command}");
        }
    }

    #[test]
    fn failures_are_told_apart() {
        let turn = |info: Value, message: &str| json!({"status": "failed", "error": {"message": message, "codexErrorInfo": info}});
        let status = |kind: &str, status: u16| json!({kind: {"httpStatusCode": status}});
        let sort = |turn: &Value| match outcome(turn, None) {
            TurnOutcome::Failed { failure, .. } => Some(failure),
            TurnOutcome::RateLimited(_) => None,
            other => panic!("{other:?}"),
        };
        for (info, message, failure) in [
            (status("httpConnectionFailed", 401), "unexpected status 401", Some(Failure::Auth)),
            (json!("unauthorized"), "", Some(Failure::Auth)),
            (json!("other"), "Quota exceeded. Check your plan and billing", Some(Failure::Auth)),
            (status("responseTooManyFailedAttempts", 429), "exceeded retry limit", None),
            (json!("usageLimitExceeded"), "You've hit your usage limit.", None),
            (json!("internalServerError"), "high demand", Some(Failure::Provider)),
            (
                json!({"responseStreamConnectionFailed": {"httpStatusCode": null}}),
                "",
                Some(Failure::Provider),
            ),
            (json!("contextWindowExceeded"), "", Some(Failure::ContextFull)),
            (json!("modelNotFound"), "", Some(Failure::BadRequest)),
            (json!({"new": {}}), "", Some(Failure::Provider)),
            (Value::Null, "", Some(Failure::Provider)),
        ] {
            assert_eq!(sort(&turn(info.clone(), message)), failure, "{info} {message}");
        }
        assert_eq!(outcome(&json!({"status": "interrupted"}), None), TurnOutcome::Interrupted);
        assert_eq!(outcome(&json!({"status": "completed"}), None), TurnOutcome::Done);
    }

    #[test]
    fn a_call_that_leaves_the_sandbox_is_known_by_its_arguments() {
        let raw = |arguments: &str| {
            let item = json!({"type": "function_call", "name": "exec_command", "call_id": "c", "arguments": arguments});
            match read("rawResponseItem/completed", &json!({"item": item})) {
                Told::RawCall { escalated, .. } => Some(escalated),
                _other => None,
            }
        };
        assert_eq!(raw(r#"{"cmd": "ls"}"#), Some(false));
        assert_eq!(raw(r#"{"cmd": "ls", "sandbox_permissions": "use_default"}"#), Some(false));
        assert_eq!(raw(r#"{"cmd": "ls", "sandbox_permissions": "require_escalated"}"#), Some(true));
        assert_eq!(raw(r#"{"command": ["ls"], "with_escalated_permissions": true}"#), Some(true));
        assert_eq!(raw("no json"), None);
    }

    #[test]
    fn cached_input_is_not_counted_twice() {
        let params = json!({"tokenUsage": {
            "last": {"inputTokens": 100, "cachedInputTokens": 40, "outputTokens": 7},
            "total": {"totalTokens": 214},
        }});
        let expected = Usage { input: 60, cached: 40, output: 7 };
        let told = read("thread/tokenUsage/updated", &params);
        assert_eq!(told, Told::Used { last: expected, total: 214 });
    }

    #[test]
    fn what_is_not_known_is_kept_as_such() {
        assert_eq!(read("brand/new", &json!({})), Told::Other("brand/new".to_owned()));
        assert_eq!(read("item/new/outputDelta", &json!({})), Told::Progress);
    }
}

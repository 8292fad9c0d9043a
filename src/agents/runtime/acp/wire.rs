//! What agents say: from updates to what they mean, and how turns end. Pure.
//!
//! What is not known is [`Update::Other`] and passed over.

use super::super::TurnOutcome;
use super::super::rpc::RpcError;
use super::super::shown::{cut, one_line, text, tool_summary};
use crate::model::agent::Failure;
use crate::model::llm::Usage;
use serde_json::Value;

/// An update of a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A piece of what the model says.
    Chunk {
        /// Which message it belongs to, where the agent says it.
        message: String,
        /// The piece.
        text: String,
    },
    /// A tool, as it stands: known in full only after some updates.
    Tool {
        /// Its call.
        id: String,
        /// Its name, as far as this update says it.
        name: Option<String>,
        /// Its arguments, in short, once they are known.
        summary: Option<String>,
        /// Whether it is over, and then whether it worked and what it answered.
        ended: Option<(bool, String)>,
    },
    /// What the session has cost so far, in millionths of a US dollar; and the model.
    Used {
        /// Where the agent says it.
        microusd: Option<i64>,
        /// Where the agent says it.
        model: Option<String>,
    },
    /// A sign of life.
    Progress,
    /// Anything else, by its name.
    Other(String),
}

/// Reads the `update` of a `session/update`.
pub fn read(update: &Value) -> Update {
    match text(update, "sessionUpdate").as_str() {
        "agent_message_chunk" => Update::Chunk {
            message: text(update, "messageId"),
            text: text(&update["content"], "text"),
        },
        "tool_call" => {
            let name = Some(tool_name(update));
            tool(update, name)
        }
        "tool_call_update" => {
            let said = ["name", "title", "kind"].iter().any(|key| !update[*key].is_null());
            tool(update, said.then(|| tool_name(update)))
        }
        "usage_update" => Update::Used {
            microusd: cost(&update["cost"]),
            model: update["_meta"]["_claude/model"].as_str().map(str::to_owned),
        },
        "agent_thought_chunk"
        | "plan"
        | "available_commands_update"
        | "current_mode_update"
        | "config_option_update"
        | "session_info_update"
        | "user_message_chunk" => Update::Progress,
        other => Update::Other(other.to_owned()),
    }
}

fn tool(update: &Value, name: Option<String>) -> Update {
    let raw = &update["rawInput"];
    let known = raw.as_object().is_some_and(|raw| !raw.is_empty());
    let status = text(update, "status");
    let ended = match status.as_str() {
        "completed" => Some((true, cut(&answer(update)))),
        "failed" => Some((false, cut(&answer(update)))),
        _running => None,
    };
    Update::Tool {
        id: text(update, "toolCallId"),
        name,
        summary: known.then(|| cut(&tool_summary(raw))),
        ended,
    }
}

fn answer(update: &Value) -> String {
    if let Some(said) = update["rawOutput"].as_str() {
        return said.to_owned();
    }
    let contents = update["content"].as_array().into_iter().flatten();
    let texts = contents.filter_map(|content| content["content"]["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

/// What a tool is called: as the agent names it, else by its kind, as rules name such tools.
pub fn tool_name(call: &Value) -> String {
    let named = [&call["name"], &call["_meta"]["claudeCode"]["toolName"]];
    if let Some(name) = named.iter().find_map(|name| name.as_str()) {
        return name.to_owned();
    }
    match text(call, "kind").as_str() {
        "execute" => "Bash".to_owned(),
        "edit" | "delete" | "move" => "Edit".to_owned(),
        "read" => "Read".to_owned(),
        "search" => "Grep".to_owned(),
        "fetch" => "WebFetch".to_owned(),
        _other => cut(&one_line(&text(call, "title"))),
    }
}

fn cost(cost: &Value) -> Option<i64> {
    let dollars = cost["amount"].as_f64()?;
    (cost["currency"] == "USD").then_some((dollars * 1e6).round() as i64)
}

/// What a turn used, where its end says so.
pub fn usage(answer: &Value) -> Option<Usage> {
    let usage = answer.get("usage").filter(|usage| usage.is_object())?;
    let tokens = |key: &str| usage[key].as_u64().unwrap_or(0);
    Some(Usage {
        input: tokens("inputTokens") + tokens("cachedWriteTokens"),
        cached: tokens("cachedReadTokens"),
        output: tokens("outputTokens") + tokens("thoughtTokens"),
    })
}

/// What a turn came to.
pub fn outcome(ended: &Result<Value, RpcError>) -> TurnOutcome {
    let answer = match ended {
        Ok(answer) => answer,
        Err(error) => return failure(error),
    };
    match text(answer, "stopReason").as_str() {
        "cancelled" => TurnOutcome::Interrupted,
        "max_tokens" => TurnOutcome::Limit("its limit of output tokens".to_owned()),
        "max_turn_requests" => TurnOutcome::Limit("its limit of model calls".to_owned()),
        "refusal" => TurnOutcome::Failed {
            failure: Failure::BadRequest,
            message: "the model refused to go on".to_owned(),
        },
        _end_turn => TurnOutcome::Done,
    }
}

/// What an error of the protocol means. `-32000` is "authentication required".
pub fn failure(error: &RpcError) -> TurnOutcome {
    let failed = |failure, message: String| TurnOutcome::Failed { failure, message };
    let RpcError::Refused { code, message, data } = error else {
        return failed(Failure::Protocol, format!("the agent failed: {error}"));
    };
    let kind = text(data, "errorKind");
    let said = one_line(&format!("{message} {}", text(data, "details")));
    let lower = said.to_lowercase();
    let auth = ["not logged in", "credit balance", "authentication required", "invalid api key"];
    match (kind.as_str(), code) {
        ("authentication_failed" | "billing_error" | "oauth_org_not_allowed", _) | (_, -32000) => {
            failed(Failure::Auth, auth_message(&said))
        }
        _ if auth.iter().any(|words| lower.contains(words)) => {
            failed(Failure::Auth, auth_message(&said))
        }
        ("rate_limit", _) => TurnOutcome::RateLimited(None),
        ("invalid_request" | "model_not_found", _) => failed(Failure::BadRequest, said),
        _ if lower.contains("too long") => failed(Failure::ContextFull, said),
        _other => failed(Failure::Provider, said),
    }
}

fn auth_message(said: &str) -> String {
    format!(
        "the agent is not allowed to call its model ({said}). Log it in as the user that Musher \
         runs as, or name the variable with its key in the agent's `env`, and restart"
    )
}

#[cfg(test)]
#[allow(clippy::wildcard_enum_match_arm)] // a test picks the one case that it is about
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_tool_is_known_by_its_updates() {
        let begun = json!({"sessionUpdate": "tool_call", "toolCallId": "1", "title": "Terminal",
            "kind": "execute", "rawInput": {}, "status": "pending"});
        let Update::Tool { name, summary, ended, .. } = read(&begun) else { panic!() };
        assert_eq!((name.as_deref(), summary, ended), (Some("Bash"), None, None));
        let known = json!({"sessionUpdate": "tool_call_update", "toolCallId": "1",
            "rawInput": {"command": "ls"}});
        let Update::Tool { name, summary, .. } = read(&known) else { panic!() };
        assert_eq!((name, summary.as_deref()), (None, Some("ls")));
        let ended = json!({"sessionUpdate": "tool_call_update", "toolCallId": "1",
            "status": "failed", "content": [{"type": "content", "content": {"type": "text", "text": "no"}}]});
        let Update::Tool { ended, .. } = read(&ended) else { panic!() };
        assert_eq!(ended, Some((false, "no".to_owned())));
    }

    #[test]
    fn ends_and_failures_are_told_apart() {
        let end = |reason: &str| outcome(&Ok(json!({"stopReason": reason})));
        assert_eq!(end("end_turn"), TurnOutcome::Done);
        assert_eq!(end("cancelled"), TurnOutcome::Interrupted);
        assert!(matches!(end("max_tokens"), TurnOutcome::Limit(_)));
        let refused = |code: i64, message: &str, kind: &str| {
            let data = json!({"errorKind": kind});
            match outcome(&Err(RpcError::Refused { code, message: message.to_owned(), data })) {
                TurnOutcome::Failed { failure, .. } => Some(failure),
                TurnOutcome::RateLimited(None) => None,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(refused(-32000, "Authentication required", ""), Some(Failure::Auth));
        assert_eq!(refused(-32603, "x", "authentication_failed"), Some(Failure::Auth));
        assert_eq!(refused(-32603, "x", "rate_limit"), None);
        assert_eq!(refused(-32603, "API Error: 500", "server_error"), Some(Failure::Provider));
        assert_eq!(refused(-32603, "prompt is too long", ""), Some(Failure::ContextFull));
        assert!(matches!(
            outcome(&Err(RpcError::Late)),
            TurnOutcome::Failed { failure: Failure::Protocol, .. }
        ));
    }

    #[test]
    fn what_was_used_is_read_where_it_is_said() {
        let answer = json!({"usage": {"inputTokens": 5, "cachedReadTokens": 7, "cachedWriteTokens": 2, "outputTokens": 3}});
        assert_eq!(usage(&answer), Some(Usage { input: 7, cached: 7, output: 3 }));
        assert_eq!(usage(&json!({})), None);
        assert_eq!(cost(&json!({"amount": 0.00152, "currency": "USD"})), Some(1520));
        assert_eq!(cost(&json!({"amount": 1, "currency": "EUR"})), None);
    }
}

//! Our tools as an MCP server: what each message asks for, and the answers. Pure.
//!
//! One reading for every way in: in-band for Claude Code, over HTTP (`mcp_http`) for
//! agents that speak the Agent Client Protocol, over stdio for `musher mcp`.

use super::AgentTools;
use crate::llm::tools::{ToolOutcome, ToolSpec};
use serde_json::{Value, json};

/// The name of our tool server: for CLIs its tools are `mcp__musher__NAME`.
pub const SERVER: &str = "musher";

/// The protocol's version that is offered when the client names none.
const PROTOCOL: &str = "2025-11-25";

/// JSON-RPC: there is no such method.
const METHOD_NOT_FOUND: i64 = -32601;

/// JSON-RPC: the message is no JSON.
pub const PARSE_ERROR: i64 = -32700;

/// JSON-RPC: the server failed.
pub const INTERNAL_ERROR: i64 = -32603;

/// What a message asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// Nothing: it is a notification.
    Nothing,
    /// What can be answered at once, with this.
    Known(Value),
    /// The tools.
    List,
    /// A call.
    Call {
        /// The tool.
        name: String,
        /// Its arguments.
        arguments: Value,
        /// The model's own id of the call, where the client says it: it survives a resume.
        model_id: Option<String>,
    },
}

/// Reads a message.
pub fn read(message: &Value) -> Asked {
    let id = &message["id"];
    let params = &message["params"];
    let method = message["method"].as_str().unwrap_or_default();
    if id.is_null() {
        return Asked::Nothing;
    }
    match method {
        "initialize" => Asked::Known(result(
            id,
            json!({
                "protocolVersion": params["protocolVersion"].as_str().unwrap_or(PROTOCOL),
                "capabilities": {"tools": {}},
                "serverInfo": {"name": SERVER, "version": crate::version::version()},
            }),
        )),
        "ping" => Asked::Known(result(id, json!({}))),
        "tools/list" => Asked::List,
        "tools/call" => Asked::Call {
            name: params["name"].as_str().unwrap_or_default().to_owned(),
            arguments: match params.get("arguments") {
                Some(arguments) if !arguments.is_null() => arguments.clone(),
                _none => json!({}),
            },
            model_id: params["_meta"]["claudecode/toolUseId"].as_str().map(str::to_owned),
        },
        unknown => Asked::Known(failed(id, METHOD_NOT_FOUND, &format!("no method {unknown}"))),
    }
}

fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// A failure of the protocol.
pub fn failed(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// The answer to [`Asked::List`].
pub fn listed(id: &Value, specs: &[ToolSpec]) -> Value {
    let tools = specs.iter().map(|spec| {
        json!({"name": spec.name, "description": spec.description, "inputSchema": spec.schema})
    });
    result(id, json!({"tools": tools.collect::<Vec<_>>()}))
}

/// The answer to [`Asked::Call`]. A refusal is for the model to read, no failure of the protocol.
pub fn called(id: &Value, outcome: &ToolOutcome) -> Value {
    let content = json!([{"type": "text", "text": outcome.text}]);
    result(id, json!({"content": content, "isError": outcome.is_error}))
}

/// Answers a message with an agent's tools; `None` for a notification. `fallback` names a call
/// that the client does not name; calling again under the same name has no second effect.
pub async fn answer(
    tools: &AgentTools,
    message: &Value,
    fallback: impl FnOnce() -> String,
) -> Option<Value> {
    let id = &message["id"];
    Some(match read(message) {
        Asked::Nothing => return None,
        Asked::Known(answer) => answer,
        Asked::List => listed(id, &tools.specs()),
        Asked::Call { name, arguments, model_id } => {
            let call = model_id.unwrap_or_else(fallback);
            called(id, &tools.call(&call, &name, arguments).await)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_what_they_ask_for() {
        let ask = |method: &str, params: Value| {
            read(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        };
        let Asked::Known(hello) = ask("initialize", json!({"protocolVersion": "2025-06-18"}))
        else {
            panic!()
        };
        assert_eq!(hello["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(ask("tools/list", json!({})), Asked::List);
        assert_eq!(
            ask("tools/call", json!({"name": "mail_check"})),
            Asked::Call { name: "mail_check".to_owned(), arguments: json!({}), model_id: None }
        );
        let Asked::Known(unknown) = ask("server/discover", json!({})) else { panic!() };
        assert_eq!(unknown["error"]["code"], METHOD_NOT_FOUND);
        let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(read(&notification), Asked::Nothing);
    }
}

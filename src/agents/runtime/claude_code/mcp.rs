//! Our tools, offered to the CLI in-band: JSON-RPC over its control channel.

use super::super::AgentTools;
use serde_json::{Value, json};

/// The name of our tool server: its tools are `mcp__musher__NAME`.
pub const SERVER: &str = "musher";

/// Answers one JSON-RPC message of the CLI; notifications get an empty answer.
pub async fn answer(tools: &AgentTools, message: &Value) -> Value {
    let id = message.get("id").cloned().unwrap_or(json!(0));
    let params = message.get("params").unwrap_or(&Value::Null);
    let method = message.get("method").and_then(Value::as_str).unwrap_or_default();
    let result = match method {
        "initialize" => json!({
            "protocolVersion": params.get("protocolVersion").cloned().unwrap_or(json!("2025-11-25")),
            "capabilities": {"tools": {}},
            "serverInfo": {"name": SERVER, "version": crate::version::version()},
        }),
        "tools/list" => list(tools),
        "tools/call" => call(tools, params, &id).await,
        _notification if method.starts_with("notifications/") || method == "ping" => json!({}),
        _unknown => {
            let error = json!({"code": -32601, "message": format!("no method {method}")});
            return json!({"jsonrpc": "2.0", "id": id, "error": error});
        }
    };
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn list(tools: &AgentTools) -> Value {
    let specs = tools.specs();
    let specs = specs.iter().map(|spec| {
        json!({"name": spec.name, "description": spec.description, "inputSchema": spec.schema})
    });
    json!({"tools": specs.collect::<Vec<_>>()})
}

async fn call(tools: &AgentTools, params: &Value, id: &Value) -> Value {
    let name = params.get("name").and_then(Value::as_str).unwrap_or_default();
    let arguments = params.get("arguments").cloned().unwrap_or(json!({}));
    // The model's own id of the call survives a resume; the JSON-RPC id restarts with the process.
    let call = params.pointer("/_meta/claudecode~1toolUseId").and_then(Value::as_str);
    let call = call.map_or_else(|| format!("t{}-{id}", tools.turn()), str::to_owned);
    let outcome = tools.call(&call, name, arguments).await;
    json!({"content": [{"type": "text", "text": outcome.text}], "isError": outcome.is_error})
}

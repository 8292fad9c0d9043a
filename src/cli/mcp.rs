//! `musher mcp --agent NAME`: the agent's tools as an MCP server on stdin and stdout.
//!
//! A thin door: the tools are the running server's, reached through its socket, so an agent that
//! comes in here gets the same ones with the same checks as over any other way.

use super::client::{Client, print};
use super::failure::Failure;
use super::request::Call;
use crate::model::ids::AgentName;
use serde_json::{Value, json};
use std::io::BufRead;
use std::path::Path;

/// The protocol's version that is offered when the client names none.
const PROTOCOL: &str = "2025-06-18";
/// JSON-RPC: there is no such method.
const METHOD_NOT_FOUND: i64 = -32601;
/// JSON-RPC: the line is no request.
const PARSE_ERROR: i64 = -32700;
/// JSON-RPC: the server failed.
const INTERNAL_ERROR: i64 = -32603;

/// Answers until stdin ends.
pub fn serve(given: Option<&Path>, agent: &str) -> Result<u8, Failure> {
    let mut client = Client::find(given)?;
    let agent = AgentName::from(agent);
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        let answer = match serde_json::from_str::<Value>(&line) {
            Ok(message) => answer(&mut client, &agent, &message),
            Err(error) => Some(failed(&Value::Null, PARSE_ERROR, &error.to_string())),
        };
        if let Some(answer) = answer {
            print(&format!("{answer}\n"))?;
        }
    }
    Ok(0)
}

/// The answer to one message; `None` for a notification.
fn answer(client: &mut Client, agent: &AgentName, message: &Value) -> Option<Value> {
    let id = message.get("id").filter(|id| !id.is_null())?;
    let params = &message["params"];
    let outcome = match message["method"].as_str().unwrap_or("") {
        "initialize" => Ok(json!({
            "protocolVersion": params["protocolVersion"].as_str().unwrap_or(PROTOCOL),
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "musher", "version": crate::version::version() },
        })),
        "ping" => Ok(json!({})),
        "tools/list" => list(client, agent),
        "tools/call" => call(client, agent, id, params),
        method => return Some(failed(id, METHOD_NOT_FOUND, &format!("no method {method}"))),
    };
    Some(match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(failure) => failed(id, INTERNAL_ERROR, &failure.to_string()),
    })
}

fn failed(id: &Value, code: i64, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
}

fn list(client: &mut Client, agent: &AgentName) -> Result<Value, Failure> {
    let found = client.call(Call::Tools { agent: agent.clone() })?;
    let tools: Vec<Value> = found["tools"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|tool| {
            json!({
                "name": tool["name"],
                "description": tool["description"],
                "inputSchema": tool["schema"],
            })
        })
        .collect();
    Ok(json!({ "tools": tools }))
}

fn call(
    client: &mut Client,
    agent: &AgentName,
    id: &Value,
    params: &Value,
) -> Result<Value, Failure> {
    let call = Call::Tool {
        agent: agent.clone(),
        // Unique over the processes that serve one turn; the client's ids begin anew in each.
        id: format!("mcp-{}-{id}", std::process::id()),
        name: params["name"].as_str().unwrap_or("").to_owned(),
        arguments: params.get("arguments").cloned().unwrap_or_else(|| json!({})),
    };
    // A refusal is for the model to read, not a failure of the protocol.
    let (text, is_error) = match client.call(call) {
        Ok(outcome) => (
            outcome["text"].as_str().unwrap_or("").to_owned(),
            outcome["is_error"].as_bool().unwrap_or(false),
        ),
        Err(failure) => (failure.to_string(), true),
    };
    Ok(json!({ "content": [{ "type": "text", "text": text }], "isError": is_error }))
}

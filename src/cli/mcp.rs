//! `musher mcp --agent NAME`: the agent's tools as an MCP server on stdin and stdout.
//!
//! A thin door: the tools are the running server's, reached through its socket, so an agent that
//! comes in here gets the same ones with the same checks as over any other way.

use super::client::{Client, print};
use super::failure::Failure;
use super::request::Call;
use crate::agents::runtime::mcp::{self, Asked, INTERNAL_ERROR, PARSE_ERROR};
use crate::llm::tools::{ToolOutcome, ToolSpec};
use crate::model::ids::AgentName;
use serde_json::Value;
use std::io::BufRead;
use std::path::Path;

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
            Err(error) => Some(mcp::failed(&Value::Null, PARSE_ERROR, &error.to_string())),
        };
        if let Some(answer) = answer {
            print(&format!("{answer}\n"))?;
        }
    }
    Ok(0)
}

/// The answer to one message; `None` for a notification.
fn answer(client: &mut Client, agent: &AgentName, message: &Value) -> Option<Value> {
    let id = &message["id"];
    Some(match mcp::read(message) {
        Asked::Nothing => return None,
        Asked::Known(answer) => answer,
        Asked::List => match client.call(Call::Tools { agent: agent.clone() }) {
            Ok(found) => mcp::listed(id, &specs(&found)),
            Err(failure) => mcp::failed(id, INTERNAL_ERROR, &failure.to_string()),
        },
        Asked::Call { name, arguments, model_id } => {
            // Unique over the processes that serve one turn; the client's ids begin anew in each.
            let own = || format!("mcp-{}-{id}", std::process::id());
            let call = Call::Tool {
                agent: agent.clone(),
                id: model_id.unwrap_or_else(own),
                name,
                arguments,
            };
            let outcome = match client.call(call) {
                Ok(outcome) => ToolOutcome {
                    text: outcome["text"].as_str().unwrap_or_default().to_owned(),
                    is_error: outcome["is_error"].as_bool().unwrap_or(false),
                },
                Err(failure) => ToolOutcome::error(failure.to_string()),
            };
            mcp::called(id, &outcome)
        }
    })
}

fn specs(found: &Value) -> Vec<ToolSpec> {
    let tools = found["tools"].as_array().into_iter().flatten();
    let text = |tool: &Value, key: &str| tool[key].as_str().unwrap_or_default().to_owned();
    tools
        .map(|tool| ToolSpec {
            name: text(tool, "name"),
            description: text(tool, "description"),
            schema: tool["schema"].clone(),
        })
        .collect()
}

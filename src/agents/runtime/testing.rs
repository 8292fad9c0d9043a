//! What the unit tests of runtimes share: a tool that says how it was called.

use super::AgentTools;
use crate::llm::tools::{ToolCaller, ToolHost, ToolOutcome, ToolSpec};
use crate::model::agent::Role;
use crate::model::ids::{AgentSessionId, ItemId, TurnId};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::sync::Arc;

struct Tools;

#[async_trait]
impl ToolHost for Tools {
    fn specs(&self, _caller: &ToolCaller) -> Vec<ToolSpec> {
        vec![ToolSpec {
            name: "report_done".to_owned(),
            description: "Reports".to_owned(),
            schema: json!({"type": "object"}),
        }]
    }

    async fn call(&self, _: &ToolCaller, id: &str, name: &str, _: Value) -> ToolOutcome {
        ToolOutcome::ok(format!("{name} was called as {id}"))
    }
}

/// Tools of `coder-1`, in turn 1 of session 1.
pub fn tools() -> Arc<AgentTools> {
    Arc::new(AgentTools::new(
        Arc::new(Tools),
        "coder-1".into(),
        Role::Coder,
        AgentSessionId(1),
        ItemId(1),
        "demo".into(),
        TurnId(1),
    ))
}

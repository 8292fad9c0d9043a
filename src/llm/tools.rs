//! What a tool is, for every model: name, description, schema, and who carries it out.

use crate::model::agent::Role;
use crate::model::ids::{
    AgentName, AgentSessionId, ItemId, PersonId, ProjectName, SessionKey, TurnId,
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// A tool as a model sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolSpec {
    /// Its name.
    pub name: String,
    /// What it does and when to use it.
    pub description: String,
    /// JSON schema of its arguments.
    pub schema: serde_json::Value,
}

/// Who calls a tool: decides which tools there are, what they may do, and whose name the effect
/// carries.
#[derive(Debug, Clone, PartialEq)]
pub enum ToolCaller {
    /// The coordinator, in a turn of a chat session.
    Coordinator {
        /// The conversation.
        session: SessionKey,
        /// Its turn (`chat_turns.id`): with the call's id the key under which the call is stored.
        chat_turn: i64,
        /// The people whose messages the turn answers.
        people: Vec<PersonId>,
        /// Their words: a confirmation is needed for what they did not ask for.
        asked: String,
        /// The project that the room is switched to.
        project: Option<ProjectName>,
    },
    /// An agent, in a turn on an item.
    Agent {
        /// Its name.
        agent: AgentName,
        /// Its role.
        role: Role,
        /// Its session.
        session: AgentSessionId,
        /// Its turn.
        turn: TurnId,
        /// The item.
        item: ItemId,
        /// The item's project.
        project: ProjectName,
    },
}

/// What a tool answered, in words for the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOutcome {
    /// The answer, or what was wrong and how to put it right.
    pub text: String,
    /// Whether it failed.
    pub is_error: bool,
}

impl ToolOutcome {
    /// An answer.
    pub fn ok(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: false }
    }

    /// A failure.
    pub fn error(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_error: true }
    }
}

/// Carries out tools. One implementation (`tools/`), offered to the coordinator, in-band to the
/// CLIs, and to the built-in agent.
#[async_trait]
pub trait ToolHost: Send + Sync {
    /// The tools that `caller` has.
    fn specs(&self, caller: &ToolCaller) -> Vec<ToolSpec>;

    /// Whether a call of `name` that was begun and not answered may simply be made again: it only
    /// reads, or its effect and its stored answer are one transaction under the call's id.
    fn is_repeatable(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Carries out one call. Never panics and never fails otherwise than in words.
    ///
    /// `call_id` names the call: calling again with the same one does not repeat its effect.
    async fn call(
        &self,
        caller: &ToolCaller,
        call_id: &str,
        name: &str,
        arguments: serde_json::Value,
    ) -> ToolOutcome;
}

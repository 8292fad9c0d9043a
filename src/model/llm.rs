//! A conversation with a model, in no provider's terms: what the database holds.
//!
//! Rows outlive library versions, so these types are ours and the provider adapters translate.

use serde::{Deserialize, Serialize};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// People, notes and tool results: what the model is given.
    User,
    /// The model.
    Assistant,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlmMessage {
    /// Who speaks.
    pub speaker: Speaker,
    /// What, in order.
    pub parts: Vec<Part>,
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "part", rename_all = "snake_case")]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// The model wants a tool run.
    ToolCall {
        /// The provider's id of the call.
        id: String,
        /// The tool's name.
        name: String,
        /// Its arguments.
        arguments: serde_json::Value,
    },
    /// What a tool answered.
    ToolResult {
        /// The call's id.
        id: String,
        /// What it answered.
        text: String,
        /// Whether it failed.
        is_error: bool,
    },
    /// The model's signed thinking, replayed as it was.
    Thinking {
        /// The thinking.
        text: String,
        /// The provider's signature of it.
        signature: Option<String>,
    },
}

impl LlmMessage {
    /// A message of plain text to the model.
    pub fn user(text: impl Into<String>) -> Self {
        Self { speaker: Speaker::User, parts: vec![Part::Text { text: text.into() }] }
    }

    /// A message of plain text by the model.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self { speaker: Speaker::Assistant, parts: vec![Part::Text { text: text.into() }] }
    }

    /// All its text parts, joined.
    pub fn text(&self) -> String {
        let texts = self.parts.iter().filter_map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            Part::ToolCall { .. } | Part::ToolResult { .. } | Part::Thinking { .. } => None,
        });
        texts.collect::<Vec<_>>().join("")
    }
}

/// What a model call used, in tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Input tokens, without those read from the cache.
    pub input: u64,
    /// Input tokens read from the provider's cache.
    pub cached: u64,
    /// Output tokens.
    pub output: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input += other.input;
        self.cached += other.cached;
        self.output += other.output;
    }
}

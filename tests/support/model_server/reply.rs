//! What the model answers: text and tool calls, or one of the ways it can fail.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::Request;

/// A scripted answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub(super) blocks: Vec<Block>,
    pub(super) status: Option<u16>,
    pub(super) message: String,
    pub(super) retry_after: Option<Duration>,
    pub(super) usage: Usage,
    pub(super) stop_reason: Option<String>,
    pub(super) delay: Duration,
    pub(super) pause: Duration,
    pub(super) drop_after: Option<usize>,
    pub(super) hold: Option<watch::Receiver<bool>>,
    pub(super) never: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Block {
    Thinking(String),
    Text(String),
    Call { id: String, name: String, input: Value },
}

/// What the answer is said to have cost; what is `None` is counted from the texts.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) input: Option<u64>,
    pub(super) output: Option<u64>,
    pub(super) cache_read: u64,
    pub(super) cache_write: u64,
}

/// Keeps the answers made with it back, until it is released (or dropped).
#[derive(Debug)]
pub struct Hold(watch::Sender<bool>);

impl Hold {
    /// Lets the answers go.
    pub fn release(self) {
        self.0.send_replace(true);
    }
}

impl Reply {
    /// An answer in words.
    pub fn text(text: &str) -> Self {
        Self::default().and_text(text)
    }

    /// A call of one tool.
    pub fn call(tool: &str, input: Value) -> Self {
        Self::default().and_call(tool, input)
    }

    /// An error of the API, with the words that the real one uses for this status.
    pub fn error(status: u16) -> Self {
        Self { status: Some(status), message: format!("scripted {status}"), ..Self::default() }
    }

    /// No answer at all, until the client or the server goes away.
    pub fn hang() -> Self {
        Self { never: true, ..Self::default() }
    }

    /// Further text after what is there.
    pub fn and_text(mut self, text: &str) -> Self {
        self.blocks.push(Block::Text(text.to_owned()));
        self
    }

    /// Thoughts after what is there (Anthropic's wire only).
    pub fn and_thinking(mut self, text: &str) -> Self {
        self.blocks.push(Block::Thinking(text.to_owned()));
        self
    }

    /// A further tool call in the same answer.
    pub fn and_call(mut self, tool: &str, input: Value) -> Self {
        self.blocks.push(Block::Call { id: String::new(), name: tool.to_owned(), input });
        self
    }

    /// Gives each call an id of its own: a reply may be given many times.
    pub(super) fn with_fresh_ids(mut self) -> Self {
        for block in &mut self.blocks {
            if let Block::Call { id, .. } = block {
                *id = format!("toolu_{}", uuid::Uuid::new_v4().simple());
            }
        }
        self
    }

    /// The words of an error.
    pub fn saying(mut self, message: &str) -> Self {
        self.message = message.to_owned();
        self
    }

    /// The `retry-after` of an error.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Tokens in and out.
    pub fn usage(mut self, input: u64, output: u64) -> Self {
        (self.usage.input, self.usage.output) = (Some(input), Some(output));
        self
    }

    /// Tokens read from and written to the provider's cache.
    pub fn cached(mut self, read: u64, written: u64) -> Self {
        (self.usage.cache_read, self.usage.cache_write) = (read, written);
        self
    }

    /// Another reason for the end than `end_turn` and `tool_use`, in Anthropic's words.
    pub fn ending_with(mut self, stop_reason: &str) -> Self {
        self.stop_reason = Some(stop_reason.to_owned());
        self
    }

    /// Answers only after `delay`.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Pauses before each piece of a streamed answer.
    pub fn slowly(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Breaks the connection after so many pieces of a streamed answer.
    pub fn dropped_after(mut self, pieces: usize) -> Self {
        self.drop_after = Some(pieces);
        self
    }

    /// Answers only once the hold is released: for what must happen while the model thinks.
    pub fn held(mut self) -> (Self, Hold) {
        let (sender, receiver) = watch::channel(false);
        self.hold = Some(receiver);
        (self, Hold(sender))
    }

    /// What the CLI's requests beside the conversation get.
    pub(super) fn auxiliary(request: &Request) -> Self {
        let wants_json = request.body.pointer("/output_config/format/type").is_some();
        if wants_json {
            return Self::text(&json!({"title": "A test"}).to_string());
        }
        Self::text("A test")
    }

    pub(super) fn calls_tool(&self) -> bool {
        self.blocks.iter().any(|block| matches!(block, Block::Call { .. }))
    }

    /// Rough, but steady: four characters a token, as everyone estimates.
    pub(super) fn counted(&self, request: &Request) -> Usage {
        let written: usize = self.blocks.iter().map(Block::length).sum();
        Usage {
            input: self.usage.input.or(Some(tokens(request.body.to_string().len()))),
            output: self.usage.output.or(Some(tokens(written))),
            ..self.usage
        }
    }
}

impl Block {
    fn length(&self) -> usize {
        match self {
            Self::Thinking(text) | Self::Text(text) => text.len(),
            Self::Call { name, input, .. } => name.len() + input.to_string().len(),
        }
    }
}

pub(super) fn tokens(characters: usize) -> u64 {
    (characters as u64).div_ceil(4)
}

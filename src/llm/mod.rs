//! The one door to model APIs, and the shape of tools.
//!
//! The coordinator and the built-in agent runtime speak through [`Llm`]; which provider answers
//! is decided once, from the configuration. Messages are our own type
//! ([`crate::model::llm::LlmMessage`]), because rows outlive library versions: only `wire.rs`
//! knows the library beneath.
//!
//! **Trying again.** Rate limits, overload and a broken network are tried again here, with a
//! jittered back-off that honours what the server says, at most [`MAX_ATTEMPTS`] times; a wrong
//! key, a bad request or no credit never is. A stream that breaks off half-way is a failed
//! attempt: what was streamed of it is void, and [`Delta::Retrying`] says so.
//!
//! **Cancelling.** The request's token, or dropping the future, closes the connection.

pub mod caps;
mod error;
mod key;
mod price;
pub mod prompts;
pub mod replay;
pub mod tools;
mod wire;

pub use error::LlmError;
pub use price::Price;

use crate::config::{LlmConfig, Provider};
use crate::llm::tools::ToolSpec;
use crate::model::llm::{LlmMessage, Part, Usage};
use async_trait::async_trait;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often one request is sent at most.
pub const MAX_ATTEMPTS: u32 = 4;

/// The first wait between two attempts; each further one is twice as long.
const BACKOFF_BASE: Duration = Duration::from_secs(1);

/// The longest wait between two attempts. A server that asks for more is not waited for: the
/// caller is told until when.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What a model is asked.
#[derive(Debug)]
pub struct Request<'a> {
    /// The system prompt.
    pub system: &'a str,
    /// The conversation so far; the last message is the user's.
    pub messages: &'a [LlmMessage],
    /// The tools that it may call.
    pub tools: &'a [ToolSpec],
    /// Most tokens of the answer.
    pub max_output_tokens: u32,
    /// Ends the call with [`LlmError::Cancelled`].
    pub cancel: CancellationToken,
}

/// Something that is known before the whole answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More text.
    Text(String),
    /// The model has begun to write a call of this tool.
    ToolCall {
        /// The tool's name.
        name: String,
    },
    /// The attempt failed and is made again after `wait`: all text since the start of the call
    /// is void.
    Retrying {
        /// What failed, as a sentence.
        error: String,
        /// How long until the next attempt.
        wait: Duration,
    },
}

/// Why a model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It had said all.
    End,
    /// It wants tools run.
    ToolCalls,
    /// It reached the limit of output tokens.
    MaxTokens,
    /// The provider's filter, or the model, refused.
    Refused,
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// What the model said and wants done.
    pub message: LlmMessage,
    /// Why it stopped.
    pub stop: Stop,
    /// What it used.
    pub usage: Usage,
    /// What that cost, in millionths of a US dollar; 0 when the model's price is not known
    /// ([`Llm::price`]).
    pub cost_microusd: i64,
}

/// One attempt at one request: implemented by the wire, by recordings and by tests.
#[async_trait]
pub trait Model: Send + Sync {
    /// Sends the request once.
    async fn attempt(
        &self,
        request: &Request<'_>,
        on: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<Reply, LlmError>;
}

/// A model to talk to. Cloning shares it.
#[derive(Clone)]
pub struct Llm {
    model: Arc<dyn Model>,
    name: String,
    price: Option<Price>,
    recorded: bool,
}

impl std::fmt::Debug for Llm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Llm").field("name", &self.name).field("recorded", &self.recorded).finish()
    }
}

impl Llm {
    /// Makes the client that the configuration names; `model` overrides its model.
    ///
    /// Reads the key or the recording; calls nobody.
    pub fn new(config: &LlmConfig, model: Option<&str>) -> Result<Self, LlmError> {
        let name = model.unwrap_or(&config.model).to_owned();
        match config.provider {
            Provider::Replay => {
                let path = config.replay_file.as_deref().ok_or_else(|| {
                    LlmError::Setup(
                        "[llm] provider = \"replay\" needs replay_file: name the recording"
                            .to_owned(),
                    )
                })?;
                let recording = replay::Recording::load(path)?;
                Ok(Self::from_model(Arc::new(recording), "recorded conversation").recorded())
            }
            Provider::ClaudeCode => Err(LlmError::Setup(
                "[llm] provider = \"claude-code\" is not built yet: use anthropic, openai, \
                 gemini, ollama or replay (agents may run on claude-code)"
                    .to_owned(),
            )),
            Provider::Anthropic | Provider::Openai | Provider::Gemini | Provider::Ollama => {
                if name.trim().is_empty() {
                    return Err(LlmError::Setup(
                        "[llm] has no model: name one, such as model = \"claude-sonnet-4-5\""
                            .to_owned(),
                    ));
                }
                let price = price::of(config, &name);
                let wire = wire::Wire::new(config, &name, price)?;
                Ok(Self { model: Arc::new(wire), name, price, recorded: false })
            }
        }
    }

    /// A client over another implementation: a recording, or a test's own.
    pub fn from_model(model: Arc<dyn Model>, name: &str) -> Self {
        Self { model, name: name.to_owned(), price: Some(Price::FREE), recorded: false }
    }

    fn recorded(mut self) -> Self {
        self.recorded = true;
        self
    }

    /// The model's name, as stored with costs and shown.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether answers come from a recording: said wherever they are shown.
    pub fn is_recorded(&self) -> bool {
        self.recorded
    }

    /// The model's price; `None` when it is not known, so that limits in money cannot hold.
    pub fn price(&self) -> Option<Price> {
        self.price
    }

    /// Asks the model and streams its answer to `on`.
    ///
    /// Ids of tool calls are unique within the conversation, whatever the provider sends.
    pub async fn stream(
        &self,
        request: Request<'_>,
        on: &mut (dyn FnMut(Delta) + Send),
    ) -> Result<Reply, LlmError> {
        let mut attempt = 1;
        loop {
            let outcome = tokio::select! {
                biased;
                () = request.cancel.cancelled() => Err(LlmError::Cancelled),
                outcome = self.model.attempt(&request, on) => outcome,
            };
            let error = match outcome {
                Ok(mut reply) => {
                    make_ids_unique(&mut reply.message, request.messages);
                    return Ok(reply);
                }
                Err(error) => error,
            };
            let Some(wait) = wait_before_next(&error, attempt) else { return Err(error) };
            tracing::warn!(model = %self.name, attempt, ?wait, %error, "model call failed");
            on(Delta::Retrying { error: error.to_string(), wait });
            tokio::select! {
                biased;
                () = request.cancel.cancelled() => return Err(LlmError::Cancelled),
                () = tokio::time::sleep(wait) => {}
            }
            attempt += 1;
        }
    }
}

/// How long to wait before trying again; `None`: do not.
fn wait_before_next(error: &LlmError, attempt: u32) -> Option<Duration> {
    if attempt >= MAX_ATTEMPTS || !error.is_transient() {
        return None;
    }
    if let Some(asked) = error.retry_after() {
        // Never earlier than the server says.
        return (asked <= BACKOFF_MAX).then_some(asked);
    }
    let longest = BACKOFF_BASE.saturating_mul(1 << (attempt - 1)).min(BACKOFF_MAX);
    // Half fixed, half random: many sessions that failed together do not return together.
    Some(longest.mul_f64(0.5 + rand::random::<f64>() / 2.0))
}

/// Renames calls whose ids the conversation has already seen: some servers count from zero in
/// every answer, and results and stored calls are found by id.
fn make_ids_unique(message: &mut LlmMessage, earlier: &[LlmMessage]) {
    let mut seen: HashSet<String> = earlier
        .iter()
        .flat_map(|message| &message.parts)
        .filter_map(|part| match part {
            Part::ToolCall { id, .. } => Some(id.clone()),
            Part::Text { .. } | Part::ToolResult { .. } | Part::Thinking { .. } => None,
        })
        .collect();
    for part in &mut message.parts {
        if let Part::ToolCall { id, .. } = part {
            if id.is_empty() || seen.contains(id) {
                *id = format!("call_{}", uuid::Uuid::new_v4().simple());
            }
            seen.insert(id.clone());
        }
    }
}

#[cfg(test)]
mod tests;

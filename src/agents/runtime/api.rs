//! The built-in agent: our own loop over a model API, with tools confined to the worktree.
//!
//! Every step is a row before the next one begins: what the model said, then what its tools
//! answered. After a crash the conversation is read again, and calls whose answers are missing are
//! closed with an error that says so, because a model API refuses a call without an answer and
//! because nobody knows whether the call took effect. Usage is exact.

use super::in_process::{Brain, Hands, start};
use super::{AgentTools, Caps, Runtime, RuntimeEvent, Session, SpawnError, SpawnSpec, TurnOutcome};
use crate::agents::budget::{self, Reached, Spender};
use crate::config::{Config, RuntimeKind};
use crate::llm::{Delta, Llm, LlmError, Reply, Request, Stop};
use crate::model::agent::Failure;
use crate::model::ids::AgentSessionId;
use crate::model::llm::{LlmMessage, Part, Speaker};
use crate::store::agents as sessions;
use crate::store::{Store, StoreError};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Most model calls in one turn.
const MAX_STEPS: usize = 200;

/// What stands before the number of the first session in the session's id.
const NATIVE: &str = "api-";

/// Starts built-in agents.
pub struct Api {
    store: Store,
    config: Arc<Config>,
    /// Instead of the configured model: for tests.
    llm: Option<Llm>,
}

impl Api {
    /// Agents on the configured model API.
    pub fn new(store: Store, config: Arc<Config>) -> Self {
        Self { store, config, llm: None }
    }

    /// Agents on `llm`, whatever is configured.
    pub fn with_llm(store: Store, config: Arc<Config>, llm: Llm) -> Self {
        Self { store, config, llm: Some(llm) }
    }
}

#[async_trait]
impl Runtime for Api {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Api
    }

    fn caps(&self) -> Caps {
        Caps { steer: true, approve: true, resume: true, cost: true }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        let llm = match &self.llm {
            Some(llm) => llm.clone(),
            None => Llm::new(&self.config.llm, spec.model.as_deref())
                .map_err(|error| SpawnError::unusable(error.to_string()))?,
        };
        let root = root(spec.resume.as_deref(), NATIVE).unwrap_or(spec.tools.session);
        let internal = |error: StoreError| SpawnError {
            failure: Failure::Crash,
            message: format!("its conversation could not be read: {error}"),
        };
        let messages =
            self.store.read(move |conn| sessions::messages(conn, root)).await.map_err(internal)?;
        let mut brain = ApiBrain {
            store: self.store.clone(),
            config: Arc::clone(&self.config),
            tools: Arc::clone(&spec.tools),
            llm,
            system: spec.role_prompt.clone(),
            max_output_tokens: self.config.llm.max_output_tokens,
            root,
            messages,
        };
        if let Some(closing) = close_dangling(&brain.messages) {
            brain.keep(closing).await.map_err(internal)?;
        }
        Ok(start(spec, Box::new(brain), events))
    }
}

/// The session under which a conversation is kept, from the id to resume.
pub(super) fn root(resume: Option<&str>, prefix: &str) -> Option<AgentSessionId> {
    resume?.strip_prefix(prefix)?.parse().ok().map(AgentSessionId)
}

/// Answers to the calls of the last message, if that is where the conversation broke off.
fn close_dangling(messages: &[LlmMessage]) -> Option<LlmMessage> {
    let last = messages.last()?;
    if last.speaker == Speaker::User {
        return None;
    }
    let answers: Vec<Part> = last
        .parts
        .iter()
        .filter_map(|part| match part {
            Part::ToolCall { id, .. } => Some(Part::ToolResult {
                id: id.clone(),
                text: "aborted: the server ended while this ran; whether it took effect is not \
                       known, so look before you repeat it"
                    .to_owned(),
                is_error: true,
            }),
            Part::Text { .. } | Part::ToolResult { .. } | Part::Thinking { .. } => None,
        })
        .collect();
    (!answers.is_empty()).then_some(LlmMessage { speaker: Speaker::User, parts: answers })
}

/// The conversation as APIs want it: never the same speaker twice in a row.
fn merged(messages: &[LlmMessage]) -> Vec<LlmMessage> {
    let mut merged: Vec<LlmMessage> = Vec::with_capacity(messages.len());
    for message in messages {
        match merged.last_mut() {
            Some(last) if last.speaker == message.speaker => {
                last.parts.extend(message.parts.iter().cloned());
            }
            Some(_) | None => merged.push(message.clone()),
        }
    }
    merged
}

struct ApiBrain {
    store: Store,
    config: Arc<Config>,
    tools: Arc<AgentTools>,
    llm: Llm,
    system: String,
    max_output_tokens: u32,
    root: AgentSessionId,
    messages: Vec<LlmMessage>,
}

#[async_trait]
impl Brain for ApiBrain {
    fn introduce(&self) -> (String, String) {
        (format!("{NATIVE}{}", self.root), self.llm.name().to_owned())
    }

    async fn turn(&mut self, hands: &Hands) -> TurnOutcome {
        for _step in 0..MAX_STEPS {
            match self.step(hands).await {
                Ok(true) => {}
                Ok(false) => return TurnOutcome::Done,
                Err(outcome) => return outcome,
            }
        }
        TurnOutcome::Limit(format!("its limit of {MAX_STEPS} model calls in one turn"))
    }
}

impl ApiBrain {
    /// Keeps a message, durably, then in memory.
    async fn keep(&mut self, message: LlmMessage) -> Result<(), StoreError> {
        let (root, stored) = (self.root, message.clone());
        self.store.write(move |tx| sessions::append_message(tx, root, &stored)).await?;
        self.messages.push(message);
        Ok(())
    }

    /// One model call and its tools; says whether there is another.
    async fn step(&mut self, hands: &Hands) -> Result<bool, TurnOutcome> {
        let internal = |error: StoreError| TurnOutcome::Failed {
            failure: Failure::Crash,
            message: error.to_string(),
        };
        for message in hands.take_messages() {
            let text = format!("{}\n{}", message.header, message.text);
            self.keep(LlmMessage::user(text)).await.map_err(internal)?;
            hands.emit(RuntimeEvent::Consumed(message.id)).await;
        }
        if let Some(reached) = self.spent().await.map_err(internal)? {
            return Err(TurnOutcome::Spent(reached));
        }
        let reply = self.ask(hands).await.map_err(|error| self.failed(&error))?;
        self.keep(reply.message.clone()).await.map_err(internal)?;
        hands
            .emit(RuntimeEvent::Used {
                usage: reply.usage,
                microusd: reply.cost_microusd,
                model: self.llm.name().to_owned(),
            })
            .await;
        let text = reply.message.text();
        if !text.trim().is_empty() {
            hands.emit(RuntimeEvent::Text(text)).await;
        }
        let answers = answer_calls(hands, &reply.message).await;
        if !answers.is_empty() {
            let message = LlmMessage { speaker: Speaker::User, parts: answers };
            self.keep(message).await.map_err(internal)?;
            return Ok(!hands.cancel.is_cancelled());
        }
        match reply.stop {
            Stop::MaxTokens => {
                let nudge = LlmMessage::user("(Your answer was cut at its length limit. Go on.)");
                self.keep(nudge).await.map_err(internal)?;
                Ok(true)
            }
            Stop::Refused => Err(TurnOutcome::Failed {
                failure: Failure::BadRequest,
                message: "the model refused to go on".to_owned(),
            }),
            Stop::End | Stop::ToolCalls => Ok(hands.has_messages()),
        }
    }

    /// The limit that forbids another model call, whoever has used it up meanwhile.
    async fn spent(&self) -> Result<Option<Reached>, StoreError> {
        let (config, tools) = (Arc::clone(&self.config), Arc::clone(&self.tools));
        let now = self.store.clock().now();
        let read = self.store.read(move |conn| {
            let spender = Spender {
                agent: config.agents.iter().find(|agent| agent.name == tools.agent),
                item: Some(tools.item),
                project: Some(&tools.project),
            };
            budget::reached(conn, &config, now, &spender)
        });
        read.await
    }

    async fn ask(&self, hands: &Hands) -> Result<Reply, LlmError> {
        let messages = merged(&self.messages);
        let tools = hands.specs();
        let request = Request {
            system: &self.system,
            messages: &messages,
            tools: &tools,
            max_output_tokens: self.max_output_tokens,
            cancel: hands.cancel.clone(),
        };
        let events = hands.events.clone();
        let mut attempt = 0;
        let mut on = move |delta: Delta| match delta {
            Delta::Retrying { error, .. } => {
                attempt += 1;
                // A sign of life: when the channel is full there are enough of them.
                let _ = events.try_send(RuntimeEvent::Retry { attempt, error });
            }
            Delta::Text(_) | Delta::ToolCall { .. } => {}
        };
        self.llm.stream(request, &mut on).await
    }

    fn failed(&self, error: &LlmError) -> TurnOutcome {
        let failure = match error {
            LlmError::Cancelled => return TurnOutcome::Interrupted,
            LlmError::RateLimited { retry_after } => {
                let until = retry_after.and_then(|wait| chrono::Duration::from_std(wait).ok());
                let now = self.store.clock().now();
                return TurnOutcome::RateLimited(until.map(|wait| now + wait));
            }
            LlmError::Setup(_)
            | LlmError::Unauthorised { .. }
            | LlmError::NoCredit { .. }
            | LlmError::NotFound { .. } => Failure::Auth,
            LlmError::Overloaded { .. }
            | LlmError::Unreachable { .. }
            | LlmError::BrokenOff { .. } => Failure::Provider,
            LlmError::BadRequest { .. } => Failure::BadRequest,
            LlmError::ContextFull { .. } => Failure::ContextFull,
            LlmError::Replay(_) => Failure::Unusable,
        };
        TurnOutcome::Failed { failure, message: error.to_string() }
    }
}

/// Carries out the calls of a message, in order, and returns their answers.
async fn answer_calls(hands: &Hands, message: &LlmMessage) -> Vec<Part> {
    let mut answers = vec![];
    for part in &message.parts {
        if let Part::ToolCall { id, name, arguments } = part {
            let outcome = hands.call(id, name, arguments).await;
            let (id, text, is_error) = (id.clone(), outcome.text, outcome.is_error);
            answers.push(Part::ToolResult { id, text, is_error });
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn calls_without_an_answer_are_closed_after_a_crash() {
        let call = |id: &str| Part::ToolCall {
            id: id.to_owned(),
            name: "shell".to_owned(),
            arguments: json!({}),
        };
        let broken = [
            LlmMessage::user("go"),
            LlmMessage { speaker: Speaker::Assistant, parts: vec![call("a"), call("b")] },
        ];
        let closing = close_dangling(&broken).unwrap();
        assert_eq!(closing.parts.len(), 2);
        assert!(
            matches!(&closing.parts[1], Part::ToolResult { id, is_error: true, .. } if id == "b")
        );
        assert_eq!(close_dangling(&[LlmMessage::assistant("done")]), None);
        assert_eq!(close_dangling(&broken[..1]), None);
    }

    #[test]
    fn one_speaker_never_speaks_twice_in_a_row() {
        let messages = [
            LlmMessage::user("a"),
            LlmMessage::user("b"),
            LlmMessage::assistant("c"),
            LlmMessage::user("d"),
        ];
        let merged = merged(&messages);
        assert_eq!(merged.len(), 3);
        assert_eq!(merged[0].text(), "ab");
    }

    #[test]
    fn a_conversation_is_found_again_by_its_id() {
        assert_eq!(root(Some("api-12"), NATIVE), Some(AgentSessionId(12)));
        assert_eq!(root(Some("something"), NATIVE), None);
        assert_eq!(root(None, NATIVE), None);
    }
}

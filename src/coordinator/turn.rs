//! One turn, step by step: ask the model, carry out what it calls, until it answers.
//!
//! Each step begins by reading the conversation from the store and does what its last message
//! wants next. So a turn that a crash cut off simply goes on: there is no other state.
//!
//! A call is written before it is carried out and its answer after it; tools whose effect is in
//! the store write both in one transaction. A call that was begun and not answered is made again
//! only when that is harmless; otherwise the model is told that its outcome is unknown.

use super::limits::{self, Limit};
use super::view::View;
use super::{Inner, history, input, text, view};
use crate::agents::budget::{self, Spender};
use crate::failpoint::failpoint;
use crate::llm::tools::{ToolCaller, ToolOutcome};
use crate::llm::{Llm, LlmError, Reply, Request, Stop};
use crate::model::chat::{Incoming, Outgoing};
use crate::model::ids::{MessageKey, PersonId, ProjectName, SessionKey};
use crate::model::llm::{LlmMessage, Part, Speaker, Usage};
use crate::redact::redact;
use crate::store::conversation::{self, CallOwner, CallState, Stored, TurnState};
use crate::store::costs::{self, Cost, Source};
use crate::store::{StoreError, Tx, inbox, outbox};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How much of a tool's answer the model is given, in characters.
const RESULT_MAX: usize = 24_000;

/// A turn that runs.
pub struct Run<'a> {
    pub(super) inner: &'a Inner,
    pub(super) llm: Llm,
    pub(super) id: i64,
    pub(super) key: SessionKey,
    pub(super) epoch: i64,
    pub(super) system: String,
    pub(super) project: Option<ProjectName>,
    pub(super) steer: mpsc::Receiver<Incoming>,
    /// All messages that the turn answers: its batch, and what steered it.
    pub(super) batch: Vec<Incoming>,
    pub(super) cancel: CancellationToken,
}

/// The model's last word.
pub struct Answer {
    reply: Reply,
}

/// Why a turn ended without an answer.
pub enum Broken {
    /// A limit was reached.
    Limit(Limit),
    /// Something failed, as a sentence for the room.
    Error(String),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Broken::Error(format!("{error}; the log has more, and `doctor` looks for the cause"))
    }
}

/// How a turn ends.
pub enum Ending {
    /// With the model's answer.
    Answered(Answer),
    /// Somebody stopped it.
    Cancelled,
    /// It broke.
    Broken(Broken),
}

/// A call that the conversation waits for.
struct OpenCall {
    id: String,
    name: String,
    arguments: Value,
}

impl Run<'_> {
    /// Takes steps until the model has answered.
    pub async fn steps(&mut self, view: &View) -> Result<Answer, Broken> {
        loop {
            let history = self.history().await?;
            let calls = open_calls(&history);
            if !calls.is_empty() {
                self.carry_out(calls, view).await?;
                continue;
            }
            self.check_limits(&history).await?;
            let reply = self.ask(history, view).await?;
            if let Some(answer) = self.take(reply, view).await? {
                return Ok(answer);
            }
        }
    }

    async fn history(&self) -> Result<Vec<Stored>, StoreError> {
        let (key, epoch) = (self.key.clone(), self.epoch);
        self.inner.store.read(move |conn| conversation::history(conn, &key, epoch)).await
    }

    async fn check_limits(&self, history: &[Stored]) -> Result<(), Broken> {
        let mine: Vec<LlmMessage> = history
            .iter()
            .filter(|row| row.turn == self.id)
            .map(|row| row.message.clone())
            .collect();
        if let Some(limit) = limits::circle(&mine) {
            return Err(Broken::Limit(limit));
        }
        let steps = mine.iter().filter(|message| message.speaker == Speaker::Assistant).count();
        let id = self.id;
        let (now, config) = (self.inner.store.clock().now(), Arc::clone(&self.inner.config));
        let project = self.project.clone();
        let read = self.inner.store.read(move |conn| {
            let turn = conversation::find_turn(conn, id)?;
            let spender = Spender { project: project.as_ref(), ..Spender::default() };
            let today = budget::meters(conn, &config, now, &spender)?;
            Ok::<_, StoreError>((turn, today))
        });
        let (turn, today) = read.await?;
        let (usage, cost) =
            turn.map_or((Usage::default(), 0), |turn| (turn.usage, turn.cost_microusd));
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        if let Some(limit) = limits::of_turn(&self.inner.config.llm, steps, usage, cost) {
            return Err(Broken::Limit(limit));
        }
        if let Some(full) = today.iter().find(|meter| meter.is_full()) {
            return Err(Broken::Limit(Limit::Day(full.reached().what)));
        }
        let warn_at = self.inner.config.limits.warn_at;
        for low in today.iter().filter(|meter| meter.share() >= warn_at) {
            let outgoing = Outgoing::text(self.key.clone(), low.warning());
            // The key under which this room may have heard it from the agents' side.
            let dedup = format!("{}:{}", low.name(false), self.key.room);
            let warn = move |tx: &Tx<'_>| outbox::enqueue(tx, &outgoing, Some(&dedup));
            self.inner.store.write(warn).await?;
        }
        Ok(())
    }

    /// Asks the model for the next step. A conversation that does not fit is compacted once.
    async fn ask(&mut self, history: Vec<Stored>, view: &View) -> Result<Reply, Broken> {
        let specs = self.inner.tools.specs(&self.caller());
        let mut messages: Vec<LlmMessage> = history.into_iter().map(|row| row.message).collect();
        let mut compacted = false;
        loop {
            let request = Request {
                system: &self.system,
                messages: &messages,
                tools: &specs,
                max_output_tokens: self.inner.config.llm.max_output_tokens,
                cancel: self.cancel.clone(),
            };
            match self.llm.stream(request, &mut |delta| view.on(delta)).await {
                Ok(reply) => {
                    failpoint("model-answered");
                    return Ok(reply);
                }
                Err(LlmError::ContextFull { .. }) if !compacted => {
                    compacted = true;
                    let (key, epoch, id) = (self.key.clone(), self.epoch, self.id);
                    let write = self.inner.store.write(move |tx| {
                        history::compact(tx, &key, epoch, Some(id), history::Need::Now)
                    });
                    self.epoch = write.await?;
                    messages = self.history().await?.into_iter().map(|row| row.message).collect();
                }
                Err(error) => return Err(Broken::Error(error.to_string())),
            }
        }
    }

    /// Stores a step. Returns it when it is the last one: that is stored with the turn's end.
    async fn take(&mut self, reply: Reply, view: &View) -> Result<Option<Answer>, Broken> {
        if reply.stop == Stop::Refused || open_calls_of(&reply.message).is_empty() {
            let steered = self.take_steering();
            if steered.is_empty() {
                return Ok(Some(Answer { reply }));
            }
            // Somebody said more while the answer was made: it is one step, and goes on.
            let more = LlmMessage::user(input::messages(&steered));
            view.step_done(&reply.message.text());
            return self.store_step(reply, Some((more, keys(&steered)))).await.map(|()| None);
        }
        view.step_done(&reply.message.text());
        self.store_step(reply, None).await.map(|()| None)
    }

    async fn store_step(
        &self,
        reply: Reply,
        more: Option<(LlmMessage, Vec<MessageKey>)>,
    ) -> Result<(), Broken> {
        let (key, epoch, id) = (self.key.clone(), self.epoch, self.id);
        let cost = self.cost(&reply);
        let write = self.inner.store.write(move |tx| {
            record(tx, id, &cost)?;
            if !reply.message.parts.is_empty() {
                conversation::append(tx, &key, epoch, id, &reply.message)?;
            }
            if let Some((more, keys)) = more {
                conversation::append(tx, &key, epoch, id, &more)?;
                inbox::mark_taken(tx, &keys, id)?;
            }
            Ok::<(), StoreError>(())
        });
        Ok(write.await?)
    }

    /// Carries out what the last step called, and stores the results in order.
    async fn carry_out(&mut self, calls: Vec<OpenCall>, view: &View) -> Result<(), Broken> {
        let mut parts = Vec::new();
        for call in calls {
            view.tool(&call.name);
            let outcome = self.call(&call).await?;
            parts.push(Part::ToolResult {
                id: call.id,
                text: outcome.text,
                is_error: outcome.is_error,
            });
        }
        let steered = self.take_steering();
        if !steered.is_empty() {
            parts.push(Part::Text { text: input::messages(&steered) });
        }
        let message = LlmMessage { speaker: Speaker::User, parts };
        let (key, epoch, id, keys) = (self.key.clone(), self.epoch, self.id, keys(&steered));
        let write = self.inner.store.write(move |tx| {
            conversation::append(tx, &key, epoch, id, &message)?;
            inbox::mark_taken(tx, &keys, id)
        });
        Ok(write.await?)
    }

    async fn call(&self, call: &OpenCall) -> Result<ToolOutcome, Broken> {
        let owner = CallOwner::Chat(self.id);
        let store = &self.inner.store;
        let (id, name, arguments) = (call.id.clone(), call.name.clone(), call.arguments.clone());
        let state = store
            .write(move |tx| {
                let state = conversation::call_state(tx, owner, &id)?;
                conversation::begin_call(tx, owner, &id, &name, &arguments)?;
                Ok::<_, StoreError>(state)
            })
            .await?;
        let outcome = match state {
            CallState::Answered { text, is_error } => return Ok(ToolOutcome { text, is_error }),
            CallState::Begun if !self.inner.tools.is_repeatable(&call.name) => {
                ToolOutcome::error(text::OUTCOME_UNKNOWN)
            }
            CallState::Begun | CallState::Unknown => {
                let tools = &self.inner.tools;
                tools.call(&self.caller(), &call.id, &call.name, call.arguments.clone()).await
            }
        };
        failpoint("tool-done");
        let outcome =
            ToolOutcome { text: shorten(&redact(&outcome.text)), is_error: outcome.is_error };
        let (id, stored) = (call.id.clone(), outcome.clone());
        store
            .write(move |tx| {
                conversation::finish_call(tx, owner, &id, &stored.text, stored.is_error)
            })
            .await?;
        Ok(outcome)
    }

    fn take_steering(&mut self) -> Vec<Incoming> {
        let mut steered = Vec::new();
        while let Ok(incoming) = self.steer.try_recv() {
            steered.push(incoming);
        }
        self.batch.extend(steered.iter().cloned());
        steered
    }

    fn caller(&self) -> ToolCaller {
        let mut people: Vec<PersonId> =
            self.batch.iter().map(|incoming| incoming.sender.clone()).collect();
        people.sort();
        people.dedup();
        ToolCaller::Coordinator {
            session: self.key.clone(),
            chat_turn: self.id,
            people,
            asked: input::plain(&self.batch),
            project: self.project.clone(),
        }
    }

    fn cost(&self, reply: &Reply) -> Cost {
        Cost {
            source: Source::Coordinator,
            name: self.key.to_string(),
            model: self.llm.name().to_owned(),
            item: None,
            project: self.project.clone(),
            usage: reply.usage,
            microusd: reply.cost_microusd,
        }
    }

    /// Ends the turn in one transaction: its end, its messages, and what is said about it.
    pub async fn settle(&self, ending: Ending, view: &View) -> Result<TurnState, StoreError> {
        let (id, key, epoch) = (self.id, self.key.clone(), self.epoch);
        let keys = keys(&self.batch);
        let (state, error, answer, said) = match ending {
            Ending::Answered(Answer { reply }) => self.judge(reply, view),
            Ending::Cancelled => (TurnState::Cancelled, None, None, text::stopped(&view.said())),
            Ending::Broken(Broken::Limit(limit)) => {
                let said = text::limited(&view.said(), &limit);
                (TurnState::Failed, Some(limit.to_string()), None, said)
            }
            Ending::Broken(Broken::Error(error)) => {
                let error = redact(&error);
                (TurnState::Failed, Some(error.clone()), None, text::failed(&view.said(), &error))
            }
        };
        let write = self.inner.store.write(move |tx| {
            if !conversation::end_turn(tx, id, state, error.as_deref())? {
                return Ok(None);
            }
            if let Some((message, cost)) = &answer {
                record(tx, id, cost)?;
                if !message.parts.is_empty() {
                    conversation::append(tx, &key, epoch, id, message)?;
                }
            }
            close_calls(tx, &key, epoch, id)?;
            inbox::mark_done(tx, &keys)?;
            // A turn that was stopped before it showed anything is answered by who stopped it.
            if state != TurnState::Cancelled || conversation::answer_row(tx, id)?.is_some() {
                view::post(tx, &key, id, &said)?;
            }
            Ok::<_, StoreError>(Some(state))
        });
        let ended = write.await?;
        failpoint("turn-ended");
        // Somebody else ended it: the answer was committed at the moment of the stop.
        Ok(ended.unwrap_or(TurnState::Done))
    }

    /// What becomes of the model's last word.
    #[allow(clippy::type_complexity)]
    fn judge(
        &self,
        reply: Reply,
        view: &View,
    ) -> (TurnState, Option<String>, Option<(LlmMessage, Cost)>, String) {
        let answer = reply.message.text();
        view.step_done(&answer);
        let said = view.said();
        let cost = self.cost(&reply);
        let stored = Some((reply.message, cost));
        match reply.stop {
            Stop::Refused => {
                let error = text::REFUSED.to_owned();
                let said = text::failed(&said, &error);
                (TurnState::Failed, Some(error), stored, said)
            }
            Stop::End | Stop::ToolCalls | Stop::MaxTokens if answer.trim().is_empty() => {
                let error = text::EMPTY.to_owned();
                let said = text::failed(&said, &error);
                (TurnState::Failed, Some(error), stored, said)
            }
            Stop::MaxTokens => (TurnState::Done, None, stored, text::cut_off(&said)),
            Stop::End | Stop::ToolCalls => (TurnState::Done, None, stored, said),
        }
    }
}

fn keys(batch: &[Incoming]) -> Vec<MessageKey> {
    batch.iter().map(|incoming| incoming.key.clone()).collect()
}

fn record(tx: &Tx<'_>, turn: i64, cost: &Cost) -> Result<(), StoreError> {
    conversation::add_usage(tx, turn, cost.usage, cost.microusd)?;
    costs::record(tx, cost)
}

/// The calls that the conversation's last message waits for.
fn open_calls(history: &[Stored]) -> Vec<OpenCall> {
    history.last().map(|row| open_calls_of(&row.message)).unwrap_or_default()
}

fn open_calls_of(message: &LlmMessage) -> Vec<OpenCall> {
    if message.speaker != Speaker::Assistant {
        return vec![];
    }
    let call = |part: &Part| match part {
        Part::ToolCall { id, name, arguments } => {
            Some(OpenCall { id: id.clone(), name: name.clone(), arguments: arguments.clone() })
        }
        Part::Text { .. } | Part::ToolResult { .. } | Part::Thinking { .. } => None,
    };
    message.parts.iter().filter_map(call).collect()
}

/// Answers calls that an ended turn leaves open, so that the conversation can go on.
pub fn close_calls(tx: &Tx<'_>, key: &SessionKey, epoch: i64, turn: i64) -> Result<(), StoreError> {
    let history = conversation::history(tx, key, epoch)?;
    let mut parts = Vec::new();
    for call in open_calls(&history) {
        let (text, is_error) = match conversation::call_state(tx, CallOwner::Chat(turn), &call.id)?
        {
            CallState::Answered { text, is_error } => (text, is_error),
            CallState::Begun => (text::OUTCOME_UNKNOWN.to_owned(), true),
            CallState::Unknown => (text::NOT_CARRIED_OUT.to_owned(), true),
        };
        parts.push(Part::ToolResult { id: call.id, text, is_error });
    }
    if !parts.is_empty() {
        let message = LlmMessage { speaker: Speaker::User, parts };
        conversation::append(tx, key, epoch, turn, &message)?;
    }
    Ok(())
}

/// The beginning and the end of a text that is too long.
fn shorten(text: &str) -> String {
    let count = text.chars().count();
    if count <= RESULT_MAX {
        return text.to_owned();
    }
    let half = RESULT_MAX / 2;
    let begin: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(count - half).collect();
    format!("{begin}\n… ({} characters left out) …\n{end}", count - RESULT_MAX)
}

//! A session that runs in this process: what the built-in agent and recordings share.
//!
//! A task owns the [`Brain`], which plays one turn at a time with [`Hands`]: the confined local
//! tools, our own tools, the events, and what is said to it meanwhile. Interrupting cancels what
//! the turn is doing, a running tool included.

use super::local::LocalTools;
use super::shown::{cut, tool_summary};
use super::{
    AgentTools, Answer, Delivery, InterruptOutcome, RequestId, RuntimeEvent, SendError, Session,
    SpawnSpec, Stale, TurnOutcome, UserMessage,
};
use crate::agents::permission::Decision;
use crate::agents::process::{ExitReport, Ladder, Marked, kill_marked};
use crate::llm::tools::{ToolOutcome, ToolSpec};
use async_trait::async_trait;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Plays turns.
#[async_trait]
pub(super) trait Brain: Send {
    /// The session's id, for a later resume, and the model's name.
    fn introduce(&self) -> (String, String);

    /// Plays one turn. What is said to the agent is taken with [`Hands::take_messages`].
    async fn turn(&mut self, hands: &Hands) -> TurnOutcome;
}

/// What a brain acts with.
pub(super) struct Hands {
    shared: Arc<Shared>,
    pub events: mpsc::Sender<RuntimeEvent>,
    /// Cancelled when the turn is interrupted.
    pub cancel: CancellationToken,
}

struct Shared {
    spec: SpawnSpec,
    local: LocalTools,
    messages: Mutex<VecDeque<UserMessage>>,
    said: Notify,
    /// The running turn's token.
    turn: Mutex<CancellationToken>,
    turn_open: watch::Sender<bool>,
    asked: Mutex<HashMap<String, oneshot::Sender<Answer>>>,
    ended: CancellationToken,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct InProcess {
    shared: Arc<Shared>,
    stopped: tokio::sync::Mutex<Option<ExitReport>>,
}

/// Starts the task of a session.
pub(super) fn start(
    spec: SpawnSpec,
    mut brain: Box<dyn Brain>,
    events: mpsc::Sender<RuntimeEvent>,
) -> Arc<dyn Session> {
    let shared = Arc::new(Shared {
        local: LocalTools::new(&spec),
        spec,
        messages: Mutex::default(),
        said: Notify::new(),
        turn: Mutex::new(CancellationToken::new()),
        turn_open: watch::Sender::new(false),
        asked: Mutex::default(),
        ended: CancellationToken::new(),
    });
    let session = InProcess { shared: Arc::clone(&shared), stopped: tokio::sync::Mutex::default() };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = shared.ended.cancelled() => break,
                () = shared.said.notified() => {}
            }
            while !hold(&shared.messages).is_empty() && !shared.ended.is_cancelled() {
                play(&shared, brain.as_mut(), &events).await;
            }
        }
        let _ = events.send(RuntimeEvent::Exited(ExitReport::default())).await;
    });
    Arc::new(session)
}

async fn play(shared: &Arc<Shared>, brain: &mut dyn Brain, events: &mpsc::Sender<RuntimeEvent>) {
    let cancel = shared.ended.child_token();
    *hold(&shared.turn) = cancel.clone();
    let hands =
        Hands { shared: Arc::clone(shared), events: events.clone(), cancel: cancel.clone() };
    let (native_id, model) = brain.introduce();
    hands.emit(RuntimeEvent::Ready { native_id, model, bad_tools: vec![] }).await;
    hands.emit(RuntimeEvent::Running).await;
    let outcome = brain.turn(&hands).await;
    let outcome = if cancel.is_cancelled() { TurnOutcome::Interrupted } else { outcome };
    shared.turn_open.send_replace(false);
    hands.emit(RuntimeEvent::TurnEnd(outcome)).await;
}

impl Hands {
    pub async fn emit(&self, event: RuntimeEvent) {
        // Nobody listens when the session is being dropped.
        let _ = self.events.send(event).await;
    }

    /// What was said since the last look. The caller says when each is taken in.
    pub fn take_messages(&self) -> Vec<UserMessage> {
        hold(&self.shared.messages).drain(..).collect()
    }

    /// Whether something was said that was not taken yet.
    pub fn has_messages(&self) -> bool {
        !hold(&self.shared.messages).is_empty()
    }

    fn ours(&self) -> &AgentTools {
        &self.shared.spec.tools
    }

    /// Every tool: the local ones, and ours.
    pub fn specs(&self) -> Vec<ToolSpec> {
        let mut specs = self.shared.local.specs();
        specs.extend(self.ours().specs());
        specs
    }

    /// Carries out a call, whoever's it is, and tells about it.
    pub async fn call(&self, id: &str, name: &str, input: &Value) -> ToolOutcome {
        let summary = cut(&tool_summary(input));
        let (id_, name_) = (id.to_owned(), name.to_owned());
        self.emit(RuntimeEvent::ToolStart { id: id_, name: name_, summary }).await;
        let outcome = self.carry_out(id, name, input).await;
        let (ok, summary) = (!outcome.is_error, cut(&outcome.text));
        self.emit(RuntimeEvent::ToolEnd { id: id.to_owned(), ok, summary }).await;
        outcome
    }

    async fn carry_out(&self, id: &str, name: &str, input: &Value) -> ToolOutcome {
        if self.cancel.is_cancelled() {
            return ToolOutcome::error("not run: the turn was interrupted");
        }
        if !LocalTools::has(name) {
            let call = self.ours().call(id, name, input.clone());
            return tokio::select! {
                outcome = call => outcome,
                () = self.cancel.cancelled() => ToolOutcome::error("interrupted; whether it took \
                                                                    effect is not known"),
            };
        }
        match self.shared.spec.policy.decide(name, input) {
            Decision::Allow => self.shared.local.call(name, input, &self.cancel).await,
            Decision::Deny(why) => {
                self.emit(RuntimeEvent::Denied { tool: name.to_owned(), why: why.clone() }).await;
                ToolOutcome::error(why)
            }
            Decision::Ask => self.ask(id, name, input).await,
        }
    }

    async fn ask(&self, id: &str, name: &str, input: &Value) -> ToolOutcome {
        let (tell, answer) = oneshot::channel();
        hold(&self.shared.asked).insert(id.to_owned(), tell);
        let request = RequestId(id.to_owned());
        let (tool, asked) = (name.to_owned(), input.clone());
        self.emit(RuntimeEvent::Ask { request: request.clone(), tool, input: asked }).await;
        let answer = tokio::select! {
            answer = answer => answer.ok(),
            () = self.cancel.cancelled() => None,
        };
        hold(&self.shared.asked).remove(id);
        match answer {
            Some(Answer::Allow { edited }) => {
                self.shared.local.call(name, edited.as_ref().unwrap_or(input), &self.cancel).await
            }
            Some(Answer::Deny { message, stop }) => {
                if stop {
                    self.cancel.cancel();
                }
                ToolOutcome::error(message)
            }
            // It asks no questions but by our tools.
            Some(Answer::Choice(_)) => ToolOutcome::error("not run: nobody decided about it"),
            None => {
                self.emit(RuntimeEvent::AskWithdrawn(request)).await;
                ToolOutcome::error("not run: the turn was interrupted")
            }
        }
    }
}

#[async_trait]
impl Session for InProcess {
    async fn send(&self, message: UserMessage, how: Delivery) -> Result<(), SendError> {
        if self.shared.ended.is_cancelled() {
            return Err(SendError);
        }
        if how == Delivery::InterruptThen {
            self.interrupt(Ladder::default().interrupt).await;
        }
        self.shared.turn_open.send_replace(true);
        hold(&self.shared.messages).push_back(message);
        self.shared.said.notify_one();
        Ok(())
    }

    async fn withdraw(&self, id: Uuid) -> Result<bool, SendError> {
        let mut messages = hold(&self.shared.messages);
        let before = messages.len();
        messages.retain(|message| message.id != id);
        Ok(messages.len() < before)
    }

    async fn interrupt(&self, deadline: Duration) -> InterruptOutcome {
        let mut open = self.shared.turn_open.subscribe();
        if !*open.borrow_and_update() {
            return InterruptOutcome::NothingRunning;
        }
        hold(&self.shared.turn).cancel();
        let ended = open.wait_for(|open| !open);
        match tokio::time::timeout(deadline, ended).await {
            Ok(_) => InterruptOutcome::Clean,
            Err(_elapsed) => InterruptOutcome::Overdue,
        }
    }

    async fn answer(&self, request: &RequestId, answer: Answer) -> Result<(), Stale> {
        let tell = hold(&self.shared.asked).remove(&request.0).ok_or(Stale)?;
        tell.send(answer).map_err(|_gone| Stale)
    }

    async fn stop(&self, ladder: Ladder) -> ExitReport {
        let mut stopped = self.stopped.lock().await;
        if let Some(report) = &*stopped {
            return report.clone();
        }
        self.interrupt(ladder.interrupt).await;
        self.shared.ended.cancel();
        let marker = self.shared.spec.marker.clone();
        let left = tokio::task::spawn_blocking(move || {
            kill_marked(Marked::Exactly(&marker), ladder.sweep)
        });
        let survivors = left.await.unwrap_or_default().iter().map(|ident| ident.pid).collect();
        let report = ExitReport { survivors, ..ExitReport::default() };
        *stopped = Some(report.clone());
        report
    }
}

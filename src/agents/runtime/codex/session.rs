//! A running CLI: a task that reads, one that delivers, one that writes, and the calls between.

use super::super::rpc::{Incoming, METHOD_NOT_FOUND, Peer, PeerReader, connect, write_lines};
use super::super::shown::{cut, died, text};
use super::super::{
    Answer, Delivery, InterruptOutcome, RequestId, RuntimeEvent, SendError, Session, SpawnSpec,
    Stale, TurnOutcome, UserMessage,
};
use super::ask::{Calls, Question, Raw, Verdict};
use super::deliver;
use super::wire::{self, EDIT, Told};
use crate::agents::permission::Decision;
use crate::agents::process::{AgentProcess, ExitReport, Ladder, LineReader, Stdin};
use crate::llm::Price;
use crate::model::agent::Failure;
use crate::model::llm::Usage;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::process::ChildStdout;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long the CLI may take to answer a small request.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the process may take to end after its stdout did.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// How often a call is looked for in the thread's record, the pause between two looks, and how
/// much of the record's end is read.
const RECALL_TRIES: u32 = 10;
const RECALL_PAUSE: Duration = Duration::from_millis(50);
const RECALL_BYTES: u64 = 1024 * 1024;

/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The turn that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    Idle,
    /// Something was said that the CLI has not begun a turn with yet.
    Starting,
    /// By its id.
    Running(String),
}

/// What the tasks and the callers share.
pub(super) struct Shared {
    pub spec: SpawnSpec,
    pub process: AgentProcess,
    pub peer: Peer,
    pub turn: watch::Sender<Turn>,
    /// What was said and is not delivered yet.
    pub queue: Mutex<VecDeque<(UserMessage, Delivery)>>,
    pub said: Notify,
    /// Thread and model, once the CLI has them.
    pub introduced: Mutex<Option<(String, String)>>,
    /// The CLI's own record of a resumed thread.
    pub record: Mutex<Option<PathBuf>>,
    /// The CLI's requests that wait for a person: their ids on the wire, and what is asked.
    asked: Mutex<HashMap<String, (Value, String)>>,
    /// Cancelled when the process is gone.
    pub ended: CancellationToken,
}

pub(super) fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Waits until the turn is so, and says how it then is. Cancel-safe.
    pub async fn until(&self, is_so: impl FnMut(&Turn) -> bool + Send) -> Turn {
        let mut turn = self.turn.subscribe();
        // The sender is ours, so it is there.
        turn.wait_for(is_so).await.map_or(Turn::Idle, |turn| turn.clone())
    }
}

struct CodexSession {
    shared: Arc<Shared>,
    stopping: AsyncMutex<Option<ExitReport>>,
}

/// Starts the tasks of a spawned process.
pub(super) fn start(
    spec: SpawnSpec,
    process: AgentProcess,
    stdin: Stdin,
    lines: LineReader<ChildStdout>,
    events: mpsc::Sender<RuntimeEvent>,
) -> Arc<dyn Session> {
    let (peer, reader, to_write) = connect(lines);
    let shared = Arc::new(Shared {
        spec,
        process,
        peer,
        turn: watch::Sender::new(Turn::Idle),
        queue: Mutex::default(),
        said: Notify::new(),
        introduced: Mutex::default(),
        record: Mutex::default(),
        asked: Mutex::default(),
        ended: CancellationToken::new(),
    });
    tokio::spawn(write(stdin, to_write, Arc::clone(&shared)));
    tokio::spawn(deliver::run(Arc::clone(&shared), events.clone()));
    let reader = Reader {
        shared: Arc::clone(&shared),
        events,
        lines: reader,
        calls: Calls::default(),
        total: None,
        retries: 0,
        limited_until: None,
        bad_servers: vec![],
        progress_at: None,
    };
    tokio::spawn(reader.run());
    Arc::new(CodexSession { shared, stopping: AsyncMutex::default() })
}

async fn write(stdin: Stdin, lines: mpsc::Receiver<String>, shared: Arc<Shared>) {
    if let Err(error) = write_lines(stdin, lines).await {
        tracing::warn!(%error, agent = %shared.spec.tools.agent, "cannot write to the agent");
        shared.peer.close();
        // A process that reads no more is of no use; its end tells the reader.
        shared.process.stop(Ladder::default()).await;
    }
}

#[async_trait]
impl Session for CodexSession {
    async fn send(&self, message: UserMessage, how: Delivery) -> Result<(), SendError> {
        let shared = &self.shared;
        if how == Delivery::InterruptThen {
            self.interrupt(Ladder::default().interrupt).await;
        }
        if shared.ended.is_cancelled() {
            return Err(SendError);
        }
        shared.turn.send_if_modified(|turn| {
            let idle = *turn == Turn::Idle;
            if idle {
                *turn = Turn::Starting;
            }
            idle
        });
        hold(&shared.queue).push_back((message, how));
        shared.said.notify_one();
        Ok(())
    }

    async fn withdraw(&self, id: Uuid) -> Result<bool, SendError> {
        let mut queue = hold(&self.shared.queue);
        let before = queue.len();
        queue.retain(|(message, _)| message.id != id);
        Ok(queue.len() < before)
    }

    async fn interrupt(&self, deadline: Duration) -> InterruptOutcome {
        let shared = &self.shared;
        if *shared.turn.borrow() == Turn::Idle {
            return InterruptOutcome::NothingRunning;
        }
        let ended = async {
            let running = match shared.until(|turn| *turn != Turn::Starting).await {
                Turn::Running(id) => Some(id),
                Turn::Idle | Turn::Starting => None,
            };
            let thread = hold(&shared.introduced).clone().map(|(thread, _)| thread);
            if let (Some(thread), Some(id)) = (thread, running) {
                // Their answers may come late or never: the end of the turn is what counts.
                let params = json!({"threadId": thread, "turnId": id});
                let _ = shared.peer.request("turn/interrupt", params, CONTROL_TIMEOUT).await;
                let params = json!({"threadId": thread});
                let clean = "thread/backgroundTerminals/clean";
                let _ = shared.peer.request(clean, params, CONTROL_TIMEOUT).await;
            }
            shared.until(|turn| *turn == Turn::Idle).await;
        };
        match tokio::time::timeout(deadline, ended).await {
            Ok(()) => InterruptOutcome::Clean,
            Err(_elapsed) => InterruptOutcome::Overdue,
        }
    }

    async fn answer(&self, request: &RequestId, answer: Answer) -> Result<(), Stale> {
        let (id, tool) = hold(&self.shared.asked).remove(&request.0).ok_or(Stale)?;
        match answer {
            // It has no way to run anything else than what was asked.
            Answer::Allow { edited: Some(_) } => {
                self.shared.peer.respond(&id, Verdict::Decline.answer()).await;
                tell_why(&self.shared, &tool, "a person wants it done differently").await;
            }
            Answer::Allow { edited: None } => {
                self.shared.peer.respond(&id, Verdict::Accept.answer()).await;
            }
            Answer::Deny { message, stop } => {
                let verdict = if stop { Verdict::Cancel } else { Verdict::Decline };
                self.shared.peer.respond(&id, verdict.answer()).await;
                if !stop {
                    tell_why(&self.shared, &tool, &message).await;
                }
            }
            // It asks nothing but for permission.
            Answer::Choice(_) => {
                self.shared.peer.respond(&id, Verdict::Decline.answer()).await;
            }
        }
        Ok(())
    }

    async fn stop(&self, ladder: Ladder) -> ExitReport {
        let mut stopping = self.stopping.lock().await;
        if let Some(report) = &*stopping {
            return report.clone();
        }
        let up = hold(&self.shared.introduced).is_some();
        let interrupted = match up {
            true => self.interrupt(ladder.interrupt).await,
            false => InterruptOutcome::NothingRunning,
        };
        self.shared.peer.close();
        let ladder = match interrupted {
            InterruptOutcome::Overdue => Ladder { close: Duration::ZERO, ..ladder },
            InterruptOutcome::Clean | InterruptOutcome::NothingRunning => ladder,
        };
        let report = self.shared.process.stop(ladder).await;
        *stopping = Some(report.clone());
        report
    }
}

/// A refusal carries no words, so the model is told the reason at its next step.
async fn tell_why(shared: &Shared, tool: &str, why: &str) {
    let turn = shared.turn.borrow().clone();
    let thread = hold(&shared.introduced).clone();
    if let (Turn::Running(turn), Some((thread, _))) = (turn, thread) {
        let words = format!("(Musher: {tool} was refused: {why})");
        let params = json!({
            "threadId": thread, "expectedTurnId": turn,
            "input": [{"type": "text", "text": words, "text_elements": []}],
        });
        // A turn that is over needs no reason.
        let _ = shared.peer.begin("turn/steer", params).await;
    }
}

/// Reads what the CLI says and tells what it means. Never waits for a person or a tool.
struct Reader {
    shared: Arc<Shared>,
    events: mpsc::Sender<RuntimeEvent>,
    lines: PeerReader<ChildStdout>,
    calls: Calls,
    /// All tokens of the thread, as last told.
    total: Option<u64>,
    retries: u64,
    limited_until: Option<DateTime<Utc>>,
    bad_servers: Vec<String>,
    progress_at: Option<Instant>,
}

impl Reader {
    async fn run(mut self) {
        let broken = loop {
            match self.lines.next().await {
                Incoming::Request { id, method, params } => {
                    self.request(id, &method, params).await;
                }
                Incoming::Notification { method, params } => {
                    if self.is_ours(&params) {
                        self.told(wire::read(&method, &params)).await;
                    }
                }
                Incoming::Opaque(line) => self.emit(RuntimeEvent::Opaque(line)).await,
                Incoming::End(broken) => break broken,
            }
        };
        self.end(broken).await;
    }

    /// Threads of other agents inside the CLI have no turns of ours.
    fn is_ours(&self, params: &Value) -> bool {
        let named = params.get("threadId").and_then(Value::as_str);
        match (named, &*hold(&self.shared.introduced)) {
            (Some(named), Some((thread, _))) => named == thread,
            _unknown => true,
        }
    }

    async fn emit(&self, event: RuntimeEvent) {
        // Nobody listens when the session is being dropped.
        let _ = self.events.send(event).await;
    }

    async fn told(&mut self, told: Told) {
        match told {
            Told::TurnStarted(id) => {
                self.retries = 0;
                self.shared.turn.send_replace(Turn::Running(id));
                self.ready().await;
                self.emit(RuntimeEvent::Running).await;
            }
            Told::TurnCompleted(turn) => {
                let outcome = wire::outcome(&turn, self.limited_until.take());
                self.turn_over(outcome).await;
            }
            Told::Consumed(id) => {
                if let Ok(id) = id.parse() {
                    self.emit(RuntimeEvent::Consumed(id)).await;
                }
            }
            Told::Text(said) => self.emit(RuntimeEvent::Text(said)).await,
            Told::ToolStart { id, name, summary } => {
                self.emit(RuntimeEvent::ToolStart { id, name, summary }).await;
            }
            Told::Changes { id, paths } => {
                let summary = cut(&paths.join(" "));
                self.calls.changes.insert(id.clone(), paths);
                let name = EDIT.to_owned();
                self.emit(RuntimeEvent::ToolStart { id, name, summary }).await;
            }
            Told::RawCall { id, command, escalated } => {
                self.calls.raw.insert(id, Raw { command, escalated });
            }
            Told::ToolEnd { id, ok, summary } => {
                self.calls.forget(&id);
                self.emit(RuntimeEvent::ToolEnd { id, ok, summary }).await;
            }
            Told::Used { last, total } => self.used(last, total).await,
            Told::Retry(error) => {
                self.retries += 1;
                self.emit(RuntimeEvent::Retry { attempt: self.retries, error }).await;
            }
            Told::Error(error) => {
                self.emit(RuntimeEvent::Opaque(format!("error: {}", text(&error, "message"))))
                    .await;
            }
            Told::Resolved(id) => {
                let id = id.to_string();
                if hold(&self.shared.asked).remove(&id).is_some() {
                    self.emit(RuntimeEvent::AskWithdrawn(RequestId(id))).await;
                }
            }
            Told::Limited(until) => {
                self.limited_until = until;
                self.emit(RuntimeEvent::RateLimit { blocked: true, until }).await;
            }
            Told::BadServer(name) => {
                self.bad_servers.push(name);
                self.ready().await;
            }
            Told::Progress => self.progress().await,
            Told::Other(what) => self.emit(RuntimeEvent::Opaque(what)).await,
        }
    }

    async fn ready(&self) {
        let introduced = hold(&self.shared.introduced).clone();
        if let Some((native_id, model)) = introduced {
            let bad_tools = self.bad_servers.clone();
            self.emit(RuntimeEvent::Ready { native_id, model, bad_tools }).await;
        }
    }

    /// A sign of life of a turn that runs.
    async fn progress(&mut self) {
        let now = Instant::now();
        let told = self.progress_at.is_some_and(|at| now - at < PROGRESS_EVERY);
        if !told && matches!(*self.shared.turn.borrow(), Turn::Running(_)) {
            self.progress_at = Some(now);
            self.emit(RuntimeEvent::Running).await;
        }
    }

    /// The total is cumulative for the thread, over processes; a repeated one is no new call.
    async fn used(&mut self, usage: Usage, total: u64) {
        let running = matches!(*self.shared.turn.borrow(), Turn::Running(_));
        // At a resume it tells again what earlier processes used.
        if self.total.replace(total) == Some(total) || !running {
            return;
        }
        let model = hold(&self.shared.introduced).clone().map(|(_, model)| model);
        let model = model.unwrap_or_default();
        let price = Price::listed(&model);
        let microusd =
            price.map_or(0, |price| price.microusd(usage.input, usage.cached, 0, usage.output));
        self.emit(RuntimeEvent::Used { usage, microusd, model }).await;
    }

    async fn turn_over(&mut self, outcome: TurnOutcome) {
        self.shared.turn.send_replace(Turn::Idle);
        self.withdraw_all().await;
        self.emit(RuntimeEvent::TurnEnd(outcome)).await;
    }

    async fn withdraw_all(&self) {
        let asked: Vec<String> = hold(&self.shared.asked).drain().map(|(id, _)| id).collect();
        for id in asked {
            self.emit(RuntimeEvent::AskWithdrawn(RequestId(id))).await;
        }
    }

    async fn request(&mut self, id: Value, method: &str, params: Value) {
        match method {
            "item/tool/call" => {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    let answer = tool(&shared, &params).await;
                    shared.peer.respond(&id, answer).await;
                });
            }
            "item/commandExecution/requestApproval" => {
                self.recall(&text(&params, "itemId")).await;
                let question = self.calls.command(&self.shared.spec.policy, &params);
                self.decide(id, question).await;
            }
            "item/fileChange/requestApproval" => {
                let question = self.calls.patch(&self.shared.spec.policy, &params);
                self.decide(id, question).await;
            }
            "item/permissions/requestApproval" => {
                let why = "more permissions are not given to a running turn".to_owned();
                self.emit(RuntimeEvent::Denied { tool: "request_permissions".to_owned(), why })
                    .await;
                self.respond(id, json!({"permissions": {}, "scope": "turn"}));
            }
            "item/tool/requestUserInput" => self.respond(id, json!({"answers": {}})),
            "mcpServer/elicitation/request" => self.respond(id, json!({"action": "decline"})),
            other => {
                let (shared, why) = (Arc::clone(&self.shared), format!("musher knows no {other}"));
                self.emit(RuntimeEvent::Opaque(other.to_owned())).await;
                tokio::spawn(async move {
                    shared.peer.refuse(&id, METHOD_NOT_FOUND, &why).await;
                });
            }
        }
    }

    /// Looks a call up that no raw event told of. The record is written at about the same time.
    async fn recall(&mut self, call: &str) {
        let record = hold(&self.shared.record).clone();
        let Some(record) = record.filter(|_| !self.calls.raw.contains_key(call)) else { return };
        for _ in 0..RECALL_TRIES {
            let found = recorded(&record, call).await;
            if let Some(Told::RawCall { id, command, escalated }) = found {
                self.calls.raw.insert(id, Raw { command, escalated });
                return;
            }
            tokio::time::sleep(RECALL_PAUSE).await;
        }
    }

    fn respond(&self, id: Value, answer: Value) {
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { shared.peer.respond(&id, answer).await });
    }

    async fn decide(&self, id: Value, question: Question) {
        let Question { tool, input, decision } = question;
        match decision {
            Decision::Allow => self.respond(id, Verdict::Accept.answer()),
            Decision::Deny(why) => {
                let denied = RuntimeEvent::Denied { tool: tool.clone(), why: why.clone() };
                self.emit(denied).await;
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    shared.peer.respond(&id, Verdict::Decline.answer()).await;
                    tell_why(&shared, &tool, &why).await;
                });
            }
            Decision::Ask => {
                let request = id.to_string();
                hold(&self.shared.asked).insert(request.clone(), (id, tool.clone()));
                self.emit(RuntimeEvent::Ask { request: RequestId(request), tool, input }).await;
            }
        }
    }

    /// The output ended: says what became of the turn, sees that nothing is left, and says so.
    async fn end(mut self, broken: Option<String>) {
        self.shared.ended.cancel();
        self.shared.peer.close();
        if broken.is_none() {
            let _ = tokio::time::timeout(EXIT_GRACE, self.shared.process.exited()).await;
        }
        let report = self.shared.process.stop(Ladder::default()).await;
        let open = *self.shared.turn.borrow() != Turn::Idle;
        if open {
            let failure = if broken.is_some() { Failure::Protocol } else { Failure::Crash };
            let message = died("Codex", broken.as_deref(), &report);
            self.turn_over(TurnOutcome::Failed { failure, message }).await;
        }
        self.withdraw_all().await;
        self.emit(RuntimeEvent::Exited(report)).await;
    }
}

/// A call in the last part of a thread's record.
async fn recorded(record: &Path, call: &str) -> Option<Told> {
    let mut file = tokio::fs::File::open(record).await.ok()?;
    let length = file.metadata().await.ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(RECALL_BYTES))).await.ok()?;
    let mut bytes = vec![];
    file.read_to_end(&mut bytes).await.ok()?;
    let part = String::from_utf8_lossy(&bytes);
    let mut lines = part.lines().rev().filter(|line| line.contains(call));
    lines.find_map(|line| {
        let entry: Value = serde_json::from_str(line).ok()?;
        let item = &entry["payload"];
        (item["type"] == "function_call" && item["call_id"] == call).then(|| wire::raw(item))
    })
}

/// Carries out a call of one of our tools.
async fn tool(shared: &Shared, params: &Value) -> Value {
    let (call, name) = (text(params, "callId"), text(params, "tool"));
    let arguments = params.get("arguments").cloned().unwrap_or(json!({}));
    // The model's id of the call may come again in another thread of the session.
    let call = format!("{}-{call}", text(params, "turnId"));
    let outcome = shared.spec.tools.call(&call, &name, arguments).await;
    json!({
        "success": !outcome.is_error,
        "contentItems": [{"type": "inputText", "text": outcome.text}],
    })
}

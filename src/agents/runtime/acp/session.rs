//! A running agent: a task that reads, one that delivers, one that writes, and the calls between.

use super::super::mcp_http::Ticket;
use super::super::rpc::{Incoming, METHOD_NOT_FOUND, Peer, PeerReader, connect, write_lines};
use super::super::shown::died;
use super::super::{
    Answer, Delivery, InterruptOutcome, RequestId, RuntimeEvent, SendError, Session, SpawnSpec,
    Stale, TurnOutcome, UserMessage,
};
use super::ask::{self, Options, Question};
use super::deliver;
use super::wire::{self, Update};
use crate::agents::permission::Decision;
use crate::agents::process::{AgentProcess, ExitReport, Ladder, LineReader, Stdin};
use crate::model::agent::Failure;
use async_trait::async_trait;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::ChildStdout;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How long the process may take to end after its stdout did.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// Progress is told at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The turn that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Idle,
    /// Something was said that the agent was not given yet.
    Starting,
    Running,
}

/// What a session has cost: in all, and as last told.
#[derive(Default)]
pub(super) struct Cost {
    pub total: Option<i64>,
    pub told: Option<i64>,
}

/// What the tasks and the callers share.
pub(super) struct Shared {
    pub spec: SpawnSpec,
    pub process: AgentProcess,
    pub peer: Peer,
    pub turn: watch::Sender<Turn>,
    /// What was said and is not delivered yet.
    pub queue: Mutex<VecDeque<UserMessage>>,
    pub said: Notify,
    /// The agent's session, once it is up.
    pub session: Mutex<Option<String>>,
    /// The model, as far as the agent says it; else the agent's name.
    pub model: Mutex<String>,
    /// The way to our tools; dies with the session.
    pub ticket: Mutex<Option<Ticket>>,
    /// The message that the running turn began with, until the agent shows that it has it.
    pub unconfirmed: Mutex<Option<Uuid>>,
    pub cost: Mutex<Cost>,
    /// What the model is saying: the message it belongs to, and its text so far.
    saying: Mutex<(String, String)>,
    /// The agent's requests that wait for a person.
    asked: Mutex<HashMap<String, (Value, Options)>>,
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
        turn.wait_for(is_so).await.map_or(Turn::Idle, |turn| *turn)
    }

    pub fn ready(&self, id: &str) -> RuntimeEvent {
        let model = hold(&self.model).clone();
        RuntimeEvent::Ready { native_id: id.to_owned(), model, bad_tools: vec![] }
    }

    /// Tells what the model has said, whole.
    pub async fn flush_text(&self, events: &mpsc::Sender<RuntimeEvent>) {
        let (_message, text) = std::mem::take(&mut *hold(&self.saying));
        if !text.is_empty() {
            let _ = events.send(RuntimeEvent::Text(text)).await;
        }
    }

    /// Withdraws what waits for a person; the agent is told that the turn was cancelled.
    pub async fn withdraw_all(&self, events: &mpsc::Sender<RuntimeEvent>) {
        for request in self.cancel_asked().await {
            let _ = events.send(RuntimeEvent::AskWithdrawn(RequestId(request))).await;
        }
    }

    async fn cancel_asked(&self) -> Vec<String> {
        let asked: Vec<(String, (Value, Options))> = hold(&self.asked).drain().collect();
        let mut names = vec![];
        for (name, (id, _options)) in asked {
            self.peer.respond(&id, ask::cancelled()).await;
            names.push(name);
        }
        names
    }
}

struct AcpSession {
    shared: Arc<Shared>,
    events: mpsc::WeakSender<RuntimeEvent>,
    stopping: AsyncMutex<Option<ExitReport>>,
}

/// Starts the tasks of a spawned process.
pub(super) fn start(
    spec: SpawnSpec,
    process: AgentProcess,
    stdin: Stdin,
    lines: LineReader<ChildStdout>,
    ticket: Ticket,
    events: mpsc::Sender<RuntimeEvent>,
) -> Arc<dyn Session> {
    let (peer, reader, to_write) = connect(lines);
    let model = spec.model.clone().unwrap_or_default();
    let shared = Arc::new(Shared {
        spec,
        process,
        peer,
        turn: watch::Sender::new(Turn::Idle),
        queue: Mutex::default(),
        said: Notify::new(),
        session: Mutex::default(),
        model: Mutex::new(model),
        ticket: Mutex::new(Some(ticket)),
        unconfirmed: Mutex::default(),
        cost: Mutex::default(),
        saying: Mutex::default(),
        asked: Mutex::default(),
        ended: CancellationToken::new(),
    });
    tokio::spawn(write(stdin, to_write, Arc::clone(&shared)));
    tokio::spawn(deliver::run(Arc::clone(&shared), events.clone()));
    let weak = events.downgrade();
    let reader = Reader {
        shared: Arc::clone(&shared),
        events,
        lines: reader,
        tools: HashMap::new(),
        progress_at: None,
    };
    tokio::spawn(reader.run());
    Arc::new(AcpSession { shared, events: weak, stopping: AsyncMutex::default() })
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
impl Session for AcpSession {
    async fn send(&self, message: UserMessage, how: Delivery) -> Result<(), SendError> {
        let shared = &self.shared;
        if how == Delivery::InterruptThen {
            self.interrupt(Ladder::default().interrupt).await;
        }
        if shared.ended.is_cancelled() {
            return Err(SendError);
        }
        hold(&shared.queue).push_back(message);
        shared.turn.send_if_modified(|turn| {
            let idle = *turn == Turn::Idle;
            if idle {
                *turn = Turn::Starting;
            }
            idle
        });
        shared.said.notify_one();
        Ok(())
    }

    async fn withdraw(&self, id: Uuid) -> Result<bool, SendError> {
        let mut queue = hold(&self.shared.queue);
        let before = queue.len();
        queue.retain(|message| message.id != id);
        Ok(queue.len() < before)
    }

    async fn interrupt(&self, deadline: Duration) -> InterruptOutcome {
        let shared = &self.shared;
        if *shared.turn.borrow() == Turn::Idle {
            return InterruptOutcome::NothingRunning;
        }
        let ended = async {
            shared.until(|turn| *turn != Turn::Starting).await;
            let session = hold(&shared.session).clone();
            if let Some(session) = session {
                let params = json!({"sessionId": session});
                let _ = shared.peer.notify("session/cancel", params).await;
            }
            match self.events.upgrade() {
                Some(events) => shared.withdraw_all(&events).await,
                None => drop(shared.cancel_asked().await),
            }
            shared.until(|turn| *turn == Turn::Idle).await;
        };
        match tokio::time::timeout(deadline, ended).await {
            Ok(()) => InterruptOutcome::Clean,
            Err(_elapsed) => InterruptOutcome::Overdue,
        }
    }

    async fn answer(&self, request: &RequestId, answer: Answer) -> Result<(), Stale> {
        let shared = &self.shared;
        let (id, options) = hold(&shared.asked).remove(&request.0).ok_or(Stale)?;
        let (response, stop) = match answer {
            // The protocol has no way to change what was asked for.
            Answer::Allow { edited: Some(_) } => (options.refuse(), false),
            Answer::Allow { edited: None } => {
                (options.allow().unwrap_or_else(|| options.refuse()), false)
            }
            Answer::Deny { stop, .. } => (options.refuse(), stop),
            // It asks nothing but for permission.
            Answer::Choice(_) => (options.refuse(), false),
        };
        shared.peer.respond(&id, response).await;
        let session = hold(&shared.session).clone();
        if let (true, Some(session)) = (stop, session) {
            let _ = shared.peer.notify("session/cancel", json!({"sessionId": session})).await;
        }
        Ok(())
    }

    async fn stop(&self, ladder: Ladder) -> ExitReport {
        let mut stopping = self.stopping.lock().await;
        if let Some(report) = &*stopping {
            return report.clone();
        }
        let up = hold(&self.shared.session).is_some();
        let interrupted = match up {
            true => self.interrupt(ladder.interrupt).await,
            false => InterruptOutcome::NothingRunning,
        };
        hold(&self.shared.ticket).take();
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

/// A tool that runs: its name, and whether it was told of.
struct Tool {
    name: String,
    told: bool,
}

/// Reads what the agent says and tells what it means. Never waits for a person or a tool.
struct Reader {
    shared: Arc<Shared>,
    events: mpsc::Sender<RuntimeEvent>,
    lines: PeerReader<ChildStdout>,
    tools: HashMap<String, Tool>,
    progress_at: Option<Instant>,
}

impl Reader {
    async fn run(mut self) {
        let broken = loop {
            match self.lines.next().await {
                Incoming::Request { id, method, params } => {
                    self.request(id, &method, &params).await;
                }
                Incoming::Notification { method, params } => match method.as_str() {
                    "session/update" => self.update(&params).await,
                    "$/cancel_request" => self.withdrawn(&params["requestId"]).await,
                    // Agents' own notifications begin so.
                    own if own.starts_with('_') => {}
                    other => self.emit(RuntimeEvent::Opaque(other.to_owned())).await,
                },
                Incoming::Opaque(line) => self.emit(RuntimeEvent::Opaque(line)).await,
                Incoming::End(broken) => break broken,
            }
        };
        self.end(broken).await;
    }

    async fn emit(&self, event: RuntimeEvent) {
        // Nobody listens when the session is being dropped.
        let _ = self.events.send(event).await;
    }

    async fn update(&mut self, params: &Value) {
        // Before the session is up, it is the replay of its history.
        if hold(&self.shared.session).is_none() {
            return;
        }
        if *self.shared.turn.borrow() == Turn::Running {
            let taken = hold(&self.shared.unconfirmed).take();
            if let Some(id) = taken {
                self.emit(RuntimeEvent::Consumed(id)).await;
            }
        }
        match wire::read(&params["update"]) {
            Update::Chunk { message, text } => {
                let other = {
                    let saying = hold(&self.shared.saying);
                    !saying.1.is_empty() && saying.0 != message
                };
                if other {
                    self.shared.flush_text(&self.events).await;
                }
                {
                    let mut saying = hold(&self.shared.saying);
                    saying.0 = message;
                    saying.1.push_str(&text);
                }
                self.progress().await;
            }
            Update::Tool { id, name, summary, ended } => {
                self.shared.flush_text(&self.events).await;
                self.tool(id, name, summary, ended).await;
            }
            Update::Used { microusd, model } => {
                if let Some(total) = microusd {
                    hold(&self.shared.cost).total = Some(total);
                }
                if let Some(model) = model {
                    *hold(&self.shared.model) = model;
                }
                self.progress().await;
            }
            Update::Progress => self.progress().await,
            Update::Other(what) => self.emit(RuntimeEvent::Opaque(what)).await,
        }
    }

    /// A tool is told of once its arguments are known, or when it is over.
    async fn tool(
        &mut self,
        id: String,
        name: Option<String>,
        summary: Option<String>,
        ended: Option<(bool, String)>,
    ) {
        let unnamed = || Tool { name: "tool".to_owned(), told: false };
        let tool = self.tools.entry(id.clone()).or_insert_with(unnamed);
        if let (Some(name), false) = (name, tool.told) {
            tool.name = name;
        }
        let tell = !tool.told && (summary.is_some() || ended.is_some());
        tool.told |= tell;
        let name = tool.name.clone();
        if tell {
            let summary = summary.unwrap_or_default();
            self.emit(RuntimeEvent::ToolStart { id: id.clone(), name, summary }).await;
        }
        if let Some((ok, summary)) = ended {
            self.tools.remove(&id);
            self.emit(RuntimeEvent::ToolEnd { id, ok, summary }).await;
        }
        self.progress().await;
    }

    /// A sign of life of a turn that runs.
    async fn progress(&mut self) {
        let now = Instant::now();
        let told = self.progress_at.is_some_and(|at| now - at < PROGRESS_EVERY);
        if !told && *self.shared.turn.borrow() == Turn::Running {
            self.progress_at = Some(now);
            self.emit(RuntimeEvent::Running).await;
        }
    }

    async fn withdrawn(&self, id: &Value) {
        let name = id.to_string();
        if hold(&self.shared.asked).remove(&name).is_some() {
            self.emit(RuntimeEvent::AskWithdrawn(RequestId(name))).await;
        }
    }

    async fn request(&self, id: Value, method: &str, params: &Value) {
        if method == "session/request_permission" {
            return self.permission(id, params).await;
        }
        self.emit(RuntimeEvent::Opaque(method.to_owned())).await;
        let (shared, why) = (Arc::clone(&self.shared), format!("musher offers no {method}"));
        tokio::spawn(async move { shared.peer.refuse(&id, METHOD_NOT_FOUND, &why).await });
    }

    async fn permission(&self, id: Value, params: &Value) {
        let tools = &self.shared.spec.tools;
        let ours: Vec<String> = tools.specs().into_iter().map(|spec| spec.name).collect();
        let options = Options::read(params);
        let question = ask::question(&self.shared.spec.policy, &params["toolCall"], &ours);
        let Question { tool, input, decision } = question;
        let response = match (decision, options.allow()) {
            (Decision::Allow, Some(allow)) => allow,
            (Decision::Allow, None) => {
                let why = "the agent offers no way to allow it just once".to_owned();
                self.emit(RuntimeEvent::Denied { tool, why }).await;
                options.refuse()
            }
            (Decision::Deny(why), _) => {
                self.emit(RuntimeEvent::Denied { tool, why }).await;
                options.refuse()
            }
            (Decision::Ask, _) => {
                let name = id.to_string();
                hold(&self.shared.asked).insert(name.clone(), (id, options));
                self.emit(RuntimeEvent::Ask { request: RequestId(name), tool, input }).await;
                return;
            }
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { shared.peer.respond(&id, response).await });
    }

    /// The output ended: says what became of the turn, sees that nothing is left, and says so.
    async fn end(mut self, broken: Option<String>) {
        let shared = Arc::clone(&self.shared);
        shared.ended.cancel();
        hold(&shared.ticket).take();
        shared.peer.close();
        if broken.is_none() {
            let _ = tokio::time::timeout(EXIT_GRACE, shared.process.exited()).await;
        }
        let report = shared.process.stop(Ladder::default()).await;
        shared.flush_text(&self.events).await;
        shared.withdraw_all(&self.events).await;
        let open = shared.turn.send_replace(Turn::Idle) != Turn::Idle;
        if open {
            let failure = if broken.is_some() { Failure::Protocol } else { Failure::Crash };
            let message = died("the agent", broken.as_deref(), &report);
            self.emit(RuntimeEvent::TurnEnd(TurnOutcome::Failed { failure, message })).await;
        }
        self.tools.clear();
        self.emit(RuntimeEvent::Exited(report)).await;
    }
}

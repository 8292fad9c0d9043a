//! A running CLI: a task that reads, a task that writes, and the calls between them.

use super::super::mcp;
use super::super::shown::died;
use super::super::{
    Answer, Delivery, InterruptOutcome, RequestId, RuntimeEvent, SendError, Session, SpawnSpec,
    Stale, TurnOutcome, UserMessage,
};
use super::wire::{self, Block, Native, TurnReport};
use crate::agents::permission::Decision;
use crate::agents::process::{AgentProcess, ExitReport, Ladder, Line, LineReader, Stdin};
use crate::model::agent::Failure;
use crate::model::llm::Usage;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::ChildStdout;
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use uuid::Uuid;

/// How many lines may wait to be written.
const WRITES_MAX: usize = 64;

/// How long the CLI may take to answer a request of ours.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the process may take to end after its stdout did.
const EXIT_GRACE: Duration = Duration::from_secs(2);

/// What the reader, the writer and the callers share.
struct Shared {
    spec: SpawnSpec,
    process: AgentProcess,
    /// Lines for stdin; taken away to close it.
    writer: Mutex<Option<mpsc::Sender<String>>>,
    /// Our requests that wait for an answer.
    waiting: Mutex<HashMap<String, oneshot::Sender<Result<Value, String>>>>,
    /// The CLI's requests that wait for a person, with the input asked for.
    asked: Mutex<HashMap<String, Value>>,
    next_request: AtomicU64,
    /// Whether a turn runs.
    turn_open: watch::Sender<bool>,
    /// Whether the running turn was interrupted by us.
    interrupted: Mutex<bool>,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) struct ClaudeSession {
    shared: Arc<Shared>,
    stopping: AsyncMutex<Option<ExitReport>>,
}

/// Starts the tasks of a spawned process and introduces ourselves to it.
pub(super) fn start(
    spec: SpawnSpec,
    process: AgentProcess,
    stdin: Stdin,
    lines: LineReader<ChildStdout>,
    events: mpsc::Sender<RuntimeEvent>,
) -> Arc<dyn Session> {
    let (writer, to_write) = mpsc::channel(WRITES_MAX);
    let hello = json!({
        "type": "control_request", "request_id": "musher-init",
        "request": {"subtype": "initialize", "sdkMcpServers": [mcp::SERVER], "hooks": {}},
    });
    // The channel is empty: there is room.
    let _ = writer.try_send(hello.to_string());
    let shared = Arc::new(Shared {
        spec,
        process,
        writer: Mutex::new(Some(writer)),
        waiting: Mutex::default(),
        asked: Mutex::default(),
        next_request: AtomicU64::new(1),
        turn_open: watch::Sender::new(false),
        interrupted: Mutex::new(false),
    });
    tokio::spawn(write(stdin, to_write, Arc::clone(&shared)));
    let reader = Reader {
        shared: Arc::clone(&shared),
        events,
        native_id: None,
        says_states: false,
        outcome: None,
        last_error: None,
        blocked_until: None,
        used: BTreeMap::new(),
    };
    tokio::spawn(reader.run(lines));
    Arc::new(ClaudeSession { shared, stopping: AsyncMutex::default() })
}

/// Writes lines until the channel or the process ends. Only JSON is ever written: anything else
/// would kill the CLI.
async fn write(mut stdin: Stdin, mut lines: mpsc::Receiver<String>, shared: Arc<Shared>) {
    while let Some(line) = lines.recv().await {
        if let Err(error) = stdin.write_line(&line).await {
            tracing::warn!(%error, agent = %shared.spec.tools.agent, "cannot write to the agent");
            hold(&shared.writer).take();
            // A process that reads no more is of no use; its end tells the reader.
            shared.process.stop(Ladder::default()).await;
            return;
        }
    }
}

impl Shared {
    async fn write(&self, value: Value) -> Result<(), SendError> {
        let writer = hold(&self.writer).clone().ok_or(SendError)?;
        writer.send(value.to_string()).await.map_err(|_closed| SendError)
    }

    /// Sends a request and waits for its answer.
    async fn request(&self, request: Value) -> Result<Value, String> {
        let id = format!("musher-{}", self.next_request.fetch_add(1, Ordering::SeqCst));
        let (tell, answer) = oneshot::channel();
        hold(&self.waiting).insert(id.clone(), tell);
        let line = json!({"type": "control_request", "request_id": id, "request": request});
        let exchange = async {
            self.write(line).await.map_err(|error| error.to_string())?;
            answer.await.unwrap_or_else(|_gone| Err("the process is gone".to_owned()))
        };
        let outcome = tokio::time::timeout(CONTROL_TIMEOUT, exchange).await;
        hold(&self.waiting).remove(&id);
        outcome.unwrap_or_else(|_elapsed| Err("no answer".to_owned()))
    }

    async fn respond(&self, id: &str, response: Value) {
        let line = json!({
            "type": "control_response",
            "response": {"subtype": "success", "request_id": id, "response": response},
        });
        // A process that is gone needs no answer.
        let _ = self.write(line).await;
    }

    async fn refuse(&self, id: &str, why: &str) {
        let line = json!({
            "type": "control_response",
            "response": {"subtype": "error", "request_id": id, "error": why},
        });
        let _ = self.write(line).await;
    }
}

fn allowed(input: &Value) -> Value {
    json!({"behavior": "allow", "updatedInput": input})
}

fn denied(message: &str, stop: bool) -> Value {
    json!({"behavior": "deny", "message": message, "interrupt": stop})
}

#[async_trait]
impl Session for ClaudeSession {
    async fn send(&self, message: UserMessage, how: Delivery) -> Result<(), SendError> {
        if how == Delivery::InterruptThen {
            self.interrupt(Ladder::default().interrupt).await;
        }
        let blocks = json!([
            {"type": "text", "text": format!("{}\n{}", message.header, message.text)},
            {"type": "text", "text": "(end of message)"},
        ]);
        self.shared.turn_open.send_replace(true);
        let line = json!({
            "type": "user", "uuid": message.id.to_string(),
            "message": {"role": "user", "content": blocks},
        });
        self.shared.write(line).await
    }

    async fn withdraw(&self, id: Uuid) -> Result<bool, SendError> {
        let request = json!({"subtype": "cancel_async_message", "message_uuid": id.to_string()});
        match self.shared.request(request).await {
            Ok(answer) => Ok(answer.get("cancelled").and_then(Value::as_bool).unwrap_or(false)),
            Err(_refused) => Ok(false),
        }
    }

    async fn interrupt(&self, deadline: Duration) -> InterruptOutcome {
        let mut open = self.shared.turn_open.subscribe();
        if !*open.borrow_and_update() {
            return InterruptOutcome::NothingRunning;
        }
        *hold(&self.shared.interrupted) = true;
        let ended = async {
            // The answer may come late or never: the end of the turn is what counts.
            let _ = self.shared.request(json!({"subtype": "interrupt"})).await;
            let _ = open.wait_for(|open| !open).await;
        };
        match tokio::time::timeout(deadline, ended).await {
            Ok(()) => InterruptOutcome::Clean,
            Err(_elapsed) => InterruptOutcome::Overdue,
        }
    }

    async fn answer(&self, request: &RequestId, answer: Answer) -> Result<(), Stale> {
        let input = hold(&self.shared.asked).remove(&request.0).ok_or(Stale)?;
        let response = match answer {
            Answer::Allow { edited } => allowed(&edited.unwrap_or(input)),
            Answer::Deny { message, stop } => denied(&message, stop),
            Answer::Choice(answers) => {
                let mut input = input;
                if let Some(fields) = input.as_object_mut() {
                    fields.insert("answers".to_owned(), json!(answers));
                }
                allowed(&input)
            }
        };
        self.shared.respond(&request.0, response).await;
        Ok(())
    }

    async fn stop(&self, ladder: Ladder) -> ExitReport {
        let mut stopping = self.stopping.lock().await;
        if let Some(report) = &*stopping {
            return report.clone();
        }
        // Interrupt before stdin is closed: at its end the CLI would finish the turn first.
        let interrupted = self.interrupt(ladder.interrupt).await;
        hold(&self.shared.writer).take();
        let ladder = match interrupted {
            InterruptOutcome::Overdue => Ladder { close: Duration::ZERO, ..ladder },
            InterruptOutcome::Clean | InterruptOutcome::NothingRunning => ladder,
        };
        let report = self.shared.process.stop(ladder).await;
        *stopping = Some(report.clone());
        report
    }
}

/// Reads the CLI's lines and tells what they mean. Never waits for a person or a tool.
struct Reader {
    shared: Arc<Shared>,
    events: mpsc::Sender<RuntimeEvent>,
    native_id: Option<String>,
    /// Whether this CLI says when it is idle.
    says_states: bool,
    /// What the turn came to, from its result until it is over.
    outcome: Option<TurnOutcome>,
    last_error: Option<String>,
    blocked_until: Option<DateTime<Utc>>,
    /// What each model has used, as last told.
    used: BTreeMap<String, (Usage, i64)>,
}

impl Reader {
    async fn run(mut self, mut lines: LineReader<ChildStdout>) {
        let broken = loop {
            match lines.next().await {
                Ok(Line::Text(line)) if line.trim().is_empty() => {}
                Ok(Line::Text(line)) => match wire::parse(&line) {
                    Ok(native) => self.handle(native).await,
                    Err(error) => {
                        let shown = &line[..line.floor_char_boundary(200)];
                        break Some(format!("its output is not stream-json ({error}): {shown}"));
                    }
                },
                // It died while it wrote: its end says more than half a line.
                Ok(Line::Partial(_)) | Ok(Line::End) => break None,
                Ok(Line::TooLong) => break Some("it wrote a line of over 16 MiB".to_owned()),
                Err(error) => break Some(format!("its output cannot be read: {error}")),
            }
        };
        self.end(broken).await;
    }

    async fn emit(&self, event: RuntimeEvent) {
        // Nobody listens when the session is being dropped.
        let _ = self.events.send(event).await;
    }

    async fn handle(&mut self, native: Native) {
        match native {
            Native::Init { session, model, bad_servers } => {
                self.native_id = Some(session.clone());
                let ready =
                    RuntimeEvent::Ready { native_id: session, model, bad_tools: bad_servers };
                self.emit(ready).await;
            }
            Native::State(state) => self.state(&state).await,
            Native::Assistant { blocks, error, nested } => {
                if let Some(error) = error {
                    self.last_error = Some(error);
                }
                self.assistant(blocks, nested).await;
            }
            Native::ToolResults(results) => {
                for result in results {
                    let wire::ToolResult { id, ok, summary } = result;
                    self.emit(RuntimeEvent::ToolEnd { id, ok, summary }).await;
                }
            }
            Native::Replay(uuid) => {
                if let Ok(id) = uuid.parse() {
                    self.emit(RuntimeEvent::Consumed(id)).await;
                }
            }
            Native::Result(report) => self.result(*report).await,
            Native::Request { id, request } => self.request(id, request).await,
            Native::Response { id, answer } => {
                // Echoes of our own answers bear ids that we did not issue.
                if let Some(tell) = hold(&self.shared.waiting).remove(&id) {
                    let _ = tell.send(answer);
                }
            }
            Native::Cancelled(id) => {
                if hold(&self.shared.asked).remove(&id).is_some() {
                    self.emit(RuntimeEvent::AskWithdrawn(RequestId(id))).await;
                }
            }
            Native::RateLimit { blocked, until } => {
                if blocked {
                    self.blocked_until = until;
                }
                self.emit(RuntimeEvent::RateLimit { blocked, until }).await;
            }
            Native::Retry { attempt, error } => {
                self.emit(RuntimeEvent::Retry { attempt, error }).await;
            }
            Native::Other(kind) => self.emit(RuntimeEvent::Opaque(kind)).await,
        }
    }

    async fn state(&mut self, state: &str) {
        self.says_states = true;
        match state {
            "running" => {
                self.shared.turn_open.send_replace(true);
                self.emit(RuntimeEvent::Running).await;
            }
            "idle" => self.turn_over().await,
            _other => self.emit(RuntimeEvent::Opaque(format!("state/{state}"))).await,
        }
    }

    /// Says that the turn is over, once, if its result is known.
    async fn turn_over(&mut self) {
        if let Some(outcome) = self.outcome.take() {
            *hold(&self.shared.interrupted) = false;
            self.shared.turn_open.send_replace(false);
            self.emit(RuntimeEvent::TurnEnd(outcome)).await;
        }
    }

    async fn assistant(&self, blocks: Vec<Block>, nested: bool) {
        for block in blocks {
            match block {
                // A subagent's words are not the agent's.
                Block::Text(text) if nested => {
                    self.emit(RuntimeEvent::Opaque(format!("subagent: {text}"))).await;
                }
                Block::Text(text) => self.emit(RuntimeEvent::Text(text)).await,
                Block::Tool { id, name, summary } => {
                    self.emit(RuntimeEvent::ToolStart { id, name, summary }).await;
                }
            }
        }
    }

    async fn result(&mut self, report: TurnReport) {
        for (model, (usage, microusd)) in &report.used {
            let (told, told_money) = self.used.get(model).copied().unwrap_or_default();
            let delta = Usage {
                input: usage.input.saturating_sub(told.input),
                cached: usage.cached.saturating_sub(told.cached),
                output: usage.output.saturating_sub(told.output),
            };
            let microusd = (microusd - told_money).max(0);
            self.emit(RuntimeEvent::Used { usage: delta, microusd, model: model.clone() }).await;
        }
        self.used = report.used.clone();
        let interrupted = *hold(&self.shared.interrupted);
        let error = self.last_error.take();
        let outcome = wire::outcome(&report, error.as_deref(), self.blocked_until, interrupted);
        self.blocked_until = None;
        self.outcome = Some(outcome);
        if !self.says_states {
            self.turn_over().await;
        }
    }

    async fn request(&self, id: String, request: Value) {
        let subtype = request.get("subtype").and_then(Value::as_str).unwrap_or_default();
        match subtype {
            "mcp_message" => {
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move {
                    let message = request.get("message").unwrap_or(&Value::Null);
                    // JSON-RPC ids restart with the process.
                    let (tools, id_) = (&shared.spec.tools, message["id"].clone());
                    let name = || format!("t{}-{id_}", tools.turn());
                    let answer = mcp::answer(tools, message, name).await;
                    // This channel wants an answer to notifications, too.
                    let nothing = || json!({"jsonrpc": "2.0", "id": 0, "result": {}});
                    let answer = answer.unwrap_or_else(nothing);
                    shared.respond(&id, json!({"mcp_response": answer})).await;
                });
            }
            "can_use_tool" => self.permission(id, &request).await,
            other => {
                let why = format!("musher does not know {other}");
                let shared = Arc::clone(&self.shared);
                tokio::spawn(async move { shared.refuse(&id, &why).await });
            }
        }
    }

    async fn permission(&self, id: String, request: &Value) {
        let tool = request.get("tool_name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let input = request.get("input").cloned().unwrap_or(json!({}));
        if tool == wire::QUESTIONS {
            let questions = wire::questions(&input);
            hold(&self.shared.asked).insert(id.clone(), input);
            let request = RequestId(id);
            self.emit(RuntimeEvent::Question { request, questions }).await;
            return;
        }
        let response = match self.shared.spec.policy.decide(&tool, &input) {
            Decision::Allow => allowed(&input),
            Decision::Deny(why) => {
                let response = denied(&why, false);
                self.emit(RuntimeEvent::Denied { tool, why }).await;
                response
            }
            Decision::Ask => {
                hold(&self.shared.asked).insert(id.clone(), input.clone());
                self.emit(RuntimeEvent::Ask { request: RequestId(id), tool, input }).await;
                return;
            }
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move { shared.respond(&id, response).await });
    }

    /// The output ended: says what became of the turn, sees that nothing is left, and says so.
    async fn end(mut self, broken: Option<String>) {
        hold(&self.shared.writer).take();
        if broken.is_none() {
            let _ = tokio::time::timeout(EXIT_GRACE, self.shared.process.exited()).await;
        }
        let report = self.shared.process.stop(Ladder::default()).await;
        let open = *self.shared.turn_open.borrow();
        if open {
            let ended = self.outcome.take();
            let outcome = match ended {
                // It died between its result and idle.
                Some(outcome) => outcome,
                None if *hold(&self.shared.interrupted) => TurnOutcome::Interrupted,
                None => TurnOutcome::Failed {
                    failure: self.failure(broken.is_some(), &report),
                    message: died("Claude Code", broken.as_deref(), &report),
                },
            };
            self.shared.turn_open.send_replace(false);
            self.emit(RuntimeEvent::TurnEnd(outcome)).await;
        }
        let asked: Vec<String> = hold(&self.shared.asked).drain().map(|(id, _)| id).collect();
        for id in asked {
            self.emit(RuntimeEvent::AskWithdrawn(RequestId(id))).await;
        }
        hold(&self.shared.waiting).clear();
        self.emit(RuntimeEvent::Exited(report)).await;
    }

    fn failure(&self, broken: bool, report: &ExitReport) -> Failure {
        if broken {
            return Failure::Protocol;
        }
        let lost = ["No conversation found", "already in use"]
            .iter()
            .any(|text| report.stderr_tail.contains(text));
        if self.native_id.is_none() && lost { Failure::SessionLost } else { Failure::Crash }
    }
}

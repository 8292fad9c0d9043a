//! What every runtime can do, in one vocabulary: spawn, send, interrupt, answer, stop, events.
//!
//! A [`Runtime`] starts [`Session`]s. A session's events come through one bounded channel; its
//! reader never awaits a person or a tool: each request runs in a task of its own and is answered
//! by its id. A turn is over when [`RuntimeEvent::TurnEnd`] says so, and a session when
//! [`RuntimeEvent::Exited`] does, which is always its last event.

pub mod acp;
pub mod api;
pub mod claude_code;
pub mod codex;
mod in_process;
mod local;
pub mod mcp;
mod mcp_http;
mod probe;
pub mod replay;
mod rpc;
mod shown;
#[cfg(test)]
mod testing;

pub use probe::{ProbeError, ProbeReport, probe};

use super::asks::Question;
use super::budget::Reached;
use super::permission::Policy;
use super::process::{ExitReport, Ident, Ladder};
use crate::config::{Config, Confinement, RuntimeKind};
use crate::llm::tools::{ToolCaller, ToolHost, ToolOutcome, ToolSpec};
use crate::model::agent::{Failure, Role};
use crate::model::ids::{AgentName, AgentSessionId, ItemId, ProjectName, TurnId};
use crate::model::llm::Usage;
use crate::store::Store;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use uuid::Uuid;

/// How many events may wait for the turn runner before a session's reader waits too.
pub const EVENTS_MAX: usize = 256;

/// What a runtime can do beside taking prompts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// A message reaches the running turn at its next step.
    pub steer: bool,
    /// It asks before it uses a tool.
    pub approve: bool,
    /// A session goes on after its process ended.
    pub resume: bool,
    /// It says what a turn cost.
    pub cost: bool,
}

/// What a session is to be.
#[derive(Clone)]
pub struct SpawnSpec {
    /// Whose it is, and our tools.
    pub tools: Arc<AgentTools>,
    /// The worktree.
    pub cwd: PathBuf,
    /// The role's prompt.
    pub role_prompt: String,
    /// The model; `None`: the runtime's own.
    pub model: Option<String>,
    /// The program; `None`: the runtime's usual one.
    pub command: Option<String>,
    /// The runtime's session to go on with.
    pub resume: Option<String>,
    /// What is allowed.
    pub policy: Policy,
    /// The whole environment, built from nothing.
    pub env: BTreeMap<String, String>,
    /// The marker of all its processes.
    pub marker: String,
    /// Where its stderr is logged.
    pub stderr_log: PathBuf,
    /// Where the runtime keeps what it keeps: one folder a project.
    pub state_dir: PathBuf,
    /// What keeps shell commands inside the worktree, for runtimes without a sandbox of their own.
    pub confinement: Confinement,
    /// `replay`: the recording.
    pub replay_file: Option<PathBuf>,
    /// Records the process before anything is written to it.
    pub recorder: Arc<dyn Recorder>,
}

/// Records a spawned process, durably.
#[async_trait]
pub trait Recorder: Send + Sync {
    /// Called once a process, before anything is written to it. When it fails, the process is
    /// killed.
    async fn spawned(&self, ident: Ident, marker: &str) -> anyhow::Result<()>;
}

/// Our tools, as one agent sees them. The turn changes; the rest does not.
pub struct AgentTools {
    host: Arc<dyn ToolHost>,
    /// Its name.
    pub agent: AgentName,
    /// Its role.
    pub role: Role,
    /// Its session.
    pub session: AgentSessionId,
    /// The item.
    pub item: ItemId,
    /// The item's project.
    pub project: ProjectName,
    turn: AtomicI64,
}

impl AgentTools {
    /// Tools for one session, at first in `turn`.
    pub fn new(
        host: Arc<dyn ToolHost>,
        agent: AgentName,
        role: Role,
        session: AgentSessionId,
        item: ItemId,
        project: ProjectName,
        turn: TurnId,
    ) -> Self {
        Self { host, agent, role, session, item, project, turn: AtomicI64::new(turn.0) }
    }

    /// Says that calls belong to `turn` from now on.
    pub fn set_turn(&self, turn: TurnId) {
        self.turn.store(turn.0, Ordering::SeqCst);
    }

    /// The turn that calls belong to.
    pub fn turn(&self) -> TurnId {
        TurnId(self.turn.load(Ordering::SeqCst))
    }

    fn caller(&self) -> ToolCaller {
        ToolCaller::Agent {
            agent: self.agent.clone(),
            role: self.role,
            session: self.session,
            turn: self.turn(),
            item: self.item,
            project: self.project.clone(),
        }
    }

    /// What there is.
    pub fn specs(&self) -> Vec<ToolSpec> {
        self.host.specs(&self.caller())
    }

    /// Carries out a call; `id` is the runtime's name for it, unique in its session.
    pub async fn call(&self, id: &str, name: &str, arguments: serde_json::Value) -> ToolOutcome {
        let id = format!("agent-{}-{id}", self.session);
        self.host.call(&self.caller(), &id, name, arguments).await
    }
}

/// Why a session could not be started.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct SpawnError {
    /// Of what sort.
    pub failure: Failure,
    /// In words, with the remedy.
    pub message: String,
}

impl SpawnError {
    /// The runtime cannot be used here.
    pub fn unusable(message: impl Into<String>) -> Self {
        Self { failure: Failure::Unusable, message: message.into() }
    }
}

/// Something said to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserMessage {
    /// Comes back in [`RuntimeEvent::Consumed`].
    pub id: Uuid,
    /// A line of ours before the text: who says it.
    pub header: String,
    /// What is said. Reaches the model verbatim, whatever a CLI makes of `/` and `@`.
    pub text: String,
}

/// How a message is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// At the next step of the running turn.
    Steer,
    /// As a turn of its own.
    NextTurn,
    /// As a turn of its own, after the running one was interrupted.
    InterruptThen,
}

/// Why a message was not delivered.
#[derive(Debug, thiserror::Error)]
#[error("the agent's process is gone")]
pub struct SendError;

/// What came of an interrupt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptOutcome {
    /// The turn ended in time; the session can be used.
    Clean,
    /// It did not: kill the process, and resume.
    Overdue,
    /// No turn was running.
    NothingRunning,
}

/// Names a request of the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RequestId(pub String);

/// An answer to a request of the runtime.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The tool may run, with this input if it was edited.
    Allow {
        /// Instead of what the model asked for.
        edited: Option<serde_json::Value>,
    },
    /// The tool may not run.
    Deny {
        /// Why, for the model.
        message: String,
        /// Whether the turn ends.
        stop: bool,
    },
    /// Questions are answered: each by what was said to it.
    Choice(BTreeMap<String, String>),
}

/// The request is answered or withdrawn already.
#[derive(Debug, thiserror::Error)]
#[error("the request is no longer open")]
pub struct Stale;

/// A running session of a runtime.
#[async_trait]
pub trait Session: Send + Sync {
    /// Says something to the agent. When it returns, the runtime has it, not yet the model.
    async fn send(&self, message: UserMessage, how: Delivery) -> Result<(), SendError>;

    /// Takes a message back that the model has not seen; says whether that worked.
    async fn withdraw(&self, id: Uuid) -> Result<bool, SendError>;

    /// Ends the running turn within `deadline`.
    async fn interrupt(&self, deadline: Duration) -> InterruptOutcome;

    /// Answers a request for permission, or a question.
    async fn answer(&self, request: &RequestId, answer: Answer) -> Result<(), Stale>;

    /// Ends the session and everything it started. Safe to repeat.
    async fn stop(&self, ladder: Ladder) -> ExitReport;
}

/// Starts sessions.
#[async_trait]
pub trait Runtime: Send + Sync {
    /// Which it is.
    fn kind(&self) -> RuntimeKind;

    /// What it can do.
    fn caps(&self) -> Caps;

    /// Starts a session.
    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError>;
}

/// What a session says.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeEvent {
    /// It is up, or a turn of it begins.
    Ready {
        /// The runtime's session id.
        native_id: String,
        /// The model.
        model: String,
        /// Tool servers that failed to start.
        bad_tools: Vec<String>,
    },
    /// A turn runs.
    Running,
    /// The model has taken a message in.
    Consumed(Uuid),
    /// The model said something.
    Text(String),
    /// A tool is about to run.
    ToolStart {
        /// Its call.
        id: String,
        /// Its name.
        name: String,
        /// Its arguments, in short.
        summary: String,
    },
    /// A tool has run.
    ToolEnd {
        /// Its call.
        id: String,
        /// Whether it worked.
        ok: bool,
        /// Its answer, in short.
        summary: String,
    },
    /// The policy does not cover a tool: somebody must answer.
    Ask {
        /// To answer it.
        request: RequestId,
        /// The tool.
        tool: String,
        /// Its arguments.
        input: serde_json::Value,
    },
    /// The agent asks a person something by a tool of its runtime: answered with
    /// [`Answer::Choice`].
    Question {
        /// To answer it.
        request: RequestId,
        /// What is asked.
        questions: Vec<Question>,
    },
    /// A request was withdrawn.
    AskWithdrawn(RequestId),
    /// The policy refused a tool.
    Denied {
        /// The tool.
        tool: String,
        /// Why.
        why: String,
    },
    /// What was used since the last such event.
    Used {
        /// Tokens.
        usage: Usage,
        /// Money, in millionths of a US dollar.
        microusd: i64,
        /// The model.
        model: String,
    },
    /// What the model gateway counted, and has written down already.
    Metered {
        /// Tokens.
        usage: Usage,
        /// Money, in millionths of a US dollar.
        microusd: i64,
    },
    /// The provider failed and is asked again: a sign of life.
    Retry {
        /// Which attempt.
        attempt: u64,
        /// What failed.
        error: String,
    },
    /// A rate limit of the provider; only `blocked` ones hold anything up.
    RateLimit {
        /// Whether nothing works until then.
        blocked: bool,
        /// Until when, where it is known.
        until: Option<DateTime<Utc>>,
    },
    /// The turn is over.
    TurnEnd(TurnOutcome),
    /// Something that this version does not know; a sign of life.
    Opaque(String),
    /// The session is over. Always the last event.
    Exited(ExitReport),
}

/// How a turn ended, as the runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TurnOutcome {
    /// The model had no more to say.
    Done,
    /// It was interrupted.
    Interrupted,
    /// A limit of the runtime was reached.
    Limit(String),
    /// A limit of ours was reached, so that no further model call may be made.
    Spent(Reached),
    /// A provider refuses until then, if it said when.
    RateLimited(Option<DateTime<Utc>>),
    /// It failed.
    Failed {
        /// How.
        failure: Failure,
        /// In words.
        message: String,
    },
}

/// The runtimes of this build.
pub(super) fn built_in(store: &Store, config: &Arc<Config>) -> Vec<Arc<dyn Runtime>> {
    vec![
        Arc::new(claude_code::ClaudeCode),
        Arc::new(codex::Codex),
        Arc::new(acp::Acp::default()),
        Arc::new(api::Api::new(store.clone(), Arc::clone(config))),
        Arc::new(replay::Replay::new(store.clone())),
    ]
}

//! Agents' roles and the states of their sessions.

use crate::model::llm::Usage;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What an agent is for: fixes its prompt, its tools and the columns it may work in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Writes code in an item's worktree.
    Coder,
    /// Checks a coder's work and gives a verdict.
    Qa,
    /// Resolves merge conflicts.
    Mergemaster,
    /// Splits an item into child items, dispatches and verifies.
    Lead,
    /// Explores, writes nothing but mail.
    Scout,
    /// Reviews, writes nothing but mail.
    Reviewer,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 6] =
        [Role::Coder, Role::Qa, Role::Mergemaster, Role::Lead, Role::Scout, Role::Reviewer];

    /// The name as stored, configured and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Coder => "coder",
            Role::Qa => "qa",
            Role::Mergemaster => "mergemaster",
            Role::Lead => "lead",
            Role::Scout => "scout",
            Role::Reviewer => "reviewer",
        }
    }
}

/// Where one agent's work on one item stands.
///
/// The allowed moves are a table ([`SessionState::allowed_from`]); the store writes them with one
/// compare-and-swap (`UPDATE … WHERE state IN (allowed predecessors)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Created; nothing has been heard from its runtime yet.
    Booting,
    /// A turn runs.
    InTurn,
    /// Alive or resumable; no turn runs.
    BetweenTurns,
    /// Waits for something named, with a deadline; exempt from the stale timers.
    Waiting,
    /// Silent for too long.
    Stalled,
    /// Finished. Nothing leaves it.
    Completed,
    /// Killed, died or given up on.
    Zombie,
}

impl SessionState {
    /// Every state.
    pub const ALL: [SessionState; 7] = [
        SessionState::Booting,
        SessionState::InTurn,
        SessionState::BetweenTurns,
        SessionState::Waiting,
        SessionState::Stalled,
        SessionState::Completed,
        SessionState::Zombie,
    ];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionState::Booting => "booting",
            SessionState::InTurn => "in_turn",
            SessionState::BetweenTurns => "between_turns",
            SessionState::Waiting => "waiting",
            SessionState::Stalled => "stalled",
            SessionState::Completed => "completed",
            SessionState::Zombie => "zombie",
        }
    }

    /// Reads a stored name; `None` when it is none.
    pub fn parse(text: &str) -> Option<SessionState> {
        SessionState::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether nothing happens in it any more.
    pub fn is_over(self) -> bool {
        match self {
            SessionState::Completed | SessionState::Zombie => true,
            SessionState::Booting
            | SessionState::InTurn
            | SessionState::BetweenTurns
            | SessionState::Waiting
            | SessionState::Stalled => false,
        }
    }

    /// The states from which this one may be entered (spec: agents, "Session states").
    ///
    /// `Booting` is entered by creation only. A zombie is promoted to `Completed` only by an
    /// operator's stop, which is why the store asks for that by a separate function.
    pub fn allowed_from(self) -> &'static [SessionState] {
        use SessionState::{BetweenTurns, Booting, Completed, InTurn, Stalled, Waiting, Zombie};
        match self {
            Booting => &[],
            InTurn => &[Booting, BetweenTurns, Waiting, InTurn, Stalled],
            BetweenTurns => &[Booting, InTurn, BetweenTurns, Waiting, Stalled],
            Waiting => &[InTurn, BetweenTurns, Waiting],
            Stalled => &[Booting, InTurn, BetweenTurns, Stalled],
            Completed => &[Booting, InTurn, BetweenTurns, Waiting, Stalled, Completed],
            Zombie => &[Booting, InTurn, BetweenTurns, Waiting, Stalled, Zombie],
        }
    }
}

/// What a waiting session waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitingFor {
    /// Items that it handed out.
    Children,
    /// An answer to mail.
    Reply,
    /// A person's answer or permission.
    Person,
    /// A rate limit to pass.
    RateLimit,
    /// A timer.
    Timer,
}

/// What a waiting session waits for, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// What for.
    #[serde(rename = "for")]
    pub what: WaitingFor,
    /// When it is woken at the latest, if ever.
    pub until: Option<DateTime<Utc>>,
    /// What exactly, in words.
    #[serde(default)]
    pub detail: String,
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum TurnEnd {
    /// The runtime yielded by itself, with a result.
    Clean,
    /// It was interrupted by a person, a stop or the shutdown.
    Stopped {
        /// By whom or why, in words.
        why: String,
    },
    /// Nothing was heard from it for too long.
    Stalled,
    /// A limit of the agent or the item was reached.
    Limit {
        /// Which, in words.
        what: String,
        /// Whether it ends by itself, with the day.
        #[serde(default)]
        resumes: bool,
    },
    /// A provider refuses until a moment.
    RateLimited {
        /// Until when.
        until: DateTime<Utc>,
    },
    /// The runtime failed.
    Failed {
        /// How.
        failure: Failure,
        /// In words, with the remedy where there is one.
        message: String,
    },
    /// The server itself ended while the turn ran.
    CutOff,
}

/// What made a runtime fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Not logged in, a bad key, no credit: nothing works until a person acts.
    Auth,
    /// The program is missing or of an untested version, or cannot start.
    Unusable,
    /// The project cannot be worked in: no repository, no base branch.
    Project,
    /// The machine cannot go on, such as with a full disk.
    Machine,
    /// The provider is overloaded, unreachable or broken; retries are used up.
    Provider,
    /// The request was refused as malformed, or the model is unknown.
    BadRequest,
    /// The conversation no longer fits the model.
    ContextFull,
    /// The runtime's session to resume is gone.
    SessionLost,
    /// What it printed could not be understood, or a pipe broke.
    Protocol,
    /// It ended without a result.
    Crash,
}

/// What came of a turn, as stored in its row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnResult {
    /// How it ended.
    pub end: TurnEnd,
    /// The runtime process's exit code, when it exited.
    pub exit_code: Option<i32>,
    /// The runtime's session id.
    pub native_id: Option<String>,
    /// Whether the runtime went on with another session than it was asked to.
    pub resume_mismatch: bool,
    /// The report (`reports.id`) that the agent made in this turn, if any.
    pub report: Option<i64>,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The session's state when the turn began.
    pub state_before: SessionState,
    /// The session's state when it was settled.
    pub state_after: SessionState,
    /// Whether the agent ended without a report although it was asked for one.
    pub contract_violation: bool,
    /// What the agent said last.
    pub last_text: String,
    /// The last lines of the runtime's stderr, when the turn failed.
    pub stderr_tail: String,
    /// What a person should know and what fails nothing.
    pub warnings: Vec<String>,
    /// Tokens.
    pub usage: Usage,
    /// Money, in millionths of a US dollar; 0 where it is not known.
    pub cost_microusd: i64,
}

impl TurnResult {
    /// Whether the runtime yielded by itself.
    pub fn is_clean(&self) -> bool {
        self.end == TurnEnd::Clean
    }

    /// Whether the turn ended for a reason that is not the agent's: such ends are not counted
    /// against it.
    pub fn is_forced(&self) -> bool {
        match self.end {
            TurnEnd::Clean | TurnEnd::Stalled => false,
            TurnEnd::Stopped { .. }
            | TurnEnd::Limit { .. }
            | TurnEnd::RateLimited { .. }
            | TurnEnd::Failed { .. }
            | TurnEnd::CutOff => true,
        }
    }
}

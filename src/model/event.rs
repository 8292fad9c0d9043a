//! All that can happen and is written down: the program's log, as a type.
//!
//! Two kinds of rows: a [`Transition`] is a change of an item's stage; an [`Event`] is anything
//! else worth knowing. Both are appended in the transaction that makes them true and are read by
//! subscribers from their own stored positions, so nothing is lost when a reader is down.

use crate::model::ids::{AgentName, AgentSessionId, ItemId, ProjectName, RoomKey, TimerId, TurnId};
use crate::model::item::Origin;
use crate::model::stage::{MergeFailureKind, Stage};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// A change of an item's stage, as a row of the transition log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Position in the log.
    pub seq: i64,
    /// The item.
    pub item: ItemId,
    /// Where it was; `None` when it was just filed.
    pub from: Option<Stage>,
    /// Where it is now.
    pub to: Stage,
    /// What moved it, in words: stored so that `why` and history can show it.
    pub cause: String,
    /// Who.
    pub origin: Origin,
    /// When.
    pub at: DateTime<Utc>,
}

/// Anything else that happened, as a row of the event log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Position in the log.
    pub seq: i64,
    /// What happened.
    pub event: Event,
    /// When.
    pub at: DateTime<Utc>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// An agent's turn ended; its result row stands in `turns`. Work decides what follows.
    TurnFinished {
        /// The session it belonged to.
        session: AgentSessionId,
        /// The turn.
        turn: TurnId,
        /// The agent.
        agent: AgentName,
        /// The item.
        item: ItemId,
    },
    /// An agent session ended without a report; the parent gets mail, the room hears it.
    WorkerDied {
        /// The session.
        session: AgentSessionId,
        /// The agent.
        agent: AgentName,
        /// The item.
        item: ItemId,
        /// Why, in words.
        reason: String,
        /// Who saw it: `runner` or `watchdog`.
        seen_by: String,
    },
    /// The gates of an item's worktree were run.
    GatesRan {
        /// The item.
        item: ItemId,
        /// The commit that they ran on.
        commit: String,
        /// Whether all passed.
        passed: bool,
        /// The first gate that failed with its last lines, or a summary.
        summary: String,
    },
    /// The merge queue landed an item.
    Merged {
        /// The item.
        item: ItemId,
        /// The commit on the base branch.
        commit: String,
    },
    /// The merge queue gave an item back.
    MergeFailed {
        /// The item.
        item: ItemId,
        /// What failed.
        kind: MergeFailureKind,
        /// The last lines of output.
        output: String,
    },
    /// A timer's time came.
    TimerFired {
        /// The timer.
        timer: TimerId,
    },
    /// Something must not be used until a condition clears (not logged in, no credit, CLI missing,
    /// no base branch, full disk); it is tried again by itself.
    #[serde(alias = "pool_paused")]
    Paused {
        /// Who stands still, to begin a sentence with.
        #[serde(alias = "runtime")]
        what: String,
        /// Why and what to do, in words.
        reason: String,
        /// The project, when it is about one.
        #[serde(default)]
        project: Option<ProjectName>,
    },
    /// What was paused works again.
    GoesOn {
        /// Who, to begin a sentence with.
        what: String,
        /// The project, when it is about one.
        project: Option<ProjectName>,
    },
    /// Something on our side keeps an item from going on; it is tried again by itself.
    Trouble {
        /// The item.
        item: ItemId,
        /// What, in words.
        what: String,
    },
    /// An agent cannot reach its model; it tries again by itself.
    Unreachable {
        /// The item.
        item: ItemId,
        /// The agent.
        agent: AgentName,
        /// What the provider said, in words.
        message: String,
        /// When it tries again.
        until: DateTime<Utc>,
    },
    /// A session is held by a rate limit.
    RateLimited {
        /// The item.
        item: ItemId,
        /// The agent.
        agent: AgentName,
        /// When it resumes.
        until: DateTime<Utc>,
    },
    /// The watchdog saw something about an agent, or did something.
    Watched {
        /// The item.
        item: ItemId,
        /// The agent.
        agent: AgentName,
        /// What, in words that follow the agent's name.
        what: String,
    },
    /// A limit was reached or nearly reached.
    BudgetReached {
        /// Which, in words.
        what: String,
        /// The room to tell; `None` tells those that it concerns.
        room: Option<RoomKey>,
        /// The item, when it is the limit of one.
        #[serde(default)]
        item: Option<ItemId>,
        /// The project, when it is the limit of one.
        #[serde(default)]
        project: Option<ProjectName>,
        /// Names it, so that a room hears it once whoever tells it; empty: it is told once anyway.
        #[serde(default)]
        key: String,
    },
    /// An item's agent wants the room to know something (a milestone, a question).
    AgentSaid {
        /// The item.
        item: ItemId,
        /// The agent.
        agent: AgentName,
        /// What it said, as Markdown.
        text: String,
        /// Whether a person must answer.
        question: bool,
    },
    /// A project was registered.
    ProjectCreated {
        /// Its name.
        project: ProjectName,
    },
}

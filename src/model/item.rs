//! A work item: one piece of work from idea to merged commit.

use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::stage::Stage;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What sort of work an item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Something new for a user.
    Story,
    /// Something that is broken.
    Bug,
    /// The same behaviour in a better shape.
    Refactor,
    /// A question to be answered by trying.
    Spike,
    /// A collection of items; no agent works on an epic itself.
    Epic,
}

impl Kind {
    /// Every kind, in the order of the help text.
    pub const ALL: [Kind; 5] = [Kind::Story, Kind::Bug, Kind::Refactor, Kind::Spike, Kind::Epic];

    /// The name as stored, shown and typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Story => "story",
            Kind::Bug => "bug",
            Kind::Refactor => "refactor",
            Kind::Spike => "spike",
            Kind::Epic => "epic",
        }
    }

    /// Reads a kind as typed; `None` when it is none.
    pub fn parse(text: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// Who decides that an item's work is good enough to merge.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum QaMode {
    /// The project's quality gates.
    #[default]
    Gates,
    /// A QA agent, by its verdict mail.
    Agent,
    /// A person, by approving or rejecting.
    Human,
}

impl QaMode {
    /// Every mode.
    pub const ALL: [QaMode; 3] = [QaMode::Gates, QaMode::Agent, QaMode::Human];

    /// The name as stored, shown and typed.
    pub fn as_str(self) -> &'static str {
        match self {
            QaMode::Gates => "gates",
            QaMode::Agent => "agent",
            QaMode::Human => "human",
        }
    }
}

/// What sort of party filed an item or caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// A person, by command or at the command line.
    User,
    /// A coding agent.
    Agent,
    /// The coordinator model.
    Bot,
    /// A timer that fired.
    Timer,
    /// Musher's own code.
    System,
}

/// Who filed an item or caused a change, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The sort of party.
    pub kind: OriginKind,
    /// Their id (`@you:example.org`, `coder-1`, …); never empty: see [`Origin::new`].
    pub id: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// An origin without an id: refused before anything is written.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("an origin needs the id of who caused it")]
pub struct EmptyOrigin;

impl Origin {
    /// Makes an origin; refuses an empty or blank `id`.
    pub fn new(
        kind: OriginKind,
        id: impl Into<String>,
        at: DateTime<Utc>,
    ) -> Result<Self, EmptyOrigin> {
        let id = id.into();
        if id.trim().is_empty() {
            return Err(EmptyOrigin);
        }
        Ok(Self { kind, id, at })
    }
}

/// One row of the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Its number.
    pub id: ItemId,
    /// The project that it belongs to.
    pub project: ProjectName,
    /// What sort of work it is.
    pub kind: Kind,
    /// One line that a person wrote; never blank.
    pub name: String,
    /// Markdown: description and acceptance criteria.
    pub body: String,
    /// Items that must be finished first.
    pub depends_on: Vec<ItemId>,
    /// Parent epic.
    pub epic: Option<ItemId>,
    /// The item whose lead handed it out.
    pub parent: Option<ItemId>,
    /// The agent that a person pinned to it.
    pub agent: Option<AgentName>,
    /// Who decides that the work is good.
    pub qa: QaMode,
    /// Who filed it.
    pub origin: Origin,
    /// The room that hears about it; `None` when it was filed at the command line.
    pub room: Option<RoomKey>,
    /// Where it is in the pipeline.
    pub stage: Stage,
    /// Merge order: higher first; 0 unless set.
    pub priority: i64,
    /// Retries in the present column; reset when the column changes.
    pub retries: u32,
    /// Money spent on it so far, in millionths of a US dollar.
    pub cost_microusd: i64,
    /// When it was filed.
    pub created_at: DateTime<Utc>,
    /// When its row last changed.
    pub updated_at: DateTime<Utc>,
    /// Compare-and-swap token: a writer with a stale one loses.
    pub version: i64,
}

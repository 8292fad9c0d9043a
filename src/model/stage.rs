//! The pipeline: which stage an item is in, and what may happen to it next.
//!
//! A stage is one enum with payloads. Two projections are derived from it by exhaustive matches,
//! so that no reader classifies stages on its own: the [`Column`] (where it stands on the board)
//! and the [`Badge`] (what is the matter with it). [`next`] says what may happen to an item.

use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

mod next;
pub use next::{IllegalTransition, MoveTo, StageEvent, next};

/// Where an item is in the pipeline, with what is known only there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// Noted for later.
    Upcoming,
    /// Ready to be started.
    Backlog,
    /// A coder works on it, or it waits for a free one.
    Coding {
        /// The agent that holds it; `None` while it waits for one.
        claim: Option<AgentName>,
        /// The plan that the agent was given or made, if any.
        plan: Option<String>,
        /// How often it was sent back to the coder since it entered the column.
        retries: u32,
        /// What the coder must know beyond the item's text: failing output, findings, a conflict.
        note: Option<String>,
    },
    /// Stopped by something that a person or an event must clear.
    Blocked {
        /// What stopped it, in words for the room.
        reason: String,
        /// Where `unblock` sends it.
        resume_to: Box<Stage>,
    },
    /// A QA agent checks it, or it waits for a free one.
    Qa {
        /// The agent that holds it.
        claim: Option<AgentName>,
        /// The commit on the item's branch that is checked.
        commit: String,
    },
    /// A person decides.
    ReviewHold {
        /// What is to be decided.
        reason: String,
        /// The commit on the item's branch that is decided on.
        commit: String,
    },
    /// In the merge queue.
    Merge {
        /// The merger that holds it.
        claim: Option<AgentName>,
        /// The commit on the item's branch that passed its gates.
        commit: String,
    },
    /// The last merge attempt failed; it may be tried again.
    MergeFailure {
        /// What failed.
        kind: MergeFailureKind,
        /// The last lines of output.
        output: String,
        /// The commit on the item's branch that was to be merged.
        commit: String,
        /// How often in a row a merge of this item failed in this way.
        in_a_row: u32,
        /// The mergemaster that resolves the conflict; `None` while nobody does.
        #[serde(default)]
        claim: Option<AgentName>,
        /// How often its gates sent it back to that mergemaster.
        #[serde(default)]
        retries: u32,
    },
    /// The same merge failure three times in a row; only a person goes on.
    MergeFailureFinal {
        /// What failed.
        kind: MergeFailureKind,
        /// The last lines of output.
        output: String,
        /// The commit on the item's branch that was to be merged.
        commit: String,
        /// Whether a person started it since: only then does a mergemaster take it.
        #[serde(default)]
        started: bool,
        /// The mergemaster that works on it.
        #[serde(default)]
        claim: Option<AgentName>,
        /// How often its gates sent it back to that mergemaster.
        #[serde(default)]
        retries: u32,
    },
    /// On the base branch.
    Done {
        /// When.
        merged_at: DateTime<Utc>,
        /// The commit on the base branch.
        commit: String,
    },
    /// Put away after its retention, or by a person.
    Archived {
        /// Why.
        reason: ArchiveReason,
        /// When.
        at: DateTime<Utc>,
    },
    /// Put on ice; remembers where it came from.
    Frozen {
        /// The stage that `unfreeze` restores.
        resume_to: Box<Stage>,
    },
    /// Given up.
    Abandoned {
        /// Why.
        reason: String,
    },
    /// Replaced by another item.
    Superseded {
        /// The other item.
        by: ItemId,
    },
    /// Turned down by a person; its worktree is kept for inspection.
    Rejected {
        /// Why.
        reason: String,
    },
}

/// Why an item was archived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "snake_case")]
pub enum ArchiveReason {
    /// It was done, and its retention is over; or it was complete without a merge of its own.
    Finished,
    /// Somebody put it away unfinished; does not satisfy a dependency.
    Abandoned {
        /// Their words.
        reason: String,
        /// It was blocked at that time.
        blocked: bool,
    },
}

/// What made a merge attempt fail, from exit codes and the gate that failed first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MergeFailureKind {
    /// The branch and the base changed the same lines.
    Conflict {
        /// The files in conflict.
        files: Vec<String>,
    },
    /// A gate failed on the merged tree.
    GateFailed {
        /// The gate's command.
        gate: String,
        /// Its exit code; `None` when a signal ended it.
        exit: Option<i32>,
    },
    /// A gate ran out of time on the merged tree.
    GateTimeout {
        /// The gate's command.
        gate: String,
    },
    /// The item's branch has no commit of its own.
    NoCommits,
    /// The branch's commits change nothing against the base.
    EmptyDiff,
    /// The base moved under every attempt.
    BaseMoved,
    /// The remote did not take it, or no pull request could be opened.
    PushRefused {
        /// What the remote said, in words.
        reason: String,
    },
    /// The machine, git or a tool failed: not the item's fault and not counted against it.
    Infrastructure {
        /// What failed, in words.
        what: String,
    },
}

impl MergeFailureKind {
    /// The name as stored and shown.
    pub fn name(&self) -> &'static str {
        match self {
            MergeFailureKind::Conflict { .. } => "conflict",
            MergeFailureKind::GateFailed { .. } => "gate_failed",
            MergeFailureKind::GateTimeout { .. } => "gate_timeout",
            MergeFailureKind::NoCommits => "no_commits",
            MergeFailureKind::EmptyDiff => "empty_diff",
            MergeFailureKind::BaseMoved => "base_moved",
            MergeFailureKind::PushRefused { .. } => "push_refused",
            MergeFailureKind::Infrastructure { .. } => "infrastructure",
        }
    }
}

/// Where an item stands on the board, left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Column {
    /// Not started.
    Backlog,
    /// With a coder.
    Coding,
    /// With QA or a person.
    Qa,
    /// On its way to the base branch.
    Merge,
    /// Merged.
    Done,
    /// Put away.
    Archived,
    /// Ended without being merged.
    Closed,
}

impl Column {
    /// Every column, in board order.
    pub const ALL: [Column; 7] = [
        Column::Backlog,
        Column::Coding,
        Column::Qa,
        Column::Merge,
        Column::Done,
        Column::Archived,
        Column::Closed,
    ];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Column::Backlog => "backlog",
            Column::Coding => "coding",
            Column::Qa => "qa",
            Column::Merge => "merge",
            Column::Done => "done",
            Column::Archived => "archived",
            Column::Closed => "closed",
        }
    }
}

/// What is the matter with an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Badge {
    /// Nothing.
    Active,
    /// It is blocked.
    Blocked,
    /// A person has to decide.
    ReviewHold,
    /// Its merge failed.
    MergeFailure,
    /// Its merge failed for good.
    MergeFailureFinal,
    /// It is merged.
    Done,
    /// It is on ice.
    Frozen,
    /// It was given up.
    Abandoned,
    /// It was replaced.
    Superseded,
    /// It was turned down.
    Rejected,
}

impl Badge {
    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Badge::Active => "active",
            Badge::Blocked => "blocked",
            Badge::ReviewHold => "review-hold",
            Badge::MergeFailure => "merge-failure",
            Badge::MergeFailureFinal => "merge-failure-final",
            Badge::Done => "done",
            Badge::Frozen => "frozen",
            Badge::Abandoned => "abandoned",
            Badge::Superseded => "superseded",
            Badge::Rejected => "rejected",
        }
    }
}

impl Stage {
    /// The stage's snake_case name, as stored, printed by `--json` and typed after `move`.
    pub fn name(&self) -> &'static str {
        match self {
            Stage::Upcoming => "upcoming",
            Stage::Backlog => "backlog",
            Stage::Coding { .. } => "coding",
            Stage::Blocked { .. } => "blocked",
            Stage::Qa { .. } => "qa",
            Stage::ReviewHold { .. } => "review_hold",
            Stage::Merge { .. } => "merge",
            Stage::MergeFailure { .. } => "merge_failure",
            Stage::MergeFailureFinal { .. } => "merge_failure_final",
            Stage::Done { .. } => "done",
            Stage::Archived { .. } => "archived",
            Stage::Frozen { .. } => "frozen",
            Stage::Abandoned { .. } => "abandoned",
            Stage::Superseded { .. } => "superseded",
            Stage::Rejected { .. } => "rejected",
        }
    }

    /// Where the item stands on the board.
    pub fn column(&self) -> Column {
        match self {
            Stage::Upcoming | Stage::Backlog => Column::Backlog,
            Stage::Coding { .. } | Stage::Blocked { .. } => Column::Coding,
            Stage::Qa { .. } | Stage::ReviewHold { .. } => Column::Qa,
            Stage::Merge { .. } | Stage::MergeFailure { .. } | Stage::MergeFailureFinal { .. } => {
                Column::Merge
            }
            Stage::Done { .. } => Column::Done,
            Stage::Archived { .. } => Column::Archived,
            Stage::Frozen { resume_to } => resume_to.column(),
            Stage::Abandoned { .. } | Stage::Superseded { .. } | Stage::Rejected { .. } => {
                Column::Closed
            }
        }
    }

    /// What is the matter with the item.
    pub fn badge(&self) -> Badge {
        match self {
            Stage::Upcoming
            | Stage::Backlog
            | Stage::Coding { .. }
            | Stage::Qa { .. }
            | Stage::Merge { .. } => Badge::Active,
            Stage::Blocked { .. } => Badge::Blocked,
            Stage::ReviewHold { .. } => Badge::ReviewHold,
            Stage::MergeFailure { .. } => Badge::MergeFailure,
            Stage::MergeFailureFinal { .. } => Badge::MergeFailureFinal,
            Stage::Done { .. } => Badge::Done,
            Stage::Archived { reason: ArchiveReason::Abandoned { blocked: true, .. }, .. } => {
                Badge::Blocked
            }
            Stage::Archived {
                reason: ArchiveReason::Finished | ArchiveReason::Abandoned { blocked: false, .. },
                ..
            } => Badge::Active,
            Stage::Frozen { .. } => Badge::Frozen,
            Stage::Abandoned { .. } => Badge::Abandoned,
            Stage::Superseded { .. } => Badge::Superseded,
            Stage::Rejected { .. } => Badge::Rejected,
        }
    }

    /// The role of the agent that may run on the item now.
    ///
    /// Merging is plain code: a mergemaster is wanted for a conflict, and for a final failure only
    /// when a person starts it. `work` fits this to the agents that are configured.
    pub fn wants_role(&self) -> Option<Role> {
        match self {
            Stage::Coding { .. } => Some(Role::Coder),
            Stage::Qa { .. } => Some(Role::Qa),
            Stage::MergeFailure { kind: MergeFailureKind::Conflict { .. }, .. }
            | Stage::MergeFailureFinal { started: true, .. } => Some(Role::Mergemaster),
            Stage::MergeFailure {
                kind: MergeFailureKind::GateFailed { .. } | MergeFailureKind::GateTimeout { .. },
                ..
            } => Some(Role::Coder),
            Stage::MergeFailure {
                kind:
                    MergeFailureKind::NoCommits
                    | MergeFailureKind::EmptyDiff
                    | MergeFailureKind::BaseMoved
                    | MergeFailureKind::PushRefused { .. }
                    | MergeFailureKind::Infrastructure { .. },
                ..
            }
            | Stage::MergeFailureFinal { started: false, .. }
            | Stage::Upcoming
            | Stage::Backlog
            | Stage::Blocked { .. }
            | Stage::ReviewHold { .. }
            | Stage::Merge { .. }
            | Stage::Done { .. }
            | Stage::Archived { .. }
            | Stage::Frozen { .. }
            | Stage::Abandoned { .. }
            | Stage::Superseded { .. }
            | Stage::Rejected { .. } => None,
        }
    }

    /// How often it was sent back to the agent that has it, in the stages that count it.
    pub fn retries(&self) -> Option<u32> {
        match self {
            Stage::Coding { retries, .. }
            | Stage::MergeFailure { retries, .. }
            | Stage::MergeFailureFinal { retries, .. } => Some(*retries),
            Stage::Upcoming
            | Stage::Backlog
            | Stage::Blocked { .. }
            | Stage::Qa { .. }
            | Stage::ReviewHold { .. }
            | Stage::Merge { .. }
            | Stage::Done { .. }
            | Stage::Archived { .. }
            | Stage::Frozen { .. }
            | Stage::Abandoned { .. }
            | Stage::Superseded { .. }
            | Stage::Rejected { .. } => None,
        }
    }

    /// Whether the item has ended: merged, put away or closed.
    pub fn is_terminal(&self) -> bool {
        match self {
            Stage::Done { .. }
            | Stage::Archived { .. }
            | Stage::Abandoned { .. }
            | Stage::Superseded { .. }
            | Stage::Rejected { .. } => true,
            Stage::Upcoming
            | Stage::Backlog
            | Stage::Coding { .. }
            | Stage::Blocked { .. }
            | Stage::Qa { .. }
            | Stage::ReviewHold { .. }
            | Stage::Merge { .. }
            | Stage::MergeFailure { .. }
            | Stage::MergeFailureFinal { .. }
            | Stage::Frozen { .. } => false,
        }
    }

    /// Whether an item that depends on this one may start.
    pub fn meets_dependency(&self) -> bool {
        matches!(self, Stage::Done { .. } | Stage::Archived { reason: ArchiveReason::Finished, .. })
    }

    /// The agent that holds the item.
    pub fn claim(&self) -> Option<&AgentName> {
        match self {
            Stage::Coding { claim, .. }
            | Stage::Qa { claim, .. }
            | Stage::Merge { claim, .. }
            | Stage::MergeFailure { claim, .. }
            | Stage::MergeFailureFinal { claim, .. } => claim.as_ref(),
            Stage::Upcoming
            | Stage::Backlog
            | Stage::Blocked { .. }
            | Stage::ReviewHold { .. }
            | Stage::Done { .. }
            | Stage::Archived { .. }
            | Stage::Frozen { .. }
            | Stage::Abandoned { .. }
            | Stage::Superseded { .. }
            | Stage::Rejected { .. } => None,
        }
    }

    /// The commit on the item's branch that passed its gates and is not merged yet.
    pub fn commit(&self) -> Option<&str> {
        match self {
            Stage::Qa { commit, .. }
            | Stage::ReviewHold { commit, .. }
            | Stage::Merge { commit, .. }
            | Stage::MergeFailure { commit, .. }
            | Stage::MergeFailureFinal { commit, .. } => Some(commit),
            Stage::Blocked { resume_to, .. } | Stage::Frozen { resume_to } => resume_to.commit(),
            Stage::Upcoming
            | Stage::Backlog
            | Stage::Coding { .. }
            | Stage::Done { .. }
            | Stage::Archived { .. }
            | Stage::Abandoned { .. }
            | Stage::Superseded { .. }
            | Stage::Rejected { .. } => None,
        }
    }
}

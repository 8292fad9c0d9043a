//! What work needs of the outside: an item's worktree, its gates, its agents.
//!
//! A trait, so that the loops are tested step by step without git and processes.

use crate::model::ids::ItemId;
use crate::model::item::Item;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

/// What an item's worktree holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// The commit at the head of the item's branch, if the branch has one of its own.
    pub commit: Option<String>,
    /// Paths with changes that are not committed.
    pub dirty: Vec<String>,
    /// Something that changes whenever the worktree's changes do: how progress is seen.
    pub fingerprint: String,
}

/// What came of running the gates in an item's worktree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GateOutcome {
    /// The first gate that failed; `None`: all passed.
    pub failed: Option<FailedGate>,
    /// Paths that the gates left behind and that were not there before.
    pub leftovers: Vec<String>,
}

/// A gate that did not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedGate {
    /// Its command.
    pub gate: String,
    /// Its exit code; `None` when a signal or the time limit ended it.
    pub exit: Option<i32>,
    /// Whether it ran out of time.
    pub timed_out: bool,
    /// The last lines of its output.
    pub tail: String,
}

impl FailedGate {
    /// What happened, as a clause.
    pub fn in_words(&self) -> String {
        match (self.timed_out, self.exit) {
            (true, _) => format!("`{}` ran out of time", self.gate),
            (false, Some(exit)) => format!("`{}` failed with exit code {exit}", self.gate),
            (false, None) => format!("`{}` was ended by a signal", self.gate),
        }
    }

    /// Whether the command itself is missing, as the shell says: no coder can mend that.
    pub fn is_missing(&self) -> bool {
        !self.timed_out && matches!(self.exit, Some(126 | 127))
    }
}

/// The outside, as work sees it. Everything is safe to repeat.
#[async_trait]
pub trait World: Send + Sync + 'static {
    /// Looks at the item's branch and worktree.
    async fn check(&self, item: &Item) -> anyhow::Result<Checked>;

    /// Runs the project's gates in the item's worktree; an error is not the item's fault.
    async fn run_gates(
        &self,
        item: &Item,
        commit: &str,
        cancel: &CancellationToken,
    ) -> anyhow::Result<GateOutcome>;

    /// Ends the item's agent, verified, and its session.
    async fn stop_agents(&self, item: ItemId, why: &str) -> anyhow::Result<()>;

    /// Removes the worktree of an item that has ended; work that is on no branch is rescued first,
    /// and when that fails, the worktree stays and the error says so.
    async fn remove_worktree(&self, item: &Item) -> anyhow::Result<()>;
}

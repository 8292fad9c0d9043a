//! What is counted against an item, derived from its decisions: nothing is kept beside them.
//!
//! Keyed by item, so that another agent or session does not start at zero, and durable, so that a
//! restart does not either.

use super::WorkError;
use crate::model::ids::ItemId;
use crate::store::Tx;
use crate::store::decisions::{self, Decision, What};
use rusqlite::Connection;
use serde_json::Value;

/// How far back an item's decisions are read. The caps are far below it.
const LOOK_BACK: usize = 200;
/// How often an agent may be started on an item without a commit in between.
pub(super) const MAX_STARTS: u32 = 3;
/// How often in a row an agent may end without a commit and without progress.
pub(super) const MAX_IDLE_ASKS: u32 = 3;
/// How often an agent may be asked to commit, progress or not.
pub(super) const MAX_ASKS: u32 = 8;

/// What was counted since the item was last given another chance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Counters {
    /// Agents started since the last commit.
    pub starts: u32,
    /// Times asked to commit since the last commit.
    pub asks: u32,
    /// Of these the last ones in a row in which the worktree did not change.
    pub idle_asks: u32,
    /// What the worktree looked like when it was last asked.
    pub fingerprint: Option<String>,
    /// Agents that died and were started again since the last commit.
    pub revivals: u32,
    /// Times that QA or a merge sent it back since a person last started it.
    pub rounds: u32,
}

impl Counters {
    /// Reads what counts against `item` now.
    pub(super) fn of(conn: &Connection, item: ItemId) -> Result<Self, WorkError> {
        Ok(count(&decisions::of_item(conn, item, LOOK_BACK)?))
    }

    /// The same after one more ask that found the worktree looking like `fingerprint`.
    pub(super) fn asked(&self, fingerprint: &str) -> Self {
        let moved = self.fingerprint.as_deref() != Some(fingerprint);
        Self {
            asks: self.asks + 1,
            idle_asks: if moved { 1 } else { self.idle_asks + 1 },
            fingerprint: Some(fingerprint.to_owned()),
            ..self.clone()
        }
    }
}

/// Counts decisions, given newest first.
pub(super) fn count(newest_first: &[Decision]) -> Counters {
    let since_cleared: Vec<&Decision> =
        newest_first.iter().take_while(|decision| decision.what != What::Cleared).collect();
    let mut counters = Counters::default();
    for decision in since_cleared.into_iter().rev() {
        match decision.what {
            What::Started => counters.starts += 1,
            What::Revived => {
                counters.starts += 1;
                counters.revivals += 1;
            }
            What::AskedToCommit => {
                let seen = decision.inputs.get("fingerprint").and_then(Value::as_str);
                counters = counters.asked(seen.unwrap_or_default());
            }
            What::Committed => {
                counters = Counters { rounds: counters.rounds, ..Default::default() }
            }
            What::SentBack => {
                // Failing gates are counted by the stage itself, and reset with the column.
                let from = decision.inputs.get("from").and_then(Value::as_str);
                counters.rounds += u32::from(from != Some("gates"));
            }
            What::NotStarted
            | What::Resumed
            | What::Promoted
            | What::NotPromoted
            | What::Blocked
            | What::Stopped
            | What::Cleared
            | What::Passed
            | What::MergeRetried
            | What::Batched
            | What::Predicted
            | What::Merged
            | What::Finished
            | What::Archived
            | What::Withdrawn
            | What::Deleted
            | What::WorktreeRemoved => {}
        }
    }
    counters
}

/// Records a decision unless it is the newest of the item already: for passes that come to the
/// same conclusion again and again. Says whether it was new.
pub(super) fn note_once(
    tx: &Tx<'_>,
    item: ItemId,
    what: What,
    why: &str,
    inputs: &Value,
) -> Result<bool, WorkError> {
    let newest = decisions::of_item(tx, item, 1)?;
    if newest.first().is_some_and(|newest| newest.what == what && newest.why == why) {
        return Ok(false);
    }
    decisions::record(tx, Some(item), what, why, inputs)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn counted(oldest_first: &[(What, &str)]) -> Counters {
        let rows: Vec<Decision> = oldest_first
            .iter()
            .rev()
            .map(|(what, fingerprint)| Decision {
                id: 0,
                item: None,
                what: *what,
                why: String::new(),
                inputs: json!({ "fingerprint": fingerprint }),
                at: chrono::DateTime::UNIX_EPOCH,
            })
            .collect();
        count(&rows)
    }

    #[test]
    fn asks_count_as_idle_only_while_the_worktree_stays_the_same() {
        let counters = counted(&[
            (What::Started, ""),
            (What::AskedToCommit, "a"),
            (What::AskedToCommit, "a"),
            (What::AskedToCommit, "b"),
        ]);
        assert_eq!((counters.asks, counters.idle_asks), (3, 1));
        assert_eq!(counters.asked("b").idle_asks, 2);
    }

    #[test]
    fn a_commit_clears_all_but_the_rounds_and_a_person_clears_everything() {
        let before = [
            (What::Started, ""),
            (What::Revived, ""),
            (What::AskedToCommit, "a"),
            (What::SentBack, ""),
        ];
        let counters = counted(&before);
        assert_eq!((counters.starts, counters.revivals, counters.rounds), (2, 1, 1));
        let committed = counted(&[&before[..], &[(What::Committed, "")]].concat());
        assert_eq!(committed, Counters { rounds: 1, ..Default::default() });
        let cleared = counted(&[&before[..], &[(What::Cleared, "")]].concat());
        assert_eq!(cleared, Counters::default());
    }
}

//! What is counted against an item, derived from its decisions: nothing is kept beside them.
//!
//! Keyed by item, so that another agent or session does not start at zero, and durable, so that a
//! restart does not either. Only decisions of the kinds that count are read, and only those since a
//! person last gave the item another chance: how much else was written down does not matter.

use super::WorkError;
use crate::model::ids::ItemId;
use crate::store::decisions::{self, Decision, What};
use rusqlite::Connection;
use serde::Serialize;
use serde_json::Value;

/// How often an agent may be started on an item without a commit in between.
pub(super) const MAX_STARTS: u32 = 3;
/// How often in a row an agent may end without a commit and without progress.
pub(super) const MAX_IDLE_ASKS: u32 = 3;
/// How often an agent may be asked to commit, progress or not.
pub(super) const MAX_ASKS: u32 = 8;

/// The decisions that count.
const COUNTED: [What; 6] = [
    What::Started,
    What::Revived,
    What::AskedToCommit,
    What::Committed,
    What::SentBack,
    What::Withdrawn,
];

/// What an agent had done when it was asked to commit: more of either is progress.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Progress {
    /// Changes whenever the content of the worktree's changes does.
    pub fingerprint: String,
    /// How many different files were read.
    pub files_read: u64,
}

/// What was counted since the item was last given another chance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub(super) struct Counters {
    /// Agents started since the last commit.
    pub starts: u32,
    /// Times asked to commit since the last commit.
    pub asks: u32,
    /// Of these the last ones in a row in which nothing was changed and nothing new was read.
    pub idle_asks: u32,
    /// How far the agent was when it was last asked.
    pub progress: Option<Progress>,
    /// Agents that died and were started again since the last commit.
    pub revivals: u32,
    /// Times that QA or a merge sent it back since a person last started it.
    pub rounds: u32,
}

impl Counters {
    /// Reads what counts against `item` now.
    pub(super) fn of(conn: &Connection, item: ItemId) -> Result<Self, WorkError> {
        Ok(count(&decisions::since_cleared(conn, item, &COUNTED)?))
    }

    /// The same after one more ask that found the agent that far.
    pub(super) fn asked(&self, progress: Progress) -> Self {
        let moved = self.progress.as_ref().is_none_or(|before| {
            before.fingerprint != progress.fingerprint || progress.files_read > before.files_read
        });
        Self {
            asks: self.asks + 1,
            idle_asks: if moved { 1 } else { self.idle_asks + 1 },
            progress: Some(progress),
            ..self.clone()
        }
    }
}

/// Counts decisions, given oldest first, all since the item was last cleared.
pub(super) fn count(decisions: &[Decision]) -> Counters {
    let mut counters = Counters::default();
    for decision in decisions {
        match decision.what {
            What::Started => counters.starts += 1,
            What::Revived => {
                counters.starts += 1;
                counters.revivals += 1;
            }
            What::AskedToCommit => {
                let inputs = &decision.inputs;
                let fingerprint = inputs.get("fingerprint").and_then(Value::as_str);
                counters = counters.asked(Progress {
                    fingerprint: fingerprint.unwrap_or_default().to_owned(),
                    files_read: inputs.get("files_read").and_then(Value::as_u64).unwrap_or(0),
                });
            }
            What::Committed => {
                counters = Counters { rounds: counters.rounds, ..Default::default() }
            }
            What::SentBack => {
                // Failing gates are counted by the stage itself, and reset with the column.
                let from = decision.inputs.get("from").and_then(Value::as_str);
                counters.rounds += u32::from(from != Some("gates"));
            }
            What::Withdrawn => {
                // An end that was not the agent's doing takes its start back.
                let takes_back = decision.inputs.get("takes_back").and_then(Value::as_bool);
                counters.starts -= u32::from(takes_back == Some(true)).min(counters.starts);
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
            | What::PutOff
            | What::Deleted
            | What::WorktreeRemoved => {}
        }
    }
    counters
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn decision(what: What, inputs: Value) -> Decision {
        let (why, at) = (String::new(), chrono::DateTime::UNIX_EPOCH);
        Decision { id: 0, item: None, what, why, inputs, origin: None, at }
    }

    fn asked(fingerprint: &str, files_read: u64) -> Decision {
        let inputs = json!({"fingerprint": fingerprint, "files_read": files_read});
        decision(What::AskedToCommit, inputs)
    }

    fn plain(what: What) -> Decision {
        decision(what, json!({}))
    }

    #[test]
    fn asks_count_as_idle_only_while_nothing_is_changed_and_nothing_new_is_read() {
        for (asks, idle) in [
            (vec![asked("a", 1), asked("a", 1)], 2),
            (vec![asked("a", 1), asked("a", 1), asked("b", 1)], 1),
            (vec![asked("a", 1), asked("a", 1), asked("a", 2)], 1),
            (vec![asked("a", 2), asked("a", 2), asked("a", 2)], 3),
        ] {
            let counters = count(&asks);
            assert_eq!((counters.asks, counters.idle_asks), (asks.len() as u32, idle), "{asks:?}");
        }
    }

    #[test]
    fn a_commit_clears_all_but_the_rounds() {
        let mut decisions =
            vec![plain(What::Started), plain(What::Revived), asked("a", 0), plain(What::SentBack)];
        let counters = count(&decisions);
        assert_eq!((counters.starts, counters.revivals, counters.rounds), (2, 1, 1));
        decisions.push(plain(What::Committed));
        assert_eq!(count(&decisions), Counters { rounds: 1, ..Default::default() });
    }

    #[test]
    fn a_start_that_could_come_to_nothing_is_taken_back() {
        let takes_back = decision(What::Withdrawn, json!({"takes_back": true}));
        let plainly = plain(What::Withdrawn);
        assert_eq!(count(&[plain(What::Started), takes_back.clone()]).starts, 0);
        assert_eq!(count(&[plain(What::Started), plainly]).starts, 1);
        assert_eq!(count(&[takes_back]).starts, 0);
    }
}

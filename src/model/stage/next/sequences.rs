//! Ten thousand random histories of an item, of all facts in any order: whatever happens, and
//! whatever of it is refused, the promises about stages hold.

use super::*;
use crate::model::stage::{Badge, Column};
use chrono::TimeZone;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// How many histories are tried.
const HISTORIES: u32 = 10_000;

fn at() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 5, 1, 12, 0, 0).unwrap()
}

fn kinds() -> [MergeFailureKind; 8] {
    let gate = || "make test".to_owned();
    [
        MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] },
        MergeFailureKind::GateFailed { gate: gate(), exit: Some(1) },
        MergeFailureKind::GateTimeout { gate: gate() },
        MergeFailureKind::NoCommits,
        MergeFailureKind::EmptyDiff,
        MergeFailureKind::BaseMoved,
        MergeFailureKind::PushRefused { reason: "protected".to_owned() },
        MergeFailureKind::Infrastructure { what: "disk".to_owned() },
    ]
}

/// Every fact, as often as it shall come: those that carry the work on more often than those that
/// end it. A history is a row of places in this list.
fn facts() -> Vec<StageEvent> {
    let word = || "why".to_owned();
    let mut all = vec![];
    let mut put = |times: usize, event: StageEvent| {
        all.extend(std::iter::repeat_n(event, times));
    };
    put(4, StageEvent::Readied);
    put(16, StageEvent::Started);
    put(12, StageEvent::Claimed { agent: "ada".into() });
    put(12, StageEvent::Claimed { agent: "bob".into() });
    for (qa, commit) in [(QaMode::Gates, "a"), (QaMode::Agent, "b"), (QaMode::Human, "c")] {
        put(5, StageEvent::GatesPassed { commit: commit.to_owned(), qa });
        put(5, StageEvent::GatesPassed { commit: format!("{commit}{commit}"), qa });
    }
    put(12, StageEvent::QaPassed);
    put(12, StageEvent::Approved);
    for kind in kinds() {
        for in_a_row in 1..4 {
            let (kind, output) = (kind.clone(), "tail".to_owned());
            // Only a conflict lets a mergemaster in, which is a long way: often enough to come there.
            let times = if matches!(kind, MergeFailureKind::Conflict { .. }) { 6 } else { 1 };
            put(times, StageEvent::MergeFailed { kind, output, in_a_row });
        }
    }
    put(8, StageEvent::MergeRetried);
    put(40, StageEvent::Resolved { commit: "d".to_owned() });
    put(4, StageEvent::Recommitted { commit: "e".to_owned() });
    put(5, StageEvent::Unclaimed);
    put(8, StageEvent::SentBack { why: word() });
    put(5, StageEvent::QaFailed { findings: word() });
    put(5, StageEvent::Blocked { reason: word() });
    put(8, StageEvent::Unblocked);
    put(5, StageEvent::Frozen);
    put(8, StageEvent::Unfrozen);
    for to in MoveTo::ALL {
        put(2, StageEvent::Moved { to });
    }
    put(4, StageEvent::Merged { commit: "f00d".to_owned(), at: at() });
    put(1, StageEvent::Finished { at: at() });
    put(3, StageEvent::RetentionPassed { at: at() });
    put(1, StageEvent::PutAway { reason: word(), at: at() });
    put(1, StageEvent::Abandoned { reason: word() });
    put(1, StageEvent::Superseded { by: ItemId(7) });
    put(1, StageEvent::Rejected { reason: word() });
    all
}

/// What a history remembers beside the stage, to judge it by.
#[derive(Debug, Clone, Default)]
struct Memory {
    /// What stood there when it was frozen.
    frozen: Option<Stage>,
    /// The commit that last passed its gates, or was put before a person.
    passed: Option<String>,
    /// Whether it was ever merged or finished.
    finished: bool,
}

/// What the board must show of a stage, said once more and otherwise than the program says it.
fn expected(stage: &Stage) -> (Column, Badge) {
    match (stage.name(), stage) {
        (_, Stage::Frozen { resume_to }) => (expected(resume_to).0, Badge::Frozen),
        (_, Stage::Archived { reason: ArchiveReason::Abandoned { blocked: true, .. }, .. }) => {
            (Column::Archived, Badge::Blocked)
        }
        ("upcoming" | "backlog", _) => (Column::Backlog, Badge::Active),
        ("coding", _) => (Column::Coding, Badge::Active),
        ("blocked", _) => (Column::Coding, Badge::Blocked),
        ("qa", _) => (Column::Qa, Badge::Active),
        ("review_hold", _) => (Column::Qa, Badge::ReviewHold),
        ("merge", _) => (Column::Merge, Badge::Active),
        ("merge_failure", _) => (Column::Merge, Badge::MergeFailure),
        ("merge_failure_final", _) => (Column::Merge, Badge::MergeFailureFinal),
        ("done", _) => (Column::Done, Badge::Done),
        ("archived", _) => (Column::Archived, Badge::Active),
        ("abandoned", _) => (Column::Closed, Badge::Abandoned),
        ("superseded", _) => (Column::Closed, Badge::Superseded),
        ("rejected", _) => (Column::Closed, Badge::Rejected),
        (other, _) => panic!("nobody has said where {other} stands"),
    }
}

/// A step in words, for a failure.
struct Told<'a> {
    before: &'a Stage,
    event: &'a StageEvent,
    after: &'a Stage,
}

impl std::fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}\n  by {:?}\n  to {:?}", self.before, self.event, self.after)
    }
}

/// Fails unless the step from `before` by `event` to `after` keeps every promise.
fn judge(before: &Stage, event: &StageEvent, after: &Stage, memory: &mut Memory) {
    let told = Told { before, event, after };
    assert_eq!((after.column(), after.badge()), expected(after), "{told}");
    // One agent at most, and only where one may work.
    let claim = after.claim();
    if let StageEvent::Claimed { agent } = event {
        assert_eq!(before.claim(), None, "{told}");
        assert_eq!(claim, Some(agent), "{told}");
    } else {
        assert!(claim.is_none() || claim == before.claim(), "a claim from nowhere: {told}");
    }
    if after.is_terminal() || matches!(after.badge(), Badge::Blocked | Badge::Frozen) {
        assert_eq!(claim, None, "{told}");
    }
    // What is merged or finished stays so.
    let finished = |stage: &Stage| {
        matches!(
            stage,
            Stage::Done { .. } | Stage::Archived { reason: ArchiveReason::Finished, .. }
        )
    };
    assert!(!memory.finished || finished(after), "{told}");
    memory.finished |= finished(after);
    assert_eq!(after.meets_dependency(), finished(after), "{told}");
    // What has ended goes on only by a person who takes it up again, from the start.
    if before.is_terminal() && !after.is_terminal() {
        assert!(matches!(event, StageEvent::Moved { .. }), "{told}");
        assert!(matches!(after, Stage::Upcoming | Stage::Backlog), "{told}");
    }
    thaws_to_what_it_was(&told, memory);
    // Retries belong to the column.
    if before.column() != after.column() {
        assert_eq!(after.retries().unwrap_or(0), 0, "{told}");
    }
    // What is checked, approved and merged is the commit whose gates passed, or that a person saw.
    if let StageEvent::GatesPassed { commit, .. }
    | StageEvent::Resolved { commit }
    | StageEvent::Recommitted { commit } = event
    {
        memory.passed = Some(commit.clone());
    }
    if let Some(commit) = after.commit() {
        assert_eq!(Some(commit), memory.passed.as_deref(), "{told}");
    }
}

/// Frozen stays in its column, holds off everything but an end, and thaws to what it was.
fn thaws_to_what_it_was(told: &Told<'_>, memory: &mut Memory) {
    let Told { before, event, after } = told;
    if let (Stage::Frozen { .. }, StageEvent::Unfrozen) = (before, event) {
        let origin = memory.frozen.take().expect("it was frozen");
        assert_eq!(**after, without_claim(&origin), "{told}");
    } else if let Stage::Frozen { .. } = before {
        assert!(after.is_terminal(), "{told}");
    }
    if let Stage::Frozen { .. } = after {
        assert_eq!(before.column(), after.column(), "{told}");
        memory.frozen = Some((*before).clone());
    }
}

#[test]
fn no_history_of_an_item_breaks_a_promise() {
    let config = Config { cases: HISTORIES, failure_persistence: None, ..Config::default() };
    let facts = facts();
    // Which facts were carried out somewhere: a machine that refuses everything keeps promises too.
    let (happened, visited) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
    let places = prop::collection::vec(0..facts.len(), 1..60);
    let outcome = TestRunner::new(config).run(&places, |places| {
        let (mut stage, mut memory) = (Stage::Upcoming, Memory::default());
        for event in places.iter().map(|place| &facts[*place]) {
            match next(&stage, event) {
                Ok(after) => {
                    judge(&stage, event, &after, &mut memory);
                    happened.borrow_mut().insert(event.verb());
                    visited.borrow_mut().insert(after.name());
                    stage = after;
                }
                Err(refused) => {
                    assert_eq!(refused.stage, stage.name());
                    // A merge is a fact of the repository: no open stage refuses it.
                    let merged = matches!(event, StageEvent::Merged { .. });
                    assert!(!merged || stage.is_terminal(), "{stage:?} refuses a merge");
                }
            }
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let (happened, visited) = (happened.into_inner(), visited.into_inner());
    assert_eq!(visited.len(), 15, "stages that no history came to: {visited:?}");
    let all = super::tests::events();
    let never: Vec<&str> =
        all.iter().map(StageEvent::verb).filter(|verb| !happened.contains(verb)).collect();
    assert!(never.is_empty(), "facts that no history carried out: {never:?}");
}

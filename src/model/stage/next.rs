//! What may happen to an item: [`next`] turns a stage and a fact into the next stage.
//!
//! Pure and total: every stage times every fact has a defined answer, which a snapshot holds. One
//! function a group of facts, each an exhaustive match, so that a new stage or fact does not
//! compile until somebody has decided what it means everywhere.

use super::{ArchiveReason, MergeFailureKind, Stage};
use crate::model::ids::{AgentName, ItemId};
use crate::model::item::QaMode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// How many merge failures of one kind in a row end the automatic attempts.
pub const SAME_FAILURES: u32 = 3;

/// Something that happened to an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "snake_case")]
pub enum StageEvent {
    /// It was judged ready to be started.
    Readied,
    /// A person, the coordinator, a timer or a met dependency started it.
    Started,
    /// An agent took it.
    Claimed {
        /// Which.
        agent: AgentName,
    },
    /// Its agent gave it up or was taken off it.
    Unclaimed,
    /// The work was not good enough; a coder goes on with it.
    SentBack {
        /// What the coder must know.
        why: String,
    },
    /// The work is committed and the gates of its worktree passed.
    GatesPassed {
        /// The commit on the item's branch.
        commit: String,
        /// Who decides next.
        qa: QaMode,
    },
    /// The QA agent found it good.
    QaPassed,
    /// The QA agent found faults.
    QaFailed {
        /// Which.
        findings: String,
    },
    /// Its branch got another commit while a person had to decide.
    Recommitted {
        /// The commit that is to be decided on now.
        commit: String,
    },
    /// A person approved it.
    Approved,
    /// The merge queue gave it back.
    MergeFailed {
        /// What failed.
        kind: MergeFailureKind,
        /// The last lines of output.
        output: String,
        /// How often in a row it failed in this way, this time included; the caller counts.
        in_a_row: u32,
    },
    /// It was put into the merge queue again as it is.
    MergeRetried,
    /// Its mergemaster brought the branch into a state that merges, and its gates passed.
    Resolved {
        /// The commit on the item's branch.
        commit: String,
    },
    /// It landed on the base branch.
    Merged {
        /// The commit on the base branch.
        commit: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// Something stopped it that a person or an event must clear.
    Blocked {
        /// What, in words for the room.
        reason: String,
    },
    /// What stopped it was cleared.
    Unblocked,
    /// A person put it on ice.
    Frozen,
    /// A person took it off the ice.
    Unfrozen,
    /// It is complete without a merge of its own: its child items are done, or all that was asked
    /// for is a report.
    Finished {
        /// When.
        at: DateTime<Utc>,
    },
    /// It has been done for as long as done items stay on the board.
    RetentionPassed {
        /// When.
        at: DateTime<Utc>,
    },
    /// A person put it away, finished or not.
    PutAway {
        /// Their words.
        reason: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// A person gave it up.
    Abandoned {
        /// Their words.
        reason: String,
    },
    /// Another item replaced it.
    Superseded {
        /// Which.
        by: ItemId,
    },
    /// A person turned it down.
    Rejected {
        /// Their words.
        reason: String,
    },
    /// A person moved it on the board.
    Moved {
        /// Where.
        to: MoveTo,
    },
}

impl StageEvent {
    /// What happens to the item, to follow "cannot": "be started".
    fn verb(&self) -> &'static str {
        match self {
            StageEvent::Readied => "be made ready",
            StageEvent::Started => "be started",
            StageEvent::Claimed { .. } => "be claimed",
            StageEvent::Unclaimed => "be given up by its agent",
            StageEvent::SentBack { .. } => "be sent back to a coder",
            StageEvent::GatesPassed { .. } => "pass its gates",
            StageEvent::QaPassed => "pass QA",
            StageEvent::QaFailed { .. } => "fail QA",
            StageEvent::Recommitted { .. } => "be decided on anew",
            StageEvent::Approved => "be approved",
            StageEvent::MergeFailed { .. } => "fail to merge",
            StageEvent::MergeRetried => "be merged again",
            StageEvent::Resolved { .. } => "be resolved",
            StageEvent::Merged { .. } => "be merged",
            StageEvent::Blocked { .. } => "be blocked",
            StageEvent::Unblocked => "be unblocked",
            StageEvent::Frozen => "be frozen",
            StageEvent::Unfrozen => "be unfrozen",
            StageEvent::Finished { .. } => "be finished without a merge",
            StageEvent::RetentionPassed { .. } => "be archived as finished",
            StageEvent::PutAway { .. } => "be put away",
            StageEvent::Abandoned { .. } => "be abandoned",
            StageEvent::Superseded { .. } => "be superseded",
            StageEvent::Rejected { .. } => "be rejected",
            StageEvent::Moved { to } => match to {
                MoveTo::Upcoming => "be moved to upcoming",
                MoveTo::Backlog => "be moved to backlog",
                MoveTo::Coding => "be moved to coding",
                MoveTo::Qa => "be moved to qa",
                MoveTo::ReviewHold => "be moved to review_hold",
                MoveTo::Merge => "be moved to merge",
            },
        }
    }
}

/// Where a person may move an item. Done is not among them: only a merge makes an item done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MoveTo {
    /// Noted for later.
    Upcoming,
    /// Ready to be started.
    Backlog,
    /// To a coder.
    Coding,
    /// To a QA agent.
    Qa,
    /// To a person.
    ReviewHold,
    /// Into the merge queue.
    Merge,
}

impl MoveTo {
    /// Every target.
    pub const ALL: [MoveTo; 6] = [
        MoveTo::Upcoming,
        MoveTo::Backlog,
        MoveTo::Coding,
        MoveTo::Qa,
        MoveTo::ReviewHold,
        MoveTo::Merge,
    ];

    /// The stage's name, as typed after `move`.
    pub fn as_str(self) -> &'static str {
        match self {
            MoveTo::Upcoming => "upcoming",
            MoveTo::Backlog => "backlog",
            MoveTo::Coding => "coding",
            MoveTo::Qa => "qa",
            MoveTo::ReviewHold => "review_hold",
            MoveTo::Merge => "merge",
        }
    }

    /// Reads a target as typed; `None` when it is none.
    pub fn parse(text: &str) -> Option<MoveTo> {
        MoveTo::ALL.into_iter().find(|to| to.as_str() == text)
    }
}

/// A fact that is impossible in the stage that stands there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IllegalTransition {
    /// The name of the stage that stands there.
    pub stage: &'static str,
    verb: &'static str,
    standing: String,
    remedy: &'static str,
}

impl IllegalTransition {
    /// The whole sentence, for the item with this number (or "N").
    pub fn in_words(&self, number: &str) -> String {
        let remedy = self.remedy.replace("{n}", number);
        format!("item {number} cannot {}: {}. {remedy}", self.verb, self.standing)
    }
}

impl std::fmt::Display for IllegalTransition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.in_words("N"))
    }
}

impl std::error::Error for IllegalTransition {}

/// Stages before any work.
macro_rules! unstarted {
    () => {
        Stage::Upcoming | Stage::Backlog
    };
}
/// Stages in which an agent, QA, a person or the queue has the item.
macro_rules! running {
    () => {
        Stage::Coding { .. } | Stage::Qa { .. } | Stage::ReviewHold { .. } | Stage::Merge { .. }
    };
}
/// Stages after a failed merge.
macro_rules! unmerged {
    () => {
        Stage::MergeFailure { .. } | Stage::MergeFailureFinal { .. }
    };
}
/// Stages that a person or event must clear.
macro_rules! halted {
    () => {
        Stage::Blocked { .. } | Stage::Frozen { .. }
    };
}
/// Stages that end an item without a merge.
macro_rules! closed {
    () => {
        Stage::Abandoned { .. } | Stage::Superseded { .. } | Stage::Rejected { .. }
    };
}
/// Terminal stages.
macro_rules! ended {
    () => {
        Stage::Done { .. } | Stage::Archived { .. } | closed!()
    };
}

/// Returns the stage that follows `stage` after `event`, or why that cannot happen.
///
/// A merge is a fact of the repository and cannot be refused: [`StageEvent::Merged`] ends an item
/// in every open stage, also one that a person froze or blocked in the meantime.
pub fn next(stage: &Stage, event: &StageEvent) -> Result<Stage, IllegalTransition> {
    let answer = match event {
        StageEvent::Readied => readied(stage),
        StageEvent::Started => started(stage),
        StageEvent::Claimed { agent } => claimed(stage, agent),
        StageEvent::Unclaimed => unclaimed(stage),
        StageEvent::SentBack { why } => sent_back(stage, why),
        StageEvent::GatesPassed { commit, qa } => gates_passed(stage, commit, *qa),
        StageEvent::QaPassed => qa_passed(stage),
        StageEvent::QaFailed { findings } => qa_failed(stage, findings),
        StageEvent::Recommitted { commit } => recommitted(stage, commit),
        StageEvent::Approved => approved(stage),
        StageEvent::MergeFailed { kind, output, in_a_row } => {
            merge_failed(stage, kind, output, *in_a_row)
        }
        StageEvent::MergeRetried => merge_retried(stage),
        StageEvent::Resolved { commit } => resolved(stage, commit),
        StageEvent::Merged { commit, at } => merged(stage, commit, *at),
        StageEvent::Blocked { reason } => blocked(stage, reason),
        StageEvent::Unblocked => unblocked(stage),
        StageEvent::Frozen => frozen(stage),
        StageEvent::Unfrozen => unfrozen(stage),
        StageEvent::Finished { at } => finished(stage, *at),
        StageEvent::RetentionPassed { at } => retention_passed(stage, *at),
        StageEvent::PutAway { reason, at } => put_away(stage, reason, *at),
        StageEvent::Abandoned { reason } => {
            if_open(stage, Stage::Abandoned { reason: reason.clone() })
        }
        StageEvent::Superseded { by } => if_open(stage, Stage::Superseded { by: *by }),
        StageEvent::Rejected { reason } => {
            if_open(stage, Stage::Rejected { reason: reason.clone() })
        }
        StageEvent::Moved { to } => moved(stage, *to),
    };
    answer.ok_or_else(|| IllegalTransition {
        stage: stage.name(),
        verb: event.verb(),
        standing: standing(stage),
        remedy: remedy(stage),
    })
}

/// A stage of coding that waits for an agent.
fn coding(plan: Option<String>, note: Option<String>) -> Stage {
    Stage::Coding { claim: None, plan, retries: 0, note }
}

/// The stage as it is when `by` holds it.
fn with_claim(stage: &Stage, by: Option<AgentName>) -> Stage {
    let mut stage = stage.clone();
    match &mut stage {
        Stage::Coding { claim, .. }
        | Stage::Qa { claim, .. }
        | Stage::Merge { claim, .. }
        | Stage::MergeFailure { claim, .. }
        | Stage::MergeFailureFinal { claim, .. } => *claim = by,
        unstarted!() | halted!() | Stage::ReviewHold { .. } | ended!() => {}
    }
    stage
}

/// The stage as it is when nobody holds it.
fn without_claim(stage: &Stage) -> Stage {
    with_claim(stage, None)
}

/// The stage as it is when a person gives it another chance: unclaimed, with all its retries.
fn afresh(stage: &Stage) -> Stage {
    let mut stage = without_claim(stage);
    match &mut stage {
        Stage::Coding { retries, .. }
        | Stage::MergeFailure { retries, .. }
        | Stage::MergeFailureFinal { retries, .. } => *retries = 0,
        unstarted!()
        | halted!()
        | Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | ended!() => {}
    }
    stage
}

/// As [`afresh`], when a person starts it: a final merge failure may then be worked on.
fn started_afresh(stage: &Stage) -> Stage {
    let mut stage = afresh(stage);
    if let Stage::MergeFailureFinal { started, .. } = &mut stage {
        *started = true;
    }
    stage
}

fn readied(stage: &Stage) -> Option<Stage> {
    match stage {
        Stage::Upcoming => Some(Stage::Backlog),
        Stage::Backlog | running!() | unmerged!() | halted!() | ended!() => None,
    }
}

fn started(stage: &Stage) -> Option<Stage> {
    match stage {
        unstarted!() => Some(coding(None, None)),
        Stage::Blocked { resume_to, .. } => match resume_to.as_ref() {
            // Blocked before it was ever started: starting it is more than unblocking it.
            unstarted!() => Some(coding(None, None)),
            Stage::MergeFailureFinal { .. } => unmerged_started(resume_to),
            running!() | Stage::MergeFailure { .. } | halted!() | ended!() => {
                Some(afresh(resume_to))
            }
        },
        Stage::MergeFailure { claim: None, .. }
        | Stage::MergeFailureFinal { started: false, claim: None, .. } => unmerged_started(stage),
        running!() | unmerged!() | Stage::Frozen { .. } | ended!() => None,
    }
}

/// Where a failed merge goes that a person starts: to who can mend it, or into the queue again.
fn unmerged_started(stage: &Stage) -> Option<Stage> {
    let (Stage::MergeFailure { kind, output, .. } | Stage::MergeFailureFinal { kind, output, .. }) =
        stage
    else {
        return None;
    };
    match kind {
        MergeFailureKind::Conflict { .. }
        | MergeFailureKind::GateFailed { .. }
        | MergeFailureKind::GateTimeout { .. }
        | MergeFailureKind::NoCommits
        | MergeFailureKind::EmptyDiff => Some(match stage {
            Stage::MergeFailureFinal { .. } => started_afresh(stage),
            unstarted!() | running!() | Stage::MergeFailure { .. } | halted!() | ended!() => {
                coding(None, Some(failure_note(kind, output)))
            }
        }),
        // Nobody has anything to mend.
        MergeFailureKind::BaseMoved
        | MergeFailureKind::PushRefused { .. }
        | MergeFailureKind::Infrastructure { .. } => merge_retried(stage),
    }
}

fn claimed(stage: &Stage, agent: &AgentName) -> Option<Stage> {
    match stage {
        Stage::Coding { claim: None, .. }
        | Stage::Qa { claim: None, .. }
        | Stage::Merge { claim: None, .. }
        | Stage::MergeFailure { claim: None, kind: MergeFailureKind::Conflict { .. }, .. }
        | Stage::MergeFailureFinal { claim: None, started: true, .. } => {
            Some(with_claim(stage, Some(agent.clone())))
        }
        unstarted!() | running!() | unmerged!() | halted!() | ended!() => None,
    }
}

fn unclaimed(stage: &Stage) -> Option<Stage> {
    stage.claim().map(|_agent| without_claim(stage))
}

fn sent_back(stage: &Stage, why: &str) -> Option<Stage> {
    let note = Some(why.to_owned());
    match stage.clone() {
        // The same agent goes on, and it counts.
        Stage::Coding { claim, plan, retries, .. } => {
            Some(Stage::Coding { claim, plan, retries: retries + 1, note })
        }
        Stage::MergeFailure { kind, output, commit, in_a_row, claim: Some(agent), retries } => {
            let (claim, retries) = (Some(agent), retries + 1);
            Some(Stage::MergeFailure { kind, output, commit, in_a_row, claim, retries })
        }
        Stage::MergeFailureFinal { kind, output, commit, started, claim: Some(agent), retries } => {
            let (claim, retries) = (Some(agent), retries + 1);
            Some(Stage::MergeFailureFinal { kind, output, commit, started, claim, retries })
        }
        Stage::Qa { .. } | Stage::ReviewHold { .. } | Stage::Merge { .. } | unmerged!() => {
            Some(coding(None, note))
        }
        unstarted!() | halted!() | ended!() => None,
    }
}

fn gates_passed(stage: &Stage, commit: &str, qa: QaMode) -> Option<Stage> {
    let commit = commit.to_owned();
    match stage {
        // Without a claim it is the late result of an agent that was taken off.
        Stage::Coding { claim: Some(_), .. } => Some(match qa {
            QaMode::Gates => Stage::Merge { claim: None, commit },
            QaMode::Agent => Stage::Qa { claim: None, commit },
            QaMode::Human => Stage::ReviewHold {
                reason: "the gates pass; a person approves or rejects".to_owned(),
                commit,
            },
        }),
        unstarted!() | running!() | unmerged!() | halted!() | ended!() => None,
    }
}

fn qa_passed(stage: &Stage) -> Option<Stage> {
    match stage {
        Stage::Qa { commit, .. } => Some(Stage::Merge { claim: None, commit: commit.clone() }),
        unstarted!()
        | Stage::Coding { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | unmerged!()
        | halted!()
        | ended!() => None,
    }
}

fn qa_failed(stage: &Stage, findings: &str) -> Option<Stage> {
    match stage {
        Stage::Qa { .. } => Some(coding(None, Some(findings.to_owned()))),
        unstarted!()
        | Stage::Coding { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | unmerged!()
        | halted!()
        | ended!() => None,
    }
}

fn recommitted(stage: &Stage, commit: &str) -> Option<Stage> {
    match stage {
        Stage::ReviewHold { reason, commit: known } if known != commit => {
            Some(Stage::ReviewHold { reason: reason.clone(), commit: commit.to_owned() })
        }
        unstarted!() | running!() | unmerged!() | halted!() | ended!() => None,
    }
}

fn approved(stage: &Stage) -> Option<Stage> {
    match stage {
        Stage::ReviewHold { commit, .. } => {
            Some(Stage::Merge { claim: None, commit: commit.clone() })
        }
        unstarted!()
        | Stage::Coding { .. }
        | Stage::Qa { .. }
        | Stage::Merge { .. }
        | unmerged!()
        | halted!()
        | ended!() => None,
    }
}

fn merge_failed(
    stage: &Stage,
    kind: &MergeFailureKind,
    output: &str,
    in_a_row: u32,
) -> Option<Stage> {
    let Stage::Merge { commit, .. } = stage else {
        // A late result: the item has left the queue, or is done and shows no failure.
        return None;
    };
    let (kind, output, commit) = (kind.clone(), output.to_owned(), commit.clone());
    Some(match &kind {
        MergeFailureKind::NoCommits => nothing_to_merge("its branch has no commit of its own"),
        MergeFailureKind::EmptyDiff => {
            nothing_to_merge("its commits change nothing against the base branch")
        }
        // Not the item's fault: tried again for as long as it takes.
        MergeFailureKind::Infrastructure { .. } => {
            Stage::MergeFailure { kind, output, commit, in_a_row, claim: None, retries: 0 }
        }
        MergeFailureKind::Conflict { .. }
        | MergeFailureKind::GateFailed { .. }
        | MergeFailureKind::GateTimeout { .. }
        | MergeFailureKind::BaseMoved
        | MergeFailureKind::PushRefused { .. } => {
            let (claim, retries) = (None, 0);
            if in_a_row >= SAME_FAILURES {
                let started = false;
                Stage::MergeFailureFinal { kind, output, commit, started, claim, retries }
            } else {
                Stage::MergeFailure { kind, output, commit, in_a_row, claim, retries }
            }
        }
    })
}

fn nothing_to_merge(what: &str) -> Stage {
    Stage::Blocked {
        reason: format!("there is nothing to merge: {what}"),
        resume_to: Box::new(coding(None, Some(format!("There was nothing to merge: {what}.")))),
    }
}

/// What the coder is told about a failed merge.
fn failure_note(kind: &MergeFailureKind, output: &str) -> String {
    format!("The last merge attempt failed ({}).\n\n{output}", kind.name().replace('_', " "))
}

/// What a coder must know who gets the item from there.
fn left_to_mend(stage: &Stage) -> Option<String> {
    match stage {
        Stage::MergeFailure { kind, output, .. }
        | Stage::MergeFailureFinal { kind, output, .. } => Some(failure_note(kind, output)),
        Stage::Blocked { resume_to, .. } => left_to_mend(resume_to),
        unstarted!() | running!() | Stage::Frozen { .. } | ended!() => None,
    }
}

fn merge_retried(stage: &Stage) -> Option<Stage> {
    match stage {
        Stage::MergeFailure { commit, .. } | Stage::MergeFailureFinal { commit, .. } => {
            Some(Stage::Merge { claim: None, commit: commit.clone() })
        }
        unstarted!() | running!() | halted!() | ended!() => None,
    }
}

fn resolved(stage: &Stage, commit: &str) -> Option<Stage> {
    match stage {
        Stage::MergeFailure { claim: Some(_), .. }
        | Stage::MergeFailureFinal { claim: Some(_), .. } => {
            Some(Stage::Merge { claim: None, commit: commit.to_owned() })
        }
        unstarted!() | running!() | unmerged!() | halted!() | ended!() => None,
    }
}

fn merged(stage: &Stage, commit: &str, at: DateTime<Utc>) -> Option<Stage> {
    if_open(stage, Stage::Done { merged_at: at, commit: commit.to_owned() })
}

fn blocked(stage: &Stage, reason: &str) -> Option<Stage> {
    match stage {
        unstarted!() | running!() | unmerged!() => Some(Stage::Blocked {
            reason: reason.to_owned(),
            resume_to: Box::new(without_claim(stage)),
        }),
        halted!() | ended!() => None,
    }
}

fn unblocked(stage: &Stage) -> Option<Stage> {
    match stage {
        Stage::Blocked { resume_to, .. } => Some(afresh(resume_to)),
        unstarted!() | running!() | unmerged!() | Stage::Frozen { .. } | ended!() => None,
    }
}

fn frozen(stage: &Stage) -> Option<Stage> {
    match stage {
        unstarted!() | running!() | unmerged!() | Stage::Blocked { .. } => {
            Some(Stage::Frozen { resume_to: Box::new(without_claim(stage)) })
        }
        Stage::Frozen { .. } | ended!() => None,
    }
}

fn unfrozen(stage: &Stage) -> Option<Stage> {
    match stage {
        Stage::Frozen { resume_to } => Some(resume_to.as_ref().clone()),
        unstarted!() | running!() | unmerged!() | Stage::Blocked { .. } | ended!() => None,
    }
}

/// What has a commit on the way to the base branch is finished by its merge, and by nothing else.
fn finished(stage: &Stage, at: DateTime<Utc>) -> Option<Stage> {
    match stage {
        unstarted!() | Stage::Coding { .. } => {
            Some(Stage::Archived { reason: ArchiveReason::Finished, at })
        }
        Stage::Qa { .. }
        | Stage::ReviewHold { .. }
        | Stage::Merge { .. }
        | unmerged!()
        | halted!()
        | ended!() => None,
    }
}

fn retention_passed(stage: &Stage, at: DateTime<Utc>) -> Option<Stage> {
    match stage {
        Stage::Done { .. } => Some(Stage::Archived { reason: ArchiveReason::Finished, at }),
        unstarted!()
        | running!()
        | unmerged!()
        | halted!()
        | Stage::Archived { .. }
        | closed!() => None,
    }
}

fn put_away(stage: &Stage, reason: &str, at: DateTime<Utc>) -> Option<Stage> {
    let unfinished = |blocked| {
        let reason = ArchiveReason::Abandoned { reason: reason.to_owned(), blocked };
        Some(Stage::Archived { reason, at })
    };
    match stage {
        Stage::Done { .. } => Some(Stage::Archived { reason: ArchiveReason::Finished, at }),
        Stage::Blocked { .. } => unfinished(true),
        Stage::Frozen { resume_to } => {
            unfinished(matches!(resume_to.as_ref(), Stage::Blocked { .. }))
        }
        unstarted!() | running!() | unmerged!() | closed!() => unfinished(false),
        Stage::Archived { .. } => None,
    }
}

/// `then`, unless the item has ended.
fn if_open(stage: &Stage, then: Stage) -> Option<Stage> {
    match stage {
        unstarted!() | running!() | unmerged!() | halted!() => Some(then),
        ended!() => None,
    }
}

fn moved(stage: &Stage, to: MoveTo) -> Option<Stage> {
    match stage {
        unstarted!() | running!() | unmerged!() | Stage::Blocked { .. } => {
            if stage.name() == to.as_str() {
                return None;
            }
            let commit = stage.commit().map(str::to_owned);
            match to {
                MoveTo::Upcoming => Some(Stage::Upcoming),
                MoveTo::Backlog => Some(Stage::Backlog),
                MoveTo::Coding => Some(coding(None, left_to_mend(stage))),
                MoveTo::Qa => Some(Stage::Qa { claim: None, commit: commit? }),
                MoveTo::ReviewHold => Some(Stage::ReviewHold {
                    reason: "a person asked for a review".to_owned(),
                    commit: commit?,
                }),
                MoveTo::Merge => Some(Stage::Merge { claim: None, commit: commit? }),
            }
        }
        // Taken up again: from the start.
        Stage::Archived { reason: ArchiveReason::Abandoned { .. }, .. } | closed!() => match to {
            MoveTo::Upcoming => Some(Stage::Upcoming),
            MoveTo::Backlog => Some(Stage::Backlog),
            MoveTo::Coding | MoveTo::Qa | MoveTo::ReviewHold | MoveTo::Merge => None,
        },
        Stage::Frozen { .. }
        | Stage::Done { .. }
        | Stage::Archived { reason: ArchiveReason::Finished, .. } => None,
    }
}

/// What stands there, as a clause.
fn standing(stage: &Stage) -> String {
    let held = |claim: &Option<AgentName>, with: &str, without: &str| match claim {
        Some(agent) => format!("{agent} {with}"),
        None => without.to_owned(),
    };
    match stage {
        Stage::Upcoming => "it is only noted for later".to_owned(),
        Stage::Backlog => "it is in the backlog and not started".to_owned(),
        Stage::Coding { claim, .. } => held(claim, "is coding on it", "it waits for a free coder"),
        Stage::Blocked { reason, .. } => format!("it is blocked: {reason}"),
        Stage::Qa { claim, .. } => held(claim, "is checking it", "it waits for a free QA agent"),
        Stage::ReviewHold { .. } => "it waits for a person's approval".to_owned(),
        Stage::Merge { .. } => "it is in the merge queue".to_owned(),
        Stage::MergeFailure { kind, claim, .. } => {
            let failed = format!("its merge failed ({})", kind.name());
            held(claim, "resolves its failed merge", &failed)
        }
        Stage::MergeFailureFinal { kind, claim, started, .. } => {
            let failed = format!("its merge failed for good ({})", kind.name());
            let waits = if *started { ", and it waits for a free mergemaster" } else { "" };
            held(claim, "resolves its failed merge", &format!("{failed}{waits}"))
        }
        Stage::Done { .. } => "it is done and merged".to_owned(),
        Stage::Archived { reason: ArchiveReason::Finished, .. } => {
            "it is finished and archived".to_owned()
        }
        Stage::Archived { reason: ArchiveReason::Abandoned { .. }, .. } => {
            "it was archived unfinished".to_owned()
        }
        Stage::Frozen { .. } => "it is frozen".to_owned(),
        Stage::Abandoned { .. } => "it was abandoned".to_owned(),
        Stage::Superseded { by } => format!("it was superseded by item {by}"),
        Stage::Rejected { .. } => "it was rejected".to_owned(),
    }
}

/// What can be done from there. `{n}` is the item's number.
fn remedy(stage: &Stage) -> &'static str {
    match stage {
        Stage::Upcoming | Stage::Backlog => "`start {n}` starts it.",
        Stage::Coding { claim: Some(_), .. }
        | Stage::Qa { claim: Some(_), .. }
        | Stage::MergeFailure { claim: Some(_), .. }
        | Stage::MergeFailureFinal { claim: Some(_), .. } => "`stop {n}` stops it.",
        Stage::Coding { claim: None, .. }
        | Stage::Qa { claim: None, .. }
        | Stage::MergeFailureFinal { claim: None, started: true, .. } => {
            "`why {n}` says what it waits for."
        }
        Stage::Blocked { .. } => "`start {n}` tries again when the cause is gone.",
        Stage::ReviewHold { .. } => "`approve {n}` merges it, `reject {n} why` turns it down.",
        Stage::Merge { .. } => "`why {n}` says where it is in the queue.",
        Stage::MergeFailure { claim: None, .. }
        | Stage::MergeFailureFinal { claim: None, started: false, .. } => {
            "`start {n}` lets it go on, `move {n} coding` gives it to a coder, `move {n} merge` \
             tries the merge again."
        }
        Stage::Done { .. } | Stage::Archived { reason: ArchiveReason::Finished, .. } => {
            "File a new item for what is left to do."
        }
        Stage::Frozen { .. } => "`unfreeze {n}` takes it off the ice.",
        Stage::Archived { reason: ArchiveReason::Abandoned { .. }, .. } | closed!() => {
            "`move {n} backlog` takes it up again."
        }
    }
}

#[cfg(test)]
mod sequences;
#[cfg(test)]
mod tests;

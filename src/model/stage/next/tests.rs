use super::*;
use crate::model::stage::{Badge, Column};
use chrono::TimeZone;
use std::fmt::Write;

fn at() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 5, 1, 12, 0, 0).unwrap()
}

fn ada() -> Option<AgentName> {
    Some("ada".into())
}

fn gate() -> MergeFailureKind {
    MergeFailureKind::GateFailed { gate: "cargo test".to_owned(), exit: Some(101) }
}

fn failed(in_a_row: u32) -> Stage {
    Stage::MergeFailure {
        kind: gate(),
        output: "1 failed".to_owned(),
        commit: "c0ffee".to_owned(),
        in_a_row,
        claim: None,
        retries: 0,
    }
}

fn conflict(claim: Option<AgentName>) -> Stage {
    Stage::MergeFailure {
        kind: MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] },
        output: "both changed it".to_owned(),
        commit: "c0ffee".to_owned(),
        in_a_row: 2,
        retries: u32::from(claim.is_some()),
        claim,
    }
}

fn failed_for_good(started: bool, claim: Option<AgentName>) -> Stage {
    Stage::MergeFailureFinal {
        kind: gate(),
        output: "1 failed".to_owned(),
        commit: "c0ffee".to_owned(),
        started,
        claim,
        retries: 0,
    }
}

fn coding_with(claim: Option<AgentName>, retries: u32) -> Stage {
    Stage::Coding { claim, plan: None, retries, note: None }
}

/// Every stage, with and without a claim, and the nested ones around different stages.
fn stages() -> Vec<(&'static str, Stage)> {
    let merge = |claim| Stage::Merge { claim, commit: "c0ffee".to_owned() };
    let blocked =
        |resume_to| Stage::Blocked { reason: "no disk".to_owned(), resume_to: Box::new(resume_to) };
    let frozen = |resume_to| Stage::Frozen { resume_to: Box::new(resume_to) };
    let put_away = |blocked| ArchiveReason::Abandoned { reason: "not now".to_owned(), blocked };
    vec![
        ("upcoming", Stage::Upcoming),
        ("backlog", Stage::Backlog),
        ("coding", coding_with(None, 0)),
        ("coding/ada", coding_with(ada(), 2)),
        ("blocked(coding)", blocked(coding_with(None, 2))),
        ("blocked(backlog)", blocked(Stage::Backlog)),
        ("blocked(merge)", blocked(merge(None))),
        ("qa", Stage::Qa { claim: None, commit: "c0ffee".to_owned() }),
        ("qa/ada", Stage::Qa { claim: ada(), commit: "c0ffee".to_owned() }),
        (
            "review_hold",
            Stage::ReviewHold { reason: "look".to_owned(), commit: "c0ffee".to_owned() },
        ),
        ("merge", merge(None)),
        ("merge/ada", merge(ada())),
        ("merge_failure", failed(1)),
        ("merge_failure(conflict)", conflict(None)),
        ("merge_failure(conflict)/ada", conflict(ada())),
        ("merge_failure_final", failed_for_good(false, None)),
        ("merge_failure_final(started)", failed_for_good(true, None)),
        ("merge_failure_final(started)/ada", failed_for_good(true, ada())),
        (
            "merge_failure_final(push_refused)",
            Stage::MergeFailureFinal {
                kind: MergeFailureKind::PushRefused { reason: "protected".to_owned() },
                output: "no".to_owned(),
                commit: "c0ffee".to_owned(),
                started: false,
                claim: None,
                retries: 0,
            },
        ),
        ("blocked(merge_failure_final)", blocked(failed_for_good(false, None))),
        ("done", Stage::Done { merged_at: at(), commit: "f00d".to_owned() }),
        ("archived(finished)", Stage::Archived { reason: ArchiveReason::Finished, at: at() }),
        ("archived(abandoned)", Stage::Archived { reason: put_away(false), at: at() }),
        ("archived(blocked)", Stage::Archived { reason: put_away(true), at: at() }),
        ("frozen(backlog)", frozen(Stage::Backlog)),
        ("frozen(merge)", frozen(merge(None))),
        ("frozen(blocked)", frozen(blocked(coding_with(None, 1)))),
        ("abandoned", Stage::Abandoned { reason: "no".to_owned() }),
        ("superseded", Stage::Superseded { by: ItemId(9) }),
        ("rejected", Stage::Rejected { reason: "ugly".to_owned() }),
    ]
}

/// Every fact, with each payload that decides something.
pub(super) fn events() -> Vec<StageEvent> {
    let passed = |qa| StageEvent::GatesPassed { commit: "beef".to_owned(), qa };
    let merge_failed =
        |kind, in_a_row| StageEvent::MergeFailed { kind, output: "tail".to_owned(), in_a_row };
    let mut all = vec![
        StageEvent::Readied,
        StageEvent::Started,
        StageEvent::Claimed { agent: "bob".into() },
        StageEvent::Unclaimed,
        StageEvent::SentBack { why: "red".to_owned() },
        passed(QaMode::Gates),
        passed(QaMode::Agent),
        passed(QaMode::Human),
        StageEvent::QaPassed,
        StageEvent::QaFailed { findings: "typo".to_owned() },
        StageEvent::Recommitted { commit: "beef".to_owned() },
        StageEvent::Approved,
        merge_failed(MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] }, 1),
        merge_failed(gate(), 2),
        merge_failed(gate(), 3),
        merge_failed(MergeFailureKind::GateTimeout { gate: "make".to_owned() }, 3),
        merge_failed(MergeFailureKind::NoCommits, 1),
        merge_failed(MergeFailureKind::EmptyDiff, 1),
        merge_failed(MergeFailureKind::BaseMoved, 1),
        merge_failed(MergeFailureKind::PushRefused { reason: "protected".to_owned() }, 1),
        merge_failed(MergeFailureKind::PushRefused { reason: "protected".to_owned() }, 3),
        merge_failed(MergeFailureKind::Infrastructure { what: "disk".to_owned() }, 9),
        StageEvent::MergeRetried,
        StageEvent::Resolved { commit: "beef".to_owned() },
        StageEvent::Merged { commit: "f00d".to_owned(), at: at() },
        StageEvent::Blocked { reason: "why".to_owned() },
        StageEvent::Unblocked,
        StageEvent::Frozen,
        StageEvent::Unfrozen,
        StageEvent::Finished { at: at() },
        StageEvent::RetentionPassed { at: at() },
        StageEvent::PutAway { reason: "later".to_owned(), at: at() },
        StageEvent::Abandoned { reason: "no".to_owned() },
        StageEvent::Superseded { by: ItemId(7) },
        StageEvent::Rejected { reason: "no".to_owned() },
    ];
    all.extend(MoveTo::ALL.map(|to| StageEvent::Moved { to }));
    all
}

fn short(value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap();
    text.replace('"', "").replace("2026-05-01T12:00:00Z", "noon")
}

#[test]
fn every_stage_has_an_answer_to_every_fact() {
    let mut table = String::new();
    for (name, stage) in stages() {
        writeln!(table, "{name}").unwrap();
        for event in events() {
            let answer = match next(&stage, &event) {
                Ok(to) => short(&to),
                Err(_) => "-".to_owned(),
            };
            writeln!(table, "  {} => {answer}", short(&event)).unwrap();
        }
    }
    insta::assert_snapshot!("every_stage_times_every_fact", table);
}

#[test]
fn an_impossible_fact_says_what_stands_there_and_what_to_do() {
    let mut table = String::new();
    for (name, stage) in stages() {
        let refused = events().into_iter().find_map(|event| next(&stage, &event).err()).unwrap();
        assert_eq!(refused.stage, stage.name());
        writeln!(table, "{name}: {}", refused.in_words("12")).unwrap();
    }
    insta::assert_snapshot!("refusals", table);
}

#[test]
fn every_stage_stands_in_one_column_with_one_badge() {
    let mut table = String::new();
    for (name, stage) in stages() {
        writeln!(
            table,
            "{name}: {} {}{} wants {:?}",
            stage.column().as_str(),
            stage.badge().as_str(),
            if stage.is_terminal() { " ended" } else { "" },
            stage.wants_role(),
        )
        .unwrap();
    }
    insta::assert_snapshot!("projections", table);
}

#[test]
fn whatever_is_frozen_thaws_to_what_it_was_and_stays_in_its_column() {
    for (name, stage) in stages() {
        let Ok(frozen) = next(&stage, &StageEvent::Frozen) else { continue };
        assert_eq!(frozen.column(), stage.column(), "{name}");
        assert_eq!(frozen.badge(), Badge::Frozen, "{name}");
        let thawed = next(&frozen, &StageEvent::Unfrozen).unwrap();
        assert_eq!(thawed, without_claim(&stage), "{name}");
    }
}

#[test]
fn the_third_failure_of_one_kind_is_final_but_the_machines_own_failures_never_are() {
    let merge = Stage::Merge { claim: None, commit: "c0ffee".to_owned() };
    let after = |kind: MergeFailureKind, in_a_row| {
        let event = StageEvent::MergeFailed { kind, output: String::new(), in_a_row };
        next(&merge, &event).unwrap().badge()
    };
    let broken = MergeFailureKind::Infrastructure { what: "no disk".to_owned() };
    assert_eq!(after(gate(), 2), Badge::MergeFailure);
    assert_eq!(after(gate(), 3), Badge::MergeFailureFinal);
    assert_eq!(after(broken, 30), Badge::MergeFailure);
}

#[test]
fn what_is_done_never_shows_a_merge_failure() {
    let done = Stage::Done { merged_at: at(), commit: "f00d".to_owned() };
    for event in events() {
        if let Ok(stage) = next(&done, &event) {
            assert_eq!(stage.column(), Column::Archived, "{event:?}");
            assert_eq!(stage.badge(), Badge::Active, "{event:?}");
        }
    }
}

#[test]
fn retries_are_counted_in_the_column_and_start_anew_outside_it() {
    let back = StageEvent::SentBack { why: "red".to_owned() };
    let twice = next(&next(&coding_with(ada(), 0), &back).unwrap(), &back).unwrap();
    assert!(matches!(twice, Stage::Coding { retries: 2, claim: Some(_), .. }));
    let passed = StageEvent::GatesPassed { commit: "beef".to_owned(), qa: QaMode::Agent };
    let qa = next(&twice, &passed).unwrap();
    let findings = StageEvent::QaFailed { findings: "typo".to_owned() };
    assert!(matches!(next(&qa, &findings).unwrap(), Stage::Coding { retries: 0, .. }));
    let blocked = next(&twice, &StageEvent::Blocked { reason: "red".to_owned() }).unwrap();
    assert!(matches!(
        next(&blocked, &StageEvent::Unblocked).unwrap(),
        Stage::Coding { retries: 0, claim: None, .. }
    ));
}

#[test]
fn a_final_failure_wants_a_mergemaster_only_when_a_person_starts_it() {
    let failed = failed_for_good(false, None);
    assert_eq!(failed.wants_role(), None);
    let started = next(&failed, &StageEvent::Started).unwrap();
    assert_eq!(started.wants_role(), Some(crate::model::agent::Role::Mergemaster));
    let claimed = next(&started, &StageEvent::Claimed { agent: "ada".into() }).unwrap();
    let resolved = next(&claimed, &StageEvent::Resolved { commit: "beef".to_owned() }).unwrap();
    assert_eq!(resolved, Stage::Merge { claim: None, commit: "beef".to_owned() });
    assert!(next(&failed, &StageEvent::Claimed { agent: "ada".into() }).is_err());
}

#[test]
fn a_merge_failure_stored_without_a_claim_is_read_as_unclaimed() {
    for stage in [conflict(None), failed_for_good(false, None)] {
        let mut json = serde_json::to_value(&stage).unwrap();
        for field in ["claim", "retries", "started"] {
            json.as_object_mut().unwrap().remove(field);
        }
        let read: Stage = serde_json::from_value(json).unwrap();
        assert_eq!(read, stage);
    }
}

#[test]
fn only_done_and_archived_as_finished_meet_a_dependency() {
    let meets: Vec<_> = stages()
        .into_iter()
        .filter(|(_, stage)| stage.meets_dependency())
        .map(|(name, _)| name)
        .collect();
    assert_eq!(meets, ["done", "archived(finished)"]);
}

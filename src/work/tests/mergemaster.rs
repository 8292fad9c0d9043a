//! What follows a failed merge: a mergemaster, a coder, the same coder, or a person.

use super::*;
use crate::model::agent::Role;
use crate::work::settle::MAX_ROUNDS;

const MERGER: &str =
    "[[agents]]\nname = \"merger-1\"\nrole = \"mergemaster\"\nruntime = \"replay\"\n";

fn conflict() -> MergeFailureKind {
    MergeFailureKind::Conflict { files: vec!["a.rs".to_owned()] }
}

fn red() -> MergeFailureKind {
    MergeFailureKind::GateFailed { gate: "make test".to_owned(), exit: Some(1) }
}

/// An item that stands in the merge queue.
async fn in_queue(bench: &Bench) -> ItemId {
    let id = bench.file(|_| {});
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    assert!(bench.queued(id));
    id
}

/// An item whose merge failed with a conflict, with a mergemaster at work on it.
async fn in_conflict(bench: &Bench) -> ItemId {
    let id = in_queue(bench).await;
    bench.merge_fails(id, conflict());
    bench.settle().await;
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "merger-1");
    id
}

#[tokio::test]
async fn a_conflict_is_resolved_by_a_mergemaster_and_merged() {
    let bench = Bench::with(MERGER);
    let id = in_conflict(&bench).await;
    assert_eq!(bench.item(id).stage.name(), "merge_failure");
    insta::assert_snapshot!(bench.prompt(id));
    bench.worktree(id, Some("c0ffee22"), &[]);
    bench.end_turn(id, Some(MailType::Merged), TurnEnd::Clean);
    bench.settle().await;
    assert_eq!(bench.item(id).stage.commit(), Some("c0ffee22"));
    assert!(bench.queued(id));
    insta::assert_snapshot!("heard_of_a_conflict", bench.heard().join("\n"));
}

#[tokio::test]
async fn a_mergemaster_mends_its_own_failing_gates_and_commits_what_it_left() {
    let bench = Bench::with(&format!("{MERGER}[limits]\nmax_retries = 1\n"));
    let id = in_conflict(&bench).await;
    bench.worktree(id, Some("c0ffee11"), &["a.rs"]);
    bench.end_turn(id, Some(MailType::Merged), TurnEnd::Clean);
    bench.settle().await;
    assert!(bench.prompt(id).starts_with("These changes are not committed: a.rs"));
    bench.worktree(id, Some("c0ffee22"), &[]);
    bench.gates_fail(id, 1);
    bench.end_turn(id, Some(MailType::Merged), TurnEnd::Clean);
    bench.settle().await;
    assert!(bench.prompt(id).contains("expected 4, got 5"));
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "merger-1");
    assert_eq!(bench.item(id).retries, 1);
    bench.end_turn(id, Some(MailType::Merged), TurnEnd::Clean);
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "blocked");
}

#[tokio::test]
async fn what_a_mergemaster_cannot_resolve_waits_for_a_person_and_goes_on_when_one_says_so() {
    let bench = Bench::with(MERGER);
    let id = in_conflict(&bench).await;
    bench.end_turn(id, Some(MailType::MergeFailed), TurnEnd::Clean);
    bench.settle().await;
    insta::assert_snapshot!(bench.heard().last().unwrap(), @"text: **#1 Add a calculator** is blocked: merger-1 could not resolve the failed merge: looked at it. `start 1` tries again.");
    bench.start(id);
    bench.settle().await;
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "merger-1");
}

#[tokio::test]
async fn a_final_failure_is_for_a_mergemaster_when_a_person_starts_it() {
    let bench = Bench::with(MERGER);
    let id = in_conflict(&bench).await;
    for _ in 0..2 {
        bench.end_turn(id, Some(MailType::Merged), TurnEnd::Clean);
        bench.settle().await;
        bench.merge_fails(id, conflict());
        bench.settle().await;
    }
    assert_eq!(bench.item(id).stage.name(), "merge_failure_final");
    assert!(bench.live(id).is_none(), "only a person goes on");
    bench.start(id);
    bench.settle().await;
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "merger-1");
    assert_eq!(bench.item(id).stage.name(), "merge_failure_final");
    bench.end_turn(id, Some(MailType::Merged), TurnEnd::Clean);
    bench.settle().await;
    assert!(bench.queued(id));
    // Whoever started it began the count anew.
    bench.merge_fails(id, conflict());
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "merge_failure");
}

#[tokio::test]
async fn without_a_mergemaster_a_coder_resolves_also_a_final_failure() {
    let bench = Bench::new();
    let id = in_queue(&bench).await;
    bench.merge_fails(id, conflict());
    bench.settle().await;
    assert_eq!(bench.item(id).stage.name(), "coding");
    assert!(bench.prompt(id).contains("resolve the conflicts"), "{}", bench.prompt(id));
    for _ in 0..2 {
        bench.report_done(id);
        bench.settle().await;
        bench.merge_fails(id, conflict());
        bench.settle().await;
    }
    assert_eq!(bench.item(id).stage.name(), "merge_failure_final");
    bench.start(id);
    bench.settle().await;
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "coder-1");
}

#[tokio::test]
async fn a_mergemaster_that_dies_is_started_once_more_and_then_the_item_is_blocked() {
    let mut bench = Bench::with(MERGER);
    let id = in_conflict(&bench).await;
    for _ in 0..2 {
        bench.end_turn(id, None, TurnEnd::Stalled);
        bench.wait_ms(3_000);
        bench.settle().await;
    }
    assert_eq!(bench.item(id).stage.name(), "blocked");
    bench.start(id);
    bench.settle().await;
    assert_eq!(bench.live(id).unwrap().agent.as_str(), "merger-1");
}

#[tokio::test]
async fn an_item_blocked_after_too_many_rounds_is_not_forgotten_when_a_person_goes_on() {
    for goes_on in [StageEvent::Unblocked, StageEvent::Started] {
        let bench = Bench::new();
        let id = in_queue(&bench).await;
        // Kinds take turns, so that no three in a row make it final.
        for round in 0..MAX_ROUNDS {
            bench.merge_fails(id, if round % 2 == 0 { red() } else { conflict() });
            bench.settle().await;
            assert_eq!(bench.item(id).stage.name(), "coding");
            bench.worktree(id, Some(&format!("c0ffee2{round}")), &[]);
            bench.report_done(id);
            bench.settle().await;
        }
        bench.merge_fails(id, red());
        bench.settle().await;
        assert_eq!(bench.item(id).stage.name(), "blocked");
        if goes_on == StageEvent::Started {
            bench.start(id);
        } else {
            let event = goes_on.clone();
            bench.write(move |tx| apply(tx, id, &event, &person(), "again")).unwrap();
        }
        bench.settle().await;
        assert!(bench.prompt(id).contains("git merge main"), "{}", bench.prompt(id));
    }
}

#[tokio::test]
async fn a_failed_merge_waits_for_the_coder_that_made_it_and_resumes_its_session() {
    let bench = Bench::new();
    let first = in_queue(&bench).await;
    let second = bench.file(|_| {});
    bench.worktree(second, Some("c0ffee33"), &[]);
    bench.start(second);
    bench.settle().await;
    assert_eq!(bench.live(second).unwrap().agent.as_str(), "coder-1");
    bench.merge_fails(first, red());
    bench.settle().await;
    assert!(bench.live(first).is_none(), "coder-2 is free, but does not know the work");
    let why = bench.read(|conn| explain(conn, first));
    insta::assert_snapshot!(why.lines().next().unwrap(), @"**#1 Add a calculator**: waits for coder-1, which worked on it before: coder-1 is on 2 since 20:26; another may take it from 20:36.");
    bench.report_done(second);
    bench.settle().await;
    let session = bench.live(first).unwrap();
    assert_eq!(session.agent.as_str(), "coder-1");
    assert_eq!(session.native_id.as_deref(), Some("native-1"));
}

#[tokio::test]
async fn who_made_the_work_is_not_waited_for_for_ever() {
    let mut bench = Bench::new();
    let first = in_queue(&bench).await;
    let second = bench.file(|_| {});
    bench.start(second);
    bench.settle().await;
    bench.merge_fails(first, red());
    bench.settle().await;
    bench.wait_ms(599_000);
    bench.settle().await;
    assert!(bench.live(first).is_none());
    bench.wait_ms(1_000);
    bench.settle().await;
    assert_eq!(bench.live(first).unwrap().agent.as_str(), "coder-2");
}

#[test]
fn the_pinned_agent_decides_what_is_done_with_an_item_that_is_coded() {
    let more = "[[agents]]\nname = \"lead-1\"\nrole = \"lead\"\nruntime = \"replay\"\n";
    let config: Config = toml::from_str(&format!("{CONFIG}{more}{MERGER}")).unwrap();
    let bench = Bench::new();
    let role_of = |agent: Option<&str>, stage: Stage| {
        let id = bench.file(|new| new.agent = agent.map(Into::into));
        role_for(&config, &Item { stage, ..bench.item(id) })
    };
    let coding = || Stage::Coding { claim: None, plan: None, retries: 0, note: None };
    let qa = || Stage::Qa { claim: None, commit: "c".to_owned() };
    assert_eq!(role_of(None, coding()), Some(Role::Coder));
    assert_eq!(role_of(Some("lead-1"), coding()), Some(Role::Lead));
    assert_eq!(role_of(Some("qa-1"), coding()), Some(Role::Coder));
    assert_eq!(role_of(Some("lead-1"), qa()), Some(Role::Qa));
    assert_eq!(role_of(None, Stage::Merge { claim: None, commit: "c".to_owned() }), None);
    assert_eq!(role_of(None, Stage::Backlog), None);
}

//! What no retry mends: one message, nothing burnt, and on by itself when the cause is gone.

use super::*;
use crate::model::agent::Failure;

fn missing_gate() -> Trouble {
    Trouble {
        words: "the gate `make test` cannot run: `make` is not installed".to_owned(),
        pauses: Some(Scope::Project("demo".into())),
    }
}

fn failed(failure: Failure) -> TurnEnd {
    TurnEnd::Failed { failure, message: "not logged in".to_owned() }
}

/// What the room heard that is no progress.
fn told(bench: &Bench) -> Vec<String> {
    bench.heard().into_iter().filter(|line| line.starts_with("text: ")).collect()
}

#[tokio::test]
async fn a_gate_that_is_not_there_pauses_the_project_with_one_message_until_it_is() {
    let mut bench = Bench::new();
    let ids = [bench.file(|_| {}), bench.file(|_| {}), bench.file(|_| {})];
    for id in ids {
        bench.worktree(id, Some("c0ffee11"), &[]);
        bench.troubled(id, Some(missing_gate()));
        bench.start(id);
    }
    bench.settle().await;
    bench.report_done(ids[0]);
    bench.settle().await;
    bench.report_done(ids[1]);
    bench.settle().await;
    assert!(bench.pass().await.due.is_empty(), "nothing is looked at while it cannot be");
    assert!(bench.live(ids[2]).is_none(), "and nobody starts what could not be finished");
    assert!(bench.read(|conn| explain(conn, ids[2])).contains("`make` is not installed"));
    assert_eq!(bench.item(ids[0]).retries, 0);
    *bench.world.still.lock().unwrap() = Some("`make` is not installed".to_owned());
    bench.wait_ms(30_000);
    bench.look_at_pauses().await;
    assert!(bench.pass().await.due.is_empty());
    *bench.world.still.lock().unwrap() = None;
    bench.wait_ms(60_000);
    bench.look_at_pauses().await;
    for id in ids {
        bench.troubled(id, None);
    }
    bench.settle().await;
    assert!(bench.queued(ids[0]) && bench.queued(ids[1]));
    assert!(bench.live(ids[2]).is_some());
    insta::assert_snapshot!(told(&bench).join("\n"), @"
    text: Agents in project demo are paused: the gate `make test` cannot run: `make` is not installed. It is tried again by itself, more and more rarely; `resume all` tries it at once.
    text: Agents in project demo go on: what kept them is over.
    ");
}

#[tokio::test]
async fn what_fails_again_on_trial_is_not_told_again() {
    let mut bench = Bench::new();
    let id = bench.file(|_| {});
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.troubled(id, Some(missing_gate()));
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    bench.settle().await;
    for _ in 0..5 {
        bench.wait_ms(900_000);
        bench.look_at_pauses().await;
        bench.settle().await;
        assert!(bench.pass().await.due.is_empty(), "paused anew");
    }
    assert_eq!(told(&bench).len(), 1, "{:?}", told(&bench));
    assert_eq!(bench.item(id).stage.name(), "coding");
}

#[tokio::test]
async fn trouble_that_may_go_away_is_told_once_and_tried_again() {
    let mut bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    bench.report_done(id);
    for _ in 0..3 {
        for due in bench.pass().await.due {
            assert!(bench.service.check(due, &CancellationToken::new()).await);
        }
        bench.wait_ms(60_000);
    }
    bench.pass().await;
    insta::assert_snapshot!(told(&bench).join("\n"), @"text: **#1 Add a calculator** has to wait, through no fault of its own: its work could not be checked: git does not answer. It is tried again by itself.");
    assert_eq!(bench.decided(id, What::PutOff).len(), 1);
    bench.worktree(id, Some("c0ffee11"), &[]);
    bench.settle().await;
    assert!(bench.queued(id));
}

#[tokio::test]
async fn starts_that_came_to_nothing_for_want_of_a_login_or_a_disk_are_not_counted() {
    for failure in [Failure::Auth, Failure::Unusable, Failure::Project, Failure::Machine] {
        let bench = Bench::new();
        let id = bench.file(|_| {});
        bench.start(id);
        for _ in 0..5 {
            bench.settle().await;
            bench.end_turn(id, None, failed(failure));
        }
        bench.settle().await;
        assert_eq!(bench.item(id).stage.name(), "coding", "{failure:?}");
        let counters = bench.read(|conn| counters::Counters::of(conn, id));
        assert_eq!(counters.starts, 1, "{failure:?}");
    }
}

#[tokio::test]
async fn only_agents_with_the_command_that_is_missing_stand_still() {
    let other = "[[agents]]\nname = \"coder-3\"\nrole = \"coder\"\nruntime = \"replay\"\ncommand = \"/opt/other\"\n";
    let bench = Bench::with(other);
    bench
        .write(|tx| {
            let scope = Scope::Runtime(crate::config::RuntimeKind::Replay, None);
            Ok(crate::store::pauses::begin(tx, &scope, "it is not installed")?)
        })
        .unwrap();
    let ids = [bench.file(|_| {}), bench.file(|_| {})];
    for id in ids {
        bench.start(id);
    }
    bench.settle().await;
    assert_eq!(bench.live(ids[0]).unwrap().agent.as_str(), "coder-3");
    assert!(bench.live(ids[1]).is_none());
    let why = bench.read(|conn| explain(conn, ids[1]));
    assert!(why.contains("coder-1 is paused (it is not installed)"), "{why}");
}

#[tokio::test]
async fn with_a_full_disk_nobody_starts_and_one_message_says_so() {
    let bench = Bench::new();
    let ids = [bench.file(|_| {}), bench.file(|_| {})];
    let full = Trouble { words: "no space left".to_owned(), pauses: Some(Scope::Machine) };
    bench.worktree(ids[0], Some("c0ffee11"), &[]);
    bench.troubled(ids[0], Some(full));
    bench.start(ids[0]);
    bench.settle().await;
    bench.report_done(ids[0]);
    bench.settle().await;
    bench.start(ids[1]);
    bench.settle().await;
    assert!(bench.live(ids[1]).is_none());
    assert_eq!(told(&bench).len(), 1, "{:?}", told(&bench));
}

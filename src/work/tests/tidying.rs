//! Worktrees of items that have ended.

use super::*;

/// An item that was given up.
fn given_up(bench: &Bench) -> ItemId {
    let id = bench.file(|_| {});
    bench
        .write(move |tx| {
            let event = StageEvent::Abandoned { reason: "no".to_owned() };
            apply(tx, id, &event, &person(), "no")
        })
        .unwrap();
    id
}

async fn tidy(bench: &Bench) {
    while keeper::step(&bench.store, bench.world.as_ref()).await.unwrap() {}
}

#[tokio::test]
async fn a_worktree_that_cannot_be_removed_is_tried_again_told_once_and_holds_up_nobody() {
    let mut bench = Bench::new();
    *bench.world.stuck.lock().unwrap() = Some("a nested repository is in the way".to_owned());
    let first = given_up(&bench);
    tidy(&bench).await;
    tidy(&bench).await;
    *bench.world.stuck.lock().unwrap() = None;
    let second = given_up(&bench);
    tidy(&bench).await;
    assert_eq!(*bench.world.removed.lock().unwrap(), [second], "the first waits a while");
    *bench.world.stuck.lock().unwrap() = Some("still in the way".to_owned());
    bench.wait_ms(60_000);
    tidy(&bench).await;
    *bench.world.stuck.lock().unwrap() = None;
    bench.wait_ms(60_000);
    tidy(&bench).await;
    assert_eq!(bench.world.removed.lock().unwrap().len(), 1, "longer each time");
    bench.wait_ms(60_000);
    tidy(&bench).await;
    assert_eq!(*bench.world.removed.lock().unwrap(), [second, first]);
    insta::assert_snapshot!(bench.heard().join("\n"), @"text: **#1 Add a calculator** has ended, but its worktree stays: a nested repository is in the way. It is tried again by itself.");
}

#[tokio::test]
async fn a_worktree_waits_for_its_agent_to_end_and_stays_when_the_item_goes_on() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench.start(id);
    bench.settle().await;
    bench
        .write(move |tx| {
            let event = StageEvent::Abandoned { reason: "no".to_owned() };
            apply(tx, id, &event, &person(), "no")
        })
        .unwrap();
    tidy(&bench).await;
    assert!(bench.world.removed.lock().unwrap().is_empty(), "its agent is still at work");
    bench.end_turn(id, None, TurnEnd::Stopped { why: "abandoned".to_owned() });
    let event = StageEvent::Moved { to: MoveTo::Backlog };
    bench.write(move |tx| apply(tx, id, &event, &person(), "again")).unwrap();
    tidy(&bench).await;
    assert!(bench.world.removed.lock().unwrap().is_empty(), "it was taken up again");
}

#[tokio::test]
async fn a_rejected_item_keeps_its_worktree_until_it_is_deleted() {
    let bench = Bench::new();
    let id = bench.file(|_| {});
    bench
        .write(move |tx| {
            let event = StageEvent::Rejected { reason: "ugly".to_owned() };
            apply(tx, id, &event, &person(), "no")
        })
        .unwrap();
    tidy(&bench).await;
    assert!(bench.world.removed.lock().unwrap().is_empty());
    bench.write(move |tx| delete(tx, id, &person())).unwrap();
    tidy(&bench).await;
    assert_eq!(*bench.world.removed.lock().unwrap(), [id]);
}

#[tokio::test]
async fn the_room_hears_where_rescued_work_is() {
    let bench = Bench::new();
    bench.world.kept.lock().unwrap().rescued = vec!["refs/rescue/1/20260528T202640Z".to_owned()];
    given_up(&bench);
    tidy(&bench).await;
    insta::assert_snapshot!(bench.heard().join("\n"), @"text: **#1 Add a calculator**: its worktree is removed. What was in it and on no branch is kept as `refs/rescue/1/20260528T202640Z`; `git branch NAME REF` brings it back.");
}

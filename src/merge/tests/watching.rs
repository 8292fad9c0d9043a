//! Predictions and the alarm about what waits long.

use super::*;
use crate::clock::from_millis;
use crate::store::merge_predictions::{self, Outcome};

async fn predicted(scene: &Scene) -> Vec<(i64, Outcome)> {
    let list = scene.store.read(|conn| merge_predictions::list(conn, &"shop".into())).await;
    list.unwrap().into_iter().map(|known| (known.item.0, known.outcome)).collect()
}

/// Puts a text into shop.txt on the base branch.
fn base_goes_on(scene: &Scene, text: &str) {
    std::fs::write(scene.repo().join("shop.txt"), text).unwrap();
    scene.git(&["commit", "-q", "-a", "-m", "the base goes on"]);
}

const CODING: &str = r#"{"stage":"coding","claim":null,"plan":null,"retries":0,"note":null}"#;

#[tokio::test]
async fn a_conflict_is_foreseen_before_the_item_is_queued_and_forgotten_with_it() {
    let scene = Scene::new(&[]);
    let service = scene.service().await;
    let project = service.projects.find(&"shop".into()).unwrap();
    let conflict = || Outcome::Conflict { files: vec!["shop.txt".to_owned()] };
    scene.branch(1, "shop.txt", "ONE\ntwo\nthree\n");
    scene.file(1, "coding", CODING).await;
    let checked = scene.branch(2, "other.txt", "x");
    let qa = format!(r#"{{"stage":"qa","claim":null,"commit":"{checked}"}}"#);
    scene.file(2, "qa", &qa).await;
    scene.file(3, "coding", CODING).await;
    assert_eq!(service.predict(&project).await.unwrap(), 2, "item 3 has no branch yet");
    assert_eq!(predicted(&scene).await, [(1, Outcome::Clean), (2, Outcome::Clean)]);
    assert_eq!(service.predict(&project).await.unwrap(), 0, "nothing moved");
    assert!(scene.decided(1, What::Predicted).await.is_empty());

    base_goes_on(&scene, "uno\ntwo\nthree\n");
    assert_eq!(service.predict(&project).await.unwrap(), 2);
    assert_eq!(predicted(&scene).await, [(1, conflict()), (2, Outcome::Clean)]);
    let why = scene.decided(1, What::Predicted).await;
    assert!(why.len() == 1 && why[0].ends_with("conflicts in shop.txt"), "{why:?}");
    assert!(scene.decided(2, What::Predicted).await.is_empty());

    // Another conflict in the same file is no news; that it is gone is.
    base_goes_on(&scene, "eins\ntwo\nthree\n");
    service.predict(&project).await.unwrap();
    assert_eq!(scene.decided(1, What::Predicted).await.len(), 1);
    base_goes_on(&scene, "one\ntwo\nthree\n");
    service.predict(&project).await.unwrap();
    let why = scene.decided(1, What::Predicted).await;
    assert!(why.len() == 2 && why[1].ends_with("merges cleanly"), "{why:?}");

    scene.file(1, "done", r#"{"stage":"backlog"}"#).await;
    service.predict(&project).await.unwrap();
    assert_eq!(predicted(&scene).await, [(2, Outcome::Clean)]);
}

#[tokio::test]
async fn a_new_commit_on_a_branch_is_predicted_anew_and_one_without_is_said_so() {
    let scene = Scene::new(&[]);
    let service = scene.service().await;
    let project = service.projects.find(&"shop".into()).unwrap();
    scene.git(&["branch", "item/1-work", "main"]);
    scene.file(1, "coding", CODING).await;
    service.predict(&project).await.unwrap();
    assert_eq!(predicted(&scene).await, [(1, Outcome::NoCommits)]);
    assert_eq!(service.predict(&project).await.unwrap(), 0);
    scene.git(&["branch", "-D", "item/1-work"]);
    scene.branch(1, "new.txt", "x");
    assert_eq!(service.predict(&project).await.unwrap(), 1);
    assert_eq!(predicted(&scene).await, [(1, Outcome::Clean)]);
    scene.git(&["merge", "-q", "--squash", "item/1-work"]);
    scene.git(&["commit", "-q", "-m", "as a person would"]);
    service.predict(&project).await.unwrap();
    assert_eq!(predicted(&scene).await, [(1, Outcome::Nothing)]);
}

#[tokio::test]
async fn a_running_service_predicts_by_itself() {
    let scene = Scene::new(&[]);
    scene.branch(1, "new.txt", "x");
    scene.file(1, "coding", CODING).await;
    let known = async || predicted(&scene).await == [(1, Outcome::Clean)];
    scene.run_while(scene.service().await, known).await;
}

#[tokio::test]
async fn the_room_hears_when_the_oldest_waits_too_long_and_again_when_it_has_doubled() {
    let start = from_millis(1_700_000_000_000);
    let mut scene = Scene::at(&[], Clock::fixed(start));
    scene.config.merge.merge_age_warn_s = 600;
    scene.queue_files(&[(1, "a.txt")]).await;
    let service = scene.service().await;
    let look = async |minute: i64| {
        scene.store.clock().set(start + chrono::Duration::minutes(minute));
        service.look_around().await;
        scene.posted().await.len()
    };
    assert_eq!(look(9).await, 0);
    assert_eq!(look(10).await, 1);
    assert_eq!(look(11).await, 1, "said");
    assert_eq!(look(19).await, 1);
    assert_eq!(look(20).await, 2);
    assert_eq!(look(39).await, 2);
    let posted = scene.posted().await;
    assert!(posted[0].contains("Item 1 has waited for 10 min"), "{posted:?}");
    assert!(posted[1].contains("`why 1`"), "{posted:?}");
    // It is gone, and another one waits too long later: that is news.
    scene.store.write(|tx| withdraw(tx, ItemId(1))).await.unwrap();
    assert_eq!(look(40).await, 2);
    let level = scene.store.read(|conn| merge_state::age_level(conn, &"shop".into())).await;
    assert_eq!(level.unwrap(), 0);
    scene.queue_files(&[(2, "b.txt")]).await;
    let reason = "no network";
    scene
        .store
        .write(move |tx| merge_state::pause(tx, &"shop".into(), reason, None).map(drop))
        .await
        .unwrap();
    assert_eq!(look(50).await, 3);
    assert!(scene.posted().await[2].contains("stands still: no network"));
}

#[tokio::test]
async fn a_queue_goes_on_when_the_program_that_was_missing_is_there() {
    let scene = Scene::new(&[]);
    scene.queue_files(&[(1, "a.txt")]).await;
    let service = scene.service().await;
    let pause = |program: &'static str| {
        scene
            .store
            .write(move |tx| merge_state::pause(tx, &"shop".into(), "missing", Some(program)))
    };
    let is_due = async || {
        service.look_around().await;
        let now = scene.store.clock().millis();
        let poll = chrono::Duration::zero();
        let due = scene.store.read(move |conn| merge_queue::due_projects(conn, now, poll)).await;
        !due.unwrap().is_empty()
    };
    pause("no-such-tool").await.unwrap();
    assert!(!is_due().await);
    pause("sh").await.unwrap();
    assert!(is_due().await);
}

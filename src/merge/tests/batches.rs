//! Several items at once.

use super::*;

/// Notes each run with the items, and fails when a file called broken.txt is there.
const GATE: &str = "echo $MUSHER_ITEMS >> {dir}/runs; test ! -e broken.txt";

#[tokio::test]
async fn five_good_ones_are_tested_once_and_land_in_order_as_a_commit_each() {
    let scene = Scene::new(&[GATE]);
    let files = [(1, "1.txt"), (2, "2.txt"), (3, "3.txt"), (4, "4.txt"), (5, "5.txt")];
    scene.queue_files(&files).await;
    scene.run(5).await;
    assert_eq!(scene.outcomes().await, (vec![1, 2, 3, 4, 5], vec![]));
    assert_eq!(scene.lines("runs"), ["1 2 3 4 5"]);
    let subjects = scene.git(&["log", "--reverse", "--format=%s", "main"]);
    let expected: Vec<String> = (1..=5).map(|item| format!("{item} story Add it")).collect();
    assert_eq!(subjects.lines().skip(1).collect::<Vec<_>>(), expected);
    for event in scene.events().await {
        let Event::Merged { item, commit } = event else { panic!("{event:?}") };
        let changed = scene.git(&["show", "--format=", "--name-only", &commit]);
        assert_eq!(changed, format!("{item}.txt"), "each event names its own commit");
    }
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
    assert!(scene.repo().join("5.txt").exists());
    let runs = |item| {
        scene.store.read(move |conn| crate::store::gate_runs::newest_of(conn, ItemId(item), 9))
    };
    assert_eq!(runs(1).await.unwrap().len(), 1);
    assert_eq!(runs(5).await.unwrap()[0].output, "tested together: items 1, 2, 3, 4 and 5");
}

/// Five items of which the fourth breaks the build, and the second and third put the same file.
async fn five(batch: usize) -> Scene {
    let mut scene = Scene::new(&[GATE]);
    scene.config.merge.merge_batch = batch;
    let files = [(1, "a.txt"), (2, "both.txt"), (3, "both.txt"), (4, "broken.txt"), (5, "e.txt")];
    scene.queue_files(&files).await;
    scene
}

async fn assert_four_outcomes(scene: &Scene) {
    let (merged, mut failed) = scene.outcomes().await;
    assert_eq!(merged, [1, 2, 5]);
    failed.sort_by_key(|(item, _)| *item);
    let gate = scene.config.projects[0].gates[0].clone();
    let expected = [
        (3, MergeFailureKind::Conflict { files: vec!["both.txt".to_owned()] }),
        (4, MergeFailureKind::GateFailed { gate, exit: Some(1) }),
    ];
    assert_eq!(failed, expected);
    assert_eq!(scene.git(&["ls-tree", "--name-only", "main"]), "a.txt\nboth.txt\ne.txt\nshop.txt");
    assert_eq!(scene.git(&["show", "main:both.txt"]), "2");
    assert_eq!(scene.queued().await, Vec::<i64>::new());
}

#[tokio::test]
async fn of_five_the_good_ones_land_the_culprit_is_found_and_a_conflict_is_the_laters() {
    let scene = five(5).await;
    scene.run(5).await;
    assert_four_outcomes(&scene).await;
    let runs = scene.lines("runs");
    assert_eq!(runs, ["1 2 4 5", "1 2 4 5", "1 2", "4", "5"], "{runs:?}");
    assert!(runs.len() <= 6);
    let why = scene.decided(3, What::Batched).await;
    assert!(why[0].starts_with("it waits until what goes before it (1 and 2)"), "{why:?}");
    let why = scene.decided(4, What::Batched).await;
    assert_eq!(why.len(), 2, "{why:?}");
    assert!(why[0].ends_with("the same is tested once more"), "{why:?}");
    assert!(why[1].ends_with("a part of it is tested"), "{why:?}");
    let output = scene.events().await.into_iter().find_map(|event| {
        if let Event::MergeFailed { item: ItemId(4), output, .. } = event {
            return Some(output);
        }
        None
    });
    assert!(output.unwrap().contains("on the merged tree"));
}

#[tokio::test]
async fn one_by_one_the_outcomes_are_the_same() {
    let scene = five(1).await;
    scene.run(5).await;
    assert_four_outcomes(&scene).await;
    assert_eq!(scene.lines("runs"), ["1", "2", "4", "4", "5"]);
}

#[tokio::test]
async fn everything_that_landed_was_tested_as_it_landed() {
    let scene = Scene::new(&["git rev-parse HEAD >> {dir}/tested; test ! -e broken.txt"]);
    let files = [(1, "a.txt"), (2, "b.txt"), (3, "broken.txt"), (4, "d.txt"), (5, "e.txt")];
    scene.queue_files(&files).await;
    scene.run(5).await;
    let tested = scene.lines("tested");
    let moves = scene.git(&["reflog", "--format=%H", "main"]);
    let mut moves: Vec<&str> = moves.lines().collect();
    moves.pop();
    assert_eq!(moves.len(), 2, "two landings: {moves:?}");
    for tip in moves {
        assert!(tested.iter().any(|tested| tested == tip), "{tip} was not tested: {tested:?}");
    }
}

#[tokio::test]
async fn a_flake_is_tried_once_more_and_nobody_is_blamed() {
    let gate =
        "echo $MUSHER_ITEMS >> {dir}/runs; test -e {dir}/once || { touch {dir}/once; false; }";
    let scene = Scene::new(&[gate]);
    scene.queue_files(&[(1, "a.txt"), (2, "b.txt")]).await;
    scene.run(2).await;
    assert_eq!(scene.outcomes().await, (vec![1, 2], vec![]));
    assert_eq!(scene.lines("runs"), ["1 2", "1 2"]);
    let why = scene.decided(2, What::Batched).await;
    assert!(why[1].contains("it was a flake"), "{why:?}");
}

#[tokio::test]
async fn what_came_meanwhile_waits_for_the_next_batch() {
    let mut scene = Scene::new(&[GATE]);
    scene.config.merge.merge_batch = 2;
    scene.queue_files(&[(1, "a.txt"), (2, "b.txt"), (3, "c.txt")]).await;
    scene.run(3).await;
    assert_eq!(scene.outcomes().await, (vec![1, 2, 3], vec![]));
    assert_eq!(scene.lines("runs"), ["1 2", "3"]);
}

#[tokio::test]
async fn a_withdrawn_item_ends_the_test_and_the_others_go_on_without_it() {
    let gate = "echo $MUSHER_ITEMS >> {dir}/runs; test $MUSHER_ITEMS = 1 || sleep 600";
    let scene = Scene::new(&[gate]);
    scene.queue_files(&[(1, "a.txt"), (2, "b.txt")]).await;
    let service = scene.service().await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(service.run(cancel.clone()));
    let tested = tokio::time::timeout(PATIENCE, async {
        while scene.lines("runs").is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tested.await.unwrap();
    assert!(scene.store.write(|tx| withdraw(tx, ItemId(2))).await.unwrap());
    let landed = tokio::time::timeout(PATIENCE, async {
        while scene.events().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    landed.await.unwrap();
    cancel.cancel();
    running.await.unwrap();
    assert_eq!(scene.outcomes().await, (vec![1], vec![]));
    assert!(!scene.repo().join("b.txt").exists());
}

#[tokio::test]
async fn the_same_work_twice_lands_once_and_the_second_has_nothing_left_to_do() {
    let scene = Scene::new(&[GATE]);
    for item in [1, 2] {
        let commit = scene.branch(item, "same.txt", "same\n");
        scene.queue(item, &commit, 0).await;
    }
    scene.run(2).await;
    let (merged, failed) = scene.outcomes().await;
    assert_eq!((merged, failed), (vec![1], vec![(2, MergeFailureKind::EmptyDiff)]));
}

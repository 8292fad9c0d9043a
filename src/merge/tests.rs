//! Merging, against real git in a temporary directory.

use super::*;
use crate::clock::Clock;
use crate::config::{Config, ProjectConfig};
use crate::model::event::Event;
use crate::model::ids::ItemId;
use crate::model::stage::MergeFailureKind;
use crate::store::{log, merge_state};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A repository with a base branch, a store, and what is needed to merge.
struct Scene {
    dir: tempfile::TempDir,
    store: Store,
    config: Config,
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .envs([("GIT_AUTHOR_NAME", "Ann"), ("GIT_AUTHOR_EMAIL", "ann@localhost")])
        .envs([("GIT_COMMITTER_NAME", "Ann"), ("GIT_COMMITTER_EMAIL", "ann@localhost")])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl Scene {
    fn new(gates: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("shop");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        std::fs::write(repo.join("shop.txt"), "one\ntwo\nthree\n").unwrap();
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "-m", "start"]);
        let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
        let mut config: Config = toml::from_str("[llm]\nprovider = \"replay\"").unwrap();
        config.merge.gate_timeout_s = 20;
        config.projects = vec![ProjectConfig {
            name: "shop".into(),
            path: repo,
            base: "main".to_owned(),
            gates: gates.iter().map(|gate| (*gate).to_owned()).collect(),
            setup: Vec::new(),
            room: Some("!room:hs".to_owned()),
            qa: crate::model::item::QaMode::Gates,
            push: false,
            mode: crate::config::LandingMode::Merge,
            pr_command: None,
            max_agents: None,
        }];
        Self { dir, store, config }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.repo(), args)
    }

    /// A commit on a branch of its own that puts `text` into `file`; off `main`.
    fn branch(&self, item: i64, file: &str, text: &str) -> String {
        let branch = format!("item/{item}-work");
        let place = self.dir.path().join(format!("wt{item}"));
        self.git(&["worktree", "add", "-q", "-b", &branch, place.to_str().unwrap(), "main"]);
        std::fs::write(place.join(file), text).unwrap();
        git(&place, &["add", "-A"]);
        git(&place, &["commit", "-q", "-m", "a step"]);
        let commit = git(&place, &["rev-parse", "HEAD"]);
        self.git(&["worktree", "remove", "--force", place.to_str().unwrap()]);
        commit
    }

    async fn queue(&self, item: i64, commit: &str, priority: i64) {
        let commit = commit.to_owned();
        self.store
            .write(move |tx| {
                let origin = r#"{"kind":"user","id":"@ann:hs","at":"2026-01-01T00:00:00Z"}"#;
                tx.execute(
                    "INSERT OR IGNORE INTO items (id, project, kind, name, qa, origin, stage,
                        stage_name, col, badge, created_at, updated_at)
                     VALUES (?1, 'shop', 'story', 'Add it', 'gates', ?2, '{\"stage\":\"backlog\"}',
                        'backlog', 'backlog', 'active', 0, 0)",
                    rusqlite::params![item, origin],
                )
                .map_err(StoreError::from)?;
                enqueue(tx, ItemId(item), &"shop".into(), &commit, priority)
            })
            .await
            .unwrap();
    }

    async fn service(&self) -> MergeService {
        let projects = Registry::load(&self.store, &self.config).await.unwrap();
        MergeService::new(self.store.clone(), projects, self.config.merge.clone())
    }

    async fn events(&self) -> Vec<Event> {
        let rows = self.store.read(|conn| log::events_after(conn, 0, 100)).await.unwrap();
        rows.into_iter().map(|row| row.event).collect()
    }

    /// Lets a service run until `count` events are written and the queue is as it should be.
    async fn run_until(&self, service: MergeService, count: usize) -> Vec<Event> {
        let cancel = CancellationToken::new();
        let running = tokio::spawn(service.run(cancel.clone()));
        let waited = tokio::time::timeout(PATIENCE, async {
            while self.events().await.len() < count {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "{:?}", self.events().await);
        cancel.cancel();
        running.await.unwrap();
        self.events().await
    }

    async fn run(&self, count: usize) -> Vec<Event> {
        self.run_until(self.service().await, count).await
    }

    fn failure(events: &[Event]) -> (&MergeFailureKind, &str) {
        match events {
            [Event::MergeFailed { kind, output, .. }] => (kind, output),
            other => panic!("{other:?}"),
        }
    }

    async fn posted(&self) -> Vec<String> {
        self.store
            .read(|conn| {
                let mut statement = conn.prepare("SELECT outgoing FROM outbox ORDER BY id")?;
                let rows = statement.query_map([], |row| row.get(0))?;
                Ok::<_, StoreError>(rows.collect::<Result<_, _>>()?)
            })
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn an_item_lands_as_one_tested_commit_and_a_clean_checkout_follows() {
    let scene = Scene::new(&["grep -q calculator calc.txt", "git status --porcelain | wc -l"]);
    let commit = scene.branch(1, "calc.txt", "calculator\n");
    scene.queue(1, &commit, 0).await;
    let events = scene.run(1).await;
    let [Event::Merged { commit, .. }] = &events[..] else { panic!("{events:?}") };
    assert_eq!(&scene.git(&["rev-parse", "main"]), commit);
    assert_eq!(scene.git(&["rev-list", "--count", "main"]), "2");
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
    assert!(scene.repo().join("calc.txt").exists());
    let message = scene.git(&["log", "-1", "--format=%an|%B", "main"]);
    assert!(message.starts_with("Musher|1 story Add it\n\nMusher-Item: 1\n"), "{message}");
    assert!(message.contains("Musher-Origin: user @ann:hs"), "{message}");
    assert_eq!(scene.git(&["worktree", "list"]).lines().count(), 1);
    assert!(scene.posted().await.is_empty());
    let runs = scene.store.read(|conn| crate::store::gate_runs::newest_of(conn, ItemId(1), 9));
    assert_eq!(runs.await.unwrap().len(), 2);
}

#[tokio::test]
async fn each_failure_has_its_type_and_leaves_the_base_alone() {
    let failing = "echo broken; exit 7";
    for (gate, file, text, expected) in [
        (
            "true",
            "shop.txt",
            "ONE\ntwo\nthree\n",
            MergeFailureKind::Conflict { files: vec!["shop.txt".to_owned()] },
        ),
        (
            failing,
            "new.txt",
            "x",
            MergeFailureKind::GateFailed { gate: failing.to_owned(), exit: Some(7) },
        ),
        (
            "sleep 600",
            "new.txt",
            "x",
            MergeFailureKind::GateTimeout { gate: "sleep 600".to_owned() },
        ),
        ("true", "same.txt", "same\n", MergeFailureKind::EmptyDiff),
    ] {
        let mut scene = Scene::new(&[gate]);
        scene.config.merge.gate_timeout_s = if gate.starts_with("sleep") { 1 } else { 20 };
        let commit = scene.branch(1, file, text);
        // The base goes on: the same line, and the same new file.
        std::fs::write(scene.repo().join("shop.txt"), "uno\ntwo\nthree\n").unwrap();
        std::fs::write(scene.repo().join("same.txt"), "same\n").unwrap();
        scene.git(&["add", "-A"]);
        scene.git(&["commit", "-q", "-m", "the base goes on"]);
        let base = scene.git(&["rev-parse", "main"]);
        scene.queue(1, &commit, 0).await;
        let events = scene.run(1).await;
        let (kind, output) = Scene::failure(&events);
        assert_eq!(kind, &expected, "{output}");
        assert_eq!(scene.git(&["rev-parse", "main"]), base);
        assert_eq!(scene.git(&["worktree", "list"]).lines().count(), 1);
        let left = scene.store.read(|conn| merge_queue::list(conn, &"shop".into(), 0)).await;
        assert_eq!(left.unwrap(), []);
    }
}

#[tokio::test]
async fn a_branch_without_a_commit_of_its_own_is_given_back() {
    let scene = Scene::new(&[]);
    scene.queue(1, &scene.git(&["rev-parse", "main"]), 0).await;
    let events = scene.run(1).await;
    assert_eq!(Scene::failure(&events).0, &MergeFailureKind::NoCommits);
}

#[tokio::test]
async fn a_missing_gate_program_is_no_fault_of_the_item_and_the_room_hears_of_it_once() {
    let scene = Scene::new(&["no-such-tool --check"]);
    let commit = scene.branch(1, "new.txt", "x");
    scene.queue(1, &commit, 0).await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(scene.service().await.run(cancel.clone()));
    let pause = tokio::time::timeout(PATIENCE, async {
        loop {
            let pause = scene.store.read(|conn| merge_state::pause_of(conn, &"shop".into())).await;
            if let Some(pause) = pause.unwrap() {
                break pause;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let pause = pause.await.unwrap();
    cancel.cancel();
    running.await.unwrap();
    assert!(pause.reason.contains("`no-such-tool` is not installed"));
    assert_eq!(scene.events().await, []);
    assert_eq!(scene.posted().await.len(), 1);
}

#[tokio::test]
async fn a_checkout_with_changes_is_left_alone_and_the_room_is_told_then_it_is_healed() {
    let scene = Scene::new(&[]);
    let commit = scene.branch(1, "new.txt", "x");
    std::fs::write(scene.repo().join("shop.txt"), "my own work\n").unwrap();
    let index = std::fs::read(scene.repo().join(".git/index")).unwrap();
    scene.queue(1, &commit, 0).await;
    scene.run(1).await;
    assert_eq!(scene.git(&["ls-tree", "--name-only", "main"]), "new.txt\nshop.txt");
    assert_eq!(std::fs::read(scene.repo().join(".git/index")).unwrap().len(), index.len());
    assert_eq!(std::fs::read_to_string(scene.repo().join("shop.txt")).unwrap(), "my own work\n");
    assert!(!scene.repo().join("new.txt").exists());
    let posted = scene.posted().await;
    assert!(posted.len() == 1 && posted[0].contains("do not commit there"), "{posted:?}");

    // The remedy in the message works and keeps the changes.
    let remedy = posted[0].split('`').nth(1).unwrap().to_owned();
    let done = Command::new("sh").arg("-c").arg(&remedy).status().unwrap();
    assert!(done.success(), "{remedy}");
    assert_eq!(scene.git(&["status", "--porcelain"]), "M shop.txt");
    assert!(scene.repo().join("new.txt").exists());

    // And without it: once the changes are gone, the next look brings it up to date.
    let commit = scene.branch(2, "newer.txt", "y");
    scene.queue(2, &commit, 0).await;
    scene.run(2).await;
    assert!(!scene.repo().join("newer.txt").exists());
    std::fs::write(scene.repo().join("shop.txt"), "one\ntwo\nthree\n").unwrap();
    let projects = Registry::load(&scene.store, &scene.config).await.unwrap();
    let project = projects.find(&"shop".into()).unwrap();
    checkout::heal(&scene.store, &project).await.unwrap();
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
    assert!(scene.repo().join("newer.txt").exists());
}

#[tokio::test]
async fn the_base_is_only_moved_from_where_it_was_tested() {
    let scene = Scene::new(&["test -e other.txt || test ! -e ../../../once"]);
    let commit = scene.branch(1, "new.txt", "x");
    let other = scene.branch(2, "other.txt", "y");
    scene.queue(1, &commit, 0).await;
    let repo = scene.repo();
    let moved = Arc::new(Mutex::new(0));
    let count = Arc::clone(&moved);
    let service = scene.service().await.watched(Arc::new(move |step| {
        if step == Step::Tested {
            let mut count = count.lock().unwrap();
            *count += 1;
            if *count == 1 {
                // Somebody else moves the base after the gates have passed.
                git(&repo, &["merge", "-q", "--ff-only", &other]);
            }
        }
        Box::pin(async {})
    }));
    let events = scene.run_until(service, 1).await;
    assert!(matches!(events[..], [Event::Merged { .. }]), "{events:?}");
    assert_eq!(*moved.lock().unwrap(), 2, "tested again on the new base");
    assert_eq!(scene.git(&["ls-tree", "--name-only", "main"]), "new.txt\nother.txt\nshop.txt");
    assert_eq!(scene.git(&["rev-list", "--merges", "--count", "main"]), "0");
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn killed_after_any_step_it_lands_exactly_once_after_a_restart() {
    for deadly in Step::ALL {
        let mut scene = Scene::new(&["test -e new.txt"]);
        let remote = scene.dir.path().join("remote.git");
        git(
            scene.dir.path(),
            &["clone", "-q", "--bare", scene.repo().to_str().unwrap(), "remote.git"],
        );
        scene.git(&["remote", "add", "origin", remote.to_str().unwrap()]);
        scene.config.projects[0].push = true;
        let commit = scene.branch(1, "new.txt", "x");
        scene.queue(1, &commit, 0).await;
        let (tell, died) = tokio::sync::oneshot::channel();
        let tell = Mutex::new(Some(tell));
        let service = scene.service().await.watched(Arc::new(move |step| {
            if step != deadly {
                return Box::pin(async {});
            }
            if let Some(tell) = tell.lock().unwrap().take() {
                let _ = tell.send(());
            }
            Box::pin(std::future::pending())
        }));
        let running = tokio::spawn(service.run(CancellationToken::new()));
        tokio::time::timeout(PATIENCE, died).await.unwrap().unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());

        let events = scene.run(1).await;
        assert!(matches!(events[..], [Event::Merged { .. }]), "{deadly:?}: {events:?}");
        assert_eq!(scene.git(&["rev-list", "--count", "main"]), "2", "{deadly:?}");
        assert_eq!(scene.git(&["status", "--porcelain"]), "", "{deadly:?}");
        assert_eq!(git(&remote, &["rev-parse", "main"]), scene.git(&["rev-parse", "main"]));
        assert_eq!(scene.git(&["worktree", "list"]).lines().count(), 1, "{deadly:?}");
    }
}

#[tokio::test]
async fn the_order_is_priority_then_age_and_a_withdrawn_item_ends_its_gates() {
    let scene = Scene::new(&["sleep 600"]);
    let (one, two) = (scene.branch(1, "1.txt", "x"), scene.branch(2, "2.txt", "y"));
    scene.queue(1, &one, 0).await;
    scene.queue(2, &two, 5).await;
    let now = scene.store.clock().millis();
    let order = scene.store.read(move |conn| merge_queue::list(conn, &"shop".into(), now)).await;
    let order: Vec<i64> = order.unwrap().iter().map(|row| row.item.0).collect();
    assert_eq!(order, [2, 1]);
    let cancel = CancellationToken::new();
    let (tell, placed) = tokio::sync::oneshot::channel();
    let tell = Mutex::new(Some(tell));
    let service = scene.service().await.watched(Arc::new(move |step| {
        if step == Step::Placed
            && let Some(tell) = tell.lock().unwrap().take()
        {
            let _ = tell.send(());
        }
        Box::pin(async {})
    }));
    let running = tokio::spawn(service.run(cancel.clone()));
    tokio::time::timeout(PATIENCE, placed).await.unwrap().unwrap();
    let gone = scene.store.write(|tx| withdraw(tx, ItemId(2))).await.unwrap();
    assert!(gone);
    let next = tokio::time::timeout(PATIENCE, async {
        let place = scene.dir.path().join("data/merge/shop");
        while !place.join("1").exists() || place.join("2").exists() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    next.await.unwrap();
    cancel.cancel();
    running.await.unwrap();
    assert_eq!(scene.events().await, []);
}

#[tokio::test]
async fn a_refused_push_is_told_to_the_room_and_the_item_is_merged_all_the_same() {
    let mut scene = Scene::new(&[]);
    scene.config.projects[0].push = true;
    let commit = scene.branch(1, "new.txt", "x");
    scene.queue(1, &commit, 0).await;
    let events = scene.run(1).await;
    assert!(matches!(events[..], [Event::Merged { .. }]), "{events:?}");
    let posted = scene.posted().await;
    assert!(posted.len() == 1 && posted[0].contains("could not be pushed"), "{posted:?}");
}

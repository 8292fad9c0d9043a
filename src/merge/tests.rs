//! Merging, against real git in a temporary directory.

use super::*;
use crate::clock::Clock;
use crate::config::{Config, LandingMode, ProjectConfig};
use crate::model::event::Event;
use crate::model::ids::ItemId;
use crate::model::stage::MergeFailureKind;
use crate::store::decisions::{self, What};
use crate::store::{Tx, log};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

mod batches;
mod kills;
mod remotes;
mod watching;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(120);

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

/// A watcher that does something each time that `wanted` is reached; it is told the how-manieth
/// time it is.
fn at_step(wanted: Step, action: impl Fn(usize) + Send + Sync + 'static) -> Watcher {
    let count = Mutex::new(0);
    Arc::new(move |step| {
        if step == wanted {
            let mut count = count.lock().unwrap();
            *count += 1;
            action(*count);
        }
        Box::pin(async {})
    })
}

impl Scene {
    fn new(gates: &[&str]) -> Self {
        Self::at(gates, Clock::system())
    }

    /// `{dir}` in a gate stands for the scene's directory.
    fn at(gates: &[&str], clock: Clock) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("shop");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        std::fs::write(repo.join("shop.txt"), "one\ntwo\nthree\n").unwrap();
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "-m", "start"]);
        let store = Store::open(&dir.path().join("data"), clock).unwrap();
        let mut config: Config = toml::from_str("[llm]\nprovider = \"replay\"").unwrap();
        config.merge.gate_timeout_s = 60;
        let place = dir.path().to_str().unwrap().to_owned();
        let gates = gates.iter().map(|gate| gate.replace("{dir}", &place)).collect();
        config.projects = vec![ProjectConfig {
            gates,
            room: Some("!room:hs".to_owned()),
            ..ProjectConfig::of_directory(repo)
        }];
        Self { dir, store, config }
    }

    fn repo(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.repo(), args)
    }

    /// The lines that gates wrote into a file of the scene's directory.
    fn lines(&self, file: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
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

    /// Files an item in a stage.
    async fn file(&self, item: i64, column: &'static str, stage: &str) {
        let stage = stage.to_owned();
        self.store
            .write(move |tx| {
                let origin = r#"{"kind":"user","id":"@ann:hs","at":"2026-01-01T00:00:00Z"}"#;
                tx.execute(
                    "INSERT INTO items (id, project, kind, name, qa, origin, stage,
                        stage_name, col, badge, created_at, updated_at)
                     VALUES (?1, 'shop', 'story', 'Add it', 'gates', ?2, ?3, ?4, ?4, 'active', 0, 0)
                     ON CONFLICT (id) DO UPDATE SET stage = excluded.stage, col = excluded.col",
                    rusqlite::params![item, origin, stage, column],
                )
                .map(drop)
                .map_err(StoreError::from)
            })
            .await
            .unwrap();
    }

    async fn queue(&self, item: i64, commit: &str, priority: i64) {
        let stage = format!(r#"{{"stage":"merge","claim":null,"commit":"{commit}"}}"#);
        self.file(item, "merge", &stage).await;
        let commit = commit.to_owned();
        self.store
            .write(move |tx| enqueue(tx, ItemId(item), &"shop".into(), &commit, priority))
            .await
            .unwrap();
    }

    /// Puts items into the queue whose branches each put their number into a file.
    async fn queue_files(&self, files: &[(i64, &str)]) {
        for (item, file) in files {
            let commit = self.branch(*item, file, &format!("{item}\n"));
            self.queue(*item, &commit, 0).await;
        }
    }

    async fn service(&self) -> MergeService {
        let projects = Registry::load(&self.store, &self.config).await.unwrap();
        MergeService::new(self.store.clone(), projects, self.config.merge.clone())
    }

    async fn events(&self) -> Vec<Event> {
        let rows = self.store.read(|conn| log::events_after(conn, 0, 100)).await.unwrap();
        rows.into_iter().map(|row| row.event).collect()
    }

    /// The numbers of the items that were merged, in order, and of those that were given back, with
    /// the kind of failure.
    async fn outcomes(&self) -> (Vec<i64>, Vec<(i64, MergeFailureKind)>) {
        let (mut merged, mut failed) = (vec![], vec![]);
        for event in self.events().await {
            if let Event::Merged { item, .. } = event {
                merged.push(item.0);
            } else if let Event::MergeFailed { item, kind, .. } = event {
                failed.push((item.0, kind));
            } else {
                panic!("{event:?}");
            }
        }
        (merged, failed)
    }

    /// Lets a service run until `done`.
    async fn run_while(&self, service: MergeService, done: impl AsyncFn() -> bool) {
        let cancel = CancellationToken::new();
        let running = tokio::spawn(service.run(cancel.clone()));
        let waited = tokio::time::timeout(PATIENCE, async {
            while !done().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let in_time = waited.await.is_ok();
        cancel.cancel();
        running.await.unwrap();
        assert!(in_time, "{:?}\n{:?}", self.events().await, self.posted().await);
    }

    /// Lets a service run until `count` events are written.
    async fn run_until(&self, service: MergeService, count: usize) -> Vec<Event> {
        self.run_while(service, async || self.events().await.len() >= count).await;
        self.events().await
    }

    async fn run(&self, count: usize) -> Vec<Event> {
        self.run_until(self.service().await, count).await
    }

    /// Lets a service run until the queue stands still; returns why.
    async fn run_to_pause(&self, service: MergeService) -> merge_state::Pause {
        self.run_while(service, async || self.pause().await.is_some()).await;
        self.pause().await.unwrap()
    }

    async fn pause(&self) -> Option<merge_state::Pause> {
        self.store.read(|conn| merge_state::pause_of(conn, &"shop".into())).await.unwrap()
    }

    /// Has a queue that stands still tried again at once.
    async fn try_now(&self) {
        self.store.write(|tx| merge_state::try_now(tx, &"shop".into())).await.unwrap();
    }

    fn failure(events: &[Event]) -> (&MergeFailureKind, &str) {
        match events {
            [Event::MergeFailed { kind, output, .. }] => (kind, output),
            other => panic!("{other:?}"),
        }
    }

    async fn decided(&self, item: i64, what: What) -> Vec<String> {
        let all =
            self.store.read(move |conn| decisions::of_item(conn, ItemId(item), 50)).await.unwrap();
        let mut of_kind: Vec<String> = all
            .into_iter()
            .filter(|decision| decision.what == what)
            .map(|decision| decision.why)
            .collect();
        of_kind.reverse();
        of_kind
    }

    async fn queued(&self) -> Vec<i64> {
        let now = self.store.clock().millis();
        let rows = self.store.read(move |conn| merge_queue::list(conn, &"shop".into(), now)).await;
        rows.unwrap().iter().map(|row| row.item.0).collect()
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
        scene.config.merge.gate_timeout_s = if gate.starts_with("sleep") { 1 } else { 60 };
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
    let service = scene.service().await.watched(at_step(Step::Tested, move |nth| {
        *count.lock().unwrap() = nth;
        if nth == 1 {
            // Somebody else moves the base after the gates have passed.
            git(&repo, &["merge", "-q", "--ff-only", &other]);
        }
    }));
    let events = scene.run_until(service, 1).await;
    assert!(matches!(events[..], [Event::Merged { .. }]), "{events:?}");
    assert_eq!(*moved.lock().unwrap(), 2, "tested again on the new base");
    assert_eq!(scene.git(&["ls-tree", "--name-only", "main"]), "new.txt\nother.txt\nshop.txt");
    assert_eq!(scene.git(&["rev-list", "--merges", "--count", "main"]), "0");
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn a_base_that_moves_under_every_attempt_is_a_failure_of_its_own() {
    let scene = Scene::new(&["true"]);
    let commit = scene.branch(1, "new.txt", "x");
    scene.queue(1, &commit, 0).await;
    let repo = scene.repo();
    let service = scene.service().await.watched(at_step(Step::Tested, move |_nth| {
        git(&repo, &["commit", "-q", "--allow-empty", "-m", "the base goes on"]);
    }));
    let events = scene.run_until(service, 1).await;
    assert_eq!(Scene::failure(&events).0, &MergeFailureKind::BaseMoved);
    assert_eq!(scene.git(&["rev-list", "--count", "main"]), "6", "five attempts");
    assert!(!scene.repo().join("new.txt").exists());
}

#[tokio::test]
async fn what_git_cannot_do_for_one_item_holds_up_no_other() {
    let scene = Scene::new(&[]);
    let broken = scene.branch(1, "one.txt", "x");
    let good = scene.branch(2, "two.txt", "y");
    let tree = scene.git(&["rev-parse", &format!("{broken}^{{tree}}")]);
    let object = scene.repo().join(".git/objects").join(&tree[..2]).join(&tree[2..]);
    std::fs::remove_file(object).unwrap();
    scene.queue(1, &broken, 5).await;
    scene.queue(2, &good, 0).await;
    scene.run(2).await;
    let (merged, failed) = scene.outcomes().await;
    assert_eq!(merged, [2]);
    let [(1, MergeFailureKind::Infrastructure { what })] = &failed[..] else {
        panic!("{failed:?}");
    };
    assert!(what.contains("git"), "{what}");
    assert_eq!(scene.pause().await, None, "the machine is fine");
}

#[tokio::test]
async fn what_the_machine_lacks_stops_the_whole_queue_with_one_message() {
    let scene = Scene::new(&["no-such-tool --check"]);
    scene.queue_files(&[(1, "1.txt"), (2, "2.txt")]).await;
    let pause = scene.run_to_pause(scene.service().await).await;
    assert!(pause.reason.contains("`no-such-tool` is not installed"), "{pause:?}");
    assert_eq!(pause.program.as_deref(), Some("no-such-tool"));
    scene.try_now().await;
    let again = async || scene.pause().await.is_some_and(|pause| pause.tries == 2);
    scene.run_while(scene.service().await, again).await;
    assert_eq!(scene.events().await, []);
    assert_eq!(scene.queued().await, [1, 2]);
    assert_eq!(scene.posted().await.len(), 1, "{:?}", scene.posted().await);
}

#[tokio::test]
async fn a_full_disk_stops_the_queue_before_anything_is_tested_and_ends_by_itself() {
    let scene = Scene::new(&["echo run >> {dir}/runs"]);
    scene.queue_files(&[(1, "1.txt"), (2, "2.txt")]).await;
    let full = scene.service().await.with_disk_min(u64::MAX);
    let pause = scene.run_to_pause(full).await;
    assert!(pause.reason.contains("make room"), "{pause:?}");
    assert_eq!((scene.events().await, scene.lines("runs")), (vec![], vec![]));
    assert_eq!(scene.posted().await.len(), 1);
    scene.try_now().await;
    scene.run(2).await;
    assert_eq!(scene.outcomes().await, (vec![1, 2], vec![]));
    assert_eq!(scene.pause().await, None);
}

#[tokio::test]
async fn a_failure_on_a_disk_that_is_full_by_then_is_no_failure_of_the_item() {
    let scene = Scene::new(&["exit 1"]);
    scene.queue_files(&[(1, "1.txt")]).await;
    let service = scene.service().await;
    // Enough to begin with; what the check after the gate needs can never be there.
    let project = service.projects.find(&"shop".into()).unwrap();
    let base = scene.git(&["rev-parse", "main"]);
    let rows = scene.store.read(|conn| merge_queue::list(conn, &"shop".into(), 0)).await.unwrap();
    let links = service.chain(&project, &base, rows).await.unwrap();
    let full = service.with_disk_min(u64::MAX);
    let tried = full.try_out(&project, &links, &CancellationToken::new()).await;
    assert!(matches!(tried, Err(Stop::Pause { .. })), "{tried:?}");
}

#[tokio::test]
async fn a_queue_is_worked_by_the_one_who_has_its_lease_and_by_another_when_that_one_is_dead() {
    let scene = Scene::new(&[]);
    scene.queue_files(&[(1, "1.txt")]).await;
    let mut other = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = i32::try_from(other.id()).unwrap();
    let owner = Owner { pid, started: crate::store::start_time(pid).unwrap() };
    let take = move |tx: &crate::store::Tx<'_>| {
        merge_state::take_lease(tx, &"shop".into(), &owner, Owner::is_alive)
    };
    assert_eq!(scene.store.write(take).await.unwrap(), None);
    let service = scene.service().await;
    let shop: ProjectName = "shop".into();
    let held = service.lease(&shop).await.unwrap();
    assert_eq!(held.map(|lease| lease.owner.pid), Some(pid));
    other.kill().unwrap();
    other.wait().unwrap();
    scene.run(1).await;
    assert_eq!(scene.outcomes().await.0, [1]);
    let lease = scene.store.read(|conn| merge_state::lease_of(conn, &"shop".into())).await;
    assert_eq!(lease.unwrap(), None, "given back");
}

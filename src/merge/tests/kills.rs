//! `kill -9` after every step: landed exactly once, or still queued; the same end as undisturbed.
//!
//! The process that is killed is this test binary once more, with one test: the real service over
//! the real database and repository.

use super::*;
use std::os::unix::process::ExitStatusExt;

/// Names the scene's directory to the process that is to be killed.
const SCENE: &str = "MUSHER_TEST_MERGE_SCENE";

/// How often in a row it is killed at the same step: what comes round more than once (a second
/// landing of the same batch) is met then, too.
const DEATHS: usize = 2;

/// What the process does, until it is killed or the queue is worked off.
#[tokio::test]
#[ignore = "the part of the process that the other tests here kill"]
async fn the_process_that_is_killed() {
    let Some(dir) = std::env::var_os(SCENE).map(PathBuf::from) else { return };
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let mut config: Config = toml::from_str("[llm]\nprovider = \"replay\"").unwrap();
    config.merge = serde_json::from_str(&read("merge.json")).unwrap();
    config.projects = serde_json::from_str(&read("projects.json")).unwrap();
    let store = Store::open(&dir.join("data"), Clock::system()).unwrap();
    let projects = Registry::load(&store, &config).await.unwrap();
    let service = MergeService::new(store.clone(), projects, config.merge);
    let cancel = CancellationToken::new();
    let running = tokio::spawn(service.run(cancel.clone()));
    let worked_off = async || {
        let waiting = store.read(|conn| merge_queue::waiting(conn, &"shop".into(), 0)).await;
        waiting.unwrap().is_empty()
    };
    while !worked_off().await {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    cancel.cancel();
    running.await.unwrap();
}

impl Scene {
    /// Lets another process work the queue, which dies at `step` if that is given and reached; says
    /// whether it did.
    fn in_another_process(&self, step: Option<Step>) -> bool {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "--nocapture"]);
        command.arg("merge::tests::kills::the_process_that_is_killed");
        command.env(SCENE, self.dir.path()).env_remove("MUSHER_FAILPOINT");
        if let Some(step) = step {
            command.env("MUSHER_FAILPOINT", step.as_str());
        }
        let output = command.output().unwrap();
        match output.status.signal() {
            Some(signal) => {
                assert_eq!(signal, nix::sys::signal::Signal::SIGKILL as i32);
                assert!(step.is_some());
                true
            }
            None => {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
                false
            }
        }
    }

    /// Kills the process at `step`, again and again, then lets one work to the end; says whether
    /// the step was reached at all.
    fn survive(&mut self, step: Step) -> bool {
        let write = |name: &str, value: String| {
            std::fs::write(self.dir.path().join(name), value).unwrap();
        };
        write("merge.json", serde_json::to_string(&self.config.merge).unwrap());
        write("projects.json", serde_json::to_string(&self.config.projects).unwrap());
        self.store.close();
        let deaths = (0..DEATHS).take_while(|_| self.in_another_process(Some(step))).count();
        self.in_another_process(None);
        self.store = Store::open(&self.dir.path().join("data"), Clock::system()).unwrap();
        deaths > 0
    }

    /// Nothing is left that should not be.
    fn assert_tidy(&self, step: Step) {
        assert_eq!(self.git(&["status", "--porcelain"]), "", "{step:?}");
        assert_eq!(self.git(&["worktree", "list"]).lines().count(), 1, "{step:?}");
        let place = self.dir.path().join("data/merge/shop");
        let left = std::fs::read_dir(place).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{step:?}");
    }
}

/// Which steps were reached, over all walks.
#[derive(Default)]
struct Reached(Vec<Step>);

impl Reached {
    fn note(&mut self, step: Step, reached: bool) {
        if reached {
            self.0.push(step);
        }
    }
}

/// The batch of five with a culprit and a conflict, pushed to a remote.
async fn walk_a_batch(reached: &mut Reached) {
    let of_pulls_alone = |step: &Step| matches!(step, Step::Opened | Step::PullNoted);
    for step in Step::ALL.into_iter().filter(|step| !of_pulls_alone(step)) {
        let mut scene =
            Scene::with_remote(&["git rev-parse HEAD >> {dir}/tested; test ! -e broken.txt"]);
        let files =
            [(1, "a.txt"), (2, "both.txt"), (3, "both.txt"), (4, "broken.txt"), (5, "e.txt")];
        scene.queue_files(&files).await;
        reached.note(step, scene.survive(step));
        let (merged, mut failed) = scene.outcomes().await;
        assert_eq!(merged, [1, 2, 5], "{step:?}");
        failed.sort_by_key(|(item, _)| *item);
        let kinds: Vec<(i64, &str)> =
            failed.iter().map(|(item, kind)| (*item, kind.name())).collect();
        assert_eq!(kinds, [(3, "conflict"), (4, "gate_failed")], "{step:?}");
        assert_eq!(scene.queued().await, Vec::<i64>::new(), "{step:?}");
        let log = scene.git(&["log", "--reverse", "--format=%s", "main"]);
        let landed: Vec<&str> = log.lines().skip(1).map(|line| &line[..1]).collect();
        assert_eq!(landed, ["1", "2", "5"], "{step:?}");
        assert_eq!(scene.git(&["rev-parse", "main"]), scene.remote_main(), "{step:?}");
        let tested = scene.lines("tested");
        for tip in scene.git(&["reflog", "--format=%H", "main"]).lines().rev().skip(1) {
            assert!(tested.iter().any(|tested| tested == tip), "{step:?}: {tip} {tested:?}");
        }
        scene.assert_tidy(step);
    }
}

/// The steps of a project in which people merge.
const OF_PULLS: [Step; 6] =
    [Step::Fetched, Step::Tested, Step::Blamed, Step::Pushed, Step::Opened, Step::PullNoted];

/// Two items with a pull request each, and one that breaks the build.
async fn walk_pull_requests(reached: &mut Reached) {
    for step in OF_PULLS {
        let mut scene = Scene::with_pulls(&["test ! -e broken.txt"]);
        scene.queue_files(&[(1, "1.txt"), (2, "2.txt"), (3, "broken.txt")]).await;
        reached.note(step, scene.survive(step));
        let (merged, failed) = scene.outcomes().await;
        assert_eq!((merged.len(), failed.len()), (0, 1), "{step:?}");
        assert_eq!(scene.posted().await.len(), 2, "{step:?}: each is told once");
        assert_eq!(scene.queued().await, [1, 2], "{step:?}");
        for item in ["item/1-work", "item/2-work"] {
            let there = git(&scene.remote(), &["rev-parse", item]);
            assert_eq!(there, scene.git(&["rev-parse", item]), "{step:?}");
        }
        scene.elsewhere(|clone| {
            for branch in ["origin/item/1-work", "origin/item/2-work"] {
                git(clone, &["merge", "-q", "--no-ff", "-m", "pull", branch]);
            }
        });
        scene.run(3).await;
        assert_eq!(scene.outcomes().await.0, [1, 2], "{step:?}");
        scene.assert_tidy(step);
    }
}

#[tokio::test]
async fn killed_after_any_step_it_ends_as_if_nothing_had_happened() {
    let mut reached = Reached::default();
    walk_a_batch(&mut reached).await;
    walk_pull_requests(&mut reached).await;
    let missed: Vec<Step> =
        Step::ALL.into_iter().filter(|step| !reached.0.contains(step)).collect();
    assert_eq!(missed, [], "nothing was killed there");
}

#[test]
fn every_step_has_a_failpoint_of_its_own() {
    let mut names: Vec<&str> = Step::ALL.iter().map(|step| step.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Step::ALL.len());
    // A step that is in the type and not in the list would never be walked.
    let source = include_str!("../mod.rs");
    let body = source.split_once("pub enum Step {").unwrap().1.split_once("\n}").unwrap().0;
    let variants =
        body.lines().filter(|line| line.trim().ends_with(',') && !line.trim().starts_with("//"));
    assert_eq!(variants.count(), Step::ALL.len());
}

//! The real outside: git, worktrees and gates on a disk.

use super::*;
use crate::agents::{Agents, ProjectPlaces};
use crate::project::Registry;
use crate::project::git::{Git, Identity};
use crate::project::worktree;
use std::path::PathBuf;

/// A repository with a commit, a project over it, and an item.
struct Outside {
    dir: tempfile::TempDir,
    store: Store,
    projects: Registry,
    workshop: Workshop,
    item: Item,
}

impl Outside {
    async fn with(gates: &[&str]) -> Self {
        Self::configured(gates, "").await
    }

    async fn configured(gates: &[&str], more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("demo");
        std::fs::create_dir(&repository).unwrap();
        std::fs::write(repository.join("sum"), "5\n").unwrap();
        let git = Git::at(&repository);
        git.init("main").await.unwrap();
        git.first_commit("main", "first", &Identity::parse("You <you@x>")).await.unwrap();
        let config = format!(
            "{CONFIG}[[projects]]\nname = \"demo\"\npath = {repository:?}\ngates = {gates:?}\n{more}"
        );
        let config: Arc<Config> = Arc::new(toml::from_str(&config).unwrap());
        let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
        let projects = Registry::load(&store, &config).await.unwrap();
        let places = ProjectPlaces { store: store.clone(), projects: projects.clone() };
        let agents =
            Agents::with_runtimes(store.clone(), Arc::clone(&config), Arc::new(places), vec![]);
        let workshop = Workshop::new(store.clone(), config, projects.clone(), agents);
        let item = store.write(|tx| create(tx, story("Mend the sum"))).await.unwrap();
        Self { dir, store, projects, workshop, item }
    }

    fn repository(&self) -> PathBuf {
        self.dir.path().join("demo")
    }

    async fn worktree(&self) -> PathBuf {
        let project = self.projects.find(&"demo".into()).unwrap();
        let data_dir = self.store.data_dir();
        let cancel = CancellationToken::new();
        let name = &self.item.name;
        worktree::ensure(&project, self.item.id, name, data_dir, &cancel).await.unwrap().path
    }

    async fn look(&self) -> Checked {
        self.workshop.check(&self.item).await.unwrap()
    }

    async fn gates(&self, commit: &str) -> Result<GateOutcome, Trouble> {
        self.workshop.run_gates(&self.item, commit, &CancellationToken::new()).await
    }

    /// Runs a line in a directory.
    async fn run(&self, cwd: &std::path::Path, line: &str) {
        super::whole::run_in(cwd, line).await;
    }
}

const COMMIT: &str = "git add -A && git -c user.name=ada -c user.email=ada@x commit -qm work";

fn project() -> Option<Scope> {
    Some(Scope::Project("demo".into()))
}

#[tokio::test]
async fn a_commit_is_tested_only_where_it_stands() {
    let outside = Outside::with(&["grep -qx 4 sum"]).await;
    let here = outside.worktree().await;
    outside.run(&here, &format!("echo 3 > sum && {COMMIT}")).await;
    let checked = outside.look().await;
    assert_eq!((checked.dirty, checked.elsewhere), (vec![], None));
    let commit = checked.commit.unwrap();
    assert!(outside.gates(&commit).await.unwrap().failed.is_some());
    // What is right stands on another branch: the item's own commit is not tested there.
    outside.run(&here, &format!("git switch -qc mine && echo 4 > sum && {COMMIT}")).await;
    let checked = outside.look().await;
    assert_eq!(checked.elsewhere.as_deref(), Some("`mine`"));
    let trouble = outside.gates(&commit).await.unwrap_err();
    assert!(trouble.words.contains("and not on"), "{trouble}");
    assert_eq!(trouble.pauses, None);
}

#[tokio::test]
async fn a_worktree_that_somebody_removed_is_made_again_for_its_gates() {
    let outside = Outside::with(&["grep -qx 4 sum"]).await;
    let here = outside.worktree().await;
    outside.run(&here, &format!("echo 4 > sum && {COMMIT}")).await;
    std::fs::remove_dir_all(&here).unwrap();
    let commit = outside.look().await.commit.unwrap();
    assert_eq!(outside.gates(&commit).await.unwrap(), GateOutcome::default());
}

#[tokio::test]
async fn progress_is_content_and_not_the_time_of_a_file() {
    let outside = Outside::with(&[]).await;
    let here = outside.worktree().await;
    outside.run(&here, "echo 3 > sum && echo new > other").await;
    let before = outside.look().await.fingerprint;
    outside.run(&here, "touch -d 2001-01-01 sum other").await;
    assert_eq!(outside.look().await.fingerprint, before);
    outside.run(&here, "echo 4 > sum").await;
    assert_ne!(outside.look().await.fingerprint, before);
    outside.run(&here, "echo 3 > sum").await;
    assert_eq!(outside.look().await.fingerprint, before, "to and fro is no progress");
    outside.run(&here, COMMIT).await;
    assert_ne!(outside.look().await.fingerprint, before);
}

#[tokio::test]
async fn a_gate_or_a_base_that_is_missing_stops_the_project_until_it_is_there() {
    let outside = Outside::with(&["no-such-gate --all"]).await;
    let here = outside.worktree().await;
    outside.run(&here, &format!("echo 4 > sum && {COMMIT}")).await;
    let commit = outside.look().await.commit.unwrap();
    let missing = outside.gates(&commit).await.unwrap_err();
    assert_eq!(missing.pauses, project());
    let still = outside.workshop.still(&project().unwrap()).await.unwrap();
    assert!(still.contains("`no-such-gate` is not installed"), "{still}");
    outside
        .run(&outside.repository(), "git checkout -q --detach && git branch -qm main gone")
        .await;
    let missing = outside.workshop.check(&outside.item).await.unwrap_err();
    assert_eq!(missing.pauses, project());
    insta::assert_snapshot!(
        missing.words.replace(&outside.repository().display().to_string(), "/demo"),
        @"project demo: the repository /demo has no branch `main`: set `base` to one that it has (gone, item/1-mend-the-sum) and restart"
    );
    assert!(outside.workshop.still(&Scope::Machine).await.is_none());
}

#[tokio::test]
async fn what_could_not_even_begin_is_refused_before_anything_changes() {
    let outside = Outside::with(&["no-such-gate --all"]).await;
    let asked = |outside: &Outside| {
        let (store, id) = (outside.store.clone(), outside.item.id);
        async move { ready(&store, id).await.unwrap_err().to_string() }
    };
    let mut said = vec![asked(&outside).await];
    outside.run(&outside.repository(), "git branch -qm main trunk").await;
    said.push(asked(&outside).await);
    std::fs::remove_dir_all(outside.repository().join(".git")).unwrap();
    said.push(asked(&outside).await);
    std::fs::remove_dir_all(outside.repository()).unwrap();
    said.push(asked(&outside).await);
    let path = outside.repository().display().to_string();
    insta::assert_snapshot!(said.join("\n").replace(&path, "/demo"), @r"
    item 1 cannot be started in demo: the gate `no-such-gate --all` cannot run: `no-such-gate` is not installed, or not on the PATH; install it, or correct the project's `gates` and restart
    item 1 cannot be started in demo: the repository /demo has no branch `main`: set `base` to one that it has (trunk) and restart
    item 1 cannot be started in demo: /demo is not a git repository: run `git init` there and make a first commit, or correct `path` and restart
    item 1 cannot be started in demo: the project's directory /demo does not exist: create it, or correct `path` and restart
    ");
    // What the start itself says better is not said here.
    ready(&outside.store, ItemId(99)).await.unwrap();
    let id = outside.item.id;
    let given_up = StageEvent::Abandoned { reason: "no".to_owned() };
    outside.store.write(move |tx| apply(tx, id, &given_up, &person(), "no")).await.unwrap();
    ready(&outside.store, id).await.unwrap();
}

/// Takes what the gates of the item's commit gave into its decisions, as the loops do.
async fn passes(outside: &Outside, commit: &str) -> Leftovers {
    let outcome = outside.gates(commit).await.unwrap();
    assert_eq!(outcome.failed, None);
    let (id, left) = (outside.item.id, outcome.left.clone());
    let inputs = serde_json::json!({"from": "gates", "fingerprint": left.fingerprint});
    outside
        .store
        .write(move |tx| decisions::record(tx, Some(id), What::Passed, "they pass", &inputs))
        .await
        .unwrap();
    left
}

#[tokio::test]
async fn what_passing_gates_leave_behind_is_no_work_to_be_saved_and_anything_else_is() {
    for (after, rescued) in [("true", 0), ("echo mine > notes.txt", 1), ("echo x >> junk.txt", 1)] {
        let outside = Outside::with(&["touch junk.txt && echo 6 > sum"]).await;
        let here = outside.worktree().await;
        outside.run(&here, &format!("echo 4 > sum && {COMMIT}")).await;
        let commit = outside.look().await.commit.unwrap();
        let left = passes(&outside, &commit).await;
        assert_eq!(left.paths, ["sum", "junk.txt"]);
        outside.run(&here, after).await;
        let kept = outside.workshop.remove_worktree(&"demo".into(), outside.item.id).await.unwrap();
        assert_eq!(kept.rescued.len(), rescued, "{after}");
        assert!(!here.exists());
        assert!(kept.branch.is_some(), "its commit is not on the base yet");
    }
}

#[tokio::test]
async fn a_gate_in_the_worktree_has_its_time_and_no_more() {
    let outside = Outside::configured(&["sleep 60"], "[merge]\ngate_timeout_s = 1\n").await;
    let here = outside.worktree().await;
    outside.run(&here, &format!("echo 4 > sum && {COMMIT}")).await;
    let commit = outside.look().await.commit.unwrap();
    let failed = outside.gates(&commit).await.unwrap().failed.unwrap();
    assert_eq!(failed.words, "the gate `sleep 60` ran out of time after 1 s");
}

//! Projects, worktrees and git, against real git in a temporary directory.

use super::bootstrap::{self, BootstrapError, NewProject, Surroundings};
use super::git::{Git, Identity, MergeTree, RefUpdate, check_url};
use super::worktree::{self, WorktreeError};
use super::{Project, ProjectError, Registry};
use crate::clock::Clock;
use crate::config::{Config, ProjectConfig};
use crate::model::ids::ItemId;
use crate::store::Store;
use crate::store::merge_pulls::Landed;
use std::path::{Path, PathBuf};
use std::process::Command;
use tokio_util::sync::CancellationToken;

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

struct Scene {
    dir: tempfile::TempDir,
    project: Project,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("shop");
        std::fs::create_dir(&repo).unwrap();
        git(&repo, &["init", "-q", "-b", "main"]);
        std::fs::write(repo.join("shop.txt"), "one\n").unwrap();
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "-m", "start"]);
        Self { project: Project::new(settings("shop", repo), false), dir }
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn git(&self, args: &[&str]) -> String {
        git(&self.project.path, args)
    }

    async fn ensure(&self) -> Result<worktree::Worktree, WorktreeError> {
        let cancel = CancellationToken::new();
        worktree::ensure(&self.project, ItemId(7), "Größe ändern!", &self.data(), &cancel).await
    }

    async fn remove(&self) -> Result<worktree::Removed, WorktreeError> {
        worktree::remove(&self.project, ItemId(7), &self.data(), None).await
    }

    fn rescued(&self) -> Vec<String> {
        let text = self.git(&["for-each-ref", "--format=%(refname)", "refs/rescue/7/"]);
        text.lines().map(str::to_owned).collect()
    }
}

fn settings(name: &str, path: PathBuf) -> ProjectConfig {
    ProjectConfig {
        name: name.into(),
        path,
        base: "main".to_owned(),
        gates: Vec::new(),
        setup: Vec::new(),
        room: None,
        qa: crate::model::item::QaMode::Gates,
        push: false,
        mode: crate::config::LandingMode::Merge,
        pr_command: None,
        max_agents: None,
        usd_per_day: None,
        tokens_per_day: None,
    }
}

#[tokio::test]
async fn git_answers_questions_also_about_awkward_names_and_runs_no_hooks() {
    let scene = Scene::new();
    let here = scene.project.git();
    for name in ["hooks/pre-commit", "hooks/post-checkout", "hooks/reference-transaction"] {
        use std::os::unix::fs::PermissionsExt;
        let hook = scene.project.path.join(".git").join(name);
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        std::fs::write(&hook, "#!/bin/sh\ntouch \"$(dirname \"$0\")/../ran\"\nexit 1\n").unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    scene.git(&["config", "core.fsmonitor", "touch .git/ran; false"]);
    std::fs::write(scene.project.path.join("größe \n\"x\".txt"), "").unwrap();
    let names: Vec<_> =
        here.changed_files(true).await.unwrap().into_iter().map(|f| f.path).collect();
    assert_eq!(names, ["größe \n\"x\".txt"]);
    assert!(here.is_dirty().await.unwrap());
    assert_eq!(here.head_branch().await.unwrap().as_deref(), Some("main"));
    let head = here.rev_parse("main").await.unwrap();
    let tree = here.tree_of("main").await.unwrap();
    let author = Identity::parse("Bot <bot@localhost>");
    let next = here.commit_tree(&tree, &[&head], "empty\n", &author).await.unwrap();
    assert_eq!(here.commits_ahead("main", &next).await.unwrap(), 1);
    assert_eq!(here.merge_tree("main", &next).await.unwrap(), MergeTree::Clean(tree));
    let moved = here.update_ref("refs/heads/main", &next, Some(&next), "x").await.unwrap();
    assert_eq!(moved, RefUpdate::Lost);
    let moved = here.update_ref("refs/heads/main", &next, Some(&head), "x").await.unwrap();
    assert_eq!(moved, RefUpdate::Moved);
    assert!(here.diff_stat(&head, &next).await.unwrap().is_empty());
    assert!(!scene.project.path.join(".git/ran").exists(), "a hook ran");
    assert!(here.rev_parse("--help").await.is_err());
}

#[tokio::test]
async fn git_never_looks_above_the_given_directory() {
    let scene = Scene::new();
    let below = scene.project.path.join("below");
    std::fs::create_dir(&below).unwrap();
    assert!(!Git::at(&below).is_repo().await.unwrap());
    assert!(Git::at(&below).changed_files(true).await.is_err());
}

#[test]
fn urls_with_credentials_or_odd_schemes_are_refused_with_the_remedy() {
    for fine in [
        "https://example.org/a/b.git",
        "ssh://git@example.org/a",
        "git://example.org/a",
        "git@example.org:a/b.git",
    ] {
        assert_eq!(check_url(fine), Ok(()), "{fine}");
    }
    for (bad, reason) in [
        ("https://token@example.org/a", "credentials"),
        ("ssh://git:pw@example.org/a", "credentials"),
        ("file:///etc", "not allowed"),
        ("http://example.org/a", "not allowed"),
        ("ext::sh -c id", "space"),
        ("--upload-pack=x:y", "must begin"),
        ("/etc", "must begin"),
        ("ssh://-oProxyCommand=x/a", "no host"),
    ] {
        let error = check_url(bad).unwrap_err();
        assert!(error.contains(reason), "{bad}: {error}");
    }
}

#[tokio::test]
async fn a_project_that_cannot_be_worked_in_says_what_to_change() {
    let scene = Scene::new();
    scene.git(&["branch", "trunk"]);
    let mut project = scene.project.clone();
    project.base = "master".to_owned();
    let error = project.check().await.unwrap_err();
    assert!(matches!(error, ProjectError::BaseMissing { .. }));
    assert!(error.to_string().contains("main, trunk"), "{error}");
    project.path = scene.project.path.join("sub");
    assert!(matches!(project.check().await.unwrap_err(), ProjectError::PathMissing { .. }));
    std::fs::create_dir(&project.path).unwrap();
    let error = project.check().await.unwrap_err().to_string();
    assert!(error.contains("lies inside"), "{error}");
    scene.project.check().await.unwrap();
}

#[tokio::test]
async fn a_worktree_is_made_once_set_up_once_and_reused() {
    let mut scene = Scene::new();
    scene.project.setup = vec!["echo run >> ../runs".to_owned()];
    let made = scene.ensure().await.unwrap();
    assert!(made.created && made.path.ends_with("worktrees/shop/7"), "{made:?}");
    assert_eq!(made.branch, "item/7-gr-e-ndern");
    let again = scene.ensure().await.unwrap();
    assert!(!again.created);
    let runs = std::fs::read_to_string(made.path.with_file_name("runs")).unwrap();
    assert_eq!(runs, "run\n");
    // The base goes on: a worktree without work of its own goes along, one with work says so.
    scene.git(&["commit", "-q", "--allow-empty", "-m", "on"]);
    assert_eq!(scene.ensure().await.unwrap().behind, 0);
    assert_eq!(git(&made.path, &["rev-parse", "HEAD"]), scene.git(&["rev-parse", "main"]));
    std::fs::write(made.path.join("x"), "x").unwrap();
    scene.git(&["commit", "-q", "--allow-empty", "-m", "and on"]);
    assert_eq!(scene.ensure().await.unwrap().behind, 1);
}

#[tokio::test]
async fn what_a_kill_left_half_made_is_finished() {
    let mut scene = Scene::new();
    scene.project.setup = vec!["test ! -e ../fail".to_owned()];
    let path = worktree::path_of(&scene.project, ItemId(7), &scene.data());
    // Killed after the branch, with a half-written directory.
    scene.git(&["branch", "item/7-gr-e-ndern"]);
    std::fs::create_dir_all(&path).unwrap();
    std::fs::write(path.join("shop.txt"), "on").unwrap();
    // And the set-up fails the first time.
    std::fs::write(path.with_file_name("fail"), "").unwrap();
    let error = scene.ensure().await.unwrap_err();
    assert!(matches!(error, WorktreeError::SetupFailed { .. }), "{error}");
    std::fs::remove_file(path.with_file_name("fail")).unwrap();
    scene.ensure().await.unwrap();
    assert_eq!(git(&path, &["status", "--porcelain"]), "");
    // Registered with git, but its directory is gone.
    std::fs::remove_dir_all(&path).unwrap();
    assert!(scene.ensure().await.unwrap().created);
    // Killed while git made it: git's own lock is still there.
    std::fs::remove_file(path.with_extension("ready")).unwrap();
    let lock = scene.project.path.join(".git/worktrees/7/locked");
    std::fs::write(&lock, "initializing").unwrap();
    assert!(scene.ensure().await.unwrap().created);
    // Its `.git` is gone: what lies there is put aside, not deleted.
    std::fs::remove_file(path.join(".git")).unwrap();
    std::fs::write(path.join("mine.txt"), "work").unwrap();
    assert!(scene.ensure().await.unwrap().created);
    let entries = std::fs::read_dir(path.parent().unwrap()).unwrap().flatten();
    let aside = entries.map(|e| e.path()).find(|p| p.to_string_lossy().contains("broken")).unwrap();
    assert_eq!(std::fs::read_to_string(aside.join("mine.txt")).unwrap(), "work");
}

#[tokio::test]
async fn a_worktree_on_another_branch_is_brought_back_unless_it_has_work() {
    let scene = Scene::new();
    let path = scene.ensure().await.unwrap().path;
    git(&path, &["switch", "-q", "--detach"]);
    git(&path, &["commit", "-q", "--allow-empty", "-m", "lost?"]);
    let lost = git(&path, &["rev-parse", "HEAD"]);
    scene.ensure().await.unwrap();
    assert_eq!(git(&path, &["branch", "--show-current"]), "item/7-gr-e-ndern");
    assert_eq!(scene.git(&["rev-parse", &scene.rescued()[0]]), lost);
    git(&path, &["switch", "-q", "-c", "other"]);
    std::fs::write(path.join("x"), "x").unwrap();
    let error = scene.ensure().await.unwrap_err().to_string();
    assert!(error.contains("`other`") && error.contains("git switch"), "{error}");
}

#[tokio::test]
async fn a_removed_worktree_leaves_uncommitted_new_and_stashed_work_under_rescue_refs() {
    let scene = Scene::new();
    let path = scene.ensure().await.unwrap().path;
    std::fs::write(path.join("shop.txt"), "stashed\n").unwrap();
    git(&path, &["stash", "-q"]);
    std::fs::write(path.join("shop.txt"), "changed\n").unwrap();
    std::fs::write(path.join("new.txt"), "new\n").unwrap();
    let removed = scene.remove().await.unwrap();
    assert_eq!(removed.rescued, scene.rescued());
    assert_eq!(removed.rescued.len(), 2);
    let (files, stash) = (&removed.rescued[0], &removed.rescued[1]);
    assert_eq!(scene.git(&["show", &format!("{files}:shop.txt")]), "changed");
    assert_eq!(scene.git(&["show", &format!("{files}:new.txt")]), "new");
    assert_eq!(scene.git(&["show", &format!("{stash}:shop.txt")]), "stashed");
    assert!(!path.exists() && !path.with_extension("ready").exists());
    assert_eq!(scene.git(&["worktree", "list"]).lines().count(), 1);
    assert_eq!(removed.branch_kept, None);
    assert_eq!(scene.remove().await.unwrap(), worktree::Removed::default());
}

#[tokio::test]
async fn rescuing_twice_makes_one_ref_and_what_cannot_be_rescued_stays() {
    let scene = Scene::new();
    let path = scene.ensure().await.unwrap().path;
    std::fs::write(path.join("new.txt"), "new\n").unwrap();
    let first = worktree::rescue(&Git::at(&path), ItemId(7)).await.unwrap();
    let second = worktree::rescue(&Git::at(&path), ItemId(7)).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(scene.rescued(), first);
    // A repository in the worktree would be saved as a mere link.
    std::fs::create_dir(path.join("inner")).unwrap();
    git(&path.join("inner"), &["init", "-q"]);
    git(&path.join("inner"), &["commit", "-q", "--allow-empty", "-m", "x"]);
    let error = scene.remove().await.unwrap_err();
    assert!(matches!(error, WorktreeError::CannotRescue { .. }), "{error}");
    assert!(error.to_string().contains("inner"), "{error}");
    assert!(path.join("new.txt").exists());
}

#[tokio::test]
async fn a_branch_is_deleted_only_when_the_base_holds_what_it_changed() {
    let scene = Scene::new();
    let path = scene.ensure().await.unwrap().path;
    std::fs::write(path.join("new.txt"), "new\n").unwrap();
    git(&path, &["add", "-A"]);
    git(&path, &["commit", "-q", "-m", "work"]);
    let removed = scene.remove().await.unwrap();
    assert_eq!(removed.branch_kept.as_deref(), Some("item/7-gr-e-ndern"));
    assert_eq!(removed.rescued, [""; 0]);
    let path = scene.ensure().await.unwrap().path;
    assert!(path.join("new.txt").exists());
    scene.git(&["merge", "-q", "--squash", "item/7-gr-e-ndern"]);
    scene.git(&["commit", "-q", "-m", "squashed"]);
    assert_eq!(scene.remove().await.unwrap().branch_kept, None);
    assert_eq!(scene.git(&["branch", "--list", "item/*"]), "");
}

#[tokio::test]
async fn a_branch_that_was_merged_goes_also_when_the_base_has_changed_the_same_lines_since() {
    let scene = Scene::new();
    let branch = "item/7-gr-e-ndern";
    let path = scene.ensure().await.unwrap().path;
    std::fs::write(path.join("shop.txt"), "by the item\n").unwrap();
    git(&path, &["commit", "-q", "-a", "-m", "work"]);
    let commit = git(&path, &["rev-parse", "HEAD"]);
    scene.git(&["merge", "-q", "--squash", branch]);
    scene.git(&["commit", "-q", "-m", "squashed"]);
    let landed = Landed { commit, landed: scene.git(&["rev-parse", "main"]) };
    std::fs::write(scene.project.path.join("shop.txt"), "by somebody else\n").unwrap();
    scene.git(&["commit", "-q", "-a", "-m", "later"]);
    let remove = async |landed: Option<&Landed>| {
        let removed = worktree::remove(&scene.project, ItemId(7), &scene.data(), landed).await;
        removed.unwrap().branch_kept
    };
    assert_eq!(remove(None).await.as_deref(), Some(branch), "nothing tells that it was merged");
    let gone =
        Landed { landed: "0123456789012345678901234567890123456789".to_owned(), ..landed.clone() };
    assert_eq!(
        remove(Some(&gone)).await.as_deref(),
        Some(branch),
        "what landed is not on the base"
    );
    // A commit that was made after the merge is on no other branch.
    let path = scene.ensure().await.unwrap().path;
    git(&path, &["commit", "-q", "--allow-empty", "-m", "more"]);
    assert_eq!(remove(Some(&landed)).await.as_deref(), Some(branch), "not all of it was merged");
    let path = scene.ensure().await.unwrap().path;
    git(&path, &["reset", "-q", "--hard", "HEAD^"]);
    assert_eq!(remove(Some(&landed)).await, None);
    assert_eq!(scene.git(&["branch", "--list", "item/*"]), "");
}

struct Making {
    dir: tempfile::TempDir,
    store: Store,
    registry: Registry,
}

impl Making {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
        let config: Config = toml::from_str("[llm]\nprovider = \"replay\"").unwrap();
        let registry = Registry::load(&store, &config).await.unwrap();
        Self { dir, store, registry }
    }

    fn places(&self) -> PathBuf {
        self.dir.path().join("projects")
    }

    async fn create(&self, new: NewProject) -> Result<bootstrap::Created, BootstrapError> {
        let surroundings = Surroundings {
            projects_dir: self.places(),
            config_dir: None,
            author: "Musher <musher@localhost>".to_owned(),
        };
        bootstrap::create(&self.registry, &surroundings, new, |_line| {}).await
    }

    fn left(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.places()) else { return Vec::new() };
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

fn new_project(name: &str) -> NewProject {
    NewProject {
        name: name.to_owned(),
        stack: Some("rust".to_owned()),
        git_url: None,
        path: None,
        host_only: true,
        room: None,
    }
}

#[tokio::test]
async fn a_new_project_is_a_repository_with_a_commit_gates_and_a_place_in_the_books() {
    let making = Making::new().await;
    let created = making.create(new_project("shop")).await.unwrap();
    assert_eq!(created.stack.as_deref(), Some("rust"));
    created.project.check().await.unwrap();
    assert_eq!(git(&created.project.path, &["status", "--porcelain"]), "");
    assert_eq!(making.left(), ["shop"]);
    // It survives a restart.
    let config: Config = toml::from_str("[llm]\nprovider = \"replay\"").unwrap();
    let registry = Registry::load(&making.store, &config).await.unwrap();
    assert_eq!(registry.find(&"shop".into()).unwrap().gates, ["cargo test"]);
}

#[tokio::test]
async fn a_refused_or_failed_new_project_leaves_nothing_behind() {
    let making = Making::new().await;
    let other = making.dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::write(other.join("mine"), "").unwrap();
    let cases: [(NewProject, &str); 7] = [
        (new_project("Shop"), "lower-case"),
        (NewProject { stack: Some("cobol".to_owned()), ..new_project("shop") }, "take one of go"),
        (NewProject { host_only: false, ..new_project("shop") }, "--host-only"),
        (NewProject { path: Some(other.clone()), ..new_project("shop") }, "not an empty directory"),
        (NewProject { path: Some("../x".into()), ..new_project("shop") }, ".."),
        (
            NewProject { git_url: Some("https://a:b@c/d".to_owned()), ..new_project("shop") },
            "credentials",
        ),
        (
            NewProject { git_url: Some("https://127.0.0.1:1/d".to_owned()), ..new_project("shop") },
            "getting the repository failed, and everything was undone",
        ),
    ];
    for (new, reason) in cases {
        let error = making.create(new).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(!making.places().exists(), "{error}");
        assert_eq!(making.registry.list(), []);
    }
    making.create(new_project("shop")).await.unwrap();
}

#[tokio::test]
async fn of_two_new_projects_with_one_name_one_wins() {
    let making = Making::new().await;
    let elsewhere =
        NewProject { path: Some(making.dir.path().join("elsewhere")), ..new_project("shop") };
    let (one, two) = tokio::join!(making.create(new_project("shop")), making.create(elsewhere));
    let (won, lost) = if one.is_ok() { (one, two) } else { (two, one) };
    won.unwrap();
    assert!(matches!(lost.unwrap_err(), BootstrapError::NameTaken { .. }));
    assert_eq!(making.registry.list().len(), 1);
}

#[tokio::test]
async fn a_new_project_that_was_cut_off_is_undone_or_finished_at_the_next_start() {
    use crate::store::projects::{self, Begun};
    let making = Making::new().await;
    let partial = making.places().join(".half.musher-new");
    std::fs::create_dir_all(partial.join(".git")).unwrap();
    let half = Begun { name: "half".into(), partial, settings: None };
    let path = making.places().join("whole");
    std::fs::create_dir_all(path.join(".git")).unwrap();
    let partial = making.places().join(".whole.musher-new");
    let whole = Begun { name: "whole".into(), partial, settings: Some(settings("whole", path)) };
    making
        .store
        .write(move |tx| {
            Ok::<_, crate::store::StoreError>((
                projects::begin(tx, &half)?,
                projects::begin(tx, &whole)?,
            ))
        })
        .await
        .unwrap();
    bootstrap::reconcile(&making.registry).await.unwrap();
    assert_eq!(making.left(), ["whole"]);
    let names: Vec<String> = making.registry.list().into_iter().map(|p| p.name.0).collect();
    assert_eq!(names, ["whole"]);
    // One whose future was dropped is undone by the next try.
    let dropped = making.create(new_project("half"));
    let _ = tokio::time::timeout(std::time::Duration::from_millis(3), dropped).await;
    making.create(new_project("half")).await.unwrap();
}

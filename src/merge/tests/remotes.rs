//! Pushing and pull requests, against a bare repository with real hooks.

use super::*;
use crate::store::merge_pulls;
use std::os::unix::fs::PermissionsExt;

impl Scene {
    /// With a bare repository as `origin`, to which the base is pushed.
    pub(super) fn with_remote(gates: &[&str]) -> Self {
        let mut scene = Self::new(gates);
        let dir = scene.dir.path();
        git(dir, &["clone", "-q", "--bare", scene.repo().to_str().unwrap(), "remote.git"]);
        scene.git(&["remote", "add", "origin", scene.remote().to_str().unwrap()]);
        scene.config.projects[0].push = true;
        scene
    }

    /// As [`Scene::with_remote`], in which people merge; the command prints a URL.
    pub(super) fn with_pulls(gates: &[&str]) -> Self {
        let mut scene = Self::with_remote(gates);
        let project = &mut scene.config.projects[0];
        project.mode = LandingMode::Pr;
        let log = scene.dir.path().join("opened");
        project.pr_command = Some(format!(
            "echo \"$MUSHER_ITEM $MUSHER_BRANCH $MUSHER_BASE $MUSHER_TITLE $MUSHER_PR_URL\" >> {}; \
             echo see https://forge.example.org/pulls/$MUSHER_ITEM",
            log.display()
        ));
        scene.config.merge.pr_poll_s = 1;
        scene
    }

    pub(super) fn remote(&self) -> PathBuf {
        self.dir.path().join("remote.git")
    }

    pub(super) fn remote_main(&self) -> String {
        git(&self.remote(), &["rev-parse", "main"])
    }

    /// Puts a hook into the remote; `None` takes it away.
    fn hook(&self, name: &str, text: Option<&str>) {
        let path = self.remote().join("hooks").join(name);
        match text {
            Some(text) => {
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            None => std::fs::remove_file(path).unwrap(),
        }
    }

    /// Somebody else does something in a clone and pushes it.
    pub(super) fn elsewhere(&self, act: impl Fn(&Path)) {
        push_elsewhere(&self.remote(), act);
    }
}

fn push_elsewhere(remote: &Path, act: impl Fn(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["clone", "-q", remote.to_str().unwrap(), "clone"]);
    let clone = dir.path().join("clone");
    act(&clone);
    git(&clone, &["push", "-q", "origin", "main"]);
}

fn commit_file(repo: &Path, file: &str) {
    std::fs::write(repo.join(file), "x\n").unwrap();
    git(repo, &["add", "-A"]);
    git(repo, &["commit", "-q", "-m", "by somebody else"]);
}

#[tokio::test]
async fn what_is_merged_is_on_the_remote_first() {
    let mut scene = Scene::with_remote(&["test -e 1.txt"]);
    scene.config.merge.author = "The Team <team@example.org>".to_owned();
    scene.queue_files(&[(1, "1.txt"), (2, "2.txt")]).await;
    let (repo, remote) = (scene.repo(), scene.remote());
    let service = scene.service().await.watched(at_step(Step::Pushed, move |_nth| {
        let here = git(&repo, &["rev-list", "--count", "main"]);
        let there = git(&remote, &["rev-list", "--count", "main"]);
        assert_eq!((here.as_str(), there.as_str()), ("1", "3"));
    }));
    scene.run_until(service, 2).await;
    assert_eq!(scene.outcomes().await, (vec![1, 2], vec![]));
    assert_eq!(scene.remote_main(), scene.git(&["rev-parse", "main"]));
    assert_eq!(scene.git(&["rev-parse", "origin/main"]), scene.remote_main());
    let authors = scene.git(&["log", "-2", "--format=%an <%ae>, %cn", "main"]);
    let author = "The Team <team@example.org>, The Team";
    assert_eq!(authors, format!("{author}\n{author}"), "as configured");
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn a_refused_push_is_a_failure_of_its_own_and_leaves_the_base_alone_everywhere() {
    for hook in ["pre-receive", "update"] {
        let scene = Scene::with_remote(&[]);
        let token = "https://ann:hunter22@git.example.org/x";
        scene.hook(hook, Some(&format!("echo 'main is protected, see {token}' >&2; exit 1")));
        let before = scene.git(&["rev-parse", "main"]);
        scene.queue_files(&[(1, "1.txt")]).await;
        let events = scene.run(1).await;
        let (kind, output) = Scene::failure(&events);
        let MergeFailureKind::PushRefused { reason } = kind else { panic!("{kind:?}") };
        assert!(reason.contains("main is protected"), "{hook}: {reason}");
        assert!(reason.contains("[remote rejected]"), "{hook}: {reason}");
        assert!(!format!("{reason}{output}").contains("hunter22"), "{reason}");
        assert_eq!(scene.git(&["rev-parse", "main"]), before);
        assert_eq!(scene.remote_main(), before);
        assert_eq!(scene.git(&["status", "--porcelain"]), "");
        scene.hook(hook, None);
        let commit = scene.git(&["rev-parse", "item/1-work"]);
        scene.queue(1, &commit, 0).await;
        scene.run(2).await;
        assert_eq!(scene.outcomes().await.0, [1], "and then it lands");
    }
}

#[tokio::test]
async fn when_several_are_refused_together_each_is_tried_by_itself() {
    let scene = Scene::with_remote(&["echo $MUSHER_ITEMS >> {dir}/runs"]);
    let refuse = "while read old new ref; do
        git ls-tree --name-only $new | grep -q secret.txt && echo 'no secrets' >&2 && exit 1
    done; exit 0";
    scene.hook("pre-receive", Some(refuse));
    scene.queue_files(&[(1, "1.txt"), (2, "secret.txt"), (3, "3.txt")]).await;
    scene.run(3).await;
    let (merged, failed) = scene.outcomes().await;
    assert_eq!(merged, [1, 3]);
    assert!(
        matches!(&failed[..], [(2, MergeFailureKind::PushRefused { reason })] if reason.contains("no secrets")),
        "{failed:?}"
    );
    assert_eq!(scene.lines("runs"), ["1 2 3", "1", "2", "3"]);
    assert_eq!(scene.remote_main(), scene.git(&["rev-parse", "main"]));
}

#[tokio::test]
async fn a_base_that_has_moved_on_the_remote_is_fetched_and_merged_upon() {
    let scene = Scene::with_remote(&["test -e theirs.txt"]);
    scene.elsewhere(|clone| commit_file(clone, "theirs.txt"));
    scene.queue_files(&[(1, "1.txt")]).await;
    scene.run(1).await;
    assert_eq!(scene.outcomes().await, (vec![1], vec![]));
    assert_eq!(scene.remote_main(), scene.git(&["rev-parse", "main"]));
    assert!(scene.repo().join("theirs.txt").exists() && scene.repo().join("1.txt").exists());
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
}

#[tokio::test]
async fn a_base_that_moves_on_the_remote_during_the_test_is_merged_upon_again() {
    let scene = Scene::with_remote(&["echo run >> {dir}/runs"]);
    scene.queue_files(&[(1, "1.txt")]).await;
    let remote = scene.remote();
    let service = scene.service().await.watched(at_step(Step::Tested, move |nth| {
        if nth == 1 {
            push_elsewhere(&remote, |clone| commit_file(clone, "theirs.txt"));
        }
    }));
    scene.run_until(service, 1).await;
    assert_eq!(scene.outcomes().await, (vec![1], vec![]));
    assert_eq!(scene.lines("runs").len(), 2);
    assert_eq!(scene.remote_main(), scene.git(&["rev-parse", "main"]));
    assert_eq!(scene.git(&["log", "-1", "--format=%s", "main"]), "1 story Add it");
    assert!(scene.repo().join("theirs.txt").exists());
}

#[tokio::test]
async fn a_checkout_with_changes_is_left_alone_when_the_base_follows_the_remote() {
    let scene = Scene::with_remote(&[]);
    scene.elsewhere(|clone| commit_file(clone, "theirs.txt"));
    std::fs::write(scene.repo().join("shop.txt"), "my own work\n").unwrap();
    scene.queue_files(&[(1, "1.txt")]).await;
    scene.run(1).await;
    let mine = std::fs::read_to_string(scene.repo().join("shop.txt")).unwrap();
    assert_eq!(mine, "my own work\n");
    assert!(!scene.repo().join("theirs.txt").exists());
    let posted = scene.posted().await;
    assert!(posted.iter().any(|text| text.contains("was left as it is")), "{posted:?}");
    scene.git(&["restore", "shop.txt"]);
    let service = scene.service().await;
    let project = service.projects.find(&"shop".into()).unwrap();
    checkout::heal(&scene.store, &project).await.unwrap();
    assert_eq!(scene.git(&["status", "--porcelain"]), "");
    assert!(scene.repo().join("theirs.txt").exists() && scene.repo().join("1.txt").exists());
}

#[tokio::test]
async fn bases_that_have_gone_apart_are_a_persons_to_put_together() {
    let scene = Scene::with_remote(&[]);
    scene.elsewhere(|clone| commit_file(clone, "theirs.txt"));
    commit_file(&scene.repo(), "mine.txt");
    scene.queue_files(&[(1, "1.txt")]).await;
    let here = scene.git(&["rev-parse", "main"]);
    let pause = scene.run_to_pause(scene.service().await).await;
    assert!(pause.reason.contains("have gone apart"), "{pause:?}");
    assert_eq!(scene.git(&["rev-parse", "main"]), here);
    assert_eq!((scene.events().await, scene.posted().await.len()), (vec![], 1));
    scene.git(&["rebase", "-q", "origin/main"]);
    scene.try_now().await;
    scene.run(1).await;
    assert_eq!(scene.remote_main(), scene.git(&["rev-parse", "main"]));
    assert_eq!(scene.git(&["rev-list", "--count", "main"]), "4", "what was only here went along");
}

#[tokio::test]
async fn a_remote_that_is_not_there_holds_the_queue_up_and_no_message_has_its_credentials() {
    let scene = Scene::with_remote(&[]);
    scene.git(&["remote", "set-url", "origin", "http://ann:hunter22@127.0.0.1:1/shop.git"]);
    scene.queue_files(&[(1, "1.txt"), (2, "2.txt")]).await;
    let pause = scene.run_to_pause(scene.service().await).await;
    assert!(pause.reason.contains("ls-remote"), "{pause:?}");
    let posted = scene.posted().await;
    assert_eq!(posted.len(), 1);
    assert!(!format!("{pause:?}{posted:?}").contains("hunter22"), "{posted:?}");
    scene.git(&["remote", "set-url", "origin", scene.remote().to_str().unwrap()]);
    scene.try_now().await;
    scene.run(2).await;
    assert_eq!(scene.outcomes().await.0, [1, 2]);
}

#[tokio::test]
async fn a_remote_without_the_base_gets_it() {
    let scene = Scene::with_remote(&[]);
    git(&scene.remote(), &["update-ref", "-d", "refs/heads/main"]);
    scene.queue_files(&[(1, "1.txt")]).await;
    scene.run(1).await;
    assert_eq!(scene.remote_main(), scene.git(&["rev-parse", "main"]));
}

/// How people merge a pull request of item 1.
type Merge = fn(&Path);

#[tokio::test]
async fn with_pull_requests_an_item_is_done_when_the_remote_holds_its_work_however_it_got_there() {
    let merge: Merge = |clone| {
        git(clone, &["merge", "-q", "--no-ff", "-m", "pull 1", "origin/item/1-work"]);
    };
    let squash: Merge = |clone| {
        git(clone, &["merge", "-q", "--squash", "origin/item/1-work"]);
        git(clone, &["commit", "-q", "-m", "pull 1"]);
        // And on it goes, in the very file.
        std::fs::write(clone.join("1.txt"), "changed again\n").unwrap();
        git(clone, &["commit", "-q", "-a", "-m", "later"]);
    };
    let rebase: Merge = |clone| {
        git(clone, &["cherry-pick", "origin/item/1-work"]);
    };
    for how in [merge, squash, rebase] {
        let scene = Scene::with_pulls(&["echo $MUSHER_ITEMS >> {dir}/runs"]);
        scene.queue_files(&[(1, "1.txt"), (2, "2.txt")]).await;
        let before = scene.git(&["rev-parse", "main"]);
        let opened = async || scene.lines("opened").len() == 2 && scene.posted().await.len() == 2;
        scene.run_while(scene.service().await, opened).await;
        assert_eq!(scene.lines("runs"), ["1", "2"]);
        assert_eq!(scene.lines("opened")[0].trim_end(), "1 item/1-work main Add it");
        let there = git(&scene.remote(), &["rev-parse", "item/1-work"]);
        assert_eq!(there, scene.git(&["rev-parse", "item/1-work"]));
        let pull = scene.store.read(|conn| merge_pulls::find(conn, ItemId(1))).await.unwrap();
        assert_eq!(pull.unwrap().url, "https://forge.example.org/pulls/1");
        let posted = scene.posted().await;
        assert!(posted[0].contains("pull request open: https://forge.example.org/pulls/1"));
        // Nobody has merged it: nothing happens, also after a restart, and the base stands.
        assert_eq!((scene.events().await, scene.queued().await), (vec![], vec![1, 2]));
        assert_eq!(
            (scene.remote_main(), scene.git(&["rev-parse", "main"])),
            (before.clone(), before)
        );
        scene.elsewhere(|clone| {
            commit_file(clone, "unrelated.txt");
            how(clone);
        });
        let events = scene.run(1).await;
        let [Event::Merged { item: ItemId(1), commit }] = &events[..] else { panic!("{events:?}") };
        git(&scene.remote(), &["merge-base", "--is-ancestor", commit, "main"]);
        assert_eq!(scene.queued().await, [2]);
        assert_eq!(scene.git(&["rev-parse", "main"]), scene.remote_main(), "the base followed");
        assert_eq!(scene.lines("opened").len(), 2, "opened once each");
    }
}

#[tokio::test]
async fn a_pull_request_is_renewed_with_a_new_commit() {
    let scene = Scene::with_pulls(&[]);
    scene.queue_files(&[(1, "1.txt")]).await;
    let opened = async |count| scene.posted().await.len() == count;
    scene.run_while(scene.service().await, async || opened(1).await).await;
    let place = scene.dir.path().join("again");
    scene.git(&["worktree", "add", "-q", place.to_str().unwrap(), "item/1-work"]);
    commit_file(&place, "more.txt");
    scene.queue(1, &git(&place, &["rev-parse", "HEAD"]), 0).await;
    scene.run_while(scene.service().await, async || opened(2).await).await;
    let there = git(&scene.remote(), &["rev-parse", "item/1-work"]);
    assert_eq!(there, scene.git(&["rev-parse", "item/1-work"]));
    assert!(scene.lines("opened")[1].ends_with("https://forge.example.org/pulls/1"));
}

#[tokio::test]
async fn what_the_forge_does_not_take_is_a_refused_push() {
    for (command, hook, words) in [
        ("echo no credentials; exit 4", None, "failed with exit 4"),
        ("echo done", None, "printed no URL"),
        (
            "echo https://forge.example.org/1",
            Some("echo 'no such branches' >&2; exit 1"),
            "no such",
        ),
    ] {
        let mut scene = Scene::with_pulls(&[]);
        scene.config.projects[0].pr_command = Some(command.to_owned());
        if let Some(hook) = hook {
            scene.hook("pre-receive", Some(hook));
        }
        scene.queue_files(&[(1, "1.txt")]).await;
        let events = scene.run(1).await;
        let (kind, output) = Scene::failure(&events);
        let MergeFailureKind::PushRefused { reason } = kind else { panic!("{kind:?}") };
        assert!(reason.contains(words), "{reason}: {output}");
    }
}

#[tokio::test]
async fn in_a_project_with_pull_requests_what_conflicts_or_fails_is_given_back_first() {
    let scene = Scene::with_pulls(&["test ! -e broken.txt"]);
    scene.elsewhere(|clone| {
        std::fs::write(clone.join("shop.txt"), "uno\ntwo\nthree\n").unwrap();
        git(clone, &["commit", "-q", "-a", "-m", "theirs"]);
    });
    let commit = scene.branch(1, "shop.txt", "ONE\ntwo\nthree\n");
    scene.queue(1, &commit, 0).await;
    scene.queue_files(&[(2, "broken.txt")]).await;
    scene.run(2).await;
    let (merged, failed) = scene.outcomes().await;
    assert_eq!(merged, Vec::<i64>::new());
    assert!(
        matches!(
            &failed[..],
            [(1, MergeFailureKind::Conflict { .. }), (2, MergeFailureKind::GateFailed { .. })]
        ),
        "{failed:?}"
    );
    assert!(scene.lines("opened").is_empty());
}

#[tokio::test]
async fn a_protected_branch_stops_the_queue_instead_of_every_item_and_says_so_once() {
    let scene = Scene::with_remote(&["echo $MUSHER_ITEMS >> {dir}/runs"]);
    scene.hook("pre-receive", Some("echo 'main is protected' >&2; exit 1"));
    let files: Vec<(i64, String)> = (1..=5).map(|item| (item, format!("{item}.txt"))).collect();
    let files: Vec<(i64, &str)> = files.iter().map(|(item, file)| (*item, &file[..])).collect();
    scene.queue_files(&files).await;
    let service = scene.service().await;
    let pause = scene.run_to_pause(service.clone()).await;
    assert!(pause.reason.contains("refuses every push"), "{}", pause.reason);
    assert!(pause.reason.contains("main is protected"), "{}", pause.reason);
    assert_eq!(scene.lines("runs"), ["1 2 3 4 5", "1", "2"]);
    let (merged, failed) = scene.outcomes().await;
    assert_eq!((merged, failed.len()), (vec![], 1), "the first was blamed before the second spoke");
    let told = async || {
        let posted = scene.posted().await;
        posted.iter().filter(|text| text.contains("stands still")).count()
    };
    assert_eq!(told().await, 1);
    // Tried again, it is still so: nobody hears of it again, and no further item is blamed.
    scene.store.write(|tx| merge_state::try_now(tx, &"shop".into())).await.unwrap();
    let runs = async || scene.lines("runs").len() == 4 && scene.pause().await.unwrap().tries == 2;
    scene.run_while(service.clone(), runs).await;
    assert_eq!((told().await, scene.outcomes().await.1.len()), (1, 1));
    scene.hook("pre-receive", None);
    scene.store.write(|tx| merge_state::try_now(tx, &"shop".into())).await.unwrap();
    scene.run_until(service, 5).await;
    assert_eq!(scene.outcomes().await.0, [2, 3, 4, 5]);
}

#[tokio::test]
async fn a_pull_request_that_stays_open_is_brought_to_mind() {
    let mut scene = Scene::with_pulls(&[]);
    scene.config.merge.merge_age_warn_s = 3600;
    scene.queue_files(&[(1, "1.txt")]).await;
    let pull = merge_pulls::Pull {
        item: ItemId(1),
        branch: "item/1-work".to_owned(),
        commit: scene.git(&["rev-parse", "item/1-work"]),
        url: "https://forge.example.org/pulls/1".to_owned(),
        seen: String::new(),
    };
    scene.store.write(move |tx| merge_pulls::put(tx, &"shop".into(), &pull)).await.unwrap();
    let service = scene.service().await;
    let look = async |hour: i64| {
        let opened = scene.store.clock().millis() - hour * 3_600_000 - 1_000;
        let backdate = move |tx: &Tx<'_>| {
            tx.execute("UPDATE merge_pulls SET opened_at = ?1", [opened]).map_err(StoreError::from)
        };
        scene.store.write(backdate).await.unwrap();
        service.look_around().await;
        // Another server's looks find what was said.
        scene.service().await.look_around().await;
        scene.posted().await.len()
    };
    let counts = [look(23).await, look(24).await, look(47).await, look(48).await];
    assert_eq!(counts, [0, 1, 1, 2]);
    let posted = scene.posted().await;
    assert!(posted[0].contains("has been open for 24 h 0 min"), "{posted:?}");
    assert!(posted[0].contains("`move 1 coding`"), "{posted:?}");
}

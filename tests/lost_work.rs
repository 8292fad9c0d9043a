//! Whatever becomes of an item, nobody's work is lost: it is on a branch, or under `refs/rescue`.
//! And the person's own checkout is theirs: nothing in it is touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::support::desk::{Desk, WORK};
use crate::support::repository::Repository;
use crate::support::team::{Step, commit, done, play, sh};
use crate::support::until_within;

/// A desk whose agent commits one file, leaves another uncommitted and asks a question; the person
/// has unsaved work of their own in the checkout.
async fn half_done(repository: Repository) -> Desk {
    repository.write("README.md", "half written by Ann\n");
    repository.write("notes.txt", "Ann's\n");
    let mut desk = Desk::new(vec![repository]).await;
    desk.musher.built_in_agent("coder-1");
    play(&desk.model, |_worker, _asked| {
        vec![
            commit("committed.txt", "first half"),
            sh("echo 'second half' > uncommitted.txt && git stash list"),
            Step::Call("ask_human", json!({"question": "Shall I go on?"})),
        ]
    });
    desk.start();
    let id = desk.file("Half the work").await;
    desk.begin(id, None).await;
    desk.hear("Shall I go on?").await;
    desk
}

/// What branches and rescue refs hold of a file, whichever of them.
fn kept(repository: &Repository, file: &str) -> Vec<String> {
    let refs =
        repository.git(&["for-each-ref", "--format=%(refname)", "refs/heads", "refs/rescue"]);
    refs.lines().filter_map(|name| repository.show(name, file)).collect()
}

/// Both halves are somewhere, and Ann's checkout is as she left it.
fn assert_nothing_lost(repository: &Repository) {
    assert!(kept(repository, "committed.txt").contains(&"first half\n".to_owned()));
    assert!(kept(repository, "uncommitted.txt").contains(&"second half\n".to_owned()));
    assert_untouched(repository);
}

fn assert_untouched(repository: &Repository) {
    let read = |name: &str| std::fs::read_to_string(repository.path.join(name)).unwrap();
    assert_eq!(
        (read("README.md"), read("notes.txt")),
        ("half written by Ann\n".into(), "Ann's\n".into())
    );
    let status = repository.git(&["status", "--porcelain"]);
    assert_eq!(status, "M README.md\n?? notes.txt");
    assert_eq!(repository.git(&["symbolic-ref", "--short", "HEAD"]), "main");
    assert_eq!(repository.git(&["stash", "list"]), "");
}

fn worktree(desk: &Desk) -> PathBuf {
    desk.musher.data().join("worktrees/shop/1")
}

/// The item ends by a command; its worktree goes, and what was in it stays.
async fn ends_by(command: &str) {
    let mut desk = half_done(Repository::new("shop")).await;
    desk.say(command).await;
    let place = worktree(&desk);
    until_within(WORK, "the worktree to go", || (!place.exists()).then_some(())).await;
    desk.stop().await;
    assert_nothing_lost(desk.repository());
    desk.musher.assert_no_process_left().await;
}

#[tokio::test]
async fn deleted_with_uncommitted_files() {
    ends_by("!delete 1 --confirm").await;
}

#[tokio::test]
async fn abandoned_with_uncommitted_files() {
    ends_by("!move 1 abandoned").await;
}

#[tokio::test]
async fn superseded_with_uncommitted_files() {
    let mut desk = half_done(Repository::new("shop")).await;
    desk.file("The same, but better").await;
    desk.say("!supersede 1 by 2").await;
    let place = worktree(&desk);
    until_within(WORK, "the worktree to go", || (!place.exists()).then_some(())).await;
    desk.stop().await;
    assert_nothing_lost(desk.repository());
}

#[tokio::test]
async fn rejected_with_uncommitted_files() {
    let mut desk = half_done(Repository::new("shop")).await;
    desk.say("!reject 1 not what I meant").await;
    desk.until_stage(1, &["rejected"]).await;
    desk.stop().await;
    // It stays for inspection, as it is.
    let read = |name: &str| std::fs::read_to_string(worktree(&desk).join(name)).unwrap();
    assert_eq!(
        (read("committed.txt"), read("uncommitted.txt")),
        ("first half\n".into(), "second half\n".into())
    );
    assert_eq!(kept(desk.repository(), "committed.txt"), ["first half\n"]);
    assert_untouched(desk.repository());
}

#[tokio::test]
async fn a_merge_that_fails_for_good() {
    // The gate fails on every merged tree, and nowhere else.
    let gate = "case \"$PWD\" in */worktrees/*) ;; *) echo 'not on a merged tree'; exit 1 ;; esac";
    let repository = Repository::with_gate("shop", gate);
    repository.write("README.md", "half written by Ann\n");
    repository.write("notes.txt", "Ann's\n");
    let mut desk = Desk::new(vec![repository]).await;
    desk.musher.built_in_agent("coder-1");
    play(&desk.model, |_worker, asked| {
        let again = if asked.contains("could not be merged") { "again" } else { "once" };
        vec![commit(&format!("{again}.txt"), "work"), done("Done.")]
    });
    desk.start();
    let id = desk.file("Half the work").await;
    desk.begin(id, None).await;
    let ended = desk.until_stage(id, &["merge_failure_final", "blocked"]).await;
    assert_eq!(ended["stage"], "merge_failure_final", "{}", desk.show(id).await["explanation"]);
    desk.say("!delete 1 --confirm").await;
    let place = worktree(&desk);
    until_within(WORK, "the worktree to go", || (!place.exists()).then_some(())).await;
    desk.stop().await;
    for file in ["once.txt", "again.txt"] {
        assert_eq!(kept(desk.repository(), file), ["work\n"]);
    }
    assert_untouched(desk.repository());
}

/// A disk that is full, for what is written into a repository.
enum FullDisk {
    /// A small file system of its own, filled up. Root may mount one.
    Mounted { repository: PathBuf },
    /// No file of the server or of what it starts may grow beyond a limit.
    Limited,
}

/// How large a file may be where no file system can be mounted, and one that is larger.
const FILE_LIMIT: u64 = 24 << 20;

impl FullDisk {
    /// Makes a place for the repository's objects that can be filled.
    fn below(repository: &Repository) -> Self {
        let objects = repository.path.join(".git/objects");
        let aside = repository.path.join(".git/objects-aside");
        std::fs::rename(&objects, &aside).unwrap();
        std::fs::create_dir(&objects).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1m", "musher-test"])
            .arg(&objects)
            .output()
            .is_ok_and(|output| output.status.success());
        let from = format!("{}/.", aside.display());
        let copied = Command::new("cp").arg("-a").arg(from).arg(&objects).status().unwrap();
        assert!(copied.success());
        println!("full disk: {}", if mounted { "a tmpfs of 1 MiB" } else { "RLIMIT_FSIZE" });
        if mounted { Self::Mounted { repository: repository.path.clone() } } else { Self::Limited }
    }

    /// From now on nothing more can be written there.
    fn fill(&self, server: i32, worktree: &Path) {
        match self {
            Self::Mounted { repository } => {
                let filler = repository.join(".git/objects/filler");
                let filled = Command::new("dd")
                    .args(["if=/dev/zero", "bs=1k", "count=2048"])
                    .arg(format!("of={}", filler.display()))
                    .output()
                    .unwrap();
                assert!(!filled.status.success(), "it is full");
            }
            Self::Limited => {
                let big = worktree.join("uncommitted-and-large.bin");
                let made = Command::new("dd")
                    .args(["if=/dev/urandom", "bs=1M", "count=32"])
                    .arg(format!("of={}", big.display()))
                    .output()
                    .unwrap();
                assert!(made.status.success());
                limit(server, &FILE_LIMIT.to_string());
            }
        }
    }

    /// There is room again.
    fn free(&self, server: i32) {
        match self {
            Self::Mounted { repository } => {
                std::fs::remove_file(repository.join(".git/objects/filler")).unwrap();
            }
            Self::Limited => limit(server, "unlimited"),
        }
    }
}

impl Drop for FullDisk {
    fn drop(&mut self) {
        if let Self::Mounted { repository } = self {
            // Lazily: what is in it has been looked at.
            Command::new("umount").arg("-l").arg(repository.join(".git/objects")).output().ok();
        }
    }
}

/// The soft limit only: it can be raised again.
fn limit(pid: i32, bytes: &str) {
    let limited = Command::new("prlimit")
        .args([format!("--fsize={bytes}:"), format!("--pid={pid}")])
        .output()
        .unwrap();
    assert!(limited.status.success(), "{limited:?}");
}

#[tokio::test]
async fn abandoned_when_the_disk_is_full() {
    let repository = Repository::new("shop");
    let disk = FullDisk::below(&repository);
    let mut desk = half_done(repository).await;
    let place = worktree(&desk);
    disk.fill(desk.musher.pid(), &place);
    desk.say("!move 1 abandoned").await;
    desk.until_stage(1, &["abandoned"]).await;
    // Its work cannot be saved, so its worktree stays, and it is said.
    desk.hear("cannot be saved").await;
    assert_eq!(std::fs::read_to_string(place.join("uncommitted.txt")).unwrap(), "second half\n");
    // When there is room again it is saved by itself, and only then the worktree goes.
    disk.free(desk.musher.pid());
    until_within(WORK, "the worktree to go", || (!place.exists()).then_some(())).await;
    desk.stop().await;
    assert_nothing_lost(desk.repository());
}

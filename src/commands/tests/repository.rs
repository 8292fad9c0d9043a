//! What people ask of a repository: how it stands, what was not released, its gates, its worktrees.

use super::*;
use crate::model::ids::ItemId;
use crate::model::stage::StageEvent;
use crate::project::git::Git;
use crate::project::worktree;
use std::path::PathBuf;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

impl Desk {
    fn git(&self) -> Git {
        Git::at(self.repository())
    }

    /// Puts a commit with `message` onto main, and the checkout at it.
    async fn land(&self, message: &str) -> String {
        let old = self.git().rev_parse("main").await.unwrap();
        let commit = self.commit("main", message).await;
        self.git().advance_files(&old, &commit, false).await.unwrap();
        commit
    }

    /// Makes the worktree of an item.
    async fn worktree(&self, id: i64) -> PathBuf {
        let project = self.services.projects.list().remove(0);
        let (data_dir, cancel) = (self.services.store.data_dir(), CancellationToken::new());
        let name = format!("item {id}");
        worktree::ensure(&project, ItemId(id), &name, data_dir, &cancel).await.unwrap().path
    }

    /// The project's gates are `gates` from now on.
    async fn with_gates(gates: &[&str]) -> Self {
        let desk = Self::new().await;
        let settings = serde_json::json!({
            "name": "shop", "path": desk.repository(), "gates": gates,
        });
        let write = desk.services.store.write(move |tx| {
            let sql = "UPDATE projects SET settings = ?1 WHERE name = 'shop'";
            tx.execute(sql, [settings.to_string()])?;
            Ok::<_, StoreError>(())
        });
        write.await.unwrap();
        desk.services.projects.refresh().await.unwrap();
        desk
    }

    async fn said(&self) -> Vec<String> {
        let read = self.services.store.read(|conn| {
            let sql = "SELECT outgoing ->> '$.content.markdown' FROM outbox ORDER BY id";
            let mut statement = conn.prepare(sql)?;
            let rows = statement.query_map([], |row| row.get(0))?;
            Ok::<_, StoreError>(rows.collect::<Result<Vec<String>, _>>()?)
        });
        read.await.unwrap()
    }
}

#[tokio::test]
async fn git_says_how_the_repository_stands() {
    let mut desk = Desk::new().await;
    let said = desk.ask("!git").await;
    for part in ["on `main`, clean", "`main` follows no remote branch", "Start ("] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    std::fs::write(desk.repository().join("new.txt"), "x").unwrap();
    desk.commit("item/7-a-name", "Work").await;
    let said = desk.ask("!git").await;
    assert!(said.contains("1 file changed: `new.txt`"), "{said}");
    assert!(said.contains("branches of items: 1"), "{said}");
    std::fs::remove_dir_all(desk.repository().join(".git")).unwrap();
    let said = desk.ask("!git").await;
    assert!(said.contains("not the top directory of a git repository"), "{said}");
}

#[tokio::test]
async fn unreleased_lists_items_and_other_commits_since_the_last_tag() {
    let mut desk = Desk::new().await;
    desk.ask("!story Add a calculator").await;
    desk.land("Before the release").await;
    let tag = desk.git().rev_parse("main").await.unwrap();
    desk.git().update_ref("refs/tags/v1.2", &tag, None, "release").await.unwrap();
    let said = desk.ask("!unreleased").await;
    assert_eq!(said, "**shop**: nothing new on `main` since `v1.2`.");
    desk.land("1 story Add a calc\n\nMusher-Item: 1\nMusher-Agent: coder-1").await;
    desk.land("Mend a typo").await;
    let said = desk.ask("!unreleased").await;
    for part in ["2 on `main` since `v1.2`", "- #1 story Add a calculator `", "Mend a typo ("] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    assert!(!said.contains("Before the release"), "{said}");
}

#[tokio::test]
async fn gates_run_on_the_base_and_leave_nothing_behind() {
    let mut desk = Desk::with_gates(&["test -f README", "echo no; exit 3", "true"]).await;
    let said = desk.ask("!run tests").await;
    for part in ["`echo no; exit 3` failed with exit 3", "✅ `test -f README`", "no\n```"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    let shown = desk.said().await;
    assert!(shown.iter().any(|text| text == "`test -f README` (1 of 3) …"), "{shown:?}");
    assert_eq!(desk.git().worktrees().await.unwrap().len(), 1, "the temporary checkout is gone");
    assert_eq!(desk.count("gate_runs").await, 0, "nothing is noted of no item");
}

#[tokio::test]
async fn gates_run_in_an_items_worktree_as_it_lies_there() {
    let mut desk = Desk::with_gates(&["test -f new.txt"]).await;
    desk.ask("!story A").await;
    let said = desk.ask("!run tests 1").await;
    assert!(said.contains("has no worktree now"), "{said}");
    let place = desk.worktree(1).await;
    assert!(desk.ask("!run tests 1").await.contains("❌"));
    std::fs::write(place.join("new.txt"), "x").unwrap();
    let said = desk.ask("!run tests 1").await;
    assert!(said.contains("✅") && said.contains("with 1 uncommitted"), "{said}");
    assert!(desk.ask("!status 1").await.contains("✅ `test -f new.txt` passed"));
}

#[tokio::test]
async fn a_project_without_gates_says_so() {
    let mut desk = Desk::new().await;
    let said = desk.ask("!run tests").await;
    assert!(said.contains("has no gates"), "{said}");
}

#[tokio::test]
async fn running_gates_are_ended_by_stop() {
    let begun = "begun";
    for stop in ["item", "all", "session"] {
        let mut desk = Desk::with_gates(&["touch begun; sleep 600"]).await;
        desk.ask("!story A").await;
        let place = desk.worktree(1).await;
        let services = desk.services.clone();
        let runs = async {
            while !place.join(begun).exists() {
                tokio::task::yield_now().await;
            }
            let session = SessionKey::main(RoomKey::from("!room"));
            let stopped = match stop {
                "item" => services.runs.stop_item(ItemId(1)),
                "all" => services.runs.stop_all(),
                _ => services.runs.stop_session(&session),
            };
            assert_eq!(stopped, ["the gates of #1 A"]);
            assert_eq!(services.runs.stop_all(), Vec::<String>::new(), "once is enough");
        };
        let both = async { tokio::join!(desk.ask("!run tests 1"), runs) };
        let (said, ()) = tokio::time::timeout(PATIENCE, both).await.expect("it ends");
        assert!(said.contains("Stopped the gates of #1 A"), "{said}");
    }
}

#[tokio::test]
async fn worktrees_that_nobody_needs_are_listed_and_removed_without_losing_work() {
    let mut desk = Desk::new().await;
    let mut places = vec![];
    for name in ["Open", "Given up", "Turned down", "Gone"] {
        desk.ask(&format!("!story {name}")).await;
        places.push(desk.worktree(places.len() as i64 + 1).await);
    }
    std::fs::write(places[1].join("draft.txt"), "half a thought").unwrap();
    desk.ask("!abandon 2 no").await;
    desk.facts(3, vec![StageEvent::Rejected { reason: "no".to_owned() }]).await;
    desk.ask("!delete 4 --confirm").await;
    let listed = desk.ask("!worktrees").await;
    for part in [
        "**shop**: 1 in use",
        "#2 Given up (abandoned): nobody needs it, 1 uncommitted",
        "#3 Turned down (rejected): kept",
        "#4 (deleted): nobody needs it",
        "worktrees clean --confirm",
    ] {
        assert!(listed.contains(part), "no {part:?} in {listed}");
    }
    assert!(desk.ask("!worktrees clean").await.starts_with("Nothing is removed yet."));
    assert!(places.iter().all(|place| place.exists()));
    assert!(desk.ask_as(false, "!worktrees clean --confirm").await.contains("administrator"));
    let cleaned = desk.ask("!worktrees clean --confirm").await;
    assert!(cleaned.starts_with("Removed 2."), "{cleaned}");
    assert!(cleaned.contains("its work is saved as `refs/rescue/2/"), "{cleaned}");
    let exists: Vec<bool> = places.iter().map(|place| place.exists()).collect();
    assert_eq!(exists, [true, false, true, false]);
    let saved = desk.git().refs_under("refs/rescue/2/").await.unwrap().remove(0);
    let text = desk.git().show_path(&saved, "draft.txt").await.unwrap();
    assert_eq!(text, "half a thought");
    assert!(desk.ask("!worktrees clean --confirm").await.contains("nothing to clean up"));
}

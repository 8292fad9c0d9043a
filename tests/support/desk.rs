//! A Musher on a terminal, with repositories and scripted agents: all that works is the real
//! thing, only the homeserver is left out, which makes a story start in a moment.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::model_server::ModelServer;
use super::musher::Musher;
use super::repository::Repository;
use super::until_within;

/// How long a story on the desk waits for agents, gates and merges.
pub const WORK: Duration = Duration::from_secs(150);

/// The pause between two looks at the board: each starts a process.
const LOOK: Duration = Duration::from_millis(250);

/// A running or stopped Musher without a homeserver.
#[derive(Debug)]
pub struct Desk {
    pub musher: Musher,
    pub model: ModelServer,
    pub repositories: Vec<Repository>,
    filed: i64,
}

impl Desk {
    /// A desk over these repositories; not started. Agents may start as fast as they can.
    pub async fn new(repositories: Vec<Repository>) -> Self {
        let model = ModelServer::start().await;
        let mut musher = Musher::offline(&model);
        for repository in &repositories {
            musher.project(repository);
        }
        musher.set("/limits", json!({"max_starts_per_minute": 10_000, "max_agents": 8}));
        Self { musher, model, repositories, filed: 0 }
    }

    /// The only repository.
    pub fn repository(&self) -> &Repository {
        assert_eq!(self.repositories.len(), 1);
        &self.repositories[0]
    }

    /// Starts it.
    pub fn start(&mut self) {
        self.musher.start_console();
    }

    /// Types a line.
    pub async fn say(&mut self, line: &str) {
        self.musher.type_line(line).await;
    }

    /// Waits until `part` is shown, since the last start.
    pub async fn hear(&self, part: &str) {
        let (musher, what) = (&self.musher, format!("{part:?} to be shown"));
        until_within(WORK, &what, || musher.shown().contains(part).then_some(())).await;
    }

    /// Files an item in the chat and returns its number.
    pub async fn file(&mut self, name: &str) -> i64 {
        self.filed += 1;
        self.say(&format!("!story {name}")).await;
        self.hear(&format!("#{} {name}", self.filed)).await;
        self.filed
    }

    /// Starts an item in the chat, with an agent or with whoever is free.
    pub async fn begin(&mut self, id: i64, agent: Option<&str>) {
        self.say(format!("!start {id} {}", agent.unwrap_or_default()).trim_end()).await;
    }

    /// Waits until the command line knows all projects: the server has begun.
    pub async fn until_ready(&self) {
        let began = std::time::Instant::now();
        loop {
            let status = self.musher.call(&["status", "--json"]).await.succeeded().json();
            let known = status["projects"].as_array().map_or(0, Vec::len);
            if known == self.repositories.len() {
                return;
            }
            assert!(began.elapsed() < WORK, "the server does not begin: {status}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Files an item at the command line, in one of several projects, and returns its number.
    pub async fn file_in(&self, project: &str, name: &str) -> i64 {
        let call = ["items", "create", name, "--project", project, "--json"];
        self.musher.call(&call).await.succeeded().json()["id"].as_i64().expect("an item's number")
    }

    /// Starts an item at the command line.
    pub async fn begin_there(&self, id: i64) {
        self.musher.call(&["items", "start", &id.to_string()]).await.succeeded();
    }

    /// Every item by its number, as `status --json` prints it.
    pub async fn items(&self) -> BTreeMap<i64, Value> {
        let items = super::scene::items(&self.musher).await;
        items.into_iter().map(|item| (item["id"].as_i64().unwrap(), item)).collect()
    }

    /// The stages of all items, in the order of their numbers.
    pub async fn stages(&self) -> Vec<String> {
        let items = self.items().await;
        items.values().map(|item| item["stage"].as_str().unwrap().to_owned()).collect()
    }

    /// Everything about an item, with `explanation`: what `why` says.
    pub async fn show(&self, id: i64) -> Value {
        self.musher.call(&["items", "show", &id.to_string(), "--json"]).await.succeeded().json()
    }

    /// Waits until every item is in one of `stages`, or fails with why each other is not.
    pub async fn until_all(&self, limit: Duration, stages: &[&str]) -> BTreeMap<i64, Value> {
        let began = std::time::Instant::now();
        loop {
            let items = self.items().await;
            let there = |item: &&Value| stages.contains(&item["stage"].as_str().unwrap());
            if items.values().all(|item| there(&item)) {
                return items;
            }
            if began.elapsed() > limit {
                let mut report = String::new();
                for id in items.iter().filter(|(_, item)| !there(item)).map(|(id, _)| *id) {
                    let explanation = self.show(id).await["explanation"].clone();
                    report.push_str(explanation.as_str().unwrap_or_default());
                }
                panic!("after {limit:?}:\n{report}\n{}", self.model.print());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until one item is in one of `stages`.
    pub async fn until_stage(&self, id: i64, stages: &[&str]) -> Value {
        let began = std::time::Instant::now();
        loop {
            let item = self.items().await.remove(&id).expect("the item is on the board");
            if stages.contains(&item["stage"].as_str().unwrap()) {
                return item;
            }
            if began.elapsed() > WORK {
                panic!("{}\n{}", self.show(id).await["explanation"], self.model.print());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Ends it in order.
    pub async fn stop(&mut self) {
        let status = self.musher.stop().await;
        assert!(status.success(), "{status}\n{}", self.musher.log_tail());
    }

    /// Fails unless nothing is left behind once it has stopped: processes, locks, worktrees,
    /// branches but those `kept`, refs for rescued work.
    pub async fn assert_tidy(&self, kept: &[&str]) {
        self.musher.assert_no_process_left().await;
        for repository in &self.repositories {
            let name = &repository.name;
            let worktrees = repository.git(&["worktree", "list", "--porcelain"]);
            let listed: Vec<&str> =
                worktrees.lines().filter(|l| l.starts_with("worktree ")).collect();
            let allowed = |line: &&&str| {
                **line == format!("worktree {}", repository.path.display())
                    || kept.iter().any(|id| line.ends_with(&format!("/worktrees/{name}/{id}")))
            };
            let left: Vec<_> = listed.iter().filter(|line| !allowed(line)).collect();
            assert!(left.is_empty(), "{name}: worktrees are left: {left:?}");
            let branches = repository.branches();
            let fine = |branch: &&String| {
                *branch == "main"
                    || kept.iter().any(|id| branch.starts_with(&format!("item/{id}-")))
            };
            let left: Vec<_> = branches.iter().filter(|branch| !fine(branch)).collect();
            assert!(left.is_empty(), "{name}: branches are left: {left:?}");
            assert_eq!(repository.git(&["for-each-ref", "refs/rescue"]), "", "{name}");
            let locks = repository.git(&["rev-parse", "--git-common-dir"]);
            let locks = locks_in(&repository.path.join(locks));
            assert!(locks.is_empty(), "{name}: locks are left: {locks:?}");
            assert!(repository.is_clean(), "{name}: {}", repository.git(&["status"]));
        }
    }
}

/// Files of git that say that somebody is at work.
fn locks_in(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![];
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if entry.file_name().to_string_lossy().ends_with(".lock") {
                found.push(entry.path());
            }
        }
    }
    found
}

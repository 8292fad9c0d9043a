//! Fifty items over three projects, on whatever machine this is: all done, or blocked for the
//! right reason, and nothing left behind.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::desk::Desk;
use crate::support::model_server::Reply;
use crate::support::repository::Repository;
use crate::support::team::{Step, Worker, commit, done, play, sh, worker};

/// How many items there are.
const ITEMS: i64 = 50;

/// How long all of it may take.
const LIMIT: Duration = Duration::from_secs(240);

/// A gate that fails when a file `broken` is there, or both halves of a contradiction; on a merged
/// tree it notes when another merge of the same project is being tested at this moment.
const GATE: &str = r#"
d=$(git rev-parse --path-format=absolute --git-common-dir)
case "$PWD" in
*/worktrees/*) ;;
*)
    mkdir "$d/merging" || echo "two at once" >> "$d/overlaps"
    trap 'rmdir "$d/merging"' EXIT
    ;;
esac
test ! -e broken || { echo 'there is a file: broken'; exit 1; }
"#;

/// What becomes of an item, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// A commit that lands.
    Good,
    /// The gate fails however often it is mended.
    Broken,
    /// Its agent reports and never commits.
    Empty,
    /// The model refuses to work on it.
    Refused,
    /// It changes a line that others change: it conflicts, and is resolved.
    Contested,
}

fn fate(item: i64) -> Fate {
    match item {
        7 | 18 | 29 | 40 => Fate::Broken,
        12 | 34 => Fate::Empty,
        23 => Fate::Refused,
        // Both in the same project.
        5 | 8 | 17 | 20 => Fate::Contested,
        _ => Fate::Good,
    }
}

/// The words in which an item must be blocked.
fn reason(fate: Fate) -> Option<&'static str> {
    match fate {
        Fate::Good | Fate::Contested => None,
        Fate::Broken => Some("`sh check.sh` failed"),
        Fate::Empty => Some("without committing"),
        Fate::Refused => Some("coder-"),
    }
}

fn project(item: i64) -> &'static str {
    ["red", "green", "blue"][usize::try_from(item % 3).unwrap()]
}

fn plan(worker: &Worker, _asked: &str) -> Vec<Step> {
    let item = worker.item;
    let own = format!("work-{item}.txt");
    if worker.agent.starts_with("merger") {
        let line = format!("item {item}");
        return vec![
            sh("git merge main"),
            // Both sides: what the base has, and this item's line.
            sh(&format!(
                "git show main:contested.txt > contested.txt && echo '{line}' >> contested.txt"
            )),
            sh("git add -A && git commit -qm Resolve && git rev-parse HEAD"),
            Step::Merged("Kept both."),
        ];
    }
    if worker.agent.starts_with("qa") {
        return vec![
            sh("git log --oneline -3"),
            Step::Call("report_done", json!({"outcome": "qa_passed", "summary": "Read it."})),
        ];
    }
    match fate(item) {
        Fate::Good => vec![commit(&own, "made"), done("Made.")],
        Fate::Broken => vec![
            sh(&format!("date +%N > {own}")),
            commit("broken", "x"),
            sh("git commit -q --allow-empty -m again"),
            done("Made."),
        ],
        Fate::Empty => vec![sh("git log --oneline -1"), done("There is nothing to do.")],
        Fate::Refused => vec![],
        Fate::Contested => vec![commit("contested.txt", &format!("item {item}")), done("Made.")],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_items_over_three_projects_end_as_they_should() {
    let repositories = ["green", "blue", "red"].map(|name| {
        let repository = Repository::with_gate(name, GATE);
        repository.write("contested.txt", "nobody's\n");
        repository.commit("Contest");
        repository
    });
    let mut desk = Desk::new(repositories.into()).await;
    for n in 1..=4 {
        desk.musher.built_in_agent(&format!("coder-{n}"));
    }
    for (name, role) in [("qa-1", "qa"), ("merger-1", "mergemaster")] {
        let agent = json!({"name": name, "role": role, "runtime": "api", "permissions": "auto"});
        desk.musher.agent(agent);
    }
    desk.musher.set("/limits/max_retries", json!(1)).set("/projects/1/qa", json!("agent"));
    let refused = |request: &crate::support::model_server::Request| {
        worker(request).is_some_and(|worker| fate(worker.item) == Fate::Refused)
    };
    desk.model.always(refused, Reply::error(400).saying("this model does not do that"));
    play(&desk.model, plan);
    desk.start();
    desk.until_ready().await;
    let began = Instant::now();
    for item in 1..=ITEMS {
        let id = desk.file_in(project(item), &format!("Piece {item}")).await;
        assert_eq!(id, item);
        desk.begin_there(id).await;
    }
    let items = desk.until_all(LIMIT, &["done", "blocked", "merge_failure_final"]).await;
    let took = began.elapsed();

    let mut wrong = vec![];
    for (id, item) in &items {
        let words = desk.show(*id).await["explanation"].as_str().unwrap().to_owned();
        let first = words.lines().next().unwrap_or_default().to_owned();
        let as_it_should = match reason(fate(*id)) {
            None => item["stage"] == "done",
            Some(reason) => item["stage"] == "blocked" && first.contains(reason),
        };
        if !as_it_should {
            wrong.push(format!("{id} ({:?}): {first}", fate(*id)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    desk.stop().await;
    every_base_has_its_items_once(&desk);
    let blocked: Vec<String> =
        (1..=ITEMS).filter(|id| reason(fate(*id)).is_some()).map(|id| id.to_string()).collect();
    desk.assert_tidy(&blocked.iter().map(String::as_str).collect::<Vec<_>>()).await;
    report(&desk, took);
}

/// Every finished item is one commit on its project's base; no two merges were tested at once.
fn every_base_has_its_items_once(desk: &Desk) {
    for repository in &desk.repositories {
        let overlaps = repository.path.join(".git/overlaps");
        assert!(!overlaps.exists(), "two merges at once in {}", repository.name);
        let mut subjects = repository.subjects("main");
        subjects.sort();
        let mine = (1..=ITEMS).filter(|id| project(*id) == repository.name);
        let mut expected: Vec<String> = mine
            .filter(|id| reason(fate(*id)).is_none())
            .map(|id| format!("{id} story Piece {id}"))
            .chain(["Contest".to_owned(), "Start".to_owned()])
            .collect();
        expected.sort();
        assert_eq!(subjects, expected, "{}", repository.name);
    }
}

/// Prints what benches/README.md tells: the size of what is kept.
fn report(desk: &Desk, took: Duration) {
    let data = desk.musher.data();
    let mut sizes: BTreeMap<&str, u64> = BTreeMap::new();
    for (what, path) in [
        ("database", data.join("musher.db")),
        ("its journal", data.join("musher.db-wal")),
        ("logs", data.join("logs")),
        ("the server's log", desk.musher.directory().join("stderr.log")),
        ("worktrees of blocked items", data.join("worktrees")),
    ] {
        sizes.insert(what, size(&path));
    }
    println!("{ITEMS} items in {:.0} s", took.as_secs_f64());
    for (what, bytes) in sizes {
        println!("{what}: {} KiB", bytes / 1024);
    }
}

fn size(path: &Path) -> u64 {
    let Ok(metadata) = std::fs::symlink_metadata(path) else { return 0 };
    if !metadata.is_dir() {
        return metadata.len();
    }
    std::fs::read_dir(path).unwrap().flatten().map(|entry| size(&entry.path())).sum()
}

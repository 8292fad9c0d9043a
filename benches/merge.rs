//! What batches are worth: items merged five at a time against one by one, in the same run, with a
//! gate that takes a while; how often it runs, and how long all of them take.

#![allow(clippy::unwrap_used, missing_docs, dead_code)]

#[path = "../tests/support/figures.rs"]
mod figures;

use figures::Figures;
use musher::clock::Clock;
use musher::config::{Config, ProjectConfig};
use musher::merge::{MergeService, enqueue};
use musher::model::event::Event;
use musher::model::ids::ItemId;
use musher::project::Registry;
use musher::store::{Store, StoreError, log};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How long the gate takes, in seconds: little, for one that builds and tests a project.
const GATE_S: &str = "1.0";

/// The files that the items put there. `broken` breaks the build.
const GOOD: [&str; 5] = ["a", "b", "c", "d", "e"];
const FIVE: [&str; 5] = ["a", "both", "both", "broken", "e"];

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut figures = Figures::new("merge");
    for (name, files) in [("five good items", GOOD), ("one breaks the build, two conflict", FIVE)] {
        let together = runtime.block_on(work_off(&files, 5));
        let single = runtime.block_on(work_off(&files, 1));
        assert_eq!(together.merged, single.merged, "the same items land");
        let note = |went: &Went| format!("{} gate runs, {} landed", went.runs, went.merged.len());
        let shown = |went: &Went| format!("{:.1} s", went.took.as_secs_f64());
        figures.add(&format!("{name}: one by one"), &shown(&single), &note(&single));
        figures.add(&format!("{name}: batches of five"), &shown(&together), &note(&together));
        figures.limit(
            &format!("{name}: gate runs in batches"),
            f64::from(u32::try_from(together.runs).unwrap()),
            "runs",
            6.0,
        );
    }
    figures.print();
}

struct Went {
    merged: Vec<i64>,
    runs: usize,
    took: Duration,
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@localhost"])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Queues an item a file and merges them all.
async fn work_off(files: &[&str], batch: usize) -> Went {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("shop");
    std::fs::create_dir(&repo).unwrap();
    git(&repo, &["init", "-q", "-b", "main"]);
    git(&repo, &["commit", "-q", "--allow-empty", "-m", "start"]);
    let runs = dir.path().join("runs");
    let gate = format!("echo run >> {}; sleep {GATE_S}; test ! -e broken", runs.display());
    let mut config: Config = toml::from_str("[llm]\nprovider = \"replay\"").unwrap();
    config.merge.merge_batch = batch;
    config.projects =
        vec![ProjectConfig { gates: vec![gate], ..ProjectConfig::of_directory(repo.clone()) }];
    let store = Store::open(&dir.path().join("data"), Clock::system()).unwrap();
    for (item, file) in (1..).zip(files) {
        git(&repo, &["switch", "-q", "-c", &format!("item/{item}-x"), "main"]);
        std::fs::write(repo.join(file), format!("{item}\n")).unwrap();
        git(&repo, &["add", "-A"]);
        git(&repo, &["commit", "-q", "-m", "a step"]);
        queue(&store, item, git(&repo, &["rev-parse", "HEAD"])).await;
    }
    git(&repo, &["switch", "-q", "main"]);
    let projects = Registry::load(&store, &config).await.unwrap();
    let service = MergeService::new(store.clone(), projects, config.merge);
    let cancel = CancellationToken::new();
    let began = Instant::now();
    let running = tokio::spawn(service.run(cancel.clone()));
    let mut changes = store.changes("events");
    let events = loop {
        let events = store.read(|conn| log::events_after(conn, 0, 100)).await.unwrap();
        if events.len() == files.len() {
            break events;
        }
        changes.changed().await;
    };
    let took = began.elapsed();
    cancel.cancel();
    running.await.unwrap();
    let landed =
        |event: Event| if let Event::Merged { item, .. } = event { Some(item.0) } else { None };
    let merged = events.into_iter().filter_map(|row| landed(row.event)).collect();
    let runs = std::fs::read_to_string(runs).unwrap().lines().count();
    Went { merged, runs, took }
}

async fn queue(store: &Store, item: i64, commit: String) {
    store
        .write(move |tx| {
            let origin = r#"{"kind":"user","id":"@ann:hs","at":"2026-01-01T00:00:00Z"}"#;
            let stage = format!(r#"{{"stage":"merge","claim":null,"commit":"{commit}"}}"#);
            tx.execute(
                "INSERT INTO items (id, project, kind, name, qa, origin, stage, stage_name, col,
                                    badge, created_at, updated_at)
                 VALUES (?1, 'shop', 'story', 'Add it', 'gates', ?2, ?3, 'merge', 'merge',
                         'active', 0, 0)",
                rusqlite::params![item, origin, stage],
            )
            .map_err(StoreError::from)?;
            enqueue(tx, ItemId(item), &"shop".into(), &commit, 0)
        })
        .await
        .unwrap();
}

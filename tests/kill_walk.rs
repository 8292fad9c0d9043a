//! `kill -9` between every two steps of start, completion, QA and merge: after a restart each ends
//! as if nothing had happened, and nothing is done twice.
//!
//! The process kills itself at a failpoint. All of them stand in the tables here, and a test
//! compares these with the source: a new step without a story fails it.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use futures_util::{StreamExt, stream};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::desk::{Desk, WORK};
use crate::support::repository::Repository;
use crate::support::team::{Step, done, play, sh};
use crate::support::until_within;

/// Where an item whose gates decide is killed on its way: from the claim to the last write of the
/// merge.
const GATES: &[&str] = &[
    "assigned",
    "agent-turn-began",
    "agent-prompted",
    "agent-turn-over",
    "agent-turn-settled",
    "checked",
    "merge-squashed",
    "merge-placed",
    "merge-tested",
    "merge-noted",
    "merge-moved",
    "merge-followed",
    "merge-recorded",
    "worktree-removed",
];

/// The same in QA by an agent: the second time that each is passed.
const QA: &[&str] = &[
    "assigned@2",
    "agent-turn-began@2",
    "agent-prompted@2",
    "agent-turn-over@2",
    "agent-turn-settled@2",
];

/// The same in QA by a person: when their question is written, and around their answer, which is
/// the third command after the filing and the start.
const PERSON: &[&str] = &["checked", "command-began@3", "command-done@3"];

/// The same with an agent that is a process of its own.
const PROCESS: &[&str] = &["agent-spawned"];

/// Those of other merges: with a remote, with a culprit, with pull requests. The merge queue's own
/// tests kill it at every step there is.
const OTHER_MERGES: &[&str] = &[
    "merge-fetched",
    "merge-split",
    "merge-blamed",
    "merge-pushed",
    "merge-opened",
    "merge-pull-noted",
];

/// Those of messages and commands; `tests/crashes.rs` has a story of each.
const IN_A_ROOM: &[&str] = &[
    "heard",
    "journaled",
    "turn-began",
    "model-answered",
    "turn-ended",
    "tool-done",
    "sent",
    "command-began",
    "command-done",
];

/// The same with an agent that asks a person before it writes.
const ASKED: &[&str] = &["agent-asked"];

/// How many walks go on at the same time.
const AT_ONCE: usize = 3;

/// How the item is worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Gates,
    Qa,
    Person,
    Process,
    Asked,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_start_completion_and_merge() {
    walk(Way::Gates, GATES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_qa() {
    walk(Way::Qa, QA).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_every_step_of_a_persons_verdict() {
    walk(Way::Person, PERSON).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_when_a_person_is_asked_for_a_permission() {
    walk(Way::Asked, ASKED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_when_an_agents_process_is_not_recorded_yet() {
    walk(Way::Process, PROCESS).await;
}

async fn walk(way: Way, places: &[&'static str]) {
    let all = places.iter().map(|place| tokio::spawn(dies_and_comes_back(way, place)));
    let ends: Vec<_> = stream::iter(all).buffer_unordered(AT_ONCE).collect().await;
    let failed = ends.iter().filter(|end| end.is_err()).count();
    assert_eq!(failed, 0, "{failed} of {} walks failed", places.len());
}

/// One item, from its start to the base branch, with a death at `place` on the way.
async fn dies_and_comes_back(way: Way, place: &'static str) {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    match way {
        Way::Process => desk.musher.claude_agent("coder-1"),
        Way::Asked => {
            desk.musher.agent(json!({"name": "coder-1", "role": "coder", "runtime": "api"}))
        }
        Way::Gates | Way::Qa | Way::Person => desk.musher.built_in_agent("coder-1"),
    };
    if way == Way::Qa {
        let qa = json!({"name": "qa-1", "role": "qa", "runtime": "api", "permissions": "auto"});
        desk.musher.agent(qa).set("/projects/0/qa", json!("agent"));
    }
    if way == Way::Person {
        desk.musher.set("/projects/0/qa", json!("human"));
    }
    play(&desk.model, |worker, _asked| match worker.agent.as_str() {
        "qa-1" => {
            vec![
                sh("cat calculator.txt"),
                Step::Verdict { passes_when: "made", findings: vec!["no"], summary: "Read it." },
            ]
        }
        // Told again after the restart, it finds its work done.
        _coder => vec![
            sh("test -e calculator.txt || { echo made > calculator.txt && git add -A && \
                git commit -qm Work; }"),
            done("It is written and committed."),
        ],
    });
    desk.musher.env("MUSHER_FAILPOINT", place);
    desk.start();
    let id = desk.file("Add a calculator").await;
    desk.begin(id, None).await;
    if place.starts_with("command-") {
        desk.until_stage(id, &["review_hold"]).await;
        desk.say(&format!("!approve {id}")).await;
    }
    let status = desk.musher.wait_for_death().await;
    let killed = Some(Signal::SIGKILL as i32);
    assert_eq!(status.signal(), killed, "{place}: {status}\n{}", desk.musher.log_tail());
    desk.musher.without_env("MUSHER_FAILPOINT");
    desk.start();
    if way == Way::Person {
        let item = desk.until_stage(id, &["review_hold", "done", "blocked"]).await;
        if item["stage"] == "review_hold" && place == "checked" {
            desk.hear("waits for your verdict").await;
            desk.say(&format!("!approve {id}")).await;
        }
    }
    if way == Way::Asked {
        desk.say("!allow 1").await;
    }
    let item = desk.until_stage(id, &["done", "blocked"]).await;
    assert_eq!(item["stage"], "done", "{place}: {}", desk.show(id).await["explanation"]);
    // Before its death or after it.
    let log = desk.musher.directory().join("stdout.log");
    let told = || std::fs::read_to_string(&log).unwrap().contains("is merged as").then_some(());
    until_within(WORK, "the merge to be told", told).await;
    desk.stop().await;
    desk.assert_tidy(&[]).await;
    let repository = desk.repository();
    let subjects = repository.subjects("main");
    assert_eq!(subjects, ["1 story Add a calculator", "Start"], "{place}: landed once");
    assert_eq!(repository.show("main", "calculator.txt").as_deref(), Some("made\n"), "{place}");
    let shown = std::fs::read_to_string(log).unwrap();
    assert_eq!(shown.matches("is merged as").count(), 1, "{place}: told once\n{shown}");
}

/// All names of failpoints in the source: in calls, and those of the merge's steps.
fn in_the_source() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap().flatten() {
            if entry.path().is_dir() {
                open.push(entry.path());
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            let calls = text.split("failpoint(\"").skip(1);
            let steps = text.lines().filter(|line| line.trim().starts_with("Step::"));
            let steps =
                steps.filter_map(|line| line.split_once("=> \"merge-")).map(|(_, name)| name);
            let name = |rest: &str| rest.split_once('"').map(|(name, _)| name.to_owned());
            names.extend(calls.filter_map(name));
            names.extend(steps.filter_map(name).map(|name| format!("merge-{name}")));
        }
    }
    names
}

#[test]
fn every_failpoint_has_its_story_and_every_story_its_failpoint() {
    let walked = [GATES, QA, PERSON, PROCESS, OTHER_MERGES, IN_A_ROOM, ASKED].concat();
    let walked: BTreeSet<String> =
        walked.iter().map(|place| place.split('@').next().unwrap().to_owned()).collect();
    assert_eq!(walked, in_the_source());
    let stories = include_str!("crashes.rs");
    for place in IN_A_ROOM {
        assert!(stories.contains(&format!("\"{place}\"")), "crashes.rs has no story of {place}");
    }
}

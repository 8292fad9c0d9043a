//! In the evening she files twelve items that depend on each other, starts those that can be
//! started, and goes to bed. In the morning the good ones are on main, in order, the bad ones are
//! blocked with the reason in words, and main was never broken in between.

use std::process::Command;

use serde_json::json;

use crate::support::desk::{Desk, WORK};
use crate::support::repository::Repository;
use crate::support::team::{Step, Worker, commit, done, play, sh};

/// The gate, which every commit of main must pass: nothing is broken, and whoever calls `greet`
/// knows how it is called now.
const GATE: &str = r#"
test ! -e broken || { echo 'there is a file: broken'; exit 1; }
if grep -qs 'new greet' greet.txt && grep -qs 'old greet' caller.txt; then
    echo 'caller.txt calls the old greet'; exit 1
fi
"#;

/// What the evening's list says: name, and what must be done before.
const EVENING: [(&str, &[i64]); 12] = [
    ("Lay the foundation", &[]),
    ("Draw a plan", &[]),
    ("Build the walls", &[1, 2]),
    ("Put up the roof", &[3]),
    ("Try what cannot work", &[]),
    ("Extend what cannot work", &[5]),
    ("Paint the door red", &[]),
    ("Paint the door blue", &[]),
    ("Think about it", &[]),
    ("Greet in a new way", &[]),
    ("Call the greeting", &[]),
    ("Move in", &[4, 7, 8, 10, 11]),
];

fn plan(worker: &Worker, asked: &str) -> Vec<Step> {
    // Begun before the other has landed, finished after it: so that they meet in the queue.
    let after = |subject: &str| {
        sh(&format!("until git log --format=%s main | grep -q '{subject}'; do sleep 0.05; done"))
    };
    let begun = |branch: &str| {
        sh(&format!("until git rev-parse -q --verify item/{branch}; do sleep 0.05; done"))
    };
    let mut steps = match (worker.agent.as_str(), worker.item) {
        ("merger-1", _) => {
            return vec![
                sh("git merge main || printf 'red and blue\\n' > door.txt"),
                sh("git add -A && git commit -qm 'Both colours' && git rev-parse HEAD"),
                Step::Merged("The door has both colours."),
            ];
        }
        (_, 5) => vec![commit("broken", "x")],
        (_, 7) => vec![begun("8-paint-the-door-blue"), commit("door.txt", "red")],
        (_, 8) => vec![after("7 story"), commit("door.txt", "blue")],
        (_, 9) => return vec![sh("ls"), done("I have thought about it.")],
        (_, 10) => vec![begun("11-call-the-greeting"), commit("greet.txt", "new greet")],
        (_, 11) if asked.contains("caller.txt calls the old greet") => {
            vec![sh("git merge -q main"), commit("caller.txt", "calls the new way")]
        }
        (_, 11) => vec![after("10 story"), commit("caller.txt", "old greet")],
        (_, item) => vec![commit(&format!("piece-{item}.txt"), "made")],
    };
    steps.push(done("It is done."));
    steps
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twelve_items_in_the_evening_and_what_the_morning_shows() {
    let mut desk = Desk::new(vec![Repository::with_gate("shop", GATE)]).await;
    for n in 1..=4 {
        desk.musher.built_in_agent(&format!("coder-{n}"));
    }
    let merger = json!({
        "name": "merger-1", "role": "mergemaster", "runtime": "api", "permissions": "auto",
    });
    desk.musher.agent(merger).set("/limits/max_retries", json!(1));
    play(&desk.model, plan);
    desk.start();
    for (name, depends_on) in EVENING {
        let id = desk.file(name).await;
        if !depends_on.is_empty() {
            let others: Vec<String> = depends_on.iter().map(i64::to_string).collect();
            desk.say(&format!("!depends {id} on {}", others.join(" "))).await;
        }
    }
    for (id, (_name, depends_on)) in (1..).zip(EVENING) {
        if depends_on.is_empty() {
            desk.begin(id, None).await;
        }
    }
    // In the night the power fails once, in the middle of it.
    desk.until_stage(1, &["done"]).await;
    desk.musher.kill_9().await;
    desk.start();

    desk.until_stage(12, &["done", "blocked"]).await;
    desk.until_all(WORK, &["done", "blocked", "backlog"]).await;
    let bad = [
        (5, "blocked", "`sh check.sh` failed"),
        (6, "backlog", "waits for 5 (blocked)"),
        (9, "blocked", "without committing"),
    ];
    for (id, item) in desk.items().await {
        let shown = desk.show(id).await;
        let words = shown["explanation"].as_str().unwrap().lines().next().unwrap().to_owned();
        match bad.iter().find(|(bad, ..)| *bad == id) {
            Some((_, stage, reason)) => {
                assert_eq!(item["stage"], *stage, "{words}");
                assert!(words.contains(reason), "{words}");
            }
            None => assert_eq!(item["stage"], "done", "{words}"),
        }
    }
    desk.model.assert_all_scripted();
    desk.stop().await;
    desk.assert_tidy(&["5", "9"]).await;
    landed_in_order(&desk);
    never_broken(desk.repository());
}

/// On main, each exactly once, and none before what it depends on.
fn landed_in_order(desk: &Desk) {
    let mut subjects = desk.repository().subjects("main");
    subjects.reverse();
    let landed: Vec<i64> =
        subjects[1..].iter().map(|s| s.split(' ').next().unwrap().parse().unwrap()).collect();
    let mut once = landed.clone();
    once.sort_unstable();
    assert_eq!(once, [1, 2, 3, 4, 7, 8, 10, 11, 12], "{subjects:?}");
    let place = |id: i64| landed.iter().position(|landed| *landed == id).unwrap();
    for (id, (_name, depends_on)) in (1..).zip(EVENING) {
        for other in depends_on.iter().filter(|_| landed.contains(&id)) {
            assert!(place(*other) < place(id), "{id} before {other}: {subjects:?}");
        }
    }
    let door = desk.repository().show("main", "door.txt");
    assert_eq!(door.as_deref(), Some("red and blue\n"), "neither colour was lost");
}

/// Each commit of main passes the gate as it stands.
fn never_broken(repository: &Repository) {
    let commits = repository.git(&["rev-list", "main"]);
    for commit in commits.lines() {
        let tree = tempfile::tempdir().unwrap();
        let unpack = format!("git archive {commit} | tar x -C {}", tree.path().display());
        let run = |line: &str, place: &std::path::Path| {
            Command::new("sh").args(["-c", line]).current_dir(place).output().unwrap()
        };
        assert!(run(&unpack, &repository.path).status.success());
        let gate = run("sh check.sh", tree.path());
        let said = String::from_utf8_lossy(&gate.stdout).into_owned();
        assert!(gate.status.success(), "main was broken at {commit}: {said}");
    }
}

//! Thirty ways for an agent to misbehave, and what comes of each: a scripted agent for every way,
//! all at work on one board at the same time.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::desk::Desk;
use crate::support::processes;
use crate::support::repository::Repository;

/// What comes of an item.
enum Outcome {
    /// Its work is on main, once.
    Lands,
    /// It is blocked, and why stands on the board, with these words in it.
    Blocked(&'static str),
    /// It waits for something outside, and what for stands on the board, with these words in it.
    Waits(&'static str),
}

use Outcome::{Blocked, Lands, Waits};

/// The ways (see tests/misbehaving/agent.py), and what comes of each.
const WAYS: &[(&str, Outcome)] = &[
    ("behaves", Lands),
    ("takes_no_urls", Lands),
    ("is_silent", Blocked("was silent for too long")),
    ("floods", Lands),
    ("says_a_huge_line", Lands),
    ("says_an_endless_line", Blocked("a line of over 16 MiB")),
    ("says_garbage", Blocked("not JSON")),
    ("says_bad_utf8", Lands),
    ("says_unknown_things", Lands),
    ("exits_0", Blocked("it exited with code 0 in the middle of a turn")),
    ("exits_1", Blocked("something is wrong")),
    ("dies_at_start", Blocked("no licence")),
    ("dies_in_a_line", Blocked("it exited with code 9 in the middle of a turn")),
    ("forks_daemons", Lands),
    ("ignores_sigterm", Lands),
    ("polls_mail", Lands),
    ("reports_for_another_item", Lands),
    ("reports_twice", Lands),
    ("reports_without_work", Blocked("without committing")),
    ("never_reports", Blocked("without")),
    ("breaks_the_gates", Blocked("`sh check.sh` failed")),
    ("is_over_budget", Blocked("tokens")),
    ("claims_nonsense_usage", Lands),
    ("answers_twice", Lands),
    ("wants_our_files", Lands),
    ("fills_stderr", Lands),
    ("edits_gits_own", Lands),
    ("asks_for_what_is_denied", Lands),
    ("uses_a_dead_token", Lands),
    ("refuses", Blocked("refused")),
    ("fails_for_ever", Waits("boom")),
    ("makes_no_session", Waits("no room for you")),
    ("never_stops_asking", Blocked("without committing its work")),
];

/// How long all of them may take.
const LIMIT: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_ways_to_misbehave_and_what_comes_of_each() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/misbehaving/agent.py");
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    desk.musher
        .set("/watchdog", json!({"max_recoveries": 1, "tick_s": 1}))
        .set("/limits/max_agents", json!(8))
        .set("/limits/max_retries", json!(1))
        .set("/chat/permission_timeout_s", json!(2));
    for (way, _) in WAYS {
        let name = way.replace('_', "-");
        let mut agent = json!({
            "name": name, "role": "coder", "runtime": "acp",
            "command": format!("python3 {script} {way}"),
            "deny": ["Bash(rm *)"], "max_tokens": 1_000_000, "stall_timeout_s": 20,
        });
        if *way == "is_silent" {
            agent["stall_timeout_s"] = json!(3);
        }
        desk.musher.agent(agent);
    }
    desk.start();
    desk.until_ready().await;
    let mut ids = vec![];
    for (way, _) in WAYS {
        let id = desk.file_in("shop", way).await;
        desk.begin(id, Some(&way.replace('_', "-"))).await;
        ids.push(id);
    }
    let began = Instant::now();
    let mut wrong;
    loop {
        wrong = vec![];
        let items = desk.items().await;
        for ((way, outcome), id) in WAYS.iter().zip(&ids) {
            let stage = items[id]["stage"].as_str().unwrap().to_owned();
            let why = || async { desk.show(*id).await["explanation"].as_str().unwrap().to_owned() };
            let right = match outcome {
                Lands => stage == "done",
                Blocked(words) => stage == "blocked" && why().await.contains(words),
                Waits(words) => stage == "coding" && why().await.contains(words),
            };
            if !right {
                wrong.push(format!("{way}: {stage}: {}", why().await));
            }
        }
        if wrong.is_empty() {
            break;
        }
        let limit = began.elapsed() > LIMIT;
        assert!(!limit, "after {LIMIT:?}:\n{}\n{}", wrong.join("\n"), desk.musher.log_tail());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let landed = WAYS.iter().filter(|(_, outcome)| matches!(outcome, Lands)).count();
    assert_eq!(desk.repository().subjects("main").len(), landed + 1, "each landed once");
    let own = desk.musher.pid();
    let agents: Vec<processes::Process> = desk
        .musher
        .processes()
        .into_iter()
        .filter(|process| process.pid != own && process.command.contains("sleep 600"))
        .collect();
    assert!(agents.is_empty(), "daemons are left: {agents:?}");
    let began = Instant::now();
    desk.stop().await;
    assert!(began.elapsed() < Duration::from_secs(20), "the end took {:?}", began.elapsed());
    desk.musher.assert_no_process_left().await;
}

//! A lead splits what is too big, hands the parts out, sleeps while others work, and ends what it
//! began.

use serde_json::json;

use crate::support::desk::Desk;
use crate::support::repository::Repository;
use crate::support::team::{Step, commit, done, play, sh};
use crate::support::until;

fn call(tool: &'static str, arguments: serde_json::Value) -> Step {
    Step::Call(tool, arguments)
}

fn wait() -> Step {
    call("wait_for", json!({"what": "children", "minutes": 60, "detail": "the parts"}))
}

/// A desk with one place for agents, so that a lead that held it would wait for ever.
async fn desk() -> Desk {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    let lead = json!({"name": "lead-1", "role": "lead", "runtime": "api", "permissions": "auto"});
    desk.musher.agent(lead).built_in_agent("coder-1").set("/limits/max_agents", json!(1));
    desk
}

#[tokio::test]
async fn a_lead_hands_out_two_parts_sleeps_and_is_woken_when_they_are_done() {
    let mut desk = desk().await;
    let go = desk.repository().path.join(".git/go");
    let waits = format!("while [ ! -e {} ]; do sleep 0.05; done", go.display());
    play(&desk.model, move |worker, asked| match (worker.agent.as_str(), worker.item) {
        ("lead-1", 1) if asked.contains("You lead this") => vec![
            sh("ls && git log --oneline"),
            call("item_create", json!({"name": "Write the first part", "body": "first.txt"})),
            call("item_create", json!({"name": "Write the second part", "depends_on": [2]})),
            call("item_start", json!({"item": 2})),
            wait(),
        ],
        ("lead-1", 1) if asked.contains("Still open") => vec![wait()],
        ("lead-1", 1) => {
            assert!(asked.contains("All your child items have ended"), "{asked}");
            vec![call("items_list", json!({})), done("Both parts are in.")]
        }
        ("coder-1", 2) => vec![sh(&waits), commit("first.txt", "one"), done("First.")],
        ("coder-1", 3) => vec![commit("second.txt", "two"), done("Second.")],
        other => panic!("nobody asked {other:?} for anything"),
    });
    desk.start();
    assert_eq!(desk.file("Write both parts").await, 1);
    desk.begin(1, Some("lead-1")).await;
    // It sleeps, its part is being worked on, and then the power fails.
    until("the coder to begin", || {
        let began =
            desk.model.requests().iter().any(|r| {
                r.last_tool_result().is_empty() && r.system().contains("You work on item 2")
            });
        began.then_some(())
    })
    .await;
    desk.musher.kill_9().await;
    std::fs::write(&go, "").unwrap();
    desk.start();
    let whole = desk.until_stage(1, &["archived", "blocked"]).await;
    assert_eq!(whole["stage"], "archived", "{}", desk.show(1).await["explanation"]);
    assert_eq!(desk.stages().await[1..], ["done", "done"]);
    let subjects = desk.repository().subjects("main");
    let parts = ["3 story Write the second part", "2 story Write the first part", "Start"];
    assert_eq!(subjects, parts, "the parts are on main, and nothing of the lead's own");
    desk.hear("is finished: its child items are done (#2, #3). lead-1: Both parts are in.").await;
    desk.model.assert_all_scripted();
    desk.stop().await;
    desk.assert_tidy(&[]).await;
}

#[tokio::test]
async fn a_lead_hears_that_a_part_is_blocked_and_asks_a_person() {
    let mut desk = desk().await;
    desk.musher.set("/limits/max_retries", json!(0));
    play(&desk.model, |worker, asked| match (worker.agent.as_str(), worker.item) {
        ("lead-1", 1) if asked.contains("You lead this") => vec![
            call("item_create", json!({"name": "Break it"})),
            call("item_start", json!({"item": 2})),
            wait(),
        ],
        ("lead-1", 1) if asked.contains("#2 Break it is blocked") => {
            // It may not report as long as its part is open, and says so to a person.
            vec![done("Never mind."), call("ask_human", json!({"question": "Drop #2?"}))]
        }
        ("lead-1", 1) => {
            assert!(asked.contains("#2 Break it was abandoned"), "{asked}");
            vec![done("Nothing came of it.")]
        }
        ("coder-1", 2) => vec![commit("broken", "x"), done("Done.")],
        other => panic!("nobody asked {other:?} for anything"),
    });
    desk.start();
    desk.file("Do something").await;
    desk.begin(1, Some("lead-1")).await;
    desk.hear("Drop #2?").await;
    assert_eq!(desk.stages().await, ["coding", "blocked"], "it reported in vain");
    desk.say("!move 2 abandoned").await;
    let whole = desk.until_stage(1, &["archived", "blocked"]).await;
    assert_eq!(whole["stage"], "blocked", "no part of it was finished");
    desk.hear("has no child item that was finished: Nothing came of it.").await;
    desk.stop().await;
    desk.musher.assert_no_process_left().await;
}

#[tokio::test]
async fn a_scout_answers_and_changes_nothing() {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    let scout =
        json!({"name": "scout-1", "role": "scout", "runtime": "api", "permissions": "auto"});
    desk.musher.agent(scout);
    play(&desk.model, |worker, _asked| {
        assert_eq!((worker.agent.as_str(), worker.item), ("scout-1", 1));
        vec![
            Step::Call("write_file", json!({"path": "README.md", "content": "mine"})),
            sh("cat README.md && git log --oneline"),
            done("README.md says `# shop`; nothing else does."),
        ]
    });
    desk.start();
    desk.file("What does the README say?").await;
    desk.begin(1, Some("scout-1")).await;
    let item = desk.until_stage(1, &["archived", "blocked"]).await;
    assert_eq!(item["stage"], "archived", "{}", desk.show(1).await["explanation"]);
    desk.hear("README.md says `# shop`; nothing else does.").await;
    let results: Vec<String> =
        desk.model.requests().iter().map(|request| request.last_tool_result()).collect();
    assert!(results.iter().any(|text| text.contains("a scout writes no files")), "{results:#?}");
    assert_eq!(desk.repository().subjects("main"), ["Start"]);
    desk.stop().await;
    desk.assert_tidy(&[]).await;
}

//! Stop, reset and retry: what is ended is ended, and nothing comes back by itself.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::model_server::{Reply, Request};
use crate::support::scene::{Scene, agents_write, is_agent, is_coordinator, shell};
use crate::support::{until, until_within};

/// How long an agent and its tools may live after a stop: the whole ladder, to the kill.
const ENDED: Duration = Duration::from_secs(8);

#[tokio::test]
async fn reset_during_an_answer_ends_it_and_begins_anew() {
    let scene = Scene::new().await;
    scene.model.once(Request::is_musher, Reply::text("apples are red"));
    scene.model.once(Request::is_musher, Reply::hang());
    scene.model.always(Request::is_musher, Reply::text("a fresh answer"));
    scene.say("what colour are apples?").await;
    scene.hear("apples are red").await;
    scene.say("and how do pears taste?").await;
    scene.model.wait_for_requests(2, Request::is_musher).await;
    scene.say("and plums?").await;
    // Whoever is answered now has read the plums before it.
    scene.ask("!version").await;

    let answer = scene.ask("!reset").await;
    for part in ["Stopped the answer", "plums", "A new conversation begins"] {
        assert!(answer.body().contains(part), "no {part:?} in {}", answer.body());
    }
    scene.model.wait_for_abandoned(|request| request.mentions("pears")).await;
    scene.say("what is a spoon?").await;
    scene.hear("a fresh answer").await;
    let said = scene.said_until_now().await;
    let resets = said.iter().filter(|event| event.body().contains("new conversation")).count();
    assert_eq!(resets, 1, "one answer\n{}", scene.ann.print().await);
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 3, "the queue was dropped\n{}", scene.model.print());
    for gone in ["apples", "pears", "plums"] {
        assert!(!requests[2].mentions(gone), "{gone} is remembered");
    }
}

#[tokio::test]
async fn retry_waits_for_no_answer_and_asks_what_was_stopped_again() {
    let scene = Scene::new().await;
    scene.model.once(Request::is_musher, Reply::hang());
    scene.model.always(Request::is_musher, Reply::text("It is 42."));
    scene.say("what is the meaning of it?").await;
    scene.model.wait_for_requests(1, Request::is_musher).await;
    let busy = scene.ask("!retry").await;
    assert!(busy.body().contains("still answering"), "{}", busy.body());
    assert!(busy.body().contains("`stop`"), "the remedy: {}", busy.body());
    scene.said_until_now().await;
    assert_eq!(scene.model.requests().len(), 1, "nothing was asked twice");

    let stopped = scene.ask("!stop").await;
    assert!(stopped.body().contains("Stopped the answer"), "{}", stopped.body());
    scene.say("!retry").await;
    scene.hear("It is 42.").await;
    let requests = scene.model.requests();
    assert_eq!(requests.len(), 2, "{}", scene.model.print());
    assert!(requests[1].last_user_text().contains("the meaning of it?"), "{:?}", requests[1]);
    // Answered now: there is nothing more to ask again.
    let nothing = scene.ask("!retry").await;
    assert!(nothing.body().contains("nothing to `retry`"), "{}", nothing.body());
    assert_eq!(scene.model.requests().len(), 2);
}

/// Claude Code has committed something, and runs a command that wants to outlive it.
async fn claude_code_at_work() -> Scene {
    let scene = Scene::with(|musher| {
        musher.claude_agent("coder-1");
    })
    .await;
    scene.model.on(|request| {
        if !is_agent(request) {
            return None;
        }
        Some(match request.answers_since_person() {
            0 => shell(request, "echo half > half.txt && git add -A && git commit -qm Half"),
            1 => shell(request, "setsid sleep 6181 & sleep 6182"),
            _ => Reply::hang(),
        })
    });
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    let sleeping = || {
        let all = scene.musher.processes();
        all.iter().filter(|process| process.command.contains("sleep 618")).count()
    };
    until_within(Duration::from_secs(90), "its command runs", || (sleeping() >= 2).then_some(()))
        .await;
    scene
}

/// Nothing is left of the agent in time, and what it did is kept.
async fn assert_ended(scene: &Scene, began: Instant) {
    let own = scene.musher.pid();
    until("the agent and its tools are ended", || {
        scene.musher.processes().iter().all(|process| process.pid == own).then_some(())
    })
    .await;
    assert!(began.elapsed() < ENDED, "took {:?}", began.elapsed());
    let kept = scene.repository.branches();
    let branch = kept.iter().find(|branch| branch.starts_with("item/1-"));
    let branch = branch.unwrap_or_else(|| panic!("the branch is gone: {kept:?}"));
    assert_eq!(scene.repository.show(branch, "half.txt").as_deref(), Some("half\n"));
    assert_eq!(scene.repository.subjects("main"), ["Start"]);
}

#[tokio::test]
async fn stop_of_an_item_ends_claude_code_with_its_tools_and_keeps_the_work() {
    let scene = claude_code_at_work().await;
    let began = Instant::now();
    scene.say("!stop 1").await;
    let answer = scene.hear("Stopped #1").await;
    assert!(answer.body().contains("coder-1 was at work, and is ended"), "{}", answer.body());
    assert!(answer.body().contains("`unblock 1`"), "how it goes on: {}", answer.body());
    assert_ended(&scene, began).await;
    assert_eq!(scene.items().await[0]["badge"], "blocked");

    // And it goes on from there.
    scene.model.clear_rules();
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    scene.say("!unblock 1").await;
    scene.hear("erged").await;
    assert_eq!(scene.repository.show("main", "half.txt").as_deref(), Some("half\n"));
}

#[tokio::test]
async fn stop_all_ends_claude_code_with_its_tools_and_keeps_the_work() {
    let scene = claude_code_at_work().await;
    let began = Instant::now();
    scene.say("!stop all").await;
    let answer = scene.hear("Everything is stopped").await;
    assert!(answer.body().contains("coder-1 on #1"), "{}", answer.body());
    assert_ended(&scene, began).await;
}

#[tokio::test]
async fn stop_all_outlives_a_restart_and_what_was_said_meanwhile_is_answered_after_it() {
    let mut scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    scene.model.on(|request| {
        let asked = is_coordinator(request) && request.last_user_text().contains("there?");
        asked.then(|| Reply::text("I am here."))
    });
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    scene.ask("!story Add a calculator").await;
    scene.ask("!stop all").await;
    scene.musher.restart().await;
    let status = scene.ask("!status").await;
    assert!(status.body().contains("Everything is stopped"), "{}", status.body());
    let started = scene.ask("!start 1").await;
    assert!(started.body().contains("everything is stopped"), "{}", started.body());
    let held = scene.ask("are you there?").await;
    assert!(held.body().contains("after `resume all`"), "{}", held.body());
    scene.musher.restart().await;
    // Whatever was to begin by itself has begun when this is answered.
    scene.ask("!version").await;
    scene.said_until_now().await;
    assert!(scene.model.requests().is_empty(), "{}", scene.model.print());
    assert_eq!(scene.items().await[0]["stage"], json!("coding"));

    scene.say("!resume all").await;
    scene.hear_all(&["I am here.", "erged"]).await;
    let said = scene.said_until_now().await;
    let answers = said.iter().filter(|event| event.body().contains("I am here.")).count();
    assert_eq!(answers, 1, "{}", scene.ann.print().await);
}

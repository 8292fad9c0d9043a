//! A person's verdict on finished work: by a thumb, by a reply in words; also after a kill.

use std::time::Duration;

use serde_json::json;

use crate::support::event::{Event, Message};
use crate::support::scene::{Scene, agents_write};

/// A whole piece of work: processes start, an agent's turns, gates twice, a merge.
const WORK: Duration = Duration::from_secs(120);

/// Ann's room after a story is done that wants her verdict, and the message that asks for it.
async fn asked() -> (Scene, Event) {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1").set("/projects/0/qa", json!("human"));
    })
    .await;
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    let bot = scene.musher.id.clone();
    let asks =
        move |event: &Event| event.sender == bot && event.body().contains("waits for your verdict");
    let question = scene.ann.wait_within(WORK, "the question", asks).await;
    (scene, question)
}

#[tokio::test]
async fn a_thumb_on_the_question_merges_the_work_also_after_a_kill() {
    let (mut scene, question) = asked().await;
    for part in ["`calculator.txt` +1 −0", "Gates passed: `sh check.sh`", "👍"] {
        assert!(question.body().contains(part), "no {part:?} in {}", question.body());
    }
    assert_eq!(question.mentions(), [scene.ann.id.as_str()], "who filed it is pinged");
    scene.musher.kill_9().await;
    scene.ann.react(&scene.room, &question.id, "👍").await;
    scene.musher.start();
    let bot = scene.musher.id.clone();
    let merged = |event: &Event| event.sender == bot && event.body().contains("is merged as");
    scene.ann.wait_within(WORK, "the work is merged", merged).await;
    let shown = scene.ann.latest_text(&question.id).await;
    assert!(shown.contains("Approved") && shown.contains(&scene.ann.id), "{shown}");
    scene.assert_landed_once(1, "Add a calculator", "calculator.txt").await;
    let asked = scene.said().await;
    let asked = asked.iter().filter(|event| event.body().contains("waits for your verdict"));
    assert_eq!(asked.filter(|event| event.edit_of().is_none()).count(), 1, "it is asked once");
}

#[tokio::test]
async fn a_reply_in_words_turns_the_work_down_and_keeps_it() {
    let (scene, question) = asked().await;
    scene
        .ann
        .say(&scene.room, Message::text("reject: 2 tests are missing").reply_to(&question.id))
        .await;
    scene.hear("Rejected #1").await;
    assert_eq!(scene.items().await[0]["stage"], "rejected");
    assert_eq!(scene.repository.subjects("main"), ["Start"]);
    let branches = scene.repository.branches();
    assert!(branches.iter().any(|branch| branch.starts_with("item/1-")), "{branches:?}");
    assert!(
        scene
            .model
            .own_requests()
            .iter()
            .all(|request| !crate::support::scene::is_coordinator(request)),
        "no model was asked about a verdict"
    );
}

//! From a message in a room to a tested commit on main: the whole way, each part the real one.

use std::time::Duration;

use serde_json::json;

use crate::support::encrypted_person::EncryptedPerson;
use crate::support::model_server::{ModelServer, Reply};
use crate::support::musher::Musher;
use crate::support::repository::Repository;
use crate::support::scene::{Scene, agents_write, assert_landed_once, is_coordinator};
use crate::support::synapse::Synapse;

/// A whole piece of work: processes start, an agent's turns, gates twice, a merge.
const WORK: Duration = Duration::from_secs(120);

/// Files a story, starts it, and follows it until it is merged.
async fn from_command_to_merge(scene: &mut Scene) {
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    let filed = scene.ask("!story Add a calculator").await;
    assert!(filed.body().contains('1'), "the item's number: {}", filed.body());
    assert_eq!(scene.repository.subjects("main"), ["Start"], "nothing starts by itself");

    scene.say("!start 1").await;
    let bot = scene.musher.id.clone();
    let says = |part: &'static str| {
        let (room, bot) = (scene.room.clone(), bot.clone());
        move |event: &crate::support::event::Event| {
            event.room == room && event.sender == bot && event.body().to_lowercase().contains(part)
        }
    };
    scene.ann.wait_within(WORK, "the work is started", says("started")).await;
    scene.ann.wait_within(WORK, "the work is merged", says("merged")).await;

    scene.assert_landed_once(1, "Add a calculator", "calculator.txt").await;
    let items = scene.items().await;
    assert_eq!(items.len(), 1, "{items:?}");
    assert_eq!(items[0]["stage"], "done");
    assert_eq!(scene.repository.branches(), ["main"], "the item's branch is merged and gone");
    scene.model.assert_all_scripted();

    let status = scene.musher.stop().await;
    assert!(status.success(), "{status}");
    scene.musher.assert_no_process_left().await;
}

#[tokio::test]
async fn a_story_becomes_a_commit_by_claude_code() {
    let mut scene = Scene::with(|musher| {
        musher.claude_agent("coder-1");
    })
    .await;
    from_command_to_merge(&mut scene).await;
    assert!(!scene.model.claude_requests().is_empty(), "Claude Code did the work");
    assert!(scene.model.own_requests().is_empty(), "no model is asked for a command");
}

#[tokio::test]
async fn a_story_becomes_a_commit_by_codex() {
    let mut scene = Scene::with(|musher| {
        musher.codex_agent("coder-1");
    })
    .await;
    from_command_to_merge(&mut scene).await;
    assert!(!scene.model.codex_requests().is_empty(), "Codex did the work");
    assert!(scene.model.own_requests().is_empty(), "no model is asked for a command");
}

#[tokio::test]
async fn a_story_becomes_a_commit_by_an_agent_behind_the_agent_client_protocol() {
    let mut scene = Scene::with(|musher| {
        musher.acp_agent("coder-1");
    })
    .await;
    from_command_to_merge(&mut scene).await;
    assert!(!scene.model.claude_requests().is_empty(), "the agent did the work");
    assert!(scene.model.own_requests().is_empty(), "no model is asked for a command");
}

#[tokio::test]
async fn a_story_becomes_a_commit_by_the_built_in_agent() {
    let mut scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    from_command_to_merge(&mut scene).await;
    assert!(scene.model.claude_requests().is_empty());
}

#[tokio::test]
async fn plain_words_in_an_encrypted_room_become_a_commit() {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    let repository = Repository::new("shop");
    let ann = EncryptedPerson::new(server, "ann").await;
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin(&ann.id).project(&repository).built_in_agent("coder-1");
    musher.start();

    model.on(|request| {
        if !is_coordinator(request) || !request.last_user_text().contains("please") {
            return None;
        }
        Some(match request.answers_since_person() {
            0 => Reply::call("item_create", json!({"kind": "story", "name": "Add a calculator"})),
            1 => Reply::call("item_start", json!({"item": 1})),
            _ => Reply::text("I filed it as **1** and gave it to a coder."),
        })
    });
    agents_write(&model, "Add a calculator", "calculator.txt");

    let room = ann.direct_room(&musher.id).await;
    ann.wait_until_joined(&room, &musher.id).await;
    ann.say(&room, "please add a calculator to the shop").await;
    let answer = ann.wait_for_text(&room, &musher.id, "gave it to a coder").await;
    assert!(answer.html().contains("<strong>1</strong>"), "{}", answer.html());
    let merged = |event: &crate::support::event::Event| {
        event.decrypted && event.sender == musher.id && event.body().contains("merged")
    };
    ann.wait_within(WORK, "the work is merged", merged).await;

    assert_landed_once(&repository, 1, "Add a calculator", "calculator.txt");
    musher.assert_no_agent_left().await;
    // Nothing that Musher says in an encrypted room may be readable by the server.
    let readable: Vec<_> = ann
        .events()
        .into_iter()
        .filter(|event| event.sender == musher.id && event.is_message() && !event.decrypted)
        .collect();
    assert!(readable.is_empty(), "{readable:?}");
    model.assert_all_scripted();
}

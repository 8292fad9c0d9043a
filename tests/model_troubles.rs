//! An agent's model refuses it, limits it or cannot be reached: the room hears one sentence, the
//! item stays where it is, and goes on when the model is back.

use std::time::Duration;

use serde_json::json;

use crate::support::model_server::{Api, Reply};
use crate::support::scene::{Scene, agents_write, is_agent, is_coordinator};

/// Until a pause is over and the work done.
const WORK: Duration = Duration::from_secs(180);

#[derive(Clone, Copy)]
enum By {
    Claude,
    BuiltIn,
}

/// An agent's model fails as `reply` until the room has heard `words`; then it is back.
async fn told_once_and_goes_on(by: By, reply: Reply, words: &[&str], go_on: Option<&str>) {
    let scene = Scene::with(|musher| {
        match by {
            By::Claude => musher.claude_agent("coder-1"),
            By::BuiltIn => musher.built_in_agent("coder-1"),
        };
    })
    .await;
    scene.model.always(is_agent, reply);
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    let says = |event: &crate::support::event::Event| event.says(&scene.musher.id, words[0]);
    let told = scene.ann.wait_within(WORK, "the room is told", says).await;
    for word in words {
        assert!(told.body().contains(word), "no {word:?} in {}", told.body());
    }
    assert!(!told.body().contains("test-key"), "{}", told.body());
    let item = &scene.items().await[0];
    assert_eq!((&item["stage"], &item["badge"]), (&json!("coding"), &json!("active")), "{item}");

    scene.model.clear_rules();
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    if let Some(command) = go_on {
        scene.say(command).await;
    }
    let merged = |event: &crate::support::event::Event| event.says(&scene.musher.id, "erged");
    scene.ann.wait_within(WORK, "the work is merged", merged).await;
    let said = scene.said_until_now().await;
    let times = said.iter().filter(|event| event.body().contains(words[0])).count();
    assert_eq!(times, 1, "said once\n{}", scene.ann.print().await);
    scene.assert_landed_once(1, "Add a calculator", "calculator.txt").await;
}

#[tokio::test]
async fn the_built_in_agents_key_is_refused() {
    let words = ["are paused", "refused the key", "`resume all`"];
    told_once_and_goes_on(By::BuiltIn, Reply::error(401), &words, Some("!resume all")).await;
}

#[tokio::test]
async fn claude_codes_key_is_refused() {
    let words = ["are paused", "ANTHROPIC_API_KEY", "`resume all`"];
    told_once_and_goes_on(By::Claude, Reply::error(401), &words, Some("!resume all")).await;
}

#[tokio::test]
async fn the_built_in_agent_is_rate_limited() {
    // Longer than a call waits by itself.
    let reply = Reply::error(429).retry_after(Duration::from_secs(31));
    told_once_and_goes_on(By::BuiltIn, reply, &["rate limited", "coder-1"], None).await;
}

#[tokio::test]
async fn claude_code_is_rate_limited() {
    told_once_and_goes_on(By::Claude, Reply::error(429), &["rate limited", "coder-1"], None).await;
}

#[tokio::test]
async fn the_built_in_agents_model_cannot_be_reached() {
    let reply = Reply::text("never read").dropped_after(0);
    told_once_and_goes_on(By::BuiltIn, reply, &["cannot reach its model", "coder-1"], None).await;
}

#[tokio::test]
async fn claude_codes_model_is_not_there() {
    // As a proxy says it whose model is down.
    let reply = Reply::error(503);
    told_once_and_goes_on(By::Claude, reply, &["cannot reach its model", "coder-1"], None).await;
}

#[tokio::test]
async fn from_plain_words_to_a_commit_on_an_openai_compatible_model() {
    let scene = Scene::with(|musher| {
        musher
            .built_in_agent("coder-1")
            .set("/llm/provider", json!("openai"))
            .set("/llm/model", json!("gpt-5"))
            .set("/llm/api_key_env", json!("OPENAI_API_KEY"));
    })
    .await;
    scene.model.on(|request| {
        if !is_coordinator(request) || !request.last_user_text().contains("please") {
            return None;
        }
        Some(match request.answers_since_person() {
            0 => Reply::call("item_create", json!({"kind": "story", "name": "Add a calculator"})),
            1 => Reply::call("item_start", json!({"item": 1})),
            _ => Reply::text("I gave it to a coder."),
        })
    });
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    scene.say("please add a calculator to the shop").await;
    scene.hear("gave it to a coder").await;
    let merged = |event: &crate::support::event::Event| event.says(&scene.musher.id, "erged");
    scene.ann.wait_within(WORK, "the work is merged", merged).await;
    scene.assert_landed_once(1, "Add a calculator", "calculator.txt").await;
    scene.model.assert_all_scripted();
    let requests = scene.model.requests();
    assert!(requests.iter().all(|request| request.api == Api::OpenAi));
    assert!(requests.iter().any(is_agent) && requests.iter().any(is_coordinator));
}

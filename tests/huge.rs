//! Messages of any size: whole, or cut or refused in words; nothing breaks.

use reqwest::Method;
use serde_json::json;

use crate::support::model_server::{Reply, Request};
use crate::support::scene::Scene;

#[tokio::test]
async fn the_longest_message_that_a_homeserver_takes_reaches_the_model_whole() {
    let scene = Scene::new().await;
    scene.model.always(Request::is_musher, Reply::text("I have read it."));
    let longest = format!("{}the end", "a long story ".repeat(4_600));
    assert!(longest.len() > 59_000);
    scene.say(&longest).await;
    scene.hear("I have read it.").await;
    assert!(scene.model.requests()[0].last_user_text().contains(&longest));

    // A megabyte is the homeserver's to refuse; the bot hears nothing of it and goes on.
    let body = json!({"msgtype": "m.text", "body": "x".repeat(1 << 20)});
    let path = format!("client/v3/rooms/{}/send/m.room.message/huge", scene.room);
    let (status, answer) = scene.ann.call(Method::PUT, &path, &body).await;
    assert_eq!(status, 413, "{answer}");

    // As an item's name it is no name; the answer says what would be one.
    scene.say(&format!("!story {longest}")).await;
    let answer = scene.ann.next_message(&scene.room, &scene.musher.id).await;
    assert!(answer.body().len() < 2_000, "{}", answer.body());
    assert!(answer.body().contains("at most 300"), "{}", answer.body());
    assert!(scene.items().await.is_empty());
    scene.ask("!status").await;
}

#[tokio::test]
async fn an_answer_of_a_megabyte_becomes_a_summary_and_a_file() {
    let scene = Scene::new().await;
    let lines: Vec<String> =
        (0..20_000).map(|n| format!("- finding {n:05}: nothing to see here")).collect();
    let long = lines.join("\n");
    assert!(long.len() > 700_000);
    scene.model.always(Request::is_musher, Reply::text(&long));
    scene.say("list everything that you know").await;
    let summary = scene.hear("finding 00000").await;
    assert!(summary.body().len() < 20_000, "{}", summary.body().len());
    let is_file = |event: &crate::support::event::Event| {
        event.sender == scene.musher.id && event.msgtype() == "m.file"
    };
    let file = scene.ann.wait_for("the file", is_file).await;
    let content = scene.ann.download(file.content["url"].as_str().unwrap()).await;
    let content = String::from_utf8(content).unwrap();
    assert!(content.contains("finding 19999"), "{}", content.len());
    scene.say("!version").await;
    scene.hear(env!("CARGO_PKG_VERSION")).await;
}

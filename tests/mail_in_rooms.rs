//! Mail to a person is posted in the room, and what they answer there comes back as mail.

use serde_json::Value;

use crate::support::event::Message;
use crate::support::model_server::{Reply, Request};
use crate::support::musher::Musher;
use crate::support::scene::Scene;

async fn letters_to(musher: &Musher, agent: &str) -> Vec<Value> {
    let listed = musher.call(&["mail", "list", "--to", agent, "--json"]).await.succeeded();
    listed.json()["messages"].as_array().unwrap().clone()
}

#[tokio::test]
async fn an_answer_comes_back_as_mail_by_reply_and_in_the_thread() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    scene.model.always(Request::is_musher, Reply::text("I am only asked what is no mail."));
    let send = ["mail", "send", "--from", "coder-1", "--to", &scene.ann.id, "--subject", "Colour"];
    let body = ["--body", "Shall it be red or blue?", "--type", "question"];
    scene.musher.call(&[&send[..], &body].concat()).await.succeeded();
    let posted = scene.hear("red or blue").await;

    scene.ann.say(&scene.room, Message::text("Rather red.").reply_to(&posted.id)).await;
    scene.hear_all(&["Passed on to coder-1"]).await;
    let in_thread = |text: &str| Message::text(text).in_thread(&posted.id);
    scene.ann.say(&scene.room, in_thread("No, blue.")).await;
    scene.ann.say(&scene.room, in_thread("Dark blue.").reply_to(&posted.id)).await;
    // Somebody in the thread who asks for something else gets that.
    scene.ann.say(&scene.room, in_thread("!version")).await;
    scene.hear(env!("CARGO_PKG_VERSION")).await;
    scene.say("what is left to do?").await;
    scene.hear("what is no mail").await;

    let mut bodies: Vec<String> = vec![];
    for letter in letters_to(&scene.musher, "coder-1").await {
        assert_eq!(letter["from"], scene.ann.id.as_str(), "{letter}");
        bodies.push(letter["body"].as_str().unwrap().to_owned());
    }
    bodies.sort();
    assert_eq!(bodies, ["Dark blue.", "No, blue.", "Rather red."]);
    assert_eq!(scene.model.requests().len(), 1, "{}", scene.model.print());
}

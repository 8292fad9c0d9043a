//! Secrets stand in no log, however much of it there is.

use serde_json::Value;

use crate::support::model_server::{Reply, Request};
use crate::support::scene::Scene;

const KEY: &str = "key-of-the-model-7c0e1f52";

#[tokio::test]
async fn no_secret_reaches_the_log() {
    let mut scene = Scene::with(|musher| {
        musher.env("ANTHROPIC_API_KEY", KEY).env("MUSHER_LOG", "trace");
    })
    .await;
    // An API that quotes the key in its complaint.
    let complaint = format!("the key {KEY} is not one of ours");
    scene.model.once(Request::is_musher, Reply::error(400).saying(&complaint));
    scene.model.always(Request::is_musher, Reply::text("Better now."));
    let answer = scene.ask("are you there?").await;
    assert!(!answer.body().contains(KEY), "{}", answer.body());
    scene.say("and now?").await;
    scene.hear("Better now.").await;
    scene.musher.restart().await;
    scene.say("still there?").await;
    scene.hear("Better now.").await;
    scene.musher.stop().await;

    let session = std::fs::read_to_string(scene.musher.data().join("matrix/session.json")).unwrap();
    let session: Value = serde_json::from_str(&session).unwrap();
    let password = scene.musher.account.password.clone();
    let log = std::fs::read_to_string(scene.musher.directory().join("stderr.log")).unwrap();
    assert!(log.contains("TRACE"), "it says a lot");
    assert!(log.contains("[redacted]"), "something was to be taken out");
    for secret in [KEY, &password, session["access_token"].as_str().unwrap()] {
        let line = log.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} stands in the log");
    }
}

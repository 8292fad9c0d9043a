//! Mail from the command line: whatever was acknowledged is there, and nothing is there twice.

use std::collections::HashMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::model_server::ModelServer;
use crate::support::musher::Musher;
use crate::support::scene::Scene;

/// Four writers at once, each of which starts a process for each of its messages.
async fn two_hundred_arrive(musher: &Musher) {
    let writers = (0..4).map(|writer| async move {
        for number in 0..50 {
            let subject = format!("note {writer}-{number:02}");
            let arguments =
                ["mail", "send", "--to", "coder-1", "--from", "coder-2", "--subject", &subject];
            musher.call(&[&arguments[..], &["--body", "text"]].concat()).await.succeeded();
        }
    });
    join_all(writers).await;

    let listed = list(musher, &["--to", "coder-1", "--limit", "1000"]).await;
    let mut count: HashMap<&str, usize> = HashMap::new();
    for message in &listed {
        *count.entry(message["subject"].as_str().unwrap()).or_default() += 1;
    }
    for writer in 0..4 {
        for number in 0..50 {
            let subject = format!("note {writer}-{number:02}");
            assert_eq!(count.remove(&*subject), Some(1), "{subject}");
        }
        // A writer's messages keep the order in which they were sent.
        let prefix = format!("note {writer}-");
        let mut of_writer: Vec<(i64, &str)> = listed
            .iter()
            .filter(|message| message["subject"].as_str().unwrap().starts_with(&prefix))
            .map(|m| (m["id"].as_i64().unwrap(), m["subject"].as_str().unwrap()))
            .collect();
        of_writer.sort_unstable();
        assert!(of_writer.is_sorted_by_key(|(_, subject)| *subject), "{of_writer:?}");
    }
    assert!(count.is_empty(), "{count:?}");
}

async fn list(musher: &Musher, filter: &[&str]) -> Vec<Value> {
    let arguments = [&["mail", "list", "--json"], filter].concat();
    let listed = musher.call(&arguments).await.succeeded().json();
    listed["messages"].as_array().unwrap().clone()
}

fn two_coders(musher: &mut Musher) {
    musher.built_in_agent("coder-1").built_in_agent("coder-2");
}

#[tokio::test]
async fn beside_the_server() {
    let scene = Scene::with(two_coders).await;
    two_hundred_arrive(&scene.musher).await;
    let answer = scene.ask("!mail coder-1").await;
    assert!(answer.body().contains("note "), "{}", answer.body());
}

#[tokio::test]
async fn without_a_server() {
    let model = ModelServer::start().await;
    let mut musher = Musher::offline(&model);
    two_coders(&mut musher);
    two_hundred_arrive(&musher).await;
}

#[tokio::test]
async fn the_whole_of_a_message_comes_back() {
    let model = ModelServer::start().await;
    let mut musher = Musher::offline(&model);
    two_coders(&mut musher);
    let send = ["mail", "send", "--to", "coder-1", "--from", "coder-2", "--subject", "Re: naming"];
    let rest = ["--body", "line one\nline \"two\"", "--type", "question", "--priority", "high"];
    musher.call(&[&send[..], &rest].concat()).await.succeeded();
    let [message] = <[Value; 1]>::try_from(list(&musher, &["--unread"]).await).unwrap();
    for (key, value) in [
        ("from", json!("coder-2")),
        ("to", json!("coder-1")),
        ("subject", json!("Re: naming")),
        ("body", json!("line one\nline \"two\"")),
        ("type", json!("question")),
        ("priority", json!("high")),
        ("read_at", Value::Null),
    ] {
        assert_eq!(message[key], value, "{key} of {message}");
    }
    for key in ["id", "thread_id", "payload", "item", "created_at", "delivered_at"] {
        assert!(message.get(key).is_some(), "{key} is missing in {message}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused_in_words() {
    let model = ModelServer::start().await;
    let mut musher = Musher::offline(&model);
    two_coders(&mut musher);
    let long = "x".repeat(120 * 1024);
    for (arguments, words) in [
        (&["--to", "coder-9", "--subject", "s", "--body", "b"][..], "coder-9"),
        (&["--to", "@mergers", "--subject", "s", "--body", "b"], "@mergers"),
        (&["--to", "coder-1", "--subject", "s", "--body", "b", "--type", "gossip"], "gossip"),
        (&["--to", "coder-1", "--subject", "s", "--body", "b", "--payload", "{"], "payload"),
        (&["--to", "coder-1", "--subject", "s", "--body", "b", "--type", "worker_died"], "payload"),
    ] {
        let send = [&["mail", "send", "--from", "coder-2"], arguments].concat();
        let called = musher.call(&send).await;
        assert!([2, 3, 4].contains(&called.code), "{arguments:?}: {called:?}");
        assert!(called.stderr.contains(words), "{words} in {called:?}");
        let as_json = musher.call(&[&send[..], &["--json"]].concat()).await;
        let text = format!("{}{}", as_json.stdout, as_json.stderr);
        let error: Value =
            serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains(words)), "{error}");
        assert!(error["error"].get("code").is_some() && error["error"].get("hint").is_some());
    }
    // Over-long: more than one argument may carry, so it goes in three.
    let body = format!("{long}{long}");
    let send = ["mail", "send", "--from", "coder-2", "--to", "coder-1", "--subject", &long];
    let called = musher.call(&[&send[..], &["--body", &body[..body.len() / 2]]].concat()).await;
    assert_ne!(called.code, 0, "a subject of 120 KiB");
    assert!(list(&musher, &[]).await.is_empty(), "nothing was written");
}

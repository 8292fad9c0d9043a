//! A script files, changes and moves items at the command line, with a server and without one.

use serde_json::{Value, json};

use crate::support::desk::Desk;
use crate::support::musher::Called;
use crate::support::repository::Repository;

/// Calls `musher items …` and gives what it prints as JSON.
async fn items(desk: &Desk, arguments: &[&str]) -> Called {
    desk.musher.call(&[&["items"], arguments, &["--json"]].concat()).await
}

async fn show(desk: &Desk, id: &str) -> Value {
    items(desk, &["show", id]).await.succeeded().json()
}

/// The call is refused with this exit code and this in its message or hint, and nothing changed.
async fn refused(desk: &Desk, arguments: &[&str], exit: i32, part: &str) {
    let before = desk.items().await;
    let called = items(desk, arguments).await;
    assert_eq!(called.code, exit, "{arguments:?}: {called:?}");
    let said = format!("{}{}", called.stdout, called.stderr);
    assert!(said.contains(part), "{arguments:?}: no {part:?} in {said}");
    assert_eq!(desk.items().await, before, "{arguments:?}");
}

#[tokio::test]
async fn items_are_filed_changed_and_moved_with_and_without_a_server() {
    let mut desk = Desk::new(vec![Repository::new("shop")]).await;
    desk.musher.built_in_agent("coder-1");
    let qa = json!({"name": "qa-1", "role": "qa", "runtime": "api"});
    desk.musher.agent(qa);
    for with_a_server in [false, true] {
        if with_a_server {
            desk.start();
            desk.until_ready().await;
        }
        let first = if with_a_server { 4 } else { 1 };
        let numbers: Vec<String> = (first..first + 3).map(|number| number.to_string()).collect();
        let [epic, one, two] = numbers.as_slice() else { panic!("three numbers") };
        items(&desk, &["create", "Checkout", "--kind", "epic"]).await.succeeded();
        let piece = ["create", "Pay", "--epic", epic, "--qa", "human", "--agent", "coder-1"];
        let filed = items(&desk, &piece).await.succeeded().json();
        assert_eq!(filed["epic"], json!(epic.parse::<i64>().unwrap()));
        assert_eq!((&filed["qa"], &filed["agent"]), (&json!("human"), &json!("coder-1")));
        items(&desk, &["create", "Ship"]).await.succeeded();
        let version = show(&desk, two).await["version"].to_string();
        let change = ["--depends-on", one, "--priority", "-2", "--name", "Send it"];
        let seen = ["update", two, "--expect", &version];
        items(&desk, &[&seen[..], &change].concat()).await.succeeded();
        let item = show(&desk, two).await;
        assert_eq!(item["depends_on"], json!([one.parse::<i64>().unwrap()]));
        assert_eq!((&item["priority"], &item["name"]), (&json!(-2), &json!("Send it")));
        refused(&desk, &[&seen[..], &["--name", "Late"]].concat(), 4, "changed").await;
        let circle = ["update", one, "--depends-on", two];
        refused(&desk, &circle, 2, "circle").await;
        refused(&desk, &["update", one, "--agent", "nobody"], 3, "no agent nobody").await;
        refused(&desk, &["update", one, "--agent", "qa-1"], 4, "qa-1").await;
        refused(&desk, &["update", one, "--qa", "maybe"], 2, "gates, agent, human").await;
        refused(&desk, &["update", one, "--epic", "first"], 2, "no item's number").await;
        refused(&desk, &["create", "Pay", "--agent", "qa-1"], 4, "qa-1").await;
        items(&desk, &["update", one, "--epic", "none", "--agent", "none"]).await.succeeded();
        let item = show(&desk, one).await;
        assert_eq!((&item["epic"], &item["agent"]), (&Value::Null, &Value::Null));
        items(&desk, &["update", two, "--depends-on", "none"]).await.succeeded();
        refused(&desk, &["move", two, "block"], 2, "--reason").await;
        refused(&desk, &["move", two, "supersede"], 2, "--by").await;
        refused(&desk, &["move", two, "approve"], 4, "backlog").await;
        refused(&desk, &["move", two, "freeze", "--expect", &version], 4, "changed").await;
        items(&desk, &["move", two, "freeze"]).await.succeeded();
        assert_eq!(show(&desk, two).await["stage"]["stage"], "frozen");
        items(&desk, &["move", two, "unfreeze"]).await.succeeded();
        items(&desk, &["move", two, "supersede", "--by", one]).await.succeeded();
        assert_eq!(show(&desk, two).await["stage"]["stage"], "superseded");
        items(&desk, &["move", one, "abandon", "--reason", "No use"]).await.succeeded();
        assert!(show(&desk, one).await["explanation"].as_str().unwrap().contains("No use"));
    }
    desk.musher.env("MUSHER_AGENT", "coder-1");
    refused(&desk, &["move", "5", "backlog"], 4, "agents do not change items").await;
    refused(&desk, &["update", "5", "--name", "Mine"], 4, "agents do not change items").await;
    desk.stop().await;
}

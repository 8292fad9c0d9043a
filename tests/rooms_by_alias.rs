//! A project's room named by its alias: resolved at the start, or refused with the remedy.

use serde_json::json;

use crate::support::model_server::ModelServer;
use crate::support::musher::Musher;
use crate::support::person::Person;
use crate::support::repository::Repository;
use crate::support::synapse::{SERVER_NAME, Synapse};
use crate::support::unique;

async fn with_room(alias: &str) -> (Musher, Person, Repository, ModelServer) {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    let ann = Person::new(server, "ann").await;
    let repositories = [Repository::new("shop"), Repository::new("tools")];
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin(&ann.id);
    for repository in &repositories {
        musher.project(repository);
    }
    musher.set("/projects/0/room", json!(alias)).built_in_agent("coder-1");
    let [shop, _tools] = repositories;
    (musher, ann, shop, model)
}

#[tokio::test]
async fn a_project_is_bound_to_the_room_of_an_alias() {
    let name = unique("shop");
    let alias = format!("#{name}:{SERVER_NAME}");
    let (mut musher, ann, _shop, _model) = with_room(&alias).await;
    let options = json!({"room_alias_name": name, "invite": [musher.id], "preset": "private_chat"});
    let room = ann.create_room(&options).await;
    musher.start();
    musher.wait_until_greeting(&ann, &room).await;
    // Of two projects it is the one that this room is about.
    ann.say(&room, "!story Add a calculator").await;
    ann.wait_for_text(&room, &musher.id, "Add a calculator").await;
    let shown = ann.say(&room, "!projects").await;
    let listed = ann.wait_for_text(&room, &musher.id, "tools").await;
    assert!(listed.body().contains(&room), "{}: {}", shown, listed.body());
    let status = musher.call(&["status", "--json"]).await.succeeded().json();
    let shop = status["projects"].as_array().unwrap().iter().find(|p| p["name"] == "shop").unwrap();
    assert_eq!(shop["items"].as_array().unwrap().len(), 1, "{status}");

    // What is about the project and was asked for nowhere is posted there.
    let create = ["items", "create", "From a script", "--project", "shop"];
    musher.call(&create).await.succeeded();
    musher.call(&["items", "start", "2"]).await.succeeded();
    ann.wait_for_text(&room, &musher.id, "From a script").await;
}

#[tokio::test]
async fn an_alias_that_is_nobodys_is_refused_at_the_start() {
    let alias = format!("#{}:{SERVER_NAME}", unique("nowhere"));
    let (musher, _ann, _shop, _model) = with_room(&alias).await;
    let called = musher.call(&["run"]).await;
    assert_eq!(called.code, 1, "{called:?}");
    for part in [&alias[..], "[[projects]] room", "does not resolve", "by its id"] {
        assert!(called.stderr.contains(part), "no {part:?} in {called:?}");
    }
}

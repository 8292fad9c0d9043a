//! `musher doctor` against the real things: what is well, what is not, and remedies that work.

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply, Request};
use crate::support::musher::Musher;
use crate::support::person::Person;
use crate::support::repository::Repository;
use crate::support::synapse::{Synapse, free_port};

/// The state of a check, and what it says with its remedy.
async fn check(musher: &Musher, id: &str) -> (String, String) {
    let called = musher.call(&["doctor", "--json"]).await;
    let report = called.json();
    let failed = |check: &&Value| check["state"] == "failed";
    let any = report["checks"].as_array().unwrap().iter().find(failed);
    assert_eq!(called.code, i32::from(any.is_some()), "{report:#}");
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id);
    let found = found.unwrap_or_else(|| panic!("no check {id} in {report:#}"));
    let text = |key: &str| found[key].as_str().unwrap().to_owned();
    (text("state"), format!("{} -> {}", text("message"), text("remedy")))
}

async fn is(musher: &Musher, id: &str, state: &str, words: &[&str]) {
    let (found, text) = check(musher, id).await;
    assert_eq!(found, state, "{id}: {text}");
    for word in words {
        assert!(text.contains(word), "{id}: no {word:?} in {text:?}");
    }
}

async fn patient() -> (Musher, ModelServer, Repository) {
    let model = ModelServer::start().await;
    model.always(Request::is_musher, Reply::text("ready"));
    let repository = Repository::new("shop");
    let mut musher = Musher::new(Synapse::shared().await, &model).await;
    musher.allow_admin("@ann:test.local").project(&repository);
    (musher, model, repository)
}

#[tokio::test]
async fn the_homeserver_the_login_and_the_model_are_really_asked() {
    let (mut musher, model, _repository) = patient().await;
    let (id, homeserver) = (musher.id.clone(), musher.account.homeserver.clone());
    is(&musher, "homeserver", "ok", &[&homeserver, "speaks Matrix"]).await;
    is(&musher, "login", "ok", &["the password of", &id, "is right"]).await;
    is(&musher, "model", "ok", &["answers"]).await;
    let mut account = musher.account.clone();
    let login = json!({
        "type": "m.login.password", "password": account.password,
        "identifier": {"type": "m.id.user", "user": id},
    });
    let ann = Person::new(Synapse::shared().await, "ann").await;
    let (_, login) = ann.call(reqwest::Method::POST, "client/v3/login", &login).await;
    account.access_token = login["access_token"].as_str().unwrap().to_owned();
    let bot = Person::with_account(account).await;
    let (_, devices) = bot.call(reqwest::Method::GET, "client/v3/devices", &json!({})).await;
    assert_eq!(devices["devices"].as_array().unwrap().len(), 1, "a trial leaves none: {devices}");

    musher.env("MUSHER_MATRIX_PASSWORD", "not-this-one");
    is(&musher, "login", "failed", &["refuses the password", "MUSHER_MATRIX_PASSWORD"]).await;
    musher.without_env("MUSHER_MATRIX_PASSWORD");
    is(&musher, "login", "failed", &["MUSHER_MATRIX_PASSWORD"]).await;

    model.clear_rules();
    model.always(Request::is_musher, Reply::error(401));
    is(&musher, "model", "failed", &["refused the key", "api_key_env"]).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    musher.set("/llm/base_url", json!(nowhere)).set("/matrix/homeserver", json!(nowhere));
    is(&musher, "model", "failed", &["127.0.0.1"]).await;
    is(&musher, "homeserver", "failed", &[&nowhere, "cannot be reached", "matrix.homeserver"])
        .await;
    // Not a homeserver, though something answers.
    musher.set("/matrix/homeserver", json!(model.url));
    is(&musher, "homeserver", "failed", &[&model.url, "matrix.homeserver"]).await;
}

#[tokio::test]
async fn a_session_that_was_ended_is_told_and_the_remedy_works() {
    let (mut musher, _model, _repository) = patient().await;
    musher.start();
    musher.wait_for_log("synced with the homeserver").await;
    is(&musher, "login", "ok", &["logged in as", &musher.id]).await;
    is(&musher, "encryption", "ok", &[]).await;
    // Somebody logs all devices of the account out.
    let session = std::fs::read_to_string(musher.data().join("matrix/session.json")).unwrap();
    let session: Value = serde_json::from_str(&session).unwrap();
    let mut account = musher.account.clone();
    account.access_token = session["access_token"].as_str().unwrap().to_owned();
    let person = Person::with_account(account).await;
    let (status, _) = person.call(reqwest::Method::POST, "client/v3/logout/all", &json!({})).await;
    assert_eq!(status, 200);
    let status = musher.wait_for_exit().await;
    assert!(!status.success(), "{status}");
    musher.wait_for_log("away and start again with the password").await;

    is(&musher, "login", "failed", &["ended the bot's session", "matrix/", "new device"]).await;
    std::fs::rename(musher.data().join("matrix"), musher.data().join("matrix.old")).unwrap();
    is(&musher, "login", "ok", &["is right"]).await;
    musher.start();
    musher.wait_for_log("synced with the homeserver").await;
}

#[tokio::test]
async fn half_of_the_accounts_files_is_told_and_the_remedy_works() {
    let (mut musher, _model, _repository) = patient().await;
    musher.start();
    musher.wait_for_log("synced with the homeserver").await;
    musher.stop().await;
    let matrix = musher.data().join("matrix");
    for (gone, words) in [
        ("session.json", ["session.json", "move the directory away"]),
        ("store", ["crypto store", "move it away"]),
    ] {
        std::fs::rename(matrix.join(gone), musher.data().join("gone")).unwrap();
        is(&musher, "encryption", "failed", &words).await;
        let called = musher.call(&["run"]).await;
        assert_eq!(called.code, 1, "{called:?}");
        assert!(called.stderr.contains("move the directory"), "{called:?}");
        std::fs::rename(musher.data().join("gone"), matrix.join(gone)).unwrap();
        is(&musher, "encryption", "ok", &[]).await;
    }
    std::fs::rename(&matrix, musher.data().join("old")).unwrap();
    musher.start();
    musher.wait_for_log("synced with the homeserver").await;
}

#[tokio::test]
async fn a_broken_project_is_told_at_the_start_and_by_the_doctor() {
    let (mut musher, _model, repository) = patient().await;
    musher.set("/projects/0/base", json!("trunk"));
    musher.start();
    let line = musher.wait_for_log("nothing can be done in this project").await;
    assert!(line.contains("shop") && line.contains("no branch `trunk`"), "{line}");
    is(&musher, "project:shop", "failed", &["no branch `trunk`", "set `base`"]).await;
    repository.git(&["branch", "trunk"]);
    is(&musher, "project:shop", "ok", &["trunk"]).await;
}

//! Wrong input of every kind: one clear sentence with the remedy, and nothing has changed.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply, Request};
use crate::support::musher::Musher;
use crate::support::person::Person;
use crate::support::repository::Repository;
use crate::support::scene::{Scene, agents_write, is_agent, report, shell};
use crate::support::synapse::{RateLimits, Synapse, free_port};
use crate::support::{installed, until_within};

/// A sentence for a person: not empty, not a debug print, not a wall of text.
fn assert_a_clear_sentence(text: &str) {
    assert!((10..900).contains(&text.len()), "{text:?}");
    for leak in ["Err(", "Error {", "Some(", "panicked", "RUST_BACKTRACE", "0x"] {
        assert!(!text.contains(leak), "{leak} in {text:?}");
    }
}

/// Asks, and fails unless the answer is a clear sentence with all these words.
async fn refused(scene: &Scene, command: &str, words: &[&str]) {
    let answer = scene.ask(command).await;
    assert_a_clear_sentence(answer.body());
    for word in words {
        assert!(answer.body().contains(word), "{command}: no {word:?} in {:?}", answer.body());
    }
}

#[tokio::test]
async fn commands_that_cannot_be_carried_out() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    scene.ask("!story Add a calculator").await;
    let before = scene.items().await;
    for (command, words) in [
        ("!sttus", &["sttus", "!status"][..]),
        ("!xyzzyplugh", &["xyzzyplugh", "help"]),
        ("!start", &["start", "N"]),
        ("!start 99", &["99", "status"]),
        ("!start one", &["one"]),
        ("!start 1 coder-9", &["coder-9", "coder-1"]),
        ("!show 99", &["99"]),
        ("!why 99", &["99"]),
        ("!logs 99", &["99"]),
        ("!diff 99", &["99"]),
        ("!tell coder-9 hello", &["coder-9", "coder-1"]),
        ("!mail coder-9", &["coder-9"]),
        ("!switch shoop", &["shoop", "shop"]),
        ("!story", &["story"]),
        ("!story    ", &["story"]),
        ("!depends 1 on 99", &["99"]),
        ("!depends 1 on 1", &["1"]),
        ("!stop 1", &["1"]),
        ("!approve 1", &["1"]),
        ("!unblock 1", &["1"]),
        ("!unfreeze 1", &["1"]),
        ("!move 1 done", &["done"]),
        ("!move 1 nowhere", &["nowhere"]),
        ("!timer cancel 99", &["99"]),
        ("!retry", &["retry"]),
    ] {
        refused(&scene, command, words).await;
    }
    assert_eq!(scene.items().await, before, "nothing changed");
    assert!(scene.model.requests().is_empty(), "no model was asked");
    assert_eq!(scene.repository.branches(), ["main"]);
}

#[tokio::test]
async fn administration_is_for_administrators() {
    let server = Synapse::shared().await;
    let mut scene = Scene::new().await;
    let bob = Person::new(server, "bob").await;
    scene.musher.stop().await;
    scene.musher.allow(&bob.id);
    scene.musher.start();
    let room = scene.musher.room_with(&bob).await;
    for command in ["!new project tools --host-only", "!rebuild", "!stop all", "!resume all"] {
        let answer = scene.musher.ask(&bob, &room, command).await;
        assert!(answer.body().contains("administrator"), "{command}: {}", answer.body());
    }
    let listed = scene.ask("!projects").await;
    assert!(!listed.body().contains("tools"), "{}", listed.body());
}

/// Files item 1, starts it, and fails unless it is blocked with these words, said in the room.
async fn start_fails(scene: &Scene, words: &[&str]) {
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    for word in words {
        scene.hear_all(&[word]).await;
    }
    let said = scene.said().await;
    for message in &said {
        assert_a_clear_sentence(message.body());
    }
    let item = &scene.items().await[0];
    assert_ne!(item["stage"], "done", "{item}");
}

/// Files item 1 and fails unless its start is refused with these words, in the room and at the
/// command line, and changes nothing.
async fn start_is_refused(scene: &Scene, words: &[&str]) {
    scene.ask("!story Add a calculator").await;
    refused(scene, "!start 1", words).await;
    refused(scene, "!move 1 coding", words).await;
    let called = scene.musher.call(&["items", "start", "1"]).await;
    assert_eq!(called.code, 4, "{}{}", called.stdout, called.stderr);
    for word in words {
        assert!(called.stderr.contains(word), "no {word:?} in {:?}", called.stderr);
    }
    assert_eq!(scene.items().await[0]["stage"], "backlog");
    assert!(scene.model.requests().is_empty(), "{}", scene.model.print());
}

#[tokio::test]
async fn a_project_that_is_no_git_repository() {
    let plain = tempfile::tempdir().unwrap();
    let path = plain.path().to_path_buf();
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1").set("/projects/0/path", json!(path));
    })
    .await;
    start_is_refused(&scene, &["not a git repository", "git init"]).await;
    assert_eq!(std::fs::read_dir(plain.path()).unwrap().count(), 0, "nothing was made there");
}

#[tokio::test]
async fn a_base_branch_that_is_missing() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1").set("/projects/0/base", json!("trunk"));
    })
    .await;
    start_is_refused(&scene, &["no branch `trunk`", "`base`", "main"]).await;
    assert_eq!(scene.repository.branches(), ["main"]);
}

#[tokio::test]
async fn a_dirty_checkout_is_left_alone_and_told() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1");
    })
    .await;
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    scene.repository.write("README.md", "half written\n");
    scene.repository.write("notes.txt", "mine\n");
    scene.ask("!story Add a calculator").await;
    scene.say("!start 1").await;
    scene.hear("erged").await;
    // Landed on the branch, which needs no checkout; what Ann was writing is as it was.
    assert!(scene.repository.show("main", "calculator.txt").is_some());
    let read = |name: &str| std::fs::read_to_string(scene.repository.path.join(name)).unwrap();
    assert_eq!((read("README.md"), read("notes.txt")), ("half written\n".into(), "mine\n".into()));
    scene.hear_all(&["uncommitted"]).await;
}

#[tokio::test]
async fn a_gate_that_is_not_found() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1").set("/projects/0/gates", json!(["no-such-gate --all"]));
    })
    .await;
    start_is_refused(&scene, &["no-such-gate", "not installed", "`gates`"]).await;
    assert_eq!(scene.repository.subjects("main"), ["Start"]);
}

#[tokio::test]
async fn a_gate_that_fails_goes_back_to_the_coder_and_then_to_a_person() {
    let scene = Scene::with(|musher| {
        musher.built_in_agent("coder-1").set("/limits", json!({"max_retries": 1}));
    })
    .await;
    let mut number = 0;
    scene.model.on(move |request| {
        if !is_agent(request) {
            return None;
        }
        number += 1;
        let line = format!("echo {number} > broken && git add -A && git commit -qm Work");
        Some(match request.answers_since_person() {
            0 => shell(request, &line),
            1 => report(request, "It is written."),
            _ => Reply::text("Done."),
        })
    });
    start_fails(&scene, &["there is a file: broken"]).await;
    scene.hear_all(&["blocked"]).await;
    let told = scene.model.requests().iter().any(|r| r.mentions("there is a file: broken"));
    assert!(told, "the coder was shown the output\n{}", scene.model.print());
    assert_eq!(scene.repository.subjects("main"), ["Start"]);
    assert_eq!(scene.items().await[0]["badge"], "blocked");
}

#[tokio::test]
async fn a_cli_that_is_not_installed() {
    let tools = tempfile::tempdir().unwrap();
    let command = tools.path().join("claude");
    let missing = command.clone();
    let scene = Scene::with(|musher| {
        musher.claude_agent("coder-1").set("/agents/0/command", json!(missing));
    })
    .await;
    agents_write(&scene.model, "Add a calculator", "calculator.txt");
    start_fails(&scene, &[command.to_str().unwrap(), "install", "`resume all`"]).await;
    assert!(scene.model.requests().is_empty());
    assert_eq!(scene.items().await[0]["stage"], "coding", "nothing is counted against the item");
    // Installed now: a person's word, or the next look, lets it go on.
    std::os::unix::fs::symlink(installed("npm/node_modules/.bin/claude"), &command).unwrap();
    scene.ask("!resume all").await;
    scene.hear("erged").await;
}

#[tokio::test]
async fn a_cli_of_an_untested_version() {
    let tools = tempfile::tempdir().unwrap();
    let command: PathBuf = tools.path().join("claude");
    let real = installed("npm/node_modules/.bin/claude");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--version*) echo '0.9.1 (Claude Code)';; *) exec {} \"$@\";; esac\n",
        real.display()
    );
    std::fs::write(&command, script).unwrap();
    std::fs::set_permissions(&command, std::fs::Permissions::from_mode(0o755)).unwrap();
    let scene = Scene::with(|musher| {
        musher.claude_agent("coder-1").set("/agents/0/command", json!(command));
    })
    .await;
    let doctor = scene.musher.call(&["doctor", "--json"]).await;
    let report = format!("{}{}", doctor.stdout, doctor.stderr);
    assert!(report.contains("0.9.1"), "{report}");
    // Said at the start too.
    scene.musher.wait_for_log("0.9.1").await;
}

/// The coordinator is asked, the model fails as `reply`, and the room reads these words.
async fn the_model_fails(reply: Reply, words: &[&str]) -> Scene {
    let scene = Scene::new().await;
    scene.model.always(Request::is_musher, reply);
    let answer = scene.ask("what is there to do?").await;
    assert_a_clear_sentence(answer.body());
    for word in words {
        assert!(answer.body().contains(word), "no {word:?} in {:?}", answer.body());
    }
    assert!(!answer.body().contains("test-key"), "{}", answer.body());
    scene
}

#[tokio::test]
async fn a_model_that_does_not_let_us_in() {
    let scene =
        the_model_fails(Reply::error(401), &["refused the key", "[llm]", "api_key_env"]).await;
    assert_eq!(scene.model.requests().len(), 1, "not tried again\n{}", scene.model.print());
    // The question is not lost.
    scene.model.clear_rules();
    scene.model.always(Request::is_musher, Reply::text("Nothing at all."));
    scene.say("!retry").await;
    scene.hear("Nothing at all.").await;
    let requests = scene.model.requests();
    assert!(requests.last().unwrap().last_user_text().contains("what is there to do?"));
}

#[tokio::test]
async fn a_model_that_wants_us_to_wait() {
    let wait = Reply::error(429).retry_after(Duration::from_secs(120));
    the_model_fails(wait, &["rate", "retry"]).await;
}

#[tokio::test]
async fn a_model_that_does_not_exist() {
    the_model_fails(Reply::error(404), &["no such model", "[llm] model"]).await;
}

#[tokio::test]
async fn a_model_that_cannot_be_reached() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let address = nowhere.clone();
    let scene = Scene::with(|musher| {
        musher.set("/llm/base_url", json!(address));
    })
    .await;
    let answer = scene.ask("what is there to do?").await;
    assert_a_clear_sentence(answer.body());
    assert!(answer.body().contains("reach"), "{}", answer.body());
    assert!(answer.body().contains("127.0.0.1"), "which server: {}", answer.body());
    // Commands work without a model.
    refused(&scene, "!start 99", &["99"]).await;
}

#[tokio::test]
async fn a_model_that_hiccups_is_asked_again() {
    let scene = Scene::new().await;
    for reply in [Reply::error(529), Reply::text("half of an answer that breaks").dropped_after(2)]
    {
        scene.model.once(Request::is_musher, reply);
    }
    scene.model.always(Request::is_musher, Reply::text("Nothing at all."));
    scene.say("what is there to do?").await;
    scene.hear_all(&["Nothing at all."]).await;
    let answers = scene.said_until_now().await;
    let words = answers.iter().filter(|event| event.msgtype() == "m.text").count();
    assert_eq!(words, 1, "one answer and no complaint\n{}", scene.ann.print().await);
}

/// Starts a Musher that cannot work, and returns what it says on its way out.
async fn does_not_start(musher: &Musher) -> (i32, String) {
    let called = musher.call(&["run"]).await;
    assert_ne!(called.code, 0, "{called:?}");
    assert!(!called.stderr.contains("panicked"), "{called:?}");
    (called.code, called.stderr)
}

#[tokio::test]
async fn a_wrong_password() {
    let model = ModelServer::start().await;
    let mut musher = Musher::new(Synapse::shared().await, &model).await;
    musher.env("MUSHER_MATRIX_PASSWORD", "not-this-one").allow_admin("@ann:test.local");
    let (_, said) = does_not_start(&musher).await;
    assert!(said.contains("MUSHER_MATRIX_PASSWORD") && said.contains(&musher.id), "{said}");
    assert!(!said.contains("not-this-one"), "{said}");
    musher.without_env("MUSHER_MATRIX_PASSWORD");
    let (code, said) = does_not_start(&musher).await;
    assert!(said.contains("MUSHER_MATRIX_PASSWORD"), "{said}");
    assert!(code == 1 || code == 2, "{code}");
}

#[tokio::test]
async fn a_homeserver_that_is_not_there() {
    let model = ModelServer::start().await;
    let mut musher = Musher::new(Synapse::shared().await, &model).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    musher.set("/matrix/homeserver", json!(nowhere)).allow_admin("@ann:test.local");
    let (code, said) = does_not_start(&musher).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&nowhere), "{said}");
}

#[tokio::test]
async fn a_homeserver_that_goes_away_and_comes_back() {
    let server = Synapse::start(RateLimits::Raised).await;
    let scene = Scene::on(&server, Repository::new("shop"), |_| {}).await;
    scene.ask("!story Before").await;
    server.kill();
    // It lives on: the command line answers, and the log says what is the matter.
    assert_eq!(scene.items().await.len(), 1);
    until_within(Duration::from_secs(60), "the log names it", || {
        scene.musher.log().contains(&server.url).then_some(())
    })
    .await;
    server.resume().await;
    scene.say("!story After").await;
    let after = |event: &crate::support::event::Event| event.says(&scene.musher.id, "After");
    scene.ann.wait_within(Duration::from_secs(90), "it is back", after).await;
    assert_eq!(scene.items().await.len(), 2);
}

#[tokio::test]
async fn wrong_calls_of_the_command_line() {
    let model = ModelServer::start().await;
    let mut musher = Musher::offline(&model);
    musher.built_in_agent("coder-1");
    for (arguments, code, words) in [
        (&["status", "99"][..], 3, "99"),
        (&["logs", "99"], 3, "99"),
        (&["mail", "read", "99"], 3, "99"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["mail", "send", "--to", "coder-1"], 2, "--subject"),
    ] {
        let called = musher.call(arguments).await;
        assert_eq!(called.code, code, "{arguments:?}: {called:?}");
        assert!(called.stderr.contains(words), "{arguments:?}: {called:?}");
        assert!(called.stdout.is_empty(), "results only: {called:?}");
    }
    let repository = Repository::new("shop");
    musher.project(&repository);
    // A project is there once a server has read of it.
    musher.console("").await.succeeded();
    musher.call(&["items", "create", "Add a calculator"]).await.succeeded();
    musher.call(&["items", "start", "1"]).await.succeeded();
    let again = musher.call(&["items", "start", "1"]).await;
    assert_eq!(again.code, 4, "it is at work already: {again:?}");
    assert_a_clear_sentence(&again.stderr);
    let called = musher.call(&["status", "99", "--json"]).await;
    let text = format!("{}{}", called.stdout, called.stderr);
    let error: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(error["error"]["code"].is_string() || error["error"]["code"].is_number(), "{error}");
    assert!(error["error"]["message"].as_str().is_some_and(|m| m.contains("99")), "{error}");
    let missing = musher.call_exactly(&["status", "-c", "/nowhere/musher.toml"]).await;
    assert_eq!(missing.code, 2, "{missing:?}");
    assert!(missing.stderr.contains("/nowhere/musher.toml"), "{missing:?}");
    assert!(missing.stderr.contains("init"), "the remedy: {missing:?}");
}

//! `musher init`: from questions to a bot that answers, each answer tried on the real thing.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::model_server::{ModelServer, Reply, Request};
use crate::support::musher::Musher;
use crate::support::person::Person;
use crate::support::repository::Repository;
use crate::support::scene::{is_agent, report, shell};
use crate::support::synapse::Synapse;
use crate::support::terminal::Terminal;

/// A Musher whose configuration is to be made; its environment and account are there.
async fn newcomer() -> (Musher, Person, ModelServer, PathBuf) {
    let server = Synapse::shared().await;
    let model = ModelServer::start().await;
    model.always(Request::is_musher, Reply::text("ready"));
    let musher = Musher::new(server, &model).await;
    let ann = Person::new(server, "ann").await;
    let file = musher.directory().join("made/musher.toml");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    (musher, ann, model, file)
}

fn files_beside(file: &Path) -> usize {
    std::fs::read_dir(file.parent().unwrap()).unwrap().count()
}

#[tokio::test]
async fn somebody_answers_questions_and_the_bot_answers_them() {
    let (mut musher, ann, model, file) = newcomer().await;
    let repository = Repository::new("shop");
    repository.git(&["checkout", "-q", "-b", "trunk"]);
    let (homeserver, url) = (musher.account.homeserver.clone(), model.url.clone());
    let (account, password) = (musher.id.clone(), musher.account.password.clone());
    let path = file.display().to_string();
    let mut terminal = Terminal::run(&musher, &["init", "-c", &path, "--base-url", &url]);
    // Wrong ones first: told with the reason, and asked again.
    terminal.answer("homeserver's base URL", "http://127.0.0.1:9").await;
    terminal.read("cannot be reached").await;
    terminal.answer("homeserver's base URL", &homeserver).await;
    terminal.read("speaks Matrix").await;
    terminal.answer("The bot's account", &account).await;
    terminal.answer("Its password", "not-this-one").await;
    terminal.read("refuses the password").await;
    terminal.answer("The bot's account", &account).await;
    terminal.answer("Its password", &password).await;
    terminal.read("is right").await;
    terminal.answer("Who may use", &ann.id).await;
    terminal.answer("model's provider", "anthropic").await;
    terminal.answer("The model [claude", "").await;
    terminal.answer("API key [ANTHROPIC_API_KEY]", "").await;
    terminal.read("answers").await;
    terminal.answer("first project", "/nowhere/shop").await;
    terminal.answer("before a merge", "").await;
    terminal.read("/nowhere/shop").await;
    terminal.answer("first project", &repository.path.display().to_string()).await;
    terminal.answer("before a merge", "sh check.sh").await;
    terminal.read("is a git repository").await;
    terminal.answer("first agent", "api").await;
    terminal.read("start with: musher run").await;
    let shown = terminal.shown();
    assert_eq!(terminal.end().await, 0, "{shown}");
    assert!(!shown.contains(&password), "a password is not shown while it is typed:\n{shown}");
    let made = std::fs::read_to_string(&file).unwrap();
    assert!(!made.contains(&password) && made.contains("base = \"trunk\""), "{made}");

    // What was made is what it takes.
    let checked = musher.call_exactly(&["check", "-c", &path]).await;
    assert_eq!(checked.code, 0, "{checked:?}");
    musher.start_with(&["run", "-c", &path]);
    let room = musher.room_with(&ann).await;
    ann.say(&room, "are you ready?").await;
    ann.wait_for_text(&room, &musher.id, "ready").await;
    let projects = musher.ask(&ann, &room, "!projects").await;
    assert!(projects.body().contains("shop"), "{}", projects.body());

    // It takes an item to the end, without anybody being asked: the agent edits, runs the gate
    // and commits.
    model.clear_rules();
    model.on(|request| {
        if !is_agent(request) {
            return None;
        }
        Some(match request.answers_since_person() {
            0 => Reply::call("write_file", json!({"path": "calculator.txt", "content": "2 + 2"})),
            1 => shell(request, "sh check.sh && echo the-gate-ran"),
            2 => {
                let seen =
                    request.mentions("the-gate-ran\n") || request.mentions("the-gate-ran\\n");
                assert!(seen, "the agent could not run its gate: {request:?}");
                shell(request, "git add -A && git commit -qm Work")
            }
            3 => report(request, "It is written and committed."),
            _ => Reply::text("Done."),
        })
    });
    musher.ask(&ann, &room, "!story Add a calculator").await;
    ann.say(&room, "!start 1").await;
    ann.wait_for_text(&room, &musher.id, "erged").await;
    let subjects = repository.subjects("trunk");
    assert_eq!(subjects, ["1 story Add a calculator", "Start"]);
    assert_eq!(repository.show("trunk", "calculator.txt").as_deref(), Some("2 + 2"));
}

#[tokio::test]
async fn without_a_person_the_first_answer_that_does_not_work_is_the_end() {
    let (mut musher, ann, model, file) = newcomer().await;
    let path = file.display().to_string();
    let repository = Repository::new("shop");
    let homeserver = musher.account.homeserver.clone();
    let project = repository.path.display().to_string();
    let account = musher.id.clone();
    let all = [
        ["--homeserver", &homeserver],
        ["--user", &account],
        ["--password-env", "MUSHER_MATRIX_PASSWORD"],
        ["--allow", &ann.id],
        ["--provider", "anthropic"],
        ["--model", "claude-sonnet-4-5"],
        ["--base-url", &model.url],
        ["--api-key-env", "ANTHROPIC_API_KEY"],
        ["--project", &project],
        ["--gate", "sh check.sh"],
    ]
    .concat();
    let arguments = [&["init", "--yes", "-c", &path][..], &all].concat();

    let right = musher.account.password.clone();
    musher.env("MUSHER_MATRIX_PASSWORD", "not-this-one");
    let called = musher.call_exactly(&arguments).await;
    assert_eq!(called.code, 1, "{called:?}");
    assert!(called.stderr.contains("refuses the password"), "{called:?}");
    assert!(called.stderr.contains("MUSHER_MATRIX_PASSWORD"), "the remedy: {called:?}");
    assert!(called.stderr.contains("nothing was written"), "{called:?}");

    musher.env("MUSHER_MATRIX_PASSWORD", &right);
    model.clear_rules();
    model.always(Request::is_musher, Reply::error(401));
    let called = musher.call_exactly(&arguments).await;
    assert_eq!(called.code, 1, "{called:?}");
    assert!(called.stderr.contains("refused the key"), "{called:?}");
    assert_eq!(files_beside(&file), 0, "nothing was written");

    model.clear_rules();
    model.always(Request::is_musher, Reply::text("ready"));
    let called = musher.call_exactly(&arguments).await.succeeded();
    assert!(called.stdout.contains("musher run"), "{called:?}");
    assert_eq!(files_beside(&file), 1);
}

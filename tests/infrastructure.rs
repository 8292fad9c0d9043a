//! The tools of the stories, tried on each other: a story that fails must mean the program.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::support::encrypted_person::EncryptedPerson;
use crate::support::event::Message;
use crate::support::model_server::{ModelServer, Reply};
use crate::support::musher::Musher;
use crate::support::person::Person;
use crate::support::repository::Repository;
use crate::support::synapse::{RateLimits, Synapse};
use crate::support::{installed, processes};

#[tokio::test]
async fn two_people_talk_on_a_real_homeserver() {
    let server = Synapse::shared().await;
    let (ann, bob) = (Person::new(server, "ann").await, Person::new(server, "bob").await);
    let room = ann.direct_room(&bob.id).await;
    bob.accept_invite(&room).await;
    ann.wait_until_joined(&room, &bob.id).await;

    ann.set_typing(&room, true).await;
    bob.wait_until_typing(&room, &ann.id, true).await;
    let question = ann.say(&room, Message::text("shall we?").mention(&bob.id)).await;
    let heard = bob.wait_for_text(&room, &ann.id, "shall we?").await;
    assert_eq!(heard.mentions(), [bob.id.as_str()]);
    bob.mark_read(&room, &question).await;
    ann.wait_until_read(&room, &bob.id, &question).await;

    let answer = bob.say(&room, Message::text("no").in_thread(&question)).await;
    bob.say(&room, Message::text("yes").edit_of(&answer)).await;
    let edited = ann.wait_for_text(&room, &bob.id, "yes").await;
    assert_eq!(edited.edit_of(), Some(answer.as_str()));
    assert_eq!(ann.latest_text(&answer).await, "yes");
    let thumb = ann.react(&room, &answer, "👍").await;
    bob.wait_for("a thumb", |event| event.reaction() == Some((&answer, "👍"))).await;
    ann.redact(&room, &thumb).await;
    bob.wait_for("no thumb", |event| event.redacts() == Some(&thumb)).await;
}

#[tokio::test]
async fn a_person_misses_nothing_of_a_burst() {
    let server = Synapse::shared().await;
    let (ann, bob) = (Person::new(server, "ann").await, Person::new(server, "bob").await);
    let room = ann.direct_room(&bob.id).await;
    bob.accept_invite(&room).await;
    for number in 0..130 {
        ann.say(&room, format!("number {number}.")).await;
    }
    bob.wait_for_text(&room, &ann.id, "number 129.").await;
    let heard = bob.messages_of(&room, &ann.id).await;
    let expected: Vec<String> = (0..130).map(|number| format!("number {number}.")).collect();
    assert_eq!(heard.iter().map(|event| event.body()).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn two_people_talk_in_an_encrypted_room() {
    let server = Synapse::shared().await;
    let ann = EncryptedPerson::new(server, "ann").await;
    let bob = EncryptedPerson::new(server, "bob").await;
    let room = ann.direct_room(&bob.id).await;
    bob.accept_invite(&room).await;
    ann.wait_until_joined(&room, &bob.id).await;
    let question = ann.say(&room, "is this secret?").await;
    bob.wait_for_text(&room, &ann.id, "is this secret?").await;
    bob.say(&room, Message::text("very").reply_to(&question)).await;
    let answer = ann.wait_for_text(&room, &bob.id, "very").await;
    assert_eq!(answer.reply_to(), Some(question.as_str()));
    ann.send_file(&room, "plan.txt", "text/plain", b"at dawn").await;
    let file = bob.wait_for("a file", |event| event.msgtype() == "m.file").await;
    assert_eq!(bob.open_file(&file).await, b"at dawn");
}

#[tokio::test]
async fn the_default_rate_limits_can_be_had() {
    let server = Synapse::with_default_rate_limits().await;
    let ann = Person::new(server, "ann").await;
    let room = ann.group_room("notes", &[]).await;
    let mut refused = 0;
    for number in 0..15 {
        let path = format!("client/v3/rooms/{room}/send/m.room.message/{number}");
        let content = Message::text("again").into_content();
        refused += usize::from(ann.call(reqwest::Method::PUT, &path, &content).await.0 == 429);
    }
    assert!(refused > 0, "the default rate limits must be on");
}

#[tokio::test]
async fn a_homeserver_of_ones_own_comes_back_with_its_data() {
    let server = Synapse::start(RateLimits::Raised).await;
    let ann = Person::new(&server, "ann").await;
    let room = ann.group_room("notes", &[]).await;
    ann.say(&room, "before").await;
    server.kill();
    assert!(reqwest::get(format!("{}/health", server.url)).await.is_err(), "it must be down");
    server.resume().await;
    ann.say(&room, "after").await;
    ann.wait_for_text(&room, &ann.id, "after").await;
    let texts = ann.messages_of(&room, &ann.id).await;
    assert_eq!(texts.iter().map(|event| event.body()).collect::<Vec<_>>(), ["before", "after"]);
}

/// Whoever reads a stream of server-sent events: the `data:` lines.
async fn stream_of(model: &ModelServer, path: &str, body: &Value) -> Vec<String> {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let answer = http.post(format!("{}{path}", model.url)).json(body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let text = answer.text().await.unwrap();
    text.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_model_streams_text_calls_and_usage_in_openais_words() {
    let model = ModelServer::start().await;
    model.always(
        |_| true,
        Reply::text("let me look at it").and_call("look", json!({"at": "it"})).usage(7, 3),
    );
    let body = json!({
        "model": "m", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "hello"}],
    });
    let mut chunks = stream_of(&model, "/v1/chat/completions", &body).await;
    assert_eq!(chunks.pop().as_deref(), Some("[DONE]"));
    let chunks: Vec<Value> =
        chunks.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect();
    let joined = |path: &str| {
        chunks.iter().filter_map(|chunk| chunk.pointer(path)?.as_str()).collect::<String>()
    };
    assert_eq!(joined("/choices/0/delta/content"), "let me look at it");
    assert_eq!(joined("/choices/0/delta/tool_calls/0/function/name"), "look");
    assert_eq!(joined("/choices/0/delta/tool_calls/0/function/arguments"), r#"{"at":"it"}"#);
    assert_eq!(joined("/choices/0/finish_reason"), "tool_calls");
    assert_eq!(chunks.last().unwrap()["usage"]["prompt_tokens"], 7);
    assert_eq!(model.requests()[0].last_user_text(), "hello");
}

#[tokio::test]
async fn the_model_fails_in_every_way_that_models_fail() {
    let model = ModelServer::start().await;
    let said = |word: &'static str| {
        move |request: &crate::support::model_server::Request| request.last_user_text() == word
    };
    model.always(said("slow down"), Reply::error(429).retry_after(Duration::from_secs(3)));
    model.always(said("vanish"), Reply::text("half of an answer that breaks off").dropped_after(3));
    model.always(said("hang"), Reply::hang());
    let (held, hold) = Reply::text("at last").held();
    model.always(said("wait"), held);

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ask = |word: &str| {
        let body =
            json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": word}]});
        http.post(format!("{}/v1/messages", model.url)).json(&body).send()
    };
    let limited = ask("slow down").await.unwrap();
    assert_eq!(
        (limited.status().as_u16(), &limited.headers()["retry-after"]),
        (429, &"3".parse().unwrap())
    );
    assert!(ask("vanish").await.unwrap().text().await.is_err(), "the stream must break");
    assert_eq!(ask("nobody thought of this").await.unwrap().status(), 400);

    let waiting = tokio::spawn(ask("wait"));
    model.wait_for_requests(1, said("wait")).await;
    hold.release();
    assert!(waiting.await.unwrap().unwrap().text().await.unwrap().contains("message_stop"));

    let hanging = tokio::spawn(ask("hang"));
    model.wait_for_requests(1, said("hang")).await;
    hanging.abort();
    model.wait_for_abandoned(said("hang")).await;
}

#[tokio::test]
async fn claude_code_works_with_the_scripted_model() {
    let model = ModelServer::start().await;
    let place = tempfile::tempdir().unwrap();
    let repo = place.path().join("repo");
    let shell = |line: &str| {
        let done =
            std::process::Command::new("sh").args(["-c", line]).current_dir(place.path()).output();
        let done = done.unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    };
    shell(
        "git init -q -b main repo && cd repo && git config user.name T && git config user.email t@t",
    );
    let file = repo.join("hello.txt").display().to_string();
    model.script(
        |request| request.is_claude_code() && request.mentions("write a greeting"),
        vec![
            Reply::call("Write", json!({"file_path": file, "content": "hello\n"})),
            Reply::call(
                "Bash",
                json!({"command": "git add -A && git commit -qm Greet", "description": "Commit"}),
            ),
            Reply::text("I wrote and committed it."),
        ],
    );
    let ask = json!({"type": "user", "message": {"role": "user", "content": "write a greeting"}});
    let mut claude = tokio::process::Command::new(installed("npm/node_modules/.bin/claude"))
        .args([
            "-p",
            "--input-format",
            "stream-json",
            "--output-format",
            "stream-json",
            "--verbose",
        ])
        .args([
            "--permission-mode",
            "acceptEdits",
            "--allowedTools",
            "Bash",
            "--model",
            "claude-sonnet-4-5",
        ])
        .current_dir(&repo)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", place.path())
        .env("ANTHROPIC_BASE_URL", &model.url)
        .env("ANTHROPIC_API_KEY", "test-key")
        // A pipe: given a regular file, this CLI ends at once, says nothing and calls it success.
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = claude.stdin.take().unwrap();
    stdin.write_all(format!("{ask}\n").as_bytes()).await.unwrap();
    drop(stdin);
    let run = tokio::time::timeout(Duration::from_secs(120), claude.wait_with_output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(
        run.status.success(),
        "{said}\n{}\n{}",
        String::from_utf8_lossy(&run.stderr),
        model.print()
    );
    assert!(said.contains("I wrote and committed it."), "{said}\n{}", model.print());
    assert_eq!(
        shell(
            "cd repo && git log --format=%s && git show HEAD:hello.txt && git status --porcelain"
        ),
        "Greet\nhello"
    );
    assert_eq!(model.claude_requests().len(), 3, "{}", model.print());
    assert_eq!(model.requests()[0].api_key(), "test-key");
    model.assert_all_scripted();
    eprintln!("{}", model.print());
}

#[tokio::test]
async fn the_program_runs_in_an_environment_of_its_own() {
    let (server, model) = (Synapse::shared().await, ModelServer::start().await);
    let repository = Repository::new("shop");
    let mut musher = Musher::new(server, &model).await;
    musher.allow_admin("@ann:test.local").project(&repository).claude_agent("coder-1");
    musher.set("/chat/queue_cap", json!(7));
    let written = std::fs::read_to_string(musher.write_configuration()).unwrap();
    let read: toml::Table = written.parse().unwrap();
    assert_eq!(read["projects"][0]["name"].as_str(), Some("shop"));
    assert_eq!(read["chat"]["queue_cap"].as_integer(), Some(7));
    assert_eq!(musher.call_exactly(&["--version"]).await.code, 0);
    musher.assert_no_process_left().await;
}

#[tokio::test]
async fn a_process_left_behind_is_found_by_its_environment() {
    let place = tempfile::tempdir().unwrap();
    // In a session of its own, orphaned, elsewhere, with nothing on its command line to tell.
    let line = "cd / && setsid sleep 600 >/dev/null 2>&1 &";
    let shell =
        std::process::Command::new("sh").args(["-c", line]).env("MARK", place.path()).status();
    assert!(shell.unwrap().success());
    processes::wait_for_process(place.path(), "sleep 600").await;
    processes::kill_all_of(place.path());
    processes::assert_none_left(place.path()).await;
}

#[test]
fn a_repository_has_a_gate_and_a_clean_checkout() {
    let repository = Repository::new("shop");
    assert_eq!(repository.subjects("main"), ["Start"]);
    repository.write("broken", "");
    assert!(!repository.is_clean());
    let gate =
        std::process::Command::new("sh").arg("check.sh").current_dir(&repository.path).output();
    assert_eq!(gate.unwrap().status.code(), Some(1));
    repository.commit("Break it");
    assert_eq!(repository.show("main", "broken").as_deref(), Some(""));
    assert_eq!(repository.show("main", "absent"), None);
    assert!(repository.is_clean());
}

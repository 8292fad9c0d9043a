//! The same chat on a terminal: same commands, same coordinator, same store, no homeserver.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::model_server::{ModelServer, Reply, Request};
use crate::support::musher::{Musher, program};
use crate::support::repository::Repository;
use crate::support::scene::{agents_write, assert_landed_once, is_coordinator, items};
use crate::support::terminal::Terminal;
use crate::support::{PATIENCE, until_within};

#[tokio::test]
async fn a_piped_conversation_is_answered_to_its_end() {
    let model = ModelServer::start().await;
    model.always(is_coordinator, Reply::text("Nothing is on fire."));
    let repository = Repository::new("shop");
    let mut musher = Musher::offline(&model);
    musher.project(&repository).built_in_agent("coder-1");
    let said = musher.console("status\nstory: Add a calculator\nis anything on fire?\n").await;
    assert_eq!(said.code, 0, "{said:?}");
    let (item, answer) =
        (said.stdout.find("Add a calculator"), said.stdout.find("Nothing is on fire"));
    assert!(item.is_some() && answer.is_some(), "{said:?}");
    assert!(item < answer, "in order: {said:?}");
    assert_eq!(model.requests().iter().filter(|r| Request::is_musher(r)).count(), 1);
    assert_eq!(items(&musher).await.len(), 1, "it is the same store");
}

#[tokio::test]
async fn on_a_terminal_lines_are_edited_and_answers_stand_above_them() {
    let model = ModelServer::start().await;
    model.always(is_coordinator, Reply::text("**Nothing** is on fire."));
    let mut musher = Musher::offline(&model);
    musher.project(&Repository::new("shop"));
    let configuration = musher.write_configuration().display().to_string();
    let mut terminal = Terminal::run(&musher, &["console", "-c", &configuration]);
    terminal.read("> ").await;
    terminal.line("status").await;
    terminal.read("shop").await;
    // A slip is corrected before it is sent, and an earlier line is called back.
    terminal.line("!storx\u{7f}y Add a calculator").await;
    terminal.read("Filed story").await;
    terminal.line("is anything on fire?").await;
    terminal.read("\u{1b}[1mNothing\u{1b}[22m is on fire.").await;
    terminal.line("\u{1b}[A\u{1b}[A").await;
    terminal.read("Filed story").await;
    terminal.line("exit").await;
    let shown = terminal.shown();
    assert_eq!(terminal.end().await, 0, "{shown}");
    assert_eq!(items(&musher).await.len(), 2, "{shown}");
    // The next one remembers the lines.
    let mut terminal = Terminal::run(&musher, &["console", "-c", &configuration]);
    terminal.read("> ").await;
    terminal.line("\u{1b}[A\u{1b}[A").await;
    terminal.read("Filed story").await;
    terminal.line("exit").await;
    assert_eq!(terminal.end().await, 0);
}

#[tokio::test]
async fn a_line_of_several_megabytes_is_refused_and_the_next_is_answered() {
    let model = ModelServer::start().await;
    model.always(is_coordinator, Reply::text("Nothing is on fire."));
    let mut musher = Musher::offline(&model);
    musher.project(&Repository::new("shop"));
    let huge = "x".repeat(5 << 20);
    let largest = "y".repeat(256 << 10);
    let said =
        musher.console(&format!("{huge}\n!story {huge}\n{largest}\nis anything on fire?\n")).await;
    assert_eq!(said.code, 0, "{}", said.stderr);
    assert_eq!(said.stdout.matches("That line was not taken").count(), 2, "{:.2000}", said.stdout);
    assert!(said.stdout.contains("256 KiB"), "{:.2000}", said.stdout);
    assert!(said.stdout.contains("Nothing is on fire."), "{:.2000}", said.stdout);
    let asked = model.requests().last().unwrap().last_user_text();
    assert!(asked.contains(&largest) && asked.contains("is anything on fire?"), "{}", asked.len());
    assert!(items(&musher).await.is_empty());
}

#[tokio::test]
async fn a_directory_becomes_the_project_with_the_branch_that_is_checked_out() {
    let model = ModelServer::start().await;
    let musher = Musher::offline(&model);
    let repository = Repository::new("shop");
    repository.git(&["branch", "-m", "main", "master"]);
    let configuration = musher.write_configuration().display().to_string();
    let console = async |dir: &str| {
        musher.call_exactly(&["console", "-c", &configuration, "--project", dir]).await
    };
    let path = repository.path.display().to_string();
    let mut command = Command::new(program());
    musher.prepare_for(&mut command, &["console", "-c", &configuration, "--project", &path]);
    let typed = musher.directory().join("typed");
    std::fs::write(&typed, "projects\n").unwrap();
    command.stdin(std::fs::File::open(typed).unwrap());
    let said = command.output().await.unwrap();
    let shown = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(shown.contains(&path) && shown.contains("base `master`"), "{said:?}");

    let plain = tempfile::tempdir().unwrap();
    let called = console(&plain.path().display().to_string()).await;
    assert_eq!(called.code, 2, "{called:?}");
    for part in ["--project", "is not a git repository", "git init"] {
        assert!(called.stderr.contains(part), "{called:?}");
    }
    let below = repository.path.join("below");
    std::fs::create_dir(&below).unwrap();
    let called = console(&below.display().to_string()).await;
    assert_eq!(called.code, 2, "{called:?}");
    assert!(called.stderr.contains(&path), "it names the repository above: {called:?}");
    let called = console("/nowhere/shop").await;
    assert_eq!(called.code, 2, "{called:?}");
}

#[tokio::test]
async fn work_is_done_from_the_console_too() {
    let model = ModelServer::start().await;
    let repository = Repository::new("shop");
    let mut musher = Musher::offline(&model);
    musher.project(&repository).built_in_agent("coder-1");
    agents_write(&model, "Add a calculator", "calculator.txt");
    let configuration = musher.write_configuration();
    let mut command = Command::new(env!("CARGO_BIN_EXE_musher"));
    musher.prepare_for(&mut command, &["console", "-c", &configuration.display().to_string()]);
    let log = std::fs::File::create(musher.directory().join("stderr.log")).unwrap();
    let out = std::fs::File::create(musher.directory().join("stdout.log")).unwrap();
    command.stdin(Stdio::piped()).stdout(out).stderr(log);
    let mut console = command.spawn().unwrap();
    let mut keyboard = console.stdin.take().unwrap();
    keyboard.write_all(b"!story Add a calculator\n!start 1\n").await.unwrap();
    let shown = || std::fs::read_to_string(musher.directory().join("stdout.log")).unwrap();
    until_within(PATIENCE * 3, "it is merged", || {
        shown().to_lowercase().contains("merged").then_some(())
    })
    .await;
    assert_landed_once(&repository, 1, "Add a calculator", "calculator.txt");
    drop(keyboard);
    assert!(console.wait().await.unwrap().success(), "{}", musher.log_tail());
    musher.assert_no_process_left().await;
    assert_eq!(items(&musher).await[0]["stage"], json!("done"));
}

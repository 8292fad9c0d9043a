//! The same chat on a terminal: same commands, same coordinator, same store, no homeserver.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::support::model_server::{ModelServer, Reply, Request};
use crate::support::musher::Musher;
use crate::support::repository::Repository;
use crate::support::scene::{agents_write, assert_landed_once, is_coordinator, items};
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

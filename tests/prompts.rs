//! Agents without our tools do as their prompt says, in a shell: every such line of every prompt
//! is run here as it stands, and the program takes it.
//!
//! What the prompts say of tools is tested beside the tools.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use crate::support::desk::Desk;
use crate::support::musher::program;
use crate::support::repository::Repository;

/// The item and the mail that the prompts speak of.
const ITEM: i64 = 12;
const MAIL: i64 = 7;

/// The shell lines of a prompt: those of its code blocks that call the program.
fn lines(role: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("prompts/{role}.md"));
    let prompt = std::fs::read_to_string(path).unwrap();
    let code = prompt.lines().filter_map(|line| line.strip_prefix("    "));
    code.map(|line| line.trim().to_owned()).filter(|line| line.starts_with("musher ")).collect()
}

#[tokio::test]
async fn every_shell_line_of_a_prompt_is_taken_by_the_program() {
    for (role, ends_in) in [
        ("coder", &["worker_done"][..]),
        ("qa", &["qa_passed", "qa_failed"]),
        ("mergemaster", &["merged", "merge_failed"]),
        ("lead", &["worker_done"]),
        ("scout", &["worker_done"]),
        ("reviewer", &["worker_done"]),
    ] {
        let mut desk = Desk::new(vec![Repository::new("shop")]).await;
        let agent = format!("{role}-1");
        desk.musher.agent(json!({"name": agent, "role": role, "runtime": "api"}));
        desk.start();
        desk.until_ready().await;
        for _ in 0..ITEM {
            desk.file_in("shop", "Page through the orders").await;
        }
        for _ in 0..MAIL {
            let mail = ["mail", "send", "--from", "coordinator", "--to", &agent];
            let what = ["--subject", "There?", "--body", "Is it?"];
            desk.musher.call(&[&mail[..], &what].concat()).await.succeeded();
        }
        for line in lines(role) {
            let printed = run_as(&desk, &agent, &line).await;
            assert!(printed.0, "a {role} is told\n  {line}\nbut:\n{}", printed.1);
        }
        let sent = desk.musher.call(&["mail", "list", "--from", &agent, "--json"]).await;
        let sent = sent.succeeded().json();
        let kinds: BTreeSet<&str> = sent["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|mail| mail["item"] == ITEM)
            .map(|mail| mail["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ends_in.iter().copied().collect(), "how a {role} ends: {sent}");
    }
}

/// Runs a line in the repository with the environment that an agent at work on the item has.
async fn run_as(desk: &Desk, agent: &str, line: &str) -> (bool, String) {
    let own = program();
    let mut command = Command::new("sh");
    desk.musher.prepare_for(&mut command, &["-c", line]);
    command
        .current_dir(&desk.repository().path)
        .env("PATH", format!("{}:/usr/bin:/bin", own.parent().unwrap().display()))
        .env("MUSHER_AGENT", agent)
        .env("MUSHER_ITEM", ITEM.to_string())
        .env("MUSHER_PROJECT", "shop")
        .env("MUSHER_CONFIG", desk.musher.write_configuration())
        .stdin(Stdio::null());
    let output = command.output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

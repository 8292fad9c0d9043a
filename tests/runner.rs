//! All stories in one binary: each file beside this one is a module here.
//!
//! A story is what a person would tell: "she asks for a calculator and finds it on main". It
//! drives the real `musher` binary against a real Synapse, the real Claude Code CLI and a
//! scripted model API; `support` has all of these. Nothing sleeps: a story waits for what it
//! expects, and a wait that fails prints everything that was seen.

#![allow(clippy::unwrap_used, clippy::too_many_lines, clippy::wildcard_enum_match_arm)]
#![allow(missing_docs)]

mod support;

mod architecture;
mod infrastructure;

mod bad_input;
mod bursts;
mod config_errors;
mod configuration;
mod conflict;
mod conformance;
mod console;
mod crashes;
mod cross_signing;
mod doctor;
mod fifty;
mod full_disk;
mod homeserver_down;
mod huge;
mod init;
mod items_by_script;
mod kill_walk;
mod lead;
mod lost_work;
mod mail_from_four_processes;
mod mail_in_rooms;
mod matrix_transport;
mod message_to_merge;
mod misbehaving;
mod model_troubles;
mod new_project;
mod night;
mod overnight;
mod permissions;
mod prompts;
mod quality;
mod readme;
mod rebuild;
mod reminders;
mod rooms_by_alias;
mod sanitised;
mod second_server;
mod secrets;
mod stopping;
mod store_passphrase;
mod strangers;
mod verbatim;
mod verdicts;

/// A story that is in the folder but not in this binary would never run, and nobody would see.
#[test]
fn every_story_in_the_folder_is_part_of_this_binary() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let listed = include_str!("runner.rs");
    let forgotten: Vec<String> = std::fs::read_dir(&folder)
        .expect("tests/ can be read")
        .map(|entry| entry.expect("an entry of tests/").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| path.file_stem().expect("a file name").to_string_lossy().into_owned())
        .filter(|name| name != "runner")
        .filter(|name| !listed.lines().any(|line| line.trim() == format!("mod {name};")))
        .collect();
    assert!(forgotten.is_empty(), "add `mod NAME;` to tests/runner.rs for: {forgotten:?}");
}

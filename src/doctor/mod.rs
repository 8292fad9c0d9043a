//! Tests the real things that Musher depends on, and says what to do about each that fails.
//!
//! The ids of the checks are stable: scripts and `rebuild` branch on them. With `quick` nothing is
//! asked over the network, so that a new binary can be tried while the homeserver or the model is
//! down. Nothing is changed: the database is only read.

mod local;
mod network;

use crate::config::Config;
use crate::store::Store;
use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

pub use network::{check_homeserver, check_login, check_model};

/// How long one check may take, beyond its own limits.
const CHECK_TIMEOUT: Duration = Duration::from_secs(45);

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It works.
    Ok,
    /// It works, and a person should know something.
    Warning,
    /// It does not work.
    Failed,
    /// It was not tried, or is not used here.
    Skipped,
}

/// One thing that was tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable: `config`, `database`, `disk`, `git`, `homeserver`, `login`, `encryption`, `model`,
    /// `cli:RUNTIME:AGENT`, `project:NAME`, `container`, `confinement`, `outbox_failed`,
    /// `undecryptable`.
    pub id: String,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub message: String,
    /// What to do; empty when there is nothing to do.
    pub remedy: String,
}

impl Check {
    fn new(id: impl Into<String>, state: State, message: impl Into<String>, remedy: &str) -> Self {
        Self { id: id.into(), state, message: message.into(), remedy: remedy.to_owned() }
    }

    /// It works.
    pub fn ok(id: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(id, State::Ok, message, "")
    }

    /// It works, and a person should know something.
    pub fn warning(id: impl Into<String>, message: impl Into<String>, remedy: &str) -> Self {
        Self::new(id, State::Warning, message, remedy)
    }

    /// It does not work.
    pub fn failed(id: impl Into<String>, message: impl Into<String>, remedy: &str) -> Self {
        Self::new(id, State::Failed, message, remedy)
    }

    /// It was not tried, or is not used here.
    pub fn skipped(id: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(id, State::Skipped, message, "")
    }
}

/// Runs every check; `store` is the open one when a server asks about itself.
pub async fn run(config: &Config, store: Option<&Store>, quick: bool) -> Vec<Check> {
    let mut checks = local::config(config);
    checks.push(local::database(config, store).await);
    checks.push(local::disk(&config.data_dir));
    checks.push(limited("git", local::git()).await);
    if quick {
        for id in ["homeserver", "login", "model"] {
            checks.push(Check::skipped(id, "not tried: --quick asks nothing over the network"));
        }
    } else {
        checks.push(limited("homeserver", network::homeserver(config)).await);
        checks.push(limited("login", network::login(config)).await);
        checks.push(limited("model", check_model(&config.llm)).await);
    }
    checks.push(local::encryption(config));
    for agent in &config.agents {
        let id = format!("cli:{}:{}", agent.runtime.as_str(), agent.name);
        checks.push(limited(&id, local::agent(&id, agent)).await);
    }
    let made = local::made_in_chat(config, store).await;
    for settings in config.projects.iter().cloned().chain(made) {
        let id = format!("project:{}", settings.name);
        checks.push(limited(&id, local::project(&id, settings)).await);
    }
    checks.push(Check::skipped(
        "container",
        "this version runs agents on the host and needs no container engine",
    ));
    checks.push(local::confinement(config));
    checks.extend(local::left_over(config, store).await);
    checks
}

async fn limited(id: &str, check: impl Future<Output = Check>) -> Check {
    match tokio::time::timeout(CHECK_TIMEOUT, check).await {
        Ok(check) => check,
        Err(_late) => Check::failed(
            id,
            format!("no answer within {} s", CHECK_TIMEOUT.as_secs()),
            "see whether the machine is overloaded, then try again",
        ),
    }
}

/// The checks as lines for a terminal or a room.
pub fn text(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let sign = match check.state {
            State::Ok => "ok     ",
            State::Warning => "warning",
            State::Failed => "FAILED ",
            State::Skipped => "-      ",
        };
        let _ = writeln!(out, "{sign} {:<24} {}", check.id, check.message);
        if !check.remedy.is_empty() {
            let _ = writeln!(out, "        {:<24} -> {}", "", check.remedy);
        }
    }
    let failed = checks.iter().filter(|check| check.state == State::Failed).count();
    let _ = match failed {
        0 => writeln!(out, "nothing has failed"),
        1 => writeln!(out, "1 check has failed"),
        many => writeln!(out, "{many} checks have failed"),
    };
    out
}

#[cfg(test)]
mod tests;

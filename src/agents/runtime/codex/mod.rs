//! Codex: one `codex app-server` process a session, JSON-RPC on its stdio.
//!
//! Our tools are dynamic tools, approvals come as requests, `turn/steer` reaches a running turn,
//! and `thread/resume` goes on with a conversation in a new process. Its own sandbox is on: the
//! worktree is what commands may write, and of git's files just what a commit needs, so that hooks
//! and configuration stay out of reach (see `args::sandbox`).
//!
//! **Permissions.** Codex asks before every command (`untrusted`), and the policy answers. What is
//! accepted still runs inside the sandbox, unless the model asked to leave it: that stands only in
//! the raw call, which is why raw events are switched on. No rule allows leaving the sandbox; a
//! person is asked.
//!
//! **Verbatim.** `turn/start` knows neither commands nor `@path`; text is text.
//!
//! **Interrupting** ends the turn but not the command that runs: its terminals are cleaned, too.
//!
//! A resumed thread sends no raw events; there the call is looked up in the CLI's own record of the
//! thread. Known gap: where it stands in neither, only the reason that it gives betrays a command
//! that wants out. And `/tmp` is everybody's: the sandbox lets commands write there.
//!
//! Known races: a message that steers may come too late for the turn; it then begins another one,
//! which the turn runner takes for the same turn.

mod args;
mod ask;
mod deliver;
mod session;
mod wire;

pub use args::DEFAULT_PROGRAM;

use super::{Caps, Runtime, RuntimeEvent, Session, SpawnError, SpawnSpec};
use crate::agents::process::{Ladder, Spawn, find_program, spawn};
use crate::config::RuntimeKind;
use crate::model::agent::Failure;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Starts Codex sessions.
#[derive(Debug, Default, Clone, Copy)]
pub struct Codex;

#[async_trait]
impl Runtime for Codex {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Codex
    }

    fn caps(&self) -> Caps {
        Caps { steer: true, approve: true, resume: true, cost: true }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        let named = spec.command.as_deref().unwrap_or(DEFAULT_PROGRAM);
        let program = find_program(named).ok_or_else(|| {
            SpawnError::unusable(format!(
                "Codex (`{named}`) is not installed: run `npm install -g @openai/codex`, or set \
                 `command` of the agent to where it is"
            ))
        })?;
        let program = args::native(&program);
        let cannot = |error: std::io::Error| {
            SpawnError::unusable(format!("{} does not start: {error}", program.display()))
        };
        let temporary = spec.state_dir.join(args::TEMPORARY);
        tokio::fs::create_dir_all(temporary).await.map_err(cannot)?;
        args::let_in(&spec).map_err(|message| SpawnError { failure: Failure::Auth, message })?;
        let (process, stdin, lines) = spawn(&Spawn {
            program: program.clone(),
            args: args::arguments(&spec),
            cwd: spec.cwd.clone(),
            env: args::environment(&spec),
            marker: spec.marker.clone(),
            stderr_log: spec.stderr_log.clone(),
        })
        .map_err(cannot)?;
        if let Err(error) = spec.recorder.spawned(process.ident(), &spec.marker).await {
            process.stop(Ladder::default()).await;
            return Err(SpawnError::unusable(format!(
                "the process could not be recorded and was killed: {error:#}"
            )));
        }
        Ok(session::start(spec, process, stdin, lines, events))
    }
}

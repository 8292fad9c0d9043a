//! Claude Code: one `claude -p` stream-json process a session, everything in-band on its stdio.
//!
//! Our tools are an in-band MCP server, permissions come as `can_use_tool` requests, and a line
//! written while a tool runs steers the turn. A turn is over at `session_state_changed: idle` after
//! its `result`; where a CLI says no states, at its `result`.
//!
//! **Verbatim.** A message is two text blocks, the second one ours, the first begun by a line of
//! ours, and attachments are switched off: else `/` runs a command and `@path` inlines a file
//! without asking.
//!
//! **Cost.** `modelUsage` is cumulative for the process; what is told is the difference.
//!
//! Known races: a message that steers may come too late for the turn; the CLI then begins another
//! one by itself, which the turn runner takes for the same turn. A CLI that dies between reading a
//! message and saying so leaves it unconfirmed: the runner sends it again after a resume.

mod args;
mod session;
mod wire;

#[cfg(test)]
mod tests;

pub use args::{DEFAULT_PROGRAM, environment};

use super::{Caps, Runtime, RuntimeEvent, Session, SpawnError, SpawnSpec};
use crate::agents::process::{Ladder, Spawn, find_program, spawn};
use crate::config::RuntimeKind;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Starts Claude Code sessions.
#[derive(Debug, Default, Clone, Copy)]
pub struct ClaudeCode;

#[async_trait]
impl Runtime for ClaudeCode {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::ClaudeCode
    }

    fn caps(&self) -> Caps {
        Caps { steer: true, approve: true, resume: true, cost: true }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        let program = spec.command.as_deref().unwrap_or(DEFAULT_PROGRAM);
        let program = find_program(program).ok_or_else(|| {
            SpawnError::unusable(format!(
                "Claude Code (`{program}`) is not installed: run `npm install -g \
                 @anthropic-ai/claude-code`, or set `command` of the agent to where it is"
            ))
        })?;
        let cannot = |error: std::io::Error| {
            SpawnError::unusable(format!("{} does not start: {error}", program.display()))
        };
        tokio::fs::create_dir_all(&spec.state_dir).await.map_err(cannot)?;
        let (process, stdin, lines) = spawn(&Spawn {
            program: program.clone(),
            args: args::arguments(&spec),
            cwd: spec.cwd.clone(),
            env: environment(&spec),
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

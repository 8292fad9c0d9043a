//! Any agent that speaks the Agent Client Protocol, version 1: JSON-RPC on its stdio.
//!
//! Our tools are an MCP server that the agent is told of: over HTTP with a token of the session's
//! own, or as `musher mcp` on stdio where the agent takes no URLs. Files and terminals are not
//! offered: agents use their own. What an agent can do is what it says at `initialize`.
//!
//! **Steering.** The protocol has none: what is said to a running turn waits for its end.
//!
//! **Permissions.** An option is chosen by its kind, and only ever one that allows once: to allow
//! for always is written into the worktree by some agents, and disables later questions.
//!
//! **Interrupting.** `session/cancel` with a deadline: some agents never end a turn that was
//! cancelled right at its begin. Whoever asked then kills the process and resumes.
//!
//! **Resuming.** `session/resume`, or `session/load`, whose replay of the history is passed over.
//! An agent that has neither begins anew and is told so by the turn runner.
//!
//! Known gap: what an agent does after its turn has no turn to live in, and is not metered.

mod args;
mod ask;
mod deliver;
mod session;
mod wire;

pub use args::program_and_arguments;

use super::mcp_http::McpHttp;
use super::{Caps, Runtime, RuntimeEvent, Session, SpawnError, SpawnSpec};
use crate::agents::process::{Ladder, Spawn, find_program, spawn};
use crate::config::RuntimeKind;
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Starts sessions of agents that speak the protocol.
#[derive(Default)]
pub struct Acp {
    tools: McpHttp,
}

#[async_trait]
impl Runtime for Acp {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Acp
    }

    fn caps(&self) -> Caps {
        Caps { steer: false, approve: true, resume: true, cost: false }
    }

    async fn spawn(
        &self,
        spec: SpawnSpec,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Arc<dyn Session>, SpawnError> {
        let (named, arguments) = program_and_arguments(spec.command.as_deref());
        let program = find_program(&named).ok_or_else(|| {
            SpawnError::unusable(format!(
                "the agent's program `{named}` is not installed: install it, or set `command` of \
                 the agent to a program that speaks the Agent Client Protocol"
            ))
        })?;
        let cannot = |error: std::io::Error| {
            SpawnError::unusable(format!("{} does not start: {error}", program.display()))
        };
        tokio::fs::create_dir_all(&spec.state_dir).await.map_err(cannot)?;
        let ticket = self.tools.open(Arc::clone(&spec.tools)).await.map_err(|error| {
            SpawnError::unusable(format!("no port for the agent's tools on this machine: {error}"))
        })?;
        let (process, stdin, lines) = spawn(&Spawn {
            program: program.clone(),
            args: arguments,
            cwd: spec.cwd.clone(),
            env: args::environment(&spec, &named),
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
        Ok(session::start(spec, process, stdin, lines, ticket, events))
    }
}

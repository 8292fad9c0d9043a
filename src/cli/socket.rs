//! The server's socket, `<data_dir>/musher.sock`: one line of JSON asks, one answers.
//!
//! The data directory is its owner's alone (0700) and so is the socket (0600): who can connect is
//! who could read the database. The server holds the data lock, so a socket that is already there
//! was left behind by a dead one and is replaced.

use super::failure::{Code, Failure};
use super::request::{Call, Request, Response};
use super::serve::{Ctx, handle};
use crate::llm::tools::{ToolCaller, ToolHost};
use crate::model::ids::AgentName;
use crate::services::Services;
use crate::store::{StoreError, agents, calls};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::fs::{File, Permissions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The socket's name in the data directory.
const NAME: &str = "musher.sock";
/// The socket while it is being set up; no longer than `NAME`, which decides how it is reached.
const EARLY_NAME: &str = "musher.new";
/// Where the server leaves the name of its configuration, for agents that outlive it.
pub(super) const CONFIG_NAME: &str = "config-path";
/// The longest request: a body of mail at its limit, escaped, with room to spare.
const MAX_REQUEST_BYTES: u64 = 4 * 1024 * 1024;
/// The longest path that a socket's address takes on every Unix.
const MAX_ADDRESS_BYTES: usize = 100;
/// How long answers to repeated calls are kept.
const KEEP_ANSWERS: TimeDelta = TimeDelta::days(1);

/// A path to the socket that fits into an address, and what must stay open while it is used.
fn address(data_dir: &Path) -> std::io::Result<(PathBuf, Option<File>)> {
    let path = data_dir.join(NAME);
    if path.as_os_str().len() <= MAX_ADDRESS_BYTES {
        return Ok((path, None));
    }
    let dir = File::open(data_dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/{NAME}", dir.as_raw_fd()));
    Ok((path, Some(dir)))
}

/// Connects to the server of a data directory, if one runs.
pub(super) fn connect(data_dir: &Path) -> std::io::Result<std::os::unix::net::UnixStream> {
    let (path, _open) = address(data_dir)?;
    std::os::unix::net::UnixStream::connect(path)
}

/// Answers calls until `cancel`. `tools` are those of agents, for `musher mcp`.
///
/// Without the socket the server works all the same; the command line then says that it is held.
pub async fn serve(
    services: Services,
    tools: Option<Arc<dyn ToolHost>>,
    cancel: CancellationToken,
) {
    let ctx = Ctx::new(services.store, services.config);
    if let Err(error) = answer_until(ctx, tools, cancel).await {
        tracing::error!(%error, "the command line cannot reach this server: no socket");
    }
}

async fn answer_until(
    ctx: Ctx,
    tools: Option<Arc<dyn ToolHost>>,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    let listener = listen(&ctx)?;
    forget_answers(&ctx).await;
    let tracker = TaskTracker::new();
    loop {
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (ctx, tools, cancel) = (ctx.clone(), tools.clone(), cancel.clone());
                    tracker.spawn(async move {
                        tokio::select! {
                            // A call that was begun is answered: the store outlives this task.
                            () = converse(stream, &ctx, tools) => {}
                            () = cancel.cancelled() => {}
                        }
                    });
                }
                // Too many open files, or a connection that was gone before it was taken.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the socket");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
    // Gone before the store closes: later calls wait for the lock instead.
    let _ = std::fs::remove_file(ctx.store.data_dir().join(NAME));
    tracker.close();
    tracker.wait().await;
    Ok(())
}

fn listen(ctx: &Ctx) -> std::io::Result<UnixListener> {
    let data_dir = ctx.store.data_dir();
    let real = data_dir.join(NAME);
    match std::fs::remove_file(&real) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Bound under another name, so that it is the owner's alone from the moment it can be found.
    let (path, _open) = address(data_dir)?;
    let early = data_dir.join(EARLY_NAME);
    let _ = std::fs::remove_file(&early);
    let listener = UnixListener::bind(path.with_file_name(EARLY_NAME))?;
    std::fs::set_permissions(&early, Permissions::from_mode(0o600))?;
    std::fs::rename(&early, &real)?;
    if !ctx.config.file.as_os_str().is_empty() {
        let name = ctx.config.file.to_string_lossy().into_owned();
        std::fs::write(data_dir.join(CONFIG_NAME), name)?;
    }
    Ok(listener)
}

async fn forget_answers(ctx: &Ctx) {
    let before = (ctx.store.clock().now() - KEEP_ANSWERS).timestamp_millis();
    if let Err(error) = ctx.store.write(move |tx| calls::forget(tx, before)).await {
        tracing::warn!(%error, "cannot forget old answers");
    }
}

/// Answers the requests of one connection, one after the other.
async fn converse(stream: UnixStream, ctx: &Ctx, tools: Option<Arc<dyn ToolHost>>) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let read = (&mut reader).take(MAX_REQUEST_BYTES).read_until(b'\n', &mut line).await;
        // A line that does not end was cut off by the caller's death: it was never asked.
        if !matches!(read, Ok(count) if count > 0) || line.last() != Some(&b'\n') {
            return;
        }
        let response = match serde_json::from_slice::<Request>(&line) {
            Ok(request) => respond(ctx, tools.as_ref(), request).await,
            Err(error) => Response::Error(
                Failure::new(Code::Usage, format!("the request is not understood: {error}"))
                    .hint("the command line and the server may be of different versions"),
            ),
        };
        let Ok(mut answer) = serde_json::to_vec(&response) else { return };
        answer.push(b'\n');
        if writer.write_all(&answer).await.is_err() {
            return;
        }
    }
}

async fn respond(ctx: &Ctx, tools: Option<&Arc<dyn ToolHost>>, request: Request) -> Response {
    match (request.call, tools) {
        (Call::Tools { agent }, Some(tools)) => tool_specs(ctx, tools.as_ref(), agent).await.into(),
        (Call::Tool { agent, id, name, arguments }, Some(tools)) => {
            call_tool(ctx, tools.as_ref(), agent, &id, &name, arguments).await.into()
        }
        (call, _) => {
            let (ctx, request) = (ctx.clone(), Request { key: request.key, call });
            let handled = tokio::task::spawn_blocking(move || handle(&ctx, request)).await;
            handled.unwrap_or_else(|_panic| {
                Response::Error(Failure::new(Code::Failed, "the call failed inside the server"))
            })
        }
    }
}

async fn tool_specs(ctx: &Ctx, tools: &dyn ToolHost, agent: AgentName) -> Result<Value, Failure> {
    let caller = caller(ctx, agent).await?;
    Ok(json!({ "tools": tools.specs(&caller) }))
}

async fn call_tool(
    ctx: &Ctx,
    tools: &dyn ToolHost,
    agent: AgentName,
    id: &str,
    name: &str,
    arguments: Value,
) -> Result<Value, Failure> {
    let caller = caller(ctx, agent).await?;
    let outcome = tools.call(&caller, id, name, arguments).await;
    Ok(json!({ "text": outcome.text, "is_error": outcome.is_error }))
}

/// The agent as a caller of tools: with its live session, the running turn and the item.
async fn caller(ctx: &Ctx, agent: AgentName) -> Result<ToolCaller, Failure> {
    let known = ctx.config.agents.iter().find(|known| known.name == agent);
    let Some(role) = known.map(|known| known.role) else {
        return Err(Failure::new(Code::NotFound, format!("there is no agent {agent}"))
            .hint("`musher agents` lists them"));
    };
    let name = agent.clone();
    let found = ctx.store.read(move |conn| {
        let Some(session) = agents::live_sessions_of_agent(conn, &name)?.pop() else {
            return Ok::<_, StoreError>(None);
        };
        let turn = crate::store::mail::running_turn(conn, &name)?;
        let item = crate::store::items::find(conn, session.item)?;
        Ok(turn.zip(item).map(|(turn, item)| (session, turn, item)))
    });
    let Some((session, turn, item)) = found.await? else {
        return Err(Failure::new(Code::Refused, format!("no turn of {agent} runs"))
            .hint("an agent has its tools while it works on an item"));
    };
    let (session, project) = (session.id, item.project);
    Ok(ToolCaller::Agent { agent, role, session, turn, item: item.id, project })
}

#[cfg(test)]
mod tests;

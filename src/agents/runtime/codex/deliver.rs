//! Gets a thread up and gives it what is said to the agent, one message at a time.

use super::super::rpc::RpcError;
use super::super::shown::text;
use super::super::{Delivery, RuntimeEvent, TurnOutcome, UserMessage};
use super::args;
use super::session::{Shared, Turn, hold};
use crate::agents::process::Ladder;
use crate::model::agent::Failure;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the CLI may take to get a thread up.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long it may take to accept a message.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(30);

/// Introduces us, then delivers until the session ends.
pub(super) async fn run(shared: Arc<Shared>, events: mpsc::Sender<RuntimeEvent>) {
    let Some(thread) = up(&shared, &events).await else { return };
    loop {
        let next = hold(&shared.queue).pop_front();
        let Some((message, how)) = next else {
            tokio::select! {
                () = shared.ended.cancelled() => return,
                () = shared.said.notified() => continue,
            }
        };
        let delivered = tokio::select! {
            () = shared.ended.cancelled() => return,
            delivered = deliver(&shared, &thread, &message, how) => delivered,
        };
        match delivered {
            Ok(()) => {}
            // The reader says what became of it.
            Err(RpcError::Gone) => return,
            Err(error) => fail(&shared, &events, failure(&error, Failure::Protocol)).await,
        }
    }
}

async fn up(shared: &Shared, events: &mpsc::Sender<RuntimeEvent>) -> Option<String> {
    match hello(shared).await {
        Ok((thread, model)) => {
            let ready = RuntimeEvent::Ready {
                native_id: thread.clone(),
                model: model.clone(),
                bad_tools: vec![],
            };
            *hold(&shared.introduced) = Some((thread.clone(), model));
            // Nobody listens when the session is being dropped.
            let _ = events.send(ready).await;
            Some(thread)
        }
        Err(RpcError::Gone) => None,
        Err(error) => {
            let lost = shared.spec.resume.is_some() && is_lost(&error);
            let sort = if lost { Failure::SessionLost } else { Failure::Protocol };
            tokio::select! {
                () = shared.ended.cancelled() => {}
                _said = shared.until(|turn| *turn != Turn::Idle) => {
                    fail(shared, events, failure(&error, sort)).await;
                }
            }
            shared.peer.close();
            shared.process.stop(Ladder::default()).await;
            None
        }
    }
}

/// Whether a thread to resume is not there (any more).
fn is_lost(error: &RpcError) -> bool {
    let words = error.to_string().to_lowercase();
    ["no rollout found", "not found", "no such thread", "invalid thread id"]
        .iter()
        .any(|known| words.contains(known))
}

fn failure(error: &RpcError, sort: Failure) -> TurnOutcome {
    TurnOutcome::Failed { failure: sort, message: format!("Codex failed: {error}") }
}

async fn fail(shared: &Shared, events: &mpsc::Sender<RuntimeEvent>, outcome: TurnOutcome) {
    shared.turn.send_replace(Turn::Idle);
    let _ = events.send(RuntimeEvent::TurnEnd(outcome)).await;
}

/// The thread's id and model.
async fn hello(shared: &Shared) -> Result<(String, String), RpcError> {
    let (peer, spec) = (&shared.peer, &shared.spec);
    let us = json!({
        "clientInfo": {
            "name": "musher", "title": "Musher", "version": crate::version::version(),
        },
        "capabilities": {"experimentalApi": true, "requestAttestation": false},
    });
    peer.request("initialize", us, START_TIMEOUT).await?;
    peer.notify("initialized", json!({})).await.map_err(|_gone| RpcError::Gone)?;
    let mut params = json!({
        "cwd": spec.cwd,
        "approvalPolicy": "untrusted",
        "developerInstructions": spec.role_prompt,
    });
    if let Some(model) = &spec.model {
        params["model"] = json!(model);
    }
    let method = match &spec.resume {
        Some(thread) => {
            params["threadId"] = json!(thread);
            params["excludeTurns"] = json!(true);
            "thread/resume"
        }
        None => {
            params["experimentalRawEvents"] = json!(true);
            params["dynamicTools"] = json!(dynamic_tools(shared));
            "thread/start"
        }
    };
    let answer = peer.request(method, params, START_TIMEOUT).await?;
    let thread = text(&answer["thread"], "id");
    if spec.resume.is_some() {
        *hold(&shared.record) = answer["thread"]["path"].as_str().map(PathBuf::from);
    }
    Ok((thread, text(&answer, "model")))
}

fn dynamic_tools(shared: &Shared) -> Vec<Value> {
    let specs = shared.spec.tools.specs();
    let tool = |spec: &crate::llm::tools::ToolSpec| {
        json!({
            "type": "function", "name": spec.name, "description": spec.description,
            "inputSchema": spec.schema,
        })
    };
    specs.iter().map(tool).collect()
}

async fn deliver(
    shared: &Shared,
    thread: &str,
    message: &UserMessage,
    how: Delivery,
) -> Result<(), RpcError> {
    let input = json!([{
        "type": "text", "text": format!("{}\n{}", message.header, message.text),
        "text_elements": [],
    }]);
    let running = shared.turn.borrow().clone();
    if let (Delivery::Steer, Turn::Running(id)) = (how, running) {
        let params = json!({
            "threadId": thread, "expectedTurnId": id, "input": input,
            "clientUserMessageId": message.id.to_string(),
        });
        match shared.peer.request("turn/steer", params, ACCEPT_TIMEOUT).await {
            Ok(_) => return Ok(()),
            // It ended meanwhile, or cannot be steered: then a turn of its own.
            Err(RpcError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let over = |turn: &Turn| match turn {
        Turn::Idle | Turn::Starting => true,
        Turn::Running(_) => false,
    };
    // The session's end is watched by the caller.
    shared.until(over).await;
    shared.turn.send_replace(Turn::Starting);
    let params = json!({
        "threadId": thread, "input": input, "clientUserMessageId": message.id.to_string(),
        "sandboxPolicy": args::sandbox(shared.spec.tools.role, &shared.spec.cwd),
        "cwd": shared.spec.cwd,
    });
    shared.peer.request("turn/start", params, ACCEPT_TIMEOUT).await?;
    // A turn that begins is told by a notification, and only by that: it may be over by now. But
    // the next message must not be taken for one before it.
    shared.until(|turn| *turn != Turn::Starting).await;
    Ok(())
}

//! Gets a session up and gives it what is said to the agent, one prompt at a time.

use super::super::rpc::RpcError;
use super::super::{RuntimeEvent, TurnOutcome, UserMessage};
use super::session::{Shared, Turn, hold};
use super::{args, wire};
use crate::agents::process::Ladder;
use crate::llm::Price;
use crate::model::agent::Failure;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long an agent may take to get a session up: some load for seconds, and replay a history.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a turn may take; silence and budgets are watched by the turn runner.
const TURN_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The version of the protocol that we speak.
const PROTOCOL_VERSION: u64 = 1;

/// What is said once, to a session that takes no system prompt.
const ROLE_HEADER: &str = "Musher sets the stage:";

/// Why there is no session.
enum NoSession {
    /// The agent says so, or nothing at all.
    Rpc(RpcError),
    /// It cannot go on with an earlier one.
    Lost(String),
    /// It is no agent that this version can speak to.
    Unusable(String),
}

impl From<RpcError> for NoSession {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

/// A session that is up.
struct Up {
    id: String,
    /// Said before the first prompt.
    role_prompt: Option<String>,
}

/// Introduces us, then delivers until the session ends.
pub(super) async fn run(shared: Arc<Shared>, events: mpsc::Sender<RuntimeEvent>) {
    let mut up = match hello(&shared).await {
        Ok(up) => up,
        Err(NoSession::Rpc(RpcError::Gone)) => return,
        Err(why) => return give_up(&shared, &events, &why).await,
    };
    *hold(&shared.session) = Some(up.id.clone());
    let ready = shared.ready(&up.id);
    // Nobody listens when the session is being dropped.
    let _ = events.send(ready).await;
    loop {
        let next = hold(&shared.queue).pop_front();
        let Some(message) = next else {
            tokio::select! {
                () = shared.ended.cancelled() => return,
                () = shared.said.notified() => continue,
            }
        };
        let role_prompt = up.role_prompt.take();
        tokio::select! {
            () = shared.ended.cancelled() => return,
            over = prompt(&shared, &events, &up.id, &message, role_prompt) => if !over { return },
        }
    }
}

/// The agent runs and has no session for us: says so once somebody listens, and ends it.
async fn give_up(shared: &Shared, events: &mpsc::Sender<RuntimeEvent>, why: &NoSession) {
    let failed =
        |failure, message: &str| TurnOutcome::Failed { failure, message: message.to_owned() };
    let outcome = match why {
        NoSession::Lost(message) => failed(Failure::SessionLost, message),
        NoSession::Unusable(message) => failed(Failure::Unusable, message),
        NoSession::Rpc(error) => match (wire::failure(error), &shared.spec.resume) {
            // What it says about a session that it does not have differs from agent to agent.
            (
                TurnOutcome::Failed { failure: Failure::Provider | Failure::BadRequest, message },
                Some(_),
            ) => TurnOutcome::Failed { failure: Failure::SessionLost, message },
            (outcome, _) => outcome,
        },
    };
    tokio::select! {
        () = shared.ended.cancelled() => {}
        _said = shared.until(|turn| *turn != Turn::Idle) => {
            shared.turn.send_replace(Turn::Idle);
            let _ = events.send(RuntimeEvent::TurnEnd(outcome)).await;
        }
    }
    shared.peer.close();
    shared.process.stop(Ladder::default()).await;
}

async fn hello(shared: &Shared) -> Result<Up, NoSession> {
    let (peer, spec) = (&shared.peer, &shared.spec);
    let us = json!({
        "protocolVersion": PROTOCOL_VERSION,
        "clientCapabilities": {"fs": {"readTextFile": false, "writeTextFile": false}, "terminal": false},
        "clientInfo": {"name": "musher", "title": "Musher", "version": crate::version::version()},
    });
    let them = peer.request("initialize", us, START_TIMEOUT).await?;
    if them["protocolVersion"].as_u64() != Some(PROTOCOL_VERSION) {
        let message = format!(
            "the agent speaks version {} of the Agent Client Protocol, this Musher version \
             {PROTOCOL_VERSION}: set `command` to one that does",
            them["protocolVersion"]
        );
        return Err(NoSession::Unusable(message));
    }
    if let Some(name) = them["agentInfo"]["name"].as_str() {
        *hold(&shared.model) = name.to_owned();
    }
    let can = &them["agentCapabilities"];
    let is_there = |pointer: &str| {
        can.pointer(pointer).is_some_and(|value| *value != json!(false) && !value.is_null())
    };
    let takes_urls = is_there("/mcpCapabilities/http");
    let server = hold(&shared.ticket).as_ref().map(|ticket| args::server(spec, ticket, takes_urls));
    let mut params = json!({"cwd": spec.cwd, "mcpServers": server.into_iter().collect::<Vec<_>>()});
    let takes_system = is_there("/sessionCapabilities/systemPrompt");
    if takes_system {
        params["_meta"] = json!({"systemPrompt": {"append": spec.role_prompt}});
    }
    let method = match &spec.resume {
        Some(id) => {
            params["sessionId"] = json!(id);
            if is_there("/sessionCapabilities/resume") {
                "session/resume"
            } else if is_there("/loadSession") {
                "session/load"
            } else {
                let message = "this agent cannot go on with an earlier session".to_owned();
                return Err(NoSession::Lost(message));
            }
        }
        None => "session/new",
    };
    let answer = peer.request(method, params, START_TIMEOUT).await?;
    let id = match (answer["sessionId"].as_str(), &spec.resume) {
        (Some(id), _) => id.to_owned(),
        (None, Some(resumed)) => resumed.clone(),
        (None, None) => {
            return Err(NoSession::Unusable("it made a session without an id".to_owned()));
        }
    };
    choose_model(shared, &id, &answer).await?;
    let told = takes_system || spec.resume.is_some();
    Ok(Up { id, role_prompt: (!told).then(|| spec.role_prompt.clone()) })
}

/// Chooses the configured model, where the agent lets its model be chosen.
async fn choose_model(shared: &Shared, id: &str, session: &Value) -> Result<(), RpcError> {
    let options = session["configOptions"].as_array().into_iter().flatten();
    let option = options.into_iter().find(|option| option["category"] == "model");
    let legacy = session["models"]["availableModels"].is_array();
    let (method, params) = match (&shared.spec.model, option) {
        (Some(model), Some(option)) => {
            let value = json!({"sessionId": id, "configId": option["id"], "value": model});
            ("session/set_config_option", value)
        }
        (Some(model), None) if legacy => {
            ("session/set_model", json!({"sessionId": id, "modelId": model}))
        }
        (Some(_) | None, _) => return Ok(()),
    };
    if let Some(model) = &shared.spec.model {
        *hold(&shared.model) = model.clone();
    }
    shared.peer.request(method, params, START_TIMEOUT).await.map(|_| ())
}

/// One prompt is one turn: its answer is the turn's end. Says whether the session goes on.
async fn prompt(
    shared: &Shared,
    events: &mpsc::Sender<RuntimeEvent>,
    id: &str,
    message: &UserMessage,
    role_prompt: Option<String>,
) -> bool {
    let block = |text: String| json!({"type": "text", "text": text});
    let mut blocks = vec![];
    blocks.extend(role_prompt.map(|role| block(format!("{ROLE_HEADER}\n{role}\n"))));
    blocks.push(block(format!("{}\n{}", message.header, message.text)));
    // Ours last: some agents make a command or a file of a text that is all there is.
    blocks.push(block("(end of message)".to_owned()));
    *hold(&shared.unconfirmed) = Some(message.id);
    shared.turn.send_replace(Turn::Running);
    for event in [shared.ready(id), RuntimeEvent::Running] {
        let _ = events.send(event).await;
    }
    let asked =
        shared.peer.begin("session/prompt", json!({"sessionId": id, "prompt": blocks})).await;
    let ended = match asked {
        Ok(pending) => pending.within(TURN_TIMEOUT).await,
        Err(error) => Err(error),
    };
    if ended == Err(RpcError::Gone) {
        // The reader says what became of it.
        return false;
    }
    let unconfirmed = hold(&shared.unconfirmed).take();
    if let (Ok(_), Some(id)) = (&ended, unconfirmed) {
        let _ = events.send(RuntimeEvent::Consumed(id)).await;
    }
    shared.flush_text(events).await;
    if let Some(used) = used(shared, ended.as_ref().ok()) {
        let _ = events.send(used).await;
    }
    shared.withdraw_all(events).await;
    shared.turn.send_replace(Turn::Idle);
    let _ = events.send(RuntimeEvent::TurnEnd(wire::outcome(&ended))).await;
    true
}

/// What the turn used. The cost is cumulative; where an agent says none, list prices tell it.
fn used(shared: &Shared, answer: Option<&Value>) -> Option<RuntimeEvent> {
    let model = answer
        .and_then(|answer| answer["_meta"]["quota"]["model_usage"][0]["model"].as_str())
        .map_or_else(|| hold(&shared.model).clone(), str::to_owned);
    let usage = answer.and_then(wire::usage);
    let listed = usage
        .zip(Price::listed(&model))
        .map(|(usage, price)| price.microusd(usage.input, usage.cached, 0, usage.output));
    let mut cost = hold(&shared.cost);
    let (total, told) = (cost.total, cost.told);
    cost.told = total.or(told);
    // What a resumed session cost before is not known.
    let known = told.or(shared.spec.resume.is_none().then_some(0));
    let said = total.zip(known).map(|(total, told)| (total - told).max(0));
    let microusd = said.or(listed).unwrap_or(0);
    let usage = usage.unwrap_or_default();
    let nothing = usage == crate::model::llm::Usage::default() && microusd == 0;
    (!nothing).then_some(RuntimeEvent::Used { usage, microusd, model })
}

//! The live table of the agents: what each does now, what it cost, what its processes use.

use super::process::{TreeUsage, usage_by_session};
use crate::config::{AgentConfig, Config};
use crate::model::agent::SessionState;
use crate::model::ids::ItemId;
use crate::store::agents::{self as sessions, AgentSession, TurnEvent};
use crate::store::costs::{self, Spent};
use crate::store::{Store, StoreError, mail};
use chrono::{DateTime, Utc};
use rusqlite::Connection;
use serde::Serialize;
use std::collections::HashMap;

/// How much of the last event is shown, in characters.
const EVENT_CHARS: usize = 100;

/// What processes use, by session.
pub type Trees = HashMap<i64, TreeUsage>;

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AgentRow {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub role: &'static str,
    /// How it is run.
    pub runtime: &'static str,
    /// The model that it is configured for.
    pub model: Option<String>,
    /// `free`, or the state of its session.
    pub state: &'static str,
    /// The item that it is on.
    pub item: Option<ItemId>,
    /// Since when.
    pub since: Option<DateTime<Utc>>,
    /// What it waits for.
    pub waits_for: Option<String>,
    /// Until when at the latest.
    pub waits_until: Option<DateTime<Utc>>,
    /// Turns on the item.
    pub turns: usize,
    /// Tokens on the item, in and out.
    pub tokens: u64,
    /// Money on the item, in US dollars.
    pub usd: f64,
    /// What was heard of it last.
    pub last_event: Option<String>,
    /// When.
    pub last_activity: Option<DateTime<Utc>>,
    /// Its processes.
    pub processes: usize,
    /// Their memory, in bytes.
    pub memory: u64,
    /// Their CPU time so far, in milliseconds.
    pub cpu_ms: u64,
    /// Mail that waits for it.
    pub unread_mail: u64,
    /// Other sessions of it that are not over: an agent works on one item at a time, so these wait.
    pub also_on: Vec<ItemId>,
}

/// Reads what the processes of all sessions use. Blocks on /proc.
pub fn trees(instance: Option<&str>) -> Trees {
    instance.map(usage_by_session).unwrap_or_default()
}

/// The table, one row a configured agent.
pub async fn table(store: &Store, config: &Config) -> Result<Vec<AgentRow>, StoreError> {
    let instance = store.read(sessions::known_instance).await?;
    let trees = tokio::task::spawn_blocking(move || trees(instance.as_deref()));
    let trees = trees.await.unwrap_or_default();
    let config = config.clone();
    let now = store.clock().millis();
    store.read(move |conn| rows(conn, &config, &trees, now)).await
}

/// As [`table`], from what was read of the processes.
pub fn rows(
    conn: &Connection,
    config: &Config,
    trees: &Trees,
    now: i64,
) -> Result<Vec<AgentRow>, StoreError> {
    config.agents.iter().map(|agent| row(conn, agent, trees, now)).collect()
}

fn row(
    conn: &Connection,
    agent: &AgentConfig,
    trees: &Trees,
    now: i64,
) -> Result<AgentRow, StoreError> {
    let mut live = sessions::live_sessions_of_agent(conn, &agent.name)?;
    // The one that runs is the one that it is on.
    live.sort_by_key(|session| (session.state != SessionState::InTurn, session.id));
    let mut live = live.into_iter();
    let current = live.next();
    let also_on = live.map(|session| session.item).collect();
    let waiting = mail::check(conn, agent.name.as_str(), now, 0)?;
    let mut row = AgentRow {
        name: agent.name.0.clone(),
        role: agent.role.as_str(),
        runtime: agent.runtime.as_str(),
        model: agent.model.clone(),
        state: "free",
        item: None,
        since: None,
        waits_for: None,
        waits_until: None,
        turns: 0,
        tokens: 0,
        usd: 0.0,
        last_event: None,
        last_activity: None,
        processes: 0,
        memory: 0,
        cpu_ms: 0,
        unread_mail: waiting.more,
        also_on,
    };
    match current {
        Some(session) => fill(conn, &mut row, &session, trees)?,
        None => show_survivor(conn, &mut row, agent, trees)?,
    }
    Ok(row)
}

/// What a session at work adds.
fn fill(
    conn: &Connection,
    row: &mut AgentRow,
    session: &AgentSession,
    trees: &Trees,
) -> Result<(), StoreError> {
    let spent: Spent = costs::of_name_on_item(conn, session.agent.as_str(), session.item)?;
    let last: Option<TurnEvent> = sessions::session_events(conn, session.id, 1)?.pop();
    row.state = session.state.as_str();
    row.item = Some(session.item);
    row.since = Some(session.created_at);
    if session.state == SessionState::Waiting {
        row.waits_for = session.waiting.as_ref().map(|waiting| waiting.detail.clone());
        row.waits_until = session.waiting.as_ref().and_then(|waiting| waiting.until);
    }
    row.turns = sessions::turns_of_session(conn, session.id)?.len();
    row.tokens = spent.tokens();
    row.usd = spent.microusd as f64 / 1e6;
    row.last_event = last.as_ref().map(|event| {
        let text: String = event.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let text: String = text.chars().take(EVENT_CHARS).collect();
        format!("{}: {text}", event.kind)
    });
    row.last_activity = Some(session.last_activity);
    add_tree(row, trees.get(&session.id.0));
    Ok(())
}

/// A session that is over and whose processes live is shown as what it is: a zombie.
fn show_survivor(
    conn: &Connection,
    row: &mut AgentRow,
    agent: &AgentConfig,
    trees: &Trees,
) -> Result<(), StoreError> {
    let Some(last) = sessions::newest_session_of(conn, &agent.name)? else { return Ok(()) };
    let Some(tree) = trees.get(&last.id.0) else { return Ok(()) };
    row.state = SessionState::Zombie.as_str();
    row.item = Some(last.item);
    row.since = Some(last.updated_at);
    add_tree(row, Some(tree));
    Ok(())
}

fn add_tree(row: &mut AgentRow, tree: Option<&TreeUsage>) {
    let tree = tree.copied().unwrap_or_default();
    (row.processes, row.memory, row.cpu_ms) = (tree.processes, tree.memory, tree.cpu_ms);
}

//! Agents' sessions: one agent's work on one item in one worktree.
//!
//! A session's state changes by one compare-and-swap ([`move_state`]): a writer that lost to a
//! concurrent stop or to the watchdog is told the state that stood in its way and leaves it alone.
//! What the next turn says stands in `pending_prompt`, which is what makes the pool start it.

mod pools;
mod processes;
mod reports;
#[cfg(test)]
mod tests;
mod transcripts;
mod turns;

pub use pools::{instance_id, known_instance};
pub use processes::{
    LeaseOutcome, ProcessRow, end_process, live_processes, record_process, release_lease,
    take_lease,
};
pub use reports::{NewReport, Report, newest_report, record_report, report, reports_of_item};
pub use transcripts::{
    all_events, forget_transcript, put_away, to_be_put_away, transcript_of, transcripts_before,
};
pub use turns::{
    Turn, TurnEvent, append_message, append_turn_event, begin_turn, deaths_since, events_of_turn,
    files_read, finish_turn, messages, report_before, session_events, turn, turn_events,
    turn_events_after, turns_of_session, turns_since, unfinished_turns, warnings_of_item,
};

use super::types::Json;
use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::config::RuntimeKind;
use crate::model::agent::{Role, SessionState, Waiting};
use crate::model::ids::{AgentName, AgentSessionId, ItemId};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A row of `agent_sessions`.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentSession {
    /// Its number.
    pub id: AgentSessionId,
    /// Whose.
    pub agent: AgentName,
    /// What for.
    pub role: Role,
    /// How the agent is run.
    pub runtime: RuntimeKind,
    /// The item.
    pub item: ItemId,
    /// Where it stands.
    pub state: SessionState,
    /// The runtime's own session id, to resume.
    pub native_id: Option<String>,
    /// What it waits for, while it waits.
    pub waiting: Option<Waiting>,
    /// What the next turn says; `None`: nothing to run.
    pub pending_prompt: Option<String>,
    /// Whether it was asked to report or to say what it waits for.
    pub contract_asked: bool,
    /// How often it was resumed after it died.
    pub recoveries: u32,
    /// When its runtime was last heard.
    pub last_activity: DateTime<Utc>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When its row last changed.
    pub updated_at: DateTime<Utc>,
}

/// A session to be created.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Whose.
    pub agent: AgentName,
    /// What for.
    pub role: Role,
    /// How the agent is run.
    pub runtime: RuntimeKind,
    /// The item.
    pub item: ItemId,
    /// What the first turn says.
    pub prompt: String,
    /// The runtime's session to go on with, such as the one of the item's last session.
    pub resume_native: Option<String>,
}

/// Why no session was created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// Another agent is at work on the item.
    #[error("agent {agent} already works on item {item}; stop it first, or `tell` it what is new")]
    AlreadyLive {
        /// That agent.
        agent: AgentName,
        /// The item.
        item: ItemId,
    },
    /// The prompt is blank: a turn would say nothing.
    #[error("the first prompt of a session must not be empty")]
    EmptyPrompt,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for CreateError {
    fn from(error: rusqlite::Error) -> Self {
        CreateError::Store(error.into())
    }
}

/// What came of a move between states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveOutcome {
    /// It stands there now.
    Ok,
    /// There is no such session.
    NotFound,
    /// The state that it is in does not allow it.
    Illegal(SessionState),
}

const COLUMNS: &str = "id, agent, role, runtime, item, state, native_id, waiting, pending_prompt, \
                       contract_asked, recoveries, last_activity, created_at, updated_at";

/// The states of a session that is not over, as SQL.
const LIVE: &str = "state IN ('booting', 'in_turn', 'between_turns', 'waiting', 'stalled')";

fn from_row(row: &Row<'_>) -> rusqlite::Result<AgentSession> {
    Ok(AgentSession {
        id: row.get(0)?,
        agent: row.get(1)?,
        role: row.get::<_, Name<Role>>(2)?.0,
        runtime: row.get::<_, Name<RuntimeKind>>(3)?.0,
        item: row.get(4)?,
        state: row.get::<_, Name<SessionState>>(5)?.0,
        native_id: row.get(6)?,
        waiting: row.get::<_, Option<Json<Waiting>>>(7)?.map(|json| json.0),
        pending_prompt: row.get(8)?,
        contract_asked: row.get(9)?,
        recoveries: row.get(10)?,
        last_activity: from_millis(row.get(11)?),
        created_at: from_millis(row.get(12)?),
        updated_at: from_millis(row.get(13)?),
    })
}

/// An enum stored by its serde name, without quotes.
struct Name<T>(T);

impl<T: serde::de::DeserializeOwned> rusqlite::types::FromSql for Name<T> {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        let text = value.as_str()?;
        serde_json::from_value(serde_json::Value::String(text.to_owned()))
            .map(Name)
            .map_err(|error| rusqlite::types::FromSqlError::Other(Box::new(error)))
    }
}

/// Creates a session that the pool will start. Refused while the item has a live one.
pub fn create_session(tx: &Tx<'_>, new: &NewSession) -> Result<AgentSessionId, CreateError> {
    if new.prompt.trim().is_empty() {
        return Err(CreateError::EmptyPrompt);
    }
    if let Some(live) = live_session_of(tx, new.item)? {
        return Err(CreateError::AlreadyLive { agent: live.agent, item: new.item });
    }
    tx.prepare_cached(
        "INSERT INTO agent_sessions (agent, role, runtime, item, state, native_id, pending_prompt,
                                     last_activity, created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, 'booting', ?5, ?6, ?7, ?7, ?7)",
    )?
    .execute(params![
        new.agent,
        new.role.as_str(),
        new.runtime.as_str(),
        new.item,
        new.resume_native,
        new.prompt,
        tx.now()
    ])?;
    Ok(AgentSessionId(tx.last_insert_rowid()))
}

/// Adds to what the session's next turn says; the pool will start it. Nothing for a blank prompt.
///
/// Says whether the session is there and not over. A prompt that already waits is kept in front.
pub fn set_prompt(tx: &Tx<'_>, session: AgentSessionId, prompt: &str) -> Result<bool, StoreError> {
    if prompt.trim().is_empty() {
        return Ok(false);
    }
    let changed = tx
        .prepare_cached(&format!(
            "UPDATE agent_sessions
             SET pending_prompt = CASE WHEN pending_prompt IS NULL THEN ?2
                                       ELSE pending_prompt || char(10) || char(10) || ?2 END,
                 updated_at = ?3
             WHERE id = ?1 AND {LIVE}"
        ))?
        .execute(params![session, prompt, tx.now()])?;
    Ok(changed == 1)
}

/// Forgets what the session waited for: its next turn begins.
fn clear_waiting(tx: &Tx<'_>, session: AgentSessionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET waiting = NULL WHERE id = ?1")?
        .execute([session])?;
    Ok(())
}

/// Drops the prompt that waits, if any.
pub fn clear_prompt(tx: &Tx<'_>, session: AgentSessionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET pending_prompt = NULL WHERE id = ?1")?
        .execute([session])?;
    Ok(())
}

/// Moves a session to `to` if its present state allows it. What it waited for is forgotten, except
/// by `in_turn`: [`begin_turn`] has done that.
pub fn move_state(
    tx: &Tx<'_>,
    session: AgentSessionId,
    to: SessionState,
) -> Result<MoveOutcome, StoreError> {
    compare_and_swap(tx, session, to, to.allowed_from(), None)
}

/// Moves a session to `waiting`, with what for.
pub fn move_to_waiting(
    tx: &Tx<'_>,
    session: AgentSessionId,
    waiting: &Waiting,
) -> Result<MoveOutcome, StoreError> {
    let to = SessionState::Waiting;
    compare_and_swap(tx, session, to, to.allowed_from(), Some(waiting))
}

/// Promotes a zombie to `completed`: an operator's stop, and nothing else, may do that.
pub fn close_zombie(tx: &Tx<'_>, session: AgentSessionId) -> Result<MoveOutcome, StoreError> {
    compare_and_swap(tx, session, SessionState::Completed, &[SessionState::Zombie], None)
}

fn compare_and_swap(
    tx: &Tx<'_>,
    session: AgentSessionId,
    to: SessionState,
    allowed: &[SessionState],
    waiting: Option<&Waiting>,
) -> Result<MoveOutcome, StoreError> {
    let allowed: Vec<String> =
        allowed.iter().map(|state| format!("'{}'", state.as_str())).collect();
    let changed = tx
        .prepare_cached(&format!(
            "UPDATE agent_sessions
             SET state = ?2, updated_at = ?4, waiting = CASE WHEN ?5 THEN waiting ELSE ?3 END
             WHERE id = ?1 AND state IN ({})",
            allowed.join(", ")
        ))?
        // What a turn announces to wait for may come before the first of its events is written.
        .execute(params![
            session,
            to.as_str(),
            waiting.map(Json),
            tx.now(),
            to == SessionState::InTurn
        ])?;
    if changed == 1 {
        return Ok(MoveOutcome::Ok);
    }
    Ok(match find_session(tx, session)? {
        Some(found) => MoveOutcome::Illegal(found.state),
        None => MoveOutcome::NotFound,
    })
}

/// Notes what the session will wait for when its turn has ended; its state stays.
///
/// For the tools by which an agent says what it waits for (`wait_for`, `ask_human`). The next turn
/// forgets it when it begins.
pub fn announce_wait(
    tx: &Tx<'_>,
    session: AgentSessionId,
    waiting: &Waiting,
) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET waiting = ?2 WHERE id = ?1")?
        .execute(params![session, Json(waiting)])?;
    Ok(())
}

/// The turn goes on: what the session waited for within it came. What it said before that it would
/// wait for afterwards stands again.
pub fn end_wait(
    tx: &Tx<'_>,
    session: AgentSessionId,
    announced: Option<&Waiting>,
) -> Result<MoveOutcome, StoreError> {
    let moved = move_state(tx, session, SessionState::InTurn)?;
    if moved == MoveOutcome::Ok {
        tx.prepare_cached("UPDATE agent_sessions SET waiting = ?2 WHERE id = ?1")?
            .execute(params![session, announced.map(Json)])?;
    }
    Ok(moved)
}

/// Stores the runtime's own session id, the moment it is seen.
pub fn set_native_id(
    tx: &Tx<'_>,
    session: AgentSessionId,
    native_id: &str,
) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET native_id = ?2 WHERE id = ?1")?
        .execute(params![session, native_id])?;
    Ok(())
}

/// Forgets the runtime's session id: the next turn starts cold.
pub fn clear_native_id(tx: &Tx<'_>, session: AgentSessionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET native_id = NULL WHERE id = ?1")?
        .execute([session])?;
    Ok(())
}

/// Notes that the session was asked to report or to say what it waits for.
pub fn set_contract_asked(
    tx: &Tx<'_>,
    session: AgentSessionId,
    asked: bool,
) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET contract_asked = ?2 WHERE id = ?1")?
        .execute(params![session, asked])?;
    Ok(())
}

/// Counts a resumption after a death, and returns how many there were with this one.
pub fn count_recovery(tx: &Tx<'_>, session: AgentSessionId) -> Result<u32, StoreError> {
    Ok(tx
        .prepare_cached(
            "UPDATE agent_sessions SET recoveries = recoveries + 1 WHERE id = ?1
             RETURNING recoveries",
        )?
        .query_row([session], |row| row.get(0))?)
}

/// Forgets earlier resumptions: it made progress since.
pub fn clear_recoveries(tx: &Tx<'_>, session: AgentSessionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET recoveries = 0 WHERE id = ?1")?
        .execute([session])?;
    Ok(())
}

/// Notes that the session's runtime was heard.
pub fn touch(tx: &Tx<'_>, session: AgentSessionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET last_activity = ?2 WHERE id = ?1")?
        .execute(params![session, tx.now()])?;
    Ok(())
}

/// One session.
pub fn find_session(
    conn: &Connection,
    session: AgentSessionId,
) -> Result<Option<AgentSession>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM agent_sessions WHERE id = ?1"))?;
    Ok(statement.query_row([session], from_row).optional()?)
}

/// The session that is at work on `item`; there is at most one.
pub fn live_session_of(
    conn: &Connection,
    item: ItemId,
) -> Result<Option<AgentSession>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM agent_sessions WHERE item = ?1 AND {LIVE}"
    ))?;
    Ok(statement.query_row([item], from_row).optional()?)
}

/// An item's sessions, oldest first.
pub fn sessions_of_item(conn: &Connection, item: ItemId) -> Result<Vec<AgentSession>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM agent_sessions WHERE item = ?1 ORDER BY id"
    ))?;
    let rows = statement.query_map([item], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Every session that is not over, oldest first.
pub fn live_sessions(conn: &Connection) -> Result<Vec<AgentSession>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM agent_sessions WHERE {LIVE} ORDER BY id"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The newest session of an agent, over or not: what `agents` shows.
pub fn newest_session_of(
    conn: &Connection,
    agent: &AgentName,
) -> Result<Option<AgentSession>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM agent_sessions WHERE agent = ?1 ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(statement.query_row([agent], from_row).optional()?)
}

/// The live sessions of an agent: it works on one item at a time.
pub fn live_sessions_of_agent(
    conn: &Connection,
    agent: &AgentName,
) -> Result<Vec<AgentSession>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM agent_sessions WHERE agent = ?1 AND {LIVE} ORDER BY id"
    ))?;
    let rows = statement.query_map([agent], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

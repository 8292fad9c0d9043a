//! Turns, what happened in them, and the built-in agent's conversation.

use crate::clock::from_millis;
use crate::model::agent::TurnResult;
use crate::model::ids::{AgentSessionId, ItemId, TurnId};
use crate::model::llm::LlmMessage;
use crate::redact::redact;
use crate::store::types::Json;
use crate::store::{StoreError, Tx};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// The longest text that one event keeps, in bytes.
const EVENT_TEXT_MAX: usize = 4096;

/// A row of `turns`.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its number.
    pub id: TurnId,
    /// Its session.
    pub session: AgentSessionId,
    /// What it was told.
    pub prompt: String,
    /// How it ended; `None` while it runs, or when a crash cut it off.
    pub result: Option<TurnResult>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "id, session, prompt, result, started_at, ended_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Turn> {
    Ok(Turn {
        id: row.get(0)?,
        session: row.get(1)?,
        prompt: row.get(2)?,
        result: row.get::<_, Option<Json<TurnResult>>>(3)?.map(|json| json.0),
        started_at: from_millis(row.get(4)?),
        ended_at: row.get::<_, Option<i64>>(5)?.map(from_millis),
    })
}

/// How many turns have begun since `since` (milliseconds since the epoch); `most` at most.
pub fn turns_since(conn: &Connection, since: i64, most: u32) -> Result<u32, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT count(*) FROM (SELECT started_at FROM turns ORDER BY id DESC LIMIT ?2)
         WHERE started_at > ?1",
    )?;
    Ok(statement.query_row(params![since, most], |row| row.get(0))?)
}

/// What a person should know of the turns on an item, each warning once, newest last, with whose it
/// was.
pub fn warnings_of_item(conn: &Connection, item: ItemId) -> Result<Vec<String>, StoreError> {
    let mut warnings: Vec<String> = vec![];
    for session in super::sessions_of_item(conn, item)? {
        for turn in turns_of_session(conn, session.id)? {
            for warning in turn.result.map(|result| result.warnings).unwrap_or_default() {
                let said = format!("{}: {warning}", session.agent);
                warnings.retain(|known| *known != said);
                warnings.push(said);
            }
        }
    }
    Ok(warnings)
}

/// How many turns have died since `since` (milliseconds since the epoch): their runtime could not
/// begin, ended in the middle, said nothing any more or nothing that can be understood.
pub fn deaths_since(conn: &Connection, since: i64) -> Result<u32, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT count(*) FROM turns WHERE ended_at > ?1
           AND (json_extract(result, '$.end.end') = 'stalled'
                OR json_extract(result, '$.end.failure')
                   IN ('crash', 'protocol', 'session_lost', 'unusable'))",
    )?;
    Ok(statement.query_row([since], |row| row.get(0))?)
}

/// Begins a turn with the prompt that waits, which moves from the session into the turn's row.
///
/// `None` when there is nothing to say: no turn then.
pub fn begin_turn(tx: &Tx<'_>, session: AgentSessionId) -> Result<Option<TurnId>, StoreError> {
    let prompt: Option<String> = tx
        .prepare_cached("SELECT pending_prompt FROM agent_sessions WHERE id = ?1")?
        .query_row([session], |row| row.get(0))
        .optional()?
        .flatten();
    let Some(prompt) = prompt.filter(|prompt| !prompt.trim().is_empty()) else {
        return Ok(None);
    };
    super::clear_prompt(tx, session)?;
    super::clear_waiting(tx, session)?;
    tx.prepare_cached("INSERT INTO turns (session, prompt, started_at) VALUES (?1, ?2, ?3)")?
        .execute(params![session, prompt, tx.now()])?;
    Ok(Some(TurnId(tx.last_insert_rowid())))
}

/// Writes how a turn ended; says whether it was still open. The first result stands.
pub fn finish_turn(tx: &Tx<'_>, turn: TurnId, result: &TurnResult) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE turns SET result = ?2, input = ?3, cached = ?4, output = ?5,
                              cost_microusd = ?6, ended_at = ?7
             WHERE id = ?1 AND result IS NULL",
        )?
        .execute(params![
            turn,
            Json(result),
            result.usage.input.cast_signed(),
            result.usage.cached.cast_signed(),
            result.usage.output.cast_signed(),
            result.cost_microusd,
            tx.now()
        ])?;
    Ok(changed == 1)
}

/// One turn.
pub fn turn(conn: &Connection, id: TurnId) -> Result<Option<Turn>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM turns WHERE id = ?1"))?;
    Ok(statement.query_row([id], from_row).optional()?)
}

/// A session's turns, oldest first.
pub fn turns_of_session(
    conn: &Connection,
    session: AgentSessionId,
) -> Result<Vec<Turn>, StoreError> {
    let mut statement = conn
        .prepare_cached(&format!("SELECT {COLUMNS} FROM turns WHERE session = ?1 ORDER BY id"))?;
    let rows = statement.query_map([session], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Turns without a result: running, or cut off by a crash.
pub fn unfinished_turns(conn: &Connection) -> Result<Vec<Turn>, StoreError> {
    let mut statement = conn
        .prepare_cached(&format!("SELECT {COLUMNS} FROM turns WHERE result IS NULL ORDER BY id"))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Something that an agent did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnEvent {
    /// Its position: later ones have higher ones.
    pub id: i64,
    /// The turn.
    pub turn: TurnId,
    /// The session.
    pub session: AgentSessionId,
    /// What sort: `prompt`, `text`, `tool`, `tool_end`, `retry`, `permission`, `error`, …
    pub kind: String,
    /// What, redacted and cut.
    pub text: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// Stores something that an agent did: secrets taken out, long text cut.
pub fn append_turn_event(
    tx: &Tx<'_>,
    turn: TurnId,
    session: AgentSessionId,
    kind: &str,
    text: &str,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO turn_events (turn, session, kind, text, at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![turn, session, kind, cut(&redact(text)), tx.now()])?;
    Ok(())
}

/// The first bytes of a long text, with a note that there was more.
fn cut(text: &str) -> String {
    if text.len() <= EVENT_TEXT_MAX {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(EVENT_TEXT_MAX);
    format!("{}… ({} bytes in all)", &text[..end], text.len())
}

pub(super) fn event_from_row(row: &Row<'_>) -> rusqlite::Result<TurnEvent> {
    Ok(TurnEvent {
        turn: row.get(0)?,
        session: row.get(1)?,
        kind: row.get(2)?,
        text: row.get(3)?,
        at: from_millis(row.get(4)?),
        id: row.get(5)?,
    })
}

/// The last `count` things that agents did on an item, oldest first.
pub fn turn_events(
    conn: &Connection,
    item: ItemId,
    count: usize,
) -> Result<Vec<TurnEvent>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT turn, session, kind, text, at, id FROM turn_events
         WHERE session IN (SELECT id FROM agent_sessions WHERE item = ?1)
         ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![item, count as i64], event_from_row)?;
    let mut events = rows.collect::<Result<Vec<_>, _>>()?;
    events.reverse();
    Ok(events)
}

/// What agents did on an item after the event `after`, oldest first, at most `count`.
pub fn turn_events_after(
    conn: &Connection,
    item: ItemId,
    after: i64,
    count: usize,
) -> Result<Vec<TurnEvent>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT turn, session, kind, text, at, id FROM turn_events
         WHERE session IN (SELECT id FROM agent_sessions WHERE item = ?1) AND id > ?2
         ORDER BY id LIMIT ?3",
    )?;
    let rows = statement.query_map(params![item, after, count as i64], event_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many different files the agents of an item have read with their tools for that.
pub fn files_read(conn: &Connection, item: ItemId) -> Result<u64, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT count(DISTINCT text) FROM turn_events
         WHERE session IN (SELECT id FROM agent_sessions WHERE item = ?1) AND kind = 'tool'
           AND (text LIKE 'Read: %' OR text LIKE 'read_file: %')",
    )?;
    Ok(statement.query_row([item], |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// Everything that happened in a turn, oldest first.
pub fn events_of_turn(conn: &Connection, turn: TurnId) -> Result<Vec<TurnEvent>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT turn, session, kind, text, at, id FROM turn_events
         WHERE session = (SELECT session FROM turns WHERE id = ?1) AND turn = ?1 ORDER BY id",
    )?;
    let rows = statement.query_map([turn], event_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The newest report of a turn's agent on its item from before the turn began.
pub fn report_before(conn: &Connection, turn: &Turn) -> Result<Option<i64>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT max(reports.id) FROM reports, agent_sessions AS session
         WHERE session.id = ?1 AND reports.agent = session.agent AND reports.item = session.item
           AND reports.at < ?2",
    )?;
    let started = turn.started_at.timestamp_millis();
    Ok(statement.query_row(params![turn.session, started], |row| row.get(0))?)
}

/// The last `count` things that happened in a session, oldest first.
pub fn session_events(
    conn: &Connection,
    session: AgentSessionId,
    count: usize,
) -> Result<Vec<TurnEvent>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT turn, session, kind, text, at, id FROM turn_events WHERE session = ?1
         ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![session, count as i64], event_from_row)?;
    let mut events = rows.collect::<Result<Vec<_>, _>>()?;
    events.reverse();
    Ok(events)
}

/// Appends a message to the built-in agent's conversation.
pub fn append_message(
    tx: &Tx<'_>,
    session: AgentSessionId,
    message: &LlmMessage,
) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO agent_messages (session, message, at) VALUES (?1, ?2, ?3)")?
        .execute(params![session, Json(message), tx.now()])?;
    Ok(())
}

/// The built-in agent's conversation, oldest first.
pub fn messages(conn: &Connection, session: AgentSessionId) -> Result<Vec<LlmMessage>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT message FROM agent_messages WHERE session = ?1 ORDER BY id")?;
    let rows = statement.query_map([session], |row| Ok(row.get::<_, Json<LlmMessage>>(0)?.0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

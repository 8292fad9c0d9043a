//! What sessions did, as it is put away when their items have ended.

use super::turns::{TurnEvent, event_from_row};
use crate::model::ids::AgentSessionId;
use crate::store::{StoreError, Tx};
use rusqlite::{Connection, OptionalExtension, params};

/// Everything that happened in a session and stands in the database, oldest first.
pub fn all_events(
    conn: &Connection,
    session: AgentSessionId,
) -> Result<Vec<TurnEvent>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT turn, session, kind, text, at, id FROM turn_events WHERE session = ?1 ORDER BY id",
    )?;
    let rows = statement.query_map([session], event_from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Sessions that have been over since `before` and whose items have ended, oldest first.
pub fn to_be_put_away(
    conn: &Connection,
    before: i64,
    limit: usize,
) -> Result<Vec<AgentSessionId>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id FROM agent_sessions
         WHERE state IN ('completed', 'zombie') AND transcript IS NULL AND updated_at < ?1
           AND item NOT IN (SELECT id FROM items WHERE col NOT IN ('done', 'archived', 'closed'))
         ORDER BY updated_at LIMIT ?2",
    )?;
    let rows = statement.query_map(params![before, limit as i64], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes where what a session did is now, and takes the rows away.
pub fn put_away(tx: &Tx<'_>, session: AgentSessionId, name: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET transcript = ?2 WHERE id = ?1")?
        .execute(params![session, name])?;
    tx.prepare_cached("DELETE FROM turn_events WHERE session = ?1")?.execute([session])?;
    Ok(())
}

/// The file that holds what a session did, if it was put away and is kept.
pub fn transcript_of(
    conn: &Connection,
    session: AgentSessionId,
) -> Result<Option<String>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT transcript FROM agent_sessions WHERE id = ?1")?;
    let name: Option<Option<String>> =
        statement.query_row([session], |row| row.get(0)).optional()?;
    Ok(name.flatten().filter(|name| !name.is_empty()))
}

/// Transcripts of sessions that have been over since `before`.
pub fn transcripts_before(
    conn: &Connection,
    before: i64,
    limit: usize,
) -> Result<Vec<(AgentSessionId, String)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, transcript FROM agent_sessions
         WHERE transcript IS NOT NULL AND transcript <> '' AND updated_at < ?1
         ORDER BY id LIMIT ?2",
    )?;
    let rows =
        statement.query_map(params![before, limit as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes that a transcript is kept no longer.
pub fn forget_transcript(tx: &Tx<'_>, session: AgentSessionId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE agent_sessions SET transcript = '' WHERE id = ?1")?
        .execute([session])?;
    Ok(())
}

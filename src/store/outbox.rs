//! What is to be posted, in order per room.
//!
//! A row is written in the transaction that causes it and is `pending` until the transport has
//! answered. Rows of one room are sent strictly in the order of their ids: a row that must wait
//! holds back those behind it. A text may be posted in several pieces; [`record_part`] notes each
//! as soon as the transport has taken it, so that after a crash only the missing ones are sent
//! (and the piece whose answer was lost has the same transaction id as before).

use super::types::Json;
use super::{StoreError, Tx, meta};
use crate::clock::from_millis;
use crate::model::chat::Outgoing;
use crate::model::ids::{MessageKey, OutboxId, RoomKey, SessionKey};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// The meta row with the id that all transaction ids of this installation begin with.
const INSTALLATION: &str = "installation_id";

/// Writes a message to be posted, in the transaction that causes it.
///
/// With `dedup`, enqueueing the same key again changes nothing and returns the first row: for
/// causes that may be repeated after a crash.
pub fn enqueue(
    tx: &Tx<'_>,
    outgoing: &Outgoing,
    dedup: Option<&str>,
) -> Result<OutboxId, StoreError> {
    if let Some(dedup) = dedup {
        let mut statement = tx.prepare_cached("SELECT id FROM outbox WHERE dedup = ?1")?;
        if let Some(id) = statement.query_row([dedup], |row| row.get(0)).optional()? {
            return Ok(id);
        }
    }
    let SessionKey { room, thread } = &outgoing.session;
    tx.prepare_cached(
        "INSERT INTO outbox (room, thread, outgoing, dedup, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![room, thread, Json(outgoing), dedup, tx.now()])?;
    Ok(OutboxId(tx.last_insert_rowid()))
}

/// A row that waits to be posted.
#[derive(Debug, Clone, PartialEq)]
pub struct Pending {
    /// Its id.
    pub id: OutboxId,
    /// What to post, and where.
    pub outgoing: Outgoing,
    /// How often it was tried in vain.
    pub attempts: u32,
    /// When it may be tried again.
    pub not_before: DateTime<Utc>,
}

const PENDING: &str = "id, outgoing, attempts, not_before";

fn pending(row: &Row<'_>) -> rusqlite::Result<Pending> {
    Ok(Pending {
        id: row.get(0)?,
        outgoing: row.get::<_, Json<Outgoing>>(1)?.0,
        attempts: row.get(2)?,
        not_before: from_millis(row.get(3)?),
    })
}

/// Every room that something waits for, with the time at which its oldest row may be tried.
pub fn waiting_rooms(conn: &Connection) -> Result<Vec<(RoomKey, DateTime<Utc>)>, StoreError> {
    // SQLite takes `not_before` from the row that has the smallest id.
    let mut statement = conn.prepare_cached(
        "SELECT room, min(id), not_before FROM outbox WHERE state = 'pending' GROUP BY room",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, from_millis(row.get(2)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The oldest rows that wait for `room`, at most `limit`, in the order of posting.
pub fn pending_of(
    conn: &Connection,
    room: &RoomKey,
    limit: usize,
) -> Result<Vec<Pending>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {PENDING} FROM outbox WHERE state = 'pending' AND room = ?1 ORDER BY id LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![room, limit as i64], pending)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many rows wait, over all rooms.
pub fn count_pending(conn: &Connection) -> Result<usize, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT count(*) FROM outbox WHERE state = 'pending'")?;
    Ok(statement.query_row([], |row| row.get::<_, i64>(0))? as usize)
}

/// Notes that the transport has taken piece `part` of a row.
pub fn record_part(
    tx: &Tx<'_>,
    id: OutboxId,
    part: u32,
    key: &MessageKey,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO outbox_parts (outbox, part, sent_key) VALUES (?1, ?2, ?3)
         ON CONFLICT (outbox, part) DO UPDATE SET sent_key = excluded.sent_key",
    )?
    .execute(params![id, part, key])?;
    Ok(())
}

/// The pieces of a row that were posted, with the transport's ids, in order.
pub fn parts_of(conn: &Connection, id: OutboxId) -> Result<Vec<(u32, MessageKey)>, StoreError> {
    // A row that is one message has its key in the row itself.
    let mut statement = conn.prepare_cached(
        "SELECT part, sent_key FROM outbox_parts WHERE outbox = ?1
         UNION ALL
         SELECT 0, sent_key FROM outbox WHERE id = ?1 AND sent_key IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM outbox_parts WHERE outbox = ?1 AND part = 0)
         ORDER BY 1",
    )?;
    let rows = statement.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Marks a pending row as posted; `key` is the transport's id of its first piece.
///
/// `None` is for a row that needed no message, such as an edit that a later one made pointless.
pub fn mark_sent(tx: &Tx<'_>, id: OutboxId, key: Option<&MessageKey>) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE outbox SET state = 'sent', sent_key = ?2, sent_at = ?3, error = NULL
         WHERE id = ?1 AND state = 'pending'",
    )?
    .execute(params![id, key, tx.now()])?;
    Ok(())
}

/// Puts a pending row off until `not_before`, with the reason.
pub fn mark_retry(
    tx: &Tx<'_>,
    id: OutboxId,
    not_before: DateTime<Utc>,
    error: &str,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE outbox SET attempts = attempts + 1, not_before = ?2, error = ?3
         WHERE id = ?1 AND state = 'pending'",
    )?
    .execute(params![id, not_before.timestamp_millis(), error])?;
    Ok(())
}

/// Keeps a row that can never be posted as failed, with the reason.
pub fn mark_failed(tx: &Tx<'_>, id: OutboxId, error: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE outbox SET state = 'failed', error = ?2 WHERE id = ?1 AND state = 'pending'",
    )?
    .execute(params![id, error])?;
    Ok(())
}

/// A message that could not be posted and will not be tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Failed {
    /// Its row.
    pub id: OutboxId,
    /// What was to be posted, and where.
    pub outgoing: Outgoing,
    /// Why it cannot be.
    pub error: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// The newest messages that could not be posted, at most `limit`; for `doctor`.
pub fn failed(conn: &Connection, limit: usize) -> Result<Vec<Failed>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, outgoing, coalesce(error, ''), created_at FROM outbox
         WHERE state = 'failed' ORDER BY id DESC LIMIT ?1",
    )?;
    let rows = statement.query_map([limit as i64], |row| {
        Ok(Failed {
            id: row.get(0)?,
            outgoing: row.get::<_, Json<Outgoing>>(1)?.0,
            error: row.get(2)?,
            created_at: from_millis(row.get(3)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The row that posted `key`, if it was posted from here (whatever piece of it).
pub fn row_of_key(conn: &Connection, key: &MessageKey) -> Result<Option<OutboxId>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT outbox FROM outbox_parts WHERE sent_key = ?1
         UNION ALL SELECT id FROM outbox WHERE sent_key = ?1 LIMIT 1",
    )?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

/// The transport's id of the (first piece of the) message that a row posted.
pub fn sent_key(conn: &Connection, id: OutboxId) -> Result<Option<MessageKey>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT sent_key FROM outbox WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?.flatten())
}

/// The session that a row was written for.
pub fn session_of(conn: &Connection, id: OutboxId) -> Result<Option<SessionKey>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT room, thread FROM outbox WHERE id = ?1")?;
    let session = |row: &Row<'_>| Ok(SessionKey { room: row.get(0)?, thread: row.get(1)? });
    Ok(statement.query_row([id], session).optional()?)
}

/// Whether something was enqueued under this key, in whatever state it is now.
pub fn is_enqueued(conn: &Connection, dedup: &str) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT 1 FROM outbox WHERE dedup = ?1")?.exists([dedup])?)
}

/// The room that a row was written for.
pub fn room_of(conn: &Connection, id: OutboxId) -> Result<Option<RoomKey>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT room FROM outbox WHERE id = ?1")?;
    Ok(statement.query_row([id], |row| row.get(0)).optional()?)
}

/// Whether anything was ever written into the thread of `session`; never for a main timeline.
pub fn has_spoken_in(conn: &Connection, session: &SessionKey) -> Result<bool, StoreError> {
    let Some(thread) = &session.thread else { return Ok(false) };
    let mut statement =
        conn.prepare_cached("SELECT 1 FROM outbox WHERE room = ?1 AND thread = ?2 LIMIT 1")?;
    Ok(statement.exists(params![session.room, thread])?)
}

/// The id of this installation: random, made once, part of every transaction id.
///
/// A homeserver remembers transaction ids for a day; without it, a fresh database with the same
/// device would have its first messages taken for repeats.
pub fn installation_id(tx: &Tx<'_>) -> Result<String, StoreError> {
    if let Some(id) = meta::find(tx, INSTALLATION)? {
        return Ok(id);
    }
    let id = uuid::Uuid::new_v4().simple().to_string();
    meta::set(tx, INSTALLATION, &id)?;
    Ok(id)
}

#[cfg(test)]
mod tests;

//! What people said and did, journaled before anything acts on it.
//!
//! A row is written in the transaction that commits the transport's position behind it, under the
//! transport's own id, so that a redelivery inserts nothing. States: `new`, then `batched` (in a
//! session's window or queue; with a turn's number once a turn has taken it), then `done`, or
//! `dropped` when it was taken back or the queue was emptied. Open rows (`new`, `batched`) survive
//! a crash and are read again after it.

use super::types::Json;
use super::{StoreError, Tx};
use crate::model::chat::{Incoming, IncomingBody};
use crate::model::ids::{MessageKey, PersonId, SessionKey};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Journals what a person did; says whether it was not known yet.
pub fn insert(tx: &Tx<'_>, incoming: &Incoming) -> Result<bool, StoreError> {
    let inserted = tx
        .prepare_cached(
            "INSERT INTO inbox (key, session, sender, sent_at, addressed, incoming, arrived_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (key) DO NOTHING",
        )?
        .execute(params![
            incoming.key,
            incoming.session,
            incoming.sender,
            incoming.sent_at.timestamp_millis(),
            incoming.addressed,
            Json(incoming),
            tx.now(),
        ])?;
    Ok(inserted == 1)
}

fn numbered(row: &Row<'_>) -> rusqlite::Result<(i64, Incoming)> {
    Ok((row.get(0)?, row.get::<_, Json<Incoming>>(1)?.0))
}

/// Rows after `after` that nothing has looked at yet, in the order of arrival.
///
/// `after` is the last row number that the caller has already taken in hand; 0 reads all.
pub fn take_new(conn: &Connection, after: i64) -> Result<Vec<(i64, Incoming)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, incoming FROM inbox WHERE state = 'new' AND id > ?1 ORDER BY id",
    )?;
    let rows = statement.query_map([after], numbered)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// All rows that are not done, in the order of arrival; what a restart takes up again.
pub fn open(conn: &Connection) -> Result<Vec<(i64, Incoming)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, incoming FROM inbox WHERE state IN ('new', 'batched') ORDER BY id",
    )?;
    let rows = statement.query_map([], numbered)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The rows of `session` that are not done, in the order of arrival.
pub fn open_of(
    conn: &Connection,
    session: &SessionKey,
) -> Result<Vec<(i64, Incoming)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, incoming FROM inbox
         WHERE state IN ('new', 'batched') AND session = ?1 ORDER BY id",
    )?;
    let rows = statement.query_map([session], numbered)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The message `key`, in whatever state.
pub fn find(conn: &Connection, key: &MessageKey) -> Result<Option<Incoming>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT id, incoming FROM inbox WHERE key = ?1")?;
    Ok(statement.query_row([key], numbered).optional()?.map(|(_, incoming)| incoming))
}

/// Whether the message `key` was journaled, in whatever state.
pub fn is_known(conn: &Connection, key: &MessageKey) -> Result<bool, StoreError> {
    Ok(conn.prepare_cached("SELECT 1 FROM inbox WHERE key = ?1")?.exists([key])?)
}

/// Moves each open row of `keys` to `state`.
fn move_to(tx: &Tx<'_>, keys: &[MessageKey], sql: &str) -> Result<usize, StoreError> {
    let mut statement = tx.prepare_cached(sql)?;
    let mut moved = 0;
    for key in keys {
        moved += statement.execute([key])?;
    }
    Ok(moved)
}

/// Notes that messages stand in a session's window or queue.
pub fn mark_batched(tx: &Tx<'_>, keys: &[MessageKey]) -> Result<usize, StoreError> {
    move_to(tx, keys, "UPDATE inbox SET state = 'batched' WHERE key = ?1 AND state = 'new'")
}

/// Notes that turn `turn` has taken messages: from now on edits come too late.
pub fn mark_taken(tx: &Tx<'_>, keys: &[MessageKey], turn: i64) -> Result<(), StoreError> {
    let mut statement = tx.prepare_cached(
        "UPDATE inbox SET state = 'batched', turn = ?2
         WHERE key = ?1 AND state IN ('new', 'batched')",
    )?;
    for key in keys {
        statement.execute(params![key, turn])?;
    }
    Ok(())
}

/// Notes that messages are dealt with; says how many were not before.
pub fn mark_done(tx: &Tx<'_>, keys: &[MessageKey]) -> Result<usize, StoreError> {
    move_to(
        tx,
        keys,
        "UPDATE inbox SET state = 'done' WHERE key = ?1 AND state IN ('new', 'batched')",
    )
}

/// Drops messages that no turn has taken; says how many that were.
pub fn mark_dropped(tx: &Tx<'_>, keys: &[MessageKey]) -> Result<usize, StoreError> {
    move_to(
        tx,
        keys,
        "UPDATE inbox SET state = 'dropped'
         WHERE key = ?1 AND turn IS NULL AND state IN ('new', 'batched')",
    )
}

/// Whether the message `key` is not done yet.
pub fn is_open(conn: &Connection, key: &MessageKey) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM inbox WHERE key = ?1 AND state IN ('new', 'batched')";
    Ok(conn.prepare_cached(sql)?.exists([key])?)
}

/// Makes what an earlier run had batched new again, in its place in the order of arrival.
///
/// Messages that a turn had taken stay with it: the turn is resumed.
pub fn reopen(tx: &Tx<'_>) -> Result<usize, StoreError> {
    let sql = "UPDATE inbox SET state = 'new' WHERE state = 'batched' AND turn IS NULL";
    Ok(tx.prepare_cached(sql)?.execute([])?)
}

/// The messages of `session` that are not done and that no turn has taken.
pub fn untaken(conn: &Connection, session: &SessionKey) -> Result<Vec<MessageKey>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT key FROM inbox
         WHERE state IN ('new', 'batched') AND turn IS NULL AND session = ?1 ORDER BY id",
    )?;
    let rows = statement.query_map([session], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Opens the messages of the session's last turn again, if that turn failed or was cancelled, and
/// returns them in the order of arrival; empty when there is nothing to ask again.
pub fn reopen_last_turn(tx: &Tx<'_>, session: &SessionKey) -> Result<Vec<Incoming>, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, incoming FROM inbox
         WHERE turn = (SELECT id FROM chat_turns
                       WHERE session = ?1 ORDER BY id DESC LIMIT 1)
           AND (SELECT state FROM chat_turns WHERE session = ?1 ORDER BY id DESC LIMIT 1)
               IN ('failed', 'cancelled')
         ORDER BY id",
    )?;
    let rows = statement.query_map([session], numbered)?;
    let found: Vec<(i64, Incoming)> = rows.collect::<Result<_, _>>()?;
    let mut reopen =
        tx.prepare_cached("UPDATE inbox SET state = 'batched', turn = NULL WHERE id = ?1")?;
    for (id, _) in &found {
        reopen.execute([id])?;
    }
    Ok(found.into_iter().map(|(_, incoming)| incoming).collect())
}

/// Replaces what an open message says, whoever sent it: a filled-in template, or a note in place
/// of several messages.
pub fn rewrite(tx: &Tx<'_>, incoming: &Incoming) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE inbox SET incoming = ?2 WHERE key = ?1 AND state IN ('new', 'batched')",
    )?
    .execute(params![incoming.key, Json(incoming)])?;
    Ok(())
}

/// Replaces the text of `sender`'s message `of`, unless it was already processed or taken by a
/// turn; says whether it did.
pub fn replace_text(
    tx: &Tx<'_>,
    of: &MessageKey,
    sender: &PersonId,
    text: &str,
) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached(
        "SELECT id, incoming FROM inbox
         WHERE key = ?1 AND sender = ?2 AND turn IS NULL AND state IN ('new', 'batched')",
    )?;
    let Some((id, mut incoming)) = statement.query_row(params![of, sender], numbered).optional()?
    else {
        return Ok(false);
    };
    let IncomingBody::Text { text: old, .. } = &mut incoming.body else { return Ok(false) };
    text.clone_into(old);
    tx.prepare_cached("UPDATE inbox SET incoming = ?2 WHERE id = ?1")?
        .execute(params![id, Json(&incoming)])?;
    Ok(true)
}

/// Drops the message `of`, unless it was already processed or taken by a turn; says whether it
/// did.
pub fn remove(tx: &Tx<'_>, of: &MessageKey) -> Result<bool, StoreError> {
    let dropped = tx
        .prepare_cached(
            "UPDATE inbox SET state = 'dropped'
             WHERE key = ?1 AND turn IS NULL AND state IN ('new', 'batched')",
        )?
        .execute([of])?;
    Ok(dropped == 1)
}

#[cfg(test)]
mod tests;

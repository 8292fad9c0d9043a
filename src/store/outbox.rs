//! What is to be posted, in order per room.

use super::types::Json;
use super::{StoreError, Tx};
use crate::model::chat::Outgoing;
use crate::model::ids::OutboxId;
use rusqlite::{OptionalExtension, params};

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
    tx.prepare_cached(
        "INSERT INTO outbox (room, outgoing, dedup, created_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![outgoing.session.room, Json(outgoing), dedup, tx.now()])?;
    Ok(OutboxId(tx.last_insert_rowid()))
}

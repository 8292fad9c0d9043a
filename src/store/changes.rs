//! Changes of an item's fields: what stood there, what stands there now, and who changed it.
//!
//! Changes of the stage stand in the transition log (`log`).

use super::types::Json;
use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::ItemId;
use crate::model::item::Origin;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};
use serde::Serialize;

/// How much of a long text is kept, in bytes.
const KEPT: usize = 2000;

/// A change of one field.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// The field, such as `priority`.
    pub field: String,
    /// What stood there; `None`: nothing. Long text is cut.
    pub before: Option<String>,
    /// What stands there since.
    pub after: Option<String>,
    /// Who changed it.
    pub origin: Origin,
    /// When.
    pub at: DateTime<Utc>,
}

/// Records the change of one field, in the transaction that makes it.
pub fn record(
    tx: &Tx<'_>,
    item: ItemId,
    field: &str,
    before: Option<&str>,
    after: Option<&str>,
    origin: &Origin,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO item_changes (item, field, before, after, origin, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![item, field, before.map(cut), after.map(cut), Json(origin), tx.now()])?;
    Ok(())
}

fn cut(text: &str) -> String {
    if text.len() <= KEPT {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(KEPT)], text.len())
}

/// An item's newest changes, newest first.
pub fn of_item(conn: &Connection, item: ItemId, limit: usize) -> Result<Vec<Change>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT field, before, after, origin, at FROM item_changes WHERE item = ?1
         ORDER BY seq DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![item, limit as i64], |row| {
        Ok(Change {
            field: row.get(0)?,
            before: row.get(1)?,
            after: row.get(2)?,
            origin: row.get::<_, Json<Origin>>(3)?.0,
            at: from_millis(row.get(4)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

//! Worktrees that are to be removed, because their items have ended or were deleted.
//!
//! A row is written in the transaction that learns of the end, and goes when the worktree is gone:
//! one that cannot be removed now is tried again, and neither it nor another is forgotten.

use super::{StoreError, Tx};
use crate::model::ids::{ItemId, ProjectName, RoomKey};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A worktree that is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tidying {
    /// Its item, which may be deleted.
    pub item: ItemId,
    /// The item's project.
    pub project: ProjectName,
    /// The item's name.
    pub name: String,
    /// The room that heard about the item.
    pub room: Option<RoomKey>,
    /// How often it could not be removed.
    pub tries: u32,
}

const COLUMNS: &str = "item, project, name, room, tries";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Tidying> {
    Ok(Tidying {
        item: row.get(0)?,
        project: row.get(1)?,
        name: row.get(2)?,
        room: row.get(3)?,
        tries: row.get(4)?,
    })
}

/// Writes down that a worktree is to go; nothing happens when that is known.
pub fn add(
    tx: &Tx<'_>,
    item: ItemId,
    project: &ProjectName,
    name: &str,
    room: Option<&RoomKey>,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO tidying (item, project, name, room) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![item, project, name, room])?;
    Ok(())
}

/// The next one whose time has come, and on whose item no agent is at work.
pub fn next(conn: &Connection, now: i64) -> Result<Option<Tidying>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM tidying
         WHERE not_before <= ?1 AND NOT EXISTS (
             SELECT 1 FROM agent_sessions WHERE item = tidying.item
             AND state IN ('booting', 'in_turn', 'between_turns', 'waiting', 'stalled'))
         ORDER BY tries, item LIMIT 1"
    ))?;
    Ok(statement.query_row([now], from_row).optional()?)
}

/// Whether an item's worktree is still to be removed for the first time.
pub fn is_fresh(conn: &Connection, item: ItemId) -> Result<bool, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT 1 FROM tidying WHERE item = ?1 AND tries = 0")?;
    Ok(statement.exists([item])?)
}

/// Notes that it could not be removed.
pub fn put_off(tx: &Tx<'_>, item: ItemId, not_before: i64, error: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE tidying SET tries = tries + 1, not_before = ?2, error = ?3 WHERE item = ?1",
    )?
    .execute(params![item, not_before, error])?;
    Ok(())
}

/// Takes it off the list: it is gone, or its item goes on.
pub fn remove(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM tidying WHERE item = ?1")?.execute([item])?;
    Ok(())
}

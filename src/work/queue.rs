//! Where work meets the merge queue's and the projects' rows.

use super::WorkError;
use crate::config::ProjectConfig;
use crate::model::ids::{ItemId, ProjectName};
use crate::model::item::Item;
use crate::store::Tx;
use crate::store::types::Json;
use rusqlite::{Connection, OptionalExtension, params};

/// A project's row.
pub(super) struct ProjectRow {
    /// Its settings.
    pub settings: ProjectConfig,
    /// Whether nothing starts in it.
    pub paused: bool,
}

/// Reads a project.
pub(super) fn project(
    conn: &Connection,
    name: &ProjectName,
) -> Result<Option<ProjectRow>, WorkError> {
    let mut statement =
        conn.prepare_cached("SELECT settings, paused FROM projects WHERE name = ?1")?;
    let row = statement.query_row([name], |row| {
        Ok(ProjectRow { settings: row.get::<_, Json<ProjectConfig>>(0)?.0, paused: row.get(1)? })
    });
    Ok(row.optional()?)
}

/// Every project's name, with whether it is paused.
pub(super) fn projects(conn: &Connection) -> Result<Vec<(ProjectName, bool)>, WorkError> {
    let mut statement = conn.prepare_cached("SELECT name, paused FROM projects ORDER BY name")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Puts an item into the queue.
pub(super) fn enter(tx: &Tx<'_>, item: &Item, commit: &str) -> Result<(), WorkError> {
    tx.prepare_cached(
        "INSERT INTO merge_queue (item, project, commit_id, priority, queued_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (item) DO UPDATE SET commit_id = excluded.commit_id",
    )?
    .execute(params![item.id, item.project, commit, item.priority, tx.now()])?;
    Ok(())
}

/// Takes an item out of the queue; `false` when it is being landed and cannot be called back.
pub(super) fn leave(tx: &Tx<'_>, item: ItemId) -> Result<bool, WorkError> {
    let landing = tx
        .prepare_cached("SELECT landing IS NOT NULL FROM merge_queue WHERE item = ?1")?
        .query_row([item], |row| row.get::<_, bool>(0))
        .optional()?;
    if landing == Some(true) {
        return Ok(false);
    }
    tx.prepare_cached("DELETE FROM merge_queue WHERE item = ?1")?.execute([item])?;
    Ok(true)
}

/// Whether an item has a row in the queue.
pub(super) fn is_queued(conn: &Connection, item: ItemId) -> Result<bool, WorkError> {
    let mut statement = conn.prepare_cached("SELECT 1 FROM merge_queue WHERE item = ?1")?;
    Ok(statement.exists([item])?)
}

/// How many items stand before this one in its project's queue.
pub(super) fn ahead_of(conn: &Connection, item: ItemId) -> Result<u32, WorkError> {
    let mut statement = conn.prepare_cached(
        "SELECT count(*) FROM merge_queue AS other, merge_queue AS this
         WHERE this.item = ?1 AND other.project = this.project AND other.item <> this.item
           AND (other.priority > this.priority
                OR (other.priority = this.priority AND other.queued_at < this.queued_at))",
    )?;
    Ok(statement.query_row([item], |row| row.get(0))?)
}

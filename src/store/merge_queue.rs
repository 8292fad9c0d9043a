//! The merge queue's rows: one per queued item, gone when it has landed or was given back.

use super::types::Json;
use super::{StoreError, Tx};
use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::item::Origin;
use chrono::Duration;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Waiting this long counts as much as one step of priority, so that nothing waits for ever.
const AGEING: Duration = Duration::minutes(30);

/// What is about to happen to the base branch: written before its ref is moved, so that a restart
/// can tell whether it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landing {
    /// Where the base stood.
    pub base: String,
    /// The squash commit that it moves to.
    pub commit: String,
    /// Checkouts on the base branch that were clean: their files are taken along.
    pub clean: Vec<PathBuf>,
    /// Checkouts on the base branch that were not: they are left alone.
    pub dirty: Vec<PathBuf>,
}

/// A queued item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueRow {
    /// The item.
    pub item: ItemId,
    /// Its project.
    pub project: ProjectName,
    /// The commit on its branch that is to be merged.
    pub commit: String,
    /// Higher goes first.
    pub priority: i64,
    /// When it was queued, in milliseconds since the epoch.
    pub queued_at: i64,
    /// How often the machine (not the item) failed.
    pub attempts: u32,
    /// Not tried before this time, in milliseconds since the epoch.
    pub not_before: i64,
    /// Why it was put off, in words.
    pub error: Option<String>,
    /// Set while the base branch is moved.
    pub landing: Option<Landing>,
}

const COLUMNS: &str =
    "item, project, commit_id, priority, queued_at, attempts, not_before, error, landing";

/// What was cut off in the middle goes first, then by priority and age, then first in, first out.
/// `?1` is the time now, `?2` the step of ageing.
const ORDER: &str = "(landing IS NULL), (priority + (?1 - queued_at) / ?2) DESC, queued_at, item";

fn from_row(row: &Row<'_>) -> rusqlite::Result<QueueRow> {
    Ok(QueueRow {
        item: row.get(0)?,
        project: row.get(1)?,
        commit: row.get(2)?,
        priority: row.get(3)?,
        queued_at: row.get(4)?,
        attempts: row.get(5)?,
        not_before: row.get(6)?,
        error: row.get(7)?,
        landing: row.get::<_, Option<Json<Landing>>>(8)?.map(|json| json.0),
    })
}

/// Queues an item, or renews its row when another commit is to be merged. Repeating it changes
/// nothing, and neither does it touch a row whose merge is landing.
pub fn enqueue(
    tx: &Tx<'_>,
    item: ItemId,
    project: &ProjectName,
    commit: &str,
    priority: i64,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO merge_queue (item, project, commit_id, priority, queued_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (item) DO UPDATE SET project = excluded.project,
             commit_id = excluded.commit_id, priority = excluded.priority,
             queued_at = excluded.queued_at, attempts = 0, not_before = 0, error = NULL
         WHERE merge_queue.landing IS NULL
           AND (merge_queue.commit_id, merge_queue.priority)
               <> (excluded.commit_id, excluded.priority)",
    )?
    .execute(params![item, project, commit, priority, tx.now()])?;
    Ok(())
}

/// Takes an item out of the queue; false when it is not in it, or is landing at this moment and
/// can no longer be called back.
pub fn withdraw(tx: &Tx<'_>, item: ItemId) -> Result<bool, StoreError> {
    let mut statement =
        tx.prepare_cached("DELETE FROM merge_queue WHERE item = ?1 AND landing IS NULL")?;
    Ok(statement.execute([item])? == 1)
}

/// Takes an item out of the queue because it has landed or was given back; false when it was not
/// in it.
pub fn remove(tx: &Tx<'_>, item: ItemId) -> Result<bool, StoreError> {
    Ok(tx.prepare_cached("DELETE FROM merge_queue WHERE item = ?1")?.execute([item])? == 1)
}

/// One item's row.
pub fn find(conn: &Connection, item: ItemId) -> Result<Option<QueueRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM merge_queue WHERE item = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([item], from_row).optional()?)
}

/// A project's queue in the order in which it is worked.
pub fn list(
    conn: &Connection,
    project: &ProjectName,
    now: i64,
) -> Result<Vec<QueueRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM merge_queue WHERE project = ?3 ORDER BY {ORDER}");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![now, AGEING.num_milliseconds(), project], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The next row of a project that may be worked now.
pub fn next(
    conn: &Connection,
    project: &ProjectName,
    now: i64,
) -> Result<Option<QueueRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM merge_queue WHERE project = ?3 AND not_before <= ?1
         ORDER BY {ORDER} LIMIT 1"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let query = params![now, AGEING.num_milliseconds(), project];
    Ok(statement.query_row(query, from_row).optional()?)
}

/// The projects with a row that may be worked now.
pub fn due_projects(conn: &Connection, now: i64) -> Result<Vec<ProjectName>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT DISTINCT project FROM merge_queue WHERE not_before <= ?1 ORDER BY project",
    )?;
    let rows = statement.query_map([now], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When the next row that was put off is due, in milliseconds since the epoch.
pub fn next_due(conn: &Connection, now: i64) -> Result<Option<i64>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT min(not_before) FROM merge_queue WHERE not_before > ?1")?;
    Ok(statement.query_row([now], |row| row.get(0))?)
}

/// Writes down what is about to happen; false when the row is gone or now wants another commit.
pub fn set_landing(
    tx: &Tx<'_>,
    item: ItemId,
    commit: &str,
    landing: &Landing,
) -> Result<bool, StoreError> {
    let mut statement = tx
        .prepare_cached("UPDATE merge_queue SET landing = ?3 WHERE item = ?1 AND commit_id = ?2")?;
    Ok(statement.execute(params![item, commit, Json(landing)])? == 1)
}

/// Takes back what was written down: the base did not move.
pub fn clear_landing(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE merge_queue SET landing = NULL WHERE item = ?1")?.execute([item])?;
    Ok(())
}

/// Puts a row off because the machine failed.
pub fn put_off(tx: &Tx<'_>, item: ItemId, not_before: i64, error: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE merge_queue SET attempts = attempts + 1, not_before = ?2, error = ?3
         WHERE item = ?1",
    )?
    .execute(params![item, not_before, error])?;
    Ok(())
}

/// What a merge commit says of its item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFacts {
    /// The kind, as stored.
    pub kind: String,
    /// The name.
    pub name: String,
    /// Who filed it.
    pub origin: Origin,
    /// The room that hears about it.
    pub room: Option<RoomKey>,
    /// The agents that worked on it, in order.
    pub agents: Vec<AgentName>,
}

/// Reads what a merge commit says of its item; `None` when the item is gone.
pub fn facts_of(conn: &Connection, item: ItemId) -> Result<Option<ItemFacts>, StoreError> {
    let facts = conn
        .prepare_cached("SELECT kind, name, origin, room FROM items WHERE id = ?1")?
        .query_row([item], |row| {
            Ok(ItemFacts {
                kind: row.get(0)?,
                name: row.get(1)?,
                origin: row.get::<_, Json<Origin>>(2)?.0,
                room: row.get(3)?,
                agents: Vec::new(),
            })
        })
        .optional()?;
    let Some(mut facts) = facts else { return Ok(None) };
    let mut statement = conn.prepare_cached(
        "SELECT agent FROM agent_sessions WHERE item = ?1 GROUP BY agent ORDER BY min(id)",
    )?;
    let agents = statement.query_map([item], |row| row.get(0))?;
    facts.agents = agents.collect::<Result<_, _>>()?;
    Ok(Some(facts))
}

/// The room that hears of an item: its own, else one that was switched to its project, else the one
/// that the project is bound to.
pub fn room_for(
    conn: &Connection,
    item: ItemId,
    project: &ProjectName,
    bound: Option<String>,
) -> Result<Option<RoomKey>, StoreError> {
    let own: Option<Option<RoomKey>> = conn
        .prepare_cached("SELECT room FROM items WHERE id = ?1")?
        .query_row([item], |row| row.get(0))
        .optional()?;
    if let Some(room) = own.flatten() {
        return Ok(Some(room));
    }
    let mut statement =
        conn.prepare_cached("SELECT room FROM rooms WHERE project = ?1 ORDER BY room LIMIT 1")?;
    let switched = statement.query_row([project], |row| row.get(0)).optional()?;
    Ok(switched.or(bound.map(RoomKey)))
}

/// Whether any checkout is remembered as left behind, under a key that begins with `prefix`.
pub fn any_stale(conn: &Connection, prefix: &str) -> Result<bool, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM meta WHERE substr(key, 1, length(?1)) = ?1)",
    )?;
    Ok(statement.query_row([prefix], |row| row.get(0))?)
}

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
pub const AGEING: Duration = Duration::minutes(30);

/// What is about to happen to the base branch: written before its ref is moved, so that a restart
/// can tell whether it was. All items that land together carry the same, but for their commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landing {
    /// Where the base stood.
    pub base: String,
    /// The item's own squash commit.
    pub commit: String,
    /// The last squash commit of those that land together, to which the base moves; none: the
    /// item's own.
    #[serde(default)]
    pub tip: Option<String>,
    /// The remote that must have it before the base moves here, if any.
    #[serde(default)]
    pub remote: Option<String>,
    /// Checkouts on the base branch that were clean: their files are taken along.
    pub clean: Vec<PathBuf>,
    /// Checkouts on the base branch that were not: they are left alone.
    pub dirty: Vec<PathBuf>,
}

impl Landing {
    /// Where the base moves to.
    pub fn tip(&self) -> &str {
        self.tip.as_ref().unwrap_or(&self.commit)
    }
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
    /// Whether it is merged by itself: a push that carried it with others was refused.
    pub alone: bool,
    /// Why it did not go with those before it, in words.
    pub waits: Option<String>,
    /// Set while the base branch is moved.
    pub landing: Option<Landing>,
}

const COLUMNS: &str =
    "q.item, q.project, q.commit_id, q.priority, q.queued_at, q.alone, q.error, q.landing";

/// What was cut off in the middle goes first, then by priority and age, then first in, first out.
/// `?1` is the time now, `?2` the step of ageing.
const ORDER: &str =
    "(q.landing IS NULL), (q.priority + (?1 - q.queued_at) / ?2) DESC, q.queued_at, q.item";

/// With the project's state and the item's open pull request, if its commit has one.
const JOINED: &str = "merge_queue q LEFT JOIN merge_state s ON s.project = q.project
     LEFT JOIN merge_pulls p ON p.item = q.item AND p.commit_id = q.commit_id";

/// When a row may be worked: a queue that stands still waits for its next try, an item with an open
/// pull request for the next look at the remote. `?2` is the time between two of those.
const DUE: &str = "max(coalesce(s.paused_until, 0),
     iif(p.item IS NULL, 0, coalesce(s.polled_at, 0) + ?2))";

fn from_row(row: &Row<'_>) -> rusqlite::Result<QueueRow> {
    Ok(QueueRow {
        item: row.get(0)?,
        project: row.get(1)?,
        commit: row.get(2)?,
        priority: row.get(3)?,
        queued_at: row.get(4)?,
        alone: row.get(5)?,
        waits: row.get(6)?,
        landing: row.get::<_, Option<Json<Landing>>>(7)?.map(|json| json.0),
    })
}

/// Queues an item, or renews its row when another commit is to be merged. Repeating it changes
/// nothing, another priority keeps its place in time, and a row whose merge is landing is left
/// alone.
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
             priority = excluded.priority, commit_id = excluded.commit_id,
             queued_at = iif(merge_queue.commit_id = excluded.commit_id,
                             merge_queue.queued_at, excluded.queued_at),
             alone = iif(merge_queue.commit_id = excluded.commit_id, merge_queue.alone, 0),
             error = iif(merge_queue.commit_id = excluded.commit_id, merge_queue.error, NULL)
         WHERE merge_queue.landing IS NULL
           AND (merge_queue.commit_id, merge_queue.priority, merge_queue.project)
               <> (excluded.commit_id, excluded.priority, excluded.project)",
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
    let sql = format!("SELECT {COLUMNS} FROM merge_queue q WHERE q.item = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([item], from_row).optional()?)
}

/// A project's queue in the order in which it is worked.
pub fn list(
    conn: &Connection,
    project: &ProjectName,
    now: i64,
) -> Result<Vec<QueueRow>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM merge_queue q WHERE q.project = ?3 ORDER BY {ORDER}");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![now, AGEING.num_milliseconds(), project], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A project's queue without what only waits for its pull request to be merged, in order.
pub fn waiting(
    conn: &Connection,
    project: &ProjectName,
    now: i64,
) -> Result<Vec<QueueRow>, StoreError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM {JOINED} WHERE q.project = ?3 AND p.item IS NULL ORDER BY {ORDER}"
    );
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map(params![now, AGEING.num_milliseconds(), project], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The projects with something to be worked now; `poll` is the time between two looks at open pull
/// requests.
pub fn due_projects(
    conn: &Connection,
    now: i64,
    poll: Duration,
) -> Result<Vec<ProjectName>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT DISTINCT q.project FROM {JOINED} WHERE {DUE} <= ?1 ORDER BY q.project"
    ))?;
    let rows = statement
        .query_map(params![now, poll.num_milliseconds()], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(rows)
}

/// When the next row is due that is not due now, in milliseconds since the epoch.
pub fn next_due(conn: &Connection, now: i64, poll: Duration) -> Result<Option<i64>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT min({DUE}) FROM {JOINED} WHERE {DUE} > ?1"))?;
    Ok(statement.query_row(params![now, poll.num_milliseconds()], |row| row.get(0))?)
}

/// Since when the oldest item of each project waits, without those whose pull request is open.
pub fn oldest(conn: &Connection) -> Result<Vec<(ProjectName, ItemId, i64)>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT q.project, q.item, min(q.queued_at) FROM {JOINED} WHERE p.item IS NULL
         GROUP BY q.project ORDER BY q.project"
    ))?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Writes down what is about to happen to items that land together: each with the commit on its
/// branch that is merged. All or none; false when one is gone or now wants another commit.
pub fn set_landings(
    tx: &Tx<'_>,
    landings: &[(ItemId, String, Landing)],
) -> Result<bool, StoreError> {
    let mut check = tx.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM merge_queue WHERE item = ?1 AND commit_id = ?2)",
    )?;
    for (item, commit, _landing) in landings {
        if !check.query_row(params![item, commit], |row| row.get::<_, bool>(0))? {
            return Ok(false);
        }
    }
    let mut write =
        tx.prepare_cached("UPDATE merge_queue SET landing = ?2, error = NULL WHERE item = ?1")?;
    for (item, _commit, landing) in landings {
        write.execute(params![item, Json(landing)])?;
    }
    Ok(true)
}

/// Takes back what was written down: the base did not move.
pub fn clear_landing(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE merge_queue SET landing = NULL WHERE item = ?1")?.execute([item])?;
    Ok(())
}

/// Has an item merged by itself from now on.
pub fn set_alone(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE merge_queue SET alone = 1 WHERE item = ?1")?.execute([item])?;
    Ok(())
}

/// Says why an item does not go with those before it; false when that was known.
pub fn set_waits(tx: &Tx<'_>, item: ItemId, why: &str) -> Result<bool, StoreError> {
    let mut statement =
        tx.prepare_cached("UPDATE merge_queue SET error = ?2 WHERE item = ?1 AND error IS NOT ?2")?;
    Ok(statement.execute(params![item, why])? == 1)
}

/// What a merge commit says of its item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ItemFacts {
    /// The kind, as stored.
    pub kind: String,
    /// The name.
    pub name: String,
    /// The description, for a pull request.
    pub body: String,
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
        .prepare_cached("SELECT kind, name, body, origin, room FROM items WHERE id = ?1")?
        .query_row([item], |row| {
            Ok(ItemFacts {
                kind: row.get(0)?,
                name: row.get(1)?,
                body: row.get(2)?,
                origin: row.get::<_, Json<Origin>>(3)?.0,
                room: row.get(4)?,
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
    match own.flatten() {
        Some(room) => Ok(Some(room)),
        None => room_of(conn, project, bound),
    }
}

/// The room that hears of a project: one that was switched to it, else the one it is bound to.
pub fn room_of(
    conn: &Connection,
    project: &ProjectName,
    bound: Option<String>,
) -> Result<Option<RoomKey>, StoreError> {
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

#[cfg(test)]
mod tests;

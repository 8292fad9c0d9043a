//! What gates printed, kept per item.

use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::{ItemId, ProjectName};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, params};
use std::time::Duration;

/// Where gates ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the item's own worktree.
    Worktree,
    /// On the merged tree.
    Merge,
}

impl Place {
    fn as_str(self) -> &'static str {
        match self {
            Place::Worktree => "worktree",
            Place::Merge => "merge",
        }
    }
}

/// One run of one gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateRunRow {
    /// The item.
    pub item: Option<ItemId>,
    /// The project.
    pub project: ProjectName,
    /// Where.
    pub place: Place,
    /// The commit that it ran on.
    pub commit: Option<String>,
    /// The command.
    pub gate: String,
    /// Its exit code; `None` when it was killed or could not be started.
    pub exit: Option<i32>,
    /// Whether it passed.
    pub passed: bool,
    /// Whether it ran out of time.
    pub timed_out: bool,
    /// The end of its output, redacted.
    pub output: String,
    /// How long it ran.
    pub duration: Duration,
    /// When it ended; set by the store.
    pub at: DateTime<Utc>,
}

/// Keeps a run.
pub fn insert(tx: &Tx<'_>, run: &GateRunRow) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO gate_runs (item, project, place, commit_id, gate, exit, passed, timed_out,
                                output, duration_ms, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        run.item,
        run.project,
        run.place.as_str(),
        run.commit,
        run.gate,
        run.exit,
        run.passed,
        run.timed_out,
        run.output,
        i64::try_from(run.duration.as_millis()).unwrap_or(i64::MAX),
        tx.now()
    ])?;
    Ok(())
}

/// The newest runs of an item's gates, newest first.
pub fn newest_of(
    conn: &Connection,
    item: ItemId,
    limit: usize,
) -> Result<Vec<GateRunRow>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT item, project, place, commit_id, gate, exit, passed, timed_out, output,
                duration_ms, at
         FROM gate_runs WHERE item = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![item, limit as i64], |row| {
        let place: String = row.get(2)?;
        Ok(GateRunRow {
            item: row.get(0)?,
            project: row.get(1)?,
            place: if place == "merge" { Place::Merge } else { Place::Worktree },
            commit: row.get(3)?,
            gate: row.get(4)?,
            exit: row.get(5)?,
            passed: row.get(6)?,
            timed_out: row.get(7)?,
            output: row.get(8)?,
            duration: Duration::from_millis(row.get::<_, i64>(9)?.unsigned_abs()),
            at: from_millis(row.get(10)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

//! A project's merge queue as a whole: who merges, and what it stands still for.

use super::types::Json;
use super::{Owner, StoreError, Tx};
use crate::model::ids::ProjectName;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

/// The wait after the first time that a queue stood still; doubled each time.
const FIRST_WAIT_MS: i64 = 10_000;

/// The longest such wait.
const LAST_WAIT_MS: i64 = 600_000;

/// Why a project's queue stands still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// In words, with the remedy.
    pub reason: String,
    /// The program that is missing, when it is that: the queue goes on as soon as it is there.
    #[serde(default)]
    pub program: Option<String>,
    /// Since when, in milliseconds since the epoch.
    pub since: i64,
    /// How often it was tried.
    pub tries: u32,
}

/// Who merges in a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The process.
    pub owner: Owner,
    /// Since when, in milliseconds since the epoch.
    pub since: i64,
}

fn ensure(tx: &Tx<'_>, project: &ProjectName) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO merge_state (project) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([project])?;
    Ok(())
}

/// Who has the lease on a project's queue.
pub fn lease_of(conn: &Connection, project: &ProjectName) -> Result<Option<Lease>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT pid, started, taken_at FROM merge_state WHERE project = ?1 AND pid IS NOT NULL",
    )?;
    let lease = statement.query_row([project], |row| {
        let started: i64 = row.get(1)?;
        let owner = Owner { pid: row.get(0)?, started: started.unsigned_abs() };
        Ok(Lease { owner, since: row.get(2)? })
    });
    Ok(lease.optional()?)
}

/// Takes the lease on a project's queue for `me`: one that is free, its own, or that of a process
/// that is not alive any more. Otherwise the one who has it.
pub fn take_lease(
    tx: &Tx<'_>,
    project: &ProjectName,
    me: &Owner,
    is_alive: impl FnOnce(&Owner) -> bool,
) -> Result<Option<Lease>, StoreError> {
    ensure(tx, project)?;
    if let Some(lease) = lease_of(tx, project)?
        && lease.owner != *me
        && is_alive(&lease.owner)
    {
        return Ok(Some(lease));
    }
    tx.prepare_cached(
        "UPDATE merge_state SET pid = ?2, started = ?3, taken_at = ?4 WHERE project = ?1",
    )?
    .execute(params![project, me.pid, me.started.cast_signed(), tx.now()])?;
    Ok(None)
}

/// Gives the lease back, if `me` has it.
pub fn free_lease(tx: &Tx<'_>, project: &ProjectName, me: &Owner) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE merge_state SET pid = NULL, started = NULL, taken_at = NULL
         WHERE project = ?1 AND pid = ?2 AND started = ?3",
    )?
    .execute(params![project, me.pid, me.started.cast_signed()])?;
    Ok(())
}

/// Why a project's queue stands still, if it does.
pub fn pause_of(conn: &Connection, project: &ProjectName) -> Result<Option<Pause>, StoreError> {
    let mut statement = conn
        .prepare_cached("SELECT pause FROM merge_state WHERE project = ?1 AND pause IS NOT NULL")?;
    let pause = statement.query_row([project], |row| Ok(row.get::<_, Json<Pause>>(0)?.0));
    Ok(pause.optional()?)
}

/// The projects whose queue stands still.
pub fn paused(conn: &Connection) -> Result<Vec<(ProjectName, Pause)>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT project, pause FROM merge_state WHERE pause IS NOT NULL ORDER BY project",
    )?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, Json<Pause>>(1)?.0)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Has a queue stand still until its next try, later each time. Says whether that is news: it went
/// on before, or stood still for another reason.
pub fn pause(
    tx: &Tx<'_>,
    project: &ProjectName,
    reason: &str,
    program: Option<&str>,
) -> Result<(Pause, bool), StoreError> {
    ensure(tx, project)?;
    let before = pause_of(tx, project)?;
    let same = before.as_ref().filter(|before| before.reason == reason);
    let pause = Pause {
        reason: reason.to_owned(),
        program: program.map(str::to_owned),
        since: same.map_or(tx.now(), |before| before.since),
        tries: before.as_ref().map_or(0, |before| before.tries) + 1,
    };
    let wait = FIRST_WAIT_MS.saturating_mul(1 << (pause.tries - 1).min(10)).min(LAST_WAIT_MS);
    tx.prepare_cached("UPDATE merge_state SET pause = ?2, paused_until = ?3 WHERE project = ?1")?
        .execute(params![project, Json(&pause), tx.now() + wait])?;
    Ok((pause, same.is_none()))
}

/// Has a queue tried again at once; whether it works then is seen then.
pub fn try_now(tx: &Tx<'_>, project: &ProjectName) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE merge_state SET paused_until = 0 WHERE project = ?1")?
        .execute([project])?;
    Ok(())
}

/// Has a queue go on; says whether it stood still.
pub fn resume(tx: &Tx<'_>, project: &ProjectName) -> Result<bool, StoreError> {
    let mut statement = tx.prepare_cached(
        "UPDATE merge_state SET pause = NULL, paused_until = 0
         WHERE project = ?1 AND pause IS NOT NULL",
    )?;
    Ok(statement.execute([project])? == 1)
}

/// How long the oldest item had waited when the room last heard of it, as a level.
pub fn age_level(conn: &Connection, project: &ProjectName) -> Result<u32, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT age_level FROM merge_state WHERE project = ?1")?;
    Ok(statement.query_row([project], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Remembers that level.
pub fn set_age_level(tx: &Tx<'_>, project: &ProjectName, level: u32) -> Result<(), StoreError> {
    ensure(tx, project)?;
    tx.prepare_cached("UPDATE merge_state SET age_level = ?2 WHERE project = ?1")?
        .execute(params![project, level])?;
    Ok(())
}

/// The projects about whose oldest item the room has heard.
pub fn alarmed(conn: &Connection) -> Result<Vec<(ProjectName, u32)>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT project, age_level FROM merge_state WHERE age_level > 0")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When a project's open pull requests were last looked at, in milliseconds since the epoch.
pub fn polled_at(conn: &Connection, project: &ProjectName) -> Result<i64, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT polled_at FROM merge_state WHERE project = ?1")?;
    Ok(statement.query_row([project], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Remembers that they were looked at now.
pub fn set_polled(tx: &Tx<'_>, project: &ProjectName) -> Result<(), StoreError> {
    ensure(tx, project)?;
    tx.prepare_cached("UPDATE merge_state SET polled_at = ?2 WHERE project = ?1")?
        .execute(params![project, tx.now()])?;
    Ok(())
}

//! Who drives an agent, and which processes of runtimes may be alive.

use super::super::lock::{Owner, start_time};
use crate::model::ids::{AgentName, AgentSessionId};
use crate::store::{StoreError, Tx};
use rusqlite::{Connection, OptionalExtension, params};

/// What came of asking for an agent's lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseOutcome {
    /// It is ours. A dead owner's lease was taken over.
    Taken,
    /// A living process has it.
    Held(Owner),
}

/// Takes the lease on `agent` for `me`, unless another living process has it.
///
/// `me` may take its own lease again: within a process a mutex keeps turns apart.
pub fn take_lease(
    tx: &Tx<'_>,
    agent: &AgentName,
    session: AgentSessionId,
    me: &Owner,
) -> Result<LeaseOutcome, StoreError> {
    let held = tx
        .prepare_cached("SELECT owner_pid, owner_start FROM agent_leases WHERE agent = ?1")?
        .query_row([agent], |row| {
            Ok(Owner { pid: row.get(0)?, started: row.get::<_, i64>(1)?.cast_unsigned() })
        })
        .optional()?;
    if let Some(owner) = held
        && owner != *me
        && start_time(owner.pid) == Some(owner.started)
    {
        return Ok(LeaseOutcome::Held(owner));
    }
    tx.prepare_cached(
        "INSERT INTO agent_leases (agent, session, owner_pid, owner_start, taken_at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (agent) DO UPDATE SET session = excluded.session,
             owner_pid = excluded.owner_pid, owner_start = excluded.owner_start,
             taken_at = excluded.taken_at",
    )?
    .execute(params![agent, session, me.pid, me.started.cast_signed(), tx.now()])?;
    Ok(LeaseOutcome::Taken)
}

/// Gives the lease back, if it is for `session`. Safe to repeat.
pub fn release_lease(
    tx: &Tx<'_>,
    agent: &AgentName,
    session: AgentSessionId,
) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM agent_leases WHERE agent = ?1 AND session = ?2")?
        .execute(params![agent, session])?;
    Ok(())
}

/// A process of a runtime, as recorded before anything was written to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    /// The row.
    pub id: i64,
    /// Its session.
    pub session: AgentSessionId,
    /// The process.
    pub pid: i32,
    /// When it started, in clock ticks since boot: tells it from a later one with that number.
    pub pid_start: u64,
    /// The value of its marker variable, which its tools inherit.
    pub marker: String,
}

/// Records a process that was just spawned; returns the row.
pub fn record_process(
    tx: &Tx<'_>,
    session: AgentSessionId,
    pid: i32,
    pid_start: u64,
    marker: &str,
) -> Result<i64, StoreError> {
    tx.prepare_cached(
        "INSERT INTO agent_processes (session, pid, pid_start, marker, started_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![session, pid, pid_start.cast_signed(), marker, tx.now()])?;
    Ok(tx.last_insert_rowid())
}

/// Notes that a process, and everything with its marker, is verified gone. Safe to repeat.
pub fn end_process(tx: &Tx<'_>, id: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE agent_processes SET ended_at = ?2 WHERE id = ?1 AND ended_at IS NULL",
    )?
    .execute(params![id, tx.now()])?;
    Ok(())
}

/// The processes that may be alive.
pub fn live_processes(conn: &Connection) -> Result<Vec<ProcessRow>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, session, pid, pid_start, marker FROM agent_processes
         WHERE ended_at IS NULL ORDER BY id",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(ProcessRow {
            id: row.get(0)?,
            session: row.get(1)?,
            pid: row.get(2)?,
            pid_start: row.get::<_, i64>(3)?.cast_unsigned(),
            marker: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

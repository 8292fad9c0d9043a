//! The two logs, and how far each subscriber has read them.
//!
//! A subscriber reads from its own position, reacts, and moves the position in the transaction of
//! its reaction (or after it, when the reaction is safe to repeat). It never misses a row and
//! needs no reconciler.

use super::types::Json;
use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::event::{Event, EventRow, Transition};
use crate::model::ids::ItemId;
use crate::model::item::Origin;
use crate::model::stage::Stage;
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Which log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Changes of items' stages.
    Transitions,
    /// Everything else.
    Events,
}

impl Log {
    /// Its table, as [`super::Store::changes`] wants it.
    pub fn table(self) -> &'static str {
        match self {
            Log::Transitions => "transitions",
            Log::Events => "events",
        }
    }
}

/// Appends an event and returns its position.
pub fn append_event(tx: &Tx<'_>, event: &Event) -> Result<i64, StoreError> {
    tx.prepare_cached("INSERT INTO events (kind, item, event, at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![kind_of(event), item_of(event), Json(event), tx.now()])?;
    Ok(tx.last_insert_rowid())
}

/// Appends a change of stage and returns its position. Only `work` calls this.
pub fn append_transition(
    tx: &Tx<'_>,
    item: ItemId,
    from: Option<&Stage>,
    to: &Stage,
    cause: &str,
    origin: &Origin,
) -> Result<i64, StoreError> {
    tx.prepare_cached(
        "INSERT INTO transitions (item, from_stage, to_stage, cause, origin, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![item, from.map(Json), Json(to), cause, Json(origin), tx.now()])?;
    Ok(tx.last_insert_rowid())
}

/// Events after `position`, at most `limit`, oldest first.
pub fn events_after(
    conn: &Connection,
    position: i64,
    limit: usize,
) -> Result<Vec<EventRow>, StoreError> {
    let mut statement = conn
        .prepare_cached("SELECT seq, event, at FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2")?;
    let rows = statement.query_map(params![position, limit as i64], |row| {
        Ok(EventRow {
            seq: row.get(0)?,
            event: row.get::<_, Json<Event>>(1)?.0,
            at: from_millis(row.get(2)?),
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

const TRANSITION: &str = "seq, item, from_stage, to_stage, cause, origin, at";

fn transition(row: &Row<'_>) -> rusqlite::Result<Transition> {
    Ok(Transition {
        seq: row.get(0)?,
        item: row.get(1)?,
        from: row.get::<_, Option<Json<Stage>>>(2)?.map(|json| json.0),
        to: row.get::<_, Json<Stage>>(3)?.0,
        cause: row.get(4)?,
        origin: row.get::<_, Json<Origin>>(5)?.0,
        at: from_millis(row.get(6)?),
    })
}

/// Transitions after `position`, at most `limit`, oldest first.
pub fn transitions_after(
    conn: &Connection,
    position: i64,
    limit: usize,
) -> Result<Vec<Transition>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {TRANSITION} FROM transitions WHERE seq > ?1 ORDER BY seq LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![position, limit as i64], transition)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// One item's transitions, oldest first.
pub fn transitions_of(conn: &Connection, item: ItemId) -> Result<Vec<Transition>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {TRANSITION} FROM transitions WHERE item = ?1 ORDER BY seq"
    ))?;
    let rows = statement.query_map([item], transition)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How far `subscriber` has read `log`; 0 when it never has.
pub fn position(conn: &Connection, subscriber: &str, log: Log) -> Result<i64, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT position FROM cursors WHERE subscriber = ?1 AND log = ?2")?;
    let found = statement.query_row([subscriber, log.table()], |row| row.get(0)).optional()?;
    Ok(found.unwrap_or(0))
}

/// Notes how far `subscriber` has read; never moves backwards.
pub fn advance(tx: &Tx<'_>, subscriber: &str, log: Log, position: i64) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO cursors (subscriber, log, position) VALUES (?1, ?2, ?3)
         ON CONFLICT (subscriber, log) DO UPDATE
         SET position = max(position, excluded.position)",
    )?
    .execute(params![subscriber, log.table(), position])?;
    Ok(())
}

/// The position of the newest row of `log`; 0 when it is empty.
pub fn newest(conn: &Connection, log: Log) -> Result<i64, StoreError> {
    let sql = match log {
        Log::Transitions => "SELECT coalesce(max(seq), 0) FROM transitions",
        Log::Events => "SELECT coalesce(max(seq), 0) FROM events",
    };
    Ok(conn.prepare_cached(sql)?.query_row([], |row| row.get(0))?)
}

fn kind_of(event: &Event) -> &'static str {
    match event {
        Event::TurnFinished { .. } => "turn_finished",
        Event::WorkerDied { .. } => "worker_died",
        Event::GatesRan { .. } => "gates_ran",
        Event::Merged { .. } => "merged",
        Event::MergeFailed { .. } => "merge_failed",
        Event::TimerFired { .. } => "timer_fired",
        Event::Paused { .. } => "paused",
        Event::GoesOn { .. } => "goes_on",
        Event::Trouble { .. } => "trouble",
        Event::Watched { .. } => "watched",
        Event::Unreachable { .. } => "unreachable",
        Event::RateLimited { .. } => "rate_limited",
        Event::BudgetReached { .. } => "budget_reached",
        Event::AgentSaid { .. } => "agent_said",
        Event::ProjectCreated { .. } => "project_created",
    }
}

fn item_of(event: &Event) -> Option<ItemId> {
    match event {
        Event::TurnFinished { item, .. }
        | Event::WorkerDied { item, .. }
        | Event::GatesRan { item, .. }
        | Event::Merged { item, .. }
        | Event::MergeFailed { item, .. }
        | Event::Trouble { item, .. }
        | Event::Watched { item, .. }
        | Event::Unreachable { item, .. }
        | Event::RateLimited { item, .. }
        | Event::AgentSaid { item, .. } => Some(*item),
        Event::TimerFired { .. }
        | Event::Paused { .. }
        | Event::GoesOn { .. }
        | Event::ProjectCreated { .. } => None,
        Event::BudgetReached { item, .. } => *item,
    }
}

//! Timers as rows: what is to happen, when, and how it ended.

use super::{StoreError, Tx};
use crate::clock::from_millis;
use crate::model::ids::{ItemId, PersonId, SessionKey, TimerId};
use chrono::{DateTime, Utc};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};

/// What a timer does when its time comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimerKind {
    /// Posts its text and mentions its person.
    Reminder,
    /// Puts its text to the coordinator as a message.
    Prompt,
    /// Starts its item.
    Start,
    /// Resumes what a rate limit held.
    Resume,
}

impl TimerKind {
    /// Every kind.
    pub const ALL: [TimerKind; 4] =
        [TimerKind::Reminder, TimerKind::Prompt, TimerKind::Start, TimerKind::Resume];

    /// The name as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            TimerKind::Reminder => "reminder",
            TimerKind::Prompt => "prompt",
            TimerKind::Start => "start",
            TimerKind::Resume => "resume",
        }
    }
}

/// A timer to be set; `timers::set` checks it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTimer {
    /// What it does.
    pub kind: TimerKind,
    /// The conversation that it speaks in.
    pub session: Option<SessionKey>,
    /// Who is mentioned, or in whose name it prompts.
    pub person: Option<PersonId>,
    /// Who set it.
    pub created_by: String,
    /// The item that it starts or resumes.
    pub item: Option<ItemId>,
    /// What it says.
    pub text: String,
    /// The first or only time.
    pub due_at: DateTime<Utc>,
    /// The pattern of one that comes again, in `zone`.
    pub cron: Option<String>,
    /// The zone it was set in, an IANA name.
    pub zone: String,
}

/// A timer as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Timer {
    /// Its number.
    pub id: TimerId,
    /// What it does, and when next.
    pub set: NewTimer,
    /// Whether it still waits; otherwise it fired or was cancelled.
    pub waiting: bool,
    /// When it was set.
    pub created_at: DateTime<Utc>,
    /// When it last fired.
    pub fired_at: Option<DateTime<Utc>>,
}

const COLUMNS: &str = "id, kind, session, person, created_by, item, text, due_at, cron, zone, \
                       state, created_at, fired_at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Timer> {
    let kind: String = row.get(1)?;
    let kind =
        TimerKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or_else(|| {
            let what = format!("{kind} is no kind of timer");
            rusqlite::Error::FromSqlConversionFailure(1, Type::Text, what.into())
        })?;
    Ok(Timer {
        id: row.get(0)?,
        set: NewTimer {
            kind,
            session: row.get(2)?,
            person: row.get(3)?,
            created_by: row.get(4)?,
            item: row.get(5)?,
            text: row.get(6)?,
            due_at: from_millis(row.get(7)?),
            cron: row.get(8)?,
            zone: row.get(9)?,
        },
        waiting: row.get::<_, String>(10)? == "waiting",
        created_at: from_millis(row.get(11)?),
        fired_at: row.get::<_, Option<i64>>(12)?.map(from_millis),
    })
}

/// Writes a timer.
pub fn insert(tx: &Tx<'_>, timer: &NewTimer) -> Result<TimerId, StoreError> {
    tx.prepare_cached(
        "INSERT INTO timers (kind, session, person, created_by, item, text, due_at, cron, zone,
                             created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        timer.kind.as_str(),
        timer.session,
        timer.person,
        timer.created_by,
        timer.item,
        timer.text,
        timer.due_at.timestamp_millis(),
        timer.cron,
        timer.zone,
        tx.now(),
    ])?;
    Ok(TimerId(tx.last_insert_rowid()))
}

/// One timer, whatever its state.
pub fn find(conn: &Connection, id: TimerId) -> Result<Option<Timer>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM timers WHERE id = ?1"))?;
    Ok(statement.query_row([id], from_row).optional()?)
}

/// The timers that wait, next first.
pub fn list_waiting(conn: &Connection) -> Result<Vec<Timer>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM timers WHERE state = 'waiting' ORDER BY due_at, id"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// How many timers wait.
pub fn count_waiting(conn: &Connection) -> Result<i64, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT count(*) FROM timers WHERE state = 'waiting'")?;
    Ok(statement.query_row([], |row| row.get(0))?)
}

/// The timers whose time has come, longest due first, at most `limit`.
pub fn due(conn: &Connection, now: i64, limit: usize) -> Result<Vec<Timer>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM timers WHERE state = 'waiting' AND due_at <= ?1
         ORDER BY due_at, id LIMIT ?2"
    ))?;
    let rows = statement.query_map(params![now, limit as i64], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When the next timer is due.
pub fn next_due(conn: &Connection) -> Result<Option<DateTime<Utc>>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT min(due_at) FROM timers WHERE state = 'waiting'")?;
    let due: Option<i64> = statement.query_row([], |row| row.get(0))?;
    Ok(due.map(from_millis))
}

/// Notes that a timer fired; with `next` it waits for its next time.
pub fn fired(tx: &Tx<'_>, id: TimerId, next: Option<DateTime<Utc>>) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE timers SET state = iif(?2 IS NULL, 'fired', 'waiting'),
                           due_at = coalesce(?2, due_at), fired_at = ?3 WHERE id = ?1",
    )?
    .execute(params![id, next.map(|next| next.timestamp_millis()), tx.now()])?;
    Ok(())
}

/// Takes back the timers at which an item's agent was to go on.
pub fn cancel_resumes(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE timers SET state = 'cancelled'
         WHERE item = ?1 AND kind = 'resume' AND state = 'waiting'",
    )?
    .execute([item])?;
    Ok(())
}

/// Takes a waiting timer back; says whether it still waited.
pub fn cancel(tx: &Tx<'_>, id: TimerId) -> Result<bool, StoreError> {
    let changed = tx
        .prepare_cached(
            "UPDATE timers SET state = 'cancelled' WHERE id = ?1 AND state = 'waiting'",
        )?
        .execute([id])?;
    Ok(changed == 1)
}

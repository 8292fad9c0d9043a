//! What is remembered of a room: its settings, and how far it was journaled.

use super::{StoreError, Tx, mail, projects};
use crate::clock::from_millis;
use crate::model::chat::{QueueMode, RoomSettings};
use crate::model::ids::{MessageKey, ProjectName, RoomKey};
use crate::model::item::Item;
use chrono::{DateTime, Utc};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

impl ToSql for QueueMode {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(match self {
            QueueMode::Collect => "collect",
            QueueMode::Steer => "steer",
            QueueMode::Interrupt => "interrupt",
        }))
    }
}

impl FromSql for QueueMode {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        match value.as_str()? {
            "collect" => Ok(QueueMode::Collect),
            "steer" => Ok(QueueMode::Steer),
            "interrupt" => Ok(QueueMode::Interrupt),
            other => Err(FromSqlError::Other(format!("unknown queue mode {other:?}").into())),
        }
    }
}

/// The room that hears of an item: its own, the one that its project is bound to, or the one that
/// works on its project.
pub fn of_item(conn: &Connection, item: &Item) -> Result<Option<RoomKey>, StoreError> {
    if let Some(room) = &item.room {
        return Ok(Some(room.clone()));
    }
    let bound = projects::find(conn, &item.project)?.and_then(|project| project.settings.room);
    if let Some(room) = bound {
        return Ok(Some(room.into()));
    }
    mail::room_of(conn, Some(item.id), "")
}

const SETTINGS: &str = "room, project, ambient, queue_mode";

fn settings_row(row: &Row<'_>) -> rusqlite::Result<RoomSettings> {
    Ok(RoomSettings {
        room: row.get(0)?,
        project: row.get(1)?,
        ambient: row.get(2)?,
        queue_mode: row.get(3)?,
    })
}

/// The settings of `room`; the defaults when nothing was ever set.
pub fn settings(conn: &Connection, room: &RoomKey) -> Result<RoomSettings, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {SETTINGS} FROM rooms WHERE room = ?1"))?;
    let found = statement.query_row([room], settings_row).optional()?;
    Ok(found.unwrap_or_else(|| RoomSettings {
        room: room.clone(),
        project: None,
        ambient: false,
        queue_mode: None,
    }))
}

/// The settings of every room that is remembered.
pub fn all(conn: &Connection) -> Result<Vec<RoomSettings>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {SETTINGS} FROM rooms ORDER BY room"))?;
    let rows = statement.query_map([], settings_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn ensure(tx: &Tx<'_>, room: &RoomKey) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO rooms (room) VALUES (?1) ON CONFLICT (room) DO NOTHING")?
        .execute([room])?;
    Ok(())
}

/// Sets the project that the room works on.
pub fn set_project(
    tx: &Tx<'_>,
    room: &RoomKey,
    project: Option<&ProjectName>,
) -> Result<(), StoreError> {
    ensure(tx, room)?;
    tx.prepare_cached("UPDATE rooms SET project = ?2 WHERE room = ?1")?
        .execute(params![room, project])?;
    Ok(())
}

/// Sets whether everything said in the room is for the bot.
pub fn set_ambient(tx: &Tx<'_>, room: &RoomKey, ambient: bool) -> Result<(), StoreError> {
    ensure(tx, room)?;
    tx.prepare_cached("UPDATE rooms SET ambient = ?2 WHERE room = ?1")?
        .execute(params![room, ambient])?;
    Ok(())
}

/// Sets what happens to messages during a turn; `None` is the configured default.
pub fn set_queue_mode(
    tx: &Tx<'_>,
    room: &RoomKey,
    mode: Option<QueueMode>,
) -> Result<(), StoreError> {
    ensure(tx, room)?;
    tx.prepare_cached("UPDATE rooms SET queue_mode = ?2 WHERE room = ?1")?
        .execute(params![room, mode])?;
    Ok(())
}

/// How far a room was journaled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Journaled {
    /// When the bot joined or first saw the room: nothing sent before is a request.
    pub joined_at: Option<DateTime<Utc>>,
    /// The newest event that was seen.
    pub last_event: Option<MessageKey>,
}

/// How far `room` was journaled; `None` when the transport has never seen it.
pub fn journaled(conn: &Connection, room: &RoomKey) -> Result<Option<Journaled>, StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT joined_at, last_event FROM rooms WHERE room = ?1 AND joined_at IS NOT NULL",
    )?;
    let found = statement.query_row([room], |row| {
        Ok(Journaled {
            joined_at: row.get::<_, Option<i64>>(0)?.map(from_millis),
            last_event: row.get(1)?,
        })
    });
    Ok(found.optional()?)
}

/// Notes when the bot joined (again) or first saw a room.
pub fn set_joined(tx: &Tx<'_>, room: &RoomKey, at: DateTime<Utc>) -> Result<(), StoreError> {
    ensure(tx, room)?;
    tx.prepare_cached("UPDATE rooms SET joined_at = ?2 WHERE room = ?1")?
        .execute(params![room, at.timestamp_millis()])?;
    Ok(())
}

/// Notes the newest event of a room that was seen.
pub fn set_last_event(tx: &Tx<'_>, room: &RoomKey, key: &MessageKey) -> Result<(), StoreError> {
    ensure(tx, room)?;
    tx.prepare_cached("UPDATE rooms SET last_event = ?2 WHERE room = ?1")?
        .execute(params![room, key])?;
    Ok(())
}

/// Notes that a room is encrypted; it never ceases to be.
pub fn set_encrypted(tx: &Tx<'_>, room: &RoomKey) -> Result<(), StoreError> {
    ensure(tx, room)?;
    tx.prepare_cached("UPDATE rooms SET encrypted = 1 WHERE room = ?1")?.execute([room])?;
    Ok(())
}

#[cfg(test)]
mod tests;

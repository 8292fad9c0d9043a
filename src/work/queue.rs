//! Where work meets the merge queue's and the projects' rows.

use super::WorkError;
use crate::config::{ProjectConfig, RuntimeKind};
use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::item::Item;
use crate::model::mail::MailType;
use crate::store::types::Json;
use crate::store::{Tx, mail, meta};
use chrono::{DateTime, Utc};
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

/// Why a runtime must not be used now, if so.
pub(super) fn pool_pause(
    conn: &Connection,
    runtime: RuntimeKind,
) -> Result<Option<String>, WorkError> {
    Ok(meta::find(conn, &format!("pool_paused:{}", runtime.as_str()))?)
}

/// A QA agent's verdict by mail on an item since `since`: whether it passed, and the findings.
pub(super) fn verdict_mail(
    conn: &Connection,
    agent: &AgentName,
    item: ItemId,
    since: DateTime<Utc>,
) -> Result<Option<(bool, String)>, WorkError> {
    let filter =
        mail::Filter { from: Some(agent.0.clone()), item: Some(item), ..Default::default() };
    let newest = mail::list(conn, &filter)?.into_iter().find(|mail| {
        mail.created_at >= since && matches!(mail.kind, MailType::QaPassed | MailType::QaFailed)
    });
    Ok(newest.map(|mail| (mail.kind == MailType::QaPassed, mail.body)))
}

/// The room that hears about an item.
pub(super) fn room_of(conn: &Connection, item: ItemId) -> Result<Option<RoomKey>, WorkError> {
    Ok(mail::room_of(conn, Some(item), "")?)
}

//! Typed reports by which an agent finishes.
//!
//! A report is bound to agent and item; the turn runner notes the newest one before it spawns, and
//! only a later one counts. So one of an earlier turn that arrives late, or one for another item,
//! finishes nothing.

use super::Name;
use crate::clock::from_millis;
use crate::model::ids::{AgentName, AgentSessionId, ItemId};
use crate::model::mail::MailType;
use crate::store::types::Json;
use crate::store::{StoreError, Tx};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// A report to be recorded.
#[derive(Debug, Clone)]
pub struct NewReport {
    /// Who reports.
    pub agent: AgentName,
    /// On what.
    pub item: ItemId,
    /// In which session; `None` from the command line.
    pub session: Option<AgentSessionId>,
    /// `worker_done`, `result`, `merged`, `merge_failed`, `qa_passed`, `qa_failed`.
    pub kind: MailType,
    /// What was done, in words.
    pub summary: String,
    /// The typed payload, if any.
    pub payload: Option<serde_json::Value>,
}

/// A recorded report.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Its number; later reports have higher ones.
    pub id: i64,
    /// Who reported.
    pub agent: AgentName,
    /// On what.
    pub item: ItemId,
    /// In which session.
    pub session: Option<AgentSessionId>,
    /// What sort.
    pub kind: MailType,
    /// What was done, in words.
    pub summary: String,
    /// The typed payload, if any.
    pub payload: Option<serde_json::Value>,
    /// When.
    pub at: DateTime<Utc>,
}

const COLUMNS: &str = "id, agent, item, session, kind, summary, payload, at";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Report> {
    Ok(Report {
        id: row.get(0)?,
        agent: row.get(1)?,
        item: row.get(2)?,
        session: row.get(3)?,
        kind: row.get::<_, Name<MailType>>(4)?.0,
        summary: row.get(5)?,
        payload: row.get::<_, Option<Json<serde_json::Value>>>(6)?.map(|json| json.0),
        at: from_millis(row.get(7)?),
    })
}

/// Records a report and returns its number.
pub fn record_report(tx: &Tx<'_>, new: &NewReport) -> Result<i64, StoreError> {
    tx.prepare_cached(
        "INSERT INTO reports (agent, item, session, kind, summary, payload, at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        new.agent,
        new.item,
        new.session,
        new.kind.as_str(),
        new.summary,
        new.payload.as_ref().map(Json),
        tx.now()
    ])?;
    Ok(tx.last_insert_rowid())
}

/// The newest report of `agent` on `item`.
pub fn newest_report(
    conn: &Connection,
    agent: &AgentName,
    item: ItemId,
) -> Result<Option<Report>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM reports WHERE agent = ?1 AND item = ?2 ORDER BY id DESC LIMIT 1"
    ))?;
    Ok(statement.query_row(params![agent, item], from_row).optional()?)
}

/// One report.
pub fn report(conn: &Connection, id: i64) -> Result<Option<Report>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM reports WHERE id = ?1"))?;
    Ok(statement.query_row([id], from_row).optional()?)
}

/// All reports on an item, oldest first.
pub fn reports_of_item(conn: &Connection, item: ItemId) -> Result<Vec<Report>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM reports WHERE item = ?1 ORDER BY id"))?;
    let rows = statement.query_map([item], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

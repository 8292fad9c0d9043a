//! The board: items, what they depend on, and the one write that moves them.
//!
//! Only `work` changes a stage. [`put_stage`] writes stage, projections and the transition row
//! together and compares the version, so that of two movers that read the same row one loses and
//! is told what stands there now.
//!
//! Beside column and badge, the row holds what the passes of `work` look for, so that they read what
//! is due and not the whole board: who holds it, the role that it waits for, who coded on it last,
//! when it last moved, and whether something happened that may let it start by itself.

use super::types::Json;
use super::{StoreError, Tx, log};
use crate::clock::from_millis;
use crate::model::agent::Role;
use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::item::{Item, Kind, Origin, QaMode};
use crate::model::stage::{Column, Stage};
use chrono::{DateTime, Utc};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::ops::ControlFlow;

mod links;
pub use links::{children, clear_epic, dependents, path_between, set_dependencies};

/// What can go wrong with an item, besides the database.
#[derive(Debug, thiserror::Error)]
pub enum ItemError {
    /// There is none with this number.
    #[error("there is no item {0}")]
    NotFound(ItemId),
    /// Somebody else changed it since it was read.
    #[error("item {id} was changed meanwhile: it is at version {found} now, not {expected}")]
    Stale {
        /// The item.
        id: ItemId,
        /// The version that the writer knew.
        expected: i64,
        /// The version that stands there.
        found: i64,
    },
    /// It is to depend on an item that does not exist.
    #[error("there is no item {0} to depend on")]
    UnknownDependency(ItemId),
    /// It is to depend, directly or not, on itself.
    #[error("that would be a circle: {}", circle(.0))]
    Cycle(Vec<ItemId>),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for ItemError {
    fn from(error: rusqlite::Error) -> Self {
        ItemError::Store(error.into())
    }
}

fn circle(path: &[ItemId]) -> String {
    let names: Vec<String> = path.iter().map(ItemId::to_string).collect();
    names.join(" depends on ")
}

/// A row to be.
#[derive(Debug, Clone)]
pub struct NewRow<'a> {
    /// The project; checked by the caller.
    pub project: &'a ProjectName,
    /// What sort of work.
    pub kind: Kind,
    /// One line; checked by the caller, and by the table.
    pub name: &'a str,
    /// Markdown.
    pub body: &'a str,
    /// Parent epic.
    pub epic: Option<ItemId>,
    /// The item whose lead hands it out.
    pub parent: Option<ItemId>,
    /// Pinned agent.
    pub agent: Option<&'a AgentName>,
    /// Who decides that the work is good.
    pub qa: QaMode,
    /// Who files it.
    pub origin: &'a Origin,
    /// The room that hears about it.
    pub room: Option<&'a RoomKey>,
    /// Where it begins.
    pub stage: &'a Stage,
}

const COLUMNS: &str = "id, project, kind, name, body, epic, agent, qa, origin, room, stage, \
     priority, retries, cost_microusd, created_at, updated_at, version, \
     parent, (SELECT json_group_array(depends_on) FROM item_dependencies WHERE item = items.id)";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Item> {
    let mut depends_on = row.get::<_, Json<Vec<ItemId>>>(18)?.0;
    depends_on.sort_unstable();
    Ok(Item {
        id: row.get(0)?,
        project: row.get(1)?,
        kind: read(row, 2, Kind::parse)?,
        name: row.get(3)?,
        body: row.get(4)?,
        depends_on,
        epic: row.get(5)?,
        parent: row.get(17)?,
        agent: row.get(6)?,
        qa: read(row, 7, parse_qa)?,
        origin: row.get::<_, Json<Origin>>(8)?.0,
        room: row.get(9)?,
        stage: row.get::<_, Json<Stage>>(10)?.0,
        priority: row.get(11)?,
        retries: row.get(12)?,
        cost_microusd: row.get(13)?,
        created_at: from_millis(row.get(14)?),
        updated_at: from_millis(row.get(15)?),
        version: row.get(16)?,
    })
}

/// Reads a stored name; one that is not known is an error with its text, never a default.
fn read<T>(row: &Row<'_>, index: usize, parse: fn(&str) -> Option<T>) -> rusqlite::Result<T> {
    let text: String = row.get(index)?;
    parse(&text).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(
            index,
            rusqlite::types::Type::Text,
            format!("{text:?} is not a known name").into(),
        )
    })
}

fn parse_qa(text: &str) -> Option<QaMode> {
    [QaMode::Gates, QaMode::Agent, QaMode::Human].into_iter().find(|qa| qa.as_str() == text)
}

/// Inserts an item with its first transition row and returns its number.
pub fn insert(tx: &Tx<'_>, new: &NewRow<'_>, cause: &str) -> Result<ItemId, StoreError> {
    tx.prepare_cached(
        "INSERT INTO items (project, kind, name, body, epic, agent, qa, origin, room,
                            stage, stage_name, col, badge, created_at, updated_at, moved_at, parent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14, ?14, ?15)",
    )?
    .execute(params![
        new.project,
        new.kind.as_str(),
        new.name,
        new.body,
        new.epic,
        new.agent,
        new.qa.as_str(),
        Json(new.origin),
        new.room,
        Json(new.stage),
        new.stage.name(),
        new.stage.column().as_str(),
        new.stage.badge().as_str(),
        tx.now(),
        new.parent,
    ])?;
    let id = ItemId(tx.last_insert_rowid());
    log::append_transition(tx, id, None, new.stage, cause, new.origin)?;
    Ok(id)
}

/// Reads an item.
pub fn find(conn: &Connection, id: ItemId) -> Result<Option<Item>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM items WHERE id = ?1"))?;
    Ok(statement.query_row([id], from_row).optional()?)
}

/// Reads an item that must be there.
pub fn get(conn: &Connection, id: ItemId) -> Result<Item, ItemError> {
    find(conn, id)?.ok_or(ItemError::NotFound(id))
}

/// The items that stand in any of `columns`, of one project or all: most urgent first, then by
/// number.
pub fn in_columns(
    conn: &Connection,
    project: Option<&ProjectName>,
    columns: &[Column],
) -> Result<Vec<Item>, StoreError> {
    let names: Vec<&str> = columns.iter().map(|column| column.as_str()).collect();
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM items
         WHERE col IN (SELECT value FROM json_each(?1)) AND (?2 IS NULL OR project = ?2)
         ORDER BY priority DESC, id"
    ))?;
    let rows = statement.query_map(params![Json(names), project], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The items that an agent holds.
pub fn claimed(conn: &Connection) -> Result<Vec<Item>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM items WHERE claim IS NOT NULL ORDER BY priority DESC, id"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The items whose merge failed and that nobody works on: those that are tried again by
/// themselves, and those that wait for a mergemaster.
pub fn unmerged(conn: &Connection) -> Result<Vec<Item>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM items WHERE stage_name = 'merge_failure' AND claim IS NULL
         UNION ALL
         SELECT {COLUMNS} FROM items
         WHERE stage_name = 'merge_failure_final' AND wants IS NOT NULL"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The items that the lead of `parent` handed out, in the order of their filing.
pub fn handed_out(conn: &Connection, parent: ItemId) -> Result<Vec<Item>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM items WHERE parent = ?1 ORDER BY id"))?;
    let rows = statement.query_map([parent], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The items that have stood in the stage of that name since `until` (milliseconds since the epoch)
/// or longer, longest first.
pub fn standing_since(
    conn: &Connection,
    stage_name: &str,
    until: i64,
) -> Result<Vec<Item>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM items WHERE stage_name = ?1 AND moved_at <= ?2 ORDER BY moved_at, id"
    ))?;
    let rows = statement.query_map(params![stage_name, until], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// When an item's stage last changed.
pub fn moved_at(conn: &Connection, id: ItemId) -> Result<Option<DateTime<Utc>>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT moved_at FROM items WHERE id = ?1")?;
    let found: Option<i64> = statement.query_row([id], |row| row.get(0)).optional()?;
    Ok(found.map(from_millis))
}

/// An item that waits for an agent, as far as it matters for who that is.
#[derive(Debug, Clone, PartialEq)]
pub struct Waiting {
    /// The item.
    pub id: ItemId,
    /// Its project.
    pub project: ProjectName,
    /// The role that its stage waits for.
    pub wants: Role,
    /// The agent that a person pinned to it.
    pub agent: Option<AgentName>,
    /// The agent that last coded on it.
    pub coder: Option<AgentName>,
    /// Since when it stands there.
    pub moved_at: DateTime<Utc>,
}

/// Shows `visit` the items that wait for an agent of a role, most urgent first, until it breaks.
///
/// Reads a covering index and nothing else, in order: what `visit` does not look at costs nothing.
pub fn waiting(
    conn: &Connection,
    wants: Role,
    mut visit: impl FnMut(&Waiting) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let mut statement = conn.prepare_cached(
        "SELECT id, project, agent, coder, moved_at FROM items
         WHERE wants = ?1 ORDER BY priority DESC, id",
    )?;
    let mut rows = statement.query([wants.as_str()])?;
    while let Some(row) = rows.next()? {
        let row = Waiting {
            id: row.get(0)?,
            project: row.get(1)?,
            wants,
            agent: row.get(2)?,
            coder: row.get(3)?,
            moved_at: from_millis(row.get(4)?),
        };
        if visit(&row).is_break() {
            break;
        }
    }
    Ok(())
}

/// How many items that wait for an agent of the same role come before this one.
pub fn waiting_before(conn: &Connection, item: &Item) -> Result<u64, StoreError> {
    let Some(wants) = awaited(&item.stage) else { return Ok(0) };
    let mut statement = conn.prepare_cached(
        "SELECT count(*) FROM items
         WHERE wants = ?1 AND (priority > ?2 OR priority = ?2 AND id < ?3)",
    )?;
    let before: i64 =
        statement.query_row(params![wants.as_str(), item.priority, item.id], |row| row.get(0))?;
    Ok(before.cast_unsigned())
}

/// The items that may be able to start by themselves, because something happened to them or to what
/// they depend on. Each is to be looked at and then [`looked_at`].
pub fn due(conn: &Connection) -> Result<Vec<Item>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM items WHERE due = 1 ORDER BY priority DESC, id"
    ))?;
    let rows = statement.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Notes that a due item was looked at: it is due again when something changes.
pub fn looked_at(tx: &Tx<'_>, id: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE items SET due = 0 WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Moves `item`, as it was read, to `to`: stage, projections, retries, version and the row in the
/// transition log in one go. Returns the item as it is now and the position in the log.
///
/// The caller asked the stage machine; nothing here judges. Retries are those of the stage, where
/// it counts them, and start anew when the column changes.
pub fn put_stage(
    tx: &Tx<'_>,
    item: &Item,
    to: Stage,
    cause: &str,
    origin: &Origin,
) -> Result<(Item, i64), ItemError> {
    let stays = to.column() == item.stage.column();
    let retries = to.retries().unwrap_or(if stays { item.retries } else { 0 });
    let changed = tx
        .prepare_cached(
            "UPDATE items SET stage = ?3, stage_name = ?4, col = ?5, badge = ?6, retries = ?7,
                    claim = ?8, wants = ?9, coder = coalesce(?10, coder), due = ?11,
                    updated_at = ?12, moved_at = ?12, version = version + 1
             WHERE id = ?1 AND version = ?2",
        )?
        .execute(params![
            item.id,
            item.version,
            Json(&to),
            to.name(),
            to.column().as_str(),
            to.badge().as_str(),
            retries,
            to.claim(),
            awaited(&to).map(Role::as_str),
            to.claim().filter(|_| matches!(to, Stage::Coding { .. })),
            to == Stage::Backlog,
            tx.now(),
        ])?;
    if changed == 0 {
        return Err(lost(tx, item)?);
    }
    if to.is_terminal() || item.stage.is_terminal() {
        links::dependents_are_due(tx, item.id)?;
    }
    let seq = log::append_transition(tx, item.id, Some(&item.stage), &to, cause, origin)?;
    let mut now = item.clone();
    now.stage = to;
    now.retries = retries;
    now.updated_at = from_millis(tx.now());
    now.version += 1;
    Ok((now, seq))
}

/// The role of the agent that an item in this stage waits for. Failed gates of a merge are not for
/// the assigner: such an item goes back to coding first.
fn awaited(stage: &Stage) -> Option<Role> {
    let wants = stage.wants_role().filter(|_| stage.claim().is_none())?;
    (wants != Role::Coder || stage.column() == Column::Coding).then_some(wants)
}

/// Writes the fields that are no part of the stage (name, body, epic, agent, qa, room, priority),
/// comparing the version of `item` as it was read.
pub fn put_fields(tx: &Tx<'_>, item: &Item) -> Result<Item, ItemError> {
    let changed = tx
        .prepare_cached(
            "UPDATE items SET name = ?3, body = ?4, epic = ?5, agent = ?6, qa = ?7, room = ?8,
                    priority = ?9, updated_at = ?10, version = version + 1
             WHERE id = ?1 AND version = ?2",
        )?
        .execute(params![
            item.id,
            item.version,
            item.name,
            item.body,
            item.epic,
            item.agent,
            item.qa.as_str(),
            item.room,
            item.priority,
            tx.now(),
        ])?;
    if changed == 0 {
        return Err(lost(tx, item)?);
    }
    get(tx, item.id)
}

/// Why a write of `item` changed nothing.
fn lost(conn: &Connection, item: &Item) -> Result<ItemError, ItemError> {
    let now = get(conn, item.id)?;
    Ok(ItemError::Stale { id: item.id, expected: item.version, found: now.version })
}

/// Removes an item with its content, also what its agents were told, said and printed; its number
/// stays taken, its rows in the logs stay.
pub fn delete(tx: &Tx<'_>, id: ItemId) -> Result<bool, StoreError> {
    const OF_ITEM: &str = "session IN (SELECT id FROM agent_sessions WHERE item = ?1)";
    for sql in [
        format!("DELETE FROM turn_events WHERE {OF_ITEM}"),
        format!("DELETE FROM agent_messages WHERE {OF_ITEM}"),
        format!("UPDATE turns SET prompt = '' WHERE {OF_ITEM}"),
        "DELETE FROM reports WHERE item = ?1".to_owned(),
        "DELETE FROM gate_runs WHERE item = ?1".to_owned(),
        "DELETE FROM item_changes WHERE item = ?1".to_owned(),
        "DELETE FROM decisions WHERE item = ?1".to_owned(),
    ] {
        tx.prepare_cached(&sql)?.execute([id])?;
    }
    Ok(tx.prepare_cached("DELETE FROM items WHERE id = ?1")?.execute([id])? == 1)
}

mod shelves;
pub use shelves::{Progress, Tally, open_epics, progress, tally, top};

#[cfg(test)]
mod tests;

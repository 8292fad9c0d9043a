//! The board: items, what they depend on, and the one write that moves them.
//!
//! Only `work` changes a stage. [`put_stage`] writes stage, projections and the transition row
//! together and compares the version, so that of two movers that read the same row one loses and
//! is told what stands there now.

use super::types::Json;
use super::{StoreError, Tx, log};
use crate::clock::from_millis;
use crate::model::ids::{AgentName, ItemId, ProjectName, RoomKey};
use crate::model::item::{Item, Kind, Origin, QaMode};
use crate::model::stage::{Column, Stage};
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::collections::{HashMap, HashSet};

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
                            stage, stage_name, col, badge, created_at, updated_at, parent)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14, ?15)",
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

/// The items that depend on `id`.
pub fn dependents(conn: &Connection, id: ItemId) -> Result<Vec<Item>, StoreError> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM items
         WHERE id IN (SELECT item FROM item_dependencies WHERE depends_on = ?1) ORDER BY id"
    ))?;
    let rows = statement.query_map([id], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The items of an epic.
pub fn children(conn: &Connection, epic: ItemId) -> Result<Vec<Item>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM items WHERE epic = ?1 ORDER BY id"))?;
    let rows = statement.query_map([epic], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The items that the lead of `parent` handed out, in the order of their filing.
pub fn handed_out(conn: &Connection, parent: ItemId) -> Result<Vec<Item>, StoreError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {COLUMNS} FROM items WHERE parent = ?1 ORDER BY id"))?;
    let rows = statement.query_map([parent], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
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
                    updated_at = ?8, version = version + 1
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
            tx.now(),
        ])?;
    if changed == 0 {
        return Err(lost(tx, item)?);
    }
    let seq = log::append_transition(tx, item.id, Some(&item.stage), &to, cause, origin)?;
    let mut now = item.clone();
    now.stage = to;
    now.retries = retries;
    now.updated_at = from_millis(tx.now());
    now.version += 1;
    Ok((now, seq))
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

/// Replaces what an item depends on; refuses unknown items and circles and then writes nothing.
pub fn set_dependencies(tx: &Tx<'_>, id: ItemId, depends_on: &[ItemId]) -> Result<(), ItemError> {
    for other in depends_on {
        if *other != id && find(tx, *other)?.is_none() {
            return Err(ItemError::UnknownDependency(*other));
        }
        if let Some(path) = path_between(tx, *other, id)? {
            return Err(ItemError::Cycle([vec![id], path].concat()));
        }
    }
    tx.prepare_cached("DELETE FROM item_dependencies WHERE item = ?1")?.execute([id])?;
    let mut insert = tx.prepare_cached(
        "INSERT OR IGNORE INTO item_dependencies (item, depends_on) VALUES (?1, ?2)",
    )?;
    for other in depends_on {
        insert.execute(params![id, other])?;
    }
    // So that who watches the board sees the change, and a stale writer of the item loses.
    tx.prepare_cached("UPDATE items SET version = version + 1, updated_at = ?2 WHERE id = ?1")?
        .execute(params![id, tx.now()])?;
    Ok(())
}

/// The way along what is waited for from `from` to `to`, both included; `None` when there is none.
/// An item waits for what it depends on, an epic for its items as well.
pub fn path_between(
    conn: &Connection,
    from: ItemId,
    to: ItemId,
) -> Result<Option<Vec<ItemId>>, StoreError> {
    let mut came_from: HashMap<ItemId, ItemId> = HashMap::new();
    let mut seen = HashSet::from([from]);
    let mut open = vec![from];
    let mut statement = conn.prepare_cached(
        "SELECT depends_on FROM item_dependencies WHERE item = ?1
             UNION SELECT id FROM items WHERE epic = ?1",
    )?;
    while let Some(here) = open.pop() {
        if here == to {
            let mut path = vec![here];
            let mut step = here;
            while let Some(before) = came_from.get(&step) {
                step = *before;
                path.push(step);
            }
            path.reverse();
            return Ok(Some(path));
        }
        let further = statement.query_map([here], |row| row.get::<_, ItemId>(0))?;
        for other in further {
            let other = other?;
            if seen.insert(other) {
                came_from.insert(other, here);
                open.push(other);
            }
        }
    }
    Ok(None)
}

/// Removes an item with what hangs on it; its number stays taken, its log rows stay.
pub fn delete(tx: &Tx<'_>, id: ItemId) -> Result<bool, StoreError> {
    Ok(tx.prepare_cached("DELETE FROM items WHERE id = ?1")?.execute([id])? == 1)
}

mod shelves;
pub use shelves::{Progress, Tally, open_epics, progress, tally, top};

#[cfg(test)]
mod tests;

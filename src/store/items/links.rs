//! What binds items together: dependencies and epics.

use super::{COLUMNS, ItemError, find, from_row};
use crate::model::ids::ItemId;
use crate::model::item::Item;
use crate::store::{StoreError, Tx};
use rusqlite::{Connection, params};
use std::collections::{HashMap, HashSet};

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

/// Takes the children of an epic out of it; returns them as they are now.
pub fn clear_epic(tx: &Tx<'_>, epic: ItemId) -> Result<Vec<Item>, StoreError> {
    let held = children(tx, epic)?;
    tx.prepare_cached(
        "UPDATE items SET epic = NULL, version = version + 1, updated_at = ?2 WHERE epic = ?1",
    )?
    .execute(params![epic, tx.now()])?;
    Ok(held)
}

/// Has those looked at that depend on `id`: it has ended, or goes on.
pub(super) fn dependents_are_due(tx: &Tx<'_>, id: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached(
        "UPDATE items SET due = 1
         WHERE id IN (SELECT item FROM item_dependencies WHERE depends_on = ?1)
           AND stage_name = 'backlog'",
    )?
    .execute([id])?;
    Ok(())
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
    tx.prepare_cached(
        "UPDATE items SET version = version + 1, updated_at = ?2, due = (stage_name = 'backlog')
         WHERE id = ?1",
    )?
    .execute(params![id, tx.now()])?;
    Ok(())
}

/// The way from `from` to `to`, both included, along what items wait for: their dependencies, and
/// an epic for its items. `None` when there is none.
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
         UNION ALL SELECT id FROM items WHERE epic = ?1",
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

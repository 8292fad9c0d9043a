//! Open pull requests, and what has landed.

use super::{StoreError, Tx};
use crate::model::ids::{ItemId, ProjectName};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// An open pull request of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pull {
    /// The item.
    pub item: ItemId,
    /// Its branch, here and on the remote.
    pub branch: String,
    /// The commit that was pushed.
    pub commit: String,
    /// Where people find it.
    pub url: String,
    /// The tip of the remote base up to which its commits were searched for the work.
    pub seen: String,
}

const COLUMNS: &str = "item, branch, commit_id, url, seen";

fn from_row(row: &Row<'_>) -> rusqlite::Result<Pull> {
    Ok(Pull {
        item: row.get(0)?,
        branch: row.get(1)?,
        commit: row.get(2)?,
        url: row.get(3)?,
        seen: row.get(4)?,
    })
}

/// Keeps a pull request that was opened or renewed.
pub fn put(tx: &Tx<'_>, project: &ProjectName, pull: &Pull) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO merge_pulls (item, project, branch, commit_id, url, seen, opened_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (item) DO UPDATE SET project = excluded.project, branch = excluded.branch,
             commit_id = excluded.commit_id, url = excluded.url, seen = excluded.seen",
    )?
    .execute(params![
        pull.item,
        project,
        pull.branch,
        pull.commit,
        pull.url,
        pull.seen,
        tx.now()
    ])?;
    Ok(())
}

/// An item's pull request, if one is open.
pub fn find(conn: &Connection, item: ItemId) -> Result<Option<Pull>, StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM merge_pulls WHERE item = ?1");
    Ok(conn.prepare_cached(&sql)?.query_row([item], from_row).optional()?)
}

/// A project's open pull requests, oldest first.
pub fn list(conn: &Connection, project: &ProjectName) -> Result<Vec<Pull>, StoreError> {
    let sql =
        format!("SELECT {COLUMNS} FROM merge_pulls WHERE project = ?1 ORDER BY opened_at, item");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([project], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A pull request that waits for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The item's project.
    pub project: ProjectName,
    /// The pull request.
    pub pull: Pull,
    /// Since when, in milliseconds since the epoch.
    pub since: i64,
}

/// All open pull requests, oldest first.
pub fn open(conn: &Connection) -> Result<Vec<Open>, StoreError> {
    let sql = format!("SELECT {COLUMNS}, project, opened_at FROM merge_pulls ORDER BY opened_at");
    let mut statement = conn.prepare_cached(&sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Open { pull: from_row(row)?, project: row.get(5)?, since: row.get(6)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Remembers how far the remote base was searched.
pub fn set_seen(tx: &Tx<'_>, item: ItemId, seen: &str) -> Result<(), StoreError> {
    tx.prepare_cached("UPDATE merge_pulls SET seen = ?2 WHERE item = ?1")?
        .execute(params![item, seen])?;
    Ok(())
}

/// Forgets an item's pull request.
pub fn remove(tx: &Tx<'_>, item: ItemId) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM merge_pulls WHERE item = ?1")?.execute([item])?;
    Ok(())
}

/// What has landed of an item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landed {
    /// The commit on its branch.
    pub commit: String,
    /// The commit on the base branch that holds it.
    pub landed: String,
}

/// Remembers what has landed: what its branch is compared with before it is deleted.
pub fn put_landed(
    tx: &Tx<'_>,
    item: ItemId,
    project: &ProjectName,
    landed: &Landed,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO merge_landed (item, project, commit_id, landed, at)
         VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (item) DO UPDATE SET project = excluded.project,
             commit_id = excluded.commit_id, landed = excluded.landed, at = excluded.at",
    )?
    .execute(params![item, project, landed.commit, landed.landed, tx.now()])?;
    Ok(())
}

/// What has landed of an item, if anything.
pub fn landed(conn: &Connection, item: ItemId) -> Result<Option<Landed>, StoreError> {
    let mut statement =
        conn.prepare_cached("SELECT commit_id, landed FROM merge_landed WHERE item = ?1")?;
    let landed =
        statement.query_row([item], |row| Ok(Landed { commit: row.get(0)?, landed: row.get(1)? }));
    Ok(landed.optional()?)
}

//! Single facts about the installation: switches and remembered values.

use super::{StoreError, Tx};
use rusqlite::{Connection, OptionalExtension};

/// The emergency stop: while it is set, nothing starts. Its value says who set it.
pub const STOPPED_ALL: &str = "stopped_all";

/// Reads a fact.
pub fn find(conn: &Connection, key: &str) -> Result<Option<String>, StoreError> {
    let mut statement = conn.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    Ok(statement.query_row([key], |row| row.get(0)).optional()?)
}

/// Writes a fact.
pub fn set(tx: &Tx<'_>, key: &str, value: &str) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )?
    .execute([key, value])?;
    Ok(())
}

/// Removes a fact; says whether it was there.
pub fn remove(tx: &Tx<'_>, key: &str) -> Result<bool, StoreError> {
    Ok(tx.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key])? == 1)
}

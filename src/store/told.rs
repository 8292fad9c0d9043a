//! What was said and is not to be said again, such as that most of a limit is used.

use super::{StoreError, Tx};

/// How long it is remembered, in milliseconds: longer than anything stays open that it is about.
const REMEMBERED_MS: i64 = 400 * 24 * 3600 * 1000;

/// Notes that something is said; true the first time.
pub fn once(tx: &Tx<'_>, key: &str) -> Result<bool, StoreError> {
    let new = tx
        .prepare_cached("INSERT INTO told (key, at) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?
        .execute(rusqlite::params![key, tx.now()])?
        == 1;
    if new {
        tx.prepare_cached("DELETE FROM told WHERE at < ?1")?.execute([tx.now() - REMEMBERED_MS])?;
    }
    Ok(new)
}

/// Forgets that something was said: the next time is news again.
pub fn forget(tx: &Tx<'_>, key: &str) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM told WHERE key = ?1")?.execute([key])?;
    Ok(())
}

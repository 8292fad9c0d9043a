//! Answers to calls of the command line, so that one that is repeated happens once.

use super::types::Json;
use super::{StoreError, Tx};
use rusqlite::{OptionalExtension, params};
use serde_json::Value;

/// The answer that was given under `key`, if any.
pub fn find(tx: &Tx<'_>, key: &str) -> Result<Option<Value>, StoreError> {
    let mut statement = tx.prepare_cached("SELECT answer FROM cli_calls WHERE key = ?1")?;
    let answer: Option<Json<Value>> = statement.query_row([key], |row| row.get(0)).optional()?;
    Ok(answer.map(|json| json.0))
}

/// Remembers an answer, in the transaction that it tells of.
pub fn remember(tx: &Tx<'_>, key: &str, answer: &Value) -> Result<(), StoreError> {
    tx.prepare_cached("INSERT INTO cli_calls (key, answer, at) VALUES (?1, ?2, ?3)")?
        .execute(params![key, Json(answer), tx.now()])?;
    Ok(())
}

/// Forgets answers from before a time: nobody repeats a call that long.
pub fn forget(tx: &Tx<'_>, before: i64) -> Result<(), StoreError> {
    tx.prepare_cached("DELETE FROM cli_calls WHERE at < ?1")?.execute([before])?;
    Ok(())
}
